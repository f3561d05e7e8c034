//! What a simulated node has of its machine: the disk as a home, its pace, and the clock.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use trialbay::clock::Clock;
use trialbay::disk::Disk as _;
use trialbay::home_disk::{FileLock, HomeDisk, LockError};
use trialbay::workers::{Work, WorkTime};
use trialbay_engine::Instant;

use super::trace::Trace;
use crate::clock;
use crate::rng::Rng;
use crate::sim_disk::SimDisk;

/// The simulated time, in nanoseconds from the beginning of the run, as the host that runs now sees it.
pub(super) fn now() -> u64 {
    let elapsed = turmoil::sim_elapsed().expect("only hosts ask, and only while they run");
    u64::try_from(elapsed.as_nanos()).expect("runs are shorter than centuries")
}

impl HomeDisk for SimDisk {
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(if self.is_full() { 0 } else { u64::MAX })
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.list(path).is_ok()
    }

    fn sync_name(&self, dir: &Path) -> io::Result<()> {
        dir.parent().map_or(Ok(()), |above| self.sync_dir(above))
    }

    /// A disk has one process at a time: the world sees to it.
    fn lock(&self, path: &Path) -> Result<FileLock, LockError> {
        match self.create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(LockError::NotWritable(error)),
            Ok(_) | Err(_) => Ok(Box::new(())),
        }
    }

    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.open(path)?;
        Ok(Box::new(self.backend(path)?))
    }
}

/// How long a node's disk takes.
pub(super) struct DiskPace {
    node: u16,
    disk: SimDisk,
    trace: Trace,
    state: Mutex<Pace>,
}

struct Pace {
    rng: Rng,
    sync_ms: (u64, u64),
}

impl DiskPace {
    pub(super) fn new(node: u16, disk: SimDisk, trace: Trace, rng: Rng, sync_ms: (u64, u64)) -> Arc<Self> {
        Arc::new(Self { node, disk, trace, state: Mutex::new(Pace { rng, sync_ms }) })
    }

    /// Syncs take this long from now on.
    pub(super) fn set_sync_ms(&self, sync_ms: (u64, u64)) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).sync_ms = sync_ms;
    }
}

impl WorkTime for DiskPace {
    fn take(&self, work: Work) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (low, high) = state.sync_ms;
        let millis = match work {
            Work::LogSync => state.rng.between(low, high),
            // The store's file is written all over, or hardly at all.
            Work::StoreSync => state.rng.between(low, 2 * high),
            Work::StoreApply => 0,
            Work::Other => 1,
        };
        let counters = self.disk.counters();
        let details = format!("{} {work:?} {millis} {} {}", self.node, counters.syncs, counters.bytes_written);
        self.trace.note(now(), "disk", details.as_bytes());
        Duration::from_millis(millis)
    }
}

/// A node's clock, as its process sees it. Clones share it.
#[derive(Clone)]
pub(super) struct SimClock(Arc<Mutex<Shown>>);

struct Shown {
    clock: clock::Clock,
    /// What a process that stands still saw last.
    stopped_at: Option<Instant>,
}

impl SimClock {
    pub(super) fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Shown { clock: clock::Clock::new(rng), stopped_at: None })))
    }

    /// Does something to the clock.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut clock::Clock) -> R) -> R {
        change(&mut self.shown().clock)
    }

    /// Its process stands still from `now` on.
    pub(super) fn stop(&self, now: u64) {
        let mut shown = self.shown();
        shown.stopped_at = Some(shown.clock.local(now));
    }

    /// Its process goes on, or another one runs.
    pub(super) fn go_on(&self) {
        self.shown().stopped_at = None;
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        let shown = self.shown();
        shown.stopped_at.unwrap_or_else(|| shown.clock.local(now()))
    }
}
