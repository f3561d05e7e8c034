//! What waits to be written to one peer.
//!
//! Two lanes. *Control* overtakes *ordered*, so that what a lease or a campaign waits for never queues behind values: it
//! waits for the one write in progress and no more. A message is in the ordered lane if it holds values, or if the
//! receiver would be misled by hearing it before what was sent earlier:
//! * `Heartbeat` says how far the `Accept`s before it went; overtaking them, it would make the slave report a gap;
//! * `Resign` ends a lease; overtaking a `Heartbeat`, it would be followed by a request for the lease that it ended;
//! * `Gone` ends a catch-up from the log; overtaking the last `Fetched`, it would cause a head transfer too early.
//!
//! All the rest may be reordered with values without harm: answers name what they answer, and a `Prepare` that overtakes
//! an `Accept` of a lower ballot makes it a refused one, as a lost one would be. Each lane keeps its own order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use trialbay_engine::Message;

/// What a message weighs in a queue beside its values.
const MESSAGE_WEIGHT: usize = 64;
/// What each value or entry weighs beside its bytes.
const ELEMENT_WEIGHT: usize = 48;

/// About how much memory a message holds.
pub(super) fn weight(message: &Message) -> usize {
    let elements: usize = match message {
        Message::Accept { values, .. } => values.0.iter().map(|value| ELEMENT_WEIGHT + value.size()).sum(),
        Message::Promise { accepted, .. } => {
            accepted.0.iter().map(|slot_entry| ELEMENT_WEIGHT + slot_entry.entry.value.size()).sum()
        }
        Message::Fetched { entries, .. } => entries.0.iter().map(|entry| ELEMENT_WEIGHT + entry.value.size()).sum(),
        Message::Recalled { genesis, .. } => ELEMENT_WEIGHT * genesis.0.len(),
        _ => 0,
    };
    MESSAGE_WEIGHT + elements
}

fn is_ordered(message: &Message) -> bool {
    match message {
        Message::Accept { .. }
        | Message::Heartbeat { .. }
        | Message::Resign { .. }
        | Message::Fetched { .. }
        | Message::Gone { .. } => true,
        Message::Promise { accepted, .. } => !accepted.0.is_empty(),
        Message::Canvass { .. }
        | Message::Canvassed { .. }
        | Message::Prepare { .. }
        | Message::Accepted { .. }
        | Message::Granted { .. }
        | Message::Gap { .. }
        | Message::Nak { .. }
        | Message::Fetch { .. }
        | Message::Recall { .. }
        | Message::Recalled { .. }
        | Message::Claim { .. } => false,
    }
}

/// The messages that wait for one peer's connection. Closed while there is none.
#[derive(Debug)]
pub(super) struct Outbox {
    lanes: Mutex<Lanes>,
    filled: Notify,
    bytes_max: usize,
    messages_max: usize,
}

#[derive(Debug, Default)]
struct Lanes {
    open: bool,
    control: Lane,
    ordered: Lane,
}

#[derive(Debug, Default)]
struct Lane {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Outbox {
    /// Closed. Each lane takes messages until it holds `bytes_max` or more, or `messages_max`.
    pub(super) fn new(bytes_max: usize, messages_max: usize) -> Self {
        Self { lanes: Mutex::default(), filled: Notify::new(), bytes_max, messages_max }
    }

    /// Queues a message; false when it was dropped, because there is no connection or no room.
    pub(super) fn offer(&self, message: Message) -> bool {
        let mut lanes = self.lock();
        if !lanes.open {
            return false;
        }
        let lane = if is_ordered(&message) { &mut lanes.ordered } else { &mut lanes.control };
        if lane.bytes >= self.bytes_max || lane.messages.len() >= self.messages_max {
            return false;
        }
        lane.bytes += weight(&message);
        lane.messages.push_back(message);
        drop(lanes);
        self.filled.notify_one();
        true
    }

    /// Moves waiting messages to the end of `batch`, control first, until they weigh `bytes_max` (the last one may
    /// exceed it). False when none was waiting.
    pub(super) fn take(&self, batch: &mut Vec<Message>, bytes_max: usize) -> bool {
        let mut lanes = self.lock();
        let len_before = batch.len();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some((message, weight)) = lanes.pop() else { break };
            bytes += weight;
            batch.push(message);
        }
        batch.len() > len_before
    }

    /// Returns when something may be waiting. For one waiter.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes messages from now on.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// Takes no more messages and forgets those that wait; gives their number.
    pub(super) fn close(&self) -> u64 {
        let lanes = std::mem::take(&mut *self.lock());
        (lanes.control.messages.len() + lanes.ordered.messages.len()) as u64
    }

