//! A node: the engine and everything around it.
//!
//! ```text
//! clients -> service -> NodeHandle -> driver (owns the engine) -> peers
//!                           |            |        |
//!                        snapshots    tlog thread  store thread
//! ```

mod driver;
mod error;
pub mod handle;
mod heads;
pub mod home;
mod leftovers;
mod options;
mod role_store;
pub(crate) mod room;
pub(crate) mod serving;
mod standing;
mod start;
mod surroundings;
mod voters;

pub use error::NodeError;
pub use handle::{
    DropRefused, HeadView, LogView, MaintenanceRefused, NodeHandle, NodeStatus, PeerView, ReadRefused, UpdateRefused,
};
pub use options::{NodeOptions, Roles};
pub use start::{RunningNode, run};
pub use surroundings::Surroundings;
