//! Frames: one message each, with its length and a checksum before it.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the body, `u32` little-endian, never 0 |
//! | 4 | CRC32C over those four bytes and the body, `u32` little-endian |
//! | length | one message, as [`trialbay_engine::codec`] lays it out |

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use trialbay_engine::Message;
use trialbay_engine::codec::{MalformedMessage, decode_message, encode_message};

/// The default limit for the body of one frame: a `Promise` of all that a master may have in flight, several times over.
pub const BODY_LEN_MAX: usize = 128 << 20;

/// What precedes each body.
pub const HEADER_LEN: usize = 8;

/// The least and the most room that is made for one read. A frame's claimed length chooses between them and no further:
/// memory grows with the bytes that arrive.
const READ_STEP_MIN: usize = 64 << 10;
const READ_STEP_MAX: usize = 1 << 20;

/// A frame above this size does not leave its memory behind.
const RETAINED_LEN_MAX: usize = 4 << 20;

/// How a peer's bytes are not frames. The connection cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is over the limit.
    #[error("a frame of {len} bytes is over the limit of {max}")]
    Oversized {
        /// The claimed length of the body.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The length is zero, which no message has.
    #[error("a frame is empty")]
    Empty,
    /// The bytes were damaged on the way.
    #[error("a frame of {len} bytes does not match its checksum")]
    ChecksumMismatch {
        /// The length of the body.
        len: usize,
    },
    /// The connection ended inside a frame.
    #[error("the connection ended inside a frame")]
    Truncated,
    /// The body is not a message of this protocol version.
    #[error("the body of a frame is not a message: {0:?}")]
    Undecodable(MalformedMessage),
}

/// A message that no receiver would take, because its frame would be over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes does not fit into a frame of at most {max}")]
pub struct TooLarge {
    /// The length of the encoded message.
    pub len: usize,
    /// The limit.
    pub max: usize,
}

/// Appends the frame of `message` to `out`.
///
/// # Errors
/// When the body would be over `body_len_max`; `out` is then as before.
pub fn append_frame(message: &Message, body_len_max: usize, out: &mut Vec<u8>) -> Result<(), TooLarge> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    encode_message(message, out);
    let body_start = start + HEADER_LEN;
    let len = out.len() - body_start;
    let Some(prefix) = u32::try_from(len).ok().filter(|_| len <= body_len_max).map(u32::to_le_bytes) else {
        out.truncate(start);
        return Err(TooLarge { len, max: body_len_max });
    };
    let checksum = checksum(prefix, &out[body_start..]);
    out[start..start + 4].copy_from_slice(&prefix);
    out[start + 4..body_start].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Cuts the bytes of one connection into messages.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    body_len_max: usize,
}

impl FrameBuffer {
    /// Empty, for bodies of at most `body_len_max` bytes.
    pub fn new(body_len_max: usize) -> Self {
        Self { bytes: BytesMut::new(), body_len_max }
    }

    /// Reads what is there, at least one byte, and says how many; 0 at the end of the stream. Loses nothing when cancelled.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        let missing = self.header().map_or(0, |(len, _)| (HEADER_LEN + len).saturating_sub(self.bytes.len()));
        self.bytes.reserve(missing.clamp(READ_STEP_MIN, READ_STEP_MAX));
        stream.read_buf(&mut self.bytes).await
    }

    /// The next message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no frame. What follows them has no meaning: drop the connection.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let Some((len, expected)) = self.header() else {
            return Ok(None);
        };
        if len == 0 {
            return Err(FrameError::Empty);
        }
        if len > self.body_len_max {
            return Err(FrameError::Oversized { len, max: self.body_len_max });
        }
        let Some(body) = self.bytes.get(HEADER_LEN..HEADER_LEN + len) else {
            return Ok(None);
        };
        let prefix = u32::try_from(len).expect("it was read from four bytes").to_le_bytes();
        if checksum(prefix, body) != expected {
            return Err(FrameError::ChecksumMismatch { len });
        }
        let message = decode_message(body).map_err(FrameError::Undecodable)?;
        self.bytes.advance(HEADER_LEN + len);
        if len > RETAINED_LEN_MAX {
            self.bytes = BytesMut::from(&self.bytes[..]);
        }
        Ok(Some(message))
    }

    /// To be asked at the end of the stream.
    ///
    /// # Errors
    /// When the stream ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// The length and the checksum that the next frame claims.
    fn header(&self) -> Option<(usize, u32)> {
        let header: &[u8; HEADER_LEN] = self.bytes.first_chunk()?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        Some((u32::from_le_bytes([l0, l1, l2, l3]) as usize, u32::from_le_bytes([c0, c1, c2, c3])))
    }
}

