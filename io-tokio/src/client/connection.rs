//! One connection to one node, shared by any number of calls.
//!
//! Callers append their requests to one outbox; a task hands all that has gathered there to the network in one write,
//! another matches replies to requests in order. What a call learns when the connection ends:
//!
//! * its bytes were never handed to the network: `NotSent`, the call did not happen;
//! * they were: `Lost`, the node may have it. That includes requests behind a reply after which the node closes
//!   (NOT_MASTER, for example): a node works on pipelined requests concurrently, so one that comes later on the wire
//!   may have been taken in although an earlier one was refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;

use super::dial::{Dial, Halves};
use super::error::Unanswered;
use super::options::ClientOptions;
use super::reply::{Reply, Scan, Shape, code};
use super::request::{Request, prologue, who_master};
use crate::wire::Malformed;

/// Room that each read from the network has at least.
const READ_BYTES: usize = 64 << 10;

/// An outbox that once grew beyond this is given back.
const OUTBOX_KEPT_BYTES_MAX: usize = 1 << 20;

/// A connection and its two tasks, which end with it.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
    /// The node's name, once asked.
    pub(crate) name: OnceLock<String>,
}

struct Shared {
    state: Mutex<State>,
    queued: Notify,
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    reply_bytes_max: usize,
}

#[derive(Default)]
struct State {
    outbox: Vec<u8>,
    /// Bytes ever put into the outbox, and how many of them were handed to the network.
    queued_bytes: u64,
    handed_bytes: u64,
    waiting: VecDeque<Waiting>,
    has_replied: bool,
    /// The node is about to close: no new requests.
    is_retired: bool,
    dead: Option<Unanswered>,
}

struct Waiting {
    /// Where its bytes begin, counted as `queued_bytes`.
    start: u64,
    shape: Shape,
    reply: oneshot::Sender<Result<Reply, Unanswered>>,
    // Room is given back when the reply is there, not when the caller stops waiting for it.
    _room: [OwnedSemaphorePermit; 2],
}

impl Connection {
    /// Connects, within the time that the options allow.
    pub(crate) async fn open(dial: &Arc<dyn Dial>, address: &str, options: &ClientOptions) -> Result<Self, String> {
        let (reader, writer) = connect(&**dial, address, options.connect_timeout).await?;
        let outbox = prologue(&options.cluster_id);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queued_bytes: outbox.len() as u64, outbox, ..State::default() }),
            queued: Notify::new(),
            slots: Arc::new(Semaphore::new(options.in_flight_max)),
            bytes: Arc::new(Semaphore::new(options.in_flight_bytes_max)),
            bytes_max: options.in_flight_bytes_max,
            reply_bytes_max: options.reply_bytes_max,
        });
        let pulse = Pulse { dial: Arc::clone(dial), address: address.to_owned(), options: options.clone() };
        let tasks = [
            tokio::spawn(write_requests(Arc::clone(&shared), writer)).abort_handle(),
            tokio::spawn(read_replies(Arc::clone(&shared), reader, pulse)).abort_handle(),
        ];
        Ok(Self { shared, tasks, name: OnceLock::new() })
    }

    /// Whether new requests may be sent on it.
    pub(crate) fn is_usable(&self) -> bool {
        let state = self.shared.lock();
        state.dead.is_none() && !state.is_retired
    }

    /// Sends a request and waits for its reply, for as long as the connection lives. `on_sent` is called when a node
    /// may have the request from now on.
    pub(crate) async fn call(&self, request: &Request, on_sent: impl FnOnce()) -> Result<Reply, Unanswered> {
        let reply = self.shared.enqueue(request).await?;
        on_sent();
        reply.await.unwrap_or_else(|_| Err(Unanswered::Lost("the runtime of the client stopped".to_owned())))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.die(Unanswered::Lost("the client was dropped".to_owned()));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that can panic, of which there are none.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn enqueue(&self, request: &Request) -> Result<oneshot::Receiver<Result<Reply, Unanswered>>, Unanswered> {
        let closed = |_| Unanswered::NotSent("the connection was closed".to_owned());
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(closed)?;
        let bytes = u32::try_from(request.bytes.len().min(self.bytes_max)).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.map_err(closed)?;
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        if let Some(why) = &state.dead {
            return Err(why.clone().unsent());
        }
        if state.is_retired {
            return Err(closing());
        }
        let start = state.queued_bytes;
        state.queued_bytes += request.bytes.len() as u64;
        state.outbox.extend_from_slice(&request.bytes);
        state.waiting.push_back(Waiting { start, shape: request.shape, reply, _room: [slot, bytes] });
        drop(state);
        self.queued.notify_one();
        Ok(answer)
    }

    /// Swaps the outbox with an empty one; `false` when the connection is dead.
    fn take_outbox(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        if batch.capacity() > OUTBOX_KEPT_BYTES_MAX {
            *batch = Vec::new();
        }
        let mut state = self.lock();
        std::mem::swap(&mut state.outbox, batch);
        state.handed_bytes = state.queued_bytes;
        state.dead.is_none()
    }

    /// Hands each whole reply in the buffer to its caller.
    fn deliver(&self, buffer: &mut BytesMut, scan: &mut Scan) -> Result<(), Unanswered> {
        let mut replies = Vec::new();
        let mut replies_unsent = Vec::new();
        let mut state = self.lock();
        let result = loop {
            if buffer.is_empty() {
                break Ok(());
            }
            // A node that has no room for another client says so before it is asked anything.
            let shape = state.waiting.front().map_or(Shape::Unit, |waiting| waiting.shape);
            let reply = match scan.take(buffer, shape, self.reply_bytes_max) {
                Ok(Some(reply)) => reply,
                Ok(None) => break Ok(()),
                Err(malformed) => break Err(Unanswered::Garbage(malformed)),
            };
            let closes = reply.closes(shape);
            state.has_replied = true;
            if closes {
                replies_unsent.extend(state.retire());
            }
            if reply.code == code::MAX_CONNECTIONS {
                // Sent before a byte is read: nothing on this connection ever happened.
                state.handed_bytes = 0;
                break Err(Unanswered::Lost(String::from_utf8_lossy(&reply.message()).into_owned()));
            }
            match state.waiting.pop_front() {
                Some(waiting) => replies.push((waiting, reply)),
                None if reply.code == code::OK => {
                    let malformed = Malformed::UnknownTag { what: "expected reply", tag: 0 };
                    break Err(Unanswered::Garbage(malformed));
                }
                None => break Err(Unanswered::Lost(String::from_utf8_lossy(&reply.message()).into_owned())),
            }
        };
        let is_done = state.is_retired && state.waiting.is_empty();
        drop(state);
        for (waiting, reply) in replies {
            // A caller that has stopped waiting does not mind.
            let _ = waiting.reply.send(Ok(reply));
        }
        for waiting in replies_unsent {
            let _ = waiting.reply.send(Err(closing()));
        }
        if is_done && result.is_ok() {
            return Err(Unanswered::Lost("the node closed the connection".to_owned()));
        }
        result
    }

    fn closed_by_node(&self) -> Unanswered {
        let why = if self.lock().has_replied {
            "the node closed the connection"
        } else {
            "the node closed the connection without a word: is it a node of this cluster id?"
        };
        Unanswered::Lost(why.to_owned())
    }

    fn is_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Tells every waiting call how the connection ended; the first reason counts.
    fn die(&self, why: Unanswered) {
        let mut state = self.lock();
        if state.dead.is_some() {
            return;
        }
        state.dead = Some(why.clone());
        let handed_bytes = state.handed_bytes;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.slots.close();
        self.bytes.close();
        self.queued.notify_one();
        for waiting in waiting {
            let fate = if waiting.start < handed_bytes { why.clone() } else { why.clone().unsent() };
            let _ = waiting.reply.send(Err(fate));
        }
    }
}

