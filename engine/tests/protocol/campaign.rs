//! How a node becomes master, and what it proposes first: rules C1 to C5 and V1.

use trialbay_engine::{Ballot, Event, Incarnation, Message, NodeId, Offence, Record, Role, Slot, SlotEntry, Value};

use crate::node::{Given, ME, Node, accepted_entry, ballot, config, heartbeat, life, memory, promise, value};

fn proposed(given: &Given) -> Vec<(Slot, Vec<Value>)> {
    let mut proposed: Vec<_> = (given.sent.iter())
        .filter_map(|(_, message)| match message {
            Message::Accept { first, values, .. } => Some((*first, values.0.clone())),
            _ => None,
        })
        .collect();
    proposed.dedup();
    proposed
}

fn canvassed(ballot: Ballot, peer: u16, willing: bool, decided: u64) -> Message {
    let decided_upto = Slot(decided);
    Message::Canvassed { ballot, willing, incarnation: life(peer), promised: Ballot::ZERO, decided_upto }
}

/// Rule C1: a node campaigns only when a quorum would promise, and canvassing changes nothing anywhere.
#[test]
fn a_node_campaigns_exactly_when_a_quorum_is_willing() {
    for willing in 0..1u32 << 4 {
        let mut node = Node::rested(config(5), memory(ballot(3, 2), &[], Vec::new()));
        node.tick();
        assert_eq!(node.engine.role(), Role::Canvassing);
        let mut records = Vec::new();
        for peer in 2..=5 {
            let given = node.receive(peer, canvassed(ballot(4, 1), peer, willing >> (peer - 2) & 1 == 1, 0));
            records.extend(given.records);
        }
        let campaigns = willing.count_ones() >= 2;
        let expected = if campaigns { vec![Record::Promised(ballot(4, 1))] } else { Vec::new() };
        assert_eq!(records, expected, "{willing:04b}");
        assert_eq!(node.engine.role() == Role::Candidate, campaigns, "{willing:04b}");
    }
}

#[test]
fn one_willing_node_counts_once_and_an_answer_to_another_canvass_not_at_all() {
    let mut node = Node::rested(config(5), memory(ballot(3, 2), &[], Vec::new()));
    node.tick();
    for _ in 0..3 {
        node.receive(2, canvassed(ballot(4, 1), 2, true, 0));
    }
    node.receive(3, canvassed(ballot(3, 1), 3, true, 0));
    assert_eq!(node.engine.role(), Role::Canvassing);
}

/// The master has resigned and gone, and node 3 has not heard of it yet: waiting for node 2 would help nobody.
#[test]
fn a_canvass_that_all_who_are_there_refuse_ends_at_once() {
    let gone = |node: &mut Node| drop(node.step(Event::Disconnected(NodeId(2))));
    let refused = |node: &mut Node| drop(node.receive(3, canvassed(ballot(4, 1), 3, false, 0)));
    for happens in [[gone as fn(&mut Node), refused], [refused, gone]] {
        let mut node = Node::rested(config(3), memory(ballot(3, 2), &[], Vec::new()));
        node.tick();
        happens[0](&mut node);
        assert_eq!(node.engine.role(), Role::Canvassing);
        happens[1](&mut node);
        assert_eq!(node.engine.role(), Role::Slave);
        let soon = node.now + config(3).lease / 16;
        assert!(node.engine.next_deadline().is_some_and(|next| next < soon), "it tries again soon");
    }
}

#[test]
fn answering_a_canvass_changes_nothing() {
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[], Vec::new()));
    let before = node.engine.status();
    let given = node.receive(3, Message::Canvass { ballot: ballot(9, 3), decided_upto: Slot(0) });
    assert!(given.records.is_empty());
    assert_eq!(node.engine.status(), before);
}

/// Rule C2.
#[test]
fn nobody_hears_of_a_ballot_before_its_owner_has_it_on_disk() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    node.tick();
    let given = node.receive(2, canvassed(ballot(1, 1), 2, true, 0));
    assert_eq!(given.records, [Record::Promised(ballot(1, 1))]);
    assert!(given.sent.is_empty(), "{given:?}");
    let prepare = Message::Prepare { ballot: ballot(1, 1), decided_upto: Slot(0) };
    assert_eq!(node.persist().sent, [(NodeId(2), prepare.clone()), (NodeId(3), prepare)]);
}

