//! The client service: Arakoon's client protocol, served from a node.
//!
//! Reading order: `request` (what a client may ask), `decoder` (where a request ends), `pipeline` (which requests may be under way together),
//! `execute` (what each does), `reply` (what it gets), `connection` (bytes in, bytes out).
//! `docs/compatibility.md` lists the commands and every difference from the original.

mod connection;
mod decoder;
mod execute;
mod pipeline;
mod reply;
mod request;
mod statistics;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::net::Listener;
use crate::node::NodeHandle;
use crate::update::Limits;
use crate::watched;

use execute::Context;
use reply::{Budget, Reply, code};
use statistics::Statistics;

/// Files that a node needs beside its clients' connections.
const FILES_FOR_OTHERS: u64 = 200;

/// So many connections are served whatever the limit on files says.
const CONNECTIONS_MIN: usize = 200;

/// So many refused clients at a time are told why; further ones are closed without a word.
const REFUSALS_MAX: usize = 32;

/// The first this many refused clients are logged one by one, then only every so many.
const REFUSALS_LOGGED: u64 = 10;

/// So many backups at a time: the space of what they see, and the store has changed since, cannot be used again.
const BACKUPS_MAX: usize = 2;

/// How long to leave the listener alone after it failed; mostly there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds on what clients may have of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// How large keys, values and updates may be.
    pub limits: Limits,
    /// Connections at a time. `None`: as many as the limit on open files allows, less 200 for other uses; at least 200.
    pub connections_max: Option<usize>,
    /// Requests of one connection that are not answered yet. Further ones stay in the socket.
    pub requests_in_flight_max: usize,
    /// Their bytes and those of their replies, together. One request or reply alone may have more.
    pub bytes_in_flight_max: usize,
    /// The longest list that one reply may hold, in bytes.
    pub list_bytes_max: usize,
    /// All lists of more than 256 KiB that wait to be sent, over all connections, in bytes.
    pub lists_bytes_max: usize,
    /// From the connection to the end of its prologue.
    pub prologue_max: Duration,
    /// How long a client may send nothing in the middle of a request, or take nothing of a reply.
    pub stall_max: Duration,
    /// How long connections may take to end when the service stops.
    pub stop_max: Duration,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            connections_max: None,
            requests_in_flight_max: 256,
            bytes_in_flight_max: 64 << 20,
            list_bytes_max: 512 << 20,
            lists_bytes_max: 1 << 30,
            prologue_max: Duration::from_secs(10),
            stall_max: Duration::from_secs(30),
            stop_max: Duration::from_secs(5),
        }
    }
}

/// Serves clients until `stop` becomes true (or its sender is dropped), then ends their connections and returns.
pub async fn serve<L: Listener>(
    listener: L,
    handle: NodeHandle,
    options: ServiceOptions,
    stop: watched::Receiver<bool>,
) {
    let connections_max = options.connections_max.unwrap_or_else(connections_allowed);
    let stop_max = options.stop_max;
    let context = context(handle, options);
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    let mut failed = false;
    let mut refused: u64 = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| stop) => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection failed");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => {
                failed = false;
                accepted
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // One failure may be that of one client; two in a row are the listener's.
                if std::mem::replace(&mut failed, true) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let (context, stop) = (Arc::clone(&context), stop.clone());
            connections.spawn(async move {
                let _place = place;
                let end = connection::run(stream, context, stopped(stop)).await;
                tracing::debug!(%from, %end, "a connection ended");
            });
            continue;
        }
        refused += 1;
        if refused <= REFUSALS_LOGGED || refused.is_multiple_of(1_000) {
            tracing::warn!(%from, connections_max, refused, "too many clients");
        }
        if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
            connections.spawn(async move {
                let _refusal = refusal;
                connection::refuse(stream, &Reply::error(code::MAX_CONNECTIONS, "too many clients")).await;
            });
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(stop_max, all_ended).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
}

/// Serves one connection by itself, with budgets of its own, until it ends or `stop` becomes true.
pub async fn serve_connection<S>(stream: S, handle: NodeHandle, options: ServiceOptions, stop: watched::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let end = connection::run(stream, context(handle, options), stopped(stop)).await;
    tracing::debug!(%end, "a connection ended");
}

fn context(handle: NodeHandle, options: ServiceOptions) -> Arc<Context> {
    let budget = Budget::new(options.lists_bytes_max, options.list_bytes_max);
    let statistics = Arc::new(Statistics::new(handle.now()));
    let backups = Arc::new(Semaphore::new(BACKUPS_MAX));
    Arc::new(Context { handle, options, budget, statistics, backups })
}

async fn stopped(stop: watched::Receiver<bool>) {
    // A sender that is gone cannot order anything else any more.
    let _ = stop.wait_for(|stop| stop).await;
}

/// What the soft limit on open files leaves for clients.
fn connections_allowed() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(FILES_FOR_OTHERS)).unwrap_or(usize::MAX).max(CONNECTIONS_MIN)
}
