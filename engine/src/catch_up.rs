//! Catch-up: a node that is behind fetches decided entries from any peer's log, one piece after the other, and then goes
//! on with the master's stream. Both sides are here.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::action::{Action, Offence};
use crate::engine::{Engine, Mastership, ROUND_MAX};
use crate::ids::{NodeId, Slot};
use crate::message::Message;
use crate::record::Record;
use crate::timers::Timer;
use crate::value::{Entry, HistoryHash, SlotEntry};

/// A catch-up in progress, and the reads of our own log for others.
#[derive(Clone, Debug, Default, Hash, Encode, Decode)]
pub(crate) struct CatchUp {
    state: State,
    /// How far others are known to be.
    goal: Slot,
    /// Peers that had nothing for us since we last learned something.
    useless: BTreeSet<NodeId>,
    /// Those of them whose log begins too late: their stores are ahead of us. None that could not give us a head.
    ahead: BTreeSet<NodeId>,
    /// Peers for whom our log is being read, and from which slot.
    reading_for: BTreeMap<NodeId, Slot>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
enum State {
    #[default]
    Idle,
    /// Asked this peer, and wait for its answer.
    Asked(NodeId),
    /// The next piece will be asked of this peer once the disk and the store have room.
    Waiting(NodeId),
    /// The driver installs a head from this peer.
    Installing(NodeId),
}

impl CatchUp {
    pub(crate) fn is_running(&self) -> bool {
        self.state != State::Idle
    }
}

impl Engine {
    /// Begins to catch up with `goal`, at `peer` first. A catch-up in progress only learns of the goal.
    pub(crate) fn fetch_from(&mut self, peer: NodeId, goal: Slot) {
        self.catch_up.goal = self.catch_up.goal.max(goal);
        let idle = !self.catch_up.is_running() && !planted!(self.config, NoCatchUp);
        if idle && self.catch_up.goal > self.log.decided_upto() {
            self.forget_useless();
            self.ask(peer);
        }
    }

    /// Rule F1: only decided entries are handed out.
    pub(crate) fn on_fetch(&mut self, from: NodeId, first: Slot) {
        if first == Slot::ZERO {
            return self.blame(from, Offence::OutOfBounds);
        }
        let mut decided_upto = self.log.decided_upto();
        if planted!(self.config, SentTooFar) {
            decided_upto = decided_upto.next().min(self.log.accepted_upto());
        }
        let bytes_max = self.config.limits.message_bytes_max;
        if first > decided_upto || first >= self.log.start() {
            let entries = self.log.entries(first, decided_upto, bytes_max).cloned().collect();
            self.send_fetched(from, first, entries);
        } else if first < self.log.disk_start() {
            self.send(from, Message::Gone { log_start: self.log.disk_start() });
        } else if self.catch_up.reading_for.insert(from, first).is_none() {
            // Rule D3: what is in memory need not be durable, and where it is not the log may have an older entry.
            let upto = decided_upto.min(self.log.start().prev());
            self.out.push(Action::ReadLog { peer: from, from: first, upto, bytes_max });
        }
    }

    /// # Panics
    /// When the driver answers what was not asked.
    pub(crate) fn on_log_read(&mut self, peer: NodeId, entries: Vec<SlotEntry>) {
        let Some(first) = self.catch_up.reading_for.remove(&peer) else {
            // The peer went away meanwhile.
            return;
        };
        let decided_upto = self.log.decided_upto();
        let usable =
            entries.iter().zip(first.0..).all(|(found, slot)| found.slot.0 == slot && found.slot <= decided_upto);
        if entries.is_empty() || !usable {
            // Removed since this node started, or unreadable: to the peer that is the same.
            let log_start = first.next().max(self.log.disk_start());
            return self.send(peer, Message::Gone { log_start });
        }
        let entries = entries.into_iter().map(|found| found.entry).collect();
        self.send_fetched(peer, first, entries);
    }

    pub(crate) fn on_fetched(&mut self, from: NodeId, first: Slot, entries: Vec<Entry>, decided_upto: Slot) {
        if self.catch_up.state != State::Asked(from) || matches!(self.mastership, Mastership::Master(_)) {
            return;
        }
        let before = self.log.decided_upto();
        if first > before.next() && !entries.is_empty() {
            // An answer to an earlier life of this node, which was further: the one to this life comes, or is late.
            return;
        }
        self.timers.clear(Timer::Fetch);
        self.catch_up.goal = self.catch_up.goal.max(decided_upto);
        if entries.iter().any(|entry| entry.ballot.round > ROUND_MAX) {
            self.blame(from, Offence::WrongEntries);
            return self.cannot_help(from);
        }
        for (entry, slot) in entries.into_iter().zip(first.0..) {
            if slot > before.0 {
                self.learn_entry(Slot(slot), entry);
            }
        }
        let decided = self.log.decided_upto();
        if decided > before {
            self.forget_useless();
        }
        if decided >= self.catch_up.goal {
            // The master's stream has the rest.
            self.end_catch_up();
        } else if decided > before && decided < decided_upto {
            self.catch_up.state = State::Waiting(from);
        } else {
            // Level with this peer, and another is known to be further: it may be the only one, with only a head to give.
            self.cannot_help(from);
        }
    }

