//! The bytes between nodes: pinned by golden vectors, survived whatever they are.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use trialbay_engine::codec::{MalformedMessage, decode_message, encode_message};
use trialbay_engine::message::List;
use trialbay_engine::{Ballot, Entry, HistoryHash, Incarnation, Instant, Message, NodeId, Slot, SlotEntry, Value};

/// The number of variants of `Message`: [`variant`] does not compile when one is missing from it.
const VARIANTS: usize = 17;

fn variant(message: &Message) -> usize {
    match message {
        Message::Canvass { .. } => 0,
        Message::Canvassed { .. } => 1,
        Message::Prepare { .. } => 2,
        Message::Promise { .. } => 3,
        Message::Accept { .. } => 4,
        Message::Accepted { .. } => 5,
        Message::Heartbeat { .. } => 6,
        Message::Granted { .. } => 7,
        Message::Gap { .. } => 8,
        Message::Nak { .. } => 9,
        Message::Resign { .. } => 10,
        Message::Fetch { .. } => 11,
        Message::Fetched { .. } => 12,
        Message::Gone { .. } => 13,
        Message::Recall { .. } => 14,
        Message::Recalled { .. } => 15,
        Message::Claim { .. } => 16,
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_message(message, &mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each variant at least once, each field with a value of its own.
fn samples() -> Vec<Message> {
    let ballot = Ballot { round: 0x0102, node: NodeId(3) };
    let promised = Ballot { round: 0x0405, node: NodeId(6) };
    let incarnation = Incarnation(0xa1a2_a3a4_a5a6_a7a8);
    let decided_upto = Slot(0x0708);
    let decided_hash = HistoryHash(0xb1b2_b3b4_b5b6_b7b8);
    let commands = Value::batch([&b"one"[..], b""]);
    let entry = Entry { ballot: promised, value: commands.clone() };
    vec![
        Message::Canvass { ballot, decided_upto },
        Message::Canvassed { ballot, willing: true, incarnation, promised, decided_upto },
        Message::Prepare { ballot, decided_upto },
        Message::Promise { ballot, incarnation, accepted: List(Vec::new()) },
        Message::Promise {
            ballot,
            incarnation,
            accepted: vec![SlotEntry { slot: Slot(9), entry: entry.clone() }].into(),
        },
        Message::Accept {
            ballot,
            first: Slot(0x0709),
            values: vec![
                Value::Noop,
                commands.clone(),
                Value::MasterChange(NodeId(0x0a0b)),
                Value::Configuration(Bytes::from_static(b"c")),
            ]
            .into(),
            decided_upto,
            decided_hash,
        },
        Message::Accepted { ballot, incarnation, votes: true, upto: Slot(0x0c) },
        Message::Heartbeat {
            ballot,
            asked_at: Instant(0x0d0e),
            sent_upto: Slot(0x0f),
            stream_start: Slot(0x10),
            decided_upto,
            decided_hash,
        },
        Message::Granted {
            ballot,
            asked_at: Instant(0x0d0e),
            incarnation,
            votes: false,
            received_upto: Slot(0x11),
            applied_upto: Slot(0x12),
        },
        Message::Gap { ballot, received_upto: Slot(0x13) },
        Message::Nak { ballot, promised, decided_upto },
        Message::Resign { ballot, successor: None, decided_upto, decided_hash },
        Message::Resign { ballot, successor: Some(NodeId(0x14)), decided_upto, decided_hash },
        Message::Fetch { from: Slot(0x15) },
        Message::Fetched { first: Slot(0x16), entries: vec![entry].into(), decided_upto },
        Message::Gone { log_start: Slot(0x17) },
        Message::Recall { incarnation },
        Message::Recalled {
            asker: Incarnation(0x18),
            incarnation,
            votes: true,
            blank: false,
            promised,
            accepted_upto: Slot(0x19),
            genesis: vec![(NodeId(1), Incarnation(0x1a)), (NodeId(2), Incarnation(0x1b))].into(),
        },
        Message::Claim { ballot },
    ]
}

#[test]
fn the_bytes_of_every_message_are_as_they_ever_were() {
    let samples = samples();
    for index in 0..VARIANTS {
        assert!(samples.iter().any(|message| variant(message) == index), "no sample of variant {index}");
    }
    let lines: Vec<String> = samples
        .iter()
        .map(|message| {
            let debug = format!("{message:?}");
            let name = debug.split(' ').next().expect("a name comes first");
            format!("{name} {}", hex(&encode(message)))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    Canvass 00000000020100000000000003000807000000000000
    Canvassed 010000000201000000000000030001a8a7a6a5a4a3a2a1050400000000000006000807000000000000
    Prepare 02000000020100000000000003000807000000000000
    Promise 0300000002010000000000000300a8a7a6a5a4a3a2a100000000
    Promise 0300000002010000000000000300a8a7a6a5a4a3a2a101000000090000000000000005040000000000000600010b000000030000006f6e6500000000
    Accept 04000000020100000000000003000907000000000000040000000000000000010b000000030000006f6e650000000002020000000b0a0301000000630807000000000000b8b7b6b5b4b3b2b1
    Accepted 0500000002010000000000000300a8a7a6a5a4a3a2a1010c00000000000000
    Heartbeat 06000000020100000000000003000e0d0000000000000f0000000000000010000000000000000807000000000000b8b7b6b5b4b3b2b1
    Granted 07000000020100000000000003000e0d000000000000a8a7a6a5a4a3a2a10011000000000000001200000000000000
    Gap 08000000020100000000000003001300000000000000
    Nak 0900000002010000000000000300050400000000000006000807000000000000
    Resign 0a00000002010000000000000300000807000000000000b8b7b6b5b4b3b2b1
    Resign 0a000000020100000000000003000114000807000000000000b8b7b6b5b4b3b2b1
    Fetch 0b0000001500000000000000
    Fetched 0c00000016000000000000000100000005040000000000000600010b000000030000006f6e65000000000807000000000000
    Gone 0d0000001700000000000000
    Recall 0e000000a8a7a6a5a4a3a2a1
    Recalled 0f0000001800000000000000a8a7a6a5a4a3a2a101000504000000000000060019000000000000000200000001001a0000000000000002001b00000000000000
    Claim 1000000002010000000000000300
    ");
}

#[test]
fn every_message_survives_its_bytes() {
    for message in samples() {
        assert_eq!(decode_message(&encode(&message)), Ok(message));
    }
}

#[test]
fn a_message_cut_anywhere_is_refused() {
    for message in samples() {
        let bytes = encode(&message);
        for len in 0..bytes.len() {
            assert_eq!(decode_message(&bytes[..len]), Err(MalformedMessage::Undecodable), "{message:?} cut at {len}");
        }
    }
}

#[test]
fn a_message_with_bytes_behind_it_is_refused() {
    for message in samples() {
        let mut bytes = encode(&message);
        bytes.push(0);
        assert_eq!(decode_message(&bytes), Err(MalformedMessage::TrailingBytes), "{message:?}");
    }
}

#[test]
fn an_unknown_tag_is_refused() {
    let unknown = u32::try_from(VARIANTS).expect("few").to_le_bytes();
    assert_eq!(decode_message(&unknown), Err(MalformedMessage::Undecodable));
    // A value's tag: the first value of an `Accept` follows tag, ballot, slot and length.
    let mut bytes = encode(&samples()[5]);
    bytes[4 + 10 + 8 + 4] = 4;
    assert_eq!(decode_message(&bytes), Err(MalformedMessage::Undecodable));
}

#[test]
fn lengths_far_beyond_the_bytes_are_refused_wherever_they_stand() {
    for message in samples() {
        let bytes = encode(&message);
        for at in 0..bytes.len().saturating_sub(3) {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
            if let Ok(decoded) = decode_message(&bytes) {
                assert_eq!(encode(&decoded), bytes, "{message:?} at {at}");
            }
        }
    }
}

fn any_ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), any::<u16>()).prop_map(|(round, node)| Ballot { round, node: NodeId(node) })
}

fn any_slot() -> impl Strategy<Value = Slot> {
    any::<u64>().prop_map(Slot)
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Noop),
        vec(any::<u8>(), 0..200).prop_map(|bytes| Value::Commands(bytes.into())),
        any::<u16>().prop_map(|node| Value::MasterChange(NodeId(node))),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Configuration(bytes.into())),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_ballot(), any_value()).prop_map(|(ballot, value)| Entry { ballot, value })
}

