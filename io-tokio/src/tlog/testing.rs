//! What the tests of the log share: a disk in memory that records its calls, fails on demand and forgets in a power
//! cut what was not synced; and a few records.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use trialbay_engine::{Ballot, Entry, HistoryHash, Incarnation, NodeId, Record, Slot, SlotEntry, Value};

use super::{RecoveredLog, Tlog, TlogError, TlogOptions};
use crate::disk::{Disk, DiskFile};
use crate::identity::Identity;

const SECTOR_BYTES: usize = 512;

/// Clones share the disk.
#[derive(Clone, Default)]
pub(super) struct MemDisk(Arc<Mutex<Inner>>);

/// The contents of a disk: what a test breaks.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Inner {
    files: BTreeMap<PathBuf, MemFile>,
    /// Names that survive a power cut.
    durable_names: BTreeSet<PathBuf>,
    calls: Vec<String>,
    failing: Option<(&'static str, io::ErrorKind)>,
    /// Whether the disk works again after it failed.
    fails_once: bool,
    /// After so many further changes the power is out.
    changes_left: Option<u64>,
}

#[derive(Default, Clone)]
struct MemFile {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed: what it should have written counts as written, and is not.
    forgotten: bool,
}

struct Handle {
    disk: MemDisk,
    path: PathBuf,
}

/// Small, seeded and good enough to choose what a power cut takes.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

impl MemDisk {
    pub(super) fn from_image(image: &Image) -> Self {
        let disk = Self::default();
        for (name, bytes) in image {
            let path = Path::new("home/tlogs").join(name);
            let mut inner = disk.inner();
            inner.durable_names.insert(path.clone());
            inner.files.insert(path, MemFile { now: bytes.clone(), durable: bytes.clone(), forgotten: false });
        }
        disk
    }

    pub(super) fn image(&self) -> Image {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.inner().files.iter().map(|(path, file)| (name(path), file.now.clone())).collect()
    }

