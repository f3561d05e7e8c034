//! Starts real clusters for the tests beside it, lets clients loose on them, and judges what the clients saw.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic that says what went wrong")]

pub mod cluster;
pub mod command;
pub mod history;
pub mod ports;
pub mod process;
pub mod raw;
pub mod register;
pub mod storm;
pub mod trace;
pub mod vectors;

use std::time::Duration;

use tokio::time::Instant;

/// How long the tests wait for what must happen, on a machine as busy as may be.
pub const PATIENCE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// Polls until there is an answer.
///
/// # Panics
/// When there is none after [`PATIENCE`].
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// How many rounds a test plays: `TRIALBAY_ROUNDS`, or as many as fit into a run of all tests.
///
/// # Panics
/// When the variable is no number.
pub fn rounds(default: usize) -> usize {
    std::env::var("TRIALBAY_ROUNDS")
        .map_or(default, |rounds| rounds.parse().expect("TRIALBAY_ROUNDS must be a number of rounds"))
}

/// The worst and the median of some times, as `worst 1234 ms, median 1100 ms, of 20`.
pub fn summary(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0, Duration::as_millis);
    let (worst, median) = (ms(sorted.last()), ms(sorted.get(sorted.len() / 2)));
    format!("worst {worst} ms, median {median} ms, of {}", sorted.len())
}
