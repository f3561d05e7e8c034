//! What a slave promises and accepts: rules P1 to P4 and A1 to A4, D1 and D2, every case of a small domain.

use std::time::Duration;

use trialbay_engine::message::List;
use trialbay_engine::{
    Action, Ballot, Entry, Event, HaltReason, HistoryHash, Instant, Message, NodeId, Offence, Record, Recovered, Slot,
    Value,
};

use crate::cluster::hash_of;
use crate::node::{LEASE, Node, accept, accepted_entry, ballot, config, heartbeat, life, memory, value};

/// Whom the node's grant is to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Grant {
    Nobody,
    Restarted,
    To(u16),
    Over(u16),
}

/// A node with this grant, one decided value, one accepted in `promised`, and the ballot that it has promised by now.
fn granting(grant: Grant, promised: Ballot) -> (Node, Ballot) {
    let recovered = memory(promised, &[value("decided")], vec![accepted_entry(2, promised, "accepted")]);
    if grant == Grant::Restarted {
        return (Node::start(config(3), recovered), promised);
    }
    let mut node = Node::rested(config(3), recovered);
    let (Grant::To(holder) | Grant::Over(holder)) = grant else { return (node, promised) };
    let theirs = if promised.node.0 == holder { promised } else { ballot(promised.round + 1, holder) };
    node.receive(holder, heartbeat(theirs));
    node.persist();
    if grant == Grant::Over(holder) {
        node.now = node.now + LEASE;
    }
    (node, theirs)
}

#[test]
fn a_promise_is_given_exactly_when_the_rules_allow_it_and_leaves_once_it_is_durable() {
    let mut given_count = 0;
    for grant in [Grant::Nobody, Grant::Restarted, Grant::To(2), Grant::To(3), Grant::Over(2), Grant::Over(3)] {
        for before in [ballot(1, 2), ballot(2, 2), ballot(2, 3)] {
            for asked in [(1, 2), (2, 2), (2, 3), (3, 2), (3, 3), (4, 3)].map(|(round, node)| ballot(round, node)) {
                for candidate_decided in 0..=2 {
                    let case = format!("{grant:?}, promised {before}, asked {asked} with s{candidate_decided}");
                    let (mut node, promised) = granting(grant, before);
                    let candidate = asked.node.0;
                    let forbidden = match grant {
                        Grant::Nobody | Grant::Over(_) => false,
                        Grant::Restarted => true,
                        Grant::To(holder) => holder != candidate,
                    };
                    let expected = asked >= promised && !forbidden && candidate_decided >= 1;
                    let prepare = Message::Prepare { ballot: asked, decided_upto: Slot(candidate_decided) };
                    let given = node.receive(candidate, prepare);
                    if !expected {
                        let nak = Message::Nak { ballot: asked, promised, decided_upto: Slot(1) };
                        assert_eq!(given.sent, [(NodeId(candidate), nak)], "{case}");
                        assert_eq!(node.engine.status().promised, promised, "{case}");
                        continue;
                    }
                    given_count += 1;
                    if asked > promised {
                        assert_eq!(given.records, [Record::Promised(asked)], "{case}");
                        assert!(given.sent.is_empty(), "rule P1: {case}");
                        node_sends_promise(node.persist().sent, asked, candidate_decided, before, &case);
                    } else {
                        node_sends_promise(given.sent, asked, candidate_decided, before, &case);
                    }
                    assert_eq!(node.engine.status().promised, asked, "{case}");
                }
            }
        }
    }
    assert!(given_count > 50, "{given_count}");
}

fn node_sends_promise(sent: Vec<(NodeId, Message)>, asked: Ballot, decided: u64, accepted_in: Ballot, case: &str) {
    let accepted = if decided < 2 { vec![accepted_entry(2, accepted_in, "accepted")] } else { Vec::new() };
    let promise = Message::Promise { ballot: asked, incarnation: life(1), accepted: accepted.into() };
    assert_eq!(sent, [(asked.node, promise)], "{case}");
}

#[test]
fn a_promise_that_a_higher_one_overtook_on_its_way_to_the_disk_is_not_sent() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    for asked in [ballot(1, 2), ballot(1, 3)] {
        node.receive(asked.node.0, Message::Prepare { ballot: asked, decided_upto: Slot(0) });
    }
    let sent = node.persist().sent;
    let promise = Message::Promise { ballot: ballot(1, 3), incarnation: life(1), accepted: List(Vec::new()) };
    assert_eq!(sent, [(NodeId(3), promise)]);
}

