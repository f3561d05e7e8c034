//! The peer network: keeps this node connected to every other voter, and carries the engine's messages.
//!
//! **One connection for each direction.** Every node dials every other one, and what it says travels on the connection
//! that it dialled. With one shared connection two nodes that dial each other at once need a rule for which connection
//! lives, and that rule needs its own answers for half-open ones; with two there is nothing to decide, each direction is
//! in order by itself, and `Connected` means precisely what the engine wants to know: *I* can be heard from here on. The
//! price is one more socket for each pair of at most seven nodes.
//!
//! On the way back the receiver sends pulses (`pulse.rs`), by which the sender tells a peer that hears from one that does
//! not, whatever the network between pretends.
//!
//! A head travels on a connection of its own (`heads.rs`), which the node that wants it dials.
//!
//! Everything may be lost (with a connection, or dropped at a full queue) and nothing is ever doubled, damaged or, within a
//! lane (`outbox.rs`), reordered. The engine survives loss; the queues stay bounded.

mod dial;
pub mod frame;
pub mod handshake;
mod heads;
mod link;
mod listen;
#[cfg(test)]
mod memory_network;
mod options;
mod outbox;
mod pulse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use trialbay_engine::{Message, NodeId};

use crate::net::{Listener as _, Network};
use crate::watched;
use crate::workers::caught;

use handshake::{Identity, NAME_LEN_MAX, VERSIONS};
pub use heads::{HeadDialler, HeadStream};
use link::{Context, Link};
pub use link::{PeerCounters, Room};
pub use options::{PeerAddress, PeerLimits, PeerOptions, PeerTiming};

/// What the network reports to the driver.
#[derive(Debug)]
pub enum PeerEvent {
    /// The connection to this peer was (re-)established: what was sent before may be lost, sends work from now on.
    Connected(NodeId),
    /// The connection to this peer broke: sends are dropped until the next `Connected`.
    Disconnected(NodeId),
    /// A peer's message arrived.
    Received {
        /// The sender, as its handshake proved.
        from: NodeId,
        /// What it said.
        message: Message,
        /// Keeps the inbox bounded in bytes: drop it when the message leaves the inbox.
        room: Room,
    },
    /// A peer wants a head, and has made a connection for it.
    HeadAsked {
        /// Who, as its handshake proved.
        by: NodeId,
        /// Where it listens.
        on: HeadStream,
    },
    /// A task of the network panicked, which is a bug: without it this node would go on deaf or mute.
    Failed(String),
}

/// Why a peer network did not start.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The address for peers cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}{}", hint(.source))]
    Bind {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A cluster id or a node name that fits into no handshake.
    #[error("{text:?} is {} bytes long: names and cluster ids have at most {NAME_LEN_MAX}", .text.len())]
    NameTooLong {
        /// The name.
        text: String,
    },
    /// A node is listed twice, or lists itself among its peers.
    #[error("{node} is listed twice: each node has one id and one peer address")]
    ListedTwice {
        /// Which.
        node: NodeId,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ": another process has this port; stop it, or configure another peer address",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address; correct the node's peer address",
        io::ErrorKind::PermissionDenied => ": choose a port above 1023, or run with the permission for this one",
        _ => "",
    }
}

/// The connections of one node to its peers. Dropping it breaks them all at once.
#[derive(Debug)]
pub struct PeerNetwork {
    context: Arc<Context>,
    address: Option<SocketAddr>,
    heads: HeadDialler,
    closing: watched::Sender<bool>,
    diallers: JoinSet<()>,
    listener: JoinHandle<()>,
}

impl PeerNetwork {
    /// Listens on `listen` and connects to every peer, for ever, reporting to `inbox`. When `inbox` is full, peers wait.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the options make no sense.
    pub async fn start<N: Network>(
        network: N,
        listen: &str,
        options: PeerOptions,
        inbox: mpsc::Sender<PeerEvent>,
    ) -> Result<Self, PeerError> {
        let listener =
            network.bind(listen).await.map_err(|source| PeerError::Bind { address: listen.to_owned(), source })?;
        Self::start_on(network, listener, options, inbox)
    }

