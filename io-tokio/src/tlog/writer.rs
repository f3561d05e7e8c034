//! The worker that makes records durable, in groups.

use std::io;

use trialbay_engine::{PersistId, Record};

use super::{Tlog, TlogError};
use crate::workers::{Orders, Queue, Work, Worker, Workers, caught};

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

/// Runs a [`Tlog`] on a thread (or task) of its own: whatever waits is written at once and synced once.
///
/// The queue holds what the engine ordered and is bounded by the engine's window, not here.
pub struct LogWriter {
    batches: Option<Orders<Batch>>,
    worker: Worker<()>,
}

struct Batch {
    id: PersistId,
    records: Vec<Record>,
}

impl LogWriter {
    /// Starts the worker.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tlog: Tlog, on_event: OnLogEvent, workers: &Workers) -> io::Result<Self> {
        let (batches, worker) = workers.start("tlog", move |queue| serve(tlog, queue, on_event))?;
        Ok(Self { batches: Some(batches), worker })
    }

    /// Queues these records; a `Persisted` of this id or a later one, or `Failed`, follows. Nothing follows after a
    /// failure, which is reported once.
    pub fn persist(&self, id: PersistId, records: Vec<Record>) {
        if let Some(batches) = &self.batches {
            // The worker is gone after a failure that it has reported.
            let _ = batches.send(Batch { id, records });
        }
    }

    /// Waits until everything that was queued is written and reported, and the worker has ended.
    pub async fn stop(mut self) {
        self.batches = None;
        // Only a panic of `on_event` can end it without a result, and that was reported where it happened.
        let _ = self.worker.ended().await;
    }
}

impl Drop for LogWriter {
    /// A thread is waited for: nothing of this log is written afterwards. Blocks.
    fn drop(&mut self) {
        self.batches = None;
        self.worker.join();
    }
}

/// A panic must not look like a disk that takes for ever.
async fn serve(tlog: Tlog, queue: Queue<Batch>, mut on_event: OnLogEvent) {
    if caught(run(tlog, queue, &mut on_event)).await.is_none() {
        on_event(LogEvent::Failed(TlogError::Panicked));
    }
}

async fn run(mut tlog: Tlog, mut queue: Queue<Batch>, on_event: &mut OnLogEvent) {
    while let Some(first) = queue.next().await {
        match write_group(&mut tlog, &mut queue, first).await {
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

/// Makes `first` and what else is waiting durable; gives the last batch, and whether nothing was left waiting.
async fn write_group(tlog: &mut Tlog, queue: &mut Queue<Batch>, first: Batch) -> Result<(PersistId, bool), TlogError> {
    let mut last = first.id;
    let mut is_idle = false;
    tlog.append(&first.records)?;
    while !is_idle && tlog.unsynced_bytes() < GROUP_BYTES {
        match queue.next_now() {
            Some(batch) => {
                tlog.append(&batch.records)?;
                last = batch.id;
            }
            None => is_idle = true,
        }
    }
    tlog.write()?;
    queue.pass(Work::LogSync).await;
    tlog.sync()?;
    Ok((last, is_idle))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::mpsc::{self, Receiver};

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
        (LogWriter::start(tlog, Box::new(on_event), &Workers::Threads).unwrap(), heard)
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
            let writer = LogWriter::start(tlog, Box::new(on_event), &Workers::Threads).unwrap();
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
        drop(writer);
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
        drop(writer);
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
            drop(writer);
            events.extend(heard.iter().map(|(event, _)| event));
            assert!(matches!(events[..], [LogEvent::Failed(TlogError::Io { .. })]), "{call}: {events:?}");
            assert_eq!(disk.image(), before, "{call}");
        }
    }
}
