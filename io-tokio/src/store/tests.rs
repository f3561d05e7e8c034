//! The store as a whole.

#[cfg(feature = "planted-bugs")]
mod planted;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use redb::StorageBackend;
use trialbay_engine::{HistoryHash, Instant, NodeId, PersistId, Slot, Value};

use super::*;
use crate::clock::Clock;
use crate::disk::RealDisk;
use crate::identity::Identity;
use crate::update::{Failure, Interval, NurseryUpdate, Outcome, Update, encode_command};
use crate::workers::Workers;

const OPTIONS: Options = Options {
    keeps_data: true,
    cache_bytes: 8 << 20,
    check_on_open: false,
    #[cfg(feature = "planted-bugs")]
    planted: None,
};

fn identity() -> Identity {
    Identity { cluster_id: "tests".to_string(), name: "n1".to_string(), node: NodeId(1) }
}

#[test]
fn what_is_kept_beside_the_keys_changes_with_them_and_comes_back() {
    let disk = MemoryDisk::default();
    let mut store = Store::open_with_backend(disk.clone(), &identity(), OPTIONS).unwrap();
    let interval = Interval { public: (Some(bytes("b")), None), ..Interval::default() };
    let set_interval = Update::Nursery(NurseryUpdate::SetInterval(interval.clone()));
    let failed = Update::Sequence(vec![set_interval.clone(), Update::Delete { key: bytes("missing") }]);
    let results = store.apply(&[decided(1, commands(&[failed, set("a", "1")]))], false).unwrap();
    assert_eq!(results[0], [Err(Failure::NotFound { key: bytes("missing") }), Ok(Outcome::Done)]);
    let results = store.apply(&[decided(2, commands(&[set_interval, set("a", "2"), set("b", "2")]))], true).unwrap();
    let outside = Err(Failure::OutsideInterval { key: bytes("a") });
    assert_eq!(results[0], [Ok(Outcome::Done), outside.clone(), Ok(Outcome::Done)]);
    let snapshot = store.reader().snapshot().unwrap();
    assert_eq!((snapshot.admin().interval(), snapshot.get(b"a").unwrap()), (&interval, Some(bytes("1"))));
    drop((snapshot, store));
    let mut store = Store::open_with_backend(disk.after_power_cut(), &identity(), OPTIONS).unwrap();
    assert_eq!(store.reader().snapshot().unwrap().admin().interval(), &interval);
    assert_eq!(store.apply(&[decided(3, commands(&[set("a", "3")]))], false).unwrap()[0], [outside]);
}

#[test]
fn a_store_is_compacted_when_nobody_reads_it_and_can_be_read_again_after() {
    let disk = MemoryDisk::default();
    let mut store = Store::open_with_backend(disk.clone(), &identity(), OPTIONS).unwrap();
    let reader = store.reader();
    let sets: Vec<_> = (0..2_000).map(|key| set(&key.to_string(), &"v".repeat(1_000))).collect();
    store.apply(&[decided(1, commands(&sets))], true).unwrap();
    let rest = Update::Sequence(vec![Update::DeletePrefix { prefix: bytes("") }, set("k", "v")]);
    store.apply(&[decided(2, commands(&[rest]))], true).unwrap();
    let before = disk.0.lock().unwrap().now.len();
    let snapshot = reader.snapshot().unwrap();
    assert!(!store.compact().unwrap());
    assert_eq!(snapshot.get(b"k").unwrap(), Some(bytes("v")));
    drop(snapshot);
    assert_eq!(reader.snapshot().unwrap().get(b"k").unwrap(), Some(bytes("v")));
    assert!(store.compact().unwrap());
    let after = disk.0.lock().unwrap().now.len();
    assert!(after < before / 2, "{after} of {before}");
    assert_eq!(reader.snapshot().unwrap().get(b"k").unwrap(), Some(bytes("v")));
    store.apply(&[decided(3, commands(&[set("k", "w")]))], true).unwrap();
    drop(store);
    let store = Store::open_with_backend(disk.after_power_cut(), &identity(), OPTIONS).unwrap();
    assert_eq!(store.reader().snapshot().unwrap().get(b"k").unwrap(), Some(bytes("w")));
}

