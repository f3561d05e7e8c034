//! The network, as a seam: production has [`RealNetwork`], the simulator its own hosts and streams.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A silent connection is probed after this long,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// and then as often as this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// and given up after this many probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;
/// A connection whose bytes are not acknowledged for this long is given up; the kernel's own patience is a quarter of an hour.
const UNACKNOWLEDGED_MS_MAX: u32 = 16_000;

/// What a node needs of a network: ordered streams of bytes that may break at any time.
pub trait Network: Clone + Send + Sync + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Where others connect to.
    type Listener: Listener<Stream = Self::Stream>;

    /// Connects to `host:port`. Names are resolved anew each time. The caller bounds the time.
    ///
    /// # Errors
    /// When the name does not resolve or nobody accepts there.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Listens on `host:port`; port 0 takes any free one.
    ///
    /// # Errors
    /// When the address is not this machine's, or the port is taken.
    fn bind(&self, address: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;
}

/// Where others connect to.
pub trait Listener: Send + Sync + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and where it comes from. Loses none when it is cancelled.
    ///
    /// # Errors
    /// Concern one connection, or pass (such as too many open files): try again, a little later.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// The address that [`Network::bind`] took.
    ///
    /// # Errors
    /// When the system does not tell.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The machine's own TCP. Small writes leave at once, and connections to dead machines break within seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNetwork;

impl Network for RealNetwork {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        tune(&stream)?;
        Ok(stream)
    }

    async fn bind(&self, address: &str) -> io::Result<TcpListener> {
        // SO_REUSEADDR is on by default, so that a restarted node gets its port back at once.
        TcpListener::bind(address).await
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = Self::accept(self).await?;
        tune(&stream)?;
        Ok((stream, from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn both_ends_of_a_real_connection_are_tuned_and_carry_bytes() {
        let listener = RealNetwork.bind("127.0.0.1:0").await.unwrap();
        let address = Listener::local_addr(&listener).unwrap();
        let (dialled, accepted) =
            tokio::join!(async { RealNetwork.connect(&address.to_string()).await.unwrap() }, async {
                Listener::accept(&listener).await.unwrap()
            });
        let (mut dialled, (mut accepted, from)) = (dialled, accepted);
        assert_eq!(from, dialled.local_addr().unwrap());
        for stream in [&dialled, &accepted] {
            assert!(stream.nodelay().unwrap());
            assert!(sockopt::socket_keepalive(stream).unwrap());
            assert_eq!(sockopt::tcp_user_timeout(stream).unwrap(), UNACKNOWLEDGED_MS_MAX);
        }
        dialled.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[tokio::test]
    async fn a_taken_port_and_a_closed_one_are_errors() {
        let listener = RealNetwork.bind("127.0.0.1:0").await.unwrap();
        let address = Listener::local_addr(&listener).unwrap().to_string();
        assert_eq!(RealNetwork.bind(&address).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(RealNetwork.connect(&address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
