//! Power cuts at every moment, and bytes from nowhere.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn no_bytes_make_the_scan_panic(
        garbage in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..600),
        at in 0_usize..1200,
        other in any::<bool>(),
    ) {
        let mut image = two_segments().0.image();
        let segment = image.get_mut(if other { "000.tlog" } else { "001.tlog" }).unwrap();
        let at = at.min(segment.len());
        segment.truncate(at + garbage.len());
        segment.resize(at + garbage.len(), 0);
        segment[at..].copy_from_slice(&garbage);
        reopen(&image);
    }

    #[test]
    fn a_power_cut_loses_nothing_that_was_synced_and_costs_no_vote(seed in any::<u64>(), changes in 0_u64..80) {
        let disk = MemDisk::default();
        let mut dice = Dice(seed);
        disk.power_fails_after(changes);
        // Everything that was ever given to the log, and how much of it was reported durable.
        let mut given = Vec::new();
        let mut synced = 0;
        if let Ok((mut tlog, _)) = open(&disk, 2048, NOTHING_APPLIED) {
            for group in 0.. {
                let records = if group == 0 { groups()[0].clone() } else { random_group(&given, &mut dice) };
                given.extend_from_slice(&records);
                if tlog.append(&records).and_then(|()| tlog.sync()).is_err() {
                    break;
                }
                synced = given.len();
                if dice.below(3) == 0 && tlog.seal().is_err() {
                    break;
                }
            }
        }
        // Only the process may have died, or the whole machine.
        let disk = if dice.below(2) == 0 { disk.after_power_cut(&mut dice) } else { disk.after_kill() };
        let (_, found) = open(&disk, 2048, NOTHING_APPLIED).unwrap();
        prop_assert_eq!(&found.damage, &[]);
        let kept = (synced..=given.len()).find(|kept| model(&given[..*kept], None) == found.recovered);
        prop_assert!(kept.is_some(), "{:?}\nis no continuation of\n{:?}", found, &given[..synced]);

        // What was found has to stay, for the engine acts on it.
        let again = open(&disk.after_power_cut(&mut dice), 2048, NOTHING_APPLIED).unwrap().1;
        prop_assert_eq!(again.damage, &[]);
        prop_assert_eq!(again.recovered, found.recovered);
    }
}

fn random_group(given: &[Record], dice: &mut Dice) -> Vec<Record> {
    let mut accepted_upto = 0;
    let mut round = 1;
    for record in given {
        match record {
            Record::Accepted(entry) => accepted_upto = accepted_upto.max(entry.slot.0),
            Record::Promised(ballot) => round = ballot.round,
            _ => {}
        }
    }
    let mut records = Vec::new();
    for _ in 0..=dice.below(4) {
        records.push(match dice.below(6) {
            0 => {
                round += 1;
                Record::Promised(Ballot { round, ..ballot(0) })
            }
            // Accepted once more, in a higher ballot.
            1 if accepted_upto > 0 => accepted(accepted_upto, round, &[2; 50]),
            _ => {
                accepted_upto += 1;
                accepted(accepted_upto, round, &vec![1; dice.below(900) as usize])
            }
        });
    }
    records
}

#[test]
fn what_a_failed_sync_left_in_memory_only_is_not_taken_for_durable_by_the_next_process() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    tlog.append(&[accepted(1, 1, b"durable")]).unwrap();
    tlog.sync().unwrap();
    disk.fail("sync", std::io::ErrorKind::Other);
    tlog.append(&[accepted(2, 1, b"lost")]).unwrap();
    tlog.sync().unwrap_err();
    drop(tlog);
    assert!(open(&disk, 4096, NOTHING_APPLIED).is_err(), "a disk that cannot sync is not started on");
    disk.mend();
    let (mut tlog, found) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    assert_eq!(found.recovered.undecided, [entry(1, 1, b"durable")]);
    tlog.append(&[accepted(2, 1, b"kept")]).unwrap();
    tlog.sync().unwrap();
    let after = disk.after_power_cut(&mut Dice(1));
    let (_, found) = open(&after, 4096, NOTHING_APPLIED).unwrap();
    assert_eq!(found.recovered.undecided, [entry(1, 1, b"durable"), entry(2, 1, b"kept")]);
}
