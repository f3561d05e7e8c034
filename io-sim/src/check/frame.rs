//! The bytes of a transaction log, read as `docs/storage.md` describes them and without a look at the code that writes
//! them.

use bytes::Bytes;
use trialbay::identity::Identity;
use trialbay_engine::{Ballot, Entry, HistoryHash, Incarnation, Memory, NodeId, Record, Slot, SlotEntry, Value};

/// Where the first frame of a segment begins.
pub(super) const HEADER_BYTES: usize = 512;

const HEAD_BYTES: usize = 14;
const FRAME_BYTES_MAX: usize = 65 << 20;
const VERSION: u8 = 1;

/// Where a segment's header has its summary.
const SUMMARY_AT: usize = 358;

/// What a segment's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: u16,
    pub(super) identity: Identity,
    pub(super) segment: u32,
    pub(super) previous_bytes: u64,
    pub(super) summary: Summary,
}

/// What the segments before one add up to, but for their entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The highest ballot of a promise or an acceptance.
    pub promised: Ballot,
    /// The last slot noted as decided, and the history hash there.
    pub decided: (Slot, HistoryHash),
    /// The head announced last.
    pub head: (Slot, HistoryHash),
    /// The highest slot of an acceptance.
    pub accepted_upto: Slot,
    /// The node's life, whether it votes, and the genesis.
    pub memory: Option<Memory>,
}

/// A frame whose checksum is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its length in bytes.
    pub(super) bytes: usize,
    /// Everything in the segment before this offset was durable when the frame was written.
    pub(super) synced: u64,
    pub(super) content: Content,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Record(Record),
    Sealed,
    HeadAnnounced(Slot, HistoryHash),
    /// Only a later program knows.
    Unknown,
}

/// Takes fields from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl Header {
    /// `None` when the bytes are too few or their checksum is wrong.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let (sealed, checksum) = header.split_at(HEADER_BYTES - 4);
        if crc32c::crc32c(sealed).to_le_bytes() != *checksum {
            return None;
        }
        let mut fields = Fields(sealed);
        if fields.take(8)? != b"TBALtlog" {
            return None;
        }
        let (format, node, segment, previous_bytes) = (fields.u16()?, fields.u16()?, fields.u32()?, fields.u64()?);
        let (cluster_bytes, name_bytes) = (fields.u16()?, fields.u16()?);
        let cluster_id = fields.text(usize::from(cluster_bytes))?;
        let name = fields.text(usize::from(name_bytes))?;
        let identity = Identity { cluster_id, node: NodeId(node), name };
        let summary = Summary::read(&sealed[SUMMARY_AT..])?;
        Some(Self { format, identity, segment, previous_bytes, summary })
    }
}

impl Summary {
    /// Of nothing.
    pub(super) fn empty() -> Self {
        let nowhere = (Slot::ZERO, HistoryHash(0));
        Self { promised: Ballot::ZERO, decided: nowhere, head: nowhere, accepted_upto: Slot::ZERO, memory: None }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let promised = fields.ballot()?;
        let decided = (Slot(fields.u64()?), HistoryHash(fields.u64()?));
        let head = (Slot(fields.u64()?), HistoryHash(fields.u64()?));
        let accepted_upto = Slot(fields.u64()?);
        let kind = fields.u8()?;
        let incarnation = Incarnation(fields.u64()?);
        let named = fields.u8()?;
        let mut genesis = Vec::new();
        for _ in 0..named {
            genesis.push((NodeId(fields.u16()?), Incarnation(fields.u64()?)));
        }
        let memory = match kind {
            0 => None,
            1 | 2 => Some(Memory { incarnation, votes: kind == 2, genesis }),
            _ => return None,
        };
        Some(Self { promised, decided, head, accepted_upto, memory })
    }

