//! Nodes that are not all alike: rules E1 to E3 and H3.

use std::time::Duration;

use trialbay_engine::{
    Action, Ballot, Config, Event, Instant, Memory, Message, NodeId, Offence, Recovered, Role, Slot, Value,
};

use crate::node::{LEASE, ME, Node, accepted, ballot, config, heartbeat, life, memory, promise};

fn blank_memory() -> Recovered {
    memory(Ballot::ZERO, &[], Vec::new())
}

fn claims(given: &crate::node::Given) -> usize {
    given.sent.iter().filter(|(_, message)| matches!(message, Message::Claim { .. })).count()
}

fn resigns(given: &crate::node::Given) -> bool {
    given.sent.iter().any(|(_, message)| matches!(message, Message::Resign { .. }))
}

/// Rule E1: whatever it says of itself.
#[test]
fn what_a_learner_acknowledges_grants_or_promises_counts_for_nothing() {
    let with_learners = Config { learners: vec![NodeId(4), NodeId(5)], ..config(3) };
    let mut node = Node::master(with_learners.clone());
    node.request(&["a"]);
    node.persist();
    for learner in [4, 5] {
        node.receive(learner, accepted(ballot(1, 1), learner, 2));
    }
    assert_eq!(node.decided(), 1);
    node.now = node.now + LEASE;
    node.step(Event::Ticked);
    for learner in [4, 5] {
        let granted = node.granted(learner);
        node.receive(learner, granted);
    }
    assert!(!node.is_serving());

    let mut node = Node::candidate(with_learners, blank_memory());
    let ours = node.engine.status().promised;
    for learner in [4, 5] {
        node.receive(learner, promise(ours, learner, Vec::new()));
    }
    assert_eq!(node.engine.role(), Role::Candidate);
    node.receive(2, promise(ours, 2, Vec::new()));
    assert_eq!(node.engine.role(), Role::Master);
}

fn learner(recovered: Recovered) -> Node {
    let voters = [2, 3, 4].map(NodeId).to_vec();
    Node::rested(Config { voters, learners: vec![ME], ..config(1) }, recovered)
}

/// Rules E1 and E2: even one that had a vote in an earlier run.
#[test]
fn a_learner_neither_votes_nor_campaigns_nor_asks_for_a_vote_and_knows_the_master() {
    let remembering =
        Recovered { memory: Some(Memory { incarnation: life(1), votes: true, genesis: Vec::new() }), ..blank_memory() };
    for recovered in [Recovered::blank(), remembering] {
        let mut node = learner(recovered);
        let mut given = node.persist().sent;
        given.extend(node.step(Event::Connected(NodeId(2))).sent);
        node.now = node.now + LEASE * 9;
        given.extend(node.step(Event::Ticked).sent);
        assert_eq!(given, []);
        assert!(node.receive(2, Message::Prepare { ballot: ballot(1, 2), decided_upto: Slot(0) }).sent.is_empty());
        let answers = node.receive(2, heartbeat(ballot(1, 2))).sent;
        assert!(matches!(answers[..], [(_, Message::Granted { votes: false, .. })]), "{answers:?}");
        assert_eq!(node.engine.known_master(), Some(NodeId(2)));
        assert_eq!((node.engine.votes(), node.engine.role()), (false, Role::Slave));
    }
}

/// Rule E2.
#[test]
fn nobody_promises_a_learner_or_a_witness_anything_or_follows_it() {
    let roles = Config { learners: vec![NodeId(4)], witnesses: vec![NodeId(3)], ..config(3) };
    for other in [3, 4] {
        let mut node = Node::rested(roles.clone(), blank_memory());
        let asked = node.receive(other, Message::Canvass { ballot: ballot(1, other), decided_upto: Slot(0) }).sent;
        assert!(matches!(asked[..], [(_, Message::Canvassed { willing: false, .. })]), "{asked:?}");
        for message in [
            Message::Prepare { ballot: ballot(1, other), decided_upto: Slot(0) },
            heartbeat(ballot(1, other)),
            crate::node::accept(ballot(1, other), 1, vec![Value::Noop]),
        ] {
            let given = node.receive(other, message);
            assert_eq!(given.blamed, [(NodeId(other), Offence::NoCandidate)]);
            assert!(given.sent.is_empty() && given.records.is_empty());
        }
    }
}

