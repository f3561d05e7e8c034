//! From a home directory to a running node, and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use trialbay_engine::{Actions, Config, Engine, HistoryHash, PersistId, Recovered, Slot};

use super::driver::{Driver, Ended, Inboxes, Reply, StorageEvent, Waiting};
use super::error::NodeError;
use super::handle::{Ask, NodeHandle, Shared, UpdateRefused};
use super::heads::Heads;
use super::home::{self, Home};
use super::leftovers;
use super::options::{NodeOptions, Roles};
use super::role_store::{self, RoleStore};
use super::room::{self, Room};

use super::serving::Serving;
use super::standing::Standing;
use super::surroundings::Surroundings;
use super::voters;
use crate::clock::Clock;
use crate::disk::RealDisk;
use crate::head::{Giver, Holds, Taker};
use crate::home_disk::HomeDisk;
use crate::identity::Identity;
use crate::net::Network;
use crate::peer::handshake::Terms;
use crate::peer::{PeerLimits, PeerNetwork, PeerOptions, PeerTiming};
use crate::recorder::Recorder;
use crate::reserve::Reserve;
use crate::service::{self, ServiceOptions};
use crate::store::{
    self, Applied, CommitPolicy, Decided, Store, StoreError, StorePlace, StoreReader, StoreWriter, WriterLimits,
};
use crate::tally::Series;
use crate::tlog::{
    KeeperEvent, LogEvent, LogKeeper, LogReader, LogWriter, RecoveredLog, Tlog, TlogError, TlogOptions, Upkeep,
};
use crate::watched;
use crate::workers::Workers;

/// Messages of peers that wait for the driver; their bytes are bounded for each peer by the peer network.
const PEER_INBOX_MAX: usize = 4_096;

/// Questions of clients that wait for the driver. Beyond, connections wait.
const ASKS_MAX: usize = 16_384;

/// Bytes of values that are read, hashed and applied together when the store replays the log.
const REPLAY_BYTES: usize = 4 << 20;

/// The store is made durable when this many bytes of values were applied since the last time, or before it is too old.
const COMMIT_BYTES_MAX: usize = 64 << 20;

/// A node that runs until it is stopped or fails.
pub struct RunningNode {
    handle: NodeHandle,
    service: JoinHandle<()>,
    service_stop: watched::Sender<bool>,
    driver: JoinHandle<Ended>,
    home: Home,
}

/// Runs a node until `stop` resolves, then hands over mastership and closes everything.
///
/// # Errors
/// When the node cannot start, or stopped by itself.
pub async fn run(options: NodeOptions, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    tokio::pin!(stop);
    tokio::select! {
        biased;
        () = room_to_start(&options) => {}
        () = &mut stop => return Ok(()),
    }
    let node = RunningNode::start(options).await?;
    node.run_until(stop).await
}

/// Waits until there is enough.
async fn room_to_start(options: &NodeOptions) {
    let make_room = || {
        // What is wrong with the home the start will find out.
        if let Err(error) = leftovers::remove(Arc::new(RealDisk), &options.home, &identity(options)) {
            tracing::warn!(%error, "the disk is full, and what could be spared was not removed");
        }
    };
    room::wait_for_start(|| room::free_at_or_above(&RealDisk, &options.home), &options.home, make_room).await;
}

impl RunningNode {
    /// Opens the home, replays the log into the store, listens for peers and clients, and takes part in the cluster.
    ///
    /// # Errors
    /// When any of that fails; nothing is left running then.
    pub async fn start(options: NodeOptions) -> Result<Self, NodeError> {
        Self::start_in(Surroundings::real()?, options).await
    }

