//! `list`, `run`, `swarm`.

use std::fs;
use std::path::Path;

use trialbay_sim::campaign::{self, story};
use trialbay_sim::scenario::draw::{Kind, Swarm};
use trialbay_sim::scenario::{Expect, S, WorldKind, file};
use trialbay_sim::trace::Recorder;

use super::Subject;
use super::subject::{check_nodes, folder};

pub(super) fn list(dir: Option<&Path>) -> Result<bool, String> {
    let all = file::all(&folder(dir))?;
    println!("{:<40} {:<11} {:>5} {:<8} TITLE", "NAME", "WORLDS", "SEEDS", "EXPECT");
    let mut all_can_be_read = true;
    for (name, path) in all {
        let scenario = match file::load(&path) {
            Ok(scenario) => scenario,
            Err(mistake) => {
                eprintln!("trialbay-sim: {mistake}");
                all_can_be_read = false;
                continue;
            }
        };
        let worlds = scenario.worlds.iter().map(|world| match world {
            WorldKind::Core => "core",
            WorldKind::Stack => "stack",
        });
        let worlds = worlds.collect::<Vec<_>>().join(",");
        println!("{name:<40} {worlds:<11} {:>5} {:<8} {}", scenario.seeds, scenario.expect.to_string(), scenario.title);
    }
    if all_can_be_read { Ok(true) } else { Err("not all scenarios can be read".to_owned()) }
}

pub(super) fn run(subject: &Subject) -> Result<bool, String> {
    let ready = subject.ready()?;
    let report = ready.play(Recorder::default())?;
    println!("{}", story(&ready.label, ready.seed, &report));
    println!("trace hash {:016x}, {} events, {} s simulated", report.trace_hash, report.event, report.at / S);
    for (what, count) in &report.counters {
        println!("{count:>10}  {what}");
    }
    let found = report.violation.map(|broken| broken.checker);
    let mut lacks = Vec::new();
    if ready.world == WorldKind::Core && found.is_none() {
        lacks = ready.scenario.lacks(&report.counters);
        let left = report.steps_done.iter().zip(1..).filter(|(done, _)| !**done);
        lacks.extend(left.map(|(_, number)| format!("step {number} was never done")));
        lacks.iter().for_each(|lack| println!("does not do what it says: {lack}"));
    }
    Ok(match &ready.scenario.expect {
        Expect::Pass => found.is_none() && lacks.is_empty(),
        Expect::Fail(checker) => {
            println!("expected: {checker} finds something");
            found == Some(checker)
        }
    })
}

#[expect(clippy::disallowed_types, reason = "how fast a swarm is concerns no run")]
pub(super) fn swarm(
    from: u64,
    seeds: u64,
    jobs: u64,
    nodes: Option<u16>,
    kind: Kind,
    hashes: Option<&Path>,
) -> Result<bool, String> {
    let begun = std::time::Instant::now();
    check_nodes(nodes)?;
    let mut label = kind.name().to_owned();
    let kind = Swarm { nodes, kind };
    if let Some(nodes) = nodes {
        label += &format!(" --nodes {nodes}");
    }
    let findings = campaign::swarm(from, seeds, jobs, &kind, &|done, failure| {
        if let Some((seed, report)) = failure {
            println!("{}", story(&label, seed, report));
        }
        if done.is_multiple_of(1_000) {
            eprintln!("{done} of {seeds} seeds, {:.0} a second", done as f64 / begun.elapsed().as_secs_f64());
        }
    })?;
    if let Some(path) = hashes {
        let lines = findings.hashes.iter().map(|(seed, hash)| format!("{label} {seed} {hash:016x}\n"));
        fs::write(path, lines.collect::<String>()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    for (what, count) in &findings.counters {
        println!("{count:>12}  {what}");
    }
    let mut by_checker = std::collections::BTreeMap::<&str, u64>::new();
    for (_, report) in &findings.failures {
        *by_checker.entry(report.violation.as_ref().map_or("", |broken| broken.checker)).or_default() += 1;
    }
    for (checker, count) in by_checker {
        println!("{count:>12}  failures found by {checker}");
    }
    let branches = if kind.kind.world() == WorldKind::Core { &campaign::BRANCHES[..] } else { &[] };
    let never: Vec<&str> = branches.iter().copied().filter(|branch| !findings.counters.contains_key(branch)).collect();
    if !never.is_empty() {
        println!("never happened: {}", never.join(", "));
    }
    let speed = findings.seeds as f64 / begun.elapsed().as_secs_f64();
    println!("{} seeds, {} failures, {speed:.1} seeds a second", findings.seeds, findings.failures.len());
    Ok(findings.failures.is_empty())
}
