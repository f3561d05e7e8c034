//! The log as the engine sees it: the decided prefix, of which only the end is in memory, and the accepted entries after it.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::codec::VALUE_BEGINNING;
use crate::config::Limits;
use crate::ids::{Ballot, Slot};
use crate::image::DecidedValues;
use crate::record::Recovered;
use crate::value::{Entry, HistoryHash, SlotEntry, Value};

/// What an entry costs in memory besides its value.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// No configuration caches as much as this: an image that says so is none.
const OUTLINED_BYTES_MAX: usize = 1 << 30;

/// # Invariants
/// 1. Memory holds the consecutive slots `start()` to `accepted_upto()`, and `start() <= decided_upto().next()`.
/// 2. `applied_upto() <= decided_upto()`; `decided_upto()` is below the end of memory or equal to it.
/// 3. An entry at or below `decided_upto()` never changes (rule A4).
#[derive(Clone, Debug, Hash)]
pub(crate) struct Log {
    start: Slot,
    entries: VecDeque<Entry>,
    bytes: usize,
    decided_upto: Slot,
    decided_hash: HistoryHash,
    applied_upto: Slot,
    /// The sizes of the values that are decided and not yet applied.
    unapplied: VecDeque<usize>,
    unapplied_bytes: usize,
    disk_start: Slot,
}

/// A log in an image of its engine.
#[derive(Encode, Decode)]
pub(crate) struct LogImage {
    start: Slot,
    /// The first entries of memory: decided ones of which only outlines were kept.
    outlines: Vec<Outline>,
    entries: Vec<Entry>,
    decided_upto: Slot,
    decided_hash: HistoryHash,
    applied_upto: Slot,
    unapplied: Vec<usize>,
    disk_start: Slot,
}

/// An entry without the bulk of its value.
#[derive(Encode, Decode)]
struct Outline {
    ballot: Ballot,
    tag: u8,
    len: usize,
    beginning: Vec<u8>,
}

impl Log {
    pub(crate) fn new(recovered: &Recovered) -> Self {
        let mut log = Self {
            start: recovered.decided_upto.next(),
            entries: VecDeque::new(),
            bytes: 0,
            decided_upto: recovered.decided_upto,
            decided_hash: recovered.decided_hash,
            applied_upto: recovered.decided_upto,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            disk_start: recovered.log_start,
        };
        for slot_entry in &recovered.undecided {
            log.put(slot_entry.slot, slot_entry.entry.clone());
        }
        log
    }

    /// The first slot in memory.
    pub(crate) fn start(&self) -> Slot {
        self.start
    }

    /// The first slot that can be read from the disk.
    pub(crate) fn disk_start(&self) -> Slot {
        self.disk_start
    }

    /// Rule D4: what is before `slot` was removed from the disk. The store has it.
    pub(crate) fn begins_at(&mut self, slot: Slot) {
        self.disk_start = self.disk_start.max(slot);
    }

    pub(crate) fn accepted_upto(&self) -> Slot {
        Slot(self.start.0 + self.entries.len() as u64).prev()
    }

    pub(crate) fn decided_upto(&self) -> Slot {
        self.decided_upto
    }

    pub(crate) fn decided_hash(&self) -> HistoryHash {
        self.decided_hash
    }

    pub(crate) fn applied_upto(&self) -> Slot {
        self.applied_upto
    }

