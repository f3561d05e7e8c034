//! Keeps a log small while it is written: compresses closed segments, and removes what the store has passed.
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

use std::collections::BTreeSet;
use std::sync::Arc;

use trialbay_engine::Slot;

use super::TlogOptions;
use super::compression::{BYTES_AT_ONCE, Compression, Step};
use super::error::TlogError;
use super::reader::{LogReader, State};
use super::segment::Place;
use crate::reserve::{NoRoom, Reserve};

/// Keeps a log small while a [`Tlog`](super::Tlog) writes it. There must be only one for a log. Blocks.
pub struct Upkeep {
    place: Arc<Place>,
    reader: LogReader,
    options: TlogOptions,
    reserve: Reserve,
    compression: Option<Compression>,
    /// Segments that could not be compressed. The next run tries again.
    given_up: BTreeSet<u32>,
    failed: bool,
}

/// What [`Upkeep::compress_some`] did.
#[derive(Debug)]
pub enum Compressed {
    /// There is nothing to compress.
    Nothing,
    /// A piece of a segment; there is more.
    Piece,
    /// The end of this segment.
    Segment(u32),
    /// This segment stays as it is, for this reason.
    GivenUp(u32, TlogError),
    /// There is no room for the archive of this segment now. What there was of it is gone.
    PutOff(u32, NoRoom),
}

impl Upkeep {
    pub(super) fn new(place: Arc<Place>, reader: LogReader, options: TlogOptions) -> Self {
        let (compression, given_up) = (None, BTreeSet::new());
        Self { place, reader, options, reserve: Reserve::none(), compression, given_up, failed: false }
    }

    /// The same, which makes no archive that this reserve has no room for.
    #[must_use]
    pub fn with_reserve(self, reserve: Reserve) -> Self {
        Self { reserve, ..self }
    }

    /// Removes old segments beyond the budget, as far as the store, which has everything up to `stored` durable, has
    /// passed them. When that removes any, gives the first slot that the log still has.
    ///
    /// # Errors
    /// When the disk fails. An error is final: nothing is removed after it.
    pub fn collapse(&mut self, stored: Slot) -> Result<Option<Slot>, TlogError> {
        self.guarded(|upkeep| {
            let retention_bytes = upkeep.options.retention_bytes;
            let found = first_kept(&upkeep.reader.state(), stored, retention_bytes);
            let Some((first, accepted_before)) = found else { return Ok(None) };
            if let Some(compression) = upkeep.compression.take_if(|compression| compression.number() < first) {
                compression.abandon(&upkeep.place)?;
            }
            let removed = {
                let mut state = upkeep.reader.state();
                state.index.forget_upto(accepted_before);
                let kept = state.segments.split_off(&first);
                std::mem::replace(&mut state.segments, kept)
            };
            for (number, held) in removed {
                let place = &upkeep.place;
                place.remove(&if held.is_archived { place.archive_path(number) } else { place.path(number) })?;
            }
            Ok(Some(accepted_before.next()))
        })
    }

    /// Does a little of what there is to compress: about a block of the oldest closed segment, or a file's last sync.
    ///
    /// # Errors
    /// When the disk fails, or the upkeep failed before. An error is final.
    pub fn compress_some(&mut self) -> Result<Compressed, TlogError> {
        self.guarded(|upkeep| {
            let Some((number, len)) = upkeep.to_compress() else { return Ok(Compressed::Nothing) };
            if let Err(no_room) = upkeep.has_room_for(len) {
                if let Some(compression) = upkeep.compression.take() {
                    compression.abandon(&upkeep.place)?;
                }
                return Ok(Compressed::PutOff(number, no_room));
            }
            match upkeep.compress(number, len) {
                Ok(Step::More) => Ok(Compressed::Piece),
                Ok(Step::Installed { bytes }) => {
                    upkeep.compression = None;
                    // Readers look into the archive from now on; those that are at the segment hold it open.
                    if let Some(held) = upkeep.reader.state().segments.get_mut(&number) {
                        (held.bytes, held.is_archived) = (bytes, true);
                    }
                    upkeep.place.remove(&upkeep.place.path(number))?;
                    Ok(Compressed::Segment(number))
                }
                Err(error) if is_final(&error) => Err(error),
                Err(error) => {
                    upkeep.given_up.insert(number);
                    if let Some(compression) = upkeep.compression.take() {
                        compression.abandon(&upkeep.place)?;
                    }
                    Ok(Compressed::GivenUp(number, error))
                }
            }
        })
    }

    /// The segment that is compressed now or next, and its length.
    fn to_compress(&self) -> Option<(u32, u64)> {
        if !self.options.compress {
            return None;
        }
        let state = self.reader.state();
        let (open, _) = state.segments.last_key_value()?;
        let mut closed = state.segments.range(..open);
        closed.find_map(|(number, held)| {
            let is_sound = held.accepted_before.is_some() && !self.given_up.contains(number);
            held.len.filter(|_| is_sound && !held.is_archived).map(|len| (*number, len))
        })
    }

    /// Whether the archive of a segment of this length may be begun, or gone on with: no archive is longer than its segment
    /// by more than a little. One that is all written takes no more room, and soon gives that of the segment back.
    fn has_room_for(&self, len: u64) -> Result<(), NoRoom> {
        match &self.compression {
            None => self.reserve.spares(len),
            Some(compression) if compression.is_written() => Ok(()),
            Some(_) => self.reserve.spares(BYTES_AT_ONCE),
        }
    }

    fn compress(&mut self, number: u32, len: u64) -> Result<Step, TlogError> {
        match &mut self.compression {
            Some(compression) => compression.step(&self.place),
            none => {
                *none = Some(Compression::begin(&self.place, number, len)?);
                Ok(Step::More)
            }
        }
    }

    /// After a failure nobody knows what is on the disk.
    fn guarded<R>(&mut self, act: impl FnOnce(&mut Self) -> Result<R, TlogError>) -> Result<R, TlogError> {
        if self.failed {
            return Err(TlogError::Failed);
        }
        let outcome = act(self);
        self.failed = outcome.is_err();
        outcome
    }
}

/// Whether the disk failed in a way that other files may suffer from. A disk that is full, or one that cannot read what is
/// to be compressed, harms nothing: the segment stays.
fn is_final(error: &TlogError) -> bool {
    matches!(error, TlogError::Io { what: "sync", .. })
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
