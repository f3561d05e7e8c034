//! One node of the world: an engine, and what its driver holds.

use std::collections::{BTreeMap, VecDeque};

use trialbay_engine::{Engine, HistoryHash, Instant, NodeId, ReadId, RequestId, Slot, Status, Value};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::model::Store;
use crate::rng::Rng;
use crate::world::Happening;

/// A decided value on its way into the store.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) slot: Slot,
    pub(crate) hash: HistoryHash,
    pub(crate) value: Value,
    pub(crate) requests: Vec<RequestId>,
}

/// A node. Disk, clock and checkpoint outlive its engine.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Counts starts and crashes: what an earlier life caused happens no more.
    pub(crate) life: u64,
    pub(crate) engine: Option<Engine>,
    pub(crate) paused: bool,
    pub(crate) held: Vec<Happening>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) disk: Disk,
    pub(crate) slow_until: u64,
    pub(crate) store: Store,
    /// The store's last durable commit.
    pub(crate) durable_store: Store,
    /// A commit that waits until the log is durable up to here.
    pub(crate) checkpoint: Option<(Store, usize)>,
    pub(crate) apply_queue: VecDeque<Decided>,
    pub(crate) applying: bool,
    pub(crate) ordered_upto: Slot,
    /// What readers of the store look at.
    pub(crate) serves_until: Option<Instant>,
    /// Counts the times at which it began to serve: a read must begin and end within one.
    pub(crate) serving_since: u64,
    pub(crate) updates: BTreeMap<RequestId, u64>,
    pub(crate) reads: BTreeMap<ReadId, u64>,
    pub(crate) waiting_reads: Vec<(Slot, u64)>,
    pub(crate) next_id: u64,
    pub(crate) links: BTreeMap<NodeId, u64>,
    pub(crate) wake_at: Option<u64>,
    pub(crate) was_master: bool,
    /// The process is killed after so many further actions.
    pub(crate) kill_after: Option<u64>,
    /// It never starts again.
    pub(crate) dead: bool,
}

impl Node {
    pub(crate) fn new(id: NodeId, seed: u64) -> Self {
        let stream = |kind: u64| Rng::new(seed, 100 + u64::from(id.0) * 10 + kind);
        Self {
            id,
            life: 0,
            engine: None,
            paused: false,
            held: Vec::new(),
            clock: Clock::new(stream(1)),
            rng: stream(2),
            disk: Disk::new(stream(3)),
            slow_until: 0,
            store: Store::default(),
            durable_store: Store::default(),
            checkpoint: None,
            apply_queue: VecDeque::new(),
            applying: false,
            ordered_upto: Slot::ZERO,
            serves_until: None,
            serving_since: 0,
            updates: BTreeMap::new(),
            reads: BTreeMap::new(),
            waiting_reads: Vec::new(),
            next_id: 0,
            links: BTreeMap::new(),
            wake_at: None,
            was_master: false,
            kill_after: None,
            dead: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    pub(crate) fn status(&self) -> Option<Status> {
        self.engine.as_ref().map(Engine::status)
    }

    /// Whether readers would be served now, by this node's own clock.
    pub(crate) fn is_serving(&self, now: u64) -> bool {
        self.is_up() && self.serves_until.is_some_and(|until| self.clock.local(now) < until)
    }

    /// The process is gone, with everything in its memory.
    pub(crate) fn stop(&mut self) {
        self.life += 1;
        self.engine = None;
        self.paused = false;
        self.held.clear();
        self.checkpoint = None;
        self.apply_queue.clear();
        self.applying = false;
        self.serves_until = None;
        self.updates.clear();
        self.reads.clear();
        self.waiting_reads.clear();
        self.links.clear();
        self.wake_at = None;
        self.was_master = false;
        self.kill_after = None;
    }
}
