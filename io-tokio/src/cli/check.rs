//! `trialbay config`: mistakes in the configuration, before a node trips over them.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{Environment, Global, Output, Settings};
use super::exit::{ExitCode, Failure};
use crate::config::{Config, Place};

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Report every mistake in a configuration file, with its line and what to write instead.
    #[command(after_help = "Example:\n  trialbay config check /etc/trialbay.toml")]
    Check(CheckArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The file; without it, that of --config.
    file: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(
    command: ConfigCommand,
    global: &Global,
    environment: Environment<'_>,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let ConfigCommand::Check(CheckArgs { file, settings }) = command;
    let path = file.or_else(|| global.config_path(environment)).ok_or_else(|| {
        Failure::new(ExitCode::Usage, "which file? Name it: `trialbay config check FILE`, or --config FILE")
    })?;
    let result = Config::load_with(&path, &global.overrides(&settings, environment));
    let exit = if result.is_ok() { ExitCode::Ok } else { ExitCode::BadConfig };
    let printed = match (result, global.output) {
        (Ok(config), Output::Text) => writeln!(out, "{}: no mistakes; {}", path.display(), summary(&config)),
        (Ok(config), Output::Json) => {
            let answer = json!({
                "ok": true,
                "cluster_id": config.cluster_id,
                "nodes": config.nodes.iter().map(|node| &node.name).collect::<Vec<_>>(),
                "failures_survivable": config.failures_survivable(),
            });
            writeln!(out, "{answer}")
        }
        (Err(errors), Output::Text) => writeln!(out, "{errors}"),
        (Err(errors), Output::Json) => {
            let mistakes = errors.mistakes.iter().map(|mistake| match &mistake.place {
                Place::File => json!({ "message": mistake.message }),
                Place::Line(line) => json!({ "line": line, "message": mistake.message }),
                Place::Override(name) => json!({ "override": name, "message": mistake.message }),
            });
            writeln!(out, "{}", json!({ "ok": false, "mistakes": mistakes.collect::<Vec<_>>() }))
        }
    };
    printed.expect("memory can be written");
    Ok(exit)
}

fn summary(config: &Config) -> String {
    let nodes = config.nodes.len();
    let survives = match config.failures_survivable() {
        0 => "no failure".to_owned(),
        1 => "1 failure".to_owned(),
        failures => format!("{failures} failures"),
    };
    let s = if nodes == 1 { "" } else { "s" };
    format!("cluster `{}` of {nodes} node{s} survives {survives}", config.cluster_id)
}
