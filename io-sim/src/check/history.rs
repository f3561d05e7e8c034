//! What clients saw, and whether the log explains it: strict serialisability in linear time (K4), and outcomes (K8).
//!
//! To find an order that explains a history is hard in general; to check one is not. The log is that order, and is
//! taken as a *certificate*: a history is accepted only if the log is a legal explanation of it, so an engine that lies
//! can only get itself rejected. Slots are atomic: a read sees the store after one slot, never between two commands of
//! a slot.
//!
//! 1. *Match*: each command in the log is one that a client asked for before the slot was chosen. An acknowledged
//!    update stands in the log once, one of unknown outcome at most once, a refused one never.
//! 2. *Replay*: the log runs on the reference model. What clients were told must be what updates give there. Every
//!    key's versions are kept.
//! 3. *Sweep*: over the events in their order. Each response gets the earliest place that explains it, 2·slot for
//!    an update and 2·r + 1 for a read of the state after slot r; what an operation sees may not be before the place of
//!    anything that had ended when it began. Earliest is best, because a read bounds later ones only from below.
//!
//! Updates are found in the log by their bytes, so no two operations may propose the same ones: each update writes a
//! value that names its operation. One that writes no value (`Delete`, `DeletePrefix`, `Nop`, an assertion by itself)
//! goes into a `Sequence` together with a `Set` that does.

use bytes::Bytes;
use trialbay::update::{Update, UpdateResult};
use trialbay_engine::{Slot, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::model::{Model, agrees};
use super::query::{Query, QueryResult};
use super::story;
use super::versions::{Versions, earliest, latest};
use super::{Violation, violation};

/// A client operation. Stories name it by its place in the history, from 0.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: u64,
    /// What for.
    pub ask: Ask,
    /// The event of its invocation.
    pub invoked: u64,
    /// The event of its response, and the response. `None`: nobody knows what became of it.
    pub response: Option<(u64, Response)>,
    /// Of a relaxed read: the last slot that the node which served it had applied when it responded. `None`: not known,
    /// so whatever was chosen by then.
    pub applied: Option<Slot>,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// An update.
    Update {
        /// What it does.
        update: Update,
        /// The very bytes that were proposed. No two operations have the same.
        command: Bytes,
    },
    /// A read.
    Read {
        /// Of what.
        query: Query,
        /// How fresh.
        freshness: Freshness,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It sees everything that was acknowledged before it began.
    Consistent {
        /// Whether a lease vouches for that, or a round of a quorum.
        by_lease: bool,
    },
    /// It sees this slot, and perhaps more.
    AtLeast(Slot),
    /// It sees some state that the node had.
    NoGuarantees,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The update was decided, and gave this.
    Updated(UpdateResult),
    /// The read gave this.
    Read(QueryResult),
    /// It did not happen, and never will.
    Refused,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// A slot of the log that explains everything. The first one of a log is slot 1.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The chosen value.
    pub value: Value,
    /// The event at which a quorum had it durable.
    pub chosen_at: u64,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands in the log.
    pub commands: u64,
    /// Updates whose clients were told what they gave.
    pub updates: u64,
    /// Consistent reads that were answered.
    pub reads: u64,
    /// Relaxed reads that were answered.
    pub relaxed_reads: u64,
    /// Commands in the log of whose fate their clients were not told.
    pub unknown_that_happened: u64,
}

/// Checks a whole history against the log that explains it. The log must reach as far as anything that a client was
/// told.
///
/// # Errors
/// K4: the log does not explain what a client was told. K8: an update happened that was refused or that nobody asked
/// for, or happened twice, or never although it was acknowledged. `history`: the history does not make sense by itself.
pub fn check(operations: &[Operation], log: &[Certified]) -> Result<Stats, Violation> {
    for (index, operation) in operations.iter().enumerate() {
        makes_sense(index, operation)?;
    }
    let replayed = replay(operations, log)?;
    Sweep::new(operations, log, replayed).run()
}

fn makes_sense(index: usize, operation: &Operation) -> Result<(), Violation> {
    let Some((at, response)) = &operation.response else { return Ok(()) };
    let fits = match response {
        Response::Updated(_) => matches!(operation.ask, Ask::Update { .. }),
        Response::Read(_) => matches!(operation.ask, Ask::Read { .. }),
        Response::Refused | Response::Unknown => true,
    };
    if fits && operation.invoked <= *at {
        return Ok(());
    }
    violation(
        "history",
        format!("{} was answered before it was asked, or with the other kind of answer", story::name(index, operation)),
    )
}

/// What the log says of the history.
struct Replayed {
    /// By operation: its slot; 0 when it did not happen.
    slots: Vec<u64>,
    versions: Versions,
    commands: u64,
}

/// Matches the log with the operations and runs it on the model.
fn replay(operations: &[Operation], log: &[Certified]) -> Result<Replayed, Violation> {
    let asked = Asked::new(operations)?;
    let mut model = Model::default();
    let mut replayed = Replayed { slots: vec![0; operations.len()], versions: Versions::default(), commands: 0 };
    for (certified, slot) in log.iter().zip(1..) {
        for command in certified.value.commands() {
            let Ok(command) = command else {
                return violation("K8", format!("slot {slot} holds bytes that are no batch of commands"));
            };
            let Ok((index, update)) = asked.look(&command) else {
                let bytes = story::bytes(&command);
                return violation("K8", format!("slot {slot} holds a command that no client asked for: {bytes}"));
            };
            let operation = &operations[index];
            may_stand(index, operation, slot, certified.chosen_at, replayed.slots[index])
                .map_err(|broken| broken.since(last_event(operation)))?;
            replayed.slots[index] = slot;
            replayed.commands += 1;
            let given = model.run(update);
            if let Some((_, Response::Updated(told))) = &operation.response
                && !agrees(told, &given)
            {
                let (name, given) = (story::name(index, operation), story::update_result(&given));
                let story = format!("{name} gives {given} in slot {slot}, where the log has it");
                return violation("K4", story).map_err(|broken| broken.since(last_event(operation)));
            }
            for (key, value) in model.written() {
                replayed.versions.record(key, slot, value, index);
            }
        }
    }
    Ok(replayed)
}

/// When its client was told, or at least when it asked.
fn last_event(operation: &Operation) -> u64 {
    operation.response.as_ref().map_or(operation.invoked, |(at, _)| *at)
}

/// Whether this operation may stand in `slot`, having stood in slot `before` (0: in none).
fn may_stand(index: usize, operation: &Operation, slot: u64, chosen_at: u64, before: u64) -> Result<(), Violation> {
    let name = || story::name(index, operation);
    if before != 0 {
        return violation("K8", format!("{} happened twice, in slots {before} and {slot}", name()));
    }
    if operation.invoked >= chosen_at {
        let story =
            format!("{} stands in slot {slot}, which was chosen at event {chosen_at}, before it was asked for", name());
        return violation("K4", story);
    }
    if let Some((_, Response::Refused)) = operation.response {
        return violation("K8", format!("{} was refused, and happened in slot {slot}", name()));
    }
    Ok(())
}

/// The updates that clients asked for, found by their bytes.
struct Asked<'a> {
    operations: &'a [Operation],
    /// A hash table, half empty: an operation stands at the hash of its command, or at the next free place.
    table: Vec<Option<usize>>,
}

