//! The configuration of a cluster: one TOML file that its nodes and clients share.
//!
//! ```toml
//! cluster_id = "prod"
//!
//! [[node]]
//! name = "n1"
//! id = 1                            # 1 to 65535, unique, never reused: ballots carry it
//! client = "10.0.0.1:4000"          # host:port that clients use
//! peer = "10.0.0.1:4001"            # host:port that the other nodes use
//! home = "/var/lib/trialbay/n1"     # where this node keeps its files; clients need none
//! ```
//!
//! Beside these there are, with their defaults: `lease_ms = 800`, `clock_drift_ppm = 10000`, `reads = "lease"`,
//! `disk_reserve_mib = 256`, `log_segment_mib = 64`, `log_retention_mib = 1024`, `log_compression = true`, `recorder = false`, `recorder_mib = 64`, `read_only = false` and a section `[limits]` (see [`Limits`]); and for a node `client_listen` and `peer_listen`, the addresses to listen on
//! where they differ from those that others use, `role = "data"` (see [`NodeRole`]) and `preferred = false`. The settings outside `[[node]]` can be overridden ([`Overrides`]).

mod mistake;
mod overrides;
mod read;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use mistake::{ConfigErrors, Mistake, Place};
pub use overrides::{Overrides, unknown_variables};

use crate::update;

/// A configuration file larger than this is refused unread.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The most nodes a cluster may have.
pub const NODES_MAX: usize = 7;

/// What the nodes and clients of a cluster must know of it. Has passed every check of [`Config::load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Tells clusters apart: a node or client of another cluster is refused.
    pub cluster_id: String,
    /// How long a slave that granted a lease refuses other candidates.
    pub lease: Duration,
    /// The bound on clock rates, in millionths: every node's clock runs at a rate within 1 ± this.
    pub clock_drift_ppm: u32,
    /// How `Consistent` reads are made safe.
    pub reads: Reads,
    /// How many MiB of its disk a node does not fill: with less, it takes no updates but deletes.
    pub disk_reserve_mib: u64,
    /// How many MiB a segment of a log has; an eighth of what is kept, where that is less.
    pub log_segment_mib: u64,
    /// How many MiB of its log each node keeps although its store has passed it, for others that are behind.
    pub log_retention_mib: u64,
    /// Whether closed segments of logs are compressed.
    pub log_compression: bool,
    /// Whether nodes record what their engines are told, to be replayed after an incident.
    pub recorder: bool,
    /// How many MiB of it each keeps.
    pub recorder_mib: u64,
    /// Whether nodes refuse all updates of clients.
    pub read_only: bool,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// All nodes, in the order of the file; 1 to 7.
    pub nodes: Vec<NodeConfig>,
}

/// One node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Unique in the cluster.
    pub name: String,
    /// Unique in the cluster, not 0, and never given to another node later.
    pub id: u16,
    /// `host:port` that clients use.
    pub client: String,
    /// `host:port` that the other nodes use.
    pub peer: String,
    /// `host:port` to listen on for clients, where it differs from `client`.
    pub client_listen: Option<String>,
    /// `host:port` to listen on for other nodes, where it differs from `peer`.
    pub peer_listen: Option<String>,
    /// What it does in the cluster.
    pub role: NodeRole,
    /// Whether it is to be master rather than nodes of which this is not true.
    pub preferred: bool,
    /// Where the node keeps its files. A relative path in a file starts at that file's directory.
    pub home: Option<PathBuf>,
}

/// What a node does in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeRole {
    /// Votes, keeps the data, and may be master.
    #[default]
    Data,
    /// Keeps the data without a vote: for reads elsewhere, and for nodes that are to vote later.
    Learner,
    /// Votes and keeps the log without the data: for a third place.
    Witness,
}

/// How `Consistent` reads are made safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// By the lease: no round trip, and clocks that keep the drift bound.
    #[default]
    Lease,
    /// By a quorum round for each batch of reads: trusts no clock.
    Quorum,
}

