//! The store's one writer: opening it, applying decided values to it, closing it.
//!
//! | table | key | value |
//! |---|---|---|
//! | `data` | a client's key | its value |
//! | `meta` | `identity` | format (i32), cluster id, node name (strings as in the client protocol), node id (i32) |
//! | `meta` | `applied` | the last applied slot (u64), the history hash there (u64) |
//! | `meta` | `admin` | what is kept beside the keys (`update/nursery.rs`), if there is anything |
//!
//! Integers are little-endian. Both tables and the identity come into being in one durable transaction.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    CompactionError, Database, Durability, ReadableDatabase as _, ReadableTable, StorageError, Table, TableDefinition,
    TableHandle as _, WriteTransaction,
};
use trialbay_engine::{HistoryHash, Slot, Value};

use super::apply::{KeyValue, NotApplied, apply_command};
use super::error::{StoreError, damaged, guarded};
use super::old_values::{OLD_VALUES_BYTES_MAX, OldValues};
use super::range::KeyRange;
use super::reader::StoreReader;
use crate::extensions::Extensions;
use crate::identity::Identity;
#[cfg(feature = "planted-bugs")]
use crate::planted::PlantedBug;
use crate::update::{ADMIN_BYTES_MAX, Admin, Outcome, UpdateResult};
use crate::wire::{Reader, Writer as _};

/// The format of the tables. Another number is refused.
const FORMAT: i32 = 1;

pub(super) const DATA: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const IDENTITY: &str = "identity";
pub(super) const APPLIED: &str = "applied";
pub(super) const ADMIN: &str = "admin";

/// One decided slot.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The slot.
    pub slot: Slot,
    /// The history hash including this value.
    pub hash: HistoryHash,
    /// What was decided.
    pub value: Value,
}

/// Hears up to which slot the store is durable.
type OnDurable = Box<dyn FnMut(Slot) + Send>;

/// The store, for its one writer. All of its methods block.
///
/// Any error of a write is final: nothing can be written any more, and the process should end.
pub struct Store {
    database: Arc<Database>,
    reader: StoreReader,
    applied: (Slot, HistoryHash),
    admin: Arc<Admin>,
    old_values: OldValues,
    extensions: Extensions,
    has_undurable: bool,
    has_failed: bool,
    on_durable: Option<OnDurable>,
    /// Whether it keeps what the values do.
    pub(super) keeps_data: bool,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: Option<PlantedBug>,
}

impl Store {
    /// The store in an open database, which is made the store of `identity` if there is nothing in it.
    pub(super) fn new(database: Database, identity: &Identity) -> Result<Self, StoreError> {
        if !has_meta(&database)? {
            initialise(&database, identity)?;
        }
        let transaction = database.begin_read().map_err(StoreError::from_redb)?;
        let meta = transaction.open_table(META).map_err(StoreError::from_redb)?;
        let read = |key| meta.get_owned(key).map_err(StoreError::from_redb);
        let found = read(IDENTITY)?.ok_or_else(|| damaged("it does not say whose it is"))?;
        check_identity(found.value(), identity)?;
        let applied = read(APPLIED)?.ok_or_else(|| damaged("it does not say what it has applied"))?;
        let applied = decode_applied(applied.value())?;
        let admin = decode_admin(read(ADMIN)?.as_ref().map(|admin| admin.value()))?;
        // Both must be there from the first transaction on.
        transaction.open_table(DATA).map_err(StoreError::from_redb)?;
        drop((found, meta, transaction));
        let database = Arc::new(database);
        let reader = StoreReader::new(database.clone());
        let old_values = OldValues::new(OLD_VALUES_BYTES_MAX);
        Ok(Self {
            database,
            reader,
            applied,
            admin: Arc::new(admin),
            old_values,
            extensions: Extensions::default(),
            has_undurable: false,
            has_failed: false,
            on_durable: None,
            keeps_data: true,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        })
    }

    /// With these user functions, which updates may call.
    #[must_use]
    pub fn with_extensions(mut self, extensions: Extensions) -> Self {
        self.extensions = extensions;
        self
    }

