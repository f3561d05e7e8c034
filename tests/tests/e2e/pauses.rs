//! Processes that stand still, and processes that are asked to go.

use std::time::{Duration, Instant};

use trialbay::client::{ClientError, Happened};
use trialbay::config::Reads;
use trialbay::consistency::Consistency;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::raw::{OK, Raw};
use trialbay_tests::storm::Storm;
use trialbay_tests::{rounds, summary, until};

use crate::{program, with_cluster};

/// Far more than a master needs to see that it is alone.
const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_master_that_was_paused_past_its_lease_serves_no_old_value() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let (mut refused, mut fresh) = (0, 0);
        for round in 0..rounds(3) {
            let (old, new) = (format!("old {round}"), format!("new {round}"));
            cluster.client().set("key", &old).await.unwrap();
            let paused = cluster.master().await;
            let connect = |_| Raw::connect(cluster.endpoint(paused), &cluster.config.cluster_id).unwrap();
            let mut connections: Vec<Raw> = (0..8).map(connect).collect();
            for connection in &mut connections {
                connection.send_get("key").unwrap();
                assert_eq!(connection.get_reply().unwrap(), (OK, old.clone().into_bytes()));
            }
            cluster.pause(paused);
            let others = cluster.client_with(|options| {
                options.endpoints.remove(paused);
            });
            until("the others have a master", async || others.set("key", &new).await.ok()).await;
            // They wait in the sockets of the old master, which reads them before it hears of anything else.
            for connection in &mut connections {
                connection.send_get("key").unwrap();
            }
            cluster.resume(paused);
            for mut connection in connections {
                // A connection that is closed gives no old value either.
                match connection.get_reply() {
                    Ok((OK, value)) => {
                        assert_eq!(value, new.as_bytes(), "round {round}");
                        fresh += 1;
                    }
                    Ok(_) | Err(_) => refused += 1,
                }
            }
            cluster.whole().await;
        }
        println!("reads at a master that was paused: {refused} refused, {fresh} fresh");
    });
}

#[test]
fn no_read_is_old_when_the_master_is_paused_for_about_a_lease() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let pauses = [50, 90, 100, 110, 150, 250].repeat(rounds(1).div_ceil(6));
        pause_the_master_under_load(&cluster, &pauses, "by lease").await;
    });
}

#[test]
fn no_read_by_quorum_is_old_when_the_master_is_paused() {
    with_cluster(async {
        let cluster = Cluster::start_with(program(), 3, |config| config.reads = Reads::Quorum).await;
        pause_the_master_under_load(&cluster, &[110, 250], "by quorum").await;
    });
}

/// Pauses it for so many hundredths of a lease each.
async fn pause_the_master_under_load(cluster: &Cluster, pauses: &[u32], reads: &str) {
    let mut storm = Storm::start(cluster, 8);
    storm.read_everywhere(cluster);
    let mut gaps = Vec::new();
    for percent in pauses {
        storm.more(50).await;
        let master = cluster.master().await;
        let paused = storm.history().now();
        cluster.pause(master);
        tokio::time::sleep(cluster.config.lease * *percent / 100).await;
        cluster.resume(master);
        gaps.push(storm.resumed(paused).await);
        cluster.whole().await;
    }
    let report = storm.finish(cluster).await;
    cluster.agreed().await;
    println!("pauses of the master of up to 2.5 leases, reads {reads}, writes resume: {}; {report}", summary(&gaps));
}

#[test]
fn a_master_that_is_asked_to_stop_hands_over() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 16);
        let mut gaps = Vec::new();
        for _ in 0..rounds(3) {
            // A node that was just started promises nothing for a lease, since it may have granted one before.
            tokio::time::sleep(cluster.config.lease * 5 / 4).await;
            let master = cluster.master().await;
            let asked = storm.history().now();
            let ended = cluster.terminate(master).await;
            assert_eq!(ended.code(), Some(0), "{ended}");
            gaps.push(storm.resumed(asked).await);
            cluster.start_node(master);
            cluster.whole().await;
        }
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        println!("SIGTERM of the master, writes resume: {}; {report}", summary(&gaps));
    });
}

#[test]
fn without_a_majority_updates_and_consistent_reads_fail_in_time_and_others_go_on() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        cluster.client().set("key", "before").await.unwrap();
        let master = cluster.master().await;
        let slaves = [(master + 1) % 3, (master + 2) % 3];

        slaves.into_iter().for_each(|slave| cluster.pause(slave));
        expect_no_majority(&cluster, master, "paused").await;
        slaves.into_iter().for_each(|slave| cluster.resume(slave));
        expect_recovery(&cluster, "paused").await;

        let master = cluster.master().await;
        let slaves = [(master + 1) % 3, (master + 2) % 3];
        slaves.into_iter().for_each(|slave| cluster.kill(slave));
        expect_no_majority(&cluster, master, "killed").await;
        slaves.into_iter().for_each(|slave| cluster.start_node(slave));
        expect_recovery(&cluster, "killed").await;
        cluster.agreed().await;
    });
}

/// What the clients of a master see whose slaves are gone; it sets, in vain or not, the key "fate".
async fn expect_no_majority(cluster: &Cluster, master: usize, how: &str) {
    // On the wire, where no client's own deadline ends the wait.
    let mut raw = Raw::connect(cluster.endpoint(master), &cluster.config.cluster_id).unwrap();
    let asked = Instant::now();
    raw.send_set("fate", how).unwrap();
    let (code, message) = raw.set_reply().unwrap();
    let answered = asked.elapsed();
    assert_ne!(code, OK, "acknowledged by one node of three");
    assert!(answered < BOUND, "{answered:?}");
    let message = String::from_utf8_lossy(&message);
    println!("slaves {how}: an update is refused after {} ms: {code:#x} {message}", answered.as_millis());

    let client = cluster.client().with_timeout(Duration::from_secs(2));
    let (asked, error) = (Instant::now(), client.set("fate", how).await.unwrap_err());
    assert!(matches!(error, ClientError::OutcomeUnknown { .. } | ClientError::DidNotHappen { .. }), "{error}");
    assert!(asked.elapsed() < BOUND, "{error}");
    let error = client.get("key").await.unwrap_err();
    assert!(error.happened() == Happened::No && !matches!(error, ClientError::NotFound { .. }), "{error}");

    // The first one may have to find out which nodes are silent.
    let client = cluster.client();
    for client in [client.at(cluster.endpoint(master)).unwrap(), client.clone(), client] {
        let asked = Instant::now();
        assert_eq!(client.get_with("key", Consistency::NoGuarantees).await.unwrap(), "before");
        println!("slaves {how}: a relaxed read takes {} ms", asked.elapsed().as_millis());
    }
    let status = cluster.status(master).await.unwrap();
    assert!(!status.serving && !status.progress_possible, "{status:?}");
}

async fn expect_recovery(cluster: &Cluster, how: &str) {
    cluster.whole().await;
    let client = cluster.client();
    assert_eq!(client.get("key").await.unwrap(), "before");
    // Refused with "outcome unknown", it may have happened; nothing else can have.
    match client.get("fate").await {
        Ok(value) => assert!(value == how || value == "after", "{value:?}"),
        Err(error) => assert!(matches!(error, ClientError::NotFound { .. }), "{error}"),
    }
    client.set("fate", "after").await.unwrap();
}
