//! Peer networks over loopback, among themselves and against peers that misbehave.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trialbay_engine::{Ballot, HistoryHash, Slot, Value};

use super::memory_network::MemoryNetwork;
use super::*;
use crate::net::{Listener, RealNetwork};

/// Nothing here takes nearly as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// On a loaded machine anything may take long.
const REAL_TIME: PeerTiming = PeerTiming {
    connect_max: PATIENCE,
    handshake_max: PATIENCE,
    pulse_interval: Duration::from_millis(20),
    silence_max: PATIENCE,
    backoff_min: Duration::from_millis(5),
    backoff_max: Duration::from_millis(50),
    flush_max: PATIENCE,
};

struct Node {
    network: PeerNetwork,
    events: mpsc::Receiver<PeerEvent>,
}

impl Node {
    async fn next(&mut self) -> PeerEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event comes").expect("the inbox is open")
    }

    async fn connected(&mut self) -> NodeId {
        loop {
            if let PeerEvent::Connected(node) = self.next().await {
                return node;
            }
        }
    }

    async fn disconnected(&mut self) -> NodeId {
        loop {
            if let PeerEvent::Disconnected(node) = self.next().await {
                return node;
            }
        }
    }

    async fn received(&mut self) -> (NodeId, Message) {
        loop {
            if let PeerEvent::Received { from, message, .. } = self.next().await {
                return (from, message);
            }
        }
    }

    fn counters(&self, peer: u16) -> PeerCounters {
        let counters = self.network.counters();
        counters.into_iter().find(|(node, _)| *node == NodeId(peer)).expect("a configured peer").1
    }
}

async fn eventually(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.expect("the condition comes to hold");
}

async fn listener() -> (TcpListener, String) {
    let listener = RealNetwork.bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

/// An address where nobody listens, and nobody will: the port is privileged and not a service.
const NOWHERE: &str = "127.0.0.1:1";

fn options(node: u16, peers: &[(u16, &str)]) -> PeerOptions {
    let peers = peers.iter().map(|(peer, address)| PeerAddress {
        node: NodeId(*peer),
        name: format!("n{peer}"),
        address: (*address).to_owned(),
    });
    PeerOptions {
        cluster_id: "dev".into(),
        node: NodeId(node),
        name: format!("n{node}"),
        peers: peers.collect(),
        timing: REAL_TIME,
        limits: PeerLimits::default(),
        terms: handshake::Terms::default(),
        seed: 1,
    }
}

fn start(listener: TcpListener, options: PeerOptions, inbox_len: usize) -> Node {
    let (inbox, events) = mpsc::channel(inbox_len);
    let network = PeerNetwork::start_on(RealNetwork, listener, options, inbox).expect("the options are fine");
    Node { network, events }
}

async fn pair() -> (Node, Node) {
    let ((listener1, address1), (listener2, address2)) = (listener().await, listener().await);
    let node1 = start(listener1, options(1, &[(2, &address2)]), 64);
    let node2 = start(listener2, options(2, &[(1, &address1)]), 64);
    (node1, node2)
}

/// Introduces itself as `node` to a node 2 that listens at `address`.
async fn introduced_as(node: u16, address: &str) -> TcpStream {
    let mut stream = RealNetwork.connect(address).await.expect("the node listens");
    let identity = Identity {
        cluster_id: "dev".into(),
        node: NodeId(node),
        name: format!("n{node}"),
        peers: [(NodeId(2), "n2".into())].into(),
        versions: VERSIONS,
        terms: handshake::Terms::default(),
    };
    handshake::dial(&mut stream, &identity, NodeId(2), handshake::Purpose::Messages, PATIENCE)
        .await
        .expect("node 2 accepts");
    stream
}

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append_frame(message, frame::BODY_LEN_MAX, &mut bytes).expect("it is small");
    bytes
}

/// Reads pulses away until the other side closes.
async fn hung_up(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    // Closed or reset: both are the end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
}

fn accept(slot: u64, len: usize) -> Message {
    Message::Accept {
        ballot: Ballot { round: 1, node: NodeId(1) },
        first: Slot(slot),
        values: vec![Value::Commands(vec![slot as u8; len].into())].into(),
        decided_upto: Slot::ZERO,
        decided_hash: HistoryHash(0),
    }
}

fn fetch(slot: u64) -> Message {
    Message::Fetch { from: Slot(slot) }
}

