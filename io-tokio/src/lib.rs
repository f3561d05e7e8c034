//! Trialbay: a replicated, ordered key-value store that puts consistency above everything.
//!
//! This crate does for real what `trialbay-engine` decides. With default features it holds the node and the command
//! line; with `default-features = false` it is the client library alone ([`client`]).

#[cfg(feature = "server")]
#[macro_use]
pub mod planted;

#[cfg(feature = "server")]
pub mod backup;
pub mod client;
pub mod config;
pub mod consistency;
mod named;
pub mod update;
pub mod wire;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod disk;
#[cfg(feature = "server")]
pub mod extensions;
#[cfg(feature = "server")]
pub mod head;
#[cfg(feature = "server")]
pub mod home_disk;
#[cfg(feature = "server")]
pub mod identity;
#[cfg(feature = "server")]
pub mod net;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod peer;
#[cfg(feature = "server")]
pub mod read_only;
#[cfg(feature = "server")]
pub mod recorder;
#[cfg(feature = "server")]
pub mod reserve;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod stopped;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
mod tally;
#[cfg(feature = "server")]
pub mod tlog;
#[cfg(feature = "server")]
pub mod watched;
#[cfg(feature = "server")]
pub mod workers;
