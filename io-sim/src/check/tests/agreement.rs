//! Random histories, honest ones and such that were tampered with, before the checker and before those who know better.

use trialbay::update::{Outcome, UpdateResult};
use trialbay_engine::{Slot, Value};

use super::by_force;
use crate::check::exact;
use crate::check::history::{Ask, Certified, Operation, Response, Stats, check};
use crate::check::honest::{Shape, history};
use crate::check::model::Model;
use crate::check::query::QueryResult;
use crate::rng::Rng;

const HONEST_SEEDS: u64 = 3_000;
const TAMPERED_SEEDS: u64 = 6_000;

#[test]
fn no_honest_history_raises_an_alarm() {
    let mut sum = Stats::default();
    for seed in 0..HONEST_SEEDS {
        let mut rng = Rng::new(seed, 1);
        let shape = Shape {
            operations: usize::try_from(rng.between(1, 200)).unwrap(),
            clients: usize::try_from(rng.between(1, 12)).unwrap(),
            keys: rng.between(1, 30),
        };
        let (operations, log) = history(&mut rng, shape);
        let stats = check(&operations, &log).unwrap_or_else(|violation| panic!("seed {seed}: {violation:?}"));
        sum.commands += stats.commands;
        sum.updates += stats.updates;
        sum.reads += stats.reads;
        sum.relaxed_reads += stats.relaxed_reads;
        sum.unknown_that_happened += stats.unknown_that_happened;
    }
    println!("{HONEST_SEEDS} honest histories: {sum:?}");
    assert!(sum.updates > HONEST_SEEDS && sum.reads > HONEST_SEEDS, "{sum:?}");
    assert!(sum.relaxed_reads > HONEST_SEEDS && sum.unknown_that_happened > HONEST_SEEDS / 10, "{sum:?}");
}

#[test]
fn what_cannot_be_explained_is_never_believed_and_the_log_is_believed_exactly_where_it_explains() {
    let (mut unexplainable, mut believed, mut refused_for_the_log) = (0, 0, 0);
    for seed in 0..TAMPERED_SEEDS {
        let mut rng = Rng::new(seed, 2);
        let shape = Shape {
            operations: usize::try_from(rng.between(4, 14)).unwrap(),
            clients: usize::try_from(rng.between(2, 5)).unwrap(),
            keys: rng.between(1, 4),
        };
        let (mut operations, mut log) = history(&mut rng, shape);
        assert!(exact::explain(&operations).is_some(), "seed {seed}: honest, and the exact search does not see it");
        assert!(by_force::explains(&operations, &log), "seed {seed}: honest, and force does not see it");
        for _ in 0..rng.between(1, 2) {
            tamper(&mut rng, &mut operations, &mut log);
        }
        let verdict = check(&operations, &log);
        assert_eq!(verdict.is_ok(), by_force::explains(&operations, &log), "seed {seed}: {verdict:?}");
        match (exact::explain(&operations).is_some(), verdict.is_ok()) {
            (false, verdict) => {
                assert!(!verdict, "seed {seed}: no order explains this, and it is believed");
                unexplainable += 1;
            }
            (true, true) => believed += 1,
            (true, false) => refused_for_the_log += 1,
        }
    }
    println!(
        "{TAMPERED_SEEDS} tampered histories: {unexplainable} in no order (all rejected), \
         {refused_for_the_log} not in the log's order (rejected), {believed} harmless (accepted)"
    );
    assert!(unexplainable > TAMPERED_SEEDS / 10 && believed > TAMPERED_SEEDS / 10, "{unexplainable} {believed}");
    assert!(refused_for_the_log > TAMPERED_SEEDS / 10, "{refused_for_the_log}");
}

