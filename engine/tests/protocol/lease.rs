//! Leases (rules L1 to L4) from a slave's and from a master's side.

use std::time::Duration;

use trialbay_engine::{Ballot, Config, Event, HistoryHash, Message, ReadId, Slot};

use crate::node::{LEASE, Node, ballot, config, heartbeat, memory};

/// Whether this node would give its promise to a candidate with this ballot now.
fn is_willing(node: &mut Node, candidate: Ballot) -> bool {
    let canvass = Message::Canvass { ballot: candidate, decided_upto: Slot(9) };
    let given = node.receive(candidate.node.0, canvass);
    matches!(given.sent[..], [(_, Message::Canvassed { willing: true, .. })])
}

/// Whether it gives it, if asked now. The promise itself waits for the disk, a refusal does not.
fn promises(node: &mut Node, candidate: Ballot) -> bool {
    let prepare = Message::Prepare { ballot: candidate, decided_upto: Slot(9) };
    let given = node.receive(candidate.node.0, prepare);
    !given.sent.iter().any(|(_, message)| matches!(message, Message::Nak { .. }))
}

#[test]
fn a_grant_holds_for_a_whole_lease_against_everyone_but_its_holder() {
    for (candidate, wait_ms, expected) in [(2, 0, true), (2, 799, true), (3, 0, false), (3, 799, false), (3, 800, true)]
    {
        let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
        node.receive(2, heartbeat(ballot(1, 2)));
        node.now = node.now + Duration::from_millis(wait_ms);
        assert_eq!(is_willing(&mut node, ballot(2, candidate)), expected, "n{candidate} after {wait_ms} ms");
        assert_eq!(promises(&mut node, ballot(2, candidate)), expected, "n{candidate} after {wait_ms} ms");
    }
}

#[test]
fn a_restarted_node_promises_nobody_anything_until_all_grants_of_its_earlier_run_are_over() {
    let longest = LEASE.mul_f64(1.1 / 0.9);
    for (wait, expected) in [(Duration::ZERO, false), (longest - Duration::from_millis(1), false), (longest, true)] {
        for candidate in [2, 3] {
            let config = Config { clock_drift_ppm: 100_000, ..config(3) };
            let mut node = Node::start(config, memory(Ballot::ZERO, &[], Vec::new()));
            node.now = node.now + wait;
            assert_eq!(is_willing(&mut node, ballot(1, candidate)), expected, "n{candidate} after {wait:?}");
            assert_eq!(promises(&mut node, ballot(1, candidate)), expected, "n{candidate} after {wait:?}");
        }
    }
}

/// The earlier run had followed node 3 in ballot 2 and granted it its lease, which waits for no disk; the crash took the
/// record of that ballot. A heartbeat or a resignation of ballot 1 that comes late must not open the way for node 2.
#[test]
fn a_late_message_of_an_old_master_does_not_end_the_wait_of_a_restarted_node() {
    let resign = Message::Resign {
        ballot: ballot(1, 2),
        successor: None,
        decided_upto: Slot::ZERO,
        decided_hash: HistoryHash::default(),
    };
    for late in [vec![heartbeat(ballot(1, 2))], vec![heartbeat(ballot(1, 2)), resign]] {
        let mut node = Node::start(config(3), memory(ballot(1, 2), &[], Vec::new()));
        for message in late {
            node.receive(2, message);
        }
        node.now = node.now + LEASE - Duration::from_millis(1);
        assert!(!is_willing(&mut node, ballot(3, 2)));
        assert!(!promises(&mut node, ballot(3, 2)));
        node.now = node.now + Duration::from_millis(1);
        assert!(promises(&mut node, ballot(3, 2)));
    }
}

#[test]
fn a_heartbeat_of_an_older_ballot_is_refused_and_gets_no_grant() {
    let mut node = Node::rested(config(3), memory(ballot(2, 3), &[], Vec::new()));
    let given = node.receive(2, heartbeat(ballot(1, 2)));
    assert!(matches!(given.sent[..], [(_, Message::Nak { .. })]), "{given:?}");
    assert!(promises(&mut node, ballot(3, 3)));
}

#[test]
fn a_resigned_master_gets_no_grant_for_a_heartbeat_that_comes_late() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    node.receive(2, heartbeat(ballot(1, 2)));
    let resign = Message::Resign {
        ballot: ballot(1, 2),
        successor: None,
        decided_upto: Slot::ZERO,
        decided_hash: HistoryHash::default(),
    };
    node.receive(2, resign);
    let given = node.receive(2, heartbeat(ballot(1, 2)));
    assert!(given.sent.is_empty(), "{given:?}");
    assert!(promises(&mut node, ballot(2, 3)));
}

#[test]
fn a_master_counts_its_lease_from_the_asking_and_shortens_it_by_the_drift_bound() {
    for (drift_ppm, lease_ms) in [(0, 800.0), (100_000, 800.0 * 0.9 / 1.1), (500_000, 800.0 / 3.0)] {
        let mut node = Node::master(Config { clock_drift_ppm: drift_ppm, ..config(3) });
        let asked_at = node.now;
        let heartbeats = node.tick();
        assert!(heartbeats.sent.iter().any(|(_, message)| matches!(message, Message::Heartbeat { .. })));
        let asked_again_at = node.now;
        node.now = node.now + Duration::from_millis(100);
        let until = |node: &Node| node.engine.serves_until().unwrap().since(asked_at).as_secs_f64() * 1e3;
        assert!((until(&node) - lease_ms).abs() < 1e-3, "{} at {drift_ppm} ppm", until(&node));
        // The answer to the second asking comes later, even after a third; neither counts for anything.
        node.step(Event::ReadRequested(ReadId(1)));
        let mut granted = node.granted(2);
        if let Message::Granted { asked_at, .. } = &mut granted {
            *asked_at = asked_again_at;
        }
        node.receive(2, granted);
        let expected = lease_ms + asked_again_at.since(asked_at).as_secs_f64() * 1e3;
        assert!((until(&node) - expected).abs() < 1e-3, "{} at {drift_ppm} ppm", until(&node));
    }
}

#[test]
fn a_master_needs_grants_of_a_quorum_each_from_a_voter_and_of_its_own_ballot() {
    let grant = |node: &Node, votes: bool, ballot: Ballot, peer: u16| match node.granted(peer) {
        Message::Granted { asked_at, incarnation, received_upto, applied_upto, .. } => {
            Message::Granted { ballot, asked_at, incarnation, votes, received_upto, applied_upto }
        }
        other => other,
    };
    let ready = || {
        let mut node = Node::master_to_be(config(5), memory(ballot(1, 2), &[], Vec::new()), &[]);
        node.persist();
        node.acknowledge_all(1);
        node.step(Event::Applied(Slot(1)));
        node
    };
    let mine = ballot(2, 1);
    for (grants, serves) in [
        (vec![], false),
        (vec![(2, true, mine)], false),
        (vec![(2, true, mine), (2, true, mine)], false),
        (vec![(2, true, mine), (3, false, mine)], false),
        (vec![(2, true, mine), (3, true, ballot(1, 1))], false),
        (vec![(2, true, mine), (3, true, mine)], true),
    ] {
        let mut node = ready();
        for (peer, votes, ballot) in &grants {
            let message = grant(&node, *votes, *ballot, *peer);
            node.receive(*peer, message);
        }
        assert_eq!(node.is_serving(), serves, "{grants:?}");
    }
}
