//! Replies: where one ends in a stream of bytes, and what it says.
//!
//! A reply does not begin with its length, so its end is found by walking over it. A [`Scan`] remembers how far it has
//! come: a long list that arrives in many pieces is walked over once, and nothing is allocated by a number in it.

use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};

use super::{Entry, Version};
use crate::consistency::Consistency;
use crate::wire::{Malformed, Reader};

/// Replies up to this many bytes are copied out of the read buffer, so that a caller who keeps a small value does not
/// keep the whole buffer.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// The code of each refusal, as in section 4 of the client protocol.
pub(crate) mod code {
    pub(crate) const OK: i32 = 0x00;
    pub(crate) const NO_MAGIC: i32 = 0x01;
    pub(crate) const NOT_MASTER: i32 = 0x04;
    pub(crate) const NOT_FOUND: i32 = 0x05;
    pub(crate) const ASSERTION_FAILED: i32 = 0x07;
    pub(crate) const READ_ONLY: i32 = 0x08;
    pub(crate) const OUTSIDE_INTERVAL: i32 = 0x09;
    pub(crate) const GOING_DOWN: i32 = 0x10;
    pub(crate) const NOT_SUPPORTED: i32 = 0x20;
    pub(crate) const NO_LONGER_MASTER: i32 = 0x21;
    pub(crate) const INCONSISTENT_READ: i32 = 0x80;
    /// Trialbay's own: a queue or a budget is full. It did not happen; trying again later is right.
    pub(crate) const OVERLOADED: i32 = 0x90;
    pub(crate) const USER_FUNCTION_FAILED: i32 = 0x81;
    pub(crate) const USER_HOOK_NOT_FOUND: i32 = 0x82;
    pub(crate) const MAX_CONNECTIONS: i32 = 0xfe;
    pub(crate) const UNKNOWN_FAILURE: i32 = 0xff;
}

/// What follows the code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Unit,
    Bool,
    I32,
    I64,
    Text,
    OptionText,
    Texts,
    OptionTexts,
    Entries,
    Version,
    Txid,
    /// Four optional texts.
    Interval,
}

/// The parts that a payload is made of.
#[derive(Clone, Copy, Debug)]
enum Part {
    Bool,
    Fixed(usize),
    Text,
    OptionText,
    /// A count, and that many texts.
    Texts,
    /// A count, and that many optional texts.
    OptionTexts,
    /// A count, and twice that many texts.
    Entries,
    Consistency,
}

impl Shape {
    fn parts(self) -> &'static [Part] {
        match self {
            Self::Unit => &[],
            Self::Bool => &[Part::Bool],
            Self::I32 => &[Part::Fixed(4)],
            Self::I64 => &[Part::Fixed(8)],
            Self::Text => &[Part::Text],
            Self::OptionText => &[Part::OptionText],
            Self::Texts => &[Part::Texts],
            Self::OptionTexts => &[Part::OptionTexts],
            Self::Entries => &[Part::Entries],
            Self::Version => &[Part::Fixed(12), Part::Text],
            Self::Interval => &[Part::OptionText; 4],
            Self::Txid => &[Part::Consistency],
        }
    }
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: i32,
    /// What follows the code: the payload of [`code::OK`], otherwise the message.
    pub(crate) body: Bytes,
}

impl Reply {
    /// The message of a refusal.
    pub(crate) fn message(&self) -> Bytes {
        Reader(self.body.clone()).string().unwrap_or_default()
    }

    /// Whether a node closes the connection after this reply.
    pub(crate) fn closes(&self, shape: Shape) -> bool {
        match self.code {
            code::NO_MAGIC
            | code::NOT_MASTER
            | code::READ_ONLY
            | code::OUTSIDE_INTERVAL
            | code::GOING_DOWN
            | code::NOT_SUPPORTED
            | code::USER_FUNCTION_FAILED
            | code::USER_HOOK_NOT_FOUND
            | code::MAX_CONNECTIONS
            | code::UNKNOWN_FAILURE => true,
            // The same number says "no such command" (then the node closes) and "no such key" (then it does not).
            code::NOT_FOUND => shape == Shape::Text && self.message().ends_with(b": command not found"),
            _ => false,
        }
    }
}

impl fmt::Display for Reply {
    /// A refusal, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {:#04x})", String::from_utf8_lossy(&self.message()), self.code)
    }
}

/// How far the reply at the front of a buffer has been walked over.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Bytes of the reply that are walked over; no more than have arrived.
    at: usize,
    code: Option<i32>,
    /// Parts of the payload still to come, after `repeat`.
    parts: &'static [Part],
    /// A part that comes this many times more.
    repeat: Option<(Part, u64)>,
}

