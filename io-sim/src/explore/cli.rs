//! `trialbay-sim explore`: the bounds as flags, the findings as text.

use clap::{Args, ValueEnum as _};

use super::{Bounds, Change, Findings, explore};

/// The flags of `trialbay-sim explore`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Arguments {
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    nodes: u8,
    /// Campaigns.
    #[arg(long, default_value_t = 2)]
    ballots: u8,
    /// Updates that clients ask for.
    #[arg(long, default_value_t = 2)]
    slots: u8,
    /// Nodes that crash, each once.
    #[arg(long, default_value_t = 1)]
    crashes: u8,
    /// Messages that arrive twice.
    #[arg(long, default_value_t = 0)]
    duplicates: u8,
    /// Questions of nodes that are behind.
    #[arg(long, default_value_t = 0)]
    fetches: u8,
    /// Deadlines that masters see come.
    #[arg(long, default_value_t = 0)]
    master_ticks: u8,
    /// Stop after so many states.
    #[arg(long, default_value_t = 20_000_000)]
    states_max: usize,
    /// Plant this.
    #[arg(long, value_enum)]
    change: Option<Change>,
}

/// Explores, and prints what it found; `false` when a rule was broken.
#[expect(clippy::disallowed_types, reason = "how fast an exploration is concerns no state")]
pub fn run(arguments: Arguments) -> bool {
    let Arguments { nodes, ballots, slots, crashes, duplicates, fetches, master_ticks, states_max, change } = arguments;
    let bounds = Bounds { nodes, ballots, slots, crashes, duplicates, fetches, master_ticks, states_max };
    let begun = std::time::Instant::now();
    let findings = explore(bounds, change, &mut |findings| {
        eprintln!(
            "depth {:>3}: {:>10} states, {:>11} transitions",
            findings.depth, findings.states, findings.transitions
        );
    });
    print(&findings, change, begun.elapsed().as_secs_f64());
    findings.failure.is_none()
}

fn print(findings: &Findings, change: Option<Change>, seconds: f64) {
    let Findings { states, transitions, repeated, depth, node_states, messages, memory, .. } = findings;
    if let Some(change) = change.and_then(|change| change.to_possible_value()) {
        println!("planted: {}", change.get_name());
    }
    println!("{states} states, {transitions} transitions ({repeated} to known states), depth {depth}");
    println!("{node_states} states of nodes, {messages} messages, {} MiB of states", memory >> 20);
    println!("{seconds:.1} s, {:.0} states a second", *states as f64 / seconds);
    match &findings.failure {
        Some(failure) => println!("{failure}"),
        None if findings.is_complete => println!("complete: no rule can be broken within these bounds"),
        None => println!("not complete: no rule can be broken in {depth} steps; beyond that only part was looked at"),
    }
}
