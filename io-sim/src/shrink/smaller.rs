//! What can be taken away from a scenario. Nothing here is played: whether it still fails is for others to find out.

use std::ops::Range;

use crate::core::Report;
use crate::rng::Rng;
use crate::scenario::{MS, Scenario, Span};

/// How long a cluster needs before anything that matters can happen, in leases.
const START_LEASES: u64 = 3;

/// How much there is to read: steps, requests, and everything else.
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

/// The same run with every request listed, each at the time at which it was made. One that is taken away later leaves
/// the others where they are.
pub(super) fn explicit(scenario: &Scenario, report: &Report) -> Scenario {
    let mut explicit = scenario.clone();
    explicit.ops.clone_from(&report.ops_made);
    explicit.ops.retain(|op| op.at < scenario.duration);
    explicit.ops.sort_by_key(|op| op.at);
    explicit.workload.clients = 0;
    for (step, number) in explicit.steps.iter_mut().zip(0..) {
        step.id = step.id.or(Some(number));
    }
    explicit
}

/// Without what was not done yet when it failed, which was `report.at`. `slack` later it ends.
pub(super) fn ended(scenario: &Scenario, report: &Report, slack: u64) -> Scenario {
    let mut ended = scenario.clone();
    let mut done = report.steps_done.iter();
    ended.steps.retain(|step| done.next() == Some(&true) && step.at.is_none_or(|at| at.0 <= report.at));
    ended.ops.retain(|op| report.ops_made.iter().any(|made| op.id == made.id && made.at.0 <= report.at));
    ended.duration = Span((report.at + slack).div_ceil(MS) * MS).min(scenario.duration);
    ended.steps.retain(|step| step.at.is_none_or(|at| at < ended.duration));
    ended
}

/// With the requests that came after the faults, and no such time: they are made while faults may come.
pub(super) fn prolonged(scenario: &Scenario, report: &Report, slack: u64) -> Scenario {
    let duration = Span((report.at + slack).div_ceil(MS) * MS);
    explicit(&Scenario { duration, ..scenario.clone() }, report)
}

/// The last `window` before `at` of it, with any `requests` of those that were made then.
pub(super) fn last(scenario: &Scenario, at: u64, window: u64, requests: usize, rng: &mut Rng) -> Scenario {
    let mut last = scenario.clone();
    let from = at.saturating_sub(window);
    last.steps.retain(|step| step.at.is_none_or(|at| at.0 >= from));
    last.ops.retain(|op| op.at.0 >= from);
    let last = some_requests(&last, requests, rng);
    earlier(&last, from, from.saturating_sub(START_LEASES * scenario.cluster.lease.0))
}

/// It with any `count` of its requests.
pub(super) fn some_requests(scenario: &Scenario, count: usize, rng: &mut Rng) -> Scenario {
    let mut some = scenario.clone();
    let mut chosen: Vec<usize> = (0..some.ops.len()).collect();
    rng.shuffle(&mut chosen);
    chosen.truncate(count);
    chosen.sort_unstable();
    some.ops = chosen.into_iter().map(|index| scenario.ops[index].clone()).collect();
    some
}

/// It on fewer nodes: those that there are stand in for the others.
pub(super) fn on_fewer(scenario: &Scenario, nodes: u16) -> Scenario {
    let mut fewer = scenario.clone();
    fewer.cluster.nodes = nodes;
    fewer.clocks.retain(|name, _| name[1..].parse::<u16>().is_ok_and(|node| node <= nodes));
    for node in fewer.steps.iter_mut().flat_map(|step| step.act.nodes_mut()) {
        node.0 = (node.0 - 1) % nodes + 1;
    }
    fewer
}

/// It with everything from `from` on happening `by` earlier.
pub(super) fn earlier(scenario: &Scenario, from: u64, by: u64) -> Scenario {
    let mut earlier = scenario.clone();
    let by = by / MS * MS;
    for at in moments(&mut earlier).filter(|at| at.0 >= from) {
        at.0 -= by;
    }
    earlier.duration.0 -= by;
    earlier
}

/// When something is done or asked for, in order, each time once.
pub(super) fn times(scenario: &Scenario) -> Vec<u64> {
    let mut times: Vec<u64> = moments(&mut scenario.clone()).map(|at| at.0).collect();
    times.sort_unstable();
    times.dedup();
    times
}

fn moments(scenario: &mut Scenario) -> impl Iterator<Item = &mut Span> {
    let steps = scenario.steps.iter_mut().filter_map(|step| step.at.as_mut());
    steps.chain(scenario.ops.iter_mut().map(|op| &mut op.at))
}

