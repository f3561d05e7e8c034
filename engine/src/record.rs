//! What a node writes to its transaction log. The bytes of a record are the driver's business; this is their meaning.

use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::ids::{Ballot, Incarnation, NodeId, Slot};
use crate::value::{HistoryHash, SlotEntry};

/// One record of the transaction log. Records are durable in the order in which they were given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Record {
    /// The node will not take part in any ballot below this one.
    Promised(Ballot),
    /// The node accepted this value in this slot. Implies the promise of its ballot.
    Accepted(SlotEntry),
    /// Every slot up to and including this one is decided, with the values that this log's last `Accepted` records
    /// give. Written beside other records, so it may lag behind; it is never wrong.
    Decided {
        /// The last decided slot known.
        upto: Slot,
        /// The history hash at that slot.
        hash: HistoryHash,
    },
    /// The node's memory began anew (a first start, a wiped disk, or damage): its votes do not count until a
    /// [`Record::VoteRegained`] of the same incarnation follows (rule V1).
    MemoryBegan(Incarnation),
    /// Everything that an earlier life of this node may have promised or accepted is covered (rules V2 and V3).
    VoteRegained {
        /// The life whose votes count from here on.
        incarnation: Incarnation,
        /// When the cluster began with all memories empty: every node's first life. Otherwise empty.
        genesis: Vec<(NodeId, Incarnation)>,
    },
}

/// What the driver found on disk at start: the summary of a whole transaction log and of the store.
///
/// # Well-formedness
/// 1. `promised` is at least every ballot in `undecided`.
/// 2. `undecided` is contiguous and begins right after `decided_upto`.
/// 3. The store has applied exactly the slots up to `decided_upto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The highest ballot of any `Promised` or `Accepted` record; `Ballot::ZERO` in an empty log.
    pub promised: Ballot,
    /// The end of the decided prefix: from the last `Decided` record, or the store's applied slot if that is higher.
    pub decided_upto: Slot,
    /// The history hash at `decided_upto`.
    pub decided_hash: HistoryHash,
    /// The accepted entries above `decided_upto`, the last record of each slot winning.
    pub undecided: Vec<SlotEntry>,
    /// The first slot that the log can still serve to others; `decided_upto.next()` when it holds none.
    pub log_start: Slot,
    /// This node's life and whether its votes count: the engine begins a new life when there is none. `None`
    /// 1. in an empty log;
    /// 2. when a record was lost after the last `MemoryBegan` (one before the last `VoteRegained` counts too: what a
    ///    node accepted before it regained its vote it acknowledges afterwards);
    /// 3. when records are missing, from whatever life, without which the decided prefix ends before the last `Decided`
    ///    record after that `MemoryBegan`, or `undecided` before the last slot accepted after it.
    pub memory: Option<Memory>,
}

/// A node's life, as its log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// From the last `MemoryBegan` or `VoteRegained` record.
    pub incarnation: Incarnation,
    /// Whether a `VoteRegained` record of that incarnation was found.
    pub votes: bool,
    /// From that record.
    pub genesis: Vec<(NodeId, Incarnation)>,
}

impl Recovered {
    /// What an empty home gives.
    pub fn blank() -> Self {
        Self {
            promised: Ballot::ZERO,
            decided_upto: Slot::ZERO,
            decided_hash: HistoryHash::default(),
            undecided: Vec::new(),
            log_start: Slot(1),
            memory: None,
        }
    }

    /// Checks exactly the numbered conditions above; the third is the driver's to keep.
    pub fn is_well_formed(&self) -> bool {
        let mut expected = self.decided_upto;
        self.undecided.iter().all(|slot_entry| {
            expected = expected.next();
            slot_entry.slot == expected && slot_entry.entry.ballot <= self.promised
        })
    }
}
