//! Nodes that start, on homes of every kind, and end.

use trialbay_engine::{Ballot, Entry, Incarnation, Record, SlotEntry, Value};

use super::*;
use crate::config::Reads;
#[cfg(feature = "planted-bugs")]
use crate::consistency::Consistency;
use crate::extensions::Extensions;
use crate::node::MaintenanceRefused;
use crate::peer::PeerAddress;
use crate::recorder::format;
use crate::store::NotMaintained;
use crate::update;

fn alone(home: &std::path::Path) -> NodeOptions {
    NodeOptions {
        cluster_id: "tests".into(),
        node: trialbay_engine::NodeId(1),
        name: "n1".into(),
        peers: Vec::new(),
        roles: Roles::default(),
        read_only: false,
        client_listen: "127.0.0.1:0".into(),
        peer_listen: "127.0.0.1:0".into(),
        home: home.join("n1"),
        lease: Duration::from_millis(800),
        clock_drift_ppm: 10_000,
        reads: Reads::Lease,
        limits: update::Limits::default(),
        store_age_max: NodeOptions::STORE_AGE_MAX,
        disk_reserve_bytes: 0,
        connections_max: None,
        extensions: Extensions::new(),
        log_segment_bytes: TlogOptions::default().segment_bytes,
        log_retention_bytes: TlogOptions::default().retention_bytes,
        log_compression: TlogOptions::default().compress,
        #[cfg(feature = "planted-bugs")]
        planted: None,
        #[cfg(feature = "planted-bugs")]
        planted_in_engine: None,
        recorder_bytes_max: None,
    }
}

#[tokio::test]
async fn a_node_whose_client_service_ended_ends_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let options = alone(home.path());
    let node = RunningNode::start(options.clone()).await.unwrap();
    node.service.abort();
    let ended = node.run_until(std::future::pending()).await.unwrap_err();
    assert!(ended.to_string().contains("the client service ended"), "{ended}");
    let node = RunningNode::start(options).await.unwrap();
    node.run_until(std::future::ready(())).await.unwrap();
}

fn copied(dir: &std::path::Path) -> tempfile::TempDir {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if from.is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy(&from, &to);
            } else {
                std::fs::copy(from, to).unwrap();
            }
        }
    }
    let fresh = tempfile::tempdir().unwrap();
    copy(dir, fresh.path());
    fresh
}

async fn until_serving(handle: &NodeHandle) {
    while !handle.is_serving() {
        tokio::task::yield_now().await;
    }
}

/// The check before the proposal is left out, as if the master had the function and this node did not.
#[tokio::test]
async fn a_node_stops_at_a_function_that_it_does_not_have_and_again_at_each_start_until_it_has_it() {
    let home = tempfile::tempdir().unwrap();
    let call = update::Update::UserFunction { name: "f".into(), argument: None };
    let node = RunningNode::start(alone(home.path())).await.unwrap();
    let handle = node.handle().clone();
    until_serving(&handle).await;
    assert!(matches!(handle.update(&call).await, Err(UpdateRefused::Invalid { .. })));
    let proposed = tokio::spawn(async move { handle.propose(update::encode_command(&call)).await });
    let is_named = |error: &NodeError| error.to_string().contains("user function \"f\"");
    let ended = node.run_until(std::future::pending()).await.unwrap_err();
    assert!(is_named(&ended), "{ended}");
    assert_eq!(proposed.await.unwrap(), Err(UpdateRefused::OutcomeUnknown));
    // At its start, or as soon as it knows that the call was decided.
    // The file of a store that was abandoned stays open in this process.
    let home = copied(home.path());
    let again = match RunningNode::start(alone(home.path())).await {
        Ok(node) => node.run_until(std::future::pending()).await.unwrap_err(),
        Err(refused) => refused,
    };
    assert!(is_named(&again), "{again}");
    let home = copied(home.path());
    let extensions = Extensions::new().function("f", |transaction, _| {
        transaction.set(b"k", b"v")?;
        Ok(None)
    });
    let node = RunningNode::start(NodeOptions { extensions, ..alone(home.path()) }).await.unwrap();
    until_serving(node.handle()).await;
    node.handle().update(&update::Update::Nop).await.unwrap().unwrap();
    let snapshot = node.handle().snapshot(crate::consistency::Consistency::NoGuarantees).await.unwrap();
    assert_eq!(snapshot.get(b"k").unwrap().unwrap(), "v");
    node.run_until(std::future::ready(())).await.unwrap();
}

#[tokio::test]
async fn a_node_whose_disk_is_nearly_full_takes_deletes_only() {
    let home = tempfile::tempdir().unwrap();
    let key = bytes::Bytes::from("k");
    let set = update::encode_command(&update::Update::Set { key: key.clone(), value: key.clone() });
    let delete = update::encode_command(&update::Update::Delete { key });
    let node = RunningNode::start(alone(home.path())).await.unwrap();
    updated(&node, &set).await.unwrap();
    node.run_until(std::future::ready(())).await.unwrap();

    // No disk has so much room.
    let node =
        RunningNode::start(NodeOptions { disk_reserve_bytes: u64::MAX / 2, ..alone(home.path()) }).await.unwrap();
    let refused = updated(&node, &set).await.unwrap_err();
    assert!(matches!(refused, UpdateRefused::DiskFull { .. }), "{refused}");
    assert!(node.handle().status().await.unwrap().disk_is_short);
    updated(&node, &delete).await.unwrap();
    node.run_until(std::future::ready(())).await.unwrap();
}

