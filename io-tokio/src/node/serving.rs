//! Whether `Consistent` reads may be served here, as the driver knows it and every connection asks it.

use std::sync::atomic::{AtomicU64, Ordering};

use trialbay_engine::Instant;

/// The times in which this node may serve. Written by the driver alone.
///
/// A read is fixed by its snapshot. It may be served if this node was master, ready and inside its lease, at the moment of
/// the snapshot (rule R1). Looking afterwards is not enough: a snapshot from before the node became master lacks what
/// its predecessor decided. Looking before is not enough either: the lease may have ended. So a read looks twice, and
/// in between mastership must not have ended even once.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    /// The end of the lease in nanoseconds on the node's clock; 0 when the node does not serve.
    until: AtomicU64,
    /// How often serving has ended.
    ended: AtomicU64,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: Option<crate::planted::PlantedBug>,
}

/// A first look, which found the node serving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstLook {
    ended: u64,
}

impl Serving {
    /// With this planted bug.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn with_planted(planted: Option<crate::planted::PlantedBug>) -> Self {
        Self { planted, ..Self::default() }
    }

    /// Makes known until when the node serves; `None` ends it. Must be called before anybody can hear of the end.
    pub(crate) fn publish(&self, until: Option<Instant>) {
        let until = until.map_or(0, |until| until.0);
        let was = self.until.load(Ordering::SeqCst);
        if was != 0 && until == 0 {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        if was != until {
            self.until.store(until, Ordering::SeqCst);
        }
    }

    /// Whether the node serves at `now`.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        now.0 < self.until.load(Ordering::SeqCst)
    }

    /// To be called before the snapshot is taken. `None` when the node does not serve.
    pub(crate) fn look(&self) -> Option<FirstLook> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.until.load(Ordering::SeqCst) != 0).then_some(FirstLook { ended })
    }

    /// To be called after the snapshot was taken, with the time after that: whether it may be served.
    pub(crate) fn held_since(&self, first: FirstLook, now: Instant) -> bool {
        planted!(self.planted, LeaseCheckedFirst) || self.is_on(now) && self.ended.load(Ordering::SeqCst) == first.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_from_before_the_mastership_is_not_served() {
        let serving = Serving::default();
        assert!(serving.look().is_none());
    }

    #[test]
    fn a_snapshot_inside_the_lease_is_served_and_one_that_outlives_it_is_not() {
        let serving = Serving::default();
        serving.publish(Some(Instant(100)));
        let look = serving.look().unwrap();
        assert!(serving.held_since(look, Instant(99)));
        assert!(!serving.held_since(look, Instant(100)));
        serving.publish(Some(Instant(200)));
        assert!(serving.held_since(look, Instant(100)), "a renewed lease goes on");
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn the_planted_bug_forgets_to_look_again() {
        let serving = Serving::with_planted(Some(crate::planted::PlantedBug::LeaseCheckedFirst));
        serving.publish(Some(Instant(100)));
        let look = serving.look().unwrap();
        serving.publish(None);
        assert!(serving.held_since(look, Instant(100)));
    }

    #[test]
    fn a_mastership_that_ended_and_came_back_in_between_does_not_count() {
        let serving = Serving::default();
        serving.publish(Some(Instant(100)));
        let look = serving.look().unwrap();
        serving.publish(None);
        assert!(!serving.held_since(look, Instant(50)));
        serving.publish(Some(Instant(200)));
        assert!(!serving.held_since(look, Instant(50)));
        assert!(serving.held_since(serving.look().unwrap(), Instant(50)));
    }
}
