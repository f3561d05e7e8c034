//! What a node runs on: the machine in production, a simulated world in the simulator.

use std::io;
use std::sync::Arc;

use super::error::NodeError;
use crate::clock::{BootClock, Clock};
use crate::disk::RealDisk;
use crate::home_disk::HomeDisk;
use crate::net::{Network, RealNetwork};
use crate::workers::Workers;

/// Everything that a node has of the world outside.
///
/// A node that is given the same surroundings, the same options and a single-threaded runtime does the same again: what
/// else it waits for is tokio's time.
#[derive(Clone)]
pub struct Surroundings<N: Network> {
    /// Where peers and clients are.
    pub network: N,
    /// Where its home is.
    pub disk: Arc<dyn HomeDisk>,
    /// What the engine takes for the time.
    pub clock: Arc<dyn Clock>,
    /// Who does its blocking work.
    pub workers: Workers,
    /// What all its chance comes from. Must never come again: not for another node, nor for the same one after a restart.
    pub seed: u64,
}

impl Surroundings<RealNetwork> {
    /// This machine.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn real() -> Result<Self, NodeError> {
        let seed = getrandom::u64()
            .map_err(|error| NodeError::System { what: "random numbers", source: io::Error::other(error) })?;
        Ok(Self {
            network: RealNetwork,
            disk: Arc::new(RealDisk),
            clock: Arc::new(BootClock),
            workers: Workers::Threads,
            seed,
        })
    }
}
