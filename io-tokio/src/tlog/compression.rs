//! From a closed segment to its archive, a piece at a time.
//!
//! The archive is written under a name of its own and synced; then it is read back from the disk, unpacked, and compared
//! with the segment, byte by byte; then it gets its name, durably; and only then may the segment be removed. A crash
//! leaves one of them whole, or both, and the next start removes what it does not need.

use super::archive::{self, Archive, BLOCK_BYTES, Block, blocks_of, front_bytes, read_exact};
use super::error::{TlogError, io_error};
use super::segment::{HEADER_BYTES, Place};
use crate::disk::DiskFile;

/// After so many blocks what is written is synced, so that there is never much of it to hold up the log's own syncs.
const SYNC_BLOCKS: usize = 4;

/// How much may be written, and not yet be missing from what the disk has free.
pub(super) const BYTES_AT_ONCE: u64 = (SYNC_BLOCKS * BLOCK_BYTES) as u64;

/// A segment that is being compressed.
pub(super) struct Compression {
    number: u32,
    len: u64,
    segment: Box<dyn DiskFile>,
    archive: Box<dyn DiskFile>,
    blocks: Vec<Block>,
    /// The archive as it is on the disk, once it is whole, and how much of it was compared.
    written: Option<(Archive, u64)>,
    bytes: Vec<u8>,
    other: Vec<u8>,
}

/// What a step led to.
pub(super) enum Step {
    More,
    /// The archive is durable, and has this length.
    Installed {
        bytes: u64,
    },
}

impl Compression {
    /// Of the closed segment of this number and length.
    pub(super) fn begin(place: &Place, number: u32, len: u64) -> Result<Self, TlogError> {
        let (path, new) = (place.path(number), place.new_archive_path(number));
        let segment = place.disk.open_to_read(&path).map_err(io_error("open", &path))?;
        let archive = place.disk.create(&new).map_err(io_error("create", &new))?;
        let (bytes, other) = (Vec::new(), Vec::new());
        Ok(Self { number, len, segment, archive, blocks: Vec::new(), written: None, bytes, other })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Whether the archive is whole, and only has to be compared and named.
    pub(super) fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Leaves the segment as it is.
    pub(super) fn abandon(self, place: &Place) -> Result<(), TlogError> {
        place.remove(&place.new_archive_path(self.number))
    }

    /// Does the next piece.
    pub(super) fn step(&mut self, place: &Place) -> Result<Step, TlogError> {
        if let Some((_, compared)) = &self.written {
            if *compared < self.len {
                self.compare(place)?;
                return Ok(Step::More);
            }
            return self.install(place);
        }
        if (self.blocks.len() as u64) < blocks_of(self.len) {
            self.write_block(place)?;
        } else {
            self.finish(place)?;
        }
        Ok(Step::More)
    }

    fn write_block(&mut self, place: &Place) -> Result<(), TlogError> {
        let new = place.new_archive_path(self.number);
        let number = self.blocks.len();
        let start = HEADER_BYTES + (number * BLOCK_BYTES) as u64;
        self.read_segment(place, start)?;
        let offset = self.blocks.last().map_or(front_bytes(blocks_of(self.len)), Block::end);
        let salted = u32::try_from(number).expect("a segment has few blocks");
        let block = archive::pack(&self.bytes, place.salt(self.number), salted, offset, &mut self.other);
        self.archive.write_at(&self.other, offset).map_err(io_error("write", &new))?;
        self.blocks.push(block);
        if self.blocks.len().is_multiple_of(SYNC_BLOCKS) {
            self.archive.sync_data().map_err(io_error("sync", &new))?;
        }
        Ok(())
    }

    /// Writes what is before the blocks, last, and opens what the disk has of it all.
    fn finish(&mut self, place: &Place) -> Result<(), TlogError> {
        let new = place.new_archive_path(self.number);
        let mut header = [0; HEADER_BYTES as usize];
        let path = place.path(self.number);
        if !read_exact(&*self.segment, &mut header, 0).map_err(io_error("read", &path))? {
            return Err(TlogError::NotArchived { path });
        }
        let front = archive::front(self.len, &header, &self.blocks);
        self.archive.write_at(&front, 0).map_err(io_error("write", &new))?;
        // The system's copy of it tells nothing of the disk's.
        self.archive.settle().map_err(io_error("sync", &new))?;
        let file = place.disk.open_to_read(&new).map_err(io_error("open", &new))?;
        let archive = Archive::open(file, place.salt(self.number), &new)?;
        self.written = Some((archive.ok_or(TlogError::NotArchived { path })?, 0));
        Ok(())
    }

    /// Compares the next piece of the archive with the segment.
    fn compare(&mut self, place: &Place) -> Result<(), TlogError> {
        let (new, path) = (place.new_archive_path(self.number), place.path(self.number));
        let start = self.written.as_ref().map_or(0, |(_, compared)| *compared);
        self.read_segment(place, start)?;
        let Some((archive, compared)) = &mut self.written else { return Ok(()) };
        self.other.resize(self.bytes.len(), 0);
        let mut filled = 0;
        while filled < self.other.len() {
            match archive.read_at(&mut self.other[filled..], start + filled as u64).map_err(io_error("read", &new))? {
                0 => break,
                read => filled += read,
            }
        }
        if filled < self.other.len() || self.bytes != self.other || archive.damaged().next().is_some() {
            return Err(TlogError::NotArchived { path });
        }
        *compared = start + filled as u64;
        Ok(())
    }

    /// Gives the archive its name.
    fn install(&mut self, place: &Place) -> Result<Step, TlogError> {
        let (new, path) = (place.new_archive_path(self.number), place.archive_path(self.number));
        place.disk.rename(&new, &path).map_err(io_error("rename", &new))?;
        place.sync_names()?;
        let bytes = self.blocks.last().map_or(front_bytes(0), Block::end);
        Ok(Step::Installed { bytes })
    }

    /// Reads the segment from `start` on, a block at most.
    fn read_segment(&mut self, place: &Place, start: u64) -> Result<(), TlogError> {
        let path = place.path(self.number);
        let len = usize::try_from(self.len - start).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        self.bytes.resize(len, 0);
        match read_exact(&*self.segment, &mut self.bytes, start).map_err(io_error("read", &path))? {
            true => Ok(()),
            false => Err(TlogError::NotArchived { path }),
        }
    }
}
