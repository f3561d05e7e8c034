//! What a node is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use trialbay_engine::NodeId;

use crate::config::Reads;
use crate::extensions::Extensions;
use crate::peer::PeerAddress;
use crate::update::Limits;

/// Everything a node needs to know to run.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Tells clusters apart.
    pub cluster_id: String,
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// All other nodes, and where they listen for peers.
    pub peers: Vec<PeerAddress>,
    /// Which nodes are not like the others.
    pub roles: Roles,
    /// Whether updates of clients are refused.
    pub read_only: bool,
    /// `host:port` on which clients are served.
    pub client_listen: String,
    /// `host:port` on which peers are heard.
    pub peer_listen: String,
    /// The directory that holds everything the node keeps.
    pub home: PathBuf,
    /// How long a slave that granted a lease refuses other candidates.
    pub lease: Duration,
    /// The bound on clock rates, in millionths.
    pub clock_drift_ppm: u32,
    /// How `Consistent` reads are made safe.
    pub reads: Reads,
    /// How large keys, values and updates may be.
    pub limits: Limits,
    /// How long the store may go without being made durable. Bounds what a restart has to replay from the log.
    pub store_age_max: Duration,
    /// How much of the disk is not filled, in bytes.
    pub disk_reserve_bytes: u64,
    /// Client connections at a time; `None`: as many as the limit on open files allows.
    pub connections_max: Option<usize>,
    /// The user functions and hooks that the program adds.
    pub extensions: Extensions,
    /// How long a segment of the log grows before the next one is begun.
    pub log_segment_bytes: u64,
    /// How many bytes of segments that the store has passed are kept, for others that are behind.
    pub log_retention_bytes: u64,
    /// Whether closed segments of the log are compressed.
    pub log_compression: bool,
    /// The planted bug that this node's log, store or driver has.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::planted::PlantedBug>,
    /// The planted bug that this node's engine has.
    #[cfg(feature = "planted-bugs")]
    pub planted_in_engine: Option<trialbay_engine::PlantedBug>,
    /// How many bytes of recordings of the engine's inputs to keep in the home; `None`: nothing is recorded.
    pub recorder_bytes_max: Option<u64>,
}

/// Which nodes of a cluster are not simply voters with the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// These follow without a vote.
    pub learners: Vec<NodeId>,
    /// These vote and keep no data.
    pub witnesses: Vec<NodeId>,
    /// These are to be master rather than others.
    pub preferred: Vec<NodeId>,
}

impl NodeOptions {
    /// How long the store usually goes without being made durable.
    pub const STORE_AGE_MAX: Duration = Duration::from_secs(5);
}
