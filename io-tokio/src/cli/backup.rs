//! `trialbay backup`: the store of a running node in a file, and whether such a file is whole.

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{Environment, Global, Output};
use super::exit::{ExitCode, Failure};
use super::progress::Progress;
use crate::backup::{BackupError, Manifest, verify};
use crate::client::{Client, ClientError};

/// While a backup is made, its file has this behind its name.
const UNFINISHED: &str = "partial";

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  trialbay backup today.backup\n  trialbay backup today.backup --from 10.0.0.2:4000\n  trialbay backup verify today.backup"
)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// Where the backup goes. There must be no such file.
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// The node to ask; otherwise the endpoints one after the other, until one gives a backup.
    #[arg(long, value_name = "HOST:PORT")]
    from: Option<String>,
}

#[derive(Subcommand, Debug)]
enum BackupCommand {
    /// Read a backup to its end, and check that it is whole. No node is asked.
    ///
    /// Exit code 15 when it is not.
    #[command(after_help = "Example:\n  trialbay backup verify today.backup")]
    Verify {
        /// The backup.
        file: PathBuf,
    },
}

pub(crate) async fn run(
    args: BackupArgs,
    global: &Global,
    environment: Environment<'_>,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let manifest = match (args.command, args.file) {
        (Some(BackupCommand::Verify { file }), _) => verified(&file)?,
        (None, Some(file)) => make(&global.client(environment)?, args.from.as_deref(), &file).await?,
        (None, None) => return Err(Failure::new(ExitCode::Usage, "name the file that the backup goes to")),
    };
    let line = match global.output {
        Output::Json => json!(manifest).to_string(),
        Output::Text => {
            let Manifest { cluster_id, slot, entries, bytes, .. } = manifest;
            format!("{entries} keys of cluster {cluster_id} as of slot {slot}, {bytes} bytes: whole")
        }
    };
    writeln!(out, "{line}").expect("memory can be written");
    Ok(ExitCode::Ok)
}

/// The file has its name only once it is whole, checked and durable.
async fn make(client: &Client, from: Option<&str>, file: &Path) -> Result<Manifest, Failure> {
    let cannot = |what: &str, error: std::io::Error| {
        Failure::new(ExitCode::Unwritable, format!("{} {what}: {error}", file.display()))
    };
    if file.exists() {
        let message = format!("{} is there already: name another file", file.display());
        return Err(Failure::new(ExitCode::Usage, message));
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    let partial = PathBuf::from(name);
    let endpoints: Vec<String> = match from {
        Some(endpoint) => vec![endpoint.to_owned()],
        None => client.options().endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
    };
    let mut refused = None;
    for endpoint in &endpoints {
        let sink = File::create(&partial).map_err(|error| cannot("cannot be made", error))?;
        match copy(client, endpoint, sink).await {
            Ok(()) => {
                let manifest = verified(&partial)?;
                std::fs::rename(&partial, file).map_err(|error| cannot("cannot be named", error))?;
                let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let synced = File::open(dir).and_then(|dir| dir.sync_all());
                synced.map_err(|error| cannot("cannot be made durable", error))?;
                return Ok(manifest);
            }
            Err(error) => refused = Some(error),
        }
    }
    // What is there of it is of no use.
    let _ = std::fs::remove_file(&partial);
    Err(refused.map_or_else(|| Failure::new(ExitCode::Usage, "there is no endpoint to ask"), Failure::from))
}

async fn copy(client: &Client, endpoint: &str, sink: File) -> Result<(), ClientError> {
    let mut shown = Progress::default();
    let mut sink = tokio::fs::File::from_std(sink);
    let progress = |done, all| shown.show(done, all);
    client.backup(endpoint, &mut sink, progress).await?;
    let synced = sink.sync_all().await;
    synced.map_err(|error| ClientError::DidNotHappen { why: format!("the backup cannot be made durable: {error}") })
}

fn verified(file: &Path) -> Result<Manifest, Failure> {
    let read = File::open(file).map_err(BackupError::Io).and_then(|file| verify(BufReader::new(file)));
    read.map_err(|error| not_whole(file, &error))
}

pub(crate) fn not_whole(file: &Path, error: &BackupError) -> Failure {
    Failure::new(ExitCode::StorageFailed, format!("{}: {error}", file.display()))
}
