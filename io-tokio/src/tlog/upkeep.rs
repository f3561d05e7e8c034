//! Keeps a log small while it is written: removes what the store has passed.
//!
//! # What may be removed
//! Whole segments, from the old end only, and only behind a segment whose header says that all before it accepted
//! nothing above a slot that this node's store has *durably* applied. That header also has what else they say
//! (`checkpoint.rs`), and it was durable before the segment took its first record. At the next start, `recovery.rs` takes
//! the log for whole on the very same condition: so it needs no note of what was removed, and a removal that a crash
//! interrupts leaves a log that begins a little earlier. For that, the files go one after the other, each durably.
//!
//! How much is kept beyond that is a budget of bytes. It does not matter who else might need the old entries: a node that
//! is down for long must not keep the logs of the others for ever, and takes a head instead.

use std::sync::Arc;

use trialbay_engine::Slot;

use super::error::{TlogError, io_error};
use super::reader::{LogReader, State};
use super::segment::Place;

/// Keeps a log small while a [`Tlog`](super::Tlog) writes it. There must be only one for a log. Blocks.
pub struct Upkeep {
    place: Arc<Place>,
    reader: LogReader,
    retention_bytes: u64,
    failed: bool,
}

impl Upkeep {
    pub(super) fn new(place: Arc<Place>, reader: LogReader, retention_bytes: u64) -> Self {
        Self { place, reader, retention_bytes, failed: false }
    }

    /// Removes old segments beyond the budget, as far as the store, which has everything up to `stored` durable, has
    /// passed them. When that removes any, gives the first slot that the log still has.
    ///
    /// # Errors
    /// When the disk fails. An error is final: nothing is removed after it.
    pub fn collapse(&mut self, stored: Slot) -> Result<Option<Slot>, TlogError> {
        if self.failed {
            return Err(TlogError::Failed);
        }
        let Some((first, accepted_before)) = first_kept(&self.reader.state(), stored, self.retention_bytes) else {
            return Ok(None);
        };
        let removed: Vec<u32> = {
            let mut state = self.reader.state();
            state.index.forget_upto(accepted_before);
            let kept = state.segments.split_off(&first);
            std::mem::replace(&mut state.segments, kept).into_keys().collect()
        };
        self.failed = true;
        for number in removed {
            let path = self.place.path(number);
            self.place.disk.remove(&path).map_err(io_error("remove", &path))?;
            self.place.sync_names()?;
        }
        self.failed = false;
        Ok(Some(accepted_before.next()))
    }
}

/// The first segment to keep, and the last slot in which those before it accepted anything; `None` to keep them all.
fn first_kept(state: &State, stored: Slot, retention_bytes: u64) -> Option<(u32, Slot)> {
    let mut rest: u64 = state.segments.values().map(|held| held.bytes).sum();
    let mut first = None;
    let mut before = 0;
    for (number, held) in &state.segments {
        rest -= before;
        before = held.bytes;
        match held.accepted_before {
            Some(accepted_before) if accepted_before > stored => break,
            Some(accepted_before) => first = Some((*number, accepted_before)),
            // With a damaged header it cannot be the first: it goes together with those before it.
            None => {}
        }
        if rest <= retention_bytes {
            break;
        }
    }
    let oldest = state.segments.first_key_value().map(|(number, _)| *number);
    first.filter(|(number, _)| Some(*number) != oldest)
}
