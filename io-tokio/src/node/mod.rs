//! A node: the engine and everything around it.

pub mod handle;

pub use handle::{NodeHandle, NodeStatus, PeerView, ReadRefused, UpdateRefused};
