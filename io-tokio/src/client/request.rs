//! Requests: their bytes, where they go, and whether they may be sent twice.

use bytes::Bytes;

use super::reply::Shape;
use super::{ClientError, KeyRange};
use crate::consistency::Consistency;
use crate::update::Update;
use crate::wire::{MAGIC, VERSION, Writer as _};

/// A request, ready to be sent to any node.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) bytes: Bytes,
    pub(crate) shape: Shape,
    pub(crate) target: Target,
    /// An update is not sent again once a node may have it.
    pub(crate) is_update: bool,
}

/// Which nodes may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The master alone.
    Master,
    /// Any node; the preferred one first.
    Any,
}

/// What a connection begins with.
pub(crate) fn prologue(cluster_id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.i32(MAGIC.cast_signed());
    bytes.i32(VERSION);
    bytes.string(cluster_id.as_bytes());
    bytes
}

/// The code of each command, as in section 5 of the client protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Command {
    Hello = 0x01,
    WhoMaster = 0x02,
    Exists = 0x07,
    Get = 0x08,
    Set = 0x09,
    Delete = 0x0a,
    Range = 0x0b,
    PrefixKeys = 0x0c,
    TestAndSet = 0x0d,
    RangeEntries = 0x0f,
    Sequence = 0x10,
    MultiGet = 0x11,
    ExpectProgressPossible = 0x12,
    Statistics = 0x13,
    UserFunction = 0x15,
    Assert = 0x16,
    GetKeyCount = 0x1a,
    DefragDb = 0x26,
    FlushStore = 0x42,
    GetDb = 0x1b,
    SetInterval = 0x17,
    GetRouting = 0x18,
    SetRouting = 0x19,
    GetFringe = 0x1d,
    GetInterval = 0x1e,
    SetNurseryConfig = 0x1f,
    GetNurseryConfig = 0x20,
    SetRoutingDelta = 0x21,
    MigrateRange = 0x22,
    Confirm = 0x1c,
    RevRangeEntries = 0x23,
    SyncedSequence = 0x24,
    DeletePrefix = 0x27,
    Version = 0x28,
    AssertExists = 0x29,
    DropMaster = 0x30,
    MultiGetOption = 0x31,
    CurrentState = 0x32,
    Replace = 0x33,
    Nop = 0x41,
    GetTxid = 0x43,
    UserHook = 0x45,
    /// Trialbay's own: a string of JSON, see `NodeStatus`.
    NodeStatus = 0x50,
}

impl Command {
    /// What a request of this command begins with.
    pub(crate) fn word(self) -> i32 {
        (MAGIC | u32::from(self as u16)).cast_signed()
    }
}

/// A longer argument, or a longer list, is not sent. Nodes take far less.
const ARGUMENT_LEN_MAX: usize = 1 << 30;

/// The arguments of a request, in the order of the wire.
pub(crate) struct Builder {
    bytes: Vec<u8>,
    /// The length of an argument that is over the limit. The request cannot be built then.
    too_long: Option<usize>,
}

