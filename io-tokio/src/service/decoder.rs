//! Where one request ends in the bytes that have arrived.
//!
//! The client protocol does not frame its requests, so the end of one is found by walking its fields. The walk goes on
//! where it stopped when more bytes arrive, and it refuses a length beyond its limit as soon as the four bytes of that
//! length are there: nothing is ever allocated or awaited by a number that the sender chose.

use bytes::{Buf as _, BytesMut};

use super::reply::{Reply, code};
use super::request::Request;
use crate::update::Limits;
use crate::wire::{MAGIC, Malformed, Reader, VERSION, Writer as _};

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
    /// The code of the last request that was whole.
    code: u16,
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

/// Why a walk does not go on.
enum Stop {
    /// At least so many bytes are missing.
    Missing(usize),
    /// What is there cannot be.
    Fault(Malformed),
}

impl Decoder {
    /// A decoder at the start of a request.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, walk: None, code: 0 }
    }

    /// Takes the next request off the front of `buffer`; `None` while its end is not there yet.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, Unreadable> {
        if self.walk.is_none() {
            let Some(word) = buffer.first_chunk::<4>() else {
                return Ok(None);
            };
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
        self.code = command.code;
        body.advance(4);
        Request::parse(command.code, Reader(body), &self.limits).map(Some).map_err(bad)
    }

    /// The code of the command that was decoded last.
    pub(crate) fn code(&self) -> u16 {
        self.code
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
        match self.walk(buffer, limits) {
            Ok(()) => Ok(true),
            Err(Stop::Missing(missing)) => {
                self.missing = missing;
                Ok(false)
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    fn walk(&mut self, buffer: &[u8], limits: &Limits) -> Result<(), Stop> {
        while let Some(&field) = self.command.fields.get(self.field) {
            let rest = buffer.get(self.at..).unwrap_or_default();
            match (field, self.keys_left) {
                (Field::Keys, None) => {
                    self.keys_left = Some(length(rest, "list of keys", limits.update_bytes_max / 4)?);
                    self.at += 4;
                }
                (Field::Keys, Some(left @ 1..)) => {
                    self.at += field_size(Field::Key, rest, limits)?;
                    within("request", self.at, limits.update_bytes_max)?;
                    self.keys_left = Some(left - 1);
                }
                (field, _) => {
                    self.at += field_size(field, rest, limits)?;
                    self.field += 1;
                    self.keys_left = None;
                }
            }
        }
        Ok(())
    }
}

impl Unreadable {
    /// The last reply of the connection.
    pub(crate) fn reply(&self) -> Reply {
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

impl From<Malformed> for Stop {
    fn from(fault: Malformed) -> Self {
        Self::Fault(fault)
    }
}

/// The size of the field at the start of `rest`.
fn field_size(field: Field, rest: &[u8], limits: &Limits) -> Result<usize, Stop> {
    let (what, max) = match field {
        Field::Consistency => return consistency_size(rest),
        Field::Bool => {
            return match rest.first() {
                None => Err(Stop::Missing(1)),
                Some(0 | 1) => Ok(1),
                Some(&other) => Err(Malformed::NotABoolean(other).into()),
            };
        }
        Field::Int => return present(4, rest),
        Field::OptionKey => return option_size(Field::Key, rest, limits),
        Field::OptionValue => return option_size(Field::Value, rest, limits),
        Field::OptionExpected => return option_size(Field::Body, rest, limits),
        // The walk has passed its count and its keys one by one.
        Field::Keys => return Ok(0),
        Field::Key => ("key", limits.key_bytes_max),
        Field::Value => ("value", limits.value_bytes_max.saturating_sub(1)),
        Field::Body => ("update", limits.update_bytes_max),
    };
    present(4 + length(rest, what, max)?, rest)
}

fn option_size(inner: Field, rest: &[u8], limits: &Limits) -> Result<usize, Stop> {
    match rest.split_first() {
        None => Err(Stop::Missing(1)),
        Some((0, _)) => Ok(1),
        Some((1, rest)) => Ok(1 + field_size(inner, rest, limits)?),
        Some((&other, _)) => Err(Malformed::NotABoolean(other).into()),
    }
}

fn consistency_size(rest: &[u8]) -> Result<usize, Stop> {
    match rest.first() {
        None => Err(Stop::Missing(1)),
        Some(0 | 1) => Ok(1),
        Some(2) => present(9, rest),
        Some(&other) => Err(Malformed::UnknownTag { what: "consistency", tag: i64::from(other) }.into()),
    }
}

fn present(size: usize, rest: &[u8]) -> Result<usize, Stop> {
    if size <= rest.len() { Ok(size) } else { Err(Stop::Missing(size - rest.len())) }
}

/// A length word that is not negative and not above `max`.
fn length(rest: &[u8], what: &'static str, max: usize) -> Result<usize, Stop> {
    let Some(word) = rest.first_chunk::<4>() else {
        return Err(Stop::Missing(4 - rest.len()));
    };
    let len = i32::from_le_bytes(*word);
    let len = usize::try_from(len).map_err(|_| Malformed::NegativeLength(len))?;
    within(what, len, max)?;
    Ok(len)
}

fn within(what: &'static str, len: usize, max: usize) -> Result<(), Malformed> {
    if len <= max { Ok(()) } else { Err(Malformed::TooLong { what, len: len as u64, max: max as u64 }) }
}

/// What the start of a connection must be, to the byte. It is compared as it arrives: the cluster id that a stranger
/// sends is never kept.
pub(crate) fn prologue(cluster_id: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.i32(VERSION);
    bytes.string(cluster_id.as_bytes());
    bytes
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
        0x13 => ("STATISTICS", &[]),
        0x15 => ("USER_FUNCTION", &[Key, OptionExpected]),
        0x16 => ("ASSERT", &[Consistency, Key, OptionExpected]),
        0x1a => ("GET_KEY_COUNT", &[]),
        0x1c => ("CONFIRM", &[Key, Value]),
        0x23 => ("REV_RANGE_ENTRIES", RANGE),
        0x24 => ("SYNCED_SEQUENCE", &[Body]),
        0x27 => ("DELETE_PREFIX", &[Key]),
        0x28 => ("VERSION", &[]),
        0x29 => ("ASSERT_EXISTS", &[Consistency, Key]),
        0x30 => ("DROP_MASTER", &[]),
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
        0x40 => "LAST_ENTRIES2",
        0x44 => "COPY_DB_TO_HEAD",
        0x46 => "LAST_ENTRIES3",
        unknown => return Unreadable::UnknownCommand(unknown),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::request::{Keys, Question, Read, Refused, Scan};
    use super::*;
    use crate::consistency::Consistency;
    use crate::store::{Direction, KeyRange};
    use crate::update::{TooLarge, Update, encode_command};

    const LIMITS: Limits = Limits { key_bytes_max: 10, value_bytes_max: 20, update_bytes_max: 100 };

    fn words(code: u32, rest: &[&[u8]]) -> Vec<u8> {
        [&(MAGIC | code).to_le_bytes()[..], &rest.concat()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Option<Request>, Unreadable> {
        Decoder::new(LIMITS).decode(&mut BytesMut::from(bytes))
    }

    fn key(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    /// One of each shape.
    fn requests() -> Vec<(Vec<u8>, Request)> {
        let at_least = Consistency::AtLeast(0x0102);
        let read = |consistency, read| Request::Read { consistency, read };
        let keys = b"\x01\0\0\0a\0\0\0\0";
        let range = KeyRange { first: None, first_inclusive: true, last: Some(key(b"z")), last_inclusive: false };
        let scan = |direction| Scan { range: range.clone(), direction, with_values: true, max: None };
        vec![
            (words(0x02, &[]), Request::Question(Question::WhoMaster)),
            (words(0x01, &[b"\x02\0\0\0me\x01\0\0\0c"]), Request::Question(Question::Ping { cluster_id: key(b"c") })),
            (words(0x08, &[b"\x02\x02\x01\0\0\0\0\0\0", b"\x01\0\0\0k"]), read(at_least, Read::Get { key: key(b"k") })),
            (
                words(0x16, &[b"\x01\0\0\0\0\x01\x01\0\0\0v"]),
                read(Consistency::NoGuarantees, Read::Assert { key: key(b""), expected: Some(key(b"v")) }),
            ),
            (
                words(0x31, &[b"\0\x02\0\0\0", keys]),
                read(Consistency::Consistent, Read::MultiGetOption { keys: Keys(key(keys)) }),
            ),
            (
                words(0x0f, &[b"\0\0\x01\x01\x01\0\0\0z\0\xff\xff\xff\xff"]),
                read(Consistency::Consistent, Read::Scan(scan(Direction::Ascending))),
            ),
            (
                words(0x23, &[b"\0\x01\x01\0\0\0z\0\0\x01\xff\xff\xff\xff"]),
                read(Consistency::Consistent, Read::Scan(scan(Direction::Descending))),
            ),
            (
                words(0x09, &[b"\x01\0\0\0k\x01\0\0\0v"]),
                Request::Update { command: encode_command(&Update::Set { key: key(b"k"), value: key(b"v") }) },
            ),
            (
                words(0x10, &[b"\x0e\0\0\0\x05\0\0\0\x01\0\0\0\x06\0\0\0??"]),
                Request::Update { command: encode_command(&Update::Sequence(vec![Update::Nop])) },
            ),
        ]
    }

    #[test]
    fn requests_are_found_wherever_the_stream_is_cut() {
        let (bytes, expected): (Vec<_>, Vec<_>) = requests().into_iter().unzip();
        let stream = bytes.concat();
        for piece in 1..stream.len() {
            let (mut decoder, mut buffer) = (Decoder::new(LIMITS), BytesMut::new());
            let mut found = Vec::new();
            for part in stream.chunks(piece) {
                buffer.extend_from_slice(part);
                while let Some(request) = decoder.decode(&mut buffer).unwrap() {
                    found.push(request);
                }
            }
            assert_eq!(found, expected, "in pieces of {piece}");
            assert_eq!((buffer.len(), decoder.missing()), (0, 0));
        }
    }

    #[test]
    fn an_incomplete_request_says_how_much_is_missing_at_least_and_is_not_walked_again() {
        let whole = words(0x09, &[b"\x03\0\0\0key\x05\0\0\0value"]);
        let mut decoder = Decoder::new(LIMITS);
        for (len, missing, walked) in [(4, 4, 4), (9, 2, 4), (11, 4, 11), (15, 5, 11), (19, 1, 11)] {
            assert_eq!(decoder.decode(&mut BytesMut::from(&whole[..len])), Ok(None));
            assert_eq!(decoder.missing(), missing, "after {len}");
            assert_eq!(decoder.walk.as_ref().unwrap().at, walked, "after {len}");
        }
    }

    #[test]
    fn a_length_over_its_limit_is_refused_before_what_it_announces() {
        let over = |len: i32| len.to_le_bytes();
        for (bytes, what, len, max) in [
            (words(0x0a, &[&over(11)]), "key", 11, 10),
            (words(0x09, &[&over(1), b"k", &over(20)]), "value", 20, 19),
            (words(0x0d, &[&over(1), b"k", b"\x01", &over(101)]), "update", 101, 100),
            (words(0x33, &[&over(1), b"k", b"\x01", &over(i32::MAX)]), "value", u64::try_from(i32::MAX).unwrap(), 19),
            (words(0x10, &[&over(101)]), "update", 101, 100),
            (words(0x11, &[b"\0", &over(26)]), "list of keys", 26, 25),
            (words(0x0b, &[b"\0\x01", &over(11)]), "key", 11, 10),
        ] {
            let refused = decode(&bytes).unwrap_err();
            let Unreadable::BadArgument { fault, .. } = refused else { panic!("{refused:?}") };
            assert_eq!(fault, Malformed::TooLong { what, len, max });
            assert_eq!(decode(&bytes[..bytes.len() - 1]), Ok(None), "{what}");
        }
    }

    #[test]
    fn a_list_of_keys_may_not_outgrow_a_request() {
        let keys = [&b"\x0a\0\0\0"[..], b"0123456789"].concat().repeat(8);
        let sent = words(0x11, &[b"\0\x08\0\0\0", &keys]);
        assert!(matches!(decode(&sent), Err(Unreadable::BadArgument { fault: Malformed::TooLong { .. }, .. })));
        let sent = words(0x11, &[b"\0\x06\0\0\0", &keys[..6 * 14]]);
        assert!(decode(&sent).unwrap().is_some());
    }

    #[test]
    fn what_would_make_an_update_too_large_as_a_whole_is_refused_after_it_is_read() {
        let expected = vec![b'x'; 80];
        let sent = words(0x0d, &[b"\x01\0\0\0k\x01\x50\0\0\0", &expected, b"\x01\x0a\0\0\0", &expected[..10]]);
        let refused = Refused::TooLarge(TooLarge::Update { len: 4 + 5 + 85 + 15, max: 100 });
        assert_eq!(decode(&sent), Ok(Some(Request::Refused(refused))));
    }

    #[test]
    fn only_a_plain_sequence_may_be_the_body_of_a_sequence() {
        for (body, refused) in [
            (&b"\x0d\0\0\0\0\0\0\0"[..], Refused::NotASequence),
            (b"\x06\0\0\0", Refused::NotASequence),
            (b"\x05\0\0\0", Refused::NotAnUpdate(Malformed::Truncated.into())),
            (b"", Refused::NotAnUpdate(Malformed::Truncated.into())),
        ] {
            let len = i32::try_from(body.len()).unwrap().to_le_bytes();
            for code in [0x10, 0x24] {
                assert_eq!(decode(&words(code, &[&len, body])), Ok(Some(Request::Refused(refused.clone()))));
            }
        }
    }

    #[test]
    fn every_code_is_served_refused_by_name_or_unknown_and_none_is_two_of_these() {
        let known = |code: u32| command(MAGIC | code);
        let served = (0..=0xffff).filter(|code| known(*code).is_ok()).count();
        let by_name = (0..=0xffff).filter(|code| matches!(known(*code), Err(Unreadable::NotSupported(_)))).count();
        assert_eq!((served, by_name), (32, 17));
        assert_eq!(command(0x08).unwrap_err(), Unreadable::NoMagic);
        assert_eq!(command(0xf1ff_0008).unwrap().name, "GET");
    }
}
