//! What two nodes say to each other on a connection for a head, after the handshake.
//!
//! Frames as for messages (`peer/frame.rs`): length of the body (`u32`, never 0), CRC32C over length and body (`u32`), body.
//! A body is one letter: its kind (1 byte), then
//!
//! | kind | letter | from | body |
//! |---|---|---|---|
//! | 1 | ask | taker | nothing; or, to go on with a head: slot, history hash, entries of all of it, entries so far, digest so far, last key (to the end) |
//! | 2 | head | giver | 1 if it goes on as asked, 0 if it begins (1 byte), slot, history hash, entries; what is kept beside the keys (to the end; nothing if nothing is) |
//! | 3 | chunk | giver | number of its first entry (from 0), entries as in `store/chunk.rs` |
//! | 4 | end | giver | entries, digest |
//! | 5 | refused | giver | why, as text |
//! | 6 | taken | taker | nothing: the head is whole and durable |
//!
//! Integers are little-endian, and `u64` where nothing else is said. The digest is XXH3 over the entries of each chunk, seeded
//! with the digest of those before.

use std::io;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use trialbay_engine::{HistoryHash, Slot};

use super::patience::{Exhausted, Patience};
use crate::store::{CHUNK_BYTES_MAX, Head};

/// No letter is longer.
const LETTER_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64;

/// Memory grows with what has arrived, by so much at a time, and not with what is announced.
const READ_STEP: usize = 1 << 20;

const ASK: u8 = 1;
const HEAD: u8 = 2;
const CHUNK: u8 = 3;
const END: u8 = 4;
const REFUSED: u8 = 5;
const TAKEN: u8 = 6;

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Letter {
    Ask(Option<Resume>),
    Head { head: Head, resumed: bool, admin: Bytes },
    Chunk { first: u64, bytes: Bytes },
    End { entries: u64, digest: u64 },
    Refused(String),
    Taken,
}

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    pub(super) head: Head,
    pub(super) entries: u64,
    pub(super) digest: u64,
    pub(super) last_key: Bytes,
}

/// Why nothing was heard, or nothing sensible.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Slow(#[from] Exhausted),
    #[error("{0}")]
    Malformed(&'static str),
}

/// Says something.
pub(super) async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    letter: &Letter,
    patience: &mut Patience,
) -> Result<(), Unheard> {
    let (head, tail) = letter.encode();
    let len = head.len() + tail.len();
    let len_bytes = u32::try_from(len).expect("letters are short").to_le_bytes();
    let checksum =
        [&head[..], &tail].iter().fold(crc32c::crc32c(&len_bytes), |crc, part| crc32c::crc32c_append(crc, part));
    let frame = [&len_bytes[..], &checksum.to_le_bytes(), &head].concat();
    let written = async {
        stream.write_all(&frame).await?;
        stream.write_all(&tail).await?;
        stream.flush().await
    };
    patience.wait_for(written).await??;
    patience.earn(len);
    Ok(())
}

/// Hears the next letter.
pub(super) async fn hear(stream: &mut (impl AsyncRead + Unpin), patience: &mut Patience) -> Result<Letter, Unheard> {
    let body = patience.wait_for(read_frame(stream)).await??;
    patience.earn(body.len());
    Letter::decode(body).ok_or(Unheard::Malformed("a letter about a head makes no sense"))
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, Unheard> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).await?;
    let [l0, l1, l2, l3, checksum @ ..] = prefix;
    let len_bytes = [l0, l1, l2, l3];
    let len = u32::from_le_bytes(len_bytes) as usize;
    if len == 0 || len > LETTER_BYTES_MAX {
        return Err(Unheard::Malformed("a letter about a head has an impossible length"));
    }
    let mut body = Vec::with_capacity(len.min(READ_STEP));
    stream.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(Unheard::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    if crc32c::crc32c_append(crc32c::crc32c(&len_bytes), &body) != u32::from_le_bytes(checksum) {
        return Err(Unheard::Malformed("a letter about a head does not match its checksum"));
    }
    Ok(body.into())
}

impl Letter {
    /// In two parts, so that the second, which is long, need not be copied.
    fn encode(&self) -> (Vec<u8>, Bytes) {
        let numbers = |kind: u8, numbers: &[u64]| {
            let mut bytes = vec![kind];
            numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            bytes
        };
        match self {
            Self::Ask(None) => (vec![ASK], Bytes::new()),
            Self::Ask(Some(Resume { head, entries, digest, last_key })) => {
                (numbers(ASK, &[head.slot.0, head.hash.0, head.entries, *entries, *digest]), last_key.clone())
            }
            Self::Head { head, resumed, admin } => {
                let mut bytes = vec![HEAD, u8::from(*resumed)];
                bytes.extend_from_slice(&numbers(0, &[head.slot.0, head.hash.0, head.entries])[1..]);
                (bytes, admin.clone())
            }
            Self::Chunk { first, bytes } => (numbers(CHUNK, &[*first]), bytes.clone()),
            Self::End { entries, digest } => (numbers(END, &[*entries, *digest]), Bytes::new()),
            Self::Refused(why) => (vec![REFUSED], Bytes::copy_from_slice(why.as_bytes())),
            Self::Taken => (vec![TAKEN], Bytes::new()),
        }
    }

