//! What several clusters that share one key space know of each other: which keys a cluster has, which cluster has which
//! keys, and where the clusters are.

use bytes::Bytes;

use crate::wire::{Malformed, Reader, Writer};

/// Branches within branches. Part of the format, as all limits here are: every node must decode the same.
const ROUTING_DEPTH_MAX: usize = 64;

/// Clusters in one routing.
pub(super) const CLUSTERS_MAX: usize = 10_000;

/// Nodes of one cluster, and addresses of one node, in a [`ClusterConfig`].
pub(crate) const NODES_MAX: usize = 100;
pub(crate) const ADDRESSES_MAX: usize = 100;

/// In front of a cluster's id: the entry that holds its configuration.
pub(super) const CONFIG_PREFIX: &[u8] = b"nursery.cluster.";

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
    pub(super) fn flat(&self) -> Vec<(Bytes, Option<Bytes>)> {
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

fn bounded(len: usize, what: &'static str, max: usize) -> Result<usize, Malformed> {
    if len <= max { Ok(len) } else { Err(too_long(what, len, max)) }
}

pub(super) fn too_long(what: &'static str, len: usize, max: usize) -> Malformed {
    Malformed::TooLong { what, len: len as u64, max: max as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_deep_routing_is_refused() {
        let tower = b"\0\0\0\0\0".repeat(1_000_000);
        assert!(matches!(Routing::decode(&mut Reader(tower.into())), Err(Malformed::TooLong { .. })));
    }
}
