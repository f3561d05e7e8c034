//! Logs that lose their old segments, and heads that they do not lead up to.

use super::*;

const SMALL: u64 = 1024;

/// A log of several segments with slots 1 to `upto`, and what a store that has them all has applied after each.
fn log_of(disk: &MemDisk, upto: u64) -> (Tlog, Vec<(Slot, HistoryHash)>) {
    let (mut tlog, _) = open(disk, SMALL, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups()[..2]);
    let mut applied = vec![NOTHING_APPLIED];
    for slot in 1..=upto {
        let (_, hash) = *applied.last().unwrap();
        let hash = hash.extend(Slot(slot), &entry(slot, 1, &[7; 150]).entry.value);
        applied.push((Slot(slot), hash));
        write(&mut tlog, &[vec![accepted(slot, 1, &[7; 150]), Record::Decided { upto: Slot(slot), hash }]]);
    }
    (tlog, applied)
}

/// Which slots each segment holds, by its number.
fn slots_by_segment(tlog: &Tlog, upto: u64) -> BTreeMap<u32, Vec<u64>> {
    let mut slots: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for slot in 1..=upto {
        let location = tlog.reader().state().index.find(Slot(slot)).unwrap();
        slots.entry(location.segment).or_default().push(slot);
    }
    slots
}

#[test]
fn whole_segments_go_once_the_store_has_durably_passed_them_and_the_vote_stays() {
    for stored in 0..=20 {
        let disk = MemDisk::default();
        let (tlog, applied) = log_of(&disk, 20);
        let segments = slots_by_segment(&tlog, 20);
        let open_one = *segments.keys().last().unwrap();
        let first = (segments.iter())
            .find(|(number, slots)| **number == open_one || *slots.last().unwrap() > stored)
            .map(|(number, slots)| (*number, slots[0]))
            .unwrap();
        let kept = tlog.upkeep().collapse(Slot(stored)).unwrap();
        assert_eq!(kept, (first.0 > 0).then_some(Slot(first.1)), "stored {stored}");
        assert_eq!(number_of(disk.image().keys().next().unwrap()), first.0);
        assert_eq!(tlog.reader().log_start(), Some(Slot(first.1)));
        assert_eq!(tlog.reader().usage().segments as u32, open_one - first.0 + 1);
        for slot in 1..=20 {
            assert_eq!(tlog.reader().read(Slot(slot), Slot(slot), 0).is_ok(), slot >= first.1);
        }
        assert_eq!(tlog.upkeep().collapse(Slot(stored)).unwrap(), None);

        let (tlog, found) = open(&disk, SMALL, applied[stored as usize]).unwrap();
        assert_eq!((found.damage, found.notes), (vec![], vec![]), "stored {stored}");
        assert_eq!((found.recovered.decided_upto, found.recovered.decided_hash), applied[20]);
        assert_eq!((found.recovered.log_start, found.recovered.promised), (Slot(first.1), ballot(1)));
        assert_eq!(found.recovered.memory.unwrap(), memory_of_seven());
        let replayed = tlog.reader().entries(Slot(stored + 1), Slot(20)).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(replayed.len() as u64, 20 - stored);
    }
}

fn memory_of_seven() -> Memory {
    let Record::VoteRegained { incarnation, genesis } = regained(7) else { panic!("it is one") };
    Memory { incarnation, votes: true, genesis }
}

fn number_of(name: &str) -> u32 {
    name.split('.').next().unwrap().parse().unwrap()
}

#[test]
fn what_fits_into_the_budget_is_kept() {
    let disk = MemDisk::default();
    let (tlog, _) = log_of(&disk, 20);
    drop(tlog);
    let sizes: Vec<u64> = disk.image().values().map(|bytes| bytes.len() as u64).collect();
    for keeps in 1..=sizes.len() {
        let disk = MemDisk::from_image(&disk.image());
        let budget: u64 = sizes[sizes.len() - keeps..].iter().sum();
        for (retention_bytes, left) in [(budget, keeps), (budget - 1, (keeps - 1).max(1))] {
            let options = options(SMALL, retention_bytes);
            let log = Tlog::open(Arc::new(disk.clone()), Path::new("home"), identity(), options, NOTHING_APPLIED);
            log.unwrap().0.upkeep().collapse(Slot(20)).unwrap();
            assert_eq!(disk.image().len(), left);
        }
    }
}

