//! `trialbay dev`: a cluster of node processes on this machine.

mod child;

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::child::{ChildPlan, supervise};
use super::args::{DEV_BASE_PORT, Environment, Global, Settings, load};
use super::exit::{ExitCode, Failure};
use crate::client::{Client, ClientOptions};
use crate::config::{Config, ConfigErrors};

/// How often to look whether a master serves.
const READY_POLL: Duration = Duration::from_millis(100);
/// When to say that it takes long.
const READY_LATE: Duration = Duration::from_secs(15);

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  trialbay dev\n  trialbay dev --nodes 5 --base-port 5000 --data /tmp/five\n\n\
                        Node i (from 0) is called n1, n2, ..., has client port BASE + 10 i and the peer port after \
                        it, and logs to DIR/<name>.log. A node that dies is started again.")]
pub(crate) struct DevArgs {
    /// The client port of the first node.
    #[arg(long, value_name = "PORT", default_value_t = DEV_BASE_PORT)]
    base_port: u16,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Where the nodes keep their files; what is there already is used again.
    #[arg(long, value_name = "DIR", default_value = "trialbay-data")]
    data: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) async fn run(args: DevArgs, global: &Global, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    if !args.data.exists() {
        // What cannot start leaves no directory behind.
        check_ports(&dev_config(&args, &args.data)?)?;
    }
    let dir = prepare_dir(&args.data)?;
    let _lock = lock(&dir)?;
    let config_path = dir.join("trialbay.toml");
    let config = write_config(&args, global, environment, &dir, &config_path)?;
    check_ports(&config)?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(ExitCode::Other, format!("the path of this program is unknown: {error}")))?;

    say(&format!("cluster `dev` of {} on 127.0.0.1, in {}", count(config.nodes.len(), "node"), dir.display()));
    let (stop, stopping) = watch::channel(false);
    let mut children = JoinSet::new();
    for node in &config.nodes {
        let plan = ChildPlan {
            program: program.clone(),
            config: config_path.clone(),
            name: node.name.clone(),
            client: node.client.clone(),
            log: dir.join(format!("{}.log", node.name)),
        };
        let running = plan
            .start()
            .map_err(|error| Failure::new(ExitCode::Other, format!("{} cannot be started: {error}", plan.name)))?;
        children.spawn(supervise(plan, running, stopping.clone()));
    }
    let hint = hint(&program, &args, &config_path);
    let mut ready = std::pin::pin!(announce_master(&config, &hint));
    let mut announced = false;
    let mut given_up = None;
    loop {
        tokio::select! {
            () = signals.stop() => break,
            () = &mut ready, if !announced => announced = true,
            ended = children.join_next() => match ended {
                // A node was given up: the others go on for as long as there are any.
                Some(ended) => given_up = ended.unwrap_or(None).or(given_up),
                None => break,
            },
        }
    }
    if !children.is_empty() {
        say("stopping; Ctrl-C again kills");
    }
    // Every supervisor listens, or has ended.
    let _ = stop.send(true);
    tokio::select! {
        () = async { while children.join_next().await.is_some() {} } => (),
        // Dropping the supervisors kills their children.
        () = signals.stop() => children.shutdown().await,
    }
    match given_up {
        Some(exit) if !signals.received => Err(Failure::new(exit, "no node is left: see what they said above")),
        _ => {
            say("stopped");
            Ok(ExitCode::Ok)
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    received: bool,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let cannot = |error| Failure::new(ExitCode::Other, format!("signals cannot be received: {error}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        Ok(Self { interrupt, terminate, received: false })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        self.received = true;
    }
}

fn prepare_dir(data: &Path) -> Result<PathBuf, Failure> {
    let cannot = |error| {
        let message = format!("the directory {} cannot be made: {error}; choose another with --data", data.display());
        Failure::new(ExitCode::Unwritable, message)
    };
    fs::create_dir_all(data).map_err(cannot)?;
    let dir = fs::canonicalize(data).map_err(cannot)?;
    if dir.to_str().is_none() {
        let message = format!("the path {} is not UTF-8: choose another with --data", dir.display());
        return Err(Failure::new(ExitCode::Usage, message));
    }
    Ok(dir)
}

/// Keeps a second `dev` out of the directory for as long as the file is held.
fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join("dev.lock");
    let cannot = |error| {
        let message = format!("{} cannot be written: {error}; choose another directory with --data", path.display());
        Failure::new(ExitCode::Unwritable, message)
    };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let dir = dir.display();
            let message =
                format!("another `trialbay dev` uses {dir}: stop it, or choose another directory with --data");
            Err(Failure::new(ExitCode::HomeLocked, message))
        }
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

fn dev_config(args: &DevArgs, dir: &Path) -> Result<Config, Failure> {
    Config::dev(args.base_port, args.nodes, dir).map_err(|why| Failure::new(ExitCode::Usage, why.to_string()))
}

fn write_config(
    args: &DevArgs,
    global: &Global,
    environment: Environment<'_>,
    dir: &Path,
    path: &Path,
) -> Result<Config, Failure> {
    let refused = |why: String| Failure::new(ExitCode::Usage, why);
    let config = dev_config(args, dir)?;
    if path.exists() {
        // Other nodes make other majorities: what the old ones acknowledged could be lost without a word.
        let old = Config::load(path).map(|old| old.nodes.len());
        match old {
            Ok(nodes) if nodes == config.nodes.len() => (),
            Ok(nodes) => {
                let old = count(nodes, "node");
                let dir = dir.display();
                return Err(refused(format!("{dir} has a cluster of {old}: give --nodes {nodes}, or another --data")));
            }
            Err(errors) => return Err(unusable(&errors)),
        }
    }
    let cannot = |error| {
        let message = format!("{} cannot be written: {error}; choose another directory with --data", path.display());
        Failure::new(ExitCode::Unwritable, message)
    };
    let partial = path.with_extension("toml.partial");
    fs::write(&partial, config.to_toml()).map_err(cannot)?;
    // The cluster is `dev` whatever the environment says of the cluster that clients should talk to.
    let environment: Environment<'_> = &|name| if name == "TRIALBAY_CLUSTER_ID" { None } else { environment(name) };
    let overrides = Global { cluster_id: None, ..global.clone() }.overrides(&args.settings, environment);
    let config = load(&partial, &overrides)?;
    fs::write(&partial, config.to_toml()).and_then(|()| fs::rename(&partial, path)).map_err(cannot)?;
    Ok(config)
}

fn unusable(errors: &ConfigErrors) -> Failure {
    let first = errors.to_string().lines().next().unwrap_or_default().to_owned();
    Failure::new(ExitCode::BadConfig, format!("{first}; repair it, or remove the directory it is in"))
}

/// Finds out before anything is started what would stop a node later.
fn check_ports(config: &Config) -> Result<(), Failure> {
    for node in &config.nodes {
        for (address, kind) in [(&node.client, "client"), (&node.peer, "peer")] {
            if let Err(error) = TcpListener::bind(address) {
                let name = &node.name;
                let message = format!(
                    "{address}, the {kind} port of {name}, cannot be used: {error}; \
                     stop what listens there, or choose another --base-port"
                );
                return Err(Failure::new(ExitCode::PortInUse, message));
            }
        }
    }
    Ok(())
}

/// Waits until a master serves, and says what can be done now.
async fn announce_master(config: &Config, hint: &str) {
    let addresses = config.nodes.iter().map(|node| node.client.clone());
    let client = ClientOptions::new(config.cluster_id.clone(), addresses).and_then(Client::new);
    let client = client.expect("the configuration was checked").with_timeout(Duration::from_secs(2));
    let started = Instant::now();
    let mut late = false;
    let master = loop {
        if let Some(master) = client
            .cluster_status()
            .await
            .into_iter()
            .find_map(|report| report.status.ok().filter(|status| status.serving))
        {
            break master;
        }
        if !late && started.elapsed() > READY_LATE {
            late = true;
            say("no master serves yet; the logs may say why");
        }
        tokio::time::sleep(READY_POLL).await;
    };
    let seconds = started.elapsed().as_secs_f64();
    let name = &master.node;
    let after_kill = after_kill(config.nodes.len());
    say(&format!(
        "ready after {seconds:.1} s: {name} is master. From another terminal:\n  \
         {hint} set hello world\n  {hint} get hello\n  {hint} cluster status\n  \
         kill -9 {:<8} # {name}: {after_kill}\nCtrl-C stops the cluster.",
        master.pid,
    ));
}

/// What becomes of a cluster whose master is killed.
fn after_kill(nodes: usize) -> &'static str {
    match nodes {
        // Without one of so few there is no majority.
        ..=2 => "it is started again, and writes resume then",
        _ => "writes resume without it, and it is started again",
    }
}

