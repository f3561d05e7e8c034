//! The master: orders updates, streams them, counts who has them durable, and holds the lease.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::hash::{Hash as _, Hasher};

use bincode::{Decode, Encode};

use crate::action::{Action, Offence, Refusal};
use crate::config::{Config, Limits};
use crate::disk_queue::Due;
use crate::engine::{Engine, Mastership};
use crate::event::Request;
use crate::hand_over::Leaving;
use crate::ids::{Ballot, Incarnation, NodeId, ReadId, RequestId, Slot};
use crate::lease;
use crate::log::Log;
use crate::message::Message;
use crate::quorum::Quorum;
use crate::status::PeerStatus;
use crate::time::Instant;
use crate::timers::Timer;
use crate::value::{Entry, Value};

/// A slave may have this many windows of slots unacknowledged before the stream to it pauses.
const UNACKNOWLEDGED_WINDOWS_MAX: u64 = 2;

/// # Invariants
/// 1. Every slot above the decided prefix holds a value of `ballot`.
/// 2. `first_own` is the slot of this master's `MasterChange`; every slot before it was inherited.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Master {
    pub(crate) ballot: Ballot,
    first_own: Slot,
    pub(crate) slaves: BTreeMap<NodeId, Slave>,
    /// When this node last asked for the lease: it grants itself what it asks of others.
    asked_at: Instant,
    /// The latest end of the lease so far: it stays when grants are forgotten, for they may only have to be given again.
    held_until: Instant,
    /// The end of what is durable here of this ballot (rule M2).
    durable_upto: Slot,
    /// While it waits for something to be decided, or for its own first slot to be applied: how far both are, and since when.
    waits_since: Option<((Slot, Slot), Instant)>,
    /// Who waits for which of the proposed slots.
    proposals: VecDeque<(Slot, Vec<RequestId>)>,
    in_flight: VecDeque<(Slot, usize)>,
    in_flight_bytes: usize,
    pub(crate) queue: VecDeque<Request>,
    queue_bytes: usize,
    reads: VecDeque<PendingRead>,
    /// While it hands over, and serves nobody: why.
    pub(crate) leaving: Option<Leaving>,
}

/// What the master knows of another voter or a learner, of this ballot.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Slave {
    /// The next slot to send.
    next: Slot,
    /// The end of what it has received, as far as known.
    received_upto: Slot,
    /// The end of what it has durable, counted only while it votes.
    pub(crate) accepted_upto: Slot,
    applied_upto: Slot,
    /// The latest asking to which it answered with a grant (rule L2).
    pub(crate) granted_at: Option<Instant>,
    pub(crate) votes: bool,
    /// When the first heartbeat that it has not answered was sent to it, and the end of what had been sent by then. Later
    /// ones do not take its place: under a stream of reads the latest one is never answered.
    heartbeat: Option<(Instant, Slot)>,
}

#[derive(Clone, Debug, Encode, Decode)]
struct PendingRead {
    read: ReadId,
    asked_at: Instant,
    at: Slot,
}

impl Slave {
    /// A slave is taken to have everything before `first` until it says otherwise.
    fn new(first: Slot) -> Self {
        Self { next: first, received_upto: first.prev(), ..Self::default() }
    }

    /// Whether its store applies what is decided, as of its last grant (rule E4).
    pub(crate) fn applies(&self) -> bool {
        self.applied_upto > Slot::ZERO
    }
}

impl Master {
    pub(crate) fn serves_until(&self, quorum: &Quorum, config: &Config, log: &Log) -> Option<Instant> {
        // Rule M1: everything inherited is applied, and so is this master's own first slot.
        let applied = log.applied_upto() >= self.first_own || planted!(config, ServesTooSoon);
        let leaving = self.leaving.is_some() && !planted!(config, HandOverKeepsLease);
        if applied && !leaving { self.lease_end(quorum, config) } else { None }
    }

    /// What an earlier life of `node` acknowledged counts no more (rule V1).
    pub(crate) fn forget(&mut self, node: NodeId) {
        if let Some(slave) = self.slaves.get_mut(&node) {
            (slave.accepted_upto, slave.granted_at, slave.votes) = (Slot::ZERO, None, false);
        }
    }

