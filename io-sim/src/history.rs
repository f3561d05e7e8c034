//! What clients saw, and whether the log explains it: strict serialisability in linear time (K4), and outcomes (K8).

use std::collections::BTreeMap;

use trialbay_engine::Slot;

use crate::ledger::{Certified, Checked, violation};
use crate::model::{Command, KEYS, Outcome, Store};

/// A client operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it asked for.
    pub ask: Ask,
    /// The event of its invocation.
    pub invoked: u64,
    /// The event of its response, and the response. None: nobody knows what became of it.
    pub response: Option<(u64, Response)>,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An update.
    Update(Command),
    /// A consistent read of one key.
    Read {
        /// Which.
        key: u8,
        /// By the lease, or by a quorum round.
        by_lease: bool,
    },
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The update is done.
    Updated(Outcome),
    /// The key's value.
    Value(u64),
    /// It did not happen.
    Refused,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// Checks a whole history against the log that the ledger certifies.
///
/// # Errors
/// K4: the log does not explain a response; K8: an update happened that was refused, or happened twice.
pub fn check(operations: &[Operation], log: &[Certified]) -> Checked {
    let placed = place(operations, log)?;
    sweep(operations, log, &placed)
}

/// Where each update stands in the log, and what it gives there.
fn place(
    operations: &[Operation],
    log: &[Certified],
) -> Result<BTreeMap<u64, (u64, Outcome)>, crate::ledger::Violation> {
    let mut store = Store::default();
    let mut placed = BTreeMap::new();
    for (certified, slot) in log.iter().zip(1..) {
        for command in Command::all(&certified.value) {
            let op = command.op;
            let asked = index(op).and_then(|index| operations.get(index));
            let Some(asked) = asked.filter(|asked| asked.ask == Ask::Update(command)) else {
                violation("K8", format!("slot {slot} holds {command:?}, which no client asked for"))?;
                continue;
            };
            if asked.invoked >= certified.chosen_at {
                violation("K8", format!("operation {op} was chosen in slot {slot} before it was asked for"))?;
            }
            if let Some((at, Response::Refused)) = asked.response {
                violation("K8", format!("operation {op} was refused at event {at}, and happened in slot {slot}"))?;
            }
            let outcome = store.run(&command);
            if let Some((first, _)) = placed.insert(op, (slot, outcome)) {
                violation("K8", format!("operation {op} happened twice, in slots {first} and {slot}"))?;
            }
        }
    }
    Ok(placed)
}

/// Finds for each response, in the order of events, the earliest place in the log that explains it.
fn sweep(operations: &[Operation], log: &[Certified], placed: &BTreeMap<u64, (u64, Outcome)>) -> Checked {
    let versions = versions(log);
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        moments.push((operation.invoked, false, index));
        if let Some((at, Response::Updated(_) | Response::Value(_))) = operation.response {
            moments.push((at, true, index));
        }
    }
    moments.sort_unstable();
    let (mut chosen, mut position_max) = (0u64, 0u64);
    let mut floors = vec![0u64; operations.len()];
    for (event, is_response, index) in moments {
        while usize::try_from(chosen).ok().and_then(|next| log.get(next)).is_some_and(|next| next.chosen_at <= event) {
            chosen += 1;
        }
        if !is_response {
            floors[index] = position_max;
            continue;
        }
        let (operation, floor, op) = (&operations[index], floors[index], index as u64 + 1);
        let position = match (operation.ask, operation.response) {
            (Ask::Update(command), Some((_, Response::Updated(told)))) => {
                let Some((slot, outcome)) = placed.get(&op) else {
                    return violation(
                        "K8",
                        format!("operation {op} ({command:?}) was acknowledged and is not in the log"),
                    );
                };
                if *slot > chosen || 2 * slot <= floor {
                    return violation(
                        "K4",
                        format!(
                            "operation {op} ended at event {event} and stands in slot {slot}: chosen are {chosen}, position must exceed {floor}/2"
                        ),
                    );
                }
                if told != *outcome {
                    return violation(
                        "K4",
                        format!(
                            "operation {op} ({command:?}) in slot {slot} gives {outcome:?}, its client was told {told:?}"
                        ),
                    );
                }
                2 * slot
            }
            (Ask::Read { key, by_lease }, Some((_, Response::Value(value)))) => {
                let Some(slot) = first_with(&versions[usize::from(key)], value, floor / 2, chosen) else {
                    return violation(
                        "K4",
                        format!(
                            "read {op} of key {key} (by lease: {by_lease}) gave {value}, which it is not anywhere from slot {} to {chosen}",
                            floor / 2
                        ),
                    );
                };
                2 * slot + 1
            }
            _ => return violation("K8", format!("operation {op} got a response of another kind: {operation:?}")),
        };
        position_max = position_max.max(position);
    }
    Ok(())
}

/// For each key the slots after which its value is another one.
fn versions(log: &[Certified]) -> Vec<Vec<(u64, u64)>> {
    let mut versions = vec![vec![(0, 0)]; KEYS];
    let mut store = Store::default();
    for (certified, slot) in log.iter().zip(1..) {
        let before = store.keys;
        store.apply(Slot(slot), store.hash, &certified.value);
        for (key, versions) in versions.iter_mut().enumerate() {
            if store.keys[key] != before[key] {
                versions.push((slot, store.keys[key]));
            }
        }
    }
    versions
}

/// The first slot from `low` to `high` after which the key has `value`.
fn first_with(versions: &[(u64, u64)], value: u64, low: u64, high: u64) -> Option<u64> {
    let begin = versions.partition_point(|(slot, _)| *slot <= low).saturating_sub(1);
    let found = versions[begin..].iter().find(|(_, at)| *at == value)?;
    let slot = found.0.max(low);
    (slot <= high).then_some(slot)
}

fn index(op: u64) -> Option<usize> {
    usize::try_from(op.checked_sub(1)?).ok()
}
