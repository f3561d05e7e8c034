//! One connection with a fixed number of requests in flight.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::load::{Load, Operation, Requests};
use crate::client::Client;
use crate::client::reply::{Scan, code};
use crate::client::request::prologue;

/// The longest latency that a histogram tells apart from longer ones.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// How long a lane without a master waits before it asks again, and an overloaded one before it goes on.
const PAUSE: Duration = Duration::from_millis(10);

const READ_BYTES: usize = 32 << 10;

/// What the lanes should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    WarmUp,
    Measure,
    /// No new requests.
    Stop,
}

/// What happened while the phase was `Measure`.
pub(super) struct Tally {
    /// Latencies in nanoseconds of the operations that succeeded.
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
    pub(super) errors: Errors,
    /// When an operation last succeeded, and the longest time without one.
    pub(super) last_success: Option<Instant>,
    pub(super) longest_pause: Duration,
}

/// Operations that failed, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Errors {
    /// Not the master, overloaded, going down; reads whose connection was lost.
    pub(super) did_not_happen: u64,
    /// Updates whose connection or whose master was lost.
    pub(super) outcome_unknown: u64,
    /// Refused for any other reason.
    pub(super) refused: u64,
    /// Reads of a key that is not there.
    pub(super) not_found: u64,
    /// Test-and-sets that found another value than expected.
    pub(super) mismatched: u64,
    /// Times that a connection found no master.
    pub(super) unreachable: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram = || Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("the bounds are in order");
        Self {
            reads: histogram(),
            writes: histogram(),
            errors: Errors::default(),
            last_success: None,
            longest_pause: Duration::ZERO,
        }
    }

    fn succeeded(&mut self, operation: Operation, sent: Instant, now: Instant) {
        let latency = u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX);
        let histogram = if operation.is_update() { &mut self.writes } else { &mut self.reads };
        histogram.saturating_record(latency);
        if let Some(last) = self.last_success {
            self.longest_pause = self.longest_pause.max(now - last);
        }
        self.last_success = Some(now);
    }

    fn refused(&mut self, operation: Operation, code: i32) {
        let errors = &mut self.errors;
        *match code {
            code::NOT_MASTER | code::GOING_DOWN | code::OVERLOADED | code::MAX_CONNECTIONS => {
                &mut errors.did_not_happen
            }
            code::NO_LONGER_MASTER if operation.is_update() => &mut errors.outcome_unknown,
            code::NO_LONGER_MASTER => &mut errors.did_not_happen,
            code::NOT_FOUND => &mut errors.not_found,
            _ => &mut errors.refused,
        } += 1;
    }

    fn lost(&mut self, operation: Operation) {
        if operation.is_update() {
            self.errors.outcome_unknown += 1;
        } else {
            self.errors.did_not_happen += 1;
        }
    }
}

/// A connection, and what it does.
pub(super) struct Lane {
    window: usize,
    requests: Requests,
    client: Client,
    /// Who was master when it connected.
    endpoint: String,
    tally: Rc<RefCell<Tally>>,
    phase: Rc<Cell<Phase>>,
    in_flight: VecDeque<(Operation, Instant)>,
    out: Vec<u8>,
    buffer: BytesMut,
    scan: Scan,
    /// Set by a reply that asks for less load.
    is_overloaded: bool,
}

impl Lane {
    pub(super) fn new(
        number: usize,
        window: usize,
        load: &Load,
        client: Client,
        tally: Rc<RefCell<Tally>>,
        phase: Rc<Cell<Phase>>,
    ) -> Self {
        Self {
            window,
            requests: Requests::new(load, number, window),
            client,
            endpoint: String::new(),
            tally,
            phase,
            in_flight: VecDeque::with_capacity(window),
            out: Vec::new(),
            buffer: BytesMut::with_capacity(READ_BYTES),
            scan: Scan::default(),
            is_overloaded: false,
        }
    }

