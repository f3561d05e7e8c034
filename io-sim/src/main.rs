//! `trialbay-sim`: plays seeds, replays failures, hunts planted bugs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trialbay_sim::campaign::{hunt_all, play, story, swarm};
use trialbay_sim::explore::cli;
use trialbay_sim::plan::S;
use trialbay_sim::{Plan, World};

/// Plays Trialbay's engine through faults in simulated time.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play one seed and say how it went.
    Run {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// So many nodes, not as many as the seed draws.
        #[arg(long)]
        nodes: Option<u16>,
    },
    /// Play one seed and print a line for everything that happens.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// So many nodes, not as many as the seed draws.
        #[arg(long)]
        nodes: Option<u16>,
        /// Only what happens within a second of this simulated time, such as `5s`.
        #[arg(long)]
        around: Option<String>,
    },
    /// Play many seeds.
    Swarm {
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// On so many threads.
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        /// So many nodes, not as many as each seed draws.
        #[arg(long)]
        nodes: Option<u16>,
    },
    /// Hunt each planted bug.
    Mutants {
        /// Give up after so many seeds.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
    },
    /// Take every step that a small world allows, in every order.
    Explore(cli::Arguments),
}

fn main() -> ExitCode {
    // A panic of an engine is a finding with a story of its own.
    std::panic::set_hook(Box::new(|_| {}));
    let good = match Arguments::parse().command {
        Command::Run { seed, nodes } => run(seed, nodes),
        Command::Replay { seed, nodes, around } => replay(seed, nodes, around.as_deref()),
        Command::Swarm { seeds, from, jobs, nodes } => run_swarm(from, seeds, jobs, nodes),
        Command::Mutants { seeds } => mutants(seeds),
        Command::Explore(arguments) => cli::run(arguments),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(seed: u64, nodes: Option<u16>) -> bool {
    let report = play(seed, nodes, None);
    println!("{}", story(seed, nodes, &report));
    println!("trace hash {:016x}, {} events, {} s simulated", report.trace_hash, report.event, report.at / S);
    for (what, count) in &report.counters {
        println!("{count:>10}  {what}");
    }
    report.violation.is_none()
}

fn replay(seed: u64, nodes: Option<u16>, around: Option<&str>) -> bool {
    let span = match around.map(|around| around.trim_end_matches('s').parse::<f64>()) {
        None => 0..u64::MAX,
        Some(Ok(second)) => {
            let middle = (second * S as f64) as u64;
            middle.saturating_sub(S)..middle + 2 * S
        }
        Some(Err(error)) => {
            eprintln!("--around takes a time such as 5s: {error}");
            return false;
        }
    };
    let mut world = World::new(Plan::new(seed, nodes), None);
    world.watch(span, Box::new(|line| println!("{line}")));
    let report = world.run();
    println!("{}", story(seed, nodes, &report));
    report.violation.is_none()
}

#[expect(clippy::disallowed_types, reason = "how fast a swarm is concerns no run")]
fn run_swarm(from: u64, seeds: u64, jobs: u64, nodes: Option<u16>) -> bool {
    let begun = std::time::Instant::now();
    let findings = swarm(from, seeds, jobs, nodes, &|done, failure| {
        if let Some((seed, report)) = failure {
            println!("{}", story(seed, nodes, report));
        }
        if done.is_multiple_of(1_000) {
            eprintln!("{done} of {seeds} seeds, {:.0} a second", done as f64 / begun.elapsed().as_secs_f64());
        }
    });
    for (what, count) in &findings.counters {
        println!("{count:>12}  {what}");
    }
    let speed = findings.seeds as f64 / begun.elapsed().as_secs_f64();
    println!("{} seeds, {} failures, {speed:.0} seeds a second", findings.seeds, findings.failures.len());
    findings.failures.is_empty()
}

fn mutants(seeds: u64) -> bool {
    let hunts = hunt_all(seeds, &mut |hunt| {
        let verdict = if hunt.is_right() { "ok" } else { "WRONG" };
        let how = match &hunt.found {
            None => "not found".to_owned(),
            Some((seed, report)) => {
                let broken = report.violation.as_ref();
                let how = broken.map(|broken| format!("{}: {}", broken.checker, broken.story)).unwrap_or_default();
                format!("seed {seed}, {how}")
            }
        };
        println!("{verdict:<6} {:<24} {:>4} seeds  {how}", format!("{:?}", hunt.mutant), hunt.seeds);
    });
    hunts.iter().all(trialbay_sim::campaign::Hunt::is_right)
}