/// Rule P4, seen from the candidate.
#[test]
fn a_candidate_that_is_behind_gives_up_and_catches_up() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    node.tick();
    let given = node.receive(2, canvassed(ballot(1, 1), 2, false, 5));
    assert_eq!(given.sent, [(NodeId(2), Message::Fetch { from: Slot(1) })]);
    assert_eq!(node.engine.role(), Role::Slave);

    let mut node = Node::candidate(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    let mine = node.engine.status().promised;
    let given = node.receive(2, Message::Nak { ballot: mine, promised: mine, decided_upto: Slot(5) });
    assert_eq!(given.sent, [(NodeId(2), Message::Fetch { from: Slot(1) })]);
    assert_eq!(node.engine.role(), Role::Slave);
}

/// Every combination of what three nodes of five may have accepted in slot 1 in ballots 1, 2 and 3.
#[test]
fn the_value_of_the_highest_ballot_is_proposed_again() {
    let kinds = [None, Some((1, "a")), Some((2, "b")), Some((3, "c"))];
    let entries = |kind: Option<(u64, &str)>| -> Vec<SlotEntry> {
        kind.into_iter().map(|(round, text)| accepted_entry(1, ballot(round, 2), text)).collect()
    };
    for mine in kinds {
        for second in kinds {
            for third in kinds {
                let case = format!("{mine:?}, {second:?}, {third:?}");
                let mut node = Node::candidate(config(5), memory(ballot(3, 2), &[], entries(mine)));
                let theirs = node.engine.status().promised;
                assert_eq!(theirs, ballot(4, 1));
                let given = node.receive(2, promise(theirs, 2, entries(second)));
                assert!(given.sent.is_empty(), "two of five are no quorum: {case}");
                let given = node.receive(3, promise(theirs, 3, entries(third)));
                let chosen = [mine, second, third].into_iter().flatten().max_by_key(|(round, _)| *round);
                let first_own = Value::MasterChange(ME);
                let expected: Vec<Value> = chosen.map(|(_, text)| value(text)).into_iter().chain([first_own]).collect();
                assert_eq!(proposed(&given), [(Slot(1), expected)], "{case}");
            }
        }
    }
}

/// Rule C5, and the order of C3: first what was found, slot after slot, then the master's own first value.
#[test]
fn slots_in_which_a_quorum_accepted_nothing_are_filled_with_noops() {
    let mut node = Node::candidate(config(3), memory(ballot(1, 2), &[value("decided")], Vec::new()));
    let mine = node.engine.status().promised;
    let found = vec![accepted_entry(1, ballot(1, 2), "decided"), accepted_entry(4, ballot(1, 2), "found")];
    let given = node.receive(2, promise(mine, 2, found));
    let expected = vec![Value::Noop, Value::Noop, value("found"), Value::MasterChange(ME)];
    assert_eq!(proposed(&given), [(Slot(2), expected)]);
}

#[test]
fn promises_of_another_ballot_twice_from_one_node_or_of_an_earlier_life_make_no_quorum() {
    let mut node = Node::candidate(config(5), memory(ballot(1, 2), &[], Vec::new()));
    let mine = node.engine.status().promised;
    node.receive(2, promise(mine, 2, Vec::new()));
    node.receive(2, promise(mine, 2, Vec::new()));
    node.receive(3, promise(ballot(1, 1), 3, Vec::new()));
    // Node 3 has said that it lives another life.
    node.receive(3, Message::Recall { incarnation: life(3) });
    node.receive(3, Message::Promise { ballot: mine, incarnation: Incarnation(99), accepted: Vec::new().into() });
    assert_eq!(node.engine.role(), Role::Candidate);
    node.receive(3, promise(mine, 3, Vec::new()));
    assert_eq!(node.engine.role(), Role::Master);
}

/// Rules V1 and V2: a promise that the voter's earlier life gave is dropped when its next life speaks.
#[test]
fn a_promise_does_not_outlive_the_life_that_gave_it() {
    let mut node = Node::candidate(config(5), memory(Ballot::ZERO, &[], Vec::new()));
    let mine = node.engine.status().promised;
    node.receive(2, promise(mine, 2, Vec::new()));
    node.receive(2, Message::Recall { incarnation: Incarnation(99) });
    node.receive(2, promise(mine, 2, Vec::new()));
    node.receive(3, promise(mine, 3, Vec::new()));
    assert_eq!(node.engine.role(), Role::Candidate);
    node.receive(4, promise(mine, 4, Vec::new()));
    assert_eq!(node.engine.role(), Role::Master);
}

#[test]
fn a_promise_with_entries_that_cannot_be_is_blamed() {
    for entry in [accepted_entry(1, ballot(9, 2), "too high"), accepted_entry(1 << 40, ballot(1, 2), "too far")] {
        let mut node = Node::candidate(config(3), memory(Ballot::ZERO, &[], Vec::new()));
        let mine = node.engine.status().promised;
        let given = node.receive(2, promise(mine, 2, vec![entry]));
        assert_eq!(given.blamed, [(NodeId(2), Offence::OutOfBounds)]);
        assert_eq!(node.engine.role(), Role::Candidate);
    }
}

