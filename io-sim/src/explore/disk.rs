//! A node's disk: what its log comes to once read back, and the batches that no sync has covered yet.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use trialbay_engine::{
    Ballot, Entry, HistoryHash, Incarnation, Memory, NodeId, PersistId, Record, Recovered, Slot, SlotEntry,
};

use super::Change;

/// The log is kept as what recovery makes of it: the highest promise, the last entry of each slot, the last decided slot.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    node: NodeId,
    pub(super) promised: Ballot,
    pub(super) entries: BTreeMap<Slot, Entry>,
    decided: (Slot, HistoryHash),
    unsynced: VecDeque<(PersistId, Vec<Record>)>,
}

impl Hash for Disk {
    /// Batches are numbered one after the other, so their numbers tell nothing.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.promised, &self.entries, self.decided).hash(state);
        self.unsynced.iter().for_each(|(_, records)| records.hash(state));
    }
}

impl Disk {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            promised: Ballot::ZERO,
            entries: BTreeMap::new(),
            decided: (Slot::ZERO, HistoryHash::default()),
            unsynced: VecDeque::new(),
        }
    }

    pub(super) fn append(&mut self, id: PersistId, records: Vec<Record>) {
        self.unsynced.push_back((id, records));
    }

    pub(super) fn unsynced_batches(&self) -> usize {
        self.unsynced.len()
    }

    pub(super) fn unsynced_records(&self) -> usize {
        self.unsynced.iter().map(|(_, records)| records.len()).sum()
    }

    /// Makes the first `batches` durable: the last of them, and the entries that became durable.
    pub(super) fn sync(&mut self, batches: usize) -> Option<(PersistId, Vec<SlotEntry>)> {
        let synced: Vec<_> = self.unsynced.drain(..batches).collect();
        let last = synced.last()?.0;
        Some((last, self.keep(synced.into_iter().flat_map(|(_, records)| records))))
    }

    /// A power cut: of what is not synced only the first `kept` records survive. The entries that turned out to be durable.
    pub(super) fn cut(&mut self, kept: usize) -> Vec<SlotEntry> {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.keep(unsynced.into_iter().flat_map(|(_, records)| records).take(kept))
    }

    /// Decided entries from `from` on, for a peer that fetches them.
    pub(super) fn read(&self, from: Slot, upto: Slot) -> Vec<SlotEntry> {
        let mut entries = self.entries.clone();
        for record in self.unsynced.iter().flat_map(|(_, records)| records) {
            if let Record::Accepted(SlotEntry { slot, entry }) = record {
                entries.insert(*slot, entry.clone());
            }
        }
        entries.range(from..=upto).map(|(slot, entry)| SlotEntry { slot: *slot, entry: entry.clone() }).collect()
    }

    /// What a driver that `change` has crept into reads back; `prepared` is the last ballot of this node that others heard of.
    pub(super) fn recover(&mut self, prepared: Ballot, change: Option<Change>) -> Recovered {
        let undecided = |disk: &Self| -> Vec<SlotEntry> { disk.read(disk.decided.0.next(), Slot(u64::MAX)) };
        let accepted = self.entries.values().map(|entry| entry.ballot).max().unwrap_or(Ballot::ZERO);
        match change {
            Some(Change::PromiseForgotten) => self.promised = accepted.max(prepared),
            Some(Change::OwnPromiseForgotten) if self.promised.node == self.node => self.promised = accepted,
            Some(Change::EntryForgotten) => {
                if let Some(last) = undecided(self).pop() {
                    self.entries.remove(&last.slot);
                }
            }
            _ => {}
        }
        Recovered {
            promised: self.promised,
            decided_upto: self.decided.0,
            decided_hash: self.decided.1,
            undecided: undecided(self),
            log_start: Slot(1),
            memory: Some(Memory { incarnation: life_of(self.node), votes: true, genesis: Vec::new() }),
        }
    }

    fn keep(&mut self, records: impl Iterator<Item = Record>) -> Vec<SlotEntry> {
        let mut accepted = Vec::new();
        for record in records {
            match record {
                Record::Promised(ballot) => self.promised = self.promised.max(ballot),
                Record::Accepted(slot_entry) => {
                    self.promised = self.promised.max(slot_entry.entry.ballot);
                    self.entries.insert(slot_entry.slot, slot_entry.entry.clone());
                    accepted.push(slot_entry);
                }
                Record::Decided { upto, hash } => self.decided = (upto, hash),
                Record::MemoryBegan(_) | Record::VoteRegained { .. } => {}
            }
        }
        accepted
    }
}

/// The one life that each node has in these worlds.
pub(super) fn life_of(node: NodeId) -> Incarnation {
    Incarnation(u64::from(node.0))
}
