//! The clients: they work through the real client library, and write down what they asked and what they were told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use trialbay::client::{Client, ClientError, ClientOptions, Happened, Sequence};
use trialbay::consistency::Consistency;
use trialbay::update::{Failure, Outcome, Update, encode_command};
use trialbay_engine::Slot;

use super::home::now;
use super::network::{SimNetwork, Sockets};
use super::node::{CLUSTER, Machine, endpoint};
use super::plan::StackPlan;
use super::reads::Reading;
use super::trace::Trace;
use super::watch::{Watch, asked, outcome, told};
use crate::check::history::{Ask, Operation, Response};
use crate::rng::Rng;
use crate::trace::What;

/// The stream of the first client's chance.
const STREAM: u64 = 500;

/// Of a hundred calls the last ones read, from this one on.
const READS_FROM: u64 = 70;

/// How long a client that stays with one node waits for an answer before it asks again.
const LOYAL_CALL_MS: (u64, u64) = (100, 1_000);

/// All keys that clients share begin with this,
const KEY_PREFIX: &str = "k";
/// and the key with which a client tells its deletions apart with this.
const MARK_PREFIX: &str = "mark";

/// What clients asked and were told. Clones share it.
#[derive(Clone)]
pub(super) struct History(Rc<RefCell<Inner>>, Watch);

#[derive(Default)]
struct Inner {
    events: u64,
    operations: Vec<Operation>,
    /// When each update was acknowledged, in simulated time.
    acknowledged_at: Vec<Duration>,
}

impl History {
    pub(super) fn new(watch: Watch) -> Self {
        Self(Rc::default(), watch)
    }

    /// The number of an event that happens now.
    pub(super) fn event(&self) -> u64 {
        let mut inner = self.0.borrow_mut();
        inner.events += 1;
        inner.events
    }

    /// All operations, in the order in which they were asked for.
    pub(super) fn operations(&self) -> Vec<Operation> {
        self.0.borrow().operations.clone()
    }

    /// When updates were acknowledged.
    pub(super) fn acknowledged_at(&self) -> Vec<Duration> {
        self.0.borrow().acknowledged_at.clone()
    }

    fn asks(&self, client: u64, ask: Ask) -> usize {
        let invoked = self.event();
        let operations = &mut self.0.borrow_mut().operations;
        let op = operations.len() as u64;
        self.1.tell(now(), || What::Invoked { client, op, text: asked(&ask) });
        operations.push(Operation { client, ask, invoked, response: None, applied: None });
        operations.len() - 1
    }

    /// The node that served a relaxed read is this far.
    fn was_served_at(&self, index: usize, applied: Option<Slot>) {
        self.0.borrow_mut().operations[index].applied = applied;
    }

    fn is_told(&self, index: usize, response: Response) {
        let event = self.event();
        let mut inner = self.0.borrow_mut();
        if matches!(response, Response::Updated(_)) {
            inner.acknowledged_at.push(Duration::from_nanos(now()));
        }
        let (client, op) = (inner.operations[index].client, index as u64);
        self.1.tell(now(), || What::Responded { client, op, text: told(&response), outcome: outcome(&response) });
        inner.operations[index].response = Some((event, response));
    }
}

/// Runs all clients until they are told to stop; each ends with its last call.
pub(super) async fn run(
    plan: StackPlan,
    machines: Rc<[Arc<Machine>]>,
    history: History,
    trace: Trace,
    stop: Rc<Cell<bool>>,
) {
    let mut clients = JoinSet::new();
    for number in 0..u64::from(plan.clients) {
        let mut rng = Rng::new(plan.seed, STREAM + number);
        let is_loyal = number < u64::from(plan.loyal);
        let (nodes, timeout) = if is_loyal {
            let node = u16::try_from(number).unwrap_or(0) % plan.nodes + 1;
            (node..=node, Duration::from_millis(rng.magnitude(LOYAL_CALL_MS.0, LOYAL_CALL_MS.1)))
        } else {
            (1..=plan.nodes, plan.call_max)
        };
        let options = ClientOptions::new(CLUSTER, nodes.clone().map(endpoint));
        let mut options = ClientOptions { timeout, ..options.expect("the endpoints are well-formed") };
        if !is_loyal {
            // Or all would wait for a master that stands still until another one's time is over as well.
            (options.connect_timeout, options.silence_max) = (plan.lease / 2, plan.lease / 2);
        }
        let dial = Arc::new(SimNetwork::new(Sockets::default(), trace.clone()));
        let user = User {
            number,
            client: Client::with_dial(options, dial).expect("the options make sense"),
            is_loyal,
            rng,
            plan: plan.clone(),
            history: history.clone(),
            trace: trace.clone(),
            calls: 0,
            machines: machines.iter().filter(|machine| nodes.contains(&machine.id)).cloned().collect(),
            seen: Slot::ZERO,
        };
        clients.spawn_local(user.work(stop.clone()));
    }
    while clients.join_next().await.is_some() {}
}

/// One client.
struct User {
    number: u64,
    is_loyal: bool,
    client: Client,
    rng: Rng,
    plan: StackPlan,
    history: History,
    trace: Trace,
    calls: u64,
    /// The nodes that it knows of.
    machines: Rc<[Arc<Machine>]>,
    /// A slot that some master had applied.
    seen: Slot,
}

