//! Ranges of keys. Keys compare as unsigned byte strings.

use std::ops::Bound;

use bytes::Bytes;

use crate::update::prefix_end;

/// A range of keys. One whose first key lies behind its last holds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The lower bound; `None`: from the smallest key.
    pub first: Option<Bytes>,
    /// Whether `first` itself is in the range. Without a `first`, `false` leaves out the empty key alone, as the
    /// original does.
    pub first_inclusive: bool,
    /// The upper bound; `None`: to the largest key.
    pub last: Option<Bytes>,
    /// Whether `last` itself is in the range.
    pub last_inclusive: bool,
}

/// The bounds of a range as the standard library has them: first and last.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Which way to walk a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key.
    Ascending,
    /// From the largest key.
    Descending,
}

impl KeyRange {
    /// All keys.
    pub fn all() -> Self {
        Self { first: None, first_inclusive: true, last: None, last_inclusive: true }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            first: Some(Bytes::copy_from_slice(prefix)),
            first_inclusive: true,
            last: prefix_end(prefix).map(Bytes::from),
            last_inclusive: false,
        }
    }

    /// Whether a key that is not before the range is not behind it either.
    pub(crate) fn ends_behind(&self, key: &[u8]) -> bool {
        match &self.last {
            None => true,
            Some(last) if self.last_inclusive => key <= last.as_ref(),
            Some(last) => key < last.as_ref(),
        }
    }

    /// The bounds; `None` when no key can be between them.
    pub(super) fn bounds(&self) -> Option<Bounds<'_>> {
        let first = match &self.first {
            Some(first) if self.first_inclusive => Bound::Included(first.as_ref()),
            Some(first) => Bound::Excluded(first.as_ref()),
            None if self.first_inclusive => Bound::Unbounded,
            None => Bound::Excluded(&[][..]),
        };
        let last = match &self.last {
            Some(last) if self.last_inclusive => Bound::Included(last.as_ref()),
            Some(last) => Bound::Excluded(last.as_ref()),
            None => Bound::Unbounded,
        };
        let is_empty = match (first, last) {
            (Bound::Included(first), Bound::Included(last)) => first > last,
            (Bound::Included(first) | Bound::Excluded(first), Bound::Included(last) | Bound::Excluded(last)) => {
                first >= last
            }
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        };
        if is_empty { None } else { Some((first, last)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_exactly_the_keys_that_begin_with_it() {
        let alphabet = [0x00, 0x70, 0x71, 0xfe, 0xff];
        let mut keys: Vec<Vec<u8>> = vec![vec![]];
        for len in 0..3 {
            let longer: Vec<_> = keys.iter().filter(|key| key.len() == len).cloned().collect();
            keys.extend(longer.iter().flat_map(|key| alphabet.map(|byte| [key.as_slice(), &[byte]].concat())));
        }
        for prefix in &keys {
            let range = KeyRange::prefix(prefix);
            let bounds = range.bounds().expect("the prefix itself is in it");
            for key in &keys {
                let inside = std::ops::RangeBounds::<[u8]>::contains(&bounds, key.as_slice());
                assert_eq!(inside, key.starts_with(prefix), "{prefix:x?} {key:x?}");
            }
        }
    }

    #[test]
    fn bounds_that_hold_nothing_are_found() {
        let key = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        for (first_inclusive, last_inclusive) in [(false, false), (false, true), (true, false), (true, true)] {
            let range = |first, last| KeyRange { first, first_inclusive, last, last_inclusive };
            assert!(range(key("b"), key("a")).bounds().is_none());
            assert_eq!(range(key("a"), key("a")).bounds().is_some(), first_inclusive && last_inclusive);
            assert!(range(key("a"), key("b")).bounds().is_some());
            assert!(range(key("a"), None).bounds().is_some());
            assert!(range(None, key("a")).bounds().is_some());
            assert_eq!(range(None, key("")).bounds().is_some(), first_inclusive);
        }
    }
}
