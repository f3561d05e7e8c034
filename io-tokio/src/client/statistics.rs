//! What a node has measured of the requests that it served.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::named::{Field, FieldValue};
use crate::wire::{Malformed, Reader};

/// What a node has measured since it started (on the original's nodes: since it last reset them).
///
/// Names are those of the client protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// When counting began, in seconds since 1970.
    pub start: f64,
    /// When the last request was done that counts (on Trialbay's nodes: when they answered), in seconds since 1970.
    pub last: f64,
    /// Mean sizes by name, as `avg_set_size`: bytes of values for `set` and `get`, keys for the others.
    pub averages: BTreeMap<String, f64>,
    /// How long requests took in seconds, by name, as `get_info`; `harvest_stats` has updates per batch, `op_info` all
    /// requests together.
    pub series: BTreeMap<String, SeriesView>,
    /// The node's memory by name: `mem_allocated` (in use) and `mem_maxrss` (the most so far) in KiB.
    pub memory: BTreeMap<String, f64>,
    /// The last slot that each node is known to have, by the node's name.
    pub node_is: BTreeMap<String, i64>,
}

/// How a series of measurements is distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SeriesView {
    /// How many there are.
    pub n: i32,
    /// The smallest; of none the largest number that there is.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The sum of the squares of the distances from the mean.
    pub m2: f64,
    /// The mean.
    pub avg: f64,
    /// The variance.
    pub var: f64,
}

impl Statistics {
    /// Reads the payload of a reply. Fields are found by name; those that nobody knows are left out.
    pub(crate) fn decode(bytes: &mut Reader) -> Result<Self, Malformed> {
        let FieldValue::List(fields) = Field::decode(bytes)?.value else {
            return Err(Malformed::UnknownTag { what: "statistics", tag: 0 });
        };
        let mut statistics = Self::default();
        for Field { name, value } in fields {
            match (name.as_str(), value) {
                ("start", FieldValue::Float(at)) => statistics.start = at,
                ("last", FieldValue::Float(at)) => statistics.last = at,
                (memory, FieldValue::Float(size)) if memory.starts_with("mem_") => {
                    statistics.memory.insert(name, size);
                }
                (_, FieldValue::Int(number)) => {
                    statistics.memory.insert(name, number.into());
                }
                (_, FieldValue::Float(mean)) => {
                    statistics.averages.insert(name, mean);
                }
                ("node_is", FieldValue::List(nodes)) => {
                    for node in nodes {
                        if let FieldValue::Long(slot) = node.value {
                            statistics.node_is.insert(node.name, slot);
                        }
                    }
                }
                (_, FieldValue::List(parts)) => {
                    statistics.series.insert(name, SeriesView::of(&parts));
                }
                (_, FieldValue::Long(_) | FieldValue::Text(_)) => {}
            }
        }
        Ok(statistics)
    }
}

impl SeriesView {
    fn of(parts: &[Field]) -> Self {
        let mut view = Self::default();
        for part in parts {
            match (part.name.as_str(), &part.value) {
                ("n", FieldValue::Int(n)) => view.n = *n,
                ("min", FieldValue::Float(min)) => view.min = *min,
                ("max", FieldValue::Float(max)) => view.max = *max,
                ("m2", FieldValue::Float(m2)) => view.m2 = *m2,
                ("avg", FieldValue::Float(avg)) => view.avg = *avg,
                ("var", FieldValue::Float(var)) => view.var = *var,
                _ => {}
            }
        }
        view
    }
}
