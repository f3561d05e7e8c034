//! Every planted bug does something, and what it does is what it says.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use trialbay_engine::{
    Ballot, Config, Engine, Event, Incarnation, Instant, Message, NodeId, PlantedBug, ReadId, Recovered, Role, Slot,
    SlotEntry,
};

use crate::cluster::hash_of;
use crate::node::{
    Given, LEASE, ME, Node, accept, accepted, accepted_entry, ballot, config, heartbeat, life, memory, promise, value,
};

/// What a node does in the situation that shows this bug, in words.
fn behaviour(shown: PlantedBug, config: Config) -> String {
    use PlantedBug as Bug;
    match shown {
        Bug::PromiseBeforeFsync => said(slave(config).receive(2, prepare(ballot(9, 2), 1))),
        Bug::AcceptedBeforeFsync => said(slave(config).receive(2, accept(ballot(1, 2), 3, vec![value("c")]))),
        Bug::PromiseBelowPromise => prepared(slave(config), prepare(ballot(0, 2).next_for(NodeId(2)), 1)),
        Bug::AcceptBelowPromise => accepts_below_its_promise(slave(config)),
        Bug::PromiseInsideLease => promises_inside_a_lease(slave(config)),
        Bug::PromiseToOneBehind => prepared(slave(config), prepare(ballot(9, 2), 0)),
        Bug::ResentAcceptIgnored => takes_a_value_again(slave(config)),
        Bug::StaleTakenForNew => said(slave(config).receive(3, heartbeat(ballot(9, 3)))),
        Bug::HashNotCompared => compares_histories(slave(config)),
        Bug::StalePromiseCounted => counts_an_old_promise(config),
        Bug::HighestBallotIgnored => proposes_what_was_found(config, "higher", Some("own")),
        Bug::BallotReusedAfterRestart => shown_by(&next_ballot_after_restart(config)),
        Bug::RestartedGrantForgotten => prepared(Node::start(config, decided_one()), prepare(ballot(9, 2), 1)),
        Bug::HalfIsQuorum => shown_by(&Node::rested(config, decided_one()).tick().records),
        Bug::NoopOverChosen => proposes_what_was_found(config, "chosen", None),
        Bug::ServesTooSoon => serves_before_it_applied(config),
        Bug::AcceptanceCountedTwice => counts_a_repeated_acknowledgement(config),
        Bug::OldAcceptanceCounted => counts_old_acceptances(config),
        Bug::OwnUndurableCounted => counts_itself_at_once(config),
        Bug::LeaseFromReply => shown_by(&lease_after_a_late_grant(config)),
        Bug::NoDriftMargin => {
            let master = Node::master(Config { clock_drift_ppm: 100_000, ..config });
            shown_by(&master.engine.serves_until())
        }
        Bug::NullHalfLease => shown_by(&Node::master(config).engine.serves_until()),
        Bug::LeaseWithoutQuorum => lease_of_a_lonely_master(config),
        Bug::UnknownCalledRefused => loses_its_mastership(config),
        Bug::ReadWithoutRound => reads_later(config),
        Bug::ReadMissesInherited => reads_at(config),
        Bug::HandOverKeepsLease => stops(config),
        Bug::LearnerCounted => counts_a_learner(config),
        Bug::WitnessCampaigns => campaigns_as_a_witness(config),
        Bug::WitnessGivesHead => asks_a_witness_for_a_head(config),
        Bug::DropKeepsLease => is_dropped(config),
        Bug::SentTooFar => said(slave(config).receive(3, Message::Fetch { from: Slot(2) })),
        Bug::NoCatchUp => said(slave(config).receive(2, far_heartbeat())),
        Bug::WipedNodeVotes => shown_by(&Node::start(config, Recovered::blank()).engine.votes()),
        Bug::VoteRegainedTooSoon => regains_its_vote(config),
        Bug::NullSmallMessages => streams_to_one_that_comes_back(config),
        Bug::NullFrequentHeartbeats => shown_by(&heartbeats_in_a_second(config)),
        Bug::NullSentAgain => sends_again(config),
        Bug::NullAcknowledgedTwice => {
            let mut node = slave(config);
            node.receive(2, accept(ballot(1, 2), 3, vec![value("c")]));
            said(node.persist())
        }
    }
}