    /// The entry of `slot`, if it is in memory.
    pub(crate) fn entry(&self, slot: Slot) -> Option<&Entry> {
        let index = slot.0.checked_sub(self.start.0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The entries from `from` to `upto` that are in memory, at least one and then up to `bytes_max` bytes of values.
    pub(crate) fn entries(&self, from: Slot, upto: Slot, bytes_max: usize) -> impl Iterator<Item = &Entry> {
        let mut bytes = 0;
        (from.0..=upto.0).map_while(|slot| self.entry(Slot(slot))).enumerate().map_while(move |(index, entry)| {
            bytes += entry.value.size();
            (index == 0 || bytes <= bytes_max).then_some(entry)
        })
    }

    /// Everything accepted above `above`, as far as it is in memory.
    pub(crate) fn accepted_above(&self, above: Slot) -> Vec<SlotEntry> {
        let first = above.next().max(self.start);
        (first.0..=self.accepted_upto().0)
            .map(Slot)
            .filter_map(|slot| Some(SlotEntry { slot, entry: self.entry(slot)?.clone() }))
            .collect()
    }

    /// Accepts an entry.
    ///
    /// # Panics
    /// When the slot is decided already, or would leave a gap.
    pub(crate) fn put(&mut self, slot: Slot, entry: Entry) {
        assert!(
            slot > self.decided_upto,
            "{slot} is decided and must not change (decided up to {})",
            self.decided_upto
        );
        assert!(slot <= self.accepted_upto().next(), "{slot} would leave a gap after {}", self.accepted_upto());
        self.bytes += cost(&entry.value);
        let index = usize::try_from(slot.0 - self.start.0).expect("the memory's length fits");
        if let Some(old) = self.entries.get_mut(index) {
            self.bytes -= cost(&old.value);
            *old = entry;
        } else {
            self.entries.push_back(entry);
        }
    }

    /// Extends the decided prefix by one slot and gives its value.
    ///
    /// # Panics
    /// When nothing is accepted there.
    pub(crate) fn decide_next(&mut self) -> (Slot, HistoryHash, Value) {
        let slot = self.decided_upto.next();
        let entry = self.entry(slot).expect("a decided slot is accepted here, and undecided entries are in memory");
        let value = entry.value.clone();
        self.decided_hash = self.decided_hash.extend(slot, &value);
        self.decided_upto = slot;
        self.unapplied.push_back(value.size());
        self.unapplied_bytes += value.size();
        (slot, self.decided_hash, value)
    }

    /// # Panics
    /// When that was never decided.
    pub(crate) fn applied(&mut self, upto: Slot) {
        assert!(upto <= self.decided_upto, "{upto} was applied but only {} is decided", self.decided_upto);
        while self.applied_upto < upto {
            self.applied_upto = self.applied_upto.next();
            self.unapplied_bytes -=
                self.unapplied.pop_front().expect("every decided slot is counted until it is applied");
        }
    }

    /// What the entries in memory cost.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Slots that are decided and not yet applied.
    pub(crate) fn unapplied_slots(&self) -> u64 {
        self.applied_upto.distance_to(self.decided_upto)
    }

    /// Bytes of the values of those.
    pub(crate) fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    /// Forgets decided entries from memory until the cache is within its limits. They stay on disk, so only those that are
    /// there are forgotten: up to `durable` (rule D3).
    pub(crate) fn shrink(&mut self, limits: &Limits, durable: Slot) {
        while self.start <= self.decided_upto.min(durable)
            && (self.bytes > limits.cache_bytes_max || self.entries.len() as u64 > limits.cache_slots_max)
        {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= cost(&entry.value);
            self.start = self.start.next();
        }
    }

    /// The store now has the state of `slot`, which is beyond our decided prefix. What we had accepted up to there is void
    /// (rule F2); later entries stay.
    pub(crate) fn install_head(&mut self, slot: Slot, hash: HistoryHash) {
        assert!(slot > self.decided_upto, "a head at {slot} is not beyond {}", self.decided_upto);
        while self.start <= slot
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= cost(&entry.value);
            self.start = self.start.next();
        }
        self.start = self.start.max(slot.next());
        (self.decided_upto, self.decided_hash, self.applied_upto) = (slot, hash, slot);
        self.unapplied.clear();
        self.unapplied_bytes = 0;
        self.disk_start = slot.next();
    }

    /// This log for an image, its decided values whole or in outline.
    pub(crate) fn image(&self, decided: DecidedValues) -> LogImage {
        let decided_len = usize::try_from(self.start.prev().distance_to(self.decided_upto)).expect("it is in memory");
        let outlined = match decided {
            DecidedValues::Whole => 0,
            DecidedValues::Outlined => decided_len,
        };
        LogImage {
            start: self.start,
            outlines: self.entries.iter().take(outlined).map(Outline::of).collect(),
            entries: self.entries.iter().skip(outlined).cloned().collect(),
            decided_upto: self.decided_upto,
            decided_hash: self.decided_hash,
            applied_upto: self.applied_upto,
            unapplied: self.unapplied.iter().copied().collect(),
            disk_start: self.disk_start,
        }
    }

    /// The log of an image; `None` if there can be no such log.
    pub(crate) fn from_image(image: LogImage) -> Option<Self> {
        let outlined = image.outlines.iter().try_fold(0_usize, |sum, outline| sum.checked_add(outline.len))?;
        let in_memory = (image.outlines.len() + image.entries.len()) as u64;
        let end = image.start.0.checked_add(in_memory)?;
        let unapplied_bytes = image.unapplied.iter().try_fold(0_usize, |sum, bytes| sum.checked_add(*bytes))?;
        let is_sound = image.start > Slot::ZERO
            && image.start <= image.decided_upto.next()
            && image.decided_upto.0 < end
            && image.applied_upto <= image.decided_upto
            && image.applied_upto.distance_to(image.decided_upto) == image.unapplied.len() as u64
            && outlined <= OUTLINED_BYTES_MAX;
        if !is_sound {
            return None;
        }
        let outlines = image.outlines.into_iter().map(Outline::fill);
        let entries = outlines.chain(image.entries.into_iter().map(Some)).collect::<Option<VecDeque<_>>>()?;
        Some(Self {
            start: image.start,
            bytes: entries.iter().map(|entry| cost(&entry.value)).sum(),
            entries,
            decided_upto: image.decided_upto,
            decided_hash: image.decided_hash,
            applied_upto: image.applied_upto,
            unapplied: image.unapplied.into(),
            unapplied_bytes,
            disk_start: image.disk_start,
        })
    }

    /// The highest ballot of any entry in memory.
    pub(crate) fn ballot_max(&self) -> Ballot {
        self.entries.iter().map(|entry| entry.ballot).max().unwrap_or(Ballot::ZERO)
    }
}

impl Outline {
    fn of(entry: &Entry) -> Self {
        let body = entry.value.body();
        let beginning = body[..body.len().min(VALUE_BEGINNING)].to_vec();
        Self { ballot: entry.ballot, tag: entry.value.tag(), len: body.len(), beginning }
    }