/// Rule E2: it votes, as any other.
#[test]
fn a_witness_promises_and_accepts_and_never_campaigns() {
    let roles = Config { witnesses: vec![ME], ..config(3) };
    let mut node = Node::rested(roles, blank_memory());
    node.now = node.now + LEASE * 9;
    assert!(node.step(Event::Ticked).sent.is_empty());
    assert_eq!(node.engine.role(), Role::Slave);
    node.receive(2, Message::Prepare { ballot: ballot(1, 2), decided_upto: Slot(0) });
    assert!(matches!(node.persist().sent[..], [(NodeId(2), Message::Promise { .. })]));
    node.receive(2, crate::node::accept(ballot(1, 2), 1, vec![Value::Noop]));
    assert!(matches!(node.persist().sent[..], [(NodeId(2), Message::Accepted { votes: true, .. })]));
    let (decided_upto, decided_hash) = (Slot(0), trialbay_engine::HistoryHash::default());
    let resign = Message::Resign { ballot: ballot(1, 2), successor: Some(ME), decided_upto, decided_hash };
    assert!(node.receive(2, resign).sent.is_empty(), "not even when it is named");
}

#[test]
fn a_master_hands_over_to_no_witness_and_to_no_learner() {
    let roles = Config { learners: vec![NodeId(4)], witnesses: vec![NodeId(3)], ..config(3) };
    let mut node = Node::master(roles);
    node.request(&["a"]);
    node.persist();
    node.receive(3, accepted(ballot(1, 1), 3, 2));
    let given = node.step(Event::StopRequested);
    assert!(given.others.is_empty());
    let given = node.step(Event::Applied(Slot(2)));
    let named = given.sent.iter().find_map(|(_, message)| match message {
        Message::Resign { successor, .. } => *successor,
        _ => None,
    });
    assert_eq!(named, Some(NodeId(2)), "although node 3 is further");
}

/// Rule E3.
#[test]
fn nobody_asks_a_witness_for_a_head() {
    for (witnesses, asked) in [(vec![NodeId(2)], false), (Vec::new(), true)] {
        let mut node = Node::rested(Config { witnesses, ..config(2) }, blank_memory());
        let mut behind = heartbeat(ballot(1, 3));
        if let Message::Heartbeat { ballot: from, sent_upto, stream_start, decided_upto, .. } = &mut behind {
            (*from, *sent_upto, *stream_start, *decided_upto) = (ballot(1, 2), Slot(9), Slot(9), Slot(9));
        }
        if !asked {
            // A witness is no master: the node hears of what it lacks when it canvasses.
            node.tick_until(Role::Canvassing);
            let canvassed = Message::Canvassed {
                ballot: ballot(1, 1),
                willing: false,
                incarnation: life(2),
                promised: Ballot::ZERO,
                decided_upto: Slot(9),
            };
            node.receive(2, canvassed);
        } else {
            node.receive(2, behind);
        }
        let given = node.receive(2, Message::Gone { log_start: Slot(5) });
        let installs = given.others.iter().any(|action| matches!(action, Action::InstallHead { .. }));
        assert_eq!(installs, asked);
    }
}

/// A preferred node 1 that follows node 2.
fn preferred() -> Node {
    Node::rested(Config { preferred: vec![ME], ..config(3) }, blank_memory())
}

/// Rule H3.
#[test]
fn a_preferred_node_claims_mastership_only_when_it_is_level_and_not_all_the_time() {
    let mut node = preferred();
    let mut ahead = heartbeat(ballot(1, 2));
    if let Message::Heartbeat { sent_upto, .. } = &mut ahead {
        *sent_upto = Slot(1);
    }
    assert_eq!(claims(&node.receive(2, ahead)), 0, "it lacks slot 1");
    assert_eq!(claims(&node.receive(2, heartbeat(ballot(1, 2)))), 1);
    assert_eq!(claims(&node.receive(2, heartbeat(ballot(1, 2)))), 0, "a lease must pass");
    node.now = node.now + LEASE;
    assert_eq!(claims(&node.receive(2, heartbeat(ballot(1, 2)))), 1);
}

#[test]
fn neither_a_node_that_is_not_preferred_nor_one_whose_master_is_claims_anything() {
    for preferred in [vec![NodeId(3)], vec![NodeId(2), ME], Vec::new()] {
        let mut node = Node::rested(Config { preferred, ..config(3) }, blank_memory());
        assert_eq!(claims(&node.receive(2, heartbeat(ballot(1, 2)))), 0);
    }
}

/// Rule H3: the operator's order stands until the node is master again or starts anew.
#[test]
fn a_preferred_node_that_was_dropped_claims_nothing_and_one_that_lost_its_mastership_waits() {
    let roles = Config { preferred: vec![ME], ..config(3) };
    for dropped in [true, false] {
        let mut node = Node::master(roles.clone());
        if dropped {
            node.step(Event::DropRequested);
            node.grant_all();
        } else {
            node.receive(2, Message::Nak { ballot: ballot(1, 1), promised: ballot(2, 3), decided_upto: Slot(1) });
        }
        assert_ne!(node.engine.role(), Role::Master);
        let level = |node: &Node| {
            let (decided_upto, decided_hash) = (Slot(1), node.engine.status().decided_hash);
            let (ballot, asked_at, stream_start) = (ballot(3, 2), Instant(5), Slot(1));
            Message::Heartbeat { ballot, asked_at, sent_upto: Slot(1), stream_start, decided_upto, decided_hash }
        };
        let began = node.now;
        let mut claimed_at = None;
        while node.now < began + LEASE * 20 {
            let heartbeat = level(&node);
            if claims(&node.receive(2, heartbeat)) > 0 {
                claimed_at.get_or_insert(node.now.since(began));
            }
            node.now = node.now + LEASE / 4;
        }
        assert_eq!(claimed_at, (!dropped).then_some(LEASE * 8), "dropped: {dropped}");
    }
}

