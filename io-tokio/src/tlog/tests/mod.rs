//! Tests of the log as a whole, on a disk in memory.

mod archive;
mod collapse;
mod damage;
mod inspect;
mod io;
#[cfg(feature = "planted-bugs")]
mod planted;
mod power;
mod store;

use std::collections::BTreeMap;

use trialbay_engine::{Ballot, HistoryHash, Incarnation, Memory, Record, Recovered, Slot, SlotEntry};

use super::record::{HEAD_BYTES, Head};
use super::segment::HEADER_BYTES;
use super::testing::*;
use super::*;

const SEGMENT_BYTES: u64 = 1200;

/// One group each.
fn groups() -> Vec<Vec<Record>> {
    let hash = hash_of(&[entry(1, 1, b"one"), entry(2, 1, b"two")]);
    vec![
        vec![Record::MemoryBegan(Incarnation(7)), regained(7)],
        vec![Record::Promised(ballot(1))],
        vec![accepted(1, 1, b"one"), accepted(2, 1, b"two")],
        vec![accepted(3, 1, b"three"), Record::Decided { upto: Slot(2), hash }, accepted(4, 1, b"four")],
    ]
}

fn records() -> Vec<Record> {
    groups().concat()
}

fn write(tlog: &mut Tlog, groups: &[Vec<Record>]) {
    for group in groups {
        tlog.append(group).unwrap();
        tlog.sync().unwrap();
    }
}

/// The one segment of a log that holds `groups()`, and where each frame begins, the end of the last one included.
fn small_log(sealed: bool) -> (Image, Vec<usize>) {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups());
    if sealed {
        tlog.seal().unwrap();
    }
    let image = disk.image();
    let frames = frames_in(&image["000.tlog"]);
    assert_eq!(frames.len(), records().len() + 1 + usize::from(sealed));
    (image, frames)
}

fn frames_in(segment: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEADER_BYTES as usize];
    loop {
        let at = *starts.last().unwrap();
        match segment.get(at..at + HEAD_BYTES).map(|head| Head::parse(head.try_into().unwrap())) {
            Some(head) if !head.is_unwritten() => starts.push(at + head.frame_bytes()),
            _ => return starts,
        }
    }
}

/// What sound records tell, written down a second time as simply as can be.
fn model(records: &[Record], lost_since: Option<usize>) -> Recovered {
    let mut recovered = Recovered::blank();
    let mut entries: BTreeMap<Slot, SlotEntry> = BTreeMap::new();
    let mut began_at = None;
    for (at, record) in records.iter().enumerate() {
        if lost_since == Some(at) {
            // What was lost may have been a newer entry of any slot.
            entries.clear();
        }
        match record {
            Record::Promised(ballot) => recovered.promised = recovered.promised.max(*ballot),
            Record::Accepted(entry) => {
                recovered.promised = recovered.promised.max(entry.entry.ballot);
                entries.insert(entry.slot, entry.clone());
            }
            Record::Decided { upto, .. } => recovered.decided_upto = *upto,
            Record::MemoryBegan(incarnation) => {
                began_at = Some(at);
                recovered.memory = Some(Memory { incarnation: *incarnation, votes: false, genesis: vec![] });
            }
            Record::VoteRegained { incarnation, genesis } => {
                recovered.memory = Some(Memory { incarnation: *incarnation, votes: true, genesis: genesis.clone() });
            }
        }
    }
    if lost_since == Some(records.len()) {
        entries.clear();
    }
    let present = (1..).map(Slot).take_while(|slot| entries.contains_key(slot)).last().unwrap_or_default();
    let wanted = recovered.decided_upto;
    recovered.decided_upto = wanted.min(present);
    let decided: Vec<SlotEntry> = entries.range(..=recovered.decided_upto).map(|(_, entry)| entry.clone()).collect();
    recovered.decided_hash = hash_of(&decided[..recovered.decided_upto.0 as usize]);
    let undecided = entries.range(recovered.decided_upto.next()..=present.max(recovered.decided_upto.next()));
    recovered.undecided = undecided.filter(|(slot, _)| **slot <= present).map(|(_, entry)| entry.clone()).collect();
    let has_gap = entries.keys().any(|slot| *slot > present) || wanted > present;
    if has_gap || lost_since.is_some_and(|lost| began_at.is_none_or(|at| lost > at)) {
        recovered.memory = None;
    }
    recovered
}

/// Opens a broken log, and checks that it can then be written, and opens again with what it had and what was added.
fn reopen(image: &Image) -> RecoveredLog {
    let disk = MemDisk::from_image(image);
    let (mut tlog, found) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    assert!(found.recovered.is_well_formed());
    let upto = found.recovered.undecided.last().map_or(found.recovered.decided_upto, |entry| entry.slot);
    let next = upto.next().0;
    write(&mut tlog, &[vec![accepted(next, 9, b"next"), Record::MemoryBegan(Incarnation(8))], vec![regained(8)]]);
    tlog.seal().unwrap();
    assert_eq!(tlog.reader().read(Slot(next), Slot(next), 0).unwrap(), [entry(next, 9, b"next")]);

    let (tlog, again) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    let is_length = |damage: &&Damage| matches!(damage, Damage::Length { .. });
    assert_eq!(again.damage.iter().find(is_length), found.damage.iter().find(is_length));
    // Where the new record closed a gap, what was behind it is of use again.
    assert!(again.recovered.decided_upto >= found.recovered.decided_upto);
    assert_eq!(again.recovered.promised, ballot(9));
    assert_eq!(tlog.reader().read(Slot(next), Slot(next), 0).unwrap(), [entry(next, 9, b"next")]);
    let memory = again.recovered.memory;
    if !again.damage.iter().any(|damage| matches!(damage, Damage::Gap { .. })) {
        assert_eq!(memory.map(|memory| (memory.incarnation, memory.votes)), Some((Incarnation(8), true)));
    }
    assert_eq!(again.notes, []);
    found
}

fn without(records: &[Record], lost: usize) -> Vec<Record> {
    let mut records = records.to_vec();
    records.remove(lost);
    records
}

/// The first thing wrong, apart from the gap in the slots that it may have left.
fn is_lost_record(damage: &[Damage], at: usize) -> bool {
    let others = damage.iter().filter(|damage| !matches!(damage, Damage::Gap { .. }));
    others.map(|damage| matches!(damage, Damage::Record { segment: 0, offset, .. } if *offset == at as u64)).eq([true])
}

/// A closed segment with `groups()`, and an open one with slot 5; the length of the first.
fn two_segments() -> (MemDisk, usize) {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups());
    tlog.seal().unwrap();
    write(&mut tlog, &[vec![accepted(5, 1, &[5; 900])]]);
    let image = disk.image();
    assert_eq!(image.keys().collect::<Vec<_>>(), ["000.tlog", "001.tlog"]);
    (disk, image["000.tlog"].len())
}
