//! An open file, for the log as for the store.

use std::io;
use std::sync::MutexGuard;

use trialbay::disk::DiskFile;

use super::SimDisk;
use super::state::State;

/// An open file; it dies with the process that opened it.
#[derive(Debug)]
pub(super) struct Handle {
    /// The disk as the process that opened the file has it.
    disk: SimDisk,
    number: usize,
    is_writable: bool,
}

impl Handle {
    pub(super) fn new(disk: SimDisk, number: usize, is_writable: bool) -> Self {
        Self { disk, number, is_writable }
    }

    fn to_change(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.is_writable { self.disk.alive() } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.file(self.number).now().len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.disk.alive()?.file(self.number).now().read(offset, bytes))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.to_change()?.write(self.number, bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.to_change()?.allocate(self.number, offset + len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.to_change()?.set_len(self.number, len)
    }

    fn settle(&self) -> io::Result<()> {
        self.disk.alive()?.settle(self.number)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.alive()?.sync(self.number)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.alive()?.sync(self.number)
    }
}

impl redb::StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.read_at(out, offset)?;
        if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        DiskFile::sync_data(self)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(data, offset)
    }
}
