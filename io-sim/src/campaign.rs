//! Many runs: swarms of seeds, and the hunt for planted bugs.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::core::{Counters, Report, World};
use crate::mutant::{Bugs, Planted};
use crate::scenario::draw::{self, Kind, Swarm};
use crate::scenario::{S, Scenario, WorldKind};
use crate::stack;
use crate::trace::Recorder;

/// What a swarm found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The failing seeds, and what broke.
    pub failures: Vec<(u64, Report)>,
    /// What happened how often, over all runs.
    pub counters: Counters,
    /// How many seeds were played.
    pub seeds: u64,
    /// The seeds and the hashes of their traces, in the order of the seeds.
    pub hashes: Vec<(u64, u64)>,
}

/// One row of the table of planted bugs.
#[derive(Debug)]
pub struct Hunt {
    /// The bug.
    pub planted: Planted,
    /// How many seeds were played.
    pub seeds: u64,
    /// The seed that found it, and how.
    pub found: Option<(u64, Report)>,
}

impl Hunt {
    /// Whether it went as it must: a bug is found, a null mutant is not.
    pub fn is_right(&self) -> bool {
        self.found.is_some() != self.planted.is_null()
    }
}

/// Plays one scenario with the noise of one seed in the core world.
pub fn play(scenario: &Scenario, seed: u64, bugs: Bugs) -> Report {
    World::new(scenario.clone(), seed, bugs).run()
}

/// Plays one scenario with the noise of one seed in this world, and has what happens told to `watch`.
///
/// # Errors
/// What in it that world cannot play.
pub fn play_in(
    world: WorldKind,
    scenario: &Scenario,
    seed: u64,
    bugs: Bugs,
    watch: Recorder,
) -> Result<Report, String> {
    match world {
        WorldKind::Core => {
            let mut world = World::new(scenario.clone(), seed, bugs);
            world.watch(watch);
            Ok(world.run())
        }
        WorldKind::Stack => stack::play(scenario, seed, bugs, watch),
    }
}

/// Plays the beginning of a scenario, up to this time, and judges what can be judged by then. The stack world plays all.
///
/// # Errors
/// What in it that world cannot play.
pub fn play_until(until: u64, world: WorldKind, scenario: &Scenario, seed: u64, bugs: Bugs) -> Result<Report, String> {
    match world {
        WorldKind::Core => {
            let mut world = World::new(scenario.clone(), seed, bugs);
            world.stop_at(until);
            Ok(world.run())
        }
        WorldKind::Stack => stack::play(scenario, seed, bugs, Recorder::default()),
    }
}

/// Plays what a seed makes.
///
/// # Errors
/// What in it that world cannot play.
pub fn play_seed(seed: u64, swarm: &Swarm, bugs: Bugs) -> Result<Report, String> {
    play_in(swarm.kind.world(), &draw::scenario(seed, swarm), seed, bugs, Recorder::default())
}

/// Rare branches: over a campaign each must have been taken somewhere.
pub const BRANCHES: [&str; 28] = [
    "births",
    "clients gave up",
    "deaths after a head",
    "deaths between actions",
    "disk failures",
    "fetches",
    "full disks",
    "gaps",
    "heads installed",
    "lease reads",
    "log ends lost",
    "log reads",
    "logs collapsed",
    "logs gone",
    "logs trimmed",
    "masterships lost",
    "naks",
    "outcomes unknown",
    "pauses",
    "power cuts",
    "quorum reads",
    "relaxed reads",
    "resign messages",
    "segments compressed",
    "stale copies",
    "starts on a failing disk",
    "votes regained",
    "wipes",
];

/// Hears how many seeds were played, and of each failure its seed and report.
pub type Progress<'a> = dyn Fn(u64, Option<(u64, &Report)>) + Sync + 'a;

/// Plays the seeds from `from` on, on `jobs` threads; tells `progress` of each, and what failed.
///
/// # Errors
/// What cannot be played.
pub fn swarm(from: u64, seeds: u64, jobs: u64, swarm: &Swarm, progress: &Progress<'_>) -> Result<Findings, String> {
    let next = AtomicU64::new(0);
    let findings = Mutex::new(Findings::default());
    let mistake = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds {
                        return;
                    }
                    let seed = from.wrapping_add(index);
                    let report = match play_seed(seed, swarm, Bugs::NONE) {
                        Ok(report) => report,
                        Err(why) => {
                            *mistake.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(why);
                            return;
                        }
                    };
                    let mut findings = findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    findings.seeds += 1;
                    findings.hashes.push((seed, report.trace_hash));
                    for (what, count) in &report.counters {
                        *findings.counters.entry(what).or_default() += count;
                    }
                    if report.violation.is_some() {
                        progress(findings.seeds, Some((seed, &report)));
                        findings.failures.push((seed, report));
                    } else {
                        progress(findings.seeds, None);
                    }
                }
            });
        }
    });
    let mut findings = findings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    findings.failures.sort_by_key(|(seed, _)| *seed);
    findings.hashes.sort_unstable();
    match mistake.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(why) => Err(why),
        None => Ok(findings),
    }
}

/// Plays up to `seeds` seeds against one planted bug, until one finds it.
///
/// # Errors
/// What cannot be played.
pub fn hunt(planted: Planted, assertions_off: bool, seeds: u64) -> Result<Hunt, String> {
    let bugs = Bugs { planted: Some(planted), assertions_off };
    let mut hunt = Hunt { planted, seeds: 0, found: None };
    for seed in 0..seeds {
        hunt.seeds += 1;
        let report = play_seed(seed, &Swarm { nodes: None, kind: hunting_ground(planted, seed) }, bugs)?;
        if report.violation.is_some() {
            hunt.found = Some((seed, report));
            break;
        }
    }
    Ok(hunt)
}

/// Where this planted bug is hunted with this seed.
pub fn hunting_ground(planted: Planted, seed: u64) -> Kind {
    let grounds = planted.grounds();
    let turn = usize::try_from(seed % grounds.len() as u64).unwrap_or(0);
    grounds[turn]
}

/// A failure, explained. `name` is what was played, as the commands take it.
pub fn story(name: &str, seed: u64, report: &Report) -> String {
    let Some(broken) = &report.violation else { return format!("PASS {name} seed {seed}") };
    let (whole, part) = (report.at / S, report.at % S / 1_000_000);
    let commit = commit().map(|commit| format!("  sources at {commit}")).unwrap_or_default();
    let mut text =
        format!("FAIL {name}  seed {seed}{commit}  event {}  at {whole}.{part:03}s simulated\n", report.event);
    text += &format!("  {}: {}\n  faults:", broken.checker, broken.story);
    let before = report.faults.partition_point(|(at, _)| *at <= report.at);
    for (at, what) in &report.faults[before.saturating_sub(8)..before] {
        text += &format!("\n    {}.{:03}s {what}", at / S, at % S / 1_000_000);
    }
    text += &format!(
        "\n  replay: trialbay-sim replay {name} --seed {seed} --around {whole}s    (trace hash {:016x})",
        report.trace_hash
    );
    text += &format!("\n  shrink: trialbay-sim shrink {name} --seed {seed}");
    text += &format!("\n  view:   trialbay-sim timeline {name} --seed {seed} > timeline.html");
    text
}

/// What is checked out where this was built, if that can be told.
fn commit() -> Option<&'static str> {
    static COMMIT: OnceLock<Option<String>> = OnceLock::new();
    let described = COMMIT.get_or_init(|| {
        let mut git = Command::new("git");
        git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude", "*"]);
        let output = git.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    });
    described.as_deref()
}
