//! Connections of their own, on which heads travel: nothing else waits behind a head.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trialbay_engine::NodeId;

use crate::net::Network;

use super::dial::connect;
use super::handshake::Purpose;
use super::link::Context;

/// A connection for a head, after the handshake.
pub struct HeadStream(Pin<Box<dyn Duplex>>);

/// Connects to peers that are to give a head. Cheap to clone.
#[derive(Clone)]
pub struct HeadDialler(Arc<dyn Fn(NodeId) -> Dialling + Send + Sync>);

/// Bytes both ways.
trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

type Dialling = Pin<Box<dyn Future<Output = Result<HeadStream, String>> + Send>>;

impl HeadStream {
    /// Over this connection.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl HeadDialler {
    /// Dials as this function does.
    pub fn new<F>(dial: impl Fn(NodeId) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<HeadStream, String>> + Send + 'static,
    {
        Self(Arc::new(move |to| Box::pin(dial(to))))
    }

    /// Over this network.
    pub(super) fn over<N: Network>(network: N, context: Arc<Context>) -> Self {
        Self::new(move |to| {
            let (network, context) = (network.clone(), context.clone());
            async move {
                let link = context.links.get(&to).ok_or("it is no node of this cluster")?;
                let stream = connect(&network, &context, link, Purpose::Head).await;
                stream.map(HeadStream::new).map_err(|why| why.to_string())
            }
        })
    }

    /// Connects to this peer. Takes no longer than a connection for messages.
    ///
    /// # Errors
    /// Says why it could not be reached.
    pub async fn dial(&self, to: NodeId) -> Result<HeadStream, String> {
        (self.0)(to).await
    }
}

impl fmt::Debug for HeadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeadStream")
    }
}

impl fmt::Debug for HeadDialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeadDialler")
    }
}

impl AsyncRead for HeadStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for HeadStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}
