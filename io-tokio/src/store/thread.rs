//! The worker that writes the store, so that nobody else waits for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use trialbay_engine::{PersistId, Slot};

use super::database::{Decided, Store};
use super::error::StoreError;
use super::head::{Head, NotInstalled, StorePlace};
use super::policy::CommitPolicy;
use crate::clock::Clock;
use crate::update::UpdateResult;
use crate::workers::{Next, Orders, Queue, Work, Worker, Workers, caught};

/// What one value counts in the queue beyond its own bytes.
const JOB_BYTES: usize = 256;

/// How often to look whether the log has caught up when the store is to be made durable and is ahead of it,
const LOG_LAG_PAUSE: Duration = Duration::from_millis(1);
/// and how often before slots are applied again: a log that fails never catches up.
const LOG_LAG_LOOKS: u32 = 1_000;

/// Bounds on the writer's queue, in bytes of values (and a little for each).
#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    /// What may wait.
    pub queue_bytes_max: usize,
    /// What goes into one transaction, unless a single value is larger.
    pub group_bytes_max: usize,
}

impl Default for WriterLimits {
    fn default() -> Self {
        Self { queue_bytes_max: 128 << 20, group_bytes_max: 4 << 20 }
    }
}

/// One decided slot, and who waits for it.
#[derive(Debug)]
pub struct Job<T> {
    /// What to apply.
    pub decided: Decided,
    /// Comes back with the results.
    pub replies: T,
    /// Whether there is anybody to be told the results. If not, there are none.
    pub is_awaited: bool,
    /// The batch of log records by which everything that this slot rests on is in this node's log.
    pub logged_by: PersistId,
}

/// Slots that were applied together. Readers see them.
#[derive(Debug)]
pub struct Applied<T> {
    /// The last of them.
    pub upto: Slot,
    /// Each slot in order: the results of its commands, and what its job carried. A value whose bytes are damaged has
    /// fewer results than commands.
    pub slots: Vec<(Vec<UpdateResult>, T)>,
}

/// Why a job was not taken. It comes back.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken<T> {
    /// Too much is waiting: apply it later. Slots must not be left out.
    #[error("too much is waiting to be applied to the store")]
    Full(Job<T>),
    /// The writer has ended; the callback was told why.
    #[error("the store's writer has ended")]
    Ended(Job<T>),
}

/// A handle on the thread (or task) that writes the store.
///
/// Dropping it lets the writer finish by itself; [`StoreWriter::stop`] waits for it.
pub struct StoreWriter<T> {
    orders: Orders<Order<T>>,
    waiting_bytes: Arc<AtomicUsize>,
    limits: WriterLimits,
    worker: Worker<Result<(), StoreError>>,
}

enum Order<T> {
    Apply(Job<T>),
    Install(StorePlace, OnInstalled),
    Maintain(Maintenance, OnMaintained),
}

/// What can be done for a store between two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Make all that it has applied durable.
    Flush,
    /// That, and then give back what its file does not need. It is not read meanwhile.
    Compact,
}

/// Why it was not done. Nothing has changed; later it may be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMaintained {
    /// The store would be ahead of its log.
    #[error("the log is not as far as the store: try again later")]
    LogBehind,
    /// Somebody reads the store.
    #[error("the store is being read: try again later")]
    BeingRead,
    /// Somebody has asked for it before.
    #[error("the store is being compacted already: wait until that is done")]
    BeingCompacted,
}

/// Hears what became of it, on the writer's thread.
type OnMaintained = Box<dyn FnOnce(Result<(), NotMaintained>) + Send>;

/// Hears what became of a head, on the writer's thread.
type OnInstalled = Box<dyn FnOnce(Result<Head, NotInstalled>) + Send>;

