//! From a failing run to a scenario that a person reads in a minute: what is not needed for the failure is taken away.
//!
//! First everything that the run did is made explicit: the steps that were done, the requests that were made. Then what
//! is left is made smaller as long as the same checker fails for the same reason: steps and requests by delta debugging
//! (Zeller, "Yesterday, my program worked. Today, it does not. Why?", 1999), then nodes, noise, limits and times.

use std::time::Duration;

use crate::campaign::play_in;
use crate::check::Violation;
use crate::core::Report;
use crate::mutant::Bugs;
use crate::scenario::draw::operations;
use crate::scenario::{Expect, LimitsPlan, MS, Scenario, Span, WorldKind};
use crate::trace::Recorder;

/// Noise that changes with what was taken away may hide the failure: as many other seeds are tried.
const OTHER_SEEDS: u64 = 3;

/// A failing run, made small.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left.
    pub scenario: Scenario,
    /// The seed with which it fails.
    pub seed: u64,
    /// How it fails.
    pub report: Report,
    /// How many runs it took.
    pub runs: u64,
}

/// Looks for the smallest scenario that fails as this one does with this seed; `None` when it does not fail. `is_over`
/// says when the time for it is up.
pub fn shrink(
    world: WorldKind,
    scenario: &Scenario,
    seed: u64,
    bugs: Bugs,
    is_over: &dyn Fn() -> bool,
) -> Option<Shrunk> {
    let report = play_in(world, scenario, seed, bugs, Recorder::default()).ok()?;
    let reason = reason(report.violation.as_ref()?);
    let explicit = explicit(scenario, seed, &report);
    let best = Shrunk { scenario: scenario.clone(), seed, report, runs: 1 };
    let mut shrinker = Shrinker { world, bugs, reason, best, is_over };
    if !shrinker.accepts(explicit) {
        // The run cannot be told step by step; what is left of it can still be made smaller.
        shrinker.best.scenario = scenario.clone();
    }
    loop {
        let before = size(&shrinker.best.scenario);
        shrinker.pass();
        if is_over() || size(&shrinker.best.scenario) == before {
            break;
        }
    }
    let mut best = shrinker.best;
    let checker = best.report.violation.as_ref().map_or("K0", |broken| broken.checker);
    best.scenario.title = best.report.violation.as_ref().map(|broken| title(&broken.story)).unwrap_or_default();
    best.scenario.worlds = vec![world];
    best.scenario.seeds = 1;
    best.scenario.first_seed = best.seed;
    best.scenario.planted = bugs.planted.map(|planted| planted.to_string());
    best.scenario.expect = if bugs.planted.is_some() { Expect::Fail(checker.to_owned()) } else { Expect::Pass };
    Some(best)
}

/// How much there is to read.
pub fn size(scenario: &Scenario) -> (usize, usize, u64) {
    let noise = [
        scenario.network.drop > 0.0,
        scenario.network.duplicate > 0.0,
        scenario.network.reorder > 0.0,
        scenario.network.spike > 0.0,
        scenario.network.stale > 0.0,
        scenario.limits.is_some(),
        scenario.cluster.staggered,
        scenario.leave_broken,
    ];
    let noise = noise.iter().filter(|on| **on).count() as u64;
    let ops = scenario.ops.len() + usize::from(scenario.workload.clients);
    (scenario.steps.len(), ops, noise + u64::from(scenario.cluster.nodes) + scenario.clocks.len() as u64)
}

/// Which kind of value a story happens to be about does not matter.
const VALUES: [&str; 4] = ["commands", "master", "noop", "configuration"];

/// What a violation is about: its checker, and its story without names, numbers and values.
fn reason(broken: &Violation) -> (&'static str, String) {
    let words = broken.story.split(|c: char| !c.is_ascii_alphabetic());
    let words = words.filter(|word| word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase()));
    let words = words.filter(|word| !VALUES.contains(word));
    (broken.checker, words.take(4).collect::<Vec<_>>().join(" "))
}

fn title(story: &str) -> String {
    let line = story.lines().next().unwrap_or_default();
    line.chars().take(100).collect()
}

/// The same run with every request listed, and no step that was not done.
fn explicit(scenario: &Scenario, seed: u64, report: &Report) -> Scenario {
    let mut explicit = scenario.clone();
    explicit.ops = operations(scenario, seed);
    explicit.ops.retain(|op| op.id.is_some_and(|id| report.ops_made.contains(&id)));
    explicit.workload.clients = 0;
    for (step, number) in explicit.steps.iter_mut().zip(0..) {
        step.id = step.id.or(Some(number));
    }
    explicit
}

struct Shrinker<'a> {
    world: WorldKind,
    bugs: Bugs,
    reason: (&'static str, String),
    best: Shrunk,
    is_over: &'a dyn Fn() -> bool,
}