impl<'a> Asked<'a> {
    fn new(operations: &'a [Operation]) -> Result<Self, Violation> {
        let table = vec![None; (2 * operations.len()).max(1).next_power_of_two()];
        let mut asked = Self { operations, table };
        for (index, operation) in operations.iter().enumerate() {
            let Ask::Update { command, .. } = &operation.ask else { continue };
            match asked.look(command) {
                Ok((other, _)) => {
                    let names = [other, index].map(|index| story::name(index, &operations[index])).join(" from ");
                    let advice = "write a value that names the operation, in a sequence if need be";
                    return violation("history", format!("the log cannot tell {names}: {advice}"));
                }
                Err(free) => asked.table[free] = Some(index),
            }
        }
        Ok(asked)
    }

    /// The operation with this command; or else its place in the table.
    fn look(&self, command: &Bytes) -> Result<(usize, &'a Update), usize> {
        let mask = self.table.len() - 1;
        let mut place = xxh3_64(command) as usize & mask;
        while let Some(index) = self.table[place] {
            match &self.operations[index].ask {
                Ask::Update { update, command: same } if same == command => return Ok((index, update)),
                Ask::Update { .. } | Ask::Read { .. } => place = (place + 1) & mask,
            }
        }
        Err(place)
    }
}

/// The sweep over all events.
struct Sweep<'a> {
    operations: &'a [Operation],
    log: &'a [Certified],
    replayed: Replayed,
    /// The slots chosen by now, without a gap.
    chosen: u64,
    /// The place that whatever begins now may not be before.
    floor: Floor,
    /// By operation: the floor when it began.
    floors: Vec<Floor>,
    stats: Stats,
}

/// The furthest place that anything ended at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Floor {
    /// 2·slot of an update, 2·slot + 1 of a read.
    position: u64,
    /// Which operation that was.
    pub(super) by: Option<usize>,
}

impl Floor {
    /// The first state that is not too old.
    pub(super) fn slot(self) -> u64 {
        self.position / 2
    }
}

impl<'a> Sweep<'a> {
    fn new(operations: &'a [Operation], log: &'a [Certified], replayed: Replayed) -> Self {
        let stats = Stats { commands: replayed.commands, ..Stats::default() };
        let floors = vec![Floor::default(); operations.len()];
        Self { operations, log, replayed, chosen: 0, floor: Floor::default(), floors, stats }
    }

