//! The service on real sockets and in-memory streams, before a node whose driver applies updates at once.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use trialbay_engine::{HistoryHash, Instant, NodeId, Slot, Value};

use super::reply::code;
use super::{ServiceOptions, serve, serve_connection};
use crate::backup::verify;
use crate::client::{ClientError, Fringe, KeyRange, Sequence};
use crate::clock::Clock;
use crate::config::Reads;
use crate::consistency::Consistency;
use crate::extensions::{Extensions, FunctionError, HookReply};
use crate::identity::Identity;
use crate::node::handle::{Ask, Shared};
use crate::node::room::Room;
use crate::node::serving::Serving;
use crate::node::{DropRefused, MaintenanceRefused, NodeHandle, NodeStatus};
use crate::store::{Decided, Maintenance, NotMaintained, Options, Store};
use crate::update::{ClusterConfig, Interval, Limits, NodeAddress, Routing, Update};
use crate::watched;
use crate::wire::{MAGIC, Writer as _};

#[path = "../../../tests/harness/vectors.rs"]
#[allow(unreachable_pub, reason = "the file is public in the crate that it was written for")]
mod vectors;

const PATIENCE: Duration = Duration::from_secs(20);

/// A clock that stands still: a lease is either there for ever or not at all.
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Instant {
        Instant(1)
    }
}

/// The driver of a one-node cluster without a log.
struct Driver {
    is_master: bool,
    asks: mpsc::Receiver<Ask>,
    store: Store,
    applied: watched::Sender<Slot>,
    /// Answers updates only when so many wait.
    updates_together: usize,
}

impl Driver {
    async fn run(mut self) {
        let mut waiting = Vec::new();
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Update { command, reply } => waiting.push((command, reply)),
                Ask::QuorumRead { reply } => drop(reply.send(Ok(self.store.applied().0))),
                Ask::Drop { reply } => drop(reply.send(Err(DropRefused::Alone))),
                Ask::Status { reply } => drop(reply.send(status(self.store.applied().0))),
                Ask::Maintain { what: Maintenance::Compact, reply } if self.is_master => {
                    drop(reply.send(Err(MaintenanceRefused::OnMaster)));
                }
                Ask::Maintain { what, reply } => {
                    self.store.flush().unwrap();
                    let done = what == Maintenance::Flush || self.store.compact().unwrap();
                    // A client that is gone needs no reply.
                    let _ = reply.send(if done { Ok(()) } else { Err(NotMaintained::BeingRead.into()) });
                }
                Ask::Stop => break,
            }
            if waiting.len() < self.updates_together {
                continue;
            }
            let slot = self.store.applied().0.next();
            let value = Value::batch(waiting.iter().map(|(command, _)| command.as_ref()));
            let decided = Decided { slot, hash: HistoryHash::default(), value };
            let results = self.store.apply(&[decided], false).unwrap().remove(0);
            self.applied.set(slot);
            for ((_, reply), result) in waiting.drain(..).zip(results) {
                // A client that is gone needs no reply.
                drop(reply.send(Ok(result)));
            }
        }
    }
}

fn status(applied: Slot) -> NodeStatus {
    NodeStatus {
        node: "n1".into(),
        cluster_id: vectors::CLUSTER_ID.into(),
        version: "test".into(),
        pid: 1,
        role: "master".into(),
        master: Some("n1".into()),
        serving: true,
        ballot: "1.n1".into(),
        accepted_upto: applied.0,
        decided_upto: applied.0,
        applied_upto: applied.0,
        history_hash: "0".into(),
        votes: true,
        vote_is_lent: false,
        catching_up: false,
        head: None,
        progress_possible: true,
        failures_survivable: Some(0),
        ..NodeStatus::default()
    }
}

