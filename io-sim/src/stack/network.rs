//! turmoil's network, for nodes and clients alike. Everything that arrives leaves its trace.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trialbay::client::{Dial, Dialling};
use trialbay::net::{Listener, Network};
use turmoil::net::{TcpListener, TcpStream};

use super::home::now;
use super::trace::Trace;

/// The network as one process sees it: which host it is on turmoil knows.
#[derive(Clone)]
pub(super) struct SimNetwork {
    sockets: Sockets,
    trace: Trace,
}

/// One end of a connection.
pub(super) struct SimStream {
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    network: SimNetwork,
}

/// Where a host listens.
pub(super) struct SimListener {
    listener: TcpListener,
    network: SimNetwork,
}

/// The connections of one process. Clones share them.
///
/// The tasks of a host that dies are dropped in an order that depends on how many tasks the whole program ever had. Each
/// connection that ends draws from the network's chance for its last message. So the connections of a process end
/// together, in their own order, when the first one goes.
#[derive(Clone, Default)]
pub(super) struct Sockets(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    opened: u64,
    streams: BTreeMap<u64, TcpStream>,
    is_over: bool,
}

impl Sockets {
    /// The process is about to die: the first connection that is dropped ends all of them.
    pub(super) fn end_together(&self) {
        self.lock().is_over = true;
    }

    /// The process is over: all connections end now. For the host itself to call.
    pub(super) fn close(&self) {
        let mut open = self.lock();
        open.is_over = true;
        while open.streams.pop_first().is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimNetwork {
    pub(super) fn new(sockets: Sockets, trace: Trace) -> Self {
        Self { sockets, trace }
    }

    fn stream(&self, stream: TcpStream) -> io::Result<SimStream> {
        let (from, to) = (stream.peer_addr()?, stream.local_addr()?);
        let mut open = self.sockets.lock();
        open.opened += 1;
        let number = open.opened;
        open.streams.insert(number, stream);
        Ok(SimStream { number, from, to, network: self.clone() })
    }
}

impl SimStream {
    fn poll<R>(&self, act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match self.network.sockets.lock().streams.get_mut(&self.number) {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut open = self.network.sockets.lock();
        if open.is_over {
            while open.streams.pop_first().is_some() {}
        } else {
            open.streams.remove(&self.number);
        }
    }
}

impl Network for SimNetwork {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn connect(&self, address: &str) -> io::Result<SimStream> {
        self.stream(TcpStream::connect(address).await?)
    }

    async fn bind(&self, address: &str) -> io::Result<SimListener> {
        Ok(SimListener { listener: TcpListener::bind(address).await?, network: self.clone() })
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        let (stream, from) = self.listener.accept().await?;
        Ok((self.network.stream(stream)?, from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Dial for SimNetwork {
    fn dial<'a>(&'a self, address: &'a str) -> Dialling<'a> {
        Box::pin(async move {
            let (reader, writer) = tokio::io::split(self.connect(address).await?);
            Ok((Box::new(reader) as _, Box::new(writer) as _))
        })
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(self.poll(|stream| stream.poll_read(cx, into)))?;
        self.network.trace.delivered(now(), self.from, self.to, &into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}
