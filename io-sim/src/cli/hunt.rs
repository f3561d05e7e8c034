//! `shrink`, `mutants`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use trialbay_sim::Mutant;
use trialbay_sim::campaign::{hunt, story};
use trialbay_sim::scenario::file;
use trialbay_sim::shrink::{self, Shrunk};

use super::Subject;
use super::subject::{find_mutant, folder};

#[expect(clippy::disallowed_types, reason = "how long a person waits concerns no run")]
pub(super) fn shrink(subject: &Subject, seconds: u64, out: Option<PathBuf>) -> Result<bool, String> {
    let begun = std::time::Instant::now();
    let ready = subject.ready()?;
    let is_over = shrink::deadline(Duration::from_secs(seconds));
    let Some(shrunk) = shrink::shrink(&ready.scenario, ready.seed, ready.mutant, &is_over) else {
        return Err(format!("`{}` does not fail with seed {}", ready.label, ready.seed));
    };
    let Shrunk { scenario, seed, report, runs } = &shrunk;
    let path = out.unwrap_or_else(|| {
        let name = format!("{}-{}", subject.name.trim_end_matches(".toml").replace('/', "-"), ready.seed);
        folder(subject.scenarios.as_deref()).join("regressions").join(format!("{name}.toml"))
    });
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    fs::write(&path, file::print(scenario)?).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}", story(&path.display().to_string(), *seed, report));
    println!(
        "{} steps and {} requests on {} nodes are left, after {runs} runs in {:.1} s: {}",
        scenario.steps.len(),
        scenario.ops.len(),
        scenario.cluster.nodes,
        begun.elapsed().as_secs_f64(),
        path.display()
    );
    Ok(true)
}

#[expect(clippy::disallowed_types, reason = "how fast bugs are found concerns no run")]
pub(super) fn mutants(seeds: u64, only: Option<&str>) -> Result<bool, String> {
    let only = only.map(find_mutant).transpose()?;
    let mut all_right = true;
    println!("{:<6} {:<24} {:<6} {:>6} {:>8}  HOW", "", "PLANTED BUG", "BY", "SEEDS", "SECONDS");
    for mutant in Mutant::ALL.iter().copied().filter(|mutant| only.is_none_or(|only| only == *mutant)) {
        let begun = std::time::Instant::now();
        let hunt = hunt(mutant, seeds);
        all_right &= hunt.is_right();
        let verdict = if hunt.is_right() { "ok" } else { "WRONG" };
        let broken = hunt.found.as_ref().and_then(|(seed, report)| Some((seed, report.violation.as_ref()?)));
        let (by, how) = match broken {
            None => ("-", "not found".to_owned()),
            Some((seed, broken)) => (broken.checker, format!("seed {seed}: {}", broken.story)),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let how: String = how.chars().take(120).collect();
        println!("{verdict:<6} {:<24} {by:<6} {:>6} {seconds:>8.2}  {how}", mutant.name(), hunt.seeds);
    }
    Ok(all_right)
}
