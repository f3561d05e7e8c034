//! What a master may do, and what counts for it: rules M1 to M6, R2 and V1.

use std::time::Duration;

use trialbay_engine::{
    Action, Ballot, Config, Event, HaltReason, Incarnation, Limits, Message, NodeId, Offence, ReadId, Refusal,
    RequestId, Role, Slot,
};

use crate::node::{Given, LEASE, ME, Node, accepted, accepted_entry, ballot, config, life, memory, promise, value};

fn limits(limits: Limits) -> Config {
    Config { limits, ..config(3) }
}

fn requests(ids: impl IntoIterator<Item = u64>) -> Vec<RequestId> {
    ids.into_iter().map(RequestId).collect()
}

/// Rules M2 and M3: every order in which the master's own disk and the peers finish slot 2 of five nodes.
#[test]
fn a_slot_is_decided_exactly_when_a_quorum_has_it_durable_the_master_itself_only_after_its_own_disk() {
    for order in permutations(&[1, 2, 3, 4, 5]) {
        let mut node = Node::master(config(5));
        node.request(&["a"]);
        for (count, voter) in (1..).zip(&order) {
            let given =
                if *voter == 1 { node.persist() } else { node.receive(*voter, accepted(ballot(1, 1), *voter, 2)) };
            let expected = if count == 3 { vec![(Slot(2), value("a"), requests([1]))] } else { Vec::new() };
            assert_eq!(given.applied, expected, "{order:?} after {count}");
        }
    }
}

fn permutations(elements: &[u16]) -> Vec<Vec<u16>> {
    if elements.len() <= 1 {
        return vec![elements.to_vec()];
    }
    (0..elements.len())
        .flat_map(|index| {
            let mut rest = elements.to_vec();
            let first = rest.remove(index);
            permutations(&rest).into_iter().map(move |rest| [vec![first], rest].concat())
        })
        .collect()
}

#[test]
fn acknowledgements_are_cumulative_and_never_go_back() {
    for acknowledged in 1..=4 {
        let mut node = Node::master(config(3));
        for command in ["a", "b", "c"] {
            node.request(&[command]);
        }
        node.persist();
        let given = node.receive(2, accepted(ballot(1, 1), 2, acknowledged));
        let applied: Vec<u64> = given.applied.iter().map(|(slot, ..)| slot.0).collect();
        assert_eq!(applied, (2..=acknowledged).collect::<Vec<_>>());
        node.receive(2, accepted(ballot(1, 1), 2, 1));
        assert_eq!(node.decided(), acknowledged);
    }
}

/// What must not count in a cluster of five, of which the master itself and node 2 have slot 2.
#[test]
fn acknowledgements_that_do_not_count_decide_nothing() {
    let mine = ballot(2, 1);
    let message = |ballot: Ballot, incarnation: Incarnation, votes: bool| Message::Accepted {
        ballot,
        incarnation,
        votes,
        upto: Slot(2),
    };
    let cases: [(&str, u16, Message); 6] = [
        ("the same node again", 2, message(mine, life(2), true)),
        ("a node without a vote", 3, message(mine, life(3), false)),
        ("an older ballot", 3, message(ballot(1, 1), life(3), true)),
        ("another master's ballot", 3, message(ballot(2, 4), life(3), true)),
        ("a newer ballot", 3, message(ballot(3, 1), life(3), true)),
        ("another life", 3, message(mine, Incarnation(99), true)),
    ];
    for (why, from, message) in cases {
        let mut node = Node::master_to_be(config(5), memory(ballot(1, 1), &[value("decided")], Vec::new()), &[]);
        assert_eq!(node.engine.status().promised, mine);
        node.persist();
        node.receive(3, Message::Recall { incarnation: life(3) });
        node.receive(2, accepted(mine, 2, 2));
        let given = node.receive(from, message);
        assert!(given.applied.is_empty(), "{why}");
        let given = node.receive(4, accepted(mine, 4, 2));
        assert_eq!(given.applied.len(), 1, "the third voter decides, whatever came before: {why}");
    }
}

