//! From a running cluster to a backup, and from that to a new cluster.

use std::path::Path;

use serde_json::Value;
use trialbay::cli::ExitCode;
use trialbay::config::Config;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::command::{Ran, run};
use trialbay_tests::storm::Storm;
use trialbay_tests::until;

use crate::{program, with_cluster};

/// Makes a backup of a node, which must work, and gives what it says of it.
async fn backup(cluster: &Cluster, node: usize, file: &str) -> Value {
    let ran = cluster.cli(&["backup", file, "--from", cluster.endpoint(node), "-o", "json"], b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

async fn restore(cluster: &Cluster, file: &str, dir: &Path) -> Ran {
    cluster.cli(&["restore", file, "--to", dir.to_str().unwrap(), "-o", "json"], b"").await
}

#[test]
fn a_backup_made_under_load_becomes_a_new_cluster_whose_nodes_all_have_it() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 8);
        let client = cluster.client();
        for number in 0..200_u32 {
            client.set(format!("kept{number:03}"), number.to_string().repeat(100)).await.unwrap();
        }
        let file = cluster.dir().join("backup").display().to_string();
        let made = backup(&cluster, 1, &file).await;
        let slot = made["slot"].as_u64().unwrap();
        let report = storm.finish(&cluster).await;
        println!("{report}");

        let dir = cluster.dir().join("restored");
        let ran = restore(&cluster, &file, &dir).await;
        assert_eq!((ran.code, &ran.json()["backup"]), (Some(0), &made), "{ran:?}");
        let again = restore(&cluster, &file, &dir).await;
        assert_eq!(again.code, Some(ExitCode::Usage as i32), "{again:?}");

        // No node of the old cluster takes such a home for its own.
        cluster.kill_all();
        let old = cluster.config_path().display().to_string();
        let home = dir.join("n1").display().to_string();
        let ran = run(program(), &["node", "--config", &old, "--name", "n1", "--home", &home], b"").await;
        assert_eq!(ran.code, Some(ExitCode::ForeignHome as i32), "{ran:?}");

        let config = Config::load(&dir.join("cluster.toml")).unwrap();
        assert_ne!(config.cluster_id, cluster.config.cluster_id);
        cluster.reconfigure(|old| {
            *old = config;
            old.nodes.iter_mut().for_each(|node| node.home = Some(dir.join(&node.name)));
        });
        // A majority is enough from the start.
        cluster.start_node(0);
        cluster.start_node(1);
        cluster.master().await;
        for number in 0..200_u32 {
            let value = cluster.client().get(format!("kept{number:03}")).await.unwrap();
            assert_eq!(value, number.to_string().repeat(100));
        }
        cluster.start_node(2);
        cluster.whole().await;
        // The new master has begun right behind the backup.
        until("the slots go on", async || Some(cluster.status(0).await?.decided_upto > slot).filter(|on| *on)).await;
        cluster.agreed().await;
        for node in 0..3 {
            let file = cluster.dir().join(format!("restored{node}")).display().to_string();
            let copy = backup(&cluster, node, &file).await;
            assert_eq!(copy["content_hash"], made["content_hash"], "n{}", node + 1);
        }

        // Whoever loses its home starts with an empty one, as in any cluster.
        cluster.kill(2);
        cluster.wipe(2);
        cluster.client().set("after", "all").await.unwrap();
        cluster.start_node(2);
        cluster.whole().await;
        cluster.agreed().await;
        let file = cluster.dir().join("wiped").display().to_string();
        assert_eq!(backup(&cluster, 2, &file).await["entries"].as_u64(), made["entries"].as_u64().map(|n| n + 1));
    });
}
