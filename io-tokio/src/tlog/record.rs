//! The bytes of one record.
//!
//! All integers are little-endian. A record in its file is a *frame*:
//!
//! ```text
//! offset  size  field
//!      0     4  length    bytes of the frame after the checksum: 6 + payload
//!      4     4  checksum  CRC32C over: salt, the frame's offset (8 bytes), length, version to end
//!      8     1  version   1
//!      9     1  kind      see below
//!     10     4  synced    everything in the segment before this offset was durable when the frame was written
//!     14     .  payload
//!
//! kind  name          payload
//!    1  Promised      round 8, node 2
//!    2  Accepted      slot 8, round 8, node 2, value tag 1, value body
//!    3  Decided       upto 8, history hash 8
//!    4  MemoryBegan   incarnation 8
//!    5  VoteRegained  incarnation 8, then for each node of the genesis: node 2, incarnation 8
//!    6  Sealed        empty; says nothing but what its `synced` says
//!    7  HeadAnnounced slot 8, history hash 8: from now on the store may be found there, whatever the log has
//! ```
//!
//! The salt is made of cluster, node and segment number ([`Salt`]). Salt and offset make a frame valid in one place of
//! one file only: neither stale bytes, nor a copy of a log inside a client's value, can pass for a record.

use bytes::Bytes;
use trialbay_engine::{Ballot, Entry, HistoryHash, Incarnation, NodeId, Record, Slot, SlotEntry, Value};

use super::error::TlogError;
use crate::update::UPDATE_BYTES_CEILING;

/// The bytes of a frame before its payload.
pub(super) const HEAD_BYTES: usize = 14;
/// The longest frame: the longest update that any configuration allows, and what is laid around it.
pub(super) const FRAME_BYTES_MAX: usize = UPDATE_BYTES_CEILING + (1 << 20);

/// The most nodes that a genesis may name: it has to fit into a segment's header.
pub(super) const GENESIS_NODES_MAX: usize = 9;

const VERSION: u8 = 1;
/// The bytes of a frame that the length does not count.
const UNCOUNTED_BYTES: usize = 8;

const PROMISED: u8 = 1;
const ACCEPTED: u8 = 2;
const DECIDED: u8 = 3;
const MEMORY_BEGAN: u8 = 4;
const VOTE_REGAINED: u8 = 5;
const SEALED: u8 = 6;
const HEAD_ANNOUNCED: u8 = 7;

/// Where every checksum of a segment begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(pub(super) u32);

/// The fixed fields of a frame, as read; nothing in them is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    len: u32,
    checksum: u32,
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) synced: u32,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Record(Record),
    /// What was before it was durable.
    Sealed,
    /// The store is about to take this state, which the log does not lead up to.
    HeadAnnounced {
        slot: Slot,
        hash: HistoryHash,
    },
}

/// Appends the frame of `record`, still without synced and checksum: see [`finish`].
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), TlogError> {
    let start = out.len();
    match record {
        Record::Promised(ballot) => {
            begin(out, PROMISED);
            put_ballot(out, *ballot);
        }
        Record::Accepted(SlotEntry { slot, entry }) => {
            let body = entry.value.body();
            begin(out, ACCEPTED);
            out.extend_from_slice(&slot.0.to_le_bytes());
            put_ballot(out, entry.ballot);
            out.push(entry.value.tag());
            out.extend_from_slice(&body);
        }
        Record::Decided { upto, hash } => {
            begin(out, DECIDED);
            out.extend_from_slice(&upto.0.to_le_bytes());
            out.extend_from_slice(&hash.0.to_le_bytes());
        }
        Record::MemoryBegan(incarnation) => {
            begin(out, MEMORY_BEGAN);
            out.extend_from_slice(&incarnation.0.to_le_bytes());
        }
        Record::VoteRegained { incarnation, genesis } => {
            if genesis.len() > GENESIS_NODES_MAX {
                return Err(TlogError::TooLarge { bytes: 10 * genesis.len(), max: 10 * GENESIS_NODES_MAX });
            }
            begin(out, VOTE_REGAINED);
            out.extend_from_slice(&incarnation.0.to_le_bytes());
            for (node, incarnation) in genesis {
                out.extend_from_slice(&node.0.to_le_bytes());
                out.extend_from_slice(&incarnation.0.to_le_bytes());
            }
        }
    }
    end(out, start)
}

