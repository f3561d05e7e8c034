//! What one file holds: as its readers see it now, and as the medium has it.

use super::Counters;
use super::pages::{PAGE_BYTES, Pages};
use super::survival::survivor;
use crate::rng::Rng;

/// One file.
///
/// # Invariants
/// 1. `now` is `durable` with the pending changes made, unless `is_cache_false`.
/// 2. A change is pending until a sync that did not lie, or a power cut, has decided its fate.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    now: Pages,
    durable: Pages,
    pending: Vec<Change>,
    /// Up to where writes need no further space.
    reserved_end: u64,
    /// The system's copy is not what the medium has or will have: after a sync that failed, for instance.
    is_cache_false: bool,
}

/// Bytes on their way to a place that nobody asked for.
pub(super) type Stray = Vec<u8>;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8>, is_misdirected: bool },
    Grow(u64),
    SetLen(u64),
}

impl Contents {
    pub(super) fn now(&self) -> &Pages {
        &self.now
    }

    /// As of the last sync.
    pub(super) fn durable(&self) -> &Pages {
        &self.durable
    }

    /// Whether a disk without room must refuse this write.
    pub(super) fn needs_room(&self, offset: u64, len: usize) -> bool {
        offset + len as u64 > self.reserved_end && self.now.has_hole_in(offset, len)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], is_misdirected: bool) {
        if bytes.is_empty() {
            return;
        }
        self.now.write(offset, bytes);
        self.pending.push(Change::Write { offset, bytes: bytes.to_vec(), is_misdirected });
    }

    pub(super) fn allocate(&mut self, end: u64) {
        self.reserved_end = self.reserved_end.max(end);
        self.now.grow(end);
        self.pending.push(Change::Grow(end));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.reserved_end = self.reserved_end.min(len);
        self.now.set_len(len);
        self.pending.push(Change::SetLen(len));
    }

    /// Makes every pending change durable.
    pub(super) fn sync(&mut self) -> Vec<Stray> {
        let mut strays = Vec::new();
        for change in self.pending.drain(..) {
            strays.extend(change.make(&mut self.durable));
        }
        self.is_cache_false |= !strays.is_empty();
        strays
    }

    /// Makes some of the pending changes durable; the others count as written all the same.
    pub(super) fn fail_to_sync(&mut self, rng: &mut Rng) -> Vec<Stray> {
        let mut strays = Vec::new();
        for change in self.pending.drain(..) {
            if rng.chance(0.5) {
                strays.extend(change.make(&mut self.durable));
            }
        }
        self.is_cache_false = true;
        strays
    }

    /// Forgets the system's copy of what does not wait to be written.
    pub(super) fn drop_cache(&mut self) {
        if std::mem::take(&mut self.is_cache_false) {
            self.now = self.durable.clone();
            for change in &self.pending {
                change.show(&mut self.now);
            }
        }
    }

    /// Decides what became of each pending change. [`Contents::drop_cache`] is to follow.
    pub(super) fn lose_power(&mut self, rng: &mut Rng, counters: &mut Counters) -> Vec<Stray> {
        let mut strays = Vec::new();
        for change in self.pending.drain(..) {
            self.is_cache_false = true;
            strays.extend(change.survive(&mut self.durable, rng, counters));
        }
        strays
    }

    /// Overwrites durable bytes behind the system's back.
    pub(super) fn strike(&mut self, offset: u64, bytes: &[u8]) {
        self.durable.write(offset, bytes);
        self.is_cache_false = true;
    }

    /// Ends the file here, on the medium as in the system's copy.
    pub(super) fn cut_short(&mut self, len: u64) {
        self.pending.clear();
        self.reserved_end = self.reserved_end.min(len);
        self.durable.set_len(len);
        self.now = self.durable.clone();
        self.is_cache_false = false;
    }

    /// A durable byte, one that is not zero if there is any in the page that chance chose.
    pub(super) fn any_durable_byte(&self, rng: &mut Rng) -> Option<u64> {
        let start = rng.pick(&self.durable.written_pages())? * PAGE_BYTES as u64;
        let mut page = [0; PAGE_BYTES];
        let len = self.durable.read(start, &mut page);
        let full: Vec<u64> = (0..len).filter(|at| page[*at] != 0).map(|at| at as u64).collect();
        Some(start + rng.pick(&full).unwrap_or_else(|| rng.below(len as u64)))
    }

    /// Flips a bit on the medium, and in the system's copy if it has no other byte there.
    pub(super) fn flip(&mut self, offset: u64, bit: u64) {
        let (mut now, mut durable) = ([0], [0]);
        if offset >= self.durable.len() {
            return;
        }
        self.durable.read(offset, &mut durable);
        if self.now.read(offset, &mut now) == 1 && now == durable {
            self.now.flip(offset, bit);
        }
        self.durable.flip(offset, bit);
    }
}

impl Change {
    /// As readers see it.
    fn show(&self, pages: &mut Pages) {
        match self {
            Self::Write { offset, bytes, .. } => pages.write(*offset, bytes),
            Self::Grow(end) => pages.grow(*end),
            Self::SetLen(len) => pages.set_len(*len),
        }
    }

    /// As it reaches the medium.
    fn make(self, durable: &mut Pages) -> Option<Stray> {
        match self {
            Self::Write { bytes, is_misdirected: true, .. } => Some(bytes),
            Self::Write { .. } | Self::Grow(_) | Self::SetLen(_) => {
                self.show(durable);
                None
            }
        }
    }

    fn survive(self, durable: &mut Pages, rng: &mut Rng, counters: &mut Counters) -> Option<Stray> {
        match self {
            Self::Write { offset, bytes, is_misdirected: false } => {
                let mut old = vec![0; bytes.len()];
                durable.read(offset, &mut old);
                let left = survivor(&old, &bytes, offset, rng, counters);
                if !left.is_empty() {
                    durable.write(offset, &left);
                }
                None
            }
            Self::Write { .. } | Self::Grow(_) | Self::SetLen(_) => {
                let is_kept = rng.chance(0.5);
                counters.lengths_lost += u64::from(!is_kept);
                if is_kept { self.make(durable) } else { None }
            }
        }
    }
}
