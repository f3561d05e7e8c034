//! Scenarios in the stack world. One that it cannot play is an error, and never thinned out.

use std::time::Duration;

use trialbay::config::Reads;

use super::plan::{StackFault, StackPlan, Who};
use super::world::{StackReport, run_watched};
use crate::core::{Counters, Report};
use crate::mutant::Bugs;
use crate::rng::Rng;
use crate::scenario::{self, Act, Budget, Scenario, Span, Step, Whom};
use crate::trace::Recorder;

/// How long the load goes on after the faults, and how long the nodes have to become level, in leases.
const CALM_LEASES: u32 = 10;
const CONVERGE_LEASES: u32 = 50;

/// How long a sync takes on a slow disk, in milliseconds.
const SLOW_SYNC_MS: (u64, u64) = (100, 1_000);

/// Chooses between reads by lease and by quorum.
const READS_STREAM: u64 = 5;

/// Plays a scenario with whole nodes.
///
/// # Errors
/// What in it this world cannot play.
pub fn play(scenario: &Scenario, seed: u64, bugs: Bugs, watch: Recorder) -> Result<Report, String> {
    let plan = plan(scenario, seed, bugs)?;
    Ok(report(run_watched(&plan, watch), scenario))
}

/// The plan that a scenario is, with this seed.
///
/// # Errors
/// What in it this world cannot play.
pub fn plan(scenario: &Scenario, seed: u64, bugs: Bugs) -> Result<StackPlan, String> {
    if bugs.in_world().is_some() {
        return Err("bugs of world/ are planted in the core world only".to_owned());
    }
    if !scenario.ops.is_empty() {
        return Err("the clients of the stack world draw their calls: `op` is for the core world".to_owned());
    }
    if scenario.limits.is_some() {
        return Err("whole nodes have the usual limits: `limits` is for the core world".to_owned());
    }
    let network = &scenario.network;
    let noise = [network.duplicate, network.reorder, network.spike, network.stale, network.drop];
    if noise.iter().any(|rate| *rate > 0.0) {
        return Err(
            "streams lose, double and overtake nothing: the rates of `network` are for the core world".to_owned()
        );
    }
    let lease = scenario.lease();
    let workload = &scenario.workload;
    let mut plan = StackPlan {
        nodes: scenario.cluster.nodes,
        clients: workload.clients,
        loyal: workload.loyal,
        keys: workload.keys,
        padding_max: workload.padding_max,
        rest_ms: (0, millis(workload.think_max)),
        call_max: lease * 12,
        lease,
        clock_drift_ppm: scenario.cluster.drift_ppm,
        reads: if Rng::new(seed, READS_STREAM).chance(0.5) { Reads::Lease } else { Reads::Quorum },
        message_ms: (1, millis(network.delay_max).max(1)),
        sync_ms: (1, millis(scenario.disk.sync_max).max(1)),
        store_age_max: time(scenario.disk.checkpoint),
        log_bytes: (scenario.disk.segment_bytes, scenario.disk.retention_bytes),
        chaos: time(scenario.duration),
        calm: lease * CALM_LEASES,
        converge_max: lease * CONVERGE_LEASES,
        bugs,
        ..StackPlan::new(seed)
    };
    for (name, ppm) in &scenario.clocks {
        let node = name.strip_prefix('n').and_then(|id| id.parse().ok()).map_or(Who::Nodes, Who::Node);
        plan.faults.push((Duration::ZERO, StackFault::ClockRate(node, *ppm)));
    }
    for step in &scenario.steps {
        let at = at(step)?;
        plan.faults.extend(faults(&step.act)?.into_iter().map(|fault| (at, fault)));
    }
    Ok(plan)
}

fn at(step: &Step) -> Result<Duration, String> {
    step.at.map(time).ok_or_else(|| "`when` is for the core world: give a time with `at`".to_owned())
}

