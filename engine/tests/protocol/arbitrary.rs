//! Whatever peers say, and whatever happens that the driver's contract permits: no node panics, and none grows without
//! bound. (A driver that breaks the contract is answered by a panic, on purpose.)

use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use trialbay_engine::message::List;
use trialbay_engine::{
    Action, Actions, Ballot, Config, Engine, Entry, Event, HistoryHash, Incarnation, Instant, Limits, Message, NodeId,
    PersistId, ReadId, Recovered, Request, RequestId, Role, Slot, SlotEntry, Value,
};

use crate::node::{LEASE, Node, accept, accepted_entry, ballot, config, memory, value};

const QUEUED_MAX: usize = 4;

/// What happens next. What depends on the engine's state is made to fit when it is played.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Received(NodeId, Message),
    TimePassed(Duration),
    Connected(NodeId),
    Disconnected(NodeId),
    Requested(Vec<u8>),
    ReadRequested,
    DropRequested,
    /// So many of the batches that wait.
    Persisted(u8),
    /// So many of the slots that wait.
    Applied(u8),
    LogRead(bool),
    HeadFetched(Option<u8>),
    LogShortened(u64),
    StorePaused(bool),
}

/// Small numbers, so that they meet, and the ends of the range.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..8u64, 1 => Just(1 << 62), 1 => Just(u64::MAX - 1), 1 => Just(u64::MAX)]
}

fn any_node() -> impl Strategy<Value = NodeId> {
    prop_oneof![12 => 1..4u16, 1 => Just(0), 1 => Just(u16::MAX)].prop_map(NodeId)
}

fn any_ballot() -> impl Strategy<Value = Ballot> {
    (number(), any_node()).prop_map(|(round, node)| Ballot { round, node })
}

fn any_slot() -> impl Strategy<Value = Slot> {
    number().prop_map(Slot)
}

fn any_life() -> impl Strategy<Value = Incarnation> {
    prop_oneof![4 => 1..4u64, 1 => Just(99)].prop_map(Incarnation)
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Noop),
        any_node().prop_map(Value::MasterChange),
        vec(any::<u8>(), 0..8).prop_map(|bytes| Value::Commands(bytes.into())),
        Just(value("command")),
        Just(Value::Configuration(Bytes::from("zones"))),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_ballot(), any_value()).prop_map(|(ballot, value)| Entry { ballot, value })
}

fn any_hash() -> impl Strategy<Value = HistoryHash> {
    any::<u64>().prop_map(HistoryHash)
}

fn list<T: std::fmt::Debug>(element: impl Strategy<Value = T>) -> impl Strategy<Value = List<T>> {
    vec(element, 0..5).prop_map(List)
}

fn any_instant() -> impl Strategy<Value = Instant> {
    prop_oneof![number().prop_map(Instant), (1_000..4_000u64).prop_map(|millis| Instant(millis * 1_000_000))]
}

