//! What an engine is told once, at its creation.

use alloc::vec::Vec;
use core::time::Duration;

use bincode::{Decode, Encode};

use crate::ids::NodeId;
use crate::lease;

/// A node's view of its cluster, and its limits.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Config {
    /// This node. One of `voters` or `learners`.
    pub node: NodeId,
    /// All voters of the cluster, this node included; 1, 2, 3, 5 or 7 of them (any number up to 7 works).
    pub voters: Vec<NodeId>,
    /// Nodes that follow without a vote, and are never master (rules E1 and E2).
    pub learners: Vec<NodeId>,
    /// Voters that keep the log and no data, and are never master (rules E2 and E3).
    pub witnesses: Vec<NodeId>,
    /// Voters that are to be master rather than others (rule H3).
    pub preferred: Vec<NodeId>,
    /// How long a slave that granted a lease refuses other candidates, on its own clock.
    pub lease: Duration,
    /// The bound on clock rates: every node's clock runs at a rate within 1 ± this many millionths.
    pub clock_drift_ppm: u32,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// The planted bug that this node has.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::PlantedBug>,
    /// Whether the node goes on where an assertion could stop it at a planted bug.
    #[cfg(feature = "planted-bugs")]
    pub assertions_off: bool,
}

impl Config {
    /// `node`, one of `voters` that are all alike, with a lease of 800 ms, a drift bound of 1 % and the usual limits.
    pub fn new(node: NodeId, voters: Vec<NodeId>) -> Self {
        Self {
            node,
            voters,
            learners: Vec::new(),
            witnesses: Vec::new(),
            preferred: Vec::new(),
            lease: Duration::from_millis(800),
            clock_drift_ppm: 10_000,
            limits: Limits::default(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
            #[cfg(feature = "planted-bugs")]
            assertions_off: false,
        }
    }

    /// Whether the lists of nodes make sense together: nobody is named twice or has roles that exclude each other, this node
    /// is among them, and one node at least may be master.
    pub fn is_sound(&self) -> bool {
        let mut members = self.voters.clone();
        members.extend(&self.learners);
        members.sort_unstable();
        let once = members.windows(2).all(|pair| pair[0] != pair[1]);
        let witnesses_vote = self.witnesses.iter().all(|node| self.voters.contains(node));
        let preferred_may = self.preferred.iter().all(|node| self.may_be_master(*node));
        let one_may = self.voters.iter().any(|node| self.may_be_master(*node));
        once && self.is_member(self.node) && witnesses_vote && preferred_may && one_may
    }

    /// Whether a node belongs to the cluster, with a vote or without.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    /// Whether a node may campaign: it votes and has the data (rule E2).
    pub fn may_be_master(&self, node: NodeId) -> bool {
        self.voters.contains(&node) && !self.is_witness(node)
    }

    /// Whether a node votes and has no data.
    pub fn is_witness(&self, node: NodeId) -> bool {
        self.witnesses.contains(&node)
    }

    /// Whether a node is to be master rather than those of which this is not true.
    pub fn is_preferred(&self, node: NodeId) -> bool {
        self.preferred.contains(&node)
    }

    /// How long a node with this configuration waits after a start before it promises anything (rule L4).
    pub fn restart_wait(&self) -> Duration {
        lease::restart_wait(self.lease, self.clock_drift_ppm)
    }
}

/// Bounds on what an engine holds and sends. Bytes count values only.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Limits {
    /// Slots that a master may have proposed but not yet applied.
    pub in_flight_slots_max: u64,
    /// Bytes of those, unless a single value is larger.
    pub in_flight_bytes_max: usize,
    /// Bytes of commands that a master packs into one slot, unless a single command is larger.
    pub batch_bytes_max: usize,
    /// Updates that wait for room in flight.
    pub queued_requests_max: usize,
    /// Bytes of those.
    pub queued_bytes_max: usize,
    /// Bytes of values in one `Accept` or `Fetched` message, unless a single value is larger.
    pub message_bytes_max: usize,
    /// Bytes of decided values kept in memory for slaves that are slightly behind.
    pub cache_bytes_max: usize,
    /// Slots of those.
    pub cache_slots_max: u64,
    /// How long proposed values may stay undecided before the master gives up its mastership: slaves may grant the lease
    /// while their disks are stuck. So long, too, may a new master's store stand still before it serves (rule M7).
    pub undecided_max: Duration,
    /// `Consistent` reads that wait for a quorum round.
    pub queued_reads_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_slots_max: 64,
            in_flight_bytes_max: 32 << 20,
            batch_bytes_max: 1 << 20,
            queued_requests_max: 65_536,
            queued_bytes_max: 64 << 20,
            message_bytes_max: 4 << 20,
            cache_bytes_max: 32 << 20,
            cache_slots_max: 16_384,
            undecided_max: Duration::from_secs(5),
            queued_reads_max: 65_536,
        }
    }
}
