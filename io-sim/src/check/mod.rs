//! Checkers of what a cluster showed: they ask no engine, no store and no decoder of production for anything.
//!
//! Reading order: `query` and `model` (what the commands mean), `history` (the checker), `versions` (what each key was
//! when), `story` (what a violation says), `exact` (the ground truth for small histories), `honest` (histories that
//! nobody may complain about); `scrub` and `frame` (the transaction log as durable bytes tell it).

pub mod campaigns;
pub mod exact;
pub mod history;
pub mod honest;
pub mod leases;
pub mod ledger;
pub mod model;
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
}

/// What a checker says.
pub type Checked = Result<(), Violation>;

/// A violation found by `checker`.
pub(crate) fn violation<T>(checker: &'static str, story: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { checker, story: story.into() })
}
