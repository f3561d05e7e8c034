//! What a seed makes: a whole scenario, every fault of it drawn beforehand.
//!
//! Each family of faults is off with probability one half, and how often it strikes varies by orders of magnitude
//! (swarm testing). Each family has a stream of chance of its own, so that one less does not shift the others.

use trialbay_engine::NodeId;

use super::{
    Act, Budget, Cluster, Disk, LimitsPlan, Links, MS, Network, Op, Request, S, Scenario, Span, Step, US, Verb, Who,
    Whom, Workload, WorldKind,
};
use crate::rng::Rng;

/// The lease of most scenarios. Everything else is scaled to it.
pub const LEASE: u64 = 400 * MS;

/// Streams of chance of one seed; beyond [`stream::OPERATION`] there is one for each operation.
pub mod stream {
    /// What the cluster and its surroundings are.
    pub const PLAN: u64 = 1;
    /// What clients ask for.
    pub const WORKLOAD: u64 = 2;
    /// How the cluster is healed.
    pub const HEALING: u64 = 3;
    /// The connections.
    pub const CONNECTIONS: u64 = 4;
    /// Which nodes are not like the others.
    pub const ROLES: u64 = 5;
    /// How much of the logs is kept.
    pub const LOGS: u64 = 6;
    /// One for each step of a scenario.
    pub const STEP: u64 = 10_000;
    /// One for each family of faults.
    pub const FAMILY: u64 = 100;
    /// Ten for each node: clock, driver, disk, upkeep of the log.
    pub const NODE: u64 = 1_000;
    /// One for each way from a node to another.
    pub const WAY: u64 = 2_000;
    /// One for each operation.
    pub const OPERATION: u64 = 1 << 32;
}

/// Ids of steps and operations are below this, so that their streams are their own.
pub const IDS_END: u64 = 1 << 44;

/// A family of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Processes die.
    Kill,
    /// Processes die between two orders of one step.
    KillAfter,
    /// One node loses power.
    PowerCut,
    /// A majority loses power at once.
    MajorityPowerCut,
    /// All nodes lose power at once.
    TotalPowerCut,
    /// Processes stand still.
    Pause,
    /// The network falls into parts, with a bridge or a ring now and then.
    Partition,
    /// What a node sends is lost, or what is sent to it.
    OneWay,
    /// A link is cut and mended again and again.
    Flapping,
    /// Messages are held back and arrive all at once.
    Clog,
    /// Connections break.
    Disconnect,
    /// Disks are slow.
    SlowDisk,
    /// Syncs fail.
    FailSync,
    /// Disks are full for a while.
    FullDisk,
    /// Clocks change their rates within the bound.
    Clock,
    /// Operators stop nodes.
    Stop,
    /// Operators restart all nodes, one after the other.
    Rolling,
    /// Nodes lose their disks, one at a time.
    Wipe,
    /// Logs are damaged, one at a time.
    Damage,
    /// Logs lose what the stores have passed.
    Trim,
    /// Logs lose their ends, and what the stores hold of them, one at a time.
    LoseEnd,
    /// Operators want other masters.
    DropMaster,
}

/// All families.
pub const FAMILIES: [Family; 22] = [
    Family::Kill,
    Family::KillAfter,
    Family::PowerCut,
    Family::MajorityPowerCut,
    Family::TotalPowerCut,
    Family::Pause,
    Family::Partition,
    Family::OneWay,
    Family::Flapping,
    Family::Clog,
    Family::Disconnect,
    Family::SlowDisk,
    Family::FailSync,
    Family::FullDisk,
    Family::Clock,
    Family::Stop,
    Family::Rolling,
    Family::Wipe,
    Family::Damage,
    Family::Trim,
    Family::LoseEnd,
    Family::DropMaster,
];

/// How a swarm is drawn.
#[derive(Clone, Debug, Default)]
pub struct Swarm {
    /// So many nodes, not as many as the seed draws.
    pub nodes: Option<u16>,
    /// What is drawn.
    pub kind: Kind,
}

