//! `trialbay node`: from the configuration to a running node, and from its end to an exit code.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use trialbay_engine::NodeId;

use super::args::{Environment, Global, Settings, load};
use super::exit::{ExitCode, Failure};
use crate::config::{Config, NodeConfig, NodeRole};
use crate::extensions::Extensions;
use crate::node::home::HomeError;
use crate::node::{self, NodeError, NodeOptions, Roles};
use crate::peer::{PeerAddress, PeerError};
use crate::store::StoreError;
use crate::tlog::TlogError;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  trialbay node --config /etc/trialbay.toml --name n1")]
pub(crate) struct NodeArgs {
    /// Which of the nodes in the configuration to run.
    #[arg(long)]
    name: String,
    /// Where the node keeps its files, if not where the configuration says.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    log: LogArgs,
    /// Stop when standard input ends, which happens at the latest when the parent process does.
    #[arg(long)]
    exit_with_parent: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// How the log on standard error looks.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or `target=level,...` [env: TRIALBAY_LOG] [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// All that a node needs to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// The checked configuration: every node with its addresses, lease, drift bound, reads and limits.
    pub(crate) config: Config,
    /// This node.
    pub(crate) node: NodeConfig,
    /// Where it keeps its files.
    pub(crate) home: PathBuf,
}

pub(crate) async fn run(args: NodeArgs, global: &Global, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    start_log(&args.log, environment)?;
    let plan = plan(&args, global, environment)?;
    let stop = stop_requested(args.exit_with_parent)?;
    run_node(plan, stop).await
}

/// Runs the node until `stop` is ready, which gives the reason; then it hands over and closes.
async fn run_node(plan: NodePlan, stop: impl Future<Output = &'static str>) -> Result<ExitCode, Failure> {
    let stop = async {
        let reason = stop.await;
        tracing::info!(reason, "stopping");
    };
    node::run(plan.options(), stop).await?;
    Ok(ExitCode::Ok)
}

impl NodePlan {
    fn options(self) -> NodeOptions {
        let peers = (self.config.nodes.iter())
            .filter(|other| other.id != self.node.id)
            .map(|other| PeerAddress { node: NodeId(other.id), name: other.name.clone(), address: other.peer.clone() })
            .collect();
        let with = |is: &dyn Fn(&NodeConfig) -> bool| {
            self.config.nodes.iter().filter(|node| is(node)).map(|node| NodeId(node.id)).collect()
        };
        let roles = Roles {
            learners: with(&|node| node.role == NodeRole::Learner),
            witnesses: with(&|node| node.role == NodeRole::Witness),
            preferred: with(&|node| node.preferred),
        };
        let log_segment_bytes = log_segment_mib(&self.config) << 20;
        NodeOptions {
            roles,
            read_only: self.config.read_only,
            node: NodeId(self.node.id),
            client_listen: self.node.client_listen().to_owned(),
            peer_listen: self.node.peer_listen().to_owned(),
            name: self.node.name,
            peers,
            home: self.home,
            cluster_id: self.config.cluster_id,
            lease: self.config.lease,
            clock_drift_ppm: self.config.clock_drift_ppm,
            reads: self.config.reads,
            limits: self.config.limits.updates,
            extensions: Extensions::new(),
            store_age_max: NodeOptions::STORE_AGE_MAX,
            disk_reserve_bytes: self.config.disk_reserve_mib << 20,
            connections_max: Some(self.config.limits.connections_max),
            #[cfg(feature = "planted-bugs")]
            planted: None,
            #[cfg(feature = "planted-bugs")]
            planted_in_engine: None,
            log_segment_bytes,
            log_retention_bytes: self.config.log_retention_mib << 20,
            log_compression: self.config.log_compression,
            recorder_bytes_max: self.config.recorder.then_some(self.config.recorder_mib << 20),
        }
    }
}

