//! From a failing run to a scenario that a person reads in a minute: what is not needed for the failure is taken away.
//!
//! A smaller scenario is accepted only if the same checker fails for the same reason. Whatever is taken away shifts the
//! noise of what is left, and a failure is often a coincidence: so each candidate is played with many seeds, as many as
//! its share of the work allows. A short run is a hundred times cheaper than a long one, hence the order:
//!
//! 1. Everything that the run did is made explicit, and it ends where it failed.
//! 2. Only the last moments are kept, with some of the requests made then: the shortest and the fewest that fail
//!    (`smaller::last`).
//! 3. What is left is made smaller until nothing helps any more: steps and requests by delta debugging (Zeller,
//!    "Yesterday, my program worked. Today, it does not. Why?", 1999), then nodes, noise, limits and times.
//! 4. While there is too much left to read, each candidate gets a greater share.

mod smaller;

use std::time::Duration;

pub use self::smaller::size;
use self::smaller::{List, SIMPLER, earlier, ended, explicit, last, on_fewer, prolonged, some_requests, tidy, times};
use crate::campaign::{play_in, play_until};
use crate::check::Violation;
use crate::core::Report;
use crate::mutant::Bugs;
use crate::rng::Rng;
use crate::scenario::{Expect, MS, S, Scenario, Span, Workload, WorldKind};
use crate::trace::Recorder;

/// What a person reads in a minute: at most so many steps and requests.
const STEPS_FEW: usize = 12;
const REQUESTS_FEW: usize = 10;

/// A candidate is given up after so many events, over all seeds: at first, and at last.
const EVENTS_FIRST: u64 = 150_000;
const EVENTS_MOST: u64 = 64 * EVENTS_FIRST;
/// And after so many seeds.
const SEEDS_MOST: u64 = 500;

/// The lengths of the last moments that are tried, in leases.
const WINDOWS: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// The numbers of requests that are tried with each.
const REQUESTS: [usize; 3] = [60, 250, usize::MAX];

/// The shortest segment of a log, in bytes.
const SEGMENT_SHORT: u64 = 2 << 10;

/// No client thinks longer.
const THINK_LONG: Span = Span(S);

/// Steps and requests closer together than this are not moved closer.
const GAP_SHORT: u64 = 50 * MS;

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
    /// How many steps and requests there were before.
    pub before: (usize, usize),
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
    let reason = Reason::of(report.violation.as_ref()?);
    let before = (scenario.steps.len(), report.ops_made.len());
    let best = Shrunk { scenario: scenario.clone(), seed, report, runs: 1, before };
    let rng = Rng::new(seed, 0);
    let mut shrinker = Shrinker { world, bugs, reason, best, rng, events: EVENTS_FIRST, is_over };
    shrinker.search();
    let mut best = shrinker.best;
    let broken = best.report.violation.as_ref()?;
    best.scenario.title = broken.story.lines().next().unwrap_or_default().chars().take(100).collect();
    best.scenario.worlds = vec![world];
    best.scenario.seeds = 1;
    best.scenario.first_seed = best.seed;
    best.scenario.planted = bugs.planted.map(|planted| planted.to_string());
    best.scenario.expect = if bugs.planted.is_some() { Expect::Fail(broken.checker.to_owned()) } else { Expect::Pass };
    Some(best)
}

/// What a violation is about.
#[derive(PartialEq, Eq)]
struct Reason {
    checker: &'static str,
    /// How its story begins, without names, numbers and values.
    words: Vec<String>,
    /// Of a read: what should have made it consistent.
    consistent_by: Option<String>,
}

impl Reason {
    fn of(broken: &Violation) -> Self {
        /// Which kind of value a story happens to be about does not matter.
        const VALUES: [&str; 4] = ["commands", "master", "noop", "configuration"];
        let mut depth = 0;
        // What stands in brackets or quotes is about this run.
        let told = broken.story.split('"').step_by(2).flat_map(str::chars).filter(|c| {
            depth += i32::from(*c == '(') - i32::from(*c == ')');
            depth == 0
        });
        let told: String = told.collect();
        let words = told.split(|c: char| !c.is_ascii_alphabetic());
        let words = words.filter(|word| word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase()));
        let words = words.filter(|word| !VALUES.contains(word)).take(4).map(str::to_owned);
        let by = broken.story.split_once("consistent by ").and_then(|(_, by)| by.split(';').next());
        Self { checker: broken.checker, words: words.collect(), consistent_by: by.map(str::to_owned) }
    }
}

struct Shrinker<'a> {
    world: WorldKind,
    bugs: Bugs,
    reason: Reason,
    best: Shrunk,
    rng: Rng,
    /// What is spent on one candidate.
    events: u64,
    is_over: &'a dyn Fn() -> bool,
}

