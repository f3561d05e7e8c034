//! `trialbay restore`: from a backup to the homes of a new cluster.

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::args::{Environment, Global, Output, load};
use super::backup::not_whole;
use super::exit::{ExitCode, Failure};
use super::progress::ReadWithProgress;
use crate::backup::{NotRestored, restore};
use crate::config::Config;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  trialbay restore today.backup --config cluster.toml --to restored\n  \
                        trialbay node --config restored/cluster.toml --name n1 --home restored/n1")]
pub(crate) struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// The directory to make, with a home for each node, and a configuration.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

pub(crate) fn run(
    args: &RestoreArgs,
    global: &Global,
    environment: Environment<'_>,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let path = global.config_path(environment).ok_or_else(|| {
        let message = "for which cluster? Name its configuration with --config FILE (or TRIALBAY_CONFIG)";
        Failure::new(ExitCode::Usage, message)
    })?;
    let config = load(&path, &global.overrides(&Default::default(), environment))?;
    let name = args.file.display();
    let opened = File::open(&args.file).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (len, file) =
        opened.map_err(|error| Failure::new(ExitCode::Usage, format!("{name} cannot be opened: {error}")))?;
    let from = BufReader::with_capacity(1 << 20, ReadWithProgress::new(file, len));
    let (config, manifest) = restore(from, &config, &args.to).map_err(|error| match error {
        NotRestored::Backup(error) => not_whole(&args.file, &error),
        other => other.into(),
    })?;
    let Config { cluster_id, nodes, .. } = config;
    let names: Vec<String> = nodes.into_iter().map(|node| node.name).collect();
    let line = match global.output {
        Output::Json => json!({ "backup": manifest, "cluster_id": cluster_id, "nodes": names }).to_string(),
        Output::Text => format!(
            "{} keys as of slot {} are in {to}, in the homes of {}. They are cluster {cluster_id}, which {to}/cluster.toml \
             configures: bring each home to its node, start them with it, and give it to the clients",
            manifest.entries,
            manifest.slot,
            names.join(", "),
            to = args.to.display(),
        ),
    };
    writeln!(out, "{line}").expect("memory can be written");
    Ok(ExitCode::Ok)
}

impl From<NotRestored> for Failure {
    fn from(error: NotRestored) -> Self {
        let exit = match error {
            NotRestored::Home(error) => return error.into(),
            NotRestored::Backup(_) => ExitCode::StorageFailed,
            NotRestored::Nothing | NotRestored::Taken(_) | NotRestored::Unfinished(_) => ExitCode::Usage,
            NotRestored::Io { .. } => ExitCode::Unwritable,
        };
        Self::new(exit, error.to_string())
    }
}
