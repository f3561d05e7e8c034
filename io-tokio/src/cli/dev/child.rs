//! One node process of `trialbay dev`: started, watched, started again, stopped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use super::super::exit::ExitCode;
use super::say;

/// A node that was asked to stop has this long before it is killed.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
/// A node that lived this long starts again without a growing delay.
const SETTLED: Duration = Duration::from_secs(10);
const DELAY_MIN: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(8);
/// How often to look for errors in the log.
const LOG_POLL: Duration = Duration::from_millis(250);
/// How much of the log to look through at a time, and the longest line to repeat.
const LOG_CHUNK: usize = 64 << 10;

/// What is needed to run one node.
pub(super) struct ChildPlan {
    pub(super) program: PathBuf,
    pub(super) config: PathBuf,
    pub(super) name: String,
    pub(super) client: String,
    pub(super) log: PathBuf,
}

/// A node's process, and what it says.
pub(super) struct Running {
    child: Child,
    log: LogTail,
    started: Instant,
    pid: u32,
    /// Nobody writes to this pipe: it ends when this process does, however it does, and the node with it.
    _stdin: Option<ChildStdin>,
}

impl ChildPlan {
    /// Starts the node.
    pub(super) fn start(&self) -> std::io::Result<Running> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let tail = LogTail::new(&self.log)?;
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--config").arg(&self.config).args(["--name", &self.name, "--exit-with-parent"]);
        // The file has every setting already, and says which cluster it is.
        let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(b"TRIALBAY_") && name != "TRIALBAY_LOG";
        for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // In a group of its own, Ctrl-C reaches this process only, which then stops the nodes in order.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (pid, stdin) = (child.id().unwrap_or_default(), child.stdin.take());
        say(&format!("  {}  pid {pid}  client {}  log {}", self.name, self.client, self.log.display()));
        Ok(Running { child, log: tail, started: Instant::now(), pid, _stdin: stdin })
    }
}

/// Watches a node until `stopping` says so, and starts it again when it dies. Ends early, with its exit code, when it
/// would only die again.
pub(super) async fn supervise(
    plan: ChildPlan,
    mut running: Running,
    mut stopping: watch::Receiver<bool>,
) -> Option<ExitCode> {
    let name = &plan.name;
    let mut delay = DELAY_MIN;
    loop {
        let status = tokio::select! {
            status = running.ended(name) => status,
            () = stop_asked(&mut stopping) => {
                running.stop(name).await;
                return None;
            }
        };
        let (pid, how) = (running.pid, describe(status));
        if let Some(exit) = status.code().and_then(ExitCode::from_code).filter(|exit| exit.is_lasting()) {
            complain(&format!("{name} (pid {pid}) {how}: it is not started again, since that would not help"));
            return Some(exit);
        }
        if running.started.elapsed() > SETTLED {
            delay = DELAY_MIN;
        }
        complain(&format!("{name} (pid {pid}) {how}; it is started again in {:.1} s", delay.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(delay) => (),
            () = stop_asked(&mut stopping) => return None,
        }
        delay = (delay * 2).min(DELAY_MAX);
        running = match plan.start() {
            Ok(running) => running,
            Err(error) => {
                complain(&format!("{name} cannot be started: {error}"));
                return Some(ExitCode::Other);
            }
        };
    }
}

impl Running {
    /// Waits for the end of the process, and repeats its errors meanwhile.
    async fn ended(&mut self, name: &str) -> ExitStatus {
        let mut poll = tokio::time::interval(LOG_POLL);
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                _ = poll.tick() => self.log.repeat_errors(name),
            }
        };
        self.log.repeat_errors(name);
        // It fails only for a process that is not a child, or was waited for already.
        status.unwrap_or_default()
    }

    /// Asks the process to stop, and kills it if it does not.
    async fn stop(&mut self, name: &str) {
        // Without an id the node has ended already, and the number may be another process's.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_WAIT_MAX, self.child.wait()).await.is_err() {
            complain(&format!("{name} did not stop within {} s: it is killed", STOP_WAIT_MAX.as_secs()));
            let _ = self.child.kill().await;
        }
        self.log.repeat_errors(name);
    }
}

async fn stop_asked(stopping: &mut watch::Receiver<bool>) {
    // An error means that whoever could ask is gone, which asks as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => "stopped".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "was killed (SIGKILL)".to_owned(),
        (None, Some(15)) => "was killed (SIGTERM)".to_owned(),
        (None, Some(6)) => "aborted (SIGABRT)".to_owned(),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    }
}

/// Reads what is new in a log file, and repeats its errors.
struct LogTail {
    file: File,
    partial: Vec<u8>,
}

