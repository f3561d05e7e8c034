//! The core world: engines, their logs and the apply code, on a plain loop over what happens in simulated time.
//!
//! No sockets, no threads, no async runtime: a run is one queue of happenings, and takes milliseconds. What happens *to*
//! the cluster stands in the [`Scenario`]; what is noise (delays, losses, what a power cut takes) comes from the seed.
//!
//! Reading order: `node` (what a node is), `driver` (what it does with its engine's orders), `disk`, `network`,
//! `clients`, `steps` (faults), `watching` (situations that checkers wait for), `ending` (healing, and what is checked at
//! the end).

mod clients;
mod disk;
mod driver;
mod ending;
mod losses;
mod network;
mod node;
mod steps;
mod store;
mod upkeep;
mod watching;

use std::collections::{BTreeMap, BinaryHeap, VecDeque};

pub use driver::is_catching;
use trialbay_engine::{Message, NodeId, PersistId, Slot};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::clients::Client;
use self::network::Network;
use self::node::Node;
use self::steps::Pending;
use crate::check::availability::Availability;
use crate::check::bounds::Bounds;
use crate::check::history::Operation;
use crate::check::ledger::Ledger;
use crate::check::outage::Outage;
use crate::check::{Checked, Violation};
use crate::mutant::{Bugs, Mutant};
use crate::rng::Rng;
use crate::scenario::counters::is_counted;
use crate::scenario::draw::{self, stream};
use crate::scenario::{Op, Scenario};
use crate::trace::{NodeState, Recorder, What};

/// How long updates may go unacknowledged after a log was damaged, in leases: a master is found within as many after any
/// other fault.
const UPDATE_LEASES: u64 = 12;
/// How long a node whose log was damaged may work without its vote, in leases: it catches up first.
const VOTE_LEASES: u64 = 40;

/// Something that happens at a moment. What concerns a process names the life in which it was caused.
#[derive(Debug)]
pub(crate) enum Happening {
    Start { node: NodeId },
    Wake { node: NodeId, life: u64, at: u64 },
    Dial { a: NodeId, b: NodeId },
    Break { a: NodeId, b: NodeId },
    LinkUp { node: NodeId, life: u64, peer: NodeId, epoch: u64 },
    LinkDown { node: NodeId, life: u64, peer: NodeId, epoch: u64 },
    Deliver { id: u64, from: NodeId, to: NodeId, epoch: Option<u64>, message: Message },
    Synced { node: NodeId, life: u64 },
    SyncClaimed { node: NodeId, life: u64, id: PersistId },
    ApplySome { node: NodeId, life: u64 },
    ReadLog { node: NodeId, life: u64, peer: NodeId, from: Slot, upto: Slot, bytes_max: usize },
    FetchHead { node: NodeId, life: u64, from: NodeId },
    Checkpoint { node: NodeId, life: u64 },
    KeepLog { node: NodeId, life: u64 },
    Submit { node: NodeId, life: u64, op: usize },
    CheckLease { node: NodeId, life: u64, op: usize, read: clients::Reading },
    Resume { node: NodeId },
    DiskHasRoom { node: NodeId },
    ClientNext { client: usize },
    ClientTimeout { op: usize },
    Step(usize),
    Mend { pairs: Vec<(NodeId, NodeId)>, calm: bool },
    Heal,
    Settle,
    End,
}

struct Scheduled {
    at: u64,
    number: u64,
    happening: Happening,
}

/// What happened how often: the rare branches of a run.
pub type Counters = BTreeMap<&'static str, u64>;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first broken rule.
    pub violation: Option<Violation>,
    /// The event at which it broke, or the last one.
    pub event: u64,
    /// The simulated time then, in nanoseconds.
    pub at: u64,
    /// Whether there was nothing left to play but a quiet cluster.
    pub at_the_end: bool,
    /// Over everything that happened.
    pub trace_hash: u64,
    /// What happened how often.
    pub counters: Counters,
    /// The faults, in words, with their times.
    pub faults: Vec<(u64, String)>,
    /// Which steps of the scenario were done.
    pub steps_done: Vec<bool>,
    /// The requests that were made, each at the time at which it was.
    pub ops_made: Vec<Op>,
}

