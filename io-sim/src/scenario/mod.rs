//! Scenarios: a cluster, its surroundings, clients, faults, and what must hold.
//!
//! A scenario is a TOML file that a person writes (`scenarios/`), or what a seed makes ([`draw`]), or what is left of a
//! failing run after shrinking. All three are the same thing, played by the same worlds: everything that happens *to* a
//! cluster stands in it, step by step. What is left to a seed is noise: delays, losses, which write survives a power cut.

pub mod act;
pub mod condition;
pub mod counters;
pub mod draw;
pub mod file;
pub mod request;
pub mod span;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trialbay_engine::{Limits, NodeId};

pub use act::{Act, Links, Who, Whom};
pub use condition::Condition;
pub use request::{Request, Verb};
pub use span::{MS, S, Span, US};

/// The checkers that can find something: the others are tests, or what several of these see.
const CHECKERS: [&str; 12] = ["K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8", "K9", "K10", "K11", "K13"];
/// No scenario lasts longer.
const HOUR: Span = Span(3_600 * S);
/// No value is longer, in bytes.
const PADDING_MAX: u64 = 1 << 20;

/// What is played, and what must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A sentence that says what must hold.
    pub title: String,
    /// Why it might not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub why: String,
    /// Where it can be played.
    #[serde(default = "core_world")]
    pub worlds: Vec<WorldKind>,
    /// What is demanded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget: Budget,
    /// How it must end.
    #[serde(default)]
    pub expect: Expect,
    /// How many seeds the tests play.
    #[serde(default = "one")]
    pub seeds: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first_seed: u64,
    /// The bug that is planted, if any. Those of engine and node are in a build with the feature `planted-bugs` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<String>,
    /// How long faults strike and clients ask. After it all is healed, and the cluster must go on.
    pub duration: Span,
    /// Whether a minority may stay broken when the rest is healed. The seed chooses how.
    #[serde(default, skip_serializing_if = "is_default")]
    pub leave_broken: bool,
    /// The nodes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cluster: Cluster,
    /// The network.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// The disks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disk: Disk,
    /// By node's name: by how many millionths its clock runs too fast from the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clocks: BTreeMap<String, i64>,
    /// What clients ask for, beside what `ops` lists.
    #[serde(default)]
    pub workload: Workload,
    /// The engine's limits, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsPlan>,
    /// By counter's name: how often it must happen in every run, or the run does not show what the title says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "counters::counts")]
    pub at_least: BTreeMap<String, u64>,
    /// By counter's name: how often it may happen in a run. More than that breaks K10.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "counters::counts")]
    pub at_most: BTreeMap<String, u64>,
    /// Faults, and what operators do.
    #[serde(default, rename = "step", skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Requests of clients, one by one.
    #[serde(default, rename = "op", skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Op>,
}

/// Where a scenario is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    /// Engines, logs and the apply code on a plain loop.
    Core,
    /// Whole nodes over a simulated network.
    Stack,
}

/// What is demanded of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Budget {
    /// A majority stays intact: nothing goes wrong, and the cluster goes on.
    #[default]
    Tolerable,
    /// Nothing goes wrong; whether the cluster goes on is not asked.
    Unrestricted,
    /// Outside of what is promised: the checkers must see it.
    Beyond,
}

/// How a scenario must end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Expect {
    /// No rule is broken.
    #[default]
    Pass,
    /// For some of its seeds this checker finds something.
    Fail(String),
}

/// The nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// How many.
    pub nodes: u16,
    /// The lease.
    pub lease: Span,
    /// The declared bound on clock rates, in millionths.
    pub drift_ppm: u32,
    /// Whether the nodes start one after the other.
    pub staggered: bool,
    /// So many of them, the last ones, are learners.
    #[serde(skip_serializing_if = "is_default")]
    pub learners: u16,
    /// So many of the others, the last ones, are witnesses.
    #[serde(skip_serializing_if = "is_default")]
    pub witnesses: u16,
    /// So many of them, the first ones, are preferred masters.
    #[serde(skip_serializing_if = "is_default")]
    pub preferred: u16,
}

/// How messages fare on a way that is not cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// The shortest delay.
    pub delay_min: Span,
    /// The longest usual delay.
    pub delay_max: Span,
    /// How likely a message is lost.
    pub drop: f64,
    /// How likely it arrives twice.
    pub duplicate: f64,
    /// How likely it is overtaken.
    pub reorder: f64,
    /// How likely it takes up to seconds.
    pub spike: f64,
    /// How likely a copy arrives much later, whatever became of the connection and of the receiver meanwhile.
    pub stale: f64,
}

/// The disks and the stores on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// The shortest sync.
    pub sync_min: Span,
    /// The longest usual sync.
    pub sync_max: Span,
    /// The longest usual time in which what is decided is applied.
    pub apply_max: Span,
    /// The mean time between two durable commits of a store.
    pub checkpoint: Span,
    /// The length of a log's segment, in bytes.
    pub segment_bytes: u64,
    /// How much of a log is kept that the store has passed, in bytes.
    pub retention_bytes: u64,
}

