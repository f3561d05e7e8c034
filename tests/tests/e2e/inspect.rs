//! Whether the stores of a cluster hold the same, asked of running nodes.

use std::sync::Arc;

use trialbay::cli::ExitCode;
use trialbay::disk::RealDisk;
use trialbay::identity::Identity;
use trialbay::store::{Head, Options, StorePlace, digest};
use trialbay_engine::{HistoryHash, NodeId, Slot};
use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;

use crate::{program, with_cluster};

/// Gives a stopped node another store, as of the same slot.
fn replace_store(cluster: &Cluster, node: usize, slot: u64, hash: &str) {
    let config = &cluster.config.nodes[node];
    let identity =
        Identity { cluster_id: cluster.config.cluster_id.clone(), node: NodeId(config.id), name: config.name.clone() };
    let path = cluster.home(node).join(format!("db/{}.db", config.name));
    std::fs::remove_file(&path).unwrap();
    let place = StorePlace::new(Arc::new(RealDisk), path, identity, Options::default());
    let hash = HistoryHash(u64::from_str_radix(hash, 16).unwrap());
    let entry = b"\x01\0\0\0k\x01\0\0\0v";
    let mut head = place.begin_head(Head { slot: Slot(slot), hash, entries: 1 }, b"", NodeId(config.id)).unwrap();
    head.put(0, entry).unwrap();
    head.finish(1, digest(0, entry)).unwrap();
    place.adopt_head().unwrap();
}

#[test]
fn stores_that_are_the_same_and_one_that_is_not_are_told_apart() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 4);
        cluster.client().set("key", "value").await.unwrap();
        // Under load they are compared or not; whatever is said, it is not that they differ.
        let ran = cluster.cli(&["cluster", "inspect", "--timeout", "500ms"], b"").await;
        assert!([0, ExitCode::Refused as i32].contains(&ran.code.unwrap()), "{ran:?}");
        println!("{}", storm.finish(&cluster).await);

        let ran = cluster.cli(&["cluster", "inspect", "-o", "json"], b"").await;
        assert_eq!((ran.code, &ran.json()["same"]), (Some(0), &true.into()), "{ran:?}");
        assert_eq!(ran.json()["nodes"].as_array().unwrap().len(), 3);

        let slave = (cluster.master().await + 1) % 3;
        cluster.agreed().await;
        let status = cluster.status(slave).await.unwrap();
        assert!(cluster.terminate(slave).await.success());
        let ran = cluster.cli(&["cluster", "inspect"], b"").await;
        assert_eq!(ran.code, Some(ExitCode::Other as i32), "{ran:?}");
        assert!(ran.text().contains("not compared: "), "{ran:?}");
        replace_store(&cluster, slave, status.decided_upto, &status.history_hash);
        cluster.start_node(slave);
        cluster.whole().await;
        let ran = cluster.cli(&["cluster", "inspect"], b"").await;
        assert_eq!(ran.code, Some(ExitCode::HistoryDiverged as i32), "{ran:?}");
        assert!(ran.text().contains("DIFFER at slot"), "{ran:?}");

        cluster.kill_all();
        let ran = cluster.cli(&["cluster", "inspect"], b"").await;
        assert_eq!(ran.code, Some(ExitCode::Unreachable as i32), "{ran:?}");
    });
}
