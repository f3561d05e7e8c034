//! Changes of the driver and of the network, planted to see whether the explorer sees.

use clap::ValueEnum;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Change {
    /// The engine hears that its records are durable before they are.
    PersistedBeforeSync,
    /// A restarted node has forgotten what it promised to another, unless it accepted something of it.
    PromiseForgotten,
    /// A restarted node has forgotten the last entry that it accepted.
    EntryForgotten,
    /// A restarted node has forgotten its promise to itself, and so that it used that ballot.
    OwnPromiseForgotten,
    /// Every acceptance arrives a second time, in the name of another node.
    AcceptanceForged,
    /// Harmless: an acceptance may arrive any number of times.
    AcceptanceRepeated,
    /// Harmless: a power cut loses nothing.
    NothingLost,
}
