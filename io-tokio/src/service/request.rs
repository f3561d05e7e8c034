//! Requests: where one ends in the bytes that have arrived, and what it asks.
//!
//! The client protocol does not frame its requests, so the end of one is found by walking its fields. The walk goes on
//! where it stopped when more bytes arrive, and it refuses a length beyond its limit as soon as the four bytes of that
//! length are there: nothing is ever allocated or awaited by a number that the sender chose.

use bytes::{Buf as _, Bytes, BytesMut};

use super::reply::Reply;
use crate::consistency::Consistency;
use crate::store::{Direction, KeyRange};
use crate::update::{Limits, NotAnUpdate, TooLarge, Update, command_from_raw, encode_command};
use crate::wire::{MAGIC, Malformed, Reader, VERSION, Writer as _};

/// How the body of a sequence begins.
const SEQUENCE_TAG: [u8; 4] = 5_i32.to_le_bytes();

/// One request of a client, whole and well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Asks whether this is the cluster it takes it for.
    Ping { cluster_id: Bytes },
    WhoMaster,
    Version,
    CurrentState,
    ProgressPossible,
    NodeStatus,
    TxId,
    FlushStore,
    Read { consistency: Consistency, read: Read },
    /// The bytes of a command, ready to be proposed.
    Update { command: Bytes },
    /// Sets a key unless it has this value already.
    Confirm { key: Bytes, value: Bytes },
    /// A request that this node refuses by itself, without a look at the store or at mastership.
    Refused(Refused),
}

/// What is read from one snapshot of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Exists { key: Bytes },
    Get { key: Bytes },
    MultiGet { keys: Keys },
    MultiGetOption { keys: Keys },
    Assert { key: Bytes, expected: Option<Bytes> },
    AssertExists { key: Bytes },
    KeyCount,
    Scan(Scan),
    /// There are no hooks; but that is said only where the read would have been allowed.
    UserHook { name: Bytes },
}

/// A list of keys as it came, not taken apart: a list of a million keys costs no more memory than its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys(Bytes);

/// Keys or entries of a range, in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) range: KeyRange,
    pub(crate) direction: Direction,
    pub(crate) with_values: bool,
    /// At most this many; `None`: all.
    pub(crate) max: Option<usize>,
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
}

/// Why the bytes cannot be read on: the end of this request, and so the start of the next, is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The command word lacks the magic bits.
    NoMagic,
    /// No command has this code.
    UnknownCommand(u16),
    /// A command of the original protocol that this node does not offer.
    NotSupported(&'static str),
    /// An argument that cannot be, or is too long.
    BadArgument { command: &'static str, fault: Malformed },
}

/// A field of a request, as far as finding its end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Consistency,
    Bool,
    Int,
    Key,
    Value,
    OptionKey,
    OptionValue,
    /// A value to compare with. Those in the store may be older than the limit on values, so this one does not bind here.
    OptionExpected,
    Keys,
    Body,
}

/// A command whose arguments are known.
#[derive(Clone, Copy, Debug)]
struct Command {
    code: u16,
    name: &'static str,
    fields: &'static [Field],
}

/// Finds and decodes the requests in a growing buffer.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    walk: Option<Walk>,
}

/// How far the fields of an incomplete request have been walked.
#[derive(Debug)]
struct Walk {
    command: Command,
    /// The next field.
    field: usize,
    /// While in a list of keys: how many of them are still to come.
    keys_left: Option<usize>,
    /// Where the next field begins, counted from the command word.
    at: usize,
    /// At least so many bytes are missing.
    missing: usize,
}

impl Decoder {
    /// A decoder at the start of a request.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, walk: None }
    }

    /// Takes the next request off the front of `buffer`; `None` while its end is not there yet.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, Unreadable> {
        if self.walk.is_none() {
            let Some(word) = buffer.first_chunk::<4>() else { return Ok(None) };
            self.walk = Some(Walk::new(command(u32::from_le_bytes(*word))?));
        }
        let Some(walk) = &mut self.walk else { return Ok(None) };
        let command = walk.command;
        let bad = |fault| Unreadable::BadArgument { command: command.name, fault };
        if !walk.advance(buffer, &self.limits).map_err(bad)? {
            return Ok(None);
        }
        let mut body = buffer.split_to(walk.at).freeze();
        self.walk = None;
        body.advance(4);
        parse(command.code, Reader(body), &self.limits).map(Some).map_err(bad)
    }

    /// How many bytes the request that has begun lacks at least; 0 between requests.
    pub(crate) fn missing(&self) -> usize {
        self.walk.as_ref().map_or(0, |walk| walk.missing)
    }
}

