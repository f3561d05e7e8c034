//! The checkers' own books: what is durable where, what was promised, chosen, applied. They read disks and wires, keep
//! their books across restarts, and ask no engine anything.

use std::collections::{BTreeMap, BTreeSet};

use trialbay_engine::{Ballot, HistoryHash, Incarnation, Message, NodeId, Record, Slot, SlotEntry, Value};

use super::campaigns::{Accepted, Campaigns};
use super::history::Certified;
use super::leases::Leases;
use super::{Checked, violation};

/// The books.
#[derive(Debug)]
pub struct Ledger {
    voters: usize,
    quorum: u32,
    slots: BTreeMap<Slot, SlotBook>,
    nodes: BTreeMap<NodeId, NodeBook>,
    /// By slot: the digest of a store after it, and whose that was.
    states: BTreeMap<Slot, (u64, NodeId)>,
    campaigns: Campaigns,
    /// Who may count on whose lease.
    pub leases: Leases,
}

#[derive(Debug, Default)]
struct SlotBook {
    proposals: BTreeMap<Ballot, Proposal>,
    chosen: Option<(Ballot, Value)>,
    applied: Option<(NodeId, HistoryHash, Value)>,
}

/// What was proposed in one slot with one ballot.
#[derive(Debug)]
struct Proposal {
    value: Value,
    /// Who has it durable now, in its present life.
    durable: u32,
    /// Who ever had it durable while its votes counted: its acknowledgement may still count somewhere.
    ever: u32,
    chosen_at: Option<u64>,
}

#[derive(Debug, Default)]
struct NodeBook {
    /// Its memory's present life.
    life: Option<Incarnation>,
    /// Its disk says that this life votes.
    votes: bool,
    /// It votes in this run although its disk does not say that it may (rule V3).
    lent: bool,
    /// By peer that remembers: the lowest ballot that it told this life to promise before it votes (rule V2).
    answers: BTreeMap<NodeId, Ballot>,
    promised: Ballot0,
    entries: BTreeMap<Slot, (Ballot, Value)>,
    /// Those of them that its present life accepted: an earlier one's do not bind it (rule V1).
    accepted_in_life: BTreeSet<Slot>,
    /// The highest ballot in any promise or acceptance that this life sent.
    said: Ballot0,
    acknowledged: Option<(Ballot, Slot)>,
    /// The store durably holds everything up to here.
    stored: Slot,
}

/// A ballot that is zero at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ballot0(Ballot);

impl Default for Ballot0 {
    fn default() -> Self {
        Self(Ballot::ZERO)
    }
}

impl Ledger {
    /// Empty books of a cluster of `nodes` voters, whose leases last at least `lease_min` nanoseconds of true time.
    pub fn new(nodes: u16, lease_min: u64) -> Self {
        Self {
            states: BTreeMap::new(),
            campaigns: Campaigns::new(nodes),
            leases: Leases::new(nodes, lease_min),
            voters: usize::from(nodes),
            quorum: u32::from(nodes / 2 + 1),
            slots: BTreeMap::new(),
            nodes: (1..=nodes).map(|node| (NodeId(node), NodeBook::default())).collect(),
        }
    }

