//! A log, looked at without a node: what a start would make of it, and record by record. Changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use trialbay_engine::{HistoryHash, Record, Slot};

use super::archive::{Archive, LogFile};
use super::error::{TlogError, io_error};
use super::reader::LogReader;
use super::record::Content;
use super::recovery::{self, Damage, RecoveredLog};
use super::scan::{BadFrame, Ending, Scan, Visitor};
use super::segment;
use crate::disk::Disk;
use crate::identity::Identity;

/// Where the log of a node is that does not run.
pub struct Place(segment::Place);

/// What a start would make of a log.
pub struct Inspection {
    /// Its segments, in order.
    pub segments: Vec<SegmentView>,
    /// What the node would be told.
    pub log: RecoveredLog,
    /// Reads its entries.
    pub reader: LogReader,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentView {
    /// Its number.
    pub segment: u32,
    /// Whether it is an archive.
    pub is_compressed: bool,
    /// What its file takes.
    pub file_bytes: u64,
    /// Its length; `None` when it is an archive that cannot be read.
    pub bytes: Option<u64>,
    /// How many sound records it has.
    pub records: u64,
    /// The first and the last of the slots in which something was accepted.
    pub slots: Option<(Slot, Slot)>,
    /// Whether it ends with a seal.
    pub is_sealed: bool,
    /// How many damaged places it has.
    pub damage: usize,
}

/// What stands at one place of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A record.
    Record(Record),
    /// What was before it was durable.
    Sealed,
    /// The store is about to take this state.
    HeadAnnounced {
        /// The slot.
        slot: Slot,
        /// The history hash there.
        hash: HistoryHash,
    },
    /// Something that cannot be read.
    Damaged {
        /// What is wrong.
        why: String,
    },
}

/// Hears of each record, with its segment and its place in that.
type OnRecord<'a> = &'a mut dyn FnMut(u32, u64, Logged) -> io::Result<()>;

impl Place {
    /// The log in a node's home.
    ///
    /// # Errors
    /// When the names in the identity are longer than those of any log.
    pub fn new(disk: Arc<dyn Disk>, home: &Path, identity: Identity) -> Result<Self, TlogError> {
        identity.check()?;
        Ok(Self(segment::Place {
            disk,
            dir: home.join("tlogs"),
            identity,
            reserve_bytes: 0,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }))
    }

    /// Reads all of the log, as a start does with a store that has applied this much.
    ///
    /// # Errors
    /// As for a start: see [`super::Tlog::open`].
    pub fn inspect(self, store_applied: (Slot, HistoryHash)) -> Result<Inspection, TlogError> {
        let place = Arc::new(self.0);
        let mut survey = recovery::survey(&place, store_applied)?;
        let tallies = std::mem::take(&mut survey.tallies);
        let segments = survey.take_segments();
        let reader = LogReader::new(place, survey.take_index(), segments.clone());
        let log = survey.conclude(&reader)?.log;
        let damage_of = |segment| {
            let is_there = |damage: &&Damage| damage.place().is_some_and(|(place, _)| place == segment);
            log.damage.iter().filter(is_there).count()
        };
        let segments = segments.into_iter().zip(tallies.into_values()).map(|((segment, held), tally)| SegmentView {
            segment,
            is_compressed: held.is_archived,
            file_bytes: held.bytes,
            bytes: held.len,
            records: tally.records,
            slots: tally.slots,
            is_sealed: tally.sealed,
            damage: damage_of(segment),
        });
        Ok(Inspection { segments: segments.collect(), log, reader })
    }

    /// Tells of every record, in order, and of what cannot be read.
    ///
    /// # Errors
    /// When a file belongs to another node or to a newer version, cannot be read, or `on_record` fails.
    pub fn records(&self, on_record: OnRecord<'_>) -> Result<(), TlogError> {
        let forms = recovery::files_in(&self.0)?.forms;
        let last = forms.last_key_value().map(|(number, _)| *number);
        for (number, is_archived) in forms {
            self.records_of(number, is_archived, Some(number) == last, on_record)?;
        }
        Ok(())
    }

    fn records_of(
        &self,
        segment: u32,
        is_archived: bool,
        is_last: bool,
        on_record: OnRecord<'_>,
    ) -> Result<(), TlogError> {
        let place = &self.0;
        let path = if is_archived { place.archive_path(segment) } else { place.path(segment) };
        let mut tell = Teller { segment, path: &path, on_record };
        let file = place.disk.open_to_read(&path).map_err(io_error("open", &path))?;
        let file = if is_archived {
            match Archive::open(file, place.salt(segment), &path)? {
                Some(archive) => LogFile::Archive(archive.into()),
                None => return tell.damaged(0, "the archive cannot be read".to_owned()),
            }
        } else {
            LogFile::Segment(file)
        };
        let mut scan = Scan::new(file, &path, place.salt(segment))?;
        if place.identity.check_header(scan.header_bytes()?, segment, &path)?.is_none() {
            tell.damaged(0, "the header is damaged".to_owned())?;
        }
        let scanned = scan.run(is_last, &mut tell)?;
        match scanned.ending {
            Ending::Clean => Ok(()),
            Ending::Torn => tell.damaged(scanned.end, "a write was not finished here".to_owned()),
            Ending::Unsearched => tell.damaged(scanned.end, "everything behind this is lost".to_owned()),
        }
    }
}

struct Teller<'a, 'r> {
    segment: u32,
    path: &'a Path,
    on_record: OnRecord<'r>,
}

impl Teller<'_, '_> {
    fn tell(&mut self, offset: u64, what: Logged) -> Result<(), TlogError> {
        (self.on_record)(self.segment, offset, what).map_err(io_error("print what is in", self.path))
    }

    fn damaged(&mut self, offset: u64, why: String) -> Result<(), TlogError> {
        self.tell(offset, Logged::Damaged { why })
    }
}

impl Visitor for Teller<'_, '_> {
    fn record(&mut self, offset: u64, content: Content) -> Result<(), TlogError> {
        self.tell(
            offset,
            match content {
                Content::Record(record) => Logged::Record(record),
                Content::Sealed => Logged::Sealed,
                Content::HeadAnnounced { slot, hash } => Logged::HeadAnnounced { slot, hash },
            },
        )
    }

    fn damage(&mut self, offset: u64, why: BadFrame) {
        // What cannot be printed here cannot be at the next record either.
        let _ = self.damaged(offset, why.to_string());
    }
}