    /// With what follows.
    pub(super) fn add(&mut self, content: &Content) {
        match content {
            Content::Record(Record::Promised(ballot)) => self.promised = self.promised.max(*ballot),
            Content::Record(Record::Accepted(SlotEntry { slot, entry })) => {
                self.promised = self.promised.max(entry.ballot);
                self.accepted_upto = self.accepted_upto.max(*slot);
            }
            Content::Record(Record::Decided { upto, hash }) if *upto > self.decided.0 => self.decided = (*upto, *hash),
            Content::Record(Record::MemoryBegan(life)) => {
                self.memory = Some(Memory { incarnation: *life, votes: false, genesis: Vec::new() });
            }
            Content::Record(Record::VoteRegained { incarnation, genesis }) => {
                self.memory = Some(Memory { incarnation: *incarnation, votes: true, genesis: genesis.clone() });
            }
            Content::HeadAnnounced(slot, hash) => self.head = (*slot, *hash),
            Content::Record(Record::Decided { .. }) | Content::Sealed | Content::Unknown => {}
        }
    }
}

impl Frame {
    /// The frame at the front of `bytes`, which stand at `offset` of their segment; `None` when there is no sound one.
    pub(super) fn read(bytes: &[u8], salt: u32, offset: u64) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (len, checksum, after_checksum) = (fields.u32()?, fields.u32()?, fields.0);
        let sealed = after_checksum.get(..usize::try_from(len).ok()?)?;
        let frame_bytes = bytes.len() - after_checksum.len() + sealed.len();
        if !(HEAD_BYTES..=FRAME_BYTES_MAX).contains(&frame_bytes) {
            return None;
        }
        let checked: [&[u8]; 3] = [&offset.to_le_bytes(), &len.to_le_bytes(), sealed];
        let crc = checked.into_iter().fold(salt, crc32c::crc32c_append);
        if crc != checksum {
            return None;
        }
        let mut fields = Fields(sealed);
        let (version, kind, synced) = (fields.u8()?, fields.u8()?, fields.u32()?);
        let content = if version == VERSION { fields.content(kind) } else { None };
        Some(Self { bytes: frame_bytes, synced: u64::from(synced), content: content.unwrap_or(Content::Unknown) })
    }

    /// Whether these bytes are worth a checksum: not one search step in millions is.
    pub(super) fn may_begin(bytes: &[u8]) -> bool {
        matches!(bytes, [_, _, _, _, _, _, _, _, VERSION, 1..=7, _, _, _, _, ..])
    }
}

/// Where the checksum of every frame in this segment begins.
pub(super) fn salt(identity: &Identity, segment: u32) -> u32 {
    let (cluster, name) = (identity.cluster_id.as_bytes(), identity.name.as_bytes());
    let node = identity.node.0.to_le_bytes();
    crc32c::crc32c(&[cluster, &[0xff], name, &[0xff], &node, &segment.to_le_bytes()].concat())
}

impl<'a> Fields<'a> {
    fn content(&mut self, kind: u8) -> Option<Content> {
        let content = match kind {
            1 => Content::Record(Record::Promised(self.ballot()?)),
            2 => Content::Record(Record::Accepted(self.slot_entry()?)),
            3 => Content::Record(Record::Decided { upto: Slot(self.u64()?), hash: HistoryHash(self.u64()?) }),
            4 => Content::Record(Record::MemoryBegan(Incarnation(self.u64()?))),
            5 => {
                let incarnation = Incarnation(self.u64()?);
                let mut genesis = Vec::new();
                while !self.0.is_empty() {
                    genesis.push((NodeId(self.u16()?), Incarnation(self.u64()?)));
                }
                Content::Record(Record::VoteRegained { incarnation, genesis })
            }
            6 => Content::Sealed,
            7 => Content::HeadAnnounced(Slot(self.u64()?), HistoryHash(self.u64()?)),
            _ => return None,
        };
        self.0.is_empty().then_some(content)
    }

    fn slot_entry(&mut self) -> Option<SlotEntry> {
        let slot = Slot(self.u64()?);
        let ballot = self.ballot()?;
        let value = match self.u8()? {
            0 => Value::Noop,
            1 => Value::Commands(Bytes::copy_from_slice(self.rest())),
            2 => Value::MasterChange(NodeId(self.u16()?)),
            3 => Value::Configuration(Bytes::copy_from_slice(self.rest())),
            _ => return None,
        };
        Some(SlotEntry { slot, entry: Entry { ballot, value } })
    }

    fn ballot(&mut self) -> Option<Ballot> {
        Some(Ballot { round: self.u64()?, node: NodeId(self.u16()?) })
    }

    fn text(&mut self, len: usize) -> Option<String> {
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}
