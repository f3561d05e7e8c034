//! The driver's side of the contract with the engine: does what it orders, in any order, and tells it what came of it.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use trialbay_engine::{
    Action, Actions, Ballot, Config, Dropped, Engine, Event, HaltReason, HistoryHash, Incarnation, Instant, Memory,
    NodeId, Recovered, Refusal, RequestId, Role, Slot,
};

use super::disk::Opened;
use super::node::{Decided, Process};
use super::{Happening, World};
use crate::check::history::Response;
use crate::check::{Checked, Violation, violation};
use crate::mutant::Mutant;
use crate::scenario::MS;

/// Which actions keep their order among each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Disk,
    Store,
    Peer(NodeId),
    Client,
    Other,
}

impl World {
    pub(super) fn start(&mut self, id: NodeId) -> Checked {
        let (now, mutant) = (self.now, self.mutant);
        let node = self.node(id);
        if node.is_up() || node.dead {
            return Ok(());
        }
        node.life += 1;
        let Some(Opened { tlog, mut recovered, store }) = self.open(id)? else {
            let pause = self.scenario.cluster.lease.0;
            self.mark("starts on a failing disk");
            self.schedule(pause, Happening::Start { node: id });
            return Ok(());
        };
        self.examine(id, &recovered)?;
        self.check_recovered(id, &recovered, &(store.applied, store.hash))?;
        self.spoil(&mut recovered);
        let mut local = self.node(id).clock.local(now);
        if mutant == Some(Mutant::GrantsForgotten) {
            local = Instant(local.0.saturating_sub(u64::from(u32::MAX)));
        }
        let config = Config {
            lease: self.scenario.lease(),
            clock_drift_ppm: self.scenario.cluster.drift_ppm,
            limits: self.scenario.limits(),
            #[cfg(feature = "planted-bugs")]
            planted: self.bugs.in_engine(),
            #[cfg(feature = "planted-bugs")]
            assertions_off: self.bugs.assertions_off,
            learners: self.ids().split_off(self.scenario.voters().len()),
            witnesses: self.ids().into_iter().filter(|node| self.scenario.is_witness(*node)).collect(),
            preferred: self.ids().into_iter().take(usize::from(self.scenario.cluster.preferred)).collect(),
            ..Config::new(id, self.scenario.voters())
        };
        let seed = self.node(id).rng.any();
        let engine = caught(|| Engine::new(local, config, recovered, seed))?;
        let applied = store.applied;
        let mean = self.scenario.disk.checkpoint.0;
        let node = self.node(id);
        node.process = Some(Process::new(engine, tlog, store));
        let (life, checkpoint) = (node.life, node.rng.below(2 * mean));
        let keep_log = node.upkeep_rng.below(2 * mean);
        self.tell_step(id, format!("it starts at {applied}"));
        self.mark("starts");
        self.schedule(checkpoint, Happening::Checkpoint { node: id, life });
        self.schedule(keep_log, Happening::KeepLog { node: id, life });
        self.step(id, Event::Ticked)
    }

    /// Planted bugs of what a driver tells a starting engine.
    fn spoil(&self, recovered: &mut Recovered) {
        if self.mutant == Some(Mutant::PromisesForgotten) {
            let accepted = recovered.undecided.iter().map(|accepted| accepted.entry.ballot);
            recovered.promised = accepted.max().unwrap_or(Ballot::ZERO);
        }
        if self.mutant == Some(Mutant::WipedNodeVotes) && recovered.memory.is_none() && self.now > 0 {
            recovered.memory = Some(Memory { incarnation: Incarnation(0), votes: true, genesis: Vec::new() });
        }
    }

    fn check_recovered(&self, id: NodeId, recovered: &Recovered, store: &(Slot, HistoryHash)) -> Checked {
        let (applied, hash) = *store;
        let agreed = self.ledger.agreed_hash(applied);
        if recovered.decided_upto != applied || agreed.is_some_and(|agreed| agreed != hash) {
            return violation(
                "K5",
                format!("{id} recovers {applied} with history {hash:?}, the others have {agreed:?}"),
            );
        }
        Ok(())
    }

