//! Clients: each does one operation after the other, at whatever node it takes for the master.

use bytes::Bytes;
use trialbay_engine::{Event, NodeId, ReadId, Refusal, Request, RequestId};

use crate::history::{Ask, Operation, Response};
use crate::ledger::Checked;
use crate::model::{Command, KEYS};
use crate::mutant::Mutant;
use crate::plan::{LEASE, MS};
use crate::world::{Happening, World};

/// How long a client waits for a response.
const PATIENCE: u64 = 6 * LEASE;

impl World {
    pub(crate) fn client_next(&mut self, client: u64) {
        if self.clients_end {
            return;
        }
        let op = self.operations.len() as u64 + 1;
        let ask = self.draw(op);
        let nodes = self.nodes.len() as u64;
        let rng = &mut self.workload_rng;
        let anyone = NodeId(u16::try_from(rng.between(1, nodes)).unwrap_or(1));
        let index = usize::try_from(client).unwrap_or(0);
        let target = if rng.chance(0.9) { self.guesses[index] } else { anyone };
        let delay = rng.magnitude(10_000, MS);
        self.event += 1;
        self.operations.push(Operation { ask, invoked: self.event, response: None });
        self.open.insert(op, (client, target));
        if !self.node(target).is_up() {
            self.guesses[index] = anyone;
            return self.respond(op, Response::Refused);
        }
        let life = self.node(target).life;
        self.schedule(delay, Happening::Submit { node: target, life, op });
        self.schedule(PATIENCE, Happening::ClientTimeout { op });
    }

    pub(crate) fn submit(&mut self, id: NodeId, op: u64) -> Checked {
        let ask = self.operations[usize::try_from(op).unwrap_or(1) - 1].ask;
        let now = self.now;
        match ask {
            Ask::Update(command) => {
                if self.mutant == Some(Mutant::AcknowledgedEarly) && self.node(id).is_serving(now) {
                    let outcome = self.node(id).store.clone().run(&command);
                    self.respond(op, Response::Updated(outcome));
                }
                let padding = usize::try_from(op % 40).unwrap_or(0);
                let command: Bytes = command.encode(padding);
                let node = self.node(id);
                node.next_id += 1;
                let request = RequestId(node.next_id);
                node.updates.insert(request, op);
                self.step(id, Event::Requested(vec![Request { id: request, command }]))
            }
            Ask::Read { by_lease: false, .. } => {
                let node = self.node(id);
                node.next_id += 1;
                let read = ReadId(node.next_id);
                node.reads.insert(read, op);
                self.step(id, Event::ReadRequested(read))
            }
            Ask::Read { by_lease: true, .. } => {
                // Rule R1: what is read is fixed between two looks at one and the same lease. With the second alone, a
                // read of a store that was behind would be served by a node that becomes master in between.
                let value = self.read_value(id, op);
                let first = self.node(id).is_serving(now);
                let served = match self.mutant {
                    Some(Mutant::LeaseUnchecked) => Some(true),
                    Some(Mutant::NullLeaseCheckedFirst) => Some(first),
                    Some(Mutant::LeaseCheckedLast) => None,
                    _ if first => None,
                    _ => Some(false),
                };
                let late = self.mutant == Some(Mutant::NullLeaseCheckedFirst);
                let value = if late { u64::MAX } else { value };
                let node = self.node(id);
                let since = node.serving_since;
                let delay = match node.rng.below(10) {
                    0 if late => node.rng.between(LEASE, 6 * LEASE),
                    0 => node.rng.magnitude(MS, 2 * LEASE),
                    _ => node.rng.below(MS),
                };
                let life = node.life;
                self.schedule(delay, Happening::CheckLease { node: id, life, op, value, since, served });
                Ok(())
            }
        }
    }

    pub(crate) fn check_lease(&mut self, id: NodeId, op: u64, value: u64, since: u64, served: Option<bool>) {
        let now = self.now;
        let value = if value == u64::MAX { self.read_value(id, op) } else { value };
        let same = self.mutant == Some(Mutant::LeaseCheckedLast) || self.node(id).serving_since == since;
        if served.unwrap_or_else(|| same && self.node(id).is_serving(now)) {
            self.mark("lease reads");
            self.respond(op, Response::Value(value));
        } else {
            let master = self.node(id).status().and_then(|status| status.master);
            self.note_master(op, Refusal::NotMaster { master });
            self.respond(op, Response::Refused);
        }
    }

