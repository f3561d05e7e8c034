//! What nodes say to each other. `docs/protocol.md` has the table of who sends what, when.

use alloc::vec::Vec;
use core::fmt;

use bincode::{Decode, Encode};

use crate::ids::{Ballot, Incarnation, NodeId, Slot};
use crate::time::Instant;
use crate::value::{Entry, HistoryHash, SlotEntry, Value};

/// A list inside a message. A type of its own so that decoding reserves memory only for elements that are there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct List<T>(pub Vec<T>);

/// A message between two nodes of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Would you promise me this ballot? Changes nothing at the receiver, so that a node that cannot win disturbs nobody.
    Canvass {
        /// The ballot that the sender would campaign with.
        ballot: Ballot,
        /// The end of the sender's decided prefix.
        decided_upto: Slot,
    },
    /// The answer to `Canvass`.
    Canvassed {
        /// From the `Canvass`.
        ballot: Ballot,
        /// Whether a `Prepare` would be promised now.
        willing: bool,
        /// The responder's life (rule V1).
        incarnation: Incarnation,
        /// The highest ballot that the responder promised, for the candidate's next round.
        promised: Ballot,
        /// The end of the responder's decided prefix: a candidate that is behind it catches up first.
        decided_upto: Slot,
    },
    /// Phase 1a. Leaves only after the sender's own promise is durable.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The end of the candidate's decided prefix.
        decided_upto: Slot,
    },
    /// Phase 1b. Leaves only after the promise is durable.
    Promise {
        /// The promised ballot.
        ballot: Ballot,
        /// The responder's life (rule V1).
        incarnation: Incarnation,
        /// Everything that the responder accepted above the candidate's decided prefix.
        accepted: List<SlotEntry>,
    },
    /// Phase 2a: consecutive values from `first` on. Only the owner of the ballot sends it.
    Accept {
        /// The master's ballot.
        ballot: Ballot,
        /// The slot of the first value.
        first: Slot,
        /// The values of `first`, `first` + 1 and so on.
        values: List<Value>,
        /// The end of the master's decided prefix.
        decided_upto: Slot,
        /// The master's history hash there.
        decided_hash: HistoryHash,
    },
    /// Phase 2b, cumulative. Leaves only after everything it covers is durable.
    Accepted {
        /// The ballot of the acceptance.
        ballot: Ballot,
        /// The responder's life (rule V1).
        incarnation: Incarnation,
        /// Whether the responder's votes count (rule V1); without, this only paces the stream.
        votes: bool,
        /// Every slot up to and including this one is durable with the value of this ballot (or is decided).
        upto: Slot,
    },
    /// A master asks for its lease, and says how far it is. Sent several times a lease, load or not.
    Heartbeat {
        /// The master's ballot.
        ballot: Ballot,
        /// The master's clock at sending. Echoed; means nothing to others.
        asked_at: Instant,
        /// The last slot that the master has sent to this slave.
        sent_upto: Slot,
        /// The first slot that the master can stream from memory; a slave that lacks earlier ones fetches them.
        stream_start: Slot,
        /// The end of the master's decided prefix.
        decided_upto: Slot,
        /// The master's history hash there.
        decided_hash: HistoryHash,
    },
    /// The sender will promise no other node anything for one lease from now. Never waits for a disk.
    Granted {
        /// From the `Heartbeat`.
        ballot: Ballot,
        /// From the `Heartbeat`.
        asked_at: Instant,
        /// The responder's life (rule V1).
        incarnation: Incarnation,
        /// Whether the responder's votes count (rule V1); without, this is a sign of life only.
        votes: bool,
        /// The end of what the responder holds of this ballot, durable or not.
        received_upto: Slot,
        /// The end of what the responder's store has applied; 0 while that applies nothing (rule E4).
        applied_upto: Slot,
    },
    /// What you sent is not next here: send again from `received_upto` + 1.
    Gap {
        /// The master's ballot.
        ballot: Ballot,
        /// The end of what the sender holds of this ballot.
        received_upto: Slot,
    },
    /// A refusal of `Prepare`, `Accept` or `Heartbeat`.
    Nak {
        /// The refused ballot.
        ballot: Ballot,
        /// The highest ballot that the sender promised.
        promised: Ballot,
        /// The end of the sender's decided prefix.
        decided_upto: Slot,
    },
    /// The master stops; its lease ends with this message. Sent only by a master that serves nobody any more.
    Resign {
        /// The ballot that is given up.
        ballot: Ballot,
        /// Who should campaign at once; the others wait as ever.
        successor: Option<NodeId>,
        /// The end of the master's decided prefix: a successor must have it all.
        decided_upto: Slot,
        /// The master's history hash there.
        decided_hash: HistoryHash,
    },
    /// Catch-up: which decided entries do you have from this slot on?
    Fetch {
        /// The first slot wanted.
        from: Slot,
    },
    /// The answer to `Fetch`: consecutive decided entries from `first` on. None when the responder has nothing newer.
    Fetched {
        /// The slot of the first entry.
        first: Slot,
        /// The decided entries.
        entries: List<Entry>,
        /// The end of the responder's decided prefix.
        decided_upto: Slot,
    },
    /// The answer to `Fetch` when the slot is not in the responder's log any more: a head transfer is needed.
    Gone {
        /// The first slot that the responder's log still has.
        log_start: Slot,
    },
    /// A node without a vote asks what its earlier life may have promised and accepted (rules V2 and V3).
    Recall {
        /// The asker's new life.
        incarnation: Incarnation,
    },
    /// The answer to `Recall`.
    Recalled {
        /// From the `Recall`.
        asker: Incarnation,
        /// The responder's life.
        incarnation: Incarnation,
        /// Whether the responder remembers all that its votes ever said; the rest is worth something only then. A node
        /// whose vote is only lent does not (rule V3).
        votes: bool,
        /// Whether the responder's log has never held anything.
        blank: bool,
        /// The highest ballot the responder knows of.
        promised: Ballot,
        /// The last slot the responder has accepted anything in.
        accepted_upto: Slot,
        /// Who took part in the cluster's birth, as the responder knows it.
        genesis: List<(NodeId, Incarnation)>,
    },
    /// A preferred node is level with a master that is not preferred, and wants to succeed it (rule H3).
    Claim {
        /// The master's ballot.
        ballot: Ballot,
    },
}

impl<T> From<Vec<T>> for List<T> {
    fn from(elements: Vec<T>) -> Self {
        Self(elements)
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
