//! The command line.
//!
//! Text goes to standard output when it is what was asked for, and to standard error when it is about what went wrong:
//! one line that says what, and what to do. [`ExitCode`] says the same to scripts.

mod args;
mod backup;
mod bench;
mod bytes;
mod check;
mod cluster;
mod data;
mod describe;
mod dev;
mod exit;
mod files;
mod inspect;
mod node;
mod progress;
mod restore;
mod sequence;
mod statistics;
mod store;
mod tlog;

use std::ffi::OsString;
use std::io::Write as _;

use clap::{Parser, Subcommand};

use self::args::{Environment, Global, Output};
pub use self::exit::{ExitCode, Failure};
use crate::config::unknown_variables;

/// A replicated, ordered key-value store that puts consistency above everything.
///
/// Without --endpoints, --config or their variables, commands talk to the cluster that `trialbay dev` runs on this
/// machine.
#[derive(Parser, Debug)]
#[command(name = "trialbay", version, after_help = ExitCode::help(), max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a cluster on this machine, with nothing to configure, until Ctrl-C.
    Dev(dev::DevArgs),
    /// Run one node of a cluster, until SIGTERM or SIGINT.
    Node(node::NodeArgs),
    #[command(flatten)]
    Data(data::DataCommand),
    /// Ask the cluster how it is.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Copy the store of a running node, as of one slot, into a file.
    ///
    /// Updates and reads go on meanwhile. Exit code 5 when no node gives one, 15 when what came is not whole.
    Backup(backup::BackupArgs),
    /// Make the homes of a new cluster from a backup.
    ///
    /// DIR gets a home for each node of the configuration, and a copy of that in which the cluster has an id of its own: no
    /// node of the old cluster can take one of these for its own. Make all homes in one run, and never use one of them
    /// twice: a node that has lost its home starts with an empty one. Exit code 15 when the backup is not whole.
    Restore(restore::RestoreArgs),
    /// Look at the transaction log of a node that does not run. Nothing is changed.
    ///
    /// Exit code 11 when a process uses the home.
    #[command(subcommand)]
    Tlog(tlog::TlogCommand),
    /// Look at the store of a node that does not run. Nothing is changed.
    ///
    /// Exit code 11 when a process uses the home.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Measure how many operations a cluster does in a second, and how long each takes.
    Bench(bench::BenchArgs),
    /// Look after the configuration file.
    #[command(subcommand)]
    Config(check::ConfigCommand),
}

/// Runs the program: its arguments in, its exit code out.
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, and succeed; nothing can be done where not even they can be printed.
            if !error.use_stderr() {
                let _ = error.print();
                return ExitCode::Ok.into();
            }
            if !asks_for_json(std::env::args_os()) {
                let _ = error.print();
                return ExitCode::Usage.into();
            }
            let text = error.render().to_string();
            let message = text.trim_start_matches("error: ").trim_end();
            return report(Failure::new(ExitCode::Usage, message), Output::Json).into();
        }
    };
    let output = cli.global.output;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Failure::new(ExitCode::Other, format!("no threads: {error}")), output).into(),
    };
    if let Some(warning) = unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        warn(&warning, output);
    }
    let environment: Environment<'_> = &|name| std::env::var_os(name);
    let mut out = Vec::new();
    let result = runtime.block_on(run(cli, environment, &mut out));
    // Background work has nothing to say any more.
    runtime.shutdown_background();
    let printed = std::io::stdout().lock().write_all(&out).and_then(|()| std::io::stdout().flush());
    match (result, printed) {
        (Err(failure), _) => report(failure, output).into(),
        // Whoever reads our output has seen enough.
        (Ok(exit), Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => exit.into(),
        (Ok(_), Err(error)) => {
            report(Failure::new(ExitCode::Other, format!("standard output cannot be written: {error}")), output).into()
        }
        (Ok(exit), Ok(())) => exit.into(),
    }
}

async fn run(cli: Cli, environment: Environment<'_>, out: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Dev(args) => dev::run(args, global, environment).await,
        Command::Node(args) => node::run(args, global, environment).await,
        Command::Data(command) => data::run(command, global, environment, out).await,
        Command::Cluster(command) => cluster::run(command, global, environment, out).await,
        Command::Backup(args) => backup::run(args, global, environment, out).await,
        Command::Restore(args) => restore::run(&args, global, environment, out),
        Command::Tlog(command) => tlog::run(&command, global, out),
        Command::Store(command) => store::run(&command, global, out),
        Command::Bench(args) => bench::run(args, global, environment, out).await,
        Command::Config(command) => check::run(command, global, environment, out),
    }
}

