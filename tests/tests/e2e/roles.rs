//! Masters that are wanted, and masters that are not.

use std::time::{Duration, Instant};

use trialbay::cli::ExitCode;
use trialbay::client::ClientError;
use trialbay::config::NodeRole;
use trialbay::consistency::Consistency;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::until;

use crate::{program, with_cluster};

/// Codes of refusals of the client protocol.
const NOT_SUPPORTED: i32 = 0x20;
const NO_SUCCESSOR: i32 = 0x92;
const READ_ONLY: i32 = 0x08;

#[test]
fn a_dropped_master_hands_over_without_waiting_for_its_lease_and_does_not_take_it_back() {
    with_cluster(async {
        let lease = Duration::from_secs(4);
        let cluster = Cluster::start_with(program(), 3, |config| config.lease = lease).await;
        let client = cluster.client();
        let mut times = Vec::new();
        for round in 0..5_u32 {
            client.set("round", round.to_string()).await.unwrap();
            let dropped = cluster.master().await;
            let began = Instant::now();
            client.drop_master().await.unwrap();
            assert_eq!(client.get("round").await.unwrap().as_ref(), round.to_string().as_bytes());
            times.push(began.elapsed());
            assert_ne!(cluster.master().await, dropped);
        }
        println!("from the drop to the first read at the next master: {times:?}");
        assert!(times.iter().all(|time| *time < lease / 2), "{times:?}");
        // At a node that is not the master nothing happens.
        let master = cluster.master().await;
        let slave = cluster.client().at(cluster.endpoint((master + 1) % 3)).unwrap();
        slave.drop_master().await.unwrap();
        assert_eq!(cluster.master().await, master);
        let ran = cluster.cli(&["cluster", "drop-master"], b"").await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let next = cluster.master().await;
        assert_ne!(next, master);
        assert_eq!(ran.text().trim(), cluster.config.nodes[next].name);
        cluster.agreed().await;
    });
}

#[test]
fn a_master_that_nobody_can_succeed_serves_on_and_says_why() {
    with_cluster(async {
        let alone = Cluster::start(program(), 1).await;
        let refused = alone.client().drop_master().await.unwrap_err();
        let message = "drop master not supported for singletons".to_owned();
        assert_eq!(refused, ClientError::Refused { code: NOT_SUPPORTED, message });

        let mut cluster = Cluster::start(program(), 3).await;
        let master = cluster.master().await;
        let slaves: Vec<usize> = (0..3).filter(|node| *node != master).collect();
        cluster.kill(slaves[0]);
        cluster.pause(slaves[1]);
        match cluster.client().at(cluster.endpoint(master)).unwrap().drop_master().await {
            Err(ClientError::Refused { code: NO_SUCCESSOR, message }) => println!("{message}"),
            other => panic!("{other:?}"),
        }
        cluster.resume(slaves[1]);
        cluster.client().set("key", "value").await.unwrap();
        cluster.start_node(slaves[0]);
        cluster.whole().await;
        cluster.agreed().await;
    });
}

#[test]
fn a_preferred_node_is_master_again_soon_after_it_is_back() {
    with_cluster(async {
        let mut cluster = Cluster::start_with(program(), 3, |config| config.nodes[1].preferred = true).await;
        let client = cluster.client();
        let is_master = async |cluster: &Cluster| (cluster.master().await == 1).then_some(());
        until("the preferred node is master", async || is_master(&cluster).await).await;
        cluster.terminate(1).await;
        client.set("key", "while it is away").await.unwrap();
        assert_ne!(cluster.master().await, 1);
        cluster.start_node(1);
        until("the preferred node is master again", async || is_master(&cluster).await).await;
        assert_eq!(client.get("key").await.unwrap().as_ref(), b"while it is away");
        // The operator's word is above the preference.
        client.drop_master().await.unwrap();
        assert_ne!(cluster.master().await, 1);
        cluster.whole().await;
        cluster.agreed().await;
    });
}