/// Clients that each ask for one thing after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// How many of them.
    pub clients: u16,
    /// The longest time that one thinks between two requests.
    pub think_max: Span,
    /// How many requests they make in all, at most.
    pub operations: u64,
    /// How many keys they use.
    pub keys: u64,
    /// Bytes added to each value, at most.
    pub padding_max: u64,
    /// How many of the clients stay with one node, whatever that says of itself, and mostly read.
    pub loyal: u16,
}

/// The engine's limits: see [`Limits`] for what each means. What is left out is as usual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields of `Limits`, under their own names")]
pub struct LimitsPlan {
    pub in_flight_slots_max: u64,
    pub in_flight_bytes_max: usize,
    pub batch_bytes_max: usize,
    pub queued_requests_max: usize,
    pub queued_bytes_max: usize,
    pub message_bytes_max: usize,
    pub cache_bytes_max: usize,
    pub cache_slots_max: u64,
    pub undecided_max: Span,
    pub queued_reads_max: usize,
}

/// Something that is done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// At this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Span>,
    /// Or once this can be observed, and all steps before this one are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Or so long after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// What is done.
    #[serde(rename = "do")]
    pub act: Act,
    /// Chooses this step's own chance; its place in the file unless a longer file was made shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Which client: each makes its requests in the order of the file, one after the other.
    pub client: u16,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at: Span,
    /// So long after the response to this client's last one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: Span,
    /// What it asks for.
    #[serde(rename = "do")]
    pub request: Request,
    /// Chooses this operation's own chance; its place in the file unless a longer file was made shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

