//! How large an update may be. Checked where updates come in, never where they are applied: nodes whose limits differ
//! must still apply the same.

use super::{NESTING_MAX, NurseryUpdate, Update};

/// No configuration allows a longer update: every frame and queue on its way has room for one of this length.
pub const UPDATE_BYTES_CEILING: usize = 64 << 20;

/// In one update: range assertions, times the keys that it writes. An assertion may have to step over each of them,
/// and while an update is applied nothing else is.
const RANGE_STEPS_MAX: u64 = 1_000_000;

/// Updates in one sequence of what is kept beside the keys. Each looks at all of it.
const NURSERY_UPDATES_MAX: usize = 1_000;

/// Bounds on one update, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key or prefix.
    pub key_bytes_max: usize,
    /// A value must be *shorter* than this, as it always was in the original.
    pub value_bytes_max: usize,
    /// The longest update as a whole, in its wire form.
    pub update_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { key_bytes_max: 64 << 10, value_bytes_max: 8 << 20, update_bytes_max: 32 << 20 }
    }
}

/// Which limit an update breaks. Such an update is refused before it is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// A key or prefix is too long.
    #[error("a key of {len} bytes is longer than the limit of {max}")]
    Key {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A value is not shorter than the limit.
    #[error("a value of {len} bytes is not shorter than the limit of {max}")]
    Value {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The update as a whole is too long.
    #[error("an update of {len} bytes is longer than the limit of {max}: split the sequence")]
    Update {
        /// The length of its wire form in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Too many range assertions beside too many writes.
    #[error(
        "{ranges} range assertions beside {writes} writes are too many in one sequence (their product is limited to {max}): split the sequence"
    )]
    RangeSteps {
        /// The range assertions.
        ranges: u64,
        /// The updates that write.
        writes: u64,
        /// The limit of their product.
        max: u64,
    },
    /// Too many updates of what is kept beside the keys.
    #[error("{count} updates of the nursery in one sequence are over the limit of {max}: split the sequence")]
    Nursery {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Sequences are nested too deep.
    #[error("sequences are nested deeper than the limit of {max}")]
    Nesting {
        /// The limit.
        max: usize,
    },
}

impl Update {
    /// Checks every key, every value to be written, the depth of sequences and the whole against `limits`.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self, limits: &Limits) -> Result<(), TooLarge> {
        self.check_parts(limits, 0)?;
        let (ranges, writes) = self.ranges_and_writes();
        if ranges.saturating_mul(writes) > RANGE_STEPS_MAX {
            return Err(TooLarge::RangeSteps { ranges, writes, max: RANGE_STEPS_MAX });
        }
        at_most(self.nursery_updates(), NURSERY_UPDATES_MAX)
            .map_err(|(count, max)| TooLarge::Nursery { count, max })?;
        at_most(self.encoded_len(), limits.update_bytes_max).map_err(|(len, max)| TooLarge::Update { len, max })
    }

    fn nursery_updates(&self) -> usize {
        match self {
            Self::Nursery(_) => 1,
            Self::Sequence(updates) => updates.iter().map(Self::nursery_updates).sum(),
            _ => 0,
        }
    }

    fn ranges_and_writes(&self) -> (u64, u64) {
        match self {
            Self::AssertRange { .. } => (1, 0),
            // What a function does has limits of its own.
            Self::UserFunction { .. }
            | Self::Nursery(_)
            | Self::Nop
            | Self::Assert { .. }
            | Self::AssertExists { .. } => (0, 0),
            Self::Set { .. }
            | Self::Delete { .. }
            | Self::DeletePrefix { .. }
            | Self::TestAndSet { .. }
            | Self::Replace { .. } => (0, 1),
            Self::Sequence(updates) => (updates.iter().map(Self::ranges_and_writes))
                .fold((0, 0), |(ranges, writes), (more_ranges, more)| (ranges + more_ranges, writes + more)),
        }
    }

    fn check_parts(&self, limits: &Limits, depth: usize) -> Result<(), TooLarge> {
        let key =
            |key: &[u8]| at_most(key.len(), limits.key_bytes_max).map_err(|(len, max)| TooLarge::Key { len, max });
        let value = |value: &[u8]| {
            let (len, max) = (value.len(), limits.value_bytes_max);
            if len < max { Ok(()) } else { Err(TooLarge::Value { len, max }) }
        };
        match self {
            Self::Nop => Ok(()),
            Self::Delete { key: k }
            | Self::Assert { key: k, .. }
            | Self::AssertExists { key: k }
            | Self::UserFunction { name: k, .. } => key(k),
            Self::DeletePrefix { prefix } => key(prefix),
            Self::Set { key: k, value: v } => key(k).and_then(|()| value(v)),
            Self::TestAndSet { key: k, wanted, .. } | Self::Replace { key: k, wanted } => {
                key(k)?;
                wanted.as_deref().map_or(Ok(()), value)
            }
            Self::Nursery(NurseryUpdate::AdminSet { key: k, value: v }) => {
                key(k)?;
                v.as_deref().map_or(Ok(()), value)
            }
            Self::Nursery(NurseryUpdate::SetInterval(interval)) => {
                interval.bounds().into_iter().flatten().try_for_each(|bound| key(bound))
            }
            Self::Nursery(NurseryUpdate::SetRouting(routing)) => {
                routing.names_and_separators().iter().try_for_each(|part| key(part))
            }
            Self::Nursery(NurseryUpdate::SetRoutingDelta { left, separator, right }) => {
                [left, separator, right].into_iter().try_for_each(|part| key(part))
            }
            Self::AssertRange { prefix, keys } => {
                key(prefix)?;
                keys.iter().try_for_each(|k| key(k))
            }
            Self::Sequence(_) if depth == NESTING_MAX => Err(TooLarge::Nesting { max: NESTING_MAX }),
            Self::Sequence(updates) => updates.iter().try_for_each(|update| update.check_parts(limits, depth + 1)),
        }
    }
}

