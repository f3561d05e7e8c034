//! Fixed seeds of the core world, planted bugs, whether a seed repeats, and whether failures are made small.

use std::cell::{Cell, RefCell};
use std::process::Command;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use trialbay_sim::campaign::{hunt, hunting_ground, play, play_seed, story, swarm};
use trialbay_sim::scenario::draw::{self, Kind, Swarm};
use trialbay_sim::scenario::{MS, S, Scenario, Span, WorldKind, file};
use trialbay_sim::shrink::{Shrunk, shrink};
use trialbay_sim::trace::{Entry, Recorder};
use trialbay_sim::{Bugs, Mutant, Planted, World};

/// Threads for what takes long.
const JOBS: u64 = 2;

#[test]
fn no_seed_breaks_a_rule() {
    let found = swarm(0, 60, JOBS, &Swarm::default(), &|_, _| {}).unwrap();
    let stories: Vec<String> = found.failures.iter().map(|(seed, report)| story("swarm", *seed, report)).collect();
    assert!(stories.is_empty(), "{}", stories.join("\n"));
    assert_eq!(found.seeds, 60);
}

#[test]
fn clusters_of_every_size_survive() {
    for nodes in 1..=7 {
        let size = Swarm { nodes: Some(nodes), ..Swarm::default() };
        for seed in 900..903 {
            let report = play_seed(seed, &size, Bugs::NONE).unwrap();
            assert!(report.violation.is_none(), "{}", story(&format!("swarm --nodes {nodes}"), seed, &report));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_in_any_process() {
    let hash = |seed| format!("{:016x}", play_seed(seed, &Swarm::default(), Bugs::NONE).unwrap().trace_hash);
    for seed in 200..204 {
        let here = hash(seed);
        assert_eq!(here, hash(seed), "seed {seed}");
        assert_ne!(here, hash(seed + 1_000), "seed {seed}");
        for _ in 0..2 {
            let mut other = Command::new(env!("CARGO_BIN_EXE_trialbay-sim"));
            let output = other.args(["run", "swarm", "--seed", &seed.to_string()]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let there = text.split_once("trace hash ").and_then(|(_, rest)| rest.split_once(','));
            assert_eq!(there.map(|(hash, _)| hash), Some(here.as_str()), "seed {seed}: {text}");
        }
    }
}

#[test]
fn every_planted_bug_of_the_world_is_found_and_no_harmless_change_is() {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let planted = Planted::World(*mutant);
                    let hunt = hunt(planted, false, if planted.is_null() { 8 } else { 200 }).unwrap();
                    if !hunt.is_right() {
                        let story =
                            hunt.found.map(|(seed, report)| story(hunting_ground(planted, seed).name(), seed, &report));
                        wrong.lock().unwrap().push(format!("{planted} in {} seeds: {story:?}", hunt.seeds));
                    }
                }
            });
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), Vec::<String>::new());
}

/// What a run shows up to a moment.
fn seen_before(scenario: &Scenario, seed: u64, end: u64) -> Vec<Entry> {
    let entries = Rc::new(RefCell::new(Vec::new()));
    let mut world = World::new(scenario.clone(), seed, Bugs::NONE);
    let seen = Rc::clone(&entries);
    world.watch(Recorder::new(move |entry| {
        if entry.at < end {
            seen.borrow_mut().push(entry);
        }
    }));
    world.run();
    entries.take()
}

#[test]
fn one_fault_less_changes_nothing_before_its_time() {
    for seed in [3, 8] {
        let whole = draw::scenario(seed, &Swarm { kind: Kind::Harsh, nodes: Some(3) });
        let index = whole.steps.len() / 2;
        let at = whole.steps[index].at.expect("what a seed makes has times").0;
        let mut less = whole.clone();
        less.steps.remove(index);
        let (before, after) = (seen_before(&whole, seed, at), seen_before(&less, seed, at));
        assert!(before.len() > 1_000, "seed {seed} shows too little: {} entries", before.len());
        assert!(before == after, "seed {seed}: without step {} something is different before it", index + 1);
        assert_eq!(draw::operations(&whole, seed), draw::operations(&less, seed));
        assert_ne!(play(&whole, seed, Bugs::NONE).trace_hash, play(&less, seed, Bugs::NONE).trace_hash);
    }
}

#[test]
fn a_failure_is_made_so_small_that_a_person_reads_it() {
    for mutant in [Mutant::WipedNodeVotes, Mutant::LeaseUnchecked, Mutant::GrantsForgotten] {
        let bugs = Bugs::of(Planted::World(mutant));
        let (seed, report) = hunt(Planted::World(mutant), false, 100).unwrap().found.expect("the hunt finds it");
        let found = report.violation.expect("a failing run").checker;
        let whole = draw::scenario(seed, &Swarm { kind: hunting_ground(Planted::World(mutant), seed), nodes: None });
        let looks = Cell::new(0);
        let is_over = || looks.replace(looks.get() + 1) > LOOKS_MAX;
        let Shrunk { scenario, seed, .. } =
            shrink(WorldKind::Core, &whole, seed, bugs, &is_over).expect("a failing run");
        let (steps, requests) = (scenario.steps.len(), scenario.ops.len());
        assert!(
            steps <= 12 && requests <= 10,
            "{mutant:?}: {steps} steps, {requests} requests after {LOOKS_MAX} looks"
        );
        // What is left fails by itself, also when it was written to a file and read again.
        let read = file::parse(&file::print(&scenario).unwrap()).unwrap();
        let again = play(&read, seed, bugs).violation.expect("what is left fails");
        assert_eq!(again.checker, found, "{mutant:?}: {}", again.story);
    }
}

/// How often shrinking asks whether its time is up: about once for each run.
const LOOKS_MAX: u64 = 4_000;

/// Three nodes and a step that waits, with another one meanwhile.
fn waiting() -> Scenario {
    file::parse(
        r#"
        title = "A step that waits"
        duration = "3s"
        step = [
            { when = "master", after = "800ms", do = "kill n1 for 10ms" },
            { at = "1s", do = "clock n2 +1" },
        ]
        "#,
    )
    .expect("it is a scenario")
}

#[test]
fn a_step_that_waits_is_done_once() {
    let report = play(&waiting(), 1, Bugs::NONE);
    assert!(report.violation.is_none(), "{}", story("waiting", 1, &report));
    assert_eq!((report.counters["kills"], report.steps_done), (1, vec![true, true]));
}

#[test]
fn more_than_a_scenario_bears_breaks_a_rule() {
    let bears = |most| {
        let at_most = [("kills".to_owned(), most)].into();
        play(&Scenario { at_most, ..waiting() }, 1, Bugs::NONE).violation.map(|broken| broken.checker)
    };
    assert_eq!((bears(1), bears(0)), (None, Some("K10")));
}

#[test]
fn a_cluster_that_nobody_harms_has_one_master() {
    let quiet = Scenario::quiet("Nothing happens", Span(2 * S + 500 * MS));
    for seed in 0..5 {
        let report = play(&quiet, seed, Bugs::NONE);
        assert!(report.violation.is_none(), "{}", story("quiet", seed, &report));
        assert_eq!(report.counters["masters"], 1, "seed {seed}");
    }
}
