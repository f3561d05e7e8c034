//! The bytes of messages between nodes: bincode 2.0.1 behind this one module.
//!
//! Fixed-width little-endian integers, `u32` lengths and tags as `docs/protocol.md` says. Decoding never allocates by a
//! number that the sender chose: lengths are checked against the bytes that are there.

use alloc::vec::Vec;

use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit};
use bincode::de::read::Reader as _;
use bincode::de::{Decode, Decoder};
use bincode::enc::write::Writer as _;
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use bytes::Bytes;

use crate::ids::{Ballot, Slot};
use crate::message::{List, Message};
use crate::value::{Entry, HistoryHash, SlotEntry, Value};

const CONFIG: Configuration<LittleEndian, Fixint, NoLimit> =
    bincode::config::standard().with_fixed_int_encoding().with_little_endian().with_no_limit();

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
    struct Append<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Append<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    bincode::encode_into_writer(message, Append(out), CONFIG).expect("appending to memory cannot fail");
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
        let body = self.body();
        let len = u32::try_from(body.len()).expect("a value is limited far below 4 GiB");
        len.encode(encoder)?;
        encoder.writer().write(&body)
    }
}

impl<Context> Decode<Context> for Value {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let tag = u8::decode(decoder)?;
        let len = u32::decode(decoder)? as usize;
        let body = match decoder.reader().peek_read(len) {
            Some(bytes) => Bytes::copy_from_slice(bytes),
            None => return Err(DecodeError::UnexpectedEnd { additional: len }),
        };
        decoder.reader().consume(len);
        Self::from_parts(tag, body).ok_or(DecodeError::Other("no such value"))
    }
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
