//! What the log does to its disk, in which order.

use std::io::ErrorKind;

use super::super::*;
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

    tlog.append(&[accepted(1, 1, &[0; 100]), accepted(2, 1, &[0; 100])]).unwrap();
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
    assert_eq!(tlog.reader().usage(), LogUsage { segments: 2, compressed: 0, bytes: 845 + 1024 });
    // Exactly full is not too full.
    write(&mut tlog, &[accepted(3, 1, &[3; 146])]);
    assert_eq!(tlog.reader().usage().segments, 2);
    write(&mut tlog, &[Record::Promised(ballot(3))]);
    assert_eq!(tlog.reader().usage().segments, 3);
    assert_eq!(open(&disk, 1024, NOTHING_APPLIED).unwrap().1.recovered.undecided.len(), 3);
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
    assert_eq!((&found.damage[..], &found.recovered.undecided[..]), (&[][..], &entries[..]));
    assert_eq!(tlog.reader().read(Slot(1), Slot(3), usize::MAX).unwrap(), entries);
}

#[test]
fn a_slot_accepted_again_in_a_higher_ballot_has_its_last_value() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &[accepted(1, 1, b"old"), accepted(2, 1, b"old"), accepted(3, 1, b"old")]);
    write(&mut tlog, &[accepted(2, 2, b"new"), accepted(3, 2, b"new"), accepted(3, 3, b"newer")]);
    let expected = [entry(1, 1, b"old"), entry(2, 2, b"new"), entry(3, 3, b"newer")];
    assert_eq!(tlog.reader().read(Slot(1), Slot(9), usize::MAX).unwrap(), expected);
    let found = open(&disk, 1024, NOTHING_APPLIED).unwrap().1;
    assert_eq!((found.recovered.undecided.as_slice(), found.recovered.promised), (&expected[..], ballot(3)));
}

#[test]
fn any_error_of_the_disk_is_final() {
    for call in ["allocate", "write", "sync", "truncate", "create", "sync-dir"] {
        let disk = MemDisk::default();
        let (mut tlog, _) = open(&disk, 1024, NOTHING_APPLIED).unwrap();
        write(&mut tlog, &[accepted(1, 1, b"one")]);
        disk.fail(call, ErrorKind::StorageFull);
        // Longer than a segment: every kind of call is needed for it.
        tlog.append(&[accepted(2, 1, &[2; 2000])]).unwrap();
        assert!(matches!(tlog.sync(), Err(TlogError::Io { .. })), "{call}");
        disk.fail("nothing", ErrorKind::Other);
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
        let options = TlogOptions { segment_bytes: 4096, ..TlogOptions::default() };
        Tlog::open(Arc::new(crate::disk::RealDisk), home.path(), identity(), options, NOTHING_APPLIED).unwrap()
    };
    let entries: Vec<_> = (1..100).map(|slot| entry(slot, 1, &[slot as u8; 200])).collect();
    for (at, entry) in entries.iter().enumerate() {
        let (mut tlog, found) = open();
        assert_eq!((&found.damage[..], &found.notes[..]), (&[][..], &[][..]));
        assert_eq!(found.recovered.undecided, entries[..at]);
        write(&mut tlog, &[Record::Accepted(entry.clone())]);
    }
    let (tlog, _) = open();
    assert_eq!(tlog.reader().entries(Slot(1), Slot(99)).collect::<Result<Vec<_>, _>>().unwrap(), entries);
}
