//! How a run of the program ends: the exit code that scripts see, and the line that people read.

use std::fmt::Write as _;

use crate::client::{ClientError, Happened};

/// Exit codes, the same in every release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// An error that has no code of its own.
    Other = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such key.
    NotFound = 3,
    /// An assertion or an expectation did not hold; nothing was changed.
    AssertionFailed = 4,
    /// Refused, or not done in time; nothing was changed.
    Refused = 5,
    /// The update may have happened, or may happen yet.
    OutcomeUnknown = 6,
    /// No node can be reached.
    Unreachable = 7,
    /// The configuration has mistakes.
    BadConfig = 8,
    /// The home directory belongs to another node or cluster.
    ForeignHome = 10,
    /// Another process uses the home directory.
    HomeLocked = 11,
    /// A directory cannot be written.
    Unwritable = 12,
    /// Another process listens on the port.
    PortInUse = 13,
    /// The configuration has no node of that name.
    UnknownNode = 14,
    /// The disk failed, or the node's files are damaged.
    StorageFailed = 15,
    /// The node's history is not that of the cluster.
    HistoryDiverged = 16,
    /// The log calls a user function that the program does not have.
    UnknownFunction = 17,
}

impl ExitCode {
    /// All, in order.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Other,
        Self::Usage,
        Self::NotFound,
        Self::AssertionFailed,
        Self::Refused,
        Self::OutcomeUnknown,
        Self::Unreachable,
        Self::BadConfig,
        Self::ForeignHome,
        Self::HomeLocked,
        Self::Unwritable,
        Self::PortInUse,
        Self::UnknownNode,
        Self::StorageFailed,
        Self::HistoryDiverged,
        Self::UnknownFunction,
    ];

    /// The exit code that a process ended with, if it is one of these.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| i32::from(*exit as u8) == code)
    }

    /// What it means, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Other => "another error (cluster status, who-master: no master serves)",
            Self::Usage => "the command line makes no sense",
            Self::NotFound => "there is no such key",
            Self::AssertionFailed => "an assertion or expectation did not hold; nothing was changed",
            Self::Refused => "refused, or not possible in time; it did not happen",
            Self::OutcomeUnknown => "outcome unknown: it may have happened, or may happen yet",
            Self::Unreachable => "no node of the cluster can be reached",
            Self::BadConfig => "the configuration has mistakes",
            Self::ForeignHome => "node: the home directory belongs to another node or cluster",
            Self::HomeLocked => "node, tlog, store: another process uses the home directory",
            Self::Unwritable => "node, dev: a directory cannot be written",
            Self::PortInUse => "node, dev: another process listens on the port",
            Self::UnknownNode => "node: the configuration has no node of that name",
            Self::StorageFailed => "the disk failed, or the files are damaged",
            Self::HistoryDiverged => "node: its history is not that of the cluster",
            Self::UnknownFunction => "node: the log calls a user function that this program does not have",
        }
    }

    /// Whether a node that ended so would end so again: something else must change first.
    pub fn is_lasting(self) -> bool {
        match self {
            Self::Usage
            | Self::BadConfig
            | Self::ForeignHome
            | Self::HomeLocked
            | Self::Unwritable
            | Self::PortInUse
            | Self::UnknownNode
            | Self::HistoryDiverged
            | Self::UnknownFunction => true,
            Self::Ok
            | Self::Other
            | Self::NotFound
            | Self::AssertionFailed
            | Self::Refused
            | Self::OutcomeUnknown
            | Self::Unreachable
            | Self::StorageFailed => false,
        }
    }

    /// The table for `--help`.
    pub fn help() -> String {
        let mut help = String::from("Exit codes:");
        for exit in Self::ALL {
            let _ = write!(help, "\n  {:2}  {}", exit as u8, exit.meaning());
        }
        help
    }

    /// The word for it in JSON.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Other => "other",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::AssertionFailed => "assertion_failed",
            Self::Refused => "refused",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Unreachable => "unreachable",
            Self::BadConfig => "bad_config",
            Self::ForeignHome => "foreign_home",
            Self::HomeLocked => "home_locked",
            Self::Unwritable => "unwritable",
            Self::PortInUse => "port_in_use",
            Self::UnknownNode => "unknown_node",
            Self::StorageFailed => "storage_failed",
            Self::HistoryDiverged => "history_diverged",
            Self::UnknownFunction => "unknown_function",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(exit: ExitCode) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the program ends.
    pub exit: ExitCode,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure that ends the program this way.
    pub fn new(exit: ExitCode, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotFound { .. } => ExitCode::NotFound,
            ClientError::AssertionFailed { .. } => ExitCode::AssertionFailed,
            ClientError::Refused { .. } | ClientError::DidNotHappen { .. } => ExitCode::Refused,
            ClientError::OutcomeUnknown { .. } | ClientError::Protocol { happened: Happened::Unknown, .. } => {
                ExitCode::OutcomeUnknown
            }
            ClientError::Unreachable { .. } => ExitCode::Unreachable,
            ClientError::InvalidArgument { .. } => ExitCode::Usage,
            ClientError::Protocol { happened: Happened::No, .. } => ExitCode::Other,
        };
        let advice = match exit {
            ExitCode::Unreachable => {
                " (is it running, with this cluster id? `trialbay dev` starts one here; --endpoints and --cluster-id \
                 name another)"
            }
            ExitCode::OutcomeUnknown => " (read before you try again)",
            _ => "",
        };
        Self::new(exit, format!("{error}{advice}"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn exit_codes_and_their_words_are_distinct_and_never_change() {
        let codes: Vec<u8> = ExitCode::ALL.iter().map(|exit| *exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17]);
        for exit in ExitCode::ALL {
            assert_eq!(ExitCode::from_code(i32::from(exit as u8)), Some(exit));
            assert_eq!(ExitCode::ALL.iter().filter(|other| other.kind() == exit.kind()).count(), 1);
            assert!(ExitCode::help().contains(exit.meaning()));
        }
        assert_eq!(ExitCode::from_code(9), None);
    }

    #[test]
    fn each_error_of_the_client_has_its_exit_code() {
        let why = String::new;
        let cases = [
            (ClientError::NotFound { key: Bytes::new() }, 3),
            (ClientError::AssertionFailed { message: Bytes::new() }, 4),
            (ClientError::Refused { code: 0x26, message: why() }, 5),
            (ClientError::DidNotHappen { why: why() }, 5),
            (ClientError::OutcomeUnknown { why: why() }, 6),
            (ClientError::Unreachable { tried: Vec::new() }, 7),
            (ClientError::InvalidArgument { why: why() }, 2),
            (ClientError::Protocol { endpoint: why(), why: why(), happened: Happened::Unknown }, 6),
            (ClientError::Protocol { endpoint: why(), why: why(), happened: Happened::No }, 1),
        ];
        for (error, exit) in cases {
            assert_eq!(Failure::from(error).exit as u8, exit);
        }
    }
}
