//! The protocol, tested through the engine's public face alone: events in, actions out.
//!
//! `dialogues` are whole conversations of a cluster, as text that a reviewer reads; the other modules enumerate one
//! family of rules each. `docs/protocol.md` says which rule is caught where.

mod acceptor;
mod arbitrary;
mod campaign;
mod cluster;
mod dialogues;
mod documented;
mod found_by_simulation;
mod hand_over;
mod heads;
mod image;
mod lease;
mod master;
mod node;
mod paused_store;
#[cfg(feature = "planted-bugs")]
mod planted;
mod recall;
mod roles;
mod transcript;