fn at_most(len: usize, max: usize) -> Result<(), (usize, usize)> {
    if len <= max { Ok(()) } else { Err((len, max)) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMITS: Limits = Limits { key_bytes_max: 3, value_bytes_max: 5, update_bytes_max: 100 };

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![b'x'; len])
    }

    fn each_with(key: usize, value: usize) -> Vec<Update> {
        vec![
            Update::Set { key: bytes(key), value: bytes(value) },
            Update::TestAndSet { key: bytes(key), expected: None, wanted: Some(bytes(value)) },
            Update::Replace { key: bytes(key), wanted: Some(bytes(value)) },
            Update::Sequence(vec![Update::Nop, Update::Set { key: bytes(key), value: bytes(value) }]),
        ]
    }

    #[test]
    fn a_key_may_be_as_long_as_the_limit_and_a_value_must_be_shorter() {
        for update in each_with(3, 4) {
            assert_eq!(update.check(&LIMITS), Ok(()), "{update:?}");
        }
        for update in each_with(4, 4) {
            assert_eq!(update.check(&LIMITS), Err(TooLarge::Key { len: 4, max: 3 }), "{update:?}");
        }
        for update in each_with(3, 5) {
            assert_eq!(update.check(&LIMITS), Err(TooLarge::Value { len: 5, max: 5 }), "{update:?}");
        }
    }

    #[test]
    fn every_kind_of_key_and_prefix_is_checked() {
        for update in [
            Update::Delete { key: bytes(4) },
            Update::Assert { key: bytes(4), expected: None },
            Update::AssertExists { key: bytes(4) },
            Update::UserFunction { name: bytes(4), argument: None },
            Update::DeletePrefix { prefix: bytes(4) },
            Update::AssertRange { prefix: bytes(4), keys: vec![] },
            Update::AssertRange { prefix: bytes(1), keys: vec![bytes(3), bytes(4)] },
        ] {
            assert_eq!(update.check(&LIMITS), Err(TooLarge::Key { len: 4, max: 3 }), "{update:?}");
        }
    }

    #[test]
    fn the_whole_is_measured_in_its_wire_form() {
        // 8 bytes for the sequence and 4 for each nop.
        assert_eq!(Update::Sequence(vec![Update::Nop; 23]).check(&LIMITS), Ok(()));
        let over = Update::Sequence(vec![Update::Nop; 24]);
        assert_eq!(over.check(&LIMITS), Err(TooLarge::Update { len: 104, max: 100 }));
    }

    #[test]
    fn range_assertions_that_would_step_over_too_many_writes_are_refused() {
        let sequence = |ranges, writes| {
            let assertion = Update::AssertRange { prefix: Bytes::new(), keys: vec![] };
            let write = Update::Delete { key: bytes(1) };
            Update::Sequence(vec![Update::Sequence(vec![write; writes]), Update::Sequence(vec![assertion; ranges])])
        };
        for (ranges, writes) in [(1, 500_000), (500_000, 1), (1_000, 1_000)] {
            assert_eq!(sequence(ranges, writes).check(&Limits::default()), Ok(()));
        }
        let refused = sequence(1_000, 1_001).check(&Limits::default()).unwrap_err();
        assert_eq!(refused, TooLarge::RangeSteps { ranges: 1_000, writes: 1_001, max: RANGE_STEPS_MAX });
    }

    #[test]
    fn what_could_not_be_decoded_again_is_refused() {
        let nested = |depth| (0..depth).fold(Update::Nop, |update, _| Update::Sequence(vec![update]));
        let limits = Limits::default();
        assert_eq!(nested(NESTING_MAX).check(&limits), Ok(()));
        assert_eq!(nested(NESTING_MAX + 1).check(&limits), Err(TooLarge::Nesting { max: NESTING_MAX }));
    }
}
