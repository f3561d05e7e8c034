//! What happens to a node: facts, in the past tense.

use alloc::vec::Vec;

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::ids::{NodeId, PersistId, ReadId, RequestId, Slot};
use crate::message::Message;
use crate::value::{HistoryHash, SlotEntry};

/// One fact that the driver tells the engine.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Event {
    /// The deadline of [`Engine::next_deadline`](crate::Engine::next_deadline) has come (or not: early is harmless).
    Ticked,
    /// A connection to this peer was (re-)established: what was sent before may be lost.
    Connected(NodeId),
    /// The connection to this peer broke.
    Disconnected(NodeId),
    /// A peer's message arrived.
    Received {
        /// The authenticated sender.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// Clients want these updates done. The engine batches them as it sees fit, in this order.
    Requested(Vec<Request>),
    /// A client wants a `Consistent` read that trusts no clock.
    ReadRequested(ReadId),
    /// All records up to and including this batch are durable.
    Persisted(PersistId),
    /// All values up to and including this slot are applied to the store (which need not be durable).
    Applied(Slot),
    /// The answer to [`Action::ReadLog`](crate::Action::ReadLog): consecutive entries, at least one, from the slot asked for.
    LogRead {
        /// The peer that the action named.
        peer: NodeId,
        /// What the log holds there; empty when it could not be read.
        entries: Vec<SlotEntry>,
    },
    /// The answer to [`Action::InstallHead`](crate::Action::InstallHead): the store now has the state of this slot.
    HeadInstalled {
        /// The slot.
        slot: Slot,
        /// The history hash there.
        hash: HistoryHash,
    },
    /// The answer to `InstallHead` when it did not work out: the engine tries another peer, or this one again later.
    HeadFailed,
    /// The disk failed: nothing more will become durable.
    StorageFailed,
    /// The operator wants this node to stop; a master hands over first.
    StopRequested,
    /// The operator wants another node to be master; this one goes on as a slave. Answered with
    /// [`Action::Dropped`](crate::Action::Dropped), one answer for all who ask meanwhile.
    DropRequested,
    /// The log's old end was removed, for the store has what was in it: it holds nothing before this slot any more.
    LogShortened {
        /// The first slot that the log holds.
        log_start: Slot,
    },
    /// The store is to apply nothing until [`Event::StoreResumed`], for something long is done to it (rule E4). Only while
    /// [`Engine::may_pause_store`](crate::Engine::may_pause_store).
    StorePaused,
    /// The store applies again.
    StoreResumed,
}

/// One client update.
#[derive(Clone, Debug, Hash)]
pub struct Request {
    /// The driver's name for it; comes back in `Apply` or `Refuse`.
    pub id: RequestId,
    /// The update, opaque to the engine.
    pub command: Bytes,
}
