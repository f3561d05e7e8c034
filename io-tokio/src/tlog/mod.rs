//! The transaction log: what this node promised and accepted, durable before anybody is told.
//!
//! A directory of segments (`segment.rs`) full of checksummed records (`record.rs`), appended in groups of one write
//! and one sync each. `scan.rs` says how a torn tail is told from damage, `recovery.rs` what either means for the node.
//!
//! ```text
//! engine --Persist--> LogWriter --group--> Tlog --> Disk
//!        <-Persisted-             (index)
//! peers, store  <--entries-- LogReader
//!        store --stored--> LogKeeper --> Upkeep: old segments go, closed ones are compressed
//! ```

mod archive;
mod checkpoint;
mod compression;
mod error;
mod index;
mod inspect;
mod keeper;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use trialbay_engine::{HistoryHash, Record, Slot};

pub use self::error::TlogError;
pub use self::inspect::{Inspection, Logged, Place as LogPlace, SegmentView};
pub use self::keeper::{KeeperEvent, LogKeeper};
pub use self::reader::{Entries, LogReader, LogUsage};
pub use self::recovery::{Damage, Note, RecoveredLog};
pub use self::scan::BadFrame;
pub use self::upkeep::{Compressed, Upkeep};
pub use self::writer::{LogEvent, LogWriter, OnLogEvent};

use self::checkpoint::Checkpoint;
use self::error::io_error;
use self::index::Location;
use self::reader::Held;
use self::recovery::{Conclusion, Tail};
use self::segment::{HEADER_BYTES, Header, Place, Segment};
use crate::disk::Disk;
use crate::identity::Identity;

/// The most that may wait for one sync; with it, every offset in a segment fits into 32 bits.
const UNSYNCED_BYTES_MAX: usize = 1 << 30;

/// How much of a segment is reserved at a time: little enough to cost a small cluster nothing, enough to make growth rare.
const RESERVE_BYTES: u64 = 8 << 20;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct TlogOptions {
    /// A segment that would grow longer is closed first, and a new one begun. At most 1 GiB.
    pub segment_bytes: u64,
    /// How many bytes of segments that the store has passed are kept, for peers that are behind.
    pub retention_bytes: u64,
    /// Whether closed segments are compressed.
    pub compress: bool,
    /// The planted bug that it has.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::planted::PlantedBug>,
}

/// A transaction log, opened for writing. Single-threaded and blocking: [`LogWriter`] gives it a worker.
pub struct Tlog {
    place: Arc<Place>,
    options: TlogOptions,
    segment: Segment,
    /// Frames that wait for the next sync. Its memory is used again and again.
    group: Vec<u8>,
    /// The slots in `group`, and where in it they begin.
    group_slots: Vec<(Slot, u32)>,
    /// Where in the segment `group` was written, once it was.
    written_at: Option<u32>,
    /// What everything before `group` adds up to, and with it.
    durable: Checkpoint,
    appended: Checkpoint,
    sealed: bool,
    failed: bool,
    reader: LogReader,
}

impl Default for TlogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            retention_bytes: 1 << 30,
            compress: true,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

impl Tlog {
    /// Opens the log in `<home>/tlogs`, which is made if need be, and reads all of it. A torn tail is cut off; what is
    /// damaged stays. All that was read is durable when this returns.
    ///
    /// `store_applied` is the last slot that the node's store has applied, and the history hash there. When the result's
    /// `decided_upto` is higher, the store has to replay what lies between from [`Tlog::reader`] before the engine starts,
    /// and must arrive at `decided_hash`.
    ///
    /// # Errors
    /// When the files belong to another node or to a newer version, contradict the store, or cannot be read or written.
    pub fn open(
        disk: Arc<dyn Disk>,
        home: &Path,
        identity: Identity,
        options: TlogOptions,
        store_applied: (Slot, HistoryHash),
    ) -> Result<(Self, RecoveredLog), TlogError> {
        Self::open_as(disk, home, identity, options, store_applied, false)
    }

    /// As [`Tlog::open`], but a log that, with the store as it is, costs the node its vote is refused, and left as it is.
    ///
    /// # Errors
    /// As for [`Tlog::open`], and [`TlogError::NotContinued`].
    pub fn open_with_vote(
        disk: Arc<dyn Disk>,
        home: &Path,
        identity: Identity,
        options: TlogOptions,
        store_applied: (Slot, HistoryHash),
    ) -> Result<(Self, RecoveredLog), TlogError> {
        Self::open_as(disk, home, identity, options, store_applied, true)
    }