/// Rules V1 and V2.
#[test]
fn acknowledgements_and_grants_do_not_outlive_the_life_that_gave_them() {
    let mut node = Node::master(config(5));
    node.request(&["a"]);
    node.persist();
    node.receive(2, accepted(ballot(1, 1), 2, 2));
    let given = node.receive(2, Message::Recall { incarnation: Incarnation(99) });
    assert!(
        matches!(given.sent[..], [(_, Message::Recalled { votes: true, accepted_upto: Slot(2), .. })]),
        "what was accepted is told only after the earlier life's acknowledgement is dropped: {given:?}"
    );
    assert!(node.receive(3, accepted(ballot(1, 1), 3, 2)).applied.is_empty());
    assert_eq!(node.receive(4, accepted(ballot(1, 1), 4, 2)).applied.len(), 1);
    for peer in [3, 4, 5] {
        node.receive(peer, Message::Recall { incarnation: Incarnation(99) });
    }
    assert_eq!(node.engine.serves_until(), None, "no quorum grants any more");
}

#[test]
fn who_acknowledges_what_was_never_sent_is_blamed() {
    let mut node = Node::master(config(3));
    node.request(&["a"]);
    node.persist();
    let given = node.receive(2, accepted(ballot(1, 1), 2, 3));
    assert_eq!(given.blamed, [(NodeId(2), Offence::AcknowledgedTooMuch)]);
    assert!(given.applied.is_empty());
    let given = node.receive(2, Message::Gap { ballot: ballot(1, 1), received_upto: Slot(3) });
    assert_eq!(given.blamed, [(NodeId(2), Offence::AcknowledgedTooMuch)]);
    let mut granted = node.granted(2);
    if let Message::Granted { asked_at, .. } = &mut granted {
        *asked_at = node.now + Duration::from_nanos(1);
    }
    assert_eq!(node.receive(2, granted).blamed, [(NodeId(2), Offence::AcknowledgedTooMuch)]);
}

/// Rule M1.
#[test]
fn a_master_serves_only_when_all_it_inherited_and_its_own_first_slot_are_applied() {
    let inherited = [accepted_entry(1, ballot(1, 2), "a"), accepted_entry(2, ballot(1, 2), "b")];
    let mut node = Node::master_to_be(config(3), memory(ballot(1, 2), &[], Vec::new()), &inherited);
    node.grant_all();
    let refuses = |node: &mut Node| {
        assert_eq!(node.engine.serves_until(), None);
        let given = node.request(&["x"]);
        assert!(matches!(given.refused[..], [(_, Refusal::NotMaster { master: None })]), "{given:?}");
    };
    refuses(&mut node);
    node.persist();
    node.acknowledge_all(3);
    assert_eq!(node.decided(), 3);
    refuses(&mut node);
    for slot in 1..=2 {
        node.step(Event::Applied(Slot(slot)));
        refuses(&mut node);
    }
    node.step(Event::Applied(Slot(3)));
    assert!(node.is_serving());
    assert!(node.request(&["x"]).refused.is_empty());
}

fn accepts_to(given: &Given, to: u16) -> Vec<(u64, usize)> {
    (given.sent.iter())
        .filter_map(|(node, message)| match message {
            Message::Accept { first, values, .. } if node.0 == to => Some((first.0, values.0.len())),
            _ => None,
        })
        .collect()
}

/// Rule M4.
#[test]
fn no_more_slots_are_in_flight_than_the_window_and_what_waits_is_merged() {
    for window in 1..=4 {
        let mut node = Node::master(limits(Limits { in_flight_slots_max: window, ..Limits::default() }));
        for count in 0..6u64 {
            let given = node.request(&["x"]);
            let expected = if count < window { vec![(2 + count, 1)] } else { Vec::new() };
            assert_eq!(accepts_to(&given, 2), expected, "request {count} with a window of {window}");
        }
        assert_eq!(node.engine.status().queued_requests as u64, 6 - window);
        node.persist();
        let given = node.receive(2, accepted(ballot(1, 1), 2, 1 + window));
        assert!(accepts_to(&given, 3).is_empty(), "decided slots are in flight until they are applied");
        let given = node.step(Event::Applied(Slot(1 + window)));
        assert_eq!(accepts_to(&given, 3), [(2 + window, 1)]);
        node.persist();
        let given = node.receive(2, accepted(ballot(1, 1), 2, 2 + window));
        assert_eq!(given.applied[0].2.len() as u64, 6 - window, "one slot for all that waited");
    }
}

