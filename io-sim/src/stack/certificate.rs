//! The decided log, as the durable bytes of all disks tell it: what explains the history, and a ghost acceptor (K1).
//!
//! A node that votes gives that up for nothing less than the loss of its memory (K6).
//!
//! A slot is chosen once a majority of the nodes have durably accepted the same value under the same ballot. The disks
//! are looked at after every step, so the event that is noted comes after those of the step in which a slot was chosen:
//! an upper bound. It is before anybody can hear of it, for a message takes at least one step.

use std::collections::{BTreeMap, BTreeSet};

use trialbay_engine::{Ballot, Record, Slot, Value};

use super::node::Machine;
use crate::check::Violation;
use crate::check::history::Certified;
use crate::check::kept::{self, Kept};
use crate::check::outage::Left;
use crate::check::scrub::{Found, Scrub, ScrubError};

/// What the disks have told so far.
pub(super) struct Certificate {
    quorum: usize,
    readers: BTreeMap<u16, Reader>,
    slots: BTreeMap<u64, Acceptances>,
    chosen: BTreeMap<u64, Certified>,
}

struct Reader {
    scrub: Scrub,
    kept: Kept,
    /// Whether the log says that the node votes. It does from then on, unless its memory is taken from it.
    votes: bool,
    /// The disk's changes when it was looked at last.
    changes: u64,
}

/// Who accepted what in one slot, whenever.
type Acceptances = BTreeMap<Ballot, (Value, BTreeSet<u16>)>;

impl Certificate {
    pub(super) fn new<'a>(machines: impl Iterator<Item = &'a Machine>) -> Self {
        let readers: BTreeMap<_, _> = machines.map(|machine| (machine.id, Reader::new(machine))).collect();
        Self { quorum: readers.len() / 2 + 1, readers, slots: BTreeMap::new(), chosen: BTreeMap::new() }
    }

    /// The disk was emptied: its log begins anew. What was accepted before still counts.
    pub(super) fn wiped(&mut self, machine: &Machine) {
        self.readers.insert(machine.id, Reader::new(machine));
    }

    /// Reads what became durable. `event` is that of anything that is chosen by it.
    pub(super) fn look(&mut self, machine: &Machine, event: impl FnOnce() -> u64) -> Result<(), Violation> {
        let Some(reader) = self.readers.get_mut(&machine.id) else { return Ok(()) };
        let changes = machine.disk.counters().changes;
        if reader.changes == changes {
            return Ok(());
        }
        reader.changes = changes;
        let records = reader.scrub.advance(&machine.disk).map_err(|error| unreadable(machine, &error))?;
        if records.is_empty() {
            return Ok(());
        }
        let event = event();
        reader.kept.learn(&records);
        let mut votes = reader.votes;
        for Found { record, .. } in records {
            match record {
                Record::Accepted(accepted) => {
                    let (slot, entry) = (accepted.slot.0, accepted.entry);
                    self.accepted(machine.id, slot, entry.ballot, entry.value, event)?;
                }
                Record::MemoryBegan(_) if votes => {
                    let story = format!("{} gives up its vote, and nothing was taken from it", machine.name);
                    return Err(Violation { checker: "K6", story, event: None });
                }
                Record::VoteRegained { .. } => votes = true,
                Record::Promised(_) | Record::Decided { .. } | Record::MemoryBegan(_) => {}
            }
        }
        if let Some(reader) = self.readers.get_mut(&machine.id) {
            reader.votes = votes;
        }
        Ok(())
    }

    /// Reads a whole log anew, as whoever starts on it next will: all that was durable is there (K6). Here no disk is damaged.
    pub(super) fn examine(&mut self, machine: &Machine) -> Result<(), Violation> {
        let (scrub, found) = whole_log(machine)?;
        let Some(reader) = self.readers.get_mut(&machine.id) else { return Ok(()) };
        let first = scrub.base().map_or(0, |(first, _)| *first);
        reader.kept.compare(&machine.name, &found, first).map(drop)
    }

    /// What is left on a disk whose machine has no power. Its store is taken at the log's word: what was removed from the
    /// one is in the other.
    pub(super) fn left(&self, machine: &Machine) -> Result<Left, Violation> {
        let (scrub, found) = whole_log(machine)?;
        let stored = scrub.base().map_or(Slot::ZERO, |(_, base)| base.accepted_upto);
        let is_void = !kept::votes(&found, scrub.damage(), scrub.restated(), stored);
        Ok(Left::of(machine.name.clone(), &found, stored, is_void))
    }

    fn accepted(&mut self, node: u16, slot: u64, ballot: Ballot, value: Value, event: u64) -> Result<(), Violation> {
        let broken = |story: String| Err(Violation { checker: "K1", story, event: None });
        let (known, nodes) =
            self.slots.entry(slot).or_default().entry(ballot).or_insert_with(|| (value.clone(), BTreeSet::new()));
        if *known != value {
            return broken(format!("ballot {ballot:?} has two values in slot {slot}"));
        }
        nodes.insert(node);
        if nodes.len() < self.quorum {
            return Ok(());
        }
        let chosen = self.chosen.entry(slot).or_insert_with(|| Certified { value: value.clone(), chosen_at: event });
        if chosen.value == value { Ok(()) } else { broken(format!("two values were chosen in slot {slot}")) }
    }

    /// The chosen slots from the first one on, up to the first that is not chosen.
    pub(super) fn log(&self) -> Vec<Certified> {
        (self.chosen.iter().zip(1..))
            .take_while(|((slot, _), next)| *slot == next)
            .map(|((_, chosen), _)| chosen.clone())
            .collect()
    }
}

impl Reader {
    fn new(machine: &Machine) -> Self {
        let scrub = Scrub::new(&machine.home(), machine.identity());
        Self { scrub, kept: Kept::default(), votes: false, changes: 0 }
    }
}

fn whole_log(machine: &Machine) -> Result<(Scrub, Vec<Found>), Violation> {
    let mut scrub = Scrub::new(&machine.home(), machine.identity());
    let found = scrub.advance(&machine.disk).map_err(|error| unreadable(machine, &error))?;
    Ok((scrub, found))
}

fn unreadable(machine: &Machine, error: &ScrubError) -> Violation {
    let story = format!("the log of {} cannot be read from its disk: {error}", machine.name);
    Violation { checker: "K6", story, event: None }
}
