//! The node's own log on this disk, through power cuts: it and the independent reader must find the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use trialbay::identity::Identity;
use trialbay::tlog::{self, Compressed, RecoveredLog, Tlog, TlogOptions};
use trialbay_engine::{Ballot, Entry, HistoryHash, Incarnation, Memory, NodeId, Record, Slot, SlotEntry, Value};

use super::*;
use crate::check::scrub::{Damage, Place, Scrub};

const SEGMENT_BYTES: u64 = 4096;

/// Makes groups of records as an engine might write them, and remembers all that it made.
struct Writer {
    rng: Rng,
    slot: u64,
    round: u64,
    given: Vec<Record>,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let mut writer = Self { rng: Rng::new(seed, 2), slot: 0, round: 1, given: Vec::new() };
        writer.given.push(Record::MemoryBegan(Incarnation(7)));
        writer
    }

    fn accepted(&mut self, slot: u64) -> Record {
        let ballot = Ballot { round: self.round, node: NodeId(1) };
        let bytes: Vec<u8> = (0..self.rng.magnitude(1, 1_500)).map(|_| self.rng.below(3) as u8).collect();
        let value = Value::Commands(Bytes::from(bytes));
        Record::Accepted(SlotEntry { slot: Slot(slot), entry: Entry { ballot, value } })
    }

    fn group(&mut self) -> Vec<Record> {
        let mut group = Vec::new();
        for _ in 0..=self.rng.below(4) {
            group.push(match self.rng.below(8) {
                0 => {
                    self.round += 1;
                    Record::Promised(Ballot { round: self.round, node: NodeId(1) })
                }
                1 if self.slot > 0 => self.accepted(self.slot),
                2 => Record::VoteRegained {
                    incarnation: Incarnation(7),
                    genesis: vec![(NodeId(1), Incarnation(7)), (NodeId(2), Incarnation(8))],
                },
                _ => {
                    self.slot += 1;
                    self.accepted(self.slot)
                }
            });
        }
        self.given.extend_from_slice(&group);
        group
    }

    /// Goes on from what a restart left.
    fn resume(&mut self, records: Vec<Record>) {
        self.given = records;
        let slots = self.given.iter().filter_map(|record| match record {
            Record::Accepted(slot_entry) => Some(slot_entry.slot.0),
            _ => None,
        });
        self.slot = slots.max().unwrap_or(0);
    }
}

fn identity() -> Identity {
    Identity { cluster_id: "dev".into(), node: NodeId(1), name: "n1".into() }
}

fn open(disk: &SimDisk) -> (Tlog, RecoveredLog) {
    let options = TlogOptions { segment_bytes: SEGMENT_BYTES, ..TlogOptions::default() };
    let process = Arc::new(disk.for_process());
    Tlog::open(process, Path::new("home"), identity(), options, (Slot::ZERO, HistoryHash::default())).unwrap()
}

fn scrub() -> Scrub {
    Scrub::new(Path::new("home"), identity())
}

fn read_all(disk: &SimDisk) -> (Vec<Record>, Scrub) {
    let mut scrub = scrub();
    let found = scrub.advance(disk).unwrap();
    assert!(found.is_sorted_by_key(|found| found.place));
    (found.into_iter().map(|found| found.record).collect(), scrub)
}

/// Checks that the log says what these records say.
fn assert_agrees(found: &RecoveredLog, records: &[Record]) {
    let mut promised = Ballot::ZERO;
    let mut memory = None;
    let mut entries = BTreeMap::new();
    for record in records {
        match record {
            Record::Promised(ballot) => promised = promised.max(*ballot),
            Record::Accepted(slot_entry) => {
                promised = promised.max(slot_entry.entry.ballot);
                entries.insert(slot_entry.slot, slot_entry.clone());
            }
            Record::Decided { .. } => panic!("none are written here"),
            Record::MemoryBegan(incarnation) => {
                memory = Some(Memory { incarnation: *incarnation, votes: false, genesis: vec![] });
            }
            Record::VoteRegained { incarnation, genesis } => {
                memory = Some(Memory { incarnation: *incarnation, votes: true, genesis: genesis.clone() });
            }
        }
    }
    assert_eq!(found.damage, []);
    assert_eq!(found.recovered.promised, promised);
    assert_eq!(found.recovered.undecided, entries.into_values().collect::<Vec<_>>());
    assert_eq!(found.recovered.memory, memory);
}

