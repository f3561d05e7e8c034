//! What nodes can be and say, each numbered once: a world is then a few numbers, and what a happening makes of a node is
//! found out once, however many worlds it happens in.

use std::collections::BTreeMap;
use std::rc::Rc;

use trialbay_engine::codec::encode_message;
use trialbay_engine::{Ballot, Message, NodeId};

use super::Change;
use super::book::{Book, Broken, compare};
use super::node::{Happening, Node};

/// A node's state, by its number.
pub(super) type NodeIndex = u32;

/// A message with its ends, by its number.
pub(super) type LetterIndex = u32;

/// A happening, by kind and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    Ticked,
    Synced(u32),
    Requested(u8),
    Crashed(u32),
    Reconnected(u16),
    Received(LetterIndex),
}

/// What becomes of a node, and of its surroundings.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) node: NodeIndex,
    pub(super) sent: Vec<LetterIndex>,
    /// What it asks of others in a canvass, or answers to one.
    pub(super) canvass: Vec<LetterIndex>,
    pub(super) campaigns: u8,
}

#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
}

/// Who gets a letter, and for how long it means something.
#[derive(Clone, Debug)]
struct Address {
    to: usize,
    /// Of an answer to the owner of a ballot: that ballot, and the highest in it.
    answers: Option<(Ballot, Ballot)>,
    /// Only a candidate looks at it, no master.
    is_promise: bool,
}

/// What the world looks at in a node.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) unsynced_batches: u32,
    pub(super) unsynced_records: u32,
    pub(super) serves: bool,
    pub(super) is_master: bool,
    pub(super) book: u32,
    promised: Ballot,
    leads: Option<Ballot>,
}

/// Of one node, by cause, in order.
type Outcomes = Vec<(Cause, Result<Rc<Outcome>, Broken>)>;

pub(super) struct Catalogue {
    change: Option<Change>,
    nodes: Vec<Node>,
    facts: Vec<Facts>,
    node_index: BTreeMap<u128, NodeIndex>,
    outcomes: Vec<Outcomes>,
    letters: Vec<Letter>,
    addresses: Vec<Address>,
    letter_index: BTreeMap<(NodeId, NodeId, Vec<u8>), LetterIndex>,
    books: Vec<Book>,
    book_index: BTreeMap<u128, u32>,
    agreeing: BTreeMap<Vec<u32>, Result<(), Broken>>,
}

