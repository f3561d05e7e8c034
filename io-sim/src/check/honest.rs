//! Histories of a store that cannot lie, with their logs: what no checker may complain about. Lies are told by changing
//! them. For the tests of the checkers, and for measuring them.

use std::ops::Bound;

use bytes::Bytes;
use trialbay::update::{Update, UpdateResult, encode_command};
use trialbay_engine::{NodeId, Slot, Value};

use super::history::{Ask, Certified, Freshness, Operation, Response};
use super::model::Model;
use super::query::{Query, QueryResult, Scan};
use crate::rng::Rng;

/// How many copies of the store there are. The first is the master's.
const NODES: usize = 3;

/// No range goes over more keys than this.
const SPAN_MAX: u64 = 20;

/// What a history looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many operations.
    pub operations: usize,
    /// How many clients. Each does one operation after the other.
    pub clients: usize,
    /// How many keys they use.
    pub keys: u64,
}

/// A history, and the log that explains it.
pub fn history(rng: &mut Rng, shape: Shape) -> (Vec<Operation>, Vec<Certified>) {
    let mut cluster = Cluster {
        rng,
        shape,
        event: 0,
        operations: Vec::with_capacity(shape.operations),
        flights: vec![None; shape.clients],
        waiting: Vec::new(),
        results: Vec::with_capacity(shape.operations),
        slots: Vec::new(),
        chosen: 0,
        nodes: vec![(Model::default(), 0); NODES],
    };
    while cluster.operations.len() < shape.operations {
        cluster.step();
    }
    // Some of what is under way ends, the rest stays unanswered.
    for _ in 0..shape.clients * 8 {
        cluster.step();
    }
    let chosen =
        cluster.slots.into_iter().map_while(|slot| Some(Certified { value: slot.value, chosen_at: slot.chosen_at? }));
    (cluster.operations, chosen.collect())
}

struct Cluster<'a> {
    rng: &'a mut Rng,
    shape: Shape,
    event: u64,
    operations: Vec<Operation>,
    /// By client: what it is waiting for.
    flights: Vec<Option<Flight>>,
    /// Updates that were asked for and not proposed.
    waiting: Vec<usize>,
    /// By operation: what its update gave.
    results: Vec<Option<UpdateResult>>,
    slots: Vec<Proposed>,
    /// How many slots are chosen without a gap.
    chosen: usize,
    /// The stores, and how many slots are in each.
    nodes: Vec<(Model, usize)>,
}

#[derive(Clone, Debug)]
struct Flight {
    operation: usize,
    /// Of a read that was served: what it saw, and which node served it.
    seen: Option<(QueryResult, usize)>,
}

struct Proposed {
    commands: Vec<usize>,
    value: Value,
    chosen_at: Option<u64>,
}

