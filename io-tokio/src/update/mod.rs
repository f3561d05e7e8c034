//! Updates, and their bytes: on the client's wire and, inside a command, in the log.

#[cfg(feature = "server")]
mod admin;
mod codec;
mod command;
mod limits;
mod nursery;

use bytes::Bytes;

#[cfg(feature = "server")]
pub use admin::{ADMIN_BYTES_MAX, Admin};
pub use codec::{NESTING_MAX, NotAnUpdate, UPDATES_MAX};
pub use command::{Command, NotACommand, Session, command_from_raw, decode_command, encode_command};
pub use limits::{Limits, TooLarge, UPDATE_BYTES_CEILING};
#[cfg(feature = "server")]
pub(crate) use nursery::{ADDRESSES_MAX, NODES_MAX};
pub use nursery::{ClusterConfig, Interval, NodeAddress, NurseryUpdate, Routing};

#[cfg(test)]
pub(crate) use codec::tests;

/// One update of the key space. `docs/protocol.md` and `docs/compatibility.md` say what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Sets a key, whatever was there.
    Set {
        /// The key.
        key: Bytes,
        /// Its value from now on.
        value: Bytes,
    },
    /// Deletes a key; fails when there is none.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets (or deletes, with `None`) a key only if it has the expected value (or is absent); gives the value before.
    TestAndSet {
        /// The key.
        key: Bytes,
        /// The value it must have for anything to happen; `None`: it must be absent.
        expected: Option<Bytes>,
        /// Its value if so; `None`: it is deleted.
        wanted: Option<Bytes>,
    },
    /// All of these in order, or none.
    Sequence(Vec<Update>),
    /// Nothing, in a slot of its own.
    Nop,
    /// Fails unless the key has this value (or is absent).
    Assert {
        /// The key.
        key: Bytes,
        /// The value it must have; `None`: it must be absent.
        expected: Option<Bytes>,
    },
    /// Fails unless the key exists.
    AssertExists {
        /// The key.
        key: Bytes,
    },
    /// Fails unless exactly these keys have this prefix. The order of `keys` does not matter.
    AssertRange {
        /// The prefix; the empty one is every key's.
        prefix: Bytes,
        /// All keys with that prefix, each once.
        keys: Vec<Bytes>,
    },
    /// Deletes every key with this prefix; gives their number.
    DeletePrefix {
        /// The prefix; the empty one is every key's.
        prefix: Bytes,
    },
    /// Sets (or deletes, with `None`) a key; gives the value before.
    Replace {
        /// The key.
        key: Bytes,
        /// Its value from now on; `None`: it is deleted, if it is there.
        wanted: Option<Bytes>,
    },
    /// Changes what is kept beside the keys, for clusters that share one key space.
    Nursery(NurseryUpdate),
    /// Calls a function that the program has added to its nodes; gives what that returns.
    UserFunction {
        /// Its name.
        name: Bytes,
        /// What it is told.
        argument: Option<Bytes>,
    },
}

impl Update {
    /// The user functions that it calls, each as often as it does.
    pub fn functions(&self) -> Vec<Bytes> {
        fn add(update: &Update, names: &mut Vec<Bytes>) {
            match update {
                Update::UserFunction { name, .. } => names.push(name.clone()),
                Update::Sequence(updates) => updates.iter().for_each(|update| add(update, names)),
                _ => {}
            }
        }
        let mut names = Vec::new();
        add(self, &mut names);
        names
    }
}

/// What an update that happened gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Done; this was the value before (`TestAndSet`, `Replace`).
    Previous(Option<Bytes>),
    /// Done; this is what the function returned (`UserFunction`).
    Returned(Option<Bytes>),
    /// Done; the value before or the function's result is not told, because too many large ones wait to be told already.
    PreviousUntold,
    /// Done; this many keys were deleted (`DeletePrefix`).
    Deleted(u32),
}

/// Why an update changed nothing although its slot was decided. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such key.
    NotFound {
        /// The key that should have been there.
        key: Bytes,
    },
    /// An assertion did not hold.
    AssertionFailed {
        /// The key, or for `AssertRange` a short description.
        message: Bytes,
    },
    /// The key is not among those that this cluster has (`Set`, by itself).
    OutsideInterval {
        /// The key.
        key: Bytes,
    },
    /// It makes no sense with what is kept beside the keys (`Nursery`).
    Illegal {
        /// Why.
        why: String,
    },
    /// A user function failed or panicked.
    FunctionFailed {
        /// What it said.
        message: String,
    },
    /// The bytes of the command are not an update this node knows.
    Undecodable {
        /// What is wrong with them.
        why: String,
    },
}

/// What an update gave, if it was decided.
pub type UpdateResult = Result<Outcome, Failure>;

/// The smallest key behind all keys that begin with `prefix`; `None` when there is none (the prefix has nothing but ff).
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