    fn open_as(
        disk: Arc<dyn Disk>,
        home: &Path,
        identity: Identity,
        options: TlogOptions,
        store_applied: (Slot, HistoryHash),
        keeps_vote: bool,
    ) -> Result<(Self, RecoveredLog), TlogError> {
        identity.check()?;
        let dir = home.join("tlogs");
        disk.create_dir(&dir).map_err(io_error("create", &dir))?;
        disk.sync_dir(home).map_err(io_error("sync", home))?;
        let segment_bytes = options.segment_bytes.min(UNSYNCED_BYTES_MAX as u64);
        let options = TlogOptions { segment_bytes, ..options };
        let place = Arc::new(Place {
            disk,
            dir,
            identity,
            reserve_bytes: segment_bytes.min(RESERVE_BYTES),
            #[cfg(feature = "planted-bugs")]
            planted: options.planted,
        });

        let mut survey = recovery::survey(&place, store_applied)?;
        let reader = LogReader::new(Arc::clone(&place), survey.take_index(), survey.take_segments());
        let (tail, leftovers) = (survey.tail, survey.take_leftovers());
        let Conclusion { log, checkpoint, took_head } = survey.conclude(&reader)?;
        if keeps_vote && log.recovered.memory.is_none() {
            return Err(TlogError::NotContinued { store_applied: store_applied.0 });
        }
        leftovers.iter().try_for_each(|path| place.disk.remove(path).map_err(io_error("remove", path)))?;
        let (segment, sealed) = open_tail(&place, tail, &checkpoint, &mut reader.state().segments)?;
        let mut tlog = Self {
            place,
            options,
            segment,
            group: Vec::new(),
            group_slots: Vec::new(),
            written_at: None,
            durable: checkpoint.clone(),
            appended: checkpoint,
            sealed,
            failed: false,
            reader,
        };
        if took_head {
            // From now on the log must not end before it, whatever is announced next.
            let (upto, hash) = store_applied;
            tlog.append(&[Record::Decided { upto, hash }])?;
            tlog.sync()?;
        }
        tlog.seal()?;
        Ok((tlog, log))
    }

    /// Adds records to the group that the next [`Tlog::sync`] writes.
    ///
    /// # Errors
    /// When a record or the group is beyond its limit, or the log failed before. Any error is final.
    pub fn append(&mut self, records: &[Record]) -> Result<(), TlogError> {
        self.guarded(|tlog| records.iter().try_for_each(|record| tlog.append_one(record)))
    }

    /// Has the log know, once it is synced, that the store is about to take the state of `slot` from another node,
    /// though the log does not lead up to it. Only then may the store make that state durable: at the next start it is
    /// ahead of its log, and with no word of it the log would pass for lost.
    ///
    /// # Errors
    /// As [`Tlog::append`].
    pub fn announce_head(&mut self, slot: Slot, hash: HistoryHash) -> Result<(), TlogError> {
        self.guarded(|tlog| {
            assert!(tlog.written_at.is_none(), "a group that was written takes no more records");
            record::encode_head(slot, hash, &mut tlog.group);
            tlog.appended.head = (slot, hash);
            Ok(())
        })
    }

    /// Writes what was appended. Nothing can be appended between this and the next [`Tlog::sync`].
    ///
    /// # Errors
    /// When the disk fails, or the log failed before. Any error is final.
    pub fn write(&mut self) -> Result<(), TlogError> {
        self.guarded(|tlog| if tlog.is_unwritten() { tlog.write_group() } else { Ok(()) })
    }

    /// Makes what was appended durable, and writes it first if that was not done.
    ///
    /// # Errors
    /// When the disk fails, or the log failed before. Any error is final.
    pub fn sync(&mut self) -> Result<(), TlogError> {
        self.write()?;
        self.guarded(Self::sync_group)?;
        if planted!(self.place.planted, NullSealedAlways) { self.seal() } else { Ok(()) }
    }

    /// Writes down, without a sync, that everything in the log was synced. For when nothing else is to be written soon:
    /// damage to the last group can then be told from a torn write.
    ///
    /// # Errors
    /// When the disk fails, or the log failed before. Any error is final.
    pub fn seal(&mut self) -> Result<(), TlogError> {
        self.guarded(|tlog| {
            if tlog.sealed || !tlog.group.is_empty() {
                return Ok(());
            }
            record::encode_sealed(&mut tlog.group);
            tlog.segment.write(&mut tlog.group)?;
            tlog.group.clear();
            tlog.sealed = true;
            Ok(())
        })
    }

    /// The bytes that wait for the next [`Tlog::sync`].
    pub fn unsynced_bytes(&self) -> usize {
        self.group.len()
    }

    /// What keeps this log small. Only one must be used.
    pub fn upkeep(&self) -> Upkeep {
        Upkeep::new(Arc::clone(&self.place), self.reader(), self.options)
    }

    /// Reads what is durable.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// After an error nobody knows what is on the disk, so that nothing may follow it.
    fn guarded(&mut self, act: impl FnOnce(&mut Self) -> Result<(), TlogError>) -> Result<(), TlogError> {
        if self.failed {
            return Err(TlogError::Failed);
        }
        let outcome = act(self);
        self.failed = outcome.is_err();
        outcome
    }

