//! The clock that the engine is told.

use trialbay_engine::Instant;

/// A monotonic clock. Production has [`BootClock`]; the simulator has clocks that drift, step and pause.
pub trait Clock: Send + Sync + 'static {
    /// Now, on this node's clock.
    fn now(&self) -> Instant;
}

/// CLOCK_BOOTTIME: monotonic, and it goes on while the machine sleeps, so that a lease runs out meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).expect("the time since boot is not negative");
        let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
        Instant(seconds * 1_000_000_000 + nanos)
    }
}
