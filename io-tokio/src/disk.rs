//! The disk that transaction logs are kept on: production has [`RealDisk`]; the simulator has one that forgets what was
//! not synced.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Directories and the names in them. Every method blocks.
///
/// Nothing is durable before it is synced: bytes by the file's `sync_*`, names by [`Disk::sync_dir`].
pub trait Disk: Send + Sync + 'static {
    /// Makes this directory and those above it; one that exists is fine.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in this directory, sorted; those that are not UTF-8 are left out.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a new, empty file and opens it for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one, or when it cannot be made.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when there is none, or when it cannot be opened.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// `NotFound` when there is none, or when it cannot be opened.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in one step even across a power cut; a file of that name is replaced.
    ///
    /// # Errors
    /// When it cannot be done.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot be done.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in this directory durable.
    ///
    /// # Errors
    /// An error is final: nobody knows what is durable now.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One open file. Every method blocks.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// When the disk does not say.
    fn size(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`; 0 at the end of the file or for an empty buffer only.
    ///
    /// # Errors
    /// When the disk cannot read them.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// When the disk cannot take them; any part of them may be written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Reserves space for these bytes; the file is at least this long afterwards, and what is new in it reads as zeros.
    ///
    /// # Errors
    /// When the disk is full, for instance.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Cuts the file off at `len`.
    ///
    /// # Errors
    /// When the disk cannot do it.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes what was written before durable, and forgets what the disk itself does not have: later reads tell what a
    /// power cut would leave.
    ///
    /// After a sync that failed, a system may take the bytes that it could not write for written. Whoever reads them
    /// then, in this process or in the next one, sees them for as long as they are in memory; and another sync of
    /// them succeeds without doing anything.
    ///
    /// # Errors
    /// As for [`DiskFile::sync_data`].
    fn settle(&self) -> io::Result<()>;

    /// Makes the bytes durable, and as much about the file as is needed to read them back.
    ///
    /// # Errors
    /// An error is final: nobody knows what is durable now, and a second try proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes everything about the file durable.
    ///
    /// # Errors
    /// As for [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match std::os::unix::fs::FileExt::read_at(self, bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(self, FallocateFlags::empty(), offset, len)) {
            // Some file systems cannot reserve: a longer file with a hole reads the same, and a full disk shows later.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let end = offset.saturating_add(len);
                if self.metadata()?.len() < end { self.set_len(end) } else { Ok(()) }
            }
            outcome => Ok(outcome?),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn settle(&self) -> io::Result<()> {
        // What is to be written is written first: only what counts as written can be forgotten.
        Self::sync_all(self)?;
        match rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed) {
            // A file system that knows no such advice.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        Self::sync_all(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_file_gives_back_what_was_written_between_zeros() {
        let home = tempfile::tempdir().unwrap();
        let disk: &dyn Disk = &RealDisk;
        let dir = home.path().join("a/b");
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&dir).unwrap();
        let file = disk.create(&dir.join("x")).unwrap();
        assert_eq!(disk.create(&dir.join("x")).err().unwrap().kind(), io::ErrorKind::AlreadyExists);

        file.allocate(0, 100).unwrap();
        file.write_at(b"here", 50).unwrap();
        file.sync_data().unwrap();
        file.settle().unwrap();
        assert_eq!(file.size().unwrap(), 100);
        let mut bytes = [9; 60];
        assert_eq!(disk.open_to_read(&dir.join("x")).unwrap().read_at(&mut bytes, 48).unwrap(), 52);
        assert_eq!(&bytes[..8], b"\0\0here\0\0");

        file.truncate(52).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.size().unwrap(), 52);
        assert_eq!(file.read_at(&mut bytes, 52).unwrap(), 0);
    }

    #[test]
    fn names_can_be_listed_changed_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        for name in ["b", "a", "c"] {
            RealDisk.create(&path(name)).unwrap();
        }
        RealDisk.rename(&path("c"), &path("a")).unwrap();
        RealDisk.remove(&path("b")).unwrap();
        RealDisk.sync_dir(home.path()).unwrap();
        assert_eq!(RealDisk.list(home.path()).unwrap(), ["a"]);
        assert_eq!(RealDisk.open(&path("b")).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
