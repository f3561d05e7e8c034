//! Clients: each makes one request after the other, at whatever node it takes for the master.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;
use trialbay::update::{Outcome as Updated, Update, encode_command};
use trialbay_engine::{Event, NodeId, ReadId, Refusal, Request as Proposal, RequestId, Slot};

use super::store::{Map, Store};
use super::{Happening, World};
use crate::check::Checked;
use crate::check::history::{Ask, Freshness, Operation, Response};
use crate::check::query::{Query, QueryResult, Scan};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::scenario::draw::stream;
use crate::scenario::{MS, Op, Request, Span, Verb};
use crate::trace::{Outcome, What};

/// How long a client waits for a response, in leases.
const PATIENCE_LEASES: u64 = 6;
/// Requests of clients that only show that the cluster goes on have ids from here on.
const PROBE_IDS: u64 = 1 << 40;
/// The longest pause of those, in leases over eight.
const PROBE_PAUSE_MAX: u64 = 50 * MS;

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    queue: VecDeque<Op>,
    /// The node that it takes for the master.
    guess: NodeId,
    /// It makes up requests for ever: with what chance, and how many so far.
    probe: Option<(Rng, u64)>,
    /// The requests that it made, and when.
    pub(crate) made: Vec<Op>,
    /// Its request that waits for a response, and the node that it asked.
    open: Option<(usize, NodeId)>,
}

/// A read between two looks at the lease.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// What was read, if it was read already.
    value: Option<QueryResult>,
    /// Counts the times at which the node began to serve.
    since: u64,
    /// Whether it is served, if that is known already.
    served: Option<bool>,
}

impl World {
    pub(super) fn add_client(&mut self, queue: VecDeque<Op>) {
        let client = self.clients.len();
        let (at, after) = queue.front().map_or((0, 0), |op| (op.at.0, op.after.0));
        self.clients.push(Client { queue, guess: NodeId(1), probe: None, made: Vec::new(), open: None });
        self.schedule(at.max(after), Happening::ClientNext { client });
    }

    pub(super) fn add_probe(&mut self, number: u16) {
        let client = self.clients.len();
        let rng = Rng::new(self.seed, stream::OPERATION + PROBE_IDS + u64::from(number));
        let (queue, made) = (VecDeque::new(), Vec::new());
        self.clients.push(Client { queue, guess: NodeId(1), probe: Some((rng, 0)), made, open: None });
        self.schedule(0, Happening::ClientNext { client });
    }

    pub(super) fn client_next(&mut self, client: usize) -> Checked {
        if self.ending.clients_end {
            return Ok(());
        }
        let asking = &mut self.clients[client];
        let next = match &mut asking.probe {
            Some((rng, count)) => Some(probe(client, rng, count)),
            // Who asks for what the scenario lists is done when the faults end.
            None if self.calm => None,
            None => asking.queue.pop_front(),
        };
        let Some(op) = next else { return Ok(()) };
        let id = op.id.unwrap_or(0);
        let number = u16::try_from(client).unwrap_or(u16::MAX);
        asking.made.push(Op { client: number, at: Span(self.now), after: Span(0), ..op.clone() });
        let is_loyal = asking.probe.is_none() && op.client < self.scenario.workload.loyal;
        let theirs = NodeId(op.client % u16::try_from(self.nodes.len()).unwrap_or(1) + 1);
        let mut rng = Rng::new(self.seed, stream::OPERATION + id);
        let ask = self.ask(&op.request, id, &mut rng);
        let nodes = self.nodes.len() as u64;
        let anyone = NodeId(u16::try_from(rng.between(1, nodes)).unwrap_or(1));
        let target = match is_loyal.then_some(theirs) {
            Some(node) => node,
            None if rng.chance(0.9) => self.clients[client].guess,
            None => anyone,
        };
        let delay = rng.magnitude(10_000, MS);
        if let Ask::Update { command, .. } = &ask {
            self.availability.asked(self.now)?;
            self.bounds.commanded(command.len());
        }
        self.ending.asked();
        self.event += 1;
        let index = self.operations.len();
        let (invoked, text) = (self.event, op.request.to_string());
        self.moments.push((self.event, self.now));
        self.operations.push(Operation { client: client as u64, ask, invoked, response: None, applied: None });
        self.tell(|| What::Invoked { client: client as u64, op: index as u64, text });
        self.clients[client].open = Some((index, target));
        if !self.node(target).is_up() {
            self.clients[client].guess = anyone;
            self.respond(index, Response::Refused);
            return Ok(());
        }
        let life = self.node(target).life;
        self.schedule(delay, Happening::Submit { node: target, life, op: index });
        let patience = PATIENCE_LEASES * self.scenario.cluster.lease.0;
        self.schedule(patience, Happening::ClientTimeout { op: index });
        Ok(())
    }

