//! What clients do, and the reference model of what it does to a store.

use bytes::Bytes;
use trialbay_engine::{HistoryHash, Slot, Value};

/// How many keys clients use.
pub const KEYS: usize = 6;

/// An update. Each writes its own number, so every value tells which update wrote it; 0 means "no value".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The client operation that this is; also the value that it writes.
    pub op: u64,
    /// Which key.
    pub key: u8,
    /// Writes only when the key has this value.
    pub only_if: Option<u64>,
}

/// What an update gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The key's value before.
    pub before: u64,
    /// Whether it was written.
    pub written: bool,
}

/// A store: the state after all slots up to `applied`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// The last slot that is in it.
    pub applied: Slot,
    /// The history hash there.
    pub hash: HistoryHash,
    /// The values.
    pub keys: [u64; KEYS],
}

impl Command {
    /// Its bytes, followed by `padding` further ones.
    pub fn encode(&self, padding: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(18 + padding);
        bytes.extend_from_slice(&self.op.to_le_bytes());
        bytes.push(self.key);
        bytes.push(u8::from(self.only_if.is_some()));
        bytes.extend_from_slice(&self.only_if.unwrap_or(0).to_le_bytes());
        bytes.resize(18 + padding, 0);
        bytes.into()
    }

    /// The command that these bytes are; `None` when they are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let op = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let key = *bytes.get(8)?;
        let conditional = *bytes.get(9)? == 1;
        let expected = u64::from_le_bytes(bytes.get(10..18)?.try_into().ok()?);
        (usize::from(key) < KEYS).then_some(Self { op, key, only_if: conditional.then_some(expected) })
    }

    /// The commands of a value; those of its bytes that are none are left out (the ledger compares the bytes).
    pub fn all(value: &Value) -> impl Iterator<Item = Self> {
        value.commands().filter_map(|bytes| Self::decode(&bytes.ok()?))
    }
}

impl Store {
    /// Applies one decided value and gives the outcome of each of its commands.
    pub fn apply(&mut self, slot: Slot, hash: HistoryHash, value: &Value) -> Vec<Outcome> {
        (self.applied, self.hash) = (slot, hash);
        Command::all(value).map(|command| self.run(&command)).collect()
    }

    /// Runs one command.
    pub fn run(&mut self, command: &Command) -> Outcome {
        let value = &mut self.keys[usize::from(command.key)];
        let before = *value;
        let written = command.only_if.is_none_or(|expected| expected == before);
        if written {
            *value = command.op;
        }
        Outcome { before, written }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_its_bytes_and_runs_only_when_its_condition_holds() {
        let command = Command { op: 9, key: 2, only_if: Some(4) };
        assert_eq!(Command::decode(&command.encode(3)), Some(command));
        assert_eq!(Command::decode(&command.encode(0)[..17]), None);
        let mut store = Store::default();
        assert_eq!(store.run(&command), Outcome { before: 0, written: false });
        assert_eq!(store.run(&Command { op: 4, key: 2, only_if: None }), Outcome { before: 0, written: true });
        assert_eq!(store.run(&command), Outcome { before: 4, written: true });
    }
}