/// Writes groups until the disk fails or `groups` are written; says how many records were synced.
fn write(tlog: &mut Tlog, writer: &mut Writer, groups: u64, mut after_sync: impl FnMut(&[Record])) -> usize {
    let mut synced = writer.given.len();
    for _ in 0..groups {
        let group = writer.group();
        if tlog.append(&group).and_then(|()| tlog.sync()).is_err() {
            break;
        }
        synced = writer.given.len();
        after_sync(&writer.given);
        if writer.rng.chance(0.3) && tlog.seal().is_err() {
            break;
        }
    }
    synced
}

/// A log with its first record, and nothing wrong yet.
fn begin(disk: &SimDisk) -> Tlog {
    let mut tlog = open(disk).0;
    tlog.append(&[Record::MemoryBegan(Incarnation(7))]).unwrap();
    tlog.sync().unwrap();
    tlog
}

#[test]
fn through_power_cuts_log_and_reader_find_everything_that_was_synced_and_the_same() {
    let mut total = Counters::default();
    let mut torn = 0;
    for seed in 0..300 {
        let disk = disk(seed);
        let mut writer = Writer::new(seed);
        let mut follower = scrub();
        let mut followed: Vec<Record> = Vec::new();
        let mut tlog = begin(&disk);
        for _ in 0..4 {
            disk.power_fails_after(writer.rng.below(60));
            let synced = write(&mut tlog, &mut writer, 20, |given| {
                followed.extend(follower.advance(&disk).unwrap().into_iter().map(|found| found.record));
                assert_eq!(followed, given, "after a sync the reader has all, and no more");
            });
            if writer.rng.chance(0.7) {
                disk.power_cut()
            } else {
                disk.kill()
            }
            drop(tlog);

            // What the power cut left, before anybody repairs it.
            let (left, _) = read_all(&disk);
            assert!(left.len() >= synced && writer.given.starts_with(&left));
            if writer.rng.chance(0.5) {
                followed.extend(follower.advance(&disk).unwrap().into_iter().map(|found| found.record));
                assert_eq!((&followed, follower.damage()), (&left, &[][..]));
            }
            let (tlog_again, found) = open(&disk);
            tlog = tlog_again;
            let (records, reader) = read_all(&disk);
            assert!(records.len() >= synced && writer.given.starts_with(&records));
            assert!(records.starts_with(&left));
            assert_eq!((reader.damage(), reader.torn()), (&[][..], None));
            assert_agrees(&found, &records);

            followed.extend(follower.advance(&disk).unwrap().into_iter().map(|found| found.record));
            assert_eq!(followed, records);
            assert_eq!((follower.damage(), follower.end()), (&[][..], reader.end()));
            torn += u64::from(!found.notes.is_empty());
            writer.resume(records);
        }
        let counters = disk.counters();
        total.writes_kept += counters.writes_kept;
        total.writes_lost += counters.writes_lost;
        total.writes_torn += counters.writes_torn;
        total.sectors_garbled += counters.sectors_garbled;
        total.lengths_lost += counters.lengths_lost;
        total.names_lost += counters.names_lost;
    }
    assert!(torn > 50, "{torn} torn tails");
    let seen = [total.writes_kept, total.writes_lost, total.writes_torn, total.sectors_garbled];
    assert!(seen.iter().all(|count| *count > 20) && total.lengths_lost > 0 && total.names_lost > 0, "{total:?}");
}

#[test]
fn the_reader_sees_that_a_sync_lied() {
    let disk = disk(1);
    let mut tlog = begin(&disk);
    let mut writer = Writer::new(1);
    let mut follower = scrub();
    assert_eq!(follower.advance(&disk).unwrap().len(), 1);
    disk.set_syncs_lie(true);
    write(&mut tlog, &mut writer, 1, |_| {});
    assert_eq!(follower.advance(&disk).unwrap(), []);
    disk.set_syncs_lie(false);
    write(&mut tlog, &mut writer, 1, |given| assert_eq!(follower.advance(&disk).unwrap().len(), given.len() - 1));
}

#[test]
fn a_log_whose_sync_failed_is_found_as_the_medium_has_it() {
    for seed in 0..100 {
        let disk = disk(seed);
        let mut writer = Writer::new(seed);
        let mut tlog = begin(&disk);
        let synced = write(&mut tlog, &mut writer, seed % 5, |_| {});
        disk.fail_next_sync(Path::new("home/tlogs"));
        assert_eq!(write(&mut tlog, &mut writer, 1, |_| {}), synced);
        disk.kill();
        let (_, found) = open(&disk);
        let (records, _) = read_all(&disk);
        assert!(records.len() >= synced && writer.given.starts_with(&records));
        assert_agrees(&found, &records);
    }
}