fn any_incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u64>().prop_map(Incarnation)
}

fn any_message() -> impl Strategy<Value = Message> {
    let hash = || any::<u64>().prop_map(HistoryHash);
    let instant = || any::<u64>().prop_map(Instant);
    let elections = prop_oneof![
        (any_ballot(), any_slot()).prop_map(|(ballot, decided_upto)| Message::Canvass { ballot, decided_upto }),
        (any_ballot(), any::<bool>(), any_incarnation(), any_ballot(), any_slot()).prop_map(
            |(ballot, willing, incarnation, promised, decided_upto)| Message::Canvassed {
                ballot,
                willing,
                incarnation,
                promised,
                decided_upto
            }
        ),
        (any_ballot(), any_slot()).prop_map(|(ballot, decided_upto)| Message::Prepare { ballot, decided_upto }),
        (any_ballot(), any_incarnation(), vec((any_slot(), any_entry()), 0..5)).prop_map(
            |(ballot, incarnation, accepted)| {
                let accepted = accepted.into_iter().map(|(slot, entry)| SlotEntry { slot, entry }).collect::<Vec<_>>();
                Message::Promise { ballot, incarnation, accepted: accepted.into() }
            }
        ),
        (any_ballot(), any_ballot(), any_slot()).prop_map(|(ballot, promised, decided_upto)| Message::Nak {
            ballot,
            promised,
            decided_upto
        }),
        (any_ballot(), any::<Option<u16>>(), any_slot(), hash()).prop_map(
            |(ballot, successor, decided_upto, decided_hash)| Message::Resign {
                ballot,
                successor: successor.map(NodeId),
                decided_upto,
                decided_hash
            }
        ),
    ];
    let replication = prop_oneof![
        (any_ballot(), any_slot(), vec(any_value(), 0..5), any_slot(), hash()).prop_map(
            |(ballot, first, values, decided_upto, decided_hash)| Message::Accept {
                ballot,
                first,
                values: values.into(),
                decided_upto,
                decided_hash
            }
        ),
        (any_ballot(), any_incarnation(), any::<bool>(), any_slot())
            .prop_map(|(ballot, incarnation, votes, upto)| Message::Accepted { ballot, incarnation, votes, upto }),
        (any_ballot(), instant(), any_slot(), any_slot(), any_slot(), hash()).prop_map(
            |(ballot, asked_at, sent_upto, stream_start, decided_upto, decided_hash)| Message::Heartbeat {
                ballot,
                asked_at,
                sent_upto,
                stream_start,
                decided_upto,
                decided_hash
            }
        ),
        (any_ballot(), instant(), any_incarnation(), any::<bool>(), any_slot(), any_slot()).prop_map(
            |(ballot, asked_at, incarnation, votes, received_upto, applied_upto)| Message::Granted {
                ballot,
                asked_at,
                incarnation,
                votes,
                received_upto,
                applied_upto
            }
        ),
        (any_ballot(), any_slot()).prop_map(|(ballot, received_upto)| Message::Gap { ballot, received_upto }),
    ];
    let recovery = prop_oneof![
        any_slot().prop_map(|from| Message::Fetch { from }),
        (any_slot(), vec(any_entry(), 0..5), any_slot()).prop_map(|(first, entries, decided_upto)| Message::Fetched {
            first,
            entries: entries.into(),
            decided_upto
        }),
        any_slot().prop_map(|log_start| Message::Gone { log_start }),
        any_ballot().prop_map(|ballot| Message::Claim { ballot }),
        any_incarnation().prop_map(|incarnation| Message::Recall { incarnation }),
        (
            any_incarnation(),
            any_incarnation(),
            any::<bool>(),
            any::<bool>(),
            any_ballot(),
            any_slot(),
            vec((any::<u16>(), any_incarnation()), 0..8)
        )
            .prop_map(|(asker, incarnation, votes, blank, promised, accepted_upto, genesis)| {
                let genesis = genesis.into_iter().map(|(node, life)| (NodeId(node), life)).collect::<Vec<_>>();
                Message::Recalled { asker, incarnation, votes, blank, promised, accepted_upto, genesis: genesis.into() }
            }),
    ];
    prop_oneof![elections, replication, recovery]
}

proptest! {
    #[test]
    fn any_message_survives_its_bytes(message in any_message()) {
        prop_assert_eq!(decode_message(&encode(&message)), Ok(message));
    }

    #[test]
    fn any_bytes_are_refused_or_are_exactly_one_message(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(message) = decode_message(&bytes) {
            prop_assert_eq!(encode(&message), bytes);
        }
    }

    #[test]
    fn any_bytes_behind_a_known_tag_are_refused_or_are_exactly_one_message(
        tag in 0..u32::try_from(VARIANTS).unwrap(),
        bytes in vec(prop_oneof![3 => 0..4u8, 1 => any::<u8>()], 0..200),
    ) {
        let bytes = [&tag.to_le_bytes()[..], &bytes].concat();
        if let Ok(message) = decode_message(&bytes) {
            prop_assert_eq!(encode(&message), bytes);
        }
    }

    #[test]
    fn any_flipped_byte_is_refused_or_makes_another_message(
        message in any_message(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let mut bytes = encode(&message);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = decode_message(&bytes) {
            prop_assert_ne!(&other, &message);
            prop_assert_eq!(encode(&other), bytes);
        }
    }
}