impl Scan {
    /// Takes the reply off the front of `buffer`, if all of it is there; `shape` is what follows code 0.
    ///
    /// # Errors
    /// When the bytes cannot be a reply, or when it is longer than `max` bytes.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut, shape: Shape, max: usize) -> Result<Option<Reply>, Malformed> {
        let Some((code, end)) = self.find_end(buffer, shape, max)? else {
            return Ok(None);
        };
        let body = if end <= COPIED_BYTES_MAX {
            let body = Bytes::copy_from_slice(&buffer[4..end]);
            buffer.advance(end);
            body
        } else {
            buffer.split_to(end).freeze().slice(4..)
        };
        Ok(Some(Reply { code, body }))
    }

    /// The code of the reply at the front of `buffer`, and where the reply ends, if all of it is there. The next scan
    /// begins behind it.
    ///
    /// # Errors
    /// As [`Scan::take`].
    pub(crate) fn find_end(
        &mut self,
        buffer: &[u8],
        shape: Shape,
        max: usize,
    ) -> Result<Option<(i32, usize)>, Malformed> {
        let code = self.walk(buffer, shape, max)?;
        Ok(code.map(|code| (code, std::mem::take(self).at)))
    }

    fn walk(&mut self, buffer: &[u8], shape: Shape, max: usize) -> Result<Option<i32>, Malformed> {
        let code = match self.code {
            Some(code) => code,
            None => {
                let Some(code) = i32_at(buffer, 0) else {
                    return Ok(None);
                };
                self.at = 4;
                self.parts = match code {
                    code::OK => shape.parts(),
                    code::NO_MAGIC => &[],
                    2..=0xff => &[Part::Text],
                    _ => {
                        return Err(Malformed::UnknownTag { what: "reply", tag: i64::from(code) });
                    }
                };
                *self.code.insert(code)
            }
        };
        loop {
            let part = match (self.repeat, self.parts) {
                (Some((_, 0)), _) => {
                    self.repeat = None;
                    continue;
                }
                (Some((part, _)), _) => part,
                (None, [part, rest @ ..]) => {
                    self.parts = rest;
                    self.repeat = Some((*part, 1));
                    *part
                }
                (None, []) => return Ok(Some(code)),
            };
            let Some(end) = self.end_of(part, buffer)? else {
                return Ok(None);
            };
            if end > max {
                return Err(Malformed::TooLong { what: "reply", len: end as u64, max: max as u64 });
            }
            if end > buffer.len() {
                return Ok(None);
            }
            self.step_over(part, buffer, end);
        }
    }

    /// Where the part that begins at `at` ends, its elements not counted; `None` while too little of it is there.
    fn end_of(&self, part: Part, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        let at = self.at;
        match part {
            Part::Fixed(len) => Ok(Some(at + len)),
            Part::Bool => Ok(flag_at(buffer, at)?.map(|_| at + 1)),
            Part::Text => text_end(buffer, at),
            Part::OptionText => match flag_at(buffer, at)? {
                Some(true) => text_end(buffer, at + 1),
                Some(false) => Ok(Some(at + 1)),
                None => Ok(None),
            },
            Part::Texts | Part::OptionTexts | Part::Entries => Ok(len_at(buffer, at)?.map(|_| at + 4)),
            Part::Consistency => match buffer.get(at) {
                None => Ok(None),
                Some(0 | 1) => Ok(Some(at + 1)),
                Some(2) => Ok(Some(at + 9)),
                Some(&tag) => Err(Malformed::UnknownTag { what: "consistency", tag: i64::from(tag) }),
            },
        }
    }

    fn step_over(&mut self, part: Part, buffer: &[u8], end: usize) {
        if let Some((_, left)) = &mut self.repeat {
            *left -= 1;
        }
        let count = || i32_at(buffer, self.at).map_or(0, |count| count.unsigned_abs().into());
        match part {
            Part::Texts => self.repeat = Some((Part::Text, count())),
            Part::OptionTexts => self.repeat = Some((Part::OptionText, count())),
            Part::Entries => self.repeat = Some((Part::Text, 2 * count())),
            Part::Bool | Part::Fixed(_) | Part::Text | Part::OptionText | Part::Consistency => {}
        }
        self.at = end;
    }
}

fn i32_at(buffer: &[u8], at: usize) -> Option<i32> {
    let bytes = buffer.get(at..)?.first_chunk::<4>()?;
    Some(i32::from_le_bytes(*bytes))
}