    pub(crate) fn on_gone(&mut self, from: NodeId, log_start: Slot) {
        if self.catch_up.state != State::Asked(from) || log_start <= self.log.decided_upto().next() {
            return;
        }
        self.timers.clear(Timer::Fetch);
        // Rule E3: what a witness lacks nobody asks it for.
        if !self.config.is_witness(from) || planted!(self.config, WitnessGivesHead) {
            self.catch_up.ahead.insert(from);
        }
        self.cannot_help(from);
    }

    pub(crate) fn on_head_installed(&mut self, slot: Slot, hash: HistoryHash) {
        let State::Installing(from) = self.catch_up.state else {
            return;
        };
        if slot > self.log.decided_upto() {
            self.log.install_head(slot, hash);
            self.acceptor.received_upto = self.acceptor.received_upto.max(slot);
            self.disk.record(Record::Decided { upto: slot, hash });
        }
        self.forget_useless();
        self.catch_up.state = State::Waiting(from);
    }

    /// Tries the next peer that has a head. Once none is left, the next heartbeat begins anew.
    pub(crate) fn on_head_failed(&mut self) {
        let State::Installing(from) = self.catch_up.state else {
            return;
        };
        self.catch_up.ahead.remove(&from);
        match self.giver_of_a_head() {
            Some(next) => self.install_head_of(next),
            None => self.end_catch_up(),
        }
    }

    /// Asks for the next piece, if the disk and the store have room for it by now.
    pub(crate) fn continue_catch_up(&mut self) {
        if let State::Waiting(peer) = self.catch_up.state {
            self.ask(peer);
        }
    }

    /// The peer did not answer in time.
    pub(crate) fn retry_fetch(&mut self) {
        if let State::Asked(peer) = self.catch_up.state {
            self.cannot_help(peer);
        }
    }

    pub(crate) fn catch_up_lost_peer(&mut self, peer: NodeId) {
        self.catch_up.reading_for.remove(&peer);
        self.catch_up.ahead.remove(&peer);
        if matches!(self.catch_up.state, State::Asked(asked) | State::Waiting(asked) if asked == peer) {
            self.cannot_help(peer);
        }
    }

    /// A decided entry from a peer's log: takes it as accepted and decided at once.
    fn learn_entry(&mut self, slot: Slot, entry: Entry) {
        assert_eq!(slot, self.log.decided_upto().next(), "decided entries are learned one after the other");
        if entry.ballot > self.acceptor.promised {
            self.adopt(entry.ballot);
        }
        if self.log.entry(slot).is_none_or(|known| known.value != entry.value) {
            self.log.put(slot, entry.clone());
            self.disk.record(Record::Accepted(SlotEntry { slot, entry }));
        }
        self.decide_upto(slot);
    }

    /// Asks for the next piece: now, or once the disk and the store have room for it.
    fn ask(&mut self, peer: NodeId) {
        if !self.has_room_for_values() {
            self.timers.clear(Timer::Fetch);
            self.catch_up.state = State::Waiting(peer);
            return;
        }
        self.catch_up.state = State::Asked(peer);
        self.timers.set(Timer::Fetch, self.now + self.config.lease);
        self.send(peer, Message::Fetch { from: self.log.decided_upto().next() });
    }

    /// A master has nothing to catch up with: what a quorum decided it found in phase 1.
    pub(crate) fn stop_catch_up(&mut self) {
        if self.catch_up.is_running() {
            self.end_catch_up();
        }
    }

    /// While a head is on its way, the end of the decided prefix is not ours to say.
    pub(crate) fn is_installing(&self) -> bool {
        matches!(self.catch_up.state, State::Installing(_))
    }

    /// This peer has nothing for us, or does not say: tries the connected peer after it that may have something. Once
    /// none has, what follows our decided prefix is gone from all logs, if one of them said so; otherwise the next
    /// heartbeat begins anew.
    fn cannot_help(&mut self, peer: NodeId) {
        self.catch_up.useless.insert(peer);
        let after = self.connected.range((core::ops::Bound::Excluded(peer), core::ops::Bound::Unbounded));
        let next = after.chain(&self.connected).find(|other| !self.catch_up.useless.contains(other)).copied();
        match (next, self.giver_of_a_head()) {
            (Some(next), _) => self.ask(next),
            (None, Some(from)) => self.install_head_of(from),
            (None, None) => self.end_catch_up(),
        }
    }

    /// Who is to give us a head: rather not the master, which has other things to do.
    fn giver_of_a_head(&self) -> Option<NodeId> {
        let (master, ahead) = (self.acceptor.promised.node, &self.catch_up.ahead);
        ahead.iter().find(|peer| **peer != master).or(ahead.first()).copied()
    }

    fn install_head_of(&mut self, from: NodeId) {
        self.give_up_campaign();
        self.timers.clear(Timer::Fetch);
        self.catch_up.state = State::Installing(from);
        self.out.push(Action::InstallHead { from });
    }

    fn forget_useless(&mut self) {
        self.catch_up.useless.clear();
        self.catch_up.ahead.clear();
    }

    fn end_catch_up(&mut self) {
        self.timers.clear(Timer::Fetch);
        self.catch_up.state = State::Idle;
        self.catch_up.goal = self.log.decided_upto();
        let ballot = self.acceptor.promised;
        if ballot.node != self.config.node && ballot.round > 0 {
            self.send_gap(ballot.node, ballot);
        }
    }

    fn send_fetched(&mut self, to: NodeId, first: Slot, entries: Vec<Entry>) {
        let decided_upto = self.log.decided_upto();
        self.send(to, Message::Fetched { first, entries: entries.into(), decided_upto });
    }
}
