//! What nodes hold, send and write is bounded by their limits (K10).
//!
//! `I` is `in_flight_bytes_max`, `V` the largest value (a batch, or one command that is larger), `M` the largest message
//! (`message_bytes_max`, or one value that is larger), `W` is `in_flight_slots_max`:
//!
//! | what | at most |
//! |---|---|
//! | updates that wait, their bytes, reads that wait | the limits of their names, or one update |
//! | undecided slots | `W`, and one for each mastership of the run: what is inherited is proposed again, and a first value. A start may find what one message brought without its decision, which was written behind it |
//! | slots that are decided and not applied | 16 `W`, what one message brings, and all that was undecided |
//! | bytes not applied; bytes not durable | 3 `I` + `M` + `V`: two windows, a message, and what a master inherits |
//! | slots and bytes of the log in memory | the cache's, or only what is undecided or not durable yet |
//! | decided slots that are kept until they are durable | none while the disk has nothing to do |
//! | bytes of values in an `Accept` or a `Fetched` | `message_bytes_max`, or one value |
//! | fetches in vain, one after the other | each peer once for each message that says that there is more |
//! | bytes of a log on its disk, but for an archive that is being made | its frames, a seal for each sync, headers, and one reserve |
//! | messages of an idle cluster | 40 a lease for each way from node to node |
//! | messages of a healthy cluster under load | the same, and four for each slot or request and slave |

use std::collections::BTreeMap;

use trialbay_engine::status::Held;
use trialbay_engine::{Limits, Message, NodeId, Slot, Value};

use super::{Checked, violation};

/// Messages of an idle cluster, for each lease and way.
const IDLE_MESSAGES: u64 = 40;
/// Messages for each slot or request, and slave.
const MESSAGES_PER_REQUEST: u64 = 4;
/// A seal, or the frame around a record.
const FRAME_BYTES: u64 = 14;
/// A segment's header, and what an archive of a few MiB has around it.
const HEADER_BYTES: u64 = 512 + 64;

/// The bounds of one cluster.
#[derive(Clone, Debug)]
pub struct Bounds {
    limits: Limits,
    nodes: u64,
    /// The largest command that a client sent.
    command_max: usize,
    /// The most slots that a message had.
    message_slots_max: u64,
    masterships: u64,
    catching_up: BTreeMap<NodeId, Fetching>,
    /// What the present process of each node found undecided in its log.
    recovered: BTreeMap<NodeId, u64>,
}

/// How a node asks for what it misses.
#[derive(Clone, Copy, Debug, Default)]
struct Fetching {
    decided: Slot,
    /// Since then: how often it asked, and how often it was told that there is more.
    asked: u64,
    told: u64,
}

/// What went into a log and onto its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// Bytes of the frames of all records that were ordered.
    pub frames: u64,
    /// Groups that were synced, and starts: each may have left a seal.
    pub seals: u64,
    /// How often it was damaged: the log went on in another segment, and the old one may have kept its reserve.
    pub damages: u64,
}

impl Bounds {
    /// Of a cluster of `nodes` with these limits.
    pub fn new(nodes: u16, limits: Limits) -> Self {
        Self {
            limits,
            nodes: u64::from(nodes),
            command_max: 0,
            message_slots_max: 0,
            masterships: 0,
            catching_up: BTreeMap::new(),
            recovered: BTreeMap::new(),
        }
    }

    /// A client sends a command of so many bytes.
    pub fn commanded(&mut self, bytes: usize) {
        self.command_max = self.command_max.max(bytes);
    }

    /// A node became master.
    pub fn became_master(&mut self) {
        self.masterships += 1;
    }

    /// A process of `node` begins, and found so many undecided slots in its log.
    ///
    /// # Errors
    /// K10: those are too many.
    pub fn started(&mut self, node: NodeId, undecided: u64) -> Checked {
        self.catching_up.remove(&node);
        self.recovered.insert(node, undecided);
        at_most(node, "undecided slots in its log", undecided, self.undecided_max() + self.message_slots_max)
    }

