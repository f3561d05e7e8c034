//! What was recorded replays; what cannot be recorded is left out and said to be; and nothing of it disturbs the node.

use std::time::Instant as WallInstant;

use bytes::Bytes;
use trialbay_engine::codec::decode_event;
use trialbay_engine::{Actions, Config, Limits, Recovered, Request, RequestId, Slot};

use super::format::Frame;
use super::*;

const NODE: NodeId = NodeId(1);
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn engine(limits: Limits) -> Engine {
    let config = Config { clock_drift_ppm: 0, limits, ..Config::new(NODE, vec![NODE]) };
    Engine::new(Instant(0), config, Recovered::blank(), 7)
}

/// An engine, a driver that does at once what it orders, and its recorder.
struct Played {
    engine: Engine,
    recorder: Option<Recorder>,
    now: Instant,
    next_request: u64,
}

impl Played {
    fn with(engine: Engine, recorder: Recorder) -> Self {
        Self { engine, recorder: Some(recorder), now: Instant(0), next_request: 0 }
    }

    fn start(dir: &Path, bytes_max: u64) -> Self {
        let engine = engine(Limits::default());
        let recorder = Recorder::start(dir, bytes_max, NODE, Instant(0), &engine).unwrap();
        Self::with(engine, recorder)
    }

    fn round(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.now = self.now + Duration::from_millis(1);
            let mut actions = Actions::new();
            let recorder = self.recorder.as_mut().unwrap();
            recorder.before_step(self.now, &event);
            self.engine.step(self.now, event, &mut actions);
            recorder.after_step(actions.as_slice());
            events.extend(actions.drain().filter_map(|action| match action {
                Action::Persist { id, .. } => Some(Event::Persisted(id)),
                Action::Apply { slot, .. } => Some(Event::Applied(slot)),
                _ => None,
            }));
        }
        self.recorder.as_mut().unwrap().after_round(&self.engine);
    }

    fn request(&mut self, len: usize) {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.round(Event::Requested(vec![Request { id, command: Bytes::from(vec![b'v'; len]) }]));
    }

    /// Alone, a node is master of itself as soon as it may vote.
    fn becomes_master(&mut self) {
        for _ in 0..9 {
            self.now = self.now.max(self.engine.next_deadline().unwrap());
            self.round(Event::Ticked);
        }
        assert!(self.engine.serves_until().is_some());
    }

    fn events(&self) -> u64 {
        self.recorder.as_ref().unwrap().events
    }
}

/// What a recording replays to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Replayed {
    files: usize,
    /// Events from the first of the oldest file to the last of the newest.
    span: u64,
    events: u64,
    decided_upto: Slot,
    ended_in_panic: bool,
}

