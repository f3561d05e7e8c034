//! One client's connection: prologue, then requests in and replies out until one side ends it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::decoder::{Decoder, prologue};
use super::execute::{self, Context, Session};
use super::pipeline::{Bounds, Pipeline};
use super::reply::Reply;
use crate::backup::Backup;
use crate::store::StoreError;

/// Room for one read from the socket, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Replies are gathered up to about this size, in bytes, before they are written.
const WRITE_BYTES: usize = 64 * 1024;

/// A buffer that grew beyond this, in bytes, is given back when it is empty.
const BUFFER_KEPT_BYTES: usize = 256 * 1024;

/// After the last reply: how long, and for how many bytes, the client may still send what nobody will look at. Closing
/// while unread bytes are there would destroy the reply on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A client must take so much of a backup in so much time.
const BACKUP_PART_BYTES: usize = 1 << 20;
const BACKUP_PART_TIME_MAX: Duration = Duration::from_secs(60);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The client has closed, or asked for what ends a connection, or the node stops.
    #[error("closed")]
    Closed,
    /// What came first was not the prologue of this cluster.
    #[error("the prologue is not that of this cluster")]
    NotOurPrologue,
    /// The client was silent in the middle of a prologue or request, or took no reply.
    #[error("nothing happened for too long while {0}")]
    Stalled(&'static str),
    /// The store could not be read while a backup was being sent.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

struct Connection<S> {
    stream: S,
    context: Arc<Context>,
    session: Arc<Session>,
    input: BytesMut,
    decoder: Decoder,
    pipeline: Pipeline,
    /// Encoded replies that wait for their turn in a larger write.
    output: Vec<u8>,
    /// Nothing more is read: the client has ended its side, or a reply that closes is under way.
    deaf: bool,
    stopping: bool,
}

/// What a connection waited for.
enum Woken {
    Replies,
    Read(usize),
    Stopped,
}

/// Serves one connection until it ends. `stopped` completes when the service stops.
pub(crate) async fn run<S>(stream: S, context: Arc<Context>, stopped: impl Future<Output = ()>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let options = &context.options;
    let bounds = Bounds { requests_max: options.requests_in_flight_max, bytes_max: options.bytes_in_flight_max };
    let mut connection = Connection {
        stream,
        input: BytesMut::new(),
        decoder: Decoder::new(options.limits),
        pipeline: Pipeline::new(bounds),
        output: Vec::new(),
        deaf: false,
        stopping: false,
        session: Arc::new(Session::new(Arc::clone(&context))),
        context,
    };
    let end = match connection.serve(pin!(stopped)).await {
        Ok(end) | Err(end) => end,
    };
    if !matches!(end, End::Io(_) | End::Stalled(_)) && !connection.stopping {
        connection.linger().await;
    }
    end
}

/// Tells a client why it cannot be served, and closes.
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, reply: &Reply) {
    // Whoever does not even take this is no loss.
    let _ = timeout(LINGER, async {
        for piece in reply.pieces() {
            stream.write_all(piece).await?;
        }
        stream.shutdown().await?;
        discard(&mut stream).await
    })
    .await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn serve(&mut self, mut stopped: Pin<&mut impl Future<Output = ()>>) -> Result<End, End> {
        let prologue_max = self.context.options.prologue_max;
        let stalled = |_| End::Stalled("reading the prologue");
        tokio::select! {
            biased;
            arrived = timeout(prologue_max, self.prologue()) => arrived.map_err(stalled)??,
            () = &mut stopped => self.stop(),
        }
        loop {
            self.decode();
            match self.wait(stopped.as_mut()).await? {
                Woken::Replies => {
                    if self.send_replies().await? {
                        return Ok(End::Closed);
                    }
                }
                Woken::Read(0) => self.deaf = true,
                Woken::Read(_) => (),
                Woken::Stopped => self.stop(),
            }
            if self.deaf && self.pipeline.is_empty() {
                return Ok(End::Closed);
            }
        }
    }

    /// What has begun is still answered; the reply behind it is for whatever the client asks next.
    fn stop(&mut self) {
        self.stopping = true;
        self.deaf = true;
        self.pipeline.drop_waiting();
        self.pipeline.push_reply(Reply::going_down());
    }

    /// Reads the prologue and compares it as it comes.
    async fn prologue(&mut self) -> Result<(), End> {
        let expected = prologue(self.context.handle.cluster_id());
        loop {
            let len = self.input.len().min(expected.len());
            if self.input[..len] != expected[..len] {
                return Err(End::NotOurPrologue);
            }
            if len == expected.len() {
                self.input.advance(len);
                return Ok(());
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(End::Closed);
            }
        }
    }

    /// Moves whole requests from the input into the pipeline, as far as there is room.
    fn decode(&mut self) {
        while !self.deaf && self.pipeline.has_room() {
            let before = self.input.len();
            match self.decoder.decode(&mut self.input) {
                Ok(Some(request)) => {
                    let (company, execution) = execute::begin(request, self.decoder.code(), &self.session);
                    self.pipeline.push(before - self.input.len(), company, execution);
                }
                Ok(None) => break,
                Err(unreadable) => {
                    tracing::debug!(?unreadable, "a request cannot be read");
                    self.pipeline.push_reply(unreadable.reply());
                    self.deaf = true;
                    self.input.clear();
                }
            }
        }
        if self.input.is_empty() && self.input.capacity() > BUFFER_KEPT_BYTES {
            self.input = BytesMut::new();
        }
    }

    /// Waits until there are replies to send, more input, or the order to stop.
    async fn wait(&mut self, mut stopped: Pin<&mut impl Future<Output = ()>>) -> Result<Woken, End> {
        let Self { stream, input, decoder, pipeline, deaf, stopping, context, .. } = self;
        let in_a_request = pipeline.is_empty() && !input.is_empty();
        if !*deaf && pipeline.has_room() {
            // By as much as is there already, at most: what a length promises may never come.
            input.reserve(decoder.missing().min(input.len()).max(READ_BYTES));
        }
        let mut read = pin!(stream.read_buf(input));
        let woken = poll_fn(|cx| {
            if pipeline.poll(cx).is_ready() {
                return Poll::Ready(Ok(Woken::Replies));
            }
            if !*stopping && stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Woken::Stopped));
            }
            if *deaf || !pipeline.has_room() {
                return Poll::Pending;
            }
            read.as_mut().poll(cx).map_ok(Woken::Read)
        });
        if in_a_request {
            let stalled = |_| End::Stalled("reading a request");
            Ok(timeout(context.options.stall_max, woken).await.map_err(stalled)??)
        } else {
            Ok(woken.await?)
        }
    }

    /// Sends every reply whose turn has come; `true` when one of them was the last of the connection.
    async fn send_replies(&mut self) -> Result<bool, End> {
        let mut last = false;
        while let Some(mut reply) = if last { None } else { self.pipeline.take_reply() } {
            last = reply.closes();
            for piece in reply.pieces() {
                if self.output.len() + piece.len() > WRITE_BYTES {
                    self.write_output().await?;
                }
                if piece.len() > WRITE_BYTES {
                    write(&mut self.stream, piece, self.context.options.stall_max).await?;
                } else {
                    self.output.extend_from_slice(piece);
                }
            }
            if let Some(backup) = reply.take_rest() {
                self.write_output().await?;
                self.send_backup(backup).await?;
            }
        }
        self.write_output().await?;
        Ok(last)
    }

    /// Sends it as fast as the client takes it, unless that is too slow: its snapshot must not be held for ever.
    async fn send_backup(&mut self, mut backup: Backup) -> Result<(), End> {
        let stall_max = self.context.options.stall_max;
        while let Some(piece) = backup.next()? {
            for part in piece.chunks(BACKUP_PART_BYTES) {
                let sent = timeout(BACKUP_PART_TIME_MAX, write(&mut self.stream, part, stall_max)).await;
                sent.map_err(|_| End::Stalled("sending a backup"))??;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn write_output(&mut self) -> Result<(), End> {
        if !self.output.is_empty() {
            write(&mut self.stream, &self.output, self.context.options.stall_max).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Ends our side and waits a little for the client to end its own.
    async fn linger(&mut self) {
        // The connection is over either way.
        let _ = timeout(LINGER, async {
            self.stream.shutdown().await?;
            discard(&mut self.stream).await
        })
        .await;
    }
}

/// Writes all of `bytes`, as long as the client keeps taking some of them.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, mut bytes: &[u8], stall_max: Duration) -> Result<(), End> {
    let stalled = |_| End::Stalled("sending a reply");
    while !bytes.is_empty() {
        let len = timeout(stall_max, stream.write(bytes)).await.map_err(stalled)??;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        bytes = &bytes[len..];
    }
    Ok(timeout(stall_max, stream.flush()).await.map_err(stalled)??)
}

async fn discard<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut scratch = [0; 4096];
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        match stream.read(&mut scratch).await? {
            0 => break,
            len => left = left.saturating_sub(len),
        }
    }
    Ok(())
}
