//! The bytes of an archive: a closed segment, compressed.
//!
//! ```text
//! offset  size  field
//!      0     8  magic            "TBAL.tlx"
//!      8     2  format version   1
//!     10     2  zeros
//!     12     4  blocks           how many
//!     16     8  length           bytes of the segment
//!     24   512  the segment's header, as it is
//!    536     .  for each block: its length here 4, CRC32C over salt, its number (4 bytes) and its bytes 4
//!      .     4  CRC32C of everything before
//!      .     .  the blocks
//! ```
//!
//! A block has 1 MiB of the segment behind its header, the last one what is left; as an LZ4 block, or as it is when that
//! is not longer. Each is compressed by itself, so that reading can begin anywhere. The salt is the segment's.
//!
//! An archive reads as the segment did. A damaged block reads as zeros: no record has a length of zero, so whatever
//! stood there is found to be lost as it would be in the segment.

use std::io;
use std::path::Path;

use super::error::{TlogError, io_error};
use super::record::Salt;
use super::segment::HEADER_BYTES;
use crate::disk::DiskFile;

/// The bytes of the segment in one block.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"TBAL.tlx";
const FORMAT_VERSION: u16 = 1;
const HEADER_AT: usize = 24;
const HEADER_LEN: usize = HEADER_BYTES as usize;
const INDEX_AT: usize = HEADER_AT + HEADER_LEN;
const INDEX_ENTRY_BYTES: usize = 8;
/// Offsets in a segment have 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 32;

/// An archive, opened for reading.
pub(super) struct Archive {
    file: Box<dyn DiskFile>,
    salt: Salt,
    len: u64,
    header: [u8; HEADER_LEN],
    blocks: Vec<Block>,
    /// The block that was read last, and its number.
    held: Option<(usize, Vec<u8>)>,
    damaged: Vec<usize>,
}

/// A segment, opened for reading, in whichever form it is kept.
pub(super) enum LogFile {
    Segment(Box<dyn DiskFile>),
    Archive(Box<Archive>),
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    offset: u64,
    packed: u32,
    checksum: u32,
}

/// The blocks of a segment of this length.
pub(super) fn blocks_of(len: u64) -> u64 {
    len.saturating_sub(HEADER_BYTES).div_ceil(BLOCK_BYTES as u64)
}

/// The length of everything before the blocks.
pub(super) fn front_bytes(blocks: u64) -> u64 {
    (INDEX_AT + 4) as u64 + blocks * INDEX_ENTRY_BYTES as u64
}

/// The part of the segment that a block has: where it begins, and how long it is.
fn part(len: u64, number: usize) -> (u64, usize) {
    let start = HEADER_BYTES + number as u64 * BLOCK_BYTES as u64;
    (start, usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX).min(BLOCK_BYTES))
}

/// Compresses block `number` into `packed`, and says where it is to stand.
pub(super) fn pack(bytes: &[u8], salt: Salt, number: u32, offset: u64, packed: &mut Vec<u8>) -> Block {
    packed.resize(lz4_flex::block::get_maximum_output_size(bytes.len()), 0);
    match lz4_flex::block::compress_into(bytes, packed) {
        Ok(len) if len < bytes.len() => packed.truncate(len),
        _ => {
            packed.clear();
            packed.extend_from_slice(bytes);
        }
    }
    let len = u32::try_from(packed.len()).expect("a block has 1 MiB at most");
    Block { offset, packed: len, checksum: checksum(salt, number, packed) }
}

/// Everything before the blocks.
pub(super) fn front(len: u64, header: &[u8], blocks: &[Block]) -> Vec<u8> {
    let mut front = MAGIC.to_vec();
    front.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    front.extend_from_slice(&[0, 0]);
    front.extend_from_slice(&u32::try_from(blocks.len()).expect("a segment has few blocks").to_le_bytes());
    front.extend_from_slice(&len.to_le_bytes());
    front.extend_from_slice(header);
    for block in blocks {
        front.extend_from_slice(&block.packed.to_le_bytes());
        front.extend_from_slice(&block.checksum.to_le_bytes());
    }
    front.extend_from_slice(&crc32c::crc32c(&front).to_le_bytes());
    front
}

fn checksum(salt: Salt, number: u32, packed: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt.0, &number.to_le_bytes()), packed)
}

impl Block {
    /// Where the next one begins.
    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.packed)
    }
}

