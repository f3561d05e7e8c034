//! Givers and takers, over connections that break and against others that misbehave.

use std::sync::Mutex;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;
use trialbay_engine::{HistoryHash, NodeId, Slot, Value};

use super::patience::Patience;
use super::take::Seen;
use super::wire::{Letter, hear, say};
use super::*;
use crate::disk::RealDisk;
use crate::identity::Identity;
use crate::peer::{HeadDialler, HeadStream};
use crate::reserve::{ROOM_PAUSE, Reserve};
use crate::store::{Decided, Direction, Head, KeyRange, Options, Store, StorePlace, StoreReader};
use crate::update::{NurseryUpdate, Update, encode_command};
use crate::workers::Workers;

use std::sync::Arc;
use std::time::Duration;

const GIVER: NodeId = NodeId(1);
const TAKER: NodeId = NodeId(2);

/// Enough for eight chunks.
const KEYS: u64 = 2_000;

/// A node's store, and the directory that it is in.
struct Home {
    store: Store,
    place: StorePlace,
    _dir: TempDir,
}

impl Home {
    fn empty(node: NodeId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { cluster_id: "tests".into(), node, name: node.to_string() };
        let options = Options { cache_bytes: 8 << 20, ..Options::default() };
        let place = StorePlace::new(Arc::new(RealDisk), dir.path().join("n.db"), identity, options);
        Self { store: place.open().unwrap(), place, _dir: dir }
    }

    /// With many keys, as of slot 2.
    fn full() -> Self {
        let mut home = Self::empty(GIVER);
        home.apply(1, (0..KEYS).map(|key| (key, vec![key as u8; 4_096])));
        home.apply(2, [(KEYS, b"the last one".to_vec())]);
        home
    }

    fn apply(&mut self, slot: u64, values: impl IntoIterator<Item = (u64, Vec<u8>)>) {
        let set = |(key, value): (u64, Vec<u8>)| {
            encode_command(&Update::Set { key: format!("{key:06}").into(), value: value.into() })
        };
        let commands: Vec<_> = values.into_iter().map(set).collect();
        let value = Value::batch(commands.iter().map(AsRef::as_ref));
        self.store.apply(&[Decided { slot: Slot(slot), hash: HistoryHash(slot * 100), value }], false).unwrap();
    }

    fn giver(&self) -> Giver {
        self.giver_that_holds(Holds::default())
    }

    fn giver_that_holds(&self, holds: Holds) -> Giver {
        Giver::new(self.store.reader(), holds, Workers::Threads, [TAKER, NodeId(3), NodeId(4)])
    }
}

fn all(reader: &StoreReader) -> Vec<(Bytes, Bytes)> {
    let entries = reader.snapshot().unwrap().range(&KeyRange::all(), Direction::Ascending).unwrap();
    entries.map(Result::unwrap).collect()
}

/// Connections to a giver, each of which breaks when it has brought so many bytes.
fn dialler(giver: &Giver, by: NodeId, breaks: Vec<u64>) -> HeadDialler {
    let breaks = Arc::new(Mutex::new(breaks.into_iter()));
    let giver = giver.clone();
    HeadDialler::new(move |_| {
        let (giver, limit) = (giver.clone(), breaks.lock().unwrap().next());
        async move {
            let (near, middle) = tokio::io::duplex(64 << 10);
            let (other, far) = tokio::io::duplex(64 << 10);
            tokio::spawn(giver.serve(by, by.to_string(), far));
            tokio::spawn(async move {
                let ((mut up, mut up_to), (down, mut down_to)) = (tokio::io::split(middle), tokio::io::split(other));
                let mut down = down.take(limit.unwrap_or(u64::MAX));
                tokio::select! {
                    _ = tokio::io::copy(&mut up, &mut down_to) => {}
                    _ = tokio::io::copy(&mut down, &mut up_to) => {}
                }
            });
            Ok(HeadStream::new(near))
        }
    })
}

