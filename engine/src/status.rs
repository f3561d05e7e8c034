//! What a node can say about itself.

use alloc::vec::Vec;

use crate::ids::{Ballot, Incarnation, NodeId, Slot};
use crate::time::Instant;
use crate::value::HistoryHash;

/// A node's state at one moment, as far as it concerns others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What this node is doing about mastership.
    pub role: Role,
    /// The master as this node knows it: itself while it serves, or the owner of a lease that this node granted and
    /// that has not run out.
    pub master: Option<NodeId>,
    /// The highest promised ballot.
    pub promised: Ballot,
    /// The last slot with an accepted value, durable or not.
    pub accepted_upto: Slot,
    /// The end of the decided prefix.
    pub decided_upto: Slot,
    /// The history hash there.
    pub decided_hash: HistoryHash,
    /// The end of the applied prefix.
    pub applied_upto: Slot,
    /// While master: `Consistent` reads may be served from the store until this instant. `None`: not now.
    pub serves_until: Option<Instant>,
    /// This life.
    pub incarnation: Incarnation,
    /// Whether this node's votes count (rule V1).
    pub votes: bool,
    /// Whether its vote is lent: for this run, until it has caught up (rule V3).
    pub vote_is_lent: bool,
    /// Whether this node is fetching decided entries from a peer.
    pub catching_up: bool,
    /// Updates waiting for room in flight.
    pub queued_requests: usize,
    /// What a master knows of each other voter and learner, ordered by node; empty on other nodes.
    pub peers: Vec<PeerStatus>,
}

/// What an engine holds in memory at one moment, in the units of its [`Limits`](crate::Limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Slots of the log in memory.
    pub log_slots: u64,
    /// Bytes of those.
    pub log_bytes: usize,
    /// Slots that are accepted and not known to be decided.
    pub undecided_slots: u64,
    /// Decided slots whose entries may not be durable yet (rule D3).
    pub undurable_slots: u64,
    /// Slots that are decided and not applied.
    pub unapplied_slots: u64,
    /// Bytes of those.
    pub unapplied_bytes: usize,
    /// Bytes of values that are on their way to the disk.
    pub unpersisted_bytes: usize,
    /// Updates waiting for room in flight.
    pub queued_requests: usize,
    /// Bytes of those.
    pub queued_bytes: usize,
    /// Reads waiting for a quorum round.
    pub queued_reads: usize,
}

/// What a node is doing about mastership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a master, or waits for one.
    Slave,
    /// Asks around whether a campaign would succeed.
    Canvassing,
    /// Runs phase 1.
    Candidate,
    /// Orders updates; serves once its first own slot is applied.
    Master,
    /// Does nothing any more.
    Halted,
}

/// What a master knows of another voter, or a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Whether the driver has a connection to it.
    pub connected: bool,
    /// When it last granted the lease; on this node's clock, the moment of asking.
    pub granted_at: Option<Instant>,
    /// The end of what it has made durable of this ballot.
    pub accepted_upto: Slot,
    /// The end of what its store has applied, as of its last grant.
    pub applied_upto: Slot,
    /// Whether its votes count.
    pub votes: bool,
}
