//! Clusters of other sizes, old logs, and the bytes of the client protocol.

use std::time::Instant;

use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;
use trialbay_tests::summary;
use trialbay_tests::vectors::{CLUSTER_ID, play_vectors};

use crate::{program, with_cluster};

#[test]
fn a_cluster_of_one_loses_nothing_when_it_is_killed() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 1).await;
        let storm = Storm::start(&cluster, 8);
        let mut gaps = Vec::new();
        for _ in 0..3 {
            storm.more(100).await;
            cluster.kill(0);
            let started = storm.history().now();
            cluster.start_node(0);
            gaps.push(storm.resumed(started).await);
        }
        let report = storm.finish(&cluster).await;
        println!("kill -9 of the only node, writes resume after the start: {}; {report}", summary(&gaps));
    });
}

#[test]
fn a_cluster_of_five_survives_two_failures_at_once() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 5).await;
        let storm = Storm::start(&cluster, 8);
        storm.more(100).await;
        let master = cluster.master().await;
        let slave = (master + 1) % 5;
        let killed = storm.history().now();
        cluster.kill(master);
        cluster.kill(slave);
        let gap = storm.resumed(killed).await;
        storm.more(100).await;
        cluster.start_node(master);
        cluster.start_node(slave);
        cluster.whole().await;
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        println!("kill -9 of two of five, writes resume: {} ms; {report}", gap.as_millis());
    });
}

#[test]
fn a_wiped_node_of_two_comes_back() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 2).await;
        let storm = Storm::start(&cluster, 4);
        storm.more(200).await;
        let wiped = 1 - cluster.master().await;
        cluster.kill(wiped);
        cluster.wipe(wiped);
        cluster.start_node(wiped);
        cluster.whole().await;
        storm.more(50).await;
        storm.finish(&cluster).await;
        cluster.agreed().await;
    });
}

#[test]
fn nodes_come_back_with_old_logs_and_catch_up() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let client = cluster.client();
        let slave = (cluster.master().await + 1) % 3;
        client.set("first", "1").await.unwrap();
        assert_eq!(cluster.terminate(slave).await.code(), Some(0));
        for number in 0..500 {
            client.set(format!("key {number}"), vec![b'x'; 1_000]).await.unwrap();
        }
        cluster.start_node(slave);
        cluster.whole().await;
        cluster.agreed().await;

        for node in 0..3 {
            assert_eq!(cluster.terminate(node).await.code(), Some(0));
        }
        let started = Instant::now();
        cluster.start_all();
        cluster.whole().await;
        println!("all nodes are back after {} ms", started.elapsed().as_millis());
        cluster.agreed().await;
        let client = cluster.client();
        assert_eq!(client.get_key_count().await.unwrap(), 501);
        assert_eq!(client.get("first").await.unwrap(), "1");
    });
}

#[test]
fn every_recorded_vector_of_the_client_protocol_is_answered_as_recorded_or_better() {
    with_cluster(async {
        let cluster = Cluster::start_with(program(), 1, |config| config.cluster_id = CLUSTER_ID.to_owned()).await;
        let failures = play_vectors(cluster.endpoint(0).parse().unwrap());
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}
