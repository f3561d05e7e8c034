//! The bytes of an update: `[i32 tag][fields]`, the layout of the client protocol. The log keeps the same bytes.

use bytes::Bytes;

use super::Update;
use super::nursery::{Interval, NurseryUpdate, Routing};
use crate::wire::{Malformed, Reader, Writer};

/// Sequences within sequences, the outermost one included. Part of the format: every node must decode the same.
pub const NESTING_MAX: usize = 64;

/// Updates and asserted keys in one update, all sequences together. Part of the format. It bounds the memory that a few
/// bytes on the wire can turn into.
pub const UPDATES_MAX: usize = 1 << 20;

const SET: i32 = 1;
const DELETE: i32 = 2;
const TEST_AND_SET: i32 = 3;
const MASTER_SET: i32 = 4;
const SEQUENCE: i32 = 5;
const NOP: i32 = 6;
const USER_FUNCTION: i32 = 7;
const ASSERT: i32 = 8;
const ADMIN_SET: i32 = 9;
const SET_INTERVAL: i32 = 10;
const SET_ROUTING: i32 = 11;
const SET_ROUTING_DELTA: i32 = 12;
const SYNCED_SEQUENCE: i32 = 13;
const DELETE_PREFIX: i32 = 14;
const ASSERT_EXISTS: i32 = 15;
const REPLACE: i32 = 16;
const ASSERT_RANGE: i32 = 17;

/// The one kind of range assertion: `ContainsExactly`.
const CONTAINS_EXACTLY: i32 = 1;

/// Why bytes are not an update.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnUpdate {
    /// They break the format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// They are the original's own record of a master change, which no client may send.
    #[error("a master change is not a client's update")]
    MasterChange,
}

impl Update {
    /// Reads one update off the front of `reader`; what follows it stays there.
    ///
    /// # Errors
    /// When no update that this node knows begins there. `reader` is then somewhere inside it.
    pub fn decode(reader: &mut Reader) -> Result<Self, NotAnUpdate> {
        Decoder { reader, depth: 0, count: 0 }.update()
    }

    /// Appends the bytes of this update to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Set { key, value } => {
                out.i32(SET);
                out.string(key);
                out.string(value);
            }
            Self::Delete { key } => {
                out.i32(DELETE);
                out.string(key);
            }
            Self::TestAndSet { key, expected, wanted } => {
                out.i32(TEST_AND_SET);
                out.string(key);
                out.option_string(expected.as_deref());
                out.option_string(wanted.as_deref());
            }
            Self::Sequence(updates) => {
                out.i32(SEQUENCE);
                Writer::len(out, updates.len());
                updates.iter().for_each(|update| update.encode(out));
            }
            Self::Nop => out.i32(NOP),
            Self::Assert { key, expected } => {
                out.i32(ASSERT);
                out.string(key);
                out.option_string(expected.as_deref());
            }
            Self::DeletePrefix { prefix } => {
                out.i32(DELETE_PREFIX);
                out.string(prefix);
            }
            Self::AssertExists { key } => {
                out.i32(ASSERT_EXISTS);
                out.string(key);
            }
            Self::Replace { key, wanted } => {
                out.i32(REPLACE);
                out.string(key);
                out.option_string(wanted.as_deref());
            }
            Self::AssertRange { prefix, keys } => {
                out.i32(ASSERT_RANGE);
                out.string(prefix);
                out.i32(CONTAINS_EXACTLY);
                Writer::len(out, keys.len());
                keys.iter().for_each(|key| out.string(key));
            }
            Self::Nursery(NurseryUpdate::AdminSet { key, value }) => {
                out.i32(ADMIN_SET);
                out.string(key);
                out.option_string(value.as_deref());
            }
            Self::Nursery(NurseryUpdate::SetInterval(interval)) => {
                out.i32(SET_INTERVAL);
                interval.encode(out);
            }
            Self::Nursery(NurseryUpdate::SetRouting(routing)) => {
                out.i32(SET_ROUTING);
                routing.encode(out);
            }
            Self::Nursery(NurseryUpdate::SetRoutingDelta { left, separator, right }) => {
                out.i32(SET_ROUTING_DELTA);
                [left, separator, right].iter().for_each(|part| out.string(part));
            }
            Self::UserFunction { name, argument } => {
                out.i32(USER_FUNCTION);
                out.string(name);
                out.option_string(argument.as_deref());
            }
        }
    }

    /// The length of what [`Update::encode`] appends, in bytes.
    pub fn encoded_len(&self) -> usize {
        let string = |bytes: &Bytes| 4 + bytes.len();
        let option = |bytes: &Option<Bytes>| 1 + bytes.as_ref().map_or(0, string);
        4 + match self {
            Self::Nop => 0,
            Self::Set { key, value } => string(key) + string(value),
            Self::Delete { key } | Self::AssertExists { key } => string(key),
            Self::DeletePrefix { prefix } => string(prefix),
            Self::TestAndSet { key, expected, wanted } => string(key) + option(expected) + option(wanted),
            Self::Assert { key, expected } => string(key) + option(expected),
            Self::Replace { key, wanted } => string(key) + option(wanted),
            Self::UserFunction { name, argument } => string(name) + option(argument),
            Self::Nursery(NurseryUpdate::AdminSet { key, value }) => string(key) + option(value),
            Self::Nursery(NurseryUpdate::SetInterval(interval)) => interval.bounds().into_iter().map(option).sum(),
            // A cluster's name is a boolean and a string, a branch a boolean and its separator.
            Self::Nursery(NurseryUpdate::SetRouting(routing)) => {
                routing.names_and_separators().iter().map(|part| 1 + string(part)).sum()
            }
            Self::Nursery(NurseryUpdate::SetRoutingDelta { left, separator, right }) => {
                string(left) + string(separator) + string(right)
            }
            Self::Sequence(updates) => 4 + updates.iter().map(Self::encoded_len).sum::<usize>(),
            Self::AssertRange { prefix, keys } => string(prefix) + 8 + keys.iter().map(string).sum::<usize>(),
        }
    }
}