impl LogTail {
    fn new(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, partial: Vec::new() })
    }

    fn repeat_errors(&mut self, name: &str) {
        for line in self.errors() {
            complain(&format!("{name}: {line}"));
        }
    }

    /// The lines since last time that tell of an error. Of a very long log only the end is looked at.
    fn errors(&mut self) -> Vec<String> {
        let mut chunk = vec![0; LOG_CHUNK];
        let mut errors = Vec::new();
        // A log that cannot be read is there for people to read.
        while let Ok(count @ 1..) = self.file.read(&mut chunk) {
            self.partial.extend_from_slice(&chunk[..count]);
            let complete = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines: Vec<u8> = self.partial.drain(..complete).collect();
            errors.extend(
                lines
                    .split(|byte| *byte == b'\n')
                    .filter(|line| is_error(line))
                    .map(|line| String::from_utf8_lossy(line).into_owned()),
            );
            if self.partial.len() > LOG_CHUNK {
                self.partial.clear();
            }
            let excess = errors.len().saturating_sub(20);
            errors.drain(..excess);
        }
        errors
    }
}

/// Whether a line of the log is an error, a panic, or the last word of a node that could not go on.
fn is_error(line: &[u8]) -> bool {
    let head = &line[..line.len().min(64)];
    let has = |what: &[u8]| head.windows(what.len()).any(|part| part == what);
    has(b" ERROR ") || line.starts_with(b"trialbay: ") || (line.starts_with(b"thread '") && has(b"panicked"))
}

/// A line for whoever watches; nobody may.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn errors_of_the_log_are_found_once_and_only_those_written_since() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "t ERROR old\n").unwrap();
        let mut tail = LogTail::new(&path).unwrap();
        let mut log = File::options().append(true).open(&path).unwrap();
        assert_eq!(tail.errors(), Vec::<String>::new());
        log.write_all(b"t  INFO x: fine\nt ERROR x: bad\ntrialbay: home is locked\nt ERR").unwrap();
        assert_eq!(tail.errors(), ["t ERROR x: bad", "trialbay: home is locked"]);
        log.write_all(b"OR x: worse\nthread 'main' panicked at x\n\xff\n").unwrap();
        assert_eq!(tail.errors(), ["t ERROR x: worse", "thread 'main' panicked at x"]);
        assert_eq!(tail.errors(), Vec::<String>::new());
    }

    #[test]
    fn a_flood_of_errors_is_cut_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "").unwrap();
        let mut tail = LogTail::new(&path).unwrap();
        let flood: String = (0..50_000).map(|n| format!("t ERROR {n}\n")).collect();
        std::fs::write(&path, flood + &"x".repeat(3 * LOG_CHUNK)).unwrap();
        let errors = tail.errors();
        assert_eq!((errors.len(), errors[19].as_str()), (20, "t ERROR 49999"));
        assert!(tail.partial.len() <= 2 * LOG_CHUNK);
    }

    #[test]
    fn the_end_of_a_node_is_told_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(9)), "was killed (SIGKILL)");
        assert_eq!(describe(ExitStatus::from_raw(11)), "was killed by signal 11");
        assert_eq!(describe(ExitStatus::from_raw(13 << 8)), "ended with exit code 13");
        assert_eq!(describe(ExitStatus::from_raw(0)), "stopped");
    }

    fn plan(dir: &Path, script: &str) -> ChildPlan {
        use std::os::unix::fs::PermissionsExt as _;
        let program = dir.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let name = "n1".to_owned();
        ChildPlan { program, config: "c".into(), name, client: "127.0.0.1:1".to_owned(), log: dir.join("n1.log") }
    }

    async fn supervised(plan: ChildPlan, stopping: watch::Receiver<bool>) -> Option<ExitCode> {
        // A process that another test starts just now may still hold the script open for writing.
        let running = loop {
            match plan.start() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => tokio::task::yield_now().await,
                started => break started.unwrap(),
            }
        };
        supervise(plan, running, stopping).await
    }

    #[tokio::test]
    async fn a_node_that_would_only_die_again_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (_stop, stopping) = watch::channel(false);
        let exit = supervised(plan(dir.path(), "exit 10"), stopping).await;
        assert_eq!(exit, Some(ExitCode::ForeignHome));
    }

    #[tokio::test]
    async fn a_node_that_dies_is_started_again_and_one_that_is_asked_stops() {
        let dir = tempfile::tempdir().unwrap();
        let (stop, stopping) = watch::channel(false);
        // Dies the first time; the second time it waits, as a node does, for the end of its input or a signal.
        let script = "cd \"$(dirname \"$0\")\"\nif [ -e again ]; then touch up; exec cat; fi\ntouch again\nkill -9 $$";
        let supervisor = tokio::spawn(supervised(plan(dir.path(), script), stopping));
        while !dir.path().join("up").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send(true).unwrap();
        assert_eq!(supervisor.await.unwrap(), None);
    }
}
