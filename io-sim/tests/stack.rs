//! The production node, on a simulated network, disk and clock, through faults.

use std::process::Command;
use std::time::Duration;

use trialbay_sim::stack::{StackFault, StackPlan, StackReport, Who, run};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs the plan, in which nothing may be broken.
fn pass(plan: &StackPlan) -> StackReport {
    let report = run(plan);
    assert_eq!(report.violations, [], "{plan:?}");
    report
}

/// How many updates were acknowledged in this time.
fn acknowledged(report: &StackReport, from: Duration, to: Duration) -> usize {
    report.acknowledged_at.iter().filter(|at| (from..to).contains(at)).count()
}

/// Everything at once, differently for each seed.
fn everything(seed: u64) -> StackPlan {
    StackPlan { chaos: ms(5_000), calm: ms(1_000), ..StackPlan::new(seed) }
        .and(ms(1_000), StackFault::ClockRate(Who::Node(1), 9_000))
        .and(ms(1_000), StackFault::ClockRate(Who::Node(2), -9_000))
        .and(ms(1_500 + seed % 97), StackFault::Kill(Who::Master))
        .and(ms(1_800), StackFault::Restart(Who::Nodes))
        .and(ms(2_500), StackFault::PartitionOneWay(Who::Slave, Who::Nodes))
        .and(ms(3_000), StackFault::Mend(Who::Everyone, Who::Everyone))
        .and(ms(3_500 + seed % 89), StackFault::PowerCut(Who::Nodes))
        .and(ms(3_700), StackFault::Restart(Who::Nodes))
}

#[test]
fn writes_resume_after_the_master_was_killed_under_load() {
    let plan = StackPlan { chaos: ms(7_000), calm: ms(1_000), ..StackPlan::new(11) }
        .and(ms(3_000), StackFault::Kill(Who::Master));
    let report = pass(&plan);
    assert!(acknowledged(&report, ms(2_000), ms(3_000)) > 20, "there is load when the master dies");
    // Two leases, and the time to find the new master.
    assert!(acknowledged(&report, ms(5_500), ms(7_000)) > 20, "writes resume while one node is gone");
}

#[test]
fn a_power_cut_of_all_nodes_under_load_loses_nothing_acknowledged() {
    let load = StackPlan { clients: 12, rest_ms: (0, 1), ..StackPlan::new(12) };
    let plan = StackPlan { chaos: ms(3_500), calm: ms(2_000), ..load }
        .and(ms(2_000), StackFault::PowerCut(Who::Nodes))
        .and(ms(2_300), StackFault::Restart(Who::Nodes));
    let report = pass(&plan);
    assert!(acknowledged(&report, ms(1_500), ms(2_000)) > 50, "there is load when the power fails");
    assert!(acknowledged(&report, ms(2_300), ms(5_500)) > 50, "the cluster comes back");
    assert!(report.calls.unknown > 0, "calls were under way");
}

#[test]
fn a_slave_that_was_cut_off_catches_up() {
    let plan = StackPlan { chaos: ms(6_000), calm: ms(1_000), ..StackPlan::new(13) }
        .and(ms(2_000), StackFault::Partition(Who::Slave, Who::Everyone))
        .and(ms(5_000), StackFault::Mend(Who::Everyone, Who::Everyone));
    let report = pass(&plan);
    assert!(acknowledged(&report, ms(3_000), ms(5_000)) > 50, "the others go on without it");
}

/// With one more node gone, nothing is decided unless the wiped one votes.
#[test]
fn a_wiped_slave_returns_and_votes_again() {
    let plan = StackPlan { chaos: ms(9_000), calm: ms(1_000), ..StackPlan::new(14) }
        .and(ms(2_000), StackFault::Wipe(Who::Slave))
        .and(ms(2_500), StackFault::Restart(Who::Nodes))
        .and(ms(5_000), StackFault::Kill(Who::Master));
    let report = pass(&plan);
    assert!(acknowledged(&report, ms(2_500), ms(5_000)) > 50, "the others go on without it");
    assert!(acknowledged(&report, ms(7_500), ms(9_000)) > 20, "it takes two, and one of them was wiped");
}

/// Logs that are short. What the store has durable when a node starts leaves the log, and its memory ended with its process.
fn with_short_logs(seed: u64) -> StackPlan {
    StackPlan { log_bytes: (4 << 10, 8 << 10), rest_ms: (0, 10), ..StackPlan::new(seed) }
}

