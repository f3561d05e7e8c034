//! The engine: one node's protocol state, advanced by one event at a time.
//!
//! The roles of Paxos compose: an acceptor answers whatever the node's mastership. Each role has a file of its own with
//! its state and its handlers: `acceptor`, `campaign`, `master`, `catch_up`, `recall`. This file dispatches.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use bincode::{Decode, Encode};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::acceptor::Acceptor;
use crate::action::{Action, Actions, HaltReason, Offence, Refusal};
use crate::campaign::Campaign;
use crate::catch_up::CatchUp;
use crate::config::Config;
use crate::disk_queue::{DiskQueue, Due};
use crate::event::Event;
use crate::hand_over::HandOver;
use crate::ids::{Ballot, NodeId, RequestId, Slot};
use crate::lease::Grant;
use crate::log::Log;
use crate::master::Master;
use crate::message::Message;
use crate::quorum::Quorum;
use crate::recall::Franchise;
use crate::record::Recovered;
use crate::status::{Held, Role, Status};
use crate::time::Instant;
use crate::timers::{Timer, Timers};

/// Rounds beyond this are no ballots but damage: no cluster campaigns that often.
pub(crate) const ROUND_MAX: u64 = 1 << 62;

/// One node's protocol state. A clone goes its own way: for those who explore what could happen.
#[derive(Clone)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) quorum: Quorum,
    pub(crate) rng: ChaCha8Rng,
    /// The time of the current step.
    pub(crate) now: Instant,
    pub(crate) timers: Timers,
    pub(crate) log: Log,
    pub(crate) disk: DiskQueue,
    pub(crate) acceptor: Acceptor,
    /// What this node owes to a master in time.
    pub(crate) grant: Grant,
    pub(crate) franchise: Franchise,
    pub(crate) mastership: Mastership,
    pub(crate) hand_over: HandOver,
    pub(crate) catch_up: CatchUp,
    pub(crate) connected: BTreeSet<NodeId>,
    /// The highest ballot heard of, promised or not: the next campaign goes above it.
    pub(crate) ballot_seen: Ballot,
    /// The store applies nothing for the time being (rule E4).
    pub(crate) store_paused: bool,
    /// Canvasses since the last sign of a master; spaces out the next ones.
    pub(crate) canvasses: u32,
    pub(crate) out: Vec<Action>,
    pub(crate) halted: bool,
}

/// What this node is about mastership.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum Mastership {
    Slave,
    Campaigning(Campaign),
    Master(Master),
}

impl Engine {
    /// A node that starts (again) with what its driver found on disk.
    ///
    /// `seed` feeds the jitter of timers and, on a first start, this node's incarnation; it must differ from run to run.
    ///
    /// # Panics
    /// When the configuration is not sound ([`Config::is_sound`]), or `recovered` is not well-formed.
    pub fn new(now: Instant, config: Config, mut recovered: Recovered, seed: u64) -> Self {
        assert!(recovered.is_well_formed(), "what was recovered is not well-formed: {recovered:?}");
        if planted!(config, BallotReusedAfterRestart) && recovered.promised.node == config.node {
            let accepted = recovered.undecided.iter().map(|slot_entry| slot_entry.entry.ballot);
            recovered.promised = accepted.max().unwrap_or(Ballot::ZERO);
        }
        let quorum = Quorum::new(config.voters.clone());
        #[cfg(feature = "planted-bugs")]
        let quorum = if planted!(config, HalfIsQuorum) { quorum.of_half() } else { quorum };
        assert!(config.is_sound(), "{} is no member, or has roles that exclude each other: {config:?}", config.node);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // A node that is its own only voter has granted nothing to others.
        let alone = quorum.voters().len() == 1;
        let forgets = planted!(config, RestartedGrantForgotten);
        let wait = if alone || forgets { Duration::ZERO } else { config.restart_wait() };
        let log = Log::new(&recovered);
        // A new life notes what is decided beside its beginning, as if nothing had been noted before: of what the lost one
        // noted nobody knows how much is left, and a log that ends before its store costs the vote once more.
        let recorded = if recovered.memory.is_some() { recovered.decided_upto } else { Slot::ZERO };
        let mut disk = DiskQueue::new(recovered.decided_upto, recorded);
        let mut franchise = Franchise::new(&recovered, &mut rng, &mut disk);
        if !quorum.contains(config.node) {
            // Rule E1. Its memory is as good as any should it be a voter in a later run.
            (franchise.votes, franchise.remembers) = (false, false);
        } else if planted!(config, WipedNodeVotes) {
            (franchise.votes, franchise.remembers) = (true, true);
        }
        let mut engine = Self {
            acceptor: Acceptor::new(recovered.promised, recovered.decided_upto),
            grant: Grant::after_restart(now, wait),
            ballot_seen: recovered.promised.max(log.ballot_max()),
            mastership: Mastership::Slave,
            hand_over: HandOver::default(),
            catch_up: CatchUp::default(),
            connected: BTreeSet::new(),
            store_paused: false,
            canvasses: 0,
            out: Vec::new(),
            halted: false,
            timers: Timers::default(),
            config,
            quorum,
            rng,
            now,
            log,
            disk,
            franchise,
        };
        engine.wait_for_master();
        engine.timers.set(Timer::Recall, now);
        engine
    }

