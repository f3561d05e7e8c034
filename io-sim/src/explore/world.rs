//! A world: its nodes, the letters on their way, and what is left of its bounds; and all that can happen next.

use std::fmt;

use trialbay_engine::{Message, NodeId};

use super::book::Broken;
use super::catalogue::{Catalogue, Cause, LetterIndex, NodeIndex};
use super::disk::life_of;
use super::node::Node;
use super::{Bounds, Change};

/// One state of the world, as numbers of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) nodes: Vec<NodeIndex>,
    /// In order, each once: a second copy is a duplicate, which has a bound of its own.
    pub(super) letters: Vec<LetterIndex>,
    pub(super) spent: Spent,
}

/// How much of each bound is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) ballots: u8,
    pub(super) requests: u8,
    pub(super) master_ticks: u8,
    pub(super) duplicates: u8,
    pub(super) fetches: u8,
    /// One bit for each node that crashed.
    pub(super) crashed: u8,
}

/// Something that happens in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// To which node, counted from 0.
    pub(super) node: usize,
    pub(super) cause: Cause,
    /// The letter that arrives may arrive again.
    pub(super) again: bool,
    /// Who answers the canvass that this begins, if it does; counted from 0.
    pub(super) answers: Option<usize>,
}

/// Says what each step that can be taken makes of a world.
pub(super) trait Visit {
    /// What to do with it; `false` ends the enumeration.
    fn visit(&mut self, step: Step, next: Result<State, Broken>) -> bool;
}

pub(super) struct World {
    pub(super) bounds: Bounds,
    pub(super) change: Option<Change>,
    pub(super) catalogue: Catalogue,
}

impl World {
    pub(super) fn new(bounds: Bounds, change: Option<Change>) -> Self {
        Self { bounds, change, catalogue: Catalogue::new(change) }
    }

    pub(super) fn first(&mut self) -> State {
        let voters: Vec<NodeId> = (1..=u16::from(self.bounds.nodes)).map(NodeId).collect();
        let nodes = voters.iter().map(|id| self.catalogue.add(Node::new(*id, &voters))).collect();
        State { nodes, letters: Vec::new(), spent: Spent::default() }
    }

    /// Takes every step that can be taken, one after the other.
    pub(super) fn for_each_step(&mut self, state: &State, visit: &mut impl Visit) {
        let mut steps = Vec::new();
        self.list(state, &mut steps);
        for step in steps {
            if !self.take(state, step, visit) {
                return;
            }
        }
    }

    fn list(&self, state: &State, steps: &mut Vec<Step>) {
        let (bounds, spent) = (&self.bounds, state.spent);
        for (node, index) in state.nodes.iter().enumerate() {
            let facts = self.catalogue.facts(*index);
            let mut add = |cause| steps.push(Step { node, cause, again: false, answers: None });
            if !facts.is_master || spent.master_ticks < bounds.master_ticks {
                add(Cause::Ticked);
            }
            (1..=facts.unsynced_batches).for_each(|batches| add(Cause::Synced(batches)));
            if facts.serves && spent.requests < bounds.slots {
                add(Cause::Requested(spent.requests));
            }
            if self.may_crash(spent, node) {
                let least = if self.change == Some(Change::NothingLost) { facts.unsynced_records } else { 0 };
                (least..=facts.unsynced_records).for_each(|kept| add(Cause::Crashed(kept)));
            }
        }
        for letter in &state.letters {
            let node = position(self.catalogue.letter(*letter).to);
            let step = Step { node, cause: Cause::Received(*letter), again: false, answers: None };
            steps.push(step);
            if spent.duplicates < bounds.duplicates {
                steps.push(Step { again: true, ..step });
            }
        }
    }

