//! Plays every scenario file: for all its seeds in the core world, and for the first one with whole nodes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use trialbay_sim::campaign::{play, play_in, play_seed, story};
use trialbay_sim::scenario::draw::Swarm;
use trialbay_sim::scenario::{Expect, Scenario, WorldKind, file};
use trialbay_sim::trace::Recorder;
use trialbay_sim::{Bugs, Planted, Report};

/// Makes one test for each scenario: its name, with `_` for `-`.
macro_rules! scenarios {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name).replace('_', "-");
                play_file(&name, &folder().join(format!("{name}.toml")));
            }
        )+

        /// The scenarios that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

scenarios! {
    catch_up_under_full_write_load
    clogged_link
    damaged_middles
    dropped_masters
    duplicate_and_stale_messages
    failed_fsyncs
    five_node_cluster
    full_disk
    grant_beyond_the_drift_bound
    isolation_without_election_storm
    lease_at_the_drift_bound
    lease_beyond_the_drift_bound
    learner_and_witness
    lost_log_ends
    majority_power_cut
    master_churn
    master_death
    master_death_at_every_action_of_a_commit
    master_paused_around_its_lease_end
    one_node_cluster
    partition_bridge
    partition_flapping
    partition_one_way
    partition_symmetric
    preferred_master_churn
    rolling_restarts
    seven_node_cluster
    slave_catch_up
    slave_catch_up_while_logs_are_collapsed
    slave_returns
    slow_disks
    torn_tails
    total_power_cut
    two_node_cluster
    wiped_node_returns
}

#[test]
fn regressions() {
    for (name, path) in all(&folder().join("regressions")) {
        play_file(&name, &path);
    }
}

#[test]
fn every_scenario_has_a_name_a_title_and_a_test_of_its_own() {
    let (mut titles, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (name, path) in all(&folder()) {
        let scenario = load(&path);
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(!name.is_empty() && name.chars().all(is_plain), "{}: write a-z, 0-9 and -", path.display());
        assert!(titles.insert(scenario.title), "{}: another one has this title", path.display());
        assert!(names.insert(name.clone()), "{}: another one has this name", path.display());
        if !path.starts_with(folder().join("regressions")) {
            assert!(TESTED.contains(&name.replace('-', "_").as_str()), "{name} has no test: name it in `scenarios!`");
        }
    }
}

#[test]
fn what_a_scenario_allows_at_most_is_something_that_is_counted() {
    let counters: Vec<_> =
        (0..4).map(|seed| play_seed(seed, &Swarm::default(), Bugs::NONE).unwrap().counters).collect();
    for (name, path) in all(&folder()) {
        for what in load(&path).at_most.keys() {
            let is_known = counters.iter().any(|counters| counters.contains_key(what.as_str()));
            assert!(is_known, "{name}: nothing is ever counted as `{what}`");
        }
    }
}

#[test]
fn a_mistake_is_told_with_file_and_line() {
    let right = fs::read_to_string(folder().join("master-death.toml")).unwrap();
    let line = 1 + right.lines().position(|line| line.contains("kill master")).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mistaken.toml");
    fs::write(&path, right.replacen("kill master", "kill nobody", 1)).unwrap();
    let error = file::load(&path).unwrap_err();
    assert!(error.contains(&format!("mistaken.toml: line {line}: `nobody` is no node")), "{error}");
}

/// Plays a scenario for all its seeds, and looks whether each ended as it must.
fn play_file(name: &str, path: &Path) {
    let scenario = load(path);
    let planted = match scenario.planted.as_deref().map(|bug| (bug, Planted::find(bug))) {
        Some((bug, None)) => {
            assert!(!bug.starts_with("world/"), "{name}: there is no planted bug `{bug}`");
            println!("{name} is not played: `{bug}` is not in this build");
            return;
        }
        found => found.and_then(|(_, planted)| planted),
    };
    let bugs = Bugs { planted, assertions_off: false };
    if scenario.worlds.contains(&WorldKind::Stack) {
        let report = play_in(WorldKind::Stack, &scenario, scenario.first_seed, bugs, Recorder::default());
        let report = report.expect("the stack world can play what names it");
        let label = format!("{name} --world stack");
        assert!(report.violation.is_none(), "{}", story(&label, scenario.first_seed, &report));
        assert!(report.counters["updates acknowledged"] > 0, "{label}: nothing was acknowledged");
    }
    if !scenario.worlds.contains(&WorldKind::Core) {
        return;
    }
    let seeds = scenario.first_seed..scenario.first_seed + scenario.seeds;
    let reports: Vec<(u64, Report)> = seeds.map(|seed| (seed, play(&scenario, seed, bugs))).collect();
    match &scenario.expect {
        Expect::Pass => reports.iter().for_each(|(seed, report)| assert_passes(name, &scenario, *seed, report)),
        Expect::Fail(checker) => {
            let found = reports.iter().filter_map(|(seed, report)| Some((seed, report, report.violation.as_ref()?)));
            for (seed, report, broken) in found.clone() {
                let story = story(name, *seed, report);
                assert_eq!(broken.checker, checker, "{name}: another checker found something\n{story}");
            }
            assert!(found.count() > 0, "{name}: {checker} found nothing in {} seeds", scenario.seeds);
        }
    }
}

fn assert_passes(name: &str, scenario: &Scenario, seed: u64, report: &Report) {
    assert!(report.violation.is_none(), "{}", story(name, seed, report));
    let lacks = scenario.lacks(&report.counters);
    assert!(lacks.is_empty(), "{name} with seed {seed} does not do what it says: {}", lacks.join(", "));
    let is_shrunk = scenario.why.is_empty();
    let left = report.steps_done.iter().position(|done| !done);
    assert!(left.is_none() || is_shrunk, "{name} with seed {seed} never does step {}", left.unwrap_or(0) + 1);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

fn all(dir: &Path) -> Vec<(String, PathBuf)> {
    if !dir.exists() {
        return Vec::new();
    }
    file::all(dir).expect("the folder can be read")
}

fn load(path: &Path) -> Scenario {
    file::load(path).expect("the scenario can be read")
}
