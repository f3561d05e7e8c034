//! What the commands share that look at the files of a stopped node.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

use super::exit::Failure;
use crate::node::NodeError;
use crate::stopped::StoppedHome;
use crate::store::{Store, StoreError};
use crate::tlog::TlogError;

#[derive(Args, Debug)]
pub(crate) struct HomeArgs {
    /// The home of a node that does not run.
    home: PathBuf,
}

impl HomeArgs {
    pub(crate) fn open(&self) -> Result<StoppedHome, Failure> {
        Ok(StoppedHome::open(&self.home)?)
    }

    pub(crate) fn path(&self) -> String {
        self.home.display().to_string()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        NodeError::from(error).into()
    }
}

impl From<TlogError> for Failure {
    fn from(error: TlogError) -> Self {
        NodeError::from(error).into()
    }
}

/// Lines for standard output that are too many to be collected.
pub(crate) fn printer() -> impl Write {
    BufWriter::new(std::io::stdout().lock())
}

/// Nobody reads what is printed any more: there is nothing wrong with that.
pub(crate) fn unless_unread(outcome: Result<(), TlogError>) -> Result<(), Failure> {
    match outcome {
        Err(TlogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The slot that a store has applied, and the history hash there; those of an empty one when there is none.
pub(crate) fn applied(store: Option<&Store>) -> (trialbay_engine::Slot, trialbay_engine::HistoryHash) {
    store.map_or((trialbay_engine::Slot::ZERO, Default::default()), Store::applied)
}