/// A node that is master for ever, or (`master: None` or another) never.
fn node(master: Option<&str>, updates_together: usize) -> NodeHandle {
    let names = BTreeMap::from([(NodeId(1), "n1".to_owned()), (NodeId(2), "n2".to_owned())]);
    let master = names.iter().find(|(_, name)| Some(name.as_str()) == master).map_or(0, |(id, _)| id.0);
    let cluster_id = vectors::CLUSTER_ID.to_owned();
    let identity = Identity { cluster_id: cluster_id.clone(), name: "n1".into(), node: NodeId(1) };
    let options = Options { cache_bytes: 16 << 20, ..Options::default() };
    let store = Store::open_with_backend(redb::backends::InMemoryBackend::new(), &identity, options).unwrap();
    let store = store.with_extensions(extensions());
    let (asks, asked) = mpsc::channel(64);
    let (applied_tx, applied) = watched::channel(Slot::ZERO);
    let serving = Serving::default();
    serving.publish((master == 1).then_some(Instant(u64::MAX)));
    let handle = NodeHandle::new(Arc::new(Shared {
        cluster_id,
        node: NodeId(1),
        names,
        reads: Reads::Lease,
        limits: Limits::default(),
        extensions: extensions(),
        is_witness: false,
        read_only: false,
        clock: Arc::new(StoppedClock),
        store: store.reader(),
        asks,
        serving,
        master: AtomicU32::new(u32::from(master)),
        applied,
        harvest: Arc::default(),
        room: Arc::new(Room::new(0)),
    }));
    tokio::spawn(Driver { is_master: master == 1, asks: asked, store, applied: applied_tx, updates_together }.run());
    handle
}

fn extensions() -> Extensions {
    Extensions::new()
        .function("append", |transaction, argument| {
            let mut value = transaction.get(b"k")?.unwrap_or_default().to_vec();
            value.extend(argument.ok_or_else(|| FunctionError::failed("append what?"))?);
            transaction.set(b"k", &value)?;
            Ok(Some(value.into()))
        })
        .function("panic", |transaction, _| {
            transaction.set(b"k", b"half")?;
            panic!("on purpose")
        })
        .hook("copy", async |call| {
            let entries = call.snapshot().range(&crate::store::KeyRange::all(), crate::store::Direction::Ascending);
            let mut copied = 0;
            for entry in entries.map_err(|error| error.to_string())? {
                let (key, value) = entry.map_err(|error| error.to_string())?;
                let key = Bytes::from([b"copy of ", &key[..]].concat());
                call.update(&Update::Set { key, value }).await.map_err(|refused| refused.to_string())?.unwrap();
                copied += 1;
            }
            Ok(HookReply::string(format!("{copied} copied")))
        })
        .hook("fails", async |_| Err("no".to_owned()))
        .hook("panics", async |_| panic!("on purpose"))
}

fn master() -> NodeHandle {
    node(Some("n1"), 1)
}

/// A service on a port of its own.
struct Service {
    address: SocketAddr,
    stop: watched::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Service {
    async fn start(handle: NodeHandle, options: ServiceOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watched::channel(false);
        let serving = tokio::spawn(serve(listener, handle, options, stopped));
        Self { address, stop, serving }
    }

    async fn connect(&self) -> Client<tokio::net::TcpStream> {
        Client(tokio::net::TcpStream::connect(self.address).await.unwrap())
    }
}

/// A client that says what it likes.
struct Client<S>(S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.unwrap();
    }

    /// The code and the bytes of the string that follows it.
    async fn string(&mut self) -> (i32, Bytes) {
        let code = self.code().await;
        let len = within(self.0.read_i32_le()).await.unwrap();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        within(self.0.read_exact(&mut bytes)).await.unwrap();
        (code, bytes.into())
    }

    async fn code(&mut self) -> i32 {
        within(self.0.read_i32_le()).await.unwrap()
    }

    async fn ends(&mut self) -> bool {
        within(self.0.read(&mut [0])).await.is_ok_and(|len| len == 0)
    }
}

/// A connection without a socket, and the task that serves it.
fn connect(handle: &NodeHandle, options: &ServiceOptions, buffer: usize) -> (Client<DuplexStream>, JoinHandle<()>) {
    let (client, server) = duplex(buffer);
    let (stop, stopped) = watched::channel(false);
    let (handle, options) = (handle.clone(), options.clone());
    let serving = tokio::spawn(async move {
        let _stop = stop;
        serve_connection(server, handle, options, stopped).await;
    });
    (Client(client), serving)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this must not take so long")
}

fn prologue() -> Vec<u8> {
    super::decoder::prologue(vectors::CLUSTER_ID)
}

fn request(code: u32, arguments: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = (MAGIC | code).to_le_bytes().to_vec();
    arguments(&mut bytes);
    bytes
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    request(0x09, |bytes| {
        bytes.string(key.as_bytes());
        bytes.string(value);
    })
}

fn get(consistency: u8, key: &str) -> Vec<u8> {
    request(0x08, |bytes| {
        bytes.push(consistency);
        bytes.string(key.as_bytes());
    })
}

/// All keys from the smallest.
fn range(max: i32) -> Vec<u8> {
    request(0x0b, |bytes| {
        bytes.extend([0, 0, 1, 0, 1]);
        bytes.i32(max);
    })
}