/// What a swarm is drawn for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Everything that can happen.
    #[default]
    Usual,
    /// The same with all those faults that bring planted bugs to light soon.
    Harsh,
    /// Masters that come and go within fractions of a second, and leave entries behind that nobody knows the fate of.
    Churn,
    /// The same, and logs that lose power in the middle of a write, rot and are lost in part, again and again.
    Losses,
    /// What the speed is measured with: 60 s, 3 or 5 nodes, 2,000 operations.
    Standard,
    /// What the stack world can play.
    Stack,
    /// The same with power cuts, masters that stand still, clients that stay with one node, and long values.
    StackHarsh,
    /// Whole nodes again, whose masters stand still for about a lease, and clients that stay with one node.
    StackPauses,
}

impl Kind {
    /// All of them, by the names that commands take.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("swarm", Self::Usual),
        ("harsh", Self::Harsh),
        ("churn", Self::Churn),
        ("losses", Self::Losses),
        ("standard", Self::Standard),
        ("stack", Self::Stack),
        ("stack-harsh", Self::StackHarsh),
        ("stack-pauses", Self::StackPauses),
    ];

    /// Where it is played.
    pub fn world(self) -> WorldKind {
        match self {
            Self::Stack | Self::StackHarsh | Self::StackPauses => WorldKind::Stack,
            Self::Usual | Self::Harsh | Self::Churn | Self::Losses | Self::Standard => WorldKind::Core,
        }
    }

    /// The name that commands take.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("swarm", |(name, _)| name)
    }
}

/// The scenario that `seed` makes.
pub fn scenario(seed: u64, swarm: &Swarm) -> Scenario {
    let rng = &mut Rng::new(seed, stream::PLAN);
    if swarm.kind == Kind::StackPauses {
        return pauses(seed, swarm, rng);
    }
    if swarm.kind.world() == WorldKind::Stack {
        return whole_nodes(seed, swarm, rng);
    }
    if matches!(swarm.kind, Kind::Churn | Kind::Losses) {
        return churn(seed, swarm, rng);
    }
    let standard = swarm.kind == Kind::Standard;
    let drawn = rng.pick(&[3, 3, 3, 3, 5, 5, 5, 7, 2, 4, 1]).unwrap_or(3);
    let nodes = swarm.nodes.unwrap_or(if standard { [3, 5][usize::from(rng.chance(0.5))] } else { drawn });
    let duration = if standard { 60 * S } else { rng.between(4, 14) * S };
    let delay_min = rng.magnitude(20 * US, 2 * MS);
    let sync_min = rng.magnitude(20 * US, 2 * MS);
    let reckless = rng.chance(0.1);
    let drift_ppm = u32::try_from(rng.magnitude(100, 50_000)).unwrap_or(100);
    let clients = u16::try_from(rng.magnitude(1, 16)).unwrap_or(1);
    let think_max = if standard { 2 * 60 * S * u64::from(clients) / 2_000 } else { rng.magnitude(MS, 100 * MS) };
    let mut scenario = Scenario {
        worlds: vec![WorldKind::Core],
        budget: if reckless { Budget::Unrestricted } else { Budget::Tolerable },
        leave_broken: true,
        cluster: Cluster { nodes, lease: Span(LEASE), drift_ppm, staggered: rng.chance(0.5), ..Cluster::default() },
        network: Network {
            delay_min: Span(delay_min),
            delay_max: Span(delay_min + rng.magnitude(50 * US, 20 * MS)),
            drop: some(rng, 0.001, 0.1),
            duplicate: some(rng, 0.001, 0.1),
            reorder: some(rng, 0.001, 0.3),
            spike: some(rng, 0.000_1, 0.02),
            stale: some(rng, 0.000_1, 0.02),
        },
        disk: Disk {
            sync_min: Span(sync_min),
            sync_max: Span(sync_min + rng.magnitude(50 * US, 10 * MS)),
            apply_max: Span(rng.magnitude(10 * US, 5 * MS)),
            checkpoint: Span(rng.magnitude(50 * MS, 5 * S)),
            segment_bytes: rng.magnitude(2 << 10, 1 << 20),
            retention_bytes: Rng::new(seed, stream::LOGS).magnitude(1 << 10, 1 << 20),
        },
        workload: Workload {
            clients,
            think_max: Span(think_max),
            operations: 2_000,
            keys: rng.between(2, 8),
            padding_max: rng.magnitude(1, 400),
            loyal: 0,
        },
        limits: limits(rng),
        ..Scenario::quiet(format!("seed {seed}"), Span(duration))
    };
    if !standard {
        roles(&mut scenario.cluster, &mut Rng::new(seed, stream::ROLES));
    }
    for (family, number) in FAMILIES.into_iter().zip(0..) {
        strikes(&mut scenario, family, swarm, &mut Rng::new(seed, stream::FAMILY + number));
    }
    // A family may strike several times in a row, and the last ones too late.
    let end = scenario.duration;
    scenario.steps.retain(|step| step.at.is_some_and(|at| at < end));
    scenario.steps.sort_by_key(|step| step.at);
    scenario
}

