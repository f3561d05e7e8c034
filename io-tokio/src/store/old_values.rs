//! The old values that clients of `TestAndSet` and `Replace` are to be told.
//!
//! Such an update takes a few bytes of the log and gives back a value of megabytes; one slot has room for tens of
//! thousands of them. So values that are the same are held once, and all of them together are bounded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

/// The old values that wait to be told, in bytes.
pub(super) const OLD_VALUES_BYTES_MAX: usize = 512 << 20;

/// Shorter values are not counted: their number is bounded by that of the updates.
const COUNTED_FROM_BYTES: usize = 256;

/// All old values that somebody still holds.
pub(super) struct OldValues {
    bytes_max: usize,
    bytes: Arc<AtomicUsize>,
    /// By checksum. Of two values with the same one, only the later is found again.
    values: HashMap<u32, Weak<Held>>,
}

struct Held {
    value: Bytes,
    bytes: Arc<AtomicUsize>,
}

/// One of those who hold a value.
struct Holder(Arc<Held>);

impl OldValues {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Arc::default(), values: HashMap::new() }
    }

    /// The same value, counted for as long as it is held; `None` when there is no room for it.
    pub(super) fn hold(&mut self, value: Bytes) -> Option<Bytes> {
        let len = value.len();
        if len < COUNTED_FROM_BYTES {
            return Some(value);
        }
        let checksum = crc32c::crc32c(&value);
        if let Some(held) = self.values.get(&checksum).and_then(Weak::upgrade).filter(|held| held.value == value) {
            return Some(Bytes::from_owner(Holder(held)));
        }
        let before = self.bytes.load(Ordering::Relaxed);
        if before > 0 && before.saturating_add(len) > self.bytes_max {
            return None;
        }
        self.bytes.fetch_add(len, Ordering::Relaxed);
        let held = Arc::new(Held { value, bytes: self.bytes.clone() });
        self.values.insert(checksum, Arc::downgrade(&held));
        Some(Bytes::from_owner(Holder(held)))
    }

    /// Forgets what nobody holds any more.
    pub(super) fn tidy(&mut self) {
        self.values.retain(|_, held| held.strong_count() > 0);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.value.len(), Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Holder {
    fn as_ref(&self) -> &[u8] {
        &self.0.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_held_once_and_all_together_are_bounded_until_they_are_let_go() {
        let mut old = OldValues::new(2_000);
        let value = |byte: u8| Bytes::from(vec![byte; 1_000]);
        let ones: Vec<_> = (0..100).map(|_| old.hold(value(1)).unwrap()).collect();
        assert!(ones.iter().all(|one| *one == value(1) && one.as_ptr() == ones[0].as_ptr()));
        let two = old.hold(value(2)).unwrap();
        assert_eq!(old.hold(value(3)), None);
        assert_eq!(old.hold(Bytes::from("short")), Some(Bytes::from("short")));
        drop(ones);
        assert_eq!(old.hold(value(3)), Some(value(3)));
        drop(two);
        old.tidy();
        assert!(old.values.is_empty() && old.bytes.load(Ordering::Relaxed) == 0);
        let larger = Bytes::from(vec![4; 5_000]);
        assert_eq!(old.hold(larger.clone()), Some(larger), "one alone may exceed it");
    }
}
