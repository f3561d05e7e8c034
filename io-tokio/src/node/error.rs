//! Why a node does not start, or stops by itself.

use std::io;
use std::path::PathBuf;

use trialbay_engine::{HaltReason, HistoryHash, Slot};

use super::home::HomeError;
use crate::peer::PeerError;
use crate::store::StoreError;
use crate::tlog::TlogError;

/// Why a node does not start, or stopped by itself. The command line gives each its own exit code.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The home directory is not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The transaction log is not usable.
    #[error("transaction log: {0}")]
    Tlog(#[from] TlogError),
    /// The store is not usable.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The other nodes cannot be listened to.
    #[error(transparent)]
    Peers(#[from] PeerError),
    /// Clients cannot be listened to.
    #[error(
        "cannot listen for clients on {address}: {source}; stop the process that has this port, or configure another client address"
    )]
    ClientAddress {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The log's hash of the history is not what replaying it gives.
    #[error(
        "the history in the log does not add up at {slot} (recorded {recorded:?}, replayed {replayed:?}): this home is damaged; move it away, and the node gets everything from its peers"
    )]
    HistoryDamaged {
        /// Where.
        slot: Slot,
        /// What the log says.
        recorded: HistoryHash,
        /// What replaying gives.
        replayed: HistoryHash,
    },
    /// The configuration has other voters than the home knows, by more than one.
    #[error(
        "when this node last had a master the nodes {noted} voted, and now the configuration lets {ours} vote (by their ids): add or remove one voter at a time, and go on to the next when `trialbay cluster status` shows that all vote. Only who is sure that nobody acts on the old configuration may remove {}", .file.display()
    )]
    VotersChanged {
        /// Who voted.
        noted: String,
        /// Who is to vote.
        ours: String,
        /// Where that is noted.
        file: PathBuf,
    },
    /// The node was a witness, and cannot be one with the data without losing its vote.
    #[error(
        "this node was a witness, and its log does not go on from {data}, up to which it has the data: as a node with the data it would have no vote until another one has given it everything. Configure role = \"witness\" for it again; or move {} away and start it with an empty home, while all other voters are up and have the vote (`trialbay cluster status`)", .home.display()
    )]
    RoleChanged {
        /// How far its data go.
        data: Slot,
        /// Its home.
        home: PathBuf,
    },
    /// A thread could not be started, or the system gave no random numbers.
    #[error("the system refused {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The disk failed while the node ran. What was acknowledged is safe on the other nodes.
    #[error(
        "the disk failed: {why}; the node stopped so as not to acknowledge what it cannot keep. Mend the disk and start the node again"
    )]
    StorageFailed {
        /// The error that ended it.
        why: String,
    },
    /// This node decided another history than the master.
    #[error(
        "this node's history differs from the master's at {slot} ({ours:?} here, {theirs:?} there): it stopped before doing harm. Keep its home for inspection, and start it with an empty one"
    )]
    HistoryDiverged {
        /// Where.
        slot: Slot,
        /// The hash here.
        ours: HistoryHash,
        /// The hash at the master.
        theirs: HistoryHash,
    },
}

impl NodeError {
    /// The error for an engine that halted; `None` when it was asked to.
    pub(super) fn of_halt(reason: HaltReason, why: Option<String>) -> Option<Self> {
        match reason {
            HaltReason::Stopped => None,
            HaltReason::StorageFailed => {
                Some(Self::StorageFailed { why: why.unwrap_or_else(|| "for an unknown reason".to_owned()) })
            }
            HaltReason::HistoryDiverged { slot, ours, theirs } => Some(Self::HistoryDiverged { slot, ours, theirs }),
        }
    }
}
