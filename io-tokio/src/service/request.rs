//! What a client can ask, and its bytes once the end of a request is known.

use bytes::Bytes;

use crate::consistency::Consistency;
use crate::store::{Direction, KeyRange};
use crate::update::{
    ClusterConfig, Interval, Limits, NotAnUpdate, NurseryUpdate, Routing, TooLarge, Update, command_from_raw,
    encode_command,
};
use crate::wire::{Malformed, Reader};

/// How the body of a sequence begins.
const SEQUENCE_TAG: [u8; 4] = 5_i32.to_le_bytes();

/// One request of a client, whole and well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Question(Question),
    Read {
        consistency: Consistency,
        read: Read,
    },
    /// The bytes of a command, ready to be proposed.
    Update {
        command: Bytes,
        /// The user functions that it calls.
        functions: Vec<Bytes>,
    },
    /// Sets a key unless it has this value already.
    Confirm {
        key: Bytes,
        value: Bytes,
    },
    /// Another node is to be master, if this one is.
    DropMaster,
    /// Refused by this node alone, without a look at the store or at mastership.
    Refused(Refused),
}

/// What any node answers about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Asks whether this is the cluster it takes it for.
    Ping {
        cluster_id: Bytes,
    },
    WhoMaster,
    Version,
    CurrentState,
    ProgressPossible,
    Status,
    Statistics,
    TxId,
    FlushStore,
    CompactStore,
    Backup,
    /// Remove old log; so many files may stay.
    Collapse {
        keep: i32,
    },
    /// The same on a slave only, without steps.
    CopyToHead {
        keep: i32,
    },
}

/// What is read from one snapshot of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Exists {
        key: Bytes,
    },
    Get {
        key: Bytes,
    },
    MultiGet {
        keys: Keys,
    },
    MultiGetOption {
        keys: Keys,
    },
    Assert {
        key: Bytes,
        expected: Option<Bytes>,
    },
    AssertExists {
        key: Bytes,
    },
    KeyCount,
    Scan(Scan),
    /// About a mebibyte of entries from one end.
    Fringe(Scan),
    Interval,
    Routing,
    NurseryConfig,
    UserHook {
        name: Bytes,
    },
}

/// A list of keys as it came, not taken apart: a list of a million keys costs no more memory than its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys(pub(super) Bytes);

/// Keys or entries of a range, in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) range: KeyRange,
    pub(crate) direction: Direction,
    pub(crate) with_values: bool,
    /// At most this many; `None`: all.
    pub(crate) max: Option<usize>,
    /// Whether the client gave a prefix, and no last key.
    pub(crate) is_prefix: bool,
}

/// Why a well-framed request is refused; the connection stays usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The body of a sequence is an update, but not a sequence.
    NotASequence,
    /// The body of a sequence is nothing that this node knows.
    NotAnUpdate(NotAnUpdate),
    /// An update breaks a limit.
    TooLarge(TooLarge),
    /// An update calls a user function that is not there.
    UnknownFunction { name: Bytes },
}

impl Request {
    /// Decodes the arguments of a command that is there as a whole.
    pub(super) fn parse(code: u16, mut from: Reader, limits: &Limits) -> Result<Self, Malformed> {
        Ok(match code {
            0x01 => {
                let _client_id = from.string()?;
                Self::Question(Question::Ping { cluster_id: from.string()? })
            }
            0x02 => Self::Question(Question::WhoMaster),
            0x09 => update(&Update::Set { key: from.string()?, value: from.string()? }, limits),
            0x0a => update(&Update::Delete { key: from.string()? }, limits),
            0x0d => {
                let key = from.string()?;
                update(
                    &Update::TestAndSet { key, expected: from.option_string()?, wanted: from.option_string()? },
                    limits,
                )
            }
            0x10 | 0x24 => sequence(&from.string()?, limits),
            0x12 => Self::Question(Question::ProgressPossible),
            0x13 => Self::Question(Question::Statistics),
            0x14 => Self::Question(Question::Collapse { keep: from.i32()? }),
            0x15 => {
                let name = from.string()?;
                update(&Update::UserFunction { name, argument: from.option_string()? }, limits)
            }
            0x17 => update(&Update::Nursery(NurseryUpdate::SetInterval(Interval::decode(&mut from)?)), limits),
            0x18 => Self::Read { consistency: Consistency::Consistent, read: Read::Routing },
            0x19 => set_routing(from.string()?, limits),
            0x1a => Self::Read { consistency: Consistency::Consistent, read: Read::KeyCount },
            0x1b => Self::Question(Question::Backup),
            0x1c => Self::Confirm { key: from.string()?, value: from.string()? },
            0x1d => Self::Read { consistency: Consistency::NoGuarantees, read: Read::Fringe(fringe(from)?) },
            0x1e => Self::Read { consistency: Consistency::Consistent, read: Read::Interval },
            0x1f => {
                let cluster_id = from.string()?;
                let config = ClusterConfig::decode(&mut from)?;
                update(&Update::Nursery(NurseryUpdate::set_config(&cluster_id, &config)), limits)
            }
            0x20 => Self::Read { consistency: Consistency::Consistent, read: Read::NurseryConfig },
            0x21 => {
                let (left, separator) = (from.string()?, from.string()?);
                let delta = NurseryUpdate::SetRoutingDelta { left, separator, right: from.string()? };
                update(&Update::Nursery(delta), limits)
            }
            0x22 => migration(Interval::decode(&mut from)?, from.string()?, limits),
            0x27 => update(&Update::DeletePrefix { prefix: from.string()? }, limits),
            0x25 | 0x26 => Self::Question(Question::CompactStore),
            0x28 => Self::Question(Question::Version),
            0x30 => Self::DropMaster,
            0x32 => Self::Question(Question::CurrentState),
            0x33 => update(&Update::Replace { key: from.string()?, wanted: from.option_string()? }, limits),
            0x41 => update(&Update::Nop, limits),
            0x42 => Self::Question(Question::FlushStore),
            0x43 => Self::Question(Question::TxId),
            0x44 => Self::Question(Question::CopyToHead { keep: from.i32()? }),
            0x50 => Self::Question(Question::Status),
            _ => Self::Read { consistency: consistency(&mut from)?, read: read(code, from)? },
        })
    }
}