impl Builder {
    pub(crate) fn new(command: Command) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.i32(command.word());
        Self { bytes, too_long: None }
    }

    /// A command that begins with how fresh its answer must be.
    pub(crate) fn read(command: Command, consistency: Consistency) -> Self {
        let mut builder = Self::new(command);
        match consistency {
            Consistency::Consistent => builder.bytes.push(0),
            Consistency::NoGuarantees => builder.bytes.push(1),
            Consistency::AtLeast(slot) => {
                builder.bytes.push(2);
                builder.bytes.i64(slot);
            }
        }
        builder
    }

    pub(crate) fn string(mut self, value: impl AsRef<[u8]>) -> Self {
        if self.admits(value.as_ref()) {
            self.bytes.string(value.as_ref());
        }
        self
    }

    pub(crate) fn option(mut self, value: Option<&[u8]>) -> Self {
        if self.admits(value.unwrap_or_default()) {
            self.bytes.option_string(value);
        }
        self
    }

    /// An argument that has no length of its own.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        if self.admits(bytes) {
            self.bytes.extend_from_slice(bytes);
        }
        self
    }

    fn admits(&mut self, argument: &[u8]) -> bool {
        // The sum is limited too, so that many long arguments do not fill the memory before they are refused.
        let len = self.bytes.len() + 4 + argument.len();
        if len > ARGUMENT_LEN_MAX {
            self.too_long = Some(len);
        }
        self.too_long.is_none()
    }

    /// A list, and how many elements it has.
    pub(crate) fn strings<K: AsRef<[u8]>>(mut self, values: impl IntoIterator<Item = K>) -> (Self, usize) {
        let count_at = self.bytes.len();
        self.bytes.i32(0);
        let mut count = 0_u32;
        for value in values {
            self = self.string(value);
            // No overflow: each string that is admitted has at least four bytes.
            count += u32::from(self.too_long.is_none());
        }
        self.bytes[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        (self, count as usize)
    }

    /// `-1` stands for no limit.
    pub(crate) fn max(mut self, max: Option<u32>) -> Self {
        self.bytes.i32(max.map_or(-1, |max| i32::try_from(max).unwrap_or(i32::MAX)));
        self
    }

    /// From the smallest key to the largest, as RANGE and RANGE_ENTRIES have it.
    pub(crate) fn ascending(self, range: &KeyRange) -> Self {
        self.bound(&range.first).bound(&range.last).max(range.max)
    }

    /// From the largest key to the smallest, as REV_RANGE_ENTRIES has it.
    pub(crate) fn descending(self, range: &KeyRange) -> Self {
        self.bound(&range.last).bound(&range.first).max(range.max)
    }

    fn bound(self, (key, inclusive): &(Option<Bytes>, bool)) -> Self {
        let mut builder = self.option(key.as_deref());
        builder.bytes.bool(*inclusive);
        builder
    }

    /// An update, for the master.
    pub(crate) fn update(self, shape: Shape) -> Result<Request, ClientError> {
        self.build(shape, Target::Master, true)
    }

    /// A read, for the nodes that can be as fresh as that.
    pub(crate) fn query(self, shape: Shape, consistency: Consistency) -> Result<Request, ClientError> {
        let target = if consistency == Consistency::Consistent { Target::Master } else { Target::Any };
        self.build(shape, target, false)
    }

    fn build(self, shape: Shape, target: Target, is_update: bool) -> Result<Request, ClientError> {
        match self.too_long {
            Some(len) => Err(ClientError::invalid(format!(
                "arguments of {len} bytes and more are over the limit of {ARGUMENT_LEN_MAX}"
            ))),
            None => Ok(Request { bytes: self.bytes.into(), shape, target, is_update }),
        }
    }
}

/// SEQUENCE or SYNCED_SEQUENCE: the updates travel as one string.
pub(crate) fn sequence(command: Command, updates: Vec<Update>) -> Result<Request, ClientError> {
    Builder::new(command).string(sequence_body(&Update::Sequence(updates))?).update(Shape::Unit)
}

/// An update as a string holds it.
pub(crate) fn sequence_body(updates: &Update) -> Result<Vec<u8>, ClientError> {
    let len = updates.encoded_len();
    if len > ARGUMENT_LEN_MAX {
        let why = format!("a sequence of {len} bytes is over the limit of {ARGUMENT_LEN_MAX}");
        return Err(ClientError::invalid(why));
    }
    let mut body = Vec::with_capacity(len);
    updates.encode(&mut body);
    Ok(body)
}

/// What every node answers at once: whom it takes for the master.
pub(crate) fn who_master() -> Request {
    Request::plain(Command::WhoMaster, Shape::OptionText, Target::Any)
}

/// Not sent twice: the second one might meet the next master.
pub(crate) fn drop_master() -> Request {
    Request { is_update: true, ..Request::plain(Command::DropMaster, Shape::Unit, Target::Master) }
}

/// What only Trialbay's nodes know: everything about themselves.
pub(crate) fn node_status() -> Request {
    Request::plain(Command::NodeStatus, Shape::Text, Target::Any)
}

impl Request {
    /// A question without arguments.
    pub(crate) fn plain(command: Command, shape: Shape, target: Target) -> Self {
        Self { bytes: Builder::new(command).bytes.into(), shape, target, is_update: false }
    }
}
