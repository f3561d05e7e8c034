//! The store as an update sees it while it runs: what the update has written so far, on top of what was there.
//!
//! It holds no more than the command gave: deleting a prefix notes the prefix, not the keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::apply::KeyValue;
use crate::extensions::Budget;
use crate::update::{Admin, NurseryUpdate, prefix_end};

/// A store and the changes on top of it.
pub(super) struct Overlay<'a, K> {
    store: &'a K,
    changes: Changes,
    /// What the user functions of this update may still do.
    pub(super) budget: Budget,
    /// Whether this update has called a user function.
    pub(super) has_called: bool,
}

/// What an update wants written: first the prefixes deleted, then the keys set or deleted.
#[derive(Default)]
pub(super) struct Changes {
    /// No element is a prefix of another one, so the only one that a key can begin with is its predecessor.
    prefixes: BTreeSet<Bytes>,
    /// `None` deletes.
    keys: BTreeMap<Bytes, Option<Bytes>>,
    /// What is kept beside the keys from now on.
    admin: Option<Admin>,
}

impl<'a, K: KeyValue> Overlay<'a, K> {
    pub(super) fn new(store: &'a K) -> Self {
        Self { store, changes: Changes::default(), budget: Budget::of_an_update(), has_called: false }
    }

    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, K::Error> {
        match self.changes.keys.get(key) {
            Some(value) => Ok(value.clone()),
            None if self.changes.deleted_prefix_of(key).is_some() => Ok(None),
            None => self.store.get(key),
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, K::Error> {
        match self.changes.keys.get(key) {
            Some(value) => Ok(value.is_some()),
            None if self.changes.deleted_prefix_of(key).is_some() => Ok(false),
            None => self.store.contains(key),
        }
    }

    /// Whether a key has this value (`None`: there is no such key).
    pub(super) fn is(&self, key: &[u8], value: Option<&[u8]>) -> Result<bool, K::Error> {
        match (self.changes.keys.get(key), value) {
            (Some(written), value) => Ok(written.as_deref() == value),
            (None, None) => Ok(!self.contains(key)?),
            (None, Some(_)) if self.changes.deleted_prefix_of(key).is_some() => Ok(false),
            (None, Some(value)) => self.store.has(key, value),
        }
    }

    /// Changes what is kept beside the keys, or says why that makes no sense.
    pub(super) fn update_admin(&mut self, update: &NurseryUpdate) -> Result<(), String> {
        self.changes.admin.get_or_insert_with(|| (**self.store.admin()).clone()).update(update)
    }

    /// Sets a key, or deletes it.
    pub(super) fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        self.changes.keys.insert(key, value);
    }

    pub(super) fn delete_prefix(&mut self, prefix: &Bytes) {
        let Changes { prefixes, keys, .. } = &mut self.changes;
        let from_prefix = || (Bound::Included(prefix.as_ref()), Bound::Unbounded);
        let within = |key: &&Bytes| key.starts_with(prefix);
        let covered: Vec<_> =
            keys.range::<[u8], _>(from_prefix()).map(|(key, _)| key).take_while(within).cloned().collect();
        for key in &covered {
            keys.remove(key);
        }
        let covered: Vec<_> = prefixes.range::<[u8], _>(from_prefix()).take_while(within).cloned().collect();
        for prefix in &covered {
            prefixes.remove(prefix);
        }
        if self.changes.deleted_prefix_of(prefix).is_none() {
            self.changes.prefixes.insert(prefix.clone());
        }
    }

    /// The smallest key with `prefix` that is not below `from`. Adds to `passed` how many it passed over, since this update
    /// deletes them.
    ///
    /// Walks over what is written and what is stored side by side and stops at the first that counts, so that a walk from
    /// key to key sees each but once.
    pub(super) fn next_key(&self, prefix: &[u8], from: &[u8], passed: &mut u64) -> Result<Option<Bytes>, K::Error> {
        let written = self.changes.keys.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        let mut written = written.take_while(|(key, _)| key.starts_with(prefix)).peekable();
        let mut stored = self.next_stored(prefix, from)?;
        loop {
            match (written.peek(), &stored) {
                (Some((key, value)), stored_key) if stored_key.as_ref().is_none_or(|stored_key| *key <= stored_key) => {
                    if value.is_some() {
                        return Ok(Some((*key).clone()));
                    }
                    if stored_key.as_ref() == Some(key) {
                        stored = self.next_stored(prefix, &after(key))?;
                    }
                    written.next();
                }
                (_, Some(key)) => match self.changes.deleted_prefix_of(key).map(|deleted| prefix_end(deleted)) {
                    None => return Ok(stored),
                    Some(None) => stored = None,
                    Some(Some(end)) => stored = self.next_stored(prefix, &end)?,
                },
                (_, None) => return Ok(None),
            }
            *passed += 1;
        }
    }

    /// The same of the store alone, whatever this update does.
    fn next_stored(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Bytes>, K::Error> {
        Ok(self.store.next_key(from)?.filter(|key| key.starts_with(prefix)))
    }
}

impl Changes {
    /// Writes them, in the order in which their effects were seen.
    pub(super) fn write_to<K: KeyValue>(self, store: &mut K) -> Result<(), K::Error> {
        if let Some(admin) = self.admin {
            store.set_admin(Arc::new(admin));
        }
        for prefix in &self.prefixes {
            store.remove_prefix(prefix)?;
        }
        for (key, value) in &self.keys {
            match value {
                Some(value) => store.insert(key, value)?,
                None => store.remove(key)?,
            }
        }
        Ok(())
    }

    fn deleted_prefix_of(&self, key: &[u8]) -> Option<&Bytes> {
        let upto_key = (Bound::Unbounded, Bound::Included(key));
        self.prefixes.range::<[u8], _>(upto_key).next_back().filter(|prefix| key.starts_with(prefix))
    }
}

/// The smallest key behind `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