/// A disk in memory that tells what a power cut leaves: what was there at the last sync.
#[derive(Clone, Debug, Default)]
struct MemoryDisk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    syncs: usize,
    fails: bool,
}

impl MemoryDisk {
    fn after_power_cut(&self) -> Self {
        let synced = self.0.lock().unwrap().synced.clone();
        Self(Arc::new(Mutex::new(Contents { now: synced.clone(), synced, syncs: 0, fails: false })))
    }

    fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }

    fn fail(&self) {
        self.0.lock().unwrap().fails = true;
    }

    fn with<R>(&self, work: impl FnOnce(&mut Contents) -> R) -> io::Result<R> {
        let mut contents = self.0.lock().unwrap();
        if contents.fails { Err(io::Error::other("the disk is broken")) } else { Ok(work(&mut contents)) }
    }
}

impl StorageBackend for MemoryDisk {
    fn len(&self) -> io::Result<u64> {
        self.with(|contents| contents.now.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|contents| out.copy_from_slice(&contents.now[offset as usize..][..out.len()]))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|contents| contents.now.resize(len as usize, 0))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.with(|contents| {
            contents.synced = contents.now.clone();
            contents.syncs += 1;
        })
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|contents| contents.now[offset as usize..][..data.len()].copy_from_slice(data))
    }
}

fn open(disk: &MemoryDisk) -> Store {
    Store::open_with_backend(disk.clone(), &identity(), OPTIONS).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn set(key: &str, value: &str) -> Update {
    Update::Set { key: bytes(key), value: bytes(value) }
}

fn commands(updates: &[Update]) -> Value {
    let commands: Vec<_> = updates.iter().map(encode_command).collect();
    Value::batch(commands.iter().map(AsRef::as_ref))
}

fn decided(slot: u64, value: Value) -> Decided {
    Decided { slot: Slot(slot), hash: HistoryHash(slot * 100), value }
}

fn all(store: &Store) -> Vec<(Bytes, Bytes)> {
    let entries = store.reader().snapshot().unwrap().range(&KeyRange::all(), Direction::Ascending).unwrap();
    entries.map(Result::unwrap).collect()
}

#[test]
fn a_batch_gives_the_results_of_each_command_of_each_slot() {
    let mut store = open(&MemoryDisk::default());
    assert_eq!(store.applied(), (Slot::ZERO, HistoryHash::default()));
    let missing = Update::Delete { key: bytes("m") };
    let replace = Update::Replace { key: bytes("a"), wanted: Some(bytes("2")) };
    let batch = [
        decided(1, Value::MasterChange(NodeId(2))),
        decided(2, commands(&[set("a", "1"), missing, replace, Update::Nop])),
        decided(3, Value::Noop),
        decided(4, Value::Configuration(bytes("anything"))),
        decided(5, commands(&[Update::DeletePrefix { prefix: bytes("") }])),
    ];
    let results = store.apply(&batch, false).unwrap();
    let expected = vec![
        vec![],
        vec![
            Ok(Outcome::Done),
            Err(Failure::NotFound { key: bytes("m") }),
            Ok(Outcome::Previous(Some(bytes("1")))),
            Ok(Outcome::Done),
        ],
        vec![],
        vec![],
        vec![Ok(Outcome::Deleted(1))],
    ];
    assert_eq!(results, expected);
    assert_eq!(store.applied(), (Slot(5), HistoryHash(500)));
    assert_eq!(store.reader().snapshot().unwrap().applied().unwrap(), Slot(5));
    assert_eq!(all(&store), vec![]);
}

#[test]
fn of_a_damaged_batch_the_commands_before_the_damage_are_applied() {
    let mut store = open(&MemoryDisk::default());
    let Value::Commands(good) = commands(&[set("a", "1"), set("b", "2")]) else { panic!("a batch is commands") };
    let cut = Value::Commands(good.slice(..good.len() - 1));
    let not_an_update = Value::batch([&b"\x01\x00junk"[..], &encode_command(&set("c", "3"))]);
    let results = store.apply(&[decided(1, cut), decided(2, not_an_update)], false).unwrap();
    assert_eq!(results[0], vec![Ok(Outcome::Done)]);
    assert!(matches!(&results[1][..], [Err(Failure::Undecodable { .. }), Ok(Outcome::Done)]));
    assert_eq!(store.applied().0, Slot(2));
    assert_eq!(all(&store), vec![(bytes("a"), bytes("1")), (bytes("c"), bytes("3"))]);
}

#[test]
#[should_panic(expected = "slots are applied in order")]
fn a_slot_that_is_not_the_next_one_is_a_bug() {
    let mut store = open(&MemoryDisk::default());
    let _ = store.apply(&[decided(2, Value::Noop)], false);
}

#[test]
fn a_power_cut_takes_the_store_back_to_its_last_durable_commit_and_slot_and_data_agree() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk);
    let mut durable_upto = 0;
    for slot in 1..=40 {
        let key = format!("key{:02}", slot % 7);
        let durable = slot % 10 == 0;
        store.apply(&[decided(slot, commands(&[set(&key, &slot.to_string())]))], durable).unwrap();
        if durable {
            durable_upto = slot;
        }
        let recovered = open(&disk.after_power_cut());
        assert_eq!(recovered.applied(), (Slot(durable_upto), HistoryHash(durable_upto * 100)));
        let mut expected = BTreeMap::new();
        for slot in 1..=durable_upto {
            expected.insert(bytes(&format!("key{:02}", slot % 7)), bytes(&slot.to_string()));
        }
        assert_eq!(all(&recovered), expected.into_iter().collect::<Vec<_>>());
    }
    store.apply(&[decided(41, commands(&[set("last", "one")]))], false).unwrap();
    store.flush().unwrap();
    assert_eq!(open(&disk.after_power_cut()).applied(), (Slot(41), HistoryHash(4100)));
}

