//! The world: one queue of happenings in simulated time, and everything that they happen to.

use std::collections::{BTreeMap, BinaryHeap};

use trialbay_engine::{Message, NodeId, Slot};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::history::{self, Operation};
use crate::ledger::{Checked, Ledger, Violation, violation};
use crate::mutant::Mutant;
use crate::network::Network;
use crate::node::Node;
use crate::plan::{Family, LEASE, MS, Plan, S};
use crate::rng::Rng;

/// How long the cluster has, after the faults end, to acknowledge an update. Twelve leases.
const PROGRESS_MAX: u64 = 12 * LEASE;
/// How long clients go on after the faults end.
const CALM: u64 = 20 * LEASE;
/// How long nodes have, after the last client operation, to become equal.
const QUIET: u64 = 8 * LEASE;

/// Takes the lines of a run that someone watches.
pub type Sink = Box<dyn FnMut(&str)>;

/// Something that happens at a moment. What concerns a node names the life in which it was caused.
#[derive(Debug)]
pub(crate) enum Happening {
    Start { node: NodeId },
    Wake { node: NodeId, life: u64, at: u64 },
    Dial { a: NodeId, b: NodeId },
    Break { a: NodeId, b: NodeId },
    LinkUp { node: NodeId, life: u64, peer: NodeId, epoch: u64 },
    LinkDown { node: NodeId, life: u64, peer: NodeId, epoch: u64 },
    Deliver { from: NodeId, to: NodeId, epoch: Option<u64>, message: Message },
    Synced { node: NodeId, life: u64 },
    SyncClaimed { node: NodeId, life: u64, id: trialbay_engine::PersistId },
    ApplySome { node: NodeId, life: u64 },
    ReadLog { node: NodeId, life: u64, peer: NodeId, from: Slot, upto: Slot, bytes_max: usize },
    FetchHead { node: NodeId, life: u64, from: NodeId },
    Checkpoint { node: NodeId, life: u64 },
    Submit { node: NodeId, life: u64, op: u64 },
    CheckLease { node: NodeId, life: u64, op: u64, value: u64, since: u64, served: Option<bool> },
    Resume { node: NodeId },
    ClientNext { client: u64 },
    ClientTimeout { op: u64 },
    Strike(Family),
    Mend { pairs: Vec<(NodeId, NodeId)> },
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
    /// Over everything that happened.
    pub trace_hash: u64,
    /// What happened how often.
    pub counters: Counters,
    /// The faults, in words, with their times.
    pub faults: Vec<(u64, String)>,
}

/// One run.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) now: u64,
    pub(crate) event: u64,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) operations: Vec<Operation>,
    /// Operations that wait for a response, and whose they are.
    pub(crate) open: BTreeMap<u64, (u64, NodeId)>,
    pub(crate) guesses: Vec<NodeId>,
    pub(crate) workload_rng: Rng,
    pub(crate) faults_rng: Rng,
    pub(crate) calm: bool,
    healed_at: Option<u64>,
    pub(crate) first_progress: Option<u64>,
    pub(crate) clients_end: bool,
    /// The nodes that work for good after the faults end.
    pub(crate) healed: Vec<NodeId>,
    masters_in_calm: u64,
    messages_settled: u64,
    settling: bool,
    trace_hash: u64,
    pub(crate) counters: Counters,
    faults: Vec<(u64, String)>,
    violation: Option<Violation>,
    ended: bool,
    sink: Option<(std::ops::Range<u64>, Sink)>,
}

impl World {
    /// The world that `plan` describes, with a bug planted in it or none.
    pub fn new(plan: Plan, mutant: Option<Mutant>) -> Self {
        let ids: Vec<NodeId> = (1..=plan.nodes).map(NodeId).collect();
        let mut world = Self {
            nodes: ids.iter().map(|id| Node::new(*id, plan.seed)).collect(),
            network: Network::new(plan.nodes, plan.network.clone(), Rng::new(plan.seed, 2)),
            ledger: Ledger::new(plan.nodes, LEASE * 1_000_000 / (1_000_000 + u64::from(plan.drift_ppm))),
            operations: Vec::new(),
            open: BTreeMap::new(),
            guesses: vec![NodeId(1); usize::try_from(plan.clients).unwrap_or(1)],
            workload_rng: Rng::new(plan.seed, 3),
            faults_rng: Rng::new(plan.seed, 4),
            mutant,
            now: 0,
            event: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            calm: false,
            healed_at: None,
            first_progress: None,
            clients_end: false,
            healed: ids.clone(),
            masters_in_calm: 0,
            messages_settled: 0,
            settling: false,
            trace_hash: plan.seed,
            counters: Counters::new(),
            faults: Vec::new(),
            violation: None,
            ended: false,
            sink: None,
            plan,
        };
        world.begin(&ids);
        world
    }

