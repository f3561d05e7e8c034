//! Segments that are compressed.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::archive::front_bytes;
use super::*;
use crate::reserve::Reserve;
use proptest::prelude::*;

const SMALL: u64 = 4096;
const SLOTS: u64 = 40;

/// Compressible, and of different lengths.
fn text(slot: u64) -> Vec<u8> {
    vec![slot as u8; 300 + slot as usize]
}

pub(super) fn entries() -> Vec<SlotEntry> {
    (1..=SLOTS).map(|slot| entry(slot, 1, &text(slot))).collect()
}

/// A log of several segments, one of them with a value that is longer than a block.
pub(super) fn log_of(disk: &MemDisk) -> Tlog {
    let (mut tlog, _) = open(disk, SMALL, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups()[..2]);
    for entry in entries() {
        write(&mut tlog, &[vec![Record::Accepted(entry)]]);
    }
    tlog.seal().unwrap();
    tlog
}

pub(super) fn compress_all(tlog: &Tlog) -> Result<(), TlogError> {
    let mut upkeep = tlog.upkeep();
    loop {
        match upkeep.compress_some()? {
            Compressed::Nothing => return Ok(()),
            Compressed::GivenUp(_, error) => return Err(error),
            Compressed::Piece | Compressed::Segment(_) => {}
            Compressed::PutOff(..) => panic!("nothing is kept free"),
        }
    }
}

fn assert_whole(tlog: &Tlog, found: &RecoveredLog) {
    assert_eq!((&found.damage[..], &found.notes[..]), (&[][..], &[][..]));
    assert_eq!(found.recovered.undecided, entries());
    assert!(found.recovered.memory.as_ref().unwrap().votes);
    assert_eq!(found.recovered.promised, ballot(1));
    assert_eq!(tlog.reader().entries(Slot(1), Slot(SLOTS)).collect::<Result<Vec<_>, _>>().unwrap(), entries());
}

#[test]
fn a_compressed_log_reads_as_it_did_and_takes_less() {
    let disk = MemDisk::default();
    let tlog = log_of(&disk);
    let before = tlog.reader().usage();
    let mut upkeep = tlog.upkeep();
    let mut compressed = 0;
    loop {
        match upkeep.compress_some().unwrap() {
            Compressed::Nothing => break,
            Compressed::Piece => continue,
            Compressed::Segment(segment) => assert_eq!(segment, compressed),
            Compressed::GivenUp(..) | Compressed::PutOff(..) => panic!("nothing fails"),
        }
        compressed += 1;
        let usage = tlog.reader().usage();
        assert_eq!((usage.segments, usage.compressed), (before.segments, compressed as usize));
        assert_eq!(usage.bytes, disk.image().values().map(|bytes| bytes.len() as u64).sum::<u64>());
        let read = tlog.reader().entries(Slot(1), Slot(SLOTS)).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(read, entries());
        let (again, found) = open(&disk, SMALL, NOTHING_APPLIED).unwrap();
        assert_whole(&again, &found);
    }
    assert_eq!(compressed as usize, before.segments - 1);
    assert!(tlog.reader().usage().bytes < before.bytes / 2);
    assert!(matches!(upkeep.compress_some().unwrap(), Compressed::Nothing));
    // Archives are removed like segments.
    assert!(upkeep.collapse(Slot(SLOTS)).unwrap().is_some());
    assert_eq!(disk.image().len(), 1);
}

#[test]
fn what_was_read_from_a_segment_can_be_read_while_it_is_compressed() {
    let disk = MemDisk::default();
    let tlog = log_of(&disk);
    let mut entries_read = tlog.reader().entries(Slot(1), Slot(SLOTS));
    let first = entries_read.next().unwrap().unwrap();
    compress_all(&tlog).unwrap();
    let rest = entries_read.collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!([vec![first], rest].concat(), entries());
}

