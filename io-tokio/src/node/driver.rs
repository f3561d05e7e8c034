//! The driver: the one task that owns the engine. It turns what happens into events, steps the engine, and carries its
//! actions to the disk, the store, the peers and the clients, none of which it ever waits for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use trialbay_engine::quorum::Quorum;
use trialbay_engine::{
    Action, Actions, Dropped, Engine, Event, HaltReason, NodeId, PeerStatus, PersistId, ReadId, Record, Refusal,
    Request, RequestId, Role, Slot, SlotEntry,
};

use super::handle::{Ask, DropRefused, LogView, MaintenanceRefused, NodeStatus, PeerView, Shared, UpdateRefused};
use super::heads::Heads;
use super::standing::Standing;
use super::voters::VotersChange;
use crate::head::NotTaken;
use crate::peer::{PeerEvent, PeerNetwork};
use crate::recorder::Recorder;
use crate::store::{self, Decided, Head, Job, Maintenance, NotMaintained, StoreWriter};
use crate::tlog::{LogReader, LogWriter, TlogError};
use crate::update::UpdateResult;
use crate::workers::Workers;

/// How much of each inbox goes into one round.
const ROUND_EVENTS_MAX: usize = 1_024;

/// The first this many offences of a peer are logged one by one, then only every so many.
const BLAMES_LOGGED: u64 = 10;

/// Who waits for the outcome of one update.
pub(super) type Reply = oneshot::Sender<Result<UpdateResult, UpdateRefused>>;

/// What the disk, the store and the readers of the log report. Each answers an order of the engine, whose windows
/// bound their number.
pub(super) enum StorageEvent {
    Persisted(PersistId),
    Applied(Slot),
    LogRead { peer: NodeId, entries: Vec<SlotEntry> },
    LogShortened(Slot),
    HeadTaken(Result<Head, NotTaken>),
    HeadAnnounced,
    HeadInstalled(Head),
    Compacted,
    Failed(String),
}

/// Where the driver hears from everyone.
pub(super) struct Inboxes {
    pub(super) storage: mpsc::UnboundedReceiver<StorageEvent>,
    pub(super) peers: mpsc::Receiver<PeerEvent>,
    pub(super) asks: mpsc::Receiver<Ask>,
}

/// The engine and what it gives orders to.
pub(super) struct Driver {
    pub(super) engine: Engine,
    pub(super) shared: Arc<Shared>,
    pub(super) peers: PeerNetwork,
    pub(super) tlog: LogWriter,
    pub(super) log_reader: LogReader,
    pub(super) store: StoreWriter<Vec<Reply>>,
    pub(super) heads: Heads,
    pub(super) reports: mpsc::UnboundedSender<StorageEvent>,
    pub(super) workers: Workers,
    pub(super) lease: Duration,
    /// Says how long the store's file is.
    pub(super) store_bytes: Box<dyn Fn() -> u64 + Send>,
    /// What is wrong with the node's files, in words.
    pub(super) damage: Vec<String>,
    pub(super) standing: Standing,
    /// Until it is done.
    pub(super) voters_change: Option<VotersChange>,
    pub(super) recorder: Option<Recorder>,
    pub(super) waiting: Waiting,
    pub(super) actions: Actions,
}

/// Who waits for what, and what waits for room.
#[derive(Default)]
pub(super) struct Waiting {
    requests: HashMap<RequestId, Reply>,
    requests_asked: u64,
    reads: HashMap<ReadId, oneshot::Sender<Result<Slot, Refusal>>>,
    reads_asked: u64,
    /// Who waits for another node to be master.
    drops: Vec<oneshot::Sender<Result<(), DropRefused>>>,
    /// Slots that were accepted in this run and not decided yet: the batch of records that has each one's entry.
    accepted_in: BTreeMap<Slot, PersistId>,
    /// Slots that were decided in this round.
    decided: Vec<Job<Vec<Reply>>>,
    /// Decided slots that the store's queue had no room for.
    unapplied: VecDeque<Job<Vec<Reply>>>,
    /// Whether the store is being compacted, or about to be.
    compacts: bool,
    blames: BTreeMap<NodeId, u64>,
    storage_failure: Option<String>,
}