/// The requests of all vectors, each once.
fn recorded_requests() -> Vec<Vec<u8>> {
    let lines = include_str!("../../../tests/data/vectors.jsonl").lines().skip(1);
    let texts: HashSet<String> = lines
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|vector| vector["request"].as_str().unwrap().to_owned())
        .collect();
    let unhex = |text: &String| {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let mut requests: Vec<Vec<u8>> = texts.iter().map(unhex).collect();
    requests.sort();
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_vector_is_answered_as_recorded_or_better() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let address = service.address;
    let failures = tokio::task::spawn_blocking(move || vectors::play_vectors(address)).await.unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn a_read_sees_the_write_that_was_sent_just_before_it_and_none_sent_after() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let mut client = service.connect().await;
    let mut bytes = prologue();
    for i in 0..500 {
        bytes.extend(set("k", format!("{i}").as_bytes()));
        bytes.extend(get(0, "k"));
    }
    client.send(&bytes).await;
    for i in 0..500 {
        assert_eq!(client.code().await, code::OK);
        assert_eq!(client.string().await, (code::OK, format!("{i}").into()));
    }
}

#[tokio::test]
async fn updates_are_under_way_together_and_keep_their_order() {
    // The driver answers none before it has a hundred.
    let service = Service::start(node(Some("n1"), 100), ServiceOptions::default()).await;
    let mut client = service.connect().await;
    let mut bytes = prologue();
    (0..100).for_each(|i: u32| bytes.extend(set("k", &i.to_le_bytes())));
    bytes.extend(get(0, "k"));
    client.send(&bytes).await;
    for _ in 0..100 {
        assert_eq!(client.code().await, code::OK);
    }
    assert_eq!(client.string().await, (code::OK, Bytes::copy_from_slice(&99_u32.to_le_bytes())));
}

#[tokio::test]
async fn what_was_sent_before_half_closing_is_answered() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let mut client = service.connect().await;
    let mut bytes = prologue();
    (0..1000).for_each(|i: u32| bytes.extend(set("k", &i.to_le_bytes())));
    bytes.extend(get(0, "k"));
    client.send(&bytes).await;
    client.0.shutdown().await.unwrap();
    for _ in 0..1000 {
        assert_eq!(client.code().await, code::OK);
    }
    assert_eq!(client.string().await, (code::OK, Bytes::copy_from_slice(&999_u32.to_le_bytes())));
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_slave_names_the_master_answers_relaxed_reads_and_reports_bad_input_first() {
    let handle = node(Some("n2"), 1);
    let options = ServiceOptions::default();
    let too_large = request(0x09, |bytes| {
        bytes.string(b"k");
        bytes.i32(8 << 20);
    });
    let no_sequence = request(0x10, |bytes| bytes.string(b"\x06\0\0\0"));
    let no_function = request(0x15, |bytes| {
        bytes.string(b"f");
        bytes.bool(false);
    });
    for (sent, code, message, closes) in [
        (set("k", b"v"), code::NOT_MASTER, "n2", true),
        (get(0, "k"), code::NOT_MASTER, "n2", true),
        (range(-1), code::NOT_MASTER, "n2", true),
        (get(1, "k"), code::NOT_FOUND, "Not_found", false),
        (too_large, code::BAD_INPUT, "SET: value of 8388608 is over the limit of 8388607", true),
        (no_sequence, code::BAD_INPUT, "should have been a sequence", false),
        (no_function, code::BAD_INPUT, "User function \"f\" could not be found", false),
    ] {
        let (mut client, _serving) = connect(&handle, &options, 1 << 16);
        client.send(&[prologue(), sent].concat()).await;
        assert_eq!(client.string().await, (code, message.into()));
        if closes {
            assert!(client.ends().await, "{message}");
        } else {
            client.send(&request(0x02, |_| ())).await;
            assert_eq!(client.code().await, code::OK);
        }
    }
}

#[tokio::test]
async fn a_node_without_a_master_says_none() {
    let (mut client, _serving) = connect(&node(None, 1), &ServiceOptions::default(), 1 << 16);
    client.send(&[prologue(), request(0x02, |_| ()), set("k", b"v")].concat()).await;
    assert_eq!(client.code().await, code::OK);
    assert_eq!(within(client.0.read_u8()).await.unwrap(), 0);
    assert_eq!(client.string().await, (code::NOT_MASTER, "None".into()));
}

