//! What a node that finds its disk full can spare: files that an earlier run did not finish.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::home::{Home, HomeError};
use crate::disk::Disk;
use crate::home_disk::HomeDisk;
use crate::identity::Identity;

/// A head that was not installed: it can be got again.
const HEAD: &str = ".db.head";
/// An archive that was not finished: the segment is there.
const NEW_ARCHIVE: &str = ".tlx.new";

/// Removes them from this node's home, unless a process runs on it or it is not this node's. Blocks.
pub(super) fn remove(disk: Arc<dyn HomeDisk>, home: &Path, identity: &Identity) -> Result<(), HomeError> {
    let Some(home) = Home::claim(disk.clone(), home, identity)? else { return Ok(()) };
    for (dir, ending) in [(home.db_dir(), HEAD), (home.tlog_dir(), NEW_ARCHIVE)] {
        for path in files_in(&*disk, &dir, ending) {
            let failed = |source| HomeError::Io { what: "remove", path: path.clone(), source };
            disk.remove(&path).map_err(failed)?;
            tracing::warn!(path = %path.display(), "the disk is full: removed a file that was not finished");
        }
    }
    Ok(())
}

fn files_in(disk: &dyn Disk, dir: &Path, ending: &str) -> Vec<PathBuf> {
    // A home that is new has no directories yet.
    let names = disk.list(dir).unwrap_or_default();
    names.into_iter().filter(|name| name.ends_with(ending)).map(|name| dir.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use trialbay_engine::NodeId;

    use super::*;
    use crate::disk::RealDisk;

    fn identity(node: u16) -> Identity {
        Identity { cluster_id: "tests".into(), node: NodeId(node), name: "n".into() }
    }

    /// A home of node 1 with two files of no use and two that are needed.
    fn home() -> (tempfile::TempDir, [PathBuf; 4]) {
        let dir = tempfile::tempdir().unwrap();
        drop(Home::open(Arc::new(RealDisk), dir.path(), &identity(1)).unwrap());
        let files =
            ["db/n.db.head", "tlogs/003.tlx.new", "db/n.db", "tlogs/003.tlog"].map(|name| dir.path().join(name));
        files.iter().for_each(|path| std::fs::write(path, "bytes").unwrap());
        (dir, files)
    }

    #[test]
    fn what_was_not_finished_goes_and_nothing_else() {
        let (dir, files) = home();
        remove(Arc::new(RealDisk), dir.path(), &identity(1)).unwrap();
        assert_eq!(files.map(|path| path.exists()), [false, false, true, true]);
    }

    #[test]
    fn nothing_goes_from_a_home_that_is_in_use_or_of_another_node() {
        let (dir, files) = home();
        assert!(remove(Arc::new(RealDisk), dir.path(), &identity(2)).is_err());
        let running = Home::open(Arc::new(RealDisk), dir.path(), &identity(1)).unwrap();
        assert!(remove(Arc::new(RealDisk), dir.path(), &identity(1)).is_err());
        drop(running);
        std::fs::remove_file(dir.path().join("IDENTITY")).unwrap();
        remove(Arc::new(RealDisk), dir.path(), &identity(1)).unwrap();
        assert!(files.iter().all(|path| path.exists()));
    }

    #[test]
    fn a_home_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        remove(Arc::new(RealDisk), &dir.path().join("none"), &identity(1)).unwrap();
        assert!(!dir.path().join("none").exists());
    }
}
