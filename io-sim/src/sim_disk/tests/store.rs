//! A redb database on this disk, through power cuts.

use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{Builder, Database, Durability, ReadableDatabase as _, TableDefinition};

use super::*;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("data");

fn open(disk: &SimDisk) -> Result<Database, redb::DatabaseError> {
    Builder::new().create_with_backend(disk.for_process().backend(Path::new("home/db")).unwrap())
}

/// A durable database with nothing in it.
fn begin(disk: &SimDisk) -> Database {
    let database = open(disk).unwrap();
    commit(&database, 0, Durability::Immediate).unwrap();
    disk.sync_dir(Path::new("home")).unwrap();
    database
}

/// Transaction `n` puts 1 to 20 values that tell its number, over others and beside them.
fn commit(database: &Database, n: u64, durability: Durability) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    {
        let mut table = transaction.open_table(TABLE)?;
        for key in keys(n) {
            table.insert(key, &[n as u8; 300][..])?;
        }
        table.insert(u64::MAX, &n.to_le_bytes()[..])?;
    }
    Ok(transaction.commit()?)
}

fn keys(n: u64) -> impl Iterator<Item = u64> {
    (0..n % 20).map(move |key| (n * 31 + key) % 200)
}

/// The number of the last transaction, if the database is as that left it.
fn last_commit(database: &Database) -> Result<u64, redb::Error> {
    let table = database.begin_read()?.open_table(TABLE)?;
    let last = table.get(u64::MAX)?.map_or(0, |n| u64::from_le_bytes(n.value().try_into().unwrap()));
    let mut expected = std::collections::BTreeMap::new();
    for n in 1..=last {
        expected.extend(keys(n).map(|key| (key, n as u8)));
    }
    let mut found = std::collections::BTreeMap::new();
    for pair in table.range(..u64::MAX)? {
        let (key, value) = pair?;
        assert_eq!(value.value().len(), 300);
        found.insert(key.value(), value.value()[0]);
    }
    assert_eq!(found, expected, "after transaction {last}");
    Ok(last)
}

/// Commits until the disk fails or enough is done; says what was the last transaction, and the last durable one.
fn write(database: &Database, rng: &mut Rng, mut n: u64, commits: u64) -> (u64, u64) {
    let mut durable = n;
    for _ in 0..commits {
        let durability = if rng.chance(0.4) { Durability::Immediate } else { Durability::None };
        n += 1;
        if commit(database, n, durability).is_err() {
            break;
        }
        if let Durability::Immediate = durability {
            durable = n;
        }
    }
    (n, durable)
}

#[test]
fn through_power_cuts_durable_commits_survive_and_others_may_not() {
    let (mut lost, mut unfinished) = (0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        let mut rng = Rng::new(seed, 2);
        let mut database = begin(&disk);
        let mut last = 0;
        for _ in 0..3 {
            if rng.chance(0.7) {
                disk.power_fails_after(rng.below(150));
            }
            let (n, durable) = write(&database, &mut rng, last, 25);
            unfinished += u64::from(disk.is_power_out());
            if rng.chance(0.8) {
                disk.power_cut()
            } else {
                disk.kill()
            }
            let before = disk.image_hash();
            drop(database);
            assert_eq!(disk.image_hash(), before, "a dead database closes without a trace");
            database = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            last = last_commit(&database).unwrap();
            assert!((durable..=n).contains(&last), "seed {seed}: {last} is not in {durable}..={n}");
            lost += u64::from(last < n);
        }
    }
    assert!(lost > 100 && unfinished > 100, "{lost} lost something, {unfinished} died in the middle");
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let mut caught = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let database = begin(&disk);
        disk.set_syncs_lie(true);
        for n in 1..=10 {
            commit(&database, n, Durability::Immediate).unwrap();
        }
        disk.power_cut();
        drop(database);
        // Some of what is left then makes redb panic.
        let found = catch_unwind(AssertUnwindSafe(|| last_commit(&open(&disk)?)));
        caught += u64::from(!matches!(found, Ok(Ok(10))));
    }
    assert!(caught > 45, "{caught} of 50");
}

#[test]
fn a_failed_sync_or_write_costs_nothing_that_was_durable() {
    for seed in 0..60 {
        let disk = disk(seed);
        let database = begin(&disk);
        for n in 1..=seed % 7 {
            commit(&database, n, Durability::Immediate).unwrap();
        }
        let n = seed % 7 + 1;
        match seed % 3 {
            0 => disk.fail_next_sync(Path::new("home")),
            1 => disk.set_writes_fail(true),
            _ => disk.set_full(true),
        }
        let outcome = (n..n + 200).find(|n| commit(&database, *n, Durability::Immediate).is_err());
        let failed = outcome.expect("there is a failure at some point");
        disk.set_writes_fail(false);
        disk.set_full(false);
        disk.kill();
        drop(database);
        disk.open(Path::new("home/db")).unwrap().settle().unwrap();
        let last = last_commit(&open(&disk).unwrap()).unwrap();
        assert!((failed - 1..=failed).contains(&last), "seed {seed}: {last} after {failed} failed");
    }
}