    /// Has the lines of what happens in this span of simulated time given to `sink`.
    pub fn watch(&mut self, span: std::ops::Range<u64>, sink: Sink) {
        self.sink = Some((span, sink));
    }

    /// Plays the run to its end, or to the first broken rule.
    pub fn run(mut self) -> Report {
        while !self.ended
            && let Some(Scheduled { at, happening, .. }) = self.queue.pop()
        {
            self.now = self.now.max(at);
            self.event += 1;
            if let Err(broken) = self.happen(happening) {
                self.say(|| format!("VIOLATION {}: {}", broken.checker, broken.story));
                self.violation = Some(broken);
                break;
            }
        }
        Report {
            violation: self.violation,
            event: self.event,
            at: self.now,
            trace_hash: self.trace_hash,
            counters: self.counters,
            faults: self.faults,
        }
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
        *self.counters.entry(what).or_default() += 1;
    }

    /// Notes a fault, for the story of a failure.
    pub(crate) fn fault(&mut self, what: String) {
        self.say(|| format!("== {what}"));
        self.faults.push((self.now, what));
    }

    /// Makes part of what happens part of the trace.
    pub(crate) fn trace(&mut self, kind: u64, a: u64, b: u64) {
        let mut bytes = [0; 32];
        for (chunk, part) in bytes.chunks_exact_mut(8).zip([self.now, kind, a, b]) {
            chunk.copy_from_slice(&part.to_le_bytes());
        }
        self.trace_hash = xxh3_64_with_seed(&bytes, self.trace_hash);
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some((span, sink)) = &mut self.sink
            && span.contains(&now)
        {
            sink(&format!("{:>4}.{:06} {:>8}  {}", now / S, now % S / 1_000, self.event, line()));
        }
    }

    pub(crate) fn became_master(&mut self) {
        self.mark("masters");
        if self.healed_at.is_some_and(|at| self.now > at + PROGRESS_MAX) {
            self.masters_in_calm += 1;
        }
    }

    pub(crate) fn message_sent(&mut self) {
        self.mark("messages");
        self.messages_settled += u64::from(self.settling);
    }

