//! How a slave becomes master: it canvasses (asks whether a campaign would succeed, rule C1), then campaigns (phase 1).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use bincode::{Decode, Encode};

use crate::action::Offence;
use crate::disk_queue::Due;
use crate::engine::{Engine, Mastership};
use crate::ids::{Ballot, Incarnation, NodeId, Slot};
use crate::message::Message;
use crate::status::Role;
use crate::timers::Timer;
use crate::value::{Entry, SlotEntry, Value};

/// No honest acceptor has accepted this far beyond an up-to-date candidate's decided prefix: windows are far smaller.
pub(crate) const UNDECIDED_SLOTS_MAX: u64 = 1 << 20;

/// A campaign in progress.
#[derive(Clone, Debug, Hash, Encode, Decode)]
pub(crate) struct Campaign {
    /// While canvassing the ballot that would be next; in phase 1 the ballot that is prepared.
    ballot: Ballot,
    phase: Phase,
}

#[derive(Clone, Debug, Hash, Encode, Decode)]
enum Phase {
    Canvass {
        willing: BTreeSet<NodeId>,
        unwilling: BTreeSet<NodeId>,
    },
    /// Promises by node, this node's own included once it is durable.
    One {
        promises: BTreeMap<NodeId, Vec<SlotEntry>>,
        naks: BTreeSet<NodeId>,
    },
}

impl Campaign {
    pub(crate) fn ballot(&self) -> Ballot {
        self.ballot
    }

    pub(crate) fn role(&self) -> Role {
        match self.phase {
            Phase::Canvass { .. } => Role::Canvassing,
            Phase::One { .. } => Role::Candidate,
        }
    }

    /// What an earlier life of `node` said counts no more (rule V1).
    pub(crate) fn forget(&mut self, node: NodeId) {
        match &mut self.phase {
            Phase::Canvass { willing, .. } => {
                willing.remove(&node);
            }
            Phase::One { promises, .. } => {
                promises.remove(&node);
            }
        }
    }
}

impl Engine {
    /// Sets the time at which this node tries to become master itself: after the grant it gave, or soon when it knows
    /// of no master; jittered, so that nodes do not all try at once.
    pub(crate) fn wait_for_master(&mut self) {
        if !self.may_campaign() {
            return;
        }
        let lease = self.config.lease;
        let at = self.grant.until().max(self.now + lease / 8) + self.jitter(lease / 8);
        let at = if self.yields_to_preferred() { at + lease / 2 } else { at };
        let at = at.max(self.hand_over.abstains_until);
        self.timers.set(Timer::Canvass, at);
    }

    /// Rule E2: only a voter that has the data does.
    fn may_campaign(&self) -> bool {
        let is_voter = self.quorum.contains(self.config.node);
        self.config.may_be_master(self.config.node) || is_voter && planted!(self.config, WitnessCampaigns)
    }

    /// Rule E4: whether the store may stand still for a while. It serves nobody meanwhile, so a master's may not.
    pub fn may_pause_store(&self) -> bool {
        !matches!(self.mastership, Mastership::Master(_))
    }

    /// Rule E4: were this node elected now, nobody would serve until its store is done.
    pub(crate) fn on_store_paused(&mut self) {
        assert!(self.may_pause_store(), "the store of a master is not paused");
        self.store_paused = true;
        self.give_up_campaign();
    }

    pub(crate) fn start_canvass(&mut self) {
        if !matches!(self.mastership, Mastership::Slave) || !self.may_campaign() {
            return;
        }
        let abstains = self.now < self.hand_over.abstains_until;
        let is_able = self.franchise.votes && !self.is_installing() && !self.store_paused;
        if abstains || !is_able || self.grant.forbids(self.config.node, self.now) {
            return self.wait_for_master();
        }
        let ballot = self.next_ballot();
        let phase = Phase::Canvass { willing: BTreeSet::new(), unwilling: BTreeSet::new() };
        self.mastership = Mastership::Campaigning(Campaign { ballot, phase });
        self.timers.set(Timer::CampaignEnd, self.now + self.config.lease / 4);
        self.send_to_others(&Message::Canvass { ballot, decided_upto: self.log.decided_upto() });
        self.campaign_if_quorum_is_willing();
    }