    /// `node` has decided up to here by now.
    pub fn decided(&mut self, node: NodeId, upto: Slot) {
        let fetching = self.catching_up.entry(node).or_default();
        if upto > fetching.decided {
            *fetching = Fetching { decided: upto, ..Fetching::default() };
        }
    }

    /// `node` holds this. `is_disk_idle`: all that it ordered is durable, and it knows.
    ///
    /// # Errors
    /// K10: that is more than its limits allow.
    pub fn holds(&self, node: NodeId, held: &Held, is_disk_idle: bool) -> Checked {
        let limits = &self.limits;
        let bytes = self.bytes_max();
        let recovered = self.recovered.get(&node).copied().unwrap_or(0);
        let undecided = self.undecided_max().max(recovered);
        let unapplied = limits.in_flight_slots_max.saturating_mul(16) + self.message_slots_max + undecided;
        let needed = held.undecided_slots + held.undurable_slots;
        let (cache_slots, cache_bytes) = if held.log_slots > needed {
            (limits.cache_slots_max, limits.cache_bytes_max)
        } else {
            (u64::MAX, usize::MAX)
        };
        let bounds = [
            ("updates that wait", held.queued_requests as u64, limits.queued_requests_max as u64),
            ("bytes that wait", held.queued_bytes as u64, limits.queued_bytes_max.max(self.command_max) as u64),
            ("reads that wait", held.queued_reads as u64, limits.queued_reads_max as u64),
            ("undecided slots", held.undecided_slots, undecided),
            ("slots not applied", held.unapplied_slots, unapplied),
            ("bytes not applied", held.unapplied_bytes as u64, bytes),
            ("bytes not durable", held.unpersisted_bytes as u64, bytes),
            ("slots in memory", held.log_slots, cache_slots),
            ("bytes of slots in memory", held.log_bytes as u64, cache_bytes as u64),
            ("slots kept for an idle disk", held.undurable_slots, if is_disk_idle { 0 } else { u64::MAX }),
        ];
        bounds.into_iter().try_for_each(|(what, found, most)| at_most(node, what, found, most))
    }

    /// `from` sends a message.
    ///
    /// # Errors
    /// K10: it is too large, or asks in vain once too often.
    pub fn sent(&mut self, from: NodeId, message: &Message) -> Checked {
        match message {
            Message::Accept { values, .. } => self.carries(from, values.0.iter()),
            Message::Fetched { entries, .. } => self.carries(from, entries.0.iter().map(|entry| &entry.value)),
            Message::Fetch { .. } => {
                let fetching = self.catching_up.entry(from).or_default();
                fetching.asked += 1;
                let most = (self.nodes - 1) * (fetching.told + 1);
                at_most(from, "fetches in vain", fetching.asked, most)
            }
            _ => Ok(()),
        }
    }

    /// `to` gets a message.
    pub fn delivered(&mut self, to: NodeId, message: &Message) {
        if matches!(message, Message::Heartbeat { .. } | Message::Nak { .. } | Message::Canvassed { .. }) {
            self.catching_up.entry(to).or_default().told += 1;
        }
    }

    /// A log with this in it has so many bytes on the disk, in so many files, and reserves so many at a time.
    ///
    /// # Errors
    /// K10: that is more than it needs.
    pub fn fills(&self, node: NodeId, logged: &Logged, bytes: u64, files: u64, reserve: u64) -> Checked {
        let most = logged.frames + FRAME_BYTES * logged.seals + HEADER_BYTES * files + reserve * (1 + logged.damages);
        at_most(node, "bytes of its log on disk", bytes, most)
    }

    /// So many messages were sent in so many leases in which nobody asked for anything.
    ///
    /// # Errors
    /// K10: those are too many.
    pub fn idles(&self, messages: u64, leases: u64) -> Checked {
        at_most("an idle cluster", "messages", messages, self.idle(leases))
    }

    /// So many messages were sent in so many leases for these slots and requests.
    ///
    /// # Errors
    /// K10: those are too many.
    pub fn works(&self, messages: u64, leases: u64, slots: u64, requests: u64) -> Checked {
        let most = self.idle(leases) + MESSAGES_PER_REQUEST * (slots + requests) * (self.nodes - 1);
        at_most("a healthy cluster", &format!("messages for {slots} slots and {requests} requests"), messages, most)
    }