#[tokio::test]
async fn a_master_does_not_compact_its_store_whatever_is_published_of_its_role() {
    let home = tempfile::tempdir().unwrap();
    let node = RunningNode::start(alone(home.path())).await.unwrap();
    until_serving(node.handle()).await;
    node.handle().0.master.store(0, std::sync::atomic::Ordering::Release);
    assert_eq!(node.handle().compact_store().await, Err(MaintenanceRefused::OnMaster));
    node.run_until(std::future::ready(())).await.unwrap();
}

#[tokio::test]
async fn the_engine_of_a_slave_that_compacts_knows_and_one_compaction_runs_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let peer = PeerAddress { node: trialbay_engine::NodeId(2), name: "n2".into(), address: "127.0.0.1:1".into() };
    let options = NodeOptions { peers: vec![peer], recorder_bytes_max: Some(1 << 20), ..alone(home.path()) };
    let node = RunningNode::start(options).await.unwrap();
    for _ in 0..2 {
        let (first, second) = tokio::join!(node.handle().compact_store(), node.handle().compact_store());
        assert_eq!((first, second), (Ok(()), Err(NotMaintained::BeingCompacted.into())));
    }
    node.run_until(std::future::ready(())).await.unwrap();

    let mut heard = Vec::new();
    for (_, path) in format::files(&home.path().join("n1/recorder")).unwrap() {
        let bytes = std::fs::read(path).unwrap();
        for frame in format::read(&bytes).unwrap().1 {
            if let format::Frame::Step { event, .. } = frame.unwrap() {
                heard.push(format!("{:?}", trialbay_engine::codec::decode_event(event).unwrap().1));
            }
        }
    }
    heard.retain(|event| event.starts_with("Store"));
    assert_eq!(heard, ["StorePaused", "StoreResumed", "StorePaused", "StoreResumed"]);
}

/// The store is made durable as the node stops, and what it has passed then goes.
#[tokio::test]
async fn a_node_starts_from_a_log_whose_old_end_was_removed() {
    let home = tempfile::tempdir().unwrap();
    let options = NodeOptions {
        log_segment_bytes: 32 << 10,
        log_retention_bytes: 64 << 10,
        log_compression: false,
        ..alone(home.path())
    };
    let set = |number: u32| {
        let (key, value) = (number.to_string().into(), vec![7; 4 << 10].into());
        update::encode_command(&update::Update::Set { key, value })
    };
    let node = RunningNode::start(options.clone()).await.unwrap();
    for number in 0..100 {
        updated(&node, &set(number)).await.unwrap();
    }
    assert!(node.handle().status().await.unwrap().log.segments > 10);
    node.run_until(std::future::ready(())).await.unwrap();
    let files = || std::fs::read_dir(home.path().join("n1/tlogs")).unwrap().count();
    assert!(files() < 5, "{} files", files());

    let node = RunningNode::start(options).await.unwrap();
    updated(&node, &set(100)).await.unwrap();
    let status = node.handle().status().await.unwrap();
    assert_eq!((status.damage, status.keys, status.votes), (vec![], 101, true));
    let log = status.log;
    assert!(log.first_slot > 1 && log.bytes < 200 << 10 && status.store_bytes > 0, "{log:?}");
    node.run_until(std::future::ready(())).await.unwrap();
}

#[test]
fn a_witness_keeps_all_of_its_log() {
    let home = std::path::Path::new("h");
    let witness = |node| NodeOptions {
        roles: Roles { witnesses: vec![trialbay_engine::NodeId(node)], ..Roles::default() },
        ..alone(home)
    };
    assert_eq!(log_retention(&witness(1)), u64::MAX);
    assert_eq!(log_retention(&witness(2)), alone(home).log_retention_bytes);
}

fn as_witness(home: &std::path::Path) -> NodeOptions {
    let witnesses = vec![trialbay_engine::NodeId(1)];
    NodeOptions { roles: Roles { witnesses, ..Roles::default() }, ..with_data(home) }
}

fn with_data(home: &std::path::Path) -> NodeOptions {
    let peer = PeerAddress { node: trialbay_engine::NodeId(2), name: "n2".into(), address: "127.0.0.1:1".into() };
    NodeOptions { peers: vec![peer], log_segment_bytes: 4096, log_retention_bytes: 0, ..alone(home) }
}

/// Opens the files of a node and says whether it has its memory, and so its vote, and what its store has applied.
fn opened(options: &NodeOptions) -> Result<(bool, Slot, Files), NodeError> {
    let files = open_files(Arc::new(RealDisk), options)?;
    Ok((files.recovered.memory.is_some(), files.store.applied().0, files))
}

