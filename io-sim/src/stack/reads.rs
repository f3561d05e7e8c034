//! What the clients read, and how fresh: consistently from the master, or what one node of their choice has.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use trialbay::client::{Client, ClientError, KeyRange};
use trialbay::config::Reads;
use trialbay::consistency::Consistency;
use trialbay_engine::Slot;

use super::node::Machine;
use crate::check::history::Freshness;
use crate::check::query::{Query, QueryResult, Scan};
use crate::rng::Rng;

/// No list is longer.
const LISTED_MAX: u64 = 10;

/// A read that is to be made.
pub(super) struct Reading {
    pub(super) query: Query,
    pub(super) freshness: Freshness,
    /// Who is asked: the master, or this node.
    at: Option<Source>,
}

/// A node, and the life in which it was asked.
struct Source {
    machine: Arc<Machine>,
    life: u64,
}

impl Reading {
    /// Any read of keys that `key` draws. `seen`: a slot that the client knows some master to have applied.
    pub(super) fn any(
        rng: &mut Rng,
        machines: &[Arc<Machine>],
        reads: Reads,
        seen: Slot,
        key: impl Fn(&mut Rng) -> Bytes,
    ) -> Self {
        let query = query(rng, key);
        let by_lease = matches!(reads, Reads::Lease);
        let freshness = match rng.below(10) {
            0..6 => Freshness::Consistent { by_lease },
            6..8 => Freshness::NoGuarantees,
            _ => Freshness::AtLeast(seen),
        };
        let is_relaxed = !matches!(freshness, Freshness::Consistent { .. });
        let at = if is_relaxed { machines.get(below(rng, machines.len())).map(Source::now) } else { None };
        Self { query, freshness, at }
    }

    /// Makes it.
    pub(super) async fn make(&self, client: &Client) -> Result<QueryResult, ClientError> {
        let consistency = match self.freshness {
            Freshness::Consistent { .. } => Consistency::Consistent,
            Freshness::NoGuarantees => Consistency::NoGuarantees,
            Freshness::AtLeast(Slot(slot)) => Consistency::AtLeast(i64::try_from(slot).unwrap_or(i64::MAX)),
        };
        match &self.at {
            None => ask(client, &self.query, consistency).await,
            Some(source) => ask(&client.at(&source.machine.name)?, &self.query, consistency).await,
        }
    }

    /// How far the node that was asked is now, and so was at most when it answered. `None` when it is not the same process
    /// any more.
    pub(super) fn applied(&self) -> Option<Slot> {
        let Source { machine, life } = self.at.as_ref()?;
        let handle = machine.handle().filter(|_| machine.lives() == *life)?;
        Some(handle.applied())
    }
}

impl Source {
    fn now(machine: &Arc<Machine>) -> Self {
        Self { machine: machine.clone(), life: machine.lives() }
    }
}

fn query(rng: &mut Rng, key: impl Fn(&mut Rng) -> Bytes) -> Query {
    let one = key(rng);
    match rng.below(20) {
        0..8 => Query::Get { key: one },
        8..10 => Query::Exists { key: one },
        10..13 => {
            let others = rng.between(1, 4);
            // One may stand there twice.
            Query::MultiGet { keys: [one].into_iter().chain((0..others).map(|_| key(rng))).collect() }
        }
        13..15 => Query::PrefixKeys { prefix: one.slice(..one.len() - 1), max: max(rng) },
        15 => Query::Range(scan(rng, one, key)),
        16 => Query::RevRangeEntries(scan(rng, one, key)),
        _ => Query::RangeEntries(scan(rng, one, key)),
    }
}

fn scan(rng: &mut Rng, one: Bytes, key: impl Fn(&mut Rng) -> Bytes) -> Scan {
    let last = match rng.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key(rng)),
        _ => Bound::Excluded(key(rng)),
    };
    let first = if rng.chance(0.5) { Bound::Included(one) } else { Bound::Excluded(one) };
    Scan { first, last, max: max(rng) }
}

fn max(rng: &mut Rng) -> Option<usize> {
    let max = rng.between(1, LISTED_MAX);
    rng.chance(0.7).then(|| usize::try_from(max).expect("it is small"))
}

async fn ask(client: &Client, query: &Query, consistency: Consistency) -> Result<QueryResult, ClientError> {
    Ok(match query {
        Query::Get { key } => match client.get_with(key, consistency).await {
            Ok(value) => QueryResult::Value(Some(value)),
            Err(ClientError::NotFound { .. }) => QueryResult::Value(None),
            Err(error) => return Err(error),
        },
        Query::Exists { key } => QueryResult::Exists(client.exists_with(key, consistency).await?),
        Query::MultiGet { keys } => QueryResult::Values(client.multi_get_option(keys, consistency).await?),
        Query::Range(scan) => QueryResult::Keys(client.range(&range(scan), consistency).await?),
        Query::RangeEntries(scan) => QueryResult::Entries(client.range_entries(&range(scan), consistency).await?),
        Query::RevRangeEntries(scan) => {
            QueryResult::Entries(client.rev_range_entries(&range(scan), consistency).await?)
        }
        Query::PrefixKeys { prefix, max } => {
            QueryResult::Keys(client.prefix_keys(prefix, max.map(number), consistency).await?)
        }
    })
}

fn range(scan: &Scan) -> KeyRange {
    let side = |bound: &Bound<Bytes>| match bound {
        Bound::Included(key) => (Some(key.clone()), true),
        Bound::Excluded(key) => (Some(key.clone()), false),
        Bound::Unbounded => (None, true),
    };
    KeyRange { first: side(&scan.first), last: side(&scan.last), max: scan.max.map(number) }
}

fn number(max: usize) -> u32 {
    u32::try_from(max).expect("it is small")
}

fn below(rng: &mut Rng, end: usize) -> usize {
    usize::try_from(rng.below(end as u64)).expect("it is below a length")
}