/// How to call this program for this cluster.
fn hint(program: &Path, args: &DevArgs, config: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let shorten = |path: &Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
    let program = shorten(program);
    // A bare name would be looked up in PATH.
    let program = if program.contains('/') { program } else { format!("./{program}") };
    if args.base_port == DEV_BASE_PORT && args.nodes <= 3 {
        return program;
    }
    format!("{program} --config {}", shorten(config))
}

/// A line for whoever watches; nobody may.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("{count} {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser as _;

    use super::*;

    fn written(line: &str, dir: &Path, environment: &[(&str, &str)]) -> Result<Config, Failure> {
        let cli = super::super::Cli::try_parse_from(line.split(' ')).unwrap();
        let super::super::Command::Dev(args) = &cli.command else { panic!("not dev") };
        let lookup =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        write_config(args, &cli.global, &lookup, dir, &dir.join("trialbay.toml"))
    }

    #[test]
    fn the_configuration_has_the_settings_of_flags_and_environment_but_is_always_the_dev_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let environment = [("TRIALBAY_CLUSTER_ID", "prod"), ("TRIALBAY_LEASE_MS", "600"), ("TRIALBAY_READS", "quorum")];
        let config = written("trialbay dev --cluster-id x --set lease_ms=700", dir.path(), &environment).unwrap();
        assert_eq!((config.cluster_id.as_str(), config.lease.as_millis()), ("dev", 700));
        assert_eq!(config.reads, crate::config::Reads::Quorum);
        assert_eq!(Config::load(&dir.path().join("trialbay.toml")), Ok(config));
        let wrong = written("trialbay dev --set lease_ms=1", dir.path(), &[]).unwrap_err();
        assert_eq!(wrong.exit, ExitCode::BadConfig);
    }

    #[test]
    fn only_a_cluster_that_survives_a_failure_is_said_to_go_on_without_a_node() {
        let goes_on: Vec<usize> = (1..=7).filter(|nodes| after_kill(*nodes).contains("without it")).collect();
        assert_eq!(goes_on, [3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_directory_keeps_its_number_of_nodes() {
        let dir = tempfile::tempdir().unwrap();
        written("trialbay dev", dir.path(), &[]).unwrap();
        written("trialbay dev --base-port 5000", dir.path(), &[]).unwrap();
        let refused = written("trialbay dev --nodes 5", dir.path(), &[]).unwrap_err();
        assert_eq!(refused.exit, ExitCode::Usage);
        assert!(refused.message.contains("has a cluster of 3 nodes: give --nodes 3"), "{}", refused.message);
        fs::write(dir.path().join("trialbay.toml"), "nonsense").unwrap();
        assert_eq!(written("trialbay dev", dir.path(), &[]).unwrap_err().exit, ExitCode::BadConfig);
    }

    #[test]
    fn a_directory_serves_one_dev_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().exit, ExitCode::HomeLocked);
        drop(held);
        assert!(lock(dir.path()).is_ok());
        assert_eq!(prepare_dir(&dir.path().join("dev.lock")).unwrap_err().exit, ExitCode::Unwritable);
    }

    #[test]
    fn a_port_in_use_is_named_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::dev(4000, 1, Path::new("d")).unwrap();
        config.nodes[0].client = taken.local_addr().unwrap().to_string();
        let failure = check_ports(&config).unwrap_err();
        assert_eq!(failure.exit, ExitCode::PortInUse);
        assert!(failure.message.contains("the client port of n1") && failure.message.contains("--base-port"));
    }
}