fn any_message() -> BoxedStrategy<Message> {
    let ballots = || (any_ballot(), any_slot());
    let phase_one = prop_oneof![
        ballots().prop_map(|(ballot, decided_upto)| Message::Canvass { ballot, decided_upto }),
        (any_ballot(), any::<bool>(), any_life(), any_ballot(), any_slot()).prop_map(
            |(ballot, willing, incarnation, promised, decided_upto)| Message::Canvassed {
                ballot,
                willing,
                incarnation,
                promised,
                decided_upto
            }
        ),
        ballots().prop_map(|(ballot, decided_upto)| Message::Prepare { ballot, decided_upto }),
        (any_ballot(), any_life(), list((any_slot(), any_entry()).prop_map(|(slot, entry)| SlotEntry { slot, entry })))
            .prop_map(|(ballot, incarnation, accepted)| Message::Promise { ballot, incarnation, accepted }),
        (any_ballot(), any_ballot(), any_slot()).prop_map(|(ballot, promised, decided_upto)| Message::Nak {
            ballot,
            promised,
            decided_upto
        }),
    ];
    let phase_two = prop_oneof![
        (any_ballot(), any_slot(), list(any_value()), any_slot(), any_hash()).prop_map(
            |(ballot, first, values, decided_upto, decided_hash)| Message::Accept {
                ballot,
                first,
                values,
                decided_upto,
                decided_hash
            }
        ),
        (any_ballot(), any_life(), any::<bool>(), any_slot())
            .prop_map(|(ballot, incarnation, votes, upto)| Message::Accepted { ballot, incarnation, votes, upto }),
        ballots().prop_map(|(ballot, received_upto)| Message::Gap { ballot, received_upto }),
    ];
    let lease = prop_oneof![
        (any_ballot(), any_instant(), any_slot(), any_slot(), any_slot(), any_hash()).prop_map(
            |(ballot, asked_at, sent_upto, stream_start, decided_upto, decided_hash)| Message::Heartbeat {
                ballot,
                asked_at,
                sent_upto,
                stream_start,
                decided_upto,
                decided_hash
            }
        ),
        (any_ballot(), any_instant(), any_life(), any::<bool>(), any_slot(), any_slot()).prop_map(
            |(ballot, asked_at, incarnation, votes, received_upto, applied_upto)| Message::Granted {
                ballot,
                asked_at,
                incarnation,
                votes,
                received_upto,
                applied_upto
            }
        ),
        (any_ballot(), prop::option::of(any_node()), any_slot(), any_hash()).prop_map(
            |(ballot, successor, decided_upto, decided_hash)| Message::Resign {
                ballot,
                successor,
                decided_upto,
                decided_hash
            }
        ),
    ];
    let catch_up = prop_oneof![
        any_slot().prop_map(|from| Message::Fetch { from }),
        (any_slot(), list(any_entry()), any_slot()).prop_map(|(first, entries, decided_upto)| Message::Fetched {
            first,
            entries,
            decided_upto
        }),
        any_slot().prop_map(|log_start| Message::Gone { log_start }),
        any_ballot().prop_map(|ballot| Message::Claim { ballot }),
        any_life().prop_map(|incarnation| Message::Recall { incarnation }),
        (
            any_life(),
            any_life(),
            any::<bool>(),
            any::<bool>(),
            any_ballot(),
            any_slot(),
            list((any_node(), any_life()))
        )
            .prop_map(|(asker, incarnation, votes, blank, promised, accepted_upto, genesis)| {
                Message::Recalled { asker, incarnation, votes, blank, promised, accepted_upto, genesis }
            }),
    ];
    // Boxed, or the strategies' own size overflows the stack of a test.
    prop_oneof![phase_one.boxed(), phase_two.boxed(), lease.boxed(), catch_up.boxed()].boxed()
}

pub(crate) fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        20 => (any_node(), any_message()).prop_map(|(from, message)| Happening::Received(owner(&message).unwrap_or(from), message)),
        10 => (any_node(), any_message()).prop_map(|(from, message)| Happening::Received(from, message)),
        4 => (0..1000u64).prop_map(|millis| Happening::TimePassed(Duration::from_millis(millis))),
        1 => any_node().prop_map(Happening::Connected),
        1 => any_node().prop_map(Happening::Disconnected),
        2 => vec(0..40u8, 0..4).prop_map(Happening::Requested),
        1 => Just(Happening::ReadRequested),
        1 => Just(Happening::DropRequested),
        6 => (1..4u8).prop_map(Happening::Persisted),
        4 => (1..4u8).prop_map(Happening::Applied),
        2 => any::<bool>().prop_map(Happening::LogRead),
        1 => prop::option::of(1..8u8).prop_map(Happening::HeadFetched),
        1 => (0..8u64).prop_map(Happening::LogShortened),
        1 => any::<bool>().prop_map(Happening::StorePaused),
    ]
}

/// Most messages come from the owner of their ballot; the others are blamed and nothing more.
fn owner(message: &Message) -> Option<NodeId> {
    match message {
        Message::Canvass { ballot, .. }
        | Message::Prepare { ballot, .. }
        | Message::Accept { ballot, .. }
        | Message::Heartbeat { ballot, .. }
        | Message::Resign { ballot, .. } => Some(ballot.node),
        _ => None,
    }
}

