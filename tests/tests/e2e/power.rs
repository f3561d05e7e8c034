//! Power cuts: a file system that loses everything that was not synced, under all nodes at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;
use trialbay_tests::{rounds, summary, until};

use crate::{program, with_cluster};

/// The ioctl EXT4_IOC_SHUTDOWN with the flag NOLOGFLUSH: from here on nothing reaches the device.
const CUT: &str = "import fcntl, os, struct, sys; \
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails_everywhere_at_once() {
    let disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    with_cluster(async {
        let homes = disk.mounted_at();
        let mut cluster = Cluster::start_with(program(), 3, |config| {
            // The disk is small.
            config.disk_reserve_mib = 16;
            for node in &mut config.nodes {
                node.home = Some(homes.join(&node.name));
            }
        })
        .await;
        let storm = Storm::start(&cluster, 16);
        let mut gaps = Vec::new();
        for _ in 0..rounds(4) {
            storm.more(200).await;
            // The ioctl lets a sync succeed that is in progress, and loses what was synced: no disk does that. Here none is.
            (0..cluster.len()).for_each(|node| cluster.pause(node));
            until("the nodes stand still", async || stand_still(&cluster).then_some(())).await;
            disk.cut_power();
            cluster.kill_all();
            disk.remount();
            let started = storm.history().now();
            cluster.start_all();
            gaps.push(storm.resumed(started).await);
        }
        cluster.whole().await;
        let report = storm.finish(&cluster).await;
        println!("power cuts, writes resume after the start: {}; {report}", summary(&gaps));
    });
}

/// Whether no thread of any node is in the middle of a system call.
fn stand_still(cluster: &Cluster) -> bool {
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    };
    let tasks = |node| std::fs::read_dir(format!("/proc/{}/task", cluster.pid(node))).unwrap();
    (0..cluster.len()).all(|node| tasks(node).all(is_stopped))
}

/// A file system of its own in a file, unmounted when it is dropped.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn new() -> Result<Self, String> {
        let dir = TempDir::with_prefix("trialbay-").map_err(|error| error.to_string())?;
        std::fs::create_dir(dir.path().join("mounted")).map_err(|error| error.to_string())?;
        let disk = Self { dir };
        run("truncate", &["-s", "256M", &disk.image()])?;
        run("mkfs.ext4", &["-q", "-F", &disk.image()])?;
        run("python3", &["-c", "import fcntl"])?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> String {
        self.dir.path().join("image").display().to_string()
    }

    fn mounted_at(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image(), &text(&self.mounted_at())])
    }

    fn cut_power(&self) {
        run("python3", &["-c", CUT, &text(&self.mounted_at())]).expect("it is an ext4 file system");
    }

    fn remount(&self) {
        run("umount", &[&text(&self.mounted_at())]).expect("nobody uses it any more");
        self.mount().expect("it could be mounted before");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Where it was never mounted there is nothing to do.
        let _ = run("umount", &[&text(&self.mounted_at())]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