/// How a run of the driver ended.
pub(super) struct Ended {
    pub(super) reason: HaltReason,
    pub(super) storage_failure: Option<String>,
    pub(super) peers: PeerNetwork,
    pub(super) heads: Heads,
    pub(super) tlog: LogWriter,
    pub(super) store: StoreWriter<Vec<Reply>>,
}

impl Driver {
    /// Runs until the engine halts. All clients that still wait then learn that the outcome is unknown.
    pub(super) async fn run(mut self, mut inboxes: Inboxes) -> Ended {
        let mut round = Round::default();
        loop {
            let wait = self.engine.next_deadline().map_or(Duration::MAX, |at| at.since(self.shared.clock.now()));
            tokio::select! {
                biased;
                _ = inboxes.storage.recv_many(&mut round.storage, ROUND_EVENTS_MAX) => {}
                _ = inboxes.peers.recv_many(&mut round.peers, ROUND_EVENTS_MAX) => {}
                _ = inboxes.asks.recv_many(&mut round.asks, ROUND_EVENTS_MAX) => {}
                () = tokio::time::sleep(wait) => {}
            }
            round.fill(&mut inboxes);
            if let Some(reason) = self.play(&mut round) {
                let Self { peers, heads, tlog, store, waiting, .. } = self;
                return Ended { reason, storage_failure: waiting.storage_failure, peers, heads, tlog, store };
            }
        }
    }

    /// Tells the engine everything that has happened, and then does everything it orders.
    fn play(&mut self, round: &mut Round) -> Option<HaltReason> {
        self.apply_backlog();
        for event in round.storage.drain(..) {
            let event = match event {
                StorageEvent::Persisted(id) => Event::Persisted(id),
                StorageEvent::Applied(slot) => Event::Applied(slot),
                StorageEvent::LogRead { peer, entries } => Event::LogRead { peer, entries },
                StorageEvent::LogShortened(log_start) => Event::LogShortened { log_start },
                StorageEvent::HeadTaken(Ok(head)) => {
                    self.heads.announce(head, &self.tlog);
                    continue;
                }
                StorageEvent::HeadAnnounced => {
                    self.heads.install(&self.store);
                    continue;
                }
                StorageEvent::HeadTaken(Err(why)) => {
                    if let Some((peer, offence)) = self.heads.failed(&why) {
                        self.blame(peer, offence);
                    }
                    Event::HeadFailed
                }
                StorageEvent::HeadInstalled(head) => {
                    // What was accepted up to there is void.
                    self.waiting.accepted_in = self.waiting.accepted_in.split_off(&head.slot.next());
                    self.heads.installed(head)
                }
                StorageEvent::Compacted => {
                    self.waiting.compacts = false;
                    Event::StoreResumed
                }
                StorageEvent::Failed(why) => {
                    self.storage_failed(why);
                    continue;
                }
            };
            self.step(event);
        }
        for event in round.peers.drain(..) {
            match event {
                PeerEvent::Connected(peer) => self.step(Event::Connected(peer)),
                PeerEvent::Disconnected(peer) => self.step(Event::Disconnected(peer)),
                PeerEvent::Received { from, message, room } => {
                    drop(room);
                    self.step(Event::Received { from, message });
                }
                PeerEvent::HeadAsked { by, on } => self.heads.give(by, on),
                PeerEvent::Failed(why) => self.storage_failed(why),
            }
        }
        self.play_asks(&mut round.asks);
        if self.engine.next_deadline().is_some_and(|at| at <= self.shared.clock.now()) {
            self.step(Event::Ticked);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.after_round(&self.engine);
        }
        // What is published ends (or begins) here before anybody can hear of it from this node.
        self.publish();
        self.standing.follow(&self.engine);
        if self.voters_change.is_some()
            && self.engine.is_settled()
            && let Some(change) = self.voters_change.take()
        {
            change.finish(&self.workers);
        }
        let mut actions = std::mem::take(&mut self.actions);
        let halted = actions.drain().fold(None, |halted, action| halted.or(self.perform(action)));
        self.actions = actions;
        self.hand_over_decided(halted.is_some());
        self.apply_backlog();
        halted
    }

