//! One node of the core world: what outlives its process, and the process.

use std::collections::{BTreeMap, VecDeque};

use trialbay::tlog::{LogReader, Tlog, Upkeep};
use trialbay_engine::{
    Engine, HistoryHash, Instant, NodeId, PersistId, ReadId, Record, RequestId, Slot, Status, Value,
};

use super::Happening;
use super::store::Store;
use crate::check::bounds::Logged;
use crate::check::kept::Kept;
use crate::check::scrub::Scrub;
use crate::clock::Clock;
use crate::rng::Rng;
use crate::scenario::draw::stream;
use crate::sim_disk::SimDisk;

/// A machine: disk, clock, and the process that runs on it or not.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Counts starts and ends of processes: what an earlier one caused happens no more.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    /// The process stands still; what happens to it meanwhile is held back.
    pub(crate) paused: bool,
    pub(crate) held: Vec<Happening>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    /// When its log is kept small, and how much of that is done at a time.
    pub(crate) upkeep_rng: Rng,
    pub(crate) disk: SimDisk,
    /// The independent reader of its log.
    pub(crate) scrub: Scrub,
    /// What was durable in its log: nothing of it may be gone at the next start.
    pub(crate) kept: Kept,
    /// What went into its log.
    pub(crate) logged: Logged,
    /// Something was done to its disk since it started last: it may give up its vote.
    pub(crate) disk_was_harmed: bool,
    /// It was made to fail, or is full: the log need not open.
    pub(crate) disk_is_troubled: bool,
    pub(crate) disk_is_full: bool,
    pub(crate) slow_until: u64,
    /// The store's last durable commit.
    pub(crate) durable_store: Store,
    /// A planted bug: log entries up to here are not there at the next start, whatever the store has.
    pub(crate) lost_upto: Slot,
    /// Log entries up to here count as removed.
    pub(crate) trimmed_upto: Slot,
    /// Its log may have nothing up to here, for it was damaged or cut.
    pub(crate) gone_upto: Slot,
    /// It never starts again.
    pub(crate) dead: bool,
}

/// Everything that is gone when the process is.
pub(crate) struct Process {
    pub(crate) engine: Engine,
    pub(crate) tlog: Tlog,
    pub(crate) log: LogReader,
    pub(crate) upkeep: Upkeep,
    pub(crate) store: Store,
    /// Batches of records that were not yet written.
    pub(crate) unwritten: VecDeque<(PersistId, Vec<Record>)>,
    /// The last batch that the sync in progress covers.
    pub(crate) syncing: Option<PersistId>,
    pub(crate) ordered: PersistId,
    pub(crate) persisted: PersistId,
    /// A commit of the store that waits until the log has what it rests on.
    pub(crate) checkpoint: Option<(Store, PersistId)>,
    pub(crate) apply_queue: VecDeque<Decided>,
    pub(crate) applying: bool,
    pub(crate) ordered_upto: Slot,
    /// What readers of the store look at.
    pub(crate) serves_until: Option<Instant>,
    /// Counts the times at which it began to serve: a read must begin and end within one.
    pub(crate) serving_since: u64,
    pub(crate) updates: BTreeMap<RequestId, usize>,
    pub(crate) reads: BTreeMap<ReadId, usize>,
    pub(crate) waiting_reads: Vec<(Slot, usize)>,
    pub(crate) next_id: u64,
    pub(crate) links: BTreeMap<NodeId, u64>,
    pub(crate) wake_at: Option<u64>,
    pub(crate) was_master: bool,
    /// It dies after so many further orders of its engine, and starts again after so long.
    pub(crate) dies_after: Option<(u64, u64)>,
}

/// A decided value on its way into the store.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) slot: Slot,
    pub(crate) hash: HistoryHash,
    pub(crate) value: Value,
    pub(crate) requests: Vec<RequestId>,
}

impl Node {
    pub(crate) fn new(id: NodeId, seed: u64) -> Self {
        let stream = |kind: u64| Rng::new(seed, stream::NODE + u64::from(id.0) * 10 + kind);
        Self {
            id,
            life: 0,
            process: None,
            paused: false,
            held: Vec::new(),
            clock: Clock::new(stream(1)),
            rng: stream(2),
            upkeep_rng: stream(4),
            disk: SimDisk::new(stream(3)),
            scrub: new_scrub(id),
            kept: Kept::default(),
            logged: Logged::default(),
            disk_was_harmed: false,
            disk_is_troubled: false,
            disk_is_full: false,
            slow_until: 0,
            durable_store: Store::default(),
            lost_upto: Slot::ZERO,
            trimmed_upto: Slot::ZERO,
            gone_upto: Slot::ZERO,
            dead: false,
        }
    }

    pub(crate) fn set_disk_full(&mut self, is_full: bool) {
        self.disk.set_full(is_full);
        self.disk_is_full = is_full;
        self.disk_is_troubled |= is_full;
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn status(&self) -> Option<Status> {
        self.process.as_ref().map(|process| process.engine.status())
    }

    /// Whether readers would be served now, by this node's own clock.
    pub(crate) fn is_serving(&self, now: u64) -> bool {
        let until = self.process.as_ref().and_then(|process| process.serves_until);
        until.is_some_and(|until| self.clock.local(now) < until)
    }

    /// The process is gone, with everything in its memory.
    pub(crate) fn end_process(&mut self) {
        self.life += 1;
        self.process = None;
        self.paused = false;
        self.held.clear();
    }
}

/// A reader of this node's log that has read nothing yet.
pub(crate) fn new_scrub(id: NodeId) -> Scrub {
    Scrub::new(&super::disk::home(id), super::disk::identity(id))
}

impl Process {
    pub(crate) fn new(engine: Engine, tlog: Tlog, store: Store) -> Self {
        let (log, upkeep) = (tlog.reader(), tlog.upkeep());
        Self {
            engine,
            tlog,
            log,
            upkeep,
            ordered_upto: store.applied,
            store,
            unwritten: VecDeque::new(),
            syncing: None,
            ordered: PersistId::default(),
            persisted: PersistId::default(),
            checkpoint: None,
            apply_queue: VecDeque::new(),
            applying: false,
            serves_until: None,
            serving_since: 0,
            updates: BTreeMap::new(),
            reads: BTreeMap::new(),
            waiting_reads: Vec::new(),
            next_id: 0,
            links: BTreeMap::new(),
            wake_at: None,
            was_master: false,
            dies_after: None,
        }
    }

    /// Whether all that was ordered is durable, and the engine knows.
    pub(crate) fn is_disk_idle(&self) -> bool {
        self.syncing.is_none() && self.unwritten.is_empty()
    }

    /// The next number for a request or a read.
    pub(crate) fn number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