/// Whole segments are kept or removed: short ones where little is to be kept.
fn log_segment_mib(config: &Config) -> u64 {
    config.log_segment_mib.min((config.log_retention_mib / 8).max(1))
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let exit = match &error {
            NodeError::Home(HomeError::Locked { .. }) | NodeError::Store(StoreError::InUse) => ExitCode::HomeLocked,
            NodeError::Home(HomeError::Foreign { .. } | HomeError::Unidentified { .. })
            | NodeError::Store(StoreError::OtherCluster { .. } | StoreError::OtherNode { .. })
            | NodeError::Tlog(TlogError::OtherCluster { .. } | TlogError::OtherNode { .. }) => ExitCode::ForeignHome,
            NodeError::Home(HomeError::NotWritable { .. } | HomeError::Io { .. }) => ExitCode::Unwritable,
            NodeError::Peers(PeerError::Bind { source, .. }) | NodeError::ClientAddress { source, .. }
                if source.kind() == std::io::ErrorKind::AddrInUse =>
            {
                ExitCode::PortInUse
            }
            NodeError::Store(StoreError::UnknownFunction { .. }) => ExitCode::UnknownFunction,
            NodeError::Home(HomeError::Damaged { .. })
            | NodeError::Store(_)
            | NodeError::Tlog(_)
            | NodeError::HistoryDamaged { .. }
            | NodeError::StorageFailed { .. } => ExitCode::StorageFailed,
            NodeError::VotersChanged { .. } | NodeError::RoleChanged { .. } => ExitCode::BadConfig,
            NodeError::HistoryDiverged { .. } => ExitCode::HistoryDiverged,
            NodeError::Peers(_)
            | NodeError::ClientAddress { .. }
            | NodeError::System { .. }
            | NodeError::Home(HomeError::Unsupported { .. }) => ExitCode::Other,
            NodeError::Home(HomeError::NoHome { .. }) => ExitCode::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

fn plan(args: &NodeArgs, global: &Global, environment: Environment<'_>) -> Result<NodePlan, Failure> {
    let path = global.config_path(environment).ok_or_else(|| {
        Failure::new(ExitCode::Usage, "which configuration? Name it with --config FILE (or TRIALBAY_CONFIG)")
    })?;
    let config = load(&path, &global.overrides(&args.settings, environment))?;
    let Some(node) = config.node(&args.name).cloned() else {
        let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        let (path, names) = (path.display(), names.join(", "));
        let message = format!("{path} has no node `{}`: --name one of {names}", args.name.escape_debug());
        return Err(Failure::new(ExitCode::UnknownNode, message));
    };
    let home = args.home.clone().or_else(|| node.home.clone()).ok_or_else(|| {
        let message = format!("node `{}` has no home: add `home = \"DIR\"` to it, or give --home DIR", node.name);
        Failure::new(ExitCode::BadConfig, message)
    })?;
    Ok(NodePlan { config, node, home })
}

fn start_log(args: &LogArgs, environment: Environment<'_>) -> Result<(), Failure> {
    let from_environment = environment("TRIALBAY_LOG").and_then(|level| level.into_string().ok());
    let level = args.log_level.clone().or(from_environment).filter(|level| !level.is_empty());
    let level = level.unwrap_or_else(|| "info".to_owned());
    let filter = log_filter(&level)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // It would say so on standard error, and panic if that is closed.
    let log = log.log_internal_errors(false);
    let started = match args.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| Failure::new(ExitCode::Other, format!("the log cannot be set up: {error}")))
}

fn log_filter(level: &str) -> Result<EnvFilter, Failure> {
    let refused = |why: &str| {
        let hint = "write off, error, warn, info, debug or trace, or target=level,...";
        Failure::new(ExitCode::Usage, format!("`{level}` is no log level{why}: {hint}"))
    };
    // A filter takes any word for a target, and then logs nothing else.
    if let Some(word) = level.split(',').find(|word| !word.contains('=') && word.parse::<LevelFilter>().is_err()) {
        return Err(refused(&format!(" (`{}` is none)", word.escape_debug())));
    }
    EnvFilter::try_new(level).map_err(|error| refused(&format!(" ({error})")))
}

/// Ready when the node is asked to stop; gives the reason for the log.
fn stop_requested(with_parent: bool) -> Result<impl Future<Output = &'static str>, Failure> {
    let cannot = |error| Failure::new(ExitCode::Other, format!("signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let (ended, mut parent) = oneshot::channel();
    if with_parent {
        // A thread of its own: it sits in a read that nothing can interrupt, and ends with the process.
        let watch = std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
            let mut byte = [0; 64];
            while std::io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {}
            let _ = ended.send(());
        });
        watch.map_err(|error| Failure::new(ExitCode::Other, format!("no thread to watch the parent: {error}")))?;
    }
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            // Without --exit-with-parent the sender is gone, and says nothing.
            Ok(()) = &mut parent => "the parent process ended",
        }
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use clap::Parser as _;

    use super::*;

    fn planned(line: &str) -> Result<NodePlan, Failure> {
        let cli = super::super::Cli::try_parse_from(line.split(' ')).unwrap();
        let super::super::Command::Node(args) = cli.command else { panic!("not a node") };
        plan(&args, &cli.global, &|_: &str| None::<OsString>)
    }

    #[test]
    fn a_log_level_that_is_none_is_refused() {
        for level in ["off", "error", "warn", "info", "debug", "trace", "INFO", "warn,trialbay=debug", "redb=off"] {
            assert!(log_filter(level).is_ok(), "{level}");
        }
        for level in ["foo", "info,foo", "trialbay=loud", "infos"] {
            let failure = log_filter(level).unwrap_err();
            assert_eq!(failure.exit, ExitCode::Usage);
            assert!(failure.message.contains("is no log level"), "{}", failure.message);
        }
    }

    #[test]
    fn a_segment_is_an_eighth_of_what_is_kept_at_most() {
        let mut config = Config::dev(4000, 1, Path::new("data")).unwrap();
        for (segment, retention, expected) in [(64, 1_024, 64), (64, 80, 10), (4, 80, 4), (64, 1, 1), (256, 4_096, 256)]
        {
            (config.log_segment_mib, config.log_retention_mib) = (segment, retention);
            assert_eq!(log_segment_mib(&config), expected);
        }
    }

    #[test]
    fn a_node_is_found_in_the_configuration_or_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let mut config = Config::dev(4000, 3, &dir.path().join("data")).unwrap();
        config.nodes[2].home = None;
        std::fs::write(&path, config.to_toml()).unwrap();
        let file = path.to_str().unwrap();

        let plan = planned(&format!("trialbay node --config {file} --name n2 --set reads=quorum")).unwrap();
        assert_eq!((plan.node.id, plan.home), (2, dir.path().join("data/n2")));
        assert_eq!(plan.config.reads, crate::config::Reads::Quorum);
        let moved = planned(&format!("trialbay node --config {file} --name n3 --home /elsewhere")).unwrap();
        assert_eq!(moved.home, Path::new("/elsewhere"));

        let exit = |line: String| planned(&line).unwrap_err();
        assert_eq!(exit(format!("trialbay node --config {file} --name n3")).exit, ExitCode::BadConfig);
        let unknown = exit(format!("trialbay node --config {file} --name n4"));
        assert_eq!(unknown.exit, ExitCode::UnknownNode);
        assert!(unknown.message.ends_with("has no node `n4`: --name one of n1, n2, n3"), "{}", unknown.message);
        assert_eq!(exit("trialbay node --name n1".to_owned()).exit, ExitCode::Usage);
        assert_eq!(exit("trialbay node --config /nonexistent --name n1".to_owned()).exit, ExitCode::BadConfig);
    }
}