/// Appends a `Sealed` frame, still without synced and checksum.
pub(super) fn encode_sealed(out: &mut Vec<u8>) {
    let start = out.len();
    begin(out, SEALED);
    end(out, start).expect("a frame without payload is short");
}

/// Appends a `HeadAnnounced` frame, still without synced and checksum.
pub(super) fn encode_head(slot: Slot, hash: HistoryHash, out: &mut Vec<u8>) {
    let start = out.len();
    begin(out, HEAD_ANNOUNCED);
    out.extend_from_slice(&slot.0.to_le_bytes());
    out.extend_from_slice(&hash.0.to_le_bytes());
    end(out, start).expect("a slot and a hash are short");
}

/// Completes frames that will stand at byte `offset` of a segment that is durable before byte `synced`.
pub(super) fn finish(frames: &mut [u8], salt: Salt, mut offset: u64, synced: u32) {
    let mut rest = frames;
    while let Some(head) = rest.first_chunk::<HEAD_BYTES>() {
        let (frame, after) = rest.split_at_mut(Head::parse(head).frame_bytes());
        frame[10..HEAD_BYTES].copy_from_slice(&synced.to_le_bytes());
        let checksum = checksum(salt, offset, frame);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
        offset += frame.len() as u64;
        rest = after;
    }
}

/// Whether this frame, which must be of the length that its head says, is as it was written to this place.
pub(super) fn is_sound(frame: &[u8], salt: Salt, offset: u64) -> bool {
    frame
        .first_chunk::<HEAD_BYTES>()
        .map(Head::parse)
        .is_some_and(|head| head.frame_bytes() == frame.len() && head.checksum == checksum(salt, offset, frame))
}

/// What a sound frame says; `None` when a newer version wrote it.
pub(super) fn decode(frame: &[u8]) -> Option<Content> {
    let (head, payload) = frame.split_first_chunk::<HEAD_BYTES>()?;
    let head = Head::parse(head);
    if head.version != VERSION {
        return None;
    }
    let mut rest = payload;
    let record = match head.kind {
        PROMISED => Record::Promised(take_ballot(&mut rest)?),
        ACCEPTED => {
            let slot = Slot(take_u64(&mut rest)?);
            let ballot = take_ballot(&mut rest)?;
            let [tag] = take(&mut rest)?;
            let value = Value::from_parts(tag, Bytes::copy_from_slice(std::mem::take(&mut rest)))?;
            Record::Accepted(SlotEntry { slot, entry: Entry { ballot, value } })
        }
        DECIDED => Record::Decided { upto: Slot(take_u64(&mut rest)?), hash: HistoryHash(take_u64(&mut rest)?) },
        MEMORY_BEGAN => Record::MemoryBegan(Incarnation(take_u64(&mut rest)?)),
        VOTE_REGAINED => {
            let incarnation = Incarnation(take_u64(&mut rest)?);
            let mut genesis = Vec::new();
            while !rest.is_empty() {
                genesis.push((take_node(&mut rest)?, Incarnation(take_u64(&mut rest)?)));
            }
            if genesis.len() > GENESIS_NODES_MAX {
                return None;
            }
            Record::VoteRegained { incarnation, genesis }
        }
        SEALED => return rest.is_empty().then_some(Content::Sealed),
        HEAD_ANNOUNCED => {
            let (slot, hash) = (Slot(take_u64(&mut rest)?), HistoryHash(take_u64(&mut rest)?));
            return rest.is_empty().then_some(Content::HeadAnnounced { slot, hash });
        }
        _ => return None,
    };
    rest.is_empty().then_some(Content::Record(record))
}