    /// As [`RunningNode::start`], in surroundings that need not be real.
    ///
    /// # Errors
    /// As for [`RunningNode::start`].
    pub async fn start_in<N: Network>(surroundings: Surroundings<N>, options: NodeOptions) -> Result<Self, NodeError> {
        let Surroundings { network, disk, clock, workers, seed } = surroundings;
        // Ports first: a second process for the same node should not get as far as the files.
        let clients = network
            .bind(&options.client_listen)
            .await
            .map_err(|source| NodeError::ClientAddress { address: options.client_listen.clone(), source })?;
        let mut files = open_files(disk.clone(), &options)?;
        let voters = engine_config(&options).voters;
        let voters_change = voters::check(&files.home, disk.clone(), &identity(&options), voters)?;

        let (reports, storage) = mpsc::unbounded_channel();
        let (applied_sender, applied) = watched::channel(files.recovered.decided_upto);
        let store_reader = files.store.reader();
        let log_reader = files.tlog.reader();
        // The last batch of records that is durable, for the store, which follows the log even when the driver has ended.
        let persisted = Arc::new(AtomicU64::new(0));
        let room = Arc::new(Room::look(&*disk, files.home.path(), options.disk_reserve_bytes));
        let reserve = Reserve::of(disk.clone(), files.home.path(), options.disk_reserve_bytes);
        let upkeep = files.tlog.upkeep().with_reserve(reserve.clone());
        let tlog = start_log_writer(files.tlog, persisted.clone(), reports.clone(), &workers)?;
        let holds = Holds::default();
        start_log_keeper(upkeep, &mut files.store, holds.clone(), room.clone(), reports.clone(), &workers)?;
        let applied_sender = Arc::new(applied_sender);
        let harvest = Arc::new(Series::default());
        let on_applied = on_applied(reports.clone(), applied_sender.clone(), harvest.clone());
        let store =
            start_store_writer(files.store, options.store_age_max, persisted, clock.clone(), on_applied, &workers)?;

        let (peer_inbox, peers) = mpsc::channel(PEER_INBOX_MAX);
        let peer_options = peer_options(&options, seed);
        let network = PeerNetwork::start(network, &options.peer_listen, peer_options, peer_inbox).await?;

        let (asks_sender, asks) = mpsc::channel(ASKS_MAX);
        tokio::spawn(room.clone().watch(disk.clone(), files.home.path().to_owned(), workers.clone()));
        let shared = Arc::new(share(&options, clock.clone(), store_reader, asks_sender, applied, harvest, room));
        let mut engine = Engine::new(clock.now(), engine_config(&options), files.recovered, seed);
        respect_earlier_leases(&mut engine, disk, &files.home, &engine_config(&options), &workers)?;
        if voters_change.is_some() {
            // Even a node that is alone now may have granted a lease to one that was a voter then (rule L4).
            engine.wait_at_least(engine_config(&options).restart_wait());
        }
        let recorder = options.recorder_bytes_max.and_then(|bytes_max| {
            Recorder::start(&files.home.recorder_dir(), bytes_max, options.node, clock.now(), &engine)
        });
        let standing = Standing::at_start(&engine, !files.damage.is_empty());
        let (witnesses, takers) = (&options.roles.witnesses, options.peers.iter().map(|peer| peer.node));
        let has_data = !witnesses.contains(&options.node);
        let giver = Giver::among_witnesses(shared.store.clone(), holds, workers.clone(), takers, has_data, witnesses);
        let (store_disk, store_path) = (files.place.disk.clone(), files.place.path.clone());
        let store_bytes = move || store_disk.open_to_read(&store_path).and_then(|file| file.size()).unwrap_or(0);
        let taker = Taker { place: files.place, peers: network.heads(), workers: workers.clone(), reserve };
        let driver = Driver {
            engine,
            shared: shared.clone(),
            peers: network,
            tlog,
            log_reader,
            store,
            heads: Heads::new(giver, taker, reports.clone(), applied_sender, shared.names.clone()),
            reports,
            workers,
            lease: options.lease,
            store_bytes: Box::new(store_bytes),
            damage: files.damage,
            standing,
            voters_change,
            recorder,
            waiting: Waiting::default(),
            actions: Actions::new(),
        };
        let driver = tokio::spawn(driver.run(Inboxes { storage, peers, asks }));

        let handle = NodeHandle::new(shared);
        let (service_stop, stop) = watched::channel(false);
        let service_options = ServiceOptions {
            limits: options.limits,
            connections_max: options.connections_max,
            ..ServiceOptions::default()
        };
        let service = tokio::spawn(service::serve(clients, handle.clone(), service_options, stop));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = options.name,
            cluster = options.cluster_id,
            clients = options.client_listen,
            peers = options.peer_listen,
            home = %options.home.display(),
            "node started"
        );
        Ok(Self { handle, service, service_stop, driver, home: files.home })
    }

    /// The way to the node for code in this process.
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Runs until `stop` resolves or the node stops by itself, and closes everything in order.
    ///
    /// # Errors
    /// When the node stopped by itself.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
        let Self { handle, mut service, service_stop, mut driver, home } = self;
        tokio::pin!(stop);
        let mut service_failure = None;
        let ended = tokio::select! {
            biased;
            ended = &mut driver => ended,
            // It serves until it is told to stop: a node that nobody can talk to must not look like one that runs.
            failed = &mut service => {
                let why = failed.map_or_else(|panic| panic.to_string(), |()| "it stopped by itself".to_owned());
                service_failure = Some(format!("the client service ended: {why}"));
                handle.stop().await;
                driver.await
            }
            () = &mut stop => {
                handle.stop().await;
                driver.await
            }
        };
        // Clients hear that the node is going down.
        service_stop.set(true);
        let ended = ended.map_err(|panic| NodeError::StorageFailed { why: format!("the driver ended: {panic}") })?;
        if service_failure.is_none() {
            service_failure = service.await.err().map(|panic| format!("the client service ended: {panic}"));
        }
        ended.heads.stop().await;
        ended.peers.shutdown().await;
        // The log before the store: the store must not make durable what the log has not.
        ended.tlog.stop().await;
        let closed = ended.store.stop().await;
        drop(home);
        if let Err(error @ StoreError::UnknownFunction { .. }) = closed {
            return Err(error.into());
        }
        if let Some(error) = NodeError::of_halt(ended.reason, ended.storage_failure) {
            return Err(error);
        }
        if let Some(why) = service_failure {
            return Err(NodeError::StorageFailed { why });
        }
        Ok(closed?)
    }
}