#[test]
fn blocks_are_independent_and_what_does_not_compress_is_stored() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 8 << 20, NOTHING_APPLIED).unwrap();
    let mut dice = Dice(7);
    let noise: Vec<u8> = (0..3 << 20).map(|_| dice.below(256) as u8).collect();
    let long = [entry(1, 1, &noise), entry(2, 1, &vec![0; 2 << 20]), entry(3, 1, &vec![1; 4 << 20])];
    for entry in &long {
        write(&mut tlog, &[vec![Record::Accepted(entry.clone())]]);
    }
    compress_all(&tlog).unwrap();
    let bytes = disk.image()["000.tlx"].len();
    assert!((3 << 20..(3 << 20) + 40_000).contains(&bytes), "{bytes}");
    assert_eq!(tlog.reader().entries(Slot(1), Slot(3)).collect::<Result<Vec<_>, _>>().unwrap(), long);
    // The third block is damaged: the first record with it, and not the second.
    disk.damage("000.tlx", front_bytes(6) as usize + (2 << 20) + 99);
    assert!(matches!(tlog.reader().read(Slot(1), Slot(1), 0), Err(TlogError::Damaged { slot: Slot(1), .. })));
    assert_eq!(tlog.reader().read(Slot(2), Slot(2), 0).unwrap(), long[1..2]);
    let found = open(&disk, 8 << 20, NOTHING_APPLIED).unwrap().1;
    let lost = Damage::Record { segment: 0, offset: 512, why: BadFrame::Checksum };
    assert_eq!(found.damage[..2], [lost, Damage::Block { segment: 0, offset: 512 + (2 << 20) }]);
    assert_eq!(found.recovered.memory, None);
}

#[test]
fn a_crash_at_any_moment_of_a_compression_leaves_the_log_whole() {
    let mut moments = 0;
    for changes in 0.. {
        for seed in 0..10 {
            let disk = MemDisk::default();
            let tlog = log_of(&disk);
            disk.power_fails_after(changes);
            let outcome = compress_all(&tlog);
            drop(tlog);
            if outcome.is_ok() {
                assert!(moments > 100, "{moments}");
                return;
            }
            moments += 1;
            let disk = if seed == 0 { disk.after_kill() } else { disk.after_power_cut(&mut Dice(seed)) };
            let (tlog, found) = open(&disk, SMALL, NOTHING_APPLIED).unwrap();
            assert_whole(&tlog, &found);
            let names: Vec<_> = disk.image().into_keys().collect();
            assert_eq!(names.len(), tlog.reader().usage().segments, "{names:?}");
            compress_all(&tlog).unwrap();
            assert_whole(&tlog, &open(&disk, SMALL, NOTHING_APPLIED).unwrap().1);
        }
    }
}

#[test]
fn a_segment_that_cannot_be_compressed_stays() {
    for call in ["create", "write", "rename"] {
        let disk = MemDisk::default();
        let tlog = log_of(&disk);
        let before = disk.image();
        let mut upkeep = tlog.upkeep();
        disk.fail(call, ErrorKind::StorageFull);
        for segment in 0..before.len() as u32 - 1 {
            let given_up = loop {
                match upkeep.compress_some().unwrap() {
                    Compressed::Piece => {}
                    other => break other,
                }
            };
            assert!(matches!(given_up, Compressed::GivenUp(given_up, _) if given_up == segment), "{call}");
        }
        assert!(matches!(upkeep.compress_some().unwrap(), Compressed::Nothing));
        assert_eq!(disk.image(), before, "{call}");
        disk.mend();
        compress_all(&tlog).unwrap();
    }
    for call in ["sync", "sync-dir", "remove"] {
        let disk = MemDisk::default();
        let tlog = log_of(&disk);
        disk.fail(call, ErrorKind::Other);
        let mut upkeep = tlog.upkeep();
        while let Ok(Compressed::Piece) = upkeep.compress_some() {}
        disk.mend();
        assert!(matches!(upkeep.compress_some(), Err(TlogError::Failed)), "{call}");
        drop(tlog);
        let (tlog, found) = open(&disk, SMALL, NOTHING_APPLIED).unwrap();
        assert_whole(&tlog, &found);
    }
}

