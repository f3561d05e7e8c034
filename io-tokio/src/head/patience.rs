//! How long either side waits for the other.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// A peer that is not heard of for this long is given up.
const PATIENCE_MAX: Duration = Duration::from_secs(30);

/// So many bytes are worth a second.
const BYTES_PER_SECOND: usize = 512 << 10;

/// Time for a peer to act, of which it earns more with each byte: one that is dead is given up after [`PATIENCE_MAX`], and
/// one that is slower than [`BYTES_PER_SECOND`] in the long run is, too, however steadily it trickles. Time that is not spent
/// waiting for it costs it nothing.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
}

/// The peer was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer takes too long: it gets {PATIENCE_MAX:?}, and a second for each {} KiB", BYTES_PER_SECOND >> 10)]
pub(super) struct Exhausted;

impl Patience {
    pub(super) fn new() -> Self {
        Self { left: PATIENCE_MAX }
    }

    /// Waits for the peer.
    pub(super) async fn wait_for<T>(&mut self, act: impl Future<Output = T>) -> Result<T, Exhausted> {
        let began = Instant::now();
        let done = tokio::time::timeout(self.left, act).await;
        self.left = self.left.saturating_sub(began.elapsed());
        done.map_err(|_| Exhausted)
    }

    /// The peer has taken or given so many bytes.
    pub(super) fn earn(&mut self, bytes: usize) {
        let seconds = bytes as f64 / BYTES_PER_SECOND as f64;
        self.left = (self.left + Duration::from_secs_f64(seconds)).min(PATIENCE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a peer is borne with that gives so many bytes every so often.
    async fn borne(bytes: usize, pause: Duration) -> Option<Duration> {
        let (began, mut patience) = (Instant::now(), Patience::new());
        for _ in 0..1_000 {
            if patience.wait_for(tokio::time::sleep(pause)).await.is_err() {
                return Some(began.elapsed());
            }
            patience.earn(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_and_the_slow_are_given_up_and_nobody_else() {
        let second = Duration::from_secs(1);
        assert_eq!(borne(0, 1_000 * second).await, Some(PATIENCE_MAX));
        assert!(borne(1, second).await.unwrap() <= PATIENCE_MAX + second);
        assert!(borne(BYTES_PER_SECOND / 2, second).await.unwrap() <= 2 * PATIENCE_MAX);
        assert_eq!(borne(BYTES_PER_SECOND, second).await, None);
        assert_eq!(borne(30 * BYTES_PER_SECOND, 29 * second).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_cannot_be_saved_up() {
        let mut patience = Patience::new();
        patience.earn(1 << 30);
        let began = Instant::now();
        patience.wait_for(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(began.elapsed(), PATIENCE_MAX);
    }
}