fn len_at(buffer: &[u8], at: usize) -> Result<Option<usize>, Malformed> {
    i32_at(buffer, at).map(|len| usize::try_from(len).map_err(|_| Malformed::NegativeLength(len))).transpose()
}

fn text_end(buffer: &[u8], at: usize) -> Result<Option<usize>, Malformed> {
    Ok(len_at(buffer, at)?.map(|len| at + 4 + len))
}

fn flag_at(buffer: &[u8], at: usize) -> Result<Option<bool>, Malformed> {
    match buffer.get(at) {
        None => Ok(None),
        Some(0) => Ok(Some(false)),
        Some(1) => Ok(Some(true)),
        Some(&other) => Err(Malformed::NotABoolean(other)),
    }
}

/// Reads the payload of a reply that a [`Scan`] has walked over, so that every count is backed by bytes.
pub(crate) struct Payload(pub(crate) Reader);

impl Payload {
    pub(crate) fn bool(mut self) -> Result<bool, Malformed> {
        self.0.bool()
    }

    pub(crate) fn u32(mut self) -> Result<u32, Malformed> {
        let number = self.0.i32()?;
        u32::try_from(number).map_err(|_| Malformed::NegativeLength(number))
    }

    pub(crate) fn i64(mut self) -> Result<i64, Malformed> {
        self.0.i64()
    }

    pub(crate) fn text(mut self) -> Result<Bytes, Malformed> {
        self.0.string()
    }

    pub(crate) fn lossy(self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(&self.text()?).into_owned())
    }

    pub(crate) fn option_text(mut self) -> Result<Option<Bytes>, Malformed> {
        self.0.option_string()
    }

    /// A list in the order of the wire.
    pub(crate) fn texts(mut self) -> Result<Vec<Bytes>, Malformed> {
        let count = self.0.length()?;
        (0..count).map(|_| self.0.string()).collect()
    }

    /// A list in the order of the wire.
    pub(crate) fn option_texts(mut self) -> Result<Vec<Option<Bytes>>, Malformed> {
        let count = self.0.length()?;
        (0..count).map(|_| self.0.option_string()).collect()
    }

    /// A list in the order of the wire.
    pub(crate) fn entries(mut self) -> Result<Vec<Entry>, Malformed> {
        let count = self.0.length()?;
        (0..count).map(|_| Ok((self.0.string()?, self.0.string()?))).collect()
    }

    pub(crate) fn version(mut self) -> Result<Version, Malformed> {
        let (major, minor, patch) = (self.0.i32()?, self.0.i32()?, self.0.i32()?);
        Ok(Version { major, minor, patch, info: self.lossy()? })
    }

    pub(crate) fn consistency(mut self) -> Result<Consistency, Malformed> {
        match self.0.u8()? {
            0 => Ok(Consistency::Consistent),
            1 => Ok(Consistency::NoGuarantees),
            _ => Ok(Consistency::AtLeast(self.0.i64()?)),
        }
    }
}

/// A list that must have an element for each key that was asked for.
pub(crate) fn one_for_each<T>(list: Vec<T>, keys: usize) -> Result<Vec<T>, Malformed> {
    match list.len() {
        len if len < keys => Err(Malformed::Truncated),
        len if len > keys => Err(Malformed::TooLong { what: "list of values", len: len as u64, max: keys as u64 }),
        _ => Ok(list),
    }
}

