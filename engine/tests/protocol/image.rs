//! What a recording is made of: an engine made from an image goes on as the first one does, and events survive their
//! bytes. Nothing that may stand in a damaged file makes the reader panic.

use std::fmt::Write as _;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use trialbay_engine::codec::{decode_event, encode_event, hash_actions};
use trialbay_engine::{
    Action, Actions, DecidedValues, Engine, Event, HistoryHash, ImageError, Instant, Message, NodeId, PersistId,
    ReadId, Request, RequestId, Slot, Value,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::arbitrary::{Happening, Player, happening};
use crate::node::{Node, accepted_entry, ballot, config};

/// What stands before the state: format, length of the version, version.
const HEADER: usize = 3 + env!("CARGO_PKG_VERSION").len();

fn image(engine: &Engine, decided: DecidedValues) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.image(decided, &mut bytes);
    bytes
}

fn again(engine: &Engine, decided: DecidedValues) -> Engine {
    Engine::from_image(&image(engine, decided)).expect("it is an image of this build")
}

fn event_bytes(now: Instant, event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_event(now, event, &mut bytes);
    bytes
}

fn hash(actions: &Actions) -> u64 {
    hash_actions(actions.as_slice(), &mut Vec::new())
}

/// Each variant at least once.
fn event_samples() -> Vec<Event> {
    let message = Message::Fetch { from: Slot(3) };
    let request = Request { id: RequestId(4), command: Bytes::from("command") };
    let samples = vec![
        Event::Ticked,
        Event::Connected(NodeId(1)),
        Event::Disconnected(NodeId(2)),
        Event::Received { from: NodeId(3), message },
        Event::Requested(vec![request]),
        Event::ReadRequested(ReadId(5)),
        Event::Persisted(PersistId(6)),
        Event::Applied(Slot(7)),
        Event::LogRead { peer: NodeId(2), entries: vec![accepted_entry(8, ballot(9, 3), "entry")] },
        Event::HeadInstalled { slot: Slot(10), hash: HistoryHash(11) },
        Event::HeadFailed,
        Event::StorageFailed,
        Event::StopRequested,
        Event::DropRequested,
        Event::LogShortened { log_start: Slot(12) },
        Event::StorePaused,
        Event::StoreResumed,
    ];
    for (index, event) in samples.iter().enumerate() {
        let variant = match event {
            Event::Ticked => 0,
            Event::Connected(_) => 1,
            Event::Disconnected(_) => 2,
            Event::Received { .. } => 3,
            Event::Requested(_) => 4,
            Event::ReadRequested(_) => 5,
            Event::Persisted(_) => 6,
            Event::Applied(_) => 7,
            Event::LogRead { .. } => 8,
            Event::HeadInstalled { .. } => 9,
            Event::HeadFailed => 10,
            Event::StorageFailed => 11,
            Event::StopRequested => 12,
            Event::DropRequested => 13,
            Event::LogShortened { .. } => 14,
            Event::StorePaused => 15,
            Event::StoreResumed => 16,
        };
        assert_eq!(variant, index, "one sample for each variant");
    }
    samples
}

/// Recordings are read by the program that wrote them: when this changes, `FORMAT` in `image.rs` must.
#[test]
fn the_bytes_of_events_and_images_are_those_of_this_format() {
    let mut text = String::new();
    for event in event_samples() {
        let name = format!("{event:?}");
        let name = name.split(['(', ' ']).next().unwrap();
        let hex: String = event_bytes(Instant(1), &event)[8..].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{name} {hex}").unwrap();
    }
    for role in 0..6 {
        let state = &image(&Player::new(role).engine, DecidedValues::Whole)[HEADER..];
        writeln!(text, "image {role}: {} bytes, {:016x}", state.len(), xxh3_64(state)).unwrap();
    }
    insta::assert_snapshot!(text, @r"
    Ticked 00000000
    Connected 010000000100
    Disconnected 020000000200
    Received 0300000003000b0000000300000000000000
    Requested 040000000100000000000000040000000000000007000000636f6d6d616e64
    ReadRequested 050000000500000000000000
    Persisted 060000000600000000000000
    Applied 070000000700000000000000
    LogRead 0800000002000100000000000000080000000000000009000000000000000300010900000005000000656e747279
    HeadInstalled 090000000a000000000000000b00000000000000
    HeadFailed 0a000000
    StorageFailed 0b000000
    StopRequested 0c000000
    DropRequested 0d000000
    LogShortened 0e0000000c00000000000000
    StorePaused 0f000000
    StoreResumed 10000000
    image 0: 569 bytes, 629e9a5fab14d121
    image 1: 572 bytes, 0f2793d7e869a48a
    image 2: 568 bytes, a7f8ecb95c590a47
    image 3: 653 bytes, 599b4427be80ad6f
    image 4: 951 bytes, f8885c2af715751f
    image 5: 786 bytes, 3d2d74e75d011bc2
    ");
}

#[test]
fn an_image_of_another_build_is_refused_by_its_name() {
    let bytes = image(&Player::new(1).engine, DecidedValues::Whole);
    let mut other = bytes.clone();
    other[HEADER - 1] ^= 1;
    let error = Engine::from_image(&other).err().unwrap();
    let ImageError::OtherBuild { build, format: 4 } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains(build.as_str()) && build != env!("CARGO_PKG_VERSION"), "{error}");
    let mut other = bytes;
    other[0] = 0xff;
    assert!(matches!(Engine::from_image(&other), Err(ImageError::OtherBuild { format: 0xff, .. })));
}