#[test]
fn a_slave_that_is_behind_all_logs_gets_a_head_under_load() {
    let plan = StackPlan { chaos: ms(11_500), calm: ms(500), ..with_short_logs(18) }
        .and(ms(1_500), StackFault::Kill(Who::Node(3)))
        .and(ms(4_000), StackFault::Kill(Who::Node(1)))
        .and(ms(4_000), StackFault::Kill(Who::Node(2)))
        .and(ms(4_200), StackFault::Restart(Who::Nodes))
        .and(ms(8_000), StackFault::Kill(Who::Node(1)));
    let report = pass(&plan);
    assert!(report.heads.iter().any(|(node, _)| *node == 3), "{:?}", report.heads);
    assert!(acknowledged(&report, ms(10_500), ms(11_500)) > 20, "with the help of the one that was behind");
    assert_eq!(run(&plan).trace, report.trace, "a seed tells all of it");
}

#[test]
fn a_wiped_node_gets_a_head_through_crashes_and_cuts() {
    for seed in 0..2 {
        let moment = 5_500 + 37 * seed;
        let plan = StackPlan { chaos: ms(9_000), calm: ms(500), ..with_short_logs(seed) }
            .and(ms(1_500), StackFault::Wipe(Who::Node(2)))
            .and(ms(3_500), StackFault::PowerCut(Who::Nodes))
            .and(ms(3_700), StackFault::Restart(Who::Nodes))
            .and(ms(moment), StackFault::PowerCut(Who::Node(2)))
            .and(ms(moment + 300), StackFault::Restart(Who::Nodes))
            .and(ms(moment + 1_000), StackFault::Partition(Who::Node(2), Who::Node(1)))
            .and(ms(moment + 1_500), StackFault::Kill(Who::Node(3)))
            .and(ms(moment + 2_000), StackFault::Restart(Who::Nodes))
            .and(ms(moment + 2_500), StackFault::Mend(Who::Everyone, Who::Everyone));
        let report = pass(&plan);
        assert!(report.heads.iter().any(|(node, _)| *node == 2), "seed {seed}: {:?}", report.heads);
    }
}

#[test]
fn a_node_whose_disk_fails_or_is_full_stops_and_comes_back() {
    let plan = StackPlan { chaos: ms(7_000), calm: ms(1_000), ..StackPlan::new(15) }
        .and(ms(2_000), StackFault::FailNextSync(Who::Master))
        .and(ms(4_000), StackFault::Restart(Who::Nodes))
        .and(ms(4_500), StackFault::FillDisk(Who::Slave))
        .and(ms(6_000), StackFault::FreeDisk(Who::Nodes));
    pass(&plan);
}

#[test]
fn a_slow_disk_and_held_messages_cost_nothing_but_time() {
    let plan = StackPlan { chaos: ms(6_000), calm: ms(1_500), ..StackPlan::new(16) }
        .and(ms(2_000), StackFault::SyncTakes(Who::Slave, (200, 400)))
        .and(ms(3_000), StackFault::Hold(Who::Master, Who::Slave))
        .and(ms(3_700), StackFault::Mend(Who::Everyone, Who::Everyone))
        .and(ms(4_000), StackFault::SyncTakes(Who::Nodes, (50, 100)))
        .and(ms(5_000), StackFault::Stop(Who::Master));
    let report = pass(&plan);
    assert!(acknowledged(&report, ms(2_000), ms(3_000)) > 20, "one slow slave is not waited for");
}

#[test]
fn disks_that_lie_about_syncs_are_found_out() {
    let plan = StackPlan { chaos: ms(4_000), calm: ms(500), ..StackPlan::new(17) }
        .and(ms(1_500), StackFault::LieAboutSyncs(Who::Nodes))
        .and(ms(3_000), StackFault::PowerCut(Who::Nodes))
        .and(ms(3_100), StackFault::Restart(Who::Nodes));
    let report = run(&plan);
    assert!(report.calls.answered > 50, "there is something to lose");
    assert_ne!(report.violations, []);
}

const SEEDS: [u64; 3] = [1, 2, 3];
/// Tells the test below that it is the other process.
const TRACES_ONLY: &str = "TRIALBAY_SIM_TRACES_ONLY";

#[test]
fn the_same_seed_gives_the_same_trace_in_another_process() {
    let test = "the_same_seed_gives_the_same_trace_in_another_process";
    let traces: Vec<_> = SEEDS.iter().map(|seed| format!("{:x}", pass(&everything(*seed)).trace)).collect();
    assert_ne!(traces[0], traces[1], "a seed matters");
    let traces = traces.join(" ");
    println!("traces {traces}");
    if std::env::var_os(TRACES_ONLY).is_none() {
        let mut other = Command::new(std::env::current_exe().unwrap());
        let output = other.args(["--exact", test, "--nocapture"]).env(TRACES_ONLY, "").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("traces {traces}")), "{traces} here, and in the other process: {text}");
    }
}