impl State {
    /// The node closes after the reply that was just read: what is still in the outbox stays there.
    fn retire(&mut self) -> VecDeque<Waiting> {
        self.is_retired = true;
        self.outbox.clear();
        let handed_bytes = self.handed_bytes;
        let handed = self.waiting.partition_point(|waiting| waiting.start < handed_bytes);
        self.waiting.split_off(handed)
    }
}

fn closing() -> Unanswered {
    Unanswered::NotSent("the node is closing the connection".to_owned())
}

impl Unanswered {
    /// The same end of a connection, for a request that was never handed to it.
    fn unsent(self) -> Self {
        match self {
            Self::NotSent(why) | Self::Lost(why) => Self::NotSent(why),
            Self::Garbage(malformed) => Self::NotSent(malformed.to_string()),
        }
    }
}

async fn write_requests(shared: Arc<Shared>, mut stream: impl AsyncWrite + Unpin) {
    let mut batch = Vec::new();
    loop {
        shared.queued.notified().await;
        // Callers that are ready to run append their requests first, so that one write carries them all.
        tokio::task::yield_now().await;
        if !shared.take_outbox(&mut batch) {
            return;
        }
        if let Err(error) = stream.write_all(&batch).await {
            shared.die(Unanswered::Lost(format!("sending failed: {error}")));
            return;
        }
    }
}

async fn read_replies(shared: Arc<Shared>, mut stream: impl AsyncRead + Unpin, pulse: Pulse) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut scan = Scan::default();
    loop {
        buffer.reserve(READ_BYTES);
        let end = match tokio::time::timeout(pulse.options.silence_max, stream.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => Err(shared.closed_by_node()),
            Ok(Ok(_)) => shared.deliver(&mut buffer, &mut scan),
            Ok(Err(error)) => Err(Unanswered::Lost(format!("receiving failed: {error}"))),
            Err(_) if !shared.is_waiting() => Ok(()),
            Err(_) => pulse.feel().await.map_err(|why| Unanswered::Lost(format!("the node fell silent: {why}"))),
        };
        if let Err(why) = end {
            shared.die(why);
            return;
        }
    }
}

/// Tells a slow node from a dead one: a request may take long, but a live node accepts a connection and says who is
/// master at once.
struct Pulse {
    dial: Arc<dyn Dial>,
    address: String,
    options: ClientOptions,
}

impl Pulse {
    async fn feel(&self) -> Result<(), String> {
        let ask = async {
            let (mut reader, mut writer) = connect(&*self.dial, &self.address, self.options.connect_timeout).await?;
            let mut bytes = prologue(&self.options.cluster_id);
            bytes.extend_from_slice(&who_master().bytes);
            writer.write_all(&bytes).await.map_err(|error| error.to_string())?;
            reader.read_u8().await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(2 * self.options.connect_timeout, ask).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err("it accepts connections and does not answer".to_owned()),
        }
    }
}

pub(super) async fn connect(dial: &dyn Dial, address: &str, timeout: Duration) -> Result<Halves, String> {
    match tokio::time::timeout(timeout, dial.dial(address)).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no connection within {timeout:?}")),
    }
}