    fn is_unwritten(&self) -> bool {
        self.written_at.is_none() && !self.group.is_empty()
    }

    fn append_one(&mut self, record: &Record) -> Result<(), TlogError> {
        assert!(self.written_at.is_none(), "a group that was written takes no more records");
        let start = offset_in_segment(self.group.len() as u64);
        record::encode(record, &mut self.group)?;
        if self.group.len() > UNSYNCED_BYTES_MAX {
            return Err(TlogError::TooLarge { bytes: self.group.len(), max: UNSYNCED_BYTES_MAX });
        }
        if let Record::Accepted(slot_entry) = record {
            self.group_slots.push((slot_entry.slot, start));
        }
        self.appended.add_record(record);
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), TlogError> {
        let has_room = self.segment.written() + self.group.len() as u64 <= self.options.segment_bytes;
        // A group that fits into no segment gets a longer one for itself.
        if !has_room && self.segment.written() > HEADER_BYTES {
            self.roll()?;
        }
        self.written_at = Some(offset_in_segment(self.segment.written()));
        self.segment.write(&mut self.group)
    }

    fn sync_group(&mut self) -> Result<(), TlogError> {
        let Some(at) = self.written_at.take() else { return Ok(()) };
        self.segment.sync()?;
        self.sealed = false;
        self.group.clear();
        self.durable.clone_from(&self.appended);

        let mut state = self.reader.state();
        let segment = self.segment.number;
        for (slot, start) in self.group_slots.drain(..) {
            state.index.insert(slot, Location { segment, offset: at + start });
        }
        if let Some(held) = state.segments.get_mut(&segment) {
            held.bytes = self.segment.reserved();
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), TlogError> {
        let number = self.segment.number;
        let next = number.checked_add(1).ok_or(TlogError::OutOfNumbers(number))?;
        let bytes = self.segment.close()?;
        let accepted_before = Some(self.durable.accepted_upto);
        let header = Header { previous_bytes: bytes, checkpoint: self.durable.clone() };
        self.segment = Segment::create(&self.place, next, &header)?;
        let mut state = self.reader.state();
        if let Some(closed) = state.segments.get_mut(&number) {
            (closed.bytes, closed.len) = (bytes, Some(bytes));
        }
        let reserved = self.segment.reserved();
        state.segments.insert(next, Held { bytes: reserved, len: Some(reserved), is_archived: false, accepted_before });
        Ok(())
    }
}

/// Opens the segment that the log goes on in, durable as it is, and says whether it is sealed. Keeps `segments` right.
fn open_tail(
    place: &Place,
    tail: Tail,
    checkpoint: &Checkpoint,
    segments: &mut BTreeMap<u32, Held>,
) -> Result<(Segment, bool), TlogError> {
    let (segment, sealed) = match tail {
        Tail::Continue { number, end, cut, sealed } => {
            let is_left = cut && planted!(place.planted, TornTailLeft);
            let end = if is_left { segments.get(&number).and_then(|held| held.len).unwrap_or(end) } else { end };
            (Segment::reopen(place, number, end, cut && !is_left)?, sealed)
        }
        Tail::Fresh { number, last } => {
            if let Some((last, end)) = last {
                let segment = Segment::reopen(place, last, end.unwrap_or(0), end.is_some())?;
                hold(segments, last, segment.reserved(), None);
            }
            (Segment::create(place, number, &header(number, checkpoint, segments))?, true)
        }
        Tail::Recreate { number } => {
            let path = place.path(number);
            place.disk.remove(&path).map_err(io_error("remove", &path))?;
            (Segment::create(place, number, &header(number, checkpoint, segments))?, true)
        }
    };
    // The last process may have died between creating a file and making its name durable.
    place.sync_names()?;
    hold(segments, segment.number, segment.reserved(), Some(checkpoint.accepted_upto));
    Ok((segment, sealed))
}

/// Notes the length of a segment that has a new one, or is new and begins after `accepted_before`.
fn hold(segments: &mut BTreeMap<u32, Held>, number: u32, bytes: u64, accepted_before: Option<Slot>) {
    let held = Held { bytes, len: Some(bytes), is_archived: false, accepted_before };
    let held = segments.entry(number).or_insert(held);
    (held.bytes, held.len) = (bytes, Some(bytes));
    held.accepted_before = held.accepted_before.or(accepted_before);
}

/// The header of a segment that comes after all of these.
fn header(number: u32, checkpoint: &Checkpoint, segments: &BTreeMap<u32, Held>) -> Header {
    let before = number.checked_sub(1).and_then(|before| segments.get(&before));
    Header { previous_bytes: before.and_then(|held| held.len).unwrap_or(0), checkpoint: checkpoint.clone() }
}

fn offset_in_segment(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("segments and groups are limited to 1 GiB each")
}
