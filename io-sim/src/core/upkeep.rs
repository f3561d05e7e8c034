//! Logs are kept small while nodes run: old segments go, closed ones are compressed.

use trialbay::tlog::{Compressed, TlogError};
use trialbay_engine::{Event, NodeId, Slot};

use super::{Happening, World};
use crate::check::Checked;
use crate::mutant::Mutant;

/// At most so many pieces of segments are compressed at a time.
const PIECES_END: u64 = 16;
/// A dying process changes its disk less than so many times more.
const LAST_CHANGES_END: u64 = 8;

impl World {
    /// Removes old segments of the log, and compresses closed ones a little further. Now and then.
    pub(super) fn keep_log(&mut self, id: NodeId) -> Checked {
        let mean = self.scenario.disk.checkpoint.0;
        let node = self.node(id);
        let (life, delay) = (node.life, node.upkeep_rng.below(2 * mean));
        let Ok(log_start) = self.keep_log_once(id) else {
            self.mark("disk failures");
            return self.step(id, Event::StorageFailed);
        };
        self.schedule(delay, Happening::KeepLog { node: id, life });
        log_start.map_or(Ok(()), |log_start| self.step(id, Event::LogShortened { log_start }))
    }

    /// The process is about to die, and does something of this before.
    pub(super) fn die_while_keeping_log(&mut self, id: NodeId) {
        let node = self.node(id);
        let changes = node.upkeep_rng.below(LAST_CHANGES_END);
        node.disk.power_fails_after(changes);
        // Nobody is left to be told how it went.
        let _ = self.keep_log_once(id);
    }

    /// Where the log begins now, if that is later than before.
    fn keep_log_once(&mut self, id: NodeId) -> Result<Option<Slot>, TlogError> {
        let too_far = self.mutant == Some(Mutant::CollapsedTooFar);
        let node = self.node(id);
        let pieces = node.upkeep_rng.below(PIECES_END);
        let Some(process) = &mut node.process else { return Ok(None) };
        let stored = if too_far { process.store.applied } else { node.durable_store.applied };
        let log_start = process.upkeep.collapse(stored)?;
        let mut compressed = 0;
        for _ in 0..pieces {
            match process.upkeep.compress_some()? {
                Compressed::Segment(_) => compressed += 1,
                Compressed::Piece | Compressed::GivenUp(..) => {}
                // The latter never: nothing is kept free here.
                Compressed::Nothing | Compressed::PutOff(..) => break,
            }
        }
        for _ in 0..compressed {
            self.mark("segments compressed");
        }
        if log_start.is_some() {
            self.mark("logs collapsed");
        }
        Ok(log_start)
    }
}
