//! Why a transaction log cannot be opened, read or written.

use std::io;
use std::path::{Path, PathBuf};

use trialbay_engine::{HistoryHash, NodeId, Slot};

/// Why a transaction log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum TlogError {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The segment was written by a node of another cluster.
    #[error("{path} belongs to cluster {theirs:?}, this node to {ours:?}: give it its own home directory")]
    OtherCluster {
        /// The segment.
        path: PathBuf,
        /// This node's cluster.
        ours: String,
        /// The segment's cluster.
        theirs: String,
    },
    /// The segment was written by another node.
    #[error(
        "{path} belongs to node {their_name:?} ({their_node}), this is node {our_name:?} ({our_node}): give it its own home directory"
    )]
    OtherNode {
        /// The segment.
        path: PathBuf,
        /// This node's name.
        our_name: String,
        /// This node's number.
        our_node: NodeId,
        /// The name of the segment's node.
        their_name: String,
        /// The number of the segment's node.
        their_node: NodeId,
    },
    /// The segment's name does not fit the number inside.
    #[error("{path} was written as segment {number}: give it back its name")]
    Renumbered {
        /// The segment.
        path: PathBuf,
        /// The number in its header.
        number: u32,
    },
    /// The whole file has a format that this version does not know.
    #[error("{path} has a format that this version does not know: a newer Trialbay wrote it; start that one")]
    NewerFormat {
        /// The file.
        path: PathBuf,
    },
    /// A record has a sound checksum and a version, kind or layout that this version does not know.
    #[error(
        "{path} has a record of version {version} and kind {kind} at byte {offset}, which this version does not know: a newer Trialbay wrote it; start that one"
    )]
    NewerRecord {
        /// The segment.
        path: PathBuf,
        /// Where in the segment.
        offset: u64,
        /// The record's version.
        version: u8,
        /// The record's kind.
        kind: u8,
    },
    /// The cluster's id or the node's name does not fit into a segment's header.
    #[error("{name:?} is longer than {max} bytes: choose a shorter cluster id or node name")]
    NameTooLong {
        /// The name.
        name: String,
        /// The limit.
        max: usize,
    },
    /// A record, or a group of records, is beyond every limit.
    #[error("{bytes} bytes in one group of records: the limit is {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The last possible segment number is in use.
    #[error("there is no segment number after {0}")]
    OutOfNumbers(u32),
    /// The store and the log tell two histories.
    #[error(
        "store and log disagree about the history up to {slot} (store {store:?}, log {log:?}): they are not from the same life of this node; wipe the home directory and let the node catch up"
    )]
    StoreAndLogDisagree {
        /// The slot.
        slot: Slot,
        /// The store's hash there.
        store: HistoryHash,
        /// The log's hash there.
        log: HistoryHash,
    },
    /// The log would cost the node its vote, and was to be refused then.
    #[error("the log does not go on from {store_applied}, which is as far as the store is")]
    NotContinued {
        /// Where the store is.
        store_applied: Slot,
    },
    /// The log does not hold this slot.
    #[error("{slot} is not in the log, which begins at {log_start}")]
    NotInLog {
        /// The slot.
        slot: Slot,
        /// The first slot of the log's last unbroken stretch.
        log_start: Slot,
    },
    /// The log held this slot when it was opened or written, and now its bytes are damaged.
    #[error("the record of {slot} at byte {offset} of {path} is damaged")]
    Damaged {
        /// The slot.
        slot: Slot,
        /// The segment.
        path: PathBuf,
        /// Where in the segment.
        offset: u64,
    },
    /// A closed segment cannot be compressed; it stays as it is.
    #[error(
        "{path} cannot be compressed: it changed, or the disk gave back something else than was written; check the disk"
    )]
    NotArchived {
        /// The segment.
        path: PathBuf,
    },
    /// A bug in the log's code: a thread of it panicked.
    #[error("a thread of the log panicked (see above): start the node again, and report it")]
    Panicked,
    /// An earlier error of this log was final.
    #[error("the log failed before and takes nothing more")]
    Failed,
}

/// Names what was tried and on what, for an error of the operating system.
pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TlogError {
    move |source| TlogError::Io { what, path: path.to_owned(), source }
}