#[tokio::test]
async fn messages_arrive_in_order_both_ways() {
    let (mut node1, mut node2) = pair().await;
    assert_eq!(node1.connected().await, NodeId(2));
    assert_eq!(node2.connected().await, NodeId(1));
    assert!(node1.network.is_connected(NodeId(2)));
    assert!(!node1.network.is_connected(NodeId(9)));
    for slot in 1..=300 {
        node1.network.send(NodeId(2), accept(slot, 10_000));
        node2.network.send(NodeId(1), fetch(slot));
    }
    for slot in 1..=300 {
        assert_eq!(node2.received().await, (NodeId(1), accept(slot, 10_000)));
        assert_eq!(node1.received().await, (NodeId(2), fetch(slot)));
    }
    let (sent, received) = (node1.counters(2), node2.counters(1));
    assert_eq!((sent.sent_messages, received.received_messages), (300, 300));
    assert_eq!((sent.connections, sent.dropped_messages), (1, 0));
}

#[tokio::test]
async fn a_message_of_many_megabytes_arrives() {
    let (mut node1, mut node2) = pair().await;
    node1.connected().await;
    node1.network.send(NodeId(2), accept(7, 40 << 20));
    assert_eq!(node2.received().await, (NodeId(1), accept(7, 40 << 20)));
}

#[tokio::test]
async fn a_restarted_peer_is_connected_to_again_and_heard_again() {
    let ((listener1, address1), (listener2, address2)) = (listener().await, listener().await);
    let mut node1 = start(listener1, options(1, &[(2, &address2)]), 64);
    let mut node2 = start(listener2, options(2, &[(1, &address1)]), 64);
    for round in 1..=3 {
        assert_eq!(node1.connected().await, NodeId(2));
        assert_eq!(node2.connected().await, NodeId(1));
        node1.network.send(NodeId(2), fetch(round));
        node2.network.send(NodeId(1), fetch(round));
        assert_eq!(node2.received().await.1, fetch(round));
        assert_eq!(node1.received().await.1, fetch(round));

        node2.network.shutdown().await;
        assert_eq!(node1.disconnected().await, NodeId(2));
        assert!(!node1.network.is_connected(NodeId(2)));
        node1.network.send(NodeId(2), fetch(0));
        let listener2 = RealNetwork.bind(&address2).await.expect("a shutdown frees the port");
        node2 = start(listener2, options(2, &[(1, &address1)]), 64);
    }
    assert_eq!(node1.counters(2).dropped_messages, 3);
}

#[tokio::test]
async fn a_peer_that_returns_is_dialled_at_once_however_long_the_back_off() {
    let ((listener1, address1), (listener2, address2)) = (listener().await, listener().await);
    drop(listener2);
    let mut patient = options(1, &[(2, &address2)]);
    patient.timing = PeerTiming { backoff_min: PATIENCE * 9, backoff_max: PATIENCE * 9, ..patient.timing };
    let mut node1 = start(listener1, patient, 64);
    eventually(|| node1.counters(2).failed_attempts == 1).await;
    let listener2 = RealNetwork.bind(&address2).await.expect("the port is free");
    let _node2 = start(listener2, options(2, &[(1, &address1)]), 64);
    assert_eq!(node1.connected().await, NodeId(2));
}

