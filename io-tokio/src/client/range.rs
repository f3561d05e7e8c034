//! Ranges of keys.

use bytes::Bytes;

use crate::update::prefix_end;

/// A key and its value.
pub type Entry = (Bytes, Bytes);

/// A range of keys, which compare as unsigned bytes. Without bounds it is all of them.
///
/// ```
/// use trialbay::client::KeyRange;
///
/// let range = KeyRange::all().from("a").below("b").max(100);
/// assert!(range.first.1 && !range.last.1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The lower bound, if any, and whether it is part of the range.
    pub first: (Option<Bytes>, bool),
    /// The upper bound, if any, and whether it is part of the range.
    pub last: (Option<Bytes>, bool),
    /// How many keys to give at most.
    pub max: Option<u32>,
}

impl KeyRange {
    /// All keys.
    pub fn all() -> Self {
        Self { first: (None, true), last: (None, true), max: None }
    }

    /// The keys that begin with this prefix.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        let last = (prefix_end(prefix).map(Bytes::from), false);
        Self { first: (Some(Bytes::copy_from_slice(prefix)), true), last, max: None }
    }

    /// Only this key and those after it.
    #[must_use]
    pub fn from(self, key: impl AsRef<[u8]>) -> Self {
        Self { first: (Some(Bytes::copy_from_slice(key.as_ref())), true), ..self }
    }

    /// Only those after this key.
    #[must_use]
    pub fn after(self, key: impl AsRef<[u8]>) -> Self {
        Self { first: (Some(Bytes::copy_from_slice(key.as_ref())), false), ..self }
    }

    /// Only this key and those before it.
    #[must_use]
    pub fn upto(self, key: impl AsRef<[u8]>) -> Self {
        Self { last: (Some(Bytes::copy_from_slice(key.as_ref())), true), ..self }
    }

    /// Only those before this key.
    #[must_use]
    pub fn below(self, key: impl AsRef<[u8]>) -> Self {
        Self { last: (Some(Bytes::copy_from_slice(key.as_ref())), false), ..self }
    }

    /// That many at most: the smallest, or in a descending range the largest.
    #[must_use]
    pub fn max(self, max: u32) -> Self {
        Self { max: Some(max), ..self }
    }
}

impl Default for KeyRange {
    fn default() -> Self {
        Self::all()
    }
}