    /// Whether messages are taken.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that holds the lock leaves the lanes half changed.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn pop(&mut self) -> Option<(Message, usize)> {
        let lane = if self.control.messages.is_empty() { &mut self.ordered } else { &mut self.control };
        let message = lane.messages.pop_front()?;
        let weight = weight(&message);
        lane.bytes -= weight;
        Some((message, weight))
    }
}

#[cfg(test)]
mod tests {
    use trialbay_engine::{Ballot, HistoryHash, Incarnation, Instant, NodeId, Slot, Value};

    use super::*;

    const BALLOT: Ballot = Ballot { round: 1, node: NodeId(1) };

    fn accept(slot: u64, len: usize) -> Message {
        Message::Accept {
            ballot: BALLOT,
            first: Slot(slot),
            values: vec![Value::Commands(vec![0; len].into())].into(),
            decided_upto: Slot::ZERO,
            decided_hash: HistoryHash(0),
        }
    }

    fn heartbeat(sent_upto: u64) -> Message {
        Message::Heartbeat {
            ballot: BALLOT,
            asked_at: Instant(1),
            sent_upto: Slot(sent_upto),
            stream_start: Slot(1),
            decided_upto: Slot::ZERO,
            decided_hash: HistoryHash(0),
        }
    }

    fn accepted(upto: u64) -> Message {
        Message::Accepted { ballot: BALLOT, incarnation: Incarnation(1), votes: true, upto: Slot(upto) }
    }

    fn open(bytes_max: usize, messages_max: usize) -> Outbox {
        let outbox = Outbox::new(bytes_max, messages_max);
        outbox.open();
        outbox
    }

    fn take_all(outbox: &Outbox) -> Vec<Message> {
        let mut batch = Vec::new();
        outbox.take(&mut batch, usize::MAX);
        batch
    }

    #[test]
    fn control_overtakes_values_and_each_lane_keeps_its_order() {
        let outbox = open(1 << 20, 100);
        let resign =
            Message::Resign { ballot: BALLOT, successor: None, decided_upto: Slot(5), decided_hash: HistoryHash(9) };
        for message in [accept(1, 9), accepted(1), heartbeat(1), accepted(2), accept(2, 9), resign.clone()] {
            assert!(outbox.offer(message));
        }
        assert_eq!(take_all(&outbox), [accepted(1), accepted(2), accept(1, 9), heartbeat(1), accept(2, 9), resign],);
    }

    #[test]
    fn a_promise_overtakes_only_when_it_holds_no_values() {
        let promise = |accepted: Vec<_>| Message::Promise {
            ballot: BALLOT,
            incarnation: Incarnation(1),
            accepted: accepted.into(),
        };
        let entry = trialbay_engine::Entry { ballot: BALLOT, value: Value::Noop };
        assert!(!is_ordered(&promise(vec![])));
        assert!(is_ordered(&promise(vec![trialbay_engine::SlotEntry { slot: Slot(1), entry }])));
    }

    #[test]
    fn a_full_lane_drops_and_has_room_again_once_drained() {
        let outbox = open(1000, 100);
        assert!(outbox.offer(accept(1, 800)));
        assert!(outbox.offer(accept(2, 5000)), "one message may exceed the bound");
        assert!(!outbox.offer(accept(3, 0)));
        assert!(outbox.offer(accepted(1)), "the other lane has its own bound");
        assert_eq!(take_all(&outbox).len(), 3);
        assert!(outbox.offer(accept(3, 0)));

        let outbox = open(1 << 20, 2);
        assert!(outbox.offer(accepted(1)) && outbox.offer(accepted(2)));
        assert!(!outbox.offer(accepted(3)));
    }

    #[test]
    fn a_batch_ends_at_its_bound_and_the_rest_waits() {
        let outbox = open(1 << 20, 100);
        for slot in 1..=4 {
            assert!(outbox.offer(accept(slot, 600)));
        }
        let mut batch = Vec::new();
        assert!(outbox.take(&mut batch, 1000));
        assert_eq!(batch.len(), 2);
        assert_eq!(take_all(&outbox), [accept(3, 600), accept(4, 600)]);
        assert!(!outbox.take(&mut batch, 1000));
    }

    #[test]
    fn without_a_connection_everything_is_dropped_and_forgotten() {
        let outbox = Outbox::new(1000, 100);
        assert!(!outbox.offer(accepted(1)));
        outbox.open();
        assert!(outbox.offer(accepted(2)) && outbox.offer(accept(1, 5000)));
        assert_eq!(outbox.close(), 2);
        assert!(!outbox.is_open());
        outbox.open();
        assert_eq!(take_all(&outbox), []);
        assert!(outbox.offer(accept(2, 0)), "what was forgotten takes no room");
    }
}