/// An earlier run may have granted longer leases than this one's configuration has. The home remembers the longest that
/// may still hold.
fn respect_earlier_leases(
    engine: &mut Engine,
    disk: Arc<dyn HomeDisk>,
    home: &Home,
    config: &Config,
    workers: &Workers,
) -> Result<(), NodeError> {
    let (ours, earlier) = (config.restart_wait(), home.restart_wait()?);
    // A home without the note is new, or of a run that gave no grants.
    let earlier = earlier.unwrap_or_default();
    if earlier < ours {
        home::note_restart_wait(&*disk, home.path(), ours)?;
    } else if earlier > ours {
        engine.wait_at_least(earlier);
        let (path, workers) = (home.path().to_owned(), workers.clone());
        tokio::spawn(async move {
            // Once the old grants are over only ours count. A little longer than they last, for the clocks differ.
            tokio::time::sleep(earlier * 2).await;
            let noted = workers.spawn(move || home::note_restart_wait(&*disk, &path, ours)).await;
            if !matches!(noted, Ok(Ok(()))) {
                tracing::warn!("the shorter lease could not be noted: the next start waits as long as this one");
            }
        });
    }
    Ok(())
}

/// Everything in a home directory, opened and brought into agreement.
struct Files {
    home: Home,
    place: StorePlace,
    store: Store,
    tlog: Tlog,
    recovered: Recovered,
    damage: Vec<String>,
}

fn identity(options: &NodeOptions) -> Identity {
    Identity { cluster_id: options.cluster_id.clone(), node: options.node, name: options.name.clone() }
}

/// How much of its log this node keeps beyond what its store has passed. A witness keeps all of it (rule E3): what the
/// only node with the data acknowledged together with it is nowhere else.
fn log_retention(options: &NodeOptions) -> u64 {
    if options.roles.witnesses.contains(&options.node) { u64::MAX } else { options.log_retention_bytes }
}