#[test]
fn a_flush_with_nothing_to_make_durable_does_not_touch_the_disk() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk);
    store.apply(&[decided(1, Value::Noop)], false).unwrap();
    store.flush().unwrap();
    let syncs = disk.syncs();
    store.flush().unwrap();
    assert_eq!(disk.syncs(), syncs);
    store.apply(&[decided(2, commands(&[set("a", "1")]))], false).unwrap();
    assert_eq!(disk.syncs(), syncs, "a commit that need not be durable waits for no disk");
}

#[test]
fn a_failed_write_is_final_and_shows_nothing() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk);
    store.apply(&[decided(1, commands(&[set("a", "1")]))], true).unwrap();
    disk.fail();
    let failed = store.apply(&[decided(2, commands(&[set("a", "2")]))], true);
    assert!(matches!(failed, Err(StoreError::Io(_))), "{failed:?}");
    assert!(matches!(store.apply(&[decided(2, Value::Noop)], false), Err(StoreError::Failed)));
    assert!(matches!(store.flush(), Err(StoreError::Failed)));
    assert_eq!(store.applied(), (Slot(1), HistoryHash(100)));
    let recovered = open(&disk.after_power_cut());
    assert_eq!(recovered.applied(), (Slot(1), HistoryHash(100)));
}

#[test]
fn a_file_is_made_once_and_opened_again_after_a_clean_close() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db").join("n1.db");
    let mut store = Store::open(&RealDisk, &path, &identity(), OPTIONS).unwrap();
    store.apply(&[decided(1, commands(&[set("a", "1")]))], false).unwrap();
    let reader = store.reader();
    let snapshot = reader.snapshot().unwrap();
    store.close().unwrap();
    assert!(matches!(reader.snapshot(), Err(StoreError::Closed)));
    drop(snapshot);
    let store = Store::open(&RealDisk, &path, &identity(), OPTIONS).unwrap();
    assert_eq!(store.applied(), (Slot(1), HistoryHash(100)));
    assert_eq!(all(&store), vec![(bytes("a"), bytes("1"))]);
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, vec![path]);
}

