//! Room on the disk. A node whose disk is nearly full refuses what would fill it, before it is proposed; reads and
//! deletes go on, and so does everything once there is room again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::handle::UpdateRefused;
use crate::home_disk::HomeDisk;
use crate::update::{Update, decode_command};
use crate::workers::Workers;

/// How often to look how much is free. The log grows by megabytes in that time, not by the whole reserve.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A node that is about to start looks as often,
const START_LOOK_EVERY: Duration = Duration::from_millis(500);
/// and says so as often that it still waits.
const START_SAY_EVERY: u32 = 20;

/// Free bytes without which nothing can be started: the log and the store both grow at once.
const START_BYTES_MIN: u64 = 24 << 20;

const MIB: u64 = 1 << 20;

/// How much room there is.
#[derive(Debug)]
pub(crate) struct Room {
    /// What is kept free for deletes, and for what a node writes by itself.
    reserve: u64,
    free: AtomicU64,
    is_short: AtomicBool,
}

impl Room {
    /// Of which nothing is known yet.
    pub(crate) fn new(reserve: u64) -> Self {
        Self { reserve, free: AtomicU64::new(u64::MAX), is_short: AtomicBool::new(false) }
    }

    /// What there is where this home is. Blocks.
    pub(crate) fn look(disk: &dyn HomeDisk, home: &Path, reserve: u64) -> Self {
        let room = Self::new(reserve);
        // A disk that does not say how full it is fails by itself when it is.
        if let Ok(free) = disk.free_bytes(home) {
            room.note(free);
        }
        room
    }

    /// Bytes that are free, as far as is known.
    pub(crate) fn free(&self) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// Whether so little is free that only what needs no room is done.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Refuses a command that could fill the disk.
    pub(crate) fn admit(&self, command: &Bytes) -> Result<(), UpdateRefused> {
        // What cannot be decoded changes nothing.
        if !self.is_short() || !decode_command(command.clone()).is_ok_and(|command| grows(&command.update)) {
            return Ok(());
        }
        let free_mib = self.free().unwrap_or(0) / MIB;
        Err(UpdateRefused::DiskFull { free_mib, reserve_mib: self.reserve / MIB })
    }

    /// Takes note of what is free, and says so in the log when that changes anything.
    fn note(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
        let (free_mib, reserve_mib) = (free / MIB, self.reserve / MIB);
        // A little more than the reserve must be free again, or the log would be full of it.
        if free < self.reserve && !self.is_short.swap(true, Ordering::Relaxed) {
            tracing::warn!(free_mib, reserve_mib, "the disk is nearly full: of updates only deletes are taken");
        } else if free >= self.reserve + self.reserve / 8 && self.is_short.swap(false, Ordering::Relaxed) {
            tracing::info!(free_mib, reserve_mib, "there is room on the disk again: all updates are taken");
        }
    }

    /// Looks again and again, for as long as anybody else has this room.
    pub(crate) async fn watch(self: Arc<Self>, disk: Arc<dyn HomeDisk>, home: PathBuf, workers: Workers) {
        while Arc::strong_count(&self) > 1 {
            tokio::time::sleep(LOOK_EVERY).await;
            let (disk, home) = (disk.clone(), home.clone());
            if let Ok(Ok(free)) = workers.spawn(move || disk.free_bytes(&home)).await {
                self.note(free);
            }
        }
    }
}

/// Waits until the disk of `home`, which need not be there yet, has room enough for a start. A start without would fail,
/// again and again. Before it waits it has `make_room` remove what can be spared: it must not wait for room that the home
/// itself takes.
pub(super) async fn wait_for_start(free: impl Fn() -> io::Result<u64>, home: &Path, make_room: impl FnOnce()) {
    // What else is wrong with it the start will find out.
    let lacks = || free().ok().filter(|free| *free < START_BYTES_MIN).map(|free| free / MIB);
    if lacks().is_some() {
        make_room();
    }
    for look in 0.. {
        let Some(free_mib) = lacks() else { return };
        if look % START_SAY_EVERY == 0 {
            let needed_mib = START_BYTES_MIN / MIB;
            tracing::error!(home = %home.display(), free_mib, needed_mib, "the disk is full: waiting for room to start");
        }
        tokio::time::sleep(START_LOOK_EVERY).await;
    }
}

