//! What a log remembers when a node starts.
//!
//! Every byte of every segment is read and checked once (`scan.rs`). Damage is never cut off and never written over:
//! it is listed, the records behind it are used, and new ones go to a new segment. Whether it costs the node its vote
//! is decided here:
//!
//! * records lost after the last `MemoryBegan` may have been promises or acceptances that others rely on: the memory
//!   is gone (`Recovered::memory` is `None`), and the engine begins a new life without a vote (rule V1). That counts from
//!   `MemoryBegan`, not from `VoteRegained`: what a node accepted without a vote it acknowledges once it has one;
//! * damage wholly before that record is listed and costs nothing: what an earlier life knew does not count any more;
//! * nor does damage before a segment whose header says that all before it accepted nothing above the store's slot: the
//!   header has what else there was. That could have been removed as well (`upkeep.rs`), and a log may begin there;
//! * a log that ends before the slot that the store has applied was lost, or cut, and so is the memory;
//! * entries before a damaged place are not used, neither for the store nor for peers: a lost record may have been a
//!   newer entry of any slot;
//! * entries behind a gap in the slots are of no use to the engine. Dropping those of the present life is forgetting them:
//!   no memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trialbay_engine::{HistoryHash, Record, Recovered, Slot, SlotEntry};

use super::archive::{Archive, LogFile};
use super::checkpoint::Checkpoint;
use super::error::{TlogError, io_error};
use super::index::{Index, Location};
use super::reader::{Held, LogReader};
use super::record::Content;
use super::scan::{BadFrame, Ending, Scan, Scanned, Visitor};
use super::segment::{ARCHIVE, HEADER_BYTES, Header, NEW_ARCHIVE, Place, SEGMENT, number_in};

/// How many damaged places are told one by one.
const DAMAGE_LISTED_MAX: usize = 256;
/// The engine's window keeps the undecided entries far below this.
const UNDECIDED_BYTES_MAX: usize = 256 << 20;

/// What was found in a log at its opening.
#[derive(Debug)]
pub struct RecoveredLog {
    /// What the engine is to be told, once the store has replayed everything up to `decided_upto` from the log.
    pub recovered: Recovered,
    /// What is wrong with the log; empty when nothing is.
    pub damage: Vec<Damage>,
    /// What is worth a line in the node's output, and harmless.
    pub notes: Vec<Note>,
}

/// One thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A record was there once and cannot be read now. What follows is the next sound record, if there is any.
    #[error("tlog segment {segment:03}, byte {offset}: a record is lost, {why}")]
    Record {
        /// The segment.
        segment: u32,
        /// Where the record was.
        offset: u64,
        /// What is there instead.
        why: BadFrame,
    },
    /// The header of a segment cannot be read.
    #[error("tlog segment {segment:03}: the header is damaged")]
    Header {
        /// The segment.
        segment: u32,
    },
    /// What tells where an archive has what is damaged: all records in it are lost.
    #[error("tlog segment {segment:03}: its archive is damaged and cannot be read")]
    Archive {
        /// The segment.
        segment: u32,
    },
    /// A block of an archive is damaged; the records that are lost with it are listed as well.
    #[error("tlog segment {segment:03}, byte {offset}: this block of its archive is damaged")]
    Block {
        /// The segment.
        segment: u32,
        /// Where in the segment the block begins.
        offset: u64,
    },
    /// Segments are missing.
    #[error("tlog segments {first:03} to {last:03} are missing")]
    Missing {
        /// The first one.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// A closed segment does not have the length that it was closed with.
    #[error("tlog segment {segment:03} has {found} bytes and was closed with {expected}")]
    Length {
        /// The segment.
        segment: u32,
        /// What the next segment's header says.
        expected: u64,
        /// Its length.
        found: u64,
    },
    /// The log's old segments were removed, and the store lacks what was in them.
    #[error(
        "the tlog begins behind {accepted_before} and the store has applied {store_applied}: the store was lost or is an old one, or tlog segments were lost"
    )]
    StoreBehindLog {
        /// The last slot in which the removed segments accepted anything.
        accepted_before: Slot,
        /// The store's last slot.
        store_applied: Slot,
    },
    /// Behind a damaged place is so much that looks like records, and is not, that the search was given up.
    #[error("tlog segment {segment:03}, byte {offset}: everything from here to the end of the segment is lost")]
    Unsearched {
        /// The segment.
        segment: u32,
        /// Where it begins.
        offset: u64,
    },
    /// The store has applied more than the log ever held: the log, or its end, was lost while the store remained.
    #[error(
        "the tlog ends at {log_end} and the store has applied {store_applied}: the log was lost, wholly or in part"
    )]
    LogBehindStore {
        /// The last slot that the log knows of.
        log_end: Slot,
        /// The store's last slot.
        store_applied: Slot,
    },
    /// Not every slot above the store's is in the log; what lies behind the gap cannot be used.
    #[error("the tlog lacks slots between {after} and {upto}: what it holds above {after} is not used")]
    Gap {
        /// The last slot that can be used.
        after: Slot,
        /// The last slot that the log knows of.
        upto: Slot,
    },
}

