//! What is kept free of a disk: whatever can wait is not written into it.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::home_disk::HomeDisk;

/// Whoever found no room looks again after this long.
pub const ROOM_PAUSE: Duration = Duration::from_secs(10);

const MIB: u64 = 1 << 20;

/// So many bytes of a disk are to be free for what cannot wait: the log, deletes, the store's own work.
#[derive(Clone)]
pub struct Reserve {
    bytes: u64,
    free: Arc<dyn Fn() -> io::Result<u64> + Send + Sync>,
}

/// There is too little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk has {free_mib} MiB free, and with {needed_mib} MiB more there would be less than the {reserve_mib} MiB of disk_reserve_mib: make room"
)]
pub struct NoRoom {
    /// What is free.
    pub free_mib: u64,
    /// What was to be written, rounded up.
    pub needed_mib: u64,
    /// What must stay free.
    pub reserve_mib: u64,
}

impl Reserve {
    /// Nothing is kept free.
    pub fn none() -> Self {
        Self::new(0, || Ok(u64::MAX))
    }

    /// So many bytes of what `free` says there are.
    pub fn new(bytes: u64, free: impl Fn() -> io::Result<u64> + Send + Sync + 'static) -> Self {
        Self { bytes, free: Arc::new(free) }
    }

    /// So many bytes of the disk that this home is on.
    pub fn of(disk: Arc<dyn HomeDisk>, home: &Path, bytes: u64) -> Self {
        let home = home.to_owned();
        Self::new(bytes, move || disk.free_bytes(&home))
    }

    /// Whether the reserve is still free once so many bytes more are written. Blocks.
    ///
    /// # Errors
    /// When it is not.
    pub fn spares(&self, bytes: u64) -> Result<(), NoRoom> {
        if self.bytes == 0 {
            return Ok(());
        }
        match (self.free)() {
            Ok(free) if free < self.bytes.saturating_add(bytes) => {
                Err(NoRoom { free_mib: free / MIB, needed_mib: bytes.div_ceil(MIB), reserve_mib: self.bytes / MIB })
            }
            // A disk that does not say how full it is fails by itself when it is.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_leaves_the_reserve_as_it_is() {
        let reserve = Reserve::new(100 * MIB, || Ok(130 * MIB));
        assert_eq!(reserve.spares(30 * MIB), Ok(()));
        let refused = NoRoom { free_mib: 130, needed_mib: 31, reserve_mib: 100 };
        assert_eq!(reserve.spares(30 * MIB + 1), Err(refused));
        assert!(reserve.spares(u64::MAX).is_err());
    }

    #[test]
    fn without_a_reserve_or_without_a_number_nothing_is_refused() {
        assert_eq!(Reserve::new(0, || Ok(0)).spares(1), Ok(()));
        assert_eq!(Reserve::new(1, || Err(io::ErrorKind::Unsupported.into())).spares(1), Ok(()));
        assert_eq!(Reserve::none().spares(u64::MAX), Ok(()));
    }
}
