//! Sequences of updates, which happen wholly or not at all.

use bytes::Bytes;

use crate::update::Update;

/// Updates that happen in this order, all of them or none. Later ones see the effects of earlier ones.
///
/// ```
/// use trialbay::client::Sequence;
///
/// let transfer = Sequence::new().assert("from", Some(b"10")).set("from", "0").set("to", "10");
/// assert_eq!(transfer.len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence(Vec<Update>);

impl Sequence {
    /// An empty one, which does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key, whatever was there.
    pub fn set(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.and(Update::Set { key: copy(key), value: copy(value) })
    }

    /// Deletes a key; the whole sequence fails when there is none.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.and(Update::Delete { key: copy(key) })
    }

    /// Sets a key (or deletes it, with `None`) only if it has the expected value (or is absent, with `None`). When it
    /// has another, the sequence goes on; [`Sequence::assert`] is what makes it fail.
    pub fn test_and_set(self, key: impl AsRef<[u8]>, expected: Option<&[u8]>, wanted: Option<&[u8]>) -> Self {
        self.and(Update::TestAndSet { key: copy(key), expected: expected.map(copy), wanted: wanted.map(copy) })
    }

    /// Sets a key, or deletes it (with `None`) if it is there.
    pub fn replace(self, key: impl AsRef<[u8]>, wanted: Option<&[u8]>) -> Self {
        self.and(Update::Replace { key: copy(key), wanted: wanted.map(copy) })
    }

    /// The whole sequence fails unless the key has this value (or is absent, with `None`).
    pub fn assert(self, key: impl AsRef<[u8]>, expected: Option<&[u8]>) -> Self {
        self.and(Update::Assert { key: copy(key), expected: expected.map(copy) })
    }

    /// The whole sequence fails unless the key exists.
    pub fn assert_exists(self, key: impl AsRef<[u8]>) -> Self {
        self.and(Update::AssertExists { key: copy(key) })
    }

    /// The whole sequence fails unless exactly these keys, in any order, have this prefix.
    pub fn assert_range(self, prefix: impl AsRef<[u8]>, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut keys: Vec<Bytes> = keys.into_iter().map(copy).collect();
        // Trialbay's nodes take any order; the original's only this one.
        keys.sort_unstable_by(|a, b| b.cmp(a));
        self.and(Update::AssertRange { prefix: copy(prefix), keys })
    }

    /// Deletes every key with this prefix.
    pub fn delete_prefix(self, prefix: impl AsRef<[u8]>) -> Self {
        self.and(Update::DeletePrefix { prefix: copy(prefix) })
    }

    /// Calls a user function; the whole sequence fails when it does.
    pub fn user_function(self, name: impl AsRef<[u8]>, argument: Option<&[u8]>) -> Self {
        self.and(Update::UserFunction { name: copy(name), argument: argument.map(copy) })
    }

    /// Any update, another sequence included.
    pub fn and(mut self, update: Update) -> Self {
        self.0.push(update);
        self
    }

    /// How many updates it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The updates, in order.
    pub fn into_updates(self) -> Vec<Update> {
        self.0
    }
}

impl From<Vec<Update>> for Sequence {
    fn from(updates: Vec<Update>) -> Self {
        Self(updates)
    }
}

fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