    /// As [`PeerNetwork::start`], on a listener that was bound before. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the options make no sense.
    pub fn start_on<N: Network>(
        network: N,
        listener: N::Listener,
        options: PeerOptions,
        inbox: mpsc::Sender<PeerEvent>,
    ) -> Result<Self, PeerError> {
        if let Some(text) = options.texts().find(|text| text.len() > NAME_LEN_MAX) {
            return Err(PeerError::NameTooLong { text: text.clone() });
        }
        let mut links = BTreeMap::new();
        for peer in options.peers {
            let node = peer.node;
            let link = Arc::new(Link::new(peer, &options.limits));
            if node == options.node || links.insert(node, link).is_some() {
                return Err(PeerError::ListedTwice { node });
            }
        }
        let identity = Identity {
            cluster_id: options.cluster_id,
            node: options.node,
            name: options.name,
            peers: links.iter().map(|(node, link)| (*node, link.peer.name.clone())).collect(),
            versions: VERSIONS,
            terms: options.terms,
        };
        let (closing, closed) = watched::channel(false);
        let (timing, limits) = (options.timing, options.limits);
        let context = Arc::new(Context { identity, links, timing, limits, inbox, closing: closed, refused: 0.into() });

        let address = listener.local_addr().ok();
        let mut diallers = JoinSet::new();
        for link in context.links.values() {
            let dialling = dial::keep_connected(network.clone(), context.clone(), link.clone(), options.seed);
            diallers.spawn(reporting_panics("the task that connects to a peer", dialling, context.clone()));
        }
        let heads = HeadDialler::over(network, context.clone());
        let listening = listen::accept_all::<N>(listener, context.clone());
        let listener = tokio::spawn(reporting_panics("the task that listens to peers", listening, context.clone()));
        Ok(Self { context, address, heads, closing, diallers, listener })
    }

    /// Sends a message, if the peer is connected and its queue has room; otherwise drops and counts it. Never waits.
    pub fn send(&self, to: NodeId, message: Message) {
        if let Some(link) = self.context.links.get(&to) {
            link.send(message);
        }
    }

    /// Whether what is sent to this peer now will be written to a connection.
    pub fn is_connected(&self, to: NodeId) -> bool {
        self.context.links.get(&to).is_some_and(|link| link.outbox.is_open())
    }

    /// The way to peers that are to give a head.
    pub fn heads(&self) -> HeadDialler {
        self.heads.clone()
    }

    /// The address that is listened on, if the system tells.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What happened so far, for each peer.
    pub fn counters(&self) -> Vec<(NodeId, PeerCounters)> {
        self.context.links.iter().map(|(node, link)| (*node, link.counters())).collect()
    }

    /// How many connections were refused because their handshake failed.
    pub fn refused_handshakes(&self) -> u64 {
        self.context.refused.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes what is queued, for at most [`PeerTiming::flush_max`], and breaks all connections.
    pub async fn shutdown(mut self) {
        self.closing.set(true);
        let flushed = async { while self.diallers.join_next().await.is_some() {} };
        if tokio::time::timeout(self.context.timing.flush_max, flushed).await.is_err() {
            tracing::warn!("peers did not take all messages in time before the shutdown");
        }
        self.diallers.shutdown().await;
        self.listener.abort();
        // Waits until the port is free; that the task was cancelled is what was asked for.
        let _ = (&mut self.listener).await;
    }
}

/// Runs a task. If it panics, the driver hears of it.
async fn reporting_panics(what: &str, task: impl Future<Output = ()>, context: Arc<Context>) {
    if caught(task).await.is_none() {
        // Whoever does not listen any more ends anyway.
        let _ = context.inbox.send(PeerEvent::Failed(format!("{what} panicked (see above)"))).await;
    }
}

impl Drop for PeerNetwork {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