fn faults(act: &Act) -> Result<Vec<StackFault>, String> {
    let lasting = |fault, span: &Span| StackFault::For(Box::new(fault), time(*span));
    Ok(match act {
        Act::Kill { node, down } => vec![lasting(StackFault::Kill(who(*node)), down)],
        Act::Pause { node, time } => vec![lasting(StackFault::Pause(who(*node)), time)],
        Act::Stop { node, down } => vec![lasting(StackFault::Stop(who(*node)), down)],
        Act::Wipe { node, down } => vec![lasting(StackFault::Wipe(who(*node)), down)],
        Act::PowerCut { nodes, down } => {
            whom(nodes)?.into_iter().map(|who| lasting(StackFault::PowerCut(who), down)).collect()
        }
        Act::Cut { links, time } => {
            let cut = if links.both { StackFault::Partition } else { StackFault::PartitionOneWay };
            pairs(&links.from, &links.to)?.into_iter().map(|(a, b)| lasting(cut(a, b), time)).collect()
        }
        Act::Clog { links, time } => {
            pairs(&links.from, &links.to)?.into_iter().map(|(a, b)| lasting(StackFault::Hold(a, b), time)).collect()
        }
        Act::SlowDisk { node, time } => vec![lasting(StackFault::SyncTakes(who(*node), SLOW_SYNC_MS), time)],
        // It ends by itself, and whoever watches over it starts it again.
        Act::FailSync { node } => vec![lasting(StackFault::FailNextSync(who(*node)), &Span(scenario::S))],
        Act::FullDisk { node, time } => vec![lasting(StackFault::FillDisk(who(*node)), time)],
        Act::Clock { node, ppm } => vec![StackFault::ClockRate(who(*node), *ppm)],
        Act::KillAfter { .. }
        | Act::DropMaster { .. }
        | Act::Damage { .. }
        | Act::LoseEnd { .. }
        | Act::Disconnect { .. }
        | Act::Trim { .. } => return Err(format!("`{act}` is for the core world")),
    })
}

fn who(who: scenario::Who) -> Who {
    match who {
        scenario::Who::Node(node) => Who::Node(node.0),
        scenario::Who::Master => Who::Master,
        scenario::Who::Slave => Who::Slave,
    }
}

fn whom(whom: &Whom) -> Result<Vec<Who>, String> {
    Ok(match whom {
        Whom::Some(nodes) => nodes.iter().map(|node| who(*node)).collect(),
        Whom::All => vec![Who::Nodes],
        Whom::Majority => vec![Who::Majority],
        Whom::Others => return Err("`others` are others than somebody: it stands in links only".to_owned()),
    })
}

/// The others are all: nobody has a link to itself.
fn pairs(from: &Whom, to: &Whom) -> Result<Vec<(Who, Who)>, String> {
    let side = |side: &Whom| if *side == Whom::Others { Ok(vec![Who::Nodes]) } else { whom(side) };
    let (from, to) = (side(from)?, side(to)?);
    Ok(from.iter().flat_map(|a| to.iter().map(|b| (*a, *b))).collect())
}

fn time(span: Span) -> Duration {
    Duration::from_nanos(span.0)
}

fn millis(span: Span) -> u64 {
    span.0 / scenario::MS
}

fn report(played: StackReport, scenario: &Scenario) -> Report {
    let counters = Counters::from([
        ("updates acknowledged", played.acknowledged_at.len() as u64),
        ("calls answered", played.calls.answered),
        ("refusals", played.calls.refused),
        ("unknown responses", played.calls.unknown),
        ("slots", played.slots),
        ("heads installed", played.heads.len() as u64),
    ]);
    let demanded = |checker: &str| scenario.budget == Budget::Tolerable || !matches!(checker, "K9" | "K11");
    let steps = scenario.steps.iter().filter_map(|step| Some((step.at?.0, step.act.to_string())));
    Report {
        violation: played.violations.into_iter().find(|broken| demanded(broken.checker)),
        event: played.entries,
        at: u64::try_from(played.simulated.as_nanos()).unwrap_or(u64::MAX),
        trace_hash: played.trace,
        counters,
        faults: steps.collect(),
        steps_done: vec![true; scenario.steps.len()],
        ops_made: Vec::new(),
        at_the_end: true,
    }
}