/// Masters that come and go. A short lease, and a fault every lease or so that takes the master's messages, or its life,
/// somewhere in the middle of a commit. With losses some of them take a log's end, a byte of it, or what was not synced.
fn churn(seed: u64, swarm: &Swarm, rng: &mut Rng) -> Scenario {
    let nodes = swarm.nodes.unwrap_or(3);
    let lease = 100 * MS;
    let kinds_of_acts = if swarm.kind == Kind::Losses { 10 } else { 6 };
    let mut scenario = Scenario {
        cluster: Cluster { nodes, lease: Span(lease), drift_ppm: 10_000, ..Cluster::default() },
        network: Network {
            delay_max: Span(rng.magnitude(200 * US, 5 * MS)),
            spike: some(rng, 0.000_1, 0.02),
            stale: some(rng, 0.000_1, 0.02),
            ..Network::default()
        },
        disk: Disk {
            sync_max: Span(rng.magnitude(200 * US, 5 * MS)),
            checkpoint: Span(if swarm.kind == Kind::Losses { rng.magnitude(lease / 4, 10 * S) } else { S }),
            ..Disk::default()
        },
        workload: Workload {
            clients: 8 + nodes,
            think_max: Span(rng.magnitude(MS, 20 * MS)),
            loyal: nodes,
            ..Workload::default()
        },
        ..Scenario::quiet(format!("churn of seed {seed}"), Span(8 * S))
    };
    let logs = &mut Rng::new(seed, stream::LOGS);
    if swarm.kind == Kind::Losses && logs.chance(0.5) {
        scenario.disk.segment_bytes = logs.magnitude(2 << 10, 64 << 10);
        scenario.disk.retention_bytes = logs.magnitude(1 << 10, 256 << 10);
    }
    roles(&mut scenario.cluster, &mut Rng::new(seed, stream::ROLES));
    let mut at = 5 * lease;
    while at < scenario.duration.0 {
        let time = Span(rng.magnitude(lease / 8, 8 * lease));
        let node = victim(nodes, rng);
        let one = Whom::Some(vec![node]);
        let act = match rng.below(kinds_of_acts) {
            0 => Act::Cut { links: Links { from: one, to: Whom::Others, both: false }, time },
            1 => Act::Cut { links: Links { from: Whom::Others, to: one, both: false }, time },
            2 => {
                let to = Whom::Some(vec![victim(nodes, rng)]);
                Act::Cut { links: Links { from: one, to, both: rng.chance(0.5) }, time }
            }
            3 => Act::KillAfter { node, actions: rng.magnitude(1, 32) - 1, down: time },
            4 => Act::Clog { links: Links { from: one, to: Whom::Others, both: rng.chance(0.5) }, time },
            5 => Act::Pause { node, time },
            6 => Act::Damage { node, down: time },
            7 => Act::LoseEnd { node, down: time },
            8 => Act::PowerCut { nodes: one, down: time },
            _ => Act::PowerCut { nodes: Whom::All, down: time },
        };
        scenario.steps.push(Step { at: Some(Span(at)), when: None, after: None, act, id: None });
        at += rng.magnitude(lease / 8, 4 * lease);
    }
    scenario
}

