//! Opening and making the store's file.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::{BackendError, Builder, StorageBackend};

use super::database::Store;
use super::error::{StoreError, damaged, guarded};
use crate::disk::Disk;
use crate::home_disk::HomeDisk;
use crate::identity::Identity;

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for pages of the file, read and yet to be written, in bytes.
    pub cache_bytes: usize,
    /// Whether to read the whole file and verify the checksum of each page before anything is served. Otherwise only
    /// what a crash can leave behind is repaired, and damage is found when (and if) a page makes no sense.
    pub check_on_open: bool,
    /// Whether it keeps what the values do. That of a witness only counts them.
    pub keeps_data: bool,
    /// The planted bug that it has.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::planted::PlantedBug>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            check_on_open: false,
            keeps_data: true,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

impl Store {
    /// Opens the store in the file at `path`, or makes it if there is no such file. Its directory is made as well.
    ///
    /// # Errors
    /// When it cannot be opened or made, is damaged, or is the store of another cluster or node.
    pub fn open(disk: &dyn HomeDisk, path: &Path, identity: &Identity, options: Options) -> Result<Self, StoreError> {
        match disk.open_to_read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(disk, path, identity, options)?,
            // If it cannot be opened, that is told below.
            Ok(_) | Err(_) => {}
        }
        Self::open_existing(disk, path, identity, options)
    }

    /// Opens the store in the file at `path`.
    pub(super) fn open_existing(
        disk: &dyn HomeDisk,
        path: &Path,
        identity: &Identity,
        options: Options,
    ) -> Result<Self, StoreError> {
        let file = disk.open_to_read(path).map_err(StoreError::Io)?;
        // A sync of the last process may have failed, and the system may show what is not on the disk.
        file.settle().map_err(StoreError::Io)?;
        if file.size().map_err(StoreError::Io)? == 0 {
            return Err(damaged("its file is empty"));
        }
        let backend = Backend(disk.open_database(path).map_err(StoreError::Io)?);
        Self::open_with_backend(backend, identity, options)
    }

    /// Opens the store in any place that keeps bytes, or makes it if there are none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_backend(
        backend: impl StorageBackend,
        identity: &Identity,
        options: Options,
    ) -> Result<Self, StoreError> {
        let open = || builder(options).create_with_backend(backend).map_err(StoreError::from_redb);
        let mut store = guarded(|| Self::new(open()?, identity))?;
        store.keeps_data = options.keeps_data;
        #[cfg(feature = "planted-bugs")]
        let store = store.with_planted(options.planted);
        Ok(store)
    }
}

/// Makes a store under another name and renames it when it is whole and durable, so that a power cut leaves either no
/// store or a good one.
fn create(disk: &dyn HomeDisk, path: &Path, identity: &Identity, options: Options) -> Result<(), StoreError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = named(path, ".new");
    disk.create_dir(dir).map_err(StoreError::Io)?;
    match disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::Io(error)),
        Ok(()) | Err(_) => {}
    }
    disk.create(&unfinished).map_err(StoreError::Io)?;
    let backend = Backend(disk.open_database(&unfinished).map_err(StoreError::Io)?);
    Store::open_with_backend(backend, identity, options)?.close()?;
    disk.rename(&unfinished, path).map_err(StoreError::Io)?;
    sync_dir(disk, dir)?;
    // The directory may be new as well.
    dir.parent().filter(|above| !above.as_os_str().is_empty()).map_or(Ok(()), |above| sync_dir(disk, above))
}

pub(super) fn builder(options: Options) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(options.check_on_open);
    builder
}

/// The name of another file beside the store.
pub(super) fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

pub(super) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    disk.sync_dir(dir).map_err(StoreError::Io)
}

/// Any disk's file, for redb, which takes no boxed one.
pub(super) struct Backend(pub(super) Box<dyn StorageBackend>);

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
