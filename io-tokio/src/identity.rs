//! Whose files these are.

use std::fmt;

use trialbay_engine::NodeId;

/// A node of a cluster. Written into everything that a node keeps, and checked whenever it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// The node's number.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:?} (id {}) of cluster {:?}", self.name, self.node.0, self.cluster_id)
    }
}