    /// Takes `step`; when it begins a canvass, once for each who may answer.
    fn take(&mut self, state: &State, step: Step, visit: &mut impl Visit) -> bool {
        let outcome = match self.catalogue.outcome(state.nodes[step.node], step.cause) {
            Ok(outcome) => outcome,
            Err(broken) => return visit.visit(step, Err(broken)),
        };
        let arrives = matches!(step.cause, Cause::Received(_));
        let idle = outcome.node == state.nodes[step.node] && outcome.sent.is_empty() && outcome.canvass.is_empty();
        if arrives && idle {
            // The same world with a letter less: whatever can happen there can happen here.
            return true;
        }
        let mut next = state.clone();
        self.spend(&mut next, step);
        next.nodes[step.node] = outcome.node;
        next.spent.ballots += outcome.campaigns;
        self.post(&mut next, &outcome.sent);
        if matches!(step.cause, Cause::Crashed(_))
            && let Err(broken) = self.reconnect(&mut next, step.node)
        {
            return visit.visit(step, Err(broken));
        }
        for question in &outcome.canvass {
            let peer = position(self.catalogue.letter(*question).to);
            let mut answered = next.clone();
            let step = Step { answers: Some(peer), ..step };
            let result = self.answer(&mut answered, step.node, peer, *question);
            let campaigns = answered.spent.ballots > next.spent.ballots;
            if campaigns && step.node >= usize::from(self.bounds.ballots) {
                // The same world as one in which an earlier node campaigns, but for names.
                continue;
            }
            if !self.finish(state, step, answered, result, visit) {
                return false;
            }
        }
        self.finish(state, step, next, Ok(()), visit)
    }

    fn finish(
        &mut self,
        before: &State,
        step: Step,
        mut next: State,
        result: Result<(), Broken>,
        visit: &mut impl Visit,
    ) -> bool {
        let result = result.and_then(|()| self.sync_those_that_cannot_crash(&mut next));
        if next.spent.ballots > self.bounds.ballots || next.spent.fetches > self.bounds.fetches {
            return true;
        }
        let changed = |(old, new): (&NodeIndex, &NodeIndex)| {
            old != new && self.catalogue.facts(*old).book != self.catalogue.facts(*new).book
        };
        let books_differ = before.nodes.iter().zip(&next.nodes).any(changed);
        let checked = result.and_then(|()| if books_differ { self.catalogue.compare(&next.nodes) } else { Ok(()) });
        let State { nodes, letters, .. } = &mut next;
        letters.retain(|letter| !self.catalogue.is_stale(*letter, nodes));
        visit.visit(step, checked.map(|()| next))
    }

    fn may_crash(&self, spent: Spent, node: usize) -> bool {
        spent.crashed.count_ones() < u32::from(self.bounds.crashes) && spent.crashed >> node & 1 == 0
    }

    fn sync_those_that_cannot_crash(&mut self, next: &mut State) -> Result<(), Broken> {
        for node in 0..next.nodes.len() {
            while !self.may_crash(next.spent, node)
                && let facts = self.catalogue.facts(next.nodes[node])
                && facts.unsynced_batches > 0
                && !facts.is_master
            {
                self.happen(next, node, Cause::Synced(1))?;
            }
        }
        Ok(())
    }

    /// Has something happen whose canvass, if it begins one, nobody hears.
    fn happen(&mut self, next: &mut State, node: usize, cause: Cause) -> Result<(), Broken> {
        let outcome = self.catalogue.outcome(next.nodes[node], cause)?;
        next.nodes[node] = outcome.node;
        next.spent.ballots += outcome.campaigns;
        self.post(next, &outcome.sent);
        Ok(())
    }

    fn spend(&self, next: &mut State, step: Step) {
        match step.cause {
            Cause::Ticked => {
                let is_master = self.catalogue.facts(next.nodes[step.node]).is_master;
                next.spent.master_ticks += u8::from(is_master);
            }
            Cause::Requested(_) => next.spent.requests += 1,
            Cause::Crashed(_) => next.spent.crashed |= 1 << step.node,
            Cause::Received(letter) => {
                let repeats = self.change == Some(Change::AcceptanceRepeated)
                    && matches!(self.catalogue.letter(letter).message, Message::Accepted { .. });
                if step.again {
                    next.spent.duplicates += 1;
                } else if !repeats {
                    next.letters.retain(|flying| *flying != letter);
                }
            }
            Cause::Synced(_) | Cause::Reconnected(_) => {}
        }
    }