    fn decode(mut body: Bytes) -> Option<Self> {
        let kind = body.try_get_u8().ok()?;
        let letter = match kind {
            ASK if body.is_empty() => Self::Ask(None),
            ASK => {
                let head = decode_head(&mut body)?;
                let (entries, digest) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
                Self::Ask(Some(Resume { head, entries, digest, last_key: body.split_off(0) }))
            }
            HEAD => {
                let resumed = match body.try_get_u8().ok()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                Self::Head { head: decode_head(&mut body)?, resumed, admin: body.split_off(0) }
            }
            CHUNK => Self::Chunk { first: body.try_get_u64_le().ok()?, bytes: body.split_off(0) },
            END => Self::End { entries: body.try_get_u64_le().ok()?, digest: body.try_get_u64_le().ok()? },
            // Somebody else's words end up in a log: no line breaks, no terminal codes.
            REFUSED => Self::Refused(String::from_utf8_lossy(&body.split_off(0)).escape_debug().take(1_000).collect()),
            TAKEN => Self::Taken,
            _ => return None,
        };
        body.is_empty().then_some(letter)
    }
}

fn decode_head(body: &mut Bytes) -> Option<Head> {
    let slot = Slot(body.try_get_u64_le().ok()?);
    let hash = HistoryHash(body.try_get_u64_le().ok()?);
    Some(Head { slot, hash, entries: body.try_get_u64_le().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters() -> Vec<Letter> {
        let head = Head { slot: Slot(7), hash: HistoryHash(8), entries: 9 };
        vec![
            Letter::Ask(None),
            Letter::Ask(Some(Resume { head, entries: 3, digest: 4, last_key: Bytes::from_static(b"key") })),
            Letter::Head { head, resumed: true, admin: Bytes::new() },
            Letter::Head { head, resumed: false, admin: Bytes::from_static(b"admin") },
            Letter::Chunk { first: 3, bytes: Bytes::from_static(b"entries") },
            Letter::End { entries: 9, digest: 5 },
            Letter::Refused("busy".to_owned()),
            Letter::Taken,
        ]
    }

    async fn framed(letter: &Letter) -> Vec<u8> {
        let mut bytes = Vec::new();
        say(&mut bytes, letter, &mut Patience::new()).await.unwrap();
        bytes
    }

    async fn heard(mut bytes: &[u8]) -> Result<Letter, Unheard> {
        hear(&mut bytes, &mut Patience::new()).await
    }

    #[tokio::test]
    async fn the_letters_have_the_bytes_they_ever_had_and_are_read_back() {
        let mut text = Vec::new();
        for letter in letters() {
            let bytes = framed(&letter).await;
            assert_eq!(heard(&bytes).await.unwrap(), letter);
            text.push(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        insta::assert_snapshot!(text.join("\n"), @r"
        010000009a9a088f01
        2c000000439a27b401070000000000000008000000000000000900000000000000030000000000000004000000000000006b6579
        1a0000002613a8ee0201070000000000000008000000000000000900000000000000
        1f000000e50118de020007000000000000000800000000000000090000000000000061646d696e
        10000000760b7618030300000000000000656e7472696573
        11000000b219407a0409000000000000000500000000000000
        05000000d5062c650562757379
        0100000071fec25b06
        ");
    }

    #[tokio::test]
    async fn a_letter_cut_or_damaged_anywhere_is_refused() {
        for letter in letters() {
            let bytes = framed(&letter).await;
            for len in 0..bytes.len() {
                assert!(matches!(heard(&bytes[..len]).await, Err(Unheard::Broken(_))), "cut at {len}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(heard(&damaged).await.is_err(), "bit {bit}");
            }
        }
    }

    #[tokio::test]
    async fn a_length_that_no_letter_has_is_refused_before_anything_is_read() {
        for len in [0, u32::try_from(LETTER_BYTES_MAX).unwrap() + 1, u32::MAX] {
            let bytes = [&len.to_le_bytes()[..], &[0; 4]].concat();
            assert!(matches!(heard(&bytes).await, Err(Unheard::Malformed(_))), "{len}");
        }
    }

    #[test]
    fn a_refusal_cannot_break_a_log_line() {
        let letter = Letter::decode(Bytes::from_static(b"\x05bad\n\x1b[31mred\xff"));
        assert_eq!(letter, Some(Letter::Refused("bad\\n\\u{1b}[31mred\u{fffd}".to_owned())));
    }

    proptest! {
        #[test]
        fn any_body_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(letter) = Letter::decode(Bytes::from(bytes.clone()))
                && !matches!(letter, Letter::Refused(_))
            {
                let (head, tail) = letter.encode();
                prop_assert_eq!([&head[..], &tail].concat(), bytes);
            }
        }
    }
}
