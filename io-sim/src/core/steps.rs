//! What a scenario's steps do, and when their turn comes.

use std::collections::BTreeMap;

use trialbay_engine::{Event, Message, NodeId, Role, Slot};

use super::{Happening, World};
use crate::check::Checked;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::scenario::condition::kind_of;
use crate::scenario::draw::stream;
use crate::scenario::{Act, Condition, Links, MS, S, Scenario, Who, Whom};

/// Bytes of the log that a disk keeps beyond what the store has passed, in slots, at most.
const TRIM_KEEPS_MAX: u64 = 64;

/// The steps that were not done yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) done: Vec<bool>,
    /// The step that waits for its condition: the first one that was not done, if it has one.
    waiting: Option<usize>,
    /// The step whose condition held, and which is done a while after.
    seen: Option<usize>,
    /// Messages since that step's turn came: by kind, sender and receiver.
    sent: BTreeMap<(&'static str, NodeId, NodeId), u64>,
    over: bool,
}

impl Pending {
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let mut pending = Self {
            done: vec![false; scenario.steps.len()],
            waiting: None,
            seen: None,
            sent: BTreeMap::new(),
            over: false,
        };
        pending.advance(scenario);
        pending
    }

    /// Nothing more is done.
    pub(crate) fn stop(&mut self) {
        self.over = true;
        self.waiting = None;
    }

    /// A step that has a condition waits for it once all those before it were done.
    fn advance(&mut self, scenario: &Scenario) {
        let next = self.done.iter().position(|done| !done);
        let waits = |index: &usize| scenario.steps[*index].when.is_some() && self.seen != Some(*index);
        let next = next.filter(|index| waits(index) && !self.over);
        if next != self.waiting {
            self.waiting = next;
            self.sent.clear();
        }
    }
}

impl World {
    /// Counts a message for those who wait for it.
    pub(super) fn note_message(&mut self, from: NodeId, to: NodeId, message: &Message) {
        if self.pending.waiting.is_some() {
            *self.pending.sent.entry((kind_of(message), from, to)).or_default() += 1;
        }
    }

    /// Does the steps whose condition holds now.
    pub(super) fn do_due_steps(&mut self) -> Checked {
        while let Some(index) = self.pending.waiting {
            let step = &self.scenario.steps[index];
            if !step.when.as_ref().is_some_and(|condition| self.holds(condition)) {
                return Ok(());
            }
            match step.after {
                Some(after) => {
                    // Its turn is over; what is left of it comes by itself.
                    self.pending.waiting = None;
                    self.pending.seen = Some(index);
                    self.schedule(after.0, Happening::Step(index));
                    return Ok(());
                }
                None => self.do_step(index)?,
            }
        }
        Ok(())
    }

    fn holds(&self, condition: &Condition) -> bool {
        let node = |id: NodeId| self.nodes.get(usize::from(id.0) - 1);
        match condition {
            Condition::Master(who) => {
                self.nodes.iter().any(|node| (who.is_none() || *who == Some(node.id)) && node.is_serving(self.now))
            }
            Condition::Decided(slot) => self
                .nodes
                .iter()
                .any(|node| node.process.as_ref().is_some_and(|process| process.engine.decided_upto() >= Slot(*slot))),
            Condition::Applied(id, slot) => node(*id)
                .and_then(|node| node.process.as_ref())
                .is_some_and(|process| process.store.applied >= Slot(*slot)),
            Condition::Acknowledged(count) => {
                self.counters.get("updates acknowledged").is_some_and(|acknowledged| acknowledged >= count)
            }
            Condition::Down(id) => node(*id).is_some_and(|node| !node.is_up()),
            Condition::Message { kind, way, nth } => {
                let counted = self
                    .pending
                    .sent
                    .iter()
                    .filter(|((sent, from, to), _)| sent == kind && way.is_none_or(|way| way == (*from, *to)));
                counted.map(|(_, count)| count).sum::<u64>() >= *nth
            }
        }
    }

    pub(super) fn do_step(&mut self, index: usize) -> Checked {
        if self.calm {
            return Ok(());
        }
        self.pending.done[index] = true;
        self.pending.advance(&self.scenario);
        let act = self.scenario.steps[index].act.clone();
        let number = self.scenario.steps[index].id.unwrap_or(index as u64);
        let mut rng = Rng::new(self.seed, stream::STEP + number);
        self.trace(6, index as u64, 0);
        self.perform(&act, &mut rng)
    }

