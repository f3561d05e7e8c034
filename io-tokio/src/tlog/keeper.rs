//! The worker that keeps a log small, beside the one that writes it.

use std::io;
use std::time::Duration;

use trialbay_engine::Slot;

use super::{Compressed, TlogError, Upkeep};
use crate::reserve::ROOM_PAUSE;
use crate::workers::{Next, Orders, Queue, Work, Worker, Workers, caught};

/// How long it rests after each piece of about a MiB, so that those who write hardly notice.
const REST: Duration = Duration::from_millis(20);

/// What a [`LogKeeper`] reports.
#[derive(Debug)]
pub enum KeeperEvent {
    /// The log holds nothing before this slot any more.
    Shortened(Slot),
    /// The disk failed. Reported once, and nothing after it.
    Failed(TlogError),
}

/// Runs an [`Upkeep`] on a thread (or task) of its own. When it is dropped, the worker ends soon, and a thread is waited
/// for.
pub struct LogKeeper {
    stored: Option<Orders<Slot>>,
    worker: Worker<()>,
}

impl LogKeeper {
    /// Starts the worker; `on_event` must not block for long.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        upkeep: Upkeep,
        on_event: impl FnMut(KeeperEvent) + Send + 'static,
        workers: &Workers,
    ) -> io::Result<Self> {
        let (stored, worker) = workers.start("tlog-keeper", move |queue| serve(upkeep, queue, on_event))?;
        Ok(Self { stored: Some(stored), worker })
    }

    /// The store has everything up to this slot durable: what is older may go.
    pub fn stored(&self, slot: Slot) {
        if let Some(stored) = &self.stored {
            // The worker is gone after a failure that it has reported.
            let _ = stored.send(slot);
        }
    }
}

impl Drop for LogKeeper {
    fn drop(&mut self) {
        self.stored = None;
        self.worker.join();
    }
}

async fn serve(upkeep: Upkeep, queue: Queue<Slot>, mut on_event: impl FnMut(KeeperEvent)) {
    let failure = match caught(run(upkeep, queue, &mut on_event)).await {
        Some(Ok(())) => return,
        Some(Err(error)) => error,
        None => TlogError::Panicked,
    };
    on_event(KeeperEvent::Failed(failure));
}

async fn run(
    mut upkeep: Upkeep,
    mut queue: Queue<Slot>,
    on_event: &mut impl FnMut(KeeperEvent),
) -> Result<(), TlogError> {
    let mut rest = None;
    let mut lacks_room = false;
    loop {
        let next = match rest {
            Some(rest) => queue.next_within(rest).await,
            None => queue.next().await.map_or(Next::HungUp, Next::Order),
        };
        match next {
            Next::Order(mut stored) => {
                while let Some(later) = queue.next_now() {
                    stored = later;
                }
                queue.pass(Work::Other).await;
                if let Some(log_start) = upkeep.collapse(stored)? {
                    on_event(KeeperEvent::Shortened(log_start));
                }
            }
            Next::Nothing => {}
            Next::HungUp => return Ok(()),
        }
        queue.pass(Work::Other).await;
        let lacked_room = std::mem::take(&mut lacks_room);
        rest = match upkeep.compress_some()? {
            Compressed::Nothing => None,
            Compressed::Piece => Some(REST),
            Compressed::Segment(segment) => {
                tracing::debug!(segment, "compressed a segment of the log");
                Some(REST)
            }
            Compressed::GivenUp(segment, why) => {
                tracing::warn!(segment, %why, "a segment of the log was not compressed: the next start tries again");
                Some(REST)
            }
            Compressed::PutOff(segment, why) => {
                if !lacked_room {
                    tracing::warn!(segment, %why, "the log is not compressed until there is room");
                }
                lacks_room = true;
                Some(ROOM_PAUSE)
            }
        };
    }
}
