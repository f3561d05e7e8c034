//! Checkers of what a cluster showed: they ask no engine, no store and no decoder of production for anything.
//!
//! Reading order: `query` and `model` (what the commands mean), `history` (the checker), `versions` (what each key was
//! when), `story` (what a violation says), `exact` (the ground truth for small histories), `honest` (histories that
//! nobody may complain about); `scrub`, `frame` and `archive` (the transaction log as durable bytes tell it).

mod archive;
pub mod availability;
pub mod bounds;
pub mod campaigns;
pub mod exact;
pub mod history;
pub mod honest;
pub mod kept;
pub mod leases;
pub mod ledger;
pub mod model;
pub mod outage;
pub mod query;
pub mod scrub;

mod frame;
mod story;
mod versions;

#[cfg(test)]
mod tests;

/// A rule that was broken: by which checker, and the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `K1` to `K16`, as in the documentation of the simulator; `history` when the history itself cannot be checked.
    pub checker: &'static str,
    /// What happened.
    pub story: String,
    /// The event at which it broke, if that is not the one at which it was found out.
    pub event: Option<u64>,
}

impl Violation {
    /// It was found out later than it broke, which was at `event`.
    #[must_use]
    pub(crate) fn since(self, event: u64) -> Self {
        Self { event: Some(event), ..self }
    }
}

/// What a checker says.
pub type Checked = Result<(), Violation>;

/// A violation found by `checker`.
pub(crate) fn violation<T>(checker: &'static str, story: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { checker, story: story.into(), event: None })
}
