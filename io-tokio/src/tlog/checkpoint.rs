//! What the records before a place in the log add up to, but for the entries themselves.
//!
//! Every segment's header has the checkpoint of all segments before it (`segment.rs`). So the old ones can go once the
//! store has what they accepted: promises, the node's life and its vote do not go with them.

use trialbay_engine::{Ballot, HistoryHash, Incarnation, Memory, NodeId, Record, Slot};

use super::record::{Content, GENESIS_NODES_MAX};

/// The bytes of a checkpoint in a header.
pub(super) const CHECKPOINT_BYTES: usize = 60 + 10 * GENESIS_NODES_MAX;

const MEMORY_NONE: u8 = 0;
const MEMORY_WITHOUT_VOTE: u8 = 1;
const MEMORY_WITH_VOTE: u8 = 2;

/// What the records before a place in the log add up to, but for the entries themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The highest ballot that was promised or accepted.
    pub(super) promised: Ballot,
    /// The last `Decided` record.
    pub(super) decided: (Slot, HistoryHash),
    /// The last head that was announced: the store may be found there, whatever the log has.
    pub(super) head: (Slot, HistoryHash),
    /// The last slot in which anything was ever accepted.
    pub(super) accepted_upto: Slot,
    /// The node's life, unless records of it are lost.
    pub(super) memory: Option<Memory>,
}

impl Default for Checkpoint {
    /// That of an empty log.
    fn default() -> Self {
        let nowhere = (Slot::ZERO, HistoryHash::default());
        Self { promised: Ballot::ZERO, decided: nowhere, head: nowhere, accepted_upto: Slot::ZERO, memory: None }
    }
}

impl Checkpoint {
    /// Adds what follows in the log.
    pub(super) fn add(&mut self, content: &Content) {
        match content {
            Content::Record(record) => self.add_record(record),
            Content::HeadAnnounced { slot, hash } => self.head = (*slot, *hash),
            Content::Sealed => {}
        }
    }

    pub(super) fn add_record(&mut self, record: &Record) {
        match record {
            Record::Promised(ballot) => self.promised = self.promised.max(*ballot),
            Record::Accepted(slot_entry) => {
                self.promised = self.promised.max(slot_entry.entry.ballot);
                self.accepted_upto = self.accepted_upto.max(slot_entry.slot);
            }
            Record::Decided { upto, hash } => {
                if *upto > self.decided.0 {
                    self.decided = (*upto, *hash);
                }
            }
            Record::MemoryBegan(incarnation) => {
                self.memory = Some(Memory { incarnation: *incarnation, votes: false, genesis: Vec::new() });
            }
            Record::VoteRegained { incarnation, genesis } => {
                self.memory = Some(Memory { incarnation: *incarnation, votes: true, genesis: genesis.clone() });
            }
        }
    }

    /// Goes on from what a header says of all that stands before it: more than what was read, where some of that is
    /// lost or removed.
    pub(super) fn merge(&mut self, header: Self) {
        self.promised = self.promised.max(header.promised);
        self.accepted_upto = self.accepted_upto.max(header.accepted_upto);
        if header.decided.0 > self.decided.0 {
            self.decided = header.decided;
        }
        (self.head, self.memory) = (header.head, header.memory);
    }

