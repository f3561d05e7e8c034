//! `trialbay store`: the store of a node that does not run.

use std::ffi::OsString;
use std::io::Write as _;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{Global, Output};
use super::exit::{ExitCode, Failure};
use super::files::{HomeArgs, printer};
use crate::backup::content_hash;
use crate::stopped::StoppedHome;
use crate::store::{Chunk, Direction, KeyRange, Snapshot, Store, StoreError, digest};

#[derive(Subcommand, Debug)]
pub(crate) enum StoreCommand {
    /// Print the keys and values of a store in order, one `key<TAB>value` a line, escaped as by `range`.
    ///
    /// With -o json there is an object a line. What is in the log and not yet in the store is missing.
    #[command(after_help = "Examples:\n  trialbay store dump /var/lib/trialbay/n1\n  \
                            trialbay store dump /var/lib/trialbay/n1 --first user/ --last user0 --keys-only")]
    Dump(DumpArgs),
    /// Read a store from end to end: every page with its checksum, every key, whose it is and what it has applied.
    ///
    /// Exit code 15 when it is damaged, or there is none.
    #[command(after_help = "Example:\n  trialbay store verify /var/lib/trialbay/n1")]
    Verify(HomeArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// The smallest key; without it, the range has no lower end.
    #[arg(long, value_name = "KEY")]
    first: Option<OsString>,
    /// The largest key; without it, the range has no upper end.
    #[arg(long, value_name = "KEY")]
    last: Option<OsString>,
    /// Keys without their values.
    #[arg(long)]
    keys_only: bool,
}

pub(crate) fn run(command: &StoreCommand, global: &Global, out: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    match command {
        StoreCommand::Dump(args) => dump(args, global)?,
        StoreCommand::Verify(home) => verify(home, global.output, out)?,
    }
    Ok(ExitCode::Ok)
}

fn dump(args: &DumpArgs, global: &Global) -> Result<(), Failure> {
    let home = args.home.open()?;
    let store = store(&args.home, &home, false)?;
    let snapshot = store.reader().snapshot()?;
    let form = global.form();
    let bound = |key: &Option<OsString>| key.as_ref().map(|key| form.read(key)).transpose();
    let range = KeyRange { first: bound(&args.first)?, last: bound(&args.last)?, ..KeyRange::all() };
    let mut out = printer();
    let mut print = |key: &Bytes, value: Option<&Bytes>| match (global.output, value) {
        (Output::Text, None) => writeln!(out, "{}", form.show(key)),
        (Output::Text, Some(value)) => writeln!(out, "{}\t{}", form.show(key), form.show(value)),
        (Output::Json, None) => writeln!(out, "{}", json!({ "key": form.json(key) })),
        (Output::Json, Some(value)) => writeln!(out, "{}", json!({ "key": form.json(key), "value": form.json(value) })),
    };
    let printed = match args.keys_only {
        true => print_all(snapshot.keys(&range, Direction::Ascending)?, |key| print(key, None)),
        false => print_all(snapshot.range(&range, Direction::Ascending)?, |(key, value)| print(key, Some(value))),
    }?;
    match printed.and_then(|()| out.flush()) {
        // Whoever reads our output has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitCode::Other, format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Stops at the first that cannot be read, or cannot be printed.
fn print_all<T>(
    all: impl Iterator<Item = Result<T, StoreError>>,
    mut print: impl FnMut(&T) -> std::io::Result<()>,
) -> Result<std::io::Result<()>, StoreError> {
    for one in all {
        if let Err(error) = print(&one?) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn verify(args: &HomeArgs, output: Output, out: &mut Vec<u8>) -> Result<(), Failure> {
    let home = args.open()?;
    let store = store(args, &home, true)?;
    let (slot, hash) = store.applied();
    let (keys, content) = read_all(&store.reader().snapshot()?)?;
    let identity = home.identity();
    let line = match output {
        Output::Text => format!(
            "{keys} keys of {identity}, applied up to slot {}, history hash {hash:?}, content hash {content:016x}: whole",
            slot.0
        ),
        Output::Json => json!({
            "cluster_id": identity.cluster_id,
            "node": identity.name,
            "id": identity.node.0,
            "keys": keys,
            "applied": slot.0,
            "history_hash": format!("{hash:?}"),
            "content_hash": format!("{content:016x}"),
        })
        .to_string(),
    };
    writeln!(out, "{line}").expect("memory can be written");
    Ok(())
}

/// How many keys there are, and a hash over all that there is.
fn read_all(snapshot: &Snapshot) -> Result<(u64, u64), StoreError> {
    let (mut keys, mut hash, mut after) = (0, 0, None);
    loop {
        let Chunk { entries, bytes, last_key } = snapshot.chunk(after.as_ref())?;
        if last_key.is_none() {
            break;
        }
        keys += entries;
        hash = digest(hash, &bytes);
        after = last_key;
    }
    if keys != snapshot.len()? {
        let why = format!("it says that it has {} keys, and {keys} were found", snapshot.len()?);
        return Err(StoreError::Damaged { why });
    }
    Ok((keys, content_hash(hash, &snapshot.admin().record())))
}

fn store(args: &HomeArgs, home: &StoppedHome, checks: bool) -> Result<Store, Failure> {
    home.store(checks)?.ok_or_else(|| Failure::new(ExitCode::StorageFailed, format!("{} has no store", args.path())))
}
