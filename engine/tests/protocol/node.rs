//! One engine alone, played to by a test that is all of its peers.

use std::time::Duration;

use bytes::Bytes;
use trialbay_engine::message::List;
use trialbay_engine::{
    Action, Actions, Ballot, Config, Engine, Entry, Event, HistoryHash, Incarnation, Instant, Memory, Message, NodeId,
    Offence, PersistId, Record, Recovered, Refusal, Request, RequestId, Role, Slot, SlotEntry, Value,
};

use crate::cluster::hash_of;

pub(crate) const LEASE: Duration = Duration::from_millis(800);

/// The engine under test is node 1; this is its life, and those of its peers are [`life`].
pub(crate) const ME: NodeId = NodeId(1);

pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    /// The last batch that was ordered persisted and has not been.
    unpersisted: Option<PersistId>,
    next_request: u64,
}

/// What one step gave, sorted by kind.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) sent: Vec<(NodeId, Message)>,
    pub(crate) records: Vec<Record>,
    pub(crate) applied: Vec<(Slot, Value, Vec<RequestId>)>,
    pub(crate) refused: Vec<(RequestId, Refusal)>,
    pub(crate) blamed: Vec<(NodeId, Offence)>,
    /// `ServeRead`, `RefuseRead`, `ReadLog`, `InstallHead`, `Halt` and `Dropped`, as they were.
    pub(crate) others: Vec<Action>,
}

pub(crate) fn ballot(round: u64, node: u16) -> Ballot {
    Ballot { round, node: NodeId(node) }
}

/// The life of a peer that was never wiped.
pub(crate) fn life(node: u16) -> Incarnation {
    Incarnation(u64::from(node))
}

pub(crate) fn value(text: &str) -> Value {
    Value::batch([text.as_bytes()])
}

pub(crate) fn accepted_entry(slot: u64, ballot: Ballot, text: &str) -> SlotEntry {
    SlotEntry { slot: Slot(slot), entry: Entry { ballot, value: value(text) } }
}

/// A node with a vote that has decided these values and accepted those entries.
pub(crate) fn memory(promised: Ballot, decided: &[Value], undecided: Vec<SlotEntry>) -> Recovered {
    Recovered {
        promised,
        decided_upto: Slot(decided.len() as u64),
        decided_hash: hash_of(decided),
        undecided,
        log_start: Slot(1),
        memory: Some(Memory { incarnation: life(1), votes: true, genesis: Vec::new() }),
    }
}

pub(crate) fn config(count: u16) -> Config {
    Config { lease: LEASE, clock_drift_ppm: 0, ..Config::new(ME, (1..=count).map(NodeId).collect()) }
}

impl Node {
    /// Node 1 of `count`, just started.
    pub(crate) fn start(config: Config, recovered: Recovered) -> Self {
        let now = Instant(1_000_000_000);
        let engine = Engine::new(now, config, recovered, 7);
        Self { engine, now, unpersisted: None, next_request: 1 }
    }

    /// As `start`, long enough ago that no grant of an earlier run is left, and connected to all peers.
    pub(crate) fn rested(config: Config, recovered: Recovered) -> Self {
        let voters = config.voters.clone();
        let mut node = Self::start(config, recovered);
        for peer in voters.into_iter().filter(|peer| *peer != ME) {
            node.step(Event::Connected(peer));
        }
        node.now = node.now + LEASE;
        node
    }

    /// A serving master of ballot 1.n1 and of `count` nodes, whose `MasterChange` at slot 1 is decided and applied.
    pub(crate) fn master(config: Config) -> Self {
        let mut node = Self::master_to_be(config, memory(Ballot::ZERO, &[], Vec::new()), &[]);
        node.grant_all();
        node.persist();
        node.acknowledge_all(1);
        node.step(Event::Applied(Slot(1)));
        assert!(node.is_serving());
        node
    }

    /// Wins phase 1 with promises of all peers, which accepted these entries.
    pub(crate) fn master_to_be(config: Config, recovered: Recovered, accepted: &[SlotEntry]) -> Self {
        let peers = config.voters.len() as u16;
        let mut node = Self::candidate(config, recovered);
        let ballot = node.engine.status().promised;
        for peer in 2..=peers {
            node.receive(peer, promise(ballot, peer, accepted.to_vec()));
        }
        assert_eq!(node.engine.role(), Role::Master);
        node
    }

    /// In phase 1, with its own promise durable.
    pub(crate) fn candidate(config: Config, recovered: Recovered) -> Self {
        let peers = config.voters.len() as u16;
        let mut node = Self::rested(config, recovered);
        let mut asked = None;
        for _ in 0..9 {
            if node.engine.role() != Role::Slave {
                break;
            }
            let given = node.tick();
            asked = given.sent.iter().find_map(|(_, message)| match message {
                Message::Canvass { ballot, decided_upto } => Some((*ballot, *decided_upto)),
                _ => None,
            });
        }
        let (ballot, decided_upto) = asked.unwrap_or((Ballot::ZERO, Slot::ZERO));
        for peer in 2..=peers {
            let promised = Ballot::ZERO;
            node.receive(
                peer,
                Message::Canvassed { ballot, willing: true, incarnation: life(peer), promised, decided_upto },
            );
        }
        node.persist();
        assert!(peers == 1 || node.engine.role() == Role::Candidate);
        node
    }