    pub(super) fn submit(&mut self, id: NodeId, op: usize) -> Checked {
        let now = self.now;
        let serving = self.node(id).is_serving(now);
        let early = self.mutant == Some(Mutant::AcknowledgedEarly) && serving;
        let unchecked = self.mutant == Some(Mutant::AtLeastUnchecked);
        let ask = self.operations[op].ask.clone();
        let is_witness = self.scenario.is_witness(id);
        let Some(process) = &mut self.node(id).process else { return Ok(()) };
        match ask {
            // Rule E3.
            Ask::Read { freshness, .. } if is_witness && !matches!(freshness, Freshness::Consistent { .. }) => {
                self.respond(op, Response::Refused);
                Ok(())
            }
            Ask::Update { command, .. } => {
                let request = RequestId(process.number());
                process.updates.insert(request, op);
                if early {
                    let mut store = process.store.clone();
                    let value = trialbay_engine::Value::batch([command.as_ref()]);
                    let result = store.apply(store.applied, store.hash, &value).pop();
                    self.respond(op, result.map_or(Response::Unknown, Response::Updated));
                }
                self.step(id, Event::Requested(vec![Proposal { id: request, command }]))
            }
            Ask::Read { freshness: Freshness::Consistent { by_lease: false }, .. } => {
                let read = ReadId(process.number());
                process.reads.insert(read, op);
                self.step(id, Event::ReadRequested(read))
            }
            Ask::Read { freshness: Freshness::Consistent { by_lease: true }, query } => {
                let value = read(&process.store.map, &query);
                let since = process.serving_since;
                self.read_by_lease(id, op, serving, Reading { value: Some(value), since, served: None });
                Ok(())
            }
            Ask::Read { query, freshness } => {
                let (value, applied) = (read(&process.store.map, &query), process.store.applied);
                self.operations[op].applied = Some(applied);
                if let Freshness::AtLeast(slot) = freshness {
                    if applied < slot && !unchecked {
                        self.mark("reads of a node not far enough");
                        self.respond(op, Response::Refused);
                        return Ok(());
                    }
                    self.mark("at-least reads");
                }
                self.mark("relaxed reads");
                self.respond(op, Response::Read(value));
                Ok(())
            }
        }
    }

    /// Rule R1: what is read is fixed between two looks at one and the same lease. With the second alone, a read of a
    /// store that was behind would be served by a node that becomes master in between.
    fn read_by_lease(&mut self, id: NodeId, op: usize, first: bool, mut reading: Reading) {
        reading.served = match self.mutant {
            Some(Mutant::LeaseUnchecked) => Some(true),
            Some(Mutant::NullLeaseCheckedFirst) => Some(first),
            Some(Mutant::LeaseCheckedLast) => None,
            _ if first => None,
            _ => Some(false),
        };
        let late = self.mutant == Some(Mutant::NullLeaseCheckedFirst);
        if late {
            // Harmless: at the first look the store had everything, and what it holds later it may give later.
            reading.value = None;
        }
        let lease = self.scenario.cluster.lease.0;
        let node = self.node(id);
        let delay = match node.rng.below(10) {
            0 if late => node.rng.between(lease, 6 * lease),
            0 => node.rng.magnitude(MS, 2 * lease),
            _ => node.rng.below(MS),
        };
        let life = node.life;
        self.schedule(delay, Happening::CheckLease { node: id, life, op, read: reading });
    }

    pub(super) fn look_at_lease_again(&mut self, id: NodeId, op: usize, reading: Reading) {
        let now = self.now;
        let unchecked = self.mutant == Some(Mutant::LeaseCheckedLast);
        let mixes = self.mutant == Some(Mutant::RangeMixesSlots);
        let Ask::Read { query, .. } = self.operations[op].ask.clone() else { return };
        let serving = self.node(id).is_serving(now);
        let Some(process) = &self.node(id).process else { return };
        let same = unchecked || process.serving_since == reading.since;
        if reading.served.unwrap_or(same && serving) {
            let now = || read(&process.store.map, &query);
            let value = match reading.value {
                None => now(),
                Some(value) if mixes => halves(value, now()),
                Some(value) => value,
            };
            self.mark("lease reads");
            self.respond(op, Response::Read(value));
        } else {
            let master = process.engine.known_master();
            self.note_master(op, Refusal::NotMaster { master });
            self.respond(op, Response::Refused);
        }
    }

