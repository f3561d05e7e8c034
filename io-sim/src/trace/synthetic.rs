//! Traces that look like a run and come from a seed alone: what is shown can be tested without a world.

use std::collections::BTreeMap;

use trialbay_engine::NodeId;

use super::{Entry, NodeState, Outcome, What};
use crate::rng::Rng;

const MS: u64 = 1_000_000;
const LEASE: u64 = 500 * MS;

/// About so many entries about so many nodes and clients, with faults, ending with a broken rule.
pub(super) fn trace(seed: u64, nodes: u16, clients: u64, entries: usize) -> Vec<Entry> {
    let mut run = Run::new(seed, nodes);
    run.begin(clients);
    while run.entries.len() + 1 < entries
        && let Some(((at, _), happening)) = run.queue.pop_first()
    {
        run.now = at;
        run.event += 1;
        run.happen(happening);
    }
    let story = format!(
        "operation {} was acknowledged by n1 at event {} and is not in the log of {{n2, n3}} </script>",
        run.asked,
        run.event / 2
    );
    run.put(What::Violation { checker: "K4".into(), story });
    run.entries
}

enum Happening {
    Beat { ballot: u64 },
    Arrive { id: u64, from: usize, to: usize, kind: &'static str, ballot: u64, slot: u64 },
    Sync { node: usize, master: usize, ballot: u64, slot: u64 },
    Ask { client: u64 },
    Strike,
    Start { node: usize },
    Resume { node: usize },
    Mend,
    Campaign,
}

struct Run {
    rng: Rng,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    now: u64,
    event: u64,
    entries: Vec<Entry>,
    nodes: Vec<NodeState>,
    lease_until: u64,
    master: Option<usize>,
    ballot: u64,
    cut: Option<usize>,
    messages: u64,
    asked: u64,
    votes: BTreeMap<(&'static str, u64), usize>,
    waiting: BTreeMap<u64, (u64, u64)>,
}

impl Run {
    fn new(seed: u64, nodes: u16) -> Self {
        Self {
            rng: Rng::new(seed, 1),
            queue: BTreeMap::new(),
            queued: 0,
            now: 0,
            event: 0,
            entries: Vec::new(),
            nodes: vec![NodeState { votes: true, ..NodeState::default() }; usize::from(nodes)],
            lease_until: 0,
            master: None,
            ballot: 0,
            cut: None,
            messages: 0,
            asked: 0,
            votes: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn begin(&mut self, clients: u64) {
        for node in 0..self.nodes.len() {
            self.after(node as u64 * MS, Happening::Start { node });
        }
        self.after(30 * MS, Happening::Campaign);
        self.after(400 * MS, Happening::Strike);
        for client in 0..clients {
            self.after(60 * MS, Happening::Ask { client });
        }
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), happening);
    }

    fn put(&mut self, what: What) {
        self.entries.push(Entry { at: self.now, event: self.event, what });
    }

    fn step(&mut self, node: usize, cause: impl Into<String>) {
        let left = self.lease_until.saturating_sub(self.now);
        let state = &mut self.nodes[node];
        state.lease_left_ms = (self.master == Some(node) && left > 0).then_some(left / MS);
        if !state.up {
            *state = NodeState { durable: state.durable, ..NodeState::default() };
        }
        let state = state.clone();
        self.put(What::Stepped { node: id(node), cause: cause.into(), state });
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Beat { ballot } => self.beat(ballot),
            Happening::Arrive { id, from, to, kind, ballot, slot } => self.arrive(id, from, to, kind, ballot, slot),
            Happening::Sync { node, master, ballot, slot } => self.sync(node, master, ballot, slot),
            Happening::Ask { client } => self.ask(client),
            Happening::Strike => self.strike(),
            Happening::Start { node } => {
                let state = &mut self.nodes[node];
                (state.up, state.votes, state.role) = (true, true, "slave".into());
                (state.promised, state.accepted, state.decided) = ("0.n0".to_owned(), state.durable, state.durable);
                state.applied = state.durable;
                self.step(node, "started");
            }
            Happening::Resume { node } => {
                self.nodes[node].paused = false;
                self.step(node, "resumed");
            }
            Happening::Mend => {
                self.cut = None;
                self.put(What::Fault { text: "the cut is mended".to_owned(), nodes: Vec::new(), until: None });
            }
            Happening::Campaign => self.campaign(),
        }
    }