impl Salt {
    /// The salt of one segment of one node of one cluster.
    pub(super) fn new(cluster_id: &str, node: NodeId, node_name: &str, segment: u32) -> Self {
        let mut crc = crc32c::crc32c(cluster_id.as_bytes());
        // 0xff is in no UTF-8 text, so no two pairs of names run together to the same bytes.
        crc = crc32c::crc32c_append(crc, &[0xff]);
        crc = crc32c::crc32c_append(crc, node_name.as_bytes());
        crc = crc32c::crc32c_append(crc, &[0xff]);
        crc = crc32c::crc32c_append(crc, &node.0.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &segment.to_le_bytes()))
    }
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { len: u32_at(0), checksum: u32_at(4), version: bytes[8], kind: bytes[9], synced: u32_at(10) }
    }

    /// Whether the length is one that a frame can have.
    pub(super) fn has_possible_length(&self) -> bool {
        (HEAD_BYTES..=FRAME_BYTES_MAX).contains(&self.frame_bytes())
    }

    /// Whether everything but the checksum looks like a frame of this version.
    pub(super) fn is_plausible(&self) -> bool {
        self.version == VERSION && (PROMISED..=HEAD_ANNOUNCED).contains(&self.kind) && self.has_possible_length()
    }

    /// The length of the whole frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.len as usize + UNCOUNTED_BYTES
    }

    /// Whether this is where nothing was written yet.
    pub(super) fn is_unwritten(&self) -> bool {
        self.len == 0
    }
}

fn checksum(salt: Salt, offset: u64, frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(salt.0, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..4]);
    crc32c::crc32c_append(crc, &frame[UNCOUNTED_BYTES..])
}

fn begin(out: &mut Vec<u8>, kind: u8) {
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, VERSION, kind, 0, 0, 0, 0]);
}