fn replay(dir: &Path) -> Replayed {
    let mut replayed = Replayed::default();
    let mut first = None;
    let mut scratch = Vec::new();
    for (_, path) in format::files(dir).unwrap() {
        let bytes = std::fs::read(path).unwrap();
        // Being written still.
        let Ok((header, mut frames)) = format::read(&bytes) else { break };
        let Some(Ok(Frame::Image(image))) = frames.next() else { break };
        let mut engine = Engine::from_image(image).unwrap();
        replayed.files += 1;
        let mut in_file = 0;
        for frame in frames {
            let (event, expected) = match frame {
                Ok(Frame::Step { event, actions }) => (event, actions),
                Ok(Frame::Unended { .. }) => {
                    replayed.ended_in_panic = true;
                    continue;
                }
                Ok(Frame::Image(_)) => panic!("a second image"),
                Err(_) => break,
            };
            in_file += 1;
            let (now, event) = decode_event(event).unwrap();
            let mut actions = Actions::new();
            engine.step(now, event, &mut actions);
            assert_eq!(hash_actions(actions.as_slice(), &mut scratch), expected);
        }
        replayed.events += in_file;
        replayed.span = header.events_before + in_file - *first.get_or_insert(header.events_before);
        replayed.decided_upto = engine.decided_upto();
    }
    replayed
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = WallInstant::now() + PATIENCE;
    while !done() {
        assert!(WallInstant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_recording_replays_to_the_same_actions_through_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut played = Played::start(dir.path(), 8 * MIB);
    played.becomes_master();
    for _ in 0..300 {
        played.request(10_000);
    }
    let (events, decided_upto) = (played.events(), played.engine.decided_upto());
    drop(played.recorder);
    until("the last event is written", || replay(dir.path()).span == events);
    let replayed = replay(dir.path());
    assert_eq!((replayed.events, replayed.decided_upto), (events, decided_upto));
    assert!(replayed.files >= 3 && decided_upto > Slot(300), "{replayed:?}");
}

#[test]
fn a_ring_that_is_full_holds_the_last_events_and_no_more_than_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut played = Played::start(dir.path(), 8 * MIB);
    played.becomes_master();
    for _ in 0..400 {
        played.request(50_000);
        let queued = played.recorder.as_ref().unwrap().thread.queued.clone();
        until("the thread has written", || queued.load(Ordering::Acquire) < QUEUED_BYTES_MAX / 2);
    }
    let (events, decided_upto) = (played.events(), played.engine.decided_upto());
    drop(played.recorder);
    until("the last event is written", || replay(dir.path()).decided_upto == decided_upto);
    let replayed = replay(dir.path());
    assert!(replayed.span == replayed.events && replayed.events < events, "{replayed:?} of {events}");
    let bytes: u64 = format::files(dir.path()).unwrap().iter().map(|(_, path)| path.metadata().unwrap().len()).sum();
    assert!((6 * MIB..=8 * MIB).contains(&bytes), "{bytes}");
}

#[test]
fn the_event_on_which_an_engine_panics_is_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut played = Played::start(dir.path(), 8 * MIB);
    played.becomes_master();
    let mut recorder = played.recorder.unwrap();
    recorder.before_step(played.now, &Event::Applied(Slot(u64::MAX)));
    drop(recorder);
    until("the last event is written", || replay(dir.path()).ended_in_panic);
}

#[test]
fn a_node_whose_recorder_cannot_begin_or_go_on_goes_on_without() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Recorder::start(&file, 8 * MIB, NODE, Instant(0), &engine(Limits::default())).is_none());

    let mut played = Played::start(dir.path(), 8 * MIB);
    played.becomes_master();
    // Somebody else's file where the next one should be.
    std::fs::create_dir(dir.path().join("000002.rec")).unwrap();
    until("the recorder is off", || {
        played.request(10_000);
        played.recorder.as_ref().unwrap().state == State::Off
    });
    let decided = played.engine.decided_upto();
    played.request(10);
    assert!(played.engine.decided_upto() > decided && played.recorder.as_ref().unwrap().buffer.is_empty());
}

#[test]
fn events_are_left_out_while_the_thread_is_behind_and_a_new_file_says_how_many() {
    let (writer, thread) = thread_channels();
    let mut played = Played::with(engine(Limits::default()), Recorder::new(NODE, Instant(0), 1 << 30, thread));
    played.becomes_master();
    let begun = |job| match job {
        Job::Begin { header, .. } => Some(header.events_before),
        Job::Frames(_) => None,
    };
    assert!(writer.jobs.try_iter().filter_map(begun).count() == 1);
    for _ in 0..200 {
        played.request(100_000);
    }
    assert_eq!(played.recorder.as_ref().unwrap().state, State::Behind);
    let held: usize =
        writer.jobs.try_iter().map(|job| if let Job::Frames(frames) = job { frames.len() } else { 0 }).sum();
    assert!((QUEUED_BYTES_MAX / 2..=QUEUED_BYTES_MAX).contains(&held), "{held}");
    // The thread has caught up.
    writer.queued.store(0, Ordering::Release);
    played.request(1);
    let begun: Vec<u64> = writer.jobs.try_iter().filter_map(begun).collect();
    assert_eq!(begun, [played.events()]);
    drop(writer);
}