impl Walk {
    fn new(command: Command) -> Self {
        Self { command, field: 0, keys_left: None, at: 4, missing: 0 }
    }

    /// Walks on as far as the bytes go; `true` when the request is whole.
    fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<bool, Malformed> {
        while let Some(&field) = self.command.fields.get(self.field) {
            let rest = buffer.get(self.at..).unwrap_or_default();
            let size = match (field, &mut self.keys_left) {
                (Field::Keys, None) => match length(rest, "list of keys", limits.update_bytes_max / 4)? {
                    Ok(count) => {
                        self.keys_left = Some(count);
                        self.at += 4;
                        continue;
                    }
                    Err(missing) => Err(missing),
                },
                (Field::Keys, Some(0)) => Ok(0),
                (Field::Keys, Some(left)) => {
                    let size = field_size(Field::Key, rest, limits)?;
                    if let Ok(size) = size {
                        *left -= 1;
                        self.at += size;
                        within("request", self.at, limits.update_bytes_max)?;
                        continue;
                    }
                    size
                }
                (field, _) => field_size(field, rest, limits)?,
            };
            match size {
                Ok(size) => {
                    self.at += size;
                    self.field += 1;
                    self.keys_left = None;
                }
                Err(missing) => {
                    self.missing = missing;
                    return Ok(false);
                }
            }
        }
        Ok(true)
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

impl Unreadable {
    /// The last reply of the connection.
    pub(crate) fn reply(&self) -> Reply {
        use super::reply::code;
        match self {
            Self::NoMagic => Reply::no_magic(),
            Self::UnknownCommand(unknown) => Reply::error(code::NOT_FOUND, format!("{unknown:x}: command not found")),
            Self::NotSupported(name) => {
                Reply::error(code::NOT_SUPPORTED, format!("{name} is not supported by this version"))
            }
            Self::BadArgument { command, fault } => Reply::error(code::BAD_INPUT, format!("{command}: {fault}")),
        }
        .and_close()
    }
}

/// What the start of a connection must be, to the byte. It is compared as it arrives: the cluster id that a stranger
/// sends is never kept.
pub(crate) fn prologue(cluster_id: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.i32(VERSION);
    bytes.string(cluster_id.as_bytes());
    bytes
}

/// The size of a field at the start of `rest`, or `Err` of how many bytes are missing before it can be told or passed.
fn field_size(field: Field, rest: &[u8], limits: &Limits) -> Result<Result<usize, usize>, Malformed> {
    let (what, max) = match field {
        Field::Consistency => return consistency_size(rest),
        Field::Bool => {
            let Some(&byte) = rest.first() else { return Ok(Err(1)) };
            return if byte > 1 { Err(Malformed::NotABoolean(byte)) } else { Ok(Ok(1)) };
        }
        Field::Int => return Ok(if rest.len() < 4 { Err(4 - rest.len()) } else { Ok(4) }),
        Field::OptionKey | Field::OptionValue | Field::OptionExpected => {
            let inner = match field {
                Field::OptionKey => Field::Key,
                Field::OptionValue => Field::Value,
                _ => Field::Body,
            };
            return match rest.split_first() {
                None => Ok(Err(1)),
                Some((0, _)) => Ok(Ok(1)),
                Some((1, rest)) => Ok(field_size(inner, rest, limits)?.map(|size| size + 1)),
                Some((&other, _)) => Err(Malformed::NotABoolean(other)),
            };
        }
        Field::Key | Field::Keys => ("key", limits.key_bytes_max),
        Field::Value => ("value", limits.value_bytes_max.saturating_sub(1)),
        Field::Body => ("update", limits.update_bytes_max),
    };
    let len = match length(rest, what, max)? {
        Ok(len) => len,
        Err(missing) => return Ok(Err(missing)),
    };
    let size = len + 4;
    Ok(if rest.len() < size { Err(size - rest.len()) } else { Ok(size) })
}

fn consistency_size(rest: &[u8]) -> Result<Result<usize, usize>, Malformed> {
    Ok(match rest.first() {
        None => Err(1),
        Some(0 | 1) => Ok(1),
        Some(2) if rest.len() >= 9 => Ok(9),
        Some(2) => Err(9 - rest.len()),
        Some(&other) => return Err(Malformed::UnknownTag { what: "consistency", tag: i64::from(other) }),
    })
}

/// A length word that is not negative and not above `max`, or `Err` of how many of its bytes are missing.
fn length(rest: &[u8], what: &'static str, max: usize) -> Result<Result<usize, usize>, Malformed> {
    let Some(word) = rest.first_chunk::<4>() else { return Ok(Err(4 - rest.len())) };
    let len = i32::from_le_bytes(*word);
    let len = usize::try_from(len).map_err(|_| Malformed::NegativeLength(len))?;
    within(what, len, max)?;
    Ok(Ok(len))
}

fn within(what: &'static str, len: usize, max: usize) -> Result<(), Malformed> {
    if len <= max { Ok(()) } else { Err(Malformed::TooLong { what, len: len as u64, max: max as u64 }) }
}

/// The command that a word names, and its arguments.
fn command(word: u32) -> Result<Command, Unreadable> {
    use Field::{Body, Bool, Consistency, Int, Key, Keys, OptionExpected, OptionKey, OptionValue, Value};
    const RANGE: &[Field] = &[Consistency, OptionKey, Bool, OptionKey, Bool, Int];

    if word & MAGIC != MAGIC {
        return Err(Unreadable::NoMagic);
    }
    // Further bits above the magic mean nothing.
    let code = u16::try_from(word & 0xffff).expect("sixteen bits are left");
    let (name, fields): (&'static str, &'static [Field]) = match code {
        0x01 => ("PING", &[Key, Key]),
        0x02 => ("WHO_MASTER", &[]),
        0x07 => ("EXISTS", &[Consistency, Key]),
        0x08 => ("GET", &[Consistency, Key]),
        0x09 => ("SET", &[Key, Value]),
        0x0a => ("DELETE", &[Key]),
        0x0b => ("RANGE", RANGE),
        0x0c => ("PREFIX_KEYS", &[Consistency, Key, Int]),
        0x0d => ("TEST_AND_SET", &[Key, OptionExpected, OptionValue]),
        0x0f => ("RANGE_ENTRIES", RANGE),
        0x10 => ("SEQUENCE", &[Body]),
        0x11 => ("MULTI_GET", &[Consistency, Keys]),
        0x12 => ("EXPECT_PROGRESS_POSSIBLE", &[]),
        0x15 => ("USER_FUNCTION", &[Key, OptionExpected]),
        0x16 => ("ASSERT", &[Consistency, Key, OptionExpected]),
        0x1a => ("GET_KEY_COUNT", &[]),
        0x1c => ("CONFIRM", &[Key, Value]),
        0x23 => ("REV_RANGE_ENTRIES", RANGE),
        0x24 => ("SYNCED_SEQUENCE", &[Body]),
        0x27 => ("DELETE_PREFIX", &[Key]),
        0x28 => ("VERSION", &[]),
        0x29 => ("ASSERT_EXISTS", &[Consistency, Key]),
        0x31 => ("MULTI_GET_OPTION", &[Consistency, Keys]),
        0x32 => ("CURRENT_STATE", &[]),
        0x33 => ("REPLACE", &[Key, OptionValue]),
        0x41 => ("NOP", &[]),
        0x42 => ("FLUSH_STORE", &[]),
        0x43 => ("GET_TXID", &[]),
        0x45 => ("USER_HOOK", &[Consistency, Key]),
        0x50 => ("NODE_STATUS", &[]),
        unknown => return Err(not_offered(unknown)),
    };
    Ok(Command { code, name, fields })
}

/// The refusal of a command that the original knows but this node does not, or that nobody knows.
fn not_offered(code: u16) -> Unreadable {
    Unreadable::NotSupported(match code {
        0x0e => "LAST_ENTRIES",
        0x13 => "STATISTICS",
        0x14 => "COLLAPSE_TLOGS",
        0x17 => "SET_INTERVAL",
        0x18 => "GET_ROUTING",
        0x19 => "SET_ROUTING",
        0x1b => "GET_DB",
        0x1d => "GET_FRINGE",
        0x1e => "GET_INTERVAL",
        0x1f => "SET_NURSERY_CFG",
        0x20 => "GET_NURSERY_CFG",
        0x21 => "SET_ROUTING_DELTA",
        0x22 => "MIGRATE_RANGE",
        0x25 => "OPT_DB",
        0x26 => "DEFRAG_DB",
        0x30 => "DROP_MASTER",
        0x40 => "LAST_ENTRIES2",
        0x44 => "COPY_DB_TO_HEAD",
        0x46 => "LAST_ENTRIES3",
        unknown => return Unreadable::UnknownCommand(unknown),
    })
}

/// Decodes the arguments of a command that [`Walk`] has found whole.
fn parse(code: u16, mut from: Reader, limits: &Limits) -> Result<Request, Malformed> {
    Ok(match code {
        0x01 => {
            let _client_id = from.string()?;
            Request::Ping { cluster_id: from.string()? }
        }
        0x02 => Request::WhoMaster,
        0x09 => update(&Update::Set { key: from.string()?, value: from.string()? }, limits),
        0x0a => update(&Update::Delete { key: from.string()? }, limits),
        0x0d => {
            let key = from.string()?;
            update(&Update::TestAndSet { key, expected: from.option_string()?, wanted: from.option_string()? }, limits)
        }
        0x10 | 0x24 => sequence(&from.string()?, limits),
        0x12 => Request::ProgressPossible,
        0x15 => Request::Refused(Refused::NotAnUpdate(NotAnUpdate::UserFunction { name: from.string()? })),
        0x1a => Request::Read { consistency: Consistency::Consistent, read: Read::KeyCount },
        0x1c => Request::Confirm { key: from.string()?, value: from.string()? },
        0x27 => update(&Update::DeletePrefix { prefix: from.string()? }, limits),
        0x28 => Request::Version,
        0x32 => Request::CurrentState,
        0x33 => update(&Update::Replace { key: from.string()?, wanted: from.option_string()? }, limits),
        0x41 => update(&Update::Nop, limits),
        0x42 => Request::FlushStore,
        0x43 => Request::TxId,
        0x50 => Request::NodeStatus,
        _ => Request::Read { consistency: consistency(&mut from)?, read: read(code, from)? },
    })
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
        }),
        0x0f => Read::Scan(range(from, true, Direction::Ascending)?),
        0x11 => Read::MultiGet { keys: keys(from)? },
        0x16 => Read::Assert { key: from.string()?, expected: from.option_string()? },
        0x23 => Read::Scan(range(from, true, Direction::Descending)?),
        0x29 => Read::AssertExists { key: from.string()? },
        0x31 => Read::MultiGetOption { keys: keys(from)? },
        0x45 => Read::UserHook { name: from.string()? },
        other => return Err(Malformed::UnknownTag { what: "read", tag: i64::from(other) }),
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
    Ok(Scan { range, direction, with_values, max: max(&mut from)? })
}

/// How many elements a list may have; any negative number: all.
fn max(from: &mut Reader) -> Result<Option<usize>, Malformed> {
    Ok(usize::try_from(from.i32()?).ok())
}

fn keys(mut from: Reader) -> Result<Keys, Malformed> {
    from.len()?;
    Ok(Keys(from.0))
}

fn update(update: &Update, limits: &Limits) -> Request {
    match update.check(limits) {
        Ok(()) => Request::Update { command: encode_command(update) },
        Err(broken) => Request::Refused(Refused::TooLarge(broken)),
    }
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
                return Request::Update { command };
            }
            Err(broken) => Refused::TooLarge(broken),
        },
        Err(why) => Refused::NotAnUpdate(why),
    };
    Request::Refused(refused)
}
