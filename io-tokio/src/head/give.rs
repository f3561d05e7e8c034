//! Giving heads to others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use trialbay_engine::NodeId;

use super::hold::{Hold, Holds};
use super::patience::Patience;
use super::wire::{Letter, Resume, Unheard, hear, say};
use crate::store::{self, Head, Snapshot, StoreError, StoreReader};
use crate::watched;
use crate::workers::Workers;

/// So many snapshots are kept at a time: the space of what they see, and the store has changed since, cannot be used again.
const GIVINGS_MAX: usize = 2;

/// A snapshot is kept for so long after its taker was cut off, so that it can go on where it was.
const KEPT_MAX: Duration = Duration::from_secs(60);

/// So long at least the log behind a head is kept once the head is there.
const LOG_KEPT_MIN: Duration = Duration::from_secs(15);

/// Gives heads of this node's store. Cheap to clone.
#[derive(Clone)]
pub struct Giver(Arc<Shared>);

struct Shared {
    has_data: bool,
    store: StoreReader,
    holds: Holds,
    workers: Workers,
    permits: Arc<Semaphore>,
    takers: BTreeMap<NodeId, Place>,
}

/// One peer's place.
struct Place {
    /// Not of a witness.
    wants_data: bool,
    /// The number of its newest connection. Older ones end when they see it.
    newest: watched::Sender<u64>,
    /// Held by the connection that serves it.
    giving: Mutex<Option<Giving>>,
}

/// A head on its way to one peer.
struct Giving {
    snapshot: Snapshot,
    head: Head,
    /// Entries so far, and the digest of their chunks, after each chunk: where the taker may go on.
    marks: Vec<(u64, u64)>,
    last_key: Option<Bytes>,
    hold: Hold,
    began: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Why a head was not given.
#[derive(Debug, thiserror::Error)]
enum NotGiven {
    #[error(transparent)]
    Unheard(#[from] Unheard),
    #[error("the peer said something else than was its turn to say")]
    OutOfTurn,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("other nodes get heads already")]
    Busy,
    #[error("a witness has no data to give")]
    NoData,
    #[error("reading the store panicked (see above)")]
    Panicked,
}

impl Giver {
    /// Gives heads of this store to these peers. `holds` has the log kept that they need then.
    pub fn new(store: StoreReader, holds: Holds, workers: Workers, peers: impl IntoIterator<Item = NodeId>) -> Self {
        Self::among_witnesses(store, holds, workers, peers, true, &[])
    }

    /// As [`Giver::new`], when some of the peers are witnesses, whose heads have no entries, or this node is one and has
    /// none to give (rule E3).
    pub fn among_witnesses(
        store: StoreReader,
        holds: Holds,
        workers: Workers,
        peers: impl IntoIterator<Item = NodeId>,
        has_data: bool,
        witnesses: &[NodeId],
    ) -> Self {
        let place = |peer| {
            let wants_data = !witnesses.contains(&peer);
            (peer, Place { wants_data, newest: watched::Sender::new(0), giving: Mutex::new(None) })
        };
        Self(Arc::new(Shared {
            has_data,
            store,
            holds,
            workers,
            permits: Arc::new(Semaphore::new(GIVINGS_MAX)),
            takers: peers.into_iter().map(place).collect(),
        }))
    }

    /// Gives a head to this peer, which is called `name`, over a connection that it has made for this. What it was given
    /// over an earlier one it may go on with.
    pub async fn serve(self, peer: NodeId, name: String, stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let Some(place) = self.0.takers.get(&peer) else { return };
        let number = place.newest.update(|newest| newest + 1);
        let newest = place.newest.subscribe();
        let superseded = || newest.wait_for(|newest| newest != number);
        let kept = {
            let mut giving = place.giving.lock().await;
            let given = tokio::select! {
                biased;
                _ = superseded() => return,
                given = self.give(stream, &mut giving, place.wants_data) => given,
            };
            match given {
                Ok(head) => {
                    tracing::info!(peer = name, slot = head.slot.0, entries = head.entries, "gave a head");
                    // To get what was written meanwhile takes no longer than to get the head, or it would never end.
                    giving.take().map(|giving| (giving.hold, giving.began.elapsed().max(LOG_KEPT_MIN)))
                }
                Err(why) => {
                    tracing::warn!(peer = name, %why, "a head was not given");
                    None
                }
            }
        };
        tokio::select! {
            biased;
            _ = superseded() => {}
            () = tokio::time::sleep(kept.as_ref().map_or(KEPT_MAX, |(_, time)| *time)) => {
                if kept.is_none() {
                    *place.giving.lock().await = None;
                }
            }
        }
    }

