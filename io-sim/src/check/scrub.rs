//! Reads the transaction log of a node from the durable bytes of its disk, and nothing else.
//!
//! What a node may say about its promises and acceptances rests on what is found here, and not on what its own code
//! calls durable: so this reads the format on its own (`frame.rs`). A reader goes on where it stopped, so that after
//! each sync only what is new is read.

use std::path::{Path, PathBuf};

use trialbay::identity::Identity;
use trialbay_engine::{Record, Slot};

use super::archive::segment_of;
pub use super::frame::Summary;
use super::frame::{Content, Frame, HEADER_BYTES, Header, salt};
use crate::sim_disk::SimDisk;

/// A version that the names of no disk ever have.
const NEVER_LOOKED: u64 = u64::MAX;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the segment.
    pub segment: u32,
    /// The byte in it where the record begins.
    pub offset: u64,
}

/// A record, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it begins.
    pub place: Place,
    /// The byte in the segment after it.
    pub end: u64,
    /// The record.
    pub record: Record,
}

/// Something that was durable once, and cannot be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A record, or several.
    Record(Place),
    /// A segment's header.
    Header {
        /// The segment.
        segment: u32,
    },
    /// What is before the blocks of a compressed segment.
    Archive {
        /// The segment.
        segment: u32,
    },
    /// Segments from the first to the last of these.
    Missing {
        /// The first one.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// A closed segment does not have the length that it was closed with.
    Length {
        /// The segment.
        segment: u32,
        /// What the next segment's header says.
        expected: u64,
        /// Its length.
        found: u64,
    },
}

impl Damage {
    /// Where it begins.
    pub fn place(&self) -> Place {
        match *self {
            Self::Record(place) => place,
            Self::Header { segment } | Self::Archive { segment } => Place { segment, offset: 0 },
            Self::Missing { first, .. } => Place { segment: first, offset: 0 },
            Self::Length { segment, expected, found } => Place { segment, offset: expected.min(found) },
        }
    }
}

impl Place {
    /// A byte of the segment in this file; `None` when it is none.
    pub fn in_file(path: &Path, offset: u64) -> Option<Self> {
        let segment = number_in(path.file_name()?.to_str()?)?;
        Some(Self { segment, offset })
    }
}

/// What became of reading a segment.
enum Read {
    /// It has this length.
    Whole(u64),
    /// It cannot be read, and its length is not known.
    Lost,
    /// Its creation was never finished.
    NotBegun,
}

/// Why a log cannot be read, or cannot be a log that only ever grew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScrubError {
    /// The header is another log's, or a later program's.
    #[error("the header of segment {segment} is not this log's: {header}")]
    Foreign {
        /// The segment.
        segment: u32,
        /// What the header says.
        header: String,
    },
    /// A record with a sound checksum that the format does not know.
    #[error("the record at {0:?} is of a version, kind or layout that the format does not have")]
    UnknownRecord(Place),
    /// Records say that more was durable before them than there is before them.
    #[error("the record at {0:?} says that what comes behind it was durable before it")]
    SyncedAhead(Place),
    /// A header that does not say what the records before it add up to.
    #[error("the header of segment {segment} says {header:?}, and the records before it say {records:?}")]
    WrongSummary {
        /// The segment.
        segment: u32,
        /// What the header says.
        header: Box<Summary>,
        /// What was read.
        records: Box<Summary>,
    },
    /// What was durable before is not there any more.
    #[error("the log was durable up to {0:?} and ends before that now")]
    CutShort(Place),
}

/// A reader of one node's log.
#[derive(Clone, Debug)]
pub struct Scrub {
    dir: PathBuf,
    identity: Identity,
    /// Where the next record is expected; `None` before the first segment.
    next: Option<Place>,
    /// The segment as a file, and as a compressed one, and where its checksums begin.
    file: (PathBuf, PathBuf, u32),
    /// Whether it is the one that is written: no other comes after it, and it is not compressed.
    is_open: bool,
    /// The segments after that one, as of this version of the disk's names.
    later: (u64, Vec<u32>),
    /// Whether there was a header yet.
    began: bool,
    /// What its first segment's header says of those before it, which are gone.
    base: Option<(u32, Summary)>,
    /// The headers behind something that was not there to be read.
    restated: Vec<(u32, Summary)>,
    /// What was read so far adds up to; `None` when some of it was not there to be read.
    sum: Option<Summary>,
    damage: Vec<Damage>,
    torn: Option<Place>,
    /// Where the last head was announced, and its slot.
    head: Option<(Place, Slot)>,
    bytes: Vec<u8>,
}