fn open_files(disk: Arc<dyn HomeDisk>, options: &NodeOptions) -> Result<Files, NodeError> {
    let identity = identity(options);
    let home = Home::open(disk.clone(), &options.home, &identity)?;
    let is_witness = engine_config(options).is_witness(options.node);
    let store_options = store::Options::default();
    #[cfg(feature = "planted-bugs")]
    let store_options = store::Options { planted: options.planted, ..store_options };
    let RoleStore { place, store, is_behind } = role_store::open(&disk, &home, &identity, is_witness, store_options)?;
    let mut store = store.with_extensions(options.extensions.clone());
    let tlog_options = TlogOptions {
        segment_bytes: options.log_segment_bytes,
        retention_bytes: log_retention(options),
        compress: options.log_compression,
        #[cfg(feature = "planted-bugs")]
        planted: options.planted,
    };
    let open_log = if is_behind { Tlog::open_with_vote } else { Tlog::open };
    let opened = open_log(disk, home.path(), identity, tlog_options, store.applied());
    let (tlog, log) = opened.map_err(|error| match error {
        TlogError::NotContinued { store_applied: data } => {
            NodeError::RoleChanged { data, home: home.path().to_owned() }
        }
        error => error.into(),
    })?;
    let RecoveredLog { recovered, damage, notes } = log;
    for note in notes {
        tracing::info!(%note, "while opening the log");
    }
    for damage in &damage {
        tracing::error!(%damage, "the log is damaged: this node does not vote until it has recovered from its peers");
    }
    if let Err(error) = replay(&mut store, &tlog.reader(), recovered.decided_upto, recovered.decided_hash) {
        // What it has applied may be wrong, and must not become durable as it is dropped.
        store.abandon();
        return Err(error);
    }
    let damage = damage.iter().map(ToString::to_string).collect();
    Ok(Files { home, place, store, tlog, recovered, damage })
}

/// Applies what the log holds decided beyond the store, and checks that the history adds up.
fn replay(store: &mut Store, log: &LogReader, upto: Slot, recorded: HistoryHash) -> Result<(), NodeError> {
    let (first, _) = store.applied();
    loop {
        let (applied, hash) = store.applied();
        if applied >= upto {
            break;
        }
        let entries = log.read(applied.next(), upto, REPLAY_BYTES)?;
        let mut hash = hash;
        let batch: Vec<Decided> = (entries.into_iter())
            .map(|found| {
                hash = hash.extend(found.slot, &found.entry.value);
                Decided { slot: found.slot, hash, value: found.entry.value }
            })
            .collect();
        store.apply_for(&batch, false, |_| false)?;
    }
    let (applied, replayed) = store.applied();
    if applied == upto && replayed != recorded {
        return Err(NodeError::HistoryDamaged { slot: upto, recorded, replayed });
    }
    if applied > first {
        store.flush()?;
        tracing::info!(from = first.0, upto = applied.0, "replayed the log into the store");
    }
    Ok(())
}

fn start_log_writer(
    tlog: Tlog,
    persisted: Arc<AtomicU64>,
    reports: mpsc::UnboundedSender<StorageEvent>,
    workers: &Workers,
) -> Result<LogWriter, NodeError> {
    let on_event = move |event| {
        let event = match event {
            LogEvent::Persisted(id) => {
                persisted.store(id.0, Ordering::Release);
                StorageEvent::Persisted(id)
            }
            LogEvent::Failed(error) => StorageEvent::Failed(error.to_string()),
        };
        // The driver may have ended.
        let _ = reports.send(event);
    };
    LogWriter::start(tlog, Box::new(on_event), workers).map_err(|source| NodeError::System { what: "a thread", source })
}

/// Starts what removes old segments. The store tells it what they are needed for no more, and ends it with itself.
fn start_log_keeper(
    upkeep: Upkeep,
    store: &mut Store,
    holds: Holds,
    room: Arc<Room>,
    reports: mpsc::UnboundedSender<StorageEvent>,
    workers: &Workers,
) -> Result<(), NodeError> {
    let on_event = move |event| {
        let event = match event {
            KeeperEvent::Shortened(log_start) => StorageEvent::LogShortened(log_start),
            KeeperEvent::Failed(error) => StorageEvent::Failed(error.to_string()),
        };
        // The driver may have ended.
        let _ = reports.send(event);
    };
    let keeper =
        LogKeeper::start(upkeep, on_event, workers).map_err(|source| NodeError::System { what: "a thread", source })?;
    // What was found at the start, and what was replayed, is durable.
    keeper.stored(store.applied().0);
    store.on_durable(move |stored| keeper.stored(holds.limit(stored, room.is_short())));
    Ok(())
}