/// Something harmless that was found, and done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// The log ended with a group of records whose write was never finished. It was cut off: nobody was told of it.
    #[error("tlog segment {segment:03}: an unfinished write of {bytes} bytes at byte {offset} was cut off")]
    TornTail {
        /// The segment.
        segment: u32,
        /// Where the segment ends now.
        offset: u64,
        /// How many bytes were cut off, the reserve behind them included.
        bytes: u64,
    },
    /// The last segment's creation was never finished, so there were no records in it; it was created anew.
    #[error("tlog segment {segment:03}: its creation was not finished; it was created anew")]
    Recreated {
        /// The segment.
        segment: u32,
    },
    /// More damaged places than are listed.
    #[error("{count} more damaged places of the tlog are not listed")]
    MoreDamage {
        /// How many.
        count: u64,
    },
}

/// How the log goes on after its opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// In the last segment.
    Continue { number: u32, end: u64, cut: bool, sealed: bool },
    /// In a segment that does not exist yet. The last one ends at `end` (`None`: is left as it is).
    Fresh { number: u32, last: Option<(u32, Option<u64>)> },
    /// In the last segment, which has to be created anew.
    Recreate { number: u32 },
}

/// What was found in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) records: u64,
    /// The first and the last of the slots in which something was accepted.
    pub(super) slots: Option<(Slot, Slot)>,
    /// Whether it ends with a seal.
    pub(super) sealed: bool,
}

/// What all segments together say.
pub(super) struct Survey {
    pub(super) segments: BTreeMap<u32, Held>,
    pub(super) tallies: BTreeMap<u32, Tally>,
    pub(super) tail: Tail,
    findings: Findings,
    leftovers: Vec<PathBuf>,
}

/// The files of a log.
pub(super) struct Files {
    /// Which segments there are, and whether each is compressed.
    pub(super) forms: BTreeMap<u32, bool>,
    /// Archives that were not finished, or whose segments are still there.
    leftovers: Vec<PathBuf>,
}

/// The conclusions.
pub(super) struct Conclusion {
    pub(super) log: RecoveredLog,
    /// What the log goes on from. No memory that is lost comes back.
    pub(super) checkpoint: Checkpoint,
    /// The store took a head of which the log knows nothing but that it was announced.
    pub(super) took_head: bool,
}

/// What the records say, in the order in which they were written.
struct Findings {
    store: (Slot, HistoryHash),
    checkpoint: Checkpoint,
    /// Segment and offset of the last `MemoryBegan`; `None` too when that was removed, and all damage stands behind it.
    began_at: Option<(u32, u64)>,
    /// The last slot that the present life accepted.
    accepted_in_life: Slot,
    /// The last head that is known to have been taken.
    took_head_upto: Slot,
    /// The last header that makes up for everything before it, as far as the store has not.
    covered_at: Option<(u32, u64)>,
    index: Index,
    damage: Vec<Damage>,
    damage_unlisted: u64,
    last_damage: Option<(u32, u64)>,
    notes: Vec<Note>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<crate::planted::PlantedBug>,
}

