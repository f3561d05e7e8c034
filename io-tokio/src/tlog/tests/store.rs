//! Logs and stores that are not equally far.

use super::*;

#[test]
fn a_store_ahead_of_the_log_means_that_the_log_was_lost() {
    let store = (Slot(9), HistoryHash(77));
    let found = open(&MemDisk::default(), SEGMENT_BYTES, store).unwrap().1;
    let lost = |log_end| Damage::LogBehindStore { log_end, store_applied: Slot(9) };
    assert_eq!(found.damage, [lost(Slot::ZERO)]);
    assert_eq!(
        found.recovered,
        Recovered { decided_upto: Slot(9), decided_hash: HistoryHash(77), log_start: Slot(10), ..Recovered::blank() }
    );

    let found = open(&MemDisk::from_image(&small_log(true).0), SEGMENT_BYTES, store).unwrap().1;
    assert_eq!(found.damage, [lost(Slot(4))]);
    assert_eq!((found.recovered.decided_upto, found.recovered.memory), (Slot(9), None));
    assert_eq!((found.recovered.promised, found.recovered.undecided), (ballot(1), vec![]));
}

#[test]
fn a_head_beyond_the_log_is_no_loss_once_the_log_knows_of_it() {
    let disk = MemDisk::from_image(&small_log(true).0);
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    let hash = HistoryHash(77);
    write(&mut tlog, &[vec![Record::Decided { upto: Slot(9), hash }], vec![accepted(10, 2, b"ten")]]);
    assert_eq!(tlog.reader().log_start(), Some(Slot(10)));
    let found = open(&disk, 4096, (Slot(9), hash)).unwrap().1;
    assert_eq!(found.damage, []);
    assert_eq!((found.recovered.decided_upto, found.recovered.decided_hash), (Slot(9), hash));
    assert_eq!((found.recovered.undecided, found.recovered.log_start), (vec![entry(10, 2, b"ten")], Slot(10)));
    assert!(found.recovered.memory.unwrap().votes);

    let error = open(&disk, 4096, (Slot(9), HistoryHash(78))).err().unwrap();
    assert!(matches!(error, TlogError::StoreAndLogDisagree { slot: Slot(9), .. }));
    // With the store lost as well, the log alone does not lead up to slot 9.
    let found = open(&disk, 4096, NOTHING_APPLIED).unwrap().1;
    assert_eq!(found.damage, [Damage::Gap { after: Slot(4), upto: Slot(10) }]);
    let decided = [entry(1, 1, b"one"), entry(2, 1, b"two"), entry(3, 1, b"three"), entry(4, 1, b"four")];
    assert_eq!((found.recovered.decided_upto, found.recovered.decided_hash), (Slot(4), hash_of(&decided)));
    assert_eq!(found.recovered.memory, None);
}

#[test]
fn a_store_behind_the_log_replays_from_it() {
    let disk = MemDisk::from_image(&small_log(true).0);
    let (tlog, found) = open(&disk, SEGMENT_BYTES, (Slot(1), hash_of(&[entry(1, 1, b"one")]))).unwrap();
    let replayed: Result<Vec<_>, _> = tlog.reader().entries(Slot(2), found.recovered.decided_upto).collect();
    assert_eq!(replayed.unwrap(), [entry(2, 1, b"two")]);
}
