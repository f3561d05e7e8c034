//! The connection that this node dials to a peer, and writes to.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;
use trialbay_engine::Message;

use crate::net::Network;
use crate::watched;

use super::frame::append_frame;
use super::handshake::{self, HandshakeError, Purpose};
use super::link::{Context, Link, Throttle};
use super::pulse::{self, Unheard};
use super::{PeerEvent, PeerTiming};

/// Waiting messages are written together until they weigh this many bytes. What overtakes waits for one such write.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A larger batch does not leave its memory behind.
const RETAINED_LEN_MAX: usize = 4 << 20;

/// Why there is no connection to a peer, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unlinked {
    #[error("cannot connect: {0}")]
    Unreachable(io::Error),
    #[error("cannot connect within {0:?}")]
    ConnectTimedOut(Duration),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("writing failed: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Unheard(#[from] Unheard),
}

/// Connects to the peer again and again, and writes what waits for it, until the network closes.
pub(super) async fn keep_connected<N: Network>(network: N, context: Arc<Context>, link: Arc<Link>, seed: u64) {
    let closing = &context.closing;
    let mut backoff = Backoff::new(&context.timing, seed ^ u64::from(link.peer.node.0));
    let mut throttle = Throttle::default();
    loop {
        let connected = tokio::select! {
            biased;
            () = closed(closing) => return,
            connected = connect(&network, &context, &link, Purpose::Messages) => connected,
        };
        let (why, held) = match connected {
            Ok(stream) => {
                let since = Instant::now();
                match hold(stream, &context, &link).await {
                    ControlFlow::Break(()) => return,
                    ControlFlow::Continue(why) => (why, Some(since.elapsed())),
                }
            }
            Err(why) => {
                link.counts.failed_attempts.add(1);
                (why, None)
            }
        };
        if let Some(suppressed) = throttle.pass() {
            let (peer, address) = (&link.peer.name, &link.peer.address);
            tracing::warn!(peer, address, why = %why, suppressed, "no connection to peer");
        }
        tokio::select! {
            biased;
            () = closed(closing) => return,
            () = link.nudge.notified() => {}
            () = tokio::time::sleep(backoff.delay(held)) => {}
        }
    }
}

/// Returns when the network closes.
async fn closed(closing: &watched::Receiver<bool>) {
    // An error means that the network was dropped, which closes it too.
    let _ = closing.wait_for(|closing| closing).await;
}

/// Dials the peer, and gets to know it.
pub(super) async fn connect<N: Network>(
    network: &N,
    context: &Context,
    link: &Link,
    purpose: Purpose,
) -> Result<N::Stream, Unlinked> {
    let PeerTiming { connect_max, handshake_max, .. } = context.timing;
    let mut stream = tokio::time::timeout(connect_max, network.connect(&link.peer.address))
        .await
        .map_err(|_| Unlinked::ConnectTimedOut(connect_max))?
        .map_err(Unlinked::Unreachable)?;
    handshake::dial(&mut stream, &context.identity, link.peer.node, purpose, handshake_max).await?;
    Ok(stream)
}

/// Lets messages through an established connection until it breaks, which gives the reason, or until the network closes.
async fn hold(stream: impl AsyncRead + AsyncWrite + Send, context: &Context, link: &Link) -> ControlFlow<(), Unlinked> {
    let node = link.peer.node;
    link.counts.connections.add(1);
    link.outbox.open();
    tracing::info!(peer = link.peer.name, "connected to peer");
    let why = match context.inbox.send(PeerEvent::Connected(node)).await {
        Ok(()) => write_until_broken(stream, context, link).await,
        Err(_) => ControlFlow::Break(()),
    };
    link.counts.dropped_messages.add(link.outbox.close());
    match context.inbox.send(PeerEvent::Disconnected(node)).await {
        Ok(()) => why,
        Err(_) => ControlFlow::Break(()),
    }
}

