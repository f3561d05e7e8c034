//! What a client of a scenario asks for, as people write it.
//!
//! ```text
//! set k1            writes a value that names the operation
//! cas k1            test-and-set: expects what some store holds just now
//! replace k1        writes, and is told the value before
//! delete k1         fails when there is no such key
//! pair k1 k2        both or neither, if both exist or neither does
//! clear k           deletes all keys with this prefix
//! get k1            a consistent read by the lease
//! quorum-get k1     a consistent read by a quorum round
//! relaxed-get k1    whatever the node has
//! at-least-get k1   what a node has that is as far as the furthest one was just now, or nearly
//! range k1 k4       all entries from one key to the other, both included, by the lease
//! quorum-range k1 k4
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const VERBS: [(&str, Verb, usize); 12] = [
    ("set", Verb::Set, 1),
    ("cas", Verb::Cas, 1),
    ("replace", Verb::Replace, 1),
    ("delete", Verb::Delete, 1),
    ("pair", Verb::Pair, 2),
    ("clear", Verb::Clear, 1),
    ("get", Verb::Get, 1),
    ("quorum-get", Verb::QuorumGet, 1),
    ("relaxed-get", Verb::RelaxedGet, 1),
    ("at-least-get", Verb::AtLeastGet, 1),
    ("range", Verb::Range, 2),
    ("quorum-range", Verb::QuorumRange, 2),
];

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Writes a value that names the operation.
    Set,
    /// Test-and-set: expects what some store holds just now.
    Cas,
    /// Writes, and is told the value before.
    Replace,
    /// Fails when there is no such key.
    Delete,
    /// Writes both keys, if both exist or neither does.
    Pair,
    /// Deletes all keys with a prefix.
    Clear,
    /// A consistent read by the lease.
    Get,
    /// A consistent read by a quorum round.
    QuorumGet,
    /// A read of whatever the node has.
    RelaxedGet,
    /// A read of what a node has that is as far as the furthest one was just now, or nearly.
    AtLeastGet,
    /// All entries from one key to the other, by the lease.
    Range,
    /// The same by a quorum round.
    QuorumRange,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Request {
    /// Its kind.
    pub verb: Verb,
    /// One key or two, as the kind wants.
    pub keys: Vec<String>,
}

impl FromStr for Request {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let known = VERBS.iter().find(|(name, ..)| *name == verb);
        let Some((_, verb, count)) = known else {
            let names: Vec<&str> = VERBS.iter().map(|(name, ..)| *name).collect();
            return Err(format!("`{verb}` is nothing to ask for: {}", names.join(", ")));
        };
        let keys: Vec<String> = words.map(str::to_owned).collect();
        if keys.len() != *count {
            return Err(format!("`{text}` has {} keys and needs {count}", keys.len()));
        }
        Ok(Self { verb: *verb, keys })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = VERBS.iter().find(|(_, verb, _)| *verb == self.verb).map_or("", |(name, ..)| name);
        write!(f, "{name} {}", self.keys.join(" "))
    }
}

impl TryFrom<String> for Request {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Request> for String {
    fn from(request: Request) -> Self {
        request.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_their_text_and_others_are_refused() {
        for (name, _, count) in VERBS {
            let text = if count == 1 { format!("{name} k1") } else { format!("{name} k1 k2") };
            assert_eq!(text.parse::<Request>().map(|request| request.to_string()), Ok(text));
        }
        for wrong in ["", "set", "set a b", "put a", "range a"] {
            assert!(wrong.parse::<Request>().is_err(), "{wrong}");
        }
    }
}
