//! Reads entries back while the writer goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trialbay_engine::{Record, Slot, SlotEntry};

use super::archive::{Archive, LogFile};
use super::error::{TlogError, io_error};
use super::index::{Index, Location};
use super::record::{self, Content, HEAD_BYTES, Head, Salt};
use super::scan::Window;
use super::segment::Place;

/// How many slots one read gives at most.
const SLOTS_MAX: usize = 4096;
/// How much is read from the disk at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How many bytes of values [`Entries`] holds at a time.
const ENTRIES_BYTES: usize = 4 << 20;

/// Reads entries of a log, durable ones only. Cheap to clone; usable from any thread while the writer writes.
#[derive(Clone)]
pub struct LogReader(Arc<Shared>);

/// What a log takes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogUsage {
    /// How many segments.
    pub segments: usize,
    /// How many of them are compressed.
    pub compressed: usize,
    /// How many bytes, the open segment's reserve included.
    pub bytes: u64,
}

/// Iterates over the entries of consecutive slots; ends after the first error.
pub struct Entries {
    reader: LogReader,
    next: Slot,
    upto: Slot,
    ready: std::vec::IntoIter<SlotEntry>,
    done: bool,
}

/// What the log and its readers share.
pub(super) struct Shared {
    place: Arc<Place>,
    state: Mutex<State>,
}

/// Grows only when records have become durable, and shrinks before files are removed.
pub(super) struct State {
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u32, Held>,
}

/// What is held of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// What it takes of the disk.
    pub(super) bytes: u64,
    /// Its length; `None` when it is compressed, and its archive cannot be read.
    pub(super) len: Option<u64>,
    pub(super) is_archived: bool,
    /// The last slot in which the segments before it accepted anything; `None` when its header is damaged.
    pub(super) accepted_before: Option<Slot>,
}

impl LogReader {
    pub(super) fn new(place: Arc<Place>, index: Index, segments: BTreeMap<u32, Held>) -> Self {
        Self(Arc::new(Shared { place, state: Mutex::new(State { index, segments }) }))
    }