/// Whether a command line that cannot be understood asks for JSON all the same.
fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.take_while(|argument| argument != "--").collect();
    let follows = |flag: &OsString, value: &OsString| (flag == "-o" || flag == "--output") && value == "json";
    arguments.iter().any(|one| ["-ojson", "-o=json", "--output=json"].iter().any(|flag| one == flag))
        || arguments.windows(2).any(|pair| follows(&pair[0], &pair[1]))
}

/// Says on standard error what may not be meant so.
fn warn(warning: &str, output: Output) {
    let line = match output {
        Output::Text => format!("trialbay: warning: {warning}"),
        Output::Json => serde_json::json!({ "warning": warning }).to_string(),
    };
    // Not `eprintln!`: it panics where standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says what went wrong on standard error.
fn report(failure: Failure, output: Output) -> ExitCode {
    let Failure { exit, message } = failure;
    let line = match output {
        Output::Text => format!("trialbay: {message}"),
        Output::Json => {
            let error = serde_json::json!({ "kind": exit.kind(), "exit_code": exit as u8, "message": message });
            serde_json::json!({ "error": error }).to_string()
        }
    };
    // Not `eprintln!`: it panics where standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
    exit
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example_and_the_program_its_exit_codes() {
        fn check(command: &clap::Command) {
            let mut leaves = 0;
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                check(sub);
                leaves += 1;
            }
            if leaves == 0 {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    help.contains("Example") && help.contains("trialbay "),
                    "{} has no example",
                    command.get_name()
                );
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
        assert!(command.render_help().to_string().contains("outcome unknown"));
    }

    #[test]
    fn a_line_that_is_not_understood_can_ask_for_json() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        for line in ["get -o json", "get --output json", "get --output=json", "-ojson sett", "get -o=json"] {
            assert!(asks(line), "{line}");
        }
        for line in ["get", "get -o text json", "set -- -o json", "json -o"] {
            assert!(!asks(line), "{line}");
        }
    }

    #[test]
    fn the_documented_command_lines_are_understood() {
        for line in [
            "dev",
            "dev --base-port 5000 --nodes 5 --data /tmp/x --set lease_ms=500",
            "node --config f --name n1 --log-format json --log-level debug --exit-with-parent",
            "get k",
            "get k --consistency none -o json",
            "get --consistency at-least=17 --hex 6b",
            "set k v",
            "set k -",
            "set k -5",
            "set --endpoints a:1,b:2 --cluster-id c k v",
            "delete k",
            "exists k --timeout 500ms",
            "test-and-set k --absent --wanted v",
            "test-and-set k --expected old --delete",
            "range",
            "range --first a --last b --exclude-first --exclude-last --max 10 --reverse --keys-only",
            "prefix p --max 3",
            "delete-prefix p",
            "sequence -",
            "sequence file",
            "nop",
            "bench --clients 64 --seconds 5 --value-size 100 --mix 9:1 --pipeline 4 -o json",
            "bench --clients 64 --connections 4 --mix test-and-set --key-size 32 --keys 1000",
            "cluster status",
            "cluster who-master -o json",
            "cluster statistics -o json",
            "cluster inspect --timeout 1m -o json",
            "backup f --from a:1",
            "backup verify f -o json",
            "restore f --config c --to d -o json",
            "tlog inspect h -o json",
            "tlog dump h --from-slot 1 --to-slot 2 --values --hex",
            "tlog verify h",
            "store dump h --first a --last b --keys-only",
            "store verify h -o json",
            "config check f",
            "config check --config f --set reads=quorum",
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("trialbay").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "get",
            "get k --consistency fresh",
            "get k --consistency at-least=x",
            "set k",
            "test-and-set k",
            "test-and-set k --absent",
            "test-and-set k --absent --expected v --delete",
            "range --max -1",
            "node --config f",
            "restore f --config c",
            "get k --timeout 0",
            "get k --timeout soon",
            "dev --set lease_ms",
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("trialbay").chain(line.split(' ')));
            assert!(parsed.is_err(), "{line}");
        }
    }
}
