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
//! * a log that ends before the slot that the store has applied was lost, or cut, and so is the memory;
//! * entries before a damaged place are not used, neither for the store nor for peers: a lost record may have been a
//!   newer entry of any slot;
//! * entries behind a gap in the slots are of no use to the engine. Dropping them is forgetting them: no memory.

use std::collections::BTreeMap;
use std::path::Path;

use trialbay_engine::{Ballot, HistoryHash, Memory, Record, Recovered, Slot};

use super::error::{TlogError, io_error};
use super::index::{Index, Location};
use super::reader::LogReader;
use super::record::Content;
use super::scan::{BadFrame, Ending, Scan, Scanned, Visitor};
use super::segment::{HEADER_BYTES, Place, number_in};

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

/// What all segments together say.
pub(super) struct Survey {
    segments: BTreeMap<u32, u64>,
    pub(super) tail: Tail,
    findings: Findings,
}

/// What the records say, in the order in which they were written.
struct Findings {
    store: (Slot, HistoryHash),
    promised: Ballot,
    decided: (Slot, HistoryHash),
    memory: Option<Memory>,
    /// Segment and offset of the last `MemoryBegan`.
    began_at: Option<(u32, u64)>,
    index: Index,
    /// The last slot of which there ever was an entry.
    seen_upto: Slot,
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
}

/// Reads and checks every segment; changes nothing.
pub(super) fn survey(place: &Place, store: (Slot, HistoryHash)) -> Result<Survey, TlogError> {
    let numbers = numbers_in(place)?;
    let mut findings = Findings::new(store);
    #[cfg(feature = "planted-bugs")]
    (findings.planted = place.planted);
    let mut segments = BTreeMap::new();
    let mut tail = Tail::Fresh { number: 0, last: None };
    let mut expected = Some(0);
    for number in &numbers {
        let first_missing = expected.filter(|expected| expected != number);
        if let (Some(first), Some(last)) = (first_missing, number.checked_sub(1)) {
            findings.damage_at((last, 0), Damage::Missing { first, last });
        }
        let before = number.checked_sub(1).and_then(|before| segments.get(&before).copied());
        let is_last = numbers.last() == Some(number);
        let (bytes, next) = survey_segment(place, *number, before, is_last, &mut findings)?;
        segments.insert(*number, bytes);
        tail = next;
        expected = number.checked_add(1);
    }
    Ok(Survey { segments, tail, findings })
}

/// Reads and checks one segment; gives its length on disk, and how the log would go on if it is the last one.
fn survey_segment(
    place: &Place,
    number: u32,
    before: Option<u64>,
    is_last: bool,
    findings: &mut Findings,
) -> Result<(u64, Tail), TlogError> {
    let path = place.path(number);
    let file = place.disk.open_to_read(&path).map_err(io_error("open", &path))?;
    if is_last {
        // What the last process could not sync must not be taken for durable because it can be read. A segment that is
        // not the last was closed, and its sync succeeded.
        file.settle().map_err(io_error("sync", &path))?;
    }
    let scan = Scan::new(file, &path, place.salt(number))?;
    #[cfg(feature = "planted-bugs")]
    let scan = scan.with_planted(place.planted);
    let mut scan = scan;
    let bytes = scan.file_bytes();
    let header = place.identity.check_header(scan.header_bytes()?, number, &path)?;
    match header {
        None if is_last && scan.is_zero_from(HEADER_BYTES)? => {
            findings.notes.push(Note::Recreated { segment: number });
            return Ok((bytes, Tail::Recreate { number }));
        }
        None => findings.damage_at((number, 0), Damage::Header { segment: number }),
        Some(header) => {
            if let Some(found) = before.filter(|before| *before != header.previous_bytes) {
                let (segment, expected) = (number - 1, header.previous_bytes);
                findings.damage_at((segment, found.min(expected)), Damage::Length { segment, expected, found });
            }
        }
    }
    let mut listener = Listener { findings, segment: number, path: &path, damaged: header.is_none() };
    let Scanned { end, ending, sealed } = scan.run(is_last, &mut listener)?;
    let damaged = listener.damaged;
    match ending {
        Ending::Clean => {}
        // It stays in place, and would be found damaged once the log goes on in another segment: better at once.
        Ending::Torn if header.is_none() => {
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
            Ending::Torn => header.is_some(),
            Ending::Unsearched => false,
        };
        let end = may_cut.then_some(end);
        Tail::Fresh { number: number_next, last: Some((number, end)) }
    } else {
        Tail::Continue { number, end, cut: ending == Ending::Torn, sealed }
    };
    Ok((bytes, tail))
}