    /// Hashes this; instants by how long ago they were (or, of the lease's end, how far off).
    pub(crate) fn digest(&self, now: Instant, hasher: &mut impl Hasher) {
        let ago = |at: Instant| now.since(at);
        (self.ballot, self.first_own, self.durable_upto, self.leaving).hash(hasher);
        (ago(self.asked_at), ago(self.held_until), self.held_until.since(now)).hash(hasher);
        self.waits_since.map(|(reached, since)| (reached, ago(since))).hash(hasher);
        (&self.proposals, &self.in_flight, &self.queue).hash(hasher);
        for slave in self.slaves.values() {
            // How much its store has applied is only reported.
            (slave.next, slave.received_upto, slave.accepted_upto, slave.votes, slave.applies()).hash(hasher);
            slave.granted_at.map(ago).hash(hasher);
            slave.heartbeat.map(|(at, sent_upto)| (ago(at), sent_upto)).hash(hasher);
        }
        self.reads.iter().for_each(|pending| (pending.read, ago(pending.asked_at), pending.at).hash(hasher));
    }

    /// The moment of the latest asking that a quorum has granted; this node grants itself what it asks.
    fn granted_by_quorum(&self, quorum: &Quorum, me: NodeId) -> Option<Instant> {
        quorum.reached_by(|node| {
            if node == me { Some(self.asked_at) } else { self.slaves.get(&node).and_then(|slave| slave.granted_at) }
        })
    }

    fn lease_end(&self, quorum: &Quorum, config: &Config) -> Option<Instant> {
        let mut asked_at = self.granted_by_quorum(quorum, config.node);
        let mut counted = lease::counted_by_master(config.lease, config.clock_drift_ppm);
        if planted!(config, LeaseWithoutQuorum) {
            asked_at = Some(self.asked_at);
        }
        if planted!(config, NoDriftMargin) {
            counted = config.lease;
        }
        if planted!(config, NullHalfLease) {
            counted /= 2;
        }
        Some(asked_at? + counted)
    }

    fn has_room(&self, log: &Log, limits: &Limits) -> bool {
        let slots = log.applied_upto().distance_to(log.accepted_upto());
        slots < limits.in_flight_slots_max && self.in_flight_bytes < limits.in_flight_bytes_max
    }

    /// The next batch of queued commands: at least one, then up to the limit of bytes.
    fn next_batch(&mut self, limits: &Limits) -> (Value, Vec<RequestId>) {
        let mut bytes = 0;
        let count = self
            .queue
            .iter()
            .enumerate()
            .take_while(|(index, request)| {
                bytes += request.command.len();
                *index == 0 || bytes <= limits.batch_bytes_max
            })
            .count();
        let requests: Vec<Request> = self.queue.drain(..count).collect();
        self.queue_bytes -= requests.iter().map(|request| request.command.len()).sum::<usize>();
        let value = Value::batch(requests.iter().map(|request| request.command.as_ref()));
        (value, requests.into_iter().map(|request| request.id).collect())
    }
}

impl Engine {
    /// Phase 1 is won: proposes again everything it found (rules C3 to C5), and then its own first value.
    pub(crate) fn become_master(&mut self, ballot: Ballot, mut inherited: BTreeMap<Slot, Value>) {
        assert_eq!(ballot, self.acceptor.promised, "a master has promised its own ballot");
        assert!(!self.is_installing(), "a node that needs a head does not campaign");
        self.stop_catch_up();
        let first = self.log.decided_upto().next();
        let last = inherited.last_key_value().map_or(Slot::ZERO, |(slot, _)| *slot).max(self.log.decided_upto());
        let me = self.config.node;
        self.hand_over.declines = false;
        let members = self.quorum.voters().iter().chain(&self.config.learners);
        let others = members.copied().filter(|node| *node != me);
        self.mastership = Mastership::Master(Master {
            ballot,
            first_own: last.next(),
            slaves: others.map(|node| (node, Slave::new(first))).collect(),
            asked_at: self.now,
            held_until: self.now,
            durable_upto: self.log.decided_upto(),
            waits_since: None,
            proposals: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            reads: VecDeque::new(),
            leaving: None,
        });
        for slot in (first.0..=last.0).map(Slot) {
            // Rule C5: where a quorum has accepted nothing, nothing was chosen.
            let mut value = inherited.remove(&slot).unwrap_or(Value::Noop);
            if planted!(self.config, NoopOverChosen) && self.log.entry(slot).is_none() {
                value = Value::Noop;
            }
            self.propose(slot, value, Vec::new());
        }
        self.propose(last.next(), Value::MasterChange(me), Vec::new());
        self.send_heartbeats();
    }

