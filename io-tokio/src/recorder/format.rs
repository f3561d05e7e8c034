//! The bytes of a recording: see "Recordings" in `docs/storage.md`.

use std::io;
use std::path::{Path, PathBuf};

use trialbay_engine::codec::encode_event;
use trialbay_engine::{Event, Instant, NodeId};

const MAGIC: [u8; 8] = *b"TBALrcdr";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 48;
/// Length and checksum.
const FRAME_HEADER_LEN: usize = 8;

const IMAGE: u8 = 1;
const STEP: u8 = 2;
const UNENDED: u8 = 3;

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose engine it was.
    pub node: NodeId,
    /// Tells runs of the node apart: when the run began, in nanoseconds since 1970.
    pub run: u64,
    /// How many events of the run came before this file, recorded or not.
    pub events_before: u64,
    /// When the file began, in nanoseconds since 1970.
    pub wall: u64,
    /// The same moment on the engine's clock.
    pub now: Instant,
}

/// One frame of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The engine before the events that follow.
    Image(&'a [u8]),
    /// A time and an event, and the hash of the actions that the engine gave.
    Step {
        /// For [`decode_event`](trialbay_engine::codec::decode_event).
        event: &'a [u8],
        /// From [`hash_actions`](trialbay_engine::codec::hash_actions).
        actions: u64,
    },
    /// A time and an event on which the engine panicked.
    Unended {
        /// For [`decode_event`](trialbay_engine::codec::decode_event).
        event: &'a [u8],
    },
}

/// Why a file is no recording that this program can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARecording {
    /// It does not begin as one.
    #[error("its header is missing or damaged")]
    Damaged,
    /// Another version of the program wrote it.
    #[error("it has format {0}, and this program knows {VERSION}")]
    Version(u16),
}

/// The bytes from here on are no frames: the rest of one that was cut off, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFrame {
    /// Where in the file.
    pub offset: usize,
}

/// Iterates over the frames of a file, up to its end or to where it is cut or damaged.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
}

/// The files of a recording in the order in which they were written, with their numbers.
///
/// # Errors
/// When the directory cannot be read.
pub fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".rec")?.parse().ok());
        files.extend(number.map(|number| (number, path)));
    }
    files.sort_unstable();
    Ok(files)
}

/// The name of the file of that number.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:06}.rec")
}

/// The header of a file and its frames.
///
/// # Errors
/// When it does not begin as a recording.
pub fn read(bytes: &[u8]) -> Result<(Header, Frames<'_>), NotARecording> {
    let header = bytes.first_chunk::<HEADER_LEN>().ok_or(NotARecording::Damaged)?;
    let (fields, checksum) = header.split_at(HEADER_LEN - 4);
    if fields[..8] != MAGIC || checksum != crc32c::crc32c(fields).to_le_bytes() {
        return Err(NotARecording::Damaged);
    }
    let short = |at: usize| u16::from_le_bytes([fields[at], fields[at + 1]]);
    let long = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
    if short(8) != VERSION {
        return Err(NotARecording::Version(short(8)));
    }
    let header = Header {
        node: NodeId(short(10)),
        run: long(12),
        events_before: long(20),
        wall: long(28),
        now: Instant(long(36)),
    };
    Ok((header, Frames { bytes, offset: HEADER_LEN }))
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, NotAFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.offset..];
        if rest.is_empty() {
            return None;
        }
        match frame(rest) {
            Some((frame, len)) => {
                self.offset += len;
                Some(Ok(frame))
            }
            None => {
                let offset = std::mem::replace(&mut self.offset, self.bytes.len());
                Some(Err(NotAFrame { offset }))
            }
        }
    }
}

/// The frame at the beginning of `bytes`, and its length.
fn frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*len) as usize)?;
    if checksum_of(*len, body).to_le_bytes() != *checksum {
        return None;
    }
    let (kind, payload) = body.split_first()?;
    let frame = match *kind {
        IMAGE => Frame::Image(payload),
        STEP => {
            let (event, actions) = payload.split_last_chunk::<8>()?;
            Frame::Step { event, actions: u64::from_le_bytes(*actions) }
        }
        UNENDED => Frame::Unended { event: payload },
        _ => return None,
    };
    Some((frame, FRAME_HEADER_LEN + body.len()))
}

