//! A node whose store stands still: rules E4 and M7.

use trialbay_engine::{Ballot, Event, Limits, Message, NodeId, Role, Slot};

use crate::node::{LEASE, ME, Node, accepted, accepted_entry, ballot, config, heartbeat, memory};

fn slave() -> Node {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    node.receive(2, heartbeat(ballot(1, 2)));
    node
}

fn undecided_max() -> std::time::Duration {
    Limits::default().undecided_max
}

/// Rule E4.
#[test]
fn a_node_whose_store_is_paused_does_not_campaign_and_says_so_and_does_when_it_is_resumed() {
    let mut node = slave();
    node.step(Event::StorePaused);
    let given = node.receive(2, heartbeat(ballot(1, 2)));
    let granted = given.sent.iter().find(|(_, message)| matches!(message, Message::Granted { .. }));
    assert!(matches!(granted, Some((NodeId(2), Message::Granted { applied_upto: Slot::ZERO, votes: true, .. }))));
    let end = node.now + LEASE * 20;
    while node.now < end {
        node.tick();
        assert_eq!(node.engine.role(), Role::Slave);
    }
    node.step(Event::StoreResumed);
    node.tick_until(Role::Canvassing);
    assert!(node.now < end + LEASE);
}

#[test]
fn a_node_whose_store_is_paused_promises_to_others() {
    let mut node = slave();
    node.step(Event::StorePaused);
    node.now = node.now + LEASE;
    node.receive(3, Message::Prepare { ballot: ballot(2, 3), decided_upto: Slot::ZERO });
    let given = node.persist();
    assert!(given.sent.iter().any(|(_, message)| matches!(message, Message::Promise { .. })), "{given:?}");
}

#[test]
fn a_pause_ends_a_campaign_and_a_resignation_in_favour_of_a_paused_node_begins_none() {
    for is_in_phase_one in [false, true] {
        let mut node = slave();
        node.tick_until(Role::Canvassing);
        if is_in_phase_one {
            node = Node::candidate(config(3), memory(Ballot::ZERO, &[], Vec::new()));
        }
        node.step(Event::StorePaused);
        assert_eq!(node.engine.role(), Role::Slave);
    }
    let mut node = slave();
    node.step(Event::StorePaused);
    let decided_hash = node.engine.status().decided_hash;
    let resign = Message::Resign { ballot: ballot(1, 2), successor: Some(ME), decided_upto: Slot::ZERO, decided_hash };
    node.receive(2, resign);
    assert_eq!(node.engine.role(), Role::Slave);
}

#[test]
fn a_preferred_node_whose_store_is_paused_claims_nothing() {
    let claims = |pauses: bool| {
        let mut config = config(3);
        config.preferred = vec![ME];
        let mut node = Node::rested(config, memory(Ballot::ZERO, &[], Vec::new()));
        if pauses {
            node.step(Event::StorePaused);
        }
        node.now = node.now + LEASE;
        let given = node.receive(2, heartbeat(ballot(1, 2)));
        given.sent.iter().any(|(_, message)| matches!(message, Message::Claim { .. }))
    };
    assert!(claims(false) && !claims(true));
}

#[test]
fn the_store_of_a_master_may_not_be_paused() {
    assert!(slave().engine.may_pause_store());
    assert!(!Node::master(config(3)).engine.may_pause_store());
    assert!(!Node::master_to_be(config(3), memory(Ballot::ZERO, &[], Vec::new()), &[]).engine.may_pause_store());
}

/// A master whose first slot is decided, and not applied.
fn elected() -> Node {
    let mut node = Node::master_to_be(config(3), memory(Ballot::ZERO, &[], Vec::new()), &[]);
    node.grant_all();
    node.persist();
    node.acknowledge_all(1);
    assert_eq!(node.decided(), 1);
    node
}

/// Rule M7.
#[test]
fn a_master_whose_first_slot_is_not_applied_resigns_and_leaves_it_to_the_others_for_a_while() {
    let mut node = elected();
    let elected_at = node.now;
    let mut successor = None;
    while successor.is_none() {
        node.grant_all();
        assert!(node.now <= elected_at + undecided_max() && !node.is_serving());
        let given = node.tick();
        successor = given.sent.iter().find_map(|(_, message)| match message {
            Message::Resign { successor, .. } => Some(*successor),
            _ => None,
        });
    }
    assert_eq!((successor, node.now), (Some(Some(NodeId(3))), elected_at + undecided_max()));
    let resigned_at = node.now;
    node.tick_until(Role::Canvassing);
    assert!(node.now >= resigned_at + LEASE * 2);
}

/// A store that is far behind, and moves, has the time that it needs.
#[test]
fn a_master_whose_store_moves_stays_and_serves_at_last() {
    let undecided = (1..=9).map(|slot| accepted_entry(slot, ballot(1, 2), "a")).collect();
    let mut node = Node::master_to_be(config(3), memory(ballot(1, 2), &[], undecided), &[]);
    node.grant_all();
    node.persist();
    for peer in [2, 3] {
        let ballot = node.engine.status().promised;
        node.receive(peer, accepted(ballot, peer, 10));
    }
    assert_eq!(node.decided(), 10);
    for slot in 1..=10 {
        let until = node.now + undecided_max() / 2;
        while node.now < until {
            node.grant_all();
            node.tick();
        }
        assert_eq!((node.engine.role(), node.is_serving()), (Role::Master, false));
        node.step(Event::Applied(Slot(slot)));
    }
    node.grant_all();
    assert!(node.is_serving());
}

#[test]
fn a_node_alone_waits_for_its_store() {
    let mut node = Node::master_to_be(config(1), memory(Ballot::ZERO, &[], Vec::new()), &[]);
    node.persist();
    assert_eq!(node.decided(), 1);
    let until = node.now + undecided_max() * 3;
    while node.now < until {
        node.tick();
        assert_eq!(node.engine.role(), Role::Master);
    }
}
