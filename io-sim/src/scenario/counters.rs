//! What a run of the core world counts, by the names that `run` prints and that scenarios ask for.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// All names, sorted.
pub const COUNTERS: [&str; 57] = [
    "at-least reads",
    "births",
    "canvass messages",
    "clients gave up",
    "clogs",
    "cuts",
    "damaged logs",
    "damages",
    "deaths after a head",
    "deaths between actions",
    "disk failures",
    "drops done",
    "drops refused",
    "drops without a successor",
    "fetches",
    "full disks",
    "gaps",
    "head transfers",
    "heads installed",
    "kills",
    "lease reads",
    "log ends lost",
    "log reads",
    "logs collapsed",
    "logs gone",
    "logs trimmed",
    "masters",
    "masterships lost",
    "messages",
    "messages lost",
    "naks",
    "operations checked",
    "other messages",
    "outcomes unknown",
    "pauses",
    "power cuts",
    "prepare messages",
    "quorum reads",
    "reads of a node not far enough",
    "reads served",
    "recall messages",
    "refusals",
    "relaxed reads",
    "resign messages",
    "segments compressed",
    "slots",
    "slow disks",
    "stale copies",
    "starts",
    "starts on a failing disk",
    "stops",
    "torn tails",
    "total power cuts",
    "unknown responses",
    "updates acknowledged",
    "votes regained",
    "wipes",
];

/// Whether something of this name is counted.
pub fn is_counted(name: &str) -> bool {
    COUNTERS.binary_search(&name).is_ok()
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if is_counted(&name) {
            return Ok(Self(name));
        }
        Err(format!("nothing is counted as `{name}`: there are {}", COUNTERS.join(", ")))
    }
}

/// Reads how often something must or may happen. A name of something that is not counted is refused.
pub(super) fn counts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let counts = BTreeMap::<Name, u64>::deserialize(from)?;
    Ok(counts.into_iter().map(|(name, count)| (name.0, count)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_sorted() {
        assert!(COUNTERS.is_sorted());
    }
}