    /// Answers a canvass with what a `Prepare` would get now, and changes nothing.
    pub(crate) fn on_canvass(&mut self, from: NodeId, ballot: Ballot, candidate_decided: Slot) {
        let may = self.franchise.votes && (self.config.may_be_master(from) || planted!(self.config, WitnessCampaigns));
        let willing = may && !self.grant_forbids(from) && !self.is_behind(candidate_decided);
        let (incarnation, promised) = (self.franchise.incarnation, self.acceptor.promised);
        let decided_upto = self.log.decided_upto();
        self.send(from, Message::Canvassed { ballot, willing, incarnation, promised, decided_upto });
    }

    pub(crate) fn on_canvassed(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        willing: bool,
        incarnation: Incarnation,
        decided_upto: Slot,
    ) {
        let Mastership::Campaigning(Campaign { ballot: ours, phase: Phase::Canvass { willing: yes, unwilling: no } }) =
            &mut self.mastership
        else {
            return;
        };
        if *ours != ballot {
            return;
        }
        if !self.franchise.counts(from, incarnation) {
            return self.ask_for_life(from);
        }
        if willing {
            yes.insert(from);
            self.campaign_if_quorum_is_willing();
            return;
        }
        no.insert(from);
        if decided_upto > self.log.decided_upto() {
            // A node that is behind cannot be master: it catches up first (rule P4).
            self.give_up_campaign();
            self.fetch_from(from, decided_upto);
        } else {
            self.give_up_vain_canvass();
        }
    }

    /// Ends a canvass that those who can still answer cannot make good, so that the next one comes soon. Who refuses is
    /// often about to hear what this node knows already: that the master resigned, or that its lease is over.
    pub(crate) fn give_up_vain_canvass(&mut self) {
        let Mastership::Campaigning(Campaign { phase: Phase::Canvass { willing, unwilling }, .. }) = &self.mastership
        else {
            return;
        };
        let may_answer = |node| self.connected.contains(&node) && !unwilling.contains(&node);
        if !self.quorum.agrees(|node| node == self.config.node || willing.contains(&node) || may_answer(node)) {
            self.give_up_campaign();
        }
    }

    fn campaign_if_quorum_is_willing(&mut self) {
        let Mastership::Campaigning(Campaign { phase: Phase::Canvass { willing, .. }, .. }) = &self.mastership else {
            return;
        };
        if !self.quorum.agrees(|node| node == self.config.node || willing.contains(&node)) {
            return;
        }
        let ballot = self.next_ballot();
        let phase = Phase::One { promises: BTreeMap::new(), naks: BTreeSet::new() };
        self.mastership = Mastership::Campaigning(Campaign { ballot, phase });
        self.adopt(ballot);
        // Rule C2: nobody hears of a ballot before its owner has it on disk, or a restart could use it twice.
        self.disk.when_durable(Due::OwnPromise { ballot });
        self.timers.set(Timer::CampaignEnd, self.now + self.config.lease / 2);
    }

    /// Our own promise is durable: asks the others for theirs.
    pub(crate) fn start_phase_one(&mut self, ballot: Ballot) {
        let Mastership::Campaigning(Campaign { ballot: ours, phase: Phase::One { promises, .. } }) =
            &mut self.mastership
        else {
            return;
        };
        if *ours != ballot {
            return;
        }
        promises.insert(self.config.node, self.log.accepted_above(self.log.decided_upto()));
        self.send_to_others(&Message::Prepare { ballot, decided_upto: self.log.decided_upto() });
        self.become_master_if_quorum_promised();
    }

    pub(crate) fn on_promise(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        incarnation: Incarnation,
        accepted: Vec<SlotEntry>,
    ) {
        // Rule E1: nothing that a learner says counts.
        if !self.quorum.contains(from) {
            return;
        }
        let decided_upto = self.log.decided_upto();
        let Mastership::Campaigning(Campaign { ballot: ours, phase: Phase::One { promises, .. } }) =
            &mut self.mastership
        else {
            return;
        };
        let ours = *ours;
        if ours != ballot && !planted!(self.config, StalePromiseCounted) {
            return;
        }
        if !self.franchise.counts(from, incarnation) {
            return self.ask_for_life(from);
        }
        let in_bounds = accepted.iter().all(|slot_entry| {
            slot_entry.entry.ballot < ours && decided_upto.distance_to(slot_entry.slot) <= UNDECIDED_SLOTS_MAX
        });
        if !in_bounds {
            return self.blame(from, Offence::OutOfBounds);
        }
        promises.insert(from, accepted);
        self.become_master_if_quorum_promised();
    }

