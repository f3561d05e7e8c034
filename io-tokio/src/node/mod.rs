//! A node: the engine and everything around it.

pub mod handle;
pub mod home;

pub use handle::{NodeHandle, NodeStatus, PeerView, ReadRefused, UpdateRefused};
