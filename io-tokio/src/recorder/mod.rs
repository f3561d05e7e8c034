//! The flight recorder: keeps the last of what the engine was told, so that it can be replayed bit for bit.
//!
//! ```text
//! driver -> Recorder: encodes each event, hashes its actions -> bounded channel -> thread "recorder": a ring of files
//! ```
//! It must never slow down or stop the node: when the thread falls behind, events are left out until a new file can begin
//! with a new image; when a file cannot be written, the recorder turns itself off.
//! `format` has the bytes; `ring` the files.

pub mod format;
mod ring;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trialbay_engine::codec::hash_actions;
use trialbay_engine::{Action, Engine, Event, Instant, NodeId};

use format::Header;
use ring::{Job, Ring, Writer};

/// A buffer is handed over when it has so many bytes,
const BUFFER_BYTES: usize = 256 << 10;
/// or at the end of a round when the last one was handed over so long ago. What a killed process takes with it.
const BUFFER_AGE_MAX: Duration = Duration::from_millis(10);

/// Bytes on their way to the thread, unless one event alone is larger. Beyond, events are left out.
const QUEUED_BYTES_MAX: usize = 16 << 20;
const QUEUED_JOBS_MAX: usize = 256;

/// Buffers that wait to be used again.
const SPARES_MAX: usize = 16;

/// How long a node that ends waits for its last events to be written.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// The driver's side of the recorder.
pub(crate) struct Recorder {
    node: NodeId,
    run: u64,
    state: State,
    /// Frames that have not been handed over.
    buffer: Vec<u8>,
    /// Where the frame of the step in progress begins in it.
    step: Option<usize>,
    scratch: Vec<u8>,
    /// Events of this run so far, recorded or not.
    events: u64,
    /// The time of the last event.
    now: Instant,
    handed_over_at: Instant,
    file_bytes: usize,
    thread: Thread,
}

/// The way to the thread.
struct Thread {
    /// Taken when the recorder ends, which ends the thread.
    jobs: Option<SyncSender<Job>>,
    /// Buffers to be used again.
    spare: Receiver<Vec<u8>>,
    /// Bytes of frames that are not written yet.
    queued: Arc<AtomicUsize>,
    ended: Receiver<Infallible>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of frames are in the file.
    Recording {
        in_file: usize,
    },
    /// The thread fell behind: what happens is left out.
    Behind,
    Off,
}

impl Recorder {
    /// Begins to record what `engine`, which was told of nothing yet, is told, in files of `bytes_max` bytes altogether.
    /// `None`, and a warning, when that is not possible.
    pub(crate) fn start(dir: &Path, bytes_max: u64, node: NodeId, now: Instant, engine: &Engine) -> Option<Self> {
        let (thread, ours) = thread_channels();
        let started = Ring::open(dir, bytes_max)
            .and_then(|ring| std::thread::Builder::new().name("recorder".to_owned()).spawn(move || thread.run(ring)));
        if let Err(error) = started {
            tracing::warn!(dir = %dir.display(), %error, "the recorder cannot start: nothing is recorded");
            return None;
        }
        let file_bytes = usize::try_from(ring::file_bytes(bytes_max)).unwrap_or(usize::MAX);
        let mut recorder = Self::new(node, now, file_bytes, ours);
        recorder.begin_file(engine);
        Some(recorder)
    }

    fn new(node: NodeId, now: Instant, file_bytes: usize, thread: Thread) -> Self {
        Self {
            node,
            run: wall_clock(),
            state: State::Behind,
            buffer: Vec::new(),
            step: None,
            scratch: Vec::new(),
            events: 0,
            now,
            handed_over_at: now,
            file_bytes,
            thread,
        }
    }

    /// The engine is about to be told of this event.
    pub(crate) fn before_step(&mut self, now: Instant, event: &Event) {
        self.now = now;
        self.events += 1;
        if let State::Recording { .. } = self.state {
            self.step = Some(format::begin_step(now, event, &mut self.buffer));
        }
    }

    /// It gave these actions.
    pub(crate) fn after_step(&mut self, actions: &[Action]) {
        let Some(start) = self.step.take() else { return };
        let hash = hash_actions(actions, &mut self.scratch);
        format::end_step(start, Some(hash), &mut self.buffer);
        if self.buffer.len() >= BUFFER_BYTES {
            self.hand_over();
        }
    }

    /// The driver has told the engine of all that has happened.
    pub(crate) fn after_round(&mut self, engine: &Engine) {
        if self.now.since(self.handed_over_at) >= BUFFER_AGE_MAX {
            self.hand_over();
        }
        match self.state {
            State::Recording { in_file } if in_file >= self.file_bytes => {
                self.hand_over();
                self.begin_file(engine);
            }
            State::Behind if self.thread.queued.load(Ordering::Acquire) == 0 => self.begin_file(engine),
            State::Recording { .. } | State::Behind | State::Off => {}
        }
    }

    fn begin_file(&mut self, engine: &Engine) {
        let header =
            Header { node: self.node, run: self.run, events_before: self.events, wall: wall_clock(), now: self.now };
        // The thread makes the image: a clone shares the values.
        let job = Job::Begin { header, engine: Box::new(engine.clone()) };
        if self.send(job) {
            self.state = State::Recording { in_file: 0 };
        }
    }

    fn hand_over(&mut self) {
        let State::Recording { in_file } = self.state else { return };
        let len = self.buffer.len();
        if len == 0 {
            return;
        }
        self.handed_over_at = self.now;
        let spare = self.thread.spare.try_recv().unwrap_or_default();
        let frames = std::mem::replace(&mut self.buffer, spare);
        let queued = self.thread.queued.fetch_add(len, Ordering::AcqRel);
        let fits = queued == 0 || queued + len <= QUEUED_BYTES_MAX;
        if fits && self.send(Job::Frames(frames)) {
            self.state = State::Recording { in_file: in_file + len };
            return;
        }
        self.thread.queued.fetch_sub(len, Ordering::AcqRel);
        if self.state != State::Off {
            self.state = State::Behind;
            tracing::debug!(events = self.events, "the recorder is behind: events are left out");
        }
    }

    /// Whether the thread was given the job.
    fn send(&mut self, job: Job) -> bool {
        match self.thread.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => return true,
            Some(Err(TrySendError::Full(_))) => self.state = State::Behind,
            // It has said why it ended.
            Some(Err(TrySendError::Disconnected(_))) | None => self.state = State::Off,
        }
        false
    }
}

impl Drop for Recorder {
    /// Hands over what is left; an event on which the engine panicked is the most interesting one.
    fn drop(&mut self) {
        if let Some(start) = self.step.take() {
            format::end_step(start, None, &mut self.buffer);
        }
        self.hand_over();
        self.thread.jobs = None;
        // Ends in an error at once when the thread does.
        let _ = self.thread.ended.recv_timeout(END_WAIT_MAX);
    }
}

/// Both ends of what connects the thread with the driver's side.
fn thread_channels() -> (Writer, Thread) {
    let (jobs, jobs_receiver) = mpsc::sync_channel(QUEUED_JOBS_MAX);
    let (spare_sender, spare) = mpsc::sync_channel(SPARES_MAX);
    let (end, ended) = mpsc::channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let writer = Writer { jobs: jobs_receiver, spare: spare_sender, queued: queued.clone(), _end: end };
    (writer, Thread { jobs: Some(jobs), spare, queued, ended })
}

/// Nanoseconds since 1970.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