#[test]
fn every_planted_bug_changes_what_a_node_does() {
    for bug in PlantedBug::ALL {
        let sound = behaviour(*bug, cluster_for(*bug));
        let planted = behaviour(*bug, Config { planted: Some(*bug), assertions_off: true, ..cluster_for(*bug) });
        assert_ne!(sound, planted, "{bug:?}");
    }
}

/// What is not said to be asserted must reach the checkers, and what is must not.
#[test]
fn an_assertion_stops_exactly_those_bugs_of_which_that_is_said() {
    for bug in PlantedBug::ALL {
        let config = Config { planted: Some(*bug), ..cluster_for(*bug) };
        let stopped = catch_unwind(AssertUnwindSafe(|| behaviour(*bug, config))).is_err();
        assert_eq!(stopped, bug.is_asserted(), "{bug:?}");
    }
}

#[test]
fn planted_bugs_have_names_of_their_own_and_some_are_harmless() {
    let mut names: Vec<_> = PlantedBug::ALL.iter().map(|bug| bug.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PlantedBug::ALL.len());
    assert!(PlantedBug::ALL.iter().filter(|bug| bug.is_null()).count() >= 4);
    assert!(PlantedBug::ALL.iter().all(|bug| bug.is_null() == bug.name().starts_with("Null")));
    assert!(PlantedBug::ALL.iter().all(|bug| bug.place().starts_with("engine/src/") && !bug.describe().is_empty()));
}

/// Most bugs show among three nodes; a vote too many shows only where one is not enough.
fn cluster_for(bug: PlantedBug) -> Config {
    match bug {
        PlantedBug::AcceptanceCountedTwice => config(5),
        _ => config(3),
    }
}

fn shown_by(what: &impl Debug) -> String {
    format!("{what:?}")
}

fn said(given: Given) -> String {
    format!("{:?} {:?}", given.sent, given.others)
}

fn prepare(ballot: Ballot, decided: u64) -> Message {
    Message::Prepare { ballot, decided_upto: Slot(decided) }
}

fn decided_one() -> Recovered {
    memory(ballot(1, 2), &[value("a")], Vec::new())
}

/// Has decided a value and accepted another, both of node 2, whom it follows.
fn slave(config: Config) -> Node {
    let undecided = vec![accepted_entry(2, ballot(1, 2), "b")];
    let mut node = Node::rested(config, memory(ballot(1, 2), &[value("a")], undecided));
    node.receive(2, accept(ballot(1, 2), 2, vec![value("b")]));
    node.persist();
    node
}

fn prepared(mut node: Node, prepare: Message) -> String {
    let promised = Ballot { round: 1, node: NodeId(2) };
    if matches!(prepare, Message::Prepare { ballot, .. } if ballot == promised) {
        // Something above it was promised before.
        node.receive(3, self::prepare(ballot(2, 3), 1));
        node.persist();
    }
    let at_once = said(node.receive(2, prepare));
    at_once + &said(node.persist())
}

fn accepts_below_its_promise(mut node: Node) -> String {
    node.receive(1 + 2, prepare(ballot(2, 3), 1));
    node.persist();
    node.tick_until(Role::Canvassing);
    let canvassed = Message::Canvassed {
        ballot: ballot(3, 1),
        willing: true,
        incarnation: life(3),
        promised: ballot(2, 3),
        decided_upto: Slot(1),
    };
    node.receive(3, canvassed);
    node.persist();
    node.receive(3, promise(ballot(3, 1), 3, Vec::new()));
    assert_eq!(node.engine.role(), Role::Master);
    node.persist();
    let at_once = said(node.receive(2, accept(ballot(1, 2), 4, vec![value("late")])));
    at_once + &said(node.persist())
}

fn promises_inside_a_lease(mut node: Node) -> String {
    node.receive(2, heartbeat(ballot(1, 2)));
    let canvass = Message::Canvass { ballot: ballot(9, 3), decided_upto: Slot(1) };
    said(node.receive(3, canvass)) + &said(node.receive(3, prepare(ballot(9, 3), 1))) + &said(node.persist())
}