#[test]
fn a_candidate_that_a_quorum_refused_gives_up_at_once() {
    let mut node = Node::candidate(config(5), memory(Ballot::ZERO, &[], Vec::new()));
    let mine = node.engine.status().promised;
    for (peer, role) in [(2, Role::Candidate), (3, Role::Candidate), (4, Role::Slave)] {
        node.receive(peer, Message::Nak { ballot: mine, promised: ballot(7, 3), decided_upto: Slot(0) });
        assert_eq!(node.engine.role(), role);
    }
    // And its next campaign goes above what it has heard of.
    let given = node.tick();
    assert!(given.sent.iter().any(
        |(_, message)| matches!(message, Message::Canvass { ballot, .. } if *ballot == crate::node::ballot(8, 1))
    ));
}

#[test]
fn a_node_that_hears_a_master_stops_canvassing_and_campaigning() {
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[], Vec::new()));
    node.tick();
    assert_eq!(node.engine.role(), Role::Canvassing);
    node.receive(2, heartbeat(ballot(1, 2)));
    assert_eq!(node.engine.role(), Role::Slave);
    let mut node = Node::candidate(config(3), memory(ballot(1, 2), &[], Vec::new()));
    node.receive(2, heartbeat(ballot(1, 2)));
    assert_eq!(node.engine.role(), Role::Candidate, "its ballot is older than the campaign's");
    node.receive(3, heartbeat(ballot(2, 3)));
    assert_eq!(node.engine.role(), Role::Slave);
}

/// A node that is its own quorum asks nobody.
#[test]
fn a_node_alone_becomes_master_by_itself() {
    let mut node = Node::rested(config(1), memory(Ballot::ZERO, &[], Vec::new()));
    node.tick_until(Role::Candidate);
    node.persist();
    assert_eq!(node.engine.role(), Role::Master);
    assert!(!node.is_serving());
    node.persist();
    assert_eq!(node.decided(), 1);
    node.step(Event::Applied(Slot(1)));
    assert!(node.is_serving());
}

/// A node may find a quorum that is not ahead of it while it still asks one that was.
#[test]
fn a_node_that_becomes_master_catches_up_no_more() {
    let mut node = Node::rested(config(5), memory(Ballot::ZERO, &[], Vec::new()));
    node.tick();
    node.receive(5, canvassed(ballot(1, 1), 5, false, 9));
    assert!(node.engine.status().catching_up);
    node.tick_until(Role::Canvassing);
    for peer in [2, 3] {
        node.receive(peer, canvassed(ballot(1, 1), peer, true, 0));
    }
    node.persist();
    for peer in [2, 3] {
        node.receive(peer, promise(ballot(1, 1), peer, Vec::new()));
    }
    assert_eq!(node.engine.role(), Role::Master);
    assert!(!node.engine.status().catching_up);
    for _ in 0..20 {
        let given = node.tick();
        node.grant_all();
        assert!(!given.sent.iter().any(|(_, message)| matches!(message, Message::Fetch { .. })), "{given:?}");
    }
}

/// A message that an earlier life of a voter sent to an earlier run of this node must not shut out the life that votes now.
#[test]
fn a_late_message_of_an_old_ballot_says_nothing_about_who_votes_now() {
    let old = Incarnation(99);
    let late = [
        Message::Accepted { ballot: ballot(1, 1), incarnation: old, votes: true, upto: Slot(1) },
        Message::Promise { ballot: ballot(1, 1), incarnation: old, accepted: Vec::new().into() },
        Message::Granted {
            ballot: ballot(1, 1),
            asked_at: trialbay_engine::Instant(1),
            incarnation: old,
            votes: true,
            received_upto: Slot(0),
            applied_upto: Slot(0),
        },
        Message::Canvassed {
            ballot: ballot(1, 1),
            willing: true,
            incarnation: old,
            promised: Ballot::ZERO,
            decided_upto: Slot(0),
        },
    ];
    for message in late {
        let mut node = Node::rested(config(3), memory(ballot(1, 1), &[], Vec::new()));
        node.receive(2, message.clone());
        node.tick();
        node.receive(2, canvassed(ballot(2, 1), 2, true, 0));
        node.persist();
        node.receive(2, promise(ballot(2, 1), 2, Vec::new()));
        assert_eq!(node.engine.role(), Role::Master, "after {message:?}");
    }
}