impl Catalogue {
    pub(super) fn new(change: Option<Change>) -> Self {
        Self {
            change,
            nodes: Vec::new(),
            facts: Vec::new(),
            node_index: BTreeMap::new(),
            outcomes: Vec::new(),
            letters: Vec::new(),
            addresses: Vec::new(),
            letter_index: BTreeMap::new(),
            books: Vec::new(),
            book_index: BTreeMap::new(),
            agreeing: BTreeMap::new(),
        }
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn letter_count(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn add(&mut self, node: Node) -> NodeIndex {
        let digest = node.digest();
        if let Some(known) = self.node_index.get(&digest) {
            return *known;
        }
        let index = number_of(self.nodes.len());
        let facts = Facts {
            unsynced_batches: number_of(node.disk.unsynced_batches()),
            unsynced_records: number_of(node.disk.unsynced_records()),
            serves: node.serves(),
            is_master: node.is_master(),
            book: self.add_book(&node.book),
            promised: node.disk.promised,
            leads: node.leads(),
        };
        self.nodes.push(node);
        self.facts.push(facts);
        self.outcomes.push(Vec::new());
        self.node_index.insert(digest, index);
        index
    }

    pub(super) fn facts(&self, node: NodeIndex) -> &Facts {
        &self.facts[node as usize]
    }

    pub(super) fn letter(&self, letter: LetterIndex) -> &Letter {
        &self.letters[letter as usize]
    }

    /// What `cause` makes of `node`.
    pub(super) fn outcome(&mut self, node: NodeIndex, cause: Cause) -> Result<Rc<Outcome>, Broken> {
        let known = &self.outcomes[node as usize];
        match known.binary_search_by_key(&cause, |(known, _)| *known) {
            Ok(index) => known[index].1.clone(),
            Err(index) => {
                let outcome = self.find_out(node, cause);
                self.outcomes[node as usize].insert(index, (cause, outcome.clone()));
                outcome
            }
        }
    }

    /// Whether `letter` can never again mean anything to its receiver among `nodes`: an answer to a ballot in which it is no
    /// candidate or master any more. It never will be again, for it has that ballot's promise on disk, and goes above it
    /// the next time; were it to use a ballot twice, that would be found by itself.
    pub(super) fn is_stale(&self, letter: LetterIndex, nodes: &[NodeIndex]) -> bool {
        let Address { answers, is_promise, to } = &self.addresses[letter as usize];
        let Some((ballot, highest)) = *answers else { return false };
        let facts = &self.facts[nodes[*to] as usize];
        let waits = facts.leads == Some(ballot) && !(facts.is_master && *is_promise);
        !waits && facts.promised >= highest
    }

    /// Compares the books of these nodes.
    pub(super) fn compare(&mut self, nodes: &[NodeIndex]) -> Result<(), Broken> {
        let key: Vec<u32> = nodes.iter().map(|node| self.facts(*node).book).collect();
        if let Some(known) = self.agreeing.get(&key) {
            return known.clone();
        }
        let books: Vec<&Book> = key.iter().map(|book| &self.books[*book as usize]).collect();
        let compared = compare(&books);
        self.agreeing.insert(key, compared.clone());
        compared
    }

    fn find_out(&mut self, node: NodeIndex, cause: Cause) -> Result<Rc<Outcome>, Broken> {
        let mut next = self.nodes[node as usize].clone();
        let from = next.id;
        let happening = match cause {
            Cause::Ticked => Happening::Ticked,
            Cause::Synced(batches) => Happening::Synced(batches as usize),
            Cause::Requested(number) => Happening::Requested(number),
            Cause::Crashed(kept) => Happening::Crashed { kept: kept as usize },
            Cause::Reconnected(peer) => Happening::Reconnected(NodeId(peer)),
            Cause::Received(letter) => {
                let Letter { from, message, .. } = &self.letters[letter as usize];
                Happening::Received { from: *from, message: message.clone() }
            }
        };
        let effects = next.happen(happening, self.change)?;
        let (mut sent, mut canvass) = (Vec::new(), Vec::new());
        for (to, message) in effects.sent {
            let asks = matches!(message, Message::Canvass { .. } | Message::Canvassed { .. });
            let letters = if asks { &mut canvass } else { &mut sent };
            letters.push(self.add_letter(from, to, message));
        }
        for letters in [&mut sent, &mut canvass] {
            letters.sort_unstable();
            letters.dedup();
        }
        Ok(Rc::new(Outcome { node: self.add(next), sent, canvass, campaigns: effects.campaigns }))
    }

    pub(super) fn add_letter(&mut self, from: NodeId, to: NodeId, message: Message) -> LetterIndex {
        let mut bytes = Vec::new();
        encode_message(&message, &mut bytes);
        let index = number_of(self.letters.len());
        let known = *self.letter_index.entry((from, to, bytes)).or_insert(index);
        if known == index {
            let is_promise = matches!(message, Message::Promise { .. });
            self.addresses.push(Address { to: usize::from(to.0) - 1, answers: answers(&message), is_promise });
            self.letters.push(Letter { from, to, message });
        }
        known
    }

    fn add_book(&mut self, book: &Book) -> u32 {
        let index = number_of(self.books.len());
        let known = *self.book_index.entry(book.digest()).or_insert(index);
        if known == index {
            self.books.push(book.clone());
        }
        known
    }
}

fn answers(message: &Message) -> Option<(Ballot, Ballot)> {
    match message {
        Message::Promise { ballot, .. }
        | Message::Accepted { ballot, .. }
        | Message::Granted { ballot, .. }
        | Message::Gap { ballot, .. } => Some((*ballot, *ballot)),
        // Whoever hears of a higher promise goes above it, in whatever campaign is next.
        Message::Nak { ballot, promised, .. } => Some((*ballot, *ballot.max(promised))),
        _ => None,
    }
}

fn number_of(count: usize) -> u32 {
    u32::try_from(count).expect("memory ends before the numbers do")
}