#[test]
fn a_node_without_a_vote_answers_no_prepare_and_says_so_in_every_other_answer() {
    let mut node = Node::rested(config(3), Recovered::blank());
    node.persist();
    let given = node.receive(2, Message::Prepare { ballot: ballot(1, 2), decided_upto: Slot(0) });
    assert!(given.sent.is_empty() && given.records.is_empty(), "{given:?}");
    let given = node.receive(2, Message::Canvass { ballot: ballot(1, 2), decided_upto: Slot(0) });
    assert!(matches!(given.sent[..], [(_, Message::Canvassed { willing: false, .. })]), "{given:?}");
    let given = node.receive(2, heartbeat(ballot(1, 2)));
    assert!(matches!(given.sent[..], [(_, Message::Granted { votes: false, .. })]), "{given:?}");
    node.receive(2, accept(ballot(1, 2), 1, vec![value("a")]));
    let given = node.persist();
    assert!(matches!(given.sent[..], [(_, Message::Accepted { votes: false, .. })]), "{given:?}");
}

#[test]
fn values_are_accepted_exactly_when_the_rules_allow_it_and_acknowledged_once_they_are_durable() {
    for asked in [ballot(1, 2), ballot(2, 2), ballot(2, 3), ballot(3, 2)] {
        for first in 1..=5 {
            for count in 1..=3 {
                let case = format!("{asked} from s{first}, {count} values");
                // Slot 1 is decided, 2 and 3 were accepted in this run from the master of 2.n2.
                let mut node = Node::rested(config(3), memory(ballot(1, 3), &[value("decided")], Vec::new()));
                node.receive(2, accept(ballot(2, 2), 2, vec![value("own2"), value("own3")]));
                node.persist();
                let received = if asked > ballot(2, 2) { 1 } else { 3 };
                let values: Vec<Value> = (first..first + count).map(|slot| value(&format!("new{slot}"))).collect();
                let given = node.receive(asked.node.0, accept(asked, first, values));
                if asked < ballot(2, 2) {
                    let nak = Message::Nak { ballot: asked, promised: ballot(2, 2), decided_upto: Slot(1) };
                    assert_eq!(given.sent, [(NodeId(2), nak)], "rule A1: {case}");
                    assert!(given.records.is_empty(), "{case}");
                    continue;
                }
                let promise = (asked > ballot(2, 2)).then_some(Record::Promised(asked));
                if first > received + 1 {
                    let gap = Message::Gap { ballot: asked, received_upto: Slot(received) };
                    assert_eq!(given.sent, [(asked.node, gap)], "rule A2: {case}");
                    assert_eq!(given.records, promise.into_iter().collect::<Vec<_>>(), "{case}");
                    continue;
                }
                let new = (received + 1..first + count)
                    .map(|slot| Record::Accepted(accepted_entry(slot, asked, &format!("new{slot}"))));
                let expected: Vec<Record> = promise.into_iter().chain(new).collect();
                assert_eq!(given.records, expected, "{case}");
                let upto = Slot(received.max(first + count - 1));
                let accepted = Message::Accepted { ballot: asked, incarnation: life(1), votes: true, upto };
                if expected.is_empty() {
                    assert_eq!(given.sent, [(asked.node, accepted)], "{case}");
                } else {
                    assert!(given.sent.is_empty(), "rule A3: {case}");
                    assert_eq!(node.persist().sent, [(asked.node, accepted)], "{case}");
                }
            }
        }
    }
}

/// Rule A4: whatever a master sends for a decided slot, the slot stays as it is.
#[test]
fn a_decided_slot_is_never_accepted_anew() {
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[value("decided")], Vec::new()));
    let given = node.receive(3, accept(ballot(2, 3), 1, vec![value("other"), value("next")]));
    let new = Record::Accepted(accepted_entry(2, ballot(2, 3), "next"));
    assert_eq!(given.records, [Record::Promised(ballot(2, 3)), new]);
    assert_eq!(node.engine.status().decided_hash, hash_of(&[value("decided")]));
}