/// Whole nodes: the families of faults that they can be played with, in whole milliseconds.
fn whole_nodes(seed: u64, swarm: &Swarm, rng: &mut Rng) -> Scenario {
    let nodes = swarm.nodes.or(rng.pick(&[3, 3, 3, 3, 5, 1, 2])).unwrap_or(3);
    let mut scenario = Scenario {
        worlds: vec![WorldKind::Stack],
        cluster: Cluster { nodes, lease: Span(LEASE), drift_ppm: 10_000, ..Cluster::default() },
        network: Network { delay_max: Span(rng.magnitude(MS, 20 * MS)), ..Network::default() },
        disk: Disk { sync_max: Span(rng.magnitude(MS, 10 * MS)), ..Disk::default() },
        workload: Workload {
            clients: u16::try_from(rng.magnitude(1, 12)).unwrap_or(1),
            think_max: Span(rng.magnitude(2 * MS, 100 * MS)),
            keys: rng.between(2, 20),
            ..Workload::default()
        },
        ..Scenario::quiet(format!("whole nodes, seed {seed}"), Span(rng.between(3, 8) * S))
    };
    // Messages that are held back and ways that are cut one way do not go together.
    let mut unwanted = vec![Family::Pause];
    if swarm.kind == Kind::StackHarsh {
        scenario.disk.checkpoint = Span(rng.magnitude(10 * MS, 2 * S));
        scenario.workload.clients += 2 * nodes;
        scenario.workload.loyal = 2 * nodes;
        // With long values a range is read in turns.
        scenario.workload.padding_max = if rng.chance(0.3) { 100_000 } else { 40 };
        unwanted = vec![if rng.chance(0.8) { Family::OneWay } else { Family::Pause }];
    }
    for (family, number) in FAMILIES.into_iter().zip(0..) {
        let is_played = !matches!(
            family,
            Family::KillAfter
                | Family::Disconnect
                | Family::Damage
                | Family::LoseEnd
                | Family::Trim
                | Family::Clog
                | Family::DropMaster
        );
        if is_played && !unwanted.contains(&family) {
            strikes(&mut scenario, family, swarm, &mut Rng::new(seed, stream::FAMILY + number));
        }
    }
    // One memory is lost at the most, and never when two of two are needed.
    let mut wipes = if nodes >= 3 { 1 } else { 0 };
    scenario.steps.retain(|step| {
        let is_wipe = matches!(step.act, Act::Wipe { .. });
        let stays = !is_wipe || wipes > 0;
        wipes -= i32::from(is_wipe && stays);
        stays
    });
    let end = scenario.duration;
    scenario.steps.retain(|step| step.at.is_some_and(|at| at < end));
    scenario.steps.sort_by_key(|step| step.at);
    scenario
}

/// Masters that stand still for about a lease, again and again: a driver wakes late, and finds reads waiting.
fn pauses(seed: u64, swarm: &Swarm, rng: &mut Rng) -> Scenario {
    let nodes = swarm.nodes.unwrap_or(3);
    let mut scenario = Scenario {
        worlds: vec![WorldKind::Stack],
        cluster: Cluster { nodes, lease: Span(LEASE), drift_ppm: 10_000, ..Cluster::default() },
        workload: Workload { clients: 8, think_max: Span(20 * MS), loyal: 6, ..Workload::default() },
        ..Scenario::quiet(format!("pauses of seed {seed}"), Span(10 * S))
    };
    let mut at = 1_500 * MS;
    while at + 2 * S < scenario.duration.0 {
        let time = Span(rng.between(LEASE / MS, 3 * LEASE / MS) * MS);
        let act = Act::Pause { node: Who::Master, time };
        scenario.steps.push(Step { at: Some(Span(at)), when: None, after: None, act, id: None });
        at += time.0 + rng.between(1_000, 1_500) * MS;
    }
    scenario
}