    pub(crate) fn step(&mut self, event: Event) -> Given {
        let mut actions = Actions::new();
        self.engine.step(self.now, event, &mut actions);
        let mut given = Given::default();
        for action in actions.drain() {
            match action {
                Action::Send { to, message } => given.sent.push((to, message)),
                Action::Persist { id, records } => {
                    self.unpersisted = Some(id);
                    given.records.extend(records);
                }
                Action::Apply { slot, value, requests, .. } => given.applied.push((slot, value, requests)),
                Action::Refuse { requests, reason } => {
                    given.refused.extend(requests.into_iter().map(|request| (request, reason)));
                }
                Action::Blame { peer, offence } => given.blamed.push((peer, offence)),
                Action::ServeRead { .. }
                | Action::RefuseRead { .. }
                | Action::ReadLog { .. }
                | Action::InstallHead { .. }
                | Action::Halt(_)
                | Action::Dropped(_) => given.others.push(action),
            }
        }
        given
    }

    /// Time passes until the next deadline, if that has not come yet, and the node ticks.
    pub(crate) fn tick(&mut self) -> Given {
        self.now = self.now.max(self.engine.next_deadline().expect("a running node waits for something"));
        self.step(Event::Ticked)
    }

    pub(crate) fn receive(&mut self, from: u16, message: Message) -> Given {
        self.step(Event::Received { from: NodeId(from), message })
    }

    /// Time passes until the node is in this role.
    pub(crate) fn tick_until(&mut self, role: Role) {
        for _ in 0..99 {
            if self.engine.role() == role {
                return;
            }
            self.tick();
        }
        assert_eq!(self.engine.role(), role);
    }

    /// The last batch that the disk has not finished.
    pub(crate) fn ordered(&self) -> Option<PersistId> {
        self.unpersisted
    }

    /// The disk finishes all it was given.
    pub(crate) fn persist(&mut self) -> Given {
        match self.unpersisted.take() {
            Some(id) => self.step(Event::Persisted(id)),
            None => Given::default(),
        }
    }

    pub(crate) fn request(&mut self, commands: &[&str]) -> Given {
        let requests = (commands.iter())
            .map(|command| {
                self.next_request += 1;
                Request { id: RequestId(self.next_request - 1), command: Bytes::copy_from_slice(command.as_bytes()) }
            })
            .collect();
        self.step(Event::Requested(requests))
    }

    /// All peers grant the lease, as asked now.
    pub(crate) fn grant_all(&mut self) {
        for peer in self.peers() {
            let granted = self.granted(peer);
            self.receive(peer, granted);
        }
    }

    /// A peer's answer to a heartbeat that was sent now.
    pub(crate) fn granted(&self, peer: u16) -> Message {
        Message::Granted {
            ballot: self.engine.status().promised,
            asked_at: self.now,
            incarnation: life(peer),
            votes: true,
            received_upto: Slot::ZERO,
            applied_upto: Slot(1),
        }
    }

    pub(crate) fn acknowledge_all(&mut self, upto: u64) {
        for peer in self.peers() {
            let ballot = self.engine.status().promised;
            self.receive(peer, accepted(ballot, peer, upto));
        }
    }

    pub(crate) fn peers(&self) -> Vec<u16> {
        self.engine.status().peers.iter().map(|peer| peer.node.0).collect()
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.engine.serves_until().is_some_and(|until| self.now < until)
    }

    pub(crate) fn decided(&self) -> u64 {
        self.engine.status().decided_upto.0
    }
}

pub(crate) fn promise(ballot: Ballot, peer: u16, accepted: Vec<SlotEntry>) -> Message {
    Message::Promise { ballot, incarnation: life(peer), accepted: accepted.into() }
}

/// An acknowledgement that counts.
pub(crate) fn accepted(ballot: Ballot, peer: u16, upto: u64) -> Message {
    Message::Accepted { ballot, incarnation: life(peer), votes: true, upto: Slot(upto) }
}

/// A master's heartbeat with nothing decided.
pub(crate) fn heartbeat(ballot: Ballot) -> Message {
    Message::Heartbeat {
        ballot,
        asked_at: Instant(5),
        sent_upto: Slot::ZERO,
        stream_start: Slot(1),
        decided_upto: Slot::ZERO,
        decided_hash: HistoryHash::default(),
    }
}

pub(crate) fn accept(ballot: Ballot, first: u64, values: Vec<Value>) -> Message {
    Message::Accept {
        ballot,
        first: Slot(first),
        values: List(values),
        decided_upto: Slot::ZERO,
        decided_hash: HistoryHash::default(),
    }
}
