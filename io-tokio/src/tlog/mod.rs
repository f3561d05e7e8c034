//! The transaction log: what this node promised and accepted, durable before anybody is told.
//!
//! A directory of segments (`segment.rs`) full of checksummed records (`record.rs`), appended in groups of one write
//! and one sync each. `scan.rs` says how a torn tail is told from damage, `recovery.rs` what either means for the node.
//!
//! ```text
//! engine --Persist--> LogWriter --group--> Tlog --> Disk
//!        <-Persisted-             (index)
//! peers, store  <--entries-- LogReader
//! ```

mod error;
mod index;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trialbay_engine::{HistoryHash, Record, Slot};

pub use self::error::TlogError;
pub use self::reader::{Entries, LogReader, LogUsage};
pub use self::recovery::{Damage, Note, RecoveredLog};
pub use self::scan::BadFrame;
pub use self::segment::Identity;
pub use self::writer::{LogEvent, LogWriter, OnLogEvent};

use self::error::io_error;
use self::index::Location;
use self::recovery::Tail;
use self::segment::{HEADER_BYTES, Segment, file_name};
use crate::disk::Disk;

/// The most that may wait for one sync; with it, every offset in a segment fits into 32 bits.
const UNSYNCED_BYTES_MAX: usize = 1 << 30;

/// How much of a segment is reserved at a time: little enough to cost a small cluster nothing, enough to make growth rare.
const RESERVE_BYTES: u64 = 8 << 20;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct TlogOptions {
    /// A segment that would grow longer is closed first, and a new one begun. At most 1 GiB.
    pub segment_bytes: u64,
}

/// A transaction log, opened for writing. Single-threaded and blocking: [`LogWriter`] gives it a thread.
pub struct Tlog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    segment_bytes: u64,
    reserve_bytes: u64,
    segment: Segment,
    /// Frames that wait for the next sync. Its memory is used again and again.
    group: Vec<u8>,
    /// The slots in `group`, and where in it they begin.
    group_slots: Vec<(Slot, u32)>,
    sealed: bool,
    failed: bool,
    reader: LogReader,
}

