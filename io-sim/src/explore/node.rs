//! One node of a small world: the shipping engine, a disk and a book, advanced by one happening at a time.

use std::collections::VecDeque;
use std::hash::{Hash as _, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use trialbay_engine::{
    Action, Actions, Ballot, Config, Engine, Event, Instant, Limits, Message, NodeId, Record, Request, RequestId, Role,
};
use xxhash_rust::xxh3::Xxh3;

use super::Change;
use super::book::{Book, Broken};
use super::disk::{Disk, life_of};

/// So short that no pause of an engine has room for jitter: chance has no part in these worlds.
const LEASE: Duration = Duration::from_nanos(8);

/// What can happen to a node.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Its clock jumps to its next deadline.
    Ticked,
    /// Its disk is done with so many of the batches that wait.
    Synced(usize),
    /// A client wants an update, with this number.
    Requested(u8),
    /// Its power is cut, so many records that no sync had covered survive, and it starts again.
    Crashed { kept: usize },
    /// This peer did that, and is connected anew.
    Reconnected(NodeId),
    /// A message arrives.
    Received { from: NodeId, message: Message },
}

/// What a happening led to outside the node.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) sent: Vec<(NodeId, Message)>,
    /// How many campaigns it began.
    pub(super) campaigns: u8,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: NodeId,
    voters: Vec<NodeId>,
    engine: Engine,
    /// The time on its clock.
    now: Instant,
    /// The last ballot in which it was master, and when that began: `asked_at` in letters counts from there, so that letters
    /// of masters that differ only by a shift of their clocks are the same.
    mastership: (Ballot, Instant),
    pub(super) disk: Disk,
    pub(super) book: Book,
}

impl Node {
    /// A node that votes, knows the other nodes' lives, and has waited out its restart: it just asked around in vain.
    pub(super) fn new(id: NodeId, voters: &[NodeId]) -> Self {
        let mut disk = Disk::new(id);
        let engine = start(id, voters, &mut disk, Ballot::ZERO, None);
        let (now, mastership) = (Instant::default(), (Ballot::ZERO, Instant::default()));
        let mut node = Self { id, voters: voters.to_vec(), engine, now, mastership, disk, book: Book::new(id) };
        let mut ignored = Actions::new();
        for from in node.peers() {
            let message = Message::Recall { incarnation: life_of(from) };
            node.engine.step(Instant::default(), Event::Received { from, message }, &mut ignored);
        }
        node.wait_out_grants();
        node
    }

