//! The command line of `trialbay-sim`.

mod hunt;
mod play;
mod show;
mod subject;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use trialbay_sim::scenario::WorldKind;
use trialbay_sim::scenario::draw::Kind;

/// Plays Trialbay through faults in simulated time, from a seed, with checkers that trust nothing.
#[derive(Parser)]
#[command(
    version,
    after_help = "A NAME is a scenario of `trialbay-sim list`, a file, or `swarm`: what the seed itself makes."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the scenarios: name, worlds, seeds, title.
    List {
        /// Where they are.
        #[arg(long)]
        scenarios: Option<PathBuf>,
    },
    /// Play once and say how it went: verdict, trace hash, counters.
    Run(Subject),
    /// Play once and print a line for everything that happens, with a column for each node.
    ///
    /// With `--recorder`, what a node of production recorded is executed again instead, and compared.
    #[command(
        arg_required_else_help = true,
        override_usage = "trialbay-sim replay [OPTIONS] <NAME>\n       trialbay-sim replay --recorder <DIR>"
    )]
    Replay {
        #[command(flatten)]
        subject: Option<Subject>,
        /// A node's directory `recorder`, from a run with `recorder = true`.
        #[arg(long, value_name = "DIR", exclusive = true, required_unless_present = "name")]
        recorder: Option<PathBuf>,
        /// Only what happens within a second of this simulated time, such as `5s`.
        #[arg(long)]
        around: Option<String>,
        /// Stop once this can be observed, such as `decided >= 9` or `master == n2`.
        #[arg(long)]
        until: Option<String>,
        /// Only what concerns this node, such as `n2`.
        #[arg(long)]
        node: Option<String>,
        /// Explain the columns.
        #[arg(long)]
        legend: bool,
    },
    /// Play once and print a page that shows it: lanes, arrows, faults, leases, the state at the cursor.
    Timeline(Subject),
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
        /// What is drawn: `swarm`, `harsh`, `churn` or `losses`; `stack`, `stack-harsh` or `stack-pauses` (whole nodes); or
        /// `standard`, which the speed is measured with.
        #[arg(long, default_value = "swarm", value_parser = kind)]
        kind: Kind,
        /// Write a line for each seed with the hash of its trace: the same seeds give the same file in any process.
        #[arg(long, value_name = "FILE")]
        hashes: Option<PathBuf>,
    },
    /// Take away from a failing run what it does not need, and write what is left as a scenario.
    Shrink {
        #[command(flatten)]
        subject: Subject,
        /// Seconds that it may take.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Where to write it, instead of `regressions/` in the folder of scenarios.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Explore a small world exhaustively: every order of messages, syncs, timers and crashes.
    Explore(trialbay_sim::explore::cli::Arguments),
    /// Hunt each planted bug, and print a table: found or not, by which checker, after how many seeds and seconds.
    Mutants {
        /// Give up after so many seeds.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// Only this one.
        #[arg(long)]
        planted: Option<String>,
    },
}

/// What is played.
#[derive(Args)]
pub(crate) struct Subject {
    /// A scenario of `list`, a file, or a kind of `swarm`, such as `harsh` or `stack`: what the seed itself makes.
    name: String,
    /// The seed. By default the first one of the scenario.
    #[arg(long)]
    seed: Option<u64>,
    /// So many nodes, not as many as the seed draws.
    #[arg(long)]
    nodes: Option<u16>,
    /// With this planted bug.
    #[arg(long)]
    planted: Option<String>,
    /// Where it is played: `core` or `stack`. By default the first world that the scenario names.
    #[arg(long, value_parser = world)]
    world: Option<WorldKind>,
    /// Where the scenarios are.
    #[arg(long)]
    scenarios: Option<PathBuf>,
}

fn world(name: &str) -> Result<WorldKind, String> {
    match name {
        "core" => Ok(WorldKind::Core),
        "stack" => Ok(WorldKind::Stack),
        _ => Err("core or stack".to_owned()),
    }
}

fn kind(name: &str) -> Result<Kind, String> {
    let found = Kind::NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind).ok_or_else(|| Kind::NAMES.map(|(known, _)| known).join(", "))
}

/// Does what the arguments say, and tells whether all was as it should be.
///
/// # Errors
/// What was wrong with the arguments.
pub(crate) fn run(arguments: Arguments) -> Result<bool, String> {
    match arguments.command {
        Command::List { scenarios } => play::list(scenarios.as_deref()),
        Command::Run(subject) => play::run(&subject),
        Command::Replay { recorder: Some(dir), .. } => show::recording(&dir),
        Command::Replay { subject: Some(subject), around, until, node, legend, recorder: None } => {
            show::replay(&subject, around.as_deref(), until.as_deref(), node.as_deref(), legend)
        }
        Command::Replay { subject: None, recorder: None, .. } => {
            Err("name what to replay, or a recording: see `trialbay-sim replay --help`".to_owned())
        }
        Command::Timeline(subject) => show::timeline(&subject),
        Command::Swarm { seeds, from, jobs, nodes, kind, hashes } => {
            play::swarm(from, seeds, jobs, nodes, kind, hashes.as_deref())
        }
        Command::Explore(arguments) => Ok(trialbay_sim::explore::cli::run(arguments)),
        Command::Shrink { subject, seconds, out } => hunt::shrink(&subject, seconds, out),
        Command::Mutants { seeds, planted } => hunt::mutants(seeds, planted.as_deref()),
    }
}