    fn begin(&mut self, ids: &[NodeId]) {
        for id in ids {
            let delay = if self.plan.staggered_start { self.faults_rng.below(5 * LEASE) } else { 0 };
            let bound = self.plan.drift_ppm;
            self.node(*id).clock.change_rate(0, bound);
            self.schedule(delay, Happening::Start { node: *id });
            for other in ids.iter().filter(|other| *other > id) {
                self.schedule(self.now, Happening::Dial { a: *id, b: *other });
            }
        }
        for client in 0..self.plan.clients {
            self.schedule(LEASE, Happening::ClientNext { client });
        }
        for (family, mean) in self.plan.strikes.clone() {
            let delay = self.faults_rng.below(2 * mean);
            self.schedule(delay, Happening::Strike(family));
        }
        self.schedule(self.plan.chaos, Happening::Heal);
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        let node = match &happening {
            Happening::Wake { node, life, .. }
            | Happening::LinkUp { node, life, .. }
            | Happening::LinkDown { node, life, .. }
            | Happening::Synced { node, life }
            | Happening::SyncClaimed { node, life, .. }
            | Happening::ApplySome { node, life }
            | Happening::ReadLog { node, life, .. }
            | Happening::FetchHead { node, life, .. }
            | Happening::Checkpoint { node, life }
            | Happening::Submit { node, life, .. }
            | Happening::CheckLease { node, life, .. } => Some((*node, Some(*life))),
            Happening::Deliver { to, .. } => Some((*to, None)),
            _ => None,
        };
        if let Some((id, life)) = node {
            let node = self.node(id);
            if node.engine.is_none() || life.is_some_and(|life| life != node.life) {
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
            Happening::Deliver { from, to, epoch, message } => self.deliver(from, to, epoch, message),
            Happening::Synced { node, .. } => self.synced(node),
            Happening::SyncClaimed { node, id, .. } => self.step(node, trialbay_engine::Event::Persisted(id)),
            Happening::ApplySome { node, .. } => self.apply_some(node),
            Happening::ReadLog { node, peer, from, upto, bytes_max, .. } => {
                let entries = self.node(node).disk.read(from, upto, bytes_max);
                self.step(node, trialbay_engine::Event::LogRead { peer, entries })
            }
            Happening::FetchHead { node, from, .. } => self.fetch_head(node, from),
            Happening::Checkpoint { node, .. } => self.checkpoint(node),
            Happening::Submit { node, op, .. } => self.submit(node, op),
            Happening::CheckLease { node, op, value, since, served, .. } => {
                self.check_lease(node, op, value, since, served);
                Ok(())
            }
            Happening::Resume { node } => self.resume(node),
            Happening::ClientNext { client } => {
                self.client_next(client);
                Ok(())
            }
            Happening::ClientTimeout { op } => {
                self.client_gives_up(op);
                Ok(())
            }
            Happening::Strike(family) => self.strike(family),
            Happening::Mend { pairs } => {
                self.network.mend(&pairs);
                Ok(())
            }
            Happening::Heal => {
                self.healed_at = Some(self.now);
                self.schedule(CALM, Happening::Settle);
                self.heal()
            }
            Happening::Settle => {
                self.clients_end = true;
                self.schedule(QUIET, Happening::End);
                self.schedule(QUIET / 2, Happening::Mend { pairs: Vec::new() });
                self.settle()
            }
            Happening::End => {
                self.ended = true;
                self.check_end()
            }
        }
    }

    /// Faults ended long ago: was there progress (K9)?
    fn settle(&mut self) -> Checked {
        self.settling = true;
        let healed_at = self.healed_at.unwrap_or(0);
        if self.plan.reckless {
            return Ok(());
        }
        match self.first_progress {
            Some(at) if at <= healed_at + PROGRESS_MAX => Ok(()),
            Some(at) => violation(
                "K9",
                format!("the first update after the faults took {} ms; {}", (at - healed_at) / MS, self.describe()),
            ),
            None => violation("K9", format!("no update was acknowledged after the faults; {}", self.describe())),
        }
    }

    fn check_end(&mut self) -> Checked {
        let log = self.ledger.certificate();
        history::check(&self.operations, &log)?;
        if self.plan.reckless {
            return Ok(());
        }
        if self.masters_in_calm > 0 {
            let masters = self.masters_in_calm;
            return violation("K9", format!("{masters} new masters although nothing fails; {}", self.describe()));
        }
        let seconds = (QUIET / S).max(1) * u64::from(self.plan.nodes).pow(2) * 200;
        if self.messages_settled > seconds {
            let messages = self.messages_settled;
            return violation("K10", format!("{messages} messages in an idle cluster; {}", self.describe()));
        }
        let stores: Vec<_> = self.healed.iter().map(|id| self.nodes[usize::from(id.0) - 1].store.clone()).collect();
        let level = stores.iter().all(|store| store == &stores[0]) && stores[0].applied.0 >= log.len() as u64;
        let healed: Vec<_> = self.nodes.iter().filter(|node| self.healed.contains(&node.id)).collect();
        let all_vote = healed.iter().all(|node| self.ledger.votes(node.id));
        if !level {
            return violation("K11", format!("stores differ after the faults; {}", self.describe()));
        }
        if !all_vote && self.healed.len() == self.nodes.len() {
            return violation("K9", format!("a node never got its vote back; {}", self.describe()));
        }
        let mut model = crate::model::Store::default();
        for (certified, slot) in log.iter().zip(1..) {
            let hash = model.hash.extend(Slot(slot), &certified.value);
            model.apply(Slot(slot), hash, &certified.value);
        }
        if model != stores[0] {
            return violation("K5", format!("the stores hold {:?}, the log gives {model:?}", stores[0]));
        }
        *self.counters.entry("slots").or_default() += log.len() as u64;
        Ok(())
    }

    /// How every node is, for the story of a failure.
    pub(crate) fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| match node.status() {
            None => format!("{} down", node.id),
            Some(status) => format!(
                "{} {:?}{} promised {} accepted {} decided {} applied {}{}{}",
                node.id,
                status.role,
                if node.paused { " (paused)" } else { "" },
                status.promised,
                status.accepted_upto,
                status.decided_upto,
                status.applied_upto,
                if status.votes { "" } else { ", no vote" },
                if status.catching_up { ", catching up" } else { "" },
            ),
        });
        format!("healed {:?}; {}", self.healed, nodes.collect::<Vec<_>>().join("; "))
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
