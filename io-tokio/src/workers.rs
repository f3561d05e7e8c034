//! Who does a node's blocking work: threads in production; in the simulator tasks, for which it takes simulated time.
//!
//! The code of a writer is the same in both worlds. What it waits for is in its `Queue`: on a thread that blocks, so
//! that the writer's future is ready whenever it is polled; on a task it is awaited.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self as blocking, RecvTimeoutError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Blocking work that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A sync of the transaction log.
    LogSync,
    /// A transaction of the store, without a sync.
    StoreApply,
    /// A durable commit of the store.
    StoreSync,
    /// Anything else: a read of the log, a note in the home.
    Other,
}

/// How long blocking work takes a simulated node.
pub trait WorkTime: Send + Sync + 'static {
    /// How long it takes this time.
    fn take(&self, work: Work) -> Duration;
}

/// Who does a node's blocking work.
#[derive(Clone)]
pub enum Workers {
    /// Threads: one for each writer, tokio's pool for the rest.
    Threads,
    /// Tasks of a single-threaded runtime, on which work takes as long as it is told to.
    Tasks(Arc<dyn WorkTime>),
}

impl Workers {
    /// Does one piece of work without holding up the caller.
    pub fn spawn<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work),
            Self::Tasks(time) => {
                let time = Arc::clone(time);
                tokio::spawn(async move {
                    tokio::time::sleep(time.take(Work::Other)).await;
                    work()
                })
            }
        }
    }

    /// Starts a writer, which serves its queue until it ends; `name` is that of its thread.
    pub(crate) fn start<T, R, F>(
        &self,
        name: &str,
        serve: impl FnOnce(Queue<T>) -> F + Send + 'static,
    ) -> io::Result<(Orders<T>, Worker<R>)>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = R> + Send,
    {
        let (tell, ended) = oneshot::channel();
        let run = async move |queue| {
            if let Some(result) = caught(serve(queue)).await {
                // Nobody may wait for the end.
                let _ = tell.send(result);
            }
        };
        match self {
            Self::Threads => {
                let (orders, queue) = blocking::channel();
                let serve = move || poll_once(run(Queue::OfThread(queue)));
                let thread = thread::Builder::new().name(name.to_owned()).spawn(serve)?;
                Ok((Orders::ToThread(orders), Worker { ended, thread: Some(thread) }))
            }
            Self::Tasks(time) => {
                let (orders, queue) = mpsc::unbounded_channel();
                tokio::spawn(run(Queue::OfTask { orders: queue, time: Arc::clone(time) }));
                Ok((Orders::ToTask(orders), Worker { ended, thread: None }))
            }
        }
    }
}

/// The way to a writer. When it is dropped, the writer ends after what it was given.
pub(crate) enum Orders<T> {
    ToThread(blocking::Sender<T>),
    ToTask(mpsc::UnboundedSender<T>),
}

impl<T> Orders<T> {
    /// Never blocks. Gives the order back when the writer has ended.
    pub(crate) fn send(&self, order: T) -> Result<(), T> {
        match self {
            Self::ToThread(orders) => orders.send(order).map_err(|unsent| unsent.0),
            Self::ToTask(orders) => orders.send(order).map_err(|unsent| unsent.0),
        }
    }
}

/// What a writer waits for.
pub(crate) enum Queue<T> {
    OfThread(blocking::Receiver<T>),
    OfTask { orders: mpsc::UnboundedReceiver<T>, time: Arc<dyn WorkTime> },
}

/// What a bounded wait for an order gave.
pub(crate) enum Next<T> {
    Order(T),
    /// None came in time.
    Nothing,
    /// None will come any more.
    HungUp,
}

impl<T> Queue<T> {
    /// The next order; `None` when none will come any more.
    pub(crate) async fn next(&mut self) -> Option<T> {
        match self {
            Self::OfThread(orders) => orders.recv().ok(),
            Self::OfTask { orders, .. } => orders.recv().await,
        }
    }

