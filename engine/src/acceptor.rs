//! The acceptor: what a node promises and accepts, whoever the master is.

use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::action::{Action, HaltReason, Offence};
use crate::campaign::UNDECIDED_SLOTS_MAX;
use crate::disk_queue::Due;
use crate::engine::{Engine, Mastership};
use crate::ids::{Ballot, NodeId, Slot};
use crate::message::Message;
use crate::record::Record;
use crate::time::Instant;
use crate::value::{Entry, HistoryHash, SlotEntry, Value};

/// # Invariants
/// 1. `promised` never falls (rule P2).
/// 2. Every slot up to `received_upto` holds the value that `promised`'s master proposed there, or is decided.
/// 3. `decided_upto <= received_upto`, for the log's `decided_upto`.
#[derive(Clone, Debug, Hash, Encode, Decode)]
pub(crate) struct Acceptor {
    /// The highest ballot promised, durable or on its way to the disk.
    pub(crate) promised: Ballot,
    /// The end of what this node holds of that ballot, durable or on its way to the disk.
    pub(crate) received_upto: Slot,
    /// The last ballot whose master resigned: a heartbeat of it that comes late gets no grant.
    resigned: Ballot,
    /// The last gap that the master was told of: once is enough for all that it has in flight, until the next heartbeat.
    gap_told: Option<(Ballot, Slot)>,
}

impl Acceptor {
    pub(crate) fn new(promised: Ballot, decided_upto: Slot) -> Self {
        Self { promised, received_upto: decided_upto, resigned: Ballot::ZERO, gap_told: None }
    }
}

impl Engine {
    /// Phase 1b. A promise to `ballot` excludes everything below it, for ever.
    pub(crate) fn on_prepare(&mut self, from: NodeId, ballot: Ballot, candidate_decided: Slot) {
        self.saw_ballot(ballot);
        if !self.franchise.votes {
            // Rule V1: a node that may have forgotten promises gives no new ones.
            return;
        }
        // Rules P2 (never below a promise), P3 (never inside another's lease), P4 (never to a node that is behind).
        let refused = (ballot < self.acceptor.promised && !planted!(self.config, PromiseBelowPromise))
            || self.grant_forbids(from)
            || self.is_behind(candidate_decided);
        if refused {
            return self.send_nak(from, ballot);
        }
        if ballot != self.acceptor.promised {
            self.adopt(ballot);
        }
        if planted!(self.config, PromiseBeforeFsync) {
            self.send_promise(ballot, candidate_decided);
        }
        // The promise leaves in the step that hears that its record is durable (rule P1).
        self.disk.when_durable(Due::Promise { ballot, candidate_decided });
        // The candidate gets the time of a campaign before this node tries itself.
        self.wait_for_master();
    }

    /// Whether a grant stands in the way of `candidate` (rule P3).
    pub(crate) fn grant_forbids(&self, candidate: NodeId) -> bool {
        self.grant.forbids(candidate, self.now) && !planted!(self.config, PromiseInsideLease)
    }

    /// Whether a candidate that has decided this much must catch up first (rule P4).
    pub(crate) fn is_behind(&self, candidate_decided: Slot) -> bool {
        candidate_decided < self.log.decided_upto() && !planted!(self.config, PromiseToOneBehind)
    }

    pub(crate) fn send_promise(&mut self, ballot: Ballot, candidate_decided: Slot) {
        if ballot != self.acceptor.promised {
            // Overtaken by a higher promise: the candidate would only be misled.
            return;
        }
        if candidate_decided.next() < self.log.start() && !planted!(self.config, PromiseToOneBehind) {
            // This node learned and forgot decided entries meanwhile: the candidate is behind after all (rule P4).
            return self.send_nak(ballot.node, ballot);
        }
        let accepted = self.log.accepted_above(candidate_decided).into();
        let incarnation = self.franchise.incarnation;
        self.send(ballot.node, Message::Promise { ballot, incarnation, accepted });
    }