#[tokio::test]
async fn the_node_says_how_it_is() {
    let (mut client, _serving) = connect(&master(), &ServiceOptions::default(), 1 << 16);
    client.send(&[prologue(), request(0x50, |_| ()), request(0x32, |_| ())].concat()).await;
    let (code, json) = client.string().await;
    assert_eq!((code, serde_json::from_slice::<NodeStatus>(&json).unwrap()), (code::OK, status(Slot::ZERO)));
    assert_eq!(client.string().await, (code::OK, "Stable_master".into()));
}

#[tokio::test]
async fn what_was_served_is_counted_and_what_was_refused_is_not() {
    let (mut client, _serving) = connect(&master(), &ServiceOptions::default(), 1 << 16);
    let sent = [prologue(), set("k", b"12345"), get(0, "k"), get(0, "k"), get(0, "missing"), range(-1)].concat();
    client.send(&[sent, request(0x13, |_| ())].concat()).await;
    assert_eq!(client.code().await, code::OK);
    for expected in [code::OK, code::OK, code::NOT_FOUND] {
        assert_eq!(client.string().await.0, expected);
    }
    assert_eq!((client.code().await, within(client.0.read_i32_le()).await.unwrap()), (code::OK, 1));
    assert_eq!(within(client.0.read_i32_le()).await.unwrap(), 1);
    assert_eq!(within(client.0.read_u8()).await.unwrap(), b'k');
    let (code, bytes) = client.string().await;
    let statistics = crate::client::Statistics::decode(&mut crate::wire::Reader(bytes)).unwrap();
    let counts = ["set_info", "get_info", "range_info", "del_info", "op_info"].map(|name| statistics.series[name].n);
    assert_eq!((code, counts), (code::OK, [1, 2, 1, 0, 4]));
    let means = ["avg_set_size", "avg_get_size", "avg_range_size"].map(|name| statistics.averages[name]);
    assert_eq!(means, [5.0, 5.0, 1.0]);
    assert_eq!(statistics.node_is["n1"], 1);
}

/// The client library's own client, of a service.
fn library(service: &Service) -> crate::client::Client {
    let options = crate::client::ClientOptions::new(vectors::CLUSTER_ID, [service.address.to_string()]).unwrap();
    crate::client::Client::new(options).unwrap()
}

#[tokio::test]
async fn a_cluster_with_an_interval_refuses_other_keys_where_the_original_does() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let client = library(&service);
    assert_eq!(client.interval().await.unwrap(), Interval::default());
    client.set("m", "v").await.unwrap();
    let interval = Interval { public: (Some("b".into()), Some("m".into())), private: (None, Some("z".into())) };
    client.set_interval(&interval).await.unwrap();
    assert_eq!(client.interval().await.unwrap(), interval);
    client.set("b", "v").await.unwrap();
    client.sequence(Sequence::new().set("a", "v")).await.unwrap();
    client.delete("a").await.unwrap();
    assert!(client.exists("m").await.unwrap());

    let c = Consistency::Consistent;
    let range = |first: &str, last: &str| KeyRange::all().from(first).upto(last);
    let refused = [
        client.set("m", "w").await.unwrap_err(),
        client.get("m").await.unwrap_err(),
        client.prefix_keys("a", None, c).await.unwrap_err(),
        client.range(&range("b", "z"), c).await.unwrap_err(),
        client.range_entries(&range("a", "c"), c).await.unwrap_err(),
        client.rev_range_entries(&range("a", "c"), c).await.unwrap_err(),
    ];
    for (error, key) in refused.into_iter().zip(["m", "m", "a", "z", "a", "a"]) {
        assert_eq!(error, ClientError::Refused { code: code::OUTSIDE_INTERVAL, message: key.into() });
    }
    assert_eq!(client.range(&range("b", "c"), c).await.unwrap(), ["b"]);
    assert_eq!(client.range(&KeyRange::all(), c).await.unwrap(), ["b", "m"]);

    let moved = Interval { public: (Some("c".into()), None), ..Interval::default() };
    let fails = Sequence::new().set("x", "v").delete("missing");
    assert!(client.migrate_range(&moved, fails).await.is_err());
    assert_eq!(client.interval().await.unwrap(), interval, "a failed sequence changes no interval");
    client.migrate_range(&moved, Sequence::new().delete("b").set("x", "v")).await.unwrap();
    assert_eq!(client.interval().await.unwrap(), moved);
    assert_eq!(client.get("x").await.unwrap(), "v");
}

