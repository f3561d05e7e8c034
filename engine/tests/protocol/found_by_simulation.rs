//! What the simulator found, told again step by step: a seed's run changes with the simulator, these do not.

use trialbay_engine::{
    Action, Ballot, Config, Entry, Event, Incarnation, Limits, Message, Offence, Record, Recovered, Role, Slot,
    message::List, value::HistoryHash,
};

use crate::cluster::{Cluster, LEASE_MS, node};
use crate::node::{Node, accept, accepted, ballot, config, heartbeat, life, memory, value};

/// A slave that decided two slots, and hears from node 2, its master, that five are decided which it cannot stream.
fn behind() -> Node {
    behind_with(config(3))
}

fn behind_with(config: Config) -> Node {
    let mut node = Node::rested(config, memory(ballot(1, 2), &[value("a"), value("b")], Vec::new()));
    let given = node.receive(
        2,
        Message::Heartbeat {
            ballot: ballot(1, 2),
            asked_at: node.now,
            sent_upto: Slot(5),
            stream_start: Slot(5),
            decided_upto: Slot(5),
            decided_hash: HistoryHash(5),
        },
    );
    assert!(given.sent.iter().any(|(to, message)| to.0 == 2 && *message == Message::Fetch { from: Slot(3) }));
    node
}

fn asks(node_asked: u16, sent: &[(trialbay_engine::NodeId, Message)]) -> bool {
    sent.iter().any(|(to, message)| to.0 == node_asked && matches!(message, Message::Fetch { .. }))
}

fn nothing_beyond(upto: u64) -> Message {
    Message::Fetched { first: Slot(upto + 1), entries: List(Vec::new()), decided_upto: Slot(upto) }
}

/// The last acknowledgement was lost, the window was full, and so no later value would have covered it.
#[test]
fn an_acknowledgement_that_was_lost_is_given_again_with_the_next_heartbeat_once_it_is_durable() {
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[], Vec::new()));
    node.receive(2, accept(ballot(1, 2), 1, vec![value("a")]));
    let acknowledges =
        |given: &crate::node::Given| given.sent.iter().any(|(_, message)| *message == accepted(ballot(1, 2), 1, 1));
    assert!(!acknowledges(&node.receive(2, heartbeat(ballot(1, 2)))), "nothing is durable yet");
    assert!(acknowledges(&node.persist()));
    assert!(acknowledges(&node.receive(2, heartbeat(ballot(1, 2)))), "the master has not decided it");
}

/// A log that was trimmed after its node's start was taken for one that has nothing newer.
#[test]
fn a_fetch_of_an_entry_that_the_log_has_no_more_is_answered_with_gone() {
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[value("a"), value("b")], Vec::new()));
    let given = node.receive(3, Message::Fetch { from: Slot(1) });
    assert!(matches!(given.others[..], [Action::ReadLog { .. }]));
    let given = node.step(Event::LogRead { peer: trialbay_engine::NodeId(3), entries: Vec::new() });
    assert!(matches!(given.sent[..], [(_, Message::Gone { log_start: Slot(2) })]), "{given:?}");
}

#[test]
fn a_fetch_of_what_was_removed_from_the_log_is_answered_with_gone_at_once() {
    let mut node = Node::rested(config(3), memory(ballot(1, 2), &[value("a"), value("b"), value("c")], Vec::new()));
    node.step(Event::LogShortened { log_start: Slot(3) });
    node.step(Event::LogShortened { log_start: Slot(2) });
    for slot in [1, 2] {
        let given = node.receive(3, Message::Fetch { from: Slot(slot) });
        assert!(matches!(given.sent[..], [(_, Message::Gone { log_start: Slot(3) })]), "{given:?}");
    }
    let given = node.receive(3, Message::Fetch { from: Slot(3) });
    assert!(matches!(given.others[..], [Action::ReadLog { .. }]));
}

/// Of two peers the one that is ahead has no log, and the other has a log but is not ahead.
#[test]
fn a_head_is_asked_for_when_the_only_peer_that_is_ahead_has_no_log() {
    let mut node = behind();
    let given = node.receive(2, Message::Gone { log_start: Slot(5) });
    assert!(asks(3, &given.sent), "node 3 may have it");
    let given = node.receive(3, nothing_beyond(2));
    assert!(matches!(given.others[..], [Action::InstallHead { from }] if from.0 == 2), "{given:?}");
}