    fn perform(&mut self, act: &Act, rng: &mut Rng) -> Checked {
        match act {
            Act::Kill { node, down } => {
                let id = self.who(*node);
                self.fault(vec![id], Some(down.0), format!("{id} is killed"));
                self.mark("kills");
                self.crash(id, false)?;
                self.schedule(down.0, Happening::Start { node: id });
            }
            Act::KillAfter { node, actions, down } => {
                let id = self.who(*node);
                self.fault(vec![id], None, format!("{id} dies after {actions} more orders"));
                if let Some(process) = &mut self.node(id).process {
                    process.dies_after = Some((*actions, down.0));
                }
            }
            Act::PowerCut { nodes, down } => {
                let ids = self.whom(nodes, &[]);
                self.fault(ids.clone(), Some(down.0), format!("{ids:?} lose power"));
                self.mark("power cuts");
                for id in ids {
                    self.crash(id, true)?;
                    self.schedule(down.0, Happening::Start { node: id });
                }
                if self.nodes.iter().all(|node| !node.is_up()) {
                    self.all_power_is_cut()?;
                }
            }
            Act::Pause { node, time } => self.pause(*node, time.0),
            Act::Stop { node, down } => {
                let id = self.who(*node);
                if self.node(id).is_up() && !self.node(id).paused {
                    self.fault(vec![id], Some(down.0), format!("{id} is asked to stop"));
                    self.stopped_for.insert(id, down.0);
                    return self.step(id, Event::StopRequested);
                }
            }
            Act::DropMaster { node } => {
                let id = self.who(*node);
                if self.node(id).is_up() && !self.node(id).paused {
                    self.fault(vec![id], None, format!("{id} is to be master no more"));
                    return self.step(id, Event::DropRequested);
                }
            }
            Act::Wipe { node, down } => return self.wipe(*node, down.0),
            Act::Damage { node, down } => return self.damage(*node, down.0, rng),
            Act::LoseEnd { node, down } => return self.lose_end(*node, down.0, rng),
            Act::Cut { links, time } => {
                let pairs = self.pairs(links);
                let nodes = pairs.iter().map(|(from, _)| *from).collect();
                self.fault(nodes, Some(time.0), format!("cut: {links}"));
                self.mark("cuts");
                self.cut(pairs, Some(time.0));
            }
            Act::Clog { links, time } => {
                let pairs = self.pairs(links);
                let nodes = pairs.iter().map(|(from, _)| *from).collect();
                self.fault(nodes, Some(time.0), format!("clogged: {links}"));
                self.mark("clogs");
                let until = self.now + time.0;
                self.network.clog(&pairs, until);
            }
            Act::Disconnect { links } => {
                self.fault(Vec::new(), None, format!("connections break: {links}"));
                for (a, b) in self.pairs(links) {
                    self.disconnect(a, b);
                }
            }
            Act::SlowDisk { node, time } => {
                let id = self.who(*node);
                let until = self.now + time.0;
                self.node(id).slow_until = until;
                self.fault(vec![id], Some(time.0), format!("{id} has a slow disk"));
                self.mark("slow disks");
            }
            Act::FailSync { node } => {
                let id = self.who(*node);
                self.fault(vec![id], None, format!("the next sync of {id} fails"));
                let home = super::disk::home(id);
                let node = self.node(id);
                node.disk.fail_next_sync(&home);
                node.disk_is_troubled = true;
            }
            Act::FullDisk { node, time } => {
                let id = self.who(*node);
                self.fault(vec![id], Some(time.0), format!("the disk of {id} is full"));
                self.mark("full disks");
                self.node(id).set_disk_full(true);
                self.schedule(time.0, Happening::DiskHasRoom { node: id });
            }
            Act::Clock { node, ppm } => {
                let id = self.who(*node);
                self.fault(vec![id], None, format!("the clock of {id} runs {ppm:+} ppm from now on"));
                self.set_clock(id, *ppm);
            }
            Act::Trim { node } => {
                let id = self.who(*node);
                let kept = rng.magnitude(1, TRIM_KEEPS_MAX);
                let too_far = self.mutant == Some(Mutant::TrimmedTooFar);
                if self.scenario.is_witness(id) {
                    // Rule E3: what others lack may be in its log alone.
                    return Ok(());
                }
                let node = self.node(id);
                if too_far {
                    // What is gone from the log is gone at the next start as well.
                    node.lost_upto = node.process.as_ref().map_or(Slot::ZERO, |up| up.store.applied);
                }
                node.trimmed_upto = node.trimmed_upto.max(Slot(node.durable_store.applied.0.saturating_sub(kept)));
                self.mark("logs trimmed");
            }
        }
        Ok(())
    }

