//! What a node orders its driver to do. There is no ordering rule between actions of different kinds: what must wait
//! for a disk is ordered only in the step that hears that the disk is done.

use alloc::vec::Vec;

use bincode::Encode;

use crate::ids::{NodeId, PersistId, ReadId, RequestId, Slot};
use crate::message::Message;
use crate::record::Record;
use crate::value::{HistoryHash, Value};

/// One order to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Encode)]
pub enum Action {
    /// Send this to a peer, if it is connected. Messages to one peer keep their order; any may be lost.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Append these records to the log and make them durable, in order; then answer with `Persisted(id)`.
    Persist {
        /// Names this batch; each is one more than the last.
        id: PersistId,
        /// Never empty.
        records: Vec<Record>,
    },
    /// Apply this decided value to the store. Slots come in order, without a gap. Answer with `Applied`, now and then.
    Apply {
        /// The slot.
        slot: Slot,
        /// The history hash including this value.
        hash: HistoryHash,
        /// What was decided.
        value: Value,
        /// Who waits for the outcome of each command of the batch, in the same order; empty unless the node proposed it.
        requests: Vec<RequestId>,
    },
    /// Tell these clients that their updates were refused or that their outcome is unknown.
    Refuse {
        /// The updates.
        requests: Vec<RequestId>,
        /// What became of them.
        reason: Refusal,
    },
    /// This read may be served from the store once it has applied the slot.
    ServeRead {
        /// The read.
        read: ReadId,
        /// The read sees everything up to this slot at least.
        at: Slot,
    },
    /// This read cannot be served here.
    RefuseRead {
        /// The read.
        read: ReadId,
        /// Why; never `OutcomeUnknown`.
        reason: Refusal,
    },
    /// Read decided entries from the log, about `bytes_max` of them but at least one; answer with `LogRead`.
    ReadLog {
        /// On whose behalf; at most one read per peer is in progress.
        peer: NodeId,
        /// The first slot.
        from: Slot,
        /// The last slot that may be read.
        upto: Slot,
        /// Stop after this many bytes of values.
        bytes_max: usize,
    },
    /// The slots after our decided prefix are gone everywhere: get a head from this peer; answer with `HeadInstalled` or `HeadFailed`.
    InstallHead {
        /// A peer that has one.
        from: NodeId,
    },
    /// A peer broke the protocol: count it, log it.
    Blame {
        /// Who.
        peer: NodeId,
        /// What it did.
        offence: Offence,
    },
    /// Stop this node now, for this reason. Nothing else will be ordered.
    Halt(HaltReason),
    /// The answer to all [`Event::DropRequested`](crate::Event::DropRequested) since the last one.
    Dropped(Dropped),
}

/// Why an update or a read was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum Refusal {
    /// Did not happen: this node is not the master (or cannot prove it).
    NotMaster {
        /// Who is, as far as this node knows.
        master: Option<NodeId>,
    },
    /// Did not happen: the queue of updates is full.
    Overloaded,
    /// Did not happen: the node is stopping.
    Stopping,
    /// The update was proposed and mastership was lost before it was decided. It may happen yet.
    OutcomeUnknown,
}

/// What became of a wish for another master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum Dropped {
    /// This node was not the master, or another one is now.
    Done,
    /// This node is the only voter, and the master still.
    Alone,
    /// For a lease no slave was able to take over. This node is the master still.
    NobodyAble,
    /// This node is no master any more, and has not heard of another in the time for which it leaves that to others.
    NobodyTookOver,
}

/// How a peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum Offence {
    /// It is not a member of this cluster.
    Stranger,
    /// It used a ballot that belongs to another node.
    ForeignBallot,
    /// It acknowledged something that was never sent to it.
    AcknowledgedTooMuch,
    /// It sent values, or asked for slots, beyond every limit.
    OutOfBounds,
    /// It answered with entries that are not consecutive or not what was asked for.
    WrongEntries,
    /// It campaigned, or acted as master, and is a learner or a witness (rule E2).
    NoCandidate,
}

/// Why a node stops itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum HaltReason {
    /// The operator asked for it. The only good one.
    Stopped,
    /// The disk failed (an fsync error is final).
    StorageFailed,
    /// This node decided another history than the master: one of the two must not go on.
    HistoryDiverged {
        /// Where it showed.
        slot: Slot,
        /// The hash here.
        ours: HistoryHash,
        /// The hash at the master.
        theirs: HistoryHash,
    },
}

/// Collects the actions of one or more steps. Reuse it: draining keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct Actions {
    pub(crate) queue: Vec<Action>,
}

impl Actions {
    /// An empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the collected actions out, in the order of the steps that gave them.
    pub fn drain(&mut self) -> impl Iterator<Item = Action> + '_ {
        self.queue.drain(..)
    }

    /// The collected actions.
    pub fn as_slice(&self) -> &[Action] {
        &self.queue
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