/// Hears what one segment holds.
struct Listener<'a> {
    findings: &'a mut Findings,
    segment: u32,
    path: &'a Path,
    damaged: bool,
    tally: Tally,
}

/// Reads and checks every segment; changes nothing.
pub(super) fn survey(place: &Place, store: (Slot, HistoryHash)) -> Result<Survey, TlogError> {
    let Files { forms, leftovers } = files_in(place)?;
    let mut findings = Findings::new(store);
    #[cfg(feature = "planted-bugs")]
    (findings.planted = place.planted);
    let (mut segments, mut tallies) = (BTreeMap::new(), BTreeMap::new());
    let mut tail = Tail::Fresh { number: 0, last: None };
    let last = forms.last_key_value().map(|(number, _)| *number);
    for (number, is_archived) in forms {
        let before = segments.last_key_value().map(|(number, held)| (*number, *held));
        let (held, tally, next) = if is_archived {
            survey_archive(place, number, before, &mut findings)?
        } else {
            survey_segment(place, number, before, Some(number) == last, &mut findings)?
        };
        segments.insert(number, held);
        tallies.insert(number, tally);
        tail = next;
        if is_archived && Some(number) == last {
            // It was closed, so another one came behind it.
            findings.missing(number + 1, number + 2);
        }
    }
    Ok(Survey { segments, tallies, tail, findings, leftovers })
}

/// Reads and checks one segment that is compressed; says as well how the log goes on if it is the last one.
fn survey_archive(
    place: &Place,
    number: u32,
    before: Option<(u32, Held)>,
    findings: &mut Findings,
) -> Result<(Held, Tally, Tail), TlogError> {
    let path = place.archive_path(number);
    let file = place.disk.open_to_read(&path).map_err(io_error("open", &path))?;
    let bytes = file.size().map_err(io_error("read", &path))?;
    let salt = place.salt(number);
    let lost = number.checked_add(1).ok_or(TlogError::OutOfNumbers(number))?;
    let fresh = lost.checked_add(1).ok_or(TlogError::OutOfNumbers(lost))?;
    let mut held = Held { bytes, len: None, is_archived: true, accepted_before: None };
    // The one that has to be between them is missing then, and stays so.
    let tail = Tail::Fresh { number: fresh, last: None };
    let Some(archive) = Archive::open(file, salt, &path)? else {
        findings.segment_begins(number, None, before);
        findings.damage_at((number, 0), Damage::Archive { segment: number });
        return Ok((held, Tally::default(), tail));
    };
    let mut scan = Scan::new(LogFile::Archive(archive.into()), &path, salt)?;
    held.len = Some(scan.file_bytes());
    let header = place.identity.check_header(scan.header_bytes()?, number, &path)?;
    findings.segment_begins(number, header.as_ref(), before);
    match header {
        None => findings.damage_at((number, 0), Damage::Header { segment: number }),
        Some(header) => {
            held.accepted_before = Some(header.checkpoint.accepted_upto);
            findings.go_on_from(number, header.checkpoint);
        }
    }
    let mut listener = Listener { findings, segment: number, path: &path, damaged: false, tally: Tally::default() };
    let Scanned { end, ending, sealed } = scan.run(false, &mut listener)?;
    let tally = Tally { sealed, ..listener.tally };
    for offset in scan.damaged_blocks() {
        findings.damage_at((number, offset), Damage::Block { segment: number, offset });
    }
    if ending == Ending::Unsearched {
        findings.damage_at((number, end), Damage::Unsearched { segment: number, offset: end });
    }
    Ok((held, tally, tail))
}

