//! Opening and making the store's file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redb::{Builder, StorageBackend};

use super::database::Store;
use super::error::{StoreError, guarded};
use crate::disk::{Disk as _, RealDisk};
use crate::identity::Identity;

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for pages of the file, read and yet to be written, in bytes.
    pub cache_bytes: usize,
    /// Whether to read the whole file and verify the checksum of each page before anything is served. Otherwise only
    /// what a crash can leave behind is repaired, and damage is found when (and if) a page makes no sense.
    pub check_on_open: bool,
    /// The planted bug that it has.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::planted::PlantedBug>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            check_on_open: false,
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
    pub fn open(path: &Path, identity: &Identity, options: Options) -> Result<Self, StoreError> {
        if !path.try_exists().map_err(StoreError::Io)? {
            create(path, identity, options)?;
        }
        settle(path).map_err(StoreError::Io)?;
        let store = guarded(|| Self::new(builder(options).open(path).map_err(StoreError::from_redb)?, identity))?;
        #[cfg(feature = "planted-bugs")]
        let store = store.with_planted(options.planted);
        Ok(store)
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
        let store = guarded(|| Self::new(open()?, identity))?;
        #[cfg(feature = "planted-bugs")]
        let store = store.with_planted(options.planted);
        Ok(store)
    }
}

/// Makes a store under another name and renames it when it is whole and durable, so that a power cut leaves either no
/// store or a good one.
fn create(path: &Path, identity: &Identity, options: Options) -> Result<(), StoreError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = unfinished_name(path);
    fs::create_dir_all(dir).map_err(StoreError::Io)?;
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::Io(error)),
        Ok(()) | Err(_) => {}
    }
    let database = builder(options).create(&unfinished).map_err(StoreError::from_redb)?;
    Store::new(database, identity)?.close()?;
    fs::rename(&unfinished, path).map_err(StoreError::Io)?;
    sync_dir(dir)?;
    // The directory may be new as well.
    dir.parent().map_or(Ok(()), |parent| if parent.as_os_str().is_empty() { Ok(()) } else { sync_dir(parent) })
}

/// A sync of the last process may have failed, and the system may show what is not on the disk: see [`DiskFile::settle`].
fn settle(path: &Path) -> io::Result<()> {
    RealDisk.open_to_read(path)?.settle()
}

fn builder(options: Options) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(options.check_on_open);
    builder
}

fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::Io)
}