#[test]
fn a_file_that_was_not_finished_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("n1.db");
    std::fs::write(home.path().join("n1.db.new"), b"half a store").unwrap();
    assert_eq!(Store::open(&RealDisk, &path, &identity(), OPTIONS).unwrap().applied().0, Slot::ZERO);
}

#[test]
fn a_store_is_not_opened_twice() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("n1.db");
    let _open = Store::open(&RealDisk, &path, &identity(), OPTIONS).unwrap();
    assert!(matches!(Store::open(&RealDisk, &path, &identity(), OPTIONS), Err(StoreError::InUse)));
}

#[test]
fn the_store_of_another_cluster_or_node_is_refused_by_name() {
    let disk = MemoryDisk::default();
    open(&disk).close().unwrap();
    let refusal = |other: Identity| Store::open_with_backend(disk.clone(), &other, OPTIONS).err().unwrap().to_string();
    let cluster = refusal(Identity { cluster_id: "other".to_string(), ..identity() });
    assert!(cluster.contains("belongs to cluster \"tests\", not to \"other\""), "{cluster}");
    let node = refusal(Identity { name: "n2".to_string(), node: NodeId(2), ..identity() });
    assert!(node.contains("belongs to node \"n1\" (number 1), not to \"n2\" (number 2)"), "{node}");
    let renumbered = refusal(Identity { node: NodeId(3), ..identity() });
    assert!(renumbered.contains("not to \"n1\" (number 3)"), "{renumbered}");
    assert_eq!(open(&disk).applied().0, Slot::ZERO);
}