#[tokio::test]
async fn a_shutdown_lets_queued_messages_out_first() {
    let (mut node1, mut node2) = pair().await;
    node1.connected().await;
    let resign = Message::Resign {
        ballot: Ballot { round: 1, node: NodeId(1) },
        successor: Some(NodeId(2)),
        decided_upto: Slot(5),
        decided_hash: HistoryHash(9),
    };
    node1.network.send(NodeId(2), accept(1, 3 << 20));
    node1.network.send(NodeId(2), resign.clone());
    node1.network.shutdown().await;
    assert_eq!(node2.received().await.1, accept(1, 3 << 20));
    assert_eq!(node2.received().await.1, resign);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_peer_that_takes_nothing() {
    let (silent, address) = listener().await;
    let (own, _) = listener().await;
    let mut options = options(1, &[(2, &address)]);
    options.timing.flush_max = Duration::from_millis(50);
    let mut node1 = start(own, options, 64);
    let (mut stream, _) = silent.accept().await.unwrap();
    handshake::accept(&mut stream, &identity_of_node_2(), PATIENCE).await.unwrap();
    node1.connected().await;
    for slot in 1..=20 {
        node1.network.send(NodeId(2), accept(slot, 4 << 20));
    }
    tokio::time::timeout(PATIENCE, node1.network.shutdown()).await.expect("a shutdown is bounded");
}

fn identity_of_node_2() -> Identity {
    Identity {
        cluster_id: "dev".into(),
        node: NodeId(2),
        name: "n2".into(),
        peers: [(NodeId(1), "n1".into())].into(),
        versions: VERSIONS,
        terms: handshake::Terms::default(),
    }
}

/// For paused time: with the timing of production.
async fn start_in_memory(network: &MemoryNetwork, listen: &str, options: PeerOptions, inbox_len: usize) -> Node {
    let (inbox, events) = mpsc::channel(inbox_len);
    let options = PeerOptions { timing: PeerTiming::default(), ..options };
    let network = PeerNetwork::start(network.clone(), listen, options, inbox).await.expect("the options are fine");
    Node { network, events }
}

/// Nodes 1 and 2, node 2 with these limits and an inbox of `inbox_len` messages.
async fn pair_in_memory(network: &MemoryNetwork, limits: PeerLimits, inbox_len: usize) -> (Node, Node) {
    let node1 = start_in_memory(network, "one", options(1, &[(2, "two")]), 64).await;
    let options = PeerOptions { limits, ..options(2, &[(1, "one")]) };
    let node2 = start_in_memory(network, "two", options, inbox_len).await;
    (node1, node2)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_gives_no_sign_of_life_is_hung_up_on_and_dialled_again() {
    let network = MemoryNetwork::default();
    let dead = network.bind("two").await.unwrap();
    let mut node1 = start_in_memory(&network, "one", options(1, &[(2, "two")]), 64).await;
    for _ in 0..2 {
        let (mut stream, _) = Listener::accept(&dead).await.unwrap();
        handshake::accept(&mut stream, &identity_of_node_2(), PATIENCE).await.unwrap();
        assert_eq!(node1.connected().await, NodeId(2));
        assert_eq!(node1.disconnected().await, NodeId(2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept() {
    let (mut node1, _node2) = pair_in_memory(&MemoryNetwork::default(), PeerLimits::default(), 64).await;
    node1.connected().await;
    tokio::time::sleep(PATIENCE * 100).await;
    assert!(node1.network.is_connected(NodeId(2)));
    assert_eq!(node1.counters(2).connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_swallows_what_is_sent_is_given_up_and_a_new_one_carries_again() {
    let network = MemoryNetwork::default();
    let (mut node1, mut node2) = pair_in_memory(&network, PeerLimits::default(), 64).await;
    node1.connected().await;
    node1.network.send(NodeId(2), fetch(1));
    assert_eq!(node2.received().await.1, fetch(1));
    network.swallow_what_is_sent();
    node1.network.send(NodeId(2), fetch(2));
    assert_eq!(node1.disconnected().await, NodeId(2));
    assert_eq!(node1.connected().await, NodeId(2));
    node1.network.send(NodeId(2), fetch(3));
    assert_eq!(node2.received().await.1, fetch(3));
}

#[tokio::test(start_paused = true)]
async fn a_slow_driver_makes_its_peers_wait_and_loses_neither_messages_nor_connections() {
    let limits = PeerLimits { inbox_bytes_max: 100_000, ..PeerLimits::default() };
    let (mut node1, mut node2) = pair_in_memory(&MemoryNetwork::default(), limits, 2).await;
    node1.connected().await;
    for slot in 1..=50 {
        node1.network.send(NodeId(2), accept(slot, 40_000));
    }
    for slot in 1..=50 {
        // Much longer than a silent or deaf peer would be kept.
        tokio::time::sleep(PeerTiming::default().silence_max * 3).await;
        assert_eq!(node2.received().await.1, accept(slot, 40_000));
    }
    assert_eq!(node1.counters(2).connections, 1);
    assert_eq!(node1.counters(2).dropped_messages, 0);
}

#[tokio::test(start_paused = true)]
async fn an_inbox_holds_no_more_bytes_than_it_may() {
    let limits = PeerLimits { inbox_bytes_max: 100_000, ..PeerLimits::default() };
    let (mut node1, mut node2) = pair_in_memory(&MemoryNetwork::default(), limits, 64).await;
    node1.connected().await;
    for slot in 1..=10 {
        node1.network.send(NodeId(2), accept(slot, 40_000));
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut held = Vec::new();
    while let Ok(event) = node2.events.try_recv() {
        held.push(event);
    }
    let received = |event: &PeerEvent| matches!(event, PeerEvent::Received { .. });
    assert_eq!(held.iter().filter(|event| received(event)).count(), 2);
    drop(held);
    assert_eq!(node2.received().await.1, accept(3, 40_000));
}

#[tokio::test]
async fn a_malformed_frame_costs_the_peer_its_connection_and_is_counted() {
    let (own, address) = listener().await;
    let mut node2 = start(own, options(2, &[(1, NOWHERE)]), 64);
    let mut oversized = frame(&fetch(1));
    oversized[3] = 0xff;
    let mut damaged = frame(&fetch(1));
    damaged[9] ^= 1;
    for (number, bytes) in [oversized, damaged, vec![0; 8]].into_iter().enumerate() {
        let mut stream = introduced_as(1, &address).await;
        stream.write_all(&frame(&fetch(5))).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(node2.received().await, (NodeId(1), fetch(5)), "what came before counts");
        hung_up(stream).await;
        eventually(|| node2.counters(1).malformed_frames == number as u64 + 1).await;
    }
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_ends_the_older_one() {
    let (own, address) = listener().await;
    let mut node2 = start(own, options(2, &[(1, NOWHERE)]), 64);
    let mut old = introduced_as(1, &address).await;
    old.write_all(&frame(&fetch(1))).await.unwrap();
    assert_eq!(node2.received().await.1, fetch(1));
    let mut new = introduced_as(1, &address).await;
    hung_up(old).await;
    new.write_all(&frame(&fetch(2))).await.unwrap();
    assert_eq!(node2.received().await.1, fetch(2));
}

#[tokio::test]
async fn strangers_are_refused_and_counted() {
    let (own, address) = listener().await;
    let node2 = start(own, options(2, &[(1, NOWHERE)]), 64);
    let mut browser = RealNetwork.connect(&address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    hung_up(browser).await;
    let mut stranger = RealNetwork.connect(&address).await.unwrap();
    let identity = Identity { node: NodeId(7), name: "n7".into(), ..identity_of_node_2() };
    let identity = Identity { peers: [(NodeId(2), "n2".into())].into(), ..identity };
    let refused = handshake::dial(&mut stranger, &identity, NodeId(2), handshake::Purpose::Messages, PATIENCE).await;
    assert!(matches!(refused, Err(handshake::HandshakeError::Rejected(_))), "{refused:?}");
    eventually(|| node2.network.refused_handshakes() == 2).await;
}

#[tokio::test]
async fn a_message_over_the_frame_limit_is_dropped_and_the_connection_lives() {
    let ((listener1, address1), (listener2, address2)) = (listener().await, listener().await);
    let limits = PeerLimits { frame_bytes_max: 1000, ..PeerLimits::default() };
    let mut node1 = start(listener1, PeerOptions { limits, ..options(1, &[(2, &address2)]) }, 64);
    let mut node2 = start(listener2, PeerOptions { limits, ..options(2, &[(1, &address1)]) }, 64);
    node1.connected().await;
    node1.network.send(NodeId(2), accept(1, 2000));
    node1.network.send(NodeId(2), accept(2, 500));
    assert_eq!(node2.received().await.1, accept(2, 500));
    assert_eq!(node1.counters(2).dropped_messages, 1);
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let (_taken, address) = listener().await;
    let (inbox, _events) = mpsc::channel(1);
    let error = PeerNetwork::start(RealNetwork, &address, options(1, &[]), inbox).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("another process has this port"), "{text}");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let (inbox, _events) = mpsc::channel(1);
    for peers in [&[(1, NOWHERE)][..], &[(2, NOWHERE), (2, NOWHERE)]] {
        let started = PeerNetwork::start(RealNetwork, "127.0.0.1:0", options(1, peers), inbox.clone()).await;
        assert!(matches!(started, Err(PeerError::ListedTwice { .. })), "{started:?}");
    }
    let long = PeerOptions { cluster_id: "x".repeat(NAME_LEN_MAX + 1), ..options(1, &[]) };
    let started = PeerNetwork::start(RealNetwork, "127.0.0.1:0", long, inbox).await;
    assert!(matches!(started, Err(PeerError::NameTooLong { .. })), "{started:?}");
}

/// A network in which nobody can connect without a bug.
#[derive(Clone)]
struct Panicking;

impl crate::net::Network for Panicking {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn connect(&self, _: &str) -> io::Result<TcpStream> {
        panic!("a bug");
    }

    async fn bind(&self, address: &str) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }
}

#[tokio::test]
async fn a_task_that_panics_is_reported() {
    let options = PeerOptions {
        cluster_id: "tests".into(),
        node: NodeId(1),
        name: "n1".into(),
        peers: vec![PeerAddress { node: NodeId(2), name: "n2".into(), address: "127.0.0.1:1".into() }],
        timing: REAL_TIME,
        limits: PeerLimits::default(),
        terms: handshake::Terms::default(),
        seed: 1,
    };
    let (inbox, events) = mpsc::channel(16);
    let network = PeerNetwork::start(Panicking, "127.0.0.1:0", options, inbox).await.unwrap();
    let mut node = Node { network, events };
    let event = node.next().await;
    assert!(matches!(&event, PeerEvent::Failed(why) if why.contains("panicked")), "{event:?}");
    node.network.shutdown().await;
}