#[test]
fn an_outlined_image_is_small_and_its_engine_gives_actions_of_the_same_hash() {
    let mut node = Node::master(config(3));
    let large = "x".repeat(100_000);
    for slot in 2..30 {
        node.request(&[&large]);
        node.persist();
        node.acknowledge_all(slot);
        node.step(Event::Applied(Slot(slot)));
    }
    node.request(&["undecided"]);
    assert_eq!(node.decided(), 29);
    assert!(image(&node.engine, DecidedValues::Whole).len() > 2_800_000);
    assert!(image(&node.engine, DecidedValues::Outlined).len() < 10_000);
    let now = node.now;
    let fetched = |mut engine: Engine| {
        let mut actions = Actions::new();
        engine.step(now, Event::Received { from: NodeId(2), message: Message::Fetch { from: Slot(5) } }, &mut actions);
        assert!(actions.as_slice().iter().any(|action| matches!(
            action, Action::Send { message: Message::Fetched { entries, .. }, .. } if entries.0.len() > 20)));
        actions
    };
    let actions = fetched(node.engine.clone());
    assert_eq!(fetched(again(&node.engine, DecidedValues::Whole)).as_slice(), actions.as_slice());
    let outlined = fetched(again(&node.engine, DecidedValues::Outlined));
    assert_eq!(hash(&outlined), hash(&actions));
    assert_ne!(outlined.as_slice(), actions.as_slice(), "the values are not whole");
}

#[test]
fn the_hash_of_actions_tells_all_but_the_ends_of_long_values_apart() {
    let send = |value: Value| {
        let message = Message::Fetched {
            first: Slot(1),
            entries: vec![trialbay_engine::Entry { ballot: ballot(1, 2), value }].into(),
            decided_upto: Slot(1),
        };
        hash_actions(&[Action::Send { to: NodeId(2), message }], &mut vec![1, 2, 3])
    };
    let value = |text: &str| send(Value::Commands(Bytes::copy_from_slice(text.as_bytes())));
    let long = "l".repeat(64);
    assert_eq!(value(&format!("{long}a")), value(&format!("{long}b")));
    assert_ne!(value(&format!("{long}a")), value(&format!("{long}aa")));
    assert_ne!(value("a"), value("b"));
    let halt = |reason| hash_actions(&[Action::Halt(reason)], &mut Vec::new());
    assert_ne!(halt(trialbay_engine::HaltReason::Stopped), halt(trialbay_engine::HaltReason::StorageFailed));
    assert_eq!(hash_actions(&[], &mut Vec::new()), hash_actions(&[], &mut vec![1]));
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    vec(happening(), 1..80)
}

fn played(role: u8, happenings: Vec<Happening>) -> Player {
    let mut player = Player::new(role);
    for happening in happenings {
        if let Some(event) = player.event(happening) {
            player.step(event);
        }
    }
    player
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_engine_made_from_an_image_goes_on_as_the_first_one_does(
        role in 0..6u8,
        before in happenings(),
        after in happenings(),
    ) {
        let mut player = played(role, before);
        let mut whole = again(&player.engine, DecidedValues::Whole);
        let mut outlined = again(&player.engine, DecidedValues::Outlined);
        prop_assert_eq!(image(&whole, DecidedValues::Whole), image(&player.engine, DecidedValues::Whole));
        for happening in after {
            let Some(event) = player.event(happening) else { continue };
            let bytes = event_bytes(player.now, &event);
            let (now, same) = decode_event(&bytes).unwrap();
            prop_assert_eq!(event_bytes(now, &same), bytes);
            let actions = player.step(event);
            let (mut as_whole, mut as_outlined) = (Actions::new(), Actions::new());
            whole.step(now, same.clone(), &mut as_whole);
            outlined.step(now, same, &mut as_outlined);
            prop_assert_eq!(as_whole.as_slice(), actions.as_slice());
            prop_assert_eq!(hash(&as_outlined), hash(&actions));
        }
        prop_assert_eq!(image(&whole, DecidedValues::Whole), image(&player.engine, DecidedValues::Whole));
        prop_assert_eq!(image(&outlined, DecidedValues::Outlined), image(&player.engine, DecidedValues::Outlined));
    }

    #[test]
    fn a_damaged_image_is_refused_or_is_another_engine(
        role in 0..6u8,
        before in happenings(),
        at in any::<prop::sample::Index>(),
        damage in vec(any::<u8>(), 1..9),
        cut in any::<bool>(),
    ) {
        let mut bytes = image(&played(role, before).engine, DecidedValues::Outlined);
        let at = HEADER + at.index(bytes.len() - HEADER);
        if cut {
            bytes.truncate(at);
            prop_assert_eq!(Engine::from_image(&bytes).err(), Some(ImageError::Malformed));
        } else {
            let end = bytes.len().min(at + damage.len());
            bytes[at..end].copy_from_slice(&damage[..end - at]);
            if let Ok(engine) = Engine::from_image(&bytes) {
                // A set may have named a member twice, so these need not be the same bytes.
                let its_own = image(&engine, DecidedValues::Outlined);
                prop_assert!(its_own.len() <= bytes.len());
                prop_assert_eq!(image(&again(&engine, DecidedValues::Outlined), DecidedValues::Outlined), its_own);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_are_an_image(bytes in vec(any::<u8>(), 0..300)) {
        let state = [&image(&Player::new(0).engine, DecidedValues::Whole)[..HEADER], &bytes].concat();
        for bytes in [bytes, state] {
            let _ = Engine::from_image(&bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_are_exactly_one_event(
        tag in 0..14u8,
        bytes in vec(prop_oneof![3 => 0..4u8, 1 => any::<u8>()], 0..200),
    ) {
        let bytes = [&[0; 8], &[tag, 0, 0, 0][..], &bytes].concat();
        if let Ok((now, event)) = decode_event(&bytes) {
            prop_assert_eq!(event_bytes(now, &event), bytes);
        }
    }
}
