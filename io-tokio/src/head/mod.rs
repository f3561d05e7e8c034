//! Head transfer: a node whose next slots are gone from all logs gets the whole store of another one as it is at one slot,
//! and then the log behind it.
//!
//! ```text
//! giver                                       taker
//! snapshot --chunk--> stream of its own --> <node>.db.head --> renamed: installed
//! ```
//!
//! The giver reads from a snapshot, which no write waits for, and sends no faster than the taker takes. The taker writes a
//! file beside its store, so that a crash leaves the old store or the new one; see `store/head.rs`. Both have limited
//! patience (`patience.rs`), and the giver keeps its log from there on until the taker has had the time to get that, too (`hold.rs`). `wire.rs` says what they say to each other, `give.rs` and `take.rs` who does what.

mod give;
mod hold;
mod patience;
mod take;
#[cfg(test)]
mod tests;
mod wire;

pub use give::Giver;
pub use hold::Holds;
pub use take::{NotTaken, Taker, Taking};
