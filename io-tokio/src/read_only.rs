//! A disk on which nothing changes, for tools that look at the files of a node that does not run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::home_disk::{FileLock, HomeDisk, LockError};

/// What redb writes is kept in pieces of this size.
const PAGE_BYTES: usize = 4096;

/// The operating system's file system, of which nothing is changed. A lock is shared with others who only look, and keeps a
/// node from starting.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnlyDisk;

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() { Ok(()) } else { refused() }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_to_read(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_to_read(path)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl HomeDisk for ReadOnlyDisk {
    fn is_dir(&self, path: &Path) -> bool {
        RealDisk.is_dir(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }

    fn sync_name(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<FileLock, LockError> {
        let file = match File::open(path) {
            // A copy of a home need not have it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Box::new(())),
            outcome => outcome.map_err(LockError::Refused)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Box::new(file)),
            Err(Errno::WOULDBLOCK) => {
                let mut text = [0; 32];
                let len = FileExt::read_at(&file, &mut text, 0).unwrap_or(0);
                let pid = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim().parse().ok());
                Err(LockError::Held(pid))
            }
            Err(error) => Err(LockError::Refused(error.into())),
        }
    }

    /// redb cannot look at a file that was not closed without repairing it: what it writes stays in memory.
    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Box::new(Overlay { file, changed: Mutex::new(Changed { len, file_len: len, pages: BTreeMap::new() }) }))
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "nothing is to be changed here"))
}

/// A file, and what was written since it was opened.
#[derive(Debug)]
struct Overlay {
    file: File,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    len: u64,
    /// So much of the file counts: it was cut off there.
    file_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Overlay {
    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `bytes` from the file, and with zeros behind its end.
    fn read_file(&self, bytes: &mut [u8], offset: u64, file_len: u64) -> io::Result<()> {
        let there = usize::try_from(file_len.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let (there, behind) = bytes.split_at_mut(there);
        behind.fill(0);
        self.file.read_exact_at(there, offset)
    }
}

/// The pages that a part touches: number, where in the page, and how much of it.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        let within = usize::try_from(at % PAGE_BYTES as u64).unwrap_or(0);
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(PAGE_BYTES - within);
        let page = at / PAGE_BYTES as u64;
        at += count as u64;
        (count > 0).then_some((page, within, count))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > changed.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(out, offset, changed.file_len)?;
        let mut rest = out;
        for (page, within, count) in pages(offset, rest.len()) {
            let (part, behind) = rest.split_at_mut(count);
            if let Some(page) = changed.pages.get(&page) {
                part.copy_from_slice(&page[within..within + count]);
            }
            rest = behind;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = self.changed();
        if len < changed.len {
            changed.file_len = changed.file_len.min(len);
            let first_behind = len.div_ceil(PAGE_BYTES as u64);
            changed.pages.split_off(&first_behind);
            let within = usize::try_from(len % PAGE_BYTES as u64).unwrap_or(0);
            if let Some(page) = changed.pages.get_mut(&(len / PAGE_BYTES as u64)) {
                page[within..].fill(0);
            }
        }
        changed.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed();
        let file_len = changed.file_len;
        let mut rest = data;
        for (number, within, count) in pages(offset, data.len()) {
            let page = match changed.pages.entry(number) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    let mut page = Box::new([0; PAGE_BYTES]);
                    self.read_file(&mut page[..], number * PAGE_BYTES as u64, file_len)?;
                    vacant.insert(page)
                }
            };
            let (part, behind) = rest.split_at(count);
            page[within..within + count].copy_from_slice(part);
            rest = behind;
        }
        changed.len = changed.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_as_in_a_file_and_the_file_stays(
            len in 0_usize..20_000,
            changes in proptest::collection::vec((0_u64..30_000, 0_usize..9_000, any::<bool>()), 0..8),
        ) {
            let before: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let temp = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(temp.path(), &before).unwrap();
            let database = ReadOnlyDisk.open_database(temp.path()).unwrap();
            let mut model = before.clone();
            for (number, (at, count, cuts)) in changes.into_iter().enumerate() {
                if cuts {
                    database.set_len(at).unwrap();
                    model.resize(at as usize, 0);
                } else {
                    let data = vec![number as u8 + 1; count];
                    database.write(at, &data).unwrap();
                    model.resize(model.len().max(at as usize + count), 0);
                    model[at as usize..at as usize + count].copy_from_slice(&data);
                }
                prop_assert_eq!(database.len().unwrap(), model.len() as u64);
                let mut read = vec![9; model.len()];
                database.read(0, &mut read).unwrap();
                prop_assert!(read == model);
                prop_assert!(database.read(1, &mut read).is_err() || model.is_empty());
            }
            prop_assert!(std::fs::read(temp.path()).unwrap() == before);
        }
    }
}