    /// Promises nothing for this long from now: for a node whose earlier run was configured with a longer lease (rule L4).
    pub fn wait_at_least(&mut self, wait: Duration) {
        self.grant.nobody_before(self.now + wait);
        self.wait_for_master();
    }

    /// Advances the node by exactly one event. Never fails, never blocks, never reads a clock.
    ///
    /// `now` must not go back; if it does, the engine stays at the latest time it was told.
    ///
    /// # Panics
    /// When the driver breaks the contract between actions and events, or an invariant of the engine does not hold.
    pub fn step(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        if self.halted {
            return;
        }
        self.now = self.now.max(now);
        core::mem::swap(&mut self.out, &mut actions.queue);
        self.handle(event);
        if !self.halted {
            self.finish_step();
        }
        core::mem::swap(&mut self.out, &mut actions.queue);
    }

    /// When to call `step` with `Event::Ticked` at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.halted { None } else { self.timers.next() }
    }

    /// This node's state at this moment.
    pub fn status(&self) -> Status {
        Status {
            role: self.role(),
            master: self.known_master(),
            promised: self.acceptor.promised,
            accepted_upto: self.log.accepted_upto(),
            decided_upto: self.log.decided_upto(),
            decided_hash: self.log.decided_hash(),
            applied_upto: self.log.applied_upto(),
            serves_until: self.serves_until(),
            incarnation: self.franchise.incarnation,
            votes: self.franchise.votes,
            vote_is_lent: self.franchise.votes && !self.franchise.remembers,
            catching_up: self.catch_up.is_running(),
            queued_requests: self.queued().0,
            peers: self.peer_status(),
        }
    }

    /// What this node holds in memory at this moment.
    pub fn held(&self) -> Held {
        let decided_upto = self.log.decided_upto();
        let (queued_requests, queued_bytes, queued_reads) = self.queued();
        Held {
            log_slots: self.log.start().prev().distance_to(self.log.accepted_upto()),
            log_bytes: self.log.bytes(),
            undecided_slots: decided_upto.distance_to(self.log.accepted_upto()),
            undurable_slots: self.disk.decided_durable().distance_to(decided_upto),
            unapplied_slots: self.log.unapplied_slots(),
            unapplied_bytes: self.log.unapplied_bytes(),
            unpersisted_bytes: self.disk.unpersisted_bytes(),
            queued_requests,
            queued_bytes,
            queued_reads,
        }
    }

    /// What it was told at its creation.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this node's votes count.
    pub fn votes(&self) -> bool {
        self.franchise.votes
    }

    /// Whether this node is fetching decided slots that it missed.
    pub fn is_catching_up(&self) -> bool {
        self.catch_up.is_running()
    }

    /// The last slot that this node knows to be decided, like all before it.
    pub fn decided_upto(&self) -> Slot {
        self.log.decided_upto()
    }

    /// Whether something that the present master proposed is decided: then a majority of the voters has all that any
    /// earlier one decided (rule A2), and not only promised.
    pub fn is_settled(&self) -> bool {
        let last = self.log.entry(self.log.decided_upto());
        last.is_some_and(|entry| entry.ballot == self.acceptor.promised)
    }

    /// What this node is doing about mastership.
    pub fn role(&self) -> Role {
        match &self.mastership {
            _ if self.halted => Role::Halted,
            Mastership::Slave => Role::Slave,
            Mastership::Campaigning(campaign) => campaign.role(),
            Mastership::Master(_) => Role::Master,
        }
    }

    /// While master: the end of the time in which `Consistent` reads may be served (rule L2).
    pub fn serves_until(&self) -> Option<Instant> {
        match &self.mastership {
            Mastership::Master(master) if !self.halted => master.serves_until(&self.quorum, &self.config, &self.log),
            Mastership::Master(_) | Mastership::Slave | Mastership::Campaigning(_) => None,
        }
    }

    /// The master as this node knows it, if its lease has not run out.
    pub fn known_master(&self) -> Option<NodeId> {
        match &self.mastership {
            Mastership::Master(_) => self.serves_until().filter(|until| self.now < *until).map(|_| self.config.node),
            Mastership::Slave | Mastership::Campaigning(_) => {
                self.grant.holder(self.now).filter(|holder| *holder != self.config.node)
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ticked => {}
            Event::Connected(peer) => self.on_connected(peer),
            Event::Disconnected(peer) => {
                self.connected.remove(&peer);
                self.catch_up_lost_peer(peer);
                self.give_up_vain_canvass();
                self.lost_preferred(peer);
            }
            Event::Received { from, message } => self.on_received(from, message),
            Event::Requested(requests) => self.on_requested(requests),
            Event::ReadRequested(read) => self.on_read_requested(read),
            Event::Persisted(id) => self.disk.persisted(id),
            Event::Applied(upto) => {
                self.log.applied(upto);
                self.master_applied();
            }
            Event::LogRead { peer, entries } => self.on_log_read(peer, entries),
            Event::HeadInstalled { slot, hash } => self.on_head_installed(slot, hash),
            Event::HeadFailed => self.on_head_failed(),
            Event::StorageFailed => self.halt(HaltReason::StorageFailed),
            Event::StopRequested => self.on_stop_requested(),
            Event::DropRequested => self.on_drop_requested(),
            Event::LogShortened { log_start } => self.log.begins_at(log_start),
            Event::StorePaused => self.on_store_paused(),
            Event::StoreResumed => self.store_paused = false,
        }
        while !self.halted
            && let Some(timer) = self.timers.pop_due(self.now)
        {
            match timer {
                Timer::Canvass => self.start_canvass(),
                Timer::CampaignEnd => self.give_up_campaign(),
                Timer::Heartbeat => self.send_heartbeats(),
                Timer::Lapse => self.check_lapse(),
                Timer::Stall => self.check_stall(),
                Timer::Fetch => self.retry_fetch(),
                Timer::Recall => self.send_recall(),
                Timer::HandOver => self.hand_over_is_due(),
            }
        }
    }

    fn on_received(&mut self, from: NodeId, message: Message) {
        if !self.config.is_member(from) || from == self.config.node {
            return self.blame(from, Offence::Stranger);
        }
        match message {
            Message::Canvass { ballot, decided_upto } => self.on_canvass(from, ballot, decided_upto),
            Message::Canvassed { ballot, willing, incarnation, promised, decided_upto } => {
                self.saw_ballot(promised);
                self.on_canvassed(from, ballot, willing, incarnation, decided_upto);
            }
            Message::Prepare { ballot, decided_upto } => {
                if self.is_ballot_of(from, ballot) {
                    self.on_prepare(from, ballot, decided_upto);
                }
            }
            Message::Promise { ballot, incarnation, accepted } => {
                self.on_promise(from, ballot, incarnation, accepted.0);
            }
            Message::Accept { ballot, first, values, decided_upto, decided_hash } => {
                if self.is_ballot_of(from, ballot) {
                    self.on_accept(from, ballot, first, values.0, decided_upto, decided_hash);
                }
            }
            Message::Accepted { ballot, incarnation, votes, upto } => {
                self.on_accepted(from, ballot, incarnation, votes, upto);
            }
            Message::Heartbeat { ballot, asked_at, sent_upto, stream_start, decided_upto, decided_hash } => {
                if self.is_ballot_of(from, ballot) {
                    self.on_heartbeat(from, ballot, asked_at, sent_upto, stream_start, decided_upto, decided_hash);
                }
            }
            Message::Granted { ballot, asked_at, incarnation, votes, received_upto, applied_upto } => {
                self.on_granted(from, ballot, asked_at, incarnation, votes, received_upto, applied_upto);
            }
            Message::Claim { ballot } => self.on_claim(from, ballot),
            Message::Gap { ballot, received_upto } => self.on_gap(from, ballot, received_upto),
            Message::Nak { ballot, promised, decided_upto } => {
                self.saw_ballot(promised);
                self.on_nak(from, ballot, promised, decided_upto);
            }
            Message::Resign { ballot, successor, decided_upto, decided_hash } => {
                self.on_resign(from, ballot, successor, decided_upto, decided_hash);
            }
            Message::Fetch { from: first } => self.on_fetch(from, first),
            Message::Fetched { first, entries, decided_upto } => self.on_fetched(from, first, entries.0, decided_upto),
            Message::Gone { log_start } => self.on_gone(from, log_start),
            Message::Recall { incarnation } => self.on_recall(from, incarnation),
            Message::Recalled { asker, incarnation, votes, blank, promised, accepted_upto, genesis } => {
                self.saw_ballot(promised);
                let answer = crate::recall::Answer { incarnation, votes, blank, promised, accepted_upto };
                self.on_recalled(from, asker, answer, &genesis.0);
            }
        }
    }

    /// Does what this step made possible: proposes, settles what the disk is done with, decides, streams, and orders the
    /// step's records as one batch.
    fn finish_step(&mut self) {
        self.propose_queued();
        self.settle_due();
        self.decide_by_quorum();
        self.watch_for_stall();
        // Deciding makes room in flight only once applied, so one round settles everything.
        self.stream_to_slaves();
        self.continue_catch_up();
        self.regain_vote_if_covered();
        if let Some((id, records)) = self.disk.take_batch(self.log.decided_upto(), self.log.decided_hash()) {
            self.out.push(Action::Persist { id, records });
        }
        self.disk.decided(self.log.decided_upto());
        self.log.shrink(&self.config.limits, self.disk.decided_durable());
    }

    /// Sends what waited for the disk. Of several acceptances only the last says something.
    fn settle_due(&mut self) {
        let mut accepted = None;
        while let Some(due) = self.disk.pop_ready() {
            match due {
                Due::Promise { ballot, candidate_decided } => self.send_promise(ballot, candidate_decided),
                Due::OwnPromise { ballot } => self.start_phase_one(ballot),
                Due::Accepted { ballot, upto } => accepted = accepted.max(Some((ballot, upto))),
                Due::Born => self.on_born(),
                Due::VoteLent { incarnation } => self.on_vote_lent(incarnation),
                Due::VoteRegained { incarnation } => self.on_vote_regained(incarnation),
            }
        }
        if let Some((ballot, upto)) = accepted {
            self.acceptance_is_durable(ballot, upto);
        }
    }

    fn on_connected(&mut self, peer: NodeId) {
        if !self.config.is_member(peer) {
            return self.blame(peer, Offence::Stranger);
        }
        self.connected.insert(peer);
        self.rewind_stream(peer);
        if self.lacks_its_vote() && self.franchise.born && self.quorum.contains(peer) {
            self.send(peer, Message::Recall { incarnation: self.franchise.incarnation });
        }
    }

    /// Whether `from` owns `ballot`, and it is a ballot at all; blames otherwise.
    fn is_ballot_of(&mut self, from: NodeId, ballot: Ballot) -> bool {
        if ballot.node != from {
            self.blame(from, Offence::ForeignBallot);
            return false;
        }
        if !self.config.may_be_master(from) && !planted!(self.config, WitnessCampaigns) {
            self.blame(from, Offence::NoCandidate);
            return false;
        }
        if ballot.round == 0 || ballot.round > ROUND_MAX {
            self.blame(from, Offence::OutOfBounds);
            return false;
        }
        true
    }

    pub(crate) fn saw_ballot(&mut self, ballot: Ballot) {
        if ballot.round <= ROUND_MAX {
            self.ballot_seen = self.ballot_seen.max(ballot);
        }
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.out.push(Action::Send { to, message });
    }

    /// To all other voters.
    pub(crate) fn send_to_others(&mut self, message: &Message) {
        for index in 0..self.quorum.voters().len() {
            let to = self.quorum.voters()[index];
            if to != self.config.node {
                self.send(to, message.clone());
            }
        }
    }

    pub(crate) fn refuse(&mut self, requests: Vec<RequestId>, reason: Refusal) {
        if !requests.is_empty() {
            self.out.push(Action::Refuse { requests, reason });
        }
    }

    pub(crate) fn blame(&mut self, peer: NodeId, offence: Offence) {
        self.out.push(Action::Blame { peer, offence });
    }

    pub(crate) fn halt(&mut self, reason: HaltReason) {
        if self.halted {
            return;
        }
        self.halted = true;
        self.become_slave();
        self.out.push(Action::Halt(reason));
    }

    /// A random duration below `bound`, from the seed.
    pub(crate) fn jitter(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.rng.next_u64() % nanos)
    }
}