    async fn give(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        place: &mut Option<Giving>,
        wants_data: bool,
    ) -> Result<Head, NotGiven> {
        let mut patience = Patience::new();
        let Letter::Ask(resume) = hear(&mut stream, &mut patience).await? else { return Err(NotGiven::OutOfTurn) };
        let resumed = resume.is_some_and(|resume| place.as_mut().is_some_and(|giving| giving.resume(&resume)));
        if !resumed {
            // The old snapshot first: it may be what stands in the way of a new one.
            *place = None;
            match self.begin(wants_data).await {
                Ok(giving) => *place = Some(giving),
                Err(why) => {
                    say(&mut stream, &Letter::Refused(why.to_string()), &mut patience).await?;
                    return Err(why);
                }
            }
        }
        let Some(giving) = place else { return Err(NotGiven::OutOfTurn) };
        let head = giving.head;
        let admin = giving.snapshot.admin().record();
        say(&mut stream, &Letter::Head { head, resumed, admin }, &mut patience).await?;
        while let Some(chunk) = self.next_chunk(giving).await? {
            say(&mut stream, &chunk, &mut patience).await?;
        }
        let (entries, digest) = giving.sent();
        say(&mut stream, &Letter::End { entries, digest }, &mut patience).await?;
        match hear(&mut stream, &mut patience).await? {
            Letter::Taken => Ok(head),
            _ => Err(NotGiven::OutOfTurn),
        }
    }

    async fn begin(&self, wants_data: bool) -> Result<Giving, NotGiven> {
        if !self.0.has_data {
            return Err(NotGiven::NoData);
        }
        let permit = self.0.permits.clone().try_acquire_owned().map_err(|_| NotGiven::Busy)?;
        // First of all, so that nothing is removed of what comes behind the snapshot.
        let hold = self.0.holds.hold(self.0.store.snapshot()?.applied()?);
        let snapshot = self.0.store.snapshot()?;
        let whole = snapshot.head()?;
        Ok(Giving {
            head: if wants_data { whole } else { Head { entries: 0, ..whole } },
            snapshot,
            marks: Vec::new(),
            last_key: None,
            hold,
            began: Instant::now(),
            _permit: permit,
        })
    }

    /// The next entries; `None` when there are no more.
    async fn next_chunk(&self, giving: &mut Giving) -> Result<Option<Letter>, NotGiven> {
        if giving.head.entries == 0 {
            return Ok(None);
        }
        let (snapshot, after) = (giving.snapshot.clone(), giving.last_key.clone());
        let read = self.0.workers.spawn(move || snapshot.chunk(after.as_ref())).await;
        let chunk = read.map_err(|_| NotGiven::Panicked)??;
        if chunk.last_key.is_none() {
            return Ok(None);
        }
        let (first, digest) = giving.sent();
        giving.last_key = chunk.last_key;
        giving.marks.push((first + chunk.entries, store::digest(digest, &chunk.bytes)));
        Ok(Some(Letter::Chunk { first, bytes: chunk.bytes }))
    }
}

impl Giving {
    fn sent(&self) -> (u64, u64) {
        self.marks.last().copied().unwrap_or_default()
    }

    /// Goes back to where the taker is, if that is a place in this head.
    fn resume(&mut self, resume: &Resume) -> bool {
        let mark = self.marks.iter().position(|mark| *mark == (resume.entries, resume.digest));
        let Some(mark) = mark.filter(|_| resume.head == self.head) else { return false };
        self.marks.truncate(mark + 1);
        self.last_key = Some(resume.last_key.clone());
        true
    }
}