/// What is free where this directory is, or will be.
pub(super) fn free_at_or_above(disk: &dyn HomeDisk, home: &Path) -> io::Result<u64> {
    match disk.free_bytes(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match home.parent() {
            Some(above) if above.as_os_str().is_empty() => disk.free_bytes(Path::new(".")),
            Some(above) => free_at_or_above(disk, above),
            None => Err(error),
        },
        outcome => outcome,
    }
}

/// Whether the store may be larger after this update.
fn grows(update: &Update) -> bool {
    match update {
        // Nobody knows what a function does.
        Update::Set { .. } | Update::Nursery(_) | Update::UserFunction { .. } => true,
        Update::TestAndSet { wanted, .. } | Update::Replace { wanted, .. } => wanted.is_some(),
        Update::Sequence(updates) => updates.iter().any(grows),
        Update::Delete { .. }
        | Update::Nop
        | Update::Assert { .. }
        | Update::DeletePrefix { .. }
        | Update::AssertExists { .. }
        | Update::AssertRange { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::disk::RealDisk;
    use crate::update::encode_command;

    fn command(update: Update) -> Bytes {
        encode_command(&update)
    }

    #[test]
    fn only_what_frees_or_needs_no_room_is_taken_when_the_disk_is_nearly_full() {
        let room = Room::new(80 * MIB);
        let (key, value) = (Bytes::from("k"), Bytes::from("v"));
        let set = Update::Set { key: key.clone(), value: value.clone() };
        let delete = Update::Delete { key: key.clone() };
        assert_eq!(room.admit(&command(set.clone())), Ok(()), "nothing is known yet");
        room.note(79 * MIB);
        let refused = UpdateRefused::DiskFull { free_mib: 79, reserve_mib: 80 };
        for grows in [
            set.clone(),
            Update::Replace { key: key.clone(), wanted: Some(value.clone()) },
            Update::TestAndSet { key: key.clone(), expected: None, wanted: Some(value) },
            Update::Sequence(vec![delete.clone(), Update::Sequence(vec![set.clone()])]),
        ] {
            assert_eq!(room.admit(&command(grows.clone())), Err(refused.clone()), "{grows:?}");
        }
        for frees in [
            delete.clone(),
            Update::Nop,
            Update::DeletePrefix { prefix: key.clone() },
            Update::Replace { key: key.clone(), wanted: None },
            Update::TestAndSet { key: key.clone(), expected: None, wanted: None },
            Update::Sequence(vec![Update::AssertExists { key }, delete]),
        ] {
            assert_eq!(room.admit(&command(frees.clone())), Ok(()), "{frees:?}");
        }
        room.note(85 * MIB);
        assert!(room.admit(&command(set.clone())).is_err(), "not yet: it would be refused again at once");
        room.note(90 * MIB);
        assert_eq!(room.admit(&command(set)), Ok(()));
    }

    #[tokio::test]
    async fn the_room_of_a_home_that_is_not_there_yet_is_that_of_the_directory_above() {
        let temp = tempfile::tempdir().unwrap();
        let free = free_at_or_above(&RealDisk, &temp.path().join("not/there")).unwrap();
        assert!(free > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_room_once_what_can_be_spared_is_gone() {
        let (free, looks, spared) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let look = || {
            looks.set(looks.get() + 1);
            // Somebody makes room in the end.
            Ok(if looks.get() > 100 { START_BYTES_MIN } else { free.get() })
        };
        wait_for_start(look, Path::new("h"), || spared.set(spared.get() + 1)).await;
        assert_eq!((looks.get(), spared.get()), (101, 1));

        looks.set(0);
        wait_for_start(look, Path::new("h"), || free.set(START_BYTES_MIN)).await;
        assert_eq!(looks.get(), 2, "what was spared was enough");

        wait_for_start(look, Path::new("h"), || panic!("there is room")).await;
    }
}
