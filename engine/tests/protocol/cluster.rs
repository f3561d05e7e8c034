//! A cluster whose network, disks, stores and clock do what a script says, and nothing else. What happens is written
//! down: one line for each event, indented below it one line for each action.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use trialbay_engine::{
    Action, Actions, Config, Engine, Event, HistoryHash, Instant, Limits, Memory, Message, NodeId, PersistId, ReadId,
    Record, Recovered, Request, RequestId, Role, Slot, SlotEntry, Value,
};

use crate::transcript::{Names, utf8};

/// The lease of every cluster here, in milliseconds; clocks do not drift.
pub(crate) const LEASE_MS: u64 = 800;

/// More than any of these scripts needs without time passing.
const RUN_STEPS_MAX: usize = 2_000;

pub(crate) fn node(number: u16) -> NodeId {
    NodeId(number)
}

pub(crate) struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    now: Instant,
    /// Messages on their way, in the order of sending.
    wire: Vec<(NodeId, NodeId, Message)>,
    names: Names,
    next_request: u64,
    muted: bool,
    text: String,
}

struct Node {
    /// `None` while the node is down.
    engine: Option<Engine>,
    config: Config,
    runs: u64,
    unpersisted: Vec<(PersistId, Vec<Record>)>,
    /// What a power cut leaves.
    durable: Vec<Record>,
    unapplied: Option<Slot>,
    /// The decided values as this node's store saw them, over all its runs.
    applied: BTreeMap<Slot, Value>,
}

impl Cluster {
    /// Nodes 1 to `count` on empty disks, connected to each other, none of which has taken a step.
    pub(crate) fn blank(count: u16) -> Self {
        Self::with_limits(count, Limits::default())
    }

    pub(crate) fn with_limits(count: u16, limits: Limits) -> Self {
        Self::blank_with((1..=count).map(NodeId).collect(), |config| config.limits = limits.clone())
    }

