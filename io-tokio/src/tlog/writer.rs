//! The worker that makes records durable, in groups.

use std::io;

use trialbay_engine::{HistoryHash, PersistId, Record, Slot};

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
    orders: Option<Orders<Order>>,
    worker: Worker<()>,
}

enum Order {
    Persist { id: PersistId, records: Vec<Record> },
    AnnounceHead { slot: Slot, hash: HistoryHash, then: Box<dyn FnOnce() + Send> },
}

/// What is to be told once a group is durable.
#[derive(Default)]
struct Told {
    persisted: Option<PersistId>,
    announced: Vec<Box<dyn FnOnce() + Send>>,
}

impl LogWriter {
    /// Starts the worker.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tlog: Tlog, on_event: OnLogEvent, workers: &Workers) -> io::Result<Self> {
        let (orders, worker) = workers.start("tlog", move |queue| serve(tlog, queue, on_event))?;
        Ok(Self { orders: Some(orders), worker })
    }

    /// Queues these records; a `Persisted` of this id or a later one, or `Failed`, follows. Nothing follows after a
    /// failure, which is reported once.
    pub fn persist(&self, id: PersistId, records: Vec<Record>) {
        self.order(Order::Persist { id, records });
    }

    /// Notes durably that the store is about to take this state from another node ([`Tlog::announce_head`]), and then
    /// calls `then`, on the writer's thread; never after a failure. The store must not make the state durable before.
    pub fn announce_head(&self, slot: Slot, hash: HistoryHash, then: impl FnOnce() + Send + 'static) {
        self.order(Order::AnnounceHead { slot, hash, then: Box::new(then) });
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The worker is gone after a failure that it has reported.
            let _ = orders.send(order);
        }
    }

    /// Waits until everything that was queued is written and reported, and the worker has ended.
    pub async fn stop(mut self) {
        self.orders = None;
        // Only a panic of `on_event` can end it without a result, and that was reported where it happened.
        let _ = self.worker.ended().await;
    }
}

impl Drop for LogWriter {
    /// A thread is waited for: nothing of this log is written afterwards. Blocks.
    fn drop(&mut self) {
        self.orders = None;
        self.worker.join();
    }
}

/// A panic must not look like a disk that takes for ever.
async fn serve(tlog: Tlog, queue: Queue<Order>, mut on_event: OnLogEvent) {
    if caught(run(tlog, queue, &mut on_event)).await.is_none() {
        on_event(LogEvent::Failed(TlogError::Panicked));
    }
}

async fn run(mut tlog: Tlog, mut queue: Queue<Order>, on_event: &mut OnLogEvent) {
    while let Some(first) = queue.next().await {
        match write_group(&mut tlog, &mut queue, first).await {
            Ok((told, is_idle)) => {
                if let Some(last) = told.persisted {
                    on_event(LogEvent::Persisted(last));
                }
                told.announced.into_iter().for_each(|then| then());
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

/// Makes `first` and what else is waiting durable; says what is to be told then, and whether nothing was left waiting.
async fn write_group(tlog: &mut Tlog, queue: &mut Queue<Order>, first: Order) -> Result<(Told, bool), TlogError> {
    let mut told = Told::default();
    let mut is_idle = false;
    append(tlog, first, &mut told)?;
    while !is_idle && tlog.unsynced_bytes() < GROUP_BYTES {
        match queue.next_now() {
            Some(order) => append(tlog, order, &mut told)?,
            None => is_idle = true,
        }
    }
    tlog.write()?;
    queue.pass(Work::LogSync).await;
    tlog.sync()?;
    Ok((told, is_idle))
}

fn append(tlog: &mut Tlog, order: Order, told: &mut Told) -> Result<(), TlogError> {
    match order {
        Order::Persist { id, records } => {
            told.persisted = Some(id);
            tlog.append(&records)
        }
        Order::AnnounceHead { slot, hash, then } => {
            told.announced.push(then);
            tlog.announce_head(slot, hash)
        }
    }
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
    fn a_head_is_announced_durably_before_anybody_may_take_it() {
        let disk = MemDisk::default();
        let (writer, _heard) = start(&disk);
        let (tell, told) = mpsc::channel();
        let then = move |tell: mpsc::Sender<MemDisk>, disk: MemDisk| move || tell.send(disk).unwrap();
        writer.announce_head(Slot(9), HistoryHash(9), then(tell.clone(), disk.clone()));
        let after = told.recv().unwrap().after_power_cut(&mut Dice(3));
        let found = open(&after, 4096, (Slot(9), HistoryHash(9))).unwrap().1;
        assert_eq!(found.damage, []);
        disk.fail("sync", ErrorKind::Other);
        writer.announce_head(Slot(10), HistoryHash(10), then(tell, disk.clone()));
        drop(writer);
        assert!(told.recv().is_err());
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