    /// The next order, if it comes within this time.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> Next<T> {
        match self {
            Self::OfThread(orders) => match orders.recv_timeout(wait) {
                Ok(order) => Next::Order(order),
                Err(RecvTimeoutError::Timeout) => Next::Nothing,
                Err(RecvTimeoutError::Disconnected) => Next::HungUp,
            },
            Self::OfTask { orders, .. } => match tokio::time::timeout(wait, orders.recv()).await {
                Ok(Some(order)) => Next::Order(order),
                Ok(None) => Next::HungUp,
                Err(_) => Next::Nothing,
            },
        }
    }

    /// The next order, if there is one already.
    pub(crate) fn next_now(&mut self) -> Option<T> {
        match self {
            Self::OfThread(orders) => orders.try_recv().ok(),
            Self::OfTask { orders, .. } => orders.try_recv().ok(),
        }
    }

    /// Rests for a while, whatever orders come.
    pub(crate) async fn rest(&mut self, time: Duration) {
        match self {
            Self::OfThread(_) => thread::sleep(time),
            Self::OfTask { .. } => tokio::time::sleep(time).await,
        }
    }

    /// Lets the time go by that this work takes. On a thread the work itself takes it.
    pub(crate) async fn pass(&mut self, work: Work) {
        match self {
            Self::OfThread(_) => {}
            Self::OfTask { time, .. } => tokio::time::sleep(time.take(work)).await,
        }
    }
}

/// A writer that was started.
pub(crate) struct Worker<R> {
    ended: oneshot::Receiver<R>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<R> Worker<R> {
    /// Waits for its end; `None` when it panicked.
    pub(crate) async fn ended(&mut self) -> Option<R> {
        (&mut self.ended).await.ok()
    }

    /// Waits for the thread, if it has one. Blocks.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Panics are caught inside it.
            let _ = thread.join();
        }
    }
}

/// Awaits a future; `None` when it panics.
pub(crate) async fn caught<R>(future: impl Future<Output = R>) -> Option<R> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Runs a future that blocks where it would wait.
fn poll_once(future: impl Future<Output = ()>) {
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready(), "a writer on a thread waits for its queue only, which blocks");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Second;

    impl WorkTime for Second {
        fn take(&self, _work: Work) -> Duration {
            Duration::from_secs(1)
        }
    }

    async fn sums(workers: Workers) -> Option<u64> {
        let serve = async |mut queue: Queue<u64>| {
            let mut sum = 0;
            loop {
                match queue.next_within(Duration::from_millis(1)).await {
                    Next::Order(number) => sum += number,
                    Next::Nothing => queue.pass(Work::LogSync).await,
                    Next::HungUp => return sum,
                }
            }
        };
        let (orders, mut worker) = workers.start("sums", serve).unwrap();
        for number in 1..=10 {
            orders.send(number).unwrap();
        }
        drop(orders);
        worker.ended().await
    }

    #[tokio::test]
    async fn a_thread_and_a_task_do_the_same_work() {
        assert_eq!(sums(Workers::Threads).await, Some(55));
        assert_eq!(sums(Workers::Tasks(Arc::new(Second))).await, Some(55));
    }

    #[tokio::test(start_paused = true)]
    async fn work_on_a_task_takes_the_time_that_it_is_told_to() {
        let began = tokio::time::Instant::now();
        assert_eq!(Workers::Tasks(Arc::new(Second)).spawn(|| 7).await.unwrap(), 7);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_writer_that_panics_ends_without_a_result_and_takes_no_more_orders() {
        for workers in [Workers::Threads, Workers::Tasks(Arc::new(Second))] {
            let serve = async |mut queue: Queue<u64>| assert_eq!(queue.next().await, None, "on purpose");
            let (orders, mut worker) = workers.start("panics", serve).unwrap();
            orders.send(1).unwrap();
            assert_eq!(worker.ended().await, None);
            worker.join();
            assert_eq!(orders.send(2), Err(2));
        }
    }
}