    /// Says of each slot that was decided in this round which batch of records has its entry: that was ordered by the end of
    /// the round. An engine that halted may have ordered less. What no batch of this run has was in the log at its start.
    fn hand_over_decided(&mut self, has_halted: bool) {
        let Waiting { decided, unapplied, accepted_in, .. } = &mut self.waiting;
        unapplied.extend(decided.drain(..).map(|job| {
            let logged_by = accepted_in.remove(&job.decided.slot).unwrap_or_default();
            Job { logged_by: if has_halted { PersistId(u64::MAX) } else { logged_by }, ..job }
        }));
    }

    /// Ends the node: the disk failed, or a part of the node that it cannot do without panicked.
    fn storage_failed(&mut self, why: String) {
        tracing::error!(why, "storage failed");
        self.waiting.storage_failure.get_or_insert(why);
        self.step(Event::StorageFailed);
    }

    fn play_asks(&mut self, asks: &mut Vec<Ask>) {
        let mut requests = Vec::new();
        for ask in asks.drain(..) {
            match ask {
                Ask::Update { command, reply } => requests.push(self.waiting.request(command, reply)),
                Ask::QuorumRead { reply } => {
                    let read = self.waiting.read(reply);
                    self.step(Event::ReadRequested(read));
                }
                Ask::Drop { reply } => {
                    self.waiting.drops.push(reply);
                    self.step(Event::DropRequested);
                }
                Ask::Status { reply } => {
                    // Whoever asked may be gone.
                    let _ = reply.send(self.status());
                }
                Ask::Maintain { what, reply } => self.maintain(what, reply),
                Ask::Stop => self.step(Event::StopRequested),
            }
        }
        if !requests.is_empty() {
            self.step(Event::Requested(requests));
        }
    }

    /// Rule E4: a store that is compacted applies nothing meanwhile, so it is not the master's, and its node does not become
    /// master.
    fn maintain(&mut self, what: Maintenance, reply: oneshot::Sender<Result<(), MaintenanceRefused>>) {
        let compacts = what == Maintenance::Compact;
        let refused = match what {
            Maintenance::Compact if !self.engine.may_pause_store() => Some(MaintenanceRefused::OnMaster),
            Maintenance::Compact if self.waiting.compacts => Some(NotMaintained::BeingCompacted.into()),
            Maintenance::Compact | Maintenance::Flush => None,
        };
        if let Some(refused) = refused {
            // Whoever asked may be gone.
            let _ = reply.send(Err(refused));
            return;
        }
        if compacts {
            self.waiting.compacts = true;
            self.step(Event::StorePaused);
        }
        let reports = self.reports.clone();
        self.store.maintain(what, move |outcome| {
            if compacts {
                // The driver may have ended.
                let _ = reports.send(StorageEvent::Compacted);
            }
            // Whoever asked may be gone.
            let _ = reply.send(outcome.map_err(MaintenanceRefused::NotNow));
        });
    }

    fn step(&mut self, event: Event) {
        let now = self.shared.clock.now();
        let earlier = self.actions.as_slice().len();
        if let Some(recorder) = &mut self.recorder {
            recorder.before_step(now, &event);
        }
        self.engine.step(now, event, &mut self.actions);
        if let Some(recorder) = &mut self.recorder {
            recorder.after_step(&self.actions.as_slice()[earlier..]);
        }
    }