/// Were the names not made durable one by one, a power cut could leave a hole.
#[test]
fn a_crash_at_any_moment_of_a_collapse_leaves_a_log_that_lacks_nothing() {
    let mut moments = 0;
    for changes in 0.. {
        for seed in 0..20 {
            let disk = MemDisk::default();
            let (tlog, applied) = log_of(&disk, 20);
            disk.power_fails_after(changes);
            let outcome = tlog.upkeep().collapse(Slot(17));
            drop(tlog);
            if outcome.is_ok() {
                assert!(moments > 6, "the loop ends once the collapse does");
                return;
            }
            moments += 1;
            let disk = if seed == 0 { disk.after_kill() } else { disk.after_power_cut(&mut Dice(seed)) };
            let (tlog, found) = open(&disk, SMALL, applied[17]).unwrap();
            assert_eq!((found.damage, found.notes), (vec![], vec![]), "after {changes} changes");
            assert_eq!((found.recovered.decided_upto, found.recovered.decided_hash), applied[20]);
            assert_eq!(found.recovered.memory.unwrap(), memory_of_seven());
            tlog.upkeep().collapse(Slot(17)).unwrap();
            assert!(number_of(disk.image().keys().next().unwrap()) > 3);
        }
    }
}

#[test]
fn a_collapse_that_fails_is_final() {
    for call in ["remove", "sync-dir"] {
        let disk = MemDisk::default();
        let (tlog, _) = log_of(&disk, 20);
        let mut upkeep = tlog.upkeep();
        disk.fail(call, std::io::ErrorKind::Other);
        assert!(matches!(upkeep.collapse(Slot(20)), Err(TlogError::Io { .. })));
        disk.mend();
        assert!(matches!(upkeep.collapse(Slot(20)), Err(TlogError::Failed)));
    }
}

/// What the store has not passed is lost, wherever it is missing. What it has passed may be gone, and is listed unless the
/// log only begins later.
#[test]
fn missing_segments_cost_the_vote_exactly_when_the_store_has_not_passed_them() {
    let disk = MemDisk::default();
    let (tlog, applied) = log_of(&disk, 20);
    let segments = slots_by_segment(&tlog, 20);
    drop(tlog);
    let names: Vec<String> = disk.image().into_keys().collect();
    for (at, lost) in names.iter().enumerate().take(names.len() - 1) {
        let mut hole = disk.image();
        hole.remove(lost);
        // As a collapse that went too far would leave it.
        let mut shorter = hole.clone();
        let number = at as u32;
        shorter.retain(|name, _| number_of(name) > number);
        let last = *segments[&number].last().unwrap();
        for stored in last - 1..=20 {
            let is_passed = stored >= last;
            let memory = is_passed.then(memory_of_seven);
            let found = open(&MemDisk::from_image(&shorter), SMALL, applied[stored as usize]).unwrap().1;
            let (accepted_before, store_applied) = (Slot(last), Slot(stored));
            let behind = Damage::StoreBehindLog { accepted_before, store_applied };
            assert_eq!(found.damage.first(), (!is_passed).then_some(&behind));
            assert_eq!(found.recovered.memory, memory);
            if at > 0 {
                let found = open(&MemDisk::from_image(&hole), SMALL, applied[stored as usize]).unwrap().1;
                assert_eq!(found.damage[0], Damage::Missing { first: number, last: number });
                assert_eq!(found.recovered.memory, memory);
                assert!(!is_passed || found.recovered.decided_upto == Slot(20));
                assert!(
                    !is_passed || found.recovered.log_start > Slot(last),
                    "nobody is served what is behind the hole"
                );
            }
        }
    }
}