    /// A record became durable on `node`.
    ///
    /// # Errors
    /// K1: another value was chosen already, or one ballot has two values.
    pub fn durable(&mut self, node: NodeId, record: &Record, event: u64) -> Checked {
        let book = self.nodes.entry(node).or_default();
        match record {
            Record::Promised(ballot) => book.promised = book.promised.max(Ballot0(*ballot)),
            Record::Accepted(SlotEntry { slot, entry }) => {
                book.promised = book.promised.max(Ballot0(entry.ballot));
                book.entries.insert(*slot, (entry.ballot, entry.value.clone()));
                book.accepted_in_life.insert(*slot);
                self.proposed(node, *slot, entry.ballot, &entry.value)?;
                if let Some(proposal) = self.slots.entry(*slot).or_default().proposals.get_mut(&entry.ballot) {
                    proposal.durable |= bit(node);
                }
                self.count(*slot, event)?;
            }
            Record::MemoryBegan(life) => {
                book.life = Some(*life);
                (book.votes, book.lent) = (false, false);
                book.answers.clear();
                book.accepted_in_life.clear();
            }
            Record::Decided { .. } => {}
            Record::VoteRegained { incarnation, .. } => {
                if book.life != Some(*incarnation) {
                    let life = book.life;
                    return violation("K2", format!("{node} notes a vote of {incarnation:?}, and lives as {life:?}"));
                }
                book.votes = true;
                self.count_all(event)?;
            }
        }
        Ok(())
    }

    /// `node` lost records, and these are left. Unless it keeps its vote, what it said is void.
    ///
    /// # Errors
    /// As [`Ledger::durable`].
    pub fn forgotten(&mut self, node: NodeId, left: &[Record], keeps_vote: bool, event: u64) -> Checked {
        let before = self.take(node);
        let said = if keeps_vote { before.said } else { Ballot0::default() };
        self.nodes.insert(node, NodeBook { stored: before.stored, said, ..NodeBook::default() });
        let counts = |record: &&Record| keeps_vote || !matches!(record, Record::VoteRegained { .. });
        left.iter().filter(counts).try_for_each(|record| self.durable(node, record, event))
    }

    /// `node` lost its disk, the log and the store.
    pub fn wiped(&mut self, node: NodeId) {
        self.take(node);
    }

    fn take(&mut self, node: NodeId) -> NodeBook {
        for slot in self.slots.values_mut() {
            for proposal in slot.proposals.values_mut() {
                proposal.durable &= !bit(node);
            }
        }
        self.nodes.insert(node, NodeBook::default()).unwrap_or_default()
    }

    /// A process of `node` begins. A vote that was lent to the one before is not this one's (rule V3).
    pub fn started(&mut self, node: NodeId) {
        self.nodes.entry(node).or_default().lent = false;
    }

    /// `node`'s store holds everything up to here, durably.
    pub fn stored(&mut self, node: NodeId, slot: Slot) {
        let book = self.nodes.entry(node).or_default();
        book.stored = book.stored.max(slot);
    }

