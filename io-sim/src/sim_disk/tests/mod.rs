//! The disk on its own, under the log, and under the store.

mod head;
mod log;
mod store;

use std::io;
use std::path::Path;

use trialbay::disk::{Disk as _, DiskFile};

use super::*;

/// A disk with the directory `home`.
fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(Rng::new(seed, 1));
    disk.create_dir(Path::new("home")).unwrap();
    disk
}

fn file_with(disk: &SimDisk, path: &str, bytes: &[u8]) -> Box<dyn DiskFile> {
    let file = disk.create(Path::new(path)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
    file
}

fn now(disk: &SimDisk, path: &str) -> Vec<u8> {
    disk.read_now(Path::new(path)).unwrap()
}

fn durable(disk: &SimDisk, path: &str) -> Vec<u8> {
    disk.read_durable(Path::new(path)).unwrap()
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_not() {
    let mut kept = 0;
    for seed in 0..200 {
        let disk = disk(seed);
        let file = file_with(&disk, "home/a", b"synced");
        file.write_at(b"not", 6).unwrap();
        assert_eq!(durable(&disk, "home/a"), b"synced");
        assert_eq!(now(&disk, "home/a"), b"syncednot");
        disk.power_cut();
        let left = now(&disk, "home/a");
        assert_eq!(left, durable(&disk, "home/a"));
        assert!(left.starts_with(b"synced") && left.len() <= 9);
        kept += u64::from(left == b"syncednot");
    }
    assert!((20..180).contains(&kept), "{kept} of 200");
}

#[test]
fn a_name_that_was_not_synced_may_be_lost_and_a_rename_happens_wholly_or_not_at_all() {
    let (mut lost, mut renamed, mut removed) = (0, 0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        file_with(&disk, "home/old", b"old");
        file_with(&disk, "home/gone", b"gone");
        let new = disk.create(Path::new("home/new")).unwrap();
        new.write_at(b"new", 0).unwrap();
        new.sync_all().unwrap();
        assert_eq!(disk.read_durable(Path::new("home/new")), None);
        disk.rename(Path::new("home/new"), Path::new("home/old")).unwrap();
        disk.remove(Path::new("home/gone")).unwrap();
        disk.create(Path::new("home/unsynced")).unwrap();
        disk.power_cut();
        let old = now(&disk, "home/old");
        assert!(old == b"old" || old == b"new");
        let names = disk.list(Path::new("home")).unwrap();
        assert!(!(old == b"new" && names.contains(&"new".to_owned())));
        renamed += u64::from(old == b"new");
        removed += u64::from(!names.contains(&"gone".to_owned()));
        lost += u64::from(!names.contains(&"unsynced".to_owned()));
    }
    for count in [lost, renamed, removed] {
        assert!((50..150).contains(&count), "{lost} lost, {renamed} renamed, {removed} removed");
    }
}

#[test]
fn names_whose_directory_was_synced_stay_unless_that_is_lost_itself() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = disk(seed);
        disk.create_dir(Path::new("home/tlogs")).unwrap();
        disk.create(Path::new("home/tlogs/000.tlog")).unwrap();
        disk.sync_dir(Path::new("home/tlogs")).unwrap();
        assert!(disk.durable_files().is_empty());
        if seed % 2 == 0 {
            disk.sync_dir(Path::new("home")).unwrap();
            assert_eq!(disk.durable_files(), [Path::new("home/tlogs/000.tlog")]);
        }
        disk.power_cut();
        assert!(seed % 2 == 1 || disk.files().len() == 1);
        lost += u64::from(disk.files().is_empty());
    }
    assert!((10..40).contains(&lost), "{lost} of 50");
}