#[test]
fn what_is_no_store_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let refusal = |name: &str, contents: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, contents).unwrap();
        Store::open(&RealDisk, &path, &identity(), OPTIONS).err().unwrap()
    };
    assert!(matches!(refusal("empty", b""), StoreError::Damaged { .. }));
    assert!(matches!(refusal("text", b"What is this?"), StoreError::Damaged { .. }));
    assert!(matches!(refusal("long text", &[b'x'; 100_000]), StoreError::Damaged { .. }));
    let directory = Store::open(&RealDisk, Path::new("/"), &identity(), OPTIONS).err().unwrap();
    assert!(matches!(directory, StoreError::Io(_)), "{directory}");

    let foreign = home.path().join("foreign");
    let database = redb::Database::create(&foreign).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("something")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(Store::open(&RealDisk, &foreign, &identity(), OPTIONS), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_snapshot_stays_as_it_was_and_the_next_one_is_new() {
    let mut store = open(&MemoryDisk::default());
    let reader = store.reader();
    store.apply(&[decided(1, commands(&[set("a", "1"), set("b", "1")]))], false).unwrap();
    let before = reader.snapshot().unwrap();
    let mut entries = before.prefix(b"").unwrap();
    assert_eq!(entries.next().unwrap().unwrap(), (bytes("a"), bytes("1")));
    store
        .apply(&[decided(2, commands(&[set("a", "2"), Update::Delete { key: bytes("b") }, set("c", "2")]))], false)
        .unwrap();
    let after = reader.snapshot().unwrap();
    assert_eq!(before.applied().unwrap(), Slot(1));
    assert_eq!(before.get(b"a").unwrap(), Some(bytes("1")));
    assert!(before.contains(b"b").unwrap() && !before.contains(b"c").unwrap());
    assert_eq!(before.len().unwrap(), 2);
    assert_eq!(entries.map(Result::unwrap).collect::<Vec<_>>(), vec![(bytes("b"), bytes("1"))]);
    assert_eq!(after.applied().unwrap(), Slot(2));
    assert_eq!(after.get(b"a").unwrap(), Some(bytes("2")));
    assert_eq!(after.get(b"b").unwrap(), None);
    assert_eq!(after.len().unwrap(), 2);
    store.apply(&[decided(3, commands(&[Update::DeletePrefix { prefix: bytes("") }]))], false).unwrap();
    assert!(reader.snapshot().unwrap().is_empty().unwrap());
}

#[test]
fn readers_see_slots_and_data_move_together() {
    let mut store = open(&MemoryDisk::default());
    let reader = store.reader();
    store.apply(&[decided(1, commands(&[set("slot", "1")]))], false).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let reader = reader.clone();
                scope.spawn(move || {
                    let mut last = Slot::ZERO;
                    while last < Slot(300) {
                        let snapshot = reader.snapshot().unwrap();
                        let slot = snapshot.applied().unwrap();
                        assert!(slot >= last, "a later snapshot is not older");
                        assert_eq!(snapshot.get(b"slot").unwrap(), Some(bytes(&slot.0.to_string())));
                        last = slot;
                    }
                })
            })
            .collect();
        for slot in 2..=300 {
            store.apply(&[decided(slot, commands(&[set("slot", &slot.to_string())]))], slot % 50 == 0).unwrap();
            assert_eq!(reader.snapshot().unwrap().applied().unwrap(), Slot(slot), "what is committed is seen at once");
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn ranges_are_those_of_the_original() {
    let mut store = open(&MemoryDisk::default());
    let keys: [&[u8]; 8] = [b"", b"k1", b"k2", b"k3", b"p", b"p\xff", b"p\xff\xff", b"q"];
    let sets: Vec<_> =
        keys.iter().map(|key| Update::Set { key: Bytes::copy_from_slice(key), value: bytes("v") }).collect();
    store.apply(&[decided(1, commands(&sets))], false).unwrap();
    let snapshot = store.reader().snapshot().unwrap();
    let walk = |range: &KeyRange, direction| -> Vec<Bytes> {
        let keys: Vec<_> = snapshot.keys(range, direction).unwrap().map(Result::unwrap).collect();
        let entries = snapshot.range(range, direction).unwrap().map(|entry| entry.unwrap().0);
        assert_eq!(entries.collect::<Vec<_>>(), keys);
        keys
    };
    let bounds = [None, Some(&b""[..]), Some(b"k1"), Some(b"k2"), Some(b"k25"), Some(b"p\xff"), Some(b"q"), Some(b"z")];
    for (first, last) in bounds.iter().flat_map(|first| bounds.iter().map(move |last| (first, last))) {
        for (first_inclusive, last_inclusive) in [(false, false), (false, true), (true, false), (true, true)] {
            let [first, last] = [first, last].map(|bound| bound.map(Bytes::copy_from_slice));
            let range = KeyRange { first, first_inclusive, last, last_inclusive };
            // Without a bound, it is the empty key, which `first_inclusive` then decides about.
            let from = range.first.clone().unwrap_or_default();
            let mut expected: Vec<Bytes> = keys
                .iter()
                .map(|key| Bytes::copy_from_slice(key))
                .filter(|key| if first_inclusive { *key >= from } else { *key > from })
                .filter(|key| range.last.as_ref().is_none_or(|last| key < last || last_inclusive && key == last))
                .collect();
            assert_eq!(walk(&range, Direction::Ascending), expected, "{range:?}");
            expected.reverse();
            assert_eq!(walk(&range, Direction::Descending), expected, "{range:?}");
        }
    }
    let prefix = |prefix: &[u8]| -> Vec<Bytes> { walk(&KeyRange::prefix(prefix), Direction::Ascending) };
    assert_eq!(prefix(b"k"), ["k1", "k2", "k3"]);
    assert_eq!(prefix(b"p\xff"), [&b"p\xff"[..], b"p\xff\xff"]);
    assert_eq!(prefix(b"\xff"), Vec::<Bytes>::new());
    assert_eq!(prefix(b"").len(), keys.len());
}

#[test]
fn delete_prefix_takes_exactly_the_keys_of_the_prefix_however_many() {
    let mut store = open(&MemoryDisk::default());
    let sets: Vec<_> = (0..3000).map(|i| set(&format!("k{i}"), "v")).chain([set("j", "v"), set("l", "v")]).collect();
    store.apply(&[decided(1, commands(&sets))], false).unwrap();
    let results = store.apply(&[decided(2, commands(&[Update::DeletePrefix { prefix: bytes("k") }]))], false).unwrap();
    assert_eq!(results, vec![vec![Ok(Outcome::Deleted(3000))]]);
    assert_eq!(all(&store), vec![(bytes("j"), bytes("v")), (bytes("l"), bytes("v"))]);
}

#[test]
fn a_snapshot_can_be_held_across_awaits_and_by_any_thread() {
    fn check<T: Send + Sync>() {}
    check::<Snapshot>();
    check::<StoreReader>();
    fn check_send<T: Send>() {}
    check_send::<Entries>();
    check_send::<Keys>();
    check_send::<Store>();
}

/// A clock that stands still until it is told otherwise.
#[derive(Default)]
struct ManualClock(std::sync::atomic::AtomicU64);

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

impl ManualClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, std::sync::atomic::Ordering::SeqCst);
    }
}

