//! What a peer network is told at its start.

use std::time::Duration;

use trialbay_engine::NodeId;

use super::frame;
use super::handshake::Terms;

/// Who this node is, who the others are, and the bounds on what they may cost.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// The cluster's id: others must have the same.
    pub cluster_id: String,
    /// This node.
    pub node: NodeId,
    /// This node's name.
    pub name: String,
    /// What the others must have too: a node with other terms is refused.
    pub terms: Terms,
    /// All other voters.
    pub peers: Vec<PeerAddress>,
    /// How long things may take.
    pub timing: PeerTiming,
    /// How much things may take.
    pub limits: PeerLimits,
    /// Spreads the reconnections of different nodes; any number will do, and the same one gives the same delays.
    pub seed: u64,
}

/// Another voter, and where it listens for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `host:port`; the name is resolved at each attempt to connect.
    pub address: String,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTiming {
    /// To connect.
    pub connect_max: Duration,
    /// To get to know each other after that.
    pub handshake_max: Duration,
    /// How often a receiver tells the sender how much it has read.
    pub pulse_interval: Duration,
    /// A peer that says nothing, or has read nothing of what it was sent, for this long is disconnected. Several pulses.
    pub silence_max: Duration,
    /// Between attempts to connect, at first,
    pub backoff_min: Duration,
    /// and at most. A connection that held this long is renewed at once when it breaks.
    pub backoff_max: Duration,
    /// For the last messages to leave at a shutdown.
    pub flush_max: Duration,
}

/// How much things may take, for each peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// The longest body of a frame, in bytes, sent or received.
    pub frame_bytes_max: usize,
    /// Bytes of messages waiting to be written, in each lane; the last message may exceed it.
    pub queue_bytes_max: usize,
    /// Messages waiting to be written, in each lane.
    pub queue_messages_max: usize,
    /// Bytes of messages that were received and that the driver has not taken yet; a larger one passes alone.
    pub inbox_bytes_max: u32,
}

impl PeerOptions {
    /// Everything that has to fit into a handshake.
    pub(super) fn texts(&self) -> impl Iterator<Item = &String> {
        self.peers.iter().map(|peer| &peer.name).chain([&self.cluster_id, &self.name])
    }
}

impl Default for PeerTiming {
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(1),
            handshake_max: Duration::from_secs(2),
            pulse_interval: Duration::from_millis(250),
            silence_max: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            flush_max: Duration::from_millis(500),
        }
    }
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: frame::BODY_LEN_MAX,
            queue_bytes_max: 64 << 20,
            queue_messages_max: 65_536,
            inbox_bytes_max: 64 << 20,
        }
    }
}