/// A list that travels in the reverse of its order.
pub(crate) fn reversed<T>(mut list: Vec<T>) -> Vec<T> {
    list.reverse();
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Writer;

    const SHAPES: [Shape; 11] = [
        Shape::Unit,
        Shape::Bool,
        Shape::I32,
        Shape::I64,
        Shape::Text,
        Shape::OptionText,
        Shape::Texts,
        Shape::OptionTexts,
        Shape::Entries,
        Shape::Version,
        Shape::Txid,
    ];

    const MAX: usize = 1 << 20;

    /// A valid reply of each shape, made of the same texts.
    fn encode(shape: Shape, texts: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        let some: Vec<&Vec<u8>> = texts.iter().flatten().collect();
        let first = some.first().map_or(&[][..], |text| text);
        match shape {
            Shape::Unit => {}
            Shape::Bool => bytes.bool(!some.is_empty()),
            Shape::I32 => bytes.i32(7),
            Shape::I64 => bytes.i64(7),
            Shape::Text => bytes.string(first),
            Shape::OptionText => bytes.option_string(some.first().map(|text| text.as_slice())),
            Shape::Texts => {
                Writer::len(&mut bytes, some.len());
                some.iter().for_each(|text| bytes.string(text));
            }
            Shape::OptionTexts => {
                Writer::len(&mut bytes, texts.len());
                texts.iter().for_each(|text| bytes.option_string(text.as_deref()));
            }
            Shape::Entries => {
                Writer::len(&mut bytes, some.len());
                some.iter().for_each(|text| {
                    bytes.string(text);
                    bytes.string(first);
                });
            }
            Shape::Version => {
                (1..=3).for_each(|number| bytes.i32(number));
                bytes.string(first);
            }
            Shape::Txid => {
                bytes.push(2);
                bytes.i64(7);
            }
            Shape::Interval => (0..4).for_each(|_| bytes.option_string(some.first().map(|text| text.as_slice()))),
        }
        bytes
    }

    fn decode(shape: Shape, body: Bytes) -> Result<(), Malformed> {
        let payload = || Payload(Reader(body.clone()));
        match shape {
            Shape::Unit => Ok(()),
            Shape::Bool => payload().bool().map(drop),
            Shape::I32 => payload().u32().map(drop),
            Shape::I64 => payload().i64().map(drop),
            Shape::Text => payload().text().map(drop),
            Shape::OptionText => payload().option_text().map(drop),
            Shape::Texts => payload().texts().map(drop),
            Shape::OptionTexts => payload().option_texts().map(drop),
            Shape::Entries => payload().entries().map(drop),
            Shape::Version => payload().version().map(drop),
            Shape::Txid => payload().consistency().map(drop),
            Shape::Interval => crate::update::Interval::decode(&mut payload().0).map(drop),
        }
    }

    fn texts() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)), 0..20)
    }

    proptest! {
        #[test]
        fn replies_in_any_pieces_are_taken_whole_and_in_order(
            replies in proptest::collection::vec((proptest::sample::select(&SHAPES[..]), texts()), 1..6),
            piece in 1_usize..200,
        ) {
            let encoded: Vec<Vec<u8>> = replies.iter().map(|(shape, texts)| encode(*shape, texts)).collect();
            let mut expected = replies.iter().map(|(shape, _)| *shape).zip(&encoded);
            let mut next = expected.next();
            let mut buffer = BytesMut::new();
            let mut scan = Scan::default();
            for piece in encoded.concat().chunks(piece) {
                buffer.extend_from_slice(piece);
                while let Some((shape, bytes)) = next
                    && let Some(reply) = scan.take(&mut buffer, shape, MAX).unwrap()
                {
                    prop_assert_eq!(&reply.body[..], &bytes[4..]);
                    prop_assert_eq!(decode(shape, reply.body), Ok(()));
                    next = expected.next();
                }
            }
            prop_assert!(next.is_none());
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_survived(
            shape in proptest::sample::select(&SHAPES[..]),
            is_ok in any::<bool>(),
            rest in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..200),
        ) {
            let mut bytes = if is_ok { vec![0; 4] } else { Vec::new() };
            bytes.extend(rest);
            let mut buffer = BytesMut::from(&bytes[..]);
            if let Ok(Some(reply)) = Scan::default().take(&mut buffer, shape, MAX) {
                prop_assert!(reply.body.len() + 4 + buffer.len() == bytes.len());
                let _ = (reply.to_string(), reply.closes(shape), decode(shape, reply.body));
            }
        }
    }

    #[test]
    fn a_reply_that_claims_to_be_huge_is_refused_at_once_and_nothing_is_allocated_for_it() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f][..]);
        let capacity = buffer.capacity();
        let refused = Scan::default().take(&mut buffer, Shape::Text, MAX);
        assert!(matches!(refused, Err(Malformed::TooLong { .. })), "{refused:?}");
        for shape in [Shape::Texts, Shape::OptionTexts, Shape::Entries] {
            assert_eq!(Scan::default().take(&mut buffer, shape, MAX), Ok(None));
        }
        assert_eq!(buffer.capacity(), capacity);
    }

    #[test]
    fn a_refusal_has_a_message_whatever_was_asked() {
        for shape in SHAPES {
            for code in 2..=0xff_i32 {
                let mut bytes = code.to_le_bytes().to_vec();
                bytes.string(b"why");
                let mut buffer = BytesMut::from(&bytes[..]);
                let reply = Scan::default().take(&mut buffer, shape, MAX).unwrap().unwrap();
                assert_eq!((reply.code, &reply.message()[..]), (code, &b"why"[..]));
            }
        }
    }
}