impl Keys {
    /// The keys in the order in which they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Bytes> + Send + use<> {
        let mut reader = Reader(self.0.clone());
        // The decoder has walked over each of them, so the first error is the end.
        std::iter::from_fn(move || reader.string().ok())
    }
}

/// The arguments that follow the consistency of a read.
fn read(code: u16, mut from: Reader) -> Result<Read, Malformed> {
    Ok(match code {
        0x07 => Read::Exists { key: from.string()? },
        0x08 => Read::Get { key: from.string()? },
        0x0b => Read::Scan(range(from, false, Direction::Ascending)?),
        0x0c => Read::Scan(Scan {
            range: KeyRange::prefix(&from.string()?),
            direction: Direction::Ascending,
            with_values: false,
            max: max(&mut from)?,
            is_prefix: true,
        }),
        0x0f => Read::Scan(range(from, true, Direction::Ascending)?),
        0x11 => Read::MultiGet { keys: keys(from)? },
        0x16 => Read::Assert { key: from.string()?, expected: from.option_string()? },
        0x23 => Read::Scan(range(from, true, Direction::Descending)?),
        0x29 => Read::AssertExists { key: from.string()? },
        0x31 => Read::MultiGetOption { keys: keys(from)? },
        0x45 => Read::UserHook { name: from.string()? },
        other => {
            return Err(Malformed::UnknownTag { what: "read", tag: i64::from(other) });
        }
    })
}

fn consistency(from: &mut Reader) -> Result<Consistency, Malformed> {
    match from.u8()? {
        0 => Ok(Consistency::Consistent),
        1 => Ok(Consistency::NoGuarantees),
        2 => Ok(Consistency::AtLeast(from.i64()?)),
        other => Err(Malformed::UnknownTag { what: "consistency", tag: i64::from(other) }),
    }
}

/// A range as it stands in a request: the end where it starts comes first.
fn range(mut from: Reader, with_values: bool, direction: Direction) -> Result<Scan, Malformed> {
    let start = (from.option_string()?, from.bool()?);
    let end = (from.option_string()?, from.bool()?);
    let ((first, first_inclusive), (last, last_inclusive)) = match direction {
        Direction::Ascending => (start, end),
        Direction::Descending => (end, start),
    };
    let range = KeyRange { first, first_inclusive, last, last_inclusive };
    Ok(Scan { range, direction, with_values, max: max(&mut from)?, is_prefix: false })
}

/// How many elements a list may have; any negative number: all.
fn max(from: &mut Reader) -> Result<Option<usize>, Malformed> {
    Ok(usize::try_from(from.i32()?).ok())
}

fn keys(mut from: Reader) -> Result<Keys, Malformed> {
    from.length()?;
    Ok(Keys(from.0))
}

fn update(update: &Update, limits: &Limits) -> Request {
    match update.check(limits) {
        Ok(()) => Request::Update { command: encode_command(update), functions: update.functions() },
        Err(broken) => Request::Refused(Refused::TooLarge(broken)),
    }
}

/// What follows the routing in its string is ignored, as behind an update.
fn set_routing(body: Bytes, limits: &Limits) -> Request {
    match Routing::decode(&mut Reader(body)) {
        Ok(routing) => update(&Update::Nursery(NurseryUpdate::SetRouting(routing)), limits),
        Err(why) => Request::Refused(Refused::NotAnUpdate(why.into())),
    }
}

/// The interval and the updates, both or neither.
fn migration(interval: Interval, body: Bytes, limits: &Limits) -> Request {
    match Update::decode(&mut Reader(body)) {
        Ok(updates) => {
            let interval = Update::Nursery(NurseryUpdate::SetInterval(interval));
            update(&Update::Sequence(vec![interval, updates]), limits)
        }
        Err(why) => Request::Refused(Refused::NotAnUpdate(why)),
    }
}

/// The upper end has the smallest keys, up to a boundary; the lower one the largest.
fn fringe(mut from: Reader) -> Result<Scan, Malformed> {
    let boundary = from.option_string()?;
    let (range, direction) = if from.i32()? == 0 {
        (KeyRange { last: boundary, last_inclusive: false, ..KeyRange::all() }, Direction::Ascending)
    } else {
        (KeyRange { first: boundary, ..KeyRange::all() }, Direction::Descending)
    };
    Ok(Scan { range, direction, with_values: true, max: None, is_prefix: false })
}

/// What follows the update in its string is ignored, as it always was.
fn sequence(body: &Bytes, limits: &Limits) -> Request {
    let mut rest = Reader(body.clone());
    let refused = match Update::decode(&mut rest) {
        // A synced sequence decodes to the same, but on the outside the client protocol knows only the plain one.
        Ok(_) if !body.starts_with(&SEQUENCE_TAG) => Refused::NotASequence,
        Ok(update) => match update.check(limits) {
            Ok(()) => {
                let command = command_from_raw(&body[..body.len() - rest.0.len()]);
                return Request::Update { command, functions: update.functions() };
            }
            Err(broken) => Refused::TooLarge(broken),
        },
        Err(why) => Refused::NotAnUpdate(why),
    };
    Request::Refused(refused)
}