async fn write_until_broken(
    stream: impl AsyncRead + AsyncWrite + Send,
    context: &Context,
    link: &Link,
) -> ControlFlow<(), Unlinked> {
    let (mut from, mut to) = tokio::io::split(stream);
    let sent = AtomicU64::new(0);
    let watching = pulse::watch(&mut from, &sent, &context.timing);
    tokio::pin!(watching);
    tokio::select! {
        biased;
        unheard = &mut watching => ControlFlow::Continue(unheard.into()),
        written = write_waiting(&mut to, context, link, &sent) => match written {
            Err(error) => ControlFlow::Continue(Unlinked::Write(error)),
            Ok(()) => {
                // Whoever closes a connection with pulses unread may destroy what the peer has not read: it goes first.
                watching.await;
                ControlFlow::Break(())
            }
        },
    }
}

/// Writes what waits in the outbox, for ever; or, once the network closes, until nothing waits any more.
async fn write_waiting(
    to: &mut (impl AsyncWrite + Unpin),
    context: &Context,
    link: &Link,
    sent: &AtomicU64,
) -> io::Result<()> {
    let closing = &context.closing;
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    loop {
        // Asked for before the outbox is: what was queued before the closing is seen below.
        let last = closing.get();
        if link.outbox.take(&mut batch, BATCH_BYTES_MAX) {
            encode(&mut batch, &mut bytes, context, link);
            write_all(to, &bytes, link, sent).await?;
            bytes.clear();
            bytes.shrink_to(RETAINED_LEN_MAX);
        } else if last {
            return to.shutdown().await;
        } else {
            tokio::select! {
                biased;
                () = link.outbox.filled() => {}
                () = closed(closing) => {}
            }
        }
    }
}

async fn write_all(
    to: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    link: &Link,
    sent: &AtomicU64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let len = to.write(bytes).await?;
        if len == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[len..];
        sent.fetch_add(len as u64, Ordering::Relaxed);
        link.counts.sent_bytes.add(len as u64);
    }
    to.flush().await
}

fn encode(batch: &mut Vec<Message>, bytes: &mut Vec<u8>, context: &Context, link: &Link) {
    for message in batch.drain(..) {
        match append_frame(&message, context.limits.frame_bytes_max, bytes) {
            Ok(()) => link.counts.sent_messages.add(1),
            Err(error) => {
                link.counts.dropped_messages.add(1);
                tracing::error!(peer = link.peer.name, %error, "dropped a message to a peer");
            }
        }
    }
}

/// How long to wait before the next attempt: at once after a connection that held, then twice as long each time, with a
/// random part so that nodes do not move in step.
#[derive(Debug)]
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    fn new(timing: &PeerTiming, seed: u64) -> Self {
        Self { min: timing.backoff_min, max: timing.backoff_max, next: timing.backoff_min, random: seed }
    }

    /// The delay after a connection that was held this long, or after a failed attempt.
    fn delay(&mut self, held: Option<Duration>) -> Duration {
        if held.is_some_and(|held| held >= self.max) {
            self.next = self.min;
            return Duration::ZERO;
        }
        let longest = self.next;
        self.next = (longest * 2).min(self.max);
        let half = longest / 2;
        half + half.mul_f64(self.draw())
    }

    /// From 0 to 1, by SplitMix64. Not the system's randomness, so that a simulated node repeats itself.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from((mixed >> 40) as u32) / f64::from(1u32 << 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_begin_anew_after_a_connection_that_held() {
        let timing = PeerTiming::default();
        let mut backoff = Backoff::new(&timing, 1);
        for expected in [50, 100, 200, 400, 800, 1000, 1000] {
            let expected = Duration::from_millis(expected);
            let delay = backoff.delay(None);
            assert!(expected / 2 <= delay && delay <= expected, "{delay:?} for {expected:?}");
        }
        assert!(backoff.delay(Some(timing.backoff_max / 2)) >= timing.backoff_max / 2, "a short one does not count");
        assert_eq!(backoff.delay(Some(timing.backoff_max)), Duration::ZERO);
        assert!(backoff.delay(None) <= timing.backoff_min);
    }

    #[test]
    fn different_seeds_give_different_delays_and_the_same_seed_the_same() {
        let delays = |seed| {
            let mut backoff = Backoff::new(&PeerTiming::default(), seed);
            [(); 5].map(|()| backoff.delay(None))
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