    /// Until the phase is `Stop` and every reply is there or its time is up.
    pub(super) async fn run(mut self) {
        let mut is_lost = false;
        while self.phase.get() != Phase::Stop {
            let Some(mut stream) = self.connect().await else {
                if !is_lost && self.is_measured() {
                    self.tally.borrow_mut().errors.unreachable += 1;
                }
                is_lost = true;
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            is_lost = false;
            // Whatever ended it, the next connection goes to whoever is master then.
            let _ = self.converse(&mut stream).await;
            self.give_up();
        }
    }

    async fn connect(&mut self) -> Option<TcpStream> {
        let options = self.client.options();
        let (timeout, prologue) = (options.connect_timeout, prologue(&options.cluster_id));
        self.endpoint = self.client.find_master().await.ok()??.endpoint;
        let stream = tokio::time::timeout(timeout, TcpStream::connect(&self.endpoint)).await.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        self.out = prologue;
        Some(stream)
    }

    /// Keeps the window full until the end of the connection or of the measurement.
    async fn converse(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        // Reset only when it fires: most replies come long before, and cost no timer.
        let mut alarm = Box::pin(tokio::time::sleep(self.client.options().silence_max));
        loop {
            if self.phase.get() != Phase::Stop {
                let now = Instant::now();
                while self.in_flight.len() < self.window {
                    let operation = self.requests.write_next(&mut self.out);
                    self.in_flight.push_back((operation, now));
                }
            }
            if self.in_flight.is_empty() {
                return Ok(());
            }
            if !self.out.is_empty() {
                stream.write_all(&self.out).await?;
                self.out.clear();
            }
            self.read(stream, &mut alarm).await?;
            self.take_replies()?;
            if std::mem::take(&mut self.is_overloaded) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn read(&mut self, stream: &mut TcpStream, alarm: &mut Pin<Box<Sleep>>) -> io::Result<()> {
        self.buffer.reserve(READ_BYTES);
        loop {
            tokio::select! {
                biased;
                read = stream.read_buf(&mut self.buffer) => {
                    return if read? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
                }
                () = alarm.as_mut() => {
                    self.check_silence().await?;
                    alarm.as_mut().reset(tokio::time::Instant::now() + self.client.options().silence_max);
                }
            }
        }
    }

    /// Gives up on a node that takes too long, or that says nothing while another takes itself for the master.
    async fn check_silence(&self) -> io::Result<()> {
        let options = self.client.options();
        let silence = self.in_flight.front().map_or(Duration::ZERO, |(_, sent)| sent.elapsed());
        let is_deposed = silence >= options.silence_max
            && matches!(self.client.find_master().await, Ok(Some(master)) if master.endpoint != self.endpoint);
        if is_deposed || silence >= options.timeout { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn take_replies(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let is_measured = self.is_measured();
        let reply_bytes_max = self.client.options().reply_bytes_max;
        let mut tally = self.tally.borrow_mut();
        while let Some((operation, sent)) = self.in_flight.front().copied() {
            let found = self.scan.find_end(&self.buffer, operation.shape(), reply_bytes_max);
            let Some((code, end)) = found.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? else {
                break;
            };
            self.in_flight.pop_front();
            if code == code::OK {
                let is_as_meant = self.requests.succeeded(operation, &self.buffer[4..end]);
                if is_measured {
                    tally.succeeded(operation, sent, now);
                    tally.errors.mismatched += u64::from(!is_as_meant);
                }
            } else {
                self.requests.failed(operation);
                self.is_overloaded |= code == code::OVERLOADED;
                if is_measured {
                    tally.refused(operation, code);
                }
            }
            self.buffer.advance(end);
        }
        Ok(())
    }

    /// The connection is gone, and with it what was in flight.
    fn give_up(&mut self) {
        let is_measured = self.is_measured();
        for (operation, _) in self.in_flight.drain(..) {
            self.requests.failed(operation);
            if is_measured {
                self.tally.borrow_mut().lost(operation);
            }
        }
        self.buffer.clear();
        self.scan = Scan::default();
    }

    fn is_measured(&self) -> bool {
        self.phase.get() == Phase::Measure
    }
}
