//! Every planted bug of the log does something, and what it does is what it says.

use std::io::ErrorKind;

use super::*;
use crate::planted::PlantedBug;

/// Opens a log with this bug.
fn open(disk: &MemDisk, planted: Option<PlantedBug>, store: (Slot, HistoryHash)) -> (Tlog, RecoveredLog) {
    let options = TlogOptions { segment_bytes: SEGMENT_BYTES, planted, ..TlogOptions::default() };
    Tlog::open(Arc::new(disk.clone()), Path::new("home"), identity(), options, store).unwrap()
}

/// What a log does in the situation that shows this bug, in words.
fn behaviour(shown: PlantedBug, planted: Option<PlantedBug>) -> String {
    match shown {
        PlantedBug::MiddleTakenForEnd | PlantedBug::DamageForgiven => {
            let (image, frames) = small_log(true);
            let disk = MemDisk::from_image(&image);
            disk.damage("000.tlog", frames[3] + 20);
            recovered(&disk, planted, NOTHING_APPLIED)
        }
        PlantedBug::DecidedBelieved => {
            let hash = HistoryHash(9);
            let disk = MemDisk::default();
            let mut tlog = open(&disk, None, NOTHING_APPLIED).0;
            write(&mut tlog, &[groups()[0].clone(), vec![Record::Decided { upto: Slot(5), hash }]]);
            recovered(&disk, planted, NOTHING_APPLIED)
        }
        PlantedBug::LostTailForgiven => {
            recovered(&MemDisk::from_image(&small_log(true).0), planted, (Slot(9), HistoryHash(9)))
        }
        PlantedBug::TornTailLeft => {
            let (mut image, frames) = small_log(false);
            let torn = frames[frames.len() - 2] - 1;
            image.get_mut("000.tlog").unwrap()[torn] ^= 1;
            calls_of(&MemDisk::from_image(&image), |disk| drop(open(disk, planted, NOTHING_APPLIED)))
        }
        PlantedBug::SyncErrorBelieved => {
            let disk = MemDisk::default();
            let mut tlog = open(&disk, planted, NOTHING_APPLIED).0;
            tlog.append(&[accepted(1, 1, b"one")]).unwrap();
            disk.fail_once("sync", ErrorKind::Other);
            format!("{:?}", tlog.sync().is_ok())
        }
        PlantedBug::SyncLeftOut | PlantedBug::NullSealedAlways => {
            let disk = MemDisk::default();
            let mut tlog = open(&disk, planted, NOTHING_APPLIED).0;
            calls_of(&disk, |_| write(&mut tlog, &groups()[..1]))
        }
        PlantedBug::NameNotSynced | PlantedBug::NullHeaderUnsynced => {
            let disk = MemDisk::default();
            let mut tlog = open(&disk, planted, NOTHING_APPLIED).0;
            write(&mut tlog, &groups());
            calls_of(&disk, |_| write(&mut tlog, &[vec![accepted(5, 1, &[5; 900])]]))
        }
        other => panic!("{other:?} is no bug of the log"),
    }
}

fn recovered(disk: &MemDisk, planted: Option<PlantedBug>, store: (Slot, HistoryHash)) -> String {
    let found = open(disk, planted, store).1.recovered;
    format!("{} {:?} {:?}", found.decided_upto, found.undecided, found.memory)
}

fn calls_of(disk: &MemDisk, act: impl FnOnce(&MemDisk)) -> String {
    disk.take_calls();
    act(disk);
    format!("{:?}", disk.take_calls())
}

#[test]
fn every_planted_bug_changes_what_the_log_does() {
    let ours = PlantedBug::ALL.iter().filter(|bug| bug.place().starts_with("io-tokio/src/tlog/"));
    for bug in ours {
        assert_ne!(behaviour(*bug, None), behaviour(*bug, Some(*bug)), "{bug:?}");
    }
}

/// A sync that is believed the second time leaves nothing on the disk; a name that was not synced may be gone.
#[test]
fn what_was_believed_is_gone_after_a_power_cut() {
    let lost_after_cut = |planted, fails| {
        (0..20).any(|seed| {
            let disk = MemDisk::default();
            let mut tlog = open(&disk, planted, NOTHING_APPLIED).0;
            write(&mut tlog, &groups()[..1]);
            if fails {
                tlog.append(&[accepted(1, 1, b"one")]).unwrap();
                disk.fail_once("sync", ErrorKind::Other);
            } else {
                // Needs a new segment.
                tlog.append(&[accepted(1, 1, &[1; 900])]).unwrap();
            }
            let believed = tlog.sync().is_ok();
            let (tlog, _) = open(&disk.after_power_cut(&mut Dice(seed)), None, NOTHING_APPLIED);
            believed && tlog.reader().log_end() != Some(Slot(1))
        })
    };
    for (bug, fails) in
        [(PlantedBug::SyncErrorBelieved, true), (PlantedBug::SyncLeftOut, false), (PlantedBug::NameNotSynced, false)]
    {
        assert!(lost_after_cut(Some(bug), fails), "{bug:?}");
        assert!(!lost_after_cut(None, fails), "{bug:?}");
    }
    for null in [PlantedBug::NullHeaderUnsynced, PlantedBug::NullSealedAlways] {
        assert!(!lost_after_cut(Some(null), false), "{null:?}");
    }
}
