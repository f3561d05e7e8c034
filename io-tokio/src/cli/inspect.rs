//! `trialbay cluster inspect`: whether the stores of all nodes hold the same.
//!
//! Every node gives a backup of its store, as of whatever slot it has applied. They are read to the end, and hashed, only if
//! they are all of the same slot; otherwise the nodes are asked again. Nothing is kept.

use std::io::{self, BufReader};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::args::Output;
use super::cluster::{NODE_WAIT_MAX, table};
use super::exit::ExitCode;
use crate::backup::{BackupError, BackupReader, Manifest};
use crate::client::{Client, ClientError, NodeReport};

/// Between two attempts. Slaves learn of the last slot within 200 ms.
const PAUSE: Duration = Duration::from_millis(100);

/// One node, and what was found out about it.
struct Row {
    name: String,
    endpoint: String,
    found: Found,
}

enum Found {
    Whole(Manifest),
    /// It was at this slot when it was asked last, and others were not.
    At(u64),
    /// It has no data.
    Witness,
    Failed(String),
}

pub(crate) async fn run(client: &Client, timeout: Duration, output: Output, out: &mut Vec<u8>) -> ExitCode {
    let deadline = Instant::now() + timeout;
    let names: Vec<_> = client.options().endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    let reports = client.with_timeout(timeout.min(NODE_WAIT_MAX)).cluster_status().await;
    let asked: Vec<&str> = reports.iter().filter_map(|report| left_out(report).err()).collect();
    let opened = loop {
        let opened = open_all(client, &asked).await;
        if opened.iter().all(Result::is_ok) && are_of_one_slot(&opened) || Instant::now() >= deadline {
            break opened;
        }
        drop(opened);
        tokio::time::sleep(PAUSE).await;
    };
    let is_common = are_of_one_slot(&opened);
    let mut opened = opened.into_iter();
    let mut rows = Vec::new();
    for (name, report) in names.into_iter().zip(&reports) {
        let found = match left_out(report) {
            Ok(found) => found,
            Err(_) => match opened.next() {
                Some(Ok(opened)) if is_common => opened.read().await,
                Some(Ok(opened)) => Found::At(opened.slot),
                Some(Err(error)) => Found::Failed(error.to_string()),
                None => Found::Failed("it was not asked".to_owned()),
            },
        };
        let name = report.status.as_ref().map_or_else(|_| name.unwrap_or("-".to_owned()), |status| status.node.clone());
        rows.push(Row { name, endpoint: report.endpoint.clone(), found });
    }
    let (exit, verdict) = judge(&rows);
    let text = match output {
        Output::Text => format!("{}\n{verdict}\n", text(&rows)),
        Output::Json => {
            let nodes: Vec<Value> = rows.iter().map(json).collect();
            json!({ "same": exit == ExitCode::Ok, "verdict": verdict, "nodes": nodes }).to_string() + "\n"
        }
    };
    out.extend_from_slice(text.as_bytes());
    exit
}

/// What is known of a node that need not be asked; otherwise where it is.
fn left_out(report: &NodeReport) -> Result<Found, &str> {
    match &report.status {
        Err(error) => Ok(Found::Failed(error.to_string())),
        Ok(status) if status.role == "witness" => Ok(Found::Witness),
        Ok(_) => Err(&report.endpoint),
    }
}

/// A backup of which the header was read. Dropped, it is given up.
struct Opened {
    slot: u64,
    go_on: mpsc::Sender<()>,
    reading: JoinHandle<Result<Manifest, BackupError>>,
    copying: JoinHandle<Result<u64, ClientError>>,
}

/// Asks all of these nodes at the same time. Of those that give nothing: why.
async fn open_all(client: &Client, endpoints: &[&str]) -> Vec<Result<Opened, String>> {
    let open = |endpoint: &&str| tokio::spawn(Opened::begin(client.clone(), (*endpoint).to_owned()));
    let opening: Vec<_> = endpoints.iter().map(open).collect();
    let mut opened = Vec::new();
    for one in opening {
        opened.push(one.await.unwrap_or_else(|error| Err(error.to_string())));
    }
    opened
}

fn are_of_one_slot(opened: &[Result<Opened, String>]) -> bool {
    let mut slots = opened.iter().flatten().map(|opened| opened.slot);
    slots.next().is_none_or(|first| slots.all(|slot| slot == first))
}

impl Opened {
    async fn begin(client: Client, endpoint: String) -> Result<Self, String> {
        let (from, to) = io::pipe().map_err(|error| error.to_string())?;
        let mut to = pipe::Sender::from_owned_fd(to.into()).map_err(|error| error.to_string())?;
        let copying = tokio::spawn(async move { client.backup(&endpoint, &mut to, |_, _| ()).await });
        let (told, header) = oneshot::channel();
        let (go_on, wait) = mpsc::channel();
        let reading = tokio::task::spawn_blocking(move || {
            let mut backup = BackupReader::begin(BufReader::new(from))?;
            // Where nobody hears it, nobody waits for what follows either.
            let _ = told.send(backup.head().slot.0);
            wait.recv().map_err(|_| BackupError::Io(io::ErrorKind::Interrupted.into()))?;
            while backup.next_block()?.is_some() {}
            Ok(backup.manifest())
        });
        match header.await {
            Ok(slot) => Ok(Self { slot, go_on, reading, copying }),
            Err(_) => read_to_its_end(reading, copying).await.and(Err("it ended within its header".to_owned())),
        }
    }

    async fn read(self) -> Found {
        // If the reader has ended already, it says why.
        let _ = self.go_on.send(());
        read_to_its_end(self.reading, self.copying).await.map_or_else(Found::Failed, Found::Whole)
    }
}

