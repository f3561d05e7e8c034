//! What waits for the disk. The only way for a promise or an acceptance out of a node leads through here (rules P1, A3).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::{Hash as _, Hasher};

use bincode::{Decode, Encode};

use crate::ids::{Ballot, Incarnation, PersistId, Slot};
use crate::record::Record;
use crate::value::HistoryHash;

/// What is owed once everything recorded before it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) enum Due {
    /// Promise this ballot to its owner, with everything accepted above the owner's decided prefix.
    Promise { ballot: Ballot, candidate_decided: Slot },
    /// Our own promise to ourselves: phase 1 may begin.
    OwnPromise { ballot: Ballot },
    /// Tell the ballot's owner (or count for ourselves) that everything up to this slot is durable.
    Accepted { ballot: Ballot, upto: Slot },
    /// Others may hear of this life.
    Born,
    /// Our votes count from now on, in this run.
    VoteLent { incarnation: Incarnation },
    /// Our votes count from now on.
    VoteRegained { incarnation: Incarnation },
}

/// Records on their way to the disk, and what waits for them.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct DiskQueue {
    /// Records of the current step, not yet ordered.
    records: Vec<Record>,
    record_bytes: usize,
    /// The last batch that was ordered.
    ordered: PersistId,
    /// The last batch that is durable.
    durable: PersistId,
    dues: VecDeque<(PersistId, Due)>,
    batches: VecDeque<(PersistId, usize)>,
    unpersisted_bytes: usize,
    decided_recorded: Slot,
    /// Ends of the decided prefix, each with the batch by which all its entries are ordered.
    decided_ordered: VecDeque<(PersistId, Slot)>,
    /// The last slot up to which the log has the decided entries durable: there may be older ones in later slots.
    decided_durable: Slot,
}

impl DiskQueue {
    /// Of a log in which everything is decided up to `decided`, and says so up to `recorded`.
    pub(crate) fn new(decided: Slot, recorded: Slot) -> Self {
        Self { decided_recorded: recorded, decided_durable: decided, ..Self::default() }
    }

    /// Has `record` made durable, after all earlier ones.
    pub(crate) fn record(&mut self, record: Record) {
        if let Record::Accepted(slot_entry) = &record {
            self.record_bytes += slot_entry.entry.value.size();
        }
        self.records.push(record);
    }

    /// Has `due` done once everything recorded so far is durable: at once, if it is already.
    pub(crate) fn when_durable(&mut self, due: Due) {
        let id = if self.records.is_empty() { self.ordered } else { PersistId(self.ordered.0 + 1) };
        // A peer that repeats itself while the disk hangs is owed no more than before.
        if self.dues.back() != Some(&(id, due.clone())) {
            self.dues.push_back((id, due));
        }
    }

    /// Takes this step's records as one batch, the decided prefix noted beside them.
    pub(crate) fn take_batch(&mut self, decided: Slot, hash: HistoryHash) -> Option<(PersistId, Vec<Record>)> {
        if self.records.is_empty() {
            return None;
        }
        if decided > self.decided_recorded {
            self.records.push(Record::Decided { upto: decided, hash });
            self.decided_recorded = decided;
        }
        self.ordered = PersistId(self.ordered.0 + 1);
        let bytes = core::mem::take(&mut self.record_bytes);
        self.unpersisted_bytes += bytes;
        self.batches.push_back((self.ordered, bytes));
        Some((self.ordered, core::mem::take(&mut self.records)))
    }

    /// Everything up to `upto` is decided, and its entries are ordered by now, at the end of a step.
    pub(crate) fn decided(&mut self, upto: Slot) {
        if self.decided_ordered.back().map_or(self.decided_durable, |(_, slot)| *slot) < upto {
            self.decided_ordered.push_back((self.ordered, upto));
        }
        while let Some((_, slot)) = self.decided_ordered.pop_front_if(|(id, _)| *id <= self.durable) {
            self.decided_durable = slot;
        }
    }

    /// The last slot up to which what the log has is what was decided (rule D3).
    pub(crate) fn decided_durable(&self) -> Slot {
        self.decided_durable
    }

