//! Trialbay's engine: sans-I/O Multi-Paxos. Events in, actions out; no clock, socket, file, thread or ambient
//! randomness. `docs/protocol.md` numbers the rules that this code obeys.
#![no_std]

extern crate alloc;

#[macro_use]
pub mod planted;

mod acceptor;
mod campaign;
mod catch_up;
mod digest;
mod disk_queue;
mod engine;
mod hand_over;
mod lease;
mod log;
mod master;
mod recall;
mod timers;

pub mod action;
pub mod codec;
pub mod config;
pub mod event;
pub mod ids;
pub mod image;
pub mod message;
pub mod quorum;
pub mod record;
pub mod status;
pub mod time;
pub mod value;

pub use action::{Action, Actions, Dropped, HaltReason, Offence, Refusal};
pub use config::{Config, Limits};
pub use engine::Engine;
pub use event::{Event, Request};
pub use ids::{Ballot, Incarnation, NodeId, PersistId, ReadId, RequestId, Slot};
pub use image::{DecidedValues, ImageError};
pub use message::Message;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use record::{Memory, Record, Recovered};
pub use status::{PeerStatus, Role, Status};
pub use time::Instant;
pub use value::{Entry, HistoryHash, SlotEntry, Value};
