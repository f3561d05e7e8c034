//! The checker's own question, answered by force: does *this* log explain the history, by any choice of a state for
//! each read? It keeps the whole store for each slot and compares all pairs of operations.

use crate::check::history::{Ask, Certified, Freshness, Operation, Response};
use crate::check::model::{Model, agrees};

/// Where operations stand: 2·slot of an update, 2·slot + 1 of a consistent read.
type Places = Vec<Option<usize>>;

pub(super) fn explains(operations: &[Operation], log: &[Certified]) -> bool {
    let Some((places, states)) = replay(operations, log) else { return false };
    let relaxed_fit = operations.iter().all(|operation| match freshness(operation) {
        Some(Freshness::Consistent { .. }) | None => true,
        Some(Freshness::AtLeast(slot)) => {
            !candidates(operation, log, &states, usize::try_from(slot.0).unwrap()).is_empty()
        }
        Some(Freshness::NoGuarantees) => !candidates(operation, log, &states, 0).is_empty(),
    });
    relaxed_fit && place_reads(operations, log, &states, places, 0)
}

/// Where the log puts the updates, and the store after each slot.
fn replay(operations: &[Operation], log: &[Certified]) -> Option<(Places, Vec<Model>)> {
    let mut places = vec![None; operations.len()];
    let mut states = vec![Model::default()];
    for (index, certified) in log.iter().enumerate() {
        let mut model = states[index].clone();
        for bytes in certified.value.commands() {
            let bytes = bytes.ok()?;
            let is_it =
                |operation: &Operation| matches!(&operation.ask, Ask::Update { command, .. } if *command == bytes);
            let found = operations.iter().position(is_it)?;
            let Ask::Update { update, .. } = &operations[found].ask else { return None };
            let given = model.run(update);
            let told_right = match &operations[found].response {
                Some((_, Response::Refused)) => false,
                Some((_, Response::Updated(told))) => agrees(told, &given),
                _ => true,
            };
            if !told_right || operations[found].invoked >= certified.chosen_at || places[found].is_some() {
                return None;
            }
            places[found] = Some(2 * (index + 1));
        }
        states.push(model);
    }
    for (operation, place) in operations.iter().zip(&places) {
        if let Some((at, Response::Updated(_))) = operation.response {
            place.filter(|place| place / 2 <= chosen_by(log, at))?;
        }
    }
    Some((places, states))
}

/// Tries every state for every consistent read from operation `next` on.
fn place_reads(operations: &[Operation], log: &[Certified], states: &[Model], places: Places, next: usize) -> bool {
    let is_consistent = |operation: &&Operation| matches!(freshness(operation), Some(Freshness::Consistent { .. }));
    let Some(read) = (next..operations.len()).find(|index| operations.get(*index).as_ref().is_some_and(is_consistent))
    else {
        return is_in_order(operations, &places);
    };
    candidates(&operations[read], log, states, 0).into_iter().any(|slot| {
        let mut places = places.clone();
        places[read] = Some(2 * slot + 1);
        is_in_order(operations, &places) && place_reads(operations, log, states, places, read + 1)
    })
}

/// The slots whose state a read may have seen, whatever others saw.
fn candidates(read: &Operation, log: &[Certified], states: &[Model], from: usize) -> Vec<usize> {
    let (Ask::Read { query, .. }, Some((at, Response::Read(told)))) = (&read.ask, &read.response) else {
        return vec![];
    };
    let applied = read.applied.map_or(usize::MAX, |applied| usize::try_from(applied.0).unwrap());
    (from..=chosen_by(log, *at).min(applied)).filter(|slot| states[*slot].read(query) == *told).collect()
}

/// Whether nothing stands before what had ended when it began.
fn is_in_order(operations: &[Operation], places: &Places) -> bool {
    let placed = || operations.iter().zip(places).filter_map(|(operation, place)| Some((operation, (*place)?)));
    placed().all(|(earlier, first)| {
        let end = match &earlier.response {
            Some((at, Response::Updated(_) | Response::Read(_))) => *at,
            _ => u64::MAX,
        };
        // Reads of one state may stand in any order.
        let fits = |second: usize| first < second || (first == second && first % 2 == 1);
        placed().all(|(later, second)| end >= later.invoked || fits(second))
    })
}

/// How many slots were chosen, without a gap, when `event` was over.
fn chosen_by(log: &[Certified], event: u64) -> usize {
    log.iter().take_while(|certified| certified.chosen_at <= event).count()
}

/// How fresh an answered read had to be.
fn freshness(operation: &Operation) -> Option<Freshness> {
    match (&operation.ask, &operation.response) {
        (Ask::Read { freshness, .. }, Some((_, Response::Read(_)))) => Some(*freshness),
        _ => None,
    }
}
