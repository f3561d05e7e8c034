//! `shrink`, `mutants`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use trialbay_sim::Planted;
use trialbay_sim::campaign::{Hunt, hunt, hunting_ground, story};
use trialbay_sim::scenario::file;
use trialbay_sim::shrink::{self, Shrunk};

use super::Subject;
use super::subject::{find_planted, regressions};

#[expect(clippy::disallowed_types, reason = "how long a person waits concerns no run")]
pub(super) fn shrink(subject: &Subject, seconds: u64, out: Option<PathBuf>) -> Result<bool, String> {
    let begun = std::time::Instant::now();
    let ready = subject.ready()?;
    let is_over = shrink::deadline(Duration::from_secs(seconds));
    let Some(shrunk) = shrink::shrink(ready.world, &ready.scenario, ready.seed, ready.bugs, &is_over) else {
        return Err(format!("`{}` does not fail with seed {}", ready.label, ready.seed));
    };
    let Shrunk { scenario, seed, report, runs, before: (steps, requests) } = &shrunk;
    let path = out.unwrap_or_else(|| {
        let name = format!("{}-{}", subject.name.trim_end_matches(".toml").replace('/', "-"), ready.seed);
        regressions(subject.scenarios.as_deref()).join(format!("{name}.toml"))
    });
    if let Some(dir) = path.parent().filter(|dir| dir.ends_with("regressions")) {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    fs::write(&path, file::print(scenario)?).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}", story(&path.display().to_string(), *seed, report));
    println!(
        "{} of {steps} steps and {} of {requests} requests on {} nodes are left, after {runs} runs in {:.1} s: {}",
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
    let only = only.map(find_planted).transpose()?;
    let mut all_right = true;
    println!("{:<6} {:<32} {:<6} {:>6} {:>8}  HOW", "", "PLANTED BUG", "BY", "SEEDS", "SECONDS");
    let wanted = |planted: &Planted| only.is_none_or(|only| only == *planted);
    for planted in Planted::all().into_iter().filter(wanted) {
        let assertions = if planted.is_asserted() { &[false, true][..] } else { &[false] };
        for assertions_off in assertions {
            let begun = std::time::Instant::now();
            let hunt = hunt(planted, *assertions_off, seeds)?;
            all_right &= hunt.is_right();
            print_hunt(&hunt, *assertions_off, begun.elapsed().as_secs_f64());
        }
    }
    if !cfg!(feature = "planted-bugs") {
        println!("those of engine and node are in a build with `--features planted-bugs`");
    }
    Ok(all_right)
}

fn print_hunt(hunt: &Hunt, assertions_off: bool, seconds: f64) {
    let verdict = if hunt.is_right() { "ok" } else { "WRONG" };
    let broken = hunt.found.as_ref().and_then(|(seed, report)| Some((seed, report.violation.as_ref()?)));
    let (by, how) = match broken {
        None => ("-", "not found".to_owned()),
        Some((seed, broken)) => {
            (broken.checker, format!("{} {seed}: {}", hunting_ground(hunt.planted, *seed).name(), broken.story))
        }
    };
    let how: String = how.chars().take(120).collect();
    let name = format!("{}{}", hunt.planted, if assertions_off { " -asserts" } else { "" });
    println!("{verdict:<6} {name:<32} {by:<6} {:>6} {seconds:>8.2}  {how}", hunt.seeds);
}