#[test]
fn damaged_records_cost_the_vote_exactly_when_the_store_has_not_passed_their_segment() {
    let disk = MemDisk::default();
    let (tlog, applied) = log_of(&disk, 20);
    let segments = slots_by_segment(&tlog, 20);
    drop(tlog);
    for at in [520, 700, 900] {
        let disk = MemDisk::from_image(&disk.image());
        disk.damage("001.tlog", at);
        for stored in 0..=20 {
            let is_passed = stored >= *segments[&1].last().unwrap();
            let found = open(&disk, SMALL, applied[stored as usize]).unwrap().1;
            assert!(matches!(found.damage[0], Damage::Record { segment: 1, .. }));
            assert_eq!(found.recovered.memory, is_passed.then(memory_of_seven), "byte {at}, stored {stored}");
            assert_eq!(found.recovered.promised, ballot(1));
        }
    }
}

/// Its header is all that is left of what was removed.
#[test]
fn damage_to_the_header_of_the_first_segment_costs_the_vote() {
    let disk = MemDisk::default();
    let (tlog, applied) = log_of(&disk, 20);
    tlog.upkeep().collapse(Slot(10)).unwrap();
    drop(tlog);
    let name = disk.image().into_keys().next().unwrap();
    let number = number_of(&name);
    for at in 0..512 {
        let disk = MemDisk::from_image(&disk.image());
        disk.damage(&name, at);
        let found = open(&disk, SMALL, applied[10]).unwrap().1;
        let missing = Damage::Missing { first: 0, last: number - 1 };
        assert_eq!(found.damage, [missing, Damage::Header { segment: number }]);
        assert_eq!(found.recovered.memory, None);
    }
}

#[test]
fn a_memory_that_was_lost_does_not_come_back_with_the_segments_that_tell_of_it() {
    let disk = MemDisk::default();
    let (mut tlog, applied) = log_of(&disk, 20);
    tlog.seal().unwrap();
    let damaged = tlog.segment.number;
    drop(tlog);
    disk.damage(&format!("{damaged:03}.tlog"), 600);
    let (mut tlog, found) = open(&disk, SMALL, applied[20]).unwrap();
    assert_eq!((found.recovered.memory, tlog.segment.number), (None, damaged + 1));
    // The damaged segment is removed before the engine has begun a new life,
    tlog.upkeep().collapse(Slot(20)).unwrap();
    assert_eq!(number_of(disk.image().keys().next().unwrap()), damaged + 1);
    let (_, found) = open(&disk, SMALL, applied[20]).unwrap();
    assert_eq!((found.damage, found.recovered.memory), (vec![], None));
    // and so is the one in which it did.
    write(&mut tlog, &[vec![Record::MemoryBegan(Incarnation(8))]]);
    let mut hash = applied[20].1;
    for slot in 21..30 {
        write(&mut tlog, &[vec![accepted(slot, 1, &[7; 150])]]);
        hash = hash.extend(Slot(slot), &entry(slot, 1, &[7; 150]).entry.value);
    }
    tlog.upkeep().collapse(Slot(29)).unwrap();
    assert!(number_of(disk.image().keys().next().unwrap()) > damaged + 1);
    let found = open(&disk, SMALL, (Slot(29), hash)).unwrap().1;
    let memory = Memory { incarnation: Incarnation(8), votes: false, genesis: vec![] };
    assert_eq!((found.damage, found.recovered.memory), (vec![], Some(memory)));
}

