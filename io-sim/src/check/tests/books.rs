//! Lies of nodes about what is on their disks, before the books.

use trialbay_engine::{Ballot, Entry, Incarnation, Message, NodeId, Record, Slot, SlotEntry, Value};

use crate::check::Checked;
use crate::check::ledger::Ledger;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const OLD: Ballot = Ballot { round: 1, node: NodeId(3) };
const NEW: Ballot = Ballot { round: 2, node: N1 };

fn life(node: NodeId) -> Incarnation {
    Incarnation(u64::from(node.0))
}

fn accepted(slot: u64, ballot: Ballot, text: &str) -> SlotEntry {
    SlotEntry { slot: Slot(slot), entry: Entry { ballot, value: Value::batch([text.as_bytes()]) } }
}

fn note(books: &mut Ledger, node: NodeId, records: &[Record]) {
    for record in records {
        books.durable(node, record, 1).expect("it contradicts nothing");
    }
}

/// Books of so many nodes, all of which remember.
fn books(nodes: u16) -> Ledger {
    let mut books = Ledger::new(nodes, 100);
    for node in (1..=nodes).map(NodeId) {
        let regained = Record::VoteRegained { incarnation: life(node), genesis: Vec::new() };
        note(&mut books, node, &[Record::MemoryBegan(life(node)), regained]);
    }
    books
}

fn refused(told: Checked, checker: &str, story: &str) {
    let broken = told.expect_err("it is a lie");
    assert_eq!(broken.checker, checker, "{}", broken.story);
    assert!(broken.story.contains(story), "{story:?} is missing in: {}", broken.story);
}

/// `n1` asks, having decided slot 3, and `n2`, which has slots 3 to 5 of an older ballot on its disk, promises.
fn promise(named: &[SlotEntry], incarnation: Incarnation) -> Checked {
    let mut books = books(3);
    note(&mut books, N1, &[Record::Promised(NEW)]);
    let on_disk = [(3, "a"), (4, "b"), (5, "c")].map(|(slot, text)| Record::Accepted(accepted(slot, OLD, text)));
    note(&mut books, N2, &on_disk);
    note(&mut books, N2, &[Record::Promised(NEW)]);
    books.sent(N1, &Message::Prepare { ballot: NEW, decided_upto: Slot(3) }, 0, 1).expect("it may ask");
    let message = Message::Promise { ballot: NEW, incarnation, accepted: named.to_vec().into() };
    books.sent(N2, &message, 0, 1)
}

#[test]
fn a_promise_names_exactly_what_its_senders_disk_has() {
    let (b, c) = (accepted(4, OLD, "b"), accepted(5, OLD, "c"));
    assert_eq!(promise(&[b.clone(), c.clone()], life(N2)), Ok(()));
    assert_eq!(promise(&[accepted(3, OLD, "a"), b.clone(), c.clone()], life(N2)), Ok(()), "more than was asked for");
    assert_eq!(promise(&[b.clone(), c.clone(), accepted(6, NEW, "d")], life(N2)), Ok(()), "of the ballot itself");
    refused(promise(&[b.clone(), accepted(5, OLD, "x")], life(N2)), "K3", "its disk has Some");
    refused(promise(&[b.clone(), accepted(5, Ballot { round: 1, node: N1 }, "c")], life(N2)), "K3", "in s5");
    refused(promise(&[b.clone(), c.clone(), accepted(6, OLD, "d")], life(N2)), "K3", "its disk has None");
    refused(promise(std::slice::from_ref(&c), life(N2)), "K3", "does not tell of s4");
    refused(promise(&[], life(N2)), "K3", "does not tell of s4");
    refused(promise(&[b, c], life(N1)), "K3", "its disk says that it lives as");
}

/// What `n2` of so many sends after it was wiped, and lives again as 9, and some of the others told it that they remember.
fn vote_of_a_wiped_node(nodes: u16, told_by: &[u16], change: impl FnOnce(&mut Ledger)) -> Checked {
    let mut books = books(nodes);
    books.wiped(N2);
    books.started(N2);
    note(&mut books, N2, &[Record::MemoryBegan(Incarnation(9)), Record::Promised(NEW)]);
    for node in told_by {
        recalled(&mut books, NodeId(*node), NEW).expect("it remembers");
    }
    change(&mut books);
    let vote = Message::Accepted { ballot: NEW, incarnation: Incarnation(9), votes: true, upto: Slot::ZERO };
    books.sent(N2, &vote, 0, 2)
}