#[test]
fn windows_and_batches_are_bounded_in_bytes_but_for_a_single_large_command() {
    let bounded = Limits { in_flight_bytes_max: 20, batch_bytes_max: 3, ..Limits::default() };
    let mut node = Node::master(limits(bounded));
    let given = node.request(&["a", "b", "c", "d", "large command", "e"]);
    // Each command carries its length in four bytes: 15 bytes, 5 more, and the window is full.
    assert_eq!(accepts_to(&given, 2), [(2, 2)]);
    assert_eq!(node.engine.status().queued_requests, 2);
    node.persist();
    node.receive(2, accepted(ballot(1, 1), 2, 3));
    let given = node.step(Event::Applied(Slot(3)));
    assert_eq!(accepts_to(&given, 2), [(4, 2)], "one that is larger than a batch goes alone");
}

#[test]
fn a_full_queue_refuses_what_does_not_fit_and_loses_nothing() {
    let bounded = |requests, bytes| {
        limits(Limits {
            in_flight_slots_max: 1,
            queued_requests_max: requests,
            queued_bytes_max: bytes,
            ..Limits::default()
        })
    };
    for (config, fits) in [(bounded(2, 1000), 2), (bounded(9, 30), 3)] {
        let mut node = Node::master(config);
        node.request(&["in flight"]);
        let given = node.request(&["ten bytes!"; 5]);
        let refused: Vec<_> = (2 + fits..=6).map(|id| (RequestId(id), Refusal::Overloaded)).collect();
        assert_eq!(given.refused, refused);
        node.persist();
        node.receive(2, accepted(ballot(1, 1), 2, 2));
        node.step(Event::Applied(Slot(2)));
        node.persist();
        let given = node.receive(2, accepted(ballot(1, 1), 2, 3));
        assert_eq!(given.applied[0].2, requests(2..2 + fits));
    }
}

/// Rule R2.
#[test]
fn a_read_waits_for_a_quorum_to_answer_an_asking_that_is_not_older_than_it() {
    let mut node = Node::master(config(5));
    node.now = node.now + Duration::from_millis(1);
    let before = node.granted(2);
    node.now = node.now + Duration::from_millis(1);
    let given = node.step(Event::ReadRequested(ReadId(1)));
    let heartbeats = given.sent.iter().filter(|(_, message)| matches!(message, Message::Heartbeat { .. })).count();
    assert_eq!((heartbeats, given.others.len()), (4, 0));
    assert!(node.receive(2, before.clone()).others.is_empty());
    assert!(node.receive(3, before).others.is_empty(), "these were asked before the read");
    let granted = node.granted(2);
    assert!(node.receive(2, granted.clone()).others.is_empty());
    assert!(node.receive(2, granted.clone()).others.is_empty(), "one node counts once");
    let serve = Action::ServeRead { read: ReadId(1), at: Slot(1) };
    assert_eq!(node.receive(3, node_granted(&granted, 3)).others, [serve]);
}

fn node_granted(granted: &Message, peer: u16) -> Message {
    let mut granted = granted.clone();
    if let Message::Granted { incarnation, .. } = &mut granted {
        *incarnation = life(peer);
    }
    granted
}

#[test]
fn a_read_of_a_new_master_sees_everything_it_inherited() {
    let inherited = [accepted_entry(1, ballot(1, 2), "a")];
    let mut node = Node::master_to_be(config(3), memory(ballot(1, 2), &[], Vec::new()), &inherited);
    node.now = node.now + Duration::from_millis(1);
    node.step(Event::ReadRequested(ReadId(1)));
    let granted = node.granted(2);
    let given = node.receive(2, granted);
    assert_eq!(given.others, [Action::ServeRead { read: ReadId(1), at: Slot(2) }]);
}