impl Cluster<'_> {
    /// Lets one thing happen.
    fn step(&mut self) {
        self.event += 1;
        match self.rng.below(10) {
            0..=4 => self.client_step(),
            5 => self.propose(),
            6 | 7 => self.choose(),
            8 => self.apply(0),
            _ => {
                let node = self.below(NODES);
                self.apply(node);
            }
        }
    }

    fn client_step(&mut self) {
        let client = self.below(self.flights.len());
        match self.flights[client].clone() {
            None if self.operations.len() < self.shape.operations => self.invoke(client),
            None => {}
            Some(flight) if self.rng.chance(0.02) => {
                let response = self.rng.chance(0.5).then_some((self.event, Response::Unknown));
                self.operations[flight.operation].response = response;
                self.flights[client] = None;
            }
            Some(flight) => match self.operations[flight.operation].ask.clone() {
                Ask::Update { .. } => self.update_step(client, flight.operation),
                Ask::Read { query, freshness } => self.read_step(client, &flight, &query, freshness),
            },
        }
    }

    fn invoke(&mut self, client: usize) {
        let operation = self.operations.len();
        let ask = if self.rng.chance(0.5) {
            self.waiting.push(operation);
            let update = self.any_update(operation);
            Ask::Update { command: encode_command(&update), update }
        } else {
            Ask::Read { query: self.any_query(), freshness: self.any_freshness() }
        };
        let invoked = self.event;
        self.operations.push(Operation { client: client as u64, ask, invoked, response: None, applied: None });
        self.results.push(None);
        self.flights[client] = Some(Flight { operation, seen: None });
    }

    fn update_step(&mut self, client: usize, operation: usize) {
        if let Some(result) = self.results[operation].clone() {
            self.respond(client, operation, Response::Updated(result));
        } else if self.waiting.contains(&operation) && self.rng.chance(0.03) {
            self.waiting.retain(|waiting| *waiting != operation);
            self.respond(client, operation, Response::Refused);
        }
    }

    fn read_step(&mut self, client: usize, flight: &Flight, query: &Query, freshness: Freshness) {
        if let Some((result, node)) = flight.seen.clone() {
            if !matches!(freshness, Freshness::Consistent { .. }) {
                self.operations[flight.operation].applied = Some(Slot(self.nodes[node].1 as u64));
            }
            return self.respond(client, flight.operation, Response::Read(result));
        }
        let (node, at_least) = match freshness {
            Freshness::Consistent { .. } => (0, 0),
            Freshness::NoGuarantees => (self.below(NODES), 0),
            Freshness::AtLeast(slot) => (self.below(NODES), slot.0),
        };
        let (model, applied) = &self.nodes[node];
        if (*applied as u64) < at_least {
            return self.respond(client, flight.operation, Response::Refused);
        }
        let seen = Some((model.read(query), node));
        self.flights[client] = Some(Flight { operation: flight.operation, seen });
    }

    fn respond(&mut self, client: usize, operation: usize, response: Response) {
        self.operations[operation].response = Some((self.event, response));
        self.flights[client] = None;
    }

    /// A new slot with some of what waits, or with nothing of any client.
    fn propose(&mut self) {
        let mut commands = std::mem::take(&mut self.waiting);
        self.rng.shuffle(&mut commands);
        let count = self.rng.between(1, 4);
        self.waiting = commands.split_off(commands.len().min(usize::try_from(count).unwrap_or(1)));
        let bytes = commands.iter().filter_map(|operation| match &self.operations[*operation].ask {
            Ask::Update { command, .. } => Some(command.as_ref()),
            Ask::Read { .. } => None,
        });
        let value = match self.rng.below(20) {
            _ if !commands.is_empty() => Value::batch(bytes),
            0 => Value::Noop,
            1 => Value::MasterChange(NodeId(1)),
            _ => return,
        };
        self.slots.push(Proposed { commands, value, chosen_at: None });
    }

    /// A quorum gets one of the next slots, not always the first.
    fn choose(&mut self) {
        let slot = self.chosen + self.below(3);
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.chosen_at = slot.chosen_at.or(Some(self.event));
        }
        while self.slots.get(self.chosen).is_some_and(|slot| slot.chosen_at.is_some()) {
            self.chosen += 1;
        }
    }

    fn apply(&mut self, node: usize) {
        let (model, applied) = &mut self.nodes[node];
        if *applied == self.chosen {
            return;
        }
        for operation in &self.slots[*applied].commands {
            if let Ask::Update { update, .. } = &self.operations[*operation].ask {
                let result = model.run(update);
                if node == 0 {
                    self.results[*operation] = Some(result);
                }
            }
        }
        *applied += 1;
    }

    /// An update whose bytes no other operation has.
    fn any_update(&mut self, operation: usize) -> Update {
        let (key, value) = (self.any_key(), value_of(operation));
        match self.rng.below(6) {
            0 | 1 => Update::Set { key, value },
            2 => Update::Replace { key, wanted: Some(value) },
            3 => Update::TestAndSet { expected: self.any_value(&key), key, wanted: Some(value) },
            _ => {
                let count = self.rng.between(1, 3);
                let mut parts: Vec<Update> = (0..count).map(|_| self.any_part()).collect();
                let place = self.below(parts.len() + 1);
                parts.insert(place, Update::Set { key, value });
                Update::Sequence(parts)
            }
        }
    }

    fn any_part(&mut self) -> Update {
        let key = self.any_key();
        match self.rng.below(9) {
            0 | 1 => Update::Delete { key },
            2 => Update::Assert { expected: self.any_value(&key), key },
            3 => Update::AssertExists { key },
            4 => Update::DeletePrefix { prefix: prefix_of(&key) },
            5 => {
                let prefix = prefix_of(&key);
                let keys = Scan::prefix(&prefix, None).of(self.nodes[0].0.map()).map(|(key, _)| key.clone()).collect();
                Update::AssertRange { prefix, keys }
            }
            6 => Update::TestAndSet { expected: self.any_value(&key), key, wanted: None },
            7 => Update::Sequence(vec![Update::Nop, Update::Replace { key, wanted: None }]),
            _ => Update::Replace { key, wanted: None },
        }
    }

    fn any_query(&mut self) -> Query {
        let key = self.any_key();
        let max = self.rng.chance(0.5).then(|| self.below(5));
        match self.rng.below(8) {
            0 | 1 => Query::Get { key },
            2 => Query::Exists { key },
            3 => Query::MultiGet { keys: vec![key, self.any_key(), self.any_key()] },
            4 => Query::Range(self.any_scan(max)),
            5 => Query::RangeEntries(self.any_scan(max)),
            6 => Query::RevRangeEntries(self.any_scan(max)),
            _ => Query::PrefixKeys { prefix: prefix_of(&key), max },
        }
    }

    fn any_scan(&mut self, max: Option<usize>) -> Scan {
        let first = self.rng.below(self.shape.keys);
        let last = first + self.rng.below(SPAN_MAX.min(self.shape.keys));
        let mut bound = |number| match self.rng.below(2) {
            0 => Bound::Included(key_number(number)),
            _ => Bound::Excluded(key_number(number)),
        };
        Scan { first: bound(first), last: bound(last), max }
    }

    fn any_freshness(&mut self) -> Freshness {
        match self.rng.below(8) {
            0 => Freshness::NoGuarantees,
            1 => Freshness::AtLeast(Slot(self.rng.below(self.nodes[0].1 as u64 + 1))),
            other => Freshness::Consistent { by_lease: other % 2 == 0 },
        }
    }

    fn any_key(&mut self) -> Bytes {
        key_number(self.rng.below(self.shape.keys))
    }

    /// Mostly what the key has now.
    fn any_value(&mut self, key: &Bytes) -> Option<Bytes> {
        if self.rng.chance(0.7) { self.nodes[0].0.get(key) } else { None }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.rng.below(end as u64)).unwrap_or(0)
    }
}

/// The value that only this operation writes.
pub fn value_of(operation: usize) -> Bytes {
    format!("o{operation}").into()
}

fn key_number(number: u64) -> Bytes {
    format!("k{number:06}").into()
}

/// What ten keys begin with.
fn prefix_of(key: &Bytes) -> Bytes {
    key.slice(..key.len().saturating_sub(1))
}