    /// Whether `node`'s votes count, as its disk tells.
    pub fn votes(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|book| book.votes)
    }

    /// `node` orders `value` applied.
    ///
    /// # Errors
    /// K5: others applied something else; K3: no quorum ever had it durable; K1: another value was chosen.
    pub fn applied(&mut self, node: NodeId, slot: Slot, hash: HistoryHash, value: &Value) -> Checked {
        let book = self.slots.entry(slot).or_default();
        if let Some((ballot, chosen)) = &book.chosen
            && chosen != value
        {
            return violation(
                "K1",
                format!("{node} decides {value:?} in {slot}, where {chosen:?} was chosen in {ballot}"),
            );
        }
        match &book.applied {
            None => {}
            Some((_, other_hash, other)) if other == value && *other_hash == hash => return Ok(()),
            Some((by, other_hash, other)) => {
                return violation(
                    "K5",
                    format!(
                        "{node} decides {value:?} (history {hash:?}) in {slot}, {by} decided {other:?} ({other_hash:?})"
                    ),
                );
            }
        }
        let justified =
            book.proposals.values().any(|proposal| proposal.value == *value && proposal.chosen_at.is_some());
        if !justified {
            return violation("K3", format!("{node} decides {value:?} in {slot}, which no quorum ever had durable"));
        }
        book.applied = Some((node, hash, value.clone()));
        Ok(())
    }

    /// The history hash that the cluster agreed on at `slot`.
    pub fn agreed_hash(&self, slot: Slot) -> Option<HistoryHash> {
        self.slots.get(&slot)?.applied.as_ref().map(|(_, hash, _)| *hash)
    }

    /// The last slot of which `node` has an entry that survives a power cut.
    pub fn durable_upto(&self, node: NodeId) -> Slot {
        let book = self.nodes.get(&node);
        book.and_then(|book| book.entries.keys().next_back().copied()).unwrap_or(Slot::ZERO)
    }

    /// `node`'s store has this digest after `slot`.
    ///
    /// # Errors
    /// K5: another store has another one.
    pub fn holds(&mut self, node: NodeId, slot: Slot, digest: u64) -> Checked {
        let (known, other) = self.states.entry(slot).or_insert((digest, node));
        if *known == digest {
            return Ok(());
        }
        violation("K5", format!("the stores of {node} and {other} differ after {slot}"))
    }

    /// `from` sends `message`, at this true time and event.
    ///
    /// # Errors
    /// K1: a ballot proposes two values; K2: it contradicts a promise or a lease; K3: what it says is not durable.
    pub fn sent(&mut self, from: NodeId, message: &Message, now: u64, event: u64) -> Checked {
        if let Some(life) = voting(message) {
            self.may_vote(from, life, event)?;
        }
        match message {
            Message::Granted { ballot, votes: true, .. } => {
                self.leases.granted(from, *ballot, now);
                Ok(())
            }
            Message::Resign { ballot, .. } => {
                self.leases.resigned(*ballot);
                Ok(())
            }
            Message::Prepare { ballot, decided_upto } => {
                let own = self.accepted_above(from, *decided_upto);
                self.campaigns.prepared(*ballot, *decided_upto, own);
                self.is_promised(from, *ballot, "prepares")
            }
            Message::Promise { ballot, accepted, .. } => {
                self.is_promised(from, *ballot, "promises")?;
                self.is_not_below(from, *ballot, "promises")?;
                self.tells_what_is_accepted(from, *ballot, &accepted.0)?;
                self.campaigns.promised(from, *ballot, &accepted.0);
                self.leases.promised(from, *ballot, now)
            }
            Message::Accept { ballot, first, values, .. } => {
                self.is_promised(from, *ballot, "proposes in")?;
                for (value, slot) in values.0.iter().zip(first.0..) {
                    self.proposed(from, Slot(slot), *ballot, value)?;
                    self.campaigns.proposed(*ballot, Slot(slot), value)?;
                }
                Ok(())
            }
            Message::Accepted { ballot, upto, .. } => {
                self.is_not_below(from, *ballot, "accepts in")?;
                self.is_accepted(from, *ballot, *upto)
            }
            Message::Recalled { asker, votes: true, promised, .. } => self.remembers(from, *asker, *promised),
            _ => Ok(()),
        }
    }

    /// The log from slot 1 on, as far as it is known without a gap.
    pub fn certificate(&self) -> Vec<Certified> {
        let mut log = Vec::new();
        for (slot, book) in &self.slots {
            let value = book.applied.as_ref().map(|(_, _, value)| value);
            let Some(value) = value.or(book.chosen.as_ref().map(|(_, value)| value)) else { break };
            let agreeing = book.proposals.values().filter(|proposal| proposal.value == *value);
            let Some(chosen_at) = agreeing.filter_map(|proposal| proposal.chosen_at).min() else { break };
            if slot.0 != log.len() as u64 + 1 {
                break;
            }
            log.push(Certified { value: value.clone(), chosen_at });
        }
        log
    }

    /// `node` votes as `life` (of a candidate its present one): as its disk says that it may, or because the vote is lent.
    fn may_vote(&mut self, node: NodeId, life: Option<Incarnation>, event: u64) -> Checked {
        let book = self.nodes.entry(node).or_default();
        if life.is_some_and(|life| book.life != Some(life)) {
            return violation(
                "K3",
                format!("{node} votes as {life:?}, and its disk says that it lives as {:?}", book.life),
            );
        }
        if book.votes || book.lent {
            return Ok(());
        }
        let asked = book.answers.values().max().copied().unwrap_or(Ballot::ZERO);
        let (answers, promised) = (book.answers.len(), book.promised.0);
        if self.voters % 2 == 1 || answers + 1 < self.voters {
            return violation(
                "K3",
                format!(
                    "{node} votes, its disk does not say that it may, and {answers} others told it that they remember"
                ),
            );
        }
        if promised < asked {
            return violation("K3", format!("{node} votes, and promised only {promised}, not {asked} as it was told"));
        }
        self.nodes.entry(node).or_default().lent = true;
        self.count_all(event)
    }

    /// `node` tells whoever lives as `asker` that it remembers, and what to promise.
    fn remembers(&mut self, node: NodeId, asker: Incarnation, promised: Ballot) -> Checked {
        if !self.votes(node) {
            return violation("K3", format!("{node} says that it remembers, and its disk does not say so"));
        }
        for book in self.nodes.values_mut().filter(|book| book.life == Some(asker)) {
            let told = book.answers.entry(node).or_insert(promised);
            *told = promised.min(*told);
        }
        Ok(())
    }

    /// What the present life of `node` has durably accepted above `decided`.
    fn accepted_above(&self, node: NodeId, decided: Slot) -> Accepted {
        let Some(book) = self.nodes.get(&node) else { return Accepted::new() };
        let above = book.entries.range(decided.next()..).filter(|(slot, _)| book.accepted_in_life.contains(slot));
        above.map(|(slot, entry)| (*slot, entry.clone())).collect()
    }

    /// A promise names what its sender has durably accepted, all of it and nothing else (rule P1). Values of the ballot
    /// itself may still be on their way to the disk: its owner has won already, and does not look at them.
    fn tells_what_is_accepted(&self, node: NodeId, ballot: Ballot, named: &[SlotEntry]) -> Checked {
        let entries = self.nodes.get(&node).map(|book| &book.entries);
        for SlotEntry { slot, entry } in named.iter().filter(|found| found.entry.ballot != ballot) {
            let durable = entries.and_then(|entries| entries.get(slot));
            let is_there = durable.is_some_and(|(accepted, value)| *accepted == entry.ballot && *value == entry.value);
            // Learned since it was asked, and on its way to the disk: no other value can be proposed there any more.
            let chosen = self.slots.get(slot).and_then(|book| book.chosen.as_ref()).map(|(_, value)| value);
            if !is_there && chosen != Some(&entry.value) {
                return violation(
                    "K3",
                    format!("{node} promises {ballot} with {entry:?} in {slot}, and its disk has {durable:?} there"),
                );
            }
        }
        let Some(decided) = self.campaigns.decided_upto(ballot) else { return Ok(()) };
        let told: BTreeSet<Slot> = named.iter().map(|found| found.slot).collect();
        match self.accepted_above(node, decided).into_iter().find(|(slot, _)| !told.contains(slot)) {
            None => Ok(()),
            Some((slot, entry)) => violation(
                "K3",
                format!("{node} promises {ballot} and does not tell of {slot}, where its disk has {entry:?}"),
            ),
        }
    }

    fn proposed(&mut self, by: NodeId, slot: Slot, ballot: Ballot, value: &Value) -> Checked {
        let proposals = &mut self.slots.entry(slot).or_default().proposals;
        let proposal = proposals.entry(ballot).or_insert_with(|| Proposal {
            value: value.clone(),
            durable: 0,
            ever: 0,
            chosen_at: None,
        });
        if proposal.value == *value {
            return Ok(());
        }
        let other = &proposal.value;
        violation("K1", format!("{ballot} has two values in {slot}: {other:?}, and {value:?} at {by}"))
    }

    fn count_all(&mut self, event: u64) -> Checked {
        let slots: Vec<Slot> = self.slots.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.count(slot, event))
    }

    fn count(&mut self, slot: Slot, event: u64) -> Checked {
        let voters =
            self.nodes.iter().filter(|(_, book)| book.votes || book.lent).fold(0, |mask, (node, _)| mask | bit(*node));
        let Some(book) = self.slots.get_mut(&slot) else { return Ok(()) };
        for (ballot, proposal) in &mut book.proposals {
            proposal.ever |= proposal.durable & voters;
            if proposal.ever.count_ones() >= self.quorum {
                proposal.chosen_at = proposal.chosen_at.or(Some(event));
            }
            if (proposal.durable & voters).count_ones() < self.quorum {
                continue;
            }
            let before = book.chosen.as_ref().map(|(ballot, value)| (*ballot, value));
            let before = before.or(book.applied.as_ref().map(|(_, _, value)| (Ballot::ZERO, value)));
            match before {
                None => book.chosen = Some((*ballot, proposal.value.clone())),
                Some((_, value)) if *value == proposal.value => {}
                Some((earlier, value)) => {
                    let now = &proposal.value;
                    return violation(
                        "K1",
                        format!("{slot}: {now:?} is chosen in {ballot}, and {value:?} was chosen in {earlier} before"),
                    );
                }
            }
        }
        Ok(())
    }

    fn is_promised(&self, node: NodeId, ballot: Ballot, does: &str) -> Checked {
        let promised = self.nodes.get(&node).map_or(Ballot::ZERO, |book| book.promised.0);
        if promised >= ballot {
            return Ok(());
        }
        violation("K3", format!("{node} {does} {ballot}, and its disk has promised only {promised}"))
    }

    fn is_not_below(&mut self, node: NodeId, ballot: Ballot, does: &str) -> Checked {
        let book = self.nodes.entry(node).or_default();
        let bound = book.said.max(book.promised).0;
        if ballot < bound {
            return violation("K2", format!("{node} {does} {ballot}, and has promised {bound}"));
        }
        book.said = Ballot0(ballot);
        Ok(())
    }

    fn is_accepted(&mut self, node: NodeId, ballot: Ballot, upto: Slot) -> Checked {
        let book = self.nodes.entry(node).or_default();
        let known = match book.acknowledged {
            Some((before, known)) if before == ballot => known,
            // What it acknowledged before is decided or sent again; a stretch as long as any window is looked at anew.
            _ => Slot(upto.0.saturating_sub(256)),
        };
        for slot in (known.max(book.stored).0 + 1..=upto.0).map(Slot) {
            let at = self.slots.get(&slot);
            let decided = at.and_then(|at| {
                at.applied.as_ref().map(|(_, _, value)| value).or(at.chosen.as_ref().map(|(_, value)| value))
            });
            let proposed = at.and_then(|at| at.proposals.get(&ballot)).map(|proposal| &proposal.value);
            let justified = match book.entries.get(&slot) {
                Some((durable, value)) => *durable == ballot || Some(value) == proposed || Some(value) == decided,
                None => false,
            };
            if !justified {
                let durable = book.entries.get(&slot);
                return violation(
                    "K3",
                    format!(
                        "{node} accepts up to {upto} in {ballot}, and its disk has {durable:?} in {slot} (its store has {})",
                        book.stored
                    ),
                );
            }
        }
        book.acknowledged = Some((ballot, upto.max(known)));
        Ok(())
    }
}

/// Whether a message is a vote, and of which life.
fn voting(message: &Message) -> Option<Option<Incarnation>> {
    match message {
        Message::Prepare { .. } => Some(None),
        Message::Promise { incarnation, .. }
        | Message::Accepted { incarnation, votes: true, .. }
        | Message::Granted { incarnation, votes: true, .. } => Some(Some(*incarnation)),
        _ => None,
    }
}

fn bit(node: NodeId) -> u32 {
    1 << node.0
}