    /// Takes part in `ballot` from now on, and in nothing below it. Whatever this node was before, it is a slave of
    /// that ballot's owner now.
    pub(crate) fn adopt(&mut self, ballot: Ballot) {
        invariant!(self.config, ballot > self.acceptor.promised, "{ballot} is not above {}", self.acceptor.promised);
        let own = matches!(&self.mastership, Mastership::Campaigning(campaign) if campaign.ballot() == ballot);
        if !own {
            self.become_slave();
        }
        self.acceptor.promised = ballot;
        // Of a new ballot a node holds only what is decided (acceptor invariant 2).
        self.acceptor.received_upto = self.log.decided_upto();
        if planted!(self.config, StaleTakenForNew) && ballot.node != self.config.node {
            self.acceptor.received_upto = self.log.accepted_upto();
        }
        self.disk.record(Record::Promised(ballot));
        self.saw_ballot(ballot);
    }

    /// Phase 2b: accepts the values of a slave's master, as far as they continue what the slave has.
    pub(crate) fn on_accept(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        first: Slot,
        values: Vec<Value>,
        decided_upto: Slot,
        decided_hash: HistoryHash,
    ) {
        if first == Slot::ZERO || values.is_empty() || first.0.checked_add(values.len() as u64).is_none() {
            return self.blame(from, Offence::OutOfBounds);
        }
        if !self.follow(from, ballot) {
            return;
        }
        if first > self.acceptor.received_upto.next() {
            // Rule A2: no gaps. The master sends again what is missing.
            return self.send_gap(from, ballot);
        }
        if !self.has_room_for_values() {
            // The disk or the store is behind: what is not taken now is sent again after the next heartbeat.
            return;
        }
        for (index, value) in values.into_iter().enumerate() {
            let slot = Slot(first.0 + index as u64);
            if planted!(self.config, ResentAcceptIgnored | HashNotCompared) && self.log.entry(slot).is_some() {
                self.acceptor.received_upto = self.acceptor.received_upto.max(slot);
            }
            if slot > self.acceptor.received_upto {
                self.accept(slot, Entry { ballot, value });
            }
        }
        let upto = self.acceptor.received_upto;
        if planted!(self.config, AcceptedBeforeFsync) {
            self.acceptance_is_durable(ballot, upto);
        }
        self.disk.when_durable(Due::Accepted { ballot, upto });
        self.learn_decided(decided_upto, decided_hash);
    }

