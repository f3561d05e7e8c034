//! What nodes recorded while they were killed under load replays to the same actions.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use trialbay_sim::recording::{Replayed, replay};
use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;

use crate::{program, with_cluster};

/// More than is recorded here.
const MIB: u64 = 256;

#[test]
fn recordings_of_killed_nodes_replay_to_the_same_actions() {
    with_cluster(async {
        let mut cluster = Cluster::start_with(program(), 3, |config| {
            (config.recorder, config.recorder_mib) = (true, MIB);
        })
        .await;
        let storm = Storm::start(&cluster, 16);
        for round in 0..4 {
            storm.more(150).await;
            let master = cluster.master().await;
            let killed = if round % 2 == 0 { master } else { (master + 1) % 3 };
            let at = storm.history().now();
            cluster.kill(killed);
            storm.resumed(at).await;
            cluster.start_node(killed);
            cluster.whole().await;
        }
        storm.finish(&cluster).await;
        cluster.agreed().await;
        let master = cluster.master().await;
        for node in (0..cluster.len()).filter(|node| *node != master) {
            cluster.terminate(node).await;
        }
        cluster.kill(master);
        let starts: usize = (0..cluster.len()).map(|node| check(&recording_of(&cluster, node))).sum();
        // Three to begin with, and four after kills.
        assert_eq!(starts, 7);
        survives_damage(&recording_of(&cluster, master));
    });
}

fn recording_of(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.home(node).join("recorder")
}

/// Checks a whole recording; gives how many runs of its node are in it.
fn check(dir: &Path) -> usize {
    let mut starts = 1;
    let mut decided = 0;
    let replayed = replay(dir, &mut |line| {
        starts += usize::from(line == "the node was started again");
        decided += usize::from(line.contains("  Applied("));
    })
    .unwrap();
    assert!(replayed.is_faithful(), "{}: {replayed}", dir.display());
    // A process that is killed in the middle of a write leaves a frame that is cut off, and nothing else is amiss.
    assert!(replayed.problems.iter().all(|problem| problem.contains("cut off")), "{}: {replayed}", dir.display());
    assert!(decided > 50, "{decided} times something was applied in {replayed}");
    starts
}

fn survives_damage(dir: &Path) {
    let whole = replay(dir, &mut |_| ()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let bytes = std::fs::read(&files[0]).unwrap();
    for tenth in 0..10 {
        let at = bytes.len() * tenth / 10;
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let flipped = replay_with(&files, &flipped);
        assert!(!flipped.problems.is_empty(), "flipped at {at}: {flipped}");
        // A file that ends between two frames looks like one of a node that was killed then.
        let cut = replay_with(&files, &bytes[..at]);
        for replayed in [flipped, cut] {
            assert!(replayed.events < whole.events && replayed.mismatch.is_none(), "at {at}: {replayed}");
        }
    }
}

/// Replays the files with another content of the first one.
fn replay_with(files: &[PathBuf], first: &[u8]) -> Replayed {
    let dir = TempDir::with_prefix("trialbay-").unwrap();
    for file in files {
        std::fs::copy(file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    std::fs::write(dir.path().join(files[0].file_name().unwrap()), first).unwrap();
    replay(dir.path(), &mut |_| ()).unwrap()
}