    pub(super) fn serve_waiting_reads(&mut self, id: NodeId) {
        let early = self.mutant == Some(Mutant::ReadBeforeApplied);
        let Some(process) = &mut self.node(id).process else { return };
        let applied = process.store.applied;
        let is_ready = |at: Slot| early || at <= applied;
        let waiting = std::mem::take(&mut process.waiting_reads);
        let (ready, waiting) = waiting.into_iter().partition::<Vec<_>, _>(|(at, _)| is_ready(*at));
        process.waiting_reads = waiting;
        for (_, op) in ready {
            self.answer_from_store(id, op);
        }
    }

    pub(super) fn answer_from_store(&mut self, id: NodeId, op: usize) {
        let Ask::Read { query, .. } = self.operations[op].ask.clone() else { return };
        let Some(process) = &self.node(id).process else { return };
        let value = read(&process.store.map, &query);
        self.mark("quorum reads");
        self.respond(op, Response::Read(value));
    }

    /// Where the client of `op` should go next.
    pub(super) fn note_master(&mut self, op: usize, reason: Refusal) {
        let Some(client) = self.client_of(op) else { return };
        let nodes = u16::try_from(self.nodes.len()).unwrap_or(1);
        let Some((_, target)) = self.clients[client].open else { return };
        // The next one in turn.
        let anyone = NodeId(target.0 % nodes + 1);
        self.clients[client].guess = match reason {
            Refusal::NotMaster { master } => master.filter(|master| *master != target).unwrap_or(anyone),
            Refusal::Overloaded => target,
            Refusal::Stopping | Refusal::OutcomeUnknown => anyone,
        };
    }

    pub(super) fn respond(&mut self, op: usize, response: Response) {
        let Some(client) = self.client_of(op) else { return };
        self.event += 1;
        self.clients[client].open = None;
        let outcome = match &response {
            Response::Updated(_) => {
                self.mark("updates acknowledged");
                self.availability.acknowledged();
                if self.calm && self.ending.first_progress.is_none() {
                    self.ending.first_progress = Some(self.now);
                    self.progressed();
                }
                Outcome::Ok
            }
            Response::Read(_) => {
                self.mark("reads served");
                Outcome::Ok
            }
            Response::Refused => {
                self.mark("refusals");
                Outcome::Refused
            }
            Response::Unknown => {
                self.mark("unknown responses");
                Outcome::Unknown
            }
        };
        let text = || shown(&response);
        self.watch.record(self.now, self.event, || What::Responded {
            client: client as u64,
            op: op as u64,
            text: text(),
            outcome,
        });
        self.trace(4, op as u64, self.event);
        self.moments.push((self.event, self.now));
        self.operations[op].response = Some((self.event, response));
        let pause = if outcome == Outcome::Ok { 0 } else { 5 * MS };
        self.next_request_of(client, pause);
    }

    pub(super) fn client_gives_up(&mut self, op: usize) {
        let Some(client) = self.client_of(op) else { return };
        self.mark("clients gave up");
        self.note_master(op, Refusal::OutcomeUnknown);
        self.clients[client].open = None;
        self.tell(|| What::Responded {
            client: client as u64,
            op: op as u64,
            text: "no answer".to_owned(),
            outcome: Outcome::Unknown,
        });
        self.next_request_of(client, 0);
    }

    fn next_request_of(&mut self, client: usize, pause: u64) {
        let now = self.now;
        let asking = &mut self.clients[client];
        let delay = match (&mut asking.probe, asking.queue.front()) {
            (Some((rng, _)), _) => rng.below(PROBE_PAUSE_MAX) + pause,
            (None, Some(op)) => (op.after.0 + pause).max(op.at.0.saturating_sub(now)),
            (None, None) => return,
        };
        self.schedule(delay, Happening::ClientNext { client });
    }

    /// A node went down: its clients' connections break, and what they asked for may or may not happen.
    pub(super) fn abandon_clients_of(&mut self, id: NodeId) {
        let open = self.clients.iter().filter_map(|client| client.open);
        let ops: Vec<usize> = open.filter(|(_, node)| *node == id).map(|(op, _)| op).collect();
        for op in ops {
            self.note_master(op, Refusal::OutcomeUnknown);
            self.respond(op, Response::Unknown);
        }
    }

    /// The client that waits for a response to `op`.
    fn client_of(&self, op: usize) -> Option<usize> {
        let client = usize::try_from(self.operations[op].client).ok()?;
        (self.clients[client].open?.0 == op).then_some(client)
    }