type Report = Result<Applied<u64>, StoreError>;

struct Running {
    writer: StoreWriter<u64>,
    reports: std::sync::mpsc::Receiver<Report>,
    clock: Arc<ManualClock>,
}

fn start(disk: &MemoryDisk, policy: CommitPolicy, limits: WriterLimits) -> Running {
    let (tell, reports) = std::sync::mpsc::channel();
    let clock = Arc::new(ManualClock::default());
    let report = move |report| tell.send(report).unwrap();
    let writer =
        StoreWriter::start(open(disk), policy, limits, clock.clone(), |_| true, report, &Workers::Threads).unwrap();
    Running { writer, reports, clock }
}

fn stop(writer: StoreWriter<u64>) -> Result<(), StoreError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(writer.stop())
}

fn job(slot: u64) -> Job<u64> {
    Job {
        decided: decided(slot, commands(&[set("slot", &slot.to_string())])),
        replies: slot,
        is_awaited: true,
        logged_by: PersistId(slot),
    }
}

#[test]
fn the_writer_reports_every_slot_once_in_order_with_what_its_job_carried() {
    let disk = MemoryDisk::default();
    let running = start(&disk, CommitPolicy::default(), WriterLimits { group_bytes_max: 2000, ..Default::default() });
    for slot in 1..=500 {
        running.writer.apply(job(slot)).unwrap();
    }
    stop(running.writer).unwrap();
    let mut next = 1;
    let mut groups = 0;
    for report in running.reports {
        let applied = report.unwrap();
        assert!(applied.slots.len() <= 8, "a group is bounded");
        for (results, replies) in applied.slots {
            assert_eq!(results, vec![Ok(Outcome::Done)]);
            assert_eq!(replies, next);
            next += 1;
        }
        assert_eq!(applied.upto, Slot(next - 1));
        groups += 1;
    }
    assert_eq!(next, 501);
    assert!(groups < 500, "what waits is grouped");
    assert_eq!(open(&disk.after_power_cut()).applied().0, Slot(500), "a clean stop makes everything durable");
}

#[test]
fn the_writer_makes_its_work_durable_when_the_policy_says_so_and_not_while_idle() {
    let disk = MemoryDisk::default();
    let age = Duration::from_millis(1);
    let running = start(&disk, CommitPolicy::new(1 << 20, age), WriterLimits::default());
    let before = disk.syncs();
    running.clock.advance(Duration::from_secs(1000));
    running.writer.apply(job(1)).unwrap();
    running.reports.recv().unwrap().unwrap();
    running.clock.advance(age);
    let waited = std::time::Instant::now();
    while disk.syncs() == before {
        assert!(waited.elapsed() < Duration::from_secs(10), "the commit is never made durable");
        std::thread::yield_now();
    }
    running.clock.advance(Duration::from_secs(1000));
    running.writer.apply(job(2)).unwrap();
    running.reports.recv().unwrap().unwrap();
    stop(running.writer).unwrap();
    assert_eq!(open(&disk.after_power_cut()).applied().0, Slot(2));
}

