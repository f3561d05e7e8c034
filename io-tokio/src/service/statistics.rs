//! STATISTICS: what this node has measured of the requests that it served, in the original's layout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trialbay_engine::Instant;

use super::reply::Reply;
use crate::named::{Field, FieldValue};
use crate::node::{NodeHandle, NodeStatus};
use crate::tally::{Series, Totals};

/// The kinds of requests that are measured, in the order in which their series are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Set,
    Get,
    Delete,
    Sequence,
    MultiGet,
    MultiGetOption,
    TestAndSet,
    Replace,
    Range,
    RangeEntries,
    RevRangeEntries,
    Prefix,
    DeletePrefix,
}

/// The names of their series.
const SERIES: [&str; 13] = [
    "set_info",
    "get_info",
    "del_info",
    "seq_info",
    "mget_info",
    "mget_option_info",
    "tas_info",
    "replace_info",
    "range_info",
    "range_entries_info",
    "rev_range_entries_info",
    "prefix_info",
    "delete_prefix_info",
];

/// The mean sizes, in the order in which they are sent.
const SIZES: [(&str, Kind); 7] = [
    ("avg_set_size", Kind::Set),
    ("avg_get_size", Kind::Get),
    ("avg_range_size", Kind::Range),
    ("avg_range_entries_size", Kind::RangeEntries),
    ("avg_rev_range_entries_size", Kind::RevRangeEntries),
    ("avg_prefix_size", Kind::Prefix),
    ("avg_del_prefix_size", Kind::DeletePrefix),
];

/// What one connection has measured. It alone writes it.
#[derive(Debug, Default)]
pub(crate) struct Counters([Series; SERIES.len()]);

/// What all connections of a service have measured.
pub(crate) struct Statistics {
    since: Instant,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    open: Vec<Arc<Counters>>,
    /// Of those that have ended.
    ended: [Totals; SERIES.len()],
}

/// The counters of an open connection. They are kept when it ends.
pub(crate) struct Counting {
    statistics: Arc<Statistics>,
    counters: Arc<Counters>,
}

impl Kind {
    /// The kind of a command, if it is measured.
    pub(crate) fn of_command(code: u16) -> Option<Self> {
        Some(match code {
            0x08 => Self::Get,
            0x09 => Self::Set,
            0x0a => Self::Delete,
            0x0b => Self::Range,
            0x0c => Self::Prefix,
            0x0d => Self::TestAndSet,
            0x0f => Self::RangeEntries,
            0x10 | 0x24 => Self::Sequence,
            0x11 => Self::MultiGet,
            0x23 => Self::RevRangeEntries,
            0x27 => Self::DeletePrefix,
            0x31 => Self::MultiGetOption,
            0x33 => Self::Replace,
            _ => return None,
        })
    }
}

impl Counters {
    /// A request of this kind was done: it took so long and had so large a subject.
    pub(crate) fn record(&self, kind: Kind, took: Duration, size: u32) {
        self.0[kind as usize].record(took.as_secs_f64(), size);
    }
}

impl Statistics {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, connections: Mutex::default() }
    }

    /// Counters for a new connection.
    pub(crate) fn join(self: &Arc<Self>) -> Counting {
        let counters = Arc::new(Counters::default());
        self.lock().open.push(Arc::clone(&counters));
        Counting { statistics: Arc::clone(self), counters }
    }

    /// The reply to STATISTICS.
    pub(crate) async fn reply(&self, handle: &NodeHandle) -> Option<Reply> {
        let status = handle.status().await?;
        let uptime = handle.now().since(self.since);
        let field = fields(uptime, &self.totals(), &handle.harvest(), Memory::of_this_process(), &status);
        let mut bytes = Vec::with_capacity(4_096);
        field.encode(&mut bytes);
        Some(Reply::string(&bytes))
    }

    fn totals(&self) -> [Totals; SERIES.len()] {
        let connections = self.lock();
        let mut totals = connections.ended;
        connections.open.iter().for_each(|counters| counters.add_to(&mut totals));
        totals
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing under the lock panics.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn add_to(&self, totals: &mut [Totals; SERIES.len()]) {
        for (total, series) in totals.iter_mut().zip(&self.0) {
            total.add(&series.totals());
        }
    }
}

impl std::ops::Deref for Counting {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let mut connections = self.statistics.lock();
        self.counters.add_to(&mut connections.ended);
        connections.open.retain(|open| !Arc::ptr_eq(open, &self.counters));
    }
}

/// The memory of this process in KiB; 0 where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    now: u32,
    most: u32,
}

