//! Reading the store while its writer writes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::{Database, OwnedRange, ReadOnlyTable, ReadableDatabase as _, ReadableTableMetadata as _};
use trialbay_engine::{HistoryHash, Slot};

use super::database::{ADMIN, APPLIED, DATA, META, decode_admin, decode_applied};
use super::error::{StoreError, damaged, guarded};
use super::range::{Direction, KeyRange};
#[cfg(feature = "planted-bugs")]
use crate::planted::PlantedBug;
use crate::update::Admin;

/// Reads the store while one writer writes it. Cheap to clone.
#[derive(Clone)]
pub struct StoreReader(Arc<Mutex<Reading>>);

/// What readers share. Under the lock nothing blocks but an open of two tables.
struct Reading {
    /// `None` once the store is closed, and while it is compacted.
    database: Option<Arc<Database>>,
    is_compacting: bool,
    /// The view after the last commit, made by the first who asked for it.
    view: Option<Arc<View>>,
    /// The slot of the head that came last.
    head: Option<Slot>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<PlantedBug>,
}

/// One consistent view of the store. Cheap to clone; while it lives, the space of what it sees cannot be used again.
#[derive(Clone)]
pub struct Snapshot(Arc<View>);

struct View {
    applied: (Slot, HistoryHash),
    admin: Admin,
    data: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// Where the planted `RangeMixed` finds newer views. A circle, until the next commit.
    #[cfg(feature = "planted-bugs")]
    newest: Option<StoreReader>,
}

/// The keys and values of a range, one after the other.
pub struct Entries(Walk);

/// The keys of a range, one after the other.
pub struct Keys(Walk);

/// `None` for a range that holds nothing.
type Walk = Option<Walking>;

struct Walking {
    range: OwnedRange<&'static [u8], &'static [u8]>,
    direction: Direction,
    /// For the planted `RangeMixed`: newer views, and what is left of the range.
    #[cfg(feature = "planted-bugs")]
    newest: Option<(StoreReader, KeyRange)>,
}

impl StoreReader {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self(Arc::new(Mutex::new(Reading {
            database: Some(database),
            is_compacting: false,
            view: None,
            head: None,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        })))
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&self, planted: Option<PlantedBug>) {
        self.lock().planted = planted;
    }

    /// The state after the last applied batch.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        // Opening a view takes longer than a read of one key, so all readers between two commits share one. It is made
        // under the lock that `forget_view` takes after a commit: no view from before the commit is found after it.
        let mut reading = self.lock();
        if let Some(view) = &reading.view {
            return Ok(Snapshot(view.clone()));
        }
        let closed = if reading.is_compacting { StoreError::Compacting } else { StoreError::Closed };
        let database = reading.database.as_ref().ok_or(closed)?;
        let view = guarded(|| View::open(database))?;
        #[cfg(feature = "planted-bugs")]
        let view = View { newest: planted!(reading.planted, RangeMixed).then(|| self.clone()), ..view };
        let view = Arc::new(view);
        reading.view = Some(view.clone());
        Ok(Snapshot(view))
    }

    /// From here on snapshots show what was committed.
    pub(super) fn forget_view(&self) {
        let forgotten = self.lock().view.take();
        // Outside the lock: to end a view takes redb's own locks.
        drop(forgotten);
    }

    /// The slot of the head that the store took last, if it took one since it was opened.
    pub fn head(&self) -> Option<Slot> {
        self.lock().head
    }

    /// From here on snapshots show another database, which came as the head of this slot.
    pub(super) fn go_over_to(&self, database: Arc<Database>, head: Slot) {
        self.lock().head = Some(head);
        self.resume(database);
    }

    /// From here on snapshots show this database.
    pub(super) fn resume(&self, database: Arc<Database>) {
        let old = {
            let mut reading = self.lock();
            reading.is_compacting = false;
            (reading.database.replace(database), reading.view.take())
        };
        drop(old);
    }

    /// Until [`StoreReader::go_over_to`] there are no new snapshots, and nothing here holds the database.
    pub(super) fn pause(&self) {
        self.lock().is_compacting = true;
        self.close();
    }

    pub(super) fn close(&self) {
        let (database, view) = {
            let mut reading = self.lock();
            (reading.database.take(), reading.view.take())
        };
        drop((database, view));
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        // What is behind the lock changes in single assignments, so that a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn open(database: &Database) -> Result<Self, StoreError> {
        let transaction = database.begin_read().map_err(StoreError::from_redb)?;
        let meta = transaction.open_table(META).map_err(StoreError::from_redb)?;
        let applied = meta.get_owned(APPLIED).map_err(StoreError::from_redb)?;
        let applied = applied.ok_or_else(|| damaged("it does not say what it has applied"))?;
        let applied = decode_applied(applied.value())?;
        let admin = meta.get_owned(ADMIN).map_err(StoreError::from_redb)?;
        let admin = decode_admin(admin.as_ref().map(|admin| admin.value()))?;
        let data = transaction.open_table(DATA).map_err(StoreError::from_redb)?;
        Ok(Self {
            applied,
            admin,
            data,
            #[cfg(feature = "planted-bugs")]
            newest: None,
        })
    }
}