    /// The entry with zeros for what is missing; `None` if there can be no such entry.
    fn fill(self) -> Option<Entry> {
        if self.beginning.len() > self.len {
            return None;
        }
        let mut body = vec![0; self.len];
        body[..self.beginning.len()].copy_from_slice(&self.beginning);
        Some(Entry { ballot: self.ballot, value: Value::from_parts(self.tag, Bytes::from(body))? })
    }
}

fn cost(value: &Value) -> usize {
    value.size() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn entry(round: u64, text: &str) -> Entry {
        Entry { ballot: Ballot { round, node: NodeId(1) }, value: Value::batch([text.as_bytes()]) }
    }

    #[test]
    fn deciding_shrinking_and_reading_keep_slots_in_place() {
        let mut log = Log::new(&Recovered::blank());
        for slot in 1..=10 {
            log.put(Slot(slot), entry(1, &alloc::format!("{slot}")));
        }
        for slot in 1..=7 {
            assert_eq!(log.decide_next().0, Slot(slot));
        }
        log.shrink(&Limits { cache_slots_max: 4, ..Limits::default() }, Slot(u64::MAX));
        assert_eq!((log.start(), log.accepted_upto()), (Slot(7), Slot(10)));
        assert_eq!(log.entry(Slot(6)), None);
        assert_eq!(log.entry(Slot(8)), Some(&entry(1, "8")));
        assert_eq!(log.entries(Slot(7), Slot(9), usize::MAX).count(), 3);
        assert_eq!(log.entries(Slot(7), Slot(9), 0).count(), 1);
        log.shrink(&Limits { cache_slots_max: 0, ..Limits::default() }, Slot(u64::MAX));
        assert_eq!(log.start(), Slot(8), "undecided entries never leave memory");
    }

    #[test]
    #[should_panic(expected = "is decided and must not change")]
    fn a_decided_slot_never_changes() {
        let mut log = Log::new(&Recovered::blank());
        log.put(Slot(1), entry(1, "a"));
        log.decide_next();
        log.put(Slot(1), entry(2, "b"));
    }

    #[test]
    fn a_head_replaces_what_lies_below_it_and_keeps_what_lies_above() {
        let mut log = Log::new(&Recovered::blank());
        for slot in 1..=5 {
            log.put(Slot(slot), entry(1, "x"));
        }
        log.install_head(Slot(3), HistoryHash(7));
        assert_eq!((log.start(), log.accepted_upto(), log.decided_upto()), (Slot(4), Slot(5), Slot(3)));
        log.install_head(Slot(9), HistoryHash(8));
        assert_eq!((log.start(), log.accepted_upto(), log.applied_upto()), (Slot(10), Slot(9), Slot(9)));
    }
}