/// Logs and applies these slots.
fn written(mut files: Files, slots: std::ops::RangeInclusive<u64>) -> Files {
    let mut hash = files.store.applied().1;
    for slot in slots.map(Slot) {
        let set = update::Update::Set { key: slot.0.to_string().into(), value: vec![7; 300].into() };
        let value = Value::batch([&update::encode_command(&set)[..]]);
        hash = hash.extend(slot, &value);
        let ballot = Ballot { round: 1, node: trialbay_engine::NodeId(2) };
        let accepted = Record::Accepted(SlotEntry { slot, entry: Entry { ballot, value: value.clone() } });
        files.tlog.append(&[accepted, Record::Decided { upto: slot, hash }]).unwrap();
        files.tlog.sync().unwrap();
        files.store.apply(&[Decided { slot, hash, value }], false).unwrap();
    }
    files.store.flush().unwrap();
    files
}

fn close(files: Files) {
    files.store.close().unwrap();
}

/// A node with a vote that has the data up to slot 40, and a log without its first slots.
fn collapsed(home: &std::path::Path) {
    let (_, _, mut files) = opened(&with_data(home)).unwrap();
    let incarnation = Incarnation(7);
    let began = Record::MemoryBegan(incarnation);
    let regained = Record::VoteRegained { incarnation, genesis: Vec::new() };
    files.tlog.append(&[began, regained]).unwrap();
    let mut files = written(files, 1..=40);
    assert!(files.tlog.upkeep().collapse(Slot(40)).unwrap().is_some());
    files.tlog.seal().unwrap();
    close(files);
}

#[test]
fn a_node_that_becomes_a_witness_and_has_the_data_again_keeps_its_vote() {
    let home = tempfile::tempdir().unwrap();
    collapsed(home.path());
    let (votes, applied, files) = opened(&as_witness(home.path())).unwrap();
    assert_eq!((votes, applied, files.damage.as_slice()), (true, Slot(40), &[][..]));
    close(written(files, 41..=60));

    let (votes, applied, files) = opened(&with_data(home.path())).unwrap();
    assert_eq!((votes, applied, files.damage.as_slice()), (true, Slot(60), &[][..]));
    let snapshot = files.store.reader().snapshot().unwrap();
    assert_eq!(snapshot.len().unwrap(), 60);
    drop(snapshot);
    let files = written(files, 61..=80);
    files.tlog.upkeep().collapse(Slot(80)).unwrap();
    close(files);

    let (votes, applied, _) = opened(&as_witness(home.path())).unwrap();
    assert_eq!((votes, applied), (true, Slot(80)));
}

#[test]
fn a_witness_that_took_a_head_is_not_started_as_a_node_with_the_data_and_has_its_vote_as_a_witness() {
    let home = tempfile::tempdir().unwrap();
    collapsed(home.path());
    let (_, _, mut files) = opened(&as_witness(home.path())).unwrap();
    let head = crate::store::Head { slot: Slot(100), hash: HistoryHash(100), entries: 0 };
    files.tlog.announce_head(head.slot, head.hash).unwrap();
    files.tlog.sync().unwrap();
    files.place.begin_head(head, &[], trialbay_engine::NodeId(2)).unwrap().finish(0, 0).unwrap();
    files.store.install(&files.place).unwrap();
    close(written(files, 101..=120));

    for _ in 0..2 {
        let refused = opened(&with_data(home.path())).map(|_| ()).unwrap_err();
        assert!(matches!(refused, NodeError::RoleChanged { data: Slot(40), .. }), "{refused}");
    }
    let (votes, applied, _) = opened(&as_witness(home.path())).unwrap();
    assert_eq!((votes, applied), (true, Slot(120)));
}

/// What becomes of an update once the node serves.
async fn updated(node: &RunningNode, command: &bytes::Bytes) -> Result<(), UpdateRefused> {
    loop {
        match node.handle().propose(command.clone()).await {
            Err(UpdateRefused::NotMaster { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            outcome => return outcome.map(|result| drop(result.unwrap())),
        }
    }
}

/// A slave whose only peer is not there: what it is asked to read, it must refuse.
#[cfg(feature = "planted-bugs")]
#[tokio::test]
async fn the_planted_bug_answers_the_reads_of_a_node_that_is_not_master() {
    for (planted, answers) in [(None, false), (Some(crate::planted::PlantedBug::DeposedAnswers), true)] {
        let home = tempfile::tempdir().unwrap();
        let peer = PeerAddress { node: trialbay_engine::NodeId(2), name: "n2".into(), address: "127.0.0.1:1".into() };
        let options = NodeOptions { planted, reads: Reads::Quorum, peers: vec![peer], ..alone(home.path()) };
        let node = RunningNode::start(options).await.unwrap();
        assert_eq!(node.handle().snapshot(Consistency::Consistent).await.is_ok(), answers);
        node.run_until(std::future::ready(())).await.unwrap();
    }
}