/// Whatever byte of a block is damaged before it is read back: no segment is removed for an archive that differs.
#[test]
fn an_archive_that_reads_otherwise_than_it_was_written_takes_no_segments_place() {
    let begin = front_bytes(1) as usize;
    for at in begin.. {
        let disk = MemDisk::default();
        let tlog = log_of(&disk);
        let before = disk.image();
        let mut upkeep = tlog.upkeep();
        // Begun, and its one block written.
        for _ in 0..2 {
            assert!(matches!(upkeep.compress_some().unwrap(), Compressed::Piece));
        }
        if disk.image()["000.tlx.new"].len() == at {
            assert!(at > begin + 20);
            return;
        }
        disk.damage("000.tlx.new", at);
        let outcome = loop {
            match upkeep.compress_some().unwrap() {
                Compressed::Piece => {}
                other => break other,
            }
        };
        assert!(matches!(outcome, Compressed::GivenUp(0, TlogError::NotArchived { .. })), "byte {at}: {outcome:?}");
        assert_eq!(disk.image(), before);
    }
}

#[test]
fn damage_to_an_archive_is_found_and_costs_what_damage_to_its_segment_would() {
    let disk = MemDisk::default();
    let tlog = log_of(&disk);
    compress_all(&tlog).unwrap();
    let held = tlog.reader().state().index.find(Slot(SLOTS)).unwrap().segment;
    drop(tlog);
    let image = disk.image();
    let hashes: Vec<_> = (0..=SLOTS as usize).map(|upto| (Slot(upto as u64), hash_of(&entries()[..upto]))).collect();
    for cut in [false, true] {
        for at in 0..image["001.tlx"].len() {
            let mut broken = image.clone();
            let archive = broken.get_mut("001.tlx").unwrap();
            if cut {
                archive.truncate(at);
            } else {
                archive[at] ^= 0x10;
            }
            let broken = MemDisk::from_image(&broken);
            let (tlog, found) = open(&broken, SMALL, NOTHING_APPLIED).unwrap();
            assert_ne!(found.damage, [], "byte {at}");
            assert_eq!(found.recovered.memory, None, "byte {at}");
            for slot in 1..=SLOTS {
                let read = tlog.reader().read(Slot(slot), Slot(slot), 0);
                assert!(read.is_err() || read.unwrap() == entries()[slot as usize - 1..slot as usize]);
            }
            // A store that has passed all of it needs it no more.
            let (_, found) = open(&broken, SMALL, hashes[SLOTS as usize]).unwrap();
            assert_ne!(found.damage, [], "byte {at}");
            assert!(found.recovered.memory.is_some(), "byte {at}: {found:?}");
            assert!(found.recovered.log_start > Slot(1));
        }
    }
    assert!(held > 2);
}

#[test]
fn an_archive_is_never_the_last_of_its_log() {
    let disk = MemDisk::default();
    let tlog = log_of(&disk);
    compress_all(&tlog).unwrap();
    let open_one = tlog.segment.number;
    drop(tlog);
    let mut image = disk.image();
    image.remove(&format!("{open_one:03}.tlog"));
    let disk = MemDisk::from_image(&image);
    let missing = Damage::Missing { first: open_one, last: open_one };
    for _ in 0..2 {
        let (tlog, found) = open(&disk, SMALL, NOTHING_APPLIED).unwrap();
        assert_eq!(found.damage[0], missing);
        assert_eq!((found.recovered.memory, tlog.segment.number), (None, open_one + 1));
    }
}

