//! What goes wrong, and when it ends.

use trialbay_engine::{Event, NodeId, Role};

use crate::ledger::Checked;
use crate::mutant::Mutant;
use crate::plan::{Family, LEASE, MS, S};
use crate::world::{Happening, World};

impl World {
    pub(crate) fn strike(&mut self, family: Family) -> Checked {
        if self.calm {
            return Ok(());
        }
        let mean = self.plan.strikes.iter().find(|(known, _)| *known == family).map_or(S, |(_, mean)| *mean);
        let next = self.faults_rng.below(2 * mean);
        self.schedule(next, Happening::Strike(family));
        let id = self.victim();
        match family {
            Family::Kill => {
                self.fault(format!("{id} is killed"));
                self.mark("kills");
                self.kill(id, true)
            }
            Family::KillBetweenActions => {
                let after = self.faults_rng.magnitude(1, 64);
                self.node(id).kill_after = Some(after - 1);
                Ok(())
            }
            Family::Pause => self.pause(id),
            Family::Partition => self.partition(),
            Family::OneWay => self.cut_one_way(id),
            Family::Disconnect => {
                for other in self.ids() {
                    if other != id && self.faults_rng.chance(0.5) {
                        self.disconnect(id, other);
                    }
                }
                self.fault(format!("{id} loses connections"));
                Ok(())
            }
            Family::SlowDisk => {
                let until = self.now + self.faults_rng.magnitude(LEASE / 4, 4 * S);
                self.node(id).slow_until = until;
                self.fault(format!("{id} has a slow disk"));
                Ok(())
            }
            Family::ClockRate => {
                self.change_clock(id);
                self.set_alarms();
                Ok(())
            }
            Family::Stop => {
                if self.node(id).is_up() && !self.node(id).paused {
                    self.fault(format!("{id} is asked to stop"));
                    return self.step(id, Event::StopRequested);
                }
                Ok(())
            }
            Family::Wipe | Family::Damage => self.lose_memory(id, family),
            Family::PowerCut => {
                self.fault("all nodes lose power".to_owned());
                self.mark("total power cuts");
                for id in self.ids() {
                    self.kill(id, true)?;
                    let now = self.now;
                    self.node(id).clock.reboot(now);
                }
                Ok(())
            }
            Family::Trim => {
                let node = self.node(id);
                let upto = node.durable_store.applied;
                let kept = node.rng.magnitude(1, 64);
                // Its place in the log is counted in records, and these move.
                node.checkpoint = None;
                node.disk.trim(trialbay_engine::Slot(upto.0.saturating_sub(kept)));
                self.mark("logs trimmed");
                Ok(())
            }
        }
    }