/// Changes one thing, in a history or in its log. Not every change is a lie.
fn tamper(rng: &mut Rng, operations: &mut [Operation], log: &mut [Certified]) {
    let (one, other) = (below(rng, operations.len()), below(rng, operations.len()));
    match rng.below(10) {
        0..=2 => read_elsewhen(rng, operations, log),
        3 => {
            // Answers of one kind change places.
            let (first, second) = (operations[one].response.clone(), operations[other].response.clone());
            if let (Some((first_at, first)), Some((second_at, second))) = (first, second)
                && is_read(&operations[one]) == is_read(&operations[other])
            {
                operations[one].response = Some((first_at, second));
                operations[other].response = Some((second_at, first));
            }
        }
        4 => {
            if let Some((_, response)) = &mut operations[one].response {
                *response = match response {
                    Response::Updated(_) if rng.chance(0.5) => Response::Refused,
                    Response::Updated(result) => Response::Updated(another(result)),
                    Response::Refused | Response::Unknown if matches!(operations[one].ask, Ask::Update { .. }) => {
                        Response::Updated(Ok(Outcome::Done))
                    }
                    Response::Refused | Response::Unknown => Response::Unknown,
                    Response::Read(_) => return,
                };
            }
        }
        5 => {
            if let Some((at, _)) = &mut operations[one].response {
                *at = operations[one].invoked + rng.below(2 * (*at - operations[one].invoked) + 2);
            }
        }
        6 => {
            let end = operations[one].response.as_ref().map_or(u64::MAX, |(at, _)| *at);
            operations[one].invoked = (operations[one].invoked + rng.below(20)).min(end);
        }
        7 => operations[one].applied = operations[one].applied.map(|applied| Slot(applied.0.saturating_sub(1))),
        8 | 9 if log.is_empty() => {}
        8 => {
            let slot = below(rng, log.len());
            log[slot].chosen_at = (log[slot].chosen_at + 10).saturating_sub(rng.below(20));
        }
        _ => {
            let (one, other) = (below(rng, log.len()), below(rng, log.len()));
            let (first, second) = (log[one].value.clone(), log[other].value.clone());
            match rng.below(3) {
                0 => (log[one].value, log[other].value) = (second, first),
                1 => log[one].value = second,
                _ => log[one].value = Value::Noop,
            }
        }
    }
}

/// A read is told what it would have seen after another slot, or half of that.
fn read_elsewhen(rng: &mut Rng, operations: &mut [Operation], log: &[Certified]) {
    let reads: Vec<usize> = (0..operations.len())
        .filter(|index| matches!(operations[*index].response, Some((_, Response::Read(_)))))
        .collect();
    let Some(index) = rng.pick(&reads) else { return };
    let slots = below(rng, log.len() + 1);
    let mut model = Model::default();
    for command in log[..slots].iter().flat_map(|certified| certified.value.commands()).flatten() {
        for operation in operations.iter() {
            if let Ask::Update { update, command: bytes } = &operation.ask
                && *bytes == command
            {
                let _ = model.run(update);
            }
        }
    }
    let operation = &mut operations[index];
    if let (Ask::Read { query, .. }, Some((_, Response::Read(told)))) = (&operation.ask, &mut operation.response) {
        *told = match (model.read(query), &*told) {
            (QueryResult::Entries(new), QueryResult::Entries(old)) if rng.chance(0.5) => {
                let half = old.len() / 2;
                let rest = new.into_iter().filter(|(key, _)| half == 0 || *key > old[half - 1].0);
                QueryResult::Entries(old[..half].iter().cloned().chain(rest).collect())
            }
            (QueryResult::Values(new), QueryResult::Values(old)) if rng.chance(0.5) && new.len() == old.len() => {
                QueryResult::Values(old[..1].iter().chain(&new[1..]).cloned().collect())
            }
            (new, _) => new,
        };
    }
}

fn another(result: &UpdateResult) -> UpdateResult {
    match result {
        Ok(Outcome::Previous(Some(_))) => Ok(Outcome::Previous(None)),
        Ok(Outcome::Previous(None)) => Ok(Outcome::PreviousUntold),
        Ok(_) => Ok(Outcome::Deleted(1)),
        Err(_) => Ok(Outcome::Done),
    }
}

fn is_read(operation: &Operation) -> bool {
    matches!(operation.ask, Ask::Read { .. })
}

fn below(rng: &mut Rng, end: usize) -> usize {
    usize::try_from(rng.below(end as u64)).unwrap()
}