/// An end that came too early has its reason on the other side of the pipe.
async fn read_to_its_end(
    reading: JoinHandle<Result<Manifest, BackupError>>,
    copying: JoinHandle<Result<u64, ClientError>>,
) -> Result<Manifest, String> {
    let error = match reading.await {
        Ok(Ok(manifest)) => return Ok(manifest),
        Ok(Err(error)) => error,
        Err(panic) => return Err(panic.to_string()),
    };
    match (error, copying.await) {
        (BackupError::Truncated(_) | BackupError::NotABackup, Ok(Err(error))) => Err(error.to_string()),
        (error, _) => Err(error.to_string()),
    }
}

/// What is to be said of all of them.
fn judge(rows: &[Row]) -> (ExitCode, String) {
    let names = |is: &dyn Fn(&Found) -> bool| {
        let named: Vec<&str> = rows.iter().filter(|row| is(&row.found)).map(|row| row.name.as_str()).collect();
        named.join(", ")
    };
    let whole: Vec<&Manifest> = rows.iter().filter_map(|row| row.found.manifest()).collect();
    let missing = names(&|found| matches!(found, Found::Failed(_)));
    let Some(first) = whole.first() else {
        let moving = names(&|found| matches!(found, Found::At(_)));
        return match moving.as_str() {
            "" => (ExitCode::Unreachable, "no store could be read".to_owned()),
            moving => {
                let verdict = format!(
                    "{moving} were never asked at the same slot, so their stores were not compared: updates come in too fast; try again \
                     when there are fewer, or with a longer --timeout"
                );
                (ExitCode::Refused, verdict)
            }
        };
    };
    let what = |manifest: &Manifest| (manifest.slot, manifest.history_hash.clone(), manifest.content_hash.clone());
    let compared = names(&|found| found.manifest().is_some());
    if whole.iter().any(|manifest| what(manifest) != what(first)) {
        let verdict =
            format!("the stores of {compared} DIFFER at slot {}: keep their homes, and report it", first.slot);
        return (ExitCode::HistoryDiverged, verdict);
    }
    let same = format!("the stores of {compared} are the same at slot {}", first.slot);
    match missing.as_str() {
        "" => (ExitCode::Ok, same),
        missing => (ExitCode::Other, format!("{same}; not compared: {missing}")),
    }
}

impl Found {
    fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Whole(manifest) => Some(manifest),
            Self::At(_) | Self::Witness | Self::Failed(_) => None,
        }
    }
}

fn text(rows: &[Row]) -> String {
    let mut shown = vec![["NODE", "SLOT", "KEYS", "HISTORY", "CONTENT", "ADDRESS"].map(str::to_owned)];
    for Row { name, endpoint, found } in rows {
        let none = || "-".to_owned();
        let [slot, keys, history, content] = match found {
            Found::Whole(Manifest { slot, entries, history_hash, content_hash, .. }) => {
                [slot.to_string(), entries.to_string(), history_hash.clone(), content_hash.clone()]
            }
            Found::At(slot) => [slot.to_string(), none(), none(), none()],
            Found::Witness => [none(), none(), none(), "a witness has none".to_owned()],
            Found::Failed(why) => [none(), none(), none(), why.clone()],
        };
        shown.push([name.clone(), slot, keys, history, content, endpoint.clone()]);
    }
    table(&shown)
}

fn json(row: &Row) -> Value {
    let mut shown = match &row.found {
        Found::Whole(manifest) => json!(manifest),
        Found::At(slot) => json!({ "slot": slot }),
        Found::Witness => json!({ "witness": true }),
        Found::Failed(why) => json!({ "error": why }),
    };
    shown["node"] = json!(row.name);
    shown["address"] = json!(row.endpoint);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, found: Found) -> Row {
        Row { name: name.to_owned(), endpoint: "h:1".to_owned(), found }
    }

    fn whole(slot: u64, history: &str, content: &str) -> Found {
        Found::Whole(Manifest {
            cluster_id: "c".to_owned(),
            slot,
            history_hash: history.to_owned(),
            entries: 1,
            content_hash: content.to_owned(),
            bytes: 1,
        })
    }

    fn judged(rows: Vec<Found>) -> (ExitCode, String) {
        judge(&rows.into_iter().zip(["n1", "n2", "n3"]).map(|(found, name)| row(name, found)).collect::<Vec<_>>())
    }

    #[test]
    fn stores_are_the_same_only_if_all_of_them_were_read_and_are() {
        let failed = || Found::Failed("refused".to_owned());
        let (exit, verdict) = judged(vec![whole(7, "h", "c"), Found::Witness, whole(7, "h", "c")]);
        assert_eq!((exit, verdict.as_str()), (ExitCode::Ok, "the stores of n1, n3 are the same at slot 7"));
        let (exit, verdict) = judged(vec![whole(7, "h", "c"), whole(7, "h", "c"), failed()]);
        assert_eq!(exit, ExitCode::Other);
        assert_eq!(verdict, "the stores of n1, n2 are the same at slot 7; not compared: n3");
        for other in [whole(7, "h", "d"), whole(7, "i", "c")] {
            let (exit, verdict) = judged(vec![whole(7, "h", "c"), other, failed()]);
            assert_eq!(exit, ExitCode::HistoryDiverged);
            assert!(verdict.starts_with("the stores of n1, n2 DIFFER at slot 7"), "{verdict}");
        }
        let (exit, verdict) = judged(vec![Found::At(7), Found::At(8), failed()]);
        assert_eq!(exit, ExitCode::Refused);
        assert!(verdict.starts_with("n1, n2 were never asked at the same slot"), "{verdict}");
        assert_eq!(judged(vec![failed(), failed()]).0, ExitCode::Unreachable);
    }
}