/// `node` answers the wiped one.
fn recalled(books: &mut Ledger, node: NodeId, promised: Ballot) -> Checked {
    let answer = Message::Recalled {
        asker: Incarnation(9),
        incarnation: life(node),
        votes: true,
        blank: false,
        promised,
        accepted_upto: Slot(7),
        genesis: Vec::new().into(),
    };
    books.sent(node, &answer, 0, 1)
}

#[test]
fn a_vote_is_lent_only_by_an_even_number_all_of_which_remember() {
    let nothing = |_: &mut Ledger| ();
    assert_eq!(vote_of_a_wiped_node(4, &[1, 3, 4], nothing), Ok(()));
    assert_eq!(vote_of_a_wiped_node(2, &[1], nothing), Ok(()));
    refused(vote_of_a_wiped_node(4, &[1, 3], nothing), "K3", "2 others told it");
    refused(vote_of_a_wiped_node(3, &[1, 3], nothing), "K3", "its disk does not say that it may");
    refused(vote_of_a_wiped_node(2, &[], nothing), "K3", "0 others told it");
}

#[test]
fn a_lent_vote_rests_on_a_promise_of_what_the_others_told() {
    let higher = Ballot { round: 3, node: N1 };
    let told = |books: &mut Ledger| recalled(books, N1, higher).expect("it remembers");
    refused(vote_of_a_wiped_node(2, &[], told), "K3", "promised only");
    let both = |books: &mut Ledger| {
        told(books);
        recalled(books, N1, NEW).expect("a late answer");
    };
    assert_eq!(vote_of_a_wiped_node(2, &[], both), Ok(()), "it may have gone by either");
}

#[test]
fn a_lent_vote_ends_with_the_life_to_which_it_was_lent() {
    let vote = Message::Granted {
        ballot: NEW,
        asked_at: trialbay_engine::Instant(0),
        incarnation: Incarnation(9),
        votes: true,
        received_upto: Slot::ZERO,
        applied_upto: Slot::ZERO,
    };
    let wiped_again = |books: &mut Ledger| {
        assert_eq!(books.sent(N2, &vote, 0, 1), Ok(()), "it is lent");
        books.wiped(N2);
        note(books, N2, &[Record::MemoryBegan(Incarnation(9)), Record::Promised(NEW)]);
    };
    refused(vote_of_a_wiped_node(2, &[1], wiped_again), "K3", "0 others told it");
    let reborn = |books: &mut Ledger| note(books, N2, &[Record::MemoryBegan(Incarnation(10))]);
    refused(vote_of_a_wiped_node(2, &[1], reborn), "K3", "lives as");
}

#[test]
fn nobody_who_votes_without_remembering_vouches_for_others() {
    let lent_and_asked = |books: &mut Ledger| {
        let vote = Message::Prepare { ballot: NEW, decided_upto: Slot::ZERO };
        note(books, N1, &[Record::Promised(NEW)]);
        assert_eq!(books.sent(N1, &vote, 0, 1), Ok(()));
        books.wiped(N1);
    };
    let vouches = |books: &mut Ledger| {
        lent_and_asked(books);
        refused(recalled(books, N1, NEW), "K3", "says that it remembers");
    };
    refused(vote_of_a_wiped_node(2, &[], vouches), "K3", "0 others told it");
}

#[test]
fn a_vote_is_noted_for_the_life_that_has_it() {
    let mut books = books(3);
    let other = Record::VoteRegained { incarnation: life(N1), genesis: Vec::new() };
    refused(books.durable(N2, &other, 1), "K2", "notes a vote of");
}

#[test]
fn a_store_may_outlive_its_log_and_no_wipe() {
    let regained = Record::VoteRegained { incarnation: life(N2), genesis: Vec::new() };
    let again = [Record::MemoryBegan(life(N2)), Record::Promised(NEW), regained];
    let vote = Message::Accepted { ballot: NEW, incarnation: life(N2), votes: true, upto: Slot(5) };
    let after = |loses: &dyn Fn(&mut Ledger)| {
        let mut books = books(3);
        books.stored(N2, Slot(5));
        loses(&mut books);
        note(&mut books, N2, &again);
        books.sent(N2, &vote, 0, 2)
    };
    assert_eq!(after(&|books| books.forgotten(N2, &[], false, 1).expect("nothing is left")), Ok(()));
    refused(after(&|books| books.wiped(N2)), "K3", "its store has s0");
}
