//! The thread that makes records durable, in groups.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use trialbay_engine::{PersistId, Record};

use super::{Tlog, TlogError};

/// A group takes no further batch of records when it has this many bytes.
const GROUP_BYTES: usize = 8 << 20;

/// What a [`LogWriter`] reports.
#[derive(Debug)]
pub enum LogEvent {
    /// All records up to and including this batch are durable.
    Persisted(PersistId),
    /// The disk failed: nothing more will become durable. Reported once, and nothing after it.
    Failed(TlogError),
}

/// Hears what a [`LogWriter`] reports, on the writer's thread. It must not block for long.
pub type OnLogEvent = Box<dyn FnMut(LogEvent) + Send>;

/// Runs a [`Tlog`] on a thread of its own: whatever waits is written at once and synced once.
///
/// The queue holds what the engine ordered and is bounded by the engine's window, not here.
pub struct LogWriter {
    batches: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

struct Batch {
    id: PersistId,
    records: Vec<Record>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tlog: Tlog, on_event: OnLogEvent) -> io::Result<Self> {
        let (batches, queue) = mpsc::channel();
        let thread = thread::Builder::new().name("tlog".into()).spawn(move || run(tlog, &queue, on_event))?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }

    /// Queues these records; a `Persisted` of this id or a later one, or `Failed`, follows. Nothing follows after a
    /// failure, which is reported once.
    pub fn persist(&self, id: PersistId, records: Vec<Record>) {
        if let Some(batches) = &self.batches {
            // The thread is gone after a failure that it has reported.
            let _ = batches.send(Batch { id, records });
        }
    }

    /// Writes and reports what was queued, then ends the thread. Blocks until that is done. So does dropping.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // Only a panic of `on_event` can end the thread with an error, and that was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(mut tlog: Tlog, queue: &Receiver<Batch>, mut on_event: OnLogEvent) {
    while let Ok(first) = queue.recv() {
        match write_group(&mut tlog, queue, first) {
            Ok((last, is_idle)) => {
                on_event(LogEvent::Persisted(last));
                if !is_idle {
                    continue;
                }
            }
            Err(error) => return on_event(LogEvent::Failed(error)),
        }
        if let Err(error) = tlog.seal() {
            return on_event(LogEvent::Failed(error));
        }
    }
}

/// Makes `first` and what else is waiting durable; gives the last batch, and whether nothing is left waiting.
fn write_group(tlog: &mut Tlog, queue: &Receiver<Batch>, first: Batch) -> Result<(PersistId, bool), TlogError> {
    let mut last = first.id;
    let mut is_idle = false;
    tlog.append(&first.records)?;
    while tlog.unsynced_bytes() < GROUP_BYTES {
        match queue.try_recv() {
            Ok(batch) => {
                tlog.append(&batch.records)?;
                last = batch.id;
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                is_idle = true;
                break;
            }
        }
    }
    tlog.sync()?;
    Ok((last, is_idle))
}
