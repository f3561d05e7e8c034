//! User functions: what they see of the store, and how they fail.

use std::sync::Arc;

use bytes::Bytes;

use super::budget::Budget;
use crate::store::KeyRange;

/// The work of a user function.
pub type Function =
    Arc<dyn Fn(&mut Transaction<'_>, Option<Bytes>) -> Result<Option<Bytes>, FunctionError> + Send + Sync>;

/// The longest key that a function may write, in bytes.
const KEY_BYTES_MAX: usize = 64 << 10;

/// The longest value that a function may write, in bytes.
const VALUE_BYTES_MAX: usize = 16 << 20;

/// The store as a function sees it: what the updates before it left, those of its own sequence included, and what it has
/// written itself.
pub struct Transaction<'a> {
    access: &'a mut dyn Access,
    budget: &'a mut Budget,
}

/// What a [`Transaction`] works on.
pub(crate) trait Access {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Fault>;
    fn set(&mut self, key: Bytes, value: Option<Bytes>);
    fn delete_prefix(&mut self, prefix: &Bytes);
    /// The smallest key that is not below `from`. Adds to `passed` how many it passed over.
    fn next_key(&mut self, from: &[u8], passed: &mut u64) -> Result<Option<Bytes>, Fault>;
}

/// The store failed. Whoever gave the access knows how.
pub(crate) struct Fault;

/// Why a user function did not do what it was asked. Nothing is changed then.
///
/// Clients see the message, or the code that an assertion or a missing key has elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError(pub(crate) Why);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    NotFound(Bytes),
    AssertionFailed(Bytes),
    Failed(String),
    /// The store failed; what the function makes of that does not count.
    Store,
}

impl FunctionError {
    /// There is no such key; clients get the code of a key that is missing.
    pub fn not_found(key: impl AsRef<[u8]>) -> Self {
        Self(Why::NotFound(Bytes::copy_from_slice(key.as_ref())))
    }

    /// Something is not as it should be; clients get the code of an assertion that does not hold.
    pub fn assertion_failed(message: impl AsRef<[u8]>) -> Self {
        Self(Why::AssertionFailed(Bytes::copy_from_slice(message.as_ref())))
    }

    /// Anything else. Every node must come to the same message.
    pub fn failed(message: impl Into<String>) -> Self {
        Self(Why::Failed(message.into()))
    }
}

impl From<Fault> for FunctionError {
    fn from(_: Fault) -> Self {
        Self(Why::Store)
    }
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(access: &'a mut dyn Access, budget: &'a mut Budget) -> Self {
        Self { access, budget }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the functions of this update have done or read too much; pass it on. So for all methods.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FunctionError> {
        self.budget.step(1)?;
        let value = self.access.get(key)?;
        self.budget.read(value.as_ref().map_or(0, Bytes::len))?;
        Ok(value)
    }

    /// Sets a key, whatever was there.
    ///
    /// # Errors
    /// Also when the key is longer than 64 KiB, the value longer than 16 MiB, or all that the functions of this update
    /// have written longer than [`FUNCTION_BYTES_MAX`](super::FUNCTION_BYTES_MAX).
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), FunctionError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(FunctionError::failed(format!("a value of {} bytes is too long", value.len())));
        }
        self.write(key, value.len())?;
        self.access.set(Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
        Ok(())
    }

    /// Deletes a key, if it is there.
    ///
    /// # Errors
    /// As for [`Transaction::set`].
    pub fn delete(&mut self, key: &[u8]) -> Result<(), FunctionError> {
        self.write(key, 0)?;
        self.access.set(Bytes::copy_from_slice(key), None);
        Ok(())
    }

    /// Deletes every key with this prefix.
    ///
    /// # Errors
    /// As for [`Transaction::set`].
    pub fn delete_prefix(&mut self, prefix: &[u8]) -> Result<(), FunctionError> {
        self.write(prefix, 0)?;
        self.access.delete_prefix(&Bytes::copy_from_slice(prefix));
        Ok(())
    }

    /// The first `max` keys of a range, ascending.
    ///
    /// # Errors
    /// As for [`Transaction::get`].
    pub fn keys(&mut self, range: &KeyRange, max: usize) -> Result<Vec<Bytes>, FunctionError> {
        let mut keys = Vec::new();
        let mut from = range.first.as_deref().unwrap_or_default().to_vec();
        if !range.first_inclusive {
            from.push(0);
        }
        while keys.len() < max {
            self.budget.step(1)?;
            let mut passed = 0;
            let next = self.access.next_key(&from, &mut passed)?;
            self.budget.step(passed)?;
            let Some(key) = next.filter(|key| range.ends_behind(key)) else { break };
            self.budget.read(key.len())?;
            from = [&key[..], &[0]].concat();
            keys.push(key);
        }
        Ok(keys)
    }

    /// The first `max` keys of a range and their values, ascending.
    ///
    /// # Errors
    /// As for [`Transaction::get`].
    pub fn entries(&mut self, range: &KeyRange, max: usize) -> Result<Vec<(Bytes, Bytes)>, FunctionError> {
        let mut entries = Vec::new();
        for key in self.keys(range, max)? {
            if let Some(value) = self.get(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    fn write(&mut self, key: &[u8], value_bytes: usize) -> Result<(), FunctionError> {
        self.budget.step(1)?;
        if key.len() > KEY_BYTES_MAX {
            return Err(FunctionError::failed(format!("a key of {} bytes is too long", key.len())));
        }
        self.budget.write(key.len() + value_bytes)
    }
}