    pub(crate) fn on_requested(&mut self, requests: Vec<Request>) {
        let master_name = self.known_master();
        let serving = self.serves_until().is_some_and(|until| self.now < until);
        let limits = &self.config.limits;
        let mut refused = Vec::new();
        let reason = match &mut self.mastership {
            Mastership::Master(master) if serving => {
                for request in requests {
                    let bytes = master.queue_bytes + request.command.len();
                    let fits = master.queue.is_empty() || bytes <= limits.queued_bytes_max;
                    if master.queue.len() < limits.queued_requests_max && fits {
                        master.queue_bytes = bytes;
                        master.queue.push_back(request);
                    } else {
                        refused.push(request.id);
                    }
                }
                Refusal::Overloaded
            }
            Mastership::Master(Master { leaving: Some(Leaving::Stops), .. }) => {
                refused.extend(requests.iter().map(|request| request.id));
                Refusal::Stopping
            }
            Mastership::Master(_) | Mastership::Slave | Mastership::Campaigning(_) => {
                refused.extend(requests.iter().map(|request| request.id));
                Refusal::NotMaster { master: master_name }
            }
        };
        self.refuse(refused, reason);
    }

    pub(crate) fn on_read_requested(&mut self, read: ReadId) {
        let master_name = self.known_master();
        let at = self.log.decided_upto();
        match &mut self.mastership {
            Mastership::Master(master) if master.leaving == Some(Leaving::Stops) => {
                self.out.push(Action::RefuseRead { read, reason: Refusal::Stopping });
            }
            Mastership::Master(master) => {
                if master.reads.len() >= self.config.limits.queued_reads_max {
                    return self.out.push(Action::RefuseRead { read, reason: Refusal::Overloaded });
                }
                // Rule R2: the quorum must answer to an asking that is not older than the read.
                let round_is_due = master.reads.back().is_none_or(|last| last.asked_at < self.now);
                let inherited = if planted!(self.config, ReadMissesInherited) { at } else { master.first_own };
                master.reads.push_back(PendingRead { read, asked_at: self.now, at: at.max(inherited) });
                if round_is_due {
                    self.send_heartbeats();
                }
                self.serve_reads();
            }
            Mastership::Slave | Mastership::Campaigning(_) => {
                self.out.push(Action::RefuseRead { read, reason: Refusal::NotMaster { master: master_name } });
            }
        }
    }

    /// Packs what waits into slots while there is room in flight (rule M4).
    pub(crate) fn propose_queued(&mut self) {
        while let Mastership::Master(master) = &mut self.mastership {
            if master.queue.is_empty() || !master.has_room(&self.log, &self.config.limits) {
                return;
            }
            // Slaves whose disks are faster decide without this one, but what it has to write must not pile up.
            if !self.has_room_for_values() {
                return;
            }
            let Mastership::Master(master) = &mut self.mastership else { return };
            let (value, requests) = master.next_batch(&self.config.limits);
            self.propose(self.acceptor.received_upto.next(), value, requests);
        }
    }

