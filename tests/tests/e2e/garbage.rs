//! Bytes that no honest client or peer would send.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use trialbay::client::ClientError;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;

use crate::{program, with_cluster};

/// Connections with garbage of each kind.
const TIMES: u64 = 60;

/// More memory than this a node has no reason to take, whatever lengths it is told.
const RESIDENT_KIB_MAX: u64 = 256 << 10;

#[test]
fn garbage_on_any_port_harms_nobody_but_its_sender() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let storm = Storm::start(&cluster, 4);
        storm.more(50).await;
        let pids: Vec<u32> = (0..3).map(|node| cluster.pid(node)).collect();
        tokio::task::block_in_place(|| {
            for node in &cluster.config.nodes {
                let prologue = prologue(&cluster.config.cluster_id);
                for seed in 1..=TIMES {
                    let noise = noise(seed);
                    send(&node.client, &noise);
                    send(&node.peer, &noise);
                    // A command that exists, and a body that makes no sense, or claims to be enormous.
                    let command = 0xb1ff_0000 | u32::try_from(seed).expect("small");
                    let header = [&prologue[..], &command.to_le_bytes()].concat();
                    send(&node.client, &[&header[..], &noise].concat());
                    send(&node.client, &[&header[..], &[0xff; 64]].concat());
                    send(&node.client, &[&header[..], &[0xff, 0xff, 0xff, 0x7f].repeat(16)].concat());
                    // A letter of the handshake, cut off or damaged.
                    let letter = [&[0xf5, b'T', b'B', b'P', 1][..], &u16::MAX.to_le_bytes(), &noise].concat();
                    send(&node.peer, &letter[..letter.len().min(usize::try_from(seed).expect("small"))]);
                    send(&node.peer, &letter);
                }
            }
        });
        storm.more(50).await;
        storm.finish(&cluster).await;
        cluster.agreed().await;
        for (node, pid) in pids.into_iter().enumerate() {
            assert_eq!(cluster.pid(node), pid);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(peak < RESIDENT_KIB_MAX, "node {} took {peak} KiB", node + 1);
        }
    });
}

#[test]
fn what_is_too_large_is_refused_and_what_just_fits_is_kept() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let client = cluster.client();
        let limits = cluster.config.limits.updates;
        let refused = async |key: &[u8], value: &[u8]| match client.set(key, value).await {
            Err(ClientError::Refused { .. }) => {}
            other => panic!("{other:?}"),
        };
        let (key, value) = (vec![b'k'; limits.key_bytes_max], vec![b'v'; limits.value_bytes_max - 1]);
        client.set(&key, "small").await.unwrap();
        client.set("large", &value).await.unwrap();
        assert_eq!(client.get(&key).await.unwrap(), "small");
        assert_eq!(client.get("large").await.unwrap(), value);
        refused(&[&key[..], b"k"].concat(), b"small").await;
        refused(b"large", &[&value[..], b"v"].concat()).await;
        // The client is still of use, and so is its connection.
        assert_eq!(client.get("large").await.unwrap().len(), value.len());
        cluster.agreed().await;
    });
}

/// Sends all of it, and hears the other side out; that it may close at any time is its good right.
fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("not zero");
    if stream.write_all(bytes).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; 4096]);
    }
}

fn prologue(cluster_id: &str) -> Vec<u8> {
    let len = u32::try_from(cluster_id.len()).expect("short");
    [&0xb1ff_0000_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &len.to_le_bytes(), cluster_id.as_bytes()].concat()
}

/// The same bytes for the same seed.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..seed % 40).flat_map(|_| next()).collect()
}
