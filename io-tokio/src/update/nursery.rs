//! What several clusters that share one key space know of each other: which keys a cluster has, which cluster has which
//! keys, and where the clusters are.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::wire::{Malformed, Reader, Writer};

/// Branches within branches. Part of the format, as all limits here are: every node must decode the same.
const ROUTING_DEPTH_MAX: usize = 64;

/// Clusters in one routing.
const CLUSTERS_MAX: usize = 10_000;

/// All that is kept of this kind, in bytes.
pub const ADMIN_BYTES_MAX: usize = 1 << 20;

/// Nodes of one cluster, and addresses of one node, in a [`ClusterConfig`].
pub(crate) const NODES_MAX: usize = 100;
pub(crate) const ADDRESSES_MAX: usize = 100;

/// In front of a cluster's id: the entry that holds its configuration.
const CONFIG_PREFIX: &[u8] = b"nursery.cluster.";

/// Which keys a cluster has. `None` is no bound; a begin is within, an end is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// The bounds of the keys that clients may ask for.
    pub public: (Option<Bytes>, Option<Bytes>),
    /// The bounds of the keys that are there. It may be larger while keys move from one cluster to another.
    pub private: (Option<Bytes>, Option<Bytes>),
}

/// Which cluster has which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// All of them.
    Cluster(Bytes),
    /// Keys below the separator are on the left, the others on the right.
    Branch {
        /// Where the keys below the separator are.
        left: Box<Routing>,
        /// The first key on the right.
        separator: Bytes,
        /// Where the other keys are.
        right: Box<Routing>,
    },
}

/// Where the nodes of a cluster serve clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The nodes.
    pub nodes: Vec<NodeAddress>,
}

/// Where one node serves clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node's name.
    pub name: Bytes,
    /// Its addresses.
    pub addresses: Vec<Bytes>,
    /// The port on each of them.
    pub port: i32,
}

/// An update of what is kept beside the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NurseryUpdate {
    /// Sets (or deletes, with `None`) an entry that no client sees.
    AdminSet {
        /// Its name.
        key: Bytes,
        /// Its value.
        value: Option<Bytes>,
    },
    /// Says which keys this cluster has.
    SetInterval(Interval),
    /// Says which cluster has which keys.
    SetRouting(Routing),
    /// Moves the border between two clusters, or puts a new one beside another.
    SetRoutingDelta {
        /// The cluster that has the keys below the separator.
        left: Bytes,
        /// The border.
        separator: Bytes,
        /// The cluster that has the keys from the separator on.
        right: Bytes,
    },
}

/// All that is kept beside the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    interval: Interval,
    routing: Option<Routing>,
    entries: BTreeMap<Bytes, Bytes>,
}

impl Interval {
    /// Whether clients may ask for this key.
    pub fn admits(&self, key: &[u8]) -> bool {
        let (begin, end) = &self.public;
        begin.as_ref().is_none_or(|begin| begin.as_ref() <= key) && end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    pub(crate) fn bounds(&self) -> [&Option<Bytes>; 4] {
        [&self.public.0, &self.public.1, &self.private.0, &self.private.1]
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.bounds().iter().for_each(|bound| out.option_string(bound.as_deref()));
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        let public = (reader.option_string()?, reader.option_string()?);
        Ok(Self { public, private: (reader.option_string()?, reader.option_string()?) })
    }
}

impl Routing {
    /// The clusters from left to right, each with the separator behind it.
    fn flat(&self) -> Vec<(Bytes, Option<Bytes>)> {
        match self {
            Self::Cluster(name) => vec![(name.clone(), None)],
            Self::Branch { left, separator, right } => {
                let mut flat = left.flat();
                if let Some(last) = flat.last_mut() {
                    last.1 = Some(separator.clone());
                }
                flat.extend(right.flat());
                flat
            }
        }
    }

    /// A tree of these clusters that is as low as can be.
    fn of(flat: &[(Bytes, Option<Bytes>)]) -> Option<Self> {
        match flat {
            [] => None,
            [(name, _)] => Some(Self::Cluster(name.clone())),
            _ => {
                let (left, right) = flat.split_at(flat.len() / 2);
                let separator = left.last()?.1.clone()?;
                Some(Self::Branch { left: Box::new(Self::of(left)?), separator, right: Box::new(Self::of(right)?) })
            }
        }
    }

