//! The store: redb, with the applied slot in the same transaction as the data.
//!
//! The transaction log is the truth; the store is what it adds up to. So most commits of the store are not durable: after
//! a power cut the store comes back as of its last durable commit, says which slot that is, and the log is replayed
//! from there. Reads come from snapshots and see committed transactions, durable or not; nothing is answered before
//! its commit.
//!
//! Reading order: `apply` and `overlay` (what an update does), `database` (the one writer), `reader`, `thread`, `head`
//! (a store that comes from another node).

mod apply;
mod call;
mod chunk;
mod database;
mod error;
mod head;
mod old_values;
mod open;
mod overlay;
mod policy;
mod range;
mod reader;
mod thread;

#[cfg(test)]
mod tests;

pub use apply::{KeyValue, NotApplied, apply, apply_command};
pub(crate) use chunk::entries;
pub use chunk::{CHUNK_BYTES, CHUNK_BYTES_MAX, Chunk, digest};
pub use database::{Decided, Store, is_admin};
pub use error::StoreError;
pub use head::{Head, HeadError, HeadFile, Leftover, NotInstalled, Progress, StorePlace};
pub use open::Options;
pub use policy::CommitPolicy;
pub use range::{Direction, KeyRange};
pub use reader::{Entries, Keys, Snapshot, StoreReader};
pub use thread::{Applied, Job, Maintenance, NotMaintained, NotTaken, StoreWriter, WriterLimits};