impl Shrinker<'_> {
    /// Tries everything once.
    fn pass(&mut self) {
        self.drop_elements(
            |scenario| scenario.steps.len(),
            |scenario, keep| {
                let mut index = 0;
                scenario.steps.retain(|_| {
                    index += 1;
                    keep(index - 1)
                });
            },
        );
        self.drop_elements(
            |scenario| scenario.ops.len(),
            |scenario, keep| {
                let mut index = 0;
                scenario.ops.retain(|_| {
                    index += 1;
                    keep(index - 1)
                });
            },
        );
        self.fewer_nodes();
        self.less_noise();
        self.shorter_times();
    }

    /// Takes elements away in halves, quarters and so on, down to single ones, as long as it fails.
    fn drop_elements(
        &mut self,
        count: impl Fn(&Scenario) -> usize,
        retain: impl Fn(&mut Scenario, &dyn Fn(usize) -> bool),
    ) {
        let mut chunk = count(&self.best.scenario).max(1);
        loop {
            let mut start = 0;
            while start < count(&self.best.scenario) && !(self.is_over)() {
                let mut candidate = self.best.scenario.clone();
                retain(&mut candidate, &|index| index < start || index >= start + chunk);
                if !self.accepts(candidate) {
                    start += chunk;
                }
            }
            if chunk == 1 || (self.is_over)() {
                return;
            }
            chunk = (chunk / 2).max(1);
        }
    }

    fn fewer_nodes(&mut self) {
        for nodes in [1, 2, 3, 5] {
            if nodes < self.best.scenario.cluster.nodes {
                let mut candidate = self.best.scenario.clone();
                candidate.cluster.nodes = nodes;
                candidate.clocks.retain(|name, _| name[1..].parse::<u16>().is_ok_and(|node| node <= nodes));
                if self.accepts(candidate) {
                    return;
                }
            }
        }
    }

    fn less_noise(&mut self) {
        let simpler: [fn(&mut Scenario); 12] = [
            |scenario| scenario.network = crate::scenario::Network::default(),
            |scenario| scenario.network.drop = 0.0,
            |scenario| scenario.network.duplicate = 0.0,
            |scenario| scenario.network.reorder = 0.0,
            |scenario| scenario.network.spike = 0.0,
            |scenario| scenario.network.stale = 0.0,
            |scenario| scenario.limits = None::<LimitsPlan>,
            |scenario| scenario.disk = crate::scenario::Disk::default(),
            |scenario| scenario.cluster.staggered = false,
            |scenario| scenario.leave_broken = false,
            |scenario| scenario.clocks.clear(),
            |scenario| scenario.workload = crate::scenario::Workload { clients: 0, ..Default::default() },
        ];
        for simplify in simpler {
            let mut candidate = self.best.scenario.clone();
            simplify(&mut candidate);
            if candidate != self.best.scenario {
                self.accepts(candidate);
            }
        }
    }

    fn shorter_times(&mut self) {
        for index in 0..self.best.scenario.steps.len() {
            while let Some(act) = self.best.scenario.steps[index].act.halved() {
                let mut candidate = self.best.scenario.clone();
                candidate.steps[index].act = act;
                if (self.is_over)() || !self.accepts(candidate) {
                    break;
                }
            }
        }
        for index in 0..self.best.scenario.steps.len() {
            let mut candidate = self.best.scenario.clone();
            if let Some(at) = &mut candidate.steps[index].at {
                *at = Span(at.0 / (100 * MS) * (100 * MS));
                self.accepts(candidate);
            }
        }
        let duration = self.best.scenario.duration.0;
        for shorter in [duration / 4, duration / 2, duration * 3 / 4] {
            let mut candidate = self.best.scenario.clone();
            candidate.duration = Span(shorter / MS * MS);
            if self.accepts(candidate) {
                break;
            }
        }
    }

    /// Takes this scenario for the best if it fails in the same way, with the same seed or another one.
    fn accepts(&mut self, mut scenario: Scenario) -> bool {
        let end = scenario.duration;
        scenario.steps.retain(|step| step.at.is_none_or(|at| at < end));
        if scenario.check().is_err() {
            return false;
        }
        for turn in 0..=OTHER_SEEDS {
            if (self.is_over)() {
                return false;
            }
            let seed = self.best.seed.wrapping_add(turn * 1_000_003);
            self.best.runs += 1;
            let Ok(report) = play_in(self.world, &scenario, seed, self.bugs, Recorder::default()) else { return false };
            if report.violation.as_ref().is_some_and(|broken| reason(broken) == self.reason) {
                let runs = self.best.runs;
                self.best = Shrunk { scenario, seed, report, runs };
                return true;
            }
        }
        false
    }
}

/// Says when this much time has passed.
#[expect(clippy::disallowed_types, reason = "how long a person waits concerns no run")]
pub fn deadline(time: Duration) -> impl Fn() -> bool {
    let begun = std::time::Instant::now();
    move || begun.elapsed() >= time
}