#[test]
fn the_writer_takes_no_more_than_its_queue_holds() {
    let disk = MemoryDisk::default();
    let (held, hold) = std::sync::mpsc::sync_channel::<()>(0);
    let limits = WriterLimits { queue_bytes_max: 1000, group_bytes_max: 1 };
    let report = move |_: Report| hold.recv().unwrap_or(());
    let clock = Arc::new(ManualClock::default());
    let writer =
        StoreWriter::start(open(&disk), CommitPolicy::default(), limits, clock, |_| true, report, &Workers::Threads)
            .unwrap();
    let mut slot = 1;
    let refused = loop {
        match writer.apply(job(slot)) {
            Ok(()) => slot += 1,
            Err(NotTaken::Full(job)) => break job,
            Err(NotTaken::Ended(_)) => panic!("the writer waits for us"),
        }
        assert!(slot < 100, "there is no end to the queue");
    };
    assert_eq!(refused.replies, slot, "the job comes back");
    assert!(writer.waiting_bytes() <= 1000);
    drop(held);
    stop(writer).unwrap();
    assert_eq!(open(&disk.after_power_cut()).applied().0, Slot(slot - 1));
}

#[test]
fn the_writer_reports_a_failure_once_and_ends() {
    let disk = MemoryDisk::default();
    let running = start(&disk, CommitPolicy::new(0, Duration::ZERO), WriterLimits::default());
    disk.fail();
    running.writer.apply(job(1)).unwrap();
    let reports: Vec<_> = running.reports.iter().collect();
    assert!(matches!(reports.last(), Some(Err(StoreError::Io(_)))), "{reports:?}");
    assert_eq!(reports.iter().filter(|report| report.is_err()).count(), 1);
    assert!(matches!(running.writer.apply(job(2)), Err(NotTaken::Ended(_))));
    assert!(stop(running.writer).is_err());
}

/// The disk, once for each of many places in it, with one byte changed there.
fn damaged_anywhere(good: &MemoryDisk, step: usize) -> impl Iterator<Item = MemoryDisk> {
    let len = good.len().unwrap() as usize;
    let is_used = |at: &usize| good.0.lock().unwrap().now[*at] != 0;
    (0..len).step_by(step).filter(is_used).map(|at| {
        let damaged = good.after_power_cut();
        damaged.0.lock().unwrap().now[at] ^= 0x41;
        damaged
    })
}

fn filled_disk() -> (MemoryDisk, Vec<(Bytes, Bytes)>) {
    let disk = MemoryDisk::default();
    let mut store = open(&disk);
    let sets: Vec<_> = (0..200).map(|i| set(&format!("key{i:03}"), &"v".repeat(60))).collect();
    store.apply(&[decided(1, commands(&sets))], true).unwrap();
    (disk.after_power_cut(), all(&store))
}

fn read_all(store: &Store) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let snapshot = store.reader().snapshot()?;
    snapshot.get(b"key100")?;
    snapshot.range(&KeyRange::all(), Direction::Ascending)?.collect()
}

#[test]
fn a_damaged_byte_never_makes_a_reader_panic() {
    let (good, _) = filled_disk();
    let mut refused = 0;
    for disk in damaged_anywhere(&good, 149) {
        let read = Store::open_with_backend(disk, &identity(), OPTIONS).and_then(|store| read_all(&store));
        refused += usize::from(read.is_err());
    }
    assert!(refused > 0, "the test does no damage");
}