fn small_limits() -> Limits {
    Limits {
        in_flight_slots_max: 3,
        in_flight_bytes_max: 64,
        batch_bytes_max: 32,
        queued_requests_max: QUEUED_MAX,
        queued_bytes_max: 128,
        message_bytes_max: 32,
        cache_bytes_max: 512,
        cache_slots_max: 4,
        undecided_max: Duration::from_secs(5),
        queued_reads_max: QUEUED_MAX,
    }
}

/// A driver that keeps its contract, of a node in one of the roles.
pub(crate) struct Player {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    unpersisted: Vec<PersistId>,
    log_reads: Vec<NodeId>,
    installing: bool,
    unanswered: usize,
    next_id: u64,
}

impl Player {
    pub(crate) fn new(role: u8) -> Self {
        let config = Config { limits: small_limits(), ..config(3) };
        let decided = [value("decided")];
        let undecided = vec![accepted_entry(2, ballot(1, 2), "accepted")];
        let node = match role {
            0 => Node::start(config, Recovered::blank()),
            1 => Node::start(config, memory(ballot(1, 2), &decided, undecided)),
            2 => Node::rested(config, memory(ballot(1, 2), &decided, undecided)),
            3 => Node::candidate(config, memory(ballot(1, 2), &decided, undecided)),
            4 => Node::master_to_be(config, memory(ballot(1, 2), &decided, undecided), &[]),
            _ => Node::master(config),
        };
        let ordered = node.ordered().map_or(0, |id| id.0);
        Self {
            engine: node.engine,
            now: node.now,
            unpersisted: if ordered > 0 { vec![PersistId(ordered)] } else { Vec::new() },
            log_reads: Vec::new(),
            installing: false,
            unanswered: 0,
            next_id: 1000,
        }
    }

    fn play(&mut self, happening: Happening) {
        if let Some(event) = self.event(happening) {
            self.step(event);
        }
    }

    /// What the engine is told, if that can happen now.
    pub(crate) fn event(&mut self, happening: Happening) -> Option<Event> {
        let status = self.engine.status();
        if status.role == Role::Halted {
            return None;
        }
        Some(match happening {
            Happening::Received(from, message) => Event::Received { from, message },
            Happening::TimePassed(duration) => {
                self.now = self.now + duration;
                Event::Ticked
            }
            Happening::Connected(peer) => Event::Connected(peer),
            Happening::Disconnected(peer) => Event::Disconnected(peer),
            Happening::Requested(sizes) => {
                let requests = sizes
                    .iter()
                    .map(|size| Request { id: RequestId(self.id()), command: vec![7; usize::from(*size)].into() });
                let requests: Vec<Request> = requests.collect();
                self.unanswered += requests.len();
                Event::Requested(requests)
            }
            Happening::ReadRequested => Event::ReadRequested(ReadId(self.id())),
            Happening::DropRequested => Event::DropRequested,
            Happening::Persisted(count) => {
                let count = usize::from(count).min(self.unpersisted.len());
                Event::Persisted(self.unpersisted.drain(..count).next_back()?)
            }
            Happening::Applied(count) => {
                Event::Applied(Slot(status.applied_upto.0.saturating_add(u64::from(count)).min(status.decided_upto.0)))
            }
            Happening::LogRead(fails) => {
                let peer = self.log_reads.pop()?;
                let entries = if fails { Vec::new() } else { vec![accepted_entry(1, ballot(1, 2), "decided")] };
                Event::LogRead { peer, entries }
            }
            Happening::LogShortened(slot) => {
                Event::LogShortened { log_start: Slot(slot.min(status.applied_upto.0 + 1)) }
            }
            Happening::StorePaused(true) if !self.engine.may_pause_store() => return None,
            Happening::StorePaused(pauses) => {
                if pauses {
                    Event::StorePaused
                } else {
                    Event::StoreResumed
                }
            }
            Happening::HeadFetched(_) if !self.installing => return None,
            Happening::HeadFetched(ahead) => {
                self.installing = false;
                match ahead {
                    Some(ahead) => Event::HeadInstalled {
                        slot: Slot(status.decided_upto.0 + u64::from(ahead)),
                        hash: HistoryHash(1),
                    },
                    None => Event::HeadFailed,
                }
            }
        })
    }

