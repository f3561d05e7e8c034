//! Known bugs, planted in the driver's side of the contract or in the world around the engine: the swarm must find each
//! of them. Null mutants are harmless changes that it must not report.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Records are called durable before they are.
    PersistedEarly,
    /// Promises are not on disk after a restart.
    PromisesForgotten,
    /// A sync lies: a power cut also takes records that were called durable.
    SyncLies,
    /// Clocks run far beyond the declared bound.
    ClocksBeyondBound,
    /// Reads look at no lease.
    LeaseUnchecked,
    /// Reads look at the lease after they read, and not before.
    LeaseCheckedLast,
    /// A quorum read does not wait for the slot that it must see.
    ReadBeforeApplied,
    /// A wiped node is told that it votes.
    WipedNodeVotes,
    /// A restarted node does not wait out the grants that it may have given.
    GrantsForgotten,
    /// Events are stamped with a time that passed long ago.
    StampedLate,
    /// An update of unknown outcome is proposed again.
    UnknownRetried,
    /// An update of unknown outcome is reported as one that did not happen.
    UnknownCalledRefused,
    /// An update is acknowledged when it is proposed.
    AcknowledgedEarly,
    /// An acceptance counts for two nodes.
    AcceptanceCountedTwice,
    /// The store is not brought to the end of the decided prefix at a restart.
    ReplaySkipped,
    /// Harmless: reads look at the lease before they read, and not after. What a store holds later it may give later.
    NullLeaseCheckedFirst,
    /// Harmless: durable batches are reported twice.
    NullPersistedTwice,
    /// Harmless: ticks come when nothing is due.
    NullTicks,
}

/// All of them.
pub const MUTANTS: [Mutant; 18] = [
    Mutant::PersistedEarly,
    Mutant::PromisesForgotten,
    Mutant::SyncLies,
    Mutant::ClocksBeyondBound,
    Mutant::LeaseUnchecked,
    Mutant::LeaseCheckedLast,
    Mutant::ReadBeforeApplied,
    Mutant::WipedNodeVotes,
    Mutant::GrantsForgotten,
    Mutant::StampedLate,
    Mutant::UnknownRetried,
    Mutant::UnknownCalledRefused,
    Mutant::AcknowledgedEarly,
    Mutant::AcceptanceCountedTwice,
    Mutant::ReplaySkipped,
    Mutant::NullLeaseCheckedFirst,
    Mutant::NullPersistedTwice,
    Mutant::NullTicks,
];

impl Mutant {
    /// Whether the swarm must not report it.
    pub fn is_null(self) -> bool {
        matches!(self, Self::NullLeaseCheckedFirst | Self::NullPersistedTwice | Self::NullTicks)
    }
}