impl User {
    async fn work(mut self, stop: Rc<Cell<bool>>) {
        while !stop.get() {
            let (low, high) = self.plan.rest_ms;
            tokio::time::sleep(Duration::from_millis(self.rng.between(low, high))).await;
            self.calls += 1;
            let reads = self.is_loyal && self.rng.chance(0.6);
            let wish = if reads { self.rng.between(READS_FROM, 99) } else { self.rng.below(100) };
            match wish {
                0..35 => self.set().await,
                35..50 => self.test_and_set().await,
                50..55 => self.set_two().await,
                55..60 => self.move_one().await,
                60..67 => self.delete().await,
                67..READS_FROM => self.look_how_far_the_master_is().await,
                READS_FROM.. => self.read().await,
            }
        }
    }

    async fn set(&mut self) {
        let (key, value) = (self.key(), self.value());
        let update = Update::Set { key: key.clone(), value: value.clone() };
        let client = self.client.clone();
        self.update(update, async move { client.set(key, value).await.map(|()| Outcome::Done) }).await;
    }

    async fn test_and_set(&mut self) {
        let (key, wanted) = (self.key(), Some(self.value()));
        // It is absent at first, and from time to time again.
        let expected = None;
        let update = Update::TestAndSet { key: key.clone(), expected: expected.clone(), wanted: wanted.clone() };
        let client = self.client.clone();
        let call = async move {
            client.test_and_set(key, expected.as_deref(), wanted.as_deref()).await.map(Outcome::Previous)
        };
        self.update(update, call).await;
    }

    async fn set_two(&mut self) {
        let (first, second, value) = (self.key(), self.key(), self.value());
        self.sequence(Sequence::new().set(first, &value).set(second, &value)).await;
    }

    /// Or nothing, if there is none to move.
    async fn move_one(&mut self) {
        let (from, to, value) = (self.key(), self.key(), self.value());
        self.sequence(Sequence::new().delete(from).set(to, value)).await;
    }

    /// With a mark, by which the log tells it from any other deletion.
    async fn delete(&mut self) {
        let (key, value) = (self.key(), self.value());
        let mark = format!("{MARK_PREFIX}{}", self.number);
        self.sequence(Sequence::new().set(mark, value).delete(key)).await;
    }

    async fn sequence(&mut self, sequence: Sequence) {
        let client = self.client.clone();
        let update = Update::Sequence(sequence.clone().into_updates());
        self.update(update, async move { client.sequence(sequence).await.map(|()| Outcome::Done) }).await;
    }

    /// For later reads, which must see at least as much, from whatever node.
    async fn look_how_far_the_master_is(&mut self) {
        if let Ok(Consistency::AtLeast(slot)) = self.client.get_txid().await {
            self.seen = Slot(u64::try_from(slot).unwrap_or(0));
        }
    }

    async fn read(&mut self) {
        let keys = self.plan.keys;
        let reading = Reading::any(&mut self.rng, &self.machines, self.plan.reads, self.seen, |rng| any_key(rng, keys));
        let index = self.asks(Ask::Read { query: reading.query.clone(), freshness: reading.freshness });
        let response = reading.make(&self.client).await.map_or(Response::Refused, Response::Read);
        self.history.was_served_at(index, reading.applied());
        self.is_told(index, response);
    }

    async fn update(&mut self, update: Update, call: impl Future<Output = Result<Outcome, ClientError>>) {
        let command = encode_command(&update);
        let index = self.asks(Ask::Update { update, command });
        let response = match call.await.map_err(failure) {
            Ok(outcome) => Response::Updated(Ok(outcome)),
            Err(Ok(failure)) => Response::Updated(Err(failure)),
            Err(Err(Happened::No)) => Response::Refused,
            Err(Err(Happened::Unknown)) => Response::Unknown,
        };
        self.is_told(index, response);
    }

    fn asks(&self, ask: Ask) -> usize {
        let index = self.history.asks(self.number, ask.clone());
        let bytes = match ask {
            Ask::Update { command, .. } => command,
            Ask::Read { query, freshness } => format!("{query:?} {freshness:?}").into(),
        };
        self.trace.note(now(), &format!("{index} asks"), &bytes);
        index
    }

    fn is_told(&self, index: usize, response: Response) {
        self.trace.note(now(), &format!("{index} is told"), format!("{response:?}").as_bytes());
        self.history.is_told(index, response);
    }

    fn key(&mut self) -> Bytes {
        any_key(&mut self.rng, self.plan.keys)
    }

    /// A value that no other call writes.
    fn value(&mut self) -> Bytes {
        let padding = usize::try_from(self.rng.below(self.plan.padding_max + 1)).unwrap_or(0);
        format!("{}.{} {}", self.number, self.calls, "x".repeat(padding)).into()
    }
}

fn any_key(rng: &mut Rng, keys: u64) -> Bytes {
    format!("{KEY_PREFIX}{:03}", rng.below(keys)).into()
}

/// What the store said of an update that was decided and did not succeed; or else whether it happened.
fn failure(error: ClientError) -> Result<Failure, Happened> {
    match error {
        ClientError::NotFound { key } => Ok(Failure::NotFound { key }),
        ClientError::AssertionFailed { message } => Ok(Failure::AssertionFailed { message }),
        error => Err(error.happened()),
    }
}
