//! How fast histories are checked: `cargo run --release -p trialbay-sim --example history_speed [OPERATIONS]`.

use std::process::ExitCode;

use trialbay_sim::check::history::check;
use trialbay_sim::check::honest::{Shape, history};
use trialbay_sim::rng::Rng;

fn main() -> ExitCode {
    let operations = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let mut status = ExitCode::SUCCESS;
    for (clients, keys) in [(16, 10_000), (64, 100), (8, 1_000_000)] {
        let (operations, log) = history(&mut Rng::new(1, 1), Shape { operations, clients, keys });
        let start = cpu_seconds();
        let verdict = check(&operations, &log);
        let seconds = cpu_seconds() - start;
        let rate = operations.len() as f64 / seconds;
        println!("{clients} clients, {keys} keys: {} operations in {seconds:.2} s, {rate:.0}/s", operations.len());
        match verdict {
            Ok(stats) => println!("  {stats:?}"),
            Err(violation) => {
                println!("  {violation:?}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

/// How long this thread has had a processor: others on the machine do not count.
fn cpu_seconds() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}