#[test]
fn the_end_of_a_process_leaves_what_it_wrote_and_kills_what_it_had_open() {
    for end in [SimDisk::kill, SimDisk::power_cut, SimDisk::wipe] {
        let disk = disk(1);
        let process = disk.for_process();
        let file = file_with(&process, "home/a", b"a");
        file.write_at(b"b", 0).unwrap();
        end(&disk);
        let before = disk.image_hash();
        assert!(file.size().is_err() && file.read_at(&mut [0], 0).is_err());
        assert!(file.write_at(b"c", 0).is_err() && file.allocate(0, 9).is_err() && file.truncate(0).is_err());
        assert!(file.sync_all().is_err() && file.sync_data().is_err() && file.settle().is_err());
        assert!(process.create(Path::new("home/b")).is_err() && process.remove(Path::new("home/a")).is_err());
        assert!(process.list(Path::new("home")).is_err() && process.open(Path::new("home/a")).is_err());
        drop(file);
        assert_eq!(disk.image_hash(), before);
    }
    let disk = disk(1);
    file_with(&disk.for_process(), "home/a", b"a").write_at(b"b", 0).unwrap();
    disk.kill();
    assert_eq!((now(&disk, "home/a"), durable(&disk, "home/a")), (b"b".to_vec(), b"a".to_vec()));
    disk.for_process().open(Path::new("home/a")).unwrap().sync_data().unwrap();
    assert_eq!(durable(&disk, "home/a"), b"b");
    disk.wipe();
    assert!(disk.files().is_empty() && disk.list(Path::new("home")).is_err());
}

#[test]
fn a_sync_that_failed_is_believed_by_those_only_who_do_not_settle() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = file_with(&disk, "home/a", b"old");
        file.write_at(b"new", 0).unwrap();
        disk.fail_next_sync(Path::new("home"));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        let truth = durable(&disk, "home/a");
        file.sync_data().unwrap();
        assert_eq!(now(&disk, "home/a"), b"new", "readers believe it");
        assert_eq!(durable(&disk, "home/a"), truth, "a second sync proves nothing");
        disk.kill();
        assert_eq!(now(&disk, "home/a"), b"new", "the next process believes it as well");
        disk.open_to_read(Path::new("home/a")).unwrap().settle().unwrap();
        assert_eq!(now(&disk, "home/a"), truth);
        lost += u64::from(truth == b"old");
    }
    assert!((10..40).contains(&lost), "{lost} of 50");
    assert_eq!(disk(0).counters().syncs_failed, 0);
}

#[test]
fn a_failure_is_for_the_files_below_its_directory() {
    let disk = disk(1);
    for dir in ["home/tlogs", "home/db"] {
        disk.create_dir(Path::new(dir)).unwrap();
    }
    let (log, store) = (file_with(&disk, "home/tlogs/a", b"a"), file_with(&disk, "home/db/b", b"b"));
    disk.fail_next_sync(Path::new("home/db"));
    log.sync_data().unwrap();
    store.sync_data().unwrap_err();
    store.sync_data().unwrap();
}

#[test]
fn writes_that_fail_may_have_been_done_in_part() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = disk(seed);
        let file = file_with(&disk, "home/a", b"");
        disk.set_writes_fail(true);
        file.write_at(b"12345", 0).unwrap_err();
        disk.set_writes_fail(false);
        lengths.insert(now(&disk, "home/a").len());
        file.write_at(b"12345", 0).unwrap();
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_full_disk_takes_what_it_has_room_for_only() {
    let disk = disk(1);
    let file = file_with(&disk, "home/a", b"");
    file.allocate(0, 10_000).unwrap();
    disk.set_full(true);
    file.write_at(&[1; 10_000], 0).unwrap();
    file.allocate(0, 10_000).unwrap();
    for error in [file.write_at(&[1; 5_000], 9_000), file.allocate(10_000, 1)] {
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    file.truncate(100_000).unwrap();
    assert_eq!(file.write_at(&[1], 50_000).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.sync_all().unwrap();
    disk.set_full(false);
    file.write_at(&[1], 50_000).unwrap();
    assert_eq!(disk.total_bytes(), 100_000);
}

#[test]
fn a_disk_that_lies_keeps_nothing_for_certain() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = file_with(&disk, "home/a", b"old");
        disk.set_syncs_lie(true);
        file.write_at(b"new", 0).unwrap();
        file.settle().unwrap();
        assert_eq!((now(&disk, "home/a"), durable(&disk, "home/a")), (b"new".to_vec(), b"old".to_vec()));
        if seed % 2 == 0 {
            disk.set_syncs_lie(false);
            file.sync_data().unwrap();
            assert_eq!(durable(&disk, "home/a"), b"new");
        }
        disk.power_cut();
        assert!(seed % 2 == 1 || now(&disk, "home/a") == b"new");
        lost += u64::from(now(&disk, "home/a") != b"new");
    }
    assert!(lost > 10, "{lost} of 25");
}

