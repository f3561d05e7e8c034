//! `trialbay tlog`: the transaction log of a node that does not run.

use std::io::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use trialbay_engine::{Record, Slot};

use super::args::{Global, Output};
use super::cluster::table;
use super::describe::Style;
use super::exit::{ExitCode, Failure};
use super::files::{HomeArgs, applied, printer, unless_unread};
use crate::stopped::StoppedHome;
use crate::tlog::{Inspection, Logged, SegmentView};

#[derive(Subcommand, Debug)]
pub(crate) enum TlogCommand {
    /// Show the segments of a log, and what a start would make of it.
    #[command(after_help = "Example:\n  trialbay tlog inspect /var/lib/trialbay/n1")]
    Inspect(HomeArgs),
    /// Print every record of a log, one a line: segment, byte, what it says.
    ///
    /// Keys are escaped as by `range`. With -o json there is an object a line.
    #[command(after_help = "Examples:\n  trialbay tlog dump /var/lib/trialbay/n1\n  \
                            trialbay tlog dump /var/lib/trialbay/n1 --from-slot 1000 --to-slot 1010 --values")]
    Dump(DumpArgs),
    /// Read a log from end to end, and say what is damaged and what a node does about it.
    ///
    /// Exit code 15 when anything is. An unfinished write at the end, as a power cut leaves it, is no damage.
    #[command(after_help = "Example:\n  trialbay tlog verify /var/lib/trialbay/n1")]
    Verify(HomeArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Only what was accepted in this slot or a later one.
    #[arg(long, value_name = "SLOT")]
    from_slot: Option<u64>,
    /// Only what was accepted in this slot or an earlier one.
    #[arg(long, value_name = "SLOT")]
    to_slot: Option<u64>,
    /// Print values, not only how long they are.
    #[arg(long)]
    values: bool,
}

pub(crate) fn run(command: &TlogCommand, global: &Global, out: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    match command {
        TlogCommand::Inspect(home) => {
            let found = Found::in_home(home)?;
            let text = match global.output {
                Output::Json => found.json().to_string() + "\n",
                Output::Text => found.table() + "\n" + &found.verdict(),
            };
            out.extend_from_slice(text.as_bytes());
            Ok(ExitCode::Ok)
        }
        TlogCommand::Verify(home) => {
            let found = Found::in_home(home)?;
            let text = match global.output {
                Output::Json => found.json().to_string() + "\n",
                Output::Text => found.verdict(),
            };
            out.extend_from_slice(text.as_bytes());
            Ok(if found.inspection.log.damage.is_empty() { ExitCode::Ok } else { ExitCode::StorageFailed })
        }
        TlogCommand::Dump(args) => {
            dump(args, global)?;
            Ok(ExitCode::Ok)
        }
    }
}

fn dump(args: &DumpArgs, global: &Global) -> Result<(), Failure> {
    let home = args.home.open()?;
    let style = Style { form: global.form(), values: args.values };
    let mut out = printer();
    let is_wanted = |logged: &Logged| match (args.from_slot, args.to_slot, logged) {
        (None, None, _) => true,
        (from, to, Logged::Record(Record::Accepted(entry))) => {
            from.is_none_or(|from| entry.slot.0 >= from) && to.is_none_or(|to| entry.slot.0 <= to)
        }
        _ => false,
    };
    unless_unread(home.log()?.records(&mut |segment, byte, logged| match (is_wanted(&logged), global.output) {
        (false, _) => Ok(()),
        (true, Output::Text) => writeln!(out, "{segment:03}:{byte} {}", style.text(&logged)),
        (true, Output::Json) => {
            let mut line = style.json(&logged);
            line.insert("segment".to_owned(), json!(segment));
            line.insert("byte".to_owned(), json!(byte));
            writeln!(out, "{}", Value::Object(line))
        }
    }))?;
    match out.flush() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitCode::Other, format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// What was found in a home.
struct Found {
    home: StoppedHome,
    /// What the store has applied, or why it cannot be read.
    store: Result<Slot, String>,
    inspection: Inspection,
}

impl Found {
    fn in_home(args: &HomeArgs) -> Result<Self, Failure> {
        let home = args.open()?;
        let store = home.store(false);
        let applied = applied(store.as_ref().ok().and_then(Option::as_ref));
        let store = store.map(|_| applied.0).map_err(|error| error.to_string());
        let inspection = home.log()?.inspect(applied)?;
        Ok(Self { home, store, inspection })
    }

    fn table(&self) -> String {
        let mut rows =
            vec![["SEGMENT", "FORM", "SLOTS", "RECORDS", "BYTES", "ON DISK", "SEALED", "DAMAGE"].map(str::to_owned)];
        for view in &self.inspection.segments {
            let SegmentView { segment, is_compressed, file_bytes, bytes, records, slots, is_sealed, damage } = view;
            rows.push([
                format!("{segment:03}"),
                if *is_compressed { "tlx" } else { "tlog" }.to_owned(),
                slots.map_or("-".to_owned(), |(first, last)| format!("{}-{}", first.0, last.0)),
                records.to_string(),
                bytes.map_or("?".to_owned(), |bytes| bytes.to_string()),
                file_bytes.to_string(),
                if *is_sealed { "yes" } else { "no" }.to_owned(),
                damage.to_string(),
            ]);
        }
        table(&rows)
    }

    fn verdict(&self) -> String {
        let recovered = &self.inspection.log.recovered;
        let store = match &self.store {
            Ok(applied) => format!("its store has applied slot {}", applied.0),
            Err(why) => format!("{why}; the log is judged as that of a node without one"),
        };
        let mut lines = vec![
            format!("log of: {}", self.home.identity()),
            format!("store: {store}"),
            format!("promised: {}", recovered.promised),
            format!("known to be decided: up to slot {}", recovered.decided_upto.0),
        ];
        lines.extend(self.inspection.log.damage.iter().map(|damage| format!("damage: {damage}")));
        lines.extend(self.inspection.log.notes.iter().map(|note| format!("note, at its next start: {note}")));
        lines.push(format!("vote: {}", self.vote().1));
        lines.join("\n") + "\n"
    }

    /// What becomes of the vote of a node that starts here: a word, and what the node does.
    fn vote(&self) -> (&'static str, &'static str) {
        let log = &self.inspection.log;
        match (&log.recovered.memory, log.damage.is_empty()) {
            (Some(memory), true) if memory.votes => ("kept", "kept"),
            (Some(memory), false) if memory.votes => (
                "kept",
                "kept, for nothing that is lost can matter; what is damaged stays, and is listed at each start",
            ),
            (Some(_), _) => ("none", "none yet: the node has not heard of its first master, or is a learner"),
            (None, true) => ("none", "none yet, as before the first start: the node asks all other voters"),
            (None, false) => (
                "lost",
                "lost: the node begins a new life, follows its master, gets from the others what it lacks, and votes again once \
                 all other voters have answered it",
            ),
        }
    }

    fn json(&self) -> Value {
        let Inspection { segments, log, .. } = &self.inspection;
        let identity = self.home.identity();
        let segments = segments.iter().map(|view| {
            json!({
                "segment": view.segment,
                "compressed": view.is_compressed,
                "first_slot": view.slots.map(|(first, _)| first.0),
                "last_slot": view.slots.map(|(_, last)| last.0),
                "records": view.records,
                "bytes": view.bytes,
                "file_bytes": view.file_bytes,
                "sealed": view.is_sealed,
                "damage": view.damage,
            })
        });
        let damage = log.damage.iter().map(|damage| {
            let (segment, byte) = damage.place().unzip();
            json!({ "segment": segment, "byte": byte.flatten(), "message": damage.to_string() })
        });
        json!({
            "cluster_id": identity.cluster_id,
            "node": identity.name,
            "id": identity.node.0,
            "store_applied": self.store.as_ref().ok().map(|slot| slot.0),
            "store_error": self.store.as_ref().err(),
            "promised": log.recovered.promised.to_string(),
            "decided_upto": log.recovered.decided_upto.0,
            "vote": self.vote().0,
            "segments": segments.collect::<Vec<_>>(),
            "damage": damage.collect::<Vec<_>>(),
            "notes": log.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}
