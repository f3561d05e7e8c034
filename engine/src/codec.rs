//! The bytes of messages between nodes, and those of recordings: bincode 2.0.1 behind this one module.
//!
//! Fixed-width little-endian integers, `u32` lengths and tags as `docs/protocol.md` says. Decoding a message never
//! allocates by a number that the sender chose: lengths are checked against the bytes that are there. Events and images
//! hold a node's own lists too, of which a length that lies reserves no more than `RESERVED_MAX`.

use alloc::vec::Vec;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian, NoLimit};
use bincode::de::read::Reader as _;
use bincode::de::{Decode, Decoder};
use bincode::enc::write::Writer as _;
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::action::Action;
use crate::event::{Event, Request};
use crate::ids::{Ballot, RequestId, Slot};
use crate::message::{List, Message};
use crate::time::Instant;
use crate::value::{Entry, HistoryHash, SlotEntry, Value};

const CONFIG: Configuration<LittleEndian, Fixint, NoLimit> =
    bincode::config::standard().with_fixed_int_encoding().with_little_endian().with_no_limit();

/// Far more than any engine holds in lists.
const RESERVED_MAX: usize = 256 << 20;

const OWN_CONFIG: Configuration<LittleEndian, Fixint, Limit<RESERVED_MAX>> = CONFIG.with_limit::<RESERVED_MAX>();

/// How much of a value's bytes counts where values are told apart by their lengths and beginnings.
pub(crate) const VALUE_BEGINNING: usize = 64;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedMessage {
    /// The bytes end too early, or a tag or length in them is impossible.
    Undecodable,
    /// The message is followed by further bytes.
    TrailingBytes,
}

/// Appends the bytes of `message` to `out`.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    encode(message, out);
}

/// The message that `bytes` are, all of them.
///
/// # Errors
/// When they are not exactly one message.
pub fn decode_message(bytes: &[u8]) -> Result<Message, MalformedMessage> {
    let (message, len) =
        bincode::decode_from_slice(bytes, CONFIG).map_err(|_: DecodeError| MalformedMessage::Undecodable)?;
    if len != bytes.len() {
        return Err(MalformedMessage::TrailingBytes);
    }
    Ok(message)
}

/// Bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedEvent;

/// Appends the bytes of an event, and of the time at which the engine was told of it, to `out`.
pub fn encode_event(now: Instant, event: &Event, out: &mut Vec<u8>) {
    encode(&now, out);
    encode(event, out);
}

/// The time and event that `bytes` are, all of them.
///
/// # Errors
/// When they are not exactly one event.
pub fn decode_event(bytes: &[u8]) -> Result<(Instant, Event), MalformedEvent> {
    decode(bytes).ok_or(MalformedEvent)
}

/// Tells actions apart: equal ones have equal hashes, on every machine. Of a value only its length and its first 64 bytes
/// count; what else is in it shows in the history hash of `Apply` once it is decided. `scratch` is overwritten.
pub fn hash_actions(actions: &[Action], scratch: &mut Vec<u8>) -> u64 {
    struct AppendBeginnings<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for AppendBeginnings<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
            // Nothing but the body of a value is longer, and its length comes before it.
            self.0.extend_from_slice(&bytes[..bytes.len().min(VALUE_BEGINNING)]);
            Ok(())
        }
    }
    scratch.clear();
    for action in actions {
        bincode::encode_into_writer(action, AppendBeginnings(scratch), CONFIG)
            .expect("appending to memory cannot fail");
    }
    xxh3_64(scratch)
}

/// Appends the bytes of `value` to `out`.
pub(crate) fn encode<T: Encode>(value: &T, out: &mut Vec<u8>) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Append<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    bincode::encode_into_writer(value, Append(out), CONFIG).expect("appending to memory cannot fail");
}

/// What this program's own `bytes` are, all of them; `None` when they are not exactly one such value.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let (value, len) = bincode::decode_from_slice(bytes, OWN_CONFIG).ok()?;
    (len == bytes.len()).then_some(value)
}

bincode::impl_borrow_decode!(Request);
bincode::impl_borrow_decode!(Value);
bincode::impl_borrow_decode!(HistoryHash);
bincode::impl_borrow_decode!(Entry);
bincode::impl_borrow_decode!(SlotEntry);

impl<T: Encode> Encode for List<T> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let len = u32::try_from(self.0.len()).expect("a message holds far fewer than 2^32 elements");
        len.encode(encoder)?;
        self.0.iter().try_for_each(|element| element.encode(encoder))
    }
}

impl<Context, T: Decode<Context>> Decode<Context> for List<T> {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = u32::decode(decoder)? as usize;
        // No element takes less than a byte, and `push` grows the memory only as elements are found.
        let mut elements = Vec::new();
        for _ in 0..len {
            elements.push(T::decode(decoder)?);
        }
        Ok(Self(elements))
    }
}

impl<'de, Context, T: Decode<Context>> bincode::BorrowDecode<'de, Context> for List<T> {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

impl Encode for Value {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.tag().encode(encoder)?;
        encode_bytes(&self.body(), encoder)
    }
}

impl<Context> Decode<Context> for Value {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let tag = u8::decode(decoder)?;
        Self::from_parts(tag, decode_bytes(decoder)?).ok_or(DecodeError::Other("no such value"))
    }
}

impl Encode for Request {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.id.encode(encoder)?;
        encode_bytes(&self.command, encoder)
    }
}

impl<Context> Decode<Context> for Request {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Self { id: RequestId::decode(decoder)?, command: decode_bytes(decoder)? })
    }
}

fn encode_bytes<E: Encoder>(bytes: &Bytes, encoder: &mut E) -> Result<(), EncodeError> {
    let len = u32::try_from(bytes.len()).expect("values and commands are limited far below 4 GiB");
    len.encode(encoder)?;
    encoder.writer().write(bytes)
}

fn decode_bytes<D: Decoder>(decoder: &mut D) -> Result<Bytes, DecodeError> {
    let len = u32::decode(decoder)? as usize;
    let bytes = match decoder.reader().peek_read(len) {
        Some(bytes) => Bytes::copy_from_slice(bytes),
        None => return Err(DecodeError::UnexpectedEnd { additional: len }),
    };
    decoder.reader().consume(len);
    Ok(bytes)
}

impl Encode for HistoryHash {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<Context> Decode<Context> for HistoryHash {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        u64::decode(decoder).map(Self)
    }
}

impl Encode for Entry {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.ballot.encode(encoder)?;
        self.value.encode(encoder)
    }
}

impl<Context> Decode<Context> for Entry {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Self { ballot: Ballot::decode(decoder)?, value: Value::decode(decoder)? })
    }
}

impl Encode for SlotEntry {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.slot.encode(encoder)?;
        self.entry.encode(encoder)
    }
}

impl<Context> Decode<Context> for SlotEntry {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Self { slot: Slot::decode(decoder)?, entry: Entry::decode(decoder)? })
    }
}