#[test]
fn archives_of_others_and_of_later_programs_are_refused() {
    let disk = MemDisk::default();
    let tlog = log_of(&disk);
    compress_all(&tlog).unwrap();
    drop(tlog);
    let reseal = |bytes: &mut Vec<u8>| {
        let end = front_bytes(1) as usize;
        let crc = crc32c::crc32c(&bytes[..end - 4]);
        bytes[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    };
    for (at, byte) in [(8, 2), (10, 1)] {
        let mut newer = disk.image();
        let archive = newer.get_mut("000.tlx").unwrap();
        archive[at] = byte;
        reseal(archive);
        let error = open(&MemDisk::from_image(&newer), SMALL, NOTHING_APPLIED).err().unwrap();
        assert!(matches!(error, TlogError::NewerFormat { .. }), "{error}");
    }
    let other = Identity { cluster_id: "prod".into(), ..identity() };
    let refused = Tlog::open(Arc::new(disk.clone()), Path::new("home"), other, options(SMALL, 0), NOTHING_APPLIED);
    assert!(matches!(refused.err().unwrap(), TlogError::OtherCluster { .. }));
    let mut renumbered = disk.image();
    let archive = renumbered["000.tlx"].clone();
    renumbered.insert("001.tlx".into(), archive);
    let error = open(&MemDisk::from_image(&renumbered), SMALL, NOTHING_APPLIED).err().unwrap();
    assert!(matches!(error, TlogError::Renumbered { number: 0, .. }));
}

#[test]
fn the_bytes_before_the_blocks_stay_as_they_are() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SMALL, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &[vec![accepted(1, 1, &[0; 3000])], vec![accepted(2, 1, &[0; 3000])]]);
    let segment = disk.image()["000.tlog"].clone();
    compress_all(&tlog).unwrap();
    let archive = disk.image()["000.tlx"].clone();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&archive[..24]), "5442414c2e746c780100000001000000d90d000000000000");
    assert_eq!(archive[24..536], segment[..512]);
    assert_eq!(archive[536..540], (archive.len() as u32 - 548).to_le_bytes(), "the length of the one block");
    let salted = |bytes: &[u8]| crc32c::crc32c_append(crc32c::crc32c_append(identity().salt(0).0, &[0; 4]), bytes);
    assert_eq!(archive[540..544], salted(&archive[548..]).to_le_bytes());
    assert_eq!(archive[544..548], crc32c::crc32c(&archive[..544]).to_le_bytes());
}

proptest! {
    #[test]
    fn no_bytes_make_an_archive_panic_or_take_memory_by_their_word(
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0_usize..900,
        sealed in any::<bool>(),
        blocks in prop_oneof![Just(1_u32), any::<u32>()],
        len in prop_oneof![Just(3545_u64), any::<u64>()],
    ) {
        let disk = MemDisk::default();
        let tlog = log_of(&disk);
        compress_all(&tlog).unwrap();
        let mut image = disk.image();
        let archive = image.get_mut("001.tlx").unwrap();
        let at = at.min(archive.len());
        let end = (at + garbage.len()).min(archive.len());
        archive[at..end].copy_from_slice(&garbage[..end - at]);
        if sealed {
            archive[..8].copy_from_slice(b"TBAL.tlx");
            archive[8..12].copy_from_slice(&[1, 0, 0, 0]);
            archive[12..16].copy_from_slice(&blocks.to_le_bytes());
            archive[16..24].copy_from_slice(&len.to_le_bytes());
            let end = front_bytes(1) as usize;
            let crc = crc32c::crc32c(&archive[..end - 4]);
            archive[end - 4..end].copy_from_slice(&crc.to_le_bytes());
        }
        // It may be another log's now, or a later program's; whatever it is found to be, it is found.
        if let Ok((tlog, _)) = open(&MemDisk::from_image(&image), SMALL, NOTHING_APPLIED) {
            for slot in 1..=SLOTS {
                let read = tlog.reader().read(Slot(slot), Slot(slot), 0);
                prop_assert!(read.is_err() || read.unwrap() == entries()[slot as usize - 1..slot as usize]);
            }
        }
    }
}

#[test]
fn an_archive_is_not_begun_or_gone_on_with_when_it_would_eat_into_the_reserve() {
    let disk = MemDisk::default();
    let tlog = log_of(&disk);
    let names = || disk.image().into_keys().collect::<Vec<_>>();
    let before = names();
    let free = Arc::new(AtomicU64::new(1 << 20));
    let reserve = Reserve::new(1 << 20, {
        let free = free.clone();
        move || Ok(free.load(Ordering::Relaxed))
    });
    let mut upkeep = tlog.upkeep().with_reserve(reserve);
    assert!(matches!(upkeep.compress_some().unwrap(), Compressed::PutOff(0, _)));
    assert_eq!(names(), before);
    free.store(1 << 30, Ordering::Relaxed);
    assert!(matches!(upkeep.compress_some().unwrap(), Compressed::Piece));
    assert_ne!(names(), before);
    free.store(2 << 20, Ordering::Relaxed);
    assert!(matches!(upkeep.compress_some().unwrap(), Compressed::PutOff(0, _)));
    assert_eq!(names(), before, "what there was of it is gone");
    free.store(1 << 30, Ordering::Relaxed);
    while !matches!(upkeep.compress_some().unwrap(), Compressed::Nothing) {}
    assert_eq!(tlog.reader().usage().compressed, before.len() - 1);
}