impl Scenario {
    /// One that says nothing but this: three nodes, no clients, no faults.
    pub fn quiet(title: impl Into<String>, duration: Span) -> Self {
        Self {
            title: title.into(),
            why: String::new(),
            worlds: core_world(),
            budget: Budget::default(),
            expect: Expect::default(),
            seeds: 1,
            first_seed: 0,
            planted: None,
            duration,
            leave_broken: false,
            cluster: Cluster::default(),
            network: Network::default(),
            disk: Disk::default(),
            clocks: BTreeMap::new(),
            workload: Workload::default(),
            limits: None,
            at_least: BTreeMap::new(),
            at_most: BTreeMap::new(),
            steps: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// What cannot be played, in words.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=7).contains(&self.cluster.nodes) {
            return Err(format!("a cluster has 1 to 7 nodes, not {}", self.cluster.nodes));
        }
        let Cluster { nodes, learners, witnesses, preferred, .. } = self.cluster;
        let voters = nodes.saturating_sub(learners);
        if voters == 0 || witnesses > (voters - 1) / 2 || preferred > voters - witnesses {
            return Err(format!(
                "{learners} learners, {witnesses} witnesses and {preferred} preferred nodes do not go with {nodes} nodes: \
                 most voters have the data, and only such are preferred"
            ));
        }
        let ppm = i64::from(self.cluster.drift_ppm);
        if !(1..1_000_000).contains(&ppm) {
            return Err(format!("`drift_ppm` is {ppm}: clocks drift by 1 to 999999 millionths"));
        }
        let times = [
            ("duration", self.duration, Span(MS), HOUR),
            ("lease", self.cluster.lease, Span(MS), Span(60 * S)),
            ("checkpoint", self.disk.checkpoint, Span(1), HOUR),
            ("sync_max", self.disk.sync_max, self.disk.sync_min, Span(60 * S)),
            ("apply_max", self.disk.apply_max, Span(1), Span(60 * S)),
            ("delay_max", self.network.delay_max, self.network.delay_min, Span(60 * S)),
            ("think_max", self.workload.think_max, Span(0), HOUR),
        ];
        for (name, time, least, most) in times {
            if time < least || time > most {
                return Err(format!("`{name}` is {time}, and must be from {least} to {most}"));
            }
        }
        let network = &self.network;
        for rate in [network.drop, network.duplicate, network.reorder, network.spike, network.stale] {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("a rate of `network` is {rate}: how likely something is lies from 0 to 1"));
            }
        }
        if self.workload.padding_max > PADDING_MAX {
            return Err(format!("`padding_max` is {}, and at most {PADDING_MAX}", self.workload.padding_max));
        }
        if self.worlds.is_empty() {
            return Err("with no world nothing is played: `worlds` names core, stack or both".to_owned());
        }
        let ids = self.steps.iter().filter_map(|step| step.id).chain(self.ops.iter().filter_map(|op| op.id));
        if let Some(id) = ids.max().filter(|id| *id >= draw::IDS_END) {
            return Err(format!("an id is {id}, and below {}", draw::IDS_END));
        }
        if self.seeds == 0 {
            return Err("with no seed nothing is played: `seeds` must be at least 1".to_owned());
        }
        for name in self.clocks.keys() {
            act::node(name).and_then(|node| self.check_node(node))?;
        }
        for (step, number) in self.steps.iter().zip(1..) {
            if step.at.is_none() == step.when.is_none() {
                return Err(format!("step {number} needs either `at` or `when`"));
            }
            let named = step.act.nodes().into_iter().chain(step.when.as_ref().and_then(Condition::node));
            for node in named {
                self.check_node(node).map_err(|error| format!("step {number}: {error}"))?;
            }
            if step.at.is_some_and(|at| at >= self.duration) {
                return Err(format!("step {number} comes after the {} that the scenario lasts", self.duration));
            }
            if step.after.is_some() && step.when.is_none() {
                return Err(format!("step {number} has `after`, which goes with `when`"));
            }
        }
        if let Some(name) = &self.planted
            && !["world/", "engine/", "node/"].iter().any(|place| name.starts_with(place))
        {
            return Err(format!("`{name}` is no planted bug: their names begin with world/, engine/ or node/"));
        }
        Ok(())
    }

    /// What a run with these counters lacks of what it must show, in words.
    pub fn lacks(&self, counters: &BTreeMap<&'static str, u64>) -> Vec<String> {
        let counted = |name: &str| counters.get(name).copied().unwrap_or(0);
        let lacking = self.at_least.iter().filter(|(name, least)| counted(name) < **least);
        lacking.map(|(name, least)| format!("{} {name} are less than {least}", counted(name))).collect()
    }

    /// The nodes that vote.
    pub fn voters(&self) -> Vec<NodeId> {
        (1..=self.cluster.nodes - self.cluster.learners).map(NodeId).collect()
    }

    /// Whether a node votes and keeps no data.
    pub fn is_witness(&self, node: NodeId) -> bool {
        let voters = self.cluster.nodes - self.cluster.learners;
        node.0 <= voters && node.0 > voters - self.cluster.witnesses
    }

    fn check_node(&self, node: NodeId) -> Result<(), String> {
        let last = NodeId(self.cluster.nodes);
        if node <= last { Ok(()) } else { Err(format!("there is no {node}: the cluster has n1 to {last}")) }
    }

    /// The lease.
    pub fn lease(&self) -> Duration {
        Duration::from_nanos(self.cluster.lease.0)
    }

    /// The engine's limits.
    pub fn limits(&self) -> Limits {
        self.limits.as_ref().map_or_else(Limits::default, |limits| Limits {
            in_flight_slots_max: limits.in_flight_slots_max,
            in_flight_bytes_max: limits.in_flight_bytes_max,
            batch_bytes_max: limits.batch_bytes_max,
            queued_requests_max: limits.queued_requests_max,
            queued_bytes_max: limits.queued_bytes_max,
            message_bytes_max: limits.message_bytes_max,
            cache_bytes_max: limits.cache_bytes_max,
            cache_slots_max: limits.cache_slots_max,
            undecided_max: Duration::from_nanos(limits.undecided_max.0),
            queued_reads_max: limits.queued_reads_max,
        })
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            nodes: 3,
            lease: Span(400 * MS),
            drift_ppm: 10_000,
            staggered: false,
            learners: 0,
            witnesses: 0,
            preferred: 0,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            delay_min: Span(100 * US),
            delay_max: Span(2 * MS),
            drop: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            spike: 0.0,
            stale: 0.0,
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            sync_min: Span(100 * US),
            sync_max: Span(2 * MS),
            apply_max: Span(MS),
            checkpoint: Span(S),
            segment_bytes: 64 << 10,
            retention_bytes: 1 << 30,
        }
    }
}

impl Default for LimitsPlan {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            in_flight_slots_max: limits.in_flight_slots_max,
            in_flight_bytes_max: limits.in_flight_bytes_max,
            batch_bytes_max: limits.batch_bytes_max,
            queued_requests_max: limits.queued_requests_max,
            queued_bytes_max: limits.queued_bytes_max,
            message_bytes_max: limits.message_bytes_max,
            cache_bytes_max: limits.cache_bytes_max,
            cache_slots_max: limits.cache_slots_max,
            undecided_max: Span(u64::try_from(limits.undecided_max.as_nanos()).unwrap_or(u64::MAX)),
            queued_reads_max: limits.queued_reads_max,
        }
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self { clients: 4, think_max: Span(20 * MS), operations: 2_000, keys: 6, padding_max: 40, loyal: 0 }
    }
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "pass" => Ok(Self::Pass),
            Some(("fail", checker)) if CHECKERS.contains(&checker) => Ok(Self::Fail(checker.to_owned())),
            Some(("fail", checker)) => Err(format!("`{checker}` is no checker that can fail: {}", CHECKERS.join(", "))),
            _ => Err(format!("`{text}` is no way to end: write pass, or fail:K7 with the number of a checker")),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail(checker) => write!(f, "fail:{checker}"),
        }
    }
}

impl TryFrom<String> for Expect {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Expect> for String {
    fn from(expect: Expect) -> Self {
        expect.to_string()
    }
}

fn core_world() -> Vec<WorldKind> {
    vec![WorldKind::Core]
}

fn one() -> u64 {
    1
}

/// What goes without saying is not written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