#[test]
fn rot_changes_one_bit_of_what_was_written() {
    for seed in 0..50 {
        let disk = disk(seed);
        file_with(&disk, "home/a", &[7; 3_000]).allocate(0, 8 << 20).unwrap();
        let at = disk.rot(Path::new("home/a")).unwrap().0 as usize;
        assert_eq!(now(&disk, "home/a")[..3_000], durable(&disk, "home/a"));
        assert_eq!((durable(&disk, "home/a")[at] ^ 7).count_ones(), 1);
        assert_eq!(durable(&disk, "home/a").iter().filter(|byte| **byte != 7).count(), 1);
        assert_eq!(disk.rot(Path::new("home/b")), None);
    }
}

#[test]
fn a_misdirected_write_spoils_another_place_and_its_own_keeps_what_it_had() {
    let mut others = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = file_with(&disk, "home/a", &[1; 5_000]);
        file_with(&disk, "home/b", &[2; 5_000]);
        disk.misdirect_next_write(Path::new("home/a"));
        file.write_at(&[9; 100], 4_700).unwrap();
        file.sync_data().unwrap();
        assert_eq!(now(&disk, "home/a")[4_700..4_800], [9; 100], "the system has a copy of what it should be");
        disk.power_cut();
        let (a, b) = (now(&disk, "home/a"), now(&disk, "home/b"));
        assert_eq!((a.len(), b.len()), (5_000, 5_000));
        let (in_a, in_b) = (a.iter().position(|byte| *byte == 9), b.iter().position(|byte| *byte == 9));
        assert!(in_a.is_some() != in_b.is_some());
        assert_eq!(in_a.or(in_b).unwrap() % 512, 0);
        others += u64::from(in_b.is_some());
        assert_eq!(disk.counters().writes_misdirected, 1);
    }
    assert!(others > 5, "{others}");
}

#[test]
fn after_the_last_change_before_the_power_fails_nothing_changes_any_more() {
    for changes in 0..5 {
        let disk = disk(changes);
        let file = disk.create(Path::new("home/a")).unwrap();
        disk.power_fails_after(changes);
        let done = (0..9).take_while(|at| file.write_at(&[1; 10], at * 10).is_ok()).count() as u64;
        assert_eq!(done, changes);
        assert!(disk.is_power_out());
        let len = now(&disk, "home/a").len() as u64;
        assert!((changes * 10..changes * 10 + 10).contains(&len));
        file.write_at(&[1; 10], 0).unwrap_err();
        file.sync_data().unwrap_err();
        disk.create(Path::new("home/b")).err().unwrap();
        assert_eq!(now(&disk, "home/a").len() as u64, len);
        disk.kill();
        disk.create(Path::new("home/b")).unwrap();
        assert!(!disk.is_power_out());
    }
}

#[test]
fn directories_must_exist_and_files_must_be_what_is_asked_for() {
    let disk = disk(1);
    let kind = |outcome: io::Result<Box<dyn DiskFile>>| outcome.err().unwrap().kind();
    assert_eq!(kind(disk.create(Path::new("home/x/a"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(Path::new("home/a"))), io::ErrorKind::NotFound);
    file_with(&disk, "home/a", b"a");
    assert_eq!(kind(disk.create(Path::new("home/a"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(Path::new("home"))), io::ErrorKind::IsADirectory);
    let to_read = disk.open_to_read(Path::new("home/a")).unwrap();
    assert_eq!(to_read.write_at(b"b", 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(disk.create_dir(Path::new("home/a/b")).is_err());
    disk.create_dir(Path::new("/base/x/y")).unwrap();
    assert_eq!(disk.list(Path::new("/base")).unwrap(), ["x"]);
    assert_eq!(disk.list(Path::new("home")).unwrap(), ["a"]);
}
