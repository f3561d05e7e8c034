//! Masters that are wanted, and masters that are not.

use std::time::{Duration, Instant};

use trialbay::client::ClientError;
use trialbay_tests::cluster::Cluster;

use crate::{program, with_cluster};

/// Codes of refusals of the client protocol.
const NOT_SUPPORTED: i32 = 0x20;
const NO_SUCCESSOR: i32 = 0x92;

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