    /// The disk is done with everything up to `id`.
    ///
    /// # Panics
    /// When that was never ordered: the driver is broken.
    pub(crate) fn persisted(&mut self, id: PersistId) {
        assert!(id <= self.ordered, "{id:?} was persisted but only {:?} was ordered", self.ordered);
        self.durable = self.durable.max(id);
        while let Some((batch, bytes)) = self.batches.front().copied()
            && batch <= self.durable
        {
            self.batches.pop_front();
            self.unpersisted_bytes -= bytes;
        }
    }

    /// The next thing owed whose records are durable.
    pub(crate) fn pop_ready(&mut self) -> Option<Due> {
        self.dues.pop_front_if(|(id, _)| *id <= self.durable).map(|(_, due)| due)
    }

    /// Hashes this between two steps; batches are numbered from the last durable one on, for their numbers mean nothing else.
    /// How far the decided entries are durable follows from the rest, and matters only where memory is short.
    pub(crate) fn digest(&self, hasher: &mut impl Hasher) {
        let after_durable = |id: PersistId| id.0 - self.durable.0;
        let dues = self.dues.iter().map(|(id, due)| (after_durable(*id), due));
        let batches = self.batches.iter().map(|(id, bytes)| (after_durable(*id), bytes));
        dues.for_each(|due| (true, due).hash(hasher));
        batches.for_each(|batch| (false, batch).hash(hasher));
        (after_durable(self.ordered), self.decided_recorded).hash(hasher);
    }

    /// Bytes of values ordered and not yet durable.
    pub(crate) fn unpersisted_bytes(&self) -> usize {
        self.unpersisted_bytes + self.record_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    #[test]
    fn nothing_is_due_before_its_record_is_durable() {
        let mut queue = DiskQueue::new(Slot::ZERO, Slot::ZERO);
        queue.record(Record::Promised(ballot(1)));
        queue.when_durable(Due::Promise { ballot: ballot(1), candidate_decided: Slot::ZERO });
        assert_eq!(queue.pop_ready(), None);
        let (id, records) = queue.take_batch(Slot::ZERO, HistoryHash::default()).unwrap();
        assert_eq!((id, records.len()), (PersistId(1), 1));
        assert_eq!(queue.pop_ready(), None);
        queue.persisted(PersistId(1));
        assert!(matches!(queue.pop_ready(), Some(Due::Promise { .. })));
        assert_eq!(queue.pop_ready(), None);
    }

    #[test]
    fn what_needs_no_new_record_waits_for_the_last_one_ordered() {
        let mut queue = DiskQueue::new(Slot::ZERO, Slot::ZERO);
        queue.when_durable(Due::OwnPromise { ballot: ballot(1) });
        assert!(queue.pop_ready().is_some(), "nothing was ever ordered");
        queue.record(Record::Promised(ballot(1)));
        queue.take_batch(Slot::ZERO, HistoryHash::default());
        queue.when_durable(Due::Accepted { ballot: ballot(1), upto: Slot(3) });
        assert_eq!(queue.pop_ready(), None);
        queue.persisted(PersistId(1));
        assert!(queue.pop_ready().is_some());
    }

    #[test]
    fn the_decided_prefix_is_noted_beside_other_records_and_only_when_it_grew() {
        let mut queue = DiskQueue::new(Slot(5), Slot(5));
        assert_eq!(queue.take_batch(Slot(9), HistoryHash::default()), None, "an idle node writes nothing");
        queue.record(Record::Promised(ballot(1)));
        assert_eq!(queue.take_batch(Slot(5), HistoryHash::default()).unwrap().1.len(), 1);
        queue.record(Record::Promised(ballot(2)));
        assert_eq!(queue.take_batch(Slot(6), HistoryHash::default()).unwrap().1.len(), 2);
    }

    #[test]
    #[should_panic(expected = "was persisted but only")]
    fn a_driver_that_persists_what_was_never_ordered_is_caught() {
        DiskQueue::new(Slot::ZERO, Slot::ZERO).persisted(PersistId(1));
    }
}
