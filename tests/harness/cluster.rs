//! A cluster of node processes.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use trialbay::cli::ExitCode;
use trialbay::client::{Client, ClientOptions, NodeStatus};
use trialbay::config::{Config, NodeRole};

use crate::command::{Ran, run};
use crate::ports::free_ports;
use crate::process::Process;
use crate::trace::strace_args;
use crate::until;

/// A node that does not say how it is within this time is taken for one that cannot.
const STATUS_WAIT: Duration = Duration::from_millis(500);

/// How much of each log is shown when a test fails.
const LOG_SHOWN: u64 = 6 << 10;

/// A cluster in a directory of its own. Its processes are killed when it is dropped; if that is because the test
/// failed, their logs are shown.
pub struct Cluster {
    program: PathBuf,
    /// The configuration of its nodes.
    pub config: Config,
    processes: Vec<Option<Process>>,
    traced: bool,
    admin: Client,
    dir: TempDir,
}

impl Cluster {
    /// A cluster of that many nodes, all of them up, with a master that serves.
    pub async fn start(program: &Path, nodes: usize) -> Self {
        Self::start_with(program, nodes, |_| ()).await
    }

    /// The same, with other settings.
    pub async fn start_with(program: &Path, nodes: usize, change: impl Fn(&mut Config)) -> Self {
        Self::start_as(program, nodes, change, false).await
    }

    /// The same as [`Self::start`] under `strace`: see [`Self::trace_path`]. With a lease that so slow a node keeps.
    pub async fn start_traced(program: &Path, nodes: usize) -> Self {
        Self::start_as(program, nodes, |config| config.lease = Duration::from_millis(2_500), true).await
    }

    async fn start_as(program: &Path, nodes: usize, change: impl Fn(&mut Config), traced: bool) -> Self {
        loop {
            let mut cluster = Self::prepare(program, nodes, &change);
            cluster.traced = traced;
            cluster.start_all();
            if cluster.comes_up().await {
                return cluster;
            }
        }
    }

    /// A cluster that is configured and not started.
    pub fn prepare(program: &Path, nodes: usize, change: impl Fn(&mut Config)) -> Self {
        let dir = TempDir::with_prefix("trialbay-").expect("there is room for temporary files");
        let mut config = Config::dev(1, nodes, dir.path()).expect("1 to 7 nodes");
        let mut ports = free_ports(2 * nodes).into_iter();
        for node in &mut config.nodes {
            let mut address = || format!("127.0.0.1:{}", ports.next().expect("two for each node"));
            (node.client, node.peer) = (address(), address());
        }
        change(&mut config);
        std::fs::write(dir.path().join("cluster.toml"), config.to_toml()).expect("the directory is ours");
        let admin = Client::new(options(&config)).expect("the options are sound").with_timeout(STATUS_WAIT);
        let processes = config.nodes.iter().map(|_| None).collect();
        Self { program: program.into(), config, processes, traced: false, admin, dir }
    }

