//! A simulated disk: it forgets exactly what was not synced, and fails in every way that disks do.
//!
//! The log, the store and the files of one node's home live on one of them. A file is two sparse images, what readers
//! see and what is durable, and the changes between them in the order in which they were made (`contents.rs`); a sync
//! costs what was written since the last one. Names are kept in the same way (`names.rs`). In a power cut the fate of
//! each pending change is drawn from the disk's own stream of chance (`survival.rs`).

mod contents;
mod handle;
mod names;
mod pages;
mod state;
mod survival;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trialbay::disk::{Disk, DiskFile};
use xxhash_rust::xxh3::Xxh3;

use self::handle::Handle;
use self::pages::Pages;
use self::state::{Power, State};
use crate::rng::Rng;

const SECTOR_BYTES: u64 = 512;

/// One node's disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The process that this is the disk of, by the disk's generation then; `None` is the world itself.
    process: Option<u64>,
}

/// What a disk has done and suffered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes of files and names, and syncs.
    pub changes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// The bytes in them.
    pub bytes_written: u64,
    /// Syncs of files and directories, those that failed and lied included.
    pub syncs: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Syncs that returned success and did nothing.
    pub syncs_lied: u64,
    /// Unsynced writes that a power cut left whole.
    pub writes_kept: u64,
    /// Unsynced writes that a power cut took.
    pub writes_lost: u64,
    /// Unsynced writes that a power cut left in part, or spoilt.
    pub writes_torn: u64,
    /// Sectors of those that hold zeros where something was written.
    pub sectors_zeroed: u64,
    /// Sectors of those that hold garbage.
    pub sectors_garbled: u64,
    /// Unsynced changes of a file's length that a power cut took.
    pub lengths_lost: u64,
    /// Unsynced changes of names that a power cut took.
    pub names_lost: u64,
    /// Writes that reached the medium in another place.
    pub writes_misdirected: u64,
    /// Bits flipped at rest.
    pub bits_flipped: u64,
}