/// Connections to a script.
fn scripted<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(DuplexStream) -> F + Send + Sync + 'static,
) -> HeadDialler {
    HeadDialler::new(move |_| {
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(script(far));
        std::future::ready(Ok(HeadStream::new(near)))
    })
}

fn taker(home: &Home, peers: HeadDialler) -> Taker {
    Taker { place: home.place.clone(), peers, workers: Workers::Threads, reserve: Reserve::none() }
}

async fn take(home: &Home, peers: HeadDialler) -> Result<Head, NotTaken> {
    let (tell, told) = oneshot::channel();
    let _taking = taker(home, peers).start(GIVER, home.store.applied().0, move |taken| tell.send(taken).unwrap());
    told.await.unwrap()
}

fn is_tidy(home: &Home) -> bool {
    !home.place.head_path().exists()
}

#[tokio::test(start_paused = true)]
async fn a_head_is_the_givers_store_at_one_slot_whatever_is_written_meanwhile() {
    let mut giving = Home::full();
    let expected = all(&giving.store.reader());
    let mut home = Home::empty(TAKER);
    home.apply(1, [(7, b"old".to_vec()), (999_999, b"gone since".to_vec())]);
    let reader = home.store.reader();

    // The head is fixed when it is asked for, and the connection is full long before all of it is sent.
    let (tell, told) = oneshot::channel();
    let begun = taker(&home, dialler(&giving.giver(), TAKER, vec![]));
    let taking = begun.start(GIVER, Slot(1), move |taken| tell.send(taken).unwrap());
    while taking.seen().entries == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for slot in 3..40 {
        giving.apply(slot, (0..50).map(|key| (key * 40, b"new".to_vec())));
    }
    let head = told.await.unwrap().unwrap();
    assert_eq!(head, Head { slot: Slot(2), hash: HistoryHash(200), entries: KEYS + 1 });
    assert_eq!(taking.seen(), Seen { slot: Slot(2), entries: KEYS + 1, entries_all: KEYS + 1 });

    assert_eq!(reader.snapshot().unwrap().applied().unwrap(), Slot(1), "it is not installed yet");
    assert_eq!(home.store.install(&home.place).unwrap(), head);
    assert_eq!(all(&reader), expected);
    assert_eq!(home.store.applied(), (Slot(2), HistoryHash(200)));
    home.apply(3, [(7, b"newer".to_vec())]);
    home.store.close().unwrap();
    let again = home.place.open().unwrap();
    assert_eq!(again.applied(), (Slot(3), HistoryHash(300)));
    assert_eq!(all(&again.reader()).len(), expected.len());
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_gives_an_empty_head() {
    let mut giving = Home::empty(GIVER);
    giving.apply(1, []);
    let mut home = Home::empty(TAKER);
    let head = take(&home, dialler(&giving.giver(), TAKER, vec![])).await.unwrap();
    assert_eq!(head.entries, 0);
    home.store.install(&home.place).unwrap();
    assert_eq!(home.store.applied().0, Slot(1));
}

#[tokio::test(start_paused = true)]
async fn a_witness_gets_no_data_and_gives_none() {
    let giving = Home::full();
    let giver = |has_data, witnesses: &[NodeId]| {
        let store = giving.store.reader();
        Giver::among_witnesses(store, Holds::default(), Workers::Threads, [TAKER], has_data, witnesses)
    };
    let mut witness = Home::empty(TAKER);
    let head = take(&witness, dialler(&giver(true, &[TAKER]), TAKER, vec![])).await.unwrap();
    assert_eq!((head.slot, head.entries), (Slot(2), 0));
    witness.store.install(&witness.place).unwrap();
    assert!(all(&witness.store.reader()).is_empty());
    assert_eq!(witness.store.applied(), (Slot(2), HistoryHash(200)));

    let home = Home::empty(TAKER);
    let refused = take(&home, dialler(&giver(false, &[GIVER]), TAKER, vec![])).await;
    assert!(matches!(&refused, Err(NotTaken::Refused(why)) if why.contains("witness")), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_beside_the_keys_comes_with_a_head() {
    let admin = |home: &Home| home.store.reader().snapshot().unwrap().admin().clone();
    let mut giving = Home::empty(GIVER);
    let update = NurseryUpdate::AdminSet { key: "k".into(), value: Some("v".into()) };
    let command = encode_command(&Update::Nursery(update));
    let value = Value::batch([command.as_ref()]);
    giving.store.apply(&[Decided { slot: Slot(1), hash: HistoryHash(100), value }], false).unwrap();
    let mut home = Home::empty(TAKER);
    take(&home, dialler(&giving.giver(), TAKER, vec![])).await.unwrap();
    home.store.install(&home.place).unwrap();
    assert_ne!(admin(&home), admin(&Home::empty(TAKER)));
    assert_eq!(admin(&home), admin(&giving));
    // The next update goes on from it.
    home.apply(2, [(1, b"v".to_vec())]);
    assert_eq!(admin(&home), admin(&giving));
}

#[tokio::test(start_paused = true)]
async fn a_head_goes_on_where_it_was_interrupted_and_the_givers_store_may_change_meanwhile() {
    let mut giving = Home::full();
    let expected = all(&giving.store.reader());
    let giver = giving.giver();
    let mut home = Home::empty(TAKER);
    // Each attempt brings a little more, or nothing; the last one all that is left.
    let breaks: Vec<u64> = vec![2_500_000, 0, 40, 1_200_000, 3_000_000];
    let brought: u64 = breaks.iter().sum();
    let (tell, told) = oneshot::channel();
    let begun = taker(&home, dialler(&giver, TAKER, breaks));
    let taking = begun.start(GIVER, Slot::ZERO, move |taken| tell.send(taken).unwrap());
    while taking.seen().entries == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    giving.apply(3, [(0, b"changed".to_vec())]);
    assert_eq!(told.await.unwrap().unwrap().slot, Slot(2), "the same head to the end");
    assert!(brought < KEYS * 4_096, "it did not begin anew");
    home.store.install(&home.place).unwrap();
    assert_eq!(all(&home.store.reader()), expected);
}

#[tokio::test(start_paused = true)]
async fn a_taker_that_was_stopped_goes_on_in_its_next_run_and_not_with_another_givers_head() {
    for from in [GIVER, NodeId(3)] {
        let giving = Home::full();
        let giver = giving.giver();
        let home = Home::empty(TAKER);
        let begun = taker(&home, dialler(&giver, TAKER, vec![2_500_000]));
        let taking = begun.start(GIVER, Slot::ZERO, |taken| assert!(matches!(taken, Err(NotTaken::Stopping))));
        while taking.seen().entries == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let seen = taking.seen();
        taking.stop().await;

        let (tell, told) = oneshot::channel();
        let (asked, hears) = oneshot::channel();
        let asked = Mutex::new(Some(asked));
        let script = scripted(move |mut stream| {
            let asked = asked.lock().unwrap().take();
            async move {
                let letter = hear(&mut stream, &mut Patience::new()).await.unwrap();
                if let Some(asked) = asked {
                    asked.send(letter).unwrap();
                }
            }
        });
        let again = taker(&home, script).start(from, Slot::ZERO, move |taken| tell.send(taken).unwrap());
        let Letter::Ask(resume) = hears.await.unwrap() else { panic!("it asks") };
        assert_eq!(resume.map(|resume| resume.entries >= seen.entries), (from == GIVER).then_some(true));
        told.await.unwrap().unwrap_err();
        drop(again);
    }
}

#[tokio::test(start_paused = true)]
async fn a_giver_that_does_not_know_the_head_any_more_begins_anew() {
    let giving = Home::full();
    let mut home = Home::empty(TAKER);
    // Another giver each time, as if its process had ended in between.
    let store = giving.store.reader();
    let broken = Arc::new(Mutex::new(Some(1_500_000)));
    let peers = HeadDialler::new(move |to| {
        let giver = Giver::new(store.clone(), Holds::default(), Workers::Threads, [TAKER]);
        let breaks = broken.lock().unwrap().take().into_iter().collect();
        let dialler = dialler(&giver, TAKER, breaks);
        async move { dialler.dial(to).await }
    });
    take(&home, peers).await.unwrap();
    home.store.install(&home.place).unwrap();
    assert_eq!(all(&home.store.reader()), all(&giving.store.reader()));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_was_whole_before_is_not_got_again() {
    let giving = Home::full();
    let home = Home::empty(TAKER);
    let head = take(&home, dialler(&giving.giver(), TAKER, vec![])).await.unwrap();
    let nobody = HeadDialler::new(|_| std::future::ready(Err("nobody is asked".to_owned())));
    assert_eq!(take(&home, nobody).await.unwrap(), head);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_head_goes_when_the_store_has_got_there_otherwise() {
    let giving = Home::full();
    let home = Home::empty(TAKER);
    take(&home, dialler(&giving.giver(), TAKER, vec![])).await.unwrap();
    home.place.tidy_head(Slot(1)).unwrap();
    assert!(!is_tidy(&home));
    home.place.tidy_head(Slot(2)).unwrap();
    assert!(is_tidy(&home));
    home.place.tidy_head(Slot(2)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_ahead_gives_nothing_that_is_installed() {
    let giving = Home::full();
    let mut home = Home::empty(TAKER);
    home.apply(1, []);
    take(&home, dialler(&giving.giver(), TAKER, vec![])).await.unwrap();
    home.apply(2, []);
    home.apply(3, []);
    let refused = home.store.install(&home.place).unwrap_err();
    assert_eq!(refused.to_string(), "the store has applied s3 already, and the head is of s2");
    assert!(is_tidy(&home));
    let refused = take(&home, dialler(&giving.giver(), TAKER, vec![])).await;
    assert!(matches!(refused, Err(NotTaken::Behind(Slot(2)))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_get_heads_at_a_time_and_one_that_went_away_is_waited_for_not_longer_than_a_minute() {
    let giving = Home::full();
    let giver = giving.giver();
    let homes = [2, 3, 4].map(|node| Home::empty(NodeId(node)));
    let mut silent = Vec::new();
    for node in [2, 3] {
        let mut stream = dialler(&giver, NodeId(node), vec![]).dial(GIVER).await.unwrap();
        say(&mut stream, &Letter::Ask(None), &mut Patience::new()).await.unwrap();
        assert!(matches!(hear(&mut stream, &mut Patience::new()).await, Ok(Letter::Head { .. })));
        silent.push(stream);
    }
    let refused = take(&homes[2], dialler(&giver, NodeId(4), vec![])).await;
    assert!(matches!(&refused, Err(NotTaken::Refused(why)) if why.contains("other nodes")), "{refused:?}");
    // One is gone, and the other one reads nothing.
    drop(silent.pop());
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(take(&homes[2], dialler(&giver, NodeId(4), vec![])).await.is_err(), "it may come back");
    tokio::time::sleep(Duration::from_secs(50)).await;
    take(&homes[2], dialler(&giver, NodeId(4), vec![])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_taker_that_connects_anew_is_served_although_its_old_connection_still_hangs() {
    let giving = Home::full();
    let giver = giving.giver();
    let mut hanging = dialler(&giver, TAKER, vec![]).dial(GIVER).await.unwrap();
    say(&mut hanging, &Letter::Ask(None), &mut Patience::new()).await.unwrap();
    let home = Home::empty(TAKER);
    let began = tokio::time::Instant::now();
    take(&home, dialler(&giver, TAKER, vec![])).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Without it, a head that takes long would be behind all logs again when it is there.
#[tokio::test(start_paused = true)]
async fn the_log_behind_a_head_is_kept_until_the_taker_has_had_the_time_to_get_it() {
    let giving = Home::full();
    let holds = Holds::default();
    let giver = giving.giver_that_holds(holds.clone());
    let home = Home::empty(TAKER);
    assert_eq!(holds.limit(Slot(9), false), Slot(9));
    take(&home, dialler(&giver, TAKER, vec![])).await.unwrap();
    assert_eq!(holds.limit(Slot(9), false), Slot(2));
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(holds.limit(Slot(9), false), Slot(2));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(holds.limit(Slot(9), false), Slot(9), "not for ever");

    let mut gone = dialler(&giver, NodeId(3), vec![]).dial(GIVER).await.unwrap();
    say(&mut gone, &Letter::Ask(None), &mut Patience::new()).await.unwrap();
    assert!(matches!(hear(&mut gone, &mut Patience::new()).await, Ok(Letter::Head { .. })));
    assert_eq!(holds.limit(Slot(9), false), Slot(2));
    drop(gone);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(holds.limit(Slot(9), false), Slot(9));
}

/// What a giver says after it was asked.
async fn says(mut stream: DuplexStream, letters: Vec<Letter>) {
    let mut patience = Patience::new();
    hear(&mut stream, &mut patience).await.unwrap();
    for letter in letters {
        // The taker may have hung up.
        let _ = say(&mut stream, &letter, &mut patience).await;
    }
    // Nothing more, and no end.
    let _ = stream.read(&mut [0]).await;
}

fn chunk(first: u64, keys: &[&str]) -> Letter {
    let mut bytes = Vec::new();
    for part in keys.iter().flat_map(|key| [key, &"value"]) {
        bytes.extend((part.len() as u32).to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    Letter::Chunk { first, bytes: bytes.into() }
}

#[tokio::test(start_paused = true)]
async fn a_giver_that_sends_what_is_no_head_is_blamed_and_nothing_is_left_of_it() {
    let head = Head { slot: Slot(9), hash: HistoryHash(9), entries: 3 };
    let begin = || Letter::Head { head, resumed: false, admin: Bytes::new() };
    let end = |entries| Letter::End { entries, digest: 7 };
    let cut = Letter::Chunk { first: 0, bytes: Bytes::from_static(&[1, 0, 0, 0]) };
    let empty = Letter::Chunk { first: 0, bytes: Bytes::new() };
    let cases = [
        (vec![chunk(0, &["a"])], "said something else"),
        (vec![end(0)], "said something else"),
        (vec![Letter::Head { head, resumed: true, admin: Bytes::new() }], "was not begun"),
        (vec![Letter::Head { head, resumed: false, admin: Bytes::from_static(b"?") }], "beside the keys"),
        (vec![begin(), begin()], "said something else"),
        (vec![begin(), chunk(1, &["a"])], "does not follow"),
        (vec![begin(), chunk(0, &["a"]), chunk(0, &["b"])], "does not follow"),
        (vec![begin(), chunk(0, &["b", "a"])], "out of order"),
        (vec![begin(), chunk(0, &["a", "a"])], "out of order"),
        (vec![begin(), chunk(0, &["a", "b"]), chunk(2, &["b"])], "out of order"),
        (vec![begin(), cut], "inside an entry"),
        (vec![begin(), empty], "is empty"),
        (vec![begin(), chunk(0, &["a", "b", "c", "d"])], "more entries"),
        (vec![begin(), chunk(0, &["a", "b"]), end(2)], "too early"),
        (vec![begin(), chunk(0, &["a", "b"]), end(3)], "too early"),
        (vec![begin(), chunk(0, &["a", "b", "c"]), end(3)], "digest"),
    ];
    for (letters, expected) in cases {
        let home = Home::empty(TAKER);
        let text = format!("{letters:?}");
        let taken = take(&home, scripted(move |stream| says(stream, letters.clone()))).await;
        assert!(matches!(&taken, Err(NotTaken::Broken(what)) if what.contains(expected)), "{text}: {taken:?}");
        assert!(is_tidy(&home), "{text}");
        assert_eq!(home.store.applied().0, Slot::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_giver_whose_bytes_are_damaged_or_too_many_is_blamed() {
    let wrong_checksum = [5_u32.to_le_bytes(), [1; 4], [2; 4], [3; 4]].concat();
    let oversized = [u32::MAX.to_le_bytes(), [0; 4]].concat();
    for bytes in [wrong_checksum, oversized] {
        let home = Home::empty(TAKER);
        let script = move |mut stream: DuplexStream| {
            let bytes = bytes.clone();
            async move {
                hear(&mut stream, &mut Patience::new()).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                let _ = stream.read(&mut [0]).await;
            }
        };
        let taken = take(&home, scripted(script)).await;
        assert!(matches!(taken, Err(NotTaken::Broken(_))), "{taken:?}");
    }
}

/// One that sends an entry every few seconds, for ever, and one that says nothing more at all.
#[tokio::test(start_paused = true)]
async fn a_giver_that_trickles_is_given_up() {
    for pause in [Duration::from_secs(5), Duration::from_secs(1_000_000)] {
        let home = Home::empty(TAKER);
        let head = Head { slot: Slot(9), hash: HistoryHash(9), entries: u64::MAX };
        let script = move |mut stream: DuplexStream| async move {
            hear(&mut stream, &mut Patience::new()).await.unwrap();
            say(&mut stream, &Letter::Head { head, resumed: false, admin: Bytes::new() }, &mut Patience::new())
                .await
                .unwrap();
            for entry in 0.. {
                tokio::time::sleep(pause).await;
                let letter = chunk(entry, &[&format!("{entry:09}")]);
                if say(&mut stream, &letter, &mut Patience::new()).await.is_err() {
                    return;
                }
            }
        };
        let began = tokio::time::Instant::now();
        let taken = take(&home, scripted(script)).await;
        assert!(matches!(taken, Err(NotTaken::Interrupted(_))), "{taken:?}");
        assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
        assert_eq!(home.store.applied().0, Slot::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_giver_that_cannot_be_reached_is_given_up() {
    let home = Home::empty(TAKER);
    let nobody = HeadDialler::new(|_| std::future::ready(Err("connection refused".to_owned())));
    let taken = take(&home, nobody).await;
    assert!(matches!(&taken, Err(NotTaken::Interrupted(why)) if why == "connection refused"), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_would_fill_the_disk_is_not_begun_or_stops_and_goes_on_once_there_is_room() {
    let giving = Home::full();
    let home = Home::empty(TAKER);
    let giver = giving.giver();
    // So many looks find room: one before each connection and one before each chunk.
    let looks = Arc::new(Mutex::new(0));
    let reserve = Reserve::new(1 << 20, {
        let looks = looks.clone();
        move || {
            let mut left = looks.lock().unwrap();
            let has_room = *left > 0;
            *left -= i32::from(has_room);
            Ok(if has_room { u64::MAX } else { 0 })
        }
    });
    let take = async || {
        let (tell, told) = oneshot::channel();
        let taker = Taker { reserve: reserve.clone(), ..taker(&home, dialler(&giver, TAKER, Vec::new())) };
        let _taking = taker.start(GIVER, Slot::ZERO, move |taken| tell.send(taken).unwrap());
        let began = tokio::time::Instant::now();
        (told.await.unwrap(), began.elapsed())
    };
    let (taken, waited) = take().await;
    assert!(matches!(taken, Err(NotTaken::NoRoom(_))) && waited >= ROOM_PAUSE, "{taken:?} {waited:?}");
    assert!(is_tidy(&home), "it was not begun");

    *looks.lock().unwrap() = 4;
    let (taken, _) = take().await;
    assert!(matches!(taken, Err(NotTaken::NoRoom(_))), "{taken:?}");
    assert!(!is_tidy(&home), "what there is of it stays");

    *looks.lock().unwrap() = 1_000;
    let (taken, _) = take().await;
    assert_eq!(taken.unwrap().entries, all(&giving.store.reader()).len() as u64);
}