/// Slot 2 again, in a newer ballot and with another value, and then the word that it is decided.
fn takes_a_value_again(mut node: Node) -> String {
    let taken = node.receive(3, accept(ballot(9, 3), 2, vec![value("other")]));
    let acknowledged = node.persist();
    format!("{:?} {:?}", taken.records, acknowledged.sent)
}

fn compares_histories(mut node: Node) -> String {
    let decided = Message::Accept {
        ballot: ballot(1, 2),
        first: Slot(3),
        values: vec![value("c")].into(),
        decided_upto: Slot(2),
        decided_hash: hash_of(&[value("a"), value("other")]),
    };
    shown_by(&node.receive(2, decided).others)
}

fn counts_an_old_promise(config: Config) -> String {
    let mut node = Node::candidate(config, decided_one());
    let old = Ballot { round: node.engine.status().promised.round - 1, node: ME };
    node.receive(2, promise(old, 2, Vec::new()));
    shown_by(&node.engine.role())
}

/// What a new master proposes in slot 2, where node 2 accepted something in ballot 5.n2, and it itself perhaps in 1.n2.
fn proposes_what_was_found(config: Config, theirs: &str, own: Option<&str>) -> String {
    let undecided: Vec<SlotEntry> = own.map(|own| accepted_entry(2, ballot(1, 2), own)).into_iter().collect();
    let mut node = Node::candidate(config, memory(ballot(5, 2), &[value("a")], undecided));
    let promised = promise(node.engine.status().promised, 2, vec![accepted_entry(2, ballot(5, 2), theirs)]);
    shown_by(&node.receive(2, promised).records)
}

fn next_ballot_after_restart(config: Config) -> Ballot {
    let mut node = Node::rested(config, memory(ballot(7, 1), &[value("a")], Vec::new()));
    let canvassed = node.tick().sent.into_iter().find_map(|(_, message)| match message {
        Message::Canvass { ballot, .. } => Some(ballot),
        _ => None,
    });
    canvassed.expect("a rested node canvasses first")
}

fn serves_before_it_applied(config: Config) -> String {
    let mut node = Node::master_to_be(config, decided_one(), &[accepted_entry(2, ballot(1, 2), "b")]);
    node.grant_all();
    shown_by(&node.is_serving())
}

fn counts_a_repeated_acknowledgement(config: Config) -> String {
    let mut node = Node::master(config);
    node.request(&["a"]);
    node.persist();
    node.receive(2, accepted(ballot(1, 1), 2, 2));
    node.receive(2, accepted(ballot(1, 1), 2, 2));
    shown_by(&node.decided())
}

fn counts_old_acceptances(config: Config) -> String {
    let mut node = Node::master_to_be(config, decided_one(), &[accepted_entry(2, ballot(1, 2), "b")]);
    node.persist();
    shown_by(&node.decided())
}

fn counts_itself_at_once(config: Config) -> String {
    let mut node = Node::master(config);
    node.request(&["a"]);
    node.receive(2, accepted(ballot(1, 1), 2, 2));
    shown_by(&node.decided())
}

/// The answer to an asking of now comes 100 ms later.
fn lease_after_a_late_grant(config: Config) -> Option<Instant> {
    let mut node = Node::master(config);
    node.tick();
    let granted = node.granted(2);
    node.now = node.now + Duration::from_millis(100);
    node.receive(2, granted);
    node.engine.serves_until()
}

fn lease_of_a_lonely_master(config: Config) -> String {
    let mut node = Node::master(config);
    let before = node.engine.serves_until();
    node.tick();
    shown_by(&(node.engine.serves_until() > before))
}

fn loses_its_mastership(config: Config) -> String {
    let mut node = Node::master(config);
    node.request(&["a"]);
    shown_by(&node.receive(3, heartbeat(ballot(9, 3))).refused)
}

/// Nobody has granted anything since the moment of the read.
fn reads_later(config: Config) -> String {
    let mut node = Node::master(config);
    node.now = node.now + Duration::from_millis(1);
    shown_by(&node.step(Event::ReadRequested(ReadId(1))).others)
}