impl Scrub {
    /// A reader of the log in `<home>/tlogs`, from its beginning.
    pub fn new(home: &Path, identity: Identity) -> Self {
        Self {
            dir: home.join("tlogs"),
            identity,
            next: None,
            file: (PathBuf::new(), PathBuf::new(), 0),
            is_open: true,
            later: (NEVER_LOOKED, Vec::new()),
            began: false,
            base: None,
            restated: Vec::new(),
            sum: Some(Summary::empty()),
            damage: Vec::new(),
            torn: None,
            head: None,
            bytes: Vec::new(),
        }
    }

    /// The records that became durable since the last time, in the order of the log. Segments that were removed meanwhile
    /// are passed over.
    ///
    /// # Errors
    /// When these are not the bytes of one log that only ever grew. Final: this reader has lost its place.
    pub fn advance(&mut self, disk: &SimDisk) -> Result<Vec<Found>, ScrubError> {
        let mut found = Vec::new();
        self.torn = None;
        self.look_for_segments(disk);
        let mut closed_bytes = None;
        if let Some(Place { segment, .. }) = self.next {
            if self.is_removed(disk) {
                (self.next, self.began, self.sum) = (None, false, None);
            } else if let Read::Whole(bytes) = self.read_segment(disk, segment, None, &mut found)? {
                closed_bytes = Some(bytes);
            }
        }
        while !self.later.1.is_empty() {
            let segment = self.later.1.remove(0);
            let before = self.next;
            if let Some(expected) = before.map(|before| before.segment + 1).filter(|expected| *expected != segment) {
                self.missing(expected, segment);
                closed_bytes = None;
            }
            self.go_to(Some(Place { segment, offset: 0 }));
            closed_bytes = match self.read_segment(disk, segment, closed_bytes, &mut found)? {
                Read::Whole(bytes) => Some(bytes),
                Read::Lost => None,
                Read::NotBegun => {
                    // It may be made anew, or never.
                    self.go_to(before);
                    self.later.0 = NEVER_LOOKED;
                    None
                }
            };
        }
        if let Some(Place { segment, .. }) = self.next.filter(|_| !self.is_open) {
            // It was closed, so another one came after it.
            self.missing(segment + 1, segment + 2);
        }
        Ok(found)
    }

    /// The first segment, and what its header says of those before it, if there were any.
    pub fn base(&self) -> Option<&(u32, Summary)> {
        self.base.as_ref()
    }

    /// The first segment that is there, readable or not: those before it were removed.
    pub fn first(&self) -> u32 {
        match (&self.base, self.damage.first()) {
            (Some((first, _)), _) => *first,
            (None, Some(Damage::Missing { first: 0, last })) => last + 1,
            (None, _) => 0,
        }
    }

    /// What the headers of segments say before which not everything could be read.
    pub fn restated(&self) -> &[(u32, Summary)] {
        &self.restated
    }

    /// What was found damaged so far, in the order of the log. Damage to what was read before is seen by a new reader only.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Where the log ends with a write that was never finished, as of the last [`Scrub::advance`].
    pub fn torn(&self) -> Option<Place> {
        self.torn
    }

    /// Where the last head was announced, and its slot.
    pub fn head(&self) -> Option<(Place, Slot)> {
        self.head
    }

    /// Everything before this was read; `None` before the first segment.
    pub fn end(&self) -> Option<Place> {
        self.next
    }

    /// Whether the segment in which it stands was removed since, and later ones are there.
    fn is_removed(&self, disk: &SimDisk) -> bool {
        let is_there = |path| disk.read_durable(path).is_some();
        !self.later.1.is_empty() && !is_there(&self.file.0) && !is_there(&self.file.1)
    }

