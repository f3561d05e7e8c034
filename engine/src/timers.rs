//! The engine's deadlines: a fixed table.

use core::hash::{Hash as _, Hasher};

use bincode::{Decode, Encode};

use crate::time::Instant;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A slave asks around whether it should be master.
    Canvass,
    /// A canvass or campaign that has not succeeded by now is given up.
    CampaignEnd,
    /// A master renews its lease.
    Heartbeat,
    /// A master whose lease ran out long ago steps down.
    Lapse,
    /// A master whose values are not decided although it has its lease, or whose first own one is not applied, steps down.
    Stall,
    /// A fetch that was not answered by now is tried at another peer.
    Fetch,
    /// A node without a vote asks again what it forgot.
    Recall,
    /// A hand-over ends by now, one way or the other.
    HandOver,
}

const COUNT: usize = 8;

const ALL: [Timer; COUNT] = [
    Timer::Canvass,
    Timer::CampaignEnd,
    Timer::Heartbeat,
    Timer::Lapse,
    Timer::Stall,
    Timer::Fetch,
    Timer::Recall,
    Timer::HandOver,
];

/// When each timer is due, if it is set.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Timers([Option<Instant>; COUNT]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// Hashes how far each deadline is from `now`.
    pub(crate) fn digest(&self, now: Instant, hasher: &mut impl Hasher) {
        self.0.map(|at| at.map(|at| at.since(now))).hash(hasher);
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Clears and gives one timer that is due, in the order of the table.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = ALL.into_iter().find(|timer| self.0[*timer as usize].is_some_and(|at| at <= now))?;
        self.clear(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_once_and_not_before_its_time() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        timers.set(Timer::Lapse, Instant(20));
        timers.set(Timer::Canvass, Instant(10));
        assert_eq!(timers.next(), Some(Instant(10)));
        assert_eq!(timers.pop_due(Instant(9)), None);
        assert_eq!(timers.pop_due(Instant(20)), Some(Timer::Canvass));
        assert_eq!(timers.pop_due(Instant(20)), Some(Timer::Lapse));
        assert_eq!(timers.pop_due(Instant(20)), None);
    }

    #[test]
    fn the_table_is_in_the_order_of_the_timers() {
        assert!(ALL.iter().enumerate().all(|(index, timer)| *timer as usize == index));
    }
}
