//! What a slot decides.

use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{Ballot, NodeId, Slot};

/// The value of one slot.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Changes nothing. Fills a slot.
    Noop,
    /// A batch of client commands, laid out as `[u32 little-endian length][bytes]` each. Opaque to the engine.
    Commands(Bytes),
    /// The first value that a new master proposes. It serves once this one is decided and applied.
    MasterChange(NodeId),
    /// Reserved for membership and zones: a slot can carry a configuration. Opaque; changes nothing yet.
    Configuration(Bytes),
}

/// A value and the ballot under which this node accepted it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The ballot of the acceptance: the highest one seen for this slot.
    pub ballot: Ballot,
    /// What was accepted.
    pub value: Value,
}

/// An entry at its place in the log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SlotEntry {
    /// The slot.
    pub slot: Slot,
    /// What this node accepted there.
    pub entry: Entry,
}

/// The running hash over all decided values up to a slot. Two nodes with the same hash at a slot decided the same history.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct HistoryHash(pub u64);

/// Why bytes are not a batch of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedBatch;

impl Value {
    /// Lays `commands` out as one value.
    ///
    /// # Panics
    /// When a command is 4 GiB or longer; limits keep them far below.
    pub fn batch<'a>(commands: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::new();
        for command in commands {
            let len = u32::try_from(command.len()).expect("a command is limited far below 4 GiB");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(command);
        }
        Self::Commands(bytes.into())
    }

    /// The commands of a batch in order; of any other value none.
    pub fn commands(&self) -> Commands {
        match self {
            Self::Commands(bytes) => Commands(bytes.clone()),
            Self::Noop | Self::MasterChange(_) | Self::Configuration(_) => Commands(Bytes::new()),
        }
    }

    /// The size in bytes that limits and windows count.
    pub fn size(&self) -> usize {
        match self {
            Self::Commands(bytes) | Self::Configuration(bytes) => bytes.len(),
            Self::Noop | Self::MasterChange(_) => 0,
        }
    }

    /// The tag that names this kind of value in every format (wire, tlog, hash). Stable for ever.
    pub fn tag(&self) -> u8 {
        match self {
            Self::Noop => 0,
            Self::Commands(_) => 1,
            Self::MasterChange(_) => 2,
            Self::Configuration(_) => 3,
        }
    }

    /// The value named by `tag` with the body that [`Value::body`] gave; `None` when the two do not fit.
    pub fn from_parts(tag: u8, body: Bytes) -> Option<Self> {
        match tag {
            0 if body.is_empty() => Some(Self::Noop),
            1 => Some(Self::Commands(body)),
            2 => Some(Self::MasterChange(NodeId(u16::from_le_bytes(body.as_ref().try_into().ok()?)))),
            3 => Some(Self::Configuration(body)),
            _ => None,
        }
    }

    /// The bytes that, with [`Value::tag`], make the value. Every format stores a value as these two.
    pub fn body(&self) -> Bytes {
        match self {
            Self::Noop => Bytes::new(),
            Self::Commands(bytes) | Self::Configuration(bytes) => bytes.clone(),
            Self::MasterChange(node) => Bytes::copy_from_slice(&node.0.to_le_bytes()),
        }
    }
}

impl HistoryHash {
    /// The hash after `value` was decided at `slot`.
    #[must_use]
    pub fn extend(self, slot: Slot, value: &Value) -> Self {
        let seed = self.0.rotate_left(5) ^ slot.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(value.tag());
        Self(match value {
            Value::Commands(bytes) | Value::Configuration(bytes) => xxh3_64_with_seed(bytes, seed),
            Value::Noop => xxh3_64_with_seed(&[], seed),
            Value::MasterChange(node) => xxh3_64_with_seed(&node.0.to_le_bytes(), seed),
        })
    }
}

/// Iterates over the commands of a batch without copying them.
///
/// Yields one `Err` and then ends when the bytes are not a batch. Batches are made by [`Value::batch`], so that means
/// damage that no checksum caught, or a peer that lies.
#[derive(Clone, Debug)]
pub struct Commands(Bytes);

impl Iterator for Commands {
    type Item = Result<Bytes, MalformedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let len = self.0.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize);
        match len {
            Some(len) if len <= self.0.len() - 4 => {
                let mut command = self.0.split_to(4 + len);
                Some(Ok(command.split_off(4)))
            }
            Some(_) | None => {
                self.0 = Bytes::new();
                Some(Err(MalformedBatch))
            }
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noop => f.write_str("noop"),
            Self::Commands(bytes) => {
                let count = self.commands().count();
                write!(f, "commands({count}, {} B)", bytes.len())
            }
            Self::MasterChange(node) => write!(f, "master({node})"),
            Self::Configuration(bytes) => write!(f, "configuration({} B)", bytes.len()),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.value, self.ballot)
    }
}

impl fmt::Debug for SlotEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.slot, self.entry)
    }
}

impl fmt::Debug for HistoryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn a_batch_yields_its_commands_in_order() {
        let batch = Value::batch([&b"one"[..], b"", b"three"]);
        let commands: Vec<_> = batch.commands().map(|command| command.unwrap()).collect();
        assert_eq!(commands, vec![Bytes::from("one"), Bytes::new(), Bytes::from("three")]);
    }

    #[test]
    fn a_batch_cut_anywhere_inside_a_command_ends_with_one_error() {
        let Value::Commands(bytes) = Value::batch([&b"one"[..], b"three"]) else { panic!("a batch is commands") };
        for len in (0..bytes.len()).filter(|len| ![0, 7].contains(len)) {
            let results: Vec<_> = Value::Commands(bytes.slice(..len)).commands().collect();
            assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1, "cut at {len}");
            assert!(results.last().unwrap().is_err(), "cut at {len}");
        }
    }

    #[test]
    fn every_value_survives_its_parts() {
        for value in [
            Value::Noop,
            Value::batch([&b"x"[..]]),
            Value::MasterChange(NodeId(513)),
            Value::Configuration(Bytes::from("c")),
        ] {
            assert_eq!(Value::from_parts(value.tag(), value.body()), Some(value));
        }
        assert_eq!(Value::from_parts(0, Bytes::from("x")), None);
        assert_eq!(Value::from_parts(2, Bytes::from("x")), None);
        assert_eq!(Value::from_parts(4, Bytes::new()), None);
    }

    #[test]
    fn the_history_hash_depends_on_slot_kind_value_and_order() {
        let start = HistoryHash::default();
        let (a, b) = (Value::batch([&b"a"[..]]), Value::batch([&b"b"[..]]));
        let ab = start.extend(Slot(1), &a).extend(Slot(2), &b);
        let ba = start.extend(Slot(1), &b).extend(Slot(2), &a);
        assert_ne!(ab, ba);
        assert_ne!(start.extend(Slot(1), &a), start.extend(Slot(2), &a));
        assert_ne!(start.extend(Slot(1), &Value::Noop), start.extend(Slot(1), &Value::Commands(Bytes::new())));
    }
}