    fn idle(&self, leases: u64) -> u64 {
        IDLE_MESSAGES * leases * self.nodes * (self.nodes - 1)
    }

    fn carries<'a>(&mut self, from: NodeId, values: impl Iterator<Item = &'a Value>) -> Checked {
        let (count, bytes) = values.fold((0, 0), |(count, bytes), value| (count + 1, bytes + value.size()));
        self.message_slots_max = self.message_slots_max.max(count);
        if count < 2 {
            return Ok(());
        }
        at_most(from, "bytes in a message", bytes as u64, self.limits.message_bytes_max as u64)
    }

    fn undecided_max(&self) -> u64 {
        self.limits.in_flight_slots_max + self.masterships + 1
    }

    fn bytes_max(&self) -> u64 {
        let limits = &self.limits;
        // Each command has its length before it, and is never shorter than that.
        let value = limits.batch_bytes_max.max(self.command_max).saturating_mul(2);
        let message = limits.message_bytes_max.max(value);
        limits.in_flight_bytes_max.saturating_mul(3).saturating_add(message).saturating_add(value) as u64
    }
}

/// The bytes of a record in its log.
pub fn frame_bytes(record: &trialbay_engine::Record) -> u64 {
    use trialbay_engine::Record;
    let payload = match record {
        Record::Promised(_) => 10,
        Record::Accepted(accepted) => 19 + accepted.entry.value.body().len() as u64,
        Record::Decided { .. } => 16,
        Record::MemoryBegan(_) => 8,
        Record::VoteRegained { genesis, .. } => 8 + 10 * genesis.len() as u64,
    };
    FRAME_BYTES + payload
}

fn at_most(who: impl std::fmt::Display, what: &str, found: u64, most: u64) -> Checked {
    if found <= most { Ok(()) } else { violation("K10", format!("{who}: {found} {what}, and {most} at most may be")) }
}

#[cfg(test)]
mod tests {
    use trialbay_engine::{Ballot, Entry, HistoryHash, Instant};

    use super::*;

    const N2: NodeId = NodeId(2);

    fn bounds() -> Bounds {
        let limits = Limits {
            in_flight_slots_max: 4,
            in_flight_bytes_max: 1_000,
            batch_bytes_max: 100,
            queued_requests_max: 10,
            queued_bytes_max: 500,
            message_bytes_max: 300,
            cache_bytes_max: 2_000,
            cache_slots_max: 20,
            queued_reads_max: 7,
            ..Limits::default()
        };
        let mut bounds = Bounds::new(3, limits);
        bounds.became_master();
        bounds
    }

    /// As much as these bounds allow.
    fn full() -> Held {
        Held {
            log_slots: 20,
            log_bytes: 2_000,
            undecided_slots: 6,
            undurable_slots: 5,
            unapplied_slots: 70,
            unapplied_bytes: 3_500,
            unpersisted_bytes: 3_500,
            queued_requests: 10,
            queued_bytes: 500,
            queued_reads: 7,
        }
    }