    fn broadcast(&mut self, from: usize, kind: &'static str, slot: u64) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.send(from, to, kind, self.ballot, slot);
        }
    }

    fn send(&mut self, from: usize, to: usize, kind: &'static str, ballot: u64, slot: u64) {
        self.messages += 1;
        let text = format!("{kind} {{ ballot: {ballot}.{}, slot: s{slot} }}", id(self.owner(ballot)));
        self.put(What::Sent { id: self.messages, from: id(from), to: id(to), kind: kind.into(), text });
        let delay = self.rng.magnitude(MS / 5, 8 * MS);
        self.after(delay, Happening::Arrive { id: self.messages, from, to, kind, ballot, slot });
        if self.rng.chance(0.01) {
            self.after(delay * 9, Happening::Arrive { id: self.messages, from, to, kind, ballot, slot });
        }
    }

    fn owner(&self, ballot: u64) -> usize {
        usize::try_from(ballot).unwrap_or(0) % self.nodes.len()
    }

    fn beat(&mut self, ballot: u64) {
        if self.ballot != ballot {
            return;
        }
        let Some(master) = self.master.filter(|master| self.nodes[*master].up && !self.nodes[*master].paused) else {
            return;
        };
        self.step(master, "timer");
        self.broadcast(master, "Heartbeat", self.nodes[master].decided);
        self.after(LEASE / 8, Happening::Beat { ballot });
    }

    fn arrive(&mut self, number: u64, from: usize, to: usize, kind: &'static str, ballot: u64, slot: u64) {
        let is_cut = self.cut.is_some_and(|cut| cut == from || cut == to);
        if is_cut || !self.nodes[to].up || self.rng.chance(0.02) {
            let why = format!("{kind} meets a {}", if is_cut { "cut" } else { "closed link" });
            return self.put(What::Lost { id: number, from: id(from), to: id(to), why: why.into() });
        }
        if self.nodes[to].paused {
            return self.after(20 * MS, Happening::Arrive { id: number, from, to, kind, ballot, slot });
        }
        self.put(What::Delivered { id: number });
        if ballot < self.ballot {
            return self.step(to, format!("stale {kind} from {}", id(from)));
        }
        self.obey(to, kind, ballot, slot);
        self.step(to, format!("{kind} {ballot} s{slot} from {}", id(from)));
        match kind {
            "Prepare" => self.send(to, from, "Promise", ballot, slot),
            "Heartbeat" => self.send(to, from, "Granted", ballot, slot),
            "Accept" => {
                let delay = self.rng.magnitude(MS / 2, 5 * MS);
                self.after(delay, Happening::Sync { node: to, master: from, ballot, slot });
            }
            _ => {}
        }
    }

    /// What a message changes at its receiver.
    fn obey(&mut self, node: usize, kind: &'static str, ballot: u64, slot: u64) {
        let owner = self.owner(ballot);
        let state = &mut self.nodes[node];
        if node != owner {
            state.promised = format!("{ballot}.{}", id(owner));
            (state.master, state.role) = (Some(id(owner)), "slave".into());
            match kind {
                "Accept" => state.accepted = state.accepted.max(slot),
                "Heartbeat" => {
                    state.catching_up = state.durable < slot;
                    (state.durable, state.accepted) = (state.durable.max(slot), state.accepted.max(slot));
                    (state.decided, state.applied) = (state.decided.max(slot), state.applied.max(slot));
                }
                _ => {}
            }
            return;
        }
        let votes = self.votes.entry((kind, ballot << 32 | slot)).or_insert(1);
        *votes += 1;
        if *votes != self.nodes.len() / 2 + 1 && kind != "Granted" {
            return;
        }
        match kind {
            "Promise" => self.become_master(node, ballot),
            "Granted" => self.lease_until = self.now + LEASE,
            "Accepted" => {
                let state = &mut self.nodes[node];
                (state.decided, state.applied) = (state.decided.max(slot), state.applied.max(slot));
                if let Some((client, op)) = self.waiting.remove(&slot) {
                    self.respond(client, op, &format!("done in s{slot}"), Outcome::Ok);
                }
            }
            _ => {}
        }
    }

