//! How fresh a read must be.

use serde::{Deserialize, Serialize};

/// How fresh a read must be, and so which nodes may answer it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every update that was acknowledged before the read began. Answered by the master alone.
    #[default]
    Consistent,
    /// Whatever the node has.
    NoGuarantees,
    /// Sees at least every update up to this slot. Answered by any node that has applied it.
    AtLeast(i64),
}
