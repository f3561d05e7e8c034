//! A network in memory, for tests in paused time, whose wires can be made to swallow what is sent.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

use crate::net::{Listener, Network};

/// Everybody on it shares one set of addresses.
#[derive(Clone, Default)]
pub(super) struct MemoryNetwork(Arc<Inner>);

#[derive(Default)]
struct Inner {
    listeners: Mutex<BTreeMap<String, mpsc::UnboundedSender<Wire>>>,
    /// Whether each existing connection's dialler is heard no more.
    swallowing: Mutex<Vec<Arc<AtomicBool>>>,
}

pub(super) struct MemoryListener(tokio::sync::Mutex<mpsc::UnboundedReceiver<Wire>>);

pub(super) struct Wire {
    stream: DuplexStream,
    swallows: Arc<AtomicBool>,
}

impl MemoryNetwork {
    /// From now on, what the diallers of all existing connections write is lost without a sign. New ones work.
    pub(super) fn swallow_what_is_sent(&self) {
        for swallows in self.0.swallowing.lock().unwrap().iter() {
            swallows.store(true, Ordering::Relaxed);
        }
    }
}

impl Network for MemoryNetwork {
    type Stream = Wire;
    type Listener = MemoryListener;

    async fn connect(&self, address: &str) -> io::Result<Wire> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let near = Wire { stream: near, swallows: Arc::default() };
        let far = Wire { stream: far, swallows: Arc::default() };
        let listener = self.0.listeners.lock().unwrap().get(address).cloned();
        listener.and_then(|listener| listener.send(far).ok()).ok_or(io::ErrorKind::ConnectionRefused)?;
        self.0.swallowing.lock().unwrap().push(near.swallows.clone());
        Ok(near)
    }

    async fn bind(&self, address: &str) -> io::Result<MemoryListener> {
        let (accepted, listener) = mpsc::unbounded_channel();
        self.0.listeners.lock().unwrap().insert(address.to_owned(), accepted);
        Ok(MemoryListener(tokio::sync::Mutex::new(listener)))
    }
}

impl Listener for MemoryListener {
    type Stream = Wire;

    async fn accept(&self) -> io::Result<(Wire, SocketAddr)> {
        match self.0.lock().await.recv().await {
            Some(wire) => Ok((wire, ([127, 0, 0, 1], 1).into())),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.swallows.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