    /// The nodes of a configuration on empty disks, connected to each other.
    fn blank_with(voters: Vec<NodeId>, change: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            now: Instant(0),
            wire: Vec::new(),
            names: Names::default(),
            next_request: 1,
            muted: true,
            text: String::new(),
        };
        let lease = Duration::from_millis(LEASE_MS);
        let mut plan = Config { lease, clock_drift_ppm: 0, ..Config::new(voters[0], voters) };
        change(&mut plan);
        let members: Vec<NodeId> = plan.voters.iter().chain(&plan.learners).copied().collect();
        for id in &members {
            cluster.nodes.insert(*id, Node::down(Config { node: *id, ..plan.clone() }));
        }
        for id in &members {
            cluster.start(id.0);
        }
        cluster.muted = false;
        cluster
    }

    /// A cluster of nodes that are not all alike, with node 1 its serving master.
    pub(crate) fn with_roles(voters: u16, change: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self::blank_with((1..=voters).map(NodeId).collect(), change);
        cluster.muted(|cluster| {
            cluster.run();
            cluster.wait_ms(LEASE_MS / 2);
            cluster.tick_all();
            cluster.run();
            cluster.wait_ms(LEASE_MS);
            cluster.elect(1);
        });
        assert_eq!(cluster.role(1), Role::Master);
        cluster
    }

    /// A cluster of `count` after its birth: all vote, and nobody is master.
    pub(crate) fn born(count: u16) -> Self {
        Self::born_with_limits(count, Limits::default())
    }

    fn born_with_limits(count: u16, limits: Limits) -> Self {
        let mut cluster = Self::with_limits(count, limits);
        cluster.muted(|cluster| {
            cluster.run();
            cluster.wait_ms(LEASE_MS / 2);
            cluster.tick_all();
            cluster.run();
        });
        assert!(cluster.ids().into_iter().all(|id| cluster.engine(id).status().votes), "not all vote");
        cluster
    }

    /// A cluster of `count` with node 1 its serving master, and no message under way.
    pub(crate) fn with_master(count: u16) -> Self {
        Self::with_master_and_limits(count, Limits::default())
    }

    pub(crate) fn with_master_and_limits(count: u16, limits: Limits) -> Self {
        let mut cluster = Self::born_with_limits(count, limits);
        cluster.muted(|cluster| {
            cluster.wait_ms(LEASE_MS);
            cluster.elect(1);
        });
        assert_eq!(cluster.role(1), Role::Master);
        cluster
    }

    /// Does `script` without writing anything down.
    pub(crate) fn muted(&mut self, script: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.muted, true);
        script(self);
        self.muted = before;
    }

    /// A remark in the text.
    pub(crate) fn note(&mut self, remark: &str) {
        self.write(&format!("# {remark}"));
    }

    /// Everything written down so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Time passes, and nobody takes a step.
    pub(crate) fn wait_ms(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    /// The one of these nodes that ticks first if nothing else happens.
    pub(crate) fn first_due(&self, ids: &[u16]) -> u16 {
        *ids.iter().min_by_key(|id| self.engine(**id).next_deadline()).expect("one node at least")
    }

    /// Time passes until this node's next deadline, if that has not come yet, and it ticks.
    pub(crate) fn tick(&mut self, id: u16) {
        let deadline = self.engine(id).next_deadline().expect("a running node waits for something");
        self.now = self.now.max(deadline);
        self.step(id, Event::Ticked);
    }

    pub(crate) fn tick_all(&mut self) {
        for id in self.ids() {
            self.step(id, Event::Ticked);
        }
    }

    /// Lets this node become master, everybody answering.
    pub(crate) fn elect(&mut self, id: u16) {
        for _ in 0..9 {
            if self.role(id) == Role::Master {
                return;
            }
            self.tick(id);
            self.run();
        }
    }

    /// Everything happens that can without time passing: disks and stores finish, messages arrive in the order of sending.
    pub(crate) fn run(&mut self) {
        for _ in 0..RUN_STEPS_MAX {
            let mut idle = true;
            for id in self.ids() {
                idle &= !self.persist_if_any(id) & !self.apply_if_any(id);
            }
            if !self.wire.is_empty() {
                let (from, to, message) = self.wire.remove(0);
                self.receive(from, to, message);
                idle = false;
            }
            if idle {
                return;
            }
        }
        self.assert_quiet();
    }

    /// As [`Cluster::run`], but messages go before disks and stores, and what is sent on these links is lost.
    pub(crate) fn run_without(&mut self, cut: &[(u16, u16)]) {
        for _ in 0..RUN_STEPS_MAX {
            self.wire.retain(|(from, to, _)| !cut.contains(&(from.0, to.0)));
            let Some((from, to)) = self.wire.first().map(|(from, to, _)| (from.0, to.0)) else {
                let ids = self.ids();
                if !ids.into_iter().any(|id| self.persist_if_any(id) | self.apply_if_any(id)) {
                    return;
                }
                continue;
            };
            self.deliver(from, to);
        }
        self.assert_quiet();
    }

    /// Nodes that do not stop talking while no time passes are a message storm.
    fn assert_quiet(&self) {
        assert!(self.wire.is_empty(), "still talking after {RUN_STEPS_MAX} steps: {:?}", self.wire);
    }

    /// The oldest message from one node to the other arrives.
    pub(crate) fn deliver(&mut self, from: u16, to: u16) {
        let message = self.take(from, to).expect("no such message is under way");
        self.receive(node(from), node(to), message);
    }

    /// Takes the oldest message from one node to the other off the wire, to be lost or to arrive late.
    pub(crate) fn take(&mut self, from: u16, to: u16) -> Option<Message> {
        let index = self.wire.iter().position(|(f, t, _)| (f.0, t.0) == (from, to))?;
        Some(self.wire.remove(index).2)
    }

    /// Everything under way from one node to the other is lost.
    pub(crate) fn lose(&mut self, from: u16, to: u16) {
        while let Some(message) = self.take(from, to) {
            let kind = self.names.message(&message);
            self.write(&format!("lost: n{from} -> n{to} {kind}"));
        }
    }

    /// Loses everything to and from this node, silently.
    pub(crate) fn isolate(&mut self, id: u16) {
        self.wire.retain(|(from, to, _)| from.0 != id && to.0 != id);
    }

    pub(crate) fn receive(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.step(to.0, Event::Received { from, message });
    }

    /// The youngest message from one node to the other.
    pub(crate) fn take_last(&mut self, from: u16, to: u16) -> Option<Message> {
        let index = self.wire.iter().rposition(|(f, t, _)| (f.0, t.0) == (from, to))?;
        Some(self.wire.remove(index).2)
    }

    /// The next thing that happens between these two nodes: a message arrives, or a disk finishes, or else `a` ticks.
    pub(crate) fn deliver_or_tick(&mut self, a: u16, b: u16) {
        if let Some(message) = self.take(a, b) {
            self.receive(node(a), node(b), message);
        } else if let Some(message) = self.take(b, a) {
            self.receive(node(b), node(a), message);
        } else if !(self.persist_if_any(a) | self.persist_if_any(b)) {
            self.tick(a);
        }
    }

    /// This node's disk finishes all that it was given.
    pub(crate) fn persist(&mut self, id: u16) {
        assert!(self.persist_if_any(id), "n{id} has nothing to persist");
    }

    pub(crate) fn persist_if_any(&mut self, id: u16) -> bool {
        let disk = self.node(id);
        let Some((last, _)) = disk.unpersisted.last() else { return false };
        let last = *last;
        let records: Vec<Record> = disk.unpersisted.drain(..).flat_map(|(_, records)| records).collect();
        disk.durable.extend(records);
        self.step(id, Event::Persisted(last));
        true
    }

    fn apply_if_any(&mut self, id: u16) -> bool {
        let Some(slot) = self.node(id).unapplied.take() else { return false };
        self.step(id, Event::Applied(slot));
        true
    }

    /// Clients send these commands to this node at once.
    pub(crate) fn request(&mut self, id: u16, commands: &[&str]) {
        let requests = (commands.iter())
            .map(|command| {
                let request =
                    Request { id: RequestId(self.next_request), command: Bytes::copy_from_slice(command.as_bytes()) };
                self.next_request += 1;
                request
            })
            .collect();
        self.step(id, Event::Requested(requests));
    }

    pub(crate) fn read(&mut self, id: u16, read: u64) {
        self.step(id, Event::ReadRequested(ReadId(read)));
    }

    pub(crate) fn stop(&mut self, id: u16) {
        self.step(id, Event::StopRequested);
    }

    pub(crate) fn drop_master(&mut self, id: u16) {
        self.step(id, Event::DropRequested);
    }

    /// The node's process ends at once: what its disk had not finished is gone, and so is what is under way to it.
    pub(crate) fn kill(&mut self, id: u16) {
        self.write(&format!("n{id} is killed"));
        self.node(id).engine = None;
        self.node(id).unpersisted.clear();
        self.node(id).unapplied = None;
        self.wire.retain(|(_, to, _)| to.0 != id);
        for other in self.ids() {
            self.step(other, Event::Disconnected(node(id)));
        }
    }

    /// The node's disk is empty when it starts again.
    pub(crate) fn wipe(&mut self, id: u16) {
        self.kill(id);
        self.node(id).durable.clear();
        self.node(id).applied.clear();
    }

    /// The node's process starts, and connects to all others.
    pub(crate) fn start(&mut self, id: u16) {
        self.write(&format!("n{id} starts"));
        let now = self.now;
        let starting = self.node(id);
        starting.runs += 1;
        let seed = starting.runs * 100 + u64::from(id);
        starting.engine = Some(Engine::new(now, starting.config.clone(), recovered(&starting.durable), seed));
        self.step(id, Event::Ticked);
        for other in self.ids() {
            if other != id {
                self.step(other, Event::Connected(node(id)));
                self.step(id, Event::Connected(node(other)));
            }
        }
    }

    pub(crate) fn engine(&self, id: u16) -> &Engine {
        self.nodes[&node(id)].engine.as_ref().expect("the node is up")
    }

    pub(crate) fn role(&self, id: u16) -> Role {
        self.engine(id).role()
    }

    /// The commands that this node's store has applied, in order.
    pub(crate) fn applied(&self, id: u16) -> Vec<String> {
        (self.nodes[&node(id)].applied.values().flat_map(Value::commands))
            .map(|command| utf8(&command.expect("batches here are well-formed")))
            .collect()
    }

    /// No two nodes applied different values in one slot.
    pub(crate) fn assert_one_history(&self) {
        let mut history: BTreeMap<Slot, (NodeId, &Value)> = BTreeMap::new();
        for (id, member) in &self.nodes {
            for (slot, value) in &member.applied {
                let (first, known) = history.entry(*slot).or_insert((*id, value));
                assert_eq!(*known, value, "{first} and {id} decided differently in {slot}\n{}", self.text);
            }
        }
    }

    pub(crate) fn step(&mut self, id: u16, event: Event) {
        let now = self.now;
        let title = self.names.event(id, &event);
        let Some(engine) = &mut self.node(id).engine else { return };
        let mut actions = Actions::new();
        engine.step(now, event, &mut actions);
        let life = engine.status().incarnation;
        self.names.note(id, life);
        self.write(&title);
        for action in actions.drain() {
            let line = self.names.action(&action);
            self.write(&format!("  {line}"));
            self.perform(id, action);
        }
    }

    fn perform(&mut self, id: u16, action: Action) {
        match action {
            Action::Send { to, message } => {
                if self.nodes[&to].engine.is_some() {
                    self.wire.push((node(id), to, message));
                }
            }
            Action::Persist { id: persist, records } => self.node(id).unpersisted.push((persist, records)),
            Action::Apply { slot, value, .. } => {
                let store = self.node(id);
                store.unapplied = Some(slot);
                store.applied.insert(slot, value);
            }
            Action::ReadLog { peer, from, upto, bytes_max } => {
                let mut entries = entries(&self.node(id).durable, from, upto);
                let mut bytes = 0;
                let fits = |entry: &&SlotEntry| {
                    bytes += entry.entry.value.size();
                    bytes <= bytes_max
                };
                entries.truncate(entries.iter().take_while(fits).count().max(1));
                self.step(id, Event::LogRead { peer, entries });
            }
            Action::Halt(_) => self.node(id).engine = None,
            Action::Refuse { .. }
            | Action::ServeRead { .. }
            | Action::RefuseRead { .. }
            | Action::InstallHead { .. }
            | Action::Blame { .. }
            | Action::Dropped(_) => {}
        }
    }

    fn ids(&self) -> Vec<u16> {
        (self.nodes.iter()).filter(|(_, node)| node.engine.is_some()).map(|(id, _)| id.0).collect()
    }

    fn node(&mut self, id: u16) -> &mut Node {
        self.nodes.get_mut(&node(id)).expect("a member")
    }

    fn write(&mut self, line: &str) {
        if !self.muted {
            writeln!(self.text, "{line}").expect("memory takes it");
        }
    }
}

