//! What nodes say about themselves.

use serde::{Deserialize, Serialize};

use super::ClientError;

/// What a node says about itself. `trialbay cluster status` shows one per node.
///
/// Fields that a node of another version does not send have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The version of the program.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// `slave`, `learner`, `witness`, `canvassing`, `candidate`, `master` or `halted`.
    pub role: String,
    /// The master's name, as far as this node knows.
    pub master: Option<String>,
    /// Whether `Consistent` reads and updates are served here now.
    pub serving: bool,
    /// The highest promised ballot, as `round.node`.
    pub ballot: String,
    /// The last slot with an accepted value.
    pub accepted_upto: u64,
    /// The end of the decided prefix.
    pub decided_upto: u64,
    /// The end of the applied prefix.
    pub applied_upto: u64,
    /// The history hash at `decided_upto`, in hexadecimal.
    pub history_hash: String,
    /// Whether the node's votes count. A node whose disk was wiped or damaged has none until it has caught up.
    pub votes: bool,
    /// Whether that is so in this run only, until it has caught up: its vote is lent.
    pub vote_is_lent: bool,
    /// Whether the node is fetching decided entries from a peer.
    pub catching_up: bool,
    /// The head that the node is getting, if the log that it lacks is gone everywhere.
    pub head: Option<HeadView>,
    /// Whether enough voters are reachable for updates to be decided, as this node sees it.
    pub progress_possible: bool,
    /// How many more voters may fail before updates stop; `None` on a node that is not the master.
    pub failures_survivable: Option<u32>,
    /// Keys in the store.
    pub keys: u64,
    /// What its log takes.
    pub log: LogView,
    /// Bytes of the store's file.
    pub store_bytes: u64,
    /// Bytes that are free on the node's disk, if that is known.
    pub disk_free_bytes: Option<u64>,
    /// Whether so little is free that of updates the node takes only deletes.
    pub disk_is_short: bool,
    /// What is wrong with the node's files, in words; empty when nothing is.
    pub damage: Vec<String>,
    /// The other voters as the master sees them; empty elsewhere.
    pub peers: Vec<PeerView>,
}

/// A head on its way to a node: the whole store of another one as it is at one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadView {
    /// The node that gives it.
    pub from: String,
    /// The slot; 0 until the giver has said it.
    pub slot: u64,
    /// Keys that are there.
    pub keys: u64,
    /// Keys that there will be.
    pub keys_all: u64,
}

/// What a node's log takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogView {
    /// Files.
    pub segments: u64,
    /// How many of them are compressed.
    pub compressed: u64,
    /// Bytes on disk, with what is reserved.
    pub bytes: u64,
    /// The first slot that it can give to peers; 0 while there is none.
    pub first_slot: u64,
}

/// What a master knows of another voter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerView {
    /// Its name.
    pub node: String,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// Milliseconds since it last granted the lease.
    pub granted_ms_ago: Option<u64>,
    /// The end of what it has made durable.
    pub accepted_upto: u64,
    /// The end of what its store has applied.
    pub applied_upto: u64,
    /// Whether its votes count.
    pub votes: bool,
}

/// One line of a cluster's status.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Who was asked, as `host:port`.
    pub endpoint: String,
    /// What it said, or why it said nothing.
    pub status: Result<NodeStatus, ClientError>,
}

/// Who the master is, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its name.
    pub name: String,
    /// Where it is, as `host:port`.
    pub endpoint: String,
}

/// What a node says of its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major version.
    pub major: i32,
    /// Minor version.
    pub minor: i32,
    /// Patch level.
    pub patch: i32,
    /// Free text.
    pub info: String,
}
