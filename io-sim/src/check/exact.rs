//! Whether any order at all explains a small history: an exact search, without the log. The ground truth.

use std::collections::BTreeSet;

use bytes::Bytes;
use trialbay::update::Update;

use super::history::{Ask, Freshness, Operation, Response};
use super::model::{Model, agrees};

/// The most operations that the search takes: its time grows without mercy.
pub const OPERATIONS_MAX: usize = 40;

/// An order that explains all that clients were told, if there is one: the operations that happened, each between its
/// invocation and its response. Updates of unknown outcome happen at any time after their invocation, or never.
///
/// Without the log nobody knows what a slot's state was, so a relaxed read is explained by any state that holds
/// nothing which was asked for after its response. It bounds nobody else.
///
/// # Panics
/// With more than [`OPERATIONS_MAX`] operations.
pub fn explain(operations: &[Operation]) -> Option<Vec<usize>> {
    assert!(operations.len() <= OPERATIONS_MAX, "an exact search is for small histories");
    let mut search = Search { operations, must: 0, order: Vec::new(), seen: BTreeSet::new() };
    search.must = search.each(|operation| told(operation).is_some());
    search.explore(0, &Model::default()).then_some(search.order)
}

/// Sets of operations are masks: bit i stands for operation i.
struct Search<'a> {
    operations: &'a [Operation],
    /// Those that happened for sure.
    must: u64,
    /// What has been placed on the way to here, in its order.
    order: Vec<usize>,
    /// The sets and states from which nothing was found.
    seen: BTreeSet<(u64, Vec<(Bytes, Bytes)>)>,
}

impl Search<'_> {
    fn explore(&mut self, done: u64, model: &Model) -> bool {
        let depth = self.order.len();
        let done = self.place_reads(done, model);
        if self.must & !done == 0 {
            return true;
        }
        let state = model.map().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if self.seen.insert((done, state)) {
            for (index, operation) in self.operations.iter().enumerate() {
                let Some(update) =
                    happens(operation).filter(|_| done & bit(index) == 0 && self.may_be_next(index, done))
                else {
                    continue;
                };
                let mut next = model.clone();
                let given = next.run(update);
                if let Some(Response::Updated(told)) = told(operation)
                    && !agrees(told, &given)
                {
                    continue;
                }
                self.order.push(index);
                if self.explore(done | bit(index), &next) {
                    return true;
                }
                self.order.pop();
            }
        }
        self.order.truncate(depth);
        false
    }

    /// Places every read that may come next and sees what it was told. A read changes nothing, so as early as possible
    /// is never wrong.
    fn place_reads(&mut self, mut done: u64, model: &Model) -> u64 {
        for (index, operation) in self.operations.iter().enumerate() {
            let (Ask::Read { query, .. }, Some(Response::Read(told))) = (&operation.ask, told(operation)) else {
                continue;
            };
            if done & bit(index) == 0 && self.may_be_next(index, done) && model.read(query) == *told {
                done |= bit(index);
                self.order.push(index);
                // Others may have waited for this one.
                return self.place_reads(done, model);
            }
        }
        done
    }

    fn may_be_next(&self, index: usize, done: u64) -> bool {
        let operation = &self.operations[index];
        if is_relaxed(operation) {
            let end = ended(operation).unwrap_or(u64::MAX);
            return self.each(|other| happens(other).is_some() && other.invoked > end) & done == 0;
        }
        let before = |other: &Operation| !is_relaxed(other) && ended(other).is_some_and(|end| end < operation.invoked);
        self.each(|other| told(other).is_some() && before(other)) & !done == 0
    }

    fn each(&self, holds: impl Fn(&Operation) -> bool) -> u64 {
        let all = self.operations.iter().enumerate();
        all.filter(|(_, operation)| holds(operation)).fold(0, |mask, (index, _)| mask | bit(index))
    }
}

/// The update that an operation is, unless it was refused.
fn happens(operation: &Operation) -> Option<&Update> {
    match (&operation.ask, &operation.response) {
        (Ask::Update { .. }, Some((_, Response::Refused))) | (Ask::Read { .. }, _) => None,
        (Ask::Update { update, .. }, _) => Some(update),
    }
}

/// What the client learnt of its result.
fn told(operation: &Operation) -> Option<&Response> {
    operation.response.as_ref().map(|(_, response)| response).filter(|response| match response {
        Response::Updated(_) | Response::Read(_) => true,
        Response::Refused | Response::Unknown => false,
    })
}

fn ended(operation: &Operation) -> Option<u64> {
    operation.response.as_ref().map(|(at, _)| *at)
}

fn is_relaxed(operation: &Operation) -> bool {
    matches!(operation.ask, Ask::Read { freshness: Freshness::AtLeast(_) | Freshness::NoGuarantees, .. })
}

fn bit(index: usize) -> u64 {
    1 << index
}
