//! What a whole node needs of a disk beyond what its transaction log does: a lock, and files for redb.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::disk::{Disk, RealDisk};

/// Held by whoever locked a file, until it is dropped or the process ends, however it ends.
pub type FileLock = Box<dyn Any + Send + Sync>;

/// Why a file cannot be locked.
#[derive(Debug)]
pub enum LockError {
    /// Another process has locked it, of this id if it could be read.
    Held(Option<u32>),
    /// It cannot be opened or written.
    NotWritable(io::Error),
    /// The system cannot lock it.
    Refused(io::Error),
}

/// A disk that a whole node can live on. Every method blocks.
pub trait HomeDisk: Disk {
    /// Whether there is a directory of this name.
    fn is_dir(&self, path: &Path) -> bool;

    /// How much room there is where this directory is, in bytes.
    ///
    /// # Errors
    /// When there is no such directory, or it is not known.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Makes the name of an existing directory durable in the one that it is really in, whatever links lead there.
    ///
    /// # Errors
    /// As for [`Disk::sync_dir`].
    fn sync_name(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file, which is made if there is none, against every other process, and leaves this process's id in it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be done.
    fn lock(&self, path: &Path) -> Result<FileLock, LockError>;

    /// Opens a file for redb, which reads and writes it from then on.
    ///
    /// # Errors
    /// As for [`Disk::open`].
    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;
}

impl HomeDisk for RealDisk {
    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(dir)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn sync_name(&self, dir: &Path) -> io::Result<()> {
        dir.canonicalize()?.parent().map_or(Ok(()), |above| self.sync_dir(above))
    }

    fn lock(&self, path: &Path) -> Result<FileLock, LockError> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(LockError::NotWritable)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held(pid));
            }
            Err(error) => return Err(LockError::Refused(error.into())),
        }
        // For the message of the process that comes too late; the lock itself needs no content.
        let pid = std::process::id();
        // Written over what is there, so that a disk that is full does not matter.
        let text = format!("{pid}\n");
        let written = file.write_all(text.as_bytes()).and_then(|()| file.set_len(text.len() as u64));
        written.map_err(LockError::NotWritable)?;
        Ok(Box::new(Flock(file)))
    }

    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }
}

struct Flock(File);

impl Drop for Flock {
    fn drop(&mut self) {
        // Closing the file is not enough while a child that this process is just starting holds a copy of it. That the
        // unlocking fails would mean that nothing is locked.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_holder_whoever_has_inherited_its_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("LOCK");
        let first = RealDisk.lock(&path).unwrap();
        let in_a_child = first.downcast_ref::<Flock>().unwrap().0.try_clone().unwrap();
        let own = std::process::id();
        assert!(matches!(RealDisk.lock(&path), Err(LockError::Held(Some(pid))) if pid == own));
        drop(first);
        RealDisk.lock(&path).unwrap();
        drop(in_a_child);
    }
}
