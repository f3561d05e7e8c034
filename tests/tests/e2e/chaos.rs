//! Whatever can befall processes, in an order that a seed gives, with no time to recover in between.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::rounds;
use trialbay_tests::storm::Storm;

use crate::{program, with_cluster};

#[test]
fn nothing_is_lost_doubled_or_old_whatever_happens_to_processes() {
    with_cluster(async {
        let seed = std::env::var("TRIALBAY_SEED").map_or_else(
            |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.subsec_nanos().into()),
            |seed| seed.parse().expect("TRIALBAY_SEED must be a number"),
        );
        println!("chaos with TRIALBAY_SEED={seed}; the timing of the machine is not part of it");
        let mut dice = Dice(seed);
        let mut cluster = Cluster::start(program(), 3).await;
        let mut storm = Storm::start(&cluster, 8);
        storm.read_everywhere(&cluster);
        for _ in 0..rounds(15) {
            strike(&mut cluster, &mut dice).await;
            // Mostly the next blow falls while nodes still recover from this one.
            if dice.roll(3) == 0 {
                storm.more(20).await;
            }
        }
        cluster.whole().await;
        storm.more(100).await;
        let report = storm.finish(&cluster).await;
        cluster.agreed().await;
        println!("chaos: {report}");
    });
}

async fn strike(cluster: &mut Cluster, dice: &mut Dice) {
    let node = dice.node(cluster);
    let lease = cluster.config.lease;
    let some_time = lease * dice.roll(200) / 100;
    match dice.roll(8) {
        0 => {
            cluster.kill(node);
            cluster.start_node(node);
        }
        1 => {
            cluster.kill(node);
            tokio::time::sleep(some_time).await;
            cluster.start_node(node);
        }
        2 => {
            let other = (node + 1) % cluster.len();
            cluster.kill(node);
            cluster.kill(other);
            tokio::time::sleep(some_time).await;
            cluster.start_node(other);
            cluster.start_node(node);
        }
        3 => {
            cluster.kill_all();
            cluster.start_all();
        }
        4 => {
            cluster.pause(node);
            tokio::time::sleep(some_time).await;
            cluster.resume(node);
        }
        5 => {
            let other = (node + 1) % cluster.len();
            cluster.pause(node);
            tokio::time::sleep(some_time / 2).await;
            cluster.pause(other);
            tokio::time::sleep(some_time / 2).await;
            cluster.resume(node);
            cluster.resume(other);
        }
        6 => {
            let ended = cluster.terminate(node).await;
            // One that had only just begun may not have come to listening to signals.
            let just_begun = ended.signal() == Some(Signal::TERM.as_raw());
            assert!(ended.success() || just_begun, "{ended}");
            cluster.start_node(node);
        }
        _ => {
            // What the others have must be all there is: a wiped disk is the one failure that three nodes survive.
            cluster.whole().await;
            cluster.kill(node);
            cluster.wipe(node);
            cluster.start_node(node);
            cluster.whole().await;
        }
    }
}

/// Numbers that depend on nothing but the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(sides)).expect("less than the sides")
    }

    fn node(&mut self, cluster: &Cluster) -> usize {
        self.roll(u32::try_from(cluster.len()).expect("at most 7")) as usize
    }
}
