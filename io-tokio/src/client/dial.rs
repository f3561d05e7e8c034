//! How a client reaches a node: the machine's TCP, or what stands in for it in the simulator.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The two directions of one connection.
pub type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// A connection that is coming about.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Halves>> + Send + 'a>>;

/// Connects a client to nodes.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `host:port`. Names are resolved anew each time. The client bounds the time.
    ///
    /// # Errors
    /// When the name does not resolve or nobody accepts there.
    fn dial<'a>(&'a self, address: &'a str) -> Dialling<'a>;
}

/// The machine's own TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, address: &'a str) -> Dialling<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // Without it small requests wait for the acknowledgement of earlier ones; a socket that refuses is slow.
            let _ = stream.set_nodelay(true);
            let (reader, writer) = stream.into_split();
            Ok((Box::new(reader) as _, Box::new(writer) as _))
        })
    }
}
