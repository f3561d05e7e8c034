//! What one node is bound by, kept outside it and across its restarts; and the comparison of all nodes' books.

use std::collections::BTreeMap;
use std::hash::Hash;

use trialbay_engine::{Ballot, Message, NodeId, Slot, SlotEntry, Value};
use xxhash_rust::xxh3::Xxh3;

use super::disk::Disk;

/// The story of a broken rule.
pub(super) type Broken = String;

type Checked = Result<(), Broken>;

/// What a node did that binds it for ever.
#[derive(Clone, Debug, Hash)]
pub(super) struct Book {
    node: NodeId,
    /// The highest ballot in which it told another node that it promised or accepted.
    said: Ballot,
    /// The highest ballot of its own that others heard of.
    pub(super) prepared: Ballot,
    /// The values that it proposed to others, in ballots of its own.
    proposed: BTreeMap<(Slot, Ballot), Value>,
    /// All that it ever had durable, overwritten since or not.
    accepted: BTreeMap<(Slot, Ballot), Value>,
    applied: BTreeMap<Slot, Value>,
}

impl Book {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            said: Ballot::ZERO,
            prepared: Ballot::ZERO,
            proposed: BTreeMap::new(),
            accepted: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }

    pub(super) fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        self.hash(&mut hasher);
        hasher.digest128()
    }

    /// It begins a campaign.
    pub(super) fn campaigns(&self, ballot: Ballot) -> Checked {
        if ballot > self.prepared {
            return Ok(());
        }
        Err(format!("{} begins a campaign in {ballot}, and used {} before (C2)", self.node, self.prepared))
    }

    /// These entries are durable.
    pub(super) fn accepted(&mut self, entries: Vec<SlotEntry>) {
        for SlotEntry { slot, entry } in entries {
            self.accepted.insert((slot, entry.ballot), entry.value);
        }
    }

    /// It applied a value.
    pub(super) fn applied(&mut self, slot: Slot, value: Value) -> Checked {
        match self.applied.insert(slot, value.clone()) {
            Some(before) if before != value => {
                Err(format!("{} applies {value:?} in {slot}, and applied {before:?} before (I2)", self.node))
            }
            _ => Ok(()),
        }
    }

    /// A message leaves it.
    pub(super) fn sent(&mut self, message: &Message, disk: &Disk) -> Checked {
        match message {
            Message::Prepare { ballot, .. } => {
                self.prepared = *ballot;
                self.is_promised(*ballot, "prepares", disk)
            }
            Message::Promise { ballot, accepted, .. } => {
                self.is_promised(*ballot, "promises", disk)?;
                let volatile = accepted.0.iter().find(|SlotEntry { slot, entry }| {
                    entry.ballot < *ballot && self.accepted.get(&(*slot, entry.ballot)) != Some(&entry.value)
                });
                if let Some(entry) = volatile {
                    return Err(format!("{} tells of {entry:?}, which is not durable (P1)", self.node));
                }
                self.says(*ballot, "promises", "P2")
            }
            Message::Accepted { ballot, upto, .. } => {
                self.is_accepted(*ballot, *upto, disk)?;
                self.says(*ballot, "accepts in", "A1")
            }
            Message::Accept { ballot, first, values, .. } => {
                self.is_promised(*ballot, "proposes in", disk)?;
                (first.0..).zip(&values.0).try_for_each(|(slot, value)| self.proposes(Slot(slot), *ballot, value))
            }
            _ => Ok(()),
        }
    }

    fn proposes(&mut self, slot: Slot, ballot: Ballot, value: &Value) -> Checked {
        match self.proposed.insert((slot, ballot), value.clone()) {
            Some(before) if before != *value => {
                let node = self.node;
                Err(format!("{node} proposes {value:?} in {slot} in {ballot}, and proposed {before:?} before (I3)"))
            }
            _ => Ok(()),
        }
    }

    fn says(&mut self, ballot: Ballot, does: &str, rule: &str) -> Checked {
        if ballot < self.said {
            return Err(format!("{} {does} {ballot}, and took part in {} before ({rule})", self.node, self.said));
        }
        self.said = ballot;
        Ok(())
    }

    fn is_promised(&self, ballot: Ballot, does: &str, disk: &Disk) -> Checked {
        if disk.promised >= ballot {
            return Ok(());
        }
        Err(format!("{} {does} {ballot}, and its disk has promised only {} (P1, C2)", self.node, disk.promised))
    }

    fn is_accepted(&self, ballot: Ballot, upto: Slot, disk: &Disk) -> Checked {
        let has = |slot: &Slot| {
            let entry = disk.entries.get(slot);
            entry.is_some_and(|entry| entry.ballot == ballot || self.applied.get(slot) == Some(&entry.value))
        };
        match (1..=upto.0).map(Slot).find(|slot| !has(slot)) {
            None => Ok(()),
            Some(slot) => {
                let node = self.node;
                let there = disk.entries.get(&slot);
                Err(format!("{node} accepts up to {upto} in {ballot}, and its disk has {there:?} in {slot} (A3)"))
            }
        }
    }
}

/// Compares the books of all nodes: of each slot at most one value was ever chosen, by a quorum whose acceptances in one
/// ballot became durable, whenever that was; and nobody applied anything else.
pub(super) fn compare(books: &[&Book]) -> Checked {
    let mut votes: BTreeMap<(Slot, Ballot), (&Value, usize)> = BTreeMap::new();
    for book in books {
        for (place, value) in &book.accepted {
            let (known, count) = votes.entry(*place).or_insert((value, 0));
            if *known != value {
                let (slot, ballot) = place;
                return Err(format!(
                    "{slot} has two values in {ballot}: {known:?}, and {value:?} at {} (I3)",
                    book.node
                ));
            }
            *count += 1;
        }
    }
    let mut chosen: BTreeMap<Slot, (Ballot, &Value)> = BTreeMap::new();
    for ((slot, ballot), (value, _)) in votes.iter().filter(|(_, (_, count))| *count > books.len() / 2) {
        let (earlier, before) = chosen.entry(*slot).or_insert((*ballot, value));
        if before != value {
            return Err(format!("{slot}: {before:?} is chosen in {earlier}, and {value:?} in {ballot} (I1)"));
        }
    }
    for book in books {
        for (slot, value) in &book.applied {
            let there = chosen.get(slot).map(|(_, value)| *value);
            if there != Some(value) {
                return Err(format!("{} applies {value:?} in {slot}, where {there:?} is chosen (M3)", book.node));
            }
        }
    }
    Ok(())
}