    fn perform(&mut self, action: Action) -> Option<HaltReason> {
        match action {
            Action::Send { to, message } => self.peers.send(to, message),
            Action::Persist { id, records } => {
                for record in &records {
                    if let Record::Accepted(accepted) = record {
                        self.waiting.accepted_in.insert(accepted.slot, id);
                    }
                }
                self.tlog.persist(id, records);
            }
            Action::Apply { slot, hash, value, requests } => {
                let replies: Vec<_> = requests.iter().filter_map(|id| self.waiting.requests.remove(id)).collect();
                let is_awaited = !replies.is_empty();
                let decided = Decided { slot, hash, value };
                self.waiting.decided.push(Job { decided, replies, is_awaited, logged_by: PersistId::default() });
            }
            Action::Refuse { requests, reason } => {
                for id in requests {
                    if let Some(reply) = self.waiting.requests.remove(&id) {
                        // The client may have gone away.
                        let _ = reply.send(Err(self.refused(reason)));
                    }
                }
            }
            Action::ServeRead { read, at } => self.waiting.answer_read(read, Ok(at)),
            Action::RefuseRead { read, reason } => {
                let deposed = matches!(reason, Refusal::NotMaster { .. });
                let answers = deposed && planted!(self.shared.serving.planted, DeposedAnswers);
                self.waiting.answer_read(read, if answers { Ok(Slot::ZERO) } else { Err(reason) });
            }
            Action::ReadLog { peer, from, upto, bytes_max } => self.read_log(peer, from, upto, bytes_max),
            Action::InstallHead { from } => self.heads.take(from, self.engine.decided_upto()),
            Action::Blame { peer, offence } => self.blame(peer, &format!("{offence:?}")),
            Action::Dropped(dropped) => self.answer_drops(dropped),
            Action::Halt(reason) => return Some(reason),
        }
        None
    }

    fn answer_drops(&mut self, dropped: Dropped) {
        let answer = match dropped {
            Dropped::Done => Ok(()),
            Dropped::Alone => Err(DropRefused::Alone),
            Dropped::NobodyAble => Err(DropRefused::NobodyAble { why: self.why_nobody_is_able() }),
            Dropped::NobodyTookOver => Err(DropRefused::NobodyTookOver),
        };
        for reply in self.waiting.drops.drain(..) {
            // The client may have gone away.
            let _ = reply.send(answer.clone());
        }
    }

    /// What keeps each of the others from being master, as far as the master knows.
    fn why_nobody_is_able(&self) -> String {
        let (status, now) = (self.engine.status(), self.shared.clock.now());
        let why = |peer: &PeerStatus| {
            let lacks = peer.accepted_upto.distance_to(status.accepted_upto);
            let is_silent = peer.granted_at.is_none_or(|at| now.since(at) >= self.lease);
            let why = match peer {
                PeerStatus { connected: false, .. } => "is not connected".to_owned(),
                PeerStatus { votes: false, .. } => "has no vote".to_owned(),
                PeerStatus { applied_upto: Slot::ZERO, .. } => "applies nothing at present".to_owned(),
                _ if is_silent => "does not answer".to_owned(),
                _ => format!("lacks {lacks} slots"),
            };
            format!("{} {why}", self.name(peer.node))
        };
        status.peers.iter().map(why).collect::<Vec<_>>().join(", ")
    }

    /// Hands decided slots to the store, in order, as far as its queue has room.
    fn apply_backlog(&mut self) {
        while let Some(job) = self.waiting.unapplied.pop_front() {
            match self.store.apply(job) {
                Ok(()) => {}
                // Both come back: a full queue has room again after the next `Applied`; an ended thread has said why.
                Err(store::NotTaken::Full(job) | store::NotTaken::Ended(job)) => {
                    return self.waiting.unapplied.push_front(job);
                }
            }
        }
    }