impl Archive {
    /// Reads everything before the blocks; `None` when that is damaged.
    ///
    /// # Errors
    /// When a later program wrote it, or the disk cannot read it.
    pub(super) fn open(file: Box<dyn DiskFile>, salt: Salt, path: &Path) -> Result<Option<Self>, TlogError> {
        let read = |len: u64| {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            read_exact(&*file, &mut bytes, 0).map(|is_whole| is_whole.then_some(bytes)).map_err(io_error("read", path))
        };
        let Some(fixed) = read(INDEX_AT as u64)? else { return Ok(None) };
        let blocks = u64::from(u32_at(&fixed, 12));
        let len = u64::from(u32_at(&fixed, 16)) | u64::from(u32_at(&fixed, 20)) << 32;
        if fixed[..8] != MAGIC || len > SEGMENT_BYTES_MAX || blocks != blocks_of(len) {
            return Ok(None);
        }
        let Some(front) = read(front_bytes(blocks))? else { return Ok(None) };
        let (sealed, checksum) = front.split_at(front.len() - 4);
        if crc32c::crc32c(sealed).to_le_bytes() != *checksum {
            return Ok(None);
        }
        if sealed[8..12] != [FORMAT_VERSION.to_le_bytes(), [0, 0]].concat() {
            return Err(TlogError::NewerFormat { path: path.to_owned() });
        }
        let mut offset = front.len() as u64;
        let blocks = sealed[INDEX_AT..].chunks_exact(INDEX_ENTRY_BYTES).map(|entry| {
            let block = Block { offset, packed: u32_at(entry, 0), checksum: u32_at(entry, 4) };
            offset = block.end();
            block
        });
        let blocks = blocks.collect();
        let header = *sealed[HEADER_AT..].first_chunk().expect("it is before the index");
        Ok(Some(Self { file, salt, len, header, blocks, held: None, damaged: Vec::new() }))
    }

    /// Where in the segment the damaged blocks begin that were read so far.
    pub(super) fn damaged(&self) -> impl Iterator<Item = u64> + '_ {
        self.damaged.iter().map(|number| part(self.len, *number).0)
    }

    /// Reads some bytes at `offset` of the segment; 0 at its end only.
    pub(super) fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = if offset < HEADER_BYTES {
            &self.header[usize::try_from(offset).unwrap_or(HEADER_LEN)..]
        } else if offset < self.len {
            let behind_header = offset - HEADER_BYTES;
            let number = usize::try_from(behind_header / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
            let at = usize::try_from(behind_header % BLOCK_BYTES as u64).unwrap_or(0);
            &self.block(number)?[at..]
        } else {
            return Ok(0);
        };
        let len = rest.len().min(bytes.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn block(&mut self, number: usize) -> io::Result<&[u8]> {
        if self.held.as_ref().is_none_or(|(held, _)| *held != number) {
            let bytes = match self.unpack(number)? {
                Some(bytes) => bytes,
                None => {
                    if !self.damaged.contains(&number) {
                        self.damaged.push(number);
                    }
                    vec![0; part(self.len, number).1]
                }
            };
            self.held = Some((number, bytes));
        }
        Ok(self.held.as_ref().map_or(&[], |(_, bytes)| bytes))
    }

    /// The bytes of a block; `None` when it is damaged.
    fn unpack(&self, number: usize) -> io::Result<Option<Vec<u8>>> {
        let block = self.blocks[number];
        let (_, len) = part(self.len, number);
        let packed_len = block.packed as usize;
        if packed_len > len {
            return Ok(None);
        }
        let mut packed = vec![0; packed_len];
        let is_whole = read_exact(&*self.file, &mut packed, block.offset)?;
        let salted = u32::try_from(number).expect("a segment has few blocks");
        if !is_whole || checksum(self.salt, salted, &packed) != block.checksum {
            return Ok(None);
        }
        if packed_len == len {
            return Ok(Some(packed));
        }
        let mut bytes = vec![0; len];
        let unpacked = lz4_flex::block::decompress_into(&packed, &mut bytes);
        Ok(unpacked.is_ok_and(|unpacked| unpacked == len).then_some(bytes))
    }
}

impl LogFile {
    /// The length of the segment.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Segment(file) => file.size(),
            Self::Archive(archive) => Ok(archive.len),
        }
    }

    /// Reads some bytes at `offset` of the segment; 0 at its end only.
    pub(super) fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Segment(file) => file.read_at(bytes, offset),
            Self::Archive(archive) => archive.read_at(bytes, offset),
        }
    }
}

/// Fills `bytes` from `offset` on; says whether the file has that many.
pub(super) fn read_exact(file: &dyn DiskFile, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    if file.size()?.checked_sub(offset).is_none_or(|rest| rest < bytes.len() as u64) {
        return Ok(false);
    }
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => return Ok(false),
            read => filled += read,
        }
    }
    Ok(true)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}
