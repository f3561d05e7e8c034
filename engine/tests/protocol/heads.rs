//! A node that needs a head: whom it asks, and what it has afterwards.

use trialbay_engine::{Action, Event, HistoryHash, Message, NodeId, Record, Recovered, Slot};

use crate::node::{Given, Node, accepted_entry, ballot, config, memory, value};

fn heartbeat_of_one_far_ahead(node: &mut Node) -> Given {
    let (asked_at, sent_upto, stream_start) = (node.now, Slot(50), Slot(50));
    let (decided_upto, decided_hash) = (Slot(50), HistoryHash(50));
    let ballot = ballot(1, 2);
    node.receive(2, Message::Heartbeat { ballot, asked_at, sent_upto, stream_start, decided_upto, decided_hash })
}

/// A slave of node 2 that lacks what every peer's log has lost.
fn needs_head(recovered: Recovered) -> (Node, Given) {
    let mut node = Node::rested(config(4), recovered);
    let given = heartbeat_of_one_far_ahead(&mut node);
    (node, given)
}

/// Answers every fetch with `Gone` until nobody is asked any more.
fn gone_everywhere(node: &mut Node, mut given: Given) -> Given {
    while let Some(to) = given.sent.iter().find_map(|(to, m)| matches!(m, Message::Fetch { .. }).then_some(*to)) {
        given = node.receive(to.0, Message::Gone { log_start: Slot(40) });
    }
    given
}

fn giver(given: &Given) -> Option<NodeId> {
    given.others.iter().find_map(|action| match action {
        Action::InstallHead { from } => Some(*from),
        _ => None,
    })
}

#[test]
fn every_peer_that_has_a_head_is_tried_the_master_last_and_then_all_anew() {
    let (mut node, given) = needs_head(memory(ballot(1, 2), &[value("a")], Vec::new()));
    let given = gone_everywhere(&mut node, given);
    let mut tried: Vec<u16> = giver(&given).iter().map(|peer| peer.0).collect();
    while let Some(next) = giver(&node.step(Event::HeadFailed)) {
        tried.push(next.0);
    }
    assert_eq!(tried, [3, 4, 2]);
    assert!(!node.engine.status().catching_up);
    let given = heartbeat_of_one_far_ahead(&mut node);
    assert_eq!(giver(&gone_everywhere(&mut node, given)), Some(NodeId(3)));
}

#[test]
fn a_peer_that_went_away_is_not_tried() {
    let (mut node, given) = needs_head(memory(ballot(1, 2), &[value("a")], Vec::new()));
    let given = gone_everywhere(&mut node, given);
    assert_eq!(giver(&given), Some(NodeId(3)));
    node.step(Event::Disconnected(NodeId(4)));
    assert_eq!(giver(&node.step(Event::HeadFailed)), Some(NodeId(2)));
}

#[test]
fn after_a_head_comes_the_log_behind_it_and_what_was_accepted_above_it_is_still_there() {
    let undecided = (2..=6).map(|slot| accepted_entry(slot, ballot(1, 2), "x")).collect();
    let (mut node, given) = needs_head(memory(ballot(1, 2), &[value("a")], undecided));
    let given = gone_everywhere(&mut node, given);
    let from = giver(&given).unwrap();
    let given = node.step(Event::HeadInstalled { slot: Slot(4), hash: HistoryHash(4) });
    assert!(given.records.contains(&Record::Decided { upto: Slot(4), hash: HistoryHash(4) }));
    assert_eq!(given.sent, [(from, Message::Fetch { from: Slot(5) })]);
    let status = node.engine.status();
    assert_eq!((status.decided_upto, status.applied_upto, status.accepted_upto), (Slot(4), Slot(4), Slot(6)));
    assert_eq!(status.promised, ballot(1, 2));
}

#[test]
fn what_a_head_made_void_is_handed_to_nobody() {
    let undecided = (2..=6).map(|slot| accepted_entry(slot, ballot(1, 2), "x")).collect();
    let (mut node, given) = needs_head(memory(ballot(1, 2), &[value("a")], undecided));
    gone_everywhere(&mut node, given);
    node.step(Event::HeadInstalled { slot: Slot(4), hash: HistoryHash(4) });
    node.persist();
    let given = node.receive(4, Message::Fetch { from: Slot(3) });
    assert_eq!(given.sent, [(NodeId(4), Message::Gone { log_start: Slot(5) })]);
    assert!(given.others.is_empty());
}

#[test]
fn a_head_that_comes_when_the_node_is_further_changes_nothing() {
    let (mut node, given) = needs_head(memory(ballot(1, 2), &[value("a")], Vec::new()));
    gone_everywhere(&mut node, given);
    let given = node.step(Event::HeadInstalled { slot: Slot(1), hash: HistoryHash(9) });
    assert!(given.records.is_empty());
    assert_eq!(node.engine.decided_upto(), Slot(1));
}
