//! What is kept of the log for those that take a head: without the log behind it, a head would be of no use once it is
//! there, and the next one would take no less time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trialbay_engine::Slot;

/// Who needs which part of the log. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Holds(Arc<Mutex<Held>>);

/// Holds everything above a slot until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Holds,
    number: u64,
}

#[derive(Debug, Default)]
struct Held {
    numbers: u64,
    above: BTreeMap<u64, Slot>,
    /// Whether it was said that nothing is held for want of room.
    lets_go: bool,
}

impl Holds {
    /// Up to where the log may be removed of what the store has passed. A disk that is nearly full is more urgent than a peer
    /// that would have to take another head.
    pub fn limit(&self, stored: Slot, disk_is_short: bool) -> Slot {
        let mut held = self.lock();
        let limit = held.above.values().copied().fold(stored, Slot::min);
        let lets_go = disk_is_short && limit < stored;
        if lets_go && !held.lets_go {
            tracing::warn!(above = limit.0, "the disk is nearly full: the log is not kept for nodes that take a head");
        }
        held.lets_go = lets_go;
        if lets_go { stored } else { limit }
    }

    pub(super) fn hold(&self, above: Slot) -> Hold {
        let mut held = self.lock();
        held.numbers += 1;
        let number = held.numbers;
        held.above.insert(number, above);
        Hold { holds: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().above.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_above_the_lowest_slot_that_is_held() {
        let holds = Holds::default();
        assert_eq!(holds.limit(Slot(9), false), Slot(9));
        let (low, high) = (holds.hold(Slot(3)), holds.hold(Slot(7)));
        assert_eq!((holds.limit(Slot(9), false), holds.limit(Slot(2), false)), (Slot(3), Slot(2)));
        drop(low);
        assert_eq!(holds.limit(Slot(9), false), Slot(7));
        drop(high);
        assert_eq!(holds.limit(Slot(9), false), Slot(9));
    }

    #[test]
    fn nothing_is_kept_for_others_while_the_disk_is_nearly_full() {
        let holds = Holds::default();
        let _hold = holds.hold(Slot(3));
        assert_eq!((holds.limit(Slot(9), true), holds.limit(Slot(9), false)), (Slot(9), Slot(3)));
    }
}