    /// With this planted bug.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn with_planted(mut self, planted: Option<PlantedBug>) -> Self {
        self.planted = planted;
        self.reader.plant(planted);
        self
    }

    /// The last applied slot and the history hash there.
    pub fn applied(&self) -> (Slot, HistoryHash) {
        self.applied
    }

    /// Has `listener` told after each durable commit up to which slot everything is durable.
    pub fn on_durable(&mut self, listener: impl FnMut(Slot) + Send + 'static) {
        self.on_durable = Some(Box::new(listener));
    }

    /// A reader of this store, which sees what is applied from then on as well.
    pub fn reader(&self) -> StoreReader {
        self.reader.clone()
    }

    /// Applies these slots in one transaction, together with the record of what is applied. Gives, for each slot, the
    /// result of each command in its value; of a value whose bytes are not a batch, only those before the damage.
    ///
    /// Readers see all of it once this returns, and nothing before. Unless `durable`, a power cut takes the store back
    /// to an earlier slot: the log has what is missing.
    ///
    /// # Errors
    /// When the store cannot be written; nothing of the batch is then visible, and the store is of no more use.
    ///
    /// # Panics
    /// When the slots are not those that come next.
    pub fn apply(&mut self, batch: &[Decided], durable: bool) -> Result<Vec<Vec<UpdateResult>>, StoreError> {
        self.apply_for(batch, durable, |_| true)
    }

    /// As [`Store::apply`], and keeps no results of the slots (by their place in `batch`) that nobody waits for: they may
    /// be thousands of times as long as the commands.
    ///
    /// # Errors
    /// As for [`Store::apply`].
    ///
    /// # Panics
    /// As for [`Store::apply`].
    pub fn apply_for(
        &mut self,
        batch: &[Decided],
        durable: bool,
        is_awaited: impl Fn(usize) -> bool,
    ) -> Result<Vec<Vec<UpdateResult>>, StoreError> {
        let mut applied = self.applied;
        for decided in batch {
            assert_eq!(decided.slot, applied.0.next(), "slots are applied in order, each once");
            applied = (decided.slot, decided.hash);
        }
        let mut old_values = std::mem::replace(&mut self.old_values, OldValues::new(OLD_VALUES_BYTES_MAX));
        old_values.tidy();
        let apart = planted!(self.planted, AppliedApart);
        #[cfg(feature = "planted-bugs")]
        let planted = self.planted;
        let extensions = self.extensions.clone();
        let before = self.admin.clone();
        let keeps_data = self.keeps_data;
        let (results, admin) = self.write(durable || apart, |transaction| {
            let mut data = DataTable {
                table: transaction.open_table(DATA)?,
                admin: before.clone(),
                #[cfg(feature = "planted-bugs")]
                planted,
            };
            let mut results = Vec::with_capacity(batch.len());
            for (index, decided) in batch.iter().enumerate() {
                let old_values = is_awaited(index).then_some(&mut old_values);
                results.push(if keeps_data {
                    apply_value(&decided.value, &mut data, old_values, &extensions)?
                } else {
                    Vec::new()
                });
            }
            if !apart {
                write_applied(transaction, applied)?;
            }
            if !Arc::ptr_eq(&data.admin, &before) {
                transaction.open_table(META)?.insert(ADMIN, data.admin.encode().as_slice())?;
            }
            Ok((results, data.admin))
        })?;
        self.admin = admin;
        if apart {
            self.write(durable, |transaction| write_applied(transaction, applied))?;
        }
        self.old_values = old_values;
        self.applied = applied;
        Ok(results)
    }

    /// Makes everything applied so far durable. Does nothing when it is already.
    ///
    /// # Errors
    /// When the store cannot be written; it is then of no more use.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        if self.has_undurable || self.has_failed {
            self.write(true, |_| Ok(()))?;
            if let Some(listener) = &mut self.on_durable {
                listener(self.applied.0);
            }
        }
        Ok(())
    }

    /// Gives back what the file does not need; `false` when somebody reads the store, which must not be then. Everything must be
    /// durable.
    ///
    /// # Errors
    /// When the store cannot be written; it is then of no more use.
    pub fn compact(&mut self) -> Result<bool, StoreError> {
        self.reader.pause();
        let compacted = match Arc::get_mut(&mut self.database) {
            None => Ok(false),
            Some(database) => match guarded(|| Ok(database.compact())) {
                Ok(Ok(_)) => Ok(true),
                Ok(Err(CompactionError::TransactionInProgress)) => Ok(false),
                Ok(Err(error)) => Err(StoreError::from_redb(error)),
                Err(error) => Err(error),
            },
        };
        self.has_failed |= compacted.is_err();
        self.reader.resume(self.database.clone());
        compacted
    }

    /// Makes everything durable and closes the file; snapshots that are still about cannot be read any more.
    ///
    /// # Errors
    /// When the store cannot be written. The file is whole nevertheless, as of its last durable commit.
    pub fn close(mut self) -> Result<(), StoreError> {
        let flushed = self.flush();
        self.reader.close();
        // Readers borrow the database only under their lock, so nobody else has it now.
        let closed =
            Arc::into_inner(self.database).map_or(Ok(()), |database| database.close().map_err(StoreError::from_redb));
        flushed.and(closed)
    }

    /// Leaves the file as of its last durable commit, for a store that must not get ahead of its log. The file stays
    /// locked and its memory taken until the process ends: to drop redb's database would make all of it durable.
    pub fn abandon(self) {
        std::mem::forget(self.database);
    }

    /// Becomes another store. Readers of this one read that one from now on.
    pub(super) fn replace_with(&mut self, new: Self) {
        let Self { database, applied, admin, .. } = new;
        new.reader.close();
        let old = std::mem::replace(&mut self.database, database);
        self.reader.go_over_to(self.database.clone(), applied.0);
        (self.applied, self.admin) = (applied, admin);
        (self.has_undurable, self.has_failed) = (false, false);
        // Nobody else has it: its file has no name any more, and its space is free once it is closed.
        drop(old);
        if let Some(listener) = &mut self.on_durable {
            listener(applied.0);
        }
    }

    /// Runs `work` in a transaction and commits it.
    fn write<R>(
        &mut self,
        durable: bool,
        work: impl FnOnce(&WriteTransaction) -> Result<R, Unwritten>,
    ) -> Result<R, StoreError> {
        if self.has_failed {
            return Err(StoreError::Failed);
        }
        // Until the commit has succeeded: also if it panics.
        self.has_failed = true;
        let result = write(&self.database, durable, work)?;
        self.reader.forget_view();
        self.has_failed = false;
        self.has_undurable = !durable;
        Ok(result)
    }
}