impl<T: Send + 'static> StoreWriter<T> {
    /// Starts the writer. It calls `report` after each commit, and once with the error that ends it.
    ///
    /// `is_durable` says whether a batch of log records is durable. The store makes nothing durable before what it was
    /// logged by is: at the next start it would be ahead of its log, which may hold an older entry in the same slot.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        store: Store,
        policy: CommitPolicy,
        limits: WriterLimits,
        clock: Arc<dyn Clock>,
        is_durable: impl Fn(PersistId) -> bool + Send + 'static,
        report: impl FnMut(Result<Applied<T>, StoreError>) + Send + 'static,
        workers: &Workers,
    ) -> io::Result<Self> {
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            store,
            policy,
            limits,
            clock,
            is_durable: Box::new(is_durable),
            logged_by: PersistId::default(),
            head_upto: None,
            waiting_bytes: waiting_bytes.clone(),
            report,
        };
        let (orders, worker) = workers.start("store", move |queue| writer.run(queue))?;
        Ok(Self { orders, waiting_bytes, limits, worker })
    }

    /// Hands over the next slot. Never blocks.
    ///
    /// # Errors
    /// When too much is waiting, or the writer has ended. A single job is taken however large it is.
    pub fn apply(&self, job: Job<T>) -> Result<(), NotTaken<T>> {
        let bytes = job_bytes(&job);
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        if waiting > 0 && waiting.saturating_add(bytes) > self.limits.queue_bytes_max {
            self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(NotTaken::Full(job));
        }
        self.orders.send(Order::Apply(job)).map_err(|order| match order {
            Order::Apply(job) => NotTaken::Ended(job),
            Order::Install(..) | Order::Maintain(..) => unreachable!("another order was sent"),
        })
    }

    /// Has the whole head in `place` take the place of the store, after what is waiting to be applied. Slots that it brings
    /// are not applied any more, and nobody is told their results. Never blocks.
    ///
    /// `tell` hears what came of it, unless the writer ends.
    pub fn install(&self, place: StorePlace, tell: impl FnOnce(Result<Head, NotInstalled>) + Send + 'static) {
        // A writer that has ended has said why.
        let _ = self.orders.send(Order::Install(place, Box::new(tell)));
    }

    /// Does something for the store, after what is waiting to be applied. Never blocks.
    ///
    /// `tell` hears what came of it, unless the writer ends.
    pub fn maintain(&self, what: Maintenance, tell: impl FnOnce(Result<(), NotMaintained>) + Send + 'static) {
        // A writer that has ended has said why.
        let _ = self.orders.send(Order::Maintain(what, Box::new(tell)));
    }

    /// What waits to be applied, in bytes of values (and a little for each).
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Acquire)
    }

    /// Applies what is waiting, makes everything durable (unless the log is not), closes the store and waits for all that.
    ///
    /// # Errors
    /// When the store could not be made durable or closed, or had failed before.
    pub async fn stop(self) -> Result<(), StoreError> {
        let Self { orders, mut worker, .. } = self;
        drop(orders);
        worker.ended().await.unwrap_or(Err(StoreError::Panicked))
    }
}

struct Writer<R> {
    store: Store,
    policy: CommitPolicy,
    limits: WriterLimits,
    clock: Arc<dyn Clock>,
    is_durable: Box<dyn Fn(PersistId) -> bool + Send>,
    /// The last batch of log records that anything applied here rests on.
    logged_by: PersistId,
    /// The slot of the head that was installed last.
    head_upto: Option<Slot>,
    waiting_bytes: Arc<AtomicUsize>,
    report: R,
}

impl<R> Writer<R> {
    async fn run<T>(mut self, queue: Queue<Order<T>>) -> Result<(), StoreError>
    where
        R: FnMut(Result<Applied<T>, StoreError>),
    {
        let ended = caught(self.serve(queue)).await.unwrap_or(Err(StoreError::Panicked));
        let is_logged = self.is_logged();
        match ended {
            Ok(()) if is_logged => self.store.close(),
            Ok(()) => {
                self.store.abandon();
                Ok(())
            }
            Err(error) => {
                let end = match &error {
                    StoreError::UnknownFunction { name } => StoreError::UnknownFunction { name: name.clone() },
                    _ => StoreError::Failed,
                };
                (self.report)(Err(error));
                self.store.abandon();
                Err(end)
            }
        }
    }