    /// # Errors
    /// When a rule is broken, or the engine panics.
    pub(super) fn happen(&mut self, happening: Happening, change: Option<Change>) -> Result<Effects, Broken> {
        let id = self.id;
        let run = AssertUnwindSafe(|| self.advance(happening, change));
        catch_unwind(run).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("{id}'s engine panics: {}", text.unwrap_or("without a word")))
        })
    }

    /// A digest of all that decides this node's future, and of all that binds it.
    pub(super) fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        hasher.write_u128(self.engine.digest());
        let since = self.is_master().then(|| self.now.since(self.mastership.1));
        (self.id, since, &self.disk, &self.book).hash(&mut hasher);
        hasher.digest128()
    }

    /// Whether its clients are served.
    pub(super) fn serves(&self) -> bool {
        self.is_master() && self.engine.known_master() == Some(self.id)
    }

    pub(super) fn is_master(&self) -> bool {
        self.engine.role() == Role::Master
    }

    /// The ballot in which it is a candidate or master.
    pub(super) fn leads(&self) -> Option<Ballot> {
        matches!(self.engine.role(), Role::Candidate | Role::Master).then(|| self.engine.status().promised)
    }

    fn advance(&mut self, happening: Happening, change: Option<Change>) -> Result<Effects, Broken> {
        let mut effects = Effects::default();
        match happening {
            Happening::Ticked => {
                self.now = self.engine.next_deadline().unwrap_or(self.now);
                self.step(Event::Ticked, change, &mut effects)?;
            }
            Happening::Synced(batches) => {
                if let Some((id, entries)) = self.disk.sync(batches) {
                    self.book.accepted(entries);
                    self.step(Event::Persisted(id), change, &mut effects)?;
                }
            }
            Happening::Requested(number) => {
                let request = Request { id: RequestId(number.into()), command: vec![b'a' + number].into() };
                self.step(Event::Requested(vec![request]), change, &mut effects)?;
            }
            Happening::Crashed { kept } => {
                let survived = self.disk.cut(kept);
                self.book.accepted(survived);
                self.engine = start(self.id, &self.voters, &mut self.disk, self.book.prepared, change);
                self.now = Instant::default();
            }
            Happening::Reconnected(peer) => {
                self.step(Event::Disconnected(peer), change, &mut effects)?;
                self.step(Event::Connected(peer), change, &mut effects)?;
            }
            Happening::Received { from, message } => {
                let message = self.asked_at_moved(message, |asked_at, began| Instant(asked_at.0 + began.0));
                self.step(Event::Received { from, message }, change, &mut effects)?;
            }
        }
        self.wait_out_grants();
        Ok(effects)
    }

    fn step(&mut self, event: Event, change: Option<Change>, effects: &mut Effects) -> Result<(), Broken> {
        let mut actions = Actions::new();
        self.engine.step(self.now, event, &mut actions);
        if let Some(ballot) = self.leads().filter(|ballot| self.is_master() && *ballot != self.mastership.0) {
            self.mastership = (ballot, self.now);
        }
        let mut todo: VecDeque<Action> = actions.drain().collect();
        while let Some(action) = todo.pop_front() {
            if let Some(answer) = self.carry_out(action, change, effects)? {
                self.engine.step(self.now, answer, &mut actions);
                todo.extend(actions.drain());
            }
        }
        Ok(())
    }

    /// Does what the engine orders, and gives what there is to answer at once.
    fn carry_out(
        &mut self,
        action: Action,
        change: Option<Change>,
        effects: &mut Effects,
    ) -> Result<Option<Event>, Broken> {
        match action {
            Action::Send { to, message } => {
                self.book.sent(&message, &self.disk)?;
                let message = self.asked_at_moved(message, |asked_at, began| Instant(asked_at.0 - began.0));
                effects.sent.push((to, message));
                Ok(None)
            }
            Action::Persist { id, records } => {
                for record in &records {
                    if let Record::Promised(ballot) = record
                        && ballot.node == self.id
                    {
                        effects.campaigns += 1;
                        self.book.campaigns(*ballot)?;
                    }
                }
                self.disk.append(id, records);
                Ok((change == Some(Change::PersistedBeforeSync)).then_some(Event::Persisted(id)))
            }
            Action::Apply { slot, value, .. } => {
                self.book.applied(slot, value)?;
                Ok(Some(Event::Applied(slot)))
            }
            Action::ReadLog { peer, from, upto, .. } => {
                Ok(Some(Event::LogRead { peer, entries: self.disk.read(from, upto) }))
            }
            Action::Refuse { .. } | Action::ServeRead { .. } | Action::RefuseRead { .. } => Ok(None),
            Action::InstallHead { .. } | Action::Blame { .. } | Action::Halt(_) | Action::Dropped(_) => {
                Err(format!("{} orders {action:?}, and nobody did anything wrong", self.id))
            }
        }
    }

    /// Lets a slave's clock run until what it granted, and its wait after a restart, is over, and it has asked around in vain.
    fn wait_out_grants(&mut self) {
        let mut unheard = Actions::new();
        while self.engine.role() == Role::Slave && !self.engine.is_catching_up() {
            self.now = self.engine.next_deadline().expect("a slave waits for its master");
            self.engine.step(self.now, Event::Ticked, &mut unheard);
        }
    }

    /// `asked_at` of what this master asks or is answered, between its clock and the beginning of its mastership.
    fn asked_at_moved(&self, mut message: Message, to: impl Fn(Instant, Instant) -> Instant) -> Message {
        let (ours, began) = self.mastership;
        if let Message::Heartbeat { ballot, asked_at, .. } | Message::Granted { ballot, asked_at, .. } = &mut message
            && *ballot == ours
        {
            *asked_at = to(*asked_at, began);
        }
        message
    }

    fn peers(&self) -> Vec<NodeId> {
        self.voters.iter().copied().filter(|voter| *voter != self.id).collect()
    }
}

fn start(id: NodeId, voters: &[NodeId], disk: &mut Disk, prepared: Ballot, change: Option<Change>) -> Engine {
    let limits = Limits { undecided_max: Duration::MAX, ..Limits::default() };
    let config = Config { lease: LEASE, clock_drift_ppm: 0, limits, ..Config::new(id, voters.to_vec()) };
    let mut engine = Engine::new(Instant::default(), config, disk.recover(prepared, change), 0);
    let mut nothing = Actions::new();
    for peer in voters.iter().filter(|voter| **voter != id) {
        engine.step(Instant::default(), Event::Connected(*peer), &mut nothing);
    }
    engine
}
