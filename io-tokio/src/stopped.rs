//! The files of a node that does not run, for tools that look at them. Nothing is changed, whatever state they are in.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk as _;
use crate::identity::Identity;
use crate::node::NodeError;
use crate::node::home::Home;
use crate::read_only::ReadOnlyDisk;
use crate::store::{self, Store, StoreError, StorePlace};
use crate::tlog::{LogPlace, TlogError};

/// The home of a node that does not run. While it is held, none starts on it.
pub struct StoppedHome {
    home: Home,
    identity: Identity,
}

impl StoppedHome {
    /// Opens the home of whichever node it is.
    ///
    /// # Errors
    /// When a process runs on it, or it does not say whose it is.
    pub fn open(path: &Path) -> Result<Self, NodeError> {
        let (home, identity) = Home::look(Arc::new(ReadOnlyDisk), path)?;
        Ok(Self { home, identity })
    }

    /// Whose home it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node's store; `None` when it has none. With `checks` every page is compared with its checksum. Of the two of a node that
    /// has been a witness and has not, that which has applied more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn store(&self, checks: bool) -> Result<Option<Store>, StoreError> {
        let names = ReadOnlyDisk.list(&self.home.db_dir()).map_err(StoreError::Io)?;
        let mut found: Option<Store> = None;
        for is_witness in [false, true] {
            let path = self.home.store_path(&self.identity.name, is_witness);
            if !names.iter().any(|name| path.file_name().is_some_and(|file| file == name.as_str())) {
                continue;
            }
            let options =
                store::Options { keeps_data: !is_witness, check_on_open: checks, ..store::Options::default() };
            let store = StorePlace::new(Arc::new(ReadOnlyDisk), path, self.identity.clone(), options).open()?;
            if found.as_ref().is_none_or(|found| found.applied().0 < store.applied().0) {
                found = Some(store);
            }
        }
        Ok(found)
    }

    /// The node's log.
    ///
    /// # Errors
    /// As for [`LogPlace::new`].
    pub fn log(&self) -> Result<LogPlace, TlogError> {
        LogPlace::new(Arc::new(ReadOnlyDisk), self.home.path(), self.identity.clone())
    }
}