impl Shrinker<'_> {
    fn search(&mut self) {
        let explicit = explicit(&self.best.scenario, &self.best.report);
        self.try_once(explicit);
        self.end_where_it_fails(self.best.scenario.cluster.lease.0);
        if !self.keep_the_last() && self.fill_segments_sooner() {
            self.keep_the_last();
        }
        while !(self.is_over)() {
            let before = size(&self.best.scenario);
            self.pass();
            if size(&self.best.scenario) == before {
                if self.is_small() || self.events >= EVENTS_MOST {
                    break;
                }
                self.events *= 4;
            }
        }
        let _ = [100, 10, 1].into_iter().any(|ms| self.accepts(tidy(&self.best.scenario, ms * MS)));
        self.end_where_it_fails(MS);
    }

    fn is_small(&self) -> bool {
        let (steps, requests, _) = size(&self.best.scenario);
        steps <= STEPS_FEW && requests <= REQUESTS_FEW
    }

    /// Tries everything once.
    fn pass(&mut self) {
        self.fail_amid_the_faults();
        self.less_noise();
        self.fewer_nodes();
        if self.best.scenario.workload.clients > 0 {
            self.less_load();
        }
        self.thin_out();
        self.drop_elements(List::Steps);
        self.drop_elements(List::Requests);
        self.closer_together();
        self.shorter_times();
    }

    fn end_where_it_fails(&mut self, slack: u64) {
        let Shrunk { scenario, report, .. } = &self.best;
        if report.at <= scenario.duration.0 {
            let ended = ended(scenario, report, slack);
            if ended != self.best.scenario {
                self.try_once(ended);
            }
        }
    }

    /// A failure of clients that only show whether the cluster goes on is told with requests that can be listed.
    fn fail_amid_the_faults(&mut self) {
        let Shrunk { scenario, report, .. } = &self.best;
        if report.at > scenario.duration.0 && !self.is_of_the_end() {
            let prolonged = prolonged(scenario, report, scenario.cluster.lease.0);
            self.accepts(prolonged);
        }
    }

    /// What happens when a log's segment is full takes fewer requests.
    fn fill_segments_sooner(&mut self) -> bool {
        let mut candidate = self.best.scenario.clone();
        candidate.disk.segment_bytes = candidate.disk.segment_bytes.min(SEGMENT_SHORT);
        self.accepts(candidate)
    }

    fn keep_the_last(&mut self) -> bool {
        let whole = self.best.scenario.clone();
        let at = self.best.report.at.min(whole.duration.0);
        for requests in REQUESTS {
            for window in WINDOWS.map(|leases| leases * whole.cluster.lease.0) {
                let smaller = last(&whole, at, window, requests, &mut self.rng);
                if size(&smaller) < size(&whole)
                    && self.accepts_some(&mut |rng| last(&whole, at, window, requests, rng))
                {
                    return true;
                }
            }
        }
        false
    }

    /// Keeps any few of many requests.
    fn thin_out(&mut self) {
        let mut eighths = 1;
        while eighths < 8 && self.best.scenario.ops.len() > REQUESTS_FEW {
            let whole = self.best.scenario.clone();
            let count = whole.ops.len() * eighths / 8;
            let is_smaller = self.accepts_some(&mut |rng| some_requests(&whole, count, rng));
            eighths = if is_smaller { (eighths - 1).max(1) } else { eighths + 1 };
        }
    }

    /// Takes elements away in halves, quarters and so on, down to single ones, as long as it fails.
    fn drop_elements(&mut self, list: List) {
        let mut chunk = list.len(&self.best.scenario);
        while chunk > 0 {
            let mut start = 0;
            while start < list.len(&self.best.scenario) && !(self.is_over)() {
                if !self.accepts(list.without(&self.best.scenario, start..start + chunk)) {
                    start += chunk;
                }
            }
            chunk /= 2;
        }
    }

    fn fewer_nodes(&mut self) {
        // On one node or two it may take more steps and requests.
        for nodes in if self.is_small() { &[1, 2, 3, 5][..] } else { &[3, 5] } {
            if *nodes < self.best.scenario.cluster.nodes && self.accepts(on_fewer(&self.best.scenario, *nodes)) {
                return;
            }
        }
    }

    /// The fewer clients draw their requests, and the longer they think, the less there is to read.
    fn less_load(&mut self) {
        let workload = self.best.scenario.workload.clone();
        for clients in (0..workload.clients).take(4) {
            if self.accepts_load(|load| load.clients = clients) {
                break;
            }
        }
        while self.best.scenario.workload.clients > 0
            && self.best.scenario.workload.think_max < THINK_LONG
            && self.accepts_load(|load| load.think_max.0 *= 2)
        {}
        for keys in (1..workload.keys).take(3) {
            if self.accepts_load(|load| load.keys = keys) {
                break;
            }
        }
    }

    fn accepts_load(&mut self, change: impl FnOnce(&mut Workload)) -> bool {
        let mut candidate = self.best.scenario.clone();
        change(&mut candidate.workload);
        self.accepts(candidate)
    }

    fn less_noise(&mut self) {
        for simplify in SIMPLER {
            let mut candidate = self.best.scenario.clone();
            simplify(&mut candidate);
            if candidate != self.best.scenario {
                self.accepts(candidate);
            }
        }
    }

    /// Shortens the time in which nothing is done.
    fn closer_together(&mut self) {
        let mut after = usize::MAX;
        loop {
            let times = times(&self.best.scenario);
            let gaps = std::iter::once(0).chain(times.iter().copied()).zip(&times).enumerate().take(after);
            let longest = gaps.filter(|(_, (before, at))| *at - before > GAP_SHORT).last();
            let Some((index, (before, at))) = longest else { return };
            let gap = at - before;
            let _ = [gap * 7 / 8, gap / 2].into_iter().any(|by| self.accepts(earlier(&self.best.scenario, *at, by)));
            after = index;
        }
    }

    fn shorter_times(&mut self) {
        for index in 0..self.best.scenario.steps.len() {
            while let Some(act) = self.best.scenario.steps.get(index).and_then(|step| step.act.halved()) {
                let mut candidate = self.best.scenario.clone();
                candidate.steps[index].act = act;
                if (self.is_over)() || !self.accepts(candidate) {
                    break;
                }
            }
        }
        for index in 0..self.best.scenario.steps.len() {
            let mut candidate = self.best.scenario.clone();
            if let Some(at) = candidate.steps.get_mut(index).and_then(|step| step.at.as_mut()) {
                *at = Span(at.0 / (100 * MS) * (100 * MS));
                if candidate != self.best.scenario {
                    self.accepts(candidate);
                }
            }
        }
        let duration = self.best.scenario.duration.0;
        for shorter in [duration / 4, duration / 2, duration * 3 / 4] {
            let mut candidate = self.best.scenario.clone();
            candidate.duration = Span(shorter / MS * MS);
            candidate.steps.retain(|step| step.at.is_none_or(|at| at < candidate.duration));
            if self.accepts(candidate) {
                break;
            }
        }
    }

    /// Takes this scenario for the best if it fails in the same way with some seed.
    fn accepts(&mut self, scenario: Scenario) -> bool {
        self.accepts_some(&mut |_| scenario.clone())
    }

    /// Takes for the best the first of these scenarios that fails in the same way.
    fn accepts_some(&mut self, make: &mut dyn FnMut(&mut Rng) -> Scenario) -> bool {
        let mut events = 0;
        for turn in 0..SEEDS_MOST {
            let scenario = make(&mut self.rng);
            if events > self.events || (self.is_over)() || scenario.check().is_err() {
                return false;
            }
            let seed = self.best.seed.wrapping_add(turn);
            let until = self.until(&scenario);
            self.best.runs += 1;
            let Ok(report) = play_until(until, self.world, &scenario, seed, self.bugs) else { return false };
            events += report.event;
            if self.fails(&report) && self.takes(scenario, seed) {
                self.end_where_it_fails(self.best.scenario.cluster.lease.0);
                return true;
            }
        }
        false
    }

    /// Takes this scenario for the best if it fails in the same way with the same seed.
    fn try_once(&mut self, scenario: Scenario) {
        if scenario.check().is_ok() {
            self.takes(scenario, self.best.seed);
        }
    }

    fn takes(&mut self, scenario: Scenario, seed: u64) -> bool {
        let (runs, before) = (self.best.runs + 1, self.best.before);
        match play_in(self.world, &scenario, seed, self.bugs, Recorder::default()) {
            Ok(report) if self.fails(&report) => {
                self.best = Shrunk { scenario, seed, report, runs, before };
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    fn fails(&self, report: &Report) -> bool {
        report.violation.as_ref().is_some_and(|broken| Reason::of(broken) == self.reason)
    }

    /// Whether it is about how everything ended.
    fn is_of_the_end(&self) -> bool {
        let report = &self.best.report;
        report.at_the_end && report.violation.as_ref().is_some_and(|broken| broken.event.is_none())
    }

    /// How long a candidate is worth playing: when the best one failed amid the faults, to their end.
    fn until(&self, candidate: &Scenario) -> u64 {
        let Shrunk { scenario, report, .. } = &self.best;
        match report.at.checked_sub(scenario.duration.0) {
            None => candidate.duration.0,
            Some(_) if self.is_of_the_end() => u64::MAX,
            Some(later) => candidate.duration.0 + later + 2 * scenario.cluster.lease.0,
        }
    }
}

/// Says when this much time has passed.
#[expect(clippy::disallowed_types, reason = "how long a person waits concerns no run")]
pub fn deadline(time: Duration) -> impl Fn() -> bool {
    let begun = std::time::Instant::now();
    move || begun.elapsed() >= time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(story: &str) -> Reason {
        Reason::of(&Violation { checker: "K4", story: story.to_owned(), event: None })
    }

    #[test]
    fn names_numbers_and_values_are_no_part_of_a_reason() {
        let lease =
            r#"operation 2 (client 1: get "k0", consistent by lease; events 9 to 12, told absent) had to see a state"#;
        let other =
            r#"operation 71 (client 4: get "x (", consistent by lease; events 1 to 2, told "a") had to see a state"#;
        assert!(reason(lease) == reason(other));
        assert!(reason(lease) != reason(&lease.replace("lease", "quorum")));
        assert!(reason(lease) != reason("operation 2 (client 1) stands in slot 3"));
        assert!(
            reason("2.n3 proposes noop in s1, and so on") == reason("41.n1 proposes commands(1) in s20, and so on")
        );
    }
}