    /// A master asks for its lease. Never waits for the disk, so that a slow disk costs no mastership.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(crate) fn on_heartbeat(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        asked_at: Instant,
        sent_upto: Slot,
        stream_start: Slot,
        decided_upto: Slot,
        decided_hash: HistoryHash,
    ) {
        if !self.follow(from, ballot) {
            return;
        }
        if ballot == self.acceptor.resigned {
            // It serves nobody any more, and `Granted` would be a word not kept.
            return;
        }
        self.canvasses = 0;
        self.acceptor.gap_told = None;
        // Rule L1: a whole lease from now, on our clock. Without a vote it only tells who is master.
        self.grant.give(from, self.now + self.config.lease);
        self.wait_for_master();
        self.follows_another();
        self.learn_decided(decided_upto, decided_hash);
        self.send(
            from,
            Message::Granted {
                ballot,
                asked_at,
                incarnation: self.franchise.incarnation,
                votes: self.franchise.votes,
                received_upto: self.acceptor.received_upto,
                applied_upto: if self.store_paused { Slot::ZERO } else { self.log.applied_upto() },
            },
        );
        let upto = self.acceptor.received_upto;
        if upto > decided_upto {
            // An acknowledgement may have been lost, and no value may follow whose acknowledgement would cover it.
            self.disk.when_durable(Due::Accepted { ballot, upto });
        }
        let missing = self.acceptor.received_upto < sent_upto.max(decided_upto);
        if missing && self.acceptor.received_upto.next() < stream_start {
            self.fetch_from(from, decided_upto);
        }
        if !missing {
            self.claim_if_preferred(ballot);
        }
    }

    /// A master resigns: its lease ends now, and its successor need not wait.
    pub(crate) fn on_resign(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        successor: Option<NodeId>,
        decided_upto: Slot,
        decided_hash: HistoryHash,
    ) {
        if ballot.node != from || ballot != self.acceptor.promised {
            return;
        }
        self.learn_decided(decided_upto, decided_hash);
        self.acceptor.resigned = ballot;
        if self.grant.holder(self.now) == Some(from) {
            self.grant.end(self.now);
        }
        if successor == Some(self.config.node) {
            self.canvasses = 0;
            self.hand_over.abstains_until = self.now;
            self.timers.set(crate::timers::Timer::Canvass, self.now);
        } else {
            self.wait_for_master();
        }
    }

    /// Accepts one entry: the next one of `received_upto`.
    pub(crate) fn accept(&mut self, slot: Slot, entry: Entry) {
        assert_eq!(slot, self.acceptor.received_upto.next(), "slots are accepted one after the other");
        self.acceptor.received_upto = slot;
        self.log.put(slot, entry.clone());
        self.disk.record(Record::Accepted(SlotEntry { slot, entry }));
    }

    /// Extends the decided prefix by what a master says, as far as this node holds that master's values (rule D1), and
    /// compares histories (rule D2).
    pub(crate) fn learn_decided(&mut self, decided_upto: Slot, decided_hash: HistoryHash) {
        self.decide_upto(decided_upto.min(self.acceptor.received_upto));
        let compared = !planted!(self.config, HashNotCompared);
        if compared && self.log.decided_upto() == decided_upto && self.log.decided_hash() != decided_hash {
            let (slot, ours) = (self.log.decided_upto(), self.log.decided_hash());
            self.halt(HaltReason::HistoryDiverged { slot, ours, theirs: decided_hash });
        }
    }

    /// Decides every slot up to `upto` and orders them applied.
    pub(crate) fn decide_upto(&mut self, upto: Slot) {
        while self.log.decided_upto() < upto {
            let (slot, hash, value) = self.log.decide_next();
            let requests = self.take_proposal(slot);
            self.out.push(Action::Apply { slot, hash, value, requests });
        }
        self.acceptor.received_upto = self.acceptor.received_upto.max(self.log.decided_upto());
    }

    /// Everything up to `upto` is durable with the values of `ballot`.
    pub(crate) fn acceptance_is_durable(&mut self, ballot: Ballot, upto: Slot) {
        if ballot != self.acceptor.promised && !planted!(self.config, AcceptBelowPromise) {
            return;
        }
        if ballot.node == self.config.node {
            self.own_acceptance_is_durable(ballot, upto);
        } else {
            let (incarnation, votes) = (self.franchise.incarnation, self.franchise.votes);
            let accepted = Message::Accepted { ballot, incarnation, votes, upto };
            if planted!(self.config, NullAcknowledgedTwice) {
                self.send(ballot.node, accepted.clone());
            }
            self.send(ballot.node, accepted);
        }
    }

    /// Whether the disk and the store keep up well enough to take more values.
    pub(crate) fn has_room_for_values(&self) -> bool {
        let limits = &self.config.limits;
        let bytes_max = limits.in_flight_bytes_max.saturating_mul(2);
        let undecided = self.log.decided_upto().distance_to(self.acceptor.received_upto);
        undecided < UNDECIDED_SLOTS_MAX
            && self.disk.unpersisted_bytes() <= bytes_max
            && self.log.unapplied_bytes() <= bytes_max
            && self.log.unapplied_slots() <= limits.in_flight_slots_max.saturating_mul(16)
    }

    pub(crate) fn send_gap(&mut self, to: NodeId, ballot: Ballot) {
        let received_upto = self.acceptor.received_upto;
        if self.acceptor.gap_told.replace((ballot, received_upto)) != Some((ballot, received_upto)) {
            self.send(to, Message::Gap { ballot, received_upto });
        }
    }

    /// Whether this node is (or now becomes) a slave in `ballot`; refuses one that is below its promise (rule A1).
    fn follow(&mut self, from: NodeId, ballot: Ballot) -> bool {
        if ballot < self.acceptor.promised && !planted!(self.config, AcceptBelowPromise) {
            self.send_nak(from, ballot);
            return false;
        }
        if ballot > self.acceptor.promised {
            self.adopt(ballot);
        }
        invariant!(
            self.config,
            matches!(self.mastership, Mastership::Slave | Mastership::Campaigning(_)),
            "only the owner of {ballot} can be its master"
        );
        // A node that asks around for itself has its answer: there is a master.
        if matches!(self.mastership, Mastership::Campaigning(_)) {
            self.become_slave();
        }
        true
    }

    fn send_nak(&mut self, to: NodeId, ballot: Ballot) {
        let (promised, decided_upto) = (self.acceptor.promised, self.log.decided_upto());
        self.send(to, Message::Nak { ballot, promised, decided_upto });
    }
}