    /// The segments from `first` to the one before `segment` are not there.
    fn missing(&mut self, first: u32, segment: u32) {
        let missing = Damage::Missing { first, last: segment - 1 };
        // It is found again as long as the segment behind it has not begun.
        if self.damage.last() != Some(&missing) {
            self.damaged(missing);
        }
    }

    fn damaged(&mut self, damage: Damage) {
        self.damage.push(damage);
        self.sum = None;
    }

    fn look_for_segments(&mut self, disk: &SimDisk) {
        let version = disk.durable_names_version();
        if self.later.0 == version {
            return;
        }
        let names = disk.list_durable(&self.dir);
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_in(name)).collect();
        numbers.retain(|number| self.next.is_none_or(|next| *number > next.segment));
        numbers.sort_unstable();
        numbers.dedup();
        self.later = (version, numbers);
    }

    fn go_to(&mut self, next: Option<Place>) {
        if let Some(Place { segment, .. }) = next {
            let path = |form| self.dir.join(file_name(segment, form));
            self.file = (path("tlog"), path("tlx"), salt(&self.identity, segment));
        }
        self.next = next;
    }

    /// Reads what is new in a segment.
    fn read_segment(
        &mut self,
        disk: &SimDisk,
        segment: u32,
        closed_bytes: Option<u64>,
        found: &mut Vec<Found>,
    ) -> Result<Read, ScrubError> {
        let start = self.next.map_or(0, |next| next.offset);
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut len = disk.read_durable_from(&self.file.0, start, &mut bytes);
        self.is_open = len.is_some() && self.later.1.is_empty();
        if len.is_none()
            && let Some(archive) = disk.read_durable(&self.file.1)
        {
            let Some(unpacked) = segment_of(&archive, self.file.2) else {
                return Ok(self.archive_is_damaged(segment));
            };
            len = Some(unpacked.len() as u64);
            bytes.clear();
            bytes.extend_from_slice(unpacked.get(usize::try_from(start).unwrap_or(usize::MAX)..).unwrap_or_default());
        }
        let Some(len) = len.filter(|len| *len >= start) else {
            return Err(ScrubError::CutShort(Place { segment, offset: start }));
        };
        if !self.is_open {
            // A closed segment has no reserve: zeros are damage there.
            bytes.resize(usize::try_from(len - start).expect("simulated files are small"), 0);
        }
        let has_header = self.read_bytes(&bytes, segment, closed_bytes, found)?;
        self.bytes = bytes;
        Ok(if has_header { Read::Whole(len) } else { Read::NotBegun })
    }

    /// Reads what stands where the last record ended; says whether the segment has a header by now.
    fn read_bytes(
        &mut self,
        bytes: &[u8],
        segment: u32,
        closed_bytes: Option<u64>,
        found: &mut Vec<Found>,
    ) -> Result<bool, ScrubError> {
        let start = self.next.map_or(0, |next| next.offset);
        let mut at = 0;
        if start == 0 {
            if !self.read_header(bytes, segment, closed_bytes)? {
                return Ok(false);
            }
            at = HEADER_BYTES.min(bytes.len());
        }
        let (salt, is_last) = (self.file.2, self.is_open);
        while at < bytes.len() {
            let place = Place { segment, offset: start + at as u64 };
            let Some(frame) = Frame::read(&bytes[at..], salt, place.offset) else {
                if is_last && is_zero(&bytes[at..]) {
                    break;
                }
                match self.next_sound(bytes, at, place, is_last, salt) {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            };
            match frame.content {
                Content::Unknown => return Err(ScrubError::UnknownRecord(place)),
                _ if frame.synced > place.offset => return Err(ScrubError::SyncedAhead(place)),
                content => {
                    if let Some(sum) = &mut self.sum {
                        sum.add(&content);
                    }
                    if let Content::HeadAnnounced(slot, _) = content {
                        self.head = Some((place, slot));
                    }
                    if let Content::Record(record) = content {
                        found.push(Found { place, end: place.offset + frame.bytes as u64, record });
                    }
                }
            }
            at += frame.bytes;
        }
        self.next = Some(Place { segment, offset: start + at as u64 });
        Ok(true)
    }

    /// Says whether there is a header, be it damaged; there is none when the segment's creation was never finished.
    fn read_header(&mut self, bytes: &[u8], segment: u32, closed_bytes: Option<u64>) -> Result<bool, ScrubError> {
        let is_first = !std::mem::replace(&mut self.began, true);
        match Header::read(bytes) {
            Some(header) => {
                if header.format != 2 || header.identity != self.identity || header.segment != segment {
                    return Err(ScrubError::Foreign { segment, header: format!("{header:?}") });
                }
                let expected = header.previous_bytes;
                if let Some(found) = closed_bytes.filter(|found| *found != expected) {
                    self.damaged(Damage::Length { segment: segment - 1, expected, found });
                }
                if is_first && segment > 0 {
                    self.base = Some((segment, header.summary.clone()));
                    self.sum = None;
                }
                self.go_on_from(segment, header.summary)?;
            }
            None if is_first && segment > 0 && self.damage.is_empty() => {
                self.missing(0, segment);
                self.began = false;
                return self.read_header(bytes, segment, closed_bytes);
            }
            None if self.is_open && bytes.get(HEADER_BYTES..).is_none_or(is_zero) => {
                self.torn = Some(Place { segment, offset: 0 });
                self.began = !is_first;
                return Ok(false);
            }
            None => self.damaged(Damage::Header { segment }),
        }
        Ok(true)
    }

    /// Passes over a segment that cannot be read.
    fn archive_is_damaged(&mut self, segment: u32) -> Read {
        let is_first = !std::mem::replace(&mut self.began, true);
        if is_first && segment > 0 {
            self.missing(0, segment);
        }
        self.damaged(Damage::Archive { segment });
        Read::Lost
    }

    /// A header has to say what the records before it do, as far as they could be read.
    fn go_on_from(&mut self, segment: u32, header: Summary) -> Result<(), ScrubError> {
        if let Some(records) = self.sum.take() {
            // A memory may count for lost by what no single log tells.
            let expected = Summary { memory: header.memory.as_ref().and(records.memory.clone()), ..records.clone() };
            if header != expected {
                return Err(ScrubError::WrongSummary { segment, header: header.into(), records: records.into() });
            }
        } else {
            self.restated.push((segment, header.clone()));
        }
        self.sum = Some(header);
        Ok(())
    }

    /// There is no sound frame at `at`. Says where the log goes on behind it, if it was durable once: the end of the
    /// bytes when it does nowhere. Otherwise it is torn.
    fn next_sound(&mut self, bytes: &[u8], at: usize, place: Place, is_last: bool, salt: u32) -> Option<usize> {
        let mut first = None;
        let mut was_durable = !is_last;
        let mut from = at + 1;
        while from < bytes.len() && !(was_durable && first.is_some()) {
            let offset = place.offset + (from - at) as u64;
            let frame = Some(&bytes[from..]).filter(|bytes| Frame::may_begin(bytes));
            match frame.and_then(|bytes| Frame::read(bytes, salt, offset)) {
                Some(frame) => {
                    first.get_or_insert(from);
                    was_durable |= frame.synced > place.offset;
                    from += frame.bytes;
                }
                None => from += 1,
            }
        }
        if !was_durable {
            self.torn = Some(place);
            return None;
        }
        self.damaged(Damage::Record(place));
        Some(first.unwrap_or(bytes.len()))
    }
}

