//! Heads: the store as it is at one slot on another node, on its way into a file of its own.
//!
//! The file is a store like any other, under another name and not yet said to have applied anything: `meta` has `head`
//! instead of `applied`.
//!
//! | key | value |
//! |---|---|
//! | `head` | slot, history hash, giver, entries of the whole head, entries so far, digest of their chunks |
//!
//! All are `u64`, little-endian. The last transaction, which is durable like the one after every
//! [`UNDURABLE_BYTES_MAX`], puts `applied` in its place. Then [`Store::install`] renames the file, and
//! that is when the head is installed: what a crash leaves before is the old store, with a file that can be continued.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, Table, TableError};
use trialbay_engine::{HistoryHash, NodeId, Slot};

use super::chunk;
use super::database::{
    ADMIN, APPLIED, DATA, IDENTITY, META, Store, check_identity, decode_applied, encode_applied, encode_identity,
};
use super::error::{StoreError, damaged, guarded};
use super::open::{Backend, Options, builder, named, sync_dir};
use super::reader::Snapshot;
use crate::home_disk::HomeDisk;
use crate::identity::Identity;

const HEAD: &str = "head";

/// So much of a head is written between two durable transactions, and may have to be got again after a crash.
const UNDURABLE_BYTES_MAX: usize = 64 << 20;

/// Memory for pages: they are written once, in order.
const CACHE_BYTES: usize = 32 << 20;

/// What a head is the head of. Two with the same slot and hash hold the same entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Everything up to this slot is in it.
    pub slot: Slot,
    /// The history hash there.
    pub hash: HistoryHash,
    /// How many keys there are.
    pub entries: u64,
}

/// How far a head has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which one it is.
    pub head: Head,
    /// Who gives it.
    pub giver: NodeId,
    /// Entries so far.
    pub entries: u64,
    /// The digest of the chunks that they came in.
    pub digest: u64,
    /// The last key so far.
    pub last_key: Option<Bytes>,
}

/// Why a head does not get any further.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// What the giver sends is not a head.
    #[error("{0}")]
    Broken(&'static str),
    /// Its file cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is left in a node's home of a head that was not installed.
#[derive(Debug)]
pub enum Leftover {
    /// Nothing that is of any use.
    None,
    /// A part of one.
    Part(HeadFile),
    /// A whole one.
    Whole(Head),
}

/// Where a node's store is, and whose it is.
#[derive(Clone)]
pub struct StorePlace {
    /// The disk.
    pub disk: Arc<dyn HomeDisk>,
    /// The store's file.
    pub path: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// How it is opened.
    pub options: Options,
    /// So much of a head is written between two durable transactions.
    pub undurable_bytes_max: usize,
}

/// A head that is not whole yet. All of its methods block. After an error it can only be dropped.
#[derive(Debug)]
pub struct HeadFile {
    database: Database,
    progress: Progress,
    undurable_bytes: usize,
    undurable_bytes_max: usize,
}

impl Snapshot {
    /// What this view is the head of.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn head(&self) -> Result<Head, StoreError> {
        let (slot, hash) = self.applied_hash();
        Ok(Head { slot, hash, entries: self.len()? })
    }
}