    fn run(mut self) -> Result<Stats, Violation> {
        for (event, is_response, index) in moments(self.operations) {
            let next = |chosen| usize::try_from(chosen).ok().and_then(|next: usize| self.log.get(next));
            while next(self.chosen).is_some_and(|next| next.chosen_at <= event) {
                self.chosen += 1;
            }
            if !is_response {
                self.floors[index] = self.floor;
                continue;
            }
            let operation = &self.operations[index];
            let position = match (&operation.ask, &operation.response) {
                (Ask::Update { .. }, Some((_, Response::Updated(_)))) => self.place_update(index),
                (Ask::Read { query, freshness }, Some((_, Response::Read(result)))) => match freshness {
                    Freshness::Consistent { .. } => self.place_read(index, query, result),
                    Freshness::AtLeast(Slot(from)) => self.relaxed_read(index, query, result, *from),
                    Freshness::NoGuarantees => self.relaxed_read(index, query, result, 0),
                },
                _ => Ok(0),
            };
            let position = position.map_err(|broken| broken.since(event))?;
            if position > self.floor.position {
                self.floor = Floor { position, by: Some(index) };
            }
        }
        let is_untold = |operation: &Operation| matches!(operation.response, None | Some((_, Response::Unknown)));
        let happened = self.operations.iter().zip(&self.replayed.slots).filter(|(_, slot)| **slot != 0);
        self.stats.unknown_that_happened = happened.filter(|(operation, _)| is_untold(operation)).count() as u64;
        Ok(self.stats)
    }

    fn place_update(&mut self, index: usize) -> Result<u64, Violation> {
        let (operation, slot) = (&self.operations[index], self.replayed.slots[index]);
        if slot == 0 {
            let (name, slots) = (story::name(index, operation), self.log.len());
            return violation("K8", format!("{name} was acknowledged, and stands in none of the log's {slots} slots"));
        }
        if slot > self.chosen {
            let (name, chosen) = (story::name(index, operation), self.chosen);
            let story = format!(
                "{name} was acknowledged when the log was chosen up to slot {chosen}, and stands in slot {slot}"
            );
            return violation("K4", story);
        }
        // Whatever ended before it was invoked was placed among the slots chosen by then, and its own was not.
        assert!(
            2 * slot > self.floors[index].position,
            "matched with a slot that was chosen later than its invocation"
        );
        self.stats.updates += 1;
        Ok(2 * slot)
    }

    fn place_read(&mut self, index: usize, query: &Query, result: &QueryResult) -> Result<u64, Violation> {
        let (floor, upto) = (self.floors[index], self.chosen);
        let needs = self.replayed.versions.needs(query, result);
        let needs = needs.or_else(|why| violation("K4", format!("{}: {why}", self.name(index))))?;
        let slot = earliest(&needs, floor.slot(), upto).or_else(|stuck| {
            let bounds = story::consistent_bounds(self.operations, floor, upto);
            let why = story::unexplained(&needs, stuck, floor.slot(), upto);
            violation("K4", format!("{} {bounds}; {why}", self.name(index)))
        })?;
        self.stats.reads += 1;
        Ok(2 * slot + 1)
    }

    /// Explains a relaxed read, which gets no place: nobody else need see what it saw.
    ///
    /// The search goes back from the node's state, which is where such a read usually was.
    fn relaxed_read(&mut self, index: usize, query: &Query, result: &QueryResult, from: u64) -> Result<u64, Violation> {
        let applied = self.operations[index].applied.map_or(u64::MAX, |applied| applied.0);
        let upto = self.chosen.min(applied);
        let needs = self.replayed.versions.needs(query, result);
        let needs = needs.or_else(|why| violation("K4", format!("{}: {why}", self.name(index))))?;
        let bounds = format!("had to see a state from slot {from} to slot {upto}, the last that its node had");
        if from > upto {
            return violation("K4", format!("{} {bounds}: there is none", self.name(index)));
        }
        latest(&needs, from, upto).or_else(|stuck| {
            let why = story::unexplained(&needs, stuck, from, upto);
            violation("K4", format!("{} {bounds}; {why}", self.name(index)))
        })?;
        self.stats.relaxed_reads += 1;
        Ok(0)
    }

    fn name(&self, index: usize) -> String {
        story::name(index, &self.operations[index])
    }
}

/// Invocations and responses in the order of events: event, whether it is a response, operation. What happens in one
/// event happens at once.
fn moments(operations: &[Operation]) -> Vec<(u64, bool, usize)> {
    let mut moments = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        moments.push((operation.invoked, false, index));
        if let Some((at, Response::Updated(_) | Response::Read(_))) = operation.response {
            moments.push((at, true, index));
        }
    }
    moments.sort_unstable();
    moments
}
