//! Every planted bug of the store does something, and what it does is what it says.

use super::*;
use crate::planted::PlantedBug;

fn open(disk: &MemoryDisk, planted: Option<PlantedBug>) -> Store {
    Store::open_with_backend(disk.clone(), &identity(), Options { planted, ..OPTIONS }).unwrap()
}

/// What a store does in the situation that shows this bug, in words.
fn behaviour(shown: PlantedBug, planted: Option<PlantedBug>) -> String {
    let disk = MemoryDisk::default();
    match shown {
        PlantedBug::AppliedApart => {
            let mut store = open(&disk, planted);
            store.apply(&[decided(1, commands(&[set("a", "1")]))], false).unwrap();
            after_power_cut(&disk)
        }
        PlantedBug::FailedKept => {
            let mut store = open(&disk, planted);
            let missing = Update::Delete { key: bytes("m") };
            store.apply(&[decided(1, commands(&[Update::Sequence(vec![set("a", "1"), missing])]))], true).unwrap();
            after_power_cut(&disk)
        }
        PlantedBug::RangeMixed => {
            let mut store = open(&disk, planted);
            store.apply(&[decided(1, commands(&[set("a", "1"), set("b", "1")]))], false).unwrap();
            let snapshot = store.reader().snapshot().unwrap();
            let mut entries = snapshot.range(&KeyRange::all(), Direction::Ascending).unwrap();
            let first = entries.next().unwrap().unwrap();
            store.apply(&[decided(2, commands(&[set("a", "2"), set("b", "2"), set("c", "2")]))], false).unwrap();
            format!("{first:?} {:?}", entries.map(Result::unwrap).collect::<Vec<_>>())
        }
        PlantedBug::AheadOfLog => written_and_killed(&disk, planted, CommitPolicy::new(1, Duration::ZERO), false),
        PlantedBug::NullFlushedAlways => written_and_killed(&disk, planted, CommitPolicy::default(), true),
        other => panic!("{other:?} is no bug of the store"),
    }
}

fn after_power_cut(disk: &MemoryDisk) -> String {
    let store = open(&disk.after_power_cut(), None);
    format!("{:?} {:?}", store.applied(), all(&store))
}

/// What is durable once the thread has applied a slot, and then reported a second one.
fn written_and_killed(disk: &MemoryDisk, planted: Option<PlantedBug>, policy: CommitPolicy, is_logged: bool) -> String {
    let (tell, reports) = std::sync::mpsc::channel();
    let report = move |report: Report| tell.send(report).unwrap();
    let (limits, clock) = (WriterLimits::default(), Arc::new(ManualClock::default()));
    let (store, is_logged) = (open(disk, planted), move |_| is_logged);
    let writer = StoreWriter::start(store, policy, limits, clock, is_logged, report, &Workers::Threads).unwrap();
    for slot in 1..=2 {
        writer.apply(job(slot)).unwrap();
        reports.recv().unwrap().unwrap();
    }
    // Whatever was to become durable after the first slot did so before the second was applied.
    let durable = after_power_cut(disk).contains("slot");
    stop(writer).unwrap();
    format!("{durable}")
}

#[test]
fn every_planted_bug_changes_what_the_store_does() {
    let ours = PlantedBug::ALL.iter().filter(|bug| bug.place().starts_with("io-tokio/src/store/"));
    for bug in ours {
        assert_ne!(behaviour(*bug, None), behaviour(*bug, Some(*bug)), "{bug:?}");
    }
}

#[test]
fn planted_bugs_have_names_of_their_own_and_some_are_harmless() {
    let mut names: Vec<_> = PlantedBug::ALL.iter().map(|bug| bug.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PlantedBug::ALL.len());
    assert!(PlantedBug::ALL.iter().all(|bug| bug.is_null() == bug.name().starts_with("Null")));
    assert!(PlantedBug::ALL.iter().all(|bug| !bug.is_asserted() && !bug.describe().is_empty()));
}