    /// Tells the engine one event, and does what it orders.
    pub(super) fn step(&mut self, id: NodeId, event: Event) -> Checked {
        let late = if self.mutant == Some(Mutant::StampedLate) { self.healing_rng.below(300 * MS) } else { 0 };
        let now = self.now.saturating_sub(late);
        let node = self.node(id);
        let local = node.clock.local(now);
        let life = node.life;
        let cause = self.watch.is_on().then(|| shown(&event));
        let node = &mut self.nodes[usize::from(id.0) - 1];
        let Some(process) = &mut node.process else { return Ok(()) };
        let mut actions = Actions::new();
        caught(|| process.engine.step(local, event, &mut actions))?;
        let serves_until = process.engine.serves_until();
        if serves_until.is_some() && process.serves_until.is_none() {
            process.serving_since += 1;
        }
        self.bounds.decided(id, process.engine.decided_upto());
        let serves = serves_until.map(|_| process.store.applied);
        let counts_on = serves_until.filter(|until| process.serves_until.is_none_or(|before| *until > before));
        process.serves_until = serves_until;
        let is_master = process.engine.role() == Role::Master;
        let was_master = std::mem::replace(&mut process.was_master, is_master);
        if let Some(cause) = cause {
            self.tell_step(id, cause);
        }
        if is_master && !was_master {
            if self.scenario.is_witness(id) || !self.scenario.voters().contains(&id) {
                return violation("K16", format!("{id} is master, and is no voter with the data"));
            }
            self.became_master();
        }
        if was_master && !is_master {
            self.mark("masterships lost");
        }
        if let Some(applied) = serves {
            self.outage.serves(&id.to_string(), applied)?;
        }
        if let Some(until) = counts_on {
            self.check_lease(id, until)?;
        }
        self.check_lease_exclusivity(id)?;
        let actions = self.in_any_order(id, actions.drain().collect());
        for action in actions {
            if self.dies_now(id)? {
                return Ok(());
            }
            self.act(id, action)?;
            if self.node(id).life != life {
                return Ok(());
            }
        }
        self.set_alarm(id);
        self.check_bounds(id)
    }

