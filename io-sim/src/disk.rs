//! A node's disk: the records of its log, of which only a prefix survives a power cut for certain.

use std::collections::{BTreeMap, VecDeque};

use trialbay_engine::{
    Ballot, Entry, HistoryHash, Incarnation, Memory, NodeId, PersistId, Record, Recovered, Slot, SlotEntry,
};

use crate::model::Store;
use crate::rng::Rng;

/// The log of one node.
#[derive(Debug)]
pub(crate) struct Disk {
    records: Vec<Record>,
    durable: usize,
    /// Batches not yet durable, and where each ends.
    batches: VecDeque<(PersistId, usize)>,
    /// How many batches the sync in progress covers.
    syncing: usize,
    /// Before which records others are missing: a reader of the log sees that (by checksums and record numbers).
    damaged_at: Vec<usize>,
    /// The last `Accepted` record of each slot, durable or not: where reads of the log find it.
    entries: BTreeMap<Slot, Entry>,
    pub(crate) rng: Rng,
}

impl Disk {
    pub(crate) fn new(rng: Rng) -> Self {
        Self {
            records: Vec::new(),
            durable: 0,
            batches: VecDeque::new(),
            syncing: 0,
            damaged_at: Vec::new(),
            entries: BTreeMap::new(),
            rng,
        }
    }

    pub(crate) fn append(&mut self, id: PersistId, records: Vec<Record>) {
        for record in records {
            if let Record::Accepted(SlotEntry { slot, entry }) = &record {
                self.entries.insert(*slot, entry.clone());
            }
            self.records.push(record);
        }
        self.batches.push_back((id, self.records.len()));
    }

    /// Begins a sync of some of what waits, one batch or a group; `false` when there is nothing to do.
    pub(crate) fn begin_sync(&mut self) -> bool {
        if self.syncing > 0 || self.batches.is_empty() {
            return false;
        }
        let waiting = self.batches.len() as u64;
        let group = if self.rng.chance(0.7) { waiting } else { self.rng.between(1, waiting) };
        self.syncing = usize::try_from(group).unwrap_or(1);
        true
    }

    /// The sync is done: the last batch that it covers, and the records that became durable.
    pub(crate) fn end_sync(&mut self) -> Option<(PersistId, &[Record])> {
        let count = std::mem::take(&mut self.syncing);
        let (id, end) = self.batches.drain(..count).next_back()?;
        let before = std::mem::replace(&mut self.durable, end);
        Some((id, &self.records[before..end]))
    }