#[test]
fn a_head_that_was_announced_is_no_loss_and_one_that_was_not_is() {
    let head = (Slot(90), HistoryHash(0x90));
    for announced in [true, false] {
        let disk = MemDisk::default();
        let (mut tlog, applied) = log_of(&disk, 20);
        if announced {
            tlog.announce_head(head.0, head.1).unwrap();
            tlog.sync().unwrap();
            // It may be long until it is there.
            write(&mut tlog, &[vec![accepted(21, 1, &[1; 900])], vec![accepted(22, 1, &[1; 900])]]);
            tlog.upkeep().collapse(Slot(20)).unwrap();
        }
        drop(tlog);
        let found = open(&disk, SMALL, applied[20]).unwrap().1;
        assert!(found.recovered.memory.is_some(), "the store need not have taken it");
        let other = open(&disk, SMALL, (head.0, HistoryHash(1))).unwrap().1;
        assert_eq!(other.recovered.memory, None, "another history");
    }
    for announced in [true, false] {
        let disk = MemDisk::default();
        let (mut tlog, _) = log_of(&disk, 20);
        if announced {
            tlog.announce_head(head.0, head.1).unwrap();
            tlog.sync().unwrap();
        }
        drop(tlog);
        let (mut tlog, found) = open(&disk, SMALL, head).unwrap();
        assert_eq!(found.recovered.memory.is_some(), announced);
        if !announced {
            continue;
        }
        assert_eq!(found.damage, []);
        assert_eq!((found.recovered.decided_upto, found.recovered.log_start), (Slot(90), Slot(91)));
        // Another one is announced and does not come.
        tlog.announce_head(Slot(200), HistoryHash(2)).unwrap();
        tlog.sync().unwrap();
        let found = open(&disk, SMALL, head).unwrap().1;
        assert_eq!((found.damage, found.recovered.memory), (vec![], Some(memory_of_seven())));
        // The log goes on behind the head, and what is before it goes.
        for slot in 91..100 {
            write(&mut tlog, &[vec![accepted(slot, 1, &[7; 150])]]);
        }
        assert_eq!(tlog.reader().log_start(), Some(Slot(91)));
        assert!(tlog.upkeep().collapse(Slot(90)).unwrap().is_some());
        assert_eq!(tlog.reader().log_start(), Some(Slot(91)));
        let found = open(&disk, SMALL, head).unwrap().1;
        assert_eq!((found.damage, found.recovered.undecided.len()), (vec![], 9));
    }
}

/// A node that takes a head may have accepted other values in the head's slots than were decided there.
type Applied = (Slot, HistoryHash);

/// A log with ten decided slots and ten that are not, and a head among the latter. What was applied after each slot.
fn log_that_knows_of_a_head() -> (MemDisk, Tlog, Vec<Applied>, Applied) {
    let disk = MemDisk::default();
    let (mut tlog, applied) = log_of(&disk, 10);
    let undecided: Vec<_> = (11..=20).map(|slot| accepted(slot, 1, &[8; 150])).collect();
    write(&mut tlog, &[undecided]);
    let head = (Slot(17), HistoryHash(0x17));
    tlog.announce_head(head.0, head.1).unwrap();
    tlog.sync().unwrap();
    (disk, tlog, applied, head)
}

#[test]
fn what_was_accepted_up_to_a_head_is_given_to_nobody_and_what_was_accepted_above_it_is_still_there() {
    let (disk, tlog, applied, head) = log_that_knows_of_a_head();
    drop(tlog);
    // The crash comes before the store has taken it, and after.
    let (tlog, found) = open(&disk, SMALL, applied[10]).unwrap();
    assert_eq!(found.recovered.log_start, Slot(1));
    assert_eq!(found.recovered.undecided.len(), 10);
    drop(tlog);
    let (tlog, found) = open(&disk, SMALL, head).unwrap();
    assert_eq!((found.damage, found.recovered.log_start), (vec![], Slot(18)));
    assert_eq!(found.recovered.decided_upto, head.0);
    assert_eq!(found.recovered.undecided.len(), 3);
    assert!(found.recovered.memory.is_some());
    assert!(tlog.reader().read(Slot(17), Slot(17), 1).is_err());
}

#[test]
fn what_a_head_made_void_stays_void_when_the_store_is_lost_with_it() {
    let (disk, mut tlog, applied, head) = log_that_knows_of_a_head();
    write(&mut tlog, &[vec![Record::Decided { upto: head.0, hash: head.1 }]]);
    drop(tlog);
    for store in [NOTHING_APPLIED, applied[5], applied[10]] {
        let (tlog, found) = open(&disk, SMALL, store).unwrap();
        assert!(found.recovered.decided_upto <= Slot(10), "{:?}", found.recovered.decided_upto);
        assert_eq!(found.recovered.memory, None, "it cannot know what it promised about");
        assert!(tlog.reader().read(Slot(11), Slot(17), 1 << 20).is_err());
    }
}