#[test]
fn two_nodes_and_a_witness_lose_one_and_a_learner_serves_reads() {
    with_cluster(async {
        let roles = |config: &mut trialbay::config::Config| {
            config.nodes[2].role = NodeRole::Witness;
            config.nodes[3].role = NodeRole::Learner;
        };
        let mut cluster = Cluster::start_with(program(), 4, roles).await;
        let client = cluster.client();
        client.set("key", "value").await.unwrap();
        let at = client.get_txid().await.unwrap();
        let pinned = |node| cluster.client().at(cluster.endpoint(node)).unwrap();
        until("the learner has it", async || pinned(3).get_with("key", at).await.ok()).await;
        assert_eq!(pinned(3).who_master().await.unwrap(), client.find_master().await.unwrap().map(|found| found.name));
        match pinned(2).get_with("key", Consistency::NoGuarantees).await {
            Err(ClientError::Refused { code: NOT_SUPPORTED, message }) => {
                assert!(message.contains("witness"), "{message}")
            }
            other => panic!("{other:?}"),
        }
        // A client that may read anywhere finds a node with the data.
        for endpoint in 0..4 {
            let options = |options: &mut trialbay::client::ClientOptions| options.endpoints.rotate_left(endpoint);
            cluster.client_with(options).get_with("key", Consistency::NoGuarantees).await.unwrap();
        }
        let roles: Vec<String> = cluster.statuses().await.into_iter().map(|status| status.unwrap().role).collect();
        assert_eq!(roles[2..], ["witness", "learner"]);
        for round in 0..2_u32 {
            let master = cluster.master().await;
            assert!(master < 2);
            cluster.kill(master);
            // What goes to the master as it dies is answered by nobody, and may be asked again.
            until("the others serve", async || client.set("round", round.to_string()).await.ok()).await;
            assert_eq!(cluster.master().await, 1 - master);
            cluster.start_node(master);
            cluster.whole().await;
        }
        cluster.agreed().await;
    });
}

#[test]
fn a_read_only_node_serves_what_it_has_and_takes_nothing() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 1).await;
        cluster.client().set("key", "value").await.unwrap();
        cluster.terminate(0).await;
        cluster.reconfigure(|config| config.read_only = true);
        cluster.start_all();
        cluster.whole().await;
        let client = cluster.client();
        assert_eq!(client.get("key").await.unwrap().as_ref(), b"value");
        let refused = ClientError::Refused { code: READ_ONLY, message: "n1".to_owned() };
        assert_eq!(client.set("key", "other").await.unwrap_err(), refused);
        assert_eq!(client.confirm("key", "value").await.unwrap_err(), refused);
        assert_eq!(client.get("key").await.unwrap().as_ref(), b"value");
    });
}

#[test]
fn a_cluster_grows_from_one_node_to_three_and_loses_nothing() {
    with_cluster(async {
        let mut cluster = Cluster::prepare(program(), 3, |_| ());
        let all = cluster.config.nodes.clone();
        let mut written = 0_u32;
        for count in 1..=3 {
            cluster.reconfigure(|config| config.nodes = all[..count].to_vec());
            cluster.start_all();
            cluster.whole().await;
            let client = cluster.client();
            for key in 0..written {
                assert_eq!(client.get(key.to_string()).await.unwrap(), key.to_string());
            }
            for _ in 0..20 {
                client.set(written.to_string(), written.to_string()).await.unwrap();
                written += 1;
            }
            // A vote that is only lent would be lost with the next restart.
            until("all votes are for good", async || {
                let statuses = cluster.statuses().await;
                statuses.iter().all(|status| status.as_ref().is_some_and(|status| !status.vote_is_lent)).then_some(())
            })
            .await;
            cluster.agreed().await;
            if count == 1 {
                // Two more at once is refused.
                cluster.terminate(0).await;
                cluster.reconfigure(|config| config.nodes.clone_from(&all));
                cluster.start_node(0);
                assert_eq!(cluster.end(0).await.code(), Some(ExitCode::BadConfig as i32));
                let log = std::fs::read_to_string(cluster.log_path(0)).unwrap();
                assert!(log.contains("add or remove one voter at a time"), "{log}");
            } else {
                for node in 0..count {
                    cluster.terminate(node).await;
                }
            }
        }
        cluster.start_all();
        cluster.whole().await;
        let oldest = cluster.master().await;
        cluster.kill(oldest);
        let client = cluster.client();
        for key in 0..written {
            assert_eq!(client.get(key.to_string()).await.unwrap(), key.to_string());
        }
    });
}