    fn read_log(&self, peer: NodeId, from: Slot, upto: Slot, bytes_max: usize) {
        let (reader, reports) = (self.log_reader.clone(), self.reports.clone());
        let name = self.name(peer).to_owned();
        self.workers.spawn(move || {
            let read = catch_unwind(AssertUnwindSafe(|| reader.read(from, upto, bytes_max)));
            let event = match read {
                Ok(Ok(entries)) => StorageEvent::LogRead { peer, entries },
                // Removed while the order was on its way: the engine is about to hear of it.
                Ok(Err(TlogError::NotInLog { .. })) => StorageEvent::LogRead { peer, entries: Vec::new() },
                Ok(Err(error)) => {
                    tracing::error!(peer = name, %error, "cannot read the log for a peer that catches up");
                    StorageEvent::LogRead { peer, entries: Vec::new() }
                }
                // Without an answer the peer would wait for ever.
                Err(_) => StorageEvent::Failed("a read of the log panicked (see above)".to_owned()),
            };
            // The driver may have ended.
            let _ = reports.send(event);
        });
    }

    /// Makes the engine's state known to connections.
    fn publish(&self) {
        let was_serving = self.shared.serving.look().is_some();
        let serves_until = self.engine.serves_until();
        self.shared.serving.publish(serves_until);
        let serving = serves_until.is_some();
        let master = self.engine.known_master().map_or(0, |master| u32::from(master.0));
        let known = self.shared.master.swap(master, Ordering::AcqRel);
        if was_serving != serving || known != master {
            let role = self.role_name(self.engine.role());
            let master = u16::try_from(master).ok().and_then(|id| self.shared.names.get(&NodeId(id)));
            tracing::info!(role, serving, master = master.map_or("unknown", String::as_str), "mastership");
        }
    }