/// What is told of each group of slots that was applied: to the clients that wait, and to the driver.
fn on_applied(
    reports: mpsc::UnboundedSender<StorageEvent>,
    applied_sender: Arc<watched::Sender<Slot>>,
    harvest: Arc<Series>,
) -> impl FnMut(Result<Applied<Vec<Reply>>, StoreError>) + Send + 'static {
    move |applied| {
        let event = match applied {
            Ok(Applied { upto, slots }) => {
                applied_sender.set(upto);
                for (results, replies) in slots {
                    if !replies.is_empty() {
                        let updates = u32::try_from(replies.len()).unwrap_or(u32::MAX);
                        harvest.record(updates.into(), updates);
                    }
                    answer(results, replies);
                }
                StorageEvent::Applied(upto)
            }
            Err(error) => StorageEvent::Failed(error.to_string()),
        };
        // The driver may have ended.
        let _ = reports.send(event);
    }
}

fn start_store_writer(
    store: Store,
    age_max: Duration,
    persisted: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    on_applied: impl FnMut(Result<Applied<Vec<Reply>>, StoreError>) + Send + 'static,
    workers: &Workers,
) -> Result<StoreWriter<Vec<Reply>>, NodeError> {
    let is_durable = move |id: PersistId| id.0 <= persisted.load(Ordering::Acquire);
    let policy = CommitPolicy::new(COMMIT_BYTES_MAX, age_max);
    StoreWriter::start(store, policy, WriterLimits::default(), clock, is_durable, on_applied, workers)
        .map_err(|source| NodeError::System { what: "a thread", source })
}

fn answer(results: Vec<crate::update::UpdateResult>, replies: Vec<Reply>) {
    let mut results = results.into_iter();
    for reply in replies {
        // A batch whose end is damaged has fewer results; what its other commands did nobody can say.
        let result = results.next().ok_or(UpdateRefused::OutcomeUnknown);
        // The client may have gone away.
        let _ = reply.send(result);
    }
}

fn share(
    options: &NodeOptions,
    clock: Arc<dyn Clock>,
    store: StoreReader,
    asks: mpsc::Sender<Ask>,
    applied: watched::Receiver<Slot>,
    harvest: Arc<Series>,
    room: Arc<Room>,
) -> Shared {
    let mut names: BTreeMap<_, _> = options.peers.iter().map(|peer| (peer.node, peer.name.clone())).collect();
    names.insert(options.node, options.name.clone());
    Shared {
        cluster_id: options.cluster_id.clone(),
        node: options.node,
        names,
        reads: options.reads,
        limits: options.limits,
        extensions: options.extensions.clone(),
        is_witness: options.roles.witnesses.contains(&options.node),
        read_only: options.read_only,
        clock,
        store,
        asks,
        #[cfg(not(feature = "planted-bugs"))]
        serving: Serving::default(),
        #[cfg(feature = "planted-bugs")]
        serving: Serving::with_planted(options.planted),
        master: AtomicU32::new(0),
        applied,
        harvest,
        room,
    }
}

fn peer_options(options: &NodeOptions, seed: u64) -> PeerOptions {
    PeerOptions {
        cluster_id: options.cluster_id.clone(),
        node: options.node,
        name: options.name.clone(),
        peers: options.peers.clone(),
        terms: terms(options),
        timing: PeerTiming::default(),
        limits: PeerLimits::default(),
        seed,
    }
}

/// What must be the same on all nodes.
fn terms(options: &NodeOptions) -> Terms {
    let config = engine_config(options);
    let mut voters = config.voters.clone();
    voters.sort_unstable();
    let voters = voters.iter().fold(0, |crc, voter| {
        let crc = crc32c::crc32c_append(crc, &voter.0.to_le_bytes());
        if config.is_witness(*voter) { crc32c::crc32c_append(crc, b"witness") } else { crc }
    });
    let lease_ms = u32::try_from(options.lease.as_millis()).unwrap_or(u32::MAX);
    Terms { lease_ms, clock_drift_ppm: options.clock_drift_ppm, voters }
}

fn engine_config(options: &NodeOptions) -> Config {
    let Roles { learners, witnesses, preferred } = options.roles.clone();
    let members = options.peers.iter().map(|peer| peer.node).chain([options.node]);
    let voters = members.filter(|node| !learners.contains(node)).collect();
    Config {
        learners,
        witnesses,
        preferred,
        lease: options.lease,
        clock_drift_ppm: options.clock_drift_ppm,
        #[cfg(feature = "planted-bugs")]
        planted: options.planted_in_engine,
        ..Config::new(options.node, voters)
    }
}

#[cfg(test)]
mod tests;
