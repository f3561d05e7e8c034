//! The core world: Trialbay's engine played through faults in simulated time, from a seed, by a plain loop over typed
//! messages, with checkers that trust nothing that an engine says.

mod clients;
mod clock;
mod disk;
mod driver;
mod faults;
mod network;
mod node;

pub mod campaign;
pub mod check;
pub mod history;
pub mod ledger;
pub mod model;
pub mod mutant;
pub mod plan;
pub mod rng;
pub mod sim_disk;
pub mod stack;
pub mod world;

pub use mutant::Mutant;
pub use plan::Plan;
pub use world::{Report, World};
