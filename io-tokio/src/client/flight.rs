//! One attempt for all who want the same thing at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Runs one attempt at a time; those who come while it runs share its result instead of starting their own.
pub(crate) struct Flight<T> {
    /// How many attempts are complete.
    landed: AtomicU64,
    last: Mutex<Option<T>>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self { landed: AtomicU64::new(0), last: Mutex::new(None) }
    }
}

impl<T: Clone> Flight<T> {
    /// The result of an attempt that ended after this call began.
    pub(crate) async fn join(&self, attempt: impl AsyncFnOnce() -> T) -> T {
        let landed = self.landed.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        if self.landed.load(Ordering::Acquire) != landed
            && let Some(result) = &*last
        {
            return result.clone();
        }
        let result = attempt().await;
        *last = Some(result.clone());
        self.landed.fetch_add(1, Ordering::AcqRel);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_one_attempt_and_later_ones_start_anew() {
        let flight = Flight::default();
        let attempts = Cell::new(0);
        let attempt = async || {
            tokio::task::yield_now().await;
            attempts.set(attempts.get() + 1);
            attempts.get()
        };
        assert_eq!(tokio::join!(flight.join(attempt), flight.join(attempt), flight.join(attempt)), (1, 1, 1));
        assert_eq!(flight.join(attempt).await, 2);
    }

    #[tokio::test]
    async fn an_attempt_that_is_dropped_half_way_leaves_the_next_free() {
        let flight = Flight::default();
        let gone =
            tokio::time::timeout(std::time::Duration::ZERO, flight.join(async || std::future::pending().await)).await;
        assert!(gone.is_err());
        assert_eq!(flight.join(async || 7).await, 7);
    }
}