/// Rule D1: a slave decides what its master says is decided, as far as it holds that master's own values.
#[test]
fn only_values_of_the_current_ballot_are_decided_by_a_masters_word() {
    let values = [value("a"), value("b")];
    let old = vec![accepted_entry(1, ballot(1, 2), "old"), accepted_entry(2, ballot(1, 2), "old")];
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[], old));
    let decided = |upto: usize| (Slot(upto as u64), hash_of(&values[..upto]));
    let beat = |(decided_upto, decided_hash): (Slot, HistoryHash)| Message::Heartbeat {
        ballot: ballot(2, 3),
        asked_at: Instant(5),
        sent_upto: decided_upto,
        stream_start: Slot(1),
        decided_upto,
        decided_hash,
    };
    let given = node.receive(3, beat(decided(2)));
    assert!(given.applied.is_empty(), "the values here are another master's: {given:?}");
    node.receive(3, accept(ballot(2, 3), 1, vec![values[0].clone()]));
    let given = node.receive(3, beat(decided(2)));
    assert_eq!(given.applied, [(Slot(1), values[0].clone(), Vec::new())]);
    node.receive(3, accept(ballot(2, 3), 2, vec![values[1].clone()]));
    let given = node.receive(3, beat(decided(2)));
    assert_eq!(given.applied, [(Slot(2), values[1].clone(), Vec::new())]);
    assert_eq!(node.engine.status().decided_hash, hash_of(&values));
}

/// Rule D2.
#[test]
fn a_node_whose_history_differs_from_its_masters_stops_itself() {
    let ours = hash_of(&[value("ours")]);
    let theirs = hash_of(&[value("theirs")]);
    for ends_here in [true, false] {
        let mut node = Node::rested(config(3), memory(ballot(1, 2), &[value("ours")], Vec::new()));
        let beat = Message::Heartbeat {
            ballot: ballot(1, 2),
            asked_at: Instant(5),
            sent_upto: Slot(1),
            stream_start: Slot(1),
            decided_upto: if ends_here { Slot(1) } else { Slot(2) },
            decided_hash: theirs,
        };
        let given = node.receive(2, beat);
        let halt = Action::Halt(HaltReason::HistoryDiverged { slot: Slot(1), ours, theirs });
        assert_eq!(given.others.contains(&halt), ends_here);
        node.now = node.now + Duration::from_secs(1);
        assert_eq!(node.step(Event::Ticked).sent.is_empty(), ends_here, "a halted node is silent");
    }
}

#[test]
fn messages_with_anothers_ballot_or_an_impossible_one_are_blamed_and_change_nothing() {
    let impossible = [
        (ballot(1, 3), Offence::ForeignBallot),
        (ballot(0, 2), Offence::OutOfBounds),
        (ballot(1 << 63, 2), Offence::OutOfBounds),
    ];
    for (theirs, offence) in impossible {
        let messages = [
            Message::Prepare { ballot: theirs, decided_upto: Slot(0) },
            accept(theirs, 1, vec![value("a")]),
            heartbeat(theirs),
        ];
        for message in messages {
            let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
            let given = node.receive(2, message.clone());
            assert_eq!(given.blamed, [(NodeId(2), offence)], "{message:?}");
            assert!(given.sent.is_empty() && given.records.is_empty(), "{message:?}: {given:?}");
        }
    }
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    for stranger in [1, 9] {
        let given = node.receive(stranger, heartbeat(ballot(1, stranger)));
        assert_eq!(given.blamed, [(NodeId(stranger), Offence::Stranger)]);
    }
}

#[test]
fn accepts_that_are_empty_or_leave_the_numbers_are_blamed() {
    for (first, count) in [(0, 1), (1, 0), (u64::MAX, 1)] {
        let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
        let given = node.receive(2, accept(ballot(1, 2), first, vec![Value::Noop; count]));
        assert_eq!(given.blamed, [(NodeId(2), Offence::OutOfBounds)], "{count} from s{first}");
    }
}

/// Rule F1: what is accepted and not decided stays here.
#[test]
fn only_decided_entries_are_handed_out() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    let values = ["a", "b", "c", "d"].map(value);
    node.receive(2, accept(ballot(1, 2), 1, values.to_vec()));
    node.receive(
        2,
        Message::Heartbeat {
            ballot: ballot(1, 2),
            asked_at: Instant(5),
            sent_upto: Slot(4),
            stream_start: Slot(1),
            decided_upto: Slot(2),
            decided_hash: hash_of(&values[..2]),
        },
    );
    for first in 1..=6 {
        let given = node.receive(3, Message::Fetch { from: Slot(first) });
        let entries: Vec<Entry> = (values.iter().take(2).skip(first as usize - 1))
            .map(|value| Entry { ballot: ballot(1, 2), value: value.clone() })
            .collect();
        let fetched = Message::Fetched { first: Slot(first), entries: entries.into(), decided_upto: Slot(2) };
        assert_eq!(given.sent, [(NodeId(3), fetched)]);
    }
}