fn file_name(segment: u32, form: &str) -> String {
    format!("{segment:03}.{form}")
}

/// The number of the segment with this name, in whichever form.
fn number_in(name: &str) -> Option<u32> {
    let (number, form) = name.split_once('.').filter(|(_, form)| ["tlog", "tlx"].contains(form))?;
    let number = number.parse().ok()?;
    (file_name(number, form) == name).then_some(number)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Without a way out of each chunk, many bytes are compared at once.
    bytes.chunks(256).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use trialbay::disk::{Disk as _, DiskFile};
    use trialbay::tlog::{Tlog, TlogOptions};
    use trialbay_engine::{Ballot, Entry, HistoryHash, Incarnation, NodeId, Slot, SlotEntry, Value};

    use super::*;
    use crate::rng::Rng;

    fn identity() -> Identity {
        Identity { cluster_id: "dev".into(), node: NodeId(1), name: "n1".into() }
    }

    fn groups() -> Vec<Vec<Record>> {
        let ballot = Ballot { round: 3, node: NodeId(2) };
        let accepted = |slot, value| Record::Accepted(SlotEntry { slot: Slot(slot), entry: Entry { ballot, value } });
        let genesis = vec![(NodeId(1), Incarnation(7)), (NodeId(2), Incarnation(8))];
        vec![
            vec![Record::MemoryBegan(Incarnation(7)), Record::VoteRegained { incarnation: Incarnation(7), genesis }],
            vec![Record::Promised(ballot)],
            vec![accepted(1, Value::Noop), accepted(2, Value::batch([b"ab".as_slice()]))],
            vec![
                accepted(3, Value::MasterChange(NodeId(9))),
                accepted(4, Value::Configuration(b"c".as_slice().into())),
                Record::Decided { upto: Slot(2), hash: HistoryHash(0xfeed) },
            ],
        ]
    }

    /// A disk with a log of all these records; sealed, or not.
    fn log(sealed: bool) -> SimDisk {
        let disk = SimDisk::new(Rng::new(1, 1));
        disk.create_dir(Path::new("home")).unwrap();
        let options = TlogOptions { segment_bytes: 4096, ..TlogOptions::default() };
        let store = (Slot::ZERO, HistoryHash::default());
        let process = Arc::new(disk.for_process());
        let (mut tlog, _) = Tlog::open(process, Path::new("home"), identity(), options, store).unwrap();
        for group in groups() {
            tlog.append(&group).and_then(|()| tlog.sync()).unwrap();
        }
        if sealed {
            tlog.seal().unwrap();
        }
        segment(&disk).sync_data().unwrap();
        disk
    }

    fn segment(disk: &SimDisk) -> Box<dyn DiskFile> {
        disk.open(Path::new("home/tlogs/000.tlog")).unwrap()
    }

    fn write(disk: &SimDisk, at: u64, bytes: &[u8]) {
        segment(disk).write_at(bytes, at).unwrap();
        segment(disk).sync_data().unwrap();
    }

    fn scrub() -> Scrub {
        Scrub::new(Path::new("home"), identity())
    }

    /// A frame with any head and no payload, sound at `offset`.
    fn frame(offset: u64, version: u8, kind: u8, synced: u32) -> Vec<u8> {
        let mut frame = vec![6, 0, 0, 0, 0, 0, 0, 0, version, kind];
        frame.extend_from_slice(&synced.to_le_bytes());
        let crc = crc32c::crc32c_append(salt(&identity(), 0), &offset.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &frame[..4]), &frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        frame
    }

    #[test]
    fn every_kind_of_record_is_read_as_it_was_written() {
        let mut scrub = scrub();
        let disk = log(true);
        let found = scrub.advance(&disk).unwrap();
        assert_eq!(found.iter().map(|found| found.record.clone()).collect::<Vec<_>>(), groups().concat());
        assert_eq!(found[0].place, Place { segment: 0, offset: 512 });
        assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].place.offset));
        assert_eq!((scrub.damage(), scrub.torn()), (&[][..], None));
        assert_eq!(scrub.advance(&disk).unwrap(), []);
    }

    #[test]
    fn a_flipped_bit_is_damage_unless_it_may_be_an_unfinished_write() {
        for sealed in [true, false] {
            let disk = log(sealed);
            let mut whole = scrub();
            let records = whole.advance(&disk).unwrap();
            let end = whole.end().unwrap().offset;
            let places: BTreeSet<u64> = records.iter().map(|found| found.place.offset).collect();
            let last_group = records[records.len() - 3].place.offset;
            for at in 512..end {
                disk.flip(Path::new("home/tlogs/000.tlog"), at, at);
                let mut scrub = scrub();
                let found = scrub.advance(&disk).unwrap();
                let hit = places.range(..=at).next_back().map(|offset| Place { segment: 0, offset: *offset });
                let is_in_seal = sealed && at >= end - 14;
                if is_in_seal {
                    assert_eq!((found.len(), scrub.damage()), (records.len(), &[][..]));
                    assert_eq!(scrub.torn(), Some(Place { segment: 0, offset: end - 14 }));
                } else if !sealed && at >= last_group {
                    assert_eq!((scrub.damage(), scrub.torn()), (&[][..], hit));
                    assert!(records.starts_with(&found));
                } else {
                    assert_eq!((scrub.damage(), scrub.torn()), (&[Damage::Record(hit.unwrap())][..], None));
                    let others = records.iter().filter(|found| Some(found.place) != hit).cloned();
                    assert_eq!(found, others.collect::<Vec<_>>());
                }
                disk.flip(Path::new("home/tlogs/000.tlog"), at, at);
            }
            for at in 0..512 {
                disk.flip(Path::new("home/tlogs/000.tlog"), at, at);
                let mut scrub = scrub();
                assert_eq!(scrub.advance(&disk).unwrap(), records);
                assert_eq!(scrub.damage(), [Damage::Header { segment: 0 }]);
                disk.flip(Path::new("home/tlogs/000.tlog"), at, at);
            }
        }
    }

    #[test]
    fn a_segment_without_a_header_is_not_begun_and_may_vanish() {
        let disk = log(true);
        let mut reader = scrub();
        reader.advance(&disk).unwrap();
        let end = reader.end();
        segment(&disk).truncate(end.unwrap().offset).unwrap();
        segment(&disk).sync_data().unwrap();
        let (dir, path) = (Path::new("home/tlogs"), Path::new("home/tlogs/001.tlog"));
        let next = disk.create(path).unwrap();
        next.allocate(0, 4096).unwrap();
        next.write_at(&[1; 300], 0).unwrap();
        next.sync_all().unwrap();
        disk.sync_dir(dir).unwrap();
        for _ in 0..2 {
            assert_eq!(reader.advance(&disk), Ok(vec![]));
            assert_eq!((reader.torn(), reader.end()), (Some(Place { segment: 1, offset: 0 }), end));
        }
        disk.remove(path).unwrap();
        disk.sync_dir(dir).unwrap();
        assert_eq!(reader.advance(&disk), Ok(vec![]));
        assert_eq!((reader.torn(), reader.end(), reader.damage()), (None, end, &[][..]));
    }

    #[test]
    fn what_cannot_be_a_log_that_only_grew_is_an_error() {
        let disk = log(true);
        let other = Identity { node: NodeId(2), ..identity() };
        let foreign = Scrub::new(Path::new("home"), other).advance(&disk);
        assert!(matches!(foreign, Err(ScrubError::Foreign { segment: 0, .. })));

        let mut reader = scrub();
        reader.advance(&disk).unwrap();
        let place = reader.end().unwrap();
        for (version, kind) in [(2, 6), (1, 7), (1, 1)] {
            write(&disk, place.offset, &frame(place.offset, version, kind, 512));
            assert_eq!(reader.clone().advance(&disk), Err(ScrubError::UnknownRecord(place)));
        }
        write(&disk, place.offset, &frame(place.offset, 1, 6, place.offset as u32 + 1));
        assert_eq!(reader.clone().advance(&disk), Err(ScrubError::SyncedAhead(place)));
        write(&disk, place.offset, &frame(place.offset, 1, 6, place.offset as u32));
        assert_eq!(reader.clone().advance(&disk), Ok(vec![]));

        segment(&disk).truncate(place.offset - 1).unwrap();
        assert_eq!(reader.clone().advance(&disk), Ok(vec![]), "it is not durable yet");
        segment(&disk).sync_data().unwrap();
        assert_eq!(reader.advance(&disk), Err(ScrubError::CutShort(place)));
        disk.wipe();
        assert_eq!(reader.advance(&disk), Err(ScrubError::CutShort(place)));
    }
}