/// What clients may send, and how many of them there may be. What is beyond is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `key_bytes_max`, `value_bytes_max` and `update_bytes_max`.
    pub updates: update::Limits,
    /// Connections of clients that a node serves at a time.
    pub connections_max: usize,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// All mistakes in it at once, each with its line and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_with(path, &Overrides::default())
    }

    /// Reads a configuration file in which some settings are overridden.
    ///
    /// # Errors
    /// As [`Config::load`]; mistakes in overrides are named too.
    pub fn load_with(path: &Path, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        let text = read_text(path).map_err(|why| ConfigErrors::unreadable(path, why))?;
        let base = path.parent().unwrap_or(Path::new(""));
        read::config(&text, base, overrides).map_err(|mistakes| ConfigErrors::new(path, mistakes))
    }

    /// A cluster of `nodes` on this machine, as `trialbay dev` runs it: cluster id `dev`, names n1, n2 and so on; node
    /// `i` (from 0) has client port `base_port + 10 i`, the peer port after that, and its home in `data`.
    ///
    /// # Errors
    /// When there would be no node or more than 7, or when a port would be 0 or above 65535.
    pub fn dev(base_port: u16, nodes: usize, data: &Path) -> Result<Self, DevRefused> {
        if nodes == 0 || nodes > NODES_MAX {
            return Err(DevRefused::Nodes(nodes));
        }
        let node = |index: u16| {
            let client = base_port.checked_add(index * 10)?;
            let peer = client.checked_add(1)?;
            Some(NodeConfig {
                name: format!("n{}", index + 1),
                id: index + 1,
                client: format!("127.0.0.1:{client}"),
                peer: format!("127.0.0.1:{peer}"),
                client_listen: None,
                peer_listen: None,
                role: NodeRole::Data,
                preferred: false,
                home: Some(data.join(format!("n{}", index + 1))),
            })
        };
        let indices = 0..u16::try_from(nodes).expect("at most 7");
        let nodes = indices.map(node).collect::<Option<Vec<_>>>().filter(|_| base_port != 0);
        Ok(Self {
            cluster_id: "dev".to_owned(),
            lease: Duration::from_millis(rules::LEASE_MS.default),
            clock_drift_ppm: u32::try_from(rules::CLOCK_DRIFT_PPM.default).expect("a small constant"),
            reads: Reads::default(),
            disk_reserve_mib: rules::DISK_RESERVE_MIB.default,
            log_segment_mib: rules::LOG_SEGMENT_MIB.default,
            log_retention_mib: rules::LOG_RETENTION_MIB.default,
            log_compression: true,
            recorder: false,
            recorder_mib: rules::RECORDER_MIB.default,
            read_only: false,
            limits: Limits::default(),
            nodes: nodes.ok_or(DevRefused::BasePort(base_port))?,
        })
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// How many nodes may fail, whichever they are, while the others go on: a majority of the voters must be left, and one
    /// of them with the data.
    pub fn failures_survivable(&self) -> usize {
        let count = |role| self.nodes.iter().filter(|node| node.role == role).count();
        let (data, witnesses) = (count(NodeRole::Data), count(NodeRole::Witness));
        ((data + witnesses).saturating_sub(1) / 2).min(data.saturating_sub(1))
    }

    /// A file that loads as this configuration, with every setting written out.
    pub fn to_toml(&self) -> String {
        let text = |text: &str| toml::Value::String(text.to_owned());
        let mut out = String::new();
        let reads = match self.reads {
            Reads::Lease => "lease",
            Reads::Quorum => "quorum",
        };
        let Limits { updates, connections_max } = self.limits;
        let update::Limits { key_bytes_max, value_bytes_max, update_bytes_max } = updates;
        let _ = write!(
            out,
            "cluster_id = {}\nlease_ms = {}\nclock_drift_ppm = {}\nreads = \"{reads}\"\n\
             disk_reserve_mib = {}\nlog_segment_mib = {}\nlog_retention_mib = {}\nlog_compression = {}\n\
             recorder = {}\nrecorder_mib = {}\nread_only = {}\n\n[limits]\n\
             key_bytes_max = {key_bytes_max}\nvalue_bytes_max = {value_bytes_max}\n\
             update_bytes_max = {update_bytes_max}\nconnections_max = {connections_max}\n",
            text(&self.cluster_id),
            self.lease.as_millis(),
            self.clock_drift_ppm,
            self.disk_reserve_mib,
            self.log_segment_mib,
            self.log_retention_mib,
            self.log_compression,
            self.recorder,
            self.recorder_mib,
            self.read_only,
        );
        for node in &self.nodes {
            let _ = write!(
                out,
                "\n[[node]]\nname = {}\nid = {}\nrole = \"{}\"\npreferred = {}\n",
                text(&node.name),
                node.id,
                node.role.name(),
                node.preferred
            );
            let home = node.home.as_ref().map(|home| home.to_string_lossy().into_owned());
            let rest = [
                ("client", Some(&node.client)),
                ("peer", Some(&node.peer)),
                ("client_listen", node.client_listen.as_ref()),
                ("peer_listen", node.peer_listen.as_ref()),
                ("home", home.as_ref()),
            ];
            for (key, value) in rest {
                if let Some(value) = value {
                    let _ = writeln!(out, "{key} = {}", text(value));
                }
            }
        }
        out
    }
}

impl NodeConfig {
    /// Where to listen for clients.
    pub fn client_listen(&self) -> &str {
        self.client_listen.as_deref().unwrap_or(&self.client)
    }

    /// Where to listen for other nodes.
    pub fn peer_listen(&self) -> &str {
        self.peer_listen.as_deref().unwrap_or(&self.peer)
    }
}

impl NodeRole {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Data, Self::Learner, Self::Witness];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Learner => "learner",
            Self::Witness => "witness",
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let connections_max = usize::try_from(rules::CONNECTIONS_MAX.default).expect("a small constant");
        Self { updates: update::Limits::default(), connections_max }
    }
}

/// Why there can be no such dev cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DevRefused {
    /// Too few or too many nodes.
    #[error("a cluster has 1 to 7 nodes, not {0}: 3 survive one failure, 5 survive two")]
    Nodes(usize),
    /// The ports do not fit.
    #[error("base port {0} leaves no room for the ports of all nodes below 65536: choose one from 1 to 65000")]
    BasePort(u16),
}

fn read_text(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes: this cannot be a configuration file"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text: this cannot be a configuration file".to_owned())
}