    /// Each update writes a value that names the operation: the checkers find it in the log by that.
    fn ask(&self, request: &Request, id: u64, rng: &mut Rng) -> Ask {
        let key = |index: usize| Bytes::from(request.keys.get(index).cloned().unwrap_or_default());
        let padding = usize::try_from(rng.below(self.scenario.workload.padding_max + 1)).unwrap_or(0);
        let value = Bytes::from(format!("{id}:{}", "x".repeat(padding)));
        // Of those that write nothing by themselves.
        let mark = || Update::Set { key: Bytes::from(format!("m{}", id % 4)), value: value.clone() };
        let update = match request.verb {
            Verb::Set => Update::Set { key: key(0), value: value.clone() },
            Verb::Cas => Update::TestAndSet { key: key(0), expected: self.guess(&key(0)), wanted: Some(value.clone()) },
            Verb::Replace => Update::Replace { key: key(0), wanted: Some(value.clone()) },
            Verb::Delete => Update::Sequence(vec![mark(), Update::Delete { key: key(0) }]),
            Verb::Clear => Update::Sequence(vec![mark(), Update::DeletePrefix { prefix: key(0) }]),
            Verb::Pair => {
                let (one, two) = (key(0), key(1));
                let assertion = |key: &Bytes| match self.guess(key) {
                    Some(_) => Update::AssertExists { key: key.clone() },
                    None => Update::Assert { key: key.clone(), expected: None },
                };
                let set = |key: &Bytes| Update::Set { key: key.clone(), value: value.clone() };
                Update::Sequence(vec![set(&one), assertion(&two), set(&two)])
            }
            Verb::Get | Verb::QuorumGet | Verb::RelaxedGet | Verb::AtLeastGet => {
                let freshness = match request.verb {
                    Verb::RelaxedGet => Freshness::NoGuarantees,
                    Verb::AtLeastGet => {
                        Freshness::AtLeast(Slot(self.furthest().applied.0.saturating_sub(rng.below(4))))
                    }
                    verb => Freshness::Consistent { by_lease: verb == Verb::Get },
                };
                return Ask::Read { query: Query::Get { key: key(0) }, freshness };
            }
            Verb::Range | Verb::QuorumRange => {
                let (first, last) = (Bound::Included(key(0)), Bound::Included(key(1)));
                let freshness = Freshness::Consistent { by_lease: request.verb == Verb::Range };
                return Ask::Read { query: Query::RangeEntries(Scan { first, last, max: None }), freshness };
            }
        };
        let command = encode_command(&update);
        Ask::Update { update, command }
    }

    /// What the furthest store holds there: often right, often just overwritten.
    fn guess(&self, key: &Bytes) -> Option<Bytes> {
        self.furthest().map.keys.get(key).cloned()
    }

    fn furthest(&self) -> &Store {
        let stores = self.nodes.iter().map(|node| node.process.as_ref().map_or(&node.durable_store, |up| &up.store));
        stores.max_by_key(|store| store.applied).expect("a cluster has a node")
    }
}

fn probe(client: usize, rng: &mut Rng, count: &mut u64) -> Op {
    *count += 1;
    let verbs = [Verb::Set, Verb::Set, Verb::Get, Verb::QuorumGet];
    let verb = rng.pick(&verbs).unwrap_or(Verb::Set);
    let request = Request { verb, keys: vec![format!("k{}", rng.below(4))] };
    let id = PROBE_IDS + ((client as u64) << 20) + *count;
    Op { client: 0, at: Span(0), after: Span(0), request, id: Some(id) }
}

/// A read of a store, by code of this world's own: the checkers' model is not asked.
fn read(map: &Map, query: &Query) -> QueryResult {
    match query {
        Query::Get { key } => QueryResult::Value(map.keys.get(key).cloned()),
        Query::RangeEntries(scan) => {
            let entries = map.keys.iter().filter(|(key, _)| scan.contains(key));
            QueryResult::Entries(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        other => unreachable!("no client of this world asks for {other:?}"),
    }
}

/// A planted bug: the first half of a range as it was, the rest as it is.
fn halves(before: QueryResult, now: QueryResult) -> QueryResult {
    let (QueryResult::Entries(before), QueryResult::Entries(now)) = (&before, &now) else { return before };
    let Some((middle, _)) = before.get(before.len() / 2) else { return QueryResult::Entries(before.clone()) };
    let first = before.iter().filter(|(key, _)| key < middle);
    QueryResult::Entries(first.chain(now.iter().filter(|(key, _)| key >= middle)).cloned().collect())
}

/// The beginning of a value: the operation that wrote it.
fn name(value: Option<&Bytes>) -> String {
    let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
    text.map_or("nothing".to_owned(), |text| text.split(':').next().unwrap_or_default().to_owned())
}

fn shown(response: &Response) -> String {
    match response {
        Response::Updated(Ok(Updated::Previous(before))) => format!("done, before it was {}", name(before.as_ref())),
        Response::Updated(result) => format!("{result:?}"),
        Response::Read(QueryResult::Value(value)) => name(value.as_ref()),
        Response::Read(QueryResult::Entries(entries)) => {
            let entries = entries.iter().map(|(key, value)| format!("{}={}", key.escape_ascii(), name(Some(value))));
            entries.collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}