    /// Kills a process, and has it started again.
    pub(crate) fn kill(&mut self, id: NodeId, restart: bool) -> Checked {
        let event = self.event;
        if self.node(id).is_up() {
            let lies = self.mutant == Some(Mutant::SyncLies);
            let index = usize::from(id.0) - 1;
            for record in self.nodes[index].disk.power_cut(lies) {
                self.ledger.durable(id, record, event)?;
            }
            self.node(id).stop();
            for other in self.ids() {
                if other != id {
                    self.disconnect(id, other);
                }
            }
            self.abandon_clients_of(id);
            self.trace(3, u64::from(id.0), 0);
        }
        if restart {
            let delay = if self.faults_rng.chance(0.3) {
                self.faults_rng.magnitude(MS, 20 * MS)
            } else {
                self.faults_rng.magnitude(20 * MS, 5 * S)
            };
            let delay = if self.calm { delay.min(LEASE) } else { delay };
            self.schedule(delay, Happening::Start { node: id });
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self, id: NodeId) -> Checked {
        let node = self.node(id);
        if !node.paused {
            return Ok(());
        }
        node.paused = false;
        let held = std::mem::take(&mut node.held);
        for happening in held {
            // In this order, at this moment, and only in the life in which they were held.
            self.schedule(0, happening);
        }
        Ok(())
    }

    /// Ends all faults. A majority works from now on; the other nodes stay as broken as they are.
    pub(crate) fn heal(&mut self) -> Checked {
        self.calm = true;
        self.network.mend_all();
        let plan = &mut self.network.plan;
        (plan.drop, plan.duplicate, plan.reorder, plan.spike, plan.stale) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let mut ids = self.ids();
        self.faults_rng.shuffle(&mut ids);
        let all_vote = ids.iter().all(|id| self.ledger.votes(*id));
        let majority = ids.len() / 2 + 1;
        let healed = if all_vote && self.faults_rng.chance(0.7) { majority } else { ids.len() };
        let broken = ids.split_off(healed);
        self.fault(format!("faults end; {ids:?} work, {broken:?} do not"));
        for id in &ids {
            let node = self.node(*id);
            (node.kill_after, node.slow_until) = (None, 0);
            self.schedule(0, Happening::Resume { node: *id });
            self.schedule(0, Happening::Start { node: *id });
        }
        for id in &broken {
            self.leave_broken(*id, &ids)?;
        }
        ids.sort_unstable();
        self.healed = ids;
        Ok(())
    }

    fn leave_broken(&mut self, id: NodeId, healed: &[NodeId]) -> Checked {
        self.node(id).kill_after = None;
        self.schedule(0, Happening::Resume { node: id });
        let away: Vec<_> = healed.iter().map(|other| (id, *other)).collect();
        let back: Vec<_> = healed.iter().map(|other| (*other, id)).collect();
        match self.faults_rng.below(4) {
            0 => {
                self.node(id).dead = true;
                self.kill(id, false)
            }
            1 => {
                self.cut(away, None);
                self.cut(back, None);
                Ok(())
            }
            2 => {
                self.cut(away, None);
                Ok(())
            }
            _ => {
                self.cut(back, None);
                Ok(())
            }
        }
    }

    /// The master, half of the time.
    fn victim(&mut self) -> NodeId {
        let master = self.nodes.iter().find(|node| node.status().is_some_and(|status| status.role == Role::Master));
        let master = master.map(|node| node.id);
        let any = NodeId(u16::try_from(self.faults_rng.between(1, self.nodes.len() as u64)).unwrap_or(1));
        if self.faults_rng.chance(0.5) { master.unwrap_or(any) } else { any }
    }

    fn pause(&mut self, id: NodeId) -> Checked {
        let node = self.node(id);
        if !node.is_up() || node.paused {
            return Ok(());
        }
        node.paused = true;
        let duration = self.faults_rng.magnitude(MS, 4 * LEASE);
        self.schedule(duration, Happening::Resume { node: id });
        self.fault(format!("{id} stands still for {} ms", duration / MS));
        self.mark("pauses");
        Ok(())
    }

    fn partition(&mut self) -> Checked {
        let ids = self.ids();
        let side: Vec<bool> = ids.iter().map(|_| self.faults_rng.chance(0.5)).collect();
        let mut pairs = Vec::new();
        for (a, side_a) in ids.iter().zip(&side) {
            for (b, side_b) in ids.iter().zip(&side) {
                // Now and then one link more or less: bridges and rings.
                if (side_a != side_b && !self.faults_rng.chance(0.1)) && a < b {
                    pairs.extend([(*a, *b), (*b, *a)]);
                }
            }
        }
        let duration = self.faults_rng.magnitude(10 * MS, 5 * S);
        self.fault(format!("cut for {} ms: {pairs:?}", duration / MS));
        self.mark("partitions");
        self.cut(pairs, Some(duration));
        Ok(())
    }

    fn cut_one_way(&mut self, id: NodeId) -> Checked {
        let outward = self.faults_rng.chance(0.5);
        let mut pairs = Vec::new();
        for other in self.ids() {
            if other != id && self.faults_rng.chance(0.7) {
                pairs.push(if outward { (id, other) } else { (other, id) });
            }
        }
        let duration = self.faults_rng.magnitude(10 * MS, 5 * S);
        self.fault(format!("cut one way for {} ms: {pairs:?}", duration / MS));
        self.mark("one-way cuts");
        self.cut(pairs, Some(duration));
        Ok(())
    }

    fn change_clock(&mut self, id: NodeId) {
        let now = self.now;
        let bound = if self.mutant == Some(Mutant::ClocksBeyondBound) { 400_000 } else { self.plan.drift_ppm };
        self.node(id).clock.change_rate(now, bound);
    }

    fn set_alarms(&mut self) {
        for id in self.ids() {
            let (life, up) = (self.node(id).life, self.node(id).is_up());
            if up {
                let at = self.now;
                self.node(id).wake_at = Some(at);
                self.schedule(0, Happening::Wake { node: id, life, at });
            }
        }
    }

    /// A node loses its disk, or a record of it: one at a time, and only while all others remember everything.
    fn lose_memory(&mut self, id: NodeId, family: Family) -> Checked {
        let remembering = self.ids().into_iter().filter(|other| self.ledger.votes(*other));
        let others = remembering.clone().filter(|other| *other != id).count();
        let tolerable = self.nodes.len() >= 3 && remembering.count() == self.nodes.len();
        if !(tolerable || self.plan.reckless && others > 0) {
            return Ok(());
        }
        self.kill(id, true)?;
        let event = self.event;
        let node = self.node(id);
        if family == Family::Wipe {
            node.disk.wipe();
            (node.store, node.durable_store) = Default::default();
            self.fault(format!("{id} loses its disk"));
            self.mark("wipes");
            return self.ledger.forgotten(id, &[], false, event);
        }
        if node.disk.lose_one() {
            let keeps_vote =
                node.disk.recover(&mut node.durable_store.clone()).memory.is_some_and(|memory| memory.votes);
            let left: Vec<_> = node.disk.durable_records().to_vec();
            self.fault(format!("{id} loses a record (and {} vote)", if keeps_vote { "no" } else { "its" }));
            self.mark("records lost");
            return self.ledger.forgotten(id, &left, keeps_vote, event);
        }
        Ok(())
    }
}
