//! Processes that are killed under load.

use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;
use trialbay_tests::{PATIENCE, rounds, summary, until};

use crate::{program, with_cluster};

#[test]
fn nothing_is_lost_or_doubled_when_masters_are_killed() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 16);
        let mut gaps = Vec::new();
        for _ in 0..rounds(20) {
            storm.more(50).await;
            let master = cluster.master().await;
            let killed = storm.history().now();
            cluster.kill(master);
            gaps.push(storm.resumed(killed).await);
            cluster.start_node(master);
            cluster.whole().await;
        }
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        println!("kill -9 of the master, writes resume: {}; {report}", summary(&gaps));
        assert!(gaps.iter().all(|gap| *gap < PATIENCE));
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_slaves_are_killed() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 16);
        let mut gaps = Vec::new();
        for round in 0..rounds(6) {
            let slave = (cluster.master().await + 1 + round % 2) % 3;
            let killed = storm.history().now();
            cluster.kill(slave);
            gaps.push(storm.resumed(killed).await);
            storm.more(100).await;
            cluster.start_node(slave);
            cluster.whole().await;
        }
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        println!("kill -9 of a slave, writes resume: {}; {report}", summary(&gaps));
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_all_nodes_are_killed_at_once() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 16);
        let mut gaps = Vec::new();
        for _ in 0..rounds(5) {
            storm.more(100).await;
            cluster.kill_all();
            let started = storm.history().now();
            cluster.start_all();
            gaps.push(storm.resumed(started).await);
        }
        cluster.whole().await;
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        println!("kill -9 of all nodes, writes resume after the start: {}; {report}", summary(&gaps));
    });
}

#[test]
fn a_wiped_slave_comes_back_under_load_and_votes_again() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 16);
        storm.more(2_000).await;
        let master = cluster.master().await;
        let (wiped, other) = ((master + 1) % 3, (master + 2) % 3);
        cluster.kill(wiped);
        cluster.wipe(wiped);
        storm.more(200).await;
        let started = storm.history().now();
        cluster.start_node(wiped);
        cluster.whole().await;
        let caught_up = storm.history().now();
        let meanwhile = storm.history().acknowledged(started, caught_up);
        until("the wiped node votes", async || cluster.status(wiped).await.filter(|status| status.votes)).await;
        // Only with its vote can anything be decided now.
        let killed = storm.history().now();
        cluster.kill(other);
        storm.resumed(killed).await;
        storm.more(200).await;
        cluster.start_node(other);
        cluster.whole().await;
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        let ms = (caught_up - started) / 1_000_000;
        println!("a wiped slave took {ms} ms to vote again, with {meanwhile} updates meanwhile; {report}");
    });
}