impl SimDisk {
    /// An empty disk; what a power cut takes from it comes from `rng`.
    pub fn new(rng: Rng) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(rng))), process: None }
    }

    /// The disk for the process that starts now. Like every file that the process opens it is dead once the process is.
    pub fn for_process(&self) -> Self {
        let generation = self.state().generation;
        Self { state: Arc::clone(&self.state), process: Some(self.process.unwrap_or(generation)) }
    }

    /// A file for redb to keep its database in; made if there is none.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn backend(&self, path: &Path) -> io::Result<impl redb::StorageBackend + use<>> {
        match self.open_file(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create_file(path),
            outcome => outcome,
        }
    }

    /// The process dies. The system lives on, and nothing is lost.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// The power fails and comes back.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// Everything is gone.
    pub fn wipe(&self) {
        self.state().wipe();
    }

    /// The power fails after so many further changes (a sync counts too): all later ones fail, the first of them halfway
    /// if it is a write. Lasts until [`SimDisk::kill`], [`SimDisk::power_cut`] or [`SimDisk::wipe`] says what it was.
    pub fn power_fails_after(&self, changes: u64) {
        self.state().power = Power::FailsAfter(changes);
    }

    /// Whether a change was refused because of [`SimDisk::power_fails_after`].
    pub fn is_power_out(&self) -> bool {
        self.state().power == Power::Out
    }

    /// The next sync of a file or directory in `dir`, or below it, fails. As systems do, this one takes the bytes that it
    /// could not write for written: see [`DiskFile::settle`].
    pub fn fail_next_sync(&self, dir: &Path) {
        self.state().faults.sync_fails_below = Some(dir.to_owned());
    }

    /// The next write to a file below `dir` reaches the medium in another place.
    pub fn misdirect_next_write(&self, dir: &Path) {
        self.state().faults.write_strays_below = Some(dir.to_owned());
    }

    /// Whether all writes fail, and are done in part.
    pub fn set_writes_fail(&self, fail: bool) {
        self.state().faults.writes_fail = fail;
    }

    /// Whether the disk is full: nothing that needs more room than it has succeeds.
    pub fn set_full(&self, is_full: bool) {
        self.state().faults.is_full = is_full;
    }

    /// Whether it is full.
    pub fn is_full(&self) -> bool {
        self.state().faults.is_full
    }

    /// Whether syncs return success and do nothing. The first one that does not lie makes good for all of its file.
    pub fn set_syncs_lie(&self, lie: bool) {
        self.state().faults.syncs_lie = lie;
    }

    /// Nothing fails from now on that was made to, and nothing lies.
    pub fn mend(&self) {
        self.state().faults = state::Faults::default();
    }

    /// Flips any bit of a file's durable bytes, where something was written; gives the byte and the bit in it.
    /// `None` when there are none.
    pub fn rot(&self, path: &Path) -> Option<(u64, u64)> {
        self.state().rot(path)
    }

    /// Flips this bit of a file's durable bytes; of a file or byte that is not there, none.
    pub fn flip(&self, path: &Path, offset: u64, bit: u64) {
        let mut state = self.state();
        if let Some(number) = state.names.find_durable(path) {
            state.flip(number, offset, bit);
        }
    }

    /// The file ends here and its name stays, durably, whatever was on its way to it.
    pub fn cut_short(&self, path: &Path, len: u64) {
        self.state().cut_short(path, len);
    }

    /// The file is gone, durably.
    pub fn lose(&self, path: &Path) {
        self.state().lose(path);
    }

    /// All files, as a process sees them.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.files().map(|(path, _)| path.clone()).collect()
    }

    /// The files that have their names for certain.
    pub fn durable_files(&self) -> Vec<PathBuf> {
        self.state().names.durable_files().map(|(path, _)| path.clone()).collect()
    }

    /// The names of this directory that are there for certain, sorted.
    pub fn list_durable(&self, dir: &Path) -> Vec<String> {
        self.state().names.list_durable(dir)
    }

    /// Changes whenever [`SimDisk::list_durable`] of any directory may give something else.
    pub fn durable_names_version(&self) -> u64 {
        self.state().names.durable_version()
    }

    /// A whole file as a process reads it.
    pub fn read_now(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let number = state.names.find_file(path).ok()?;
        Some(all_of(state.file(number).now()))
    }

    /// A whole file as of its last sync, if its name is durable.
    pub fn read_durable(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let number = state.names.find_durable(path)?;
        Some(all_of(state.file(number).durable()))
    }

    /// Reads a file as of its last sync from `offset` to the last page in which something was written; what follows, up
    /// to the file's length, is zeros. Gives that length; `None` when the name is not durable.
    pub fn read_durable_from(&self, path: &Path, offset: u64, bytes: &mut Vec<u8>) -> Option<u64> {
        let state = self.state();
        let durable = state.file(state.names.find_durable(path)?).durable();
        let written = durable.written_end().min(durable.len()).saturating_sub(offset);
        bytes.resize(usize::try_from(written).expect("simulated files are small"), 0);
        durable.read(offset, bytes);
        Some(durable.len())
    }

    /// The lengths of all files, together.
    pub fn total_bytes(&self) -> u64 {
        let state = self.state();
        state.names.files().map(|(_, number)| state.file(number).now().len()).sum()
    }

    /// What the disk has done and suffered.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// A hash of every file's name and bytes, as a process sees them and as they are durable.
    pub fn image_hash(&self) -> u64 {
        let state = self.state();
        let mut hash = Xxh3::new();
        let mut add = |path: &Path, pages: &Pages| {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(&pages.len().to_le_bytes());
            let mut page = [0; pages::PAGE_BYTES];
            for number in pages.written_pages() {
                let start = number * page.len() as u64;
                pages.read(start, &mut page);
                hash.update(&start.to_le_bytes());
                hash.update(&page);
            }
        };
        state.names.files().for_each(|(path, number)| add(path, state.file(number).now()));
        state.names.durable_files().for_each(|(path, number)| add(path, state.file(number).durable()));
        hash.digest()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, if the process that this is the disk of still lives.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match self.process {
            Some(generation) if generation != state.generation => {
                Err(io::Error::other("the process that opened this is dead"))
            }
            Some(_) | None => Ok(state),
        }
    }

    fn open_file(&self, path: &Path, is_writable: bool) -> io::Result<Handle> {
        let number = self.alive()?.names.find_file(path)?;
        Ok(Handle::new(self.for_process(), number, is_writable))
    }

    fn create_file(&self, path: &Path) -> io::Result<Handle> {
        let number = self.alive()?.create(path)?;
        Ok(Handle::new(self.for_process(), number, true))
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.alive()?.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.alive()?;
        state.names.check_directory(dir)?;
        Ok(state.names.list(dir))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.create_file(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.open_file(path, true)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.open_file(path, false)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?.sync_dir(dir)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("process", &self.process).finish_non_exhaustive()
    }
}

fn all_of(pages: &Pages) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(pages.len()).expect("simulated files are small")];
    pages.read(0, &mut bytes);
    bytes
}
