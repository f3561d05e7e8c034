//! `trialbay dev`, as a newcomer uses it.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use trialbay_tests::command::{Ran, run};
use trialbay_tests::ports::free_base_port;
use trialbay_tests::process::Process;
use trialbay_tests::until;

use crate::{program, with_cluster};

struct Dev {
    dir: tempfile::TempDir,
    process: Process,
}

impl Dev {
    fn start() -> Self {
        let dir = tempfile::TempDir::with_prefix("trialbay-").unwrap();
        let (base, data) = (free_base_port(3).to_string(), dir.path().join("data"));
        let args = ["dev", "--base-port", &base, "--data", data.to_str().unwrap()];
        let process = Process::start(program(), &args, &dir.path().join("log"));
        Self { dir, process }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    async fn cli(&self, args: &[&str]) -> Ran {
        let config = self.dir.path().join("data/trialbay.toml");
        run(program(), &[args, &["--config", config.to_str().unwrap()]].concat(), b"").await
    }

    /// The processes that it says it started.
    fn pids(&self) -> Vec<i32> {
        let log = self.log();
        let pids = log.lines().filter_map(|line| line.split_once("  pid ")?.1.split(' ').next()?.parse().ok());
        pids.collect()
    }
}

#[test]
fn dev_runs_a_cluster_that_survives_its_master_until_it_is_interrupted() {
    with_cluster(async {
        let mut dev = Dev::start();
        until("dev is ready", async || dev.log().contains("ready after").then_some(())).await;
        assert_eq!(dev.cli(&["set", "hello", "world"]).await.code, Some(0));
        assert_eq!(dev.cli(&["get", "hello"]).await.text(), "world");

        // The line to copy, as `dev` prints it.
        let log = dev.log();
        let kill = log.lines().find_map(|line| line.trim().strip_prefix("kill -9 ")).unwrap();
        let master: i32 = kill.split(' ').next().unwrap().parse().unwrap();
        assert!(dev.pids().contains(&master) && dev.pids().len() == 3, "{log}");
        kill_process(Pid::from_raw(master).unwrap(), Signal::KILL).unwrap();
        until("writes resume", async || (dev.cli(&["set", "hello", "again"]).await.code == Some(0)).then_some(()))
            .await;
        assert_eq!(dev.cli(&["get", "hello"]).await.text(), "again");
        until("the master is started again, and one more failure is survivable", async || {
            let status = dev.cli(&["cluster", "status", "-o", "json"]).await.json();
            (dev.pids().len() == 4 && status["one_more_failure_survivable"] == true).then_some(())
        })
        .await;

        dev.process.signal(Signal::INT);
        let status = until("dev ends", async || dev.process.ended()).await;
        assert_eq!(status.code(), Some(0), "{}", dev.log());
        for pid in dev.pids() {
            let gone = test_kill_process(Pid::from_raw(pid).unwrap()).is_err();
            assert!(gone, "process {pid} is left behind: {}", dev.log());
        }
    });
}

#[test]
fn nodes_end_with_the_dev_that_started_them() {
    with_cluster(async {
        let dev = Dev::start();
        until("dev is ready", async || dev.log().contains("ready after").then_some(())).await;
        let pids = dev.pids();
        assert_eq!(pids.len(), 3);
        let Dev { process, dir } = dev;
        process.kill();
        until("the nodes are gone", async || {
            let gone = |pid: &i32| !Path::new(&format!("/proc/{pid}/fd/0")).exists();
            pids.iter().all(gone).then_some(())
        })
        .await;
        drop(dir);
    });
}