/// One run.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) bugs: Bugs,
    /// The one of those that is planted in this world.
    pub(crate) mutant: Option<Mutant>,
    pub(crate) now: u64,
    pub(crate) event: u64,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) bounds: Bounds,
    pub(crate) outage: Outage,
    pub(crate) availability: Availability,
    pub(crate) operations: Vec<Operation>,
    /// The events at which clients asked and were told, and their times.
    pub(crate) moments: Vec<(u64, u64)>,
    pub(crate) clients: Vec<Client>,
    pub(crate) pending: Pending,
    /// How long a node that was asked to stop stays down.
    pub(crate) stopped_for: BTreeMap<NodeId, u64>,
    pub(crate) healing_rng: Rng,
    /// Faults are over.
    pub(crate) calm: bool,
    pub(crate) ending: ending::Ending,
    trace_hash: u64,
    pub(crate) counters: Counters,
    faults: Vec<(u64, String)>,
    violation: Option<Violation>,
    ended: bool,
    /// When it is no longer played.
    stops_at: u64,
    pub(crate) watch: Recorder,
}

impl World {
    /// The world of `scenario`, with the noise of `seed` and what is planted in it.
    pub fn new(scenario: Scenario, seed: u64, bugs: Bugs) -> Self {
        let ids: Vec<NodeId> = (1..=scenario.cluster.nodes).map(NodeId).collect();
        let drift = u64::from(scenario.cluster.drift_ppm);
        let lease_min = scenario.cluster.lease.0 * 1_000_000 / (1_000_000 + drift);
        let lease = scenario.cluster.lease.0;
        let mut world = Self {
            bounds: Bounds::new(scenario.cluster.nodes, scenario.limits()),
            outage: Outage::default(),
            availability: Availability::new(UPDATE_LEASES * lease, VOTE_LEASES * lease),
            nodes: ids.iter().map(|id| Node::new(*id, seed)).collect(),
            network: Network::new(scenario.cluster.nodes, &scenario.network, seed),
            ledger: Ledger::new(scenario.cluster.nodes - scenario.cluster.learners, lease_min),
            operations: Vec::new(),
            moments: Vec::new(),
            clients: Vec::new(),
            pending: Pending::of(&scenario),
            stopped_for: BTreeMap::new(),
            healing_rng: Rng::new(seed, stream::HEALING),
            mutant: bugs.in_world(),
            bugs,
            now: 0,
            event: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            calm: false,
            ending: ending::Ending::new(ids.clone()),
            trace_hash: seed,
            counters: Counters::new(),
            faults: Vec::new(),
            violation: None,
            ended: false,
            stops_at: u64::MAX,
            watch: Recorder::default(),
            seed,
            scenario,
        };
        world.begin(&ids);
        world
    }

    /// Has everything that happens told to `recorder`.
    pub fn watch(&mut self, recorder: Recorder) {
        self.watch = recorder;
    }

    /// Plays no longer than to this time, and asks only what clients saw until then.
    pub fn stop_at(&mut self, at: u64) {
        self.stops_at = at;
    }