    /// Until the other side hangs up.
    async fn serve<T>(&mut self, mut queue: Queue<Order<T>>) -> Result<(), StoreError>
    where
        R: FnMut(Result<Applied<T>, StoreError>),
    {
        let mut put_off = None;
        loop {
            let next = match self.policy.due_in(self.clock.now()) {
                _ if put_off.is_some() => put_off.take().map_or(Next::Nothing, Next::Order),
                Some(wait) if wait.is_zero() => queue.next_within(LOG_LAG_PAUSE).await,
                Some(wait) => queue.next_within(wait).await,
                None => queue.next().await.map_or(Next::HungUp, Next::Order),
            };
            match next {
                Next::Order(Order::Apply(job)) => {
                    queue.pass(Work::StoreApply).await;
                    put_off = self.apply_group(job, &mut queue)?;
                }
                Next::Order(Order::Install(place, tell)) => {
                    queue.pass(Work::StoreSync).await;
                    self.install(&place, tell)?;
                }
                Next::Order(Order::Maintain(what, tell)) => {
                    self.wait_for_log(&mut queue).await;
                    queue.pass(Work::StoreSync).await;
                    tell(self.maintain(what)?);
                }
                Next::Nothing => {}
                Next::HungUp => return Ok(()),
            }
            // After the results are out: those who wait for them do not wait for the disk.
            let is_due = self.policy.is_due(self.clock.now()) || planted!(self.store.planted, NullFlushedAlways);
            if is_due {
                self.wait_for_log(&mut queue).await;
            }
            if is_due && self.is_logged() {
                queue.pass(Work::StoreSync).await;
                self.store.flush()?;
                self.policy.flushed();
            }
        }
    }

    /// Under a steady load the log is always a little behind. It catches up with a store that stands still.
    async fn wait_for_log<T>(&mut self, queue: &mut Queue<T>) {
        for _ in 0..LOG_LAG_LOOKS {
            if self.is_logged() {
                return;
            }
            queue.rest(LOG_LAG_PAUSE).await;
        }
    }

    fn is_logged(&self) -> bool {
        (self.is_durable)(self.logged_by) || planted!(self.store.planted, AheadOfLog)
    }

    /// Applies this job, and as many of those behind it as fit into one transaction. Gives the order behind them, if it is
    /// another one.
    fn apply_group<T>(&mut self, first: Job<T>, queue: &mut Queue<Order<T>>) -> Result<Option<Order<T>>, StoreError>
    where
        R: FnMut(Result<Applied<T>, StoreError>),
    {
        let mut put_off = None;
        let mut group_bytes = 0;
        let (mut batch, mut replies, mut awaited) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(job) = next {
            group_bytes += job_bytes(&job);
            next = match if group_bytes < self.limits.group_bytes_max { queue.next_now() } else { None } {
                Some(Order::Apply(job)) => Some(job),
                other => {
                    put_off = other;
                    None
                }
            };
            if self.head_upto.is_some_and(|head| job.decided.slot <= head) {
                // A head brought it already.
                continue;
            }
            // Before it is applied: should that fail half way, the store may hold it.
            self.logged_by = self.logged_by.max(job.logged_by);
            batch.push(job.decided);
            replies.push(job.replies);
            awaited.push(job.is_awaited);
        }
        let mut results = Vec::new();
        if !batch.is_empty() {
            results = self.store.apply_for(&batch, false, |index| awaited[index])?;
            self.policy.applied(self.clock.now(), batch.iter().map(|decided| decided.value.size()).sum());
        }
        self.waiting_bytes.fetch_sub(group_bytes, Ordering::AcqRel);
        let (upto, _) = self.store.applied();
        (self.report)(Ok(Applied { upto, slots: results.into_iter().zip(replies).collect() }));
        Ok(put_off)
    }

    fn maintain(&mut self, what: Maintenance) -> Result<Result<(), NotMaintained>, StoreError> {
        if !self.is_logged() {
            return Ok(Err(NotMaintained::LogBehind));
        }
        self.store.flush()?;
        self.policy.flushed();
        match what {
            Maintenance::Flush => Ok(Ok(())),
            Maintenance::Compact => Ok(if self.store.compact()? { Ok(()) } else { Err(NotMaintained::BeingRead) }),
        }
    }

    fn install(&mut self, place: &StorePlace, tell: OnInstalled) -> Result<(), StoreError> {
        match self.store.install(place) {
            Err(NotInstalled::Failed(error)) => return Err(error),
            installed => {
                if let Ok(head) = &installed {
                    self.policy.flushed();
                    self.head_upto = Some(head.slot);
                }
                tell(installed);
            }
        }
        Ok(())
    }
}

fn job_bytes<T>(job: &Job<T>) -> usize {
    job.decided.value.size() + JOB_BYTES
}
