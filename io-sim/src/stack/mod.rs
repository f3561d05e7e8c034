//! The stack world: turmoil's hosts run the production node, with its peer and client service, log, store, driver and
//! engine, on a simulated network, disk and clock, and the real client drives it. A run depends on its plan alone.
//!
//! ```text
//! clients.rs --trialbay::client--> network.rs --> RunningNode (node.rs) --> SimDisk, SimClock, DiskPace (home.rs)
//!      |                              |                                        |
//!   history                         trace                        certificate.rs reads what is durable
//! ```
//! Reading order: `plan` (what a run is), `world` (how it goes) and `faults`, `node` and `home` (what a node runs on),
//! `clients` and `reads`, `certificate` and `verdict` (what must hold).
//!
//! What this world cannot do:
//! * Time goes by in steps of one millisecond, and a message is under way for at least one.
//! * turmoil sends a lost segment never again: a connection that loses one is of no more use, and breaks when whoever uses
//!   it has waited long enough. Nothing is doubled, and nothing overtakes within a connection.
//! * A host cannot be paused: its runtime can only run or be dropped. Of a process that is to stand still nobody hears
//!   anything until it goes on, and its clock stands still instead.
//! * After a power cut the machine's connections end at once, as after a kill. Cut it off first to have its peers wait.

mod certificate;
mod clients;
mod faults;
mod home;
mod network;
mod node;
mod plan;
mod reads;
mod scenario;
mod trace;
mod verdict;
mod watch;
mod world;

pub use plan::{StackFault, StackPlan, Who};
pub use scenario::{plan, play};
pub use world::{Calls, StackReport, run, run_watched};