    pub(crate) fn step(&mut self, event: Event) -> Actions {
        let mut actions = Actions::new();
        self.engine.step(self.now, event, &mut actions);
        self.perform(actions.clone());
        let deadline = self.engine.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "a deadline that has passed was not dealt with");
        actions
    }

    fn perform(&mut self, mut actions: Actions) {
        let mut count = 0;
        for action in actions.drain() {
            count += 1;
            match action {
                Action::Persist { id, records } => {
                    assert!(!records.is_empty());
                    self.unpersisted.push(id);
                }
                Action::Apply { requests, .. } => self.unanswered -= requests.len(),
                Action::Refuse { requests, reason } => {
                    let _ = reason;
                    self.unanswered -= requests.len();
                }
                Action::ReadLog { peer, .. } => self.log_reads.push(peer),
                Action::InstallHead { .. } => self.installing = true,
                Action::Send { .. }
                | Action::ServeRead { .. }
                | Action::RefuseRead { .. }
                | Action::Blame { .. }
                | Action::Halt(_)
                | Action::Dropped(_) => {}
            }
        }
        assert!(count < 200, "{count} actions in one step");
        let status = self.engine.status();
        assert!(status.queued_requests <= QUEUED_MAX);
        // Queued, and one window of batches in flight.
        assert!(self.unanswered <= QUEUED_MAX * 4, "{} requests wait", self.unanswered);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_and_no_event_that_may_happen_makes_a_node_panic(role in 0..6u8, happenings in vec(happening(), 1..120)) {
        let mut player = Player::new(role);
        for happening in happenings {
            player.play(happening);
        }
    }
}

/// A disk that hangs must not make the memory grow with each message that is sent again.
#[test]
fn what_waits_for_a_hanging_disk_is_not_owed_twice() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    let prepare = Message::Prepare { ballot: ballot(1, 2), decided_upto: Slot(0) };
    for _ in 0..100 {
        node.receive(2, prepare.clone());
    }
    assert_eq!(node.persist().sent.len(), 1);
    for _ in 0..100 {
        node.receive(2, accept(ballot(1, 2), 1, vec![value("a")]));
    }
    assert_eq!(node.persist().sent.len(), 1);
}

/// A master whose own disk hangs while those of its slaves do not: what it still has to write is bounded.
#[test]
fn a_master_takes_no_more_than_its_own_disk_can_follow() {
    let limits = Limits { in_flight_slots_max: 4, in_flight_bytes_max: 100, ..Limits::default() };
    let mut node = Node::master(Config { limits, ..config(3) });
    let mut bytes = 0;
    for slot in 2..200 {
        let given = node.request(&["0123456789"]);
        bytes += given.records.len() * 14;
        for peer in [2, 3] {
            if node.engine.status().accepted_upto == Slot(slot) {
                node.receive(peer, crate::node::accepted(ballot(1, 1), peer, slot));
            }
        }
        let decided = node.engine.status().decided_upto;
        node.step(Event::Applied(decided));
        node.now = node.now + LEASE / 8;
        node.grant_all();
    }
    assert!(bytes < 1000, "{bytes} bytes wait for the disk");
}

/// Values without bytes are bounded by no window of bytes.
#[test]
fn a_slave_does_not_take_values_that_are_never_decided_without_end() {
    let mut node = Node::rested(config(3), memory(Ballot::ZERO, &[], Vec::new()));
    let chunk = 1 << 17;
    for first in (0..10).map(|count| 1 + count * chunk) {
        node.receive(2, accept(ballot(1, 2), first, vec![Value::Noop; chunk as usize]));
        node.persist();
    }
    assert!(node.engine.status().accepted_upto <= Slot((1 << 20) + chunk));
}