#[tokio::test]
async fn routing_and_configurations_of_clusters_are_kept() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let client = library(&service);
    let unset = ClientError::NotFound { key: "Not_found".into() };
    assert_eq!(client.routing().await.unwrap_err(), unset);
    assert_eq!(client.nursery_config().await.unwrap_err(), unset);
    let refused = client.set_routing_delta("left", "m", "right").await.unwrap_err();
    let why = "there is no routing yet".to_owned();
    assert_eq!(refused, ClientError::Refused { code: code::BAD_INPUT, message: why });
    client.set_routing(&Routing::Cluster("left".into())).await.unwrap();
    client.set_routing_delta("left", "m", "right").await.unwrap();
    let side = |name: &'static str| Box::new(Routing::Cluster(name.into()));
    let routing = Routing::Branch { left: side("left"), separator: "m".into(), right: side("right") };
    assert_eq!(client.routing().await.unwrap(), routing);
    let address = NodeAddress { name: "n1".into(), addresses: vec!["10.0.0.1".into(), "::1".into()], port: 4000 };
    let config = ClusterConfig { nodes: vec![address] };
    client.set_nursery_config("left", &config).await.unwrap();
    assert_eq!(client.nursery_config().await.unwrap(), (routing, vec![("left".into(), config)]));
}

#[tokio::test]
async fn a_fringe_is_one_end_of_the_keys_and_about_a_mebibyte() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let client = library(&service);
    for key in ["a", "b", "c", "d", "e"] {
        client.set(key, vec![0; 400_000]).await.unwrap();
    }
    let keys = async |boundary: Option<&[u8]>, fringe| {
        let entries = client.fringe(boundary, fringe).await.unwrap();
        entries.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>().concat()
    };
    assert_eq!(keys(None, Fringe::Upper).await, "abc");
    assert_eq!(keys(Some(b"c"), Fringe::Upper).await, "ab");
    assert_eq!(keys(None, Fringe::Lower).await, "edc");
    assert_eq!(keys(Some(b"d"), Fringe::Lower).await, "ed");
}