    /// Plays the run to its end, or to the first broken rule.
    pub fn run(mut self) -> Report {
        while !self.ended
            && let Some(Scheduled { at, happening, .. }) = self.queue.pop()
        {
            self.now = self.now.max(at);
            self.event += 1;
            let outcome = driver::caught(|| {
                if self.now > self.stops_at {
                    return self.stop();
                }
                self.happen(happening)?;
                self.do_due_steps()?;
                self.look_after_the_damaged()
            });
            let outcome = outcome.and_then(|outcome| outcome);
            if let Err(broken) = outcome {
                let (checker, story) = (broken.checker, broken.story.clone());
                self.violation = Some(broken);
                let (event, at) = self.broken_at().unwrap_or((self.event, self.now));
                self.watch.record(at, event, || What::Violation { checker: checker.into(), story });
                break;
            }
        }
        let (event, at) = self.broken_at().unwrap_or((self.event, self.now));
        Report {
            ops_made: self.clients.into_iter().flat_map(|client| client.made).collect(),
            steps_done: self.pending.done.clone(),
            violation: self.violation,
            event,
            at,
            at_the_end: self.ending.settling,
            trace_hash: self.trace_hash,
            counters: self.counters,
            faults: self.faults,
        }
    }

    /// When the broken rule broke, if it was found out later.
    fn broken_at(&self) -> Option<(u64, u64)> {
        let event = self.violation.as_ref()?.event?;
        let index = self.moments.binary_search_by_key(&event, |(event, _)| *event).ok()?;
        self.moments.get(index).copied()
    }

