//! Nothing that others rely on leaves a node before it is on disk, as the system calls show.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use trialbay::config::NodeConfig;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::raw::{OK, Raw};
use trialbay_tests::trace::{Seen, Trace};

use crate::{program, with_cluster};

const CONNECTIONS: usize = 4;
const SETS: usize = 25;

#[test]
fn no_promise_acceptance_or_acknowledgement_leaves_before_its_record_is_durable() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: there is no strace");
        return;
    }
    with_cluster(async {
        let mut one = Cluster::start_traced(program(), 1).await;
        set_some(&one, 0, "one");
        stop(&mut one, 0).await;
        let seen = judge(&one, 0);
        assert_eq!((seen.acceptances, seen.acknowledged), (0, CONNECTIONS * SETS), "{seen:?}");

        let mut three = Cluster::start_traced(program(), 3).await;
        let first = three.master().await;
        set_some(&three, first, "first");
        stop(&mut three, first).await;
        let second = three.master().await;
        set_some(&three, second, "second");
        let third = 3 - first - second;
        stop(&mut three, second).await;
        stop(&mut three, third).await;
        for (node, sets) in [(first, CONNECTIONS * SETS), (second, CONNECTIONS * SETS), (third, 0)] {
            let seen = judge(&three, node);
            assert!(seen.promises > 0 && (seen.acceptances > 0 || node == first), "{seen:?}");
            assert_eq!(seen.acknowledged, sets, "{seen:?}");
            println!("node {} of a traced cluster: {seen:?}", node + 1);
        }
    });
}

/// Several clients at once, so that the node puts several updates into one slot and several slots into one sync.
fn set_some(cluster: &Cluster, node: usize, name: &str) {
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let mut raw = Raw::connect(cluster.endpoint(node), &cluster.config.cluster_id).unwrap();
            scope.spawn(move || {
                for turn in 0..SETS {
                    raw.send_set(&format!("{name}-{connection:04}-{turn:04}"), "value").unwrap();
                    assert_eq!(raw.set_reply().unwrap(), (OK, Vec::new()));
                }
            });
        }
    });
}

/// SIGTERM to the node, which ends `strace` as well.
async fn stop(cluster: &mut Cluster, node: usize) {
    let pid = i32::try_from(cluster.status(node).await.unwrap().pid).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert_eq!(cluster.end(node).await.code(), Some(0));
}

fn judge(cluster: &Cluster, node: usize) -> Seen {
    let trace = std::fs::read_to_string(cluster.trace_path(node)).unwrap();
    let port = |address: &str| address.rsplit_once(':').unwrap().1.parse().unwrap();
    let nodes: &[NodeConfig] = &cluster.config.nodes;
    let peer_ports: Vec<u16> = nodes.iter().map(|node| port(&node.peer)).collect();
    let judged = Trace::parse(&trace).judge(port(cluster.endpoint(node)), &peer_ports, cluster.len());
    judged.unwrap_or_else(|why| {
        let kept = std::env::temp_dir().join("trialbay-early.trace");
        let _ = std::fs::copy(cluster.trace_path(node), &kept);
        panic!("{why} (the trace is kept as {})", kept.display())
    })
}