impl Memory {
    fn of_this_process() -> Self {
        std::fs::read_to_string("/proc/self/status").map_or(Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Self { now: kib("VmRSS").unwrap_or(0), most: kib("VmHWM").unwrap_or(0) }
    }
}

/// Everything, in the original's order: its own client finds fields by their position.
fn fields(
    uptime: Duration,
    totals: &[Totals; SERIES.len()],
    harvest: &Totals,
    memory: Memory,
    status: &NodeStatus,
) -> Field {
    let float = |name: &str, value: f64| field(name, FieldValue::Float(value));
    let int = |name: &str, value: u32| field(name, FieldValue::Int(i32::try_from(value).unwrap_or(i32::MAX)));
    let mut all = Totals::default();
    totals.iter().for_each(|total| all.add(total));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();

    let mut fields = vec![float("start", now - uptime.as_secs_f64()), float("last", now)];
    fields.extend(SIZES.map(|(name, kind)| float(name, totals[kind as usize].mean_size())));
    fields.push(series("harvest_stats", harvest));
    fields.extend(SERIES.iter().zip(totals).map(|(name, total)| series(name, total)));
    fields.push(series("op_info", &all));
    fields.push(float("mem_allocated", memory.now.into()));
    fields.push(int("mem_maxrss", memory.most));
    // There is no garbage collector.
    fields.extend(["mem_minor_collections", "mem_major_collections", "mem_compactions"].map(|name| int(name, 0)));
    fields.push(field("node_is", FieldValue::List(node_slots(status))));
    field("arakoon_stats", FieldValue::List(fields))
}

fn series(name: &str, total: &Totals) -> Field {
    let float = |name: &str, value: f64| field(name, FieldValue::Float(value));
    let parts = vec![
        field("n", FieldValue::Int(i32::try_from(total.count).unwrap_or(i32::MAX))),
        float("min", if total.count == 0 { f64::MAX } else { total.min }),
        float("max", total.max),
        float("m2", total.m2()),
        float("avg", total.mean()),
        float("var", total.variance()),
    ];
    field(name, FieldValue::List(parts))
}

/// How far each node is, as far as this one knows: itself, and on a master all others.
fn node_slots(status: &NodeStatus) -> Vec<Field> {
    let peers = status.peers.iter().map(|peer| (&peer.node, peer.accepted_upto));
    let all = std::iter::once((&status.node, status.accepted_upto)).chain(peers);
    all.map(|(name, slot)| field(name, FieldValue::Long(i64::try_from(slot).unwrap_or(i64::MAX)))).collect()
}

fn field(name: &str, value: FieldValue) -> Field {
    Field { name: name.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::PeerView;

    #[test]
    fn the_fields_are_those_of_the_original_in_its_order() {
        let totals = [Totals::default(); SERIES.len()];
        let status = NodeStatus {
            node: "n1".to_owned(),
            accepted_upto: 7,
            peers: vec![PeerView { node: "n2".to_owned(), accepted_upto: 6, ..PeerView::default() }],
            ..NodeStatus::default()
        };
        let whole = fields(Duration::from_secs(1), &totals, &Totals::default(), Memory::default(), &status);
        let FieldValue::List(parts) = whole.value else { panic!("it is a list") };
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        let expected = "start last avg_set_size avg_get_size avg_range_size avg_range_entries_size \
             avg_rev_range_entries_size avg_prefix_size avg_del_prefix_size harvest_stats set_info get_info del_info \
             seq_info mget_info mget_option_info tas_info replace_info range_info range_entries_info \
             rev_range_entries_info prefix_info delete_prefix_info op_info mem_allocated mem_maxrss \
             mem_minor_collections mem_major_collections mem_compactions node_is";
        assert_eq!(names.join(" "), expected);
        let kinds = |part: &Field| match &part.value {
            FieldValue::List(parts) if part.name != "node_is" => parts.iter().map(|part| part.name.clone()).collect(),
            _ => vec![],
        };
        assert!(parts.iter().map(kinds).all(|names| matches!(names.join(" ").as_str(), "" | "n min max m2 avg var")));
        let slots = vec![field("n1", FieldValue::Long(7)), field("n2", FieldValue::Long(6))];
        assert_eq!(parts.last().unwrap().value, FieldValue::List(slots));
        assert_eq!(series("x", &Totals::default()), parts[9].clone().named("x"));
    }

    impl Field {
        fn named(self, name: &str) -> Self {
            field(name, self.value)
        }
    }

    #[test]
    fn what_a_connection_measured_outlives_it() {
        let statistics = Arc::new(Statistics::new(Instant(1)));
        let (first, second) = (statistics.join(), statistics.join());
        first.record(Kind::Get, Duration::from_millis(2), 10);
        second.record(Kind::Get, Duration::from_millis(4), 30);
        drop(first);
        assert_eq!(statistics.lock().open.len(), 1);
        let get = statistics.totals()[Kind::Get as usize];
        assert_eq!((get.count, get.min, get.max, get.mean_size()), (2, 0.002, 0.004, 20.0));
        assert_eq!(statistics.totals()[Kind::Set as usize], Totals::default());
    }

    #[test]
    fn memory_is_read_from_the_system_or_not_at_all() {
        let text = "Name:\ttrialbay\nVmHWM:\t  123456 kB\nVmRSS:\t   99 kB\n";
        assert_eq!(Memory::parse(text), Memory { now: 99, most: 123_456 });
        assert_eq!(Memory::parse("VmRSS: many"), Memory::default());
    }
}
