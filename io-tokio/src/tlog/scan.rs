//! Reads one segment from its first byte to its last and tells a torn tail from damage.
//!
//! # Torn or damaged?
//! A group of records is one write and one sync, and the next group is written only after the sync of the last one
//! returned. Every frame says how far the segment was synced when it was written. So
//! * a bad place is **damaged** when a sound frame behind it says that it was durable once. The same holds for every
//!   bad place in a segment that is not the last one, for that one was closed and synced;
//! * a bad place in the last segment is **torn** when nothing sound stands behind it, or only frames that were written
//!   with it: it is what a power cut leaves of a group whose sync never returned. Nobody was ever told of it, and
//!   it is cut off with all that stands behind it.
//!
//! What cannot be told apart: a last group that was synced and damaged afterwards looks torn. The writer therefore
//! writes a `Sealed` frame behind the last group whenever it falls idle, and at each opening. Like the next group it
//! proves that what lies before it was durable. It is not synced itself; what remains is damage to the last group of a
//! log *and* a power cut within the seconds in which the system had not written the seal back.
//!
//! # Assumptions about the medium
//! A write changes no byte outside the sectors (512 bytes) that it touches, and those only to their old or new contents
//! or to garbage within the bytes being written. A sync that returned is the truth.

use std::io;
use std::path::Path;

use super::archive::LogFile;
use super::error::{TlogError, io_error};
use super::record::{self, Content, HEAD_BYTES, Head, Salt};
use super::segment::HEADER_BYTES;

/// How much is read from the disk at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How many bytes of false candidates are checksummed in one segment in search of the next sound frame.
const SEARCH_BYTES_MAX: u64 = 4 << 30;

/// A part of a file in memory.
pub(super) struct Window {
    file: LogFile,
    file_bytes: u64,
    chunk_bytes: usize,
    start: u64,
    bytes: Vec<u8>,
}

/// What is wrong where a frame should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Zeros, as in space that was never written.
    #[error("nothing was written")]
    Unwritten,
    /// Its length is one that no record has.
    #[error("the length is impossible")]
    Length,
    /// The file ends before it does.
    #[error("the file ends within the record")]
    Incomplete,
    /// The checksum does not fit.
    #[error("the checksum is wrong")]
    Checksum,
}

/// How the records of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With the file, or with zeros.
    Clean,
    /// With a group whose sync never returned.
    Torn,
    /// Nobody knows: the search for further records was given up.
    Unsearched,
}

/// What became of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Where the records end.
    pub(super) end: u64,
    pub(super) ending: Ending,
    /// Whether the last frame is a seal.
    pub(super) sealed: bool,
}

/// Hears what a scan finds, in the order of the file.
pub(super) trait Visitor {
    fn record(&mut self, offset: u64, record: record::Content) -> Result<(), TlogError>;
    fn damage(&mut self, offset: u64, why: BadFrame);
}

/// Reads one segment.
pub(super) struct Scan<'a> {
    pub(super) path: &'a Path,
    pub(super) salt: Salt,
    window: Window,
    search_bytes_left: u64,
    #[cfg(feature = "planted-bugs")]
    planted: Option<crate::planted::PlantedBug>,
}

enum Check {
    Sound { content: Content, synced: u64, end: u64 },
    Bad(BadFrame),
    EndOfFile,
}

enum Search {
    Found { offset: u64, synced: u64, end: u64 },
    Nothing,
    GivenUp,
}

/// What lies behind a bad place.
struct Behind {
    /// The next sound frame.
    next: Option<u64>,
    /// Whether a sound frame proves that the bad place was durable once.
    was_durable: bool,
    given_up: bool,
}