fn checksum(len: [u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len), body)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use trialbay_engine::{Ballot, HistoryHash, NodeId, Slot, Value};

    use super::*;

    const MAX: usize = 1 << 20;

    fn messages() -> Vec<Message> {
        let ballot = Ballot { round: 7, node: NodeId(1) };
        vec![
            Message::Fetch { from: Slot(5) },
            Message::Accept {
                ballot,
                first: Slot(6),
                values: vec![Value::Commands(Bytes::from_static(b"some commands")), Value::Noop].into(),
                decided_upto: Slot(5),
                decided_hash: HistoryHash(9),
            },
            Message::Resign { ballot, successor: None, decided_upto: Slot(5), decided_hash: HistoryHash(9) },
        ]
    }

    fn framed(messages: &[Message]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            append_frame(message, MAX, &mut out).unwrap();
        }
        out
    }

    async fn read_all(bytes: &[u8], max: usize) -> (Vec<Message>, Result<(), FrameError>) {
        let (mut stream, mut buffer, mut messages) = (bytes, FrameBuffer::new(max), Vec::new());
        loop {
            if buffer.fill(&mut stream).await.unwrap() == 0 {
                return (messages, buffer.finish());
            }
            loop {
                match buffer.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Err(error)),
                }
            }
        }
    }

    #[test]
    fn a_frame_has_the_bytes_it_ever_had() {
        let hex: String =
            framed(&[Message::Fetch { from: Slot(0x15) }]).iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(hex, @"0c000000f944363c0b0000001500000000000000");
    }

    #[tokio::test]
    async fn many_frames_in_one_read_are_many_messages() {
        assert_eq!(read_all(&framed(&messages()), MAX).await, (messages(), Ok(())));
    }

    #[tokio::test]
    async fn frames_that_arrive_byte_by_byte_are_the_same_messages() {
        let (bytes, mut buffer, mut found) = (framed(&messages()), FrameBuffer::new(MAX), Vec::new());
        for byte in &bytes {
            assert_eq!(buffer.fill(&mut &[*byte][..]).await.unwrap(), 1);
            found.extend(buffer.next_message().unwrap());
        }
        assert_eq!(found, messages());
        assert_eq!(buffer.finish(), Ok(()));
    }

    #[tokio::test]
    async fn every_flipped_bit_is_noticed() {
        let bytes = framed(&messages()[1..2]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (found, end) = read_all(&damaged, MAX).await;
            assert_eq!(found, [], "bit {bit}");
            assert!(end.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_truncated() {
        let bytes = framed(&messages()[..1]);
        for len in 1..bytes.len() {
            assert_eq!(read_all(&bytes[..len], MAX).await, (vec![], Err(FrameError::Truncated)), "cut at {len}");
        }
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_before_its_body_arrives() {
        let bytes = framed(&messages());
        assert_eq!(read_all(&bytes, 11).await, (vec![], Err(FrameError::Oversized { len: 12, max: 11 })));
        assert_eq!(
            read_all(&[0xff; 8], 128 << 20).await.1,
            Err(FrameError::Oversized { len: u32::MAX as usize, max: 128 << 20 })
        );
    }

    #[tokio::test]
    async fn an_empty_frame_and_one_without_a_message_are_refused() {
        assert_eq!(read_all(&[0; 8], MAX).await.1, Err(FrameError::Empty));
        let mut bytes = 3u32.to_le_bytes().to_vec();
        bytes.extend(checksum(3u32.to_le_bytes(), b"abc").to_le_bytes());
        bytes.extend(b"abc");
        assert_eq!(read_all(&bytes, MAX).await.1, Err(FrameError::Undecodable(MalformedMessage::Undecodable)));
    }

    #[tokio::test]
    async fn memory_grows_with_the_bytes_that_came_and_not_with_the_claimed_length() {
        let mut buffer = FrameBuffer::new(128 << 20);
        let mut bytes = (100u32 << 20).to_le_bytes().to_vec();
        bytes.extend([0; 60]);
        let mut stream = &bytes[..];
        while buffer.fill(&mut stream).await.unwrap() > 0 {
            assert_eq!(buffer.next_message(), Ok(None));
        }
        assert!(buffer.bytes.capacity() <= 4 * READ_STEP_MAX, "{} bytes", buffer.bytes.capacity());
    }

    #[tokio::test]
    async fn a_large_frame_does_not_leave_its_memory_behind() {
        let large = Message::Accept {
            ballot: Ballot::ZERO,
            first: Slot(1),
            values: vec![Value::Commands(vec![7; 9 << 20].into())].into(),
            decided_upto: Slot::ZERO,
            decided_hash: HistoryHash(0),
        };
        let mut bytes = Vec::new();
        append_frame(&large, 16 << 20, &mut bytes).unwrap();
        append_frame(&messages()[0], 16 << 20, &mut bytes).unwrap();
        let (mut stream, mut buffer, mut found) = (&bytes[..], FrameBuffer::new(16 << 20), Vec::new());
        while buffer.fill(&mut stream).await.unwrap() > 0 {
            while let Some(message) = buffer.next_message().unwrap() {
                found.push(message);
            }
        }
        assert_eq!(found, [large, messages()[0].clone()]);
        assert!(buffer.bytes.capacity() <= RETAINED_LEN_MAX, "{} bytes", buffer.bytes.capacity());
    }

    #[test]
    fn a_message_over_the_limit_is_not_framed_and_leaves_no_trace() {
        let mut out = b"before".to_vec();
        assert_eq!(append_frame(&messages()[0], 11, &mut out), Err(TooLarge { len: 12, max: 11 }));
        assert_eq!(out, b"before");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..100)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (found, end) = runtime.block_on(read_all(&bytes, 50));
            prop_assert!(end.is_err() || !found.is_empty() || bytes.is_empty());
        }
    }
}