/// Connections broke again and again while the disk of a wiped node hung: each time the next peer was asked for one more
/// piece.
#[test]
fn nobody_is_asked_for_a_piece_for_which_there_is_no_room_yet() {
    let limits = Limits { in_flight_bytes_max: 10, ..Limits::default() };
    let mut node = behind_with(Config { limits, ..config(3) });
    let entries = List(vec![Entry { ballot: ballot(1, 2), value: value(&"x".repeat(100)) }]);
    let given = node.receive(2, Message::Fetched { first: Slot(3), entries, decided_upto: Slot(5) });
    assert!(!asks(2, &given.sent), "the disk is behind");
    let given = node.step(Event::Disconnected(trialbay_engine::NodeId(2)));
    assert!(!asks(3, &given.sent), "the disk is behind, whoever is asked");
    let settled = [node.step(Event::Applied(Slot(3))), node.persist()];
    assert!(settled.iter().any(|given| asks(3, &given.sent)), "{settled:?}");
}

#[test]
fn no_peer_is_asked_twice_between_two_steps_forward() {
    let mut node = behind();
    assert!(asks(3, &node.receive(2, nothing_beyond(2)).sent));
    let given = node.receive(3, nothing_beyond(2));
    assert!(!asks(2, &given.sent) && !asks(3, &given.sent));
    assert!(given.others.is_empty(), "nobody said that the log is gone");
    assert!(!node.engine.status().catching_up);
}

/// It was sent to the node before its disk was lost, when it was further.
#[test]
fn nobody_is_blamed_for_an_answer_to_an_earlier_life() {
    let mut node = behind();
    let entry = crate::node::accepted_entry(4, ballot(1, 2), "d").entry;
    let late = Message::Fetched { first: Slot(4), entries: List(vec![entry]), decided_upto: Slot(5) };
    let given = node.receive(2, late);
    assert_eq!(given.blamed, Vec::<(trialbay_engine::NodeId, Offence)>::new());
    assert!(node.engine.status().catching_up, "the answer to this life is waited for");
}

/// Two nodes that were killed at a cluster's birth came back with lives that were in no genesis.
#[test]
fn nobody_hears_of_a_life_before_it_is_on_disk() {
    let mut node = Node::rested(config(3), Recovered::blank());
    let given = node.receive(2, Message::Recall { incarnation: life(2) });
    assert!(given.sent.is_empty(), "{given:?}");
    let given = node.persist();
    let told = |to: u16| given.sent.iter().any(|(other, m)| other.0 == to && matches!(m, Message::Recall { .. }));
    assert!(told(2) && told(3));
}

/// A master dropped the grants of a slave when it heard, late, of the very life that had given them.
#[test]
fn hearing_of_the_life_that_votes_costs_no_vote_and_hearing_of_another_does() {
    for (heard, keeps) in [(life(2), true), (Incarnation(99), false)] {
        let mut node = Node::master(config(3));
        let me = node.engine.status().incarnation;
        // Only node 2's grant counts: node 3's life is another one now.
        node.receive(3, Message::Recall { incarnation: Incarnation(33) });
        assert!(node.is_serving());
        node.receive(
            2,
            Message::Recalled {
                asker: me,
                incarnation: heard,
                votes: true,
                blank: false,
                promised: Ballot::ZERO,
                accepted_upto: Slot::ZERO,
                genesis: List(Vec::new()),
            },
        );
        assert_eq!(node.is_serving(), keeps, "{heard}");
    }
}

/// Whoever took a late message for the newest life of its sender ignored it from then on.
#[test]
fn a_vote_of_another_life_than_the_known_one_has_the_voter_asked() {
    let mut node = Node::master(config(3));
    node.receive(2, Message::Recall { incarnation: Incarnation(99) });
    let ballot = node.engine.status().promised;
    let given = node.receive(2, accepted(ballot, 2, 1));
    assert!(given.sent.iter().any(|(to, message)| to.0 == 2 && matches!(message, Message::Recall { .. })), "{given:?}");
}

/// One late message of a life that was over made a master forget its quorum's grants, and it stepped down on the spot.
#[test]
fn a_master_that_forgets_grants_has_a_lease_of_time_to_be_given_them_again() {
    let mut node = Node::master(config(3));
    for _ in 0..20 {
        node.tick();
        node.grant_all();
    }
    for peer in [2, 3] {
        node.receive(peer, Message::Recall { incarnation: Incarnation(99) });
        node.step(Event::ReadRequested(trialbay_engine::ReadId(1)));
    }
    assert!(!node.is_serving());
    assert_eq!(node.engine.role(), Role::Master);
    node.tick_until(Role::Slave);
}

