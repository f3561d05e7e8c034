//! How a master hands over because another node is to be master: rules H1 and H2. That of one that stops is in `master`.

use trialbay_engine::{Action, Ballot, Dropped, Event, Message, NodeId, Refusal, RequestId, Role, Slot};

use crate::node::{LEASE, ME, Node, accepted, ballot, config, heartbeat, memory};

fn dropped(given: &crate::node::Given) -> Option<Dropped> {
    given.others.iter().find_map(|action| if let Action::Dropped(dropped) = action { Some(*dropped) } else { None })
}

fn successor(given: &crate::node::Given) -> Option<Option<NodeId>> {
    given.sent.iter().find_map(|(_, message)| match message {
        Message::Resign { successor, .. } => Some(*successor),
        _ => None,
    })
}

/// A serving master of five that has dropped its mastership in favour of node 3, which is furthest.
fn dropped_master() -> Node {
    let mut node = Node::master(config(5));
    node.request(&["a"]);
    node.persist();
    for (peer, upto) in [(2, 1), (3, 2), (4, 2), (5, 1)] {
        node.receive(peer, accepted(ballot(1, 1), peer, upto));
    }
    node.step(Event::Disconnected(NodeId(4)));
    node.now = node.now + LEASE / 8;
    node.step(Event::DropRequested);
    assert!(node.is_serving(), "nobody has answered since");
    let granted = node.granted(3);
    let given = node.receive(3, granted);
    assert!(successor(&given).is_none() && !node.is_serving(), "what is in flight is finished first");
    let given = node.step(Event::Applied(Slot(2)));
    assert_eq!(successor(&given), Some(Some(NodeId(3))), "node 4 is as far, but not connected");
    assert_eq!(dropped(&given), None, "nobody else is master yet");
    assert_eq!(node.engine.role(), Role::Slave);
    node
}

/// Rule H1.
#[test]
fn a_dropped_master_finishes_what_is_in_flight_resigns_and_says_when_another_is_master() {
    let mut node = dropped_master();
    assert_eq!(node.request(&["late"]).refused, [(RequestId(2), Refusal::NotMaster { master: None })]);
    let given = node.receive(3, heartbeat(ballot(2, 3)));
    assert_eq!(dropped(&given), Some(Dropped::Done));
    assert_eq!(dropped(&node.receive(3, heartbeat(ballot(2, 3)))), None, "once is enough");
}

/// Rule H2.
#[test]
fn a_dropped_master_does_not_campaign_while_others_may_and_does_if_none_did() {
    let mut node = dropped_master();
    let abstains_until = node.now + LEASE * 2;
    let mut answers = Vec::new();
    while node.engine.role() == Role::Slave {
        answers.extend(dropped(&node.tick()));
    }
    assert!(node.now >= abstains_until, "{:?}", node.now);
    assert_eq!(answers, [Dropped::NobodyTookOver]);
}

#[test]
fn a_dropped_master_takes_over_at_once_when_its_successor_resigns_in_its_favour() {
    let mut node = dropped_master();
    node.receive(3, heartbeat(ballot(2, 3)));
    let resign = Message::Resign {
        ballot: ballot(2, 3),
        successor: Some(ME),
        decided_upto: Slot(2),
        decided_hash: node.engine.status().decided_hash,
    };
    node.receive(3, resign);
    assert_eq!(node.engine.role(), Role::Canvassing);
}

#[test]
fn a_drop_at_a_node_that_is_not_master_or_alone_changes_nothing() {
    let mut slave = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    slave.receive(2, heartbeat(ballot(1, 2)));
    assert_eq!(dropped(&slave.step(Event::DropRequested)), Some(Dropped::Done));
    assert_eq!(slave.engine.known_master(), Some(NodeId(2)));
    let mut alone = Node::master(config(1));
    assert_eq!(dropped(&alone.step(Event::DropRequested)), Some(Dropped::Alone));
    assert!(alone.is_serving());
}

/// Rule H1: an order that cannot be obeyed costs no availability.
#[test]
fn a_master_serves_on_while_no_slave_is_able_and_says_so_after_a_lease() {
    let mut node = Node::master(config(3));
    node.request(&["a"]);
    for peer in [2, 3] {
        node.step(Event::Disconnected(NodeId(peer)));
    }
    assert_eq!(dropped(&node.step(Event::DropRequested)), None);
    assert!(node.is_serving());
    let (asked, mut answer) = (node.now, None);
    while answer.is_none() && node.now < asked + LEASE {
        node.grant_all();
        let given = node.tick();
        assert!(node.engine.role() == Role::Master && successor(&given).is_none());
        answer = dropped(&given);
    }
    assert_eq!((answer, node.now), (Some(Dropped::NobodyAble), asked + LEASE));
}

#[test]
fn a_slave_that_becomes_able_meanwhile_takes_over() {
    let mut node = Node::master(config(3));
    for peer in [2, 3] {
        node.step(Event::Disconnected(NodeId(peer)));
    }
    node.step(Event::DropRequested);
    assert!(node.is_serving());
    node.step(Event::Connected(NodeId(3)));
    let granted = node.granted(3);
    assert_eq!(successor(&node.receive(3, granted)), Some(Some(NodeId(3))));
}

/// A hand-over that does not come to its end is called off: nobody has heard of it.
#[test]
fn a_master_whose_successor_does_not_follow_serves_again() {
    let mut node = Node::master(config(3));
    node.request(&["a"]);
    node.persist();
    node.receive(3, accepted(ballot(1, 1), 3, 2));
    node.step(Event::Disconnected(NodeId(3)));
    assert_eq!(dropped(&node.step(Event::DropRequested)), None);
    node.grant_all();
    let given = node.step(Event::Applied(Slot(2)));
    assert!(successor(&given).is_none() && !node.is_serving(), "node 2 is connected and lacks the last value");
    let mut answer = None;
    while answer.is_none() {
        node.grant_all();
        answer = dropped(&node.tick());
    }
    assert_eq!(answer, Some(Dropped::NobodyAble));
    node.grant_all();
    assert!(node.is_serving());
}

/// Rule E4: were it master, nobody would serve.
#[test]
fn a_master_serves_on_while_the_store_of_the_only_slave_is_paused() {
    let mut node = Node::master(config(3));
    node.step(Event::Disconnected(NodeId(2)));
    node.step(Event::DropRequested);
    let paused = match node.granted(3) {
        Message::Granted { ballot, asked_at, incarnation, votes, received_upto, .. } => {
            Message::Granted { ballot, asked_at, incarnation, votes, received_upto, applied_upto: Slot::ZERO }
        }
        other => panic!("{other:?}"),
    };
    assert!(successor(&node.receive(3, paused)).is_none() && node.is_serving());
    let granted = node.granted(3);
    assert_eq!(successor(&node.receive(3, granted)), Some(Some(NodeId(3))));
}

#[test]
fn a_stop_overrides_a_drop() {
    let mut node = Node::master(config(3));
    node.request(&["a"]);
    node.step(Event::DropRequested);
    node.grant_all();
    node.step(Event::StopRequested);
    node.persist();
    node.acknowledge_all(2);
    let given = node.step(Event::Applied(Slot(2)));
    assert!(successor(&given).is_some());
    assert_eq!(node.engine.role(), Role::Halted);
}
