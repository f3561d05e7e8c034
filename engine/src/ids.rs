//! Names of things in the protocol: nodes, ballots, slots, requests.

use core::fmt;

use bincode::{Decode, Encode};

/// A member of the cluster, as numbered in the cluster's configuration. Never reused for another member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeId(pub u16);

/// A proposal number: ordered by round, then by node, so that no two nodes ever own the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Ballot {
    /// Counts campaigns; the more significant part.
    pub round: u64,
    /// The node that campaigns (or is master) with this ballot.
    pub node: NodeId,
}

/// A position in the log. The first value of a cluster is decided at slot 1; slot 0 stands for "nothing yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Slot(pub u64);

/// The driver's name for one client update, unique within one run of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct RequestId(pub u64);

/// The driver's name for one `Consistent` read that waits for a quorum round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ReadId(pub u64);

/// Numbers the batches of records given to the disk in one run of a node: 1, 2, 3 and so on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct PersistId(pub u64);

/// One life of a node's memory. A node whose disk was wiped or damaged comes back under a new one, and what its old
/// life promised does not count any more (rule V1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Incarnation(pub u64);

impl Ballot {
    /// Below every ballot that a node campaigns with.
    pub const ZERO: Self = Self { round: 0, node: NodeId(0) };

    /// The smallest ballot of `node` above `self`.
    pub fn next_for(self, node: NodeId) -> Self {
        Self { round: self.round.saturating_add(1), node }
    }
}

impl Slot {
    /// "Nothing yet".
    pub const ZERO: Self = Self(0);

    /// The slot after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The slot before this one; `ZERO` has none and stays.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many slots lie after `self` up to and including `upto`; 0 when `upto` is not above `self`.
    pub fn distance_to(self, upto: Self) -> u64 {
        upto.0.saturating_sub(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.node)
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Debug for ReadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read{}", self.0)
    }
}

impl fmt::Debug for PersistId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