/// Two of four (or both of two) nodes were wiped one after the other, the second before the first had caught up; the first
/// voted, so the second took its word, and both began the history anew.
#[test]
fn a_lent_vote_gives_nobody_else_the_vote_back() {
    let mut cluster = Cluster::with_master(2);
    cluster.request(1, &["a"]);
    cluster.run();
    cluster.wipe(2);
    cluster.start(2);
    for _ in 0..50 {
        while let Some(message) = cluster.take(1, 2) {
            if matches!(message, Message::Recalled { .. }) {
                cluster.receive(node(1), node(2), message);
            }
        }
        if cluster.engine(2).status().votes {
            break;
        }
        cluster.deliver_or_tick(2, 1);
    }
    assert!(cluster.engine(2).status().votes);
    assert!(cluster.applied(2).is_empty());
    cluster.wipe(1);
    cluster.start(1);
    for _ in 0..10 {
        cluster.wait_ms(LEASE_MS / 2);
        cluster.tick_all();
        cluster.run();
    }
    assert!(!cluster.engine(1).status().votes, "the only copy is gone, and the cluster says so");
}

/// An entry of an older ballot was durable in a slot whose decided value was still on its way to the disk. A peer that
/// fetched got the older one, which the log had, and took it for decided.
#[test]
fn nobody_is_given_from_the_log_what_is_decided_and_not_yet_durable_there() {
    let old = crate::node::accepted_entry(2, ballot(1, 2), "old");
    let recovered = memory(ballot(1, 2), &[value("a")], vec![old]);
    let mut small = config(3);
    (small.limits.cache_slots_max, small.limits.cache_bytes_max) = (0, 0);
    let mut node = Node::rested(small, recovered);
    node.receive(3, accept(ballot(2, 3), 2, vec![value("new")]));
    let decided_hash = crate::cluster::hash_of(&[value("a"), value("new")]);
    let given = node.receive(
        3,
        Message::Heartbeat {
            ballot: ballot(2, 3),
            asked_at: node.now,
            sent_upto: Slot(2),
            stream_start: Slot(1),
            decided_upto: Slot(2),
            decided_hash,
        },
    );
    assert_eq!(given.applied.len(), 1, "the value is decided, and nothing is durable yet");

    let given = node.receive(2, Message::Fetch { from: Slot(2) });
    let new = |sent: &[(trialbay_engine::NodeId, Message)]| {
        sent.iter().any(|(_, message)| {
            matches!(message, Message::Fetched { entries: List(entries), .. } if entries[..].iter().any(|entry| entry.value == value("new")))
        })
    };
    assert!(new(&given.sent) && given.others.is_empty(), "{given:?}");
    let given = node.receive(2, Message::Fetch { from: Slot(1) });
    let reads =
        |upto| move |action: &Action| matches!(action, Action::ReadLog { upto: asked, .. } if *asked == Slot(upto));
    assert!(given.others.iter().any(reads(1)), "{given:?}");
    let entries = vec![trialbay_engine::SlotEntry {
        slot: Slot(1),
        entry: trialbay_engine::Entry { ballot: ballot(1, 2), value: value("a") },
    }];
    node.step(Event::LogRead { peer: trialbay_engine::NodeId(2), entries });

    node.persist();
    let given = node.receive(2, Message::Fetch { from: Slot(2) });
    assert!(given.others.iter().any(reads(2)), "it is durable, and may be forgotten: {given:?}");
}

/// The record of the last slot was lost, and the store had it: at each start until the next value the log ended before its
/// store, and the node gave up the vote that it had regained.
#[test]
fn a_new_life_notes_what_is_decided_beside_its_beginning() {
    let mut recovered = memory(ballot(1, 2), &[value("a"), value("b")], Vec::new());
    recovered.memory = None;
    let decided_hash = recovered.decided_hash;
    let mut node = Node::start(config(3), recovered);
    let given = node.tick();
    let [Record::MemoryBegan(_), Record::Decided { upto: Slot(2), hash }] = given.records[..] else {
        panic!("{given:?}");
    };
    assert_eq!(hash, decided_hash);
}