    /// With the border between two neighbours moved, or a cluster that is new put beside one that is there.
    fn changed(&self, left: &Bytes, separator: &Bytes, right: &Bytes) -> Result<Self, String> {
        let mut flat = self.flat();
        let place = |name: &Bytes| {
            let mut places = flat.iter().enumerate().filter(|(_, (found, _))| found == name).map(|(place, _)| place);
            match (places.next(), places.next()) {
                (place, None) => Ok(place),
                _ => Err("a cluster that has several parts of the keys cannot be changed like this"),
            }
        };
        match (place(left)?, place(right)?) {
            (Some(at), Some(next)) if next == at + 1 => flat[at].1 = Some(separator.clone()),
            (Some(at), None) => {
                let behind = flat[at].1.replace(separator.clone());
                flat.insert(at + 1, (right.clone(), behind));
            }
            (None, Some(at)) => flat.insert(at, (left.clone(), Some(separator.clone()))),
            (Some(_), Some(_)) => return Err("the two clusters are not neighbours".to_owned()),
            (None, None) => return Err("neither cluster is known".to_owned()),
        }
        let borders: Vec<_> = flat.iter().filter_map(|(_, separator)| separator.as_ref()).collect();
        if !borders.is_sorted_by(|one, next| one < next) {
            return Err("the separator is not between its neighbours".to_owned());
        }
        if flat.len() > CLUSTERS_MAX {
            return Err("there are too many clusters".to_owned());
        }
        Self::of(&flat).ok_or_else(|| "there is no cluster".to_owned())
    }

    pub(crate) fn names_and_separators(&self) -> Vec<Bytes> {
        self.flat().into_iter().flat_map(|(name, separator)| std::iter::once(name).chain(separator)).collect()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Cluster(name) => {
                out.bool(true);
                out.string(name);
            }
            Self::Branch { left, separator, right } => {
                out.bool(false);
                out.string(separator);
                left.encode(out);
                right.encode(out);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        Self::decode_within(reader, ROUTING_DEPTH_MAX, &mut 0)
    }

    fn decode_within(reader: &mut Reader, depth: usize, clusters: &mut usize) -> Result<Self, Malformed> {
        if reader.bool()? {
            *clusters += 1;
            if *clusters > CLUSTERS_MAX {
                return Err(too_long("routing", *clusters, CLUSTERS_MAX));
            }
            return Ok(Self::Cluster(reader.string()?));
        }
        let depth = depth.checked_sub(1).ok_or(too_long("routing", ROUTING_DEPTH_MAX + 1, ROUTING_DEPTH_MAX))?;
        let separator = reader.string()?;
        let left = Box::new(Self::decode_within(reader, depth, clusters)?);
        Ok(Self::Branch { left, separator, right: Box::new(Self::decode_within(reader, depth, clusters)?) })
    }
}

impl ClusterConfig {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        Writer::len(out, self.nodes.len());
        for NodeAddress { name, addresses, port } in &self.nodes {
            out.string(name);
            Writer::len(out, addresses.len());
            addresses.iter().for_each(|address| out.string(address));
            out.i32(*port);
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        let count = bounded(reader.length()?, "list of nodes", NODES_MAX)?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            let name = reader.string()?;
            let count = bounded(reader.length()?, "list of addresses", ADDRESSES_MAX)?;
            let addresses: Result<_, _> = (0..count).map(|_| reader.string()).collect();
            nodes.push(NodeAddress { name, addresses: addresses?, port: reader.i32()? });
        }
        Ok(Self { nodes })
    }
}

impl NurseryUpdate {
    /// Sets the configuration of a cluster.
    pub fn set_config(cluster_id: &[u8], config: &ClusterConfig) -> Self {
        let mut value = Vec::new();
        config.encode(&mut value);
        Self::AdminSet { key: Bytes::from([CONFIG_PREFIX, cluster_id].concat()), value: Some(value.into()) }
    }
}

impl Admin {
    /// Which keys this cluster has; all, until it is told.
    pub fn interval(&self) -> &Interval {
        &self.interval
    }

    /// Which cluster has which keys.
    pub fn routing(&self) -> Option<&Routing> {
        self.routing.as_ref()
    }

    /// The configurations of clusters, by their ids. Entries that are none are left out.
    pub fn configs(&self) -> impl Iterator<Item = (&[u8], ClusterConfig)> {
        let with_prefix = self.entries.range(Bytes::from_static(CONFIG_PREFIX)..);
        with_prefix
            .map_while(|(key, value)| Some((key.strip_prefix(CONFIG_PREFIX)?, value)))
            .filter_map(|(id, value)| ClusterConfig::decode(&mut Reader(value.clone())).ok().map(|config| (id, config)))
    }

    /// Does an update.
    ///
    /// # Errors
    /// When it makes no sense here; nothing is changed then.
    pub(crate) fn update(&mut self, update: &NurseryUpdate) -> Result<(), String> {
        let mut changed = self.clone();
        match update {
            NurseryUpdate::AdminSet { key, value: Some(value) } => {
                changed.entries.insert(key.clone(), value.clone());
            }
            NurseryUpdate::AdminSet { key, value: None } => {
                changed.entries.remove(key);
            }
            NurseryUpdate::SetInterval(interval) => changed.interval = interval.clone(),
            NurseryUpdate::SetRouting(routing) => changed.routing = Some(routing.clone()),
            NurseryUpdate::SetRoutingDelta { left, separator, right } => {
                let routing = self.routing.as_ref().ok_or("there is no routing yet")?;
                changed.routing = Some(routing.changed(left, separator, right)?);
            }
        }
        let len = changed.encode().len();
        if len > ADMIN_BYTES_MAX {
            return Err(format!("{len} bytes beside the keys are over the limit of {ADMIN_BYTES_MAX}"));
        }
        *self = changed;
        Ok(())
    }