/// The requests that `scenario` makes: those of its workload as `seed` draws them, or those that it lists.
pub fn operations(scenario: &Scenario, seed: u64) -> Vec<Op> {
    let numbered = scenario.ops.iter().zip(0..);
    let mut ops: Vec<Op> = numbered.map(|(op, number)| Op { id: op.id.or(Some(number)), ..op.clone() }).collect();
    let workload = &scenario.workload;
    let rng = &mut Rng::new(seed, stream::WORKLOAD);
    let mut asked_at = vec![0; usize::from(workload.clients)];
    for number in 0..workload.operations {
        let Some((client, at)) = asked_at.iter_mut().enumerate().min_by_key(|(_, at)| **at) else { break };
        let after = rng.below(workload.think_max.0 + 1);
        *at += after + MS;
        if *at > scenario.duration.0 {
            break;
        }
        let client = u16::try_from(client).unwrap_or(0);
        let request = request(workload, client < workload.loyal, rng);
        let first_at = if number < u64::from(workload.clients) { LEASE } else { 0 };
        ops.push(Op { client, at: Span(first_at), after: Span(after), request, id: Some((1 << 31) + number) });
    }
    ops
}

fn request(workload: &Workload, is_loyal: bool, rng: &mut Rng) -> Request {
    let key = |rng: &mut Rng| format!("k{}", rng.below(workload.keys.max(1)));
    let (verb, count) = match if is_loyal && rng.chance(0.8) { rng.between(12, 19) } else { rng.below(20) } {
        0..5 => (Verb::Set, 1),
        5..8 => (Verb::Cas, 1),
        8 => (Verb::Replace, 1),
        9 => (Verb::Delete, 1),
        10 => (Verb::Pair, 2),
        11 if rng.chance(0.2) => (Verb::Clear, 1),
        11..15 => (Verb::Get, 1),
        15..18 => (Verb::QuorumGet, 1),
        18 if rng.chance(0.5) => (Verb::RelaxedGet, 1),
        18 => (Verb::AtLeastGet, 1),
        _ if rng.chance(0.5) => (Verb::Range, 2),
        _ => (Verb::QuorumRange, 2),
    };
    let mut keys: Vec<String> = (0..count).map(|_| key(rng)).collect();
    keys.sort();
    Request { verb, keys }
}

/// Now and then a learner more, a witness among the voters, or preferred nodes.
fn roles(cluster: &mut Cluster, rng: &mut Rng) {
    let voters = cluster.nodes;
    if rng.chance(0.2) && voters < 7 {
        (cluster.nodes, cluster.learners) = (voters + 1, 1);
    }
    if rng.chance(0.2) && voters >= 3 {
        cluster.witnesses = 1;
    }
    if rng.chance(0.2) {
        cluster.preferred = u16::try_from(rng.between(1, 2)).unwrap_or(1).min(voters - cluster.witnesses);
    }
}

/// Draws all strikes of one family.
fn strikes(scenario: &mut Scenario, family: Family, swarm: &Swarm, rng: &mut Rng) {
    let (nodes, duration) = (scenario.cluster.nodes, scenario.duration.0);
    let rare = matches!(
        family,
        Family::FailSync | Family::FullDisk | Family::TotalPowerCut | Family::MajorityPowerCut | Family::Rolling
    );
    let mut mean = rng.magnitude(if rare { 2 * S } else { 300 * MS }, 10 * S);
    let mut strikes = rng.chance(0.5);
    if is_certain(family, swarm.kind) {
        let most = if family == Family::Pause { S } else { 3 * S };
        (strikes, mean) = (true, mean.min(most));
    }
    if family == Family::Clock {
        // Clocks are wrong from the start.
        for node in 1..=nodes {
            let ppm = clock_rate(scenario.cluster.drift_ppm, rng);
            scenario.clocks.insert(NodeId(node).to_string(), ppm);
        }
    }
    let mut at = rng.below(2 * mean);
    while strikes && at < duration {
        for (delay, act) in acts(family, nodes, scenario.cluster.drift_ppm, rng) {
            scenario.steps.push(Step { at: Some(Span(at + delay)), when: None, after: None, act, id: None });
        }
        at += rng.below(2 * mean) + MS;
    }
}