#[tokio::test]
async fn what_a_node_does_for_its_store_it_does_unless_it_is_asked_for_what_masters_must_not_do() {
    let master_refuses = "Operation cannot be performed on master node";
    let number = |code: u32, number: i32| request(code, |bytes| bytes.i32(number));
    for (sent, on_master, on_slave) in [
        (request(0x42, |_| ()), Ok(""), Ok("")),
        (request(0x25, |_| ()), Err((code::NOT_SUPPORTED, master_refuses)), Ok("")),
        (request(0x26, |_| ()), Err((code::NOT_SUPPORTED, master_refuses)), Ok("")),
        (number(0x14, 2), Ok("\0\0\0\0"), Ok("\0\0\0\0")),
        (number(0x44, 2), Err((code::NOT_SUPPORTED, master_refuses)), Ok("")),
        (
            number(0x44, 0),
            Err((code::UNKNOWN_FAILURE, "tlogs_to_keep=0 is not acceptable")),
            Err((code::UNKNOWN_FAILURE, "tlogs_to_keep=0 is not acceptable")),
        ),
    ] {
        for (handle, expected) in [(master(), on_master), (node(Some("n2"), 1), on_slave)] {
            let (mut client, _serving) = connect(&handle, &ServiceOptions::default(), 1 << 16);
            client.send(&[prologue(), sent.clone()].concat()).await;
            match expected {
                Ok(payload) => {
                    assert_eq!(client.code().await, code::OK);
                    let mut bytes = vec![0; payload.len()];
                    within(client.0.read_exact(&mut bytes)).await.unwrap();
                    assert_eq!(bytes, payload.as_bytes());
                    // It can still be read.
                    client.send(&get(1, "k")).await;
                    assert_eq!(client.string().await.0, code::NOT_FOUND);
                }
                Err((code, message)) => {
                    assert_eq!(client.string().await, (code, message.into()));
                    assert!(client.ends().await);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_backup_is_the_store_as_it_was_when_it_was_asked_for_and_any_damage_is_found() {
    for handle in [master(), node(Some("n2"), 1)] {
        let is_master = handle.is_serving();
        let service = Service::start(handle, ServiceOptions::default()).await;
        let client = library(&service);
        if is_master {
            for key in 0..40 {
                client.set(format!("{key}"), vec![key; 100_000]).await.unwrap();
            }
            client.set_interval(&Interval { public: (None, Some("9".into())), ..Interval::default() }).await.unwrap();
        }
        let endpoint = service.address.to_string();
        let mut bytes = Vec::new();
        let mut seen = (0, 0);
        let len = client.backup(&endpoint, &mut bytes, |done, all| seen = (done, all)).await.unwrap();
        assert_eq!((seen, bytes.len() as u64), ((len, len), len));
        let manifest = verify(&bytes[..]).unwrap();
        let (slot, entries) = if is_master { (41, 40) } else { (0, 0) };
        assert_eq!((manifest.slot, manifest.entries, manifest.bytes), (slot, entries, len));
        assert_eq!(manifest.cluster_id, vectors::CLUSTER_ID);

        for at in (0..bytes.len()).filter(|at| *at < 100 || *at + 100 > bytes.len() || at % 99_991 == 0) {
            assert!(verify(&bytes[..at]).is_err(), "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(verify(&damaged[..]).is_err(), "damaged at {at}");
        }
        assert!(verify(&[&bytes[..], b"x"].concat()[..]).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_backup_too_slowly_does_not_hold_its_snapshot_for_ever() {
    let handle = master();
    for key in 0..8_u8 {
        let update = Update::Set { key: vec![key].into(), value: vec![0; 1 << 20].into() };
        handle.update(&update).await.unwrap().unwrap();
    }
    let (mut client, serving) = connect(&handle, &ServiceOptions::default(), 1 << 10);
    client.send(&[prologue(), request(0x1b, |_| ())].concat()).await;
    let slow = tokio::spawn(async move {
        // A little every 20 seconds is never a stall.
        while client.0.read(&mut [0; 512]).await.is_ok_and(|len| len > 0) {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(600), serving).await.unwrap().unwrap();
    slow.await.unwrap();
}

fn user_function(name: &str, argument: Option<&[u8]>) -> Vec<u8> {
    request(0x15, |bytes| {
        bytes.string(name.as_bytes());
        bytes.option_string(argument);
    })
}

#[tokio::test]
async fn user_functions_do_all_or_nothing_alone_and_in_sequences() {
    let handle = master();
    let options = ServiceOptions::default();
    let (mut client, _serving) = connect(&handle, &options, 1 << 16);
    let in_sequence = |name: &str| {
        let call = |argument: &'static str| Update::UserFunction {
            name: Bytes::copy_from_slice(name.as_bytes()),
            argument: Some(Bytes::from(argument)),
        };
        let mut body = Vec::new();
        Update::Sequence(vec![call("b"), call("c")]).encode(&mut body);
        request(0x10, |bytes| bytes.string(&body))
    };
    client.send(&[prologue(), user_function("append", Some(b"a")), in_sequence("append")].concat()).await;
    assert_eq!((client.code().await, within(client.0.read_u8()).await.unwrap()), (code::OK, 1));
    assert_eq!(within(client.0.read_u32_le()).await.unwrap(), 1);
    assert_eq!((within(client.0.read_u8()).await.unwrap(), client.code().await), (b'a', code::OK));
    client.send(&[in_sequence("none"), get(0, "k")].concat()).await;
    assert_eq!(client.string().await, (code::BAD_INPUT, "User function \"none\" could not be found".into()));
    assert_eq!(client.string().await, (code::OK, "abc".into()));
    for (sent, message) in [
        (user_function("append", None), "append what?"),
        (user_function("panic", None), "user function \"panic\" panicked"),
        (in_sequence("panic"), "user function \"panic\" panicked"),
    ] {
        let (mut client, _serving) = connect(&handle, &options, 1 << 16);
        client.send(&[prologue(), sent].concat()).await;
        assert_eq!(client.string().await, (code::USERFUNCTION_FAILURE, message.into()));
        assert!(client.ends().await);
    }
    client.send(&get(0, "k")).await;
    assert_eq!(client.string().await, (code::OK, "abc".into()), "what failed changed nothing");
}

#[tokio::test]
async fn a_hook_reads_and_updates_and_one_that_fails_ends_its_connection_only() {
    let hook = |consistency: u8, name: &str| {
        request(0x45, |bytes| {
            bytes.push(consistency);
            bytes.string(name.as_bytes());
        })
    };
    let (handle, options) = (master(), ServiceOptions::default());
    let (mut client, _serving) = connect(&handle, &options, 1 << 16);
    client.send(&[prologue(), set("k", b"v"), hook(0, "copy"), get(0, "copy of k")].concat()).await;
    assert_eq!(client.code().await, code::OK);
    assert_eq!(client.string().await, (code::OK, "1 copied".into()));
    assert_eq!(client.string().await, (code::OK, "v".into()));
    for (name, refused, message) in [
        ("fails", code::UNKNOWN_FAILURE, "no"),
        ("panics", code::UNKNOWN_FAILURE, "the hook panicked"),
        ("none", code::USERHOOK_NOT_FOUND, "none"),
    ] {
        let (mut client, _serving) = connect(&handle, &options, 1 << 16);
        client.send(&[prologue(), hook(0, name)].concat()).await;
        assert_eq!(client.string().await, (refused, message.into()));
        assert!(client.ends().await);
    }
    let (mut client, _serving) = connect(&node(Some("n2"), 1), &options, 1 << 16);
    client.send(&[prologue(), hook(1, "none")].concat()).await;
    assert_eq!(client.string().await.0, code::USERHOOK_NOT_FOUND);
    let (mut client, _serving) = connect(&node(Some("n2"), 1), &options, 1 << 16);
    client.send(&[prologue(), hook(0, "copy")].concat()).await;
    assert_eq!(client.string().await.0, code::NOT_MASTER);
}

#[tokio::test]
async fn the_refusal_of_a_huge_value_arrives_although_the_client_goes_on_sending() {
    let service = Service::start(master(), ServiceOptions::default()).await;
    let client = service.connect().await;
    let (mut reader, mut writer) = client.0.into_split();
    let sending = tokio::spawn(async move {
        let mut bytes = prologue();
        bytes.extend(set("k", &vec![0; 20 << 20]));
        writer.write_all(&bytes).await
    });
    assert_eq!(within(reader.read_i32_le()).await.unwrap(), code::BAD_INPUT);
    within(sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_range_of_many_pieces_is_whole_and_backwards_and_one_over_the_limit_is_refused() {
    let options = ServiceOptions { list_bytes_max: 4 << 20, ..ServiceOptions::default() };
    let (mut client, _serving) = connect(&master(), &options, 1 << 16);
    let (count, width) = (3000, 1000);
    let key = |i: usize| format!("{i:0width$}");
    let sequence = |from: usize| {
        request(0x10, |bytes| {
            let mut body = Vec::new();
            body.i32(5);
            body.i32(i32::try_from(count).unwrap());
            for i in from..from + count {
                body.i32(1);
                body.string(key(i).as_bytes());
                body.string(b"v");
            }
            bytes.string(&body);
        })
    };
    client.send(&[prologue(), sequence(0), range(-1)].concat()).await;
    assert_eq!((client.code().await, client.code().await), (code::OK, code::OK));
    assert_eq!(within(client.0.read_i32_le()).await.unwrap(), i32::try_from(count).unwrap());
    for i in (0..count).rev() {
        let mut bytes = vec![0; 4 + width];
        within(client.0.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(bytes[4..], *key(i).as_bytes());
    }
    client.send(&[sequence(count), range(-1), range(2), get(0, "k")].concat()).await;
    assert_eq!(client.code().await, code::OK);
    let (refused, why) = client.string().await;
    assert_eq!(refused, code::BAD_INPUT, "{why:?}");
    assert_eq!(client.code().await, code::OK);
    assert_eq!(within(client.0.read_i32_le()).await.unwrap(), 2);
    let mut keys = vec![0; 2 * (4 + width)];
    within(client.0.read_exact(&mut keys)).await.unwrap();
    assert_eq!(client.string().await, (code::NOT_FOUND, "Not_found".into()));
}

#[tokio::test]
async fn a_client_too_many_is_told_so_and_finds_a_place_when_another_leaves() {
    let options = ServiceOptions { connections_max: Some(2), ..ServiceOptions::default() };
    let service = Service::start(master(), options).await;
    let probe = [prologue(), request(0x02, |_| ())].concat();
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut client = service.connect().await;
        client.send(&probe).await;
        assert_eq!(client.code().await, code::OK);
        served.push(client);
    }
    let mut refused = service.connect().await;
    assert_eq!(refused.string().await, (code::MAX_CONNECTIONS, "too many clients".into()));
    assert!(refused.ends().await);
    served.pop();
    // The place is free once the node has noticed, which it does by itself.
    within(async {
        loop {
            let mut client = service.connect().await;
            client.send(&probe).await;
            match client.code().await {
                code::OK => break,
                other => assert_eq!(other, code::MAX_CONNECTIONS),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_no_reply_loses_its_connection() {
    let options = ServiceOptions { stall_max: Duration::from_millis(50), ..ServiceOptions::default() };
    let (mut client, serving) = connect(&master(), &options, 64);
    client.send(&[prologue(), set("k", &[0; 1000])].concat()).await;
    assert_eq!(client.code().await, code::OK);
    client.send(&get(0, "k")).await;
    within(serving).await.unwrap();
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_prologue_or_request_loses_its_connection_and_an_idle_one_keeps_it() {
    let short = Duration::from_millis(30);
    let options = ServiceOptions { stall_max: short, prologue_max: short, ..ServiceOptions::default() };
    let handle = master();
    let mut idle = connect(&handle, &options, 64).0;
    idle.send(&prologue()).await;
    for sent in [prologue()[..5].to_vec(), [prologue(), set("k", b"v")[..7].to_vec()].concat()] {
        let (mut client, serving) = connect(&handle, &options, 64);
        client.send(&sent).await;
        within(serving).await.unwrap();
        assert!(client.ends().await);
    }
    idle.send(&request(0x02, |_| ())).await;
    assert_eq!(idle.code().await, code::OK);
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_tells_everyone_else() {
    // The driver never has enough updates to answer any, until the last.
    let handle = node(Some("n1"), 2);
    let service = Service::start(handle.clone(), ServiceOptions::default()).await;
    let mut idle = service.connect().await;
    idle.send(&[prologue(), request(0x02, |_| ())].concat()).await;
    let mut silent = service.connect().await;
    let mut busy = service.connect().await;
    busy.send(&[prologue(), request(0x02, |_| ()), set("k", b"v"), get(0, "k")].concat()).await;
    for client in [&mut idle, &mut busy] {
        assert_eq!(client.code().await, code::OK);
        let mut name = [0; 7];
        within(client.0.read_exact(&mut name)).await.unwrap();
    }
    service.stop.set(true);
    assert_eq!(idle.string().await, (code::GOING_DOWN, "closing socket".into()));
    assert_eq!(silent.string().await.0, code::GOING_DOWN);
    within(handle.update(&Update::Nop)).await.unwrap().unwrap();
    assert_eq!(busy.code().await, code::OK);
    assert_eq!(busy.string().await.0, code::GOING_DOWN);
    for client in [&mut idle, &mut silent, &mut busy] {
        assert!(client.ends().await);
    }
    within(service.serving).await.unwrap();
}

/// Sends the bytes, ends its side, and waits until the other side has ended as well.
async fn survives(handle: &NodeHandle, options: &ServiceOptions, sent: &[u8]) {
    let (client, serving) = connect(handle, options, 1 << 20);
    let (mut reader, mut writer) = tokio::io::split(client.0);
    // A server that closes early takes not all of it.
    let sending = async {
        let _ = writer.write_all(sent).await;
        let _ = writer.shutdown().await;
    };
    let mut received = Vec::new();
    let receiving = reader.read_to_end(&mut received);
    let (_, read) = within(async { tokio::join!(sending, receiving) }).await;
    read.unwrap();
    within(serving).await.expect("serving must not panic");
}

#[tokio::test]
async fn a_request_cut_anywhere_ends_the_connection_and_nothing_else() {
    let handle = master();
    let options = ServiceOptions::default();
    for whole in recorded_requests() {
        // The middle of a long value is like any other part of it.
        for len in (0..whole.len()).filter(|len| *len < 64 || *len + 8 > whole.len()) {
            survives(&handle, &options, &[&prologue(), &whole[..len]].concat()).await;
        }
    }
    for len in 0..prologue().len() {
        survives(&handle, &options, &prologue()[..len]).await;
    }
}

#[test]
fn any_bytes_after_the_prologue_are_survived() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.block_on(async { master() });
    let options = ServiceOptions::default();
    let recorded = recorded_requests();
    let word = (0..=0x50_u32).prop_map(|code| (MAGIC | code).to_le_bytes().to_vec());
    let noise = prop::collection::vec(prop_oneof![3 => 0..3_u8, 1 => any::<u8>()], 0..40);
    let altered = (prop::sample::select(recorded), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        },
    );
    let part = prop_oneof![1 => word.prop_flat_map(move |word| noise.clone().prop_map(move |noise| [&word[..], &noise].concat())), 1 => altered];
    let stream = prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat());
    TestRunner::default()
        .run(&stream, |bytes| {
            runtime.block_on(survives(&handle, &options, &[prologue(), bytes].concat()));
            Ok(())
        })
        .unwrap();
}