/// The numbers of all segments, in order.
fn numbers_in(place: &Place) -> Result<Vec<u32>, TlogError> {
    let names = place.disk.list(&place.dir).map_err(io_error("list", &place.dir))?;
    // Closed segments are to be compressed one day. Not to see them would be to take them for lost.
    if let Some(name) = names.iter().find(|name| name.ends_with(".tlx")) {
        return Err(TlogError::NewerFormat { path: place.dir.join(name) });
    }
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_in(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

impl Survey {
    /// Hands the lengths of the segments over to who keeps them.
    pub(super) fn take_segments(&mut self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut self.segments)
    }

    /// Hands the index over to the log's reader.
    pub(super) fn take_index(&mut self) -> Index {
        std::mem::take(&mut self.findings.index)
    }

    /// Draws the conclusions. `reader` has the index by now, and loses from it what is of no use.
    pub(super) fn conclude(self, reader: &LogReader) -> Result<RecoveredLog, TlogError> {
        let mut findings = self.findings;
        let store = findings.store;
        let log_end = reader.log_end().unwrap_or(Slot::ZERO).max(findings.decided.0);
        // Entries before a damaged place are of no use, and were there: the log did not end before them.
        let log_ended = log_end.max(findings.seen_upto);
        if store.0 > log_ended {
            findings.damage.push(Damage::LogBehindStore { log_end: log_ended, store_applied: store.0 });
        }

        let (mut decided_upto, mut decided_hash) = if findings.decided.0 > store.0 { findings.decided } else { store };
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
        let has_gap = log_end > usable_upto;
        if has_gap {
            findings.damage.push(Damage::Gap { after: usable_upto, upto: log_end });
            reader.forget_after(usable_upto);
        }

        let has_damage = findings.last_damage > findings.began_at;
        let ends_early = store.0 > log_ended && !planted!(findings.planted, LostTailForgiven);
        let lost = (ends_early || has_gap || has_damage) && !planted!(findings.planted, DamageForgiven);
        let recovered = Recovered {
            promised: findings.promised,
            decided_upto,
            decided_hash,
            undecided,
            log_start: reader.stretch_start(decided_upto).unwrap_or(decided_upto.next()),
            memory: findings.memory.filter(|_| !lost),
        };
        if findings.damage_unlisted > 0 {
            findings.notes.push(Note::MoreDamage { count: findings.damage_unlisted });
        }
        Ok(RecoveredLog { recovered, damage: findings.damage, notes: findings.notes })
    }
}

impl Findings {
    fn new(store: (Slot, HistoryHash)) -> Self {
        Self {
            store,
            promised: Ballot::ZERO,
            decided: (Slot::ZERO, HistoryHash::default()),
            memory: None,
            began_at: None,
            index: Index::default(),
            seen_upto: Slot::ZERO,
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

    fn record(&mut self, position: (u32, u64), location: Location, record: Record) -> Result<(), TlogError> {
        match record {
            Record::Promised(ballot) => self.promised = self.promised.max(ballot),
            Record::Accepted(slot_entry) => {
                self.promised = self.promised.max(slot_entry.entry.ballot);
                self.seen_upto = self.seen_upto.max(slot_entry.slot);
                self.index.insert(slot_entry.slot, location);
            }
            Record::Decided { upto, hash } => {
                let (slot, store) = self.store;
                if upto == slot && hash != store {
                    return Err(TlogError::StoreAndLogDisagree { slot, store, log: hash });
                }
                if upto > self.decided.0 {
                    self.decided = (upto, hash);
                }
            }
            Record::MemoryBegan(incarnation) => {
                self.memory = Some(Memory { incarnation, votes: false, genesis: Vec::new() });
                self.began_at = Some(position);
            }
            Record::VoteRegained { incarnation, genesis } => {
                self.memory = Some(Memory { incarnation, votes: true, genesis });
            }
        }
        Ok(())
    }
}

impl Visitor for Listener<'_> {
    fn record(&mut self, offset: u64, content: Content) -> Result<(), TlogError> {
        let segment = self.segment;
        let Content::Record(record) = content else {
            return Ok(());
        };
        // A segment is rolled long before its offsets need more than 32 bits.
        let short = u32::try_from(offset).map_err(|_| TlogError::NewerFormat { path: self.path.to_owned() })?;
        self.findings.record((segment, offset), Location { segment, offset: short }, record)
    }

    fn damage(&mut self, offset: u64, why: BadFrame) {
        self.damaged = true;
        let segment = self.segment;
        self.findings.damage_at((segment, offset), Damage::Record { segment, offset, why });
    }
}