/// Whether this family strikes whatever the seed says, and often.
fn is_certain(family: Family, kind: Kind) -> bool {
    use Family::{Clock, Kill, KillAfter, Partition, Pause, PowerCut, Trim, Wipe};
    match kind {
        Kind::Harsh => matches!(family, Trim | Kill | KillAfter | PowerCut | Partition | Clock | Wipe),
        Kind::StackHarsh => matches!(family, PowerCut | Pause),
        Kind::Usual | Kind::Churn | Kind::Losses | Kind::Standard | Kind::Stack | Kind::StackPauses => false,
    }
}

fn acts(family: Family, nodes: u16, drift_ppm: u32, rng: &mut Rng) -> Vec<(u64, Act)> {
    let node = victim(nodes, rng);
    let down = down(rng);
    let while_cut = Span(rng.magnitude(10 * MS, 5 * S));
    let act = match family {
        Family::Kill => Act::Kill { node, down },
        Family::KillAfter => Act::KillAfter { node, actions: rng.magnitude(1, 64) - 1, down },
        Family::PowerCut => Act::PowerCut { nodes: Whom::Some(vec![node]), down },
        Family::MajorityPowerCut => Act::PowerCut { nodes: Whom::Majority, down },
        Family::TotalPowerCut => Act::PowerCut { nodes: Whom::All, down },
        Family::Pause => {
            let time = if rng.chance(0.5) { rng.magnitude(MS, LEASE) } else { rng.between(LEASE, 4 * LEASE) };
            Act::Pause { node, time: Span(time) }
        }
        Family::Partition => return partition(nodes, while_cut, rng),
        Family::OneWay => {
            let links = Links { from: Whom::Some(vec![node]), to: Whom::Others, both: false };
            let back = Links { from: Whom::Others, to: Whom::Some(vec![node]), both: false };
            Act::Cut { links: if rng.chance(0.5) { links } else { back }, time: while_cut }
        }
        Family::Flapping => {
            let links = Links { from: Whom::Some(vec![node]), to: Whom::Some(vec![victim(nodes, rng)]), both: true };
            let time = Span(rng.magnitude(10 * MS, LEASE));
            let cut = Act::Cut { links, time };
            return (0..rng.between(2, 8)).map(|turn| (turn * 2 * time.0, cut.clone())).collect();
        }
        Family::Clog => {
            let links = Links { from: Whom::Some(vec![node]), to: Whom::Others, both: rng.chance(0.5) };
            Act::Clog { links, time: Span(rng.magnitude(10 * MS, 4 * LEASE)) }
        }
        Family::Disconnect => {
            let to = if rng.chance(0.5) { Whom::Others } else { Whom::Some(vec![victim(nodes, rng)]) };
            Act::Disconnect { links: Links { from: Whom::Some(vec![node]), to, both: true } }
        }
        Family::SlowDisk => Act::SlowDisk { node, time: Span(rng.magnitude(LEASE / 4, 4 * S)) },
        Family::FailSync => Act::FailSync { node },
        Family::FullDisk => Act::FullDisk { node, time: Span(rng.magnitude(LEASE, 4 * S)) },
        Family::Clock => Act::Clock { node, ppm: clock_rate(drift_ppm, rng) },
        Family::Stop => Act::Stop { node, down },
        Family::Rolling => {
            let pause = LEASE + rng.magnitude(MS, 4 * LEASE);
            let stop = |turn: u16| Act::Stop { node: Who::Node(NodeId(turn + 1)), down: Span(down.0.min(LEASE)) };
            return (0..nodes).map(|turn| (u64::from(turn) * pause, stop(turn))).collect();
        }
        Family::DropMaster => Act::DropMaster { node },
        Family::Wipe => Act::Wipe { node, down },
        Family::Damage => Act::Damage { node, down },
        Family::Trim => Act::Trim { node },
        Family::LoseEnd => Act::LoseEnd { node, down },
    };
    vec![(0, act)]
}

/// The master, half of the time.
fn victim(nodes: u16, rng: &mut Rng) -> Who {
    let any = NodeId(u16::try_from(rng.between(1, u64::from(nodes))).unwrap_or(1));
    if rng.chance(0.5) { Who::Master } else { Who::Node(any) }
}