#[test]
fn a_store_that_is_checked_when_opened_is_right_or_refused() {
    let (good, contents) = filled_disk();
    let options = Options { check_on_open: true, ..OPTIONS };
    let mut refused = 0;
    for disk in damaged_anywhere(&good, 149) {
        match Store::open_with_backend(disk, &identity(), options) {
            Ok(store) => assert_eq!(read_all(&store).unwrap(), contents),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "the test does no damage");
}

#[test]
fn results_that_nobody_waits_for_are_not_kept_and_equal_old_values_are_held_once() {
    let mut store = open(&MemoryDisk::default());
    let look = || Update::TestAndSet { key: bytes("k"), expected: None, wanted: None };
    store.apply(&[decided(1, commands(&[set("k", &"x".repeat(1 << 20))]))], false).unwrap();
    let batch = [decided(2, commands(&vec![look(); 1_000])), decided(3, commands(&vec![look(); 1_000]))];
    let results = store.apply_for(&batch, false, |index| index == 1).unwrap();
    assert_eq!(results[0], []);
    let values: Vec<_> = (results[1].iter())
        .map(|result| match result {
            Ok(Outcome::Previous(Some(value))) => value,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values.len(), 1_000);
    assert!(values.iter().all(|value| value.len() == 1 << 20 && value.as_ptr() == values[0].as_ptr()));
}

/// The log failed, or has an older entry in the slot whose decided value it is still writing: were the store durable, it
/// would be ahead of its log, and what the log has there would pass for decided.
#[test]
fn the_store_is_never_made_durable_before_what_it_was_logged_by() {
    for persisted in 0..=3 {
        let disk = MemoryDisk::default();
        let clock = Arc::new(ManualClock::default());
        let is_durable = move |id| id <= PersistId(persisted);
        let (tell, reports) = std::sync::mpsc::channel();
        let report = move |report: Report| tell.send(report).unwrap();
        let policy = CommitPolicy::new(1, Duration::from_secs(1));
        let writer = StoreWriter::start(
            open(&disk),
            policy,
            WriterLimits::default(),
            clock.clone(),
            is_durable,
            report,
            &Workers::Threads,
        )
        .unwrap();
        writer.apply(job(1)).unwrap();
        writer.apply(job(2)).unwrap();
        while reports.recv().unwrap().unwrap().upto < Slot(2) {}
        clock.advance(Duration::from_secs(1000));
        stop(writer).unwrap();
        let durable = open(&disk.after_power_cut()).applied().0;
        assert!(durable.0 <= persisted, "{durable} is durable and batch {persisted} was the last one logged");
        assert!(persisted < 2 || durable == Slot(2), "a clean stop makes everything durable");
    }
}

/// The log is always one batch behind what is applied, as it is on a master whose slaves have the faster disks.
#[test]
fn a_store_that_is_always_ahead_of_its_log_waits_for_it_when_it_is_to_be_made_durable() {
    let disk = MemoryDisk::default();
    let clock = Arc::new(ManualClock::default());
    let logged = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let looks = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let is_durable = {
        let (logged, looks) = (logged.clone(), looks.clone());
        move |id: PersistId| {
            // It catches up after a while, but not by itself as long as more is applied.
            if looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 4 == 3 {
                logged.store(id.0, std::sync::atomic::Ordering::Relaxed);
            }
            id.0 <= logged.load(std::sync::atomic::Ordering::Relaxed)
        }
    };
    let (tell, reports) = std::sync::mpsc::channel();
    let report = move |report: Report| tell.send(report).unwrap();
    let policy = CommitPolicy::new(1, Duration::from_secs(1));
    let limits = WriterLimits { group_bytes_max: 1, ..WriterLimits::default() };
    let writer = StoreWriter::start(open(&disk), policy, limits, clock, is_durable, report, &Workers::Threads).unwrap();
    for slot in 1..=20 {
        writer.apply(job(slot)).unwrap();
    }
    while reports.recv().unwrap().unwrap().upto < Slot(20) {}
    let durable = open(&disk.after_power_cut()).applied().0;
    assert!(durable >= Slot(19), "{durable} is durable while the log was behind at each moment of the load");
    drop(writer);
}
