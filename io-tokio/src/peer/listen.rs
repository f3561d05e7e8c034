//! The connections that peers dial to this node, and that it reads from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::net::{Listener as _, Network};

use super::PeerEvent;
use super::frame::{FrameBuffer, FrameError};
use super::handshake::{self, Purpose};
use super::heads::HeadStream;
use super::link::{Context, Link, Throttle};
use super::pulse::Hearing;

/// Connections beyond this number are refused: the handshakes of at most seven nodes never come near it.
const CONNECTIONS_MAX: usize = 128;

/// How long to wait when the system cannot accept now, because it is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a peer's connection is read no further.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] FrameError),
    #[error("the peer has connected anew")]
    Superseded,
    #[error("the node is stopping")]
    Stopping,
}

/// Accepts and reads connections until it is cancelled.
pub(super) async fn accept_all<N: Network>(listener: N::Listener, context: Arc<Context>) {
    let mut connections = JoinSet::new();
    let complaints = Arc::new(Mutex::new(Throttle::default()));
    loop {
        tokio::select! {
            biased;
            Some(ended) = connections.join_next() => match ended {
                // Here as well it is a bug, and the peer would only connect again.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Ok(()) | Err(_) => {}
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve(stream, from, context.clone(), complaints.clone()));
                }
                Ok((_, from)) => {
                    context.refused.fetch_add(1, Ordering::Relaxed);
                    complain(&complaints, from, "too many connections");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections of peers");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn complain(complaints: &Mutex<Throttle>, from: SocketAddr, why: impl std::fmt::Display) {
    let passed = complaints.lock().unwrap_or_else(PoisonError::into_inner).pass();
    if let Some(suppressed) = passed {
        tracing::warn!(%from, %why, suppressed, "refused a connection on the peer port");
    }
}

/// Gets to know who connected, and reads its messages into the inbox until the connection ends.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: SocketAddr,
    context: Arc<Context>,
    complaints: Arc<Mutex<Throttle>>,
) {
    let agreed = match handshake::accept(&mut stream, &context.identity, context.timing.handshake_max).await {
        Ok(agreed) => agreed,
        Err(error) => {
            context.refused.fetch_add(1, Ordering::Relaxed);
            complain(&complaints, from, error);
            return;
        }
    };
    let Some(link) = context.links.get(&agreed.peer) else {
        return;
    };
    if agreed.purpose == Purpose::Head {
        // Whoever does not listen any more ends anyway.
        let _ = context.inbox.send(PeerEvent::HeadAsked { by: agreed.peer, on: HeadStream::new(stream) }).await;
        return;
    }
    link.nudge.notify_one();
    tracing::debug!(peer = link.peer.name, %from, version = agreed.version, "peer connected");

    let why = read_as_newest(stream, &context, link).await;
    if let Unread::Malformed(error) = why {
        link.counts.malformed_frames.add(1);
        complain(&complaints, from, format_args!("peer {} sent a malformed frame: {error}", link.peer.name));
    }
    tracing::debug!(peer = link.peer.name, %from, %why, "peer disconnected");
}

/// Reads this connection, which the peer has just dialled, until it ends or the peer dials another.
async fn read_as_newest(stream: impl AsyncRead + AsyncWrite + Send, context: &Context, link: &Link) -> Unread {
    let number = link.incoming.update(|newest| newest + 1);
    let newest = link.incoming.subscribe();
    let (mut from, mut to) = tokio::io::split(stream);
    let hearing = Hearing::default();
    let reading = async {
        let _reading = link.reading.lock().await;
        match read_messages(&mut from, context, link, &hearing).await {
            Ok(why) | Err(why) => why,
        }
    };
    tokio::select! {
        biased;
        _ = newest.wait_for(|newest| newest != number) => Unread::Superseded,
        why = reading => why,
        error = hearing.tell(&mut to, context.timing.pulse_interval) => error.into(),
    }
}

async fn read_messages(
    from: &mut (impl AsyncRead + Unpin),
    context: &Context,
    link: &Link,
    hearing: &Hearing,
) -> Result<Unread, Unread> {
    let mut frames = FrameBuffer::new(context.limits.frame_bytes_max);
    loop {
        let len = frames.fill(from).await? as u64;
        if len == 0 {
            frames.finish()?;
            return Ok(Unread::Closed);
        }
        hearing.read.fetch_add(len, Ordering::Relaxed);
        link.counts.received_bytes.add(len);
        while let Some(message) = frames.next_message()? {
            link.counts.received_messages.add(1);
            hearing.waiting.store(true, Ordering::Relaxed);
            let room = link.room_for(&message).await;
            let received = PeerEvent::Received { from: link.peer.node, message, room };
            context.inbox.send(received).await.map_err(|_| Unread::Stopping)?;
            hearing.waiting.store(false, Ordering::Relaxed);
        }
    }
}
