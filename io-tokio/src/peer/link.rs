//! What the two connections between this node and one peer share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use trialbay_engine::{Message, NodeId};

use crate::watched;

use super::handshake::Identity;
use super::outbox::{Outbox, weight};
use super::{PeerAddress, PeerEvent, PeerLimits, PeerTiming};

/// What all tasks of a peer network share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) identity: Identity,
    pub(super) links: BTreeMap<NodeId, Arc<Link>>,
    pub(super) timing: PeerTiming,
    pub(super) limits: PeerLimits,
    pub(super) inbox: mpsc::Sender<PeerEvent>,
    pub(super) closing: watched::Receiver<bool>,
    pub(super) refused: AtomicU64,
}

/// One peer, as this node is linked to it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: PeerAddress,
    /// What waits for the connection that this node dialled.
    pub(super) outbox: Outbox,
    /// The peer is there: do not wait any longer before dialling it.
    pub(super) nudge: Notify,
    /// The number of the newest connection that the peer dialled. Older ones end when they see it.
    pub(super) incoming: watched::Sender<u64>,
    /// Held while such a connection is read, so that a newer one's messages never mix with an older one's.
    pub(super) reading: Mutex<()>,
    /// The free bytes of this peer's share of the inbox.
    room: Arc<Semaphore>,
    inbox_bytes_max: u32,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent_messages: Count,
    pub(super) sent_bytes: Count,
    pub(super) dropped_messages: Count,
    pub(super) received_messages: Count,
    pub(super) received_bytes: Count,
    pub(super) malformed_frames: Count,
    pub(super) connections: Count,
    pub(super) failed_attempts: Count,
}

/// What happened between this node and one peer since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Whether sends are taken now.
    pub connected: bool,
    /// Messages given to the connection.
    pub sent_messages: u64,
    /// Their bytes, frames included.
    pub sent_bytes: u64,
    /// Messages dropped: no connection, a full queue, or lost from the queue with the connection.
    pub dropped_messages: u64,
    /// Messages received.
    pub received_messages: u64,
    /// Bytes received, frames included.
    pub received_bytes: u64,
    /// Frames of the peer that were none; each cost it its connection.
    pub malformed_frames: u64,
    /// Connections established to the peer.
    pub connections: u64,
    /// Attempts to connect to the peer that failed.
    pub failed_attempts: u64,
}

/// A received message's share of the bytes that the inbox may hold. Freed when dropped.
#[derive(Debug, Default)]
pub struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// For messages that come from no connection.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether the message takes a share.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Link {
    pub(super) fn new(peer: PeerAddress, limits: &PeerLimits) -> Self {
        Self {
            peer,
            outbox: Outbox::new(limits.queue_bytes_max, limits.queue_messages_max),
            nudge: Notify::new(),
            incoming: watched::Sender::new(0),
            reading: Mutex::new(()),
            room: Arc::new(Semaphore::new(limits.inbox_bytes_max as usize)),
            inbox_bytes_max: limits.inbox_bytes_max,
            counts: Counts::default(),
        }
    }

    pub(super) fn send(&self, message: Message) {
        if !self.outbox.offer(message) {
            self.counts.dropped_messages.add(1);
        }
    }

    /// Waits until the inbox may hold this message.
    pub(super) async fn room_for(&self, message: &Message) -> Room {
        let bytes = u32::try_from(weight(message)).unwrap_or(u32::MAX).min(self.inbox_bytes_max);
        Room(self.room.clone().acquire_many_owned(bytes).await.ok())
    }

    pub(super) fn counters(&self) -> PeerCounters {
        PeerCounters {
            connected: self.outbox.is_open(),
            sent_messages: self.counts.sent_messages.get(),
            sent_bytes: self.counts.sent_bytes.get(),
            dropped_messages: self.counts.dropped_messages.get(),
            received_messages: self.counts.received_messages.get(),
            received_bytes: self.counts.received_bytes.get(),
            malformed_frames: self.counts.malformed_frames.get(),
            connections: self.counts.connections.get(),
            failed_attempts: self.counts.failed_attempts.get(),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keeps a log readable when something goes wrong again and again: one line in [`Throttle::INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether to log now, and if so how many times it was not logged since the last line.
    pub(super) fn pass(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < Self::INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
