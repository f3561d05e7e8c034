//! What can go wrong with the store, and what to do about it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system or the disk said no.
    #[error(
        "the store could not be read or written: {0}. Check the disk and the file's permissions, then start the node again"
    )]
    Io(#[source] io::Error),
    /// The file is not what this node wrote.
    #[error(
        "the store is damaged: {why}. Move the home away and start the node with an empty one, which its peers fill \
         (docs/operations.md says what else can be done, and what a cluster of one node does)"
    )]
    Damaged {
        /// What was found.
        why: String,
    },
    /// Another process has the file open.
    #[error("the store is open in another process: stop that one first")]
    InUse,
    /// The file is the store of another cluster.
    #[error("the store belongs to cluster {found:?}, not to {expected:?}: point the node at its own home directory")]
    OtherCluster {
        /// The cluster that the file names.
        found: String,
        /// This cluster.
        expected: String,
    },
    /// The file is the store of another node.
    #[error("the store belongs to node {found}, not to {expected}: point the node at its own home directory")]
    OtherNode {
        /// The node that the file names, with its number.
        found: String,
        /// This node.
        expected: String,
    },
    /// The file was written in a format that this version does not know.
    #[error("the store has format {found}, this version of trialbay knows {known}: use the version that wrote it")]
    Format {
        /// The file's format.
        found: i32,
        /// What this version reads.
        known: i32,
    },
    /// A write failed before. What is on disk is whole, but may or may not hold that write.
    #[error("a write to the store failed before: start the node again")]
    Failed,
    /// The log calls a user function that this program does not have. To go on without it would be to go astray.
    #[error(
        "the log calls user function {name:?}, which this program does not have: start the node with the program that has it, \
         as on the other nodes. Nothing was lost"
    )]
    UnknownFunction {
        /// The function.
        name: String,
    },
    /// The store's file is being compacted.
    #[error("the store is being compacted: try again later")]
    Compacting,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The thread that writes the store panicked: a bug, or damage that redb stumbled over.
    #[error(
        "the thread that writes the store panicked (see the log): start the node again. If it comes again, move the \
         store's file (db/<node>.db) away"
    )]
    Panicked,
}

impl StoreError {
    /// The sense of one of redb's errors.
    pub(super) fn from_redb(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged { why: error.to_string() }
            }
            redb::Error::Io(error) => Self::Io(error),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse,
            redb::Error::DatabaseClosed => Self::Closed,
            redb::Error::PreviousIo => Self::Failed,
            other => Self::Damaged { why: other.to_string() },
        }
    }
}

/// Runs `work`, which may read pages. redb says of itself that it may panic on a file that was altered by others; that
/// must be neither the end of the node nor of the task that reads.
pub(super) fn guarded<R>(work: impl FnOnce() -> Result<R, StoreError>) -> Result<R, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged("its pages do not fit together")))
}

pub(super) fn damaged(why: &str) -> StoreError {
    StoreError::Damaged { why: why.to_string() }
}