/// It as a person would write it: no ids, clients numbered from 0, round times.
pub(super) fn tidy(scenario: &Scenario, round: u64) -> Scenario {
    let mut tidy = scenario.clone();
    let mut clients: Vec<u16> = tidy.ops.iter().map(|op| op.client).collect();
    clients.sort_unstable();
    clients.dedup();
    for op in &mut tidy.ops {
        let number = clients.binary_search(&op.client).ok().and_then(|number| u16::try_from(number).ok());
        (op.client, op.id) = (number.unwrap_or(op.client), None);
    }
    for step in &mut tidy.steps {
        step.id = None;
        if let Some(time) = step.act.time_mut() {
            time.0 = time.0.div_ceil(round) * round;
        }
    }
    moments(&mut tidy).for_each(|at| at.0 = at.0 / round * round);
    tidy
}

/// A list in a scenario of which single elements can be taken away.
#[derive(Clone, Copy)]
pub(super) enum List {
    Steps,
    Requests,
}

impl List {
    pub(super) fn len(self, scenario: &Scenario) -> usize {
        match self {
            Self::Steps => scenario.steps.len(),
            Self::Requests => scenario.ops.len(),
        }
    }

    pub(super) fn without(self, scenario: &Scenario, range: Range<usize>) -> Scenario {
        let mut without = scenario.clone();
        let range = range.start..range.end.min(self.len(scenario));
        match self {
            Self::Steps => drop(without.steps.drain(range)),
            Self::Requests => drop(without.ops.drain(range)),
        }
        without
    }
}

/// Surroundings that are simpler, one by one.
pub(super) const SIMPLER: [fn(&mut Scenario); 12] = [
    |scenario| scenario.network = crate::scenario::Network::default(),
    |scenario| scenario.network.drop = 0.0,
    |scenario| scenario.network.duplicate = 0.0,
    |scenario| scenario.network.reorder = 0.0,
    |scenario| scenario.network.spike = 0.0,
    |scenario| scenario.network.stale = 0.0,
    |scenario| scenario.limits = None,
    |scenario| scenario.disk = crate::scenario::Disk::default(),
    |scenario| scenario.cluster.staggered = false,
    |scenario| scenario.leave_broken = false,
    |scenario| scenario.clocks.clear(),
    |scenario| scenario.workload = crate::scenario::Workload { clients: 0, ..Default::default() },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file;

    fn scenario() -> Scenario {
        file::parse(
            r#"
            title = "Something to make smaller"
            duration = "4s"
            cluster = { nodes = 5 }
            clocks = { n2 = 5, n5 = -5 }
            workload = { clients = 0 }
            step = [
                { at = "1s", do = "kill n5 for 12.5ms", id = 7 },
                { at = "2.0104s", do = "cut n4 -> master,n2 for 1s", id = 9 },
            ]
            op = [
                { client = 3, at = "1.5s", do = "set k1", id = 80 },
                { client = 8, at = "2.0015s", do = "get k1", id = 81 },
            ]
            "#,
        )
        .unwrap()
    }

    fn acts(scenario: &Scenario) -> Vec<String> {
        scenario.steps.iter().map(|step| step.act.to_string()).collect()
    }

    #[test]
    fn only_the_last_moments_are_left_and_come_as_soon_as_a_cluster_is_ready() {
        let last = last(&scenario(), 2_100 * MS, 600 * MS, 1, &mut Rng::new(1, 1));
        assert_eq!(acts(&last), ["cut n4 -> master,n2 for 1s"]);
        // From 1.5 s on, which is 300 ms more than three leases.
        assert_eq!((last.steps[0].at, last.ops.len()), (Some(Span(1_710_400_000)), 1));
        assert_eq!(last.duration, Span(3_700 * MS));
    }

    #[test]
    fn other_nodes_stand_in_for_those_that_are_gone() {
        let fewer = on_fewer(&scenario(), 3);
        assert_eq!(acts(&fewer), ["kill n2 for 12.5ms", "cut n1 -> master,n2 for 1s"]);
        assert_eq!((fewer.clocks.len(), fewer.check()), (1, Ok(())));
    }

    #[test]
    fn what_is_tidy_has_round_times_and_no_ids() {
        let tidy = tidy(&scenario(), 10 * MS);
        assert_eq!(acts(&tidy), ["kill n5 for 20ms", "cut n4 -> master,n2 for 1s"]);
        assert_eq!(times(&tidy), [1_000 * MS, 1_500 * MS, 2_000 * MS, 2_010 * MS]);
        assert_eq!(tidy.ops.iter().map(|op| (op.client, op.id)).collect::<Vec<_>>(), [(0, None), (1, None)]);
    }

    #[test]
    fn what_never_happened_is_not_part_of_what_failed() {
        let (scenario, made) = (scenario(), scenario().ops);
        let mut report = crate::campaign::play(
            &Scenario { duration: Span(100 * MS), steps: Vec::new(), ops: Vec::new(), ..scenario.clone() },
            1,
            crate::Bugs::NONE,
        );
        (report.at, report.steps_done, report.ops_made) = (1_600 * MS, vec![true, false], made);
        let ended = ended(&scenario, &report, 50 * MS);
        assert_eq!(
            (acts(&ended), ended.ops.len(), ended.duration),
            (vec!["kill n5 for 12.5ms".to_owned()], 1, Span(1_650 * MS))
        );
    }
}