    fn said(change: impl FnOnce(&mut Held)) -> Option<&'static str> {
        let mut held = full();
        change(&mut held);
        bounds().holds(N2, &held, false).err().map(|broken| broken.checker)
    }

    #[test]
    fn a_node_holds_what_its_limits_allow_and_not_one_more() {
        assert_eq!(said(|_| ()), None);
        let more: [fn(&mut Held); 9] = [
            |held| held.log_slots += 1,
            |held| held.log_bytes += 1,
            |held| held.undecided_slots += 1,
            |held| held.unapplied_slots += 1,
            |held| held.unapplied_bytes += 1,
            |held| held.unpersisted_bytes += 1,
            |held| held.queued_requests += 1,
            |held| held.queued_bytes += 1,
            |held| held.queued_reads += 1,
        ];
        assert!(more.into_iter().all(|more| said(more) == Some("K10")));
    }

    #[test]
    fn what_is_not_durable_stays_in_memory_for_as_long_as_the_disk_has_something_to_do() {
        let large = Held { log_slots: 106, log_bytes: 9_000, undurable_slots: 100, ..full() };
        assert_eq!(bounds().holds(N2, &large, false), Ok(()));
        assert_eq!(bounds().holds(N2, &large, true).unwrap_err().checker, "K10");
        assert_eq!(bounds().holds(N2, &Held { undurable_slots: 0, ..full() }, true), Ok(()));
    }

    #[test]
    fn a_log_may_end_within_what_a_message_brought() {
        let mut bounds = bounds();
        assert_eq!(bounds.started(N2, 7).unwrap_err().checker, "K10");
        let entry =
            Entry { ballot: Ballot { round: 1, node: NodeId(1) }, value: Value::Configuration(vec![0; 8].into()) };
        let fetched = Message::Fetched { first: Slot(1), entries: vec![entry; 3].into(), decided_upto: Slot(3) };
        assert_eq!(bounds.sent(NodeId(1), &fetched), Ok(()));
        assert_eq!(bounds.started(N2, 9), Ok(()));
        assert_eq!(bounds.holds(N2, &Held { undecided_slots: 9, ..full() }, false), Ok(()));
        assert_eq!(bounds.started(N2, 10).unwrap_err().checker, "K10");
    }

    #[test]
    fn a_message_is_as_large_as_allowed_or_has_one_value() {
        let accept = |sizes: &[usize]| {
            let values: Vec<Value> = sizes.iter().map(|size| Value::Configuration(vec![0; *size].into())).collect();
            let ballot = Ballot { round: 1, node: N2 };
            let (first, decided_hash) = (Slot(1), HistoryHash::default());
            Message::Accept { ballot, first, values: values.into(), decided_upto: Slot(0), decided_hash }
        };
        assert_eq!(bounds().sent(N2, &accept(&[150, 150])), Ok(()));
        assert_eq!(bounds().sent(N2, &accept(&[900])), Ok(()));
        assert_eq!(bounds().sent(N2, &accept(&[150, 151])).unwrap_err().checker, "K10");
    }

    #[test]
    fn nobody_asks_in_vain_for_ever() {
        let (mut bounds, fetch) = (bounds(), Message::Fetch { from: Slot(1) });
        let heartbeat = Message::Heartbeat {
            ballot: Ballot { round: 1, node: NodeId(1) },
            asked_at: Instant(0),
            sent_upto: Slot(9),
            stream_start: Slot(9),
            decided_upto: Slot(9),
            decided_hash: HistoryHash::default(),
        };
        let rounds = |bounds: &mut Bounds| (0..9).take_while(|_| bounds.sent(N2, &fetch).is_ok()).count();
        assert_eq!(rounds(&mut bounds), 2);
        assert_eq!(bounds.started(N2, 0), Ok(()));
        bounds.delivered(N2, &heartbeat);
        assert_eq!(rounds(&mut bounds), 4);
        bounds.decided(N2, Slot(7));
        assert_eq!(rounds(&mut bounds), 2, "it came forward");
    }

    #[test]
    fn a_log_fills_what_it_needs() {
        let logged = Logged { frames: 1_000, seals: 10, damages: 0 };
        let most = 1_000 + 140 + 2 * 576 + 4_096;
        assert_eq!(bounds().fills(N2, &logged, most, 2, 4_096), Ok(()));
        assert!(bounds().fills(N2, &logged, most + 1, 2, 4_096).is_err());
        assert_eq!(bounds().fills(N2, &Logged { damages: 1, ..logged }, most + 4_096, 2, 4_096), Ok(()));
    }

    #[test]
    fn messages_have_a_reason() {
        assert_eq!(bounds().idles(240, 1), Ok(()));
        assert!(bounds().idles(241, 1).is_err());
        assert_eq!(bounds().works(240 + 5 * 8, 1, 2, 3), Ok(()));
        assert!(bounds().works(240 + 5 * 8 + 1, 1, 2, 3).is_err());
    }
}