fn down(rng: &mut Rng) -> Span {
    Span(if rng.chance(0.3) { rng.magnitude(MS, 20 * MS) } else { rng.magnitude(20 * MS, 5 * S) })
}

/// Two sides, and now and then a link more or less: bridges and rings.
fn partition(nodes: u16, time: Span, rng: &mut Rng) -> Vec<(u64, Act)> {
    let sides: Vec<(NodeId, bool)> = (1..=nodes).map(|node| (NodeId(node), rng.chance(0.5))).collect();
    let mut acts = Vec::new();
    for (a, side) in &sides {
        let over: Vec<Who> = (sides.iter())
            .filter(|(b, other)| a < b && side != other && !rng.chance(0.1))
            .map(|(b, _)| Who::Node(*b))
            .collect();
        if !over.is_empty() {
            let links = Links { from: Whom::Some(vec![Who::Node(*a)]), to: Whom::Some(over), both: true };
            acts.push((0, Act::Cut { links, time }));
        }
    }
    acts
}

/// Within the bound, and often at it.
fn clock_rate(drift_ppm: u32, rng: &mut Rng) -> i64 {
    let bound = u64::from(drift_ppm);
    let magnitude = if rng.chance(0.5) { bound } else { rng.between(0, bound) };
    let magnitude = i64::try_from(magnitude).unwrap_or(0);
    if rng.chance(0.5) { magnitude } else { -magnitude }
}

fn some(rng: &mut Rng, low: f64, high: f64) -> f64 {
    let rate = rng.rate(low, high);
    if rng.chance(0.5) { rate } else { 0.0 }
}

/// Often tiny, so that every path that a limit opens is walked.
fn limits(rng: &mut Rng) -> Option<LimitsPlan> {
    if rng.chance(0.3) {
        return None;
    }
    let undecided_max = Span(rng.between(1_000, 5_000) * MS);
    let mut size = |low, high| usize::try_from(rng.magnitude(low, high)).unwrap_or(1);
    Some(LimitsPlan {
        in_flight_slots_max: size(1, 64) as u64,
        in_flight_bytes_max: size(64, 1 << 20),
        batch_bytes_max: size(1, 1 << 16),
        queued_requests_max: size(1, 1_000),
        queued_bytes_max: size(20, 1 << 20),
        // A piece of catch-up takes a round trip: with less, a run would be over before the log is.
        message_bytes_max: size(512, 1 << 16),
        cache_bytes_max: size(1, 1 << 20),
        cache_slots_max: size(1, 1_000) as u64,
        undecided_max,
        queued_reads_max: size(1, 1_000),
    })
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn what_a_seed_makes_can_be_written_and_read_again() {
        for seed in 0..50 {
            let made = scenario(seed, &Swarm::default());
            assert_eq!(made, scenario(seed, &Swarm::default()));
            let read = file::parse(&file::print(&made).unwrap()).unwrap();
            assert_eq!(read, made, "seed {seed}");
        }
    }

    #[test]
    fn one_family_less_does_not_shift_the_others() {
        let made = scenario(7, &Swarm::default());
        let mut all = Vec::new();
        for (family, number) in FAMILIES.into_iter().zip(0..) {
            let mut one = Scenario { steps: Vec::new(), ..made.clone() };
            strikes(&mut one, family, &Swarm::default(), &mut Rng::new(7, stream::FAMILY + number));
            all.extend(one.steps);
        }
        all.retain(|step| step.at.is_some_and(|at| at < made.duration));
        all.sort_by_key(|step| step.at);
        assert_eq!(all, made.steps);
    }

    #[test]
    fn a_listed_workload_is_the_drawn_one() {
        let made = scenario(3, &Swarm::default());
        let ops = operations(&made, 3);
        assert!(!ops.is_empty());
        let mut listed = made.clone();
        listed.ops.clone_from(&ops);
        listed.workload.clients = 0;
        assert_eq!(operations(&listed, 3), ops);
        // And one less does not shift the others.
        let gone = listed.ops.remove(2);
        let left: Vec<Op> = ops.into_iter().filter(|op| *op != gone).collect();
        assert_eq!(operations(&listed, 3), left);
    }
}