    pub(crate) fn read_value(&mut self, id: NodeId, op: u64) -> u64 {
        match self.operations[usize::try_from(op).unwrap_or(1) - 1].ask {
            Ask::Read { key, .. } => self.node(id).store.keys[usize::from(key)],
            Ask::Update(_) => 0,
        }
    }

    /// Where the client of `op` should go next.
    pub(crate) fn note_master(&mut self, op: u64, reason: Refusal) {
        let Some((client, target)) = self.open.get(&op).copied() else { return };
        let anyone = NodeId(u16::try_from(self.workload_rng.between(1, self.nodes.len() as u64)).unwrap_or(1));
        let next = match reason {
            Refusal::NotMaster { master } => master.filter(|master| *master != target).unwrap_or(anyone),
            Refusal::Overloaded => target,
            Refusal::Stopping | Refusal::OutcomeUnknown => anyone,
        };
        if let Some(guess) = usize::try_from(client).ok().and_then(|client| self.guesses.get_mut(client)) {
            *guess = next;
        }
    }

    pub(crate) fn respond(&mut self, op: u64, response: Response) {
        let Some((client, _)) = self.open.remove(&op) else { return };
        self.event += 1;
        self.say(|| format!("   operation {op}: {response:?}"));
        let index = usize::try_from(op).unwrap_or(1) - 1;
        self.operations[index].response = Some((self.event, response));
        match response {
            Response::Updated(_) => {
                self.mark("updates acknowledged");
                let asked_in_calm = self.calm;
                if asked_in_calm && self.first_progress.is_none() {
                    self.first_progress = Some(self.now);
                }
            }
            Response::Value(_) => self.mark("reads served"),
            Response::Refused => self.mark("refusals"),
            Response::Unknown => self.mark("unknown responses"),
        }
        self.trace(4, op, self.event);
        let refused = matches!(response, Response::Refused | Response::Unknown);
        let think = self.workload_rng.below(self.plan.think_max) + if refused { 5 * MS } else { 0 };
        self.schedule(think, Happening::ClientNext { client });
    }

    pub(crate) fn client_gives_up(&mut self, op: u64) {
        if let Some((client, _)) = self.open.remove(&op) {
            self.mark("clients gave up");
            let nodes = self.nodes.len() as u64;
            let anyone = NodeId(u16::try_from(self.workload_rng.between(1, nodes)).unwrap_or(1));
            if let Some(guess) = usize::try_from(client).ok().and_then(|client| self.guesses.get_mut(client)) {
                *guess = anyone;
            }
            self.schedule(0, Happening::ClientNext { client });
        }
    }

    /// A node went down: its clients' connections break, and what they asked for may or may not happen.
    pub(crate) fn abandon_clients_of(&mut self, id: NodeId) {
        let ops: Vec<u64> = self.open.iter().filter(|(_, (_, node))| *node == id).map(|(op, _)| *op).collect();
        for op in ops {
            self.note_master(op, Refusal::OutcomeUnknown);
            self.respond(op, Response::Unknown);
        }
    }

    fn draw(&mut self, op: u64) -> Ask {
        let rng = &mut self.workload_rng;
        let key = u8::try_from(rng.below(KEYS as u64)).unwrap_or(0);
        match rng.below(4) {
            0 => Ask::Read { key, by_lease: true },
            1 => Ask::Read { key, by_lease: false },
            2 => Ask::Update(Command { op, key, only_if: None }),
            _ => {
                // What the furthest store holds there: often right, often just overwritten.
                let furthest = self.nodes.iter().max_by_key(|node| node.store.applied);
                let guess = furthest.map_or(0, |node| node.store.keys[usize::from(key)]);
                Ask::Update(Command { op, key, only_if: Some(guess) })
            }
        }
    }
}