/// Reads and checks one segment; says what it takes of the disk, and how the log would go on if it is the last one.
fn survey_segment(
    place: &Place,
    number: u32,
    before: Option<(u32, Held)>,
    is_last: bool,
    findings: &mut Findings,
) -> Result<(Held, Tally, Tail), TlogError> {
    let path = place.path(number);
    let file = place.disk.open_to_read(&path).map_err(io_error("open", &path))?;
    if is_last {
        // What the last process could not sync must not be taken for durable because it can be read. A segment that is
        // not the last was closed, and its sync succeeded.
        file.settle().map_err(io_error("sync", &path))?;
    }
    let scan = Scan::new(LogFile::Segment(file), &path, place.salt(number))?;
    #[cfg(feature = "planted-bugs")]
    let scan = scan.with_planted(place.planted);
    let mut scan = scan;
    let bytes = scan.file_bytes();
    let header = place.identity.check_header(scan.header_bytes()?, number, &path)?;
    findings.segment_begins(number, header.as_ref(), before);
    let has_header = header.is_some();
    let held = Held {
        bytes,
        len: Some(bytes),
        is_archived: false,
        accepted_before: header.as_ref().map(|header| header.checkpoint.accepted_upto),
    };
    match header {
        None if is_last && scan.is_zero_from(HEADER_BYTES)? => {
            findings.notes.push(Note::Recreated { segment: number });
            return Ok((held, Tally::default(), Tail::Recreate { number }));
        }
        None => findings.damage_at((number, 0), Damage::Header { segment: number }),
        Some(header) => findings.go_on_from(number, header.checkpoint),
    }
    let tally = Tally::default();
    let mut listener = Listener { findings, segment: number, path: &path, damaged: !has_header, tally };
    let Scanned { end, ending, sealed } = scan.run(is_last, &mut listener)?;
    let (damaged, tally) = (listener.damaged, Tally { sealed, ..listener.tally });
    match ending {
        Ending::Clean => {}
        // It stays in place, and would be found damaged once the log goes on in another segment: better at once.
        Ending::Torn if !has_header => {
            findings.damage_at((number, end), Damage::Unsearched { segment: number, offset: end });
        }
        Ending::Torn => findings.notes.push(Note::TornTail { segment: number, offset: end, bytes: bytes - end }),
        Ending::Unsearched => findings.damage_at((number, end), Damage::Unsearched { segment: number, offset: end }),
    }
    let tail = if damaged {
        let number_next = number.checked_add(1).ok_or(TlogError::OutOfNumbers(number))?;
        // Only zeros, and what is known to be unfinished, may be cut off.
        let may_cut = match ending {
            Ending::Clean => true,
            Ending::Torn => has_header,
            Ending::Unsearched => false,
        };
        let end = may_cut.then_some(end);
        Tail::Fresh { number: number_next, last: Some((number, end)) }
    } else {
        Tail::Continue { number, end, cut: ending == Ending::Torn, sealed }
    };
    Ok((held, tally, tail))
}

/// What is in the log's directory.
pub(super) fn files_in(place: &Place) -> Result<Files, TlogError> {
    let names = place.disk.list(&place.dir).map_err(io_error("list", &place.dir))?;
    let numbers = |form| names.iter().filter_map(move |name| number_in(name, form));
    let mut forms: BTreeMap<u32, bool> = numbers(SEGMENT).map(|number| (number, false)).collect();
    let mut leftovers: Vec<PathBuf> = numbers(NEW_ARCHIVE).map(|number| place.new_archive_path(number)).collect();
    for number in numbers(ARCHIVE) {
        // The segment goes once its archive is whole and has its name. Where both are, nothing else was written in between.
        if !*forms.entry(number).or_insert(true) {
            leftovers.push(place.archive_path(number));
        }
    }
    Ok(Files { forms, leftovers })
}

impl Survey {
    /// Hands the segments over to who keeps them.
    pub(super) fn take_segments(&mut self) -> BTreeMap<u32, Held> {
        std::mem::take(&mut self.segments)
    }