    pub(crate) fn end(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn durable_end(&self) -> usize {
        self.durable
    }

    /// A power cut: some prefix of what was not synced survives. Gives the records that turned out to be durable. A disk
    /// whose sync `lies` loses some of what was synced as well.
    pub(crate) fn power_cut(&mut self, lies: bool) -> &[Record] {
        let unsynced = (self.records.len() - self.durable) as u64;
        let kept = self.durable + usize::try_from(self.rng.below(unsynced + 1)).unwrap_or(0);
        let lost = if lies { usize::try_from(self.rng.below(8)).unwrap_or(0) } else { 0 };
        self.records.truncate(kept.saturating_sub(lost));
        let before = self.durable.min(self.records.len());
        self.durable = self.records.len();
        self.batches.clear();
        self.syncing = 0;
        self.index();
        &self.records[before..]
    }

    /// Everything is gone.
    pub(crate) fn wipe(&mut self) {
        let rng = self.rng.clone();
        *self = Self::new(rng);
    }

    /// One record somewhere in the middle of a log at rest is gone; the rest is kept.
    pub(crate) fn lose_one(&mut self) -> bool {
        if self.records.len() < 4 {
            return false;
        }
        let index = usize::try_from(self.rng.below(self.records.len() as u64)).unwrap_or(0);
        self.records.remove(index);
        self.durable = self.records.len();
        for at in &mut self.damaged_at {
            *at -= usize::from(*at > index);
        }
        self.damaged_at.push(index);
        self.index();
        true
    }

    /// The store has passed these slots: their entries are removed.
    pub(crate) fn trim(&mut self, upto: Slot) {
        let mut removed = Vec::new();
        let mut index = 0;
        let durable = self.durable;
        self.records.retain(|record| {
            index += 1;
            let old = matches!(record, Record::Accepted(SlotEntry { slot, .. }) if *slot <= upto) && index <= durable;
            if old {
                removed.push(index);
            }
            !old
        });
        let moved = |end: usize| end - removed.partition_point(|index| *index <= end);
        self.durable = moved(self.durable);
        for (_, end) in &mut self.batches {
            *end = moved(*end);
        }
        for at in &mut self.damaged_at {
            *at = moved(*at);
        }
        self.index();
    }

    pub(crate) fn durable_records(&self) -> &[Record] {
        &self.records[..self.durable]
    }

    /// Consecutive entries from `from` on.
    pub(crate) fn read(&self, from: Slot, upto: Slot, bytes_max: usize) -> Vec<SlotEntry> {
        let mut bytes = 0;
        let mut found = Vec::new();
        for slot in (from.0..=upto.0).map(Slot) {
            let Some(entry) = self.entries.get(&slot) else { break };
            bytes += entry.value.size();
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            found.push(SlotEntry { slot, entry: entry.clone() });
        }
        found
    }

    /// What a driver tells a starting engine, as `Recovered`'s documentation says; brings `store` to the end of the
    /// decided prefix. The history hashes of `Decided` records prove that the entries between them are the decided ones.
    pub(crate) fn recover(&self, store: &mut Store) -> Recovered {
        let mut promised = Ballot::ZERO;
        let mut known: BTreeMap<Slot, HistoryHash> = BTreeMap::from([(Slot::ZERO, HistoryHash::default())]);
        let mut memory = None;
        let mut lost = false;
        // What the present life has accepted and decided: without it, it has no memory.
        let (mut accepted_upto, mut decided_upto) = (Slot::ZERO, Slot::ZERO);
        for (index, record) in self.records.iter().enumerate() {
            lost |= self.damaged_at.contains(&index);
            match record {
                Record::Promised(ballot) => promised = promised.max(*ballot),
                Record::Accepted(slot_entry) => {
                    promised = promised.max(slot_entry.entry.ballot);
                    accepted_upto = accepted_upto.max(slot_entry.slot);
                }
                Record::Decided { upto, hash } => {
                    known.insert(*upto, *hash);
                    decided_upto = decided_upto.max(*upto);
                }
                Record::MemoryBegan(incarnation) => {
                    lost = false;
                    (accepted_upto, decided_upto) = (Slot::ZERO, Slot::ZERO);
                    memory = Some(life(*incarnation, false, &[]));
                }
                Record::VoteRegained { incarnation, genesis } => memory = Some(life(*incarnation, true, genesis)),
            }
        }
        lost |= self.damaged_at.contains(&self.records.len());
        known.insert(store.applied, store.hash);
        let mut log_start = Slot(1);
        let mut known = known.into_iter();
        let mut last = known.next().unwrap_or_default();
        for (upto, hash) in known {
            let proved = self.prove(last, upto) == Some(hash);
            if upto > store.applied {
                if !proved {
                    break;
                }
                self.replay(store, upto);
            } else if !proved {
                log_start = upto.next();
            }
            last = (upto, hash);
        }
        lost |= decided_upto > store.applied;
        let decided_upto = store.applied;
        let undecided = self.read(decided_upto.next(), Slot(u64::MAX - 1), usize::MAX);
        lost |= accepted_upto > Slot(decided_upto.0 + undecided.len() as u64);
        Recovered {
            promised,
            decided_upto,
            decided_hash: store.hash,
            undecided,
            log_start: log_start.min(decided_upto.next()),
            memory: memory.filter(|_| !lost),
        }
    }

    fn prove(&self, (from, hash): (Slot, HistoryHash), upto: Slot) -> Option<HistoryHash> {
        (from.0 + 1..=upto.0)
            .map(Slot)
            .try_fold(hash, |hash, slot| Some(hash.extend(slot, &self.entries.get(&slot)?.value)))
    }

    fn replay(&self, store: &mut Store, upto: Slot) {
        for slot in (store.applied.0 + 1..=upto.0).map(Slot) {
            if let Some(entry) = self.entries.get(&slot) {
                store.apply(slot, store.hash.extend(slot, &entry.value), &entry.value);
            }
        }
    }

    fn index(&mut self) {
        self.entries.clear();
        for record in &self.records {
            if let Record::Accepted(SlotEntry { slot, entry }) = record {
                self.entries.insert(*slot, entry.clone());
            }
        }
    }
}

fn life(incarnation: Incarnation, votes: bool, genesis: &[(NodeId, Incarnation)]) -> Memory {
    Memory { incarnation, votes, genesis: genesis.to_vec() }
}
