//! When the store makes a durable commit.

use std::time::Duration;

use trialbay_engine::Instant;

/// Weighs the cost of a durable commit against the length of the log that a restart replays.
///
/// A durable commit is due once so much was applied, or so long ago, since the last one. An idle store needs none.
/// Under random writes it takes 0.1 s and more, in which nothing is applied, and hardly less if little was applied since
/// the last one; replaying 16 MiB takes about a second. Hence the defaults.
#[derive(Clone, Debug)]
pub struct CommitPolicy {
    bytes_max: usize,
    age_max: Duration,
    bytes: usize,
    since: Option<Instant>,
}

impl Default for CommitPolicy {
    fn default() -> Self {
        Self::new(16 << 20, Duration::from_secs(5))
    }
}

impl CommitPolicy {
    /// At the latest after `bytes_max` bytes of values, or `age_max` after the first value that is not durable.
    pub fn new(bytes_max: usize, age_max: Duration) -> Self {
        Self { bytes_max, age_max, bytes: 0, since: None }
    }

    /// Values of `bytes` bytes altogether were applied, and are not durable.
    pub fn applied(&mut self, now: Instant, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.since.get_or_insert(now);
    }

    /// Everything is durable.
    pub fn flushed(&mut self) {
        self.bytes = 0;
        self.since = None;
    }

    /// Whether a durable commit should be made now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due_in(now).is_some_and(|wait| wait.is_zero())
    }

    /// How long until a durable commit is due if nothing more is applied; `None` when there is nothing to make durable.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        let due_at = self.since? + self.age_max;
        Some(if self.bytes >= self.bytes_max { Duration::ZERO } else { due_at.since(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(7_000_000_000);

    fn policy() -> CommitPolicy {
        CommitPolicy::new(100, Duration::from_secs(1))
    }

    #[test]
    fn an_idle_store_needs_no_commit() {
        let mut policy = policy();
        assert_eq!(policy.due_in(START), None);
        policy.applied(START, 1000);
        policy.flushed();
        assert_eq!(policy.due_in(START + Duration::from_secs(100)), None);
        assert!(!policy.is_due(START + Duration::from_secs(100)));
    }

    #[test]
    fn it_is_due_after_so_much_or_so_long_from_the_first_value() {
        let mut policy = policy();
        policy.applied(START, 99);
        assert_eq!(policy.due_in(START + Duration::from_millis(400)), Some(Duration::from_millis(600)));
        assert!(!policy.is_due(START + Duration::from_millis(999)));
        assert!(policy.is_due(START + Duration::from_secs(1)));
        policy.applied(START + Duration::from_millis(500), 1);
        assert!(policy.is_due(START + Duration::from_millis(500)));
    }

    #[test]
    fn values_without_bytes_become_durable_too() {
        let mut policy = policy();
        policy.applied(START, 0);
        assert!(policy.is_due(START + Duration::from_secs(1)));
    }
}
