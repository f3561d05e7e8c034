//! Directories: the names as a process sees them, and as a power cut would leave them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Directory,
    /// The number of the file.
    File(usize),
}

/// All names of a disk. Those at its root are durable at once: somebody set them up before.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    now: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<NameChange>,
    durable_version: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Made(PathBuf, Entry),
    Removed(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, entry: Entry },
}

impl Names {
    pub(super) fn find(&self, path: &Path) -> io::Result<Entry> {
        self.now.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<usize> {
        match self.find(path)? {
            Entry::File(file) => Ok(file),
            Entry::Directory => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// The file that would have this name after a power cut for certain.
    pub(super) fn find_durable(&self, path: &Path) -> Option<usize> {
        match self.durable.get(path)? {
            Entry::File(file) if has_directories(&self.durable, path) => Some(*file),
            Entry::File(_) | Entry::Directory => None,
        }
    }

    pub(super) fn check_directory(&self, path: &Path) -> io::Result<()> {
        match self.now.get(path) {
            _ if is_root(path) => Ok(()),
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The names in this directory, sorted.
    pub(super) fn list(&self, dir: &Path) -> Vec<String> {
        names_in(&self.now, dir)
    }

    pub(super) fn list_durable(&self, dir: &Path) -> Vec<String> {
        if has_directories(&self.durable, &dir.join("x")) { names_in(&self.durable, dir) } else { Vec::new() }
    }

    /// All files, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, usize)> {
        files_in(&self.now)
    }

    pub(super) fn durable_files(&self) -> impl Iterator<Item = (&PathBuf, usize)> {
        files_in(&self.durable).filter(|(path, _)| has_directories(&self.durable, path))
    }

    /// Changes whenever a durable name does.
    pub(super) fn durable_version(&self) -> u64 {
        self.durable_version
    }

    pub(super) fn make(&mut self, path: &Path, entry: Entry) -> io::Result<()> {
        self.check_directory(parent(path))?;
        if self.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(NameChange::Made(path.to_owned(), entry));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find_file(path)?;
        self.change(NameChange::Removed(path.to_owned()));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = Entry::File(self.find_file(from)?);
        self.check_directory(parent(to))?;
        if self.now.get(to) == Some(&Entry::Directory) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            self.change(NameChange::Renamed { from: from.to_owned(), to: to.to_owned(), entry });
        }
        Ok(())
    }

    /// Makes the pending changes in this directory durable, in their order, up to the first one that is not `is_kept`. That
    /// one and those behind it stay pending: file systems journal names, and forget none of them after an error.
    pub(super) fn sync(&mut self, dir: &Path, mut is_kept: impl FnMut() -> bool) {
        let Self { pending, durable, .. } = self;
        let mut goes_on = true;
        pending.retain(|change| {
            goes_on = goes_on && (change.directory() != dir || is_kept());
            let is_done = goes_on && change.directory() == dir;
            if is_done {
                change.make(durable);
            }
            !is_done
        });
        self.durable_version += 1;
    }

    /// Each pending change is kept or lost, and a name whose directory is lost goes with it. Says how many were lost.
    pub(super) fn lose_power(&mut self, rng: &mut Rng) -> u64 {
        let mut lost = 0;
        for change in std::mem::take(&mut self.pending) {
            if rng.chance(0.5) {
                change.make(&mut self.durable);
            } else {
                lost += 1;
            }
        }
        let mut now = std::mem::take(&mut self.durable);
        // In order, so that a directory goes before what is in it.
        for path in now.keys().cloned().collect::<Vec<_>>() {
            if !has_directories(&now, &path) {
                now.remove(&path);
            }
        }
        self.durable.clone_from(&now);
        self.now = now;
        self.durable_version += 1;
        lost
    }

    /// Forgets every name, the root's too.
    pub(super) fn wipe(&mut self) {
        *self = Self { durable_version: self.durable_version + 1, ..Self::default() };
    }

    /// Whether any name leads to this file, or may after a power cut.
    pub(super) fn mentions(&self, file: usize) -> bool {
        let entry = Entry::File(file);
        let is_pending = |change: &NameChange| match change {
            NameChange::Made(_, made) => *made == entry,
            NameChange::Renamed { entry: renamed, .. } => *renamed == entry,
            NameChange::Removed(_) => false,
        };
        let mut named = self.now.values().chain(self.durable.values());
        named.any(|named| *named == entry) || self.pending.iter().any(is_pending)
    }

    fn change(&mut self, change: NameChange) {
        change.make(&mut self.now);
        if is_root(change.directory()) {
            change.make(&mut self.durable);
            self.durable_version += 1;
        } else {
            self.pending.push(change);
        }
    }
}

impl NameChange {
    fn directory(&self) -> &Path {
        match self {
            Self::Made(path, _) | Self::Removed(path) | Self::Renamed { to: path, .. } => parent(path),
        }
    }

    fn make(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Made(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Self::Removed(path) => {
                names.remove(path);
            }
            Self::Renamed { from, to, entry } => {
                // The old name may stand for another file by now, or may never have become durable.
                if names.get(from) == Some(entry) {
                    names.remove(from);
                }
                names.insert(to.clone(), *entry);
            }
        }
    }
}

pub(super) fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn has_directories(names: &BTreeMap<PathBuf, Entry>, path: &Path) -> bool {
    path.ancestors().skip(1).all(|above| is_root(above) || names.contains_key(above))
}

fn names_in(names: &BTreeMap<PathBuf, Entry>, dir: &Path) -> Vec<String> {
    let below = names.range(dir.to_owned()..).map(|(path, _)| path).take_while(|path| path.starts_with(dir));
    let inside = below.filter(|path| path.parent() == Some(dir));
    inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect()
}

fn files_in(names: &BTreeMap<PathBuf, Entry>) -> impl Iterator<Item = (&PathBuf, usize)> {
    names.iter().filter_map(|(path, entry)| match entry {
        Entry::File(file) => Some((path, *file)),
        Entry::Directory => None,
    })
}