/// Why a transaction was not committed.
enum Unwritten {
    Redb(redb::Error),
    UnknownFunction { name: Bytes },
}

impl<E: Into<redb::Error>> From<E> for Unwritten {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl From<NotApplied<StorageError>> for Unwritten {
    fn from(why: NotApplied<StorageError>) -> Self {
        match why {
            NotApplied::Map(error) => error.into(),
            NotApplied::UnknownFunction { name } => Self::UnknownFunction { name },
        }
    }
}

impl From<Unwritten> for StoreError {
    fn from(why: Unwritten) -> Self {
        match why {
            Unwritten::Redb(error) => Self::from_redb(error),
            Unwritten::UnknownFunction { name } => {
                Self::UnknownFunction { name: String::from_utf8_lossy(&name).into_owned() }
            }
        }
    }
}

fn write<R>(
    database: &Database,
    durable: bool,
    work: impl FnOnce(&WriteTransaction) -> Result<R, Unwritten>,
) -> Result<R, Unwritten> {
    let mut transaction = database.begin_write()?;
    if durable {
        // With it, a store that comes back after a kill need not be walked from end to end.
        transaction.set_quick_repair(true);
    } else {
        transaction.set_durability(Durability::None)?;
    }
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// Gives the results if there are `old_values` to hold what is long in them.
fn apply_value(
    value: &Value,
    data: &mut DataTable<'_>,
    mut old_values: Option<&mut OldValues>,
    extensions: &Extensions,
) -> Result<Vec<UpdateResult>, NotApplied<StorageError>> {
    let mut results = Vec::new();
    // Of a malformed batch, every node applies the commands before the damage: it is in the log of all of them.
    for command in value.commands().map_while(Result::ok) {
        let result = apply_command(command, data, extensions)?;
        if let Some(old_values) = &mut old_values {
            results.push(result.map(|outcome| held(outcome, old_values)));
        }
    }
    Ok(results)
}

fn held(outcome: Outcome, old_values: &mut OldValues) -> Outcome {
    match outcome {
        Outcome::Previous(Some(value)) => {
            old_values.hold(value).map_or(Outcome::PreviousUntold, |value| Outcome::Previous(Some(value)))
        }
        Outcome::Returned(Some(value)) => {
            old_values.hold(value).map_or(Outcome::PreviousUntold, |value| Outcome::Returned(Some(value)))
        }
        other => other,
    }
}

fn has_meta(database: &Database) -> Result<bool, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::from_redb)?;
    let tables: Vec<_> = transaction.list_tables().map_err(StoreError::from_redb)?.collect();
    let has_meta = tables.iter().any(|table| table.name() == META.name());
    if has_meta || tables.is_empty() { Ok(has_meta) } else { Err(damaged("it is a redb file, but not a store")) }
}