    /// Hands over the files that are of no use.
    pub(super) fn take_leftovers(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.leftovers)
    }

    /// Hands the index over to the log's reader.
    pub(super) fn take_index(&mut self) -> Index {
        std::mem::take(&mut self.findings.index)
    }

    /// Draws the conclusions. `reader` has the index by now, and loses from it what is of no use.
    pub(super) fn conclude(self, reader: &LogReader) -> Result<Conclusion, TlogError> {
        let mut findings = self.findings;
        let store = findings.store;
        let (decided, (head, _)) = (findings.checkpoint.decided, findings.checkpoint.head);
        // Rule F2: what was accepted up to a head need not be what was decided. Neither peers nor the store may get it, not
        // even when the store that took the head was lost since.
        let void_upto = if store.0 >= head { head } else { findings.took_head_upto };
        reader.forget_upto(void_upto);
        let log_end = reader.log_end().unwrap_or(Slot::ZERO).max(decided.0);
        // Entries before a damaged place are of no use, and were there: the log did not end before them.
        let log_ended = log_end.max(findings.checkpoint.accepted_upto);
        let is_ahead = store.0 > log_ended;
        let took_head = is_ahead && store == findings.checkpoint.head;
        if is_ahead && !took_head {
            findings.damage.push(Damage::LogBehindStore { log_end: log_ended, store_applied: store.0 });
        }

        let (mut decided_upto, mut decided_hash) = if decided.0 > store.0 { decided } else { store };
        let replay_end = reader.stretch_end(store.0);
        if decided_upto > replay_end && !planted!(findings.planted, DecidedBelieved) {
            decided_upto = replay_end;
            decided_hash = reader.entries(store.0.next(), replay_end).try_fold(store.1, |hash, slot_entry| {
                slot_entry.map(|slot_entry| hash.extend(slot_entry.slot, &slot_entry.entry.value))
            })?;
        }
        let mut undecided = Vec::new();
        let mut bytes = 0;
        for slot_entry in reader.entries(decided_upto.next(), reader.stretch_end(decided_upto)) {
            let slot_entry = slot_entry?;
            bytes += slot_entry.entry.value.size();
            if bytes > UNDECIDED_BYTES_MAX {
                break;
            }
            undecided.push(slot_entry);
        }
        let usable_upto = undecided.last().map_or(decided_upto, |slot_entry| slot_entry.slot);
        if log_end > usable_upto {
            findings.damage.push(Damage::Gap { after: usable_upto, upto: log_end });
            reader.forget_after(usable_upto);
        }

        let has_damage = findings.last_damage > findings.began_at.max(findings.covered_at);
        let ends_early = is_ahead && !took_head && !planted!(findings.planted, LostTailForgiven);
        let forgets = findings.accepted_in_life.max(decided.0) > usable_upto;
        let lost = (ends_early || forgets || has_damage) && !planted!(findings.planted, DamageForgiven);
        let recovered = Recovered {
            promised: findings.checkpoint.promised,
            decided_upto,
            decided_hash,
            undecided,
            log_start: reader.stretch_start(decided_upto).unwrap_or(decided_upto.next()),
            memory: findings.checkpoint.memory.take().filter(|_| !lost),
        };
        let checkpoint = Checkpoint { memory: recovered.memory.clone(), ..findings.checkpoint };
        if findings.damage_unlisted > 0 {
            findings.notes.push(Note::MoreDamage { count: findings.damage_unlisted });
        }
        let log = RecoveredLog { recovered, damage: findings.damage, notes: findings.notes };
        Ok(Conclusion { log, checkpoint, took_head })
    }
}

