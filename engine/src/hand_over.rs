//! How a master hands over to another node: because it stops (rule M6), or because its operator wants another master
//! (rule H1), or because a preferred node claims mastership (rule H3). It takes nothing new, finishes what is in flight,
//! and resigns in favour of one slave.

use alloc::vec::Vec;
use core::hash::{Hash as _, Hasher};

use bincode::{Decode, Encode};

use crate::action::{Action, Dropped, HaltReason};
use crate::engine::{Engine, Mastership};
use crate::ids::{Ballot, NodeId};
use crate::master::Slave;
use crate::message::Message;
use crate::time::Instant;
use crate::timers::Timer;

/// For so many leases a node that handed over leaves the mastership to others (rule H2).
const LEASES_ABSTAINED: u32 = 2;

/// So long, in leases, preference does not change masters after a preferred node lost its mastership, or a master could
/// not hand over to it: what cannot keep it must not take it again and again (rule H3).
const LEASES_BETWEEN_CLAIMS: u32 = 8;

/// Why a master hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) enum Leaving {
    /// The node stops.
    Stops,
    /// This slave is to be master.
    For(NodeId),
}

/// What outlasts a mastership that was handed over.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct HandOver {
    /// While somebody waits to hear that another node is master: since when.
    pub(crate) awaited: Option<Instant>,
    /// This node does not campaign before (rule H2).
    pub(crate) abstains_until: Instant,
    /// An operator dropped this preferred node: until it is master again it claims nothing (rule H3).
    pub(crate) declines: bool,
    /// A preferred node claims nothing before, and a master takes no claim before.
    claims_after: Instant,
}

impl HandOver {
    /// Hashes this; the time by how far off it is.
    pub(crate) fn digest(&self, now: Instant, hasher: &mut impl Hasher) {
        (self.awaited.map(|since| now.since(since)), self.abstains_until.since(now)).hash(hasher);
        (self.declines, self.claims_after.since(now)).hash(hasher);
    }
}

impl Engine {
    /// Stops the node; a master with other voters hands over first.
    pub(crate) fn on_stop_requested(&mut self) {
        let alone = self.quorum.voters().len() == 1;
        match &mut self.mastership {
            Mastership::Master(master) if !alone => {
                master.leaving = Some(Leaving::Stops);
                self.begin_to_leave();
            }
            Mastership::Master(_) | Mastership::Slave | Mastership::Campaigning(_) => self.halt(HaltReason::Stopped),
        }
    }

    /// Rule H1: another node is to be master. Until one is able to, this one serves on.
    pub(crate) fn on_drop_requested(&mut self) {
        let Mastership::Master(master) = &self.mastership else {
            // One answer for all: who asked before still waits to hear of another master.
            if self.hand_over.awaited.is_none() {
                self.out.push(Action::Dropped(Dropped::Done));
            }
            return;
        };
        if self.quorum.voters().len() == 1 {
            return self.out.push(Action::Dropped(Dropped::Alone));
        }
        if self.hand_over.awaited.is_none() && master.leaving.is_none() {
            self.timers.set(Timer::HandOver, self.now + self.config.lease);
            // Whoever answers is there: its last grant may be from before it died.
            self.send_heartbeats();
        }
        self.hand_over.awaited.get_or_insert(self.now);
    }

    /// Begins to hand over as was asked for, if a slave could take over at once.
    pub(crate) fn leave_if_one_is_able(&mut self) {
        let (Mastership::Master(master), Some(since)) = (&self.mastership, self.hand_over.awaited) else { return };
        if master.leaving.is_some() {
            return;
        }
        let able = master.slaves.iter().filter(|(node, _)| self.is_able(**node, since));
        let wanted = |(node, slave): &(&NodeId, &Slave)| (self.config.is_preferred(**node), slave.accepted_upto);
        let successor = able.max_by_key(wanted).map(|(node, _)| *node);
        if let Some(successor) = successor {
            self.leave_for(successor);
        }
    }

    fn leave_for(&mut self, successor: NodeId) {
        if let Mastership::Master(master) = &mut self.mastership {
            master.leaving = Some(Leaving::For(successor));
            self.begin_to_leave();
        }
    }

    fn begin_to_leave(&mut self) {
        self.timers.set(Timer::HandOver, self.now + self.config.lease);
        if planted!(self.config, HandOverKeepsLease) {
            return self.resign();
        }
        self.leave_if_finished();
    }

    /// Hands over once everything in flight is applied, so that all who wait for it are answered, and once the chosen
    /// successor has it all durable, so that its campaign need not fetch anything.
    pub(crate) fn leave_if_finished(&mut self) {
        let Mastership::Master(master) = &self.mastership else { return };
        let last = self.log.accepted_upto();
        let finished = self.log.applied_upto() == last && master.queue.is_empty();
        if !finished || planted!(self.config, HandOverKeepsLease) {
            return;
        }
        match master.leaving {
            None => {}
            Some(Leaving::Stops) => self.resign_and_halt(),
            Some(Leaving::For(successor)) => {
                let is_level = master.slaves.get(&successor).is_some_and(|slave| slave.accepted_upto >= last);
                if is_level {
                    self.resign_and_abstain();
                }
            }
        }
    }

    /// What was to end by now has not ended.
    pub(crate) fn hand_over_is_due(&mut self) {
        match &mut self.mastership {
            Mastership::Master(master) if master.leaving == Some(Leaving::Stops) => self.resign_and_halt(),
            Mastership::Master(master) => {
                // Nobody has heard of a resignation, so this node may as well serve on.
                master.leaving = None;
                self.let_preference_rest();
                self.answer_drop(Dropped::NobodyAble);
            }
            Mastership::Slave | Mastership::Campaigning(_) => self.answer_drop(Dropped::NobodyTookOver),
        }
    }

