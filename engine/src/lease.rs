//! Leases: time in which slaves refuse every other candidate, so that the master may answer reads alone.
//!
//! Two clocks are involved and they may run at different rates, within the drift bound. The slave counts a whole lease
//! from the moment it *granted* (rule L1). The master counts a shortened lease from the moment it *asked* (rule L2),
//! which was earlier. So the master's lease ends first, whatever the message delays were.

use core::hash::{Hash as _, Hasher};
use core::time::Duration;

use bincode::{Decode, Encode};

use crate::ids::NodeId;
use crate::time::Instant;

const PPM: u64 = 1_000_000;

/// What a slave owes: no promise to anyone before `nobody_before`, nor to anyone but `to` before `until`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Grant {
    /// A restarted node has forgotten to whom it granted, so it refuses everyone (rule L4). Nothing shortens this: the
    /// master that it hears of first may be an old one, whose messages come late.
    nobody_before: Instant,
    to: Option<NodeId>,
    until: Instant,
}

impl Grant {
    /// The grants that an earlier run may have given, of which none is later than `now`.
    pub(crate) fn after_restart(now: Instant, wait: Duration) -> Self {
        Self { nobody_before: now + wait, to: None, until: now }
    }

    /// An earlier run may have granted for longer than this one would.
    pub(crate) fn nobody_before(&mut self, until: Instant) {
        self.nobody_before = self.nobody_before.max(until);
    }

    pub(crate) fn give(&mut self, to: NodeId, until: Instant) {
        // Never shortened: not by a heartbeat that comes late, nor by a new master, whose quorum of promises has ended the
        // old one's lease (rule L3).
        self.until = self.until.max(until);
        self.to = Some(to);
    }

    /// The holder gave it back.
    pub(crate) fn end(&mut self, now: Instant) {
        self.until = now;
    }

    /// Whether `candidate` must be refused.
    pub(crate) fn forbids(&self, candidate: NodeId, now: Instant) -> bool {
        now < self.nobody_before || (now < self.until && self.to != Some(candidate))
    }

    /// Whether everyone is refused, as after a restart.
    pub(crate) fn forbids_all(&self, now: Instant) -> bool {
        now < self.nobody_before
    }

    /// Who holds it now.
    pub(crate) fn holder(&self, now: Instant) -> Option<NodeId> {
        if now < self.until { self.to } else { None }
    }

    /// Hashes what is left of this at `now`.
    pub(crate) fn digest(&self, now: Instant, hasher: &mut impl Hasher) {
        (self.nobody_before.since(now), self.until.since(now), self.holder(now)).hash(hasher);
    }

    /// From when on nobody is refused.
    pub(crate) fn until(&self) -> Instant {
        self.until.max(self.nobody_before)
    }
}

/// How long a master may count on a grant of `lease`, from the moment it asked.
///
/// With rates within 1 ± ρ, a lease of L on the slave's clock lasts at least L / (1 + ρ), and a count of M on the
/// master's clock takes at most M / (1 - ρ). So M = L (1 - ρ) / (1 + ρ), rounded down (rule L2).
pub(crate) fn counted_by_master(lease: Duration, drift_ppm: u32) -> Duration {
    let drift = u64::from(drift_ppm).min(PPM - 1);
    scale(lease, PPM - drift, PPM + drift)
}

/// How long a restarted node waits before it promises anything: a lease, stretched by the drift bound (rule L4).
pub(crate) fn restart_wait(lease: Duration, drift_ppm: u32) -> Duration {
    let drift = u64::from(drift_ppm).min(PPM - 1);
    scale(lease, PPM + drift, PPM - drift)
}

fn scale(duration: Duration, by: u64, over: u64) -> Duration {
    let nanos = duration.as_nanos() * u128::from(by) / u128::from(over);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn a_grant_forbids_others_until_it_ends_and_never_its_holder() {
        let mut grant = Grant::after_restart(Instant(0), Duration::ZERO);
        grant.give(A, Instant(100));
        assert!(grant.forbids(B, Instant(99)));
        assert!(!grant.forbids(B, Instant(100)));
        assert!(!grant.forbids(A, Instant(99)));
        assert_eq!(grant.holder(Instant(99)), Some(A));
        assert_eq!(grant.holder(Instant(100)), None);
    }

    #[test]
    fn a_restarted_node_refuses_everyone_for_the_whole_wait() {
        let grant = Grant::after_restart(Instant(10), Duration::from_nanos(90));
        assert!(grant.forbids(A, Instant(99)) && grant.forbids(B, Instant(99)));
        assert!(!grant.forbids(A, Instant(100)));
        assert_eq!(grant.holder(Instant(50)), None);
    }

    #[test]
    fn neither_a_grant_nor_its_end_shortens_the_wait_after_a_restart() {
        let mut grant = Grant::after_restart(Instant(10), Duration::from_nanos(90));
        grant.give(A, Instant(60));
        assert!(grant.forbids(A, Instant(99)) && grant.forbids(B, Instant(99)));
        assert_eq!(grant.holder(Instant(50)), Some(A));
        grant.end(Instant(20));
        assert!(grant.forbids(A, Instant(99)) && grant.forbids(B, Instant(99)));
        assert_eq!(grant.until(), Instant(100));
    }

    #[test]
    fn a_longer_lease_of_an_earlier_run_lengthens_the_wait_and_a_shorter_one_does_not() {
        let mut grant = Grant::after_restart(Instant(10), Duration::from_nanos(90));
        grant.nobody_before(Instant(50));
        assert_eq!(grant.until(), Instant(100));
        grant.nobody_before(Instant(200));
        assert!(grant.forbids(A, Instant(199)) && !grant.forbids(A, Instant(200)));
    }

    #[test]
    fn a_late_heartbeat_does_not_shorten_a_grant() {
        let mut grant = Grant::after_restart(Instant(0), Duration::ZERO);
        grant.give(A, Instant(100));
        grant.give(A, Instant(50));
        assert_eq!(grant.until(), Instant(100));
    }

    #[test]
    fn the_master_counts_less_than_any_slave_grants_at_the_drift_bound() {
        for drift_ppm in [0, 1, 500, 10_000, 200_000, 999_999] {
            let lease = Duration::from_millis(800);
            let (rho, nanos) = (f64::from(drift_ppm) / 1e6, lease.as_nanos() as f64);
            let granted_real = nanos / (1.0 + rho);
            let counted_real = counted_by_master(lease, drift_ppm).as_nanos() as f64 / (1.0 - rho);
            assert!(counted_real <= granted_real * (1.0 + 1e-9), "{drift_ppm}: {counted_real} > {granted_real}");
        }
    }
}