    pub(crate) fn schedule(&mut self, delay: u64, happening: Happening) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at: self.now.saturating_add(delay), number: self.scheduled, happening });
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id.0) - 1]
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub(crate) fn mark(&mut self, what: &'static str) {
        debug_assert!(is_counted(what), "`{what}` is missing in the names of what is counted");
        *self.counters.entry(what).or_default() += 1;
    }

    /// Notes a fault, for the story of a failure.
    pub(crate) fn fault(&mut self, nodes: Vec<NodeId>, lasts: Option<u64>, text: String) {
        let until = lasts.map(|lasts| self.now + lasts);
        self.faults.push((self.now, text.clone()));
        self.tell(|| What::Fault { text, nodes, until });
    }

    /// Makes part of what happens part of the trace.
    pub(crate) fn trace(&mut self, kind: u64, a: u64, b: u64) {
        let mut bytes = [0; 32];
        for (chunk, part) in bytes.chunks_exact_mut(8).zip([self.now, kind, a, b]) {
            chunk.copy_from_slice(&part.to_le_bytes());
        }
        self.trace_hash = xxh3_64_with_seed(&bytes, self.trace_hash);
    }

    pub(crate) fn tell(&mut self, what: impl FnOnce() -> What) {
        self.watch.record(self.now, self.event, what);
    }

    /// Tells those who watch how a node is after a step.
    pub(crate) fn tell_step(&mut self, id: NodeId, cause: String) {
        if !self.watch.is_on() {
            return;
        }
        let node = &self.nodes[usize::from(id.0) - 1];
        let durable = self.ledger.durable_upto(id);
        let mut state = match node.status() {
            Some(status) => NodeState::of(&status, node.clock.local(self.now), durable),
            None => NodeState::down(durable),
        };
        state.paused = node.paused;
        self.tell(|| What::Stepped { node: id, cause, state });
    }

    fn begin(&mut self, ids: &[NodeId]) {
        let lease = self.scenario.cluster.lease.0;
        for id in ids {
            let delay = if self.scenario.cluster.staggered { self.healing_rng.below(5 * lease) } else { 0 };
            let ppm = self.scenario.clocks.get(&id.to_string()).copied().unwrap_or(0);
            self.set_clock(*id, ppm);
            if self.mutant == Some(Mutant::SyncLies) {
                self.node(*id).disk.set_syncs_lie(true);
            }
            self.schedule(delay, Happening::Start { node: *id });
            for other in ids.iter().filter(|other| *other > id) {
                self.schedule(0, Happening::Dial { a: *id, b: *other });
            }
        }
        let mut queues: BTreeMap<u16, VecDeque<Op>> = BTreeMap::new();
        for op in draw::operations(&self.scenario, self.seed) {
            queues.entry(op.client).or_default().push_back(op);
        }
        for queue in queues.into_values() {
            self.add_client(queue);
        }
        for (index, step) in self.scenario.steps.clone().iter().enumerate() {
            if let Some(at) = step.at {
                self.schedule(at.0, Happening::Step(index));
            }
        }
        self.schedule(self.scenario.duration.0, Happening::Heal);
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        if let Some((id, life)) = happening.concerns() {
            let node = self.node(id);
            if !node.is_up() || life.is_some_and(|life| life != node.life) {
                return Ok(());
            }
            if node.paused {
                node.held.push(happening);
                return Ok(());
            }
        }
        match happening {
            Happening::Start { node } => self.start(node),
            Happening::Wake { node, at, .. } => self.wake(node, at),
            Happening::Dial { a, b } => self.dial(a, b),
            Happening::Break { a, b } => self.break_if_cut(a, b),
            Happening::LinkUp { node, peer, epoch, .. } => self.link_up(node, peer, epoch),
            Happening::LinkDown { node, peer, epoch, .. } => self.link_down(node, peer, epoch),
            Happening::Deliver { id, from, to, epoch, message } => self.deliver(id, from, to, epoch, message),
            Happening::Synced { node, .. } => self.synced(node),
            Happening::SyncClaimed { node, id, .. } => self.step(node, trialbay_engine::Event::Persisted(id)),
            Happening::ApplySome { node, .. } => self.apply_some(node),
            Happening::ReadLog { node, peer, from, upto, bytes_max, .. } => {
                self.read_log(node, peer, from, upto, bytes_max)
            }
            Happening::FetchHead { node, from, .. } => self.fetch_head(node, from),
            Happening::Checkpoint { node, .. } => {
                self.checkpoint(node);
                Ok(())
            }
            Happening::KeepLog { node, .. } => self.keep_log(node),
            Happening::Submit { node, op, .. } => self.submit(node, op),
            Happening::CheckLease { node, op, read, .. } => {
                self.look_at_lease_again(node, op, read);
                Ok(())
            }
            Happening::Resume { node } => self.resume(node),
            Happening::DiskHasRoom { node } => {
                self.node(node).set_disk_full(false);
                Ok(())
            }
            Happening::ClientNext { client } => self.client_next(client),
            Happening::ClientTimeout { op } => {
                self.client_gives_up(op);
                Ok(())
            }
            Happening::Step(index) => self.do_step(index),
            // What was cut before everything was mended is mended; what is cut then stays cut.
            Happening::Mend { pairs, calm } => {
                if calm == self.calm {
                    self.network.mend(&pairs);
                }
                Ok(())
            }
            Happening::Heal => self.heal(),
            Happening::Settle => self.settle(),
            Happening::End => {
                self.ended = true;
                self.check_end()
            }
        }
    }
}

impl Happening {
    /// The node whose process must live for it to happen, and the life in which it was caused, if it matters.
    fn concerns(&self) -> Option<(NodeId, Option<u64>)> {
        match self {
            Self::Wake { node, life, .. }
            | Self::LinkUp { node, life, .. }
            | Self::LinkDown { node, life, .. }
            | Self::Synced { node, life }
            | Self::SyncClaimed { node, life, .. }
            | Self::ApplySome { node, life }
            | Self::ReadLog { node, life, .. }
            | Self::FetchHead { node, life, .. }
            | Self::Checkpoint { node, life }
            | Self::KeepLog { node, life }
            | Self::Submit { node, life, .. }
            | Self::CheckLease { node, life, .. } => Some((*node, Some(*life))),
            Self::Deliver { to, .. } => Some((*to, None)),
            Self::Start { .. }
            | Self::Dial { .. }
            | Self::Break { .. }
            | Self::Resume { .. }
            | Self::DiskHasRoom { .. }
            | Self::ClientNext { .. }
            | Self::ClientTimeout { .. }
            | Self::Step(_)
            | Self::Mend { .. }
            | Self::Heal
            | Self::Settle
            | Self::End => None,
        }
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest: the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