    /// Gives the nodes, which are all down, another configuration.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        assert!(self.processes.iter().all(Option::is_none), "a node is up");
        change(&mut self.config);
        std::fs::write(self.config_path(), self.config.to_toml()).expect("the directory is ours");
        self.admin = Client::new(options(&self.config)).expect("the options are sound").with_timeout(STATUS_WAIT);
        self.processes = self.config.nodes.iter().map(|_| None).collect();
    }

    /// Waits until a master serves and knows that every node votes; `false` if a port was taken meanwhile.
    async fn comes_up(&mut self) -> bool {
        until("the new cluster serves", async || {
            for process in self.processes.iter_mut().flatten() {
                if let Some(status) = process.ended() {
                    assert_eq!(status.code(), Some(ExitCode::PortInUse as i32), "a node ended: {status}");
                    return Some(false);
                }
            }
            self.is_whole().await.then_some(true)
        })
        .await
    }

    /// The program, and what it is to be called with to run a node.
    pub fn node_command(&self, node: usize) -> (&Path, Vec<String>) {
        let config = self.config_path().display().to_string();
        let name = self.config.nodes[node].name.clone();
        let args = ["node", "--config", &config, "--name", &name, "--exit-with-parent"].map(str::to_owned);
        (&self.program, args.into())
    }

    /// Starts a node that is down.
    pub fn start_node(&mut self, node: usize) {
        let (program, args) = self.node_command(node);
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        let trace = self.trace_path(node).display().to_string();
        let tracing = strace_args(&trace);
        let mut program = program;
        if self.traced {
            let own = program.to_str().expect("the paths of builds are text");
            args.splice(..0, tracing.iter().map(String::as_str).chain([own]));
            program = Path::new("strace");
        }
        let process = Process::start(program, &args, &self.log_path(node));
        self.adopt(node, process);
    }

    /// Takes a process for a node that is down.
    pub fn adopt(&mut self, node: usize, process: Process) {
        assert!(self.processes[node].is_none(), "the node is up");
        self.processes[node] = Some(process);
    }

    /// Starts all nodes, which are down.
    pub fn start_all(&mut self) {
        (0..self.len()).for_each(|node| self.start_node(node));
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.take(node).kill();
    }

    /// SIGKILL to all nodes that are up, before waiting for any.
    pub fn kill_all(&mut self) {
        self.processes.iter().flatten().for_each(|process| process.signal(Signal::KILL));
        self.processes.iter_mut().for_each(|process| *process = None);
    }

    /// SIGSTOP: the node stands still, and its clock goes on.
    pub fn pause(&self, node: usize) {
        self.process(node).signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self, node: usize) {
        self.process(node).signal(Signal::CONT);
    }

    /// SIGTERM; gives how the process ended.
    pub async fn terminate(&mut self, node: usize) -> ExitStatus {
        let process = self.take(node);
        process.signal(Signal::TERM);
        process.end().await
    }

    /// Waits until a node that was started has ended by itself.
    pub async fn end(&mut self, node: usize) -> ExitStatus {
        self.take(node).end().await
    }

    /// Removes all files of a node that is down.
    pub fn wipe(&self, node: usize) {
        assert!(self.processes[node].is_none(), "the node is up");
        std::fs::remove_dir_all(self.home(node)).expect("the home is ours");
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.config.nodes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.config.nodes.is_empty()
    }

    /// The node's process id.
    pub fn pid(&self, node: usize) -> u32 {
        self.process(node).id()
    }

    /// The node's home.
    pub fn home(&self, node: usize) -> &Path {
        self.config.nodes[node].home.as_deref().expect("every node was given one")
    }

    /// Where clients reach the node.
    pub fn endpoint(&self, node: usize) -> &str {
        &self.config.nodes[node].client
    }

    /// The directory that everything is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    /// The system calls of a node of [`Self::start_traced`].
    pub fn trace_path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("{}.trace", self.config.nodes[node].name))
    }

    /// What the node prints.
    pub fn log_path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.config.nodes[node].name))
    }

    /// Runs the program's command line against this cluster.
    pub async fn cli(&self, args: &[&str], input: &[u8]) -> Ran {
        let config = self.config_path().display().to_string();
        run(&self.program, &[args, &["--config", &config]].concat(), input).await
    }

    /// A client with connections of its own.
    pub fn client(&self) -> Client {
        self.client_with(|_| ())
    }

    /// A client with other options.
    pub fn client_with(&self, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let mut options = options(&self.config);
        change(&mut options);
        Client::new(options).expect("the options are sound")
    }

    /// What each node says of itself, `None` from those that say nothing.
    pub async fn statuses(&self) -> Vec<Option<NodeStatus>> {
        self.admin.cluster_status().await.into_iter().map(|report| report.status.ok()).collect()
    }

    /// What one node says of itself.
    pub async fn status(&self, node: usize) -> Option<NodeStatus> {
        self.admin.node_status(self.endpoint(node)).await.ok()
    }

    /// The node that serves now.
    pub async fn serving(&self) -> Option<(usize, NodeStatus)> {
        let round = |status: &NodeStatus| status.ballot.split('.').next().and_then(|round| round.parse::<u64>().ok());
        let statuses = self.statuses().await.into_iter().enumerate();
        let serving = statuses.filter_map(|(node, status)| Some((node, status.filter(|status| status.serving)?)));
        serving.max_by_key(|(_, status)| round(status))
    }

    /// Waits until there is a master that serves.
    pub async fn master(&self) -> usize {
        until("there is a master", async || self.serving().await).await.0
    }

    /// Waits until a master serves and knows every other node to be up and voting.
    pub async fn whole(&self) {
        until("all nodes take part", async || self.is_whole().await.then_some(())).await;
    }

    async fn is_whole(&self) -> bool {
        let survivable = u32::try_from(self.config.failures_survivable()).expect("at most 3");
        self.serving().await.is_some_and(|(_, master)| {
            master.failures_survivable == Some(survivable)
                && master.peers.iter().all(|peer| peer.connected && peer.votes == self.votes(&peer.node))
        })
    }

    /// Whether the configuration gives this node a vote.
    fn votes(&self, node: &str) -> bool {
        self.config.node(node).is_some_and(|node| node.role != NodeRole::Learner)
    }

    /// Waits until all nodes have decided and applied the same slots, which they do when no updates come in, and checks
    /// that it is the same history.
    pub async fn agreed(&self) {
        let statuses = until("all nodes have decided the same slots", async || {
            let statuses = self.statuses().await.into_iter().collect::<Option<Vec<_>>>()?;
            let upto = statuses[0].decided_upto;
            let same = |status: &NodeStatus| status.decided_upto == upto && status.applied_upto == upto;
            statuses.iter().all(same).then_some(statuses)
        })
        .await;
        for status in &statuses {
            assert_eq!(status.history_hash, statuses[0].history_hash, "histories differ: {statuses:#?}");
            let witnesses = |status: &&NodeStatus| status.role != "witness";
            let keys = statuses.iter().find(witnesses).expect("one has the data").keys;
            assert_eq!(status.keys, if witnesses(&status) { keys } else { 0 }, "stores differ: {statuses:#?}");
            assert!(status.votes == self.votes(&status.node) && status.damage.is_empty(), "{status:#?}");
        }
        self.assert_quiet_logs();
    }

    /// Checks that no node panicked or found an error.
    pub fn assert_quiet_logs(&self) {
        for node in 0..self.len() {
            let log = std::fs::read_to_string(self.log_path(node)).unwrap_or_default();
            let loud = log.lines().find(|line| line.contains(" ERROR ") || line.contains("panicked at"));
            assert_eq!(loud, None, "in the log of node {}", self.config.nodes[node].name);
        }
    }

    fn process(&self, node: usize) -> &Process {
        self.processes[node].as_ref().expect("the node is up")
    }

    fn take(&mut self, node: usize) -> Process {
        self.processes[node].take().expect("the node is up")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 0..self.len() {
                eprintln!("--- {}", self.log_path(node).display());
                eprintln!("{}", tail(&self.log_path(node)).unwrap_or_else(|error| error.to_string()));
            }
        }
    }
}

fn options(config: &Config) -> ClientOptions {
    let endpoints = config.nodes.iter().map(|node| format!("{}={}", node.name, node.client));
    ClientOptions::new(config.cluster_id.clone(), endpoints).expect("the addresses are sound")
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_SHOWN)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
