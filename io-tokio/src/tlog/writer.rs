//! The thread that makes records durable, in groups.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
        let thread = thread::Builder::new().name("tlog".into()).spawn(move || serve(tlog, &queue, on_event))?;
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

/// A panic must not look like a disk that takes for ever.
fn serve(tlog: Tlog, queue: &Receiver<Batch>, mut on_event: OnLogEvent) {
    if catch_unwind(AssertUnwindSafe(|| run(tlog, queue, &mut on_event))).is_err() {
        on_event(LogEvent::Failed(TlogError::Panicked));
    }
}

fn run(mut tlog: Tlog, queue: &Receiver<Batch>, on_event: &mut OnLogEvent) {
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use trialbay_engine::Slot;

    use super::super::testing::*;
    use super::*;

    /// A writer whose events, each with the changes of the disk before it, come out of a channel.
    fn start(disk: &MemDisk) -> (LogWriter, Receiver<(LogEvent, Vec<String>)>) {
        let (tlog, _) = open(disk, 4096, NOTHING_APPLIED).unwrap();
        disk.take_calls();
        let (events, heard) = mpsc::channel();
        let calls = disk.clone();
        let on_event = move |event| events.send((event, calls.take_calls())).unwrap();
        (LogWriter::start(tlog, Box::new(on_event)).unwrap(), heard)
    }

    fn persisted(event: &LogEvent) -> PersistId {
        match event {
            LogEvent::Persisted(id) => *id,
            LogEvent::Failed(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_batch_is_reported_after_its_sync() {
        let disk = MemDisk::default();
        let (writer, heard) = start(&disk);
        for id in 1..=20 {
            writer.persist(PersistId(id), vec![accepted(id, 1, b"x")]);
            let (event, calls) = heard.recv().unwrap();
            assert_eq!(persisted(&event), PersistId(id));
            // The seal of the batch before may come first.
            let calls: Vec<_> = calls.iter().map(|call| &call[..5]).collect();
            assert!(matches!(calls[..], ["write", "sync "] | ["write", "write", "sync "]), "{calls:?}");
        }
    }

    #[test]
    fn what_waits_is_synced_together_and_reported_in_order() {
        let disk = MemDisk::default();
        let (writer, heard) = {
            let (tlog, _) = open(&disk, 1 << 20, NOTHING_APPLIED).unwrap();
            let (events, heard) = mpsc::channel();
            // The writer is held up by the first event, until the test lets it go on.
            let (go, held) = mpsc::channel::<()>();
            let on_event = move |event| {
                events.send(event).unwrap();
                let _ = held.recv();
            };
            let writer = LogWriter::start(tlog, Box::new(on_event)).unwrap();
            writer.persist(PersistId(1), vec![accepted(1, 1, b"x")]);
            assert_eq!(persisted(&heard.recv().unwrap()), PersistId(1));
            disk.take_calls();
            for id in 2..=100 {
                writer.persist(PersistId(id), vec![accepted(id, 1, b"x")]);
            }
            drop(go);
            (writer, heard)
        };
        assert_eq!(persisted(&heard.recv().unwrap()), PersistId(100));
        writer.stop();
        assert!(heard.recv().is_err(), "nothing else is reported");
        let syncs = disk.take_calls().iter().filter(|call| call.starts_with("sync ")).count();
        assert_eq!(syncs, 1);
        assert_eq!(open(&disk, 1 << 20, NOTHING_APPLIED).unwrap().1.recovered.undecided.len(), 100);
    }

    #[test]
    fn stopping_persists_what_was_given() {
        let disk = MemDisk::default();
        let (writer, heard) = start(&disk);
        for id in 1..=50 {
            writer.persist(PersistId(id), vec![accepted(id, 1, &[1; 200])]);
        }
        writer.stop();
        let reported: Vec<_> = heard.iter().map(|(event, _)| persisted(&event)).collect();
        assert!(reported.is_sorted_by(|a, b| a < b));
        assert_eq!(reported.last(), Some(&PersistId(50)));
        let (tlog, found) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
        assert_eq!(found.notes, []);
        assert_eq!(tlog.reader().log_end(), Some(Slot(50)));
    }

    #[test]
    fn a_failure_is_reported_once_and_nothing_is_persisted_after_it() {
        for call in ["write", "sync"] {
            let disk = MemDisk::default();
            let (writer, heard) = start(&disk);
            writer.persist(PersistId(1), vec![accepted(1, 1, b"x")]);
            assert_eq!(persisted(&heard.recv().unwrap().0), PersistId(1));
            disk.fail(call, ErrorKind::Other);
            writer.persist(PersistId(2), vec![accepted(2, 1, b"x")]);
            let mut events = vec![heard.recv().unwrap().0];
            disk.fail("nothing", ErrorKind::Other);
            let before = disk.image();
            writer.persist(PersistId(3), vec![accepted(3, 1, b"x")]);
            writer.stop();
            events.extend(heard.iter().map(|(event, _)| event));
            assert!(matches!(events[..], [LogEvent::Failed(TlogError::Io { .. })]), "{call}: {events:?}");
            assert_eq!(disk.image(), before, "{call}");
        }
    }
}