/// A new master that has inherited slot 2 is asked to read; the quorum answers before slot 2 is decided.
fn reads_at(config: Config) -> String {
    let mut node = Node::master_to_be(config, decided_one(), &[accepted_entry(2, ballot(1, 2), "b")]);
    node.step(Event::ReadRequested(ReadId(1)));
    let granted = node.granted(2);
    shown_by(&node.receive(2, granted).others)
}

fn stops(config: Config) -> String {
    let mut node = Node::master(config);
    let given = node.step(Event::StopRequested);
    let resigns = given.sent.iter().any(|(_, message)| matches!(message, Message::Resign { .. }));
    assert!(resigns, "nothing is in flight");
    shown_by(&node.is_serving())
}

fn counts_a_learner(config: Config) -> String {
    let mut node = Node::master(Config { learners: vec![NodeId(4)], ..config });
    node.request(&["a"]);
    node.persist();
    shown_by(&node.receive(4, accepted(ballot(1, 1), 4, 2)).applied)
}

fn campaigns_as_a_witness(config: Config) -> String {
    let mut node = Node::rested(Config { witnesses: vec![ME], ..config }, decided_one());
    node.now = node.now + LEASE * 9;
    said(node.step(Event::Ticked))
}

fn asks_a_witness_for_a_head(config: Config) -> String {
    let mut node = Node::rested(Config { witnesses: vec![NodeId(3)], ..config }, decided_one());
    node.receive(2, far_heartbeat());
    node.step(Event::Disconnected(NodeId(2)));
    shown_by(&node.receive(3, Message::Gone { log_start: Slot(90) }).others)
}

fn is_dropped(config: Config) -> String {
    let mut node = Node::master(config);
    node.step(Event::DropRequested);
    node.grant_all();
    shown_by(&node.is_serving())
}

fn far_heartbeat() -> Message {
    Message::Heartbeat {
        ballot: ballot(1, 2),
        asked_at: Instant(5),
        sent_upto: Slot(100),
        stream_start: Slot(90),
        decided_upto: Slot(100),
        decided_hash: hash_of(&[]),
    }
}

/// All others have answered, one of which has accepted more than this node holds.
fn regains_its_vote(config: Config) -> String {
    let mut node = Node::rested(config, Recovered::blank());
    node.persist();
    for peer in [2, 3] {
        let incarnation = node.engine.status().incarnation;
        let recalled = Message::Recalled {
            asker: incarnation,
            incarnation: Incarnation(u64::from(peer)),
            votes: true,
            blank: false,
            promised: ballot(1, 2),
            accepted_upto: Slot(5),
            genesis: Vec::new().into(),
        };
        node.receive(peer, recalled);
        node.persist();
    }
    shown_by(&node.engine.votes())
}

fn streams_to_one_that_comes_back(config: Config) -> String {
    let mut node = Node::master(config);
    for command in ["a", "b", "c"] {
        node.request(&[command]);
    }
    said(node.step(Event::Connected(NodeId(2))))
}

fn heartbeats_in_a_second(config: Config) -> usize {
    let mut node = Node::master(config);
    let end = node.now + LEASE;
    let mut count = 0;
    while node.engine.next_deadline().is_some_and(|at| at <= end) {
        let sent = node.tick().sent;
        count += sent.iter().filter(|(_, message)| matches!(message, Message::Heartbeat { .. })).count();
        node.grant_all();
    }
    count
}

fn sends_again(config: Config) -> String {
    let mut node = Node::master(config);
    node.request(&["a"]);
    let sent = node.tick().sent;
    shown_by(&sent.iter().any(|(_, message)| matches!(message, Message::Accept { .. })))
}

/// The switch is part of a node's configuration: nodes of one process need not have the same bug.
#[test]
fn a_bug_of_one_node_is_not_one_of_another() {
    let blank = |config| Engine::new(Instant(1), config, Recovered::blank(), 7);
    let wiped = blank(Config { planted: Some(PlantedBug::WipedNodeVotes), ..config(3) });
    assert_eq!((wiped.votes(), blank(config(3)).votes()), (true, false));
}