    /// Everybody else notices that `node` crashed and is back.
    fn reconnect(&mut self, next: &mut State, node: usize) -> Result<(), Broken> {
        for peer in (0..next.nodes.len()).filter(|peer| *peer != node) {
            self.happen(next, peer, Cause::Reconnected(id_of(node).0))?;
        }
        Ok(())
    }

    /// `peer` answers the canvass of `node`, which hears of it at once.
    fn answer(&mut self, next: &mut State, node: usize, peer: usize, question: LetterIndex) -> Result<(), Broken> {
        let mut answers = vec![(peer, question)];
        for receiver in [peer, node] {
            let Some((_, letter)) = answers.iter().find(|(to, _)| *to == receiver).copied() else { return Ok(()) };
            let outcome = self.catalogue.outcome(next.nodes[receiver], Cause::Received(letter))?;
            next.nodes[receiver] = outcome.node;
            next.spent.ballots += outcome.campaigns;
            self.post(next, &outcome.sent);
            answers =
                outcome.canvass.iter().map(|letter| (position(self.catalogue.letter(*letter).to), *letter)).collect();
        }
        Ok(())
    }

    fn post(&mut self, next: &mut State, sent: &[LetterIndex]) {
        for letter in sent {
            next.spent.fetches += u8::from(matches!(self.catalogue.letter(*letter).message, Message::Fetch { .. }));
            self.post_one(next, *letter);
            if self.change == Some(Change::AcceptanceForged) {
                self.forge(next, *letter);
            }
        }
    }

    fn post_one(&mut self, next: &mut State, letter: LetterIndex) {
        if let Err(place) = next.letters.binary_search(&letter) {
            next.letters.insert(place, letter);
        }
    }

    fn forge(&mut self, next: &mut State, letter: LetterIndex) {
        let letter = self.catalogue.letter(letter).clone();
        if let Message::Accepted { ballot, votes, upto, .. } = letter.message {
            for forger in (0..next.nodes.len()).map(id_of).filter(|id| *id != letter.from && *id != letter.to) {
                let message = Message::Accepted { ballot, incarnation: life_of(forger), votes, upto };
                let forged = self.catalogue.add_letter(forger, letter.to, message);
                self.post_one(next, forged);
            }
        }
    }

    /// One line of a story: what happened, and what was said because of it.
    pub(super) fn tell(&self, step: Step, before: &State, after: Option<&State>) -> String {
        let mut line = format!("{}", Told { step, world: self });
        for letter in after.map(|after| after.letters.as_slice()).unwrap_or_default() {
            if before.letters.binary_search(letter).is_err() {
                let letter = self.catalogue.letter(*letter);
                line.push_str(&format!("\n      {} to {}: {:?}", letter.from, letter.to, letter.message));
            }
        }
        line
    }
}

struct Told<'a> {
    step: Step,
    world: &'a World,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = id_of(self.step.node);
        match self.step.cause {
            Cause::Ticked => write!(f, "{node}'s clock jumps to its next deadline")?,
            Cause::Synced(1) => write!(f, "{node}'s disk syncs a batch")?,
            Cause::Synced(batches) => write!(f, "{node}'s disk syncs {batches} batches at once")?,
            Cause::Requested(number) => write!(f, "a client asks {node} for update {}", char::from(b'a' + number))?,
            Cause::Crashed(kept) => write!(f, "{node} crashes, {kept} unsynced records survive, and it starts again")?,
            Cause::Reconnected(peer) => write!(f, "{node} is connected to n{peer} anew")?,
            Cause::Received(letter) => {
                let letter = self.world.catalogue.letter(letter);
                write!(f, "{node} receives from {}: {:?}", letter.from, letter.message)?;
            }
        }
        if self.step.again {
            write!(f, " (and will again)")?;
        }
        match self.step.answers {
            Some(peer) => write!(f, "; {} answers its canvass", id_of(peer)),
            None => Ok(()),
        }
    }
}

fn id_of(position: usize) -> NodeId {
    NodeId(u16::try_from(position + 1).expect("a world is small"))
}

fn position(id: NodeId) -> usize {
    usize::from(id.0) - 1
}