    /// All integers are little-endian; see `segment.rs` for the layout.
    pub(super) fn encode(&self) -> [u8; CHECKPOINT_BYTES] {
        let mut out = Vec::with_capacity(CHECKPOINT_BYTES);
        out.extend_from_slice(&self.promised.round.to_le_bytes());
        out.extend_from_slice(&self.promised.node.0.to_le_bytes());
        for (slot, hash) in [self.decided, self.head] {
            out.extend_from_slice(&slot.0.to_le_bytes());
            out.extend_from_slice(&hash.0.to_le_bytes());
        }
        out.extend_from_slice(&self.accepted_upto.0.to_le_bytes());
        if let Some(Memory { incarnation, votes, genesis }) = &self.memory {
            out.push(if *votes { MEMORY_WITH_VOTE } else { MEMORY_WITHOUT_VOTE });
            out.extend_from_slice(&incarnation.0.to_le_bytes());
            out.push(u8::try_from(genesis.len()).expect("no record has a longer genesis"));
            for (node, incarnation) in genesis {
                out.extend_from_slice(&node.0.to_le_bytes());
                out.extend_from_slice(&incarnation.0.to_le_bytes());
            }
        }
        let mut bytes = [0; CHECKPOINT_BYTES];
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    /// `None` when a newer version wrote it.
    pub(super) fn decode(bytes: &[u8; CHECKPOINT_BYTES]) -> Option<Self> {
        let mut rest = &bytes[..];
        let promised = Ballot { round: u64_of(&mut rest)?, node: node_of(&mut rest)? };
        let decided = (Slot(u64_of(&mut rest)?), HistoryHash(u64_of(&mut rest)?));
        let head = (Slot(u64_of(&mut rest)?), HistoryHash(u64_of(&mut rest)?));
        let accepted_upto = Slot(u64_of(&mut rest)?);
        let memory = match array_of::<1>(&mut rest)? {
            [MEMORY_NONE] => None,
            [kind @ (MEMORY_WITHOUT_VOTE | MEMORY_WITH_VOTE)] => {
                let incarnation = Incarnation(u64_of(&mut rest)?);
                let [count] = array_of(&mut rest)?;
                let genesis = (0..count)
                    .map(|_| Some((node_of(&mut rest)?, Incarnation(u64_of(&mut rest)?))))
                    .collect::<Option<_>>()?;
                Some(Memory { incarnation, votes: kind == MEMORY_WITH_VOTE, genesis })
            }
            _ => return None,
        };
        let is_read = rest.iter().all(|byte| *byte == 0);
        is_read.then_some(Self { promised, decided, head, accepted_upto, memory })
    }
}

fn array_of<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

fn u64_of(rest: &mut &[u8]) -> Option<u64> {
    array_of(rest).map(u64::from_le_bytes)
}

fn node_of(rest: &mut &[u8]) -> Option<NodeId> {
    array_of(rest).map(u16::from_le_bytes).map(NodeId)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let mut checkpoint = Checkpoint::default();
        let genesis: Vec<_> = (1..=GENESIS_NODES_MAX as u16).map(|id| (NodeId(id), Incarnation(7))).collect();
        let records = [
            Record::Promised(ballot(3)),
            Record::MemoryBegan(Incarnation(7)),
            Record::VoteRegained { incarnation: Incarnation(7), genesis },
            accepted(9, 4, b"x"),
            accepted(8, 2, b"y"),
            Record::Decided { upto: Slot(8), hash: HistoryHash(5) },
        ];
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint.clone()));
        for record in records {
            checkpoint.add_record(&record);
            assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint.clone()));
        }
        checkpoint.add(&Content::HeadAnnounced { slot: Slot(99), hash: HistoryHash(6) });
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint.clone()));
        assert_eq!((checkpoint.promised, checkpoint.accepted_upto), (ballot(4), Slot(9)));
        assert_eq!((checkpoint.decided.0, checkpoint.head.0), (Slot(8), Slot(99)));
        assert!(checkpoint.memory.unwrap().votes);
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_encoded_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), CHECKPOINT_BYTES), kind in 0_u8..4, count in 0_u8..12) {
            let mut bytes: [u8; CHECKPOINT_BYTES] = bytes.try_into().unwrap();
            (bytes[50], bytes[59]) = (kind, count);
            if kind == 0 {
                bytes[51..].fill(0);
            }
            bytes[(60 + 10 * usize::from(count)).min(CHECKPOINT_BYTES)..].fill(0);
            match Checkpoint::decode(&bytes) {
                Some(checkpoint) => prop_assert_eq!(checkpoint.encode(), bytes),
                None => prop_assert!(kind > 2 || usize::from(count) > GENESIS_NODES_MAX),
            }
        }
    }
}
