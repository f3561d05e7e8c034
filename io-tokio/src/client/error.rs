//! What can go wrong with a call, and whether it happened all the same.

use bytes::Bytes;

use crate::wire::Malformed;

/// Whether a call that failed may have had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It had no effect and never will have: it can be tried again.
    No,
    /// It may have had its effect, or may have it yet. Read before trying again.
    Unknown,
}

/// Why a call did not give what it was asked for. [`ClientError::happened`] says whether it had an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// There is no such key. Of an update (delete, sequence): it changed nothing.
    #[error("not found: {}", key.escape_ascii())]
    NotFound {
        /// The key that is missing.
        key: Bytes,
    },
    /// An assertion did not hold. Of a sequence: it changed nothing.
    #[error("assertion failed: {}", message.escape_ascii())]
    AssertionFailed {
        /// The key, or for an assertion about a range its description.
        message: Bytes,
    },
    /// The node understood and refused; trying again will not help.
    #[error("refused: {message} (code {code:#04x})")]
    Refused {
        /// The code of the reply, as `docs/compatibility.md` lists them.
        code: i32,
        /// What the node said.
        message: String,
    },
    /// The call had no effect: no node was in a position to do it before the deadline.
    #[error("did not happen: {why}")]
    DidNotHappen {
        /// What was last in the way.
        why: String,
    },
    /// The update was sent, and there is no telling what became of it.
    #[error("outcome unknown: {why}")]
    OutcomeUnknown {
        /// How the answer was lost.
        why: String,
    },
    /// No endpoint can be reached. The call had no effect.
    #[error("cannot reach the cluster: {}", list(tried))]
    Unreachable {
        /// Every endpoint, with what was in the way.
        tried: Vec<(String, String)>,
    },
    /// The arguments cannot be sent, or the options make no sense. Nothing was sent.
    #[error("invalid argument: {why}")]
    InvalidArgument {
        /// What is wrong, and what to do.
        why: String,
    },
    /// What a node sent is not a reply.
    #[error("{endpoint} does not speak the client protocol: {why}")]
    Protocol {
        /// Who sent it.
        endpoint: String,
        /// What is wrong with it.
        why: String,
        /// [`Happened::Unknown`] of an update: the node may have done it before it sent nonsense.
        happened: Happened,
    },
}

impl ClientError {
    /// Whether the call may have had its effect.
    pub fn happened(&self) -> Happened {
        match self {
            Self::OutcomeUnknown { .. } => Happened::Unknown,
            Self::Protocol { happened, .. } => *happened,
            Self::NotFound { .. }
            | Self::AssertionFailed { .. }
            | Self::Refused { .. }
            | Self::DidNotHappen { .. }
            | Self::Unreachable { .. }
            | Self::InvalidArgument { .. } => Happened::No,
        }
    }

    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::InvalidArgument { why: why.into() }
    }
}

fn list(tried: &[(String, String)]) -> String {
    tried.iter().map(|(endpoint, why)| format!("{endpoint}: {why}")).collect::<Vec<_>>().join("; ")
}

/// What became of a request on one connection, when it was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Not a byte of it was handed to the network, or the node is known not to have read it.
    NotSent(String),
    /// The node may have it.
    Lost(String),
    /// What came back is not a reply.
    Garbage(Malformed),
}
