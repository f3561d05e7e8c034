//! Trialbay's simulator: nodes played through faults in simulated time, from a seed, with checkers that trust nothing that
//! an engine says.
//!
//! `scenario` is what can be played; `core` plays engines, logs and the apply code on a plain loop; `check` judges;
//! `trace` shows what happened; `campaign` plays many.

mod clock;
mod core;

pub mod campaign;
pub mod check;
pub mod explore;
pub mod mutant;
pub mod recording;
pub mod rng;
pub mod scenario;
pub mod shrink;
pub mod sim_disk;
pub mod stack;
pub mod trace;

pub use core::{Counters, Report, World, is_catching};
pub use mutant::{Bugs, Mutant, Planted};
