//! Reads, and what they give. Lists are in the order in which the client gets to see them.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// What a client reads, all of it from one state of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The value of a key. Gives [`QueryResult::Value`].
    Get {
        /// The key.
        key: Bytes,
    },
    /// Whether there is a key. Gives [`QueryResult::Exists`].
    Exists {
        /// The key.
        key: Bytes,
    },
    /// The values of several keys. Gives [`QueryResult::Values`].
    MultiGet {
        /// The keys, in any order; one may stand there twice.
        keys: Vec<Bytes>,
    },
    /// The keys of a range, ascending. Gives [`QueryResult::Keys`].
    Range(Scan),
    /// The keys of a range and their values, ascending. Gives [`QueryResult::Entries`].
    RangeEntries(Scan),
    /// The keys of a range and their values, descending. Gives [`QueryResult::Entries`].
    RevRangeEntries(Scan),
    /// The keys that begin with a prefix, ascending. Gives [`QueryResult::Keys`].
    PrefixKeys {
        /// The prefix; the empty one is every key's.
        prefix: Bytes,
        /// At most this many; `None`: all.
        max: Option<usize>,
    },
}

/// What a read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryResult {
    /// The value; `None`: there is no such key.
    Value(Option<Bytes>),
    /// Whether there is such a key.
    Exists(bool),
    /// The values in the order of the keys that were asked for.
    Values(Vec<Option<Bytes>>),
    /// The keys.
    Keys(Vec<Bytes>),
    /// The keys and their values.
    Entries(Vec<(Bytes, Bytes)>),
}

/// Part of a range of keys. Keys compare as unsigned bytes; bounds that cross hold nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where it begins.
    pub first: Bound<Bytes>,
    /// Where it ends.
    pub last: Bound<Bytes>,
    /// At most this many keys, from where the reading starts; `None`: all.
    pub max: Option<usize>,
}

impl Query {
    /// The range that is read, and whether from its end; `None` of a read that names its keys.
    pub(super) fn scan(&self) -> Option<(Scan, bool)> {
        match self {
            Self::Get { .. } | Self::Exists { .. } | Self::MultiGet { .. } => None,
            Self::Range(scan) | Self::RangeEntries(scan) => Some((scan.clone(), false)),
            Self::RevRangeEntries(scan) => Some((scan.clone(), true)),
            Self::PrefixKeys { prefix, max } => Some((Scan::prefix(prefix, *max), false)),
        }
    }
}

impl Scan {
    /// All keys.
    pub fn all() -> Self {
        Self { first: Bound::Unbounded, last: Bound::Unbounded, max: None }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &Bytes, max: Option<usize>) -> Self {
        let mut end = prefix.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        let last = match end.last_mut() {
            Some(byte) => {
                *byte += 1;
                Bound::Excluded(end.into())
            }
            None => Bound::Unbounded,
        };
        Self { first: Bound::Included(prefix.clone()), last, max }
    }

    /// Whether `key` lies between the bounds.
    pub fn contains(&self, key: &[u8]) -> bool {
        let begins = match &self.first {
            Bound::Included(first) => first.as_ref() <= key,
            Bound::Excluded(first) => first.as_ref() < key,
            Bound::Unbounded => true,
        };
        let ends = match &self.last {
            Bound::Included(last) => key <= last.as_ref(),
            Bound::Excluded(last) => key < last.as_ref(),
            Bound::Unbounded => true,
        };
        begins && ends
    }

    /// What of `map` lies between the bounds, ascending, whatever `max` says.
    pub(super) fn of<'a, V>(
        &self,
        map: &'a BTreeMap<Bytes, V>,
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a V)> + use<'a, V> {
        // The map panics when it is asked for bounds that cross.
        let cross = match (&self.first, &self.last) {
            (Bound::Excluded(first), Bound::Excluded(last)) => first >= last,
            (Bound::Included(first) | Bound::Excluded(first), Bound::Included(last) | Bound::Excluded(last)) => {
                first > last
            }
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        };
        let bounds = (self.first.as_ref(), self.last.as_ref());
        (!cross).then(|| map.range::<Bytes, _>(bounds)).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_keys() -> BTreeMap<Bytes, ()> {
        let alphabet = [0x00, b'a', 0xff];
        let one = alphabet.map(|byte| vec![byte]);
        let two = alphabet.iter().flat_map(|first| alphabet.map(|second| vec![*first, second]));
        [vec![]].into_iter().chain(one).chain(two).map(|key| (Bytes::from(key), ())).collect()
    }

    #[test]
    fn a_range_holds_exactly_the_keys_between_any_two_bounds() {
        let map = some_keys();
        let bounds = |key: &Bytes| [Bound::Included(key.clone()), Bound::Excluded(key.clone()), Bound::Unbounded];
        for first in map.keys().flat_map(bounds) {
            for last in map.keys().flat_map(bounds) {
                let scan = Scan { first: first.clone(), last, max: None };
                let found: Vec<_> = scan.of(&map).map(|(key, ())| key).collect();
                let expected: Vec<_> = map.keys().filter(|key| scan.contains(key)).collect();
                assert_eq!(found, expected, "{scan:?}");
            }
        }
    }

    #[test]
    fn a_prefix_holds_exactly_the_keys_that_begin_with_it() {
        let map = some_keys();
        for prefix in map.keys() {
            let found: Vec<_> = Scan::prefix(prefix, None).of(&map).map(|(key, ())| key).collect();
            let expected: Vec<_> = map.keys().filter(|key| key.starts_with(prefix)).collect();
            assert_eq!(found, expected, "{prefix:?}");
        }
    }
}