impl Default for TlogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
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
        identity.check()?;
        let dir = home.join("tlogs");
        disk.create_dir(&dir).map_err(io_error("create", &dir))?;
        disk.sync_dir(home).map_err(io_error("sync", home))?;
        let segment_bytes = options.segment_bytes.min(UNSYNCED_BYTES_MAX as u64);
        let reserve_bytes = segment_bytes.min(RESERVE_BYTES);
        let mut survey = recovery::survey(&*disk, &dir, &identity, store_applied)?;

        let mut segments = std::mem::take(&mut survey.segments);
        let (segment, sealed) = open_tail(
            &*disk,
            &dir,
            &identity,
            survey.tail,
            reserve_bytes,
            &mut |number, bytes| {
                segments.insert(number, bytes);
            },
        )?;
        let index = survey.take_index();
        let reader = LogReader::new(Arc::clone(&disk), dir.clone(), identity.clone(), index, segments);
        let recovered = survey.conclude(&reader)?;
        let mut tlog = Self {
            disk,
            dir,
            identity,
            segment_bytes,
            reserve_bytes,
            segment,
            group: Vec::new(),
            group_slots: Vec::new(),
            sealed,
            failed: false,
            reader,
        };
        tlog.seal()?;
        Ok((tlog, recovered))
    }

    /// Adds records to the group that the next [`Tlog::sync`] writes.
    ///
    /// # Errors
    /// When a record or the group is beyond its limit, or the log failed before. Any error is final.
    pub fn append(&mut self, records: &[Record]) -> Result<(), TlogError> {
        self.guarded(|tlog| records.iter().try_for_each(|record| tlog.append_one(record)))
    }

    /// Writes what was appended, and makes it durable.
    ///
    /// # Errors
    /// When the disk fails, or the log failed before. Any error is final.
    pub fn sync(&mut self) -> Result<(), TlogError> {
        self.guarded(|tlog| {
            if tlog.group.is_empty() {
                Ok(())
            } else {
                tlog.write_group()
            }
        })
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

    fn append_one(&mut self, record: &Record) -> Result<(), TlogError> {
        let start = offset_in_segment(self.group.len() as u64);
        record::encode(record, &mut self.group)?;
        if self.group.len() > UNSYNCED_BYTES_MAX {
            return Err(TlogError::TooLarge {
                bytes: self.group.len(),
                max: UNSYNCED_BYTES_MAX,
            });
        }
        if let Record::Accepted(slot_entry) = record {
            self.group_slots.push((slot_entry.slot, start));
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), TlogError> {
        let has_room = self.segment.written() + self.group.len() as u64 <= self.segment_bytes;
        // A group that fits into no segment gets a longer one for itself.
        if !has_room && self.segment.written() > HEADER_BYTES {
            self.roll()?;
        }
        let at = offset_in_segment(self.segment.written());
        self.segment.write(&mut self.group)?;
        self.segment.sync()?;
        self.sealed = false;
        self.group.clear();

        let mut state = self.reader.state();
        let segment = self.segment.number;
        for (slot, start) in self.group_slots.drain(..) {
            state.index.insert(
                slot,
                Location {
                    segment,
                    offset: at + start,
                },
            );
        }
        state.segments.insert(segment, self.segment.reserved());
        Ok(())
    }

    fn roll(&mut self) -> Result<(), TlogError> {
        let number = self.segment.number;
        let next = number.checked_add(1).ok_or(TlogError::OutOfNumbers(number))?;
        let bytes = self.segment.close()?;
        self.segment = Segment::create(&*self.disk, &self.dir, &self.identity, next, bytes, self.reserve_bytes)?;
        let mut state = self.reader.state();
        state.segments.insert(number, bytes);
        state.segments.insert(next, self.segment.reserved());
        Ok(())
    }
}

/// Opens the segment that the log goes on in, durable as it is, and says whether it is sealed; tells `resized` what
/// length each file has that was changed.
fn open_tail(
    disk: &dyn Disk,
    dir: &Path,
    identity: &Identity,
    tail: Tail,
    reserve_bytes: u64,
    resized: &mut dyn FnMut(u32, u64),
) -> Result<(Segment, bool), TlogError> {
    let (segment, sealed) = match tail {
        Tail::Continue {
            number,
            end,
            cut,
            sealed,
        } => {
            let segment = Segment::reopen(disk, dir, identity, number, end, cut, reserve_bytes)?;
            (segment, sealed)
        }
        Tail::Fresh { number, last } => {
            let mut previous_bytes = 0;
            if let Some((last, end)) = last {
                let segment = Segment::reopen(
                    disk,
                    dir,
                    identity,
                    last,
                    end.unwrap_or(0),
                    end.is_some(),
                    reserve_bytes,
                )?;
                previous_bytes = segment.reserved();
                resized(last, previous_bytes);
            }
            (
                Segment::create(disk, dir, identity, number, previous_bytes, reserve_bytes)?,
                true,
            )
        }
        Tail::Recreate { number } => {
            let path = dir.join(file_name(number));
            disk.remove(&path).map_err(io_error("remove", &path))?;
            let previous_bytes = match number.checked_sub(1) {
                Some(previous) => size_of(disk, &dir.join(file_name(previous)))?,
                None => 0,
            };
            (
                Segment::create(disk, dir, identity, number, previous_bytes, reserve_bytes)?,
                true,
            )
        }
    };
    // The last process may have died between creating a file and making its name durable.
    disk.sync_dir(dir).map_err(io_error("sync", dir))?;
    resized(segment.number, segment.reserved());
    Ok((segment, sealed))
}

/// The length of a file; 0 when there is none.
fn size_of(disk: &dyn Disk, path: &Path) -> Result<u64, TlogError> {
    match disk.open_to_read(path).and_then(|file| file.size()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        outcome => outcome.map_err(io_error("read", path)),
    }
}

fn offset_in_segment(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("segments and groups are limited to 1 GiB each")
}

#[cfg(test)]
mod unit_tests {
    use super::testing::*;
    use super::*;

    fn write(tlog: &mut Tlog, records: &[Record]) {
        tlog.append(records).unwrap();
        tlog.sync().unwrap();
    }

    #[test]
    fn a_group_is_one_write_and_one_sync_behind_durable_names() {
        let disk = MemDisk::default();
        let (mut tlog, _) = open(&disk, 2048, NOTHING_APPLIED).unwrap();
        let created = [
            "create-dir tlogs",
            "sync-dir home",
            "create 000.tlog",
            "allocate 000.tlog 0..2048",
            "write 000.tlog 0..512",
            "sync 000.tlog",
            "sync-dir tlogs",
            "sync-dir tlogs",
        ];
        assert_eq!(disk.take_calls(), created);

        tlog.append(&[accepted(1, 1, &[0; 100]), accepted(2, 1, &[0; 100])])
            .unwrap();
        tlog.append(&[Record::Promised(ballot(2))]).unwrap();
        assert_eq!(disk.take_calls(), [""; 0]);
        tlog.sync().unwrap();
        assert_eq!(disk.take_calls(), ["write 000.tlog 512..802", "sync 000.tlog"]);
        tlog.sync().unwrap();
        tlog.seal().unwrap();
        tlog.seal().unwrap();
        assert_eq!(disk.take_calls(), ["write 000.tlog 802..816"]);
    }

    #[test]
    fn a_segment_is_closed_for_good_before_the_next_one_exists() {
        let disk = MemDisk::default();
        let (mut tlog, _) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
        write(&mut tlog, &[accepted(1, 1, &[1; 300])]);
        disk.take_calls();
        write(&mut tlog, &[accepted(2, 1, &[2; 300])]);
        let calls = [
            "truncate 000.tlog 845",
            "sync 000.tlog",
            "create 001.tlog",
            "allocate 001.tlog 0..1024",
            "write 001.tlog 0..512",
            "sync 001.tlog",
            "sync-dir tlogs",
            "write 001.tlog 512..845",
            "sync 001.tlog",
        ];
        assert_eq!(disk.take_calls(), calls);
        assert_eq!(
            tlog.reader().usage(),
            LogUsage {
                segments: 2,
                bytes: 845 + 1024
            }
        );
        // Exactly full is not too full.
        write(&mut tlog, &[accepted(3, 1, &[3; 146])]);
        assert_eq!(tlog.reader().usage().segments, 2);
        write(&mut tlog, &[Record::Promised(ballot(3))]);
        assert_eq!(tlog.reader().usage().segments, 3);
        assert_eq!(
            open(&disk, 1024, NOTHING_APPLIED).unwrap().1.recovered.undecided.len(),
            3
        );
    }

    #[test]
    fn a_record_longer_than_a_segment_gets_one_for_itself() {
        let disk = MemDisk::default();
        let (mut tlog, _) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
        let entries = [entry(1, 1, b"small"), entry(2, 1, &[2; 5000]), entry(3, 1, b"small")];
        for entry in &entries {
            write(&mut tlog, &[Record::Accepted(entry.clone())]);
        }
        let image = disk.image();
        assert_eq!(image.len(), 3);
        assert_eq!(image["001.tlog"].len(), 512 + 33 + 5000);
        let (tlog, found) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
        assert_eq!(
            (&found.damage[..], &found.recovered.undecided[..]),
            (&[][..], &entries[..])
        );
        assert_eq!(tlog.reader().read(Slot(1), Slot(3), usize::MAX).unwrap(), entries);
    }

    #[test]
    fn a_slot_accepted_again_in_a_higher_ballot_has_its_last_value() {
        let disk = MemDisk::default();
        let (mut tlog, _) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
        write(
            &mut tlog,
            &[accepted(1, 1, b"old"), accepted(2, 1, b"old"), accepted(3, 1, b"old")],
        );
        write(
            &mut tlog,
            &[accepted(2, 2, b"new"), accepted(3, 2, b"new"), accepted(3, 3, b"newer")],
        );
        let expected = [entry(1, 1, b"old"), entry(2, 2, b"new"), entry(3, 3, b"newer")];
        assert_eq!(tlog.reader().read(Slot(1), Slot(9), usize::MAX).unwrap(), expected);
        let found = open(&disk, 1024, NOTHING_APPLIED).unwrap().1;
        assert_eq!(
            (found.recovered.undecided.as_slice(), found.recovered.promised),
            (&expected[..], ballot(3))
        );
    }

    #[test]
    fn any_error_of_the_disk_is_final() {
        for call in ["allocate", "write", "sync", "truncate", "create", "sync-dir"] {
            let disk = MemDisk::default();
            let (mut tlog, _) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
            write(&mut tlog, &[accepted(1, 1, b"one")]);
            disk.fail(call, std::io::ErrorKind::StorageFull);
            // Longer than a segment: every kind of call is needed for it.
            tlog.append(&[accepted(2, 1, &[2; 2000])]).unwrap();
            assert!(matches!(tlog.sync(), Err(TlogError::Io { .. })), "{call}");
            disk.fail("nothing", std::io::ErrorKind::Other);
            assert!(matches!(tlog.sync(), Err(TlogError::Failed)), "{call}");
            assert!(matches!(tlog.append(&[]), Err(TlogError::Failed)), "{call}");
            assert!(matches!(tlog.seal(), Err(TlogError::Failed)), "{call}");
            assert_eq!(tlog.reader().log_end(), Some(Slot(1)), "{call}");
        }
    }

    #[test]
    fn an_oversized_record_is_refused_and_final() {
        let (mut tlog, _) = open(&MemDisk::default(), 1024, NOTHING_APPLIED).unwrap();
        let refused = tlog.append(&[accepted(1, 1, &vec![0; record::FRAME_BYTES_MAX])]);
        assert!(matches!(refused, Err(TlogError::TooLarge { .. })));
        assert!(matches!(tlog.sync(), Err(TlogError::Failed)));
    }

    #[test]
    fn a_log_on_a_real_disk_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let open = || {
            let options = TlogOptions { segment_bytes: 4096 };
            Tlog::open(
                Arc::new(crate::disk::RealDisk),
                home.path(),
                identity(),
                options,
                NOTHING_APPLIED,
            )
            .unwrap()
        };
        let entries: Vec<_> = (1..100).map(|slot| entry(slot, 1, &[slot as u8; 200])).collect();
        for (at, entry) in entries.iter().enumerate() {
            let (mut tlog, found) = open();
            assert_eq!((&found.damage[..], &found.notes[..]), (&[][..], &[][..]));
            assert_eq!(found.recovered.undecided, entries[..at]);
            write(&mut tlog, &[Record::Accepted(entry.clone())]);
        }
        let (tlog, _) = open();
        assert_eq!(
            tlog.reader()
                .entries(Slot(1), Slot(99))
                .collect::<Result<Vec<_>, _>>()
                .unwrap(),
            entries
        );
    }
}