impl Snapshot {
    /// The last slot applied in this view.
    ///
    /// # Errors
    /// None at present.
    pub fn applied(&self) -> Result<Slot, StoreError> {
        Ok(self.0.applied.0)
    }

    /// The last slot applied in this view, and the history hash there.
    pub(super) fn applied_hash(&self) -> (Slot, HistoryHash) {
        self.0.applied
    }

    /// What is kept beside the keys.
    pub fn admin(&self) -> &Admin {
        &self.0.admin
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.with(key, Bytes::copy_from_slice)
    }

    /// Whether there is a `key`.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.with(key, |_| ())?.is_some())
    }

    /// How many keys there are. Takes no longer for many than for few.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn len(&self) -> Result<u64, StoreError> {
        self.0.data.len().map_err(StoreError::from_redb)
    }

    /// Whether there are no keys.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// The keys of `range` with their values. Nothing is read ahead: take as many as you have room for.
    ///
    /// # Errors
    /// When the store is closed or cannot be read; so for each entry.
    pub fn range(&self, range: &KeyRange, direction: Direction) -> Result<Entries, StoreError> {
        self.walk(range, direction).map(Entries)
    }

    /// The keys of `range` alone, without copying a value.
    ///
    /// # Errors
    /// When the store is closed or cannot be read; so for each key.
    pub fn keys(&self, range: &KeyRange, direction: Direction) -> Result<Keys, StoreError> {
        self.walk(range, direction).map(Keys)
    }

    /// The keys that begin with `prefix`, ascending, with their values.
    ///
    /// # Errors
    /// When the store is closed or cannot be read; so for each entry.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        self.range(&KeyRange::prefix(prefix), Direction::Ascending)
    }

    fn with<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, StoreError> {
        guarded(|| {
            let value = self.0.data.get_owned(key).map_err(StoreError::from_redb)?;
            Ok(value.map(|value| read(value.value())))
        })
    }

    fn walk(&self, range: &KeyRange, direction: Direction) -> Result<Walk, StoreError> {
        let Some(bounds) = range.bounds() else { return Ok(None) };
        #[cfg(feature = "planted-bugs")]
        let whole = range.clone();
        let range = guarded(|| self.0.data.range_owned::<&[u8]>(bounds).map_err(StoreError::from_redb))?;
        Ok(Some(Walking {
            range,
            direction,
            #[cfg(feature = "planted-bugs")]
            newest: self.0.newest.clone().map(|newest| (newest, whole)),
        }))
    }
}

#[cfg(feature = "planted-bugs")]
impl Walking {
    /// Goes on behind `key` in the newest view.
    fn mix(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some((newest, rest)) = &mut self.newest else { return Ok(()) };
        let key = Some(Bytes::copy_from_slice(key));
        match self.direction {
            Direction::Ascending => (rest.first, rest.first_inclusive) = (key, false),
            Direction::Descending => (rest.last, rest.last_inclusive) = (key, false),
        }
        if let Some(bounds) = rest.bounds() {
            let view = newest.snapshot()?.0;
            self.range = view.data.range_owned::<&[u8]>(bounds).map_err(StoreError::from_redb)?;
        }
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<(Bytes, Bytes), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        step(&mut self.0, |key, value| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
    }
}

impl Iterator for Keys {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        step(&mut self.0, |key, _| Bytes::copy_from_slice(key))
    }
}

fn step<T>(walk: &mut Walk, copy: impl FnOnce(&[u8], &[u8]) -> T) -> Option<Result<T, StoreError>> {
    let walking = walk.as_mut()?;
    let step = guarded(|| {
        let entry = match walking.direction {
            Direction::Ascending => walking.range.next(),
            Direction::Descending => walking.range.next_back(),
        };
        let entry = entry.transpose().map_err(StoreError::from_redb)?;
        #[cfg(feature = "planted-bugs")]
        if let Some((key, _)) = &entry {
            walking.mix(key.value())?;
        }
        Ok(entry.map(|(key, value)| copy(key.value(), value.value())))
    });
    if !matches!(step, Ok(Some(_))) {
        // The end, or an error behind which there is nothing to find.
        *walk = None;
    }
    step.transpose()
}