#[test]
fn reads_are_refused_by_slaves_and_beyond_their_limit() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    let given = node.step(Event::ReadRequested(ReadId(1)));
    let reason = Refusal::NotMaster { master: None };
    assert_eq!(given.others, [Action::RefuseRead { read: ReadId(1), reason }]);
    let mut node = Node::master(limits(Limits { queued_reads_max: 1, ..Limits::default() }));
    node.now = node.now + Duration::from_millis(1);
    node.step(Event::ReadRequested(ReadId(1)));
    let given = node.step(Event::ReadRequested(ReadId(2)));
    assert_eq!(given.others, [Action::RefuseRead { read: ReadId(2), reason: Refusal::Overloaded }]);
}

/// Rule M5.
#[test]
fn whoever_waits_for_a_master_that_steps_down_is_answered() {
    type Depose = fn(&mut Node) -> Given;
    let depositions: [(&str, Depose); 3] = [
        ("a lease without a quorum", |node| {
            node.now = node.now + LEASE + LEASE;
            node.step(Event::Ticked)
        }),
        ("a slave that promised more", |node| {
            node.receive(2, Message::Nak { ballot: ballot(1, 1), promised: ballot(2, 3), decided_upto: Slot(1) })
        }),
        ("a new master", |node| node.receive(2, crate::node::heartbeat(ballot(2, 2)))),
    ];
    for (why, depose) in depositions {
        let mut node = Node::master(limits(Limits { in_flight_slots_max: 1, ..Limits::default() }));
        node.request(&["in flight"]);
        node.request(&["queued"]);
        node.now = node.now + Duration::from_millis(1);
        node.step(Event::ReadRequested(ReadId(1)));
        let given = depose(&mut node);
        let not_master = Refusal::NotMaster { master: None };
        let refused = [(RequestId(1), Refusal::OutcomeUnknown), (RequestId(2), not_master)];
        assert_eq!(given.refused, refused, "{why}");
        assert_eq!(given.others, [Action::RefuseRead { read: ReadId(1), reason: not_master }], "{why}");
        assert_ne!(node.engine.role(), Role::Master, "{why}");
        assert_eq!(node.engine.serves_until(), None, "{why}");
    }
}

#[test]
fn a_refusal_of_an_older_ballot_does_not_depose_a_master() {
    let mut node = Node::master_to_be(config(3), memory(ballot(1, 2), &[], Vec::new()), &[]);
    node.receive(2, Message::Nak { ballot: ballot(1, 1), promised: ballot(3, 3), decided_upto: Slot(0) });
    node.receive(2, Message::Nak { ballot: ballot(2, 1), promised: ballot(1, 2), decided_upto: Slot(0) });
    assert_eq!(node.engine.role(), Role::Master);
}

/// Rule P3 holds for the master too: nobody takes its place inside the lease that it grants itself.
#[test]
fn a_master_refuses_candidates_for_a_lease_from_its_last_asking() {
    for (wait, refused) in [(Duration::ZERO, true), (LEASE - Duration::from_nanos(1), true), (LEASE, false)] {
        let mut node = Node::master(config(3));
        node.now = node.now + wait;
        // An early tick would ask anew, so the candidate comes first.
        let given = node.receive(2, Message::Prepare { ballot: ballot(2, 2), decided_upto: Slot(1) });
        let naks = given.sent.iter().any(|(_, message)| matches!(message, Message::Nak { .. }));
        assert_eq!(naks, refused, "after {wait:?}");
        assert_eq!(node.engine.role() == Role::Master, refused, "after {wait:?}");
    }
}

fn resigned(given: &Given) -> Option<Option<NodeId>> {
    given.sent.iter().find_map(|(_, message)| match message {
        Message::Resign { successor, .. } => Some(*successor),
        _ => None,
    })
}