    /// Whether the process was to die before this order of its engine, and did.
    fn dies_now(&mut self, id: NodeId) -> Result<bool, Violation> {
        let Some(process) = &mut self.node(id).process else { return Ok(true) };
        match &mut process.dies_after {
            Some((0, down)) => {
                let down = *down;
                self.mark("deaths between actions");
                self.crash(id, false)?;
                self.schedule(down, Happening::Start { node: id });
                Ok(true)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// There is no ordering rule between actions of different kinds.
    fn in_any_order(&mut self, id: NodeId, actions: Vec<Action>) -> Vec<Action> {
        if actions.len() < 2 {
            return actions;
        }
        let mut order: Vec<Lane> = actions.iter().map(lane).collect();
        self.node(id).rng.shuffle(&mut order);
        let mut lanes: BTreeMap<Lane, VecDeque<Action>> = BTreeMap::new();
        for action in actions {
            lanes.entry(lane(&action)).or_default().push_back(action);
        }
        order.into_iter().filter_map(|lane| lanes.get_mut(&lane)?.pop_front()).collect()
    }

    fn act(&mut self, id: NodeId, action: Action) -> Checked {
        match action {
            Action::Send { to, message } => self.send(id, to, message),
            Action::Persist { id: batch, records } => {
                self.persist(id, batch, records);
                Ok(())
            }
            Action::Apply { slot, hash, value, requests } => {
                self.ledger.applied(id, slot, hash, &value)?;
                let Some(process) = &mut self.node(id).process else { return Ok(()) };
                if slot != process.ordered_upto.next() && slot > process.ordered_upto {
                    let before = process.ordered_upto;
                    return violation("K5", format!("{id} orders {slot} applied after {before}"));
                }
                process.ordered_upto = process.ordered_upto.max(slot);
                process.apply_queue.push_back(Decided { slot, hash, value, requests });
                self.begin_apply(id);
                Ok(())
            }
            Action::Refuse { requests, reason } => {
                self.refuse_updates(id, &requests, reason);
                Ok(())
            }
            Action::ServeRead { read, at } => {
                if let Some(process) = &mut self.node(id).process
                    && let Some(op) = process.reads.remove(&read)
                {
                    process.waiting_reads.push((at, op));
                }
                self.serve_waiting_reads(id);
                Ok(())
            }
            Action::RefuseRead { read, .. } if self.mutant == Some(Mutant::DeposedAnswers) => {
                let op = self.node(id).process.as_mut().and_then(|process| process.reads.remove(&read));
                if let Some(op) = op {
                    self.answer_from_store(id, op);
                }
                Ok(())
            }
            Action::RefuseRead { read, reason } => {
                let op = self.node(id).process.as_mut().and_then(|process| process.reads.remove(&read));
                if let Some(op) = op {
                    self.note_master(op, reason);
                    self.respond(op, Response::Refused);
                }
                Ok(())
            }
            Action::ReadLog { peer, from, upto, bytes_max } => {
                self.mark("log reads");
                let (life, delay) = self.disk_delay(id);
                self.schedule(delay, Happening::ReadLog { node: id, life, peer, from, upto, bytes_max });
                Ok(())
            }
            Action::InstallHead { from } => {
                self.mark("head transfers");
                let node = self.node(id);
                let (life, delay) = (node.life, node.rng.magnitude(MS, 500 * MS));
                self.schedule(delay, Happening::FetchHead { node: id, life, from });
                Ok(())
            }
            Action::Blame { .. } if self.mutant == Some(Mutant::AcceptanceCountedTwice) => Ok(()),
            Action::Blame { peer, offence } => {
                violation("K13", format!("{id} blames {peer} for {offence:?}, and nobody misbehaves"))
            }
            Action::Dropped(dropped) => {
                self.mark(match dropped {
                    Dropped::Done => "drops done",
                    Dropped::Alone | Dropped::NobodyAble => "drops refused",
                    Dropped::NobodyTookOver => "drops without a successor",
                });
                Ok(())
            }
            Action::Halt(reason) => self.halted(id, reason),
        }
    }

    fn halted(&mut self, id: NodeId, reason: HaltReason) -> Checked {
        match reason {
            HaltReason::Stopped => {
                self.mark("stops");
                let down = self.stopped_for.remove(&id).unwrap_or(0);
                self.crash(id, false)?;
                self.schedule(down, Happening::Start { node: id });
                Ok(())
            }
            HaltReason::StorageFailed => {
                self.crash(id, false)?;
                let down = self.scenario.cluster.lease.0;
                self.schedule(down, Happening::Start { node: id });
                Ok(())
            }
            HaltReason::HistoryDiverged { .. } => violation("K5", format!("{id} halts: {reason:?}")),
        }
    }

    fn refuse_updates(&mut self, id: NodeId, requests: &[RequestId], reason: Refusal) {
        for request in requests {
            let op = self.node(id).process.as_mut().and_then(|process| process.updates.remove(request));
            let Some(op) = op else { continue };
            self.note_master(op, reason);
            let unknown = reason == Refusal::OutcomeUnknown;
            if unknown {
                self.mark("outcomes unknown");
            }
            match self.mutant {
                Some(Mutant::UnknownRetried) if unknown => {
                    let life = self.node(id).life;
                    self.schedule(300 * MS, Happening::Submit { node: id, life, op });
                }
                Some(Mutant::UnknownCalledRefused) => self.respond(op, Response::Refused),
                _ => self.respond(op, if unknown { Response::Unknown } else { Response::Refused }),
            }
        }
    }

    pub(super) fn wake(&mut self, id: NodeId, at: u64) -> Checked {
        let now = self.now;
        let ticks = self.mutant == Some(Mutant::NullTicks);
        let node = self.node(id);
        let local = node.clock.local(now);
        let Some(process) = &mut node.process else { return Ok(()) };
        if process.wake_at != Some(at) {
            return Ok(());
        }
        process.wake_at = None;
        if ticks || process.engine.next_deadline().is_some_and(|at| at <= local) {
            return self.step(id, Event::Ticked);
        }
        self.set_alarm(id);
        Ok(())
    }

    pub(super) fn set_alarm(&mut self, id: NodeId) {
        let (now, mutant) = (self.now, self.mutant);
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        let Some(deadline) = process.engine.next_deadline() else { return };
        let lateness = if node.rng.chance(0.1) { node.rng.magnitude(1_000, 5 * MS) } else { 0 };
        let mut at = node.clock.global(deadline).max(now) + lateness;
        if mutant == Some(Mutant::NullTicks) {
            at = at.min(now + 7 * MS);
        }
        if process.wake_at.is_none_or(|set| at < set) {
            process.wake_at = Some(at);
            let life = node.life;
            self.schedule(at - now, Happening::Wake { node: id, life, at });
        }
    }

    pub(super) fn begin_apply(&mut self, id: NodeId) {
        let apply_max = self.scenario.disk.apply_max.0;
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        if process.applying || process.apply_queue.is_empty() {
            return;
        }
        process.applying = true;
        let (life, delay) = (node.life, node.rng.between(1_000, apply_max));
        self.schedule(delay, Happening::ApplySome { node: id, life });
    }

    pub(super) fn apply_some(&mut self, id: NodeId) -> Checked {
        let node = self.node(id);
        let Some(process) = &mut node.process else { return Ok(()) };
        process.applying = false;
        let waiting = process.apply_queue.len() as u64;
        let count = node.rng.between(1, waiting.max(1));
        for _ in 0..count {
            let Some(process) = &mut self.node(id).process else { break };
            let Some(Decided { slot, hash, value, requests }) = process.apply_queue.pop_front() else { break };
            if slot <= process.store.applied {
                // A head brought it already.
                continue;
            }
            let outcomes = process.store.apply(slot, hash, &value);
            let ops: Vec<Option<usize>> = requests.iter().map(|request| process.updates.remove(request)).collect();
            if !ops.is_empty() && ops.len() != outcomes.len() {
                return violation("K8", format!("{slot} has {} commands and {} requests", outcomes.len(), ops.len()));
            }
            for (op, outcome) in ops.into_iter().zip(outcomes) {
                if let Some(op) = op {
                    self.respond(op, Response::Updated(outcome));
                }
            }
        }
        self.check_state(id)?;
        self.serve_waiting_reads(id);
        self.begin_apply(id);
        let Some(process) = &self.node(id).process else { return Ok(()) };
        let applied = process.store.applied;
        self.trace(2, u64::from(id.0), applied.0);
        self.step(id, Event::Applied(applied))
    }

    /// K5: all stores hold the same after the same slot.
    pub(super) fn check_state(&mut self, id: NodeId) -> Checked {
        if self.scenario.is_witness(id) {
            return Ok(());
        }
        let Some(process) = &self.node(id).process else { return Ok(()) };
        let (applied, digest) = (process.store.applied, process.store.map.digest());
        self.ledger.holds(id, applied, digest)
    }

    /// K10: it holds no more than its limits allow.
    fn check_bounds(&self, id: NodeId) -> Checked {
        let Some(process) = &self.nodes[usize::from(id.0) - 1].process else { return Ok(()) };
        let (held, is_disk_idle) = (process.engine.held(), process.is_disk_idle());
        self.bounds.holds(id, &held, is_disk_idle)
    }

    /// K7: a master counts on its lease only for as long as a quorum granted it.
    fn check_lease(&mut self, id: NodeId, until: Instant) -> Checked {
        let node = self.node(id);
        let end = node.clock.global(until);
        let ballot = node.process.as_ref().map_or(Ballot::ZERO, |process| process.engine.status().promised);
        if end <= self.now {
            // An answer that came so late that nothing can be served by it.
            return Ok(());
        }
        self.ledger.leases.serves(id, ballot, end)
    }

    /// K7: in the one true time no two nodes are inside a lease.
    fn check_lease_exclusivity(&self, id: NodeId) -> Checked {
        if !self.nodes[usize::from(id.0) - 1].is_serving(self.now) {
            return Ok(());
        }
        match self.nodes.iter().find(|node| node.id != id && node.is_serving(self.now)) {
            None => Ok(()),
            Some(other) => violation("K7", format!("{id} and {} are inside a lease at once", other.id)),
        }
    }
}

fn lane(action: &Action) -> Lane {
    match action {
        Action::Persist { .. } => Lane::Disk,
        Action::Apply { .. } => Lane::Store,
        Action::Send { to, .. } => Lane::Peer(*to),
        Action::Refuse { .. } | Action::ServeRead { .. } | Action::RefuseRead { .. } | Action::Dropped(_) => {
            Lane::Client
        }
        Action::ReadLog { .. } | Action::InstallHead { .. } | Action::Blame { .. } | Action::Halt(_) => Lane::Other,
    }
}

/// K13: nothing ever panics, no engine and no log, nor a checker.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Violation> {
    let was_catching = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(was_catching);
    outcome.map_err(|payload| {
        let message = payload.downcast_ref::<String>().cloned();
        let message = message.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Violation { checker: "K13", story: format!("a panic: {}", message.unwrap_or_default()), event: None }
    })
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread becomes a finding, with a story of its own.
pub fn is_catching() -> bool {
    CATCHING.get()
}

fn shown(event: &Event) -> String {
    match event {
        Event::Received { from, message } => format!("{from}: {message:?}"),
        other => format!("{other:?}"),
    }
}
