//! A store that takes a head from a peer on this disk, through crashes at every change of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use trialbay::identity::Identity;
use trialbay::store::{
    Decided, Direction, Head, HeadError, KeyRange, Leftover, NotInstalled, Options, Store, StoreError, StorePlace,
    digest,
};
use trialbay::update::{Update, encode_command};
use trialbay_engine::{HistoryHash, NodeId, Slot, Value};

use super::*;

const GIVER: NodeId = NodeId(2);
const OLD: Slot = Slot(3);
const HEAD: Head = Head { slot: Slot(9), hash: HistoryHash(900), entries: 60 };

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn place(disk: &SimDisk) -> StorePlace {
    let identity = Identity { cluster_id: "tests".into(), node: NodeId(1), name: "n1".into() };
    let process = Arc::new(disk.for_process());
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    // Every other chunk is durable.
    StorePlace { undurable_bytes_max: 1_500, ..StorePlace::new(process, "home/n1.db".into(), identity, options) }
}

/// What the store has before.
fn old() -> Entries {
    (0..40).map(|key| (format!("{:03}", key * 2).into(), vec![b'o'; 50])).collect()
}

/// What the head has.
fn new() -> Entries {
    (0..HEAD.entries).map(|key| (format!("{key:03}").into(), vec![b'n'; 40])).collect()
}

/// The head in pieces.
fn chunks() -> Vec<(u64, Vec<u8>)> {
    let entries: Vec<_> = new().into_iter().collect();
    let mut first = 0;
    let mut chunks = Vec::new();
    for some in entries.chunks(17) {
        let mut bytes = Vec::new();
        for part in some.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        chunks.push((first, bytes));
        first += some.len() as u64;
    }
    chunks
}

fn filled(disk: &SimDisk) {
    let mut store = place(disk).open().unwrap();
    let set = |(key, value): (Vec<u8>, Vec<u8>)| encode_command(&Update::Set { key: key.into(), value: value.into() });
    let commands: Vec<_> = old().into_iter().map(set).collect();
    for slot in 1..=OLD.0 {
        let value = Value::batch(commands.iter().map(AsRef::as_ref));
        store.apply(&[Decided { slot: Slot(slot), hash: HistoryHash(slot), value }], true).unwrap();
    }
    store.close().unwrap();
}

/// Gets the head, from where it is, and installs it. Says whether it went on with what was there, and how many chunks came.
fn take(disk: &SimDisk, store: &mut Store) -> Result<(bool, usize), HeadError> {
    let place = place(disk);
    let (part, goes_on) = match place.leftover_head()? {
        Leftover::Whole(head) => {
            assert_eq!(head, HEAD);
            install(store, &place)?;
            return Ok((true, 0));
        }
        Leftover::Part(part) => {
            assert_eq!((part.progress().head, part.progress().giver), (HEAD, GIVER));
            (part, true)
        }
        Leftover::None => (place.begin_head(HEAD, &[], GIVER)?, false),
    };
    let (mut part, mut came) = (part, 0);
    let all = chunks().iter().fold(0, |before, (_, bytes)| digest(before, bytes));
    for (first, bytes) in chunks() {
        if first >= part.progress().entries {
            part.put(first, &bytes)?;
            came += 1;
        }
    }
    part.finish(HEAD.entries, all)?;
    install(store, &place)?;
    Ok((goes_on, came))
}

fn install(store: &mut Store, place: &StorePlace) -> Result<(), StoreError> {
    match store.install(place) {
        Ok(head) => {
            assert_eq!(head, HEAD);
            Ok(())
        }
        Err(NotInstalled::Refused(error) | NotInstalled::Failed(error)) => Err(error),
        Err(behind @ NotInstalled::Behind { .. }) => panic!("{behind}"),
    }
}

/// Whether the store is the head; if not, it is what it was.
fn is_new(store: &Store) -> bool {
    let snapshot = store.reader().snapshot().unwrap();
    let entries = snapshot.range(&KeyRange::all(), Direction::Ascending).unwrap();
    let found: Entries =
        entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect();
    let is_new = store.applied() == (HEAD.slot, HEAD.hash);
    assert!(is_new || store.applied() == (OLD, HistoryHash(OLD.0)), "{:?}", store.applied());
    assert!(found == if is_new { new() } else { old() }, "at {:?}", store.applied());
    is_new
}

#[test]
fn a_crash_at_any_change_of_the_disk_leaves_the_old_store_or_the_new_one_and_the_next_run_goes_on() {
    let (mut olds, mut news, mut went_on, mut saved) = (0, 0, 0, 0);
    for seed in 0..4 {
        let mut is_over = false;
        for changes in 0.. {
            if is_over {
                break;
            }
            let disk = disk(seed);
            filled(&disk);
            let mut store = place(&disk).open().unwrap();
            disk.power_fails_after(changes);
            let taken = take(&disk, &mut store);
            is_over = !disk.is_power_out();
            assert!(taken.is_ok() || !is_over, "seed {seed}: {taken:?}");
            disk.power_cut();
            drop(store);

            let mut store = place(&disk).open().unwrap_or_else(|error| panic!("seed {seed}, {changes}: {error}"));
            if is_new(&store) {
                news += 1;
                continue;
            }
            assert!(taken.is_err(), "seed {seed}, {changes} changes: it was installed");
            olds += 1;
            let (goes_on, came) = take(&disk, &mut store).unwrap();
            went_on += u64::from(goes_on);
            saved += u64::from(came < chunks().len());
            assert!(is_new(&store));
            store.close().unwrap();
            assert!(is_new(&place(&disk).open().unwrap()));
            assert_eq!(disk.list(Path::new("home")).unwrap(), ["n1.db"], "nothing is left over");
        }
    }
    assert!(olds > 100 && news > 4, "{olds} old, {news} new");
    assert!(went_on > 40 && saved > 20, "{went_on} went on, {saved} had something");
}

#[test]
fn a_full_or_failing_disk_costs_the_head_and_not_the_store() {
    for seed in 0..30 {
        let disk = disk(seed);
        filled(&disk);
        let mut store = place(&disk).open().unwrap();
        let mut part = place(&disk).begin_head(HEAD, &[], GIVER).unwrap();
        match seed % 3 {
            0 => disk.fail_next_sync(Path::new("home")),
            1 => disk.set_writes_fail(true),
            _ => disk.set_full(true),
        }
        let failed = chunks().iter().map(|(first, bytes)| part.put(*first, bytes)).find(Result::is_err);
        let finished = if failed.is_some() { Ok(()) } else { part.finish(HEAD.entries, 0).map(drop) };
        disk.mend();
        disk.set_full(false);
        assert!(failed.is_some() || finished.is_err(), "seed {seed}");
        assert!(!is_new(&store));
        take(&disk, &mut store).unwrap();
        assert!(is_new(&store));
    }
}
