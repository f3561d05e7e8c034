//! Getting a head from another node.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use trialbay_engine::{NodeId, Slot};

use super::patience::Patience;
use super::wire::{Letter, Resume, Unheard, hear, say};
use crate::peer::{HeadDialler, HeadStream};
use crate::reserve::{NoRoom, ROOM_PAUSE, Reserve};
use crate::store::{self, Head, HeadError, HeadFile, Leftover, NotInstalled, StoreError, StorePlace};
use crate::watched;
use crate::workers::{Workers, caught};

/// Between two attempts, and before a failure is told: whoever hears of it tries again at once.
const PAUSE: Duration = Duration::from_millis(500);

/// So many attempts in a row may bring nothing.
const VAIN_ATTEMPTS_MAX: u32 = 5;

/// Gets heads for this node's store.
#[derive(Clone)]
pub struct Taker {
    /// Where the store is.
    pub place: StorePlace,
    /// The way to the others.
    pub peers: HeadDialler,
    /// Who writes the file.
    pub workers: Workers,
    /// What must stay free of the disk.
    pub reserve: Reserve,
}

/// A head that is on its way.
#[derive(Debug)]
pub struct Taking {
    from: NodeId,
    progress: watched::Receiver<Seen>,
    stop: watched::Sender<bool>,
    task: JoinHandle<()>,
}

/// How much of which head is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The head's slot; zero until the giver has said it.
    pub slot: Slot,
    /// Entries that are there.
    pub entries: u64,
    /// Entries of the whole head.
    pub entries_all: u64,
}