#[test]
fn a_full_disk_costs_nothing_that_was_synced() {
    let disk = disk(1);
    let mut writer = Writer::new(1);
    let mut tlog = begin(&disk);
    disk.set_full(true);
    let synced = write(&mut tlog, &mut writer, 1_000, |_| {});
    assert!(synced < writer.given.len(), "the disk is full at some point");
    disk.kill();
    disk.set_full(false);
    let (_, found) = open(&disk);
    let (records, _) = read_all(&disk);
    assert_eq!(records, writer.given[..synced]);
    assert_agrees(&found, &records);
}

#[test]
fn log_and_reader_find_the_same_damage() {
    let (mut damaged, mut harmless) = (0, 0);
    for seed in 0..300 {
        let disk = disk(seed);
        let mut writer = Writer::new(seed);
        let mut tlog = begin(&disk);
        write(&mut tlog, &mut writer, 12, |_| {});
        tlog.seal().unwrap();
        if writer.rng.chance(0.5) {
            let mut upkeep = tlog.upkeep();
            while !matches!(upkeep.compress_some().unwrap(), Compressed::Nothing) {}
        }
        disk.kill();
        for file in disk.files() {
            disk.open(&file).unwrap().sync_data().unwrap();
        }
        for _ in 0..=writer.rng.below(3) {
            let mut files = disk.durable_files();
            writer.rng.shuffle(&mut files);
            let Some(file) = files.first() else { break };
            if writer.rng.chance(0.8) {
                disk.rot(file);
            } else if writer.rng.chance(0.5) {
                let file = disk.open(file).unwrap();
                file.truncate(writer.rng.between(512, file.size().unwrap() - 1)).unwrap();
                file.sync_all().unwrap();
            } else {
                disk.remove(file).unwrap();
                disk.sync_dir(Path::new("home/tlogs")).unwrap();
            }
        }
        let (records, reader) = read_all(&disk);
        let (tlog, found) = open(&disk);
        assert_eq!(reader.damage(), damage_of(&found), "seed {seed}");
        for slot_entry in tlog.reader().entries(Slot(1), found.recovered.decided_upto) {
            assert!(records.contains(&Record::Accepted(slot_entry.unwrap())));
        }
        for slot_entry in &found.recovered.undecided {
            assert!(records.contains(&Record::Accepted(slot_entry.clone())));
        }
        damaged += u64::from(!reader.damage().is_empty());
        harmless += u64::from(reader.damage().is_empty());
        // And once more, with what the log did about it.
        drop(tlog);
        let (_, again) = open(&disk);
        assert_eq!(read_all(&disk).1.damage(), damage_of(&again), "seed {seed}");
    }
    assert!(damaged > 150 && harmless > 0, "{damaged} damaged, {harmless} not");
}

/// What the log says is wrong with its bytes, without what it concludes from that.
fn damage_of(found: &RecoveredLog) -> Vec<Damage> {
    let damage = found.damage.iter().filter_map(|damage| match damage {
        tlog::Damage::Record { segment, offset, .. } => {
            Some(Damage::Record(Place { segment: *segment, offset: *offset }))
        }
        tlog::Damage::Header { segment } => Some(Damage::Header { segment: *segment }),
        tlog::Damage::Missing { first, last } => Some(Damage::Missing { first: *first, last: *last }),
        tlog::Damage::Length { segment, expected, found } => {
            Some(Damage::Length { segment: *segment, expected: *expected, found: *found })
        }
        tlog::Damage::Archive { segment } => Some(Damage::Archive { segment: *segment }),
        // What looks torn behind a damaged header the log does not trust.
        tlog::Damage::Block { .. }
        | tlog::Damage::Unsearched { .. }
        | tlog::Damage::LogBehindStore { .. }
        | tlog::Damage::StoreBehindLog { .. }
        | tlog::Damage::Gap { .. } => None,
    });
    damage.collect()
}

#[test]
fn the_same_seed_leaves_the_same_disk() {
    let play = |seed| {
        let disk = disk(seed);
        let mut writer = Writer::new(seed);
        let mut tlog = begin(&disk);
        for _ in 0..3 {
            disk.power_fails_after(writer.rng.below(40));
            write(&mut tlog, &mut writer, 10, |_| {});
            disk.power_cut();
            tlog = open(&disk).0;
        }
        (disk.image_hash(), disk.counters())
    };
    assert_eq!(play(5), play(5));
    assert_ne!(play(5).0, play(6).0);
}