    /// The bytes that the store and heads keep: interval, routing if there is one (bool first), entries (count first).
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.interval.encode(&mut out);
        out.bool(self.routing.is_some());
        if let Some(routing) = &self.routing {
            routing.encode(&mut out);
        }
        Writer::len(&mut out, self.entries.len());
        for (key, value) in &self.entries {
            out.string(key);
            out.string(value);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(Bytes::copy_from_slice(bytes));
        let interval = Interval::decode(&mut reader)?;
        let routing = if reader.bool()? { Some(Routing::decode(&mut reader)?) } else { None };
        let count = reader.length()?;
        let entries: Result<_, Malformed> = (0..count).map(|_| Ok((reader.string()?, reader.string()?))).collect();
        let entries = entries?;
        let (len, max) = (reader.0.len(), 0);
        if len > 0 { Err(too_long("record", len, max)) } else { Ok(Self { interval, routing, entries }) }
    }
}

fn bounded(len: usize, what: &'static str, max: usize) -> Result<usize, Malformed> {
    if len <= max { Ok(len) } else { Err(too_long(what, len, max)) }
}

fn too_long(what: &'static str, len: usize, max: usize) -> Malformed {
    Malformed::TooLong { what, len: len as u64, max: max as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(names: &str) -> Routing {
        let flat: Vec<_> = names.split(' ').map(|part| Bytes::copy_from_slice(part.as_bytes())).collect();
        let pairs: Vec<_> = flat.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned())).collect();
        Routing::of(&pairs).unwrap()
    }

    #[test]
    fn a_delta_moves_a_border_or_adds_a_neighbour_and_nothing_else() {
        for (before, delta, after) in [
            ("a k b", "a m b", Ok("a m b")),
            ("a", "a m b", Ok("a m b")),
            ("b", "a m b", Ok("a m b")),
            ("a k b p c", "b m x", Ok("a k b m x p c")),
            ("a k b p c", "x m c", Err("the separator is not between its neighbours")),
            ("a k b p c", "x q c", Ok("a k b p x q c")),
            ("a k b p c", "a q b", Err("the separator is not between its neighbours")),
            ("a k b p c", "a m c", Err("the two clusters are not neighbours")),
            ("a k b", "b m a", Err("the two clusters are not neighbours")),
            ("a k b", "x m y", Err("neither cluster is known")),
            ("a k b p a", "a m x", Err("a cluster that has several parts of the keys cannot be changed like this")),
        ] {
            let [left, separator, right] =
                std::array::from_fn(|at| Bytes::copy_from_slice(delta.split(' ').nth(at).unwrap().as_bytes()));
            let changed = routing(before).changed(&left, &separator, &right);
            assert_eq!(changed, after.map(routing).map_err(str::to_owned), "{before}: {delta}");
        }
    }

    #[test]
    fn an_interval_has_its_begin_and_not_its_end() {
        let key = |text: &'static str| Some(Bytes::from(text));
        let interval = Interval { public: (key("b"), key("d")), ..Interval::default() };
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|key| interval.admits(key.as_bytes())),
            [false, true, true, false, false]
        );
        assert!(Interval::default().admits(b""));
    }

    #[test]
    fn what_is_kept_survives_its_bytes_and_is_bounded() {
        let mut admin = Admin::default();
        assert_eq!(Admin::decode(&admin.encode()), Ok(admin.clone()));
        let address = NodeAddress { name: "n1".into(), addresses: vec!["10.0.0.1".into(), "::1".into()], port: 4000 };
        let config = ClusterConfig { nodes: vec![address] };
        let interval = Interval { public: (Some("b".into()), None), private: (None, Some("d".into())) };
        for update in [
            NurseryUpdate::SetInterval(interval),
            NurseryUpdate::SetRouting(routing("a k b p c")),
            NurseryUpdate::set_config(b"a", &config),
            NurseryUpdate::AdminSet { key: "nursery.cluster.odd".into(), value: Some("no config".into()) },
        ] {
            admin.update(&update).unwrap();
        }
        let bytes = admin.encode();
        assert_eq!(Admin::decode(&bytes), Ok(admin.clone()));
        for len in 0..bytes.len() {
            assert!(Admin::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(Admin::decode(&[&bytes[..], b"x"].concat()).is_err());
        assert_eq!(admin.configs().collect::<Vec<_>>(), [(&b"a"[..], config)]);
        let large = NurseryUpdate::AdminSet { key: "k".into(), value: Some(vec![0; ADMIN_BYTES_MAX].into()) };
        let before = admin.clone();
        assert!(admin.update(&large).is_err());
        assert_eq!(admin, before);
    }

    #[test]
    fn a_deep_routing_is_refused() {
        let tower = b"\0\0\0\0\0".repeat(1_000_000);
        assert!(matches!(Routing::decode(&mut Reader(tower.into())), Err(Malformed::TooLong { .. })));
    }
}