/// Rule M6.
#[test]
fn a_master_that_stops_finishes_what_is_in_flight_and_resigns_to_the_slave_that_is_furthest() {
    let halt = Action::Halt(HaltReason::Stopped);
    let mut node = Node::master(config(5));
    node.request(&["a"]);
    node.persist();
    let given = node.step(Event::StopRequested);
    assert!(given.others.is_empty() && resigned(&given).is_none());
    assert_eq!(node.engine.serves_until(), None, "it serves nobody any more");
    assert_eq!(node.request(&["late"]).refused, [(RequestId(2), Refusal::Stopping)]);
    node.receive(4, accepted(ballot(1, 1), 4, 2));
    let given = node.receive(3, accepted(ballot(1, 1), 3, 2));
    assert_eq!(given.applied.len(), 1);
    assert_eq!(resigned(&given), None, "not before the client's answer can be given");
    node.step(Event::Disconnected(NodeId(4)));
    let given = node.step(Event::Applied(Slot(2)));
    assert_eq!(resigned(&given), Some(Some(NodeId(3))), "node 4 is as far, but not connected");
    assert_eq!(given.others, [halt]);
    assert_eq!(node.engine.role(), Role::Halted);
}

#[test]
fn a_master_that_stops_gives_up_waiting_after_a_lease() {
    let mut node = Node::master(config(3));
    node.request(&["a"]);
    node.step(Event::StopRequested);
    node.now = node.now + LEASE;
    let given = node.step(Event::Ticked);
    assert!(resigned(&given).is_some());
    assert_eq!(given.refused, [(RequestId(1), Refusal::OutcomeUnknown)]);
    assert_eq!(given.others, [Action::Halt(HaltReason::Stopped)]);
}

#[test]
fn a_slave_and_a_node_alone_stop_at_once() {
    for mut node in [Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new())), Node::master(config(1))] {
        let given = node.step(Event::StopRequested);
        assert_eq!(given.others, [Action::Halt(HaltReason::Stopped)]);
        assert!(given.sent.is_empty());
    }
}

#[test]
fn only_the_successor_campaigns_at_once_after_a_resignation() {
    for (successor, canvasses) in [(Some(ME), true), (Some(NodeId(3)), false), (None, false)] {
        let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
        node.receive(2, crate::node::heartbeat(ballot(1, 2)));
        let resign = Message::Resign {
            ballot: ballot(1, 2),
            successor,
            decided_upto: Slot(0),
            decided_hash: trialbay_engine::HistoryHash::default(),
        };
        let given = node.receive(2, resign);
        let asked = given.sent.iter().any(|(_, message)| matches!(message, Message::Canvass { .. }));
        assert_eq!(asked, canvasses, "{successor:?}");
    }
}

#[test]
fn a_resignation_from_another_node_or_of_an_older_ballot_ends_nothing() {
    for (from, theirs) in [(3, ballot(2, 2)), (2, ballot(1, 2))] {
        let mut node = Node::rested(config(3), memory(ballot(1, 2), &[], Vec::new()));
        node.receive(2, crate::node::heartbeat(ballot(2, 2)));
        let resign = Message::Resign {
            ballot: theirs,
            successor: Some(ME),
            decided_upto: Slot(0),
            decided_hash: trialbay_engine::HistoryHash::default(),
        };
        assert!(node.receive(from, resign).sent.is_empty());
        assert_eq!(node.engine.known_master(), Some(NodeId(2)));
    }
}

#[test]
fn a_late_promise_makes_no_second_master_of_one() {
    let mut node = Node::master(config(3));
    let given = node.receive(3, promise(ballot(1, 1), 3, vec![accepted_entry(9, ballot(0, 3), "late")]));
    assert!(given.sent.is_empty() && given.records.is_empty(), "{given:?}");
    assert_eq!(node.engine.status().accepted_upto, Slot(1));
}

/// Each read asks for a new round, so the answer to the latest heartbeat is always still to come.
#[test]
fn a_lost_value_is_sent_again_although_reads_keep_asking_for_heartbeats() {
    let mut node = Node::master(config(3));
    // Lost on its way.
    assert_eq!(accepts_to(&node.request(&["a"]), 2), [(2, 1)]);
    let mut answer = None;
    for read in 1..10 {
        node.now = node.now + Duration::from_millis(1);
        node.step(Event::ReadRequested(ReadId(read)));
        let mut granted = node.granted(2);
        if let Message::Granted { received_upto, .. } = &mut granted {
            *received_upto = Slot(1);
        }
        let late = answer.replace(granted);
        if late.is_some_and(|late| accepts_to(&node.receive(2, late), 2) == [(2, 1)]) {
            return;
        }
    }
    panic!("never sent again");
}