    /// All changes so far, without the reads.
    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().calls)
    }

    /// Flips a bit of one byte.
    pub(super) fn damage(&self, name: &str, at: usize) {
        self.inner().files.get_mut(&Path::new("home/tlogs").join(name)).unwrap().now[at] ^= 0x20;
    }

    /// From now on every call of this kind fails.
    pub(super) fn fail(&self, call: &'static str, kind: io::ErrorKind) {
        self.inner().failing = Some((call, kind));
    }

    /// The next call of this kind fails.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn fail_once(&self, call: &'static str, kind: io::ErrorKind) {
        self.fail(call, kind);
        self.inner().fails_once = true;
    }

    /// The disk works again.
    pub(super) fn mend(&self) {
        self.inner().failing = None;
    }

    pub(super) fn power_fails_after(&self, changes: u64) {
        self.inner().changes_left = Some(changes);
    }

    /// The same disk for another process: nothing is lost, nothing is synced.
    pub(super) fn after_kill(&self) -> Self {
        self.inner().changes_left = None;
        self.clone()
    }

    /// What is on the disk after the power came back: of what was not synced, each sector and each name is there or not.
    pub(super) fn after_power_cut(&self, dice: &mut Dice) -> Self {
        let inner = self.inner();
        let mut image = Image::new();
        for (path, file) in &inner.files {
            if !inner.durable_names.contains(path) && dice.below(2) == 0 {
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            image.insert(name, file.after_power_cut(dice));
        }
        Self::from_image(&image)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Locks the disk for a change, if it still takes any.
    fn change(&self, call: &'static str, path: &Path, detail: &str) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        if let Some((failing, kind)) = inner.failing
            && failing == call
        {
            if std::mem::take(&mut inner.fails_once) {
                inner.failing = None;
            }
            return Err(kind.into());
        }
        match &mut inner.changes_left {
            Some(0) => return Err(io::Error::other("the power is out")),
            Some(left) => *left -= 1,
            None => {}
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        inner.calls.push(format!("{call} {name}{detail}"));
        Ok(inner)
    }

    fn handle(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if !self.inner().files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(Handle { disk: self.clone(), path: path.to_owned() }))
    }
}

impl MemFile {
    fn after_power_cut(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = if dice.below(2) == 0 { self.durable.clone() } else { self.now.clone() };
        let sector_of = |bytes: &[u8], at: usize| {
            let mut sector = bytes.get(at..).unwrap_or_default().to_vec();
            sector.resize(SECTOR_BYTES, 0);
            sector
        };
        for at in (0..bytes.len()).step_by(SECTOR_BYTES) {
            let (old, new) = (sector_of(&self.durable, at), sector_of(&self.now, at));
            let keep = match dice.below(3) {
                0 => 0,
                1 => SECTOR_BYTES,
                _ => dice.below(SECTOR_BYTES as u64) as usize,
            };
            let end = bytes.len().min(at + SECTOR_BYTES);
            let mixed = [&new[..keep], &old[keep..]].concat();
            bytes[at..end].copy_from_slice(&mixed[..end - at]);
        }
        bytes
    }
}

impl Disk for MemDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change("create-dir", path, "").map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner();
        let paths = inner.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.change("create", path, "")?;
        if inner.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.files.insert(path.to_owned(), MemFile::default());
        drop(inner);
        self.handle(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.handle(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.handle(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.change("rename", from, "")?;
        let file = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path, "")?.files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.change("sync-dir", dir, "")?;
        let inner = &mut *inner;
        inner.durable_names.retain(|path| path.parent() != Some(dir));
        inner.durable_names.extend(inner.files.keys().filter(|path| path.parent() == Some(dir)).cloned());
        Ok(())
    }
}

impl Handle {
    fn sync(&self) -> io::Result<()> {
        let outcome = self.disk.change("sync", &self.path, "").map(drop);
        let mut inner = self.disk.inner();
        let file = inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
        match outcome {
            Ok(()) if !file.forgotten => file.durable.clone_from(&file.now),
            Ok(()) => {}
            Err(_) => file.forgotten = true,
        }
        outcome
    }
}

impl DiskFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.inner().files[&self.path].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.inner();
        let rest = inner.files[&self.path].now.get(offset as usize..).unwrap_or_default();
        // Short reads, as a system may give.
        let len = bytes.len().min(rest.len()).min(1000);
        bytes[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let mut inner = self.disk.change("write", &self.path, &format!(" {start}..{end}"))?;
        let now = &mut inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?.now;
        now.resize(now.len().max(end), 0);
        now[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = (offset + len) as usize;
        let mut inner = self.disk.change("allocate", &self.path, &format!(" {offset}..{end}"))?;
        let now = &mut inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?.now;
        now.resize(now.len().max(end), 0);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.change("truncate", &self.path, &format!(" {len}"))?;
        inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?.now.resize(len as usize, 0);
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()?;
        let mut inner = self.disk.inner();
        let file = inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
        if std::mem::take(&mut file.forgotten) {
            file.now.clone_from(&file.durable);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

pub(super) fn identity() -> Identity {
    Identity { cluster_id: "dev".into(), node: NodeId(1), name: "n1".into() }
}

pub(super) const NOTHING_APPLIED: (Slot, HistoryHash) = (Slot::ZERO, HistoryHash(0));

/// Opens a log whose segments are `segment_bytes` long, and that keeps nothing that the store has passed.
pub(super) fn open(
    disk: &MemDisk,
    segment_bytes: u64,
    store_applied: (Slot, HistoryHash),
) -> Result<(Tlog, RecoveredLog), TlogError> {
    let options = options(segment_bytes, 0);
    Tlog::open(Arc::new(disk.clone()), Path::new("home"), identity(), options, store_applied)
}

pub(super) fn options(segment_bytes: u64, retention_bytes: u64) -> TlogOptions {
    TlogOptions {
        segment_bytes,
        retention_bytes,
        compress: true,
        #[cfg(feature = "planted-bugs")]
        planted: None,
    }
}

pub(super) fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1) }
}

pub(super) fn entry(slot: u64, round: u64, text: &[u8]) -> SlotEntry {
    let value = Value::Commands(Bytes::copy_from_slice(text));
    SlotEntry { slot: Slot(slot), entry: Entry { ballot: ballot(round), value } }
}

pub(super) fn accepted(slot: u64, round: u64, text: &[u8]) -> Record {
    Record::Accepted(entry(slot, round, text))
}

pub(super) fn regained(incarnation: u64) -> Record {
    Record::VoteRegained { incarnation: Incarnation(incarnation), genesis: vec![(NodeId(1), Incarnation(incarnation))] }
}

/// The history hash after these entries.
pub(super) fn hash_of(entries: &[SlotEntry]) -> HistoryHash {
    entries.iter().fold(HistoryHash(0), |hash, entry| hash.extend(entry.slot, &entry.entry.value))
}