    /// Proposes `value` at `slot`. The master's own record goes to its disk while the slaves write theirs.
    fn propose(&mut self, slot: Slot, value: Value, requests: Vec<RequestId>) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        master.in_flight.push_back((slot, value.size()));
        master.in_flight_bytes += value.size();
        if !requests.is_empty() {
            master.proposals.push_back((slot, requests));
        }
        if planted!(self.config, OwnUndurableCounted) {
            master.durable_upto = slot;
        }
        let ballot = master.ballot;
        self.accept(slot, Entry { ballot, value });
        self.disk.when_durable(Due::Accepted { ballot, upto: slot });
    }

    /// Rule M2: the master counts itself only now.
    pub(crate) fn own_acceptance_is_durable(&mut self, ballot: Ballot, upto: Slot) {
        if let Mastership::Master(master) = &mut self.mastership
            && master.ballot == ballot
        {
            master.durable_upto = master.durable_upto.max(upto);
        }
    }

    pub(crate) fn on_accepted(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        incarnation: Incarnation,
        votes: bool,
        upto: Slot,
    ) {
        let accepted_upto = self.log.accepted_upto();
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        if master.ballot != ballot {
            return;
        }
        if !self.franchise.counts(from, incarnation) {
            return self.ask_for_life(from);
        }
        if upto > accepted_upto {
            return self.blame(from, Offence::AcknowledgedTooMuch);
        }
        if planted!(self.config, AcceptanceCountedTwice) && votes {
            let is_repeated = master.slaves.get(&from).is_some_and(|slave| slave.accepted_upto >= upto);
            let other = master.slaves.iter_mut().find(|(node, slave)| **node != from && slave.accepted_upto < upto);
            if let Some((_, other)) = other.filter(|_| is_repeated) {
                other.accepted_upto = upto;
            }
        }
        if planted!(self.config, LearnerCounted) && !self.quorum.contains(from) {
            let voters = self.quorum.voters();
            let lagging = |(node, slave): &(&NodeId, &mut Slave)| voters.contains(node) && slave.accepted_upto < upto;
            if let Some((_, voter)) = master.slaves.iter_mut().find(lagging) {
                voter.accepted_upto = upto;
            }
        }
        if let Some(slave) = master.slaves.get_mut(&from) {
            slave.received_upto = slave.received_upto.max(upto);
            slave.next = slave.next.max(upto.next());
            if votes {
                slave.accepted_upto = slave.accepted_upto.max(upto);
            }
        }
        self.leave_if_finished();
    }

    /// The planted `OldAcceptanceCounted`.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn count_old_acceptances(&mut self, accepted: Vec<(NodeId, Slot)>) {
        let Mastership::Master(master) = &mut self.mastership else { return };
        for (node, upto) in accepted {
            if let Some(slave) = master.slaves.get_mut(&node) {
                slave.accepted_upto = upto;
            }
        }
    }

    /// Rule M3: decided is what a quorum has durable in this master's ballot.
    pub(crate) fn decide_by_quorum(&mut self) {
        let Mastership::Master(master) = &self.mastership else {
            return;
        };
        let me = self.config.node;
        let reached = self.quorum.reached_by(|node| {
            if node == me {
                master.durable_upto
            } else {
                master.slaves.get(&node).map_or(Slot::ZERO, |slave| slave.accepted_upto)
            }
        });
        self.decide_upto(reached);
    }

    /// Who waits for `slot`, if this node proposed it as master.
    pub(crate) fn take_proposal(&mut self, slot: Slot) -> Vec<RequestId> {
        let Mastership::Master(master) = &mut self.mastership else {
            return Vec::new();
        };
        match master.proposals.pop_front_if(|(proposed, _)| *proposed == slot) {
            Some((_, requests)) => requests,
            None => Vec::new(),
        }
    }

    /// Values left the window.
    pub(crate) fn master_applied(&mut self) {
        let applied_upto = self.log.applied_upto();
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        while let Some((_, bytes)) = master.in_flight.pop_front_if(|(slot, _)| *slot <= applied_upto) {
            master.in_flight_bytes -= bytes;
        }
        self.leave_if_finished();
    }

    /// Sends every slave what it lacks, as far as memory has it; one message holds all that is new.
    pub(crate) fn stream_to_slaves(&mut self) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        let limits = &self.config.limits;
        let unacknowledged_max = limits.in_flight_slots_max.saturating_mul(UNACKNOWLEDGED_WINDOWS_MAX);
        let last = self.log.accepted_upto();
        for (node, slave) in &mut master.slaves {
            while self.connected.contains(node)
                && slave.next <= last
                && slave.next >= self.log.start()
                && slave.received_upto.distance_to(slave.next) <= unacknowledged_max
            {
                let first = slave.next;
                let last = if planted!(self.config, NullSmallMessages) { first } else { last };
                let entries = self.log.entries(first, last, limits.message_bytes_max);
                let values: Vec<Value> = entries.map(|entry| entry.value.clone()).collect();
                slave.next = Slot(first.0 + values.len() as u64);
                let message = Message::Accept {
                    ballot: master.ballot,
                    first,
                    values: values.into(),
                    decided_upto: self.log.decided_upto(),
                    decided_hash: self.log.decided_hash(),
                };
                self.out.push(Action::Send { to: *node, message });
            }
        }
    }

    /// What was sent on an earlier connection may be lost: begins again after what is acknowledged.
    pub(crate) fn rewind_stream(&mut self, peer: NodeId) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        if let Some(slave) = master.slaves.get_mut(&peer) {
            slave.next = slave.next.min(slave.received_upto.next());
            slave.heartbeat = None;
            self.send_heartbeat(peer);
        }
    }

    /// A slave misses something: goes back to where it is.
    pub(crate) fn on_gap(&mut self, from: NodeId, ballot: Ballot, received_upto: Slot) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        if master.ballot != ballot {
            return;
        }
        if received_upto > self.log.accepted_upto() {
            return self.blame(from, Offence::AcknowledgedTooMuch);
        }
        if let Some(slave) = master.slaves.get_mut(&from) {
            slave.next = received_upto.next();
            slave.received_upto = received_upto;
        }
    }

    pub(crate) fn send_heartbeats(&mut self) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        master.asked_at = self.now;
        // A master grants itself what it asks of others, and so refuses other candidates as they do (rule L1).
        self.grant.give(self.config.node, self.now + self.config.lease);
        if planted!(self.config, NullSentAgain) {
            master.slaves.values_mut().for_each(|slave| slave.next = slave.next.min(slave.received_upto.next()));
        }
        let slaves: Vec<NodeId> = master.slaves.keys().copied().collect();
        for node in slaves {
            self.send_heartbeat(node);
        }
        let heartbeats = if planted!(self.config, NullFrequentHeartbeats) { 16 } else { 4 };
        self.timers.set(Timer::Heartbeat, self.now + self.config.lease / heartbeats);
        self.check_lapse();
    }

    fn send_heartbeat(&mut self, to: NodeId) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        let Some(slave) = master.slaves.get_mut(&to) else {
            return;
        };
        let sent_upto = slave.next.prev();
        slave.heartbeat.get_or_insert((self.now, sent_upto));
        let message = Message::Heartbeat {
            ballot: master.ballot,
            asked_at: self.now,
            sent_upto,
            stream_start: self.log.start(),
            decided_upto: self.log.decided_upto(),
            decided_hash: self.log.decided_hash(),
        };
        self.out.push(Action::Send { to, message });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(crate) fn on_granted(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        asked_at: Instant,
        incarnation: Incarnation,
        votes: bool,
        received_upto: Slot,
        applied_upto: Slot,
    ) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        if master.ballot != ballot {
            return;
        }
        if !self.franchise.counts(from, incarnation) {
            return self.ask_for_life(from);
        }
        let Some(slave) = master.slaves.get_mut(&from) else {
            return;
        };
        if asked_at > self.now || received_upto > self.log.accepted_upto() {
            return self.blame(from, Offence::AcknowledgedTooMuch);
        }
        slave.votes = votes;
        slave.applied_upto = applied_upto;
        if votes {
            slave.granted_at = slave.granted_at.max(Some(asked_at));
            if planted!(self.config, LeaseFromReply) {
                (slave.granted_at, master.asked_at) = (Some(self.now), self.now);
            }
        }
        slave.received_upto = slave.received_upto.max(received_upto);
        slave.next = slave.next.max(received_upto.next());
        // What had been sent before the heartbeat and has not arrived with it is lost.
        if let Some((_, sent_upto)) = slave.heartbeat.take_if(|(sent_at, _)| *sent_at <= asked_at)
            && received_upto < sent_upto
        {
            (slave.next, slave.received_upto) = (received_upto.next(), received_upto);
        }
        self.serve_reads();
        self.set_lapse_timer();
        self.leave_if_one_is_able();
    }

    /// Rule M5: a master whose lease ran out a whole lease ago steps down, so that no client waits for ever.
    pub(crate) fn check_lapse(&mut self) {
        if self.lapse_at().is_some_and(|at| at <= self.now) {
            self.become_slave();
        } else {
            self.set_lapse_timer();
        }
    }

    /// Notes what is waited for, and since when nothing has moved.
    pub(crate) fn watch_for_stall(&mut self) {
        let is_decided = self.log.decided_upto() == self.log.accepted_upto();
        let is_alone = self.quorum.voters().len() == 1;
        let Mastership::Master(master) = &mut self.mastership else { return };
        let applied_upto = self.log.applied_upto().min(master.first_own);
        let reached = (self.log.decided_upto(), applied_upto);
        // A node alone waits for its store as long as that takes: nobody else could serve.
        if is_decided && (is_alone || applied_upto == master.first_own) {
            master.waits_since = None;
        } else if master.waits_since.is_none_or(|(before, _)| before < reached) {
            master.waits_since = Some((reached, self.now));
            if !self.timers.is_set(Timer::Stall) {
                self.timers.set(Timer::Stall, self.now + self.config.limits.undecided_max);
            }
        }
    }

    /// Rules M5 and M7: a master that has its lease and decides nothing, or cannot begin to serve, does not let clients wait
    /// for ever either.
    pub(crate) fn check_stall(&mut self) {
        let Mastership::Master(Master { waits_since: Some((_, since)), .. }) = &self.mastership else { return };
        let at = *since + self.config.limits.undecided_max;
        if at > self.now {
            self.timers.set(Timer::Stall, at);
        } else if self.log.decided_upto() == self.log.accepted_upto() {
            // The store is what does not move, and it would not the next time: another node is to be master.
            self.resign_and_abstain();
        } else {
            self.become_slave();
        }
    }

    fn set_lapse_timer(&mut self) {
        if let Some(at) = self.lapse_at() {
            self.timers.set(Timer::Lapse, at);
        }
    }

    fn lapse_at(&mut self) -> Option<Instant> {
        let Mastership::Master(master) = &mut self.mastership else {
            return None;
        };
        let lease_end = master.lease_end(&self.quorum, &self.config);
        master.held_until = master.held_until.max(lease_end.unwrap_or(master.held_until));
        Some(master.held_until + self.config.lease)
    }

    fn serve_reads(&mut self) {
        let Mastership::Master(master) = &mut self.mastership else {
            return;
        };
        let granted = master.granted_by_quorum(&self.quorum, self.config.node);
        let waits = !planted!(self.config, ReadWithoutRound);
        while let Some(pending) = master.reads.pop_front_if(|pending| !waits || granted >= Some(pending.asked_at)) {
            self.out.push(Action::ServeRead { read: pending.read, at: pending.at });
        }
    }

    /// Answers everyone who waits for this master.
    pub(crate) fn abandon(&mut self, master: Master) {
        for timer in [Timer::Heartbeat, Timer::Lapse, Timer::Stall] {
            self.timers.clear(timer);
        }
        // It serves nobody any more, so its grant to itself need not keep others from succeeding it.
        if self.grant.holder(self.now) == Some(self.config.node) {
            self.grant.end(self.now);
        }
        let in_flight: Vec<RequestId> = master.proposals.into_iter().flat_map(|(_, requests)| requests).collect();
        let happened = planted!(self.config, UnknownCalledRefused);
        let outcome = if happened { Refusal::NotMaster { master: None } } else { Refusal::OutcomeUnknown };
        self.refuse(in_flight, outcome);
        let queued = master.queue.into_iter().map(|request| request.id).collect();
        self.refuse(queued, Refusal::NotMaster { master: None });
        for pending in master.reads {
            self.out.push(Action::RefuseRead { read: pending.read, reason: Refusal::NotMaster { master: None } });
        }
        self.lost_mastership(master.leaving);
    }

    /// Updates that wait, their bytes, and reads that wait.
    pub(crate) fn queued(&self) -> (usize, usize, usize) {
        match &self.mastership {
            Mastership::Master(master) => (master.queue.len(), master.queue_bytes, master.reads.len()),
            Mastership::Slave | Mastership::Campaigning(_) => (0, 0, 0),
        }
    }

    pub(crate) fn peer_status(&self) -> Vec<PeerStatus> {
        let Mastership::Master(master) = &self.mastership else {
            return Vec::new();
        };
        (master.slaves.iter())
            .map(|(node, slave)| PeerStatus {
                node: *node,
                connected: self.connected.contains(node),
                granted_at: slave.granted_at,
                accepted_upto: slave.accepted_upto,
                applied_upto: slave.applied_upto,
                votes: slave.votes && self.quorum.contains(*node),
            })
            .collect()
    }
}