fn end(out: &mut Vec<u8>, start: usize) -> Result<(), TlogError> {
    let bytes = out.len() - start;
    if bytes > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(TlogError::TooLarge { bytes, max: FRAME_BYTES_MAX });
    }
    let len = u32::try_from(bytes - UNCOUNTED_BYTES).expect("a frame is limited far below 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.extend_from_slice(&ballot.round.to_le_bytes());
    out.extend_from_slice(&ballot.node.0.to_le_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take_node(rest: &mut &[u8]) -> Option<NodeId> {
    take(rest).map(u16::from_le_bytes).map(NodeId)
}

fn take_ballot(rest: &mut &[u8]) -> Option<Ballot> {
    Some(Ballot { round: take_u64(rest)?, node: take_node(rest)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: Salt = Salt(0x1234_5678);

    fn accepted(value: Value) -> Record {
        let ballot = Ballot { round: 5, node: NodeId(2) };
        Record::Accepted(SlotEntry { slot: Slot(7), entry: Entry { ballot, value } })
    }

    fn one_of_each() -> Vec<Record> {
        vec![
            Record::Promised(Ballot { round: 3, node: NodeId(1) }),
            accepted(Value::Noop),
            accepted(Value::batch([b"ab".as_slice()])),
            accepted(Value::MasterChange(NodeId(9))),
            accepted(Value::Configuration(Bytes::from_static(b"c"))),
            Record::Decided { upto: Slot(6), hash: HistoryHash(0xfeed) },
            Record::MemoryBegan(Incarnation(0xabc)),
            Record::VoteRegained { incarnation: Incarnation(0xabc), genesis: vec![] },
            Record::VoteRegained {
                incarnation: Incarnation(1),
                genesis: vec![(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(8))],
            },
        ]
    }

    fn frame_of(record: &Record, at: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        encode(record, &mut frame).unwrap();
        finish(&mut frame, SALT, at, 600);
        frame
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_every_kind_stay_as_they_are() {
        let mut all = String::new();
        for record in one_of_each() {
            all += &format!("{record:?}\n  {}\n", hex(&frame_of(&record, 512)));
        }
        let mut sealed = Vec::new();
        encode_sealed(&mut sealed);
        finish(&mut sealed, SALT, 640, 640);
        all += &format!("Sealed\n  {}\n", hex(&sealed));
        insta::assert_snapshot!(all, @r"
        Promised(3.n1)
          10000000e7ed31ad01015802000003000000000000000100
        Accepted(s7=noop@5.n2)
          19000000eb93e6e801025802000007000000000000000500000000000000020000
        Accepted(s7=commands(1, 6 B)@5.n2)
          1f000000cb55312601025802000007000000000000000500000000000000020001020000006162
        Accepted(s7=master(n9)@5.n2)
          1b000000d1eca292010258020000070000000000000005000000000000000200020900
        Accepted(s7=configuration(1 B)@5.n2)
          1a000000f7bd90500102580200000700000000000000050000000000000002000363
        Decided { upto: s6, hash: 000000000000feed }
          1600000055cc94050103580200000600000000000000edfe000000000000
        MemoryBegan(0000000000000abc)
          0e0000008f2964e9010458020000bc0a000000000000
        VoteRegained { incarnation: 0000000000000abc, genesis: [] }
          0e000000ea11b6d9010558020000bc0a000000000000
        VoteRegained { incarnation: 0000000000000001, genesis: [(n1, 0000000000000001), (n2, 0000000000000008)] }
          2200000026f0305e01055802000001000000000000000100010000000000000002000800000000000000
        Sealed
          0600000077721b78010680020000
        ");
    }

    #[test]
    fn every_kind_is_read_back_as_it_was_written() {
        for record in one_of_each() {
            let frame = frame_of(&record, 512);
            assert!(is_sound(&frame, SALT, 512));
            assert_eq!(decode(&frame), Some(Content::Record(record)));
        }
    }

    #[test]
    fn a_frame_is_sound_in_its_own_place_only() {
        let frame = frame_of(&one_of_each()[1], 512);
        assert!(!is_sound(&frame, SALT, 513));
        assert!(!is_sound(&frame, Salt(0x1234_5679), 512));
        let salts = [("a", 1, "b", 0), ("ab", 1, "", 0), ("a", 2, "b", 0), ("a", 1, "c", 0), ("a", 1, "b", 1)]
            .map(|(cluster, node, name, segment)| Salt::new(cluster, NodeId(node), name, segment).0);
        for (i, salt) in salts.iter().enumerate() {
            assert!(!salts[..i].contains(salt));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for record in one_of_each() {
            let frame = frame_of(&record, 512);
            for bit in 0..frame.len() * 8 {
                let mut flipped = frame.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_sound(&flipped, SALT, 512), "bit {bit} of {record:?}");
            }
        }
    }

    /// A legal update that no log took would stop every node, one after the other, as often as a client repeats it.
    #[test]
    fn the_longest_update_of_any_configuration_fits_into_a_frame() {
        let command = crate::update::command_from_raw(&vec![0; UPDATE_BYTES_CEILING]);
        let mut out = Vec::new();
        encode(&accepted(Value::batch([command.as_ref()])), &mut out).unwrap();
    }

    #[test]
    fn an_oversized_record_is_refused_and_leaves_nothing() {
        let mut out = vec![1, 2, 3];
        let record = accepted(Value::Commands(vec![0; FRAME_BYTES_MAX].into()));
        assert!(matches!(encode(&record, &mut out), Err(TlogError::TooLarge { .. })));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn unknown_versions_kinds_tags_and_trailing_bytes_are_not_read() {
        let frame = frame_of(&accepted(Value::Noop), 512);
        for (at, byte) in [(8, 2), (9, 0), (9, 7), (32, 4), (32, 2)] {
            let mut changed = frame.clone();
            changed[at] = byte;
            assert_eq!(decode(&changed), None, "byte {at} = {byte}");
        }
        for record in [&one_of_each()[0], &one_of_each()[5], &one_of_each()[7]] {
            let mut longer = frame_of(record, 512);
            longer.push(0);
            assert_eq!(decode(&longer), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0_u8..8) {
            let mut frame = bytes;
            is_sound(&frame, SALT, 0);
            decode(&frame);
            if frame.len() >= HEAD_BYTES {
                frame[8..10].copy_from_slice(&[VERSION, kind]);
                decode(&frame);
            }
        }
    }
}