/// Appends a header and the image after it.
pub fn write_beginning(header: &Header, image: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&header.node.0.to_le_bytes());
    for number in [header.run, header.events_before, header.wall, header.now.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
    let frame = begin_frame(IMAGE, out);
    image(out);
    end_frame(frame, out);
}

/// Appends a step that has not ended yet; gives where it begins.
pub fn begin_step(now: Instant, event: &Event, out: &mut Vec<u8>) -> usize {
    let start = begin_frame(STEP, out);
    encode_event(now, event, out);
    start
}

/// Completes the step that begins at `start` and is the last thing in `out`; `None`: it never ended.
pub fn end_step(start: usize, actions: Option<u64>, out: &mut Vec<u8>) {
    match actions {
        Some(hash) => out.extend_from_slice(&hash.to_le_bytes()),
        None => out[start + FRAME_HEADER_LEN] = UNENDED,
    }
    end_frame(start, out);
}

fn begin_frame(kind: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    out.push(kind);
    start
}

fn end_frame(start: usize, out: &mut [u8]) {
    let (header, body) = out[start..].split_at_mut(FRAME_HEADER_LEN);
    let len = u32::try_from(body.len()).expect("events and images are far below 4 GiB").to_le_bytes();
    header[..4].copy_from_slice(&len);
    header[4..].copy_from_slice(&checksum_of(len, body).to_le_bytes());
}

/// Over the length too, so that no run of zeros passes for a frame.
fn checksum_of(len: [u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len), body)
}

#[cfg(test)]
mod tests {
    use trialbay_engine::codec::decode_event;

    use super::*;

    fn header() -> Header {
        Header { node: NodeId(3), run: 1, events_before: 2, wall: 3, now: Instant(4) }
    }

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_beginning(&header(), |out| out.extend_from_slice(b"image"), &mut bytes);
        let start = begin_step(Instant(5), &Event::Ticked, &mut bytes);
        end_step(start, Some(0x0102), &mut bytes);
        let start = begin_step(Instant(6), &Event::Applied(trialbay_engine::Slot(7)), &mut bytes);
        end_step(start, None, &mut bytes);
        bytes
    }

    #[test]
    fn a_file_reads_as_it_was_written() {
        let bytes = file();
        let (read_header, frames) = read(&bytes).unwrap();
        assert_eq!(read_header, header());
        let frames: Vec<_> = frames.map(Result::unwrap).collect();
        let [Frame::Image(b"image"), Frame::Step { event, actions: 0x0102 }, Frame::Unended { event: last }] =
            frames[..]
        else {
            panic!("{frames:?}")
        };
        assert!(matches!(decode_event(event), Ok((Instant(5), Event::Ticked))));
        assert!(matches!(decode_event(last), Ok((Instant(6), Event::Applied(_)))));
    }

    #[test]
    fn the_bytes_are_those_that_the_documentation_gives() {
        let hex: String = file().iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(hex, @"5442414c7263647201000300010000000000000002000000000000000300000000000000040000000000000001f57f6b06000000c5e5496c01696d616765150000004e0ae16902050000000000000000000000020100000000000015000000769058ab030600000000000000070000000700000000000000");
    }

    #[test]
    fn a_file_cut_anywhere_gives_its_whole_frames_and_says_where_it_is_cut() {
        let bytes = file();
        let (_, frames) = read(&bytes).unwrap();
        let whole = frames.count();
        for len in 0..bytes.len() {
            let Ok((_, frames)) = read(&bytes[..len]) else {
                assert!(len < HEADER_LEN);
                continue;
            };
            let frames: Vec<_> = frames.collect();
            let good = frames.iter().filter(|frame| frame.is_ok()).count();
            assert!(good < whole && frames.iter().rev().skip(1).all(Result::is_ok), "cut at {len}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_what_is_before_it_is_read() {
        let bytes = file();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                match read(&damaged) {
                    Err(_) => assert!(at < HEADER_LEN),
                    Ok((_, mut frames)) => {
                        let bad = frames.find_map(Result::err).unwrap();
                        assert!(at >= HEADER_LEN && bad.offset <= at, "bit {bit} of byte {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_behind_the_last_frame_are_no_frames() {
        let bytes = [file(), vec![0; 64]].concat();
        let frames: Vec<_> = read(&bytes).unwrap().1.collect();
        assert_eq!(frames.len(), 4);
        assert_eq!(frames[3], Err(NotAFrame { offset: bytes.len() - 64 }));
    }
}