impl Findings {
    fn new(store: (Slot, HistoryHash)) -> Self {
        Self {
            store,
            checkpoint: Checkpoint::default(),
            began_at: None,
            accepted_in_life: Slot::ZERO,
            took_head_upto: Slot::ZERO,
            covered_at: None,
            index: Index::default(),
            damage: Vec::new(),
            damage_unlisted: 0,
            last_damage: None,
            notes: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    fn damage_at(&mut self, position: (u32, u64), damage: Damage) {
        self.last_damage = self.last_damage.max(Some(position));
        if !matches!(damage, Damage::Header { .. }) {
            // What is lost may have been the latest record of any slot. An earlier one, of a ballot that lost, must not pass
            // for it.
            self.index = Index::default();
        }
        if self.damage.len() < DAMAGE_LISTED_MAX {
            self.damage.push(damage);
        } else {
            self.damage_unlisted += 1;
        }
    }

    /// Sees whether what stands before a segment is all there, or may be gone.
    fn segment_begins(&mut self, number: u32, header: Option<&Header>, before: Option<(u32, Held)>) {
        match (before, header) {
            (Some((before, held)), _) if before + 1 == number => {
                let expected = header.map(|header| header.previous_bytes);
                if let (Some(expected), Some(found)) = (expected, held.len)
                    && expected != found
                {
                    self.damage_at((before, found.min(expected)), Damage::Length { segment: before, expected, found });
                }
            }
            (Some((before, _)), _) => self.missing(before + 1, number),
            (None, _) if number == 0 => {}
            (None, None) => self.missing(0, number),
            (None, Some(header)) => {
                let (accepted_before, store_applied) = (header.checkpoint.accepted_upto, self.store.0);
                if accepted_before > store_applied {
                    self.damage_at((number, 0), Damage::StoreBehindLog { accepted_before, store_applied });
                }
            }
        }
    }

    fn go_on_from(&mut self, number: u32, checkpoint: Checkpoint) {
        if checkpoint.accepted_upto <= self.store.0 {
            self.covered_at = Some((number, 0));
        }
        self.checkpoint.merge(checkpoint);
    }

    /// The segments from `first` on are not there, up to the one before `number`.
    fn missing(&mut self, first: u32, number: u32) {
        self.damage_at((number - 1, 0), Damage::Missing { first, last: number - 1 });
    }

    fn add(&mut self, position: (u32, u64), location: Location, content: &Content) -> Result<(), TlogError> {
        self.checkpoint.add(content);
        if let Content::Record(Record::Decided { upto, hash }) = content
            && (*upto, *hash) == self.checkpoint.head
        {
            self.took_head_upto = *upto;
        }
        match content {
            Content::Record(Record::Accepted(SlotEntry { slot, .. })) => {
                self.index.insert(*slot, location);
                self.accepted_in_life = self.accepted_in_life.max(*slot);
            }
            Content::Record(Record::Decided { upto, hash }) if *upto == self.store.0 && *hash != self.store.1 => {
                let (slot, store) = self.store;
                return Err(TlogError::StoreAndLogDisagree { slot, store, log: *hash });
            }
            Content::Record(Record::MemoryBegan(_)) => {
                (self.began_at, self.accepted_in_life) = (Some(position), Slot::ZERO);
            }
            Content::Record(Record::Promised(_) | Record::Decided { .. } | Record::VoteRegained { .. })
            | Content::HeadAnnounced { .. }
            | Content::Sealed => {}
        }
        Ok(())
    }
}

impl Tally {
    fn add(&mut self, content: &Content) {
        self.records += 1;
        if let Content::Record(Record::Accepted(SlotEntry { slot, .. })) = content {
            let (first, last) = self.slots.unwrap_or((*slot, *slot));
            self.slots = Some((first.min(*slot), last.max(*slot)));
        }
    }
}

impl Damage {
    /// The segment, and where in it, as far as it has a place.
    pub fn place(&self) -> Option<(u32, Option<u64>)> {
        match self {
            Self::Record { segment, offset, .. }
            | Self::Block { segment, offset }
            | Self::Unsearched { segment, offset } => Some((*segment, Some(*offset))),
            Self::Header { segment } | Self::Archive { segment } | Self::Length { segment, .. } => {
                Some((*segment, None))
            }
            Self::Missing { first, .. } => Some((*first, None)),
            Self::StoreBehindLog { .. } | Self::LogBehindStore { .. } | Self::Gap { .. } => None,
        }
    }
}

impl Visitor for Listener<'_> {
    fn record(&mut self, offset: u64, content: Content) -> Result<(), TlogError> {
        let segment = self.segment;
        // A segment is rolled long before its offsets need more than 32 bits.
        self.tally.add(&content);
        let short = u32::try_from(offset).map_err(|_| TlogError::NewerFormat { path: self.path.to_owned() })?;
        self.findings.add((segment, offset), Location { segment, offset: short }, &content)
    }

    fn damage(&mut self, offset: u64, why: BadFrame) {
        self.damaged = true;
        let segment = self.segment;
        self.findings.damage_at((segment, offset), Damage::Record { segment, offset, why });
    }
}
