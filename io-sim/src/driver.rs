//! The driver's side of the contract with the engine: does what it orders, in any order, and tells it what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use trialbay_engine::{
    Action, Actions, Config, Engine, Event, HaltReason, Incarnation, Memory, NodeId, Recovered, Refusal, Role, Slot,
};

use crate::history::Response;
use crate::ledger::{Checked, Violation, violation};
use crate::mutant::Mutant;
use crate::node::Decided;
use crate::plan::MS;
use crate::world::{Happening, World};

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
    pub(crate) fn start(&mut self, id: NodeId) -> Checked {
        let now = self.now;
        let (plan, mutant) = (self.plan.clone(), self.mutant);
        let voters = self.ids();
        let node = self.node(id);
        if node.is_up() || node.dead {
            return Ok(());
        }
        node.store = node.durable_store.clone();
        let mut store = node.store.clone();
        let mut recovered = node.disk.recover(&mut store);
        if mutant == Some(Mutant::ReplaySkipped) {
            (node.store.applied, node.store.hash) = (store.applied, store.hash);
        } else {
            node.store = store;
        }
        if mutant == Some(Mutant::PromisesForgotten) {
            let accepted = recovered.undecided.iter().map(|accepted| accepted.entry.ballot);
            recovered.promised = accepted.max().unwrap_or(trialbay_engine::Ballot::ZERO);
        }
        if mutant == Some(Mutant::WipedNodeVotes) && recovered.memory.is_none() && now > 0 {
            recovered.memory = Some(Memory { incarnation: Incarnation(0), votes: true, genesis: Vec::new() });
        }
        node.life += 1;
        node.ordered_upto = node.store.applied;
        let mut local = node.clock.local(now);
        if mutant == Some(Mutant::GrantsForgotten) {
            local = trialbay_engine::Instant(local.0.saturating_sub(u64::from(u32::MAX)));
        }
        let config = Config {
            lease: plan.lease(),
            clock_drift_ppm: plan.drift_ppm,
            limits: plan.limits.clone(),
            ..Config::new(id, voters)
        };
        let seed = node.rng.any();
        let (applied, hash, life) = (node.store.applied, node.store.hash, node.life);
        self.check_recovered(id, &recovered, applied, hash)?;
        let engine = caught(|| Engine::new(local, config, recovered, seed))?;
        self.node(id).engine = Some(engine);
        self.say(|| format!("{id} starts at {applied}"));
        self.mark("starts");
        let checkpoint = self.node(id).rng.below(2 * plan.checkpoint);
        self.schedule(checkpoint, Happening::Checkpoint { node: id, life });
        self.step(id, Event::Ticked)
    }

    fn check_recovered(
        &self,
        id: NodeId,
        recovered: &Recovered,
        applied: Slot,
        hash: trialbay_engine::HistoryHash,
    ) -> Checked {
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
    pub(crate) fn step(&mut self, id: NodeId, event: Event) -> Checked {
        let late = if self.mutant == Some(Mutant::StampedLate) { self.faults_rng.below(300 * MS) } else { 0 };
        let now = self.now;
        self.say(|| format!("{id} <- {}", shown(&event)));
        let node = self.node(id);
        let local = node.clock.local(now.saturating_sub(late));
        let Some(engine) = &mut node.engine else { return Ok(()) };
        let mut actions = Actions::new();
        caught(|| engine.step(local, event, &mut actions))?;
        let serves_until = engine.serves_until();
        if serves_until.is_some() && node.serves_until.is_none() {
            node.serving_since += 1;
        }
        node.serves_until = serves_until;
        let is_master = engine.role() == Role::Master;
        let became_master = is_master && !node.was_master;
        let lost = node.was_master && !is_master;
        node.was_master = is_master;
        let life = node.life;
        if became_master {
            self.became_master();
            self.say(|| format!("== {id} is master"));
        }
        if lost {
            self.mark("masterships lost");
        }
        self.check_lease_exclusivity(id)?;
        let actions = self.in_any_order(id, actions.drain().collect());
        for action in actions {
            if let Some(left) = &mut self.node(id).kill_after {
                if *left == 0 {
                    self.fault(format!("{id} is killed between two actions"));
                    self.mark("kills between actions");
                    return self.kill(id, true);
                }
                *left -= 1;
            }
            self.act(id, action)?;
            if self.node(id).life != life {
                return Ok(());
            }
        }
        self.set_alarm(id);
        Ok(())
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
                self.say(|| format!("{id} writes {batch:?} {records:?}"));
                let mutant = self.mutant;
                let node = self.node(id);
                node.disk.append(batch, records);
                let life = node.life;
                if mutant == Some(Mutant::PersistedEarly) {
                    self.schedule(0, Happening::SyncClaimed { node: id, life, id: batch });
                }
                self.begin_sync(id);
                Ok(())
            }
            Action::Apply { slot, hash, value, requests } => {
                self.say(|| format!("{id} decides {slot} {value:?} {requests:?}"));
                self.ledger.applied(id, slot, hash, &value)?;
                let node = self.node(id);
                if slot != node.ordered_upto.next() && slot > node.ordered_upto {
                    let before = node.ordered_upto;
                    return violation("K5", format!("{id} orders {slot} applied after {before}"));
                }
                node.ordered_upto = node.ordered_upto.max(slot);
                node.apply_queue.push_back(Decided { slot, hash, value, requests });
                self.begin_apply(id);
                Ok(())
            }
            Action::Refuse { requests, reason } => self.refuse_updates(id, &requests, reason),
            Action::ServeRead { read, at } => {
                let node = self.node(id);
                if let Some(op) = node.reads.remove(&read) {
                    node.waiting_reads.push((at, op));
                }
                self.serve_waiting_reads(id);
                Ok(())
            }
            Action::RefuseRead { read, reason } => {
                if let Some(op) = self.node(id).reads.remove(&read) {
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
                let delay = self.node(id).rng.magnitude(MS, 500 * MS);
                let life = self.node(id).life;
                self.schedule(delay, Happening::FetchHead { node: id, life, from });
                Ok(())
            }
            Action::Blame { peer, offence } => {
                if self.mutant == Some(Mutant::AcceptanceCountedTwice) {
                    return Ok(());
                }
                violation("K13", format!("{id} blames {peer} for {offence:?}, and nobody misbehaves"))
            }
            Action::Halt(HaltReason::Stopped) => {
                self.mark("stops");
                self.kill(id, true)
            }
            Action::Halt(reason) => violation("K5", format!("{id} halts: {reason:?}")),
        }
    }

    fn refuse_updates(&mut self, id: NodeId, requests: &[trialbay_engine::RequestId], reason: Refusal) -> Checked {
        for request in requests {
            let Some(op) = self.node(id).updates.remove(request) else { continue };
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
        Ok(())
    }

    pub(crate) fn wake(&mut self, id: NodeId, at: u64) -> Checked {
        let now = self.now;
        let node = self.node(id);
        if node.wake_at != Some(at) {
            return Ok(());
        }
        node.wake_at = None;
        let due = node.engine.as_ref().and_then(Engine::next_deadline).is_some_and(|at| at <= node.clock.local(now));
        if due || self.mutant == Some(Mutant::NullTicks) {
            return self.step(id, Event::Ticked);
        }
        self.set_alarm(id);
        Ok(())
    }

    fn set_alarm(&mut self, id: NodeId) {
        let (now, mutant) = (self.now, self.mutant);
        let node = self.node(id);
        let Some(deadline) = node.engine.as_ref().and_then(Engine::next_deadline) else { return };
        let lateness = if node.rng.chance(0.1) { node.rng.magnitude(1_000, 5 * MS) } else { 0 };
        let mut at = node.clock.global(deadline).max(now) + lateness;
        if mutant == Some(Mutant::NullTicks) {
            at = at.min(now + 7 * MS);
        }
        if node.wake_at.is_none_or(|set| at < set) {
            node.wake_at = Some(at);
            let life = node.life;
            self.schedule(at - now, Happening::Wake { node: id, life, at });
        }
    }

    fn disk_delay(&mut self, id: NodeId) -> (u64, u64) {
        let (now, min, max) = (self.now, self.plan.sync_min, self.plan.sync_max);
        let node = self.node(id);
        let mut delay = node.rng.between(min, max);
        if now < node.slow_until {
            delay += node.rng.magnitude(MS, 1_000 * MS);
        }
        (node.life, delay)
    }

    fn begin_sync(&mut self, id: NodeId) {
        if self.node(id).disk.begin_sync() {
            let (life, delay) = self.disk_delay(id);
            self.schedule(delay, Happening::Synced { node: id, life });
        }
    }

    pub(crate) fn synced(&mut self, id: NodeId) -> Checked {
        let event = self.event;
        let index = usize::from(id.0) - 1;
        let Some((batch, records)) = self.nodes[index].disk.end_sync() else { return Ok(()) };
        for record in records {
            self.ledger.durable(id, record, event)?;
            if let trialbay_engine::Record::VoteRegained { genesis, .. } = record {
                *self.counters.entry(if genesis.is_empty() { "votes regained" } else { "births" }).or_default() += 1;
            }
        }
        let node = self.node(id);
        if let Some((_, end)) = &node.checkpoint
            && *end <= node.disk.durable_end()
            && let Some((store, _)) = node.checkpoint.take()
        {
            let applied = store.applied;
            node.durable_store = store;
            self.ledger.stored(id, applied);
        }
        self.begin_sync(id);
        if self.mutant == Some(Mutant::NullPersistedTwice) {
            let life = self.node(id).life;
            self.schedule(MS, Happening::SyncClaimed { node: id, life, id: batch });
        }
        self.step(id, Event::Persisted(batch))
    }

    pub(crate) fn checkpoint(&mut self, id: NodeId) -> Checked {
        let (after_log, mean) = (self.plan.checkpoint_after_log, self.plan.checkpoint);
        let node = self.node(id);
        if !after_log || node.disk.end() == node.disk.durable_end() {
            node.durable_store = node.store.clone();
            node.checkpoint = None;
            let applied = node.store.applied;
            self.ledger.stored(id, applied);
        } else if node.checkpoint.is_none() {
            node.checkpoint = Some((node.store.clone(), node.disk.end()));
        }
        let node = self.node(id);
        let (life, delay) = (node.life, node.rng.below(2 * mean));
        self.schedule(delay, Happening::Checkpoint { node: id, life });
        Ok(())
    }

    fn begin_apply(&mut self, id: NodeId) {
        let apply_max = self.plan.apply_max;
        let node = self.node(id);
        if node.applying || node.apply_queue.is_empty() {
            return;
        }
        node.applying = true;
        let (life, delay) = (node.life, node.rng.between(1_000, apply_max));
        self.schedule(delay, Happening::ApplySome { node: id, life });
    }

    pub(crate) fn apply_some(&mut self, id: NodeId) -> Checked {
        let node = self.node(id);
        node.applying = false;
        let waiting = node.apply_queue.len() as u64;
        let count = usize::try_from(node.rng.between(1, waiting.max(1))).unwrap_or(1);
        for _ in 0..count {
            let node = self.node(id);
            let Some(Decided { slot, hash, value, requests }) = node.apply_queue.pop_front() else { break };
            if slot <= node.store.applied {
                // A head brought it already.
                continue;
            }
            let outcomes = node.store.apply(slot, hash, &value);
            let ops: Vec<Option<u64>> = requests.iter().map(|request| node.updates.remove(request)).collect();
            if !ops.is_empty() && ops.len() != outcomes.len() {
                return violation("K8", format!("{slot} has {} commands and {} requests", outcomes.len(), ops.len()));
            }
            for (op, outcome) in ops.into_iter().zip(outcomes) {
                if let Some(op) = op {
                    self.respond(op, Response::Updated(outcome));
                }
            }
        }
        self.serve_waiting_reads(id);
        self.begin_apply(id);
        let applied = self.node(id).store.applied;
        self.trace(2, u64::from(id.0), applied.0);
        self.step(id, Event::Applied(applied))
    }

    fn serve_waiting_reads(&mut self, id: NodeId) {
        let early = self.mutant == Some(Mutant::ReadBeforeApplied);
        let node = self.node(id);
        let applied = node.store.applied;
        let (ready, waiting) = std::mem::take(&mut node.waiting_reads)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| early || *at <= applied);
        node.waiting_reads = waiting;
        for (_, op) in ready {
            let value = self.read_value(id, op);
            self.mark("quorum reads");
            self.respond(op, Response::Value(value));
        }
    }

    pub(crate) fn fetch_head(&mut self, id: NodeId, from: NodeId) -> Checked {
        let peer = self.node(from);
        let head = peer.is_up().then(|| peer.store.clone());
        let reachable = !self.network.is_cut(from, id) && !self.network.is_cut(id, from);
        let node = self.node(id);
        match head.filter(|head| reachable && head.applied > node.store.applied && node.apply_queue.is_empty()) {
            Some(head) => {
                let (slot, hash) = (head.applied, head.hash);
                node.ordered_upto = node.ordered_upto.max(slot);
                node.durable_store = head.clone();
                node.store = head;
                self.ledger.stored(id, slot);
                self.mark("heads installed");
                self.step(id, Event::HeadInstalled { slot, hash })
            }
            None => self.step(id, Event::HeadFailed),
        }
    }

    /// K7: in the one true time no two nodes are inside a lease.
    fn check_lease_exclusivity(&self, id: NodeId) -> Checked {
        let serving = |node: &&crate::node::Node| node.is_serving(self.now);
        if !self.nodes[usize::from(id.0) - 1].is_serving(self.now) {
            return Ok(());
        }
        match self.nodes.iter().filter(serving).find(|node| node.id != id) {
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
        Action::Refuse { .. } | Action::ServeRead { .. } | Action::RefuseRead { .. } => Lane::Client,
        Action::ReadLog { .. } | Action::InstallHead { .. } | Action::Blame { .. } | Action::Halt(_) => Lane::Other,
    }
}

/// K13: an engine never panics.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let message = payload.downcast_ref::<String>().cloned();
        let message = message.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Violation { checker: "K13", story: format!("the engine panics: {}", message.unwrap_or_default()) }
    })
}

fn shown(event: &Event) -> String {
    match event {
        Event::Received { from, message } => format!("{from}: {message:?}"),
        other => format!("{other:?}"),
    }
}
