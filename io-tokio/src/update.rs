//! Updates, and their bytes: on the client's wire and, inside a command, in the log.

use bytes::Bytes;

/// One update of the key space. `docs/protocol.md` and `docs/compatibility.md` say what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Sets a key, whatever was there.
    Set { key: Bytes, value: Bytes },
    /// Deletes a key; fails when there is none.
    Delete { key: Bytes },
    /// Sets (or deletes, with `None`) a key only if it has the expected value (or is absent); gives the value before.
    TestAndSet { key: Bytes, expected: Option<Bytes>, wanted: Option<Bytes> },
    /// All of these in order, or none.
    Sequence(Vec<Update>),
    /// Nothing, in a slot of its own.
    Nop,
    /// Fails unless the key has this value (or is absent).
    Assert { key: Bytes, expected: Option<Bytes> },
    /// Fails unless the key exists.
    AssertExists { key: Bytes },
    /// Fails unless exactly these keys have this prefix. The order of `keys` does not matter.
    AssertRange { prefix: Bytes, keys: Vec<Bytes> },
    /// Deletes every key with this prefix; gives their number.
    DeletePrefix { prefix: Bytes },
    /// Sets (or deletes, with `None`) a key; gives the value before.
    Replace { key: Bytes, wanted: Option<Bytes> },
}

/// What an update that happened gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Done; this was the value before (`TestAndSet`, `Replace`).
    Previous(Option<Bytes>),
    /// Done; this many keys were deleted (`DeletePrefix`).
    Deleted(u32),
}

/// Why an update changed nothing although its slot was decided. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such key.
    NotFound { key: Bytes },
    /// An assertion did not hold; the message is the key, or for `AssertRange` a description.
    AssertionFailed { message: Bytes },
    /// The bytes of the command are not an update this node knows.
    Undecodable { why: String },
}