struct Decoder<'a> {
    reader: &'a mut Reader,
    depth: usize,
    count: usize,
}

impl Decoder<'_> {
    fn update(&mut self) -> Result<Update, NotAnUpdate> {
        self.count_one()?;
        Ok(match self.reader.i32()? {
            SET => Update::Set { key: self.reader.string()?, value: self.reader.string()? },
            DELETE => Update::Delete { key: self.reader.string()? },
            TEST_AND_SET => Update::TestAndSet {
                key: self.reader.string()?,
                expected: self.reader.option_string()?,
                wanted: self.reader.option_string()?,
            },
            SEQUENCE | SYNCED_SEQUENCE => self.sequence()?,
            NOP => Update::Nop,
            ASSERT => Update::Assert { key: self.reader.string()?, expected: self.reader.option_string()? },
            DELETE_PREFIX => Update::DeletePrefix { prefix: self.reader.string()? },
            ASSERT_EXISTS => Update::AssertExists { key: self.reader.string()? },
            REPLACE => Update::Replace { key: self.reader.string()?, wanted: self.reader.option_string()? },
            ASSERT_RANGE => self.assert_range()?,
            MASTER_SET => return Err(NotAnUpdate::MasterChange),
            USER_FUNCTION => {
                Update::UserFunction { name: self.reader.string()?, argument: self.reader.option_string()? }
            }
            ADMIN_SET => {
                let key = self.reader.string()?;
                Update::Nursery(NurseryUpdate::AdminSet { key, value: self.reader.option_string()? })
            }
            SET_INTERVAL => Update::Nursery(NurseryUpdate::SetInterval(Interval::decode(self.reader)?)),
            SET_ROUTING => Update::Nursery(NurseryUpdate::SetRouting(Routing::decode(self.reader)?)),
            SET_ROUTING_DELTA => Update::Nursery(NurseryUpdate::SetRoutingDelta {
                left: self.reader.string()?,
                separator: self.reader.string()?,
                right: self.reader.string()?,
            }),
            tag => {
                return Err(Malformed::UnknownTag { what: "update", tag: tag.into() }.into());
            }
        })
    }

    fn sequence(&mut self) -> Result<Update, NotAnUpdate> {
        if self.depth == NESTING_MAX {
            let (len, max) = (NESTING_MAX as u64 + 1, NESTING_MAX as u64);
            return Err(Malformed::TooLong { what: "nesting of sequences", len, max }.into());
        }
        self.depth += 1;
        let count = self.reader.length()?;
        // `push` takes memory only as updates are found, whatever the count says.
        let mut updates = Vec::new();
        for _ in 0..count {
            updates.push(self.update()?);
        }
        self.depth -= 1;
        Ok(Update::Sequence(updates))
    }

    fn assert_range(&mut self) -> Result<Update, NotAnUpdate> {
        let prefix = self.reader.string()?;
        let kind = self.reader.i32()?;
        if kind != CONTAINS_EXACTLY {
            return Err(Malformed::UnknownTag { what: "range assertion", tag: kind.into() }.into());
        }
        let count = self.reader.length()?;
        let mut keys = Vec::new();
        for _ in 0..count {
            self.count_one()?;
            keys.push(self.reader.string()?);
        }
        Ok(Update::AssertRange { prefix, keys })
    }

    fn count_one(&mut self) -> Result<(), Malformed> {
        self.count += 1;
        let (len, max) = (self.count as u64, UPDATES_MAX as u64);
        if self.count <= UPDATES_MAX { Ok(()) } else { Err(Malformed::TooLong { what: "sequence", len, max }) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any update, with few and short keys, so that they meet.
    pub(crate) fn any_update() -> impl Strategy<Value = Update> {
        fn text() -> impl Strategy<Value = Bytes> {
            prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xff)], 0..3).prop_map(Bytes::from)
        }
        let leaf = prop_oneof![
            4 => (text(), text()).prop_map(|(key, value)| Update::Set { key, value }),
            1 => text().prop_map(|key| Update::Delete { key }),
            2 => (text(), prop::option::of(text()), prop::option::of(text()))
                .prop_map(|(key, expected, wanted)| Update::TestAndSet { key, expected, wanted }),
            1 => Just(Update::Nop),
            1 => (text(), prop::option::of(text())).prop_map(|(key, expected)| Update::Assert { key, expected }),
            1 => text().prop_map(|key| Update::AssertExists { key }),
            1 => (text(), prop::collection::vec(text(), 0..3))
                .prop_map(|(prefix, keys)| Update::AssertRange { prefix, keys }),
            2 => text().prop_map(|prefix| Update::DeletePrefix { prefix }),
            2 => (text(), prop::option::of(text())).prop_map(|(key, wanted)| Update::Replace { key, wanted }),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Update::Sequence))
    }

    pub(crate) fn hex(text: &str) -> Bytes {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Update, NotAnUpdate> {
        Update::decode(&mut Reader(Bytes::copy_from_slice(bytes)))
    }

    fn encode(update: &Update) -> Vec<u8> {
        let mut out = Vec::new();
        update.encode(&mut out);
        out
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// Examples 15 and 26 of the original's byte examples.
    #[test]
    fn the_bytes_are_those_of_the_client_protocol() {
        let sequence = Update::Sequence(vec![
            Update::Set { key: bytes("a"), value: bytes("1") },
            Update::Delete { key: bytes("b") },
            Update::Assert { key: bytes("c"), expected: None },
        ]);
        let golden = hex("05 00 00 00 03 00 00 00 01 00 00 00 01 00 00 00 61 01 00 00 00 31 \
             02 00 00 00 01 00 00 00 62 08 00 00 00 01 00 00 00 63 00");
        assert_eq!(encode(&sequence), golden);
        assert_eq!(decode(&golden), Ok(sequence));

        let assert_range =
            Update::Sequence(vec![Update::AssertRange { prefix: bytes("k"), keys: vec![bytes("k2"), bytes("k1")] }]);
        let golden = hex("05 00 00 00 01 00 00 00 11 00 00 00 01 00 00 00 6b 01 00 00 00 02 00 00 00 \
             02 00 00 00 6b 32 02 00 00 00 6b 31");
        assert_eq!(encode(&assert_range), golden);
        assert_eq!(decode(&golden), Ok(assert_range));
    }

    #[test]
    fn each_kind_has_its_tag_and_its_fields_in_order() {
        let (key, value, none) = (bytes("k"), bytes("v"), None);
        let kinds = [
            (Update::Set { key: key.clone(), value: value.clone() }, "01 00 00 00 01 00 00 00 6b 01 00 00 00 76"),
            (Update::Delete { key: key.clone() }, "02 00 00 00 01 00 00 00 6b"),
            (
                Update::TestAndSet { key: key.clone(), expected: none.clone(), wanted: Some(value.clone()) },
                "03 00 00 00 01 00 00 00 6b 00 01 01 00 00 00 76",
            ),
            (
                Update::UserFunction { name: key.clone(), argument: Some(value.clone()) },
                "07 00 00 00 01 00 00 00 6b 01 01 00 00 00 76",
            ),
            (
                Update::Nursery(NurseryUpdate::AdminSet { key: key.clone(), value: Some(value.clone()) }),
                "09 00 00 00 01 00 00 00 6b 01 01 00 00 00 76",
            ),
            (
                Update::Nursery(NurseryUpdate::SetInterval(Interval {
                    public: (Some(key.clone()), None),
                    private: (None, Some(value.clone())),
                })),
                "0a 00 00 00 01 01 00 00 00 6b 00 00 01 01 00 00 00 76",
            ),
            (
                Update::Nursery(NurseryUpdate::SetRouting(Routing::Branch {
                    left: Box::new(Routing::Cluster(key.clone())),
                    separator: bytes("m"),
                    right: Box::new(Routing::Cluster(value.clone())),
                })),
                "0b 00 00 00 00 01 00 00 00 6d 01 01 00 00 00 6b 01 01 00 00 00 76",
            ),
            (
                Update::Nursery(NurseryUpdate::SetRoutingDelta {
                    left: key.clone(),
                    separator: bytes("m"),
                    right: value.clone(),
                }),
                "0c 00 00 00 01 00 00 00 6b 01 00 00 00 6d 01 00 00 00 76",
            ),
            (Update::Sequence(vec![]), "05 00 00 00 00 00 00 00"),
            (Update::Nop, "06 00 00 00"),
            (
                Update::Assert { key: key.clone(), expected: Some(value.clone()) },
                "08 00 00 00 01 00 00 00 6b 01 01 00 00 00 76",
            ),
            (Update::DeletePrefix { prefix: key.clone() }, "0e 00 00 00 01 00 00 00 6b"),
            (Update::AssertExists { key: key.clone() }, "0f 00 00 00 01 00 00 00 6b"),
            (Update::Replace { key: key.clone(), wanted: none }, "10 00 00 00 01 00 00 00 6b 00"),
            (
                Update::AssertRange { prefix: key.clone(), keys: vec![] },
                "11 00 00 00 01 00 00 00 6b 01 00 00 00 00 00 00 00",
            ),
        ];
        for (update, golden) in kinds {
            assert_eq!(encode(&update), hex(golden), "{update:?}");
            assert_eq!(update.encoded_len(), hex(golden).len(), "{update:?}");
            assert_eq!(decode(&hex(golden)), Ok(update));
        }
    }

    #[test]
    fn a_synced_sequence_is_a_sequence() {
        assert_eq!(decode(&hex("0d 00 00 00 01 00 00 00 06 00 00 00")), Ok(Update::Sequence(vec![Update::Nop])));
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        assert_eq!(decode(&hex("04 00 00 00 01 00 00 00 6b")), Err(NotAnUpdate::MasterChange));
        for tag in [0, 18, -1] {
            let expected = Malformed::UnknownTag { what: "update", tag: tag.into() };
            assert_eq!(decode(&i32::to_le_bytes(tag)), Err(expected.into()));
        }
        let other_assertion = hex("11 00 00 00 01 00 00 00 6b 02 00 00 00 00 00 00 00");
        let expected = Malformed::UnknownTag { what: "range assertion", tag: 2 };
        assert_eq!(decode(&other_assertion), Err(expected.into()));
    }

    #[test]
    fn every_cut_of_an_update_is_truncated() {
        let update = Update::Sequence(vec![
            Update::TestAndSet { key: bytes("key"), expected: Some(bytes("e")), wanted: Some(bytes("w")) },
            Update::AssertRange { prefix: bytes("k"), keys: vec![bytes("k1")] },
        ]);
        let whole = encode(&update);
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), Err(Malformed::Truncated.into()), "cut at {len}");
        }
    }

    #[test]
    fn what_follows_an_update_stays_in_the_reader() {
        let mut reader = Reader(hex("06 00 00 00 6a 75 6e 6b"));
        assert_eq!(Update::decode(&mut reader), Ok(Update::Nop));
        assert_eq!(reader.0, bytes("junk"));
    }

    #[test]
    fn a_tower_of_sequences_is_refused_at_its_limit() {
        let tower = |depth: usize| [hex("05 00 00 00 01 00 00 00").repeat(depth), hex("06 00 00 00").to_vec()].concat();
        assert!(decode(&tower(NESTING_MAX)).is_ok());
        for depth in [NESTING_MAX + 1, 1_000_000] {
            let expected = Malformed::TooLong { what: "nesting of sequences", len: 65, max: 64 };
            assert_eq!(decode(&tower(depth)), Err(expected.into()));
        }
        let side_by_side = Update::Sequence(vec![Update::Sequence(vec![]); 3 * NESTING_MAX]);
        assert_eq!(decode(&encode(&side_by_side)), Ok(side_by_side));
    }

    #[test]
    fn a_count_beyond_the_limit_or_the_bytes_is_refused() {
        let nops = |count: i32, present: usize| {
            [&SEQUENCE.to_le_bytes()[..], &count.to_le_bytes(), &NOP.to_le_bytes().repeat(present)].concat()
        };
        assert_eq!(decode(&nops(i32::MAX, 3)), Err(Malformed::Truncated.into()));
        assert_eq!(decode(&nops(-1, 3)), Err(Malformed::NegativeLength(-1).into()));
        let over = decode(&nops(1 << 20, 1 << 20));
        assert_eq!(over, Err(Malformed::TooLong { what: "sequence", len: (1 << 20) + 1, max: 1 << 20 }.into()));
    }

    proptest! {
        #[test]
        fn an_update_survives_its_bytes(update in any_update()) {
            let bytes = encode(&update);
            prop_assert_eq!(bytes.len(), update.encoded_len());
            prop_assert_eq!(decode(&bytes), Ok(update));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn any_change_of_good_bytes_is_survived(update in any_update(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = encode(&update);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(update) = decode(&bytes) {
                prop_assert!(update.encoded_len() <= bytes.len());
            }
        }
    }
}