/// Why a head was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// The giver broke the protocol.
    #[error("the giver broke the protocol: {0}")]
    Broken(&'static str),
    /// The giver cannot be reached, or not for long enough.
    #[error("{0}")]
    Interrupted(String),
    /// The giver gives none now.
    #[error("the giver refused: {0}")]
    Refused(String),
    /// The giver's store is not ahead of this node's.
    #[error("the giver's head is of {0}, which the store has applied already")]
    Behind(Slot),
    /// It would fill the disk. What there is of it can be gone on with.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The file for it cannot be written.
    #[error("its file cannot be written: {0}")]
    Store(StoreError),
    /// It was whole, and was not installed.
    #[error("it cannot be installed: {0}")]
    NotInstalled(#[from] NotInstalled),
    /// A bug.
    #[error("getting a head panicked (see above)")]
    Panicked,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl Taking {
    /// Who gives it.
    pub fn from(&self) -> NodeId {
        self.from
    }

    /// How far it is.
    pub fn seen(&self) -> Seen {
        self.progress.get()
    }

    /// Gives it up, and waits until nothing is written any more. What there is can be gone on with later.
    pub async fn stop(self) {
        self.stop.set(true);
        // A panic in it was told.
        let _ = self.task.await;
    }
}

impl Taker {
    /// Gets a head that is beyond `applied` from this peer. What comes of it is told: a whole head is then in the store's
    /// place, ready to be installed.
    pub fn start(
        &self,
        from: NodeId,
        applied: Slot,
        tell: impl FnOnce(Result<Head, NotTaken>) + Send + 'static,
    ) -> Taking {
        let (stop, stopped) = watched::channel(false);
        let (sender, progress) = watched::channel(Seen::default());
        let run = Run { taker: self.clone(), from, applied, stopped, progress: sender, part: None };
        let task = tokio::spawn(async move {
            let taken = caught(run.take()).await.unwrap_or(Err(NotTaken::Panicked));
            tell(taken);
        });
        Taking { from, progress, stop, task }
    }
}

struct Run {
    taker: Taker,
    from: NodeId,
    applied: Slot,
    stopped: watched::Receiver<bool>,
    progress: watched::Sender<Seen>,
    /// What is there already.
    part: Option<HeadFile>,
}

impl Run {
    async fn take(mut self) -> Result<Head, NotTaken> {
        let taken = self.attempt_until_vain().await;
        if let Err(NotTaken::Broken(_) | NotTaken::Store(_)) = taken {
            // Nothing can be built on it.
            self.part = None;
            let place = self.taker.place.clone();
            self.blocking(move || place.remove_head().map_err(NotTaken::Store)).await?;
        }
        if let Err(why) = &taken {
            let pause = if matches!(why, NotTaken::NoRoom(_)) { ROOM_PAUSE } else { PAUSE };
            // Whether the node is stopping or not.
            let _ = self.unless_stopped(tokio::time::sleep(pause)).await;
        }
        taken
    }

    async fn attempt_until_vain(&mut self) -> Result<Head, NotTaken> {
        if let Some(head) = self.look_for_leftover().await? {
            return Ok(head);
        }
        let mut vain = 0;
        loop {
            let before = self.entries();
            let why = match self.attempt().await {
                Err(NotTaken::Interrupted(why)) => why,
                outcome => return outcome,
            };
            vain = if self.entries() > before { 0 } else { vain + 1 };
            if vain >= VAIN_ATTEMPTS_MAX {
                return Err(NotTaken::Interrupted(why));
            }
            tracing::info!(why, entries = self.entries(), "a head was interrupted");
            self.unless_stopped(tokio::time::sleep(PAUSE)).await?;
        }
    }

    /// What an earlier attempt or run left: a whole head, which it gives, or a part of one of this giver's.
    async fn look_for_leftover(&mut self) -> Result<Option<Head>, NotTaken> {
        let place = self.taker.place.clone();
        match self.blocking(move || place.leftover_head().map_err(NotTaken::Store)).await? {
            Leftover::Whole(head) if head.slot > self.applied => return Ok(Some(head)),
            Leftover::Part(part) if part.progress().giver == self.from => self.keep(part),
            Leftover::Whole(_) | Leftover::Part(_) | Leftover::None => {}
        }
        Ok(None)
    }

    /// Over one connection.
    async fn attempt(&mut self) -> Result<Head, NotTaken> {
        let spares = self.spares();
        self.blocking(spares).await?;
        let dialled = self.unless_stopped(self.taker.peers.dial(self.from)).await?;
        let mut stream = dialled.map_err(NotTaken::Interrupted)?;
        let mut patience = Patience::new();
        let resume = self.part.as_ref().and_then(where_to_go_on);
        let ask = Letter::Ask(resume);
        self.unless_stopped(say(&mut stream, &ask, &mut patience)).await?.map_err(unheard)?;
        match self.hear(&mut stream, &mut patience).await? {
            Letter::Head { head, resumed: true, .. } => {
                // That what is there already is the same is for the digest to prove.
                if self.part.as_ref().is_none_or(|part| part.progress().head != head || part.progress().entries == 0) {
                    return Err(NotTaken::Broken("it goes on with a head that was not begun"));
                }
            }
            Letter::Head { head, resumed: false, admin } => self.begin(head, admin).await?,
            Letter::Refused(why) => return Err(NotTaken::Refused(why)),
            _ => return Err(NotTaken::Broken("it said something else than was its turn to say")),
        }
        loop {
            match self.hear(&mut stream, &mut patience).await? {
                Letter::Chunk { first, bytes } => {
                    let mut part = self.part()?;
                    let spares = self.spares();
                    let put = move || {
                        spares()?;
                        part.put(first, &bytes).map(|()| part).map_err(not_written)
                    };
                    let part = self.blocking(put).await?;
                    self.keep(part);
                }
                Letter::End { entries, digest } => {
                    let part = self.part()?;
                    let head = self.blocking(move || part.finish(entries, digest).map_err(not_written)).await?;
                    // The giver finds out anyway, a little later.
                    let _ = self.unless_stopped(say(&mut stream, &Letter::Taken, &mut patience)).await;
                    return Ok(head);
                }
                _ => return Err(NotTaken::Broken("it said something else than was its turn to say")),
            }
        }
    }

    /// Whether there is room for what is written between two durable transactions: until then the disk need not miss it.
    fn spares(&self) -> impl FnOnce() -> Result<(), NotTaken> + Send + 'static {
        let (reserve, bytes) = (self.taker.reserve.clone(), self.taker.place.undurable_bytes_max as u64);
        move || Ok(reserve.spares(bytes)?)
    }

    async fn begin(&mut self, head: Head, admin: Bytes) -> Result<(), NotTaken> {
        if head.slot <= self.applied {
            return Err(NotTaken::Behind(head.slot));
        }
        if !store::is_admin(&admin) {
            return Err(NotTaken::Broken("what a head keeps beside the keys makes no sense"));
        }
        // An open file could not be removed everywhere.
        self.part = None;
        let (place, from) = (self.taker.place.clone(), self.from);
        let part = self.blocking(move || place.begin_head(head, &admin, from).map_err(NotTaken::Store)).await?;
        self.keep(part);
        Ok(())
    }

    fn keep(&mut self, part: HeadFile) {
        let progress = part.progress();
        let (slot, entries, entries_all) = (progress.head.slot, progress.entries, progress.head.entries);
        self.progress.set(Seen { slot, entries, entries_all });
        self.part = Some(part);
    }

    fn part(&mut self) -> Result<HeadFile, NotTaken> {
        self.part.take().ok_or(NotTaken::Broken("it goes on with a head that was not begun"))
    }

    fn entries(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.progress().entries)
    }

    async fn hear(&self, stream: &mut HeadStream, patience: &mut Patience) -> Result<Letter, NotTaken> {
        self.unless_stopped(hear(stream, patience)).await?.map_err(unheard)
    }

    /// Does something that blocks. It is waited for even if the node stops: nothing may be written after that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NotTaken> + Send + 'static,
    ) -> Result<T, NotTaken> {
        self.taker.workers.spawn(work).await.unwrap_or(Err(NotTaken::Panicked))
    }

    async fn unless_stopped<T>(&self, act: impl Future<Output = T>) -> Result<T, NotTaken> {
        tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stopped| stopped) => Err(NotTaken::Stopping),
            done = act => Ok(done),
        }
    }
}

fn where_to_go_on(part: &HeadFile) -> Option<Resume> {
    let progress = part.progress();
    let last_key = progress.last_key.clone()?;
    Some(Resume { head: progress.head, entries: progress.entries, digest: progress.digest, last_key })
}

fn unheard(why: Unheard) -> NotTaken {
    match why {
        Unheard::Malformed(what) => NotTaken::Broken(what),
        Unheard::Broken(_) | Unheard::Slow(_) => NotTaken::Interrupted(why.to_string()),
    }
}

fn not_written(why: HeadError) -> NotTaken {
    match why {
        HeadError::Broken(what) => NotTaken::Broken(what),
        HeadError::Store(error) => NotTaken::Store(error),
    }
}
