//! Tells the log when the node lacks its vote and regains it, and when it catches up.

use trialbay_engine::{Engine, Slot};

/// What the log was told last.
pub(super) struct Standing {
    votes: bool,
    /// Where the catch-up in progress began.
    catching_up_from: Option<Slot>,
}

impl Standing {
    /// Says why the node starts without a vote, if it does.
    pub(super) fn at_start(engine: &Engine, is_damaged: bool) -> Self {
        let (votes, decided_upto) = (engine.votes(), engine.decided_upto());
        if engine.config().learners.contains(&engine.config().node) {
            tracing::info!(decided_upto = decided_upto.0, "no vote: this node is a learner");
        } else if !votes {
            if is_damaged {
                tracing::warn!(
                    decided_upto = decided_upto.0,
                    "no vote: the log is damaged, and may have forgotten one"
                );
            } else if decided_upto == Slot::ZERO {
                tracing::info!("no vote yet: nothing is decided in the home, as in a new or an empty one");
            } else {
                tracing::info!(decided_upto = decided_upto.0, "no vote: it was lost earlier and not regained yet");
            }
        }
        Self { votes, catching_up_from: None }
    }

    /// Tells of what has changed. Cheap when nothing has: the driver asks in every round.
    pub(super) fn follow(&mut self, engine: &Engine) {
        if self.votes != engine.votes() {
            self.votes = engine.votes();
            let decided_upto = engine.decided_upto().0;
            if self.votes {
                tracing::info!(decided_upto, "this node has its vote");
            } else {
                tracing::warn!(decided_upto, "this node has lost its vote");
            }
        }
        match (self.catching_up_from, engine.is_catching_up()) {
            (None, true) => {
                let from = engine.decided_upto();
                tracing::info!(from = from.0, "catching up");
                self.catching_up_from = Some(from);
            }
            (Some(from), false) => {
                tracing::info!(from = from.0, upto = engine.decided_upto().0, "catching up has ended");
                self.catching_up_from = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
}