impl StorePlace {
    /// The store of this node in this file.
    pub fn new(disk: Arc<dyn HomeDisk>, path: PathBuf, identity: Identity, options: Options) -> Self {
        Self { disk, path, identity, options, undurable_bytes_max: UNDURABLE_BYTES_MAX }
    }

    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&self) -> Result<Store, StoreError> {
        Store::open(&*self.disk, &self.path, &self.identity, self.options)
    }

    /// The name of a head that is not installed.
    pub fn head_path(&self) -> PathBuf {
        named(&self.path, ".head")
    }

    /// What an earlier run or attempt has left. What cannot be used is removed.
    ///
    /// # Errors
    /// When the disk does not let it be removed.
    pub fn leftover_head(&self) -> Result<Leftover, StoreError> {
        let path = self.head_path();
        match self.disk.open_to_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Leftover::None),
            // What is on the disk counts, not what the system still has in memory of an earlier process.
            Ok(file) => file.settle().map_err(StoreError::Io)?,
            Err(error) => return Err(StoreError::Io(error)),
        }
        match guarded(|| self.read_head()) {
            Ok(leftover) => Ok(leftover),
            Err(error) => {
                tracing::info!(path = %path.display(), %error, "removed an unfinished head that is of no use");
                self.remove_head()?;
                Ok(Leftover::None)
            }
        }
    }

    /// Removes what is left of a head that a store which has applied this much does not need any more.
    ///
    /// # Errors
    /// When the disk does not let it be removed.
    pub fn tidy_head(&self, applied: Slot) -> Result<(), StoreError> {
        let slot = match self.leftover_head()? {
            Leftover::None => return Ok(()),
            Leftover::Part(part) => part.progress().head.slot,
            Leftover::Whole(head) => head.slot,
        };
        if slot <= applied { self.remove_head() } else { Ok(()) }
    }

    /// Removes a head that is not installed, if there is one.
    ///
    /// # Errors
    /// When the disk does not let it be removed.
    pub fn remove_head(&self) -> Result<(), StoreError> {
        match self.disk.remove(&self.head_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::Io(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Begins a head, in the place of any other. `admin` is what is kept beside its keys, if anything is.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn begin_head(&self, head: Head, admin: &[u8], giver: NodeId) -> Result<HeadFile, StoreError> {
        self.remove_head()?;
        self.disk.create(&self.head_path()).map_err(StoreError::Io)?;
        guarded(|| {
            let progress = Progress { head, giver, entries: 0, digest: 0, last_key: None };
            let mut file = self.head_file(self.open_head()?, progress);
            file.write(true, |_, meta| {
                meta.insert(IDENTITY, encode_identity(&self.identity).as_slice())?;
                if !admin.is_empty() {
                    meta.insert(ADMIN, admin)?;
                }
                Ok(())
            })?;
            self.sync_dir()?;
            Ok(file)
        })
    }

    /// Makes the whole head the store of a node that has none.
    ///
    /// # Errors
    /// When it cannot be given the store's name durably.
    pub fn adopt_head(&self) -> Result<(), StoreError> {
        self.disk.rename(&self.head_path(), &self.path).map_err(StoreError::Io)?;
        self.sync_dir()
    }

    /// A head in the making, or one that is whole.
    fn read_head(&self) -> Result<Leftover, StoreError> {
        let database = self.open_head()?;
        let transaction = database.begin_read().map_err(StoreError::from_redb)?;
        let meta = match transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Err(damaged("it was not begun")),
            outcome => outcome.map_err(StoreError::from_redb)?,
        };
        let data = transaction.open_table(DATA).map_err(StoreError::from_redb)?;
        let read = |key| {
            let value = meta.get_owned(key).map_err(StoreError::from_redb)?;
            Ok::<_, StoreError>(value.map(|value| value.value().to_vec()))
        };
        check_identity(&read(IDENTITY)?.ok_or_else(|| damaged("it does not say whose it is"))?, &self.identity)?;
        if let Some(applied) = read(APPLIED)? {
            let (slot, hash) = decode_applied(&applied)?;
            let entries = redb::ReadableTableMetadata::len(&data).map_err(StoreError::from_redb)?;
            return Ok(Leftover::Whole(Head { slot, hash, entries }));
        }
        let found = read(HEAD)?.ok_or_else(|| damaged("it does not say what it is"))?;
        let mut progress = decode_progress(&found).ok_or_else(|| damaged("it does not say legibly what it is"))?;
        let last = data.last().map_err(StoreError::from_redb)?;
        progress.last_key = last.map(|(key, _)| Bytes::copy_from_slice(key.value()));
        drop((data, meta, transaction));
        Ok(Leftover::Part(self.head_file(database, progress)))
    }

    fn head_file(&self, database: Database, progress: Progress) -> HeadFile {
        HeadFile { database, progress, undurable_bytes: 0, undurable_bytes_max: self.undurable_bytes_max }
    }

    fn sync_dir(&self) -> Result<(), StoreError> {
        self.path.parent().map_or(Ok(()), |dir| sync_dir(&*self.disk, dir))
    }

    fn open_head(&self) -> Result<Database, StoreError> {
        let backend = Backend(self.disk.open_database(&self.head_path()).map_err(StoreError::Io)?);
        let options = Options { cache_bytes: CACHE_BYTES, ..self.options };
        builder(options).create_with_backend(backend).map_err(StoreError::from_redb)
    }
}

impl HeadFile {
    /// How far it has got.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Adds the entries of the next chunk, which begins with the entry of this number (from 0).
    ///
    /// # Errors
    /// When it is not the next chunk, or the file cannot be written.
    pub fn put(&mut self, first: u64, bytes: &[u8]) -> Result<(), HeadError> {
        if first != self.progress.entries {
            return Err(HeadError::Broken("a chunk of a head does not follow the one before"));
        }
        let mut next = self.progress.clone();
        for entry in chunk::entries(bytes) {
            let (key, _) = entry.map_err(|_| HeadError::Broken("a chunk of a head ends inside an entry"))?;
            if next.last_key.as_ref().is_some_and(|last| key <= last.as_ref()) {
                return Err(HeadError::Broken("the keys of a head are out of order"));
            }
            next.entries += 1;
            next.last_key = Some(Bytes::copy_from_slice(key));
        }
        if next.entries == first {
            return Err(HeadError::Broken("a chunk of a head is empty"));
        }
        if next.entries > next.head.entries {
            return Err(HeadError::Broken("a head has more entries than was said"));
        }
        next.digest = chunk::digest(next.digest, bytes);
        self.progress = next;
        self.undurable_bytes += bytes.len();
        let durable = self.undurable_bytes >= self.undurable_bytes_max;
        Ok(guarded(|| {
            self.write(durable, |data, _| {
                for (key, value) in chunk::entries(bytes).map_while(Result::ok) {
                    data.insert(key, value)?;
                }
                Ok(())
            })
        })?)
    }

    /// Says that there is no more, makes the head whole and durable, and closes its file.
    ///
    /// # Errors
    /// When it is not all, or not what was sent, or the file cannot be written.
    pub fn finish(mut self, entries: u64, digest: u64) -> Result<Head, HeadError> {
        let Progress { head, entries: found, digest: computed, .. } = self.progress;
        if found != entries || found != head.entries {
            return Err(HeadError::Broken("a head ends too early"));
        }
        if computed != digest {
            return Err(HeadError::Broken("the digest of a head is another one than that of its chunks"));
        }
        let applied = encode_applied((head.slot, head.hash));
        guarded(|| {
            self.write(true, |_, meta| {
                meta.remove(HEAD)?;
                meta.insert(APPLIED, applied.as_slice())?;
                Ok(())
            })?;
            self.database.close().map_err(StoreError::from_redb)
        })?;
        Ok(head)
    }

    fn write(
        &mut self,
        durable: bool,
        work: impl FnOnce(&mut Data<'_>, &mut Meta<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let progress = encode_progress(&self.progress);
        let write = || {
            let mut transaction = self.database.begin_write()?;
            if durable {
                transaction.set_quick_repair(true);
            } else {
                transaction.set_durability(Durability::None)?;
            }
            {
                let mut data = transaction.open_table(DATA)?;
                let mut meta = transaction.open_table(META)?;
                meta.insert(HEAD, progress.as_slice())?;
                work(&mut data, &mut meta)?;
            }
            transaction.commit()?;
            Ok::<_, redb::Error>(())
        };
        write().map_err(StoreError::from_redb)?;
        if durable {
            self.undurable_bytes = 0;
        }
        Ok(())
    }
}

type Data<'t> = Table<'t, &'static [u8], &'static [u8]>;
type Meta<'t> = Table<'t, &'static str, &'static [u8]>;

/// Why a head was not installed.
#[derive(Debug, thiserror::Error)]
pub enum NotInstalled {
    /// Nothing has changed.
    #[error("{0}")]
    Refused(StoreError),
    /// The store is further than the head.
    #[error("the store has applied {applied} already, and the head is of {head}")]
    Behind {
        /// The store's slot.
        applied: Slot,
        /// The head's.
        head: Slot,
    },
    /// It may have been installed or not: the store is of no more use.
    #[error(transparent)]
    Failed(StoreError),
}

impl Store {
    /// Puts the whole head that is in `place` in the place of this store: whoever reads it sees the head from then on.
    /// Views from before cannot be read any more.
    ///
    /// # Errors
    /// When there is no head that can be installed, which is then removed. The store is what it was, unless the error says
    /// otherwise.
    pub fn install(&mut self, place: &StorePlace) -> Result<Head, NotInstalled> {
        let installed = self.try_install(place);
        if let Err(NotInstalled::Refused(_) | NotInstalled::Behind { .. }) = installed {
            // Should it stay: the next attempt comes to the same conclusion.
            let _ = place.remove_head();
        }
        installed
    }

    fn try_install(&mut self, place: &StorePlace) -> Result<Head, NotInstalled> {
        let head_path = place.head_path();
        let opened = Self::open_existing(&*place.disk, &head_path, &place.identity, place.options);
        let new = opened.map_err(NotInstalled::Refused)?;
        let head = new.reader().snapshot().and_then(|snapshot| snapshot.head()).map_err(NotInstalled::Refused)?;
        let (applied, _) = self.applied();
        if head.slot <= applied {
            return Err(NotInstalled::Behind { applied, head: head.slot });
        }
        // From here on nobody knows what a failure leaves. A store that is dropped closes itself, under any name.
        place.adopt_head().map_err(NotInstalled::Failed)?;
        self.replace_with(new);
        Ok(head)
    }
}

fn encode_progress(progress: &Progress) -> Vec<u8> {
    let Progress { head, giver, entries, digest, .. } = progress;
    let mut bytes = Vec::new();
    for number in [head.slot.0, head.hash.0, giver.0.into(), head.entries, *entries, *digest] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn decode_progress(bytes: &[u8]) -> Option<Progress> {
    let (numbers, []) = bytes.as_chunks() else { return None };
    let [slot, hash, giver, total, entries, digest] = *numbers else { return None };
    let [slot, hash, giver, total, entries, digest] =
        [slot, hash, giver, total, entries, digest].map(u64::from_le_bytes);
    let head = Head { slot: Slot(slot), hash: HistoryHash(hash), entries: total };
    let giver = NodeId(u16::try_from(giver).ok()?);
    Some(Progress { head, giver, entries, digest, last_key: None })
}