    /// Another master was heard of.
    pub(crate) fn follows_another(&mut self) {
        if self.hand_over.awaited.is_some() {
            self.timers.clear(Timer::HandOver);
            self.answer_drop(Dropped::Done);
        }
    }

    /// Rule H3: this node follows `ballot`, and has all that its master has sent. If it is preferred and the master is
    /// not, it says that it could take over. It never takes mastership by itself.
    pub(crate) fn claim_if_preferred(&mut self, ballot: Ballot) {
        let (me, master) = (self.config.node, ballot.node);
        let wants = self.config.is_preferred(me) && !self.config.is_preferred(master) && !self.hand_over.declines;
        let waits = self.now < self.hand_over.claims_after || self.grant.forbids_all(self.now);
        if wants && !waits && self.franchise.votes && !self.is_catching_up() && !self.store_paused {
            self.hand_over.claims_after = self.now + self.config.lease;
            self.send(master, Message::Claim { ballot });
        }
    }

    /// Rule H3: a master that is not preferred hands over to a preferred node that is able to take over.
    pub(crate) fn on_claim(&mut self, from: NodeId, ballot: Ballot) {
        let Mastership::Master(master) = &self.mastership else { return };
        let is_ours = master.ballot == ballot && master.leaving.is_none();
        let is_due = self.now >= self.hand_over.claims_after && self.serves_until().is_some_and(|at| self.now < at);
        let is_wanted = self.config.is_preferred(from) && !self.config.is_preferred(self.config.node);
        if is_ours && is_due && is_wanted && self.is_able(from, self.now - self.config.lease) {
            self.leave_for(from);
        }
    }

    /// For a while no claim is made or taken here. Nothing to note where nobody is preferred.
    fn let_preference_rest(&mut self) {
        if !self.config.preferred.is_empty() {
            self.hand_over.claims_after = self.now + self.config.lease * LEASES_BETWEEN_CLAIMS;
        }
    }

    /// Whether a preferred node is there to be master before this one.
    pub(crate) fn yields_to_preferred(&self) -> bool {
        let is_there = |node: &NodeId| self.connected.contains(node);
        !self.config.is_preferred(self.config.node) && self.config.preferred.iter().any(is_there)
    }

    /// A preferred node is gone: if it was the last one, there is nobody to wait for.
    pub(crate) fn lost_preferred(&mut self, peer: NodeId) {
        if self.config.is_preferred(peer) && matches!(self.mastership, Mastership::Slave) {
            self.wait_for_master();
        }
    }

    /// A mastership ended; whoever waits for another master waits on.
    pub(crate) fn lost_mastership(&mut self, leaving: Option<Leaving>) {
        if leaving == Some(Leaving::Stops) {
            self.halt(HaltReason::Stopped);
        }
        self.let_preference_rest();
        if self.hand_over.awaited.is_none() {
            self.timers.clear(Timer::HandOver);
        }
    }

    fn answer_drop(&mut self, dropped: Dropped) {
        if self.hand_over.awaited.take().is_some() {
            self.out.push(Action::Dropped(dropped));
        }
    }

    /// Rule M6: in favour of the slave that is furthest.
    fn resign_and_halt(&mut self) {
        self.resign();
        self.halt(HaltReason::Stopped);
    }

    /// Rules H2 and M7: a node that just handed over does not campaign while another can.
    pub(crate) fn resign_and_abstain(&mut self) {
        self.resign();
        if planted!(self.config, DropKeepsLease)
            && let Mastership::Master(master) = &mut self.mastership
        {
            master.leaving = None;
            return;
        }
        self.hand_over.abstains_until = self.now + self.config.lease * LEASES_ABSTAINED;
        self.become_slave();
        if self.hand_over.awaited.is_some() {
            self.hand_over.declines = true;
            self.timers.set(Timer::HandOver, self.hand_over.abstains_until);
        }
    }

    fn resign(&mut self) {
        let Mastership::Master(master) = &self.mastership else { return };
        let furthest = (master.slaves.iter())
            .filter(|(node, slave)| slave.votes && self.connected.contains(*node) && self.config.may_be_master(**node))
            .max_by_key(|(node, slave)| (slave.applies(), slave.accepted_upto, self.config.is_preferred(**node)))
            .map(|(node, _)| *node);
        let successor = if let Some(Leaving::For(chosen)) = master.leaving { Some(chosen) } else { furthest };
        let ballot = master.ballot;
        let (decided_upto, decided_hash) = (self.log.decided_upto(), self.log.decided_hash());
        let slaves: Vec<NodeId> = master.slaves.keys().copied().collect();
        for node in slaves {
            self.send(node, Message::Resign { ballot, successor, decided_upto, decided_hash });
        }
    }

    /// Whether this slave could be master at once: it votes, its store applies, it answered since then, and lacks no more
    /// than is in flight.
    fn is_able(&self, node: NodeId, since: Instant) -> bool {
        let Mastership::Master(master) = &self.mastership else { return false };
        let Some(slave) = master.slaves.get(&node) else { return false };
        let behind = slave.accepted_upto.distance_to(self.log.accepted_upto());
        self.config.may_be_master(node)
            && self.connected.contains(&node)
            && slave.votes
            && slave.applies()
            && slave.granted_at.is_some_and(|at| at >= since)
            && behind <= self.config.limits.in_flight_slots_max
    }
}
