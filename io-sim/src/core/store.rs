//! A node's store in the core world: production's apply code on a plain ordered map.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use trialbay::extensions::Extensions;
use trialbay::store::{KeyValue, NotApplied, apply_command};
use trialbay::update::{Admin, UpdateResult};
use trialbay_engine::{HistoryHash, Slot, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::mutant::Bugs;

/// The state after all slots up to `applied`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) applied: Slot,
    pub(crate) hash: HistoryHash,
    pub(crate) map: Map,
    /// A witness's: it only counts what it is told to apply.
    pub(crate) only_counts: bool,
}

/// What it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) keys: BTreeMap<Bytes, Bytes>,
    /// What is kept beside them. No client of this world asks for anything.
    pub(crate) admin: Arc<Admin>,
    /// What is planted in what is applied to it.
    pub(crate) bugs: Bugs,
}

impl Store {
    /// Applies one decided value and gives the result of each of its commands.
    pub(crate) fn apply(&mut self, slot: Slot, hash: HistoryHash, value: &Value) -> Vec<UpdateResult> {
        (self.applied, self.hash) = (slot, hash);
        if self.only_counts {
            return Vec::new();
        }
        let commands = value.commands().map_while(Result::ok);
        commands
            .map(|command| match apply_command(command, &mut self.map, &Extensions::new()) {
                Ok(result) => result,
                Err(NotApplied::Map(never)) => match never {},
                Err(NotApplied::UnknownFunction { .. }) => unreachable!("no client of this world calls a function"),
            })
            .collect()
    }
}

impl Map {
    /// The same for equal maps only.
    pub(crate) fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        for (key, value) in &self.keys {
            hash.update(&key.len().to_le_bytes());
            hash.update(key);
            hash.update(&value.len().to_le_bytes());
            hash.update(value);
        }
        hash.digest()
    }
}

impl KeyValue for Map {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.keys.get(key).cloned())
    }

    fn contains(&self, key: &[u8]) -> Result<bool, Infallible> {
        Ok(self.keys.contains_key(key))
    }

    fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, Infallible> {
        Ok(self.keys.get(key).is_some_and(|found| found == value))
    }

    fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, Infallible> {
        let keys = self.keys.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        Ok(keys.map(|(key, _)| key.clone()).next())
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.keys.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), Infallible> {
        self.keys.remove(key);
        Ok(())
    }

    fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, Infallible> {
        let before = self.keys.len();
        self.keys.retain(|key, _| !key.starts_with(prefix));
        Ok((before - self.keys.len()) as u64)
    }

    fn admin(&self) -> &Arc<Admin> {
        &self.admin
    }

    fn set_admin(&mut self, admin: Arc<Admin>) {
        self.admin = admin;
    }

    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<trialbay::planted::PlantedBug> {
        self.bugs.in_node()
    }
}