/// Rule H3: a claim changes masters only if the claimant is preferred, the master is not, and nothing is lost by it.
#[test]
fn a_master_hands_over_to_who_claims_exactly_when_that_one_is_preferred_and_able() {
    let claim = Message::Claim { ballot: ballot(1, 1) };
    let with = |preferred: Vec<NodeId>| Node::master(Config { preferred, ..config(3) });
    assert!(resigns(&with(vec![NodeId(3)]).receive(3, claim.clone())));
    assert!(!resigns(&with(vec![NodeId(3)]).receive(2, claim.clone())));
    assert!(!resigns(&with(vec![ME, NodeId(3)]).receive(3, claim.clone())));
    assert!(!resigns(&with(vec![NodeId(3)]).receive(3, Message::Claim { ballot: ballot(2, 1) })));
    let mut deaf = with(vec![NodeId(3)]);
    deaf.step(Event::Disconnected(NodeId(3)));
    assert!(!resigns(&deaf.receive(3, claim.clone())));
    // It is waited for while it lacks what is in flight, and what is decided without it in vain is no reason to ask again.
    let mut node = with(vec![NodeId(3)]);
    node.request(&["a"]);
    node.persist();
    node.receive(2, accepted(ballot(1, 1), 2, 2));
    node.step(Event::Applied(Slot(2)));
    assert!(!resigns(&node.receive(3, claim.clone())) && !node.is_serving());
    let began = node.now;
    while !node.is_serving() {
        node.grant_all();
        node.tick();
        node.grant_all();
    }
    assert_eq!(node.now, began + LEASE);
    node.now = node.now + LEASE / 2;
    node.grant_all();
    node.receive(3, claim.clone());
    assert!(node.is_serving(), "so soon after it came to nothing it takes no claim");
    assert!(resigns(&with(vec![NodeId(3)]).receive(3, claim)));
}

#[test]
fn who_is_not_preferred_leaves_preferred_nodes_half_a_lease_to_campaign_while_they_are_there() {
    let first_canvass = |preferred: Vec<NodeId>, gone: Option<NodeId>| {
        let mut node = Node::rested(Config { preferred, ..config(3) }, blank_memory());
        node.receive(2, heartbeat(ballot(1, 2)));
        gone.into_iter().for_each(|gone| drop(node.step(Event::Disconnected(gone))));
        let began = node.now;
        node.tick_until(Role::Canvassing);
        node.now.since(began)
    };
    let usual = LEASE + Duration::from_millis(100);
    assert!(first_canvass(Vec::new(), None) < usual);
    assert!(first_canvass(vec![NodeId(3)], None) >= LEASE * 3 / 2);
    assert!(first_canvass(vec![ME], None) < usual);
    assert!(first_canvass(vec![NodeId(3)], Some(NodeId(3))) < usual + Duration::from_millis(100));
}

#[test]
fn roles_that_exclude_each_other_are_not_sound() {
    assert!(config(3).is_sound());
    let unsound = [
        Config { node: NodeId(9), ..config(3) },
        Config { learners: vec![NodeId(3)], ..config(3) },
        Config { learners: vec![NodeId(4), NodeId(4)], ..config(3) },
        Config { witnesses: vec![NodeId(4)], ..config(3) },
        Config { witnesses: vec![ME, NodeId(2), NodeId(3)], ..config(3) },
        Config { preferred: vec![NodeId(3)], witnesses: vec![NodeId(3)], ..config(3) },
        Config { preferred: vec![NodeId(4)], learners: vec![NodeId(4)], ..config(3) },
    ];
    for config in unsound {
        assert!(!config.is_sound(), "{config:?}");
    }
}

#[test]
fn voters_are_settled_once_something_of_their_own_master_is_decided() {
    let mut node = Node::master_to_be(config(3), blank_memory(), &[]);
    node.grant_all();
    assert!(!node.engine.is_settled(), "it has promises, and nobody has accepted anything");
    node.persist();
    node.acknowledge_all(1);
    assert!(node.engine.is_settled());
    node.receive(3, Message::Prepare { ballot: ballot(9, 3), decided_upto: Slot(1) });
    node.persist();
    node.receive(3, heartbeat(ballot(9, 3)));
    assert!(!node.engine.is_settled(), "what another one decides may not be on a majority yet");
}
