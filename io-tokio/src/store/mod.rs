//! The store: redb, with the applied slot in the same transaction as the data.

use trialbay_engine::Slot;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct StoreError;

/// Reads the store while one writer writes it. Cheap to clone.
#[derive(Clone)]
pub struct StoreReader;

/// One consistent view of the store.
pub struct Snapshot;

impl StoreReader {
    /// The state after the last applied batch.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot)
    }
}

impl Snapshot {
    /// The last slot applied in this view.
    pub fn applied(&self) -> Result<Slot, StoreError> {
        Ok(Slot::ZERO)
    }
}