    /// The entries of consecutive slots beginning with `from`: at least one, none above `upto`, and about `bytes_max` bytes
    /// of values at most. Of a slot that was accepted several times the last entry. Empty when `upto` is below `from`.
    ///
    /// # Errors
    /// When the log does not hold `from`, or holds it damaged, or cannot be read.
    pub fn read(&self, from: Slot, upto: Slot, bytes_max: usize) -> Result<Vec<SlotEntry>, TlogError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut open: Option<(u32, OpenSegment)> = None;
        for (slot, location) in self.locate(from, upto)? {
            let segment = match &mut open {
                Some((number, segment)) if *number == location.segment => segment,
                _ => &mut open.insert((location.segment, self.open(location.segment, slot)?)).1,
            };
            let outcome = segment.entry(slot, u64::from(location.offset));
            // What is sound is given; the damage is told to whoever asks for it.
            let entry = match outcome {
                Err(_) if !entries.is_empty() => break,
                outcome => outcome?,
            };
            bytes += entry.entry.value.size();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// All entries from `from` to `upto`, as `read` gives them: what the store replays at start.
    pub fn entries(&self, from: Slot, upto: Slot) -> Entries {
        Entries { reader: self.clone(), next: from, upto, ready: Vec::new().into_iter(), done: false }
    }

    /// The first slot of the unbroken stretch at the end of the log: the first one that others can be served from here.
    /// `None` while the log holds no entries.
    pub fn log_start(&self) -> Option<Slot> {
        let state = self.state();
        state.index.stretch_start(state.index.last()?)
    }

    /// The last slot that has a durable entry here, which may be one of an older ballot than the slot was decided in. `None`
    /// while the log holds no entries.
    pub(super) fn log_end(&self) -> Option<Slot> {
        self.state().index.last()
    }

    /// What the log takes of the disk.
    pub fn usage(&self) -> LogUsage {
        let state = self.state();
        LogUsage {
            segments: state.segments.len(),
            compressed: state.segments.values().filter(|held| held.is_archived).count(),
            bytes: state.segments.values().map(|held| held.bytes).sum(),
        }
    }

    pub(super) fn stretch_start(&self, slot: Slot) -> Option<Slot> {
        self.state().index.stretch_start(slot)
    }

    pub(super) fn stretch_end(&self, slot: Slot) -> Slot {
        self.state().index.stretch_end(slot)
    }

    pub(super) fn forget_upto(&self, slot: Slot) {
        self.state().index.forget_upto(slot);
    }

    pub(super) fn forget_after(&self, slot: Slot) {
        self.state().index.truncate_after(slot);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way through a change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locate(&self, from: Slot, upto: Slot) -> Result<Vec<(Slot, Location)>, TlogError> {
        let mut located = Vec::new();
        let state = self.state();
        let mut slot = from;
        while slot <= upto && located.len() < SLOTS_MAX {
            match state.index.find(slot) {
                Some(location) => located.push((slot, location)),
                None if located.is_empty() => {
                    drop(state);
                    return Err(self.not_in_log(slot));
                }
                None => break,
            }
            if slot.next() == slot {
                break;
            }
            slot = slot.next();
        }
        Ok(located)
    }

    fn not_in_log(&self, slot: Slot) -> TlogError {
        TlogError::NotInLog { slot, log_start: self.log_start().unwrap_or(Slot(1)) }
    }

    /// Opens the segment in which `slot` was found a moment ago; it may have been removed meanwhile.
    fn open(&self, number: u32, slot: Slot) -> Result<OpenSegment, TlogError> {
        let place = &self.0.place;
        let mut is_archived = None;
        loop {
            let held = self.state().segments.get(&number).copied().ok_or_else(|| self.not_in_log(slot))?;
            let before = is_archived.replace(held.is_archived);
            let path = if held.is_archived { place.archive_path(number) } else { place.path(number) };
            let file = match place.disk.open_to_read(&path) {
                // It may have been compressed meanwhile, or removed.
                Err(_) if before != is_archived => continue,
                outcome => outcome.map_err(io_error("open", &path))?,
            };
            let salt = place.salt(number);
            let file = if held.is_archived {
                let damaged = || TlogError::Damaged { slot, path: path.clone(), offset: 0 };
                LogFile::Archive(Archive::open(file, salt, &path)?.ok_or_else(damaged)?.into())
            } else {
                LogFile::Segment(file)
            };
            let window = Window::new(file, CHUNK_BYTES).map_err(io_error("read", &path))?;
            return Ok(OpenSegment { window, salt, path });
        }
    }
}

impl Iterator for Entries {
    type Item = Result<SlotEntry, TlogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.ready.next() {
            return Some(Ok(entry));
        }
        if self.done || self.next > self.upto {
            return None;
        }
        match self.reader.read(self.next, self.upto, ENTRIES_BYTES) {
            Ok(entries) => {
                let last = entries.last().map_or(self.upto, |entry| entry.slot);
                self.done = last >= self.upto;
                self.next = last.next();
                self.ready = entries.into_iter();
                self.ready.next().map(Ok)
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }
}

struct OpenSegment {
    window: Window,
    salt: Salt,
    path: PathBuf,
}

impl OpenSegment {
    fn entry(&mut self, slot: Slot, offset: u64) -> Result<SlotEntry, TlogError> {
        let head = self.window.bytes(offset, HEAD_BYTES).map_err(io_error("read", &self.path))?;
        let frame_bytes = head
            .and_then(|head| head.first_chunk())
            .map(Head::parse)
            .filter(Head::has_possible_length)
            .map(|head| head.frame_bytes());
        let frame = match frame_bytes {
            Some(len) => self.window.bytes(offset, len).map_err(io_error("read", &self.path))?,
            None => None,
        };
        match frame.filter(|frame| record::is_sound(frame, self.salt, offset)).and_then(record::decode) {
            Some(Content::Record(Record::Accepted(entry))) if entry.slot == slot => Ok(entry),
            _ => Err(TlogError::Damaged { slot, path: self.path.clone(), offset }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn log_of_ten(disk: &MemDisk) -> LogReader {
        let (mut tlog, _) = open(disk, 1024, NOTHING_APPLIED).unwrap();
        for slot in 1..=10 {
            tlog.append(&[accepted(slot, 1, &[slot as u8; 100])]).unwrap();
            tlog.sync().unwrap();
        }
        assert!(tlog.reader().usage().segments > 2);
        tlog.reader()
    }

    #[test]
    fn reads_are_consecutive_bounded_and_never_empty() {
        let reader = log_of_ten(&MemDisk::default());
        let entries: Vec<_> = (1..=10).map(|slot| entry(slot, 1, &[slot as u8; 100])).collect();
        for from in 1..=10_usize {
            for upto in from..=11 {
                for bytes_max in [0, 99, 100, 250, 300, usize::MAX] {
                    let read = reader.read(Slot(from as u64), Slot(upto as u64), bytes_max).unwrap();
                    let count = (bytes_max / 100).clamp(1, upto.min(10) - from + 1);
                    assert_eq!(read, entries[from - 1..from - 1 + count]);
                }
            }
        }
        assert_eq!(reader.read(Slot(5), Slot(4), 100).unwrap(), []);
        assert_eq!((reader.log_start(), reader.log_end()), (Some(Slot(1)), Some(Slot(10))));
        let all = reader.entries(Slot(1), Slot(10)).collect::<Result<Vec<_>, _>>();
        assert_eq!(all.unwrap(), entries);
        assert_eq!(reader.entries(Slot(3), Slot(2)).count(), 0);
        let missing: Vec<_> = reader.entries(Slot(9), Slot(12)).collect();
        assert!(matches!(missing[..], [Ok(_), Ok(_), Err(TlogError::NotInLog { slot: Slot(11), log_start: Slot(1) })]));
    }

    #[test]
    fn what_is_not_synced_is_not_read() {
        let (mut tlog, _) = open(&MemDisk::default(), 1024, NOTHING_APPLIED).unwrap();
        tlog.append(&[accepted(1, 1, b"one")]).unwrap();
        let reader = tlog.reader();
        assert!(matches!(reader.read(Slot(1), Slot(1), 9), Err(TlogError::NotInLog { slot: Slot(1), .. })));
        assert_eq!((reader.log_start(), reader.log_end()), (None, None));
        tlog.sync().unwrap();
        assert_eq!(reader.read(Slot(1), Slot(1), 9).unwrap(), [entry(1, 1, b"one")]);
    }

    #[test]
    fn damage_is_told_to_whoever_asks_for_it() {
        let disk = MemDisk::default();
        let reader = log_of_ten(&disk);
        disk.damage("001.tlog", 560);
        let sound = reader.read(Slot(1), Slot(10), usize::MAX).unwrap();
        assert_eq!(sound.last().unwrap().slot, Slot(3));
        let error = reader.read(Slot(4), Slot(10), usize::MAX).unwrap_err();
        assert!(matches!(error, TlogError::Damaged { slot: Slot(4), offset: 512, .. }), "{error}");
        assert!(reader.read(Slot(5), Slot(10), usize::MAX).is_ok());
    }
}