impl Window {
    pub(super) fn new(file: LogFile, chunk_bytes: usize) -> io::Result<Self> {
        let file_bytes = file.len()?;
        Ok(Self { file, file_bytes, chunk_bytes, start: 0, bytes: Vec::new() })
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The `len` bytes at `offset`; `None` when the file ends before them.
    pub(super) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let Some(rest) = self.file_bytes.checked_sub(offset) else {
            return Ok(None);
        };
        if rest < len as u64 {
            return Ok(None);
        }
        let held = offset >= self.start && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(self.chunk_bytes.max(len));
            self.load(offset, wanted)?;
            if self.bytes.len() < len {
                return Ok(None);
            }
        }
        let at = usize::try_from(offset - self.start).expect("what is held fits into memory");
        Ok(Some(&self.bytes[at..at + len]))
    }

    /// All that is in memory from `offset` on, `len` bytes at least; `None` when the file ends before those.
    fn bytes_from(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if self.bytes(offset, len)?.is_none() {
            return Ok(None);
        }
        let at = usize::try_from(offset - self.start).expect("what is held fits into memory");
        Ok(Some(&self.bytes[at..]))
    }

    fn load(&mut self, offset: u64, len: usize) -> io::Result<()> {
        self.start = offset;
        self.bytes.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut self.bytes[filled..], offset + filled as u64) {
                // The file is shorter than it was when it was opened: somebody cut it.
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(file: LogFile, path: &'a Path, salt: Salt) -> Result<Self, TlogError> {
        let window = Window::new(file, CHUNK_BYTES).map_err(io_error("read", path))?;
        Ok(Self {
            path,
            salt,
            window,
            search_bytes_left: SEARCH_BYTES_MAX,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        })
    }

    /// With this planted bug.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn with_planted(self, planted: Option<crate::planted::PlantedBug>) -> Self {
        Self { planted, ..self }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.window.file_bytes()
    }

    /// Where in the segment the damaged blocks of its archive begin, if that is what was read.
    pub(super) fn damaged_blocks(&self) -> Vec<u64> {
        match &self.window.file {
            LogFile::Segment(_) => Vec::new(),
            LogFile::Archive(archive) => archive.damaged().collect(),
        }
    }

    /// The first bytes, as many of a header as there are.
    pub(super) fn header_bytes(&mut self) -> Result<&[u8], TlogError> {
        let len = self.window.file_bytes().min(HEADER_BYTES);
        let bytes = self.window.bytes(0, len as usize).map_err(io_error("read", self.path))?;
        Ok(bytes.unwrap_or_default())
    }

    /// Tells `visitor` of every sound record and every bad place, but for a torn tail.
    pub(super) fn run(&mut self, is_last: bool, visitor: &mut impl Visitor) -> Result<Scanned, TlogError> {
        let mut offset = HEADER_BYTES;
        let mut last_synced = HEADER_BYTES;
        let mut sealed = false;
        loop {
            let why = match self.check(offset)? {
                Check::EndOfFile => {
                    return Ok(Scanned { end: offset, ending: Ending::Clean, sealed });
                }
                Check::Sound { content, synced, end } => {
                    sealed = content == Content::Sealed;
                    visitor.record(offset, content)?;
                    (offset, last_synced) = (end, synced);
                    continue;
                }
                Check::Bad(why) => why,
            };
            if is_last && self.is_zero_from(offset)? {
                return Ok(Scanned { end: offset, ending: Ending::Clean, sealed });
            }
            if planted!(self.planted, MiddleTakenForEnd) {
                return Ok(Scanned { end: offset, ending: Ending::Torn, sealed });
            }
            let behind = self.look_behind(offset, last_synced, is_last)?;
            if is_last && !behind.was_durable && !behind.given_up {
                return Ok(Scanned { end: offset, ending: Ending::Torn, sealed });
            }
            visitor.damage(offset, why);
            match behind.next {
                Some(next) => offset = next,
                None => {
                    let ending = if behind.given_up { Ending::Unsearched } else { Ending::Clean };
                    return Ok(Scanned { end: offset, ending, sealed: false });
                }
            }
        }
    }

    /// Whether the file has only zeros from here on.
    pub(super) fn is_zero_from(&mut self, mut offset: u64) -> Result<bool, TlogError> {
        while offset < self.file_bytes() {
            match self.window.bytes_from(offset, 1).map_err(io_error("read", self.path))? {
                Some(bytes) if bytes.iter().all(|byte| *byte == 0) => offset += bytes.len() as u64,
                Some(_) => return Ok(false),
                None => break,
            }
        }
        Ok(true)
    }

    fn check(&mut self, offset: u64) -> Result<Check, TlogError> {
        if offset == self.file_bytes() {
            return Ok(Check::EndOfFile);
        }
        let Some(head) = self.head(offset)? else {
            return Ok(Check::Bad(BadFrame::Incomplete));
        };
        if head.is_unwritten() {
            return Ok(Check::Bad(BadFrame::Unwritten));
        }
        if !head.has_possible_length() {
            return Ok(Check::Bad(BadFrame::Length));
        }
        let bytes = self.window.bytes(offset, head.frame_bytes()).map_err(io_error("read", self.path))?;
        let Some(frame) = bytes else {
            return Ok(Check::Bad(BadFrame::Incomplete));
        };
        if !record::is_sound(frame, self.salt, offset) {
            return Ok(Check::Bad(BadFrame::Checksum));
        }
        let end = offset + frame.len() as u64;
        match record::decode(frame) {
            Some(content) => Ok(Check::Sound { content, synced: u64::from(head.synced), end }),
            None => {
                let (version, kind) = (head.version, head.kind);
                Err(TlogError::NewerRecord { path: self.path.to_owned(), offset, version, kind })
            }
        }
    }

    /// Looks for the next sound frame behind a bad place and, if `for_proof`, for one that proves that it was durable.
    fn look_behind(&mut self, bad: u64, last_synced: u64, for_proof: bool) -> Result<Behind, TlogError> {
        let mut behind = Behind { next: None, was_durable: false, given_up: false };
        let mut from = bad + 1;
        loop {
            match self.search(from, bad, last_synced)? {
                Search::Found { offset, synced, end } => {
                    behind.next.get_or_insert(offset);
                    behind.was_durable = synced > bad;
                    if behind.was_durable || !for_proof {
                        return Ok(behind);
                    }
                    from = end;
                }
                Search::Nothing => return Ok(behind),
                Search::GivenUp => {
                    behind.given_up = true;
                    return Ok(behind);
                }
            }
        }
    }

    /// The first sound frame at any byte from `from` on that can follow a bad place.
    fn search(&mut self, mut from: u64, bad: u64, last_synced: u64) -> Result<Search, TlogError> {
        loop {
            let bytes = self.window.bytes_from(from, HEAD_BYTES).map_err(io_error("read", self.path))?;
            let Some(bytes) = bytes else { return Ok(Search::Nothing) };
            let is_candidate = |(at, bytes): (usize, &[u8])| {
                let head = Head::parse(bytes.first_chunk().expect("every window has the size of a head"));
                let synced = u64::from(head.synced);
                head.is_plausible() && synced <= from + at as u64 && (synced == last_synced || synced >= bad)
            };
            let Some(at) = bytes.windows(HEAD_BYTES).enumerate().position(is_candidate) else {
                from += (bytes.len() - (HEAD_BYTES - 1)) as u64;
                continue;
            };
            from += at as u64;
            if let Check::Sound { synced, end, .. } = self.check(from)? {
                return Ok(Search::Found { offset: from, synced, end });
            }
            let cost = self.head(from)?.map_or(0, |head| head.frame_bytes() as u64);
            match self.search_bytes_left.checked_sub(cost) {
                Some(left) => self.search_bytes_left = left,
                None => return Ok(Search::GivenUp),
            }
            from += 1;
        }
    }

    fn head(&mut self, offset: u64) -> Result<Option<Head>, TlogError> {
        let bytes = self.window.bytes(offset, HEAD_BYTES).map_err(io_error("read", self.path))?;
        Ok(bytes.and_then(|bytes| bytes.first_chunk()).map(Head::parse))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::MemDisk;
    use super::*;
    use crate::disk::Disk as _;

    struct Nobody;

    impl Visitor for Nobody {
        fn record(&mut self, _: u64, _: Content) -> Result<(), TlogError> {
            panic!("there are no records");
        }
        fn damage(&mut self, offset: u64, why: BadFrame) {
            assert_eq!((offset, why), (HEADER_BYTES, BadFrame::Checksum));
        }
    }

    #[test]
    fn a_search_among_false_records_is_given_up_and_nothing_is_cut() {
        // Every byte begins something of 257 bytes that is a record, but for its checksum.
        let mut bytes = vec![1; 4096];
        bytes[HEADER_BYTES as usize..].chunks_mut(4).for_each(|chunk| chunk.copy_from_slice(&[1, 1, 0, 0]));
        for at in (HEADER_BYTES as usize..4000).step_by(16) {
            bytes[at + 8] = 1;
            bytes[at + 10..at + 14].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        }
        let path = Path::new("home/tlogs/000.tlog");
        let disk = MemDisk::from_image(&[("000.tlog".to_owned(), bytes)].into());
        for (search_bytes_left, ending) in [(SEARCH_BYTES_MAX, Ending::Torn), (10_000, Ending::Unsearched)] {
            let mut scan = Scan::new(LogFile::Segment(disk.open(path).unwrap()), path, Salt(0)).unwrap();
            scan.search_bytes_left = search_bytes_left;
            let scanned = scan.run(true, &mut Nobody).unwrap();
            assert_eq!(scanned, Scanned { end: HEADER_BYTES, ending, sealed: false });
        }
    }

    #[test]
    fn a_window_gives_what_the_file_has_and_no_more() {
        let path = Path::new("home/tlogs/000.tlog");
        let bytes: Vec<u8> = (0..5000).map(|at| at as u8).collect();
        let disk = MemDisk::from_image(&[("000.tlog".to_owned(), bytes.clone())].into());
        let mut window = Window::new(LogFile::Segment(disk.open(path).unwrap()), 300).unwrap();
        for (at, len) in [(0, 10), (290, 20), (4990, 10), (4990, 11), (5000, 0), (5001, 0), (10, 4000), (3000, 5)] {
            assert_eq!(window.bytes(at as u64, len).unwrap(), bytes.get(at..at + len), "{at} {len}");
        }
        assert_eq!(window.bytes(u64::MAX, 1).unwrap(), None);
    }
}