    /// The process ends, and with `power_lost` the machine too.
    pub(super) fn crash(&mut self, id: NodeId, power_lost: bool) -> Checked {
        let now = self.now;
        if self.node(id).is_up() {
            self.die_while_writing(id);
            self.node(id).end_process();
            for other in self.ids() {
                if other != id {
                    self.disconnect(id, other);
                }
            }
            self.abandon_clients_of(id);
            self.trace(3, u64::from(id.0), u64::from(power_lost));
        }
        let node = self.node(id);
        if power_lost {
            node.disk.power_cut();
            // The machine booted anew: its clock shows something else entirely.
            node.clock.reboot(now);
        } else {
            node.disk.kill();
        }
        self.tell_step(id, "its process is gone".to_owned());
        Ok(())
    }

    pub(super) fn resume(&mut self, id: NodeId) -> Checked {
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
        self.tell_step(id, "it goes on".to_owned());
        Ok(())
    }

    pub(super) fn set_clock(&mut self, id: NodeId, ppm: i64) {
        let now = self.now;
        let ppm = if self.mutant == Some(Mutant::ClocksBeyondBound) { ppm.signum() * 400_000 } else { ppm };
        let node = self.node(id);
        node.clock.set_rate(now, ppm);
        let life = node.life;
        if let Some(process) = &mut node.process {
            process.wake_at = Some(now);
            self.schedule(0, Happening::Wake { node: id, life, at: now });
        }
    }

    fn pause(&mut self, node: Who, time: u64) {
        let id = self.who(node);
        let node = self.node(id);
        if !node.is_up() || node.paused {
            return;
        }
        node.paused = true;
        self.schedule(time, Happening::Resume { node: id });
        self.fault(vec![id], Some(time), format!("{id} stands still for {} ms", time / MS));
        self.mark("pauses");
        self.tell_step(id, "it stands still".to_owned());
    }

    pub(super) fn who(&self, who: Who) -> NodeId {
        let is_master = |id: &NodeId| self.master() == Some(*id);
        match who {
            Who::Node(id) => id,
            Who::Master => self.master().unwrap_or(NodeId(1)),
            Who::Slave => {
                let up = self.nodes.iter().filter(|node| node.is_up()).map(|node| node.id);
                up.filter(|id| !is_master(id)).min().unwrap_or(NodeId(1))
            }
        }
    }

    /// Who takes itself for the master.
    fn master(&self) -> Option<NodeId> {
        let masters = self
            .nodes
            .iter()
            .filter(|node| node.process.as_ref().is_some_and(|process| process.engine.role() == Role::Master));
        masters.map(|node| node.id).min_by_key(|id| !self.nodes[usize::from(id.0) - 1].is_serving(self.now))
    }

    fn whom(&self, whom: &Whom, other_side: &[NodeId]) -> Vec<NodeId> {
        let mut ids = match whom {
            Whom::All => self.ids(),
            Whom::Some(nodes) => nodes.iter().map(|who| self.who(*who)).collect(),
            Whom::Others => self.ids().into_iter().filter(|id| !other_side.contains(id)).collect(),
            Whom::Majority => {
                let master = self.who(Who::Master);
                let voters = self.scenario.voters();
                let majority = voters.len() / 2 + 1;
                let others = voters.into_iter().filter(|id| *id != master);
                [master].into_iter().chain(others).take(majority).collect()
            }
        };
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn pairs(&self, links: &Links) -> Vec<(NodeId, NodeId)> {
        let (mut from, mut to) = (self.whom(&links.from, &[]), self.whom(&links.to, &[]));
        if links.from == Whom::Others {
            from = self.whom(&links.from, &to);
        }
        if links.to == Whom::Others {
            to = self.whom(&links.to, &from);
        }
        let ways = from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
        let mut pairs: Vec<_> =
            if links.both { ways.flat_map(|(a, b)| [(a, b), (b, a)]).collect() } else { ways.collect() };
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Cuts ways for a while. A connection that lies on one breaks after a time, or not before it is over. One way is
    /// enough for that: TCP needs both to go on, and to begin anew.
    pub(super) fn cut(&mut self, pairs: Vec<(NodeId, NodeId)>, duration: Option<u64>) {
        self.network.cut(&pairs);
        for (a, b) in &pairs {
            let delay = self.network.connections.magnitude(10 * MS, 4 * S);
            self.schedule(delay, Happening::Break { a: *a, b: *b });
        }
        if let Some(duration) = duration {
            let calm = self.calm;
            self.schedule(duration, Happening::Mend { pairs, calm });
        }
    }
}