fn initialise(database: &Database, identity: &Identity) -> Result<(), StoreError> {
    write(database, true, |transaction| {
        transaction.open_table(DATA)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(IDENTITY, encode_identity(identity).as_slice())?;
        meta.insert(APPLIED, encode_applied((Slot::ZERO, HistoryHash::default())).as_slice())?;
        Ok(())
    })
    .map_err(StoreError::from)
}

fn write_applied(transaction: &WriteTransaction, applied: (Slot, HistoryHash)) -> Result<(), Unwritten> {
    transaction.open_table(META)?.insert(APPLIED, encode_applied(applied).as_slice())?;
    Ok(())
}

pub(super) fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::new();
    out.i32(FORMAT);
    out.string(identity.cluster_id.as_bytes());
    out.string(identity.name.as_bytes());
    out.i32(identity.node.0.into());
    out
}

pub(super) fn check_identity(bytes: &[u8], expected: &Identity) -> Result<(), StoreError> {
    let mut reader = Reader(Bytes::copy_from_slice(bytes));
    let unreadable = |_| damaged("it does not say legibly whose it is");
    let format = reader.i32().map_err(unreadable)?;
    if format != FORMAT {
        return Err(StoreError::Format { found: format, known: FORMAT });
    }
    let cluster_id = reader.string().map_err(unreadable)?;
    let node_name = reader.string().map_err(unreadable)?;
    let node = reader.i32().map_err(unreadable)?;
    if cluster_id != expected.cluster_id {
        let found = String::from_utf8_lossy(&cluster_id).into_owned();
        return Err(StoreError::OtherCluster { found, expected: expected.cluster_id.clone() });
    }
    if node_name != expected.name || node != i32::from(expected.node.0) {
        let found = format!("{:?} (number {node})", String::from_utf8_lossy(&node_name));
        let expected = format!("{:?} (number {})", expected.name, expected.node.0);
        return Err(StoreError::OtherNode { found, expected });
    }
    Ok(())
}

pub(super) fn encode_applied((slot, hash): (Slot, HistoryHash)) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&slot.0.to_le_bytes());
    bytes[8..].copy_from_slice(&hash.0.to_le_bytes());
    bytes
}

pub(super) fn decode_applied(bytes: &[u8]) -> Result<(Slot, HistoryHash), StoreError> {
    match bytes.as_chunks() {
        ([slot, hash], []) => Ok((Slot(u64::from_le_bytes(*slot)), HistoryHash(u64::from_le_bytes(*hash)))),
        _ => Err(damaged("it does not say legibly what it has applied")),
    }
}

/// What is kept beside the keys; nothing when nobody ever changed it.
pub(super) fn decode_admin(bytes: Option<&[u8]>) -> Result<Admin, StoreError> {
    let illegible = |_| damaged("it does not say legibly what is kept beside the keys");
    bytes.map_or(Ok(Admin::default()), |bytes| Admin::decode(bytes).map_err(illegible))
}

/// Whether bytes from elsewhere are what is kept beside the keys, or nothing.
pub fn is_admin(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.len() <= ADMIN_BYTES_MAX && decode_admin(Some(bytes)).is_ok()
}

/// The clients' keys, as updates change them.
struct DataTable<'t> {
    table: Table<'t, &'static [u8], &'static [u8]>,
    admin: Arc<Admin>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<PlantedBug>,
}

impl KeyValue for DataTable<'_> {
    type Error = StorageError;

    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<PlantedBug> {
        self.planted
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn contains(&self, key: &[u8]) -> Result<bool, StorageError> {
        Ok(self.table.get(key)?.is_some())
    }

    fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, StorageError> {
        Ok(self.table.get(key)?.is_some_and(|found| found.value() == value))
    }

    fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let bounds = (Bound::Included(from), Bound::<&[u8]>::Unbounded);
        let next = self.table.range::<&[u8]>(bounds)?.next().transpose()?;
        Ok(next.map(|(key, _)| Bytes::copy_from_slice(key.value())))
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.table.insert(key, value).map(drop)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StorageError> {
        self.table.remove(key).map(drop)
    }

    fn admin(&self) -> &Arc<Admin> {
        &self.admin
    }

    fn set_admin(&mut self, admin: Arc<Admin>) {
        self.admin = admin;
    }

    fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, StorageError> {
        let range = KeyRange::prefix(prefix);
        let bounds = range.bounds().expect("a prefix is within its own bounds");
        let mut count = 0;
        self.table.retain_in::<&[u8], _>(bounds, |_, _| {
            count += 1;
            false
        })?;
        Ok(count)
    }
}
