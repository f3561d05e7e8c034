//! Node ids as plain numbers in JSON, alone or in an `Option` or `Vec`: for `#[serde(with = "numbers")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use trialbay_engine::NodeId;

pub(super) fn serialize<T: Numbered, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.numbers().serialize(serializer)
}

pub(super) fn deserialize<'de, T: Numbered, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::Numbers::deserialize(deserializer).map(T::from_numbers)
}

pub(super) trait Numbered {
    type Numbers: Serialize + for<'de> Deserialize<'de>;
    fn numbers(&self) -> Self::Numbers;
    fn from_numbers(numbers: Self::Numbers) -> Self;
}

impl Numbered for NodeId {
    type Numbers = u16;
    fn numbers(&self) -> u16 {
        self.0
    }
    fn from_numbers(number: u16) -> Self {
        Self(number)
    }
}

impl Numbered for Option<NodeId> {
    type Numbers = Option<u16>;
    fn numbers(&self) -> Option<u16> {
        self.map(|node| node.0)
    }
    fn from_numbers(number: Option<u16>) -> Self {
        number.map(NodeId)
    }
}

impl Numbered for Vec<NodeId> {
    type Numbers = Vec<u16>;
    fn numbers(&self) -> Vec<u16> {
        self.iter().map(|node| node.0).collect()
    }
    fn from_numbers(numbers: Vec<u16>) -> Self {
        numbers.into_iter().map(NodeId).collect()
    }
}