    pub(crate) fn on_nak(&mut self, from: NodeId, ballot: Ballot, promised: Ballot, decided_upto: Slot) {
        let behind = decided_upto > self.log.decided_upto();
        match &mut self.mastership {
            Mastership::Slave => {}
            Mastership::Campaigning(Campaign { ballot: ours, phase: Phase::One { naks, .. } }) if *ours == ballot => {
                naks.insert(from);
                let hopeless = !self.quorum.agrees(|node| !naks.contains(&node));
                if behind || hopeless {
                    self.give_up_campaign();
                }
                if behind {
                    self.fetch_from(from, decided_upto);
                }
            }
            Mastership::Campaigning(_) => {}
            Mastership::Master(_) => {
                // A slave promised a higher ballot to a candidate that did not make it: go above that at once. The
                // slaves' grants are to this node, so they do not stand in the way.
                if ballot == self.acceptor.promised && promised > ballot {
                    self.become_slave();
                    self.timers.set(Timer::Canvass, self.now);
                }
            }
        }
    }

    pub(crate) fn give_up_campaign(&mut self) {
        if !matches!(self.mastership, Mastership::Campaigning(_)) {
            return;
        }
        self.become_slave();
        let pause = self.retry_pause();
        self.timers.set(Timer::Canvass, self.now + pause);
    }

    /// Lets go of mastership or of a campaign; what clients wait for is answered (rule M5).
    pub(crate) fn become_slave(&mut self) {
        match core::mem::replace(&mut self.mastership, Mastership::Slave) {
            Mastership::Slave => {}
            Mastership::Campaigning(_) => self.timers.clear(Timer::CampaignEnd),
            Mastership::Master(master) => self.abandon(master),
        }
        if !self.timers.is_set(Timer::Canvass) {
            self.wait_for_master();
        }
    }

    fn become_master_if_quorum_promised(&mut self) {
        let Mastership::Campaigning(Campaign { ballot, phase: Phase::One { promises, .. } }) = &mut self.mastership
        else {
            return;
        };
        if !self.quorum.agrees(|node| promises.contains_key(&node)) {
            return;
        }
        let ballot = *ballot;
        #[cfg(feature = "planted-bugs")]
        let accepted: Vec<_> = (promises.iter())
            .filter_map(|(node, accepted)| Some((*node, accepted.last()?.slot)))
            .filter(|_| planted!(self.config, OldAcceptanceCounted))
            .collect();
        let mut inherited = highest_per_slot(core::mem::take(promises));
        if planted!(self.config, HighestBallotIgnored) {
            let own = self.log.accepted_above(self.log.decided_upto());
            inherited.extend(own.into_iter().map(|own| (own.slot, own.entry.value)));
        }
        self.timers.clear(Timer::CampaignEnd);
        self.timers.clear(Timer::Canvass);
        self.become_master(ballot, inherited);
        #[cfg(feature = "planted-bugs")]
        self.count_old_acceptances(accepted);
    }

    fn next_ballot(&self) -> Ballot {
        self.ballot_seen.max(self.acceptor.promised).next_for(self.config.node)
    }

    /// Twice as long after each vain canvass, up to a quarter of a lease, and as much again at random.
    fn retry_pause(&mut self) -> Duration {
        let lease = self.config.lease;
        let pause = (lease / 64).saturating_mul(1 << self.canvasses.min(4)).min(lease / 4);
        self.canvasses = self.canvasses.saturating_add(1);
        pause + self.jitter(pause)
    }
}

/// What phase 1 found: for each slot the value accepted in the highest ballot (rule C4).
fn highest_per_slot(promises: BTreeMap<NodeId, Vec<SlotEntry>>) -> BTreeMap<Slot, Value> {
    let mut highest: BTreeMap<Slot, Entry> = BTreeMap::new();
    for SlotEntry { slot, entry } in promises.into_values().flatten() {
        match highest.get(&slot) {
            Some(known) if known.ballot >= entry.ballot => {}
            Some(_) | None => {
                highest.insert(slot, entry);
            }
        }
    }
    highest.into_iter().map(|(slot, entry)| (slot, entry.value)).collect()
}