impl Node {
    fn down(config: Config) -> Self {
        Self {
            engine: None,
            config,
            runs: 0,
            unpersisted: Vec::new(),
            durable: Vec::new(),
            unapplied: None,
            applied: BTreeMap::new(),
        }
    }
}

/// What a driver makes of a log. The store of these tests is rebuilt from it at each start.
pub(crate) fn recovered(records: &[Record]) -> Recovered {
    let mut recovered = Recovered::blank();
    for record in records {
        match record {
            Record::Promised(ballot) => recovered.promised = recovered.promised.max(*ballot),
            Record::Accepted(entry) => recovered.promised = recovered.promised.max(entry.entry.ballot),
            Record::Decided { upto, hash } => (recovered.decided_upto, recovered.decided_hash) = (*upto, *hash),
            Record::MemoryBegan(incarnation) => {
                recovered.memory = Some(Memory { incarnation: *incarnation, votes: false, genesis: Vec::new() });
            }
            Record::VoteRegained { incarnation, genesis } => {
                recovered.memory = Some(Memory { incarnation: *incarnation, votes: true, genesis: genesis.clone() });
            }
        }
    }
    recovered.undecided = entries(records, recovered.decided_upto.next(), Slot(u64::MAX));
    recovered
}

/// The consecutive accepted entries from `from` on, the last record of each slot winning.
fn entries(records: &[Record], from: Slot, upto: Slot) -> Vec<SlotEntry> {
    let mut latest = BTreeMap::new();
    for record in records {
        if let Record::Accepted(entry) = record {
            latest.insert(entry.slot, entry.clone());
        }
    }
    (from.0..=upto.0).map_while(|slot| latest.remove(&Slot(slot))).collect()
}

/// The history hash after these values, the first of which is slot 1's.
pub(crate) fn hash_of(values: &[Value]) -> HistoryHash {
    values.iter().zip(1..).fold(HistoryHash::default(), |hash, (value, slot)| hash.extend(Slot(slot), value))
}