    fn become_master(&mut self, node: usize, ballot: u64) {
        self.master = Some(node);
        self.lease_until = self.now + LEASE;
        let best = self.nodes.iter().map(|state| state.durable).max().unwrap_or(0);
        let state = &mut self.nodes[node];
        (state.role, state.master) = ("master".into(), Some(id(node)));
        (state.accepted, state.durable, state.decided, state.applied) = (best, best, best, best);
        self.put(What::Noted { node: Some(id(node)), text: format!("{} is master", id(node)) });
        self.after(MS, Happening::Beat { ballot });
    }

    fn sync(&mut self, node: usize, master: usize, ballot: u64, slot: u64) {
        if self.nodes[node].up && !self.nodes[node].paused {
            self.put(What::Synced { node: id(node), records: slot * 2 });
            self.nodes[node].durable = self.nodes[node].durable.max(slot);
            self.step(node, format!("persisted s{slot}"));
            if node != master {
                self.send(node, master, "Accepted", ballot, slot);
            }
        }
    }

    fn ask(&mut self, client: u64) {
        self.asked += 1;
        let op = self.asked;
        self.put(What::Invoked { client, op, text: format!("put k{} = {op}", op % 20) });
        let Some(master) = self.master.filter(|master| self.nodes[*master].up && !self.nodes[*master].paused) else {
            return self.respond(client, op, "no master", Outcome::Refused);
        };
        self.nodes[master].accepted += 1;
        let slot = self.nodes[master].accepted;
        self.step(master, format!("operation {op} requested"));
        self.waiting.insert(slot, (client, op));
        self.broadcast(master, "Accept", slot);
        self.after(MS, Happening::Sync { node: master, master, ballot: self.ballot, slot });
    }

    fn respond(&mut self, client: u64, op: u64, text: &str, outcome: Outcome) {
        self.put(What::Responded { client, op, text: text.to_owned(), outcome });
        let think = self.rng.magnitude(10 * MS, 800 * MS);
        self.after(think, Happening::Ask { client });
    }

    fn strike(&mut self) {
        let next = self.rng.magnitude(LEASE, 4 * LEASE);
        self.after(next, Happening::Strike);
        let node = usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0);
        let duration = self.rng.magnitude(LEASE / 2, 3 * LEASE);
        let (text, until) = match self.rng.below(3) {
            0 => {
                self.nodes[node].up = false;
                self.after(duration, Happening::Start { node });
                (format!("{} is killed", id(node)), None)
            }
            1 => {
                self.nodes[node].paused = self.nodes[node].up;
                self.after(duration, Happening::Resume { node });
                (format!("{} stands still for {} ms", id(node), duration / MS), Some(self.now + duration))
            }
            _ => {
                self.cut = Some(node);
                self.after(duration, Happening::Mend);
                (format!("{} is cut off for {} ms", id(node), duration / MS), Some(self.now + duration))
            }
        };
        self.put(What::Fault { text, nodes: vec![id(node)], until });
        self.step(node, "fault");
        if self.master == Some(node) {
            self.master = None;
            for (_, (client, op)) in std::mem::take(&mut self.waiting) {
                self.respond(client, op, "connection lost", Outcome::Unknown);
            }
            self.after(LEASE, Happening::Campaign);
        }
    }

    fn campaign(&mut self) {
        if self.master.is_some() {
            return;
        }
        self.ballot += 1;
        let node = self.owner(self.ballot);
        if self.nodes[node].up && !self.nodes[node].paused && self.cut != Some(node) {
            let ballot = self.ballot;
            let state = &mut self.nodes[node];
            (state.role, state.promised) = ("candidate".into(), format!("{ballot}.{}", id(node)));
            self.step(node, "timer");
            self.broadcast(node, "Prepare", 0);
        }
        self.after(60 * MS, Happening::Campaign);
    }
}

fn id(index: usize) -> NodeId {
    NodeId(u16::try_from(index + 1).expect("a handful of nodes"))
}