    fn status(&self) -> NodeStatus {
        let status = self.engine.status();
        let now = self.shared.clock.now();

        let peers: Vec<PeerView> = (status.peers.iter())
            .map(|peer| PeerView {
                node: self.name(peer.node).to_owned(),
                connected: peer.connected,
                granted_ms_ago: peer.granted_at.map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)),
                accepted_upto: peer.accepted_upto.0,
                applied_upto: peer.applied_upto.0,
                votes: peer.votes,
            })
            .collect();
        let config = self.engine.config();
        let quorum = Quorum::new(config.voters.clone());
        let is_reachable = |node| node == config.node || self.peers.is_connected(node);
        let is_master = status.role == Role::Master;
        // A connection says little of a process that is stopped: what counts is a grant of this lease.
        let is_usable = |peer: &&PeerStatus| {
            peer.connected && peer.votes && peer.granted_at.is_some_and(|at| now.since(at) < self.lease)
        };
        let usable: Vec<NodeId> = status.peers.iter().filter(is_usable).map(|peer| peer.node).collect();
        let successors = usable.iter().filter(|node| config.may_be_master(**node)).count();
        let survivable = (1 + usable.len()).saturating_sub(quorum.size()).min(successors);
        let survivable = u32::try_from(survivable).unwrap_or(0);
        NodeStatus {
            node: self.name(self.shared.node).to_owned(),
            cluster_id: self.shared.cluster_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            role: self.role_name(status.role).to_owned(),
            master: status.master.map(|master| self.name(master).to_owned()),
            serving: status.serves_until.is_some_and(|until| now < until),
            ballot: format!("{}.{}", status.promised.round, status.promised.node.0),
            accepted_upto: status.accepted_upto.0,
            decided_upto: status.decided_upto.0,
            applied_upto: status.applied_upto.0,
            history_hash: format!("{:?}", status.decided_hash),
            votes: status.votes,
            vote_is_lent: status.vote_is_lent,
            catching_up: status.catching_up,
            head: self.heads.view(),
            progress_possible: status.applied_upto > Slot::ZERO
                && status.master.is_some()
                && quorum.agrees(is_reachable),
            failures_survivable: is_master.then_some(survivable),
            keys: self.shared.store.snapshot().and_then(|snapshot| snapshot.len()).unwrap_or(0),
            log: self.log_view(),
            store_bytes: (self.store_bytes)(),
            disk_free_bytes: self.shared.room.free(),
            disk_is_short: self.shared.room.is_short(),
            damage: self.damage.clone(),
            peers,
        }
    }

    fn log_view(&self) -> LogView {
        let usage = self.log_reader.usage();
        LogView {
            segments: usage.segments as u64,
            compressed: usage.compressed as u64,
            bytes: usage.bytes,
            first_slot: self.log_reader.log_start().map_or(0, |slot| slot.0),
        }
    }

    fn refused(&self, reason: Refusal) -> UpdateRefused {
        match reason {
            Refusal::NotMaster { master } => {
                UpdateRefused::NotMaster { master: master.map(|master| self.name(master).to_owned()) }
            }
            Refusal::Overloaded => UpdateRefused::Overloaded,
            Refusal::Stopping => UpdateRefused::Stopping,
            Refusal::OutcomeUnknown => UpdateRefused::OutcomeUnknown,
        }
    }

    fn blame(&mut self, peer: NodeId, offence: &str) {
        let count = self.waiting.blames.entry(peer).or_default();
        *count += 1;
        if *count <= BLAMES_LOGGED || count.is_multiple_of(1_000) {
            tracing::warn!(
                peer = self.name(peer),
                offence,
                count = self.waiting.blames[&peer],
                "peer broke the protocol"
            );
        }
    }

    fn role_name(&self, role: Role) -> &'static str {
        let (config, me) = (self.engine.config(), self.shared.node);
        match role {
            Role::Slave if config.learners.contains(&me) => "learner",
            Role::Slave if config.is_witness(me) => "witness",
            Role::Slave => "slave",
            Role::Canvassing => "canvassing",
            Role::Candidate => "candidate",
            Role::Master => "master",
            Role::Halted => "halted",
        }
    }

    fn name(&self, node: NodeId) -> &str {
        self.shared.names.get(&node).map_or("a stranger", String::as_str)
    }
}

impl Waiting {
    fn request(&mut self, command: Bytes, reply: Reply) -> Request {
        self.requests_asked += 1;
        let id = RequestId(self.requests_asked);
        self.requests.insert(id, reply);
        Request { id, command }
    }

    fn read(&mut self, reply: oneshot::Sender<Result<Slot, Refusal>>) -> ReadId {
        self.reads_asked += 1;
        let id = ReadId(self.reads_asked);
        self.reads.insert(id, reply);
        id
    }

    fn answer_read(&mut self, read: ReadId, answer: Result<Slot, Refusal>) {
        if let Some(reply) = self.reads.remove(&read) {
            // The client may have gone away.
            let _ = reply.send(answer);
        }
    }
}

/// What one round of the driver tells the engine. Reused, so that it allocates nothing once it is warm.
#[derive(Default)]
struct Round {
    storage: Vec<StorageEvent>,
    peers: Vec<PeerEvent>,
    asks: Vec<Ask>,
}

impl Round {
    /// Adds what else is there already, so that one round of records, and one fsync, covers it all.
    fn fill(&mut self, inboxes: &mut Inboxes) {
        while self.storage.len() < ROUND_EVENTS_MAX
            && let Ok(event) = inboxes.storage.try_recv()
        {
            self.storage.push(event);
        }
        while self.peers.len() < ROUND_EVENTS_MAX
            && let Ok(event) = inboxes.peers.try_recv()
        {
            self.peers.push(event);
        }
        while self.asks.len() < ROUND_EVENTS_MAX
            && let Ok(ask) = inboxes.asks.try_recv()
        {
            self.asks.push(ask);
        }
    }
}
