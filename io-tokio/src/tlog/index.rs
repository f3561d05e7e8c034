//! Where the log holds the value of each slot.

use trialbay_engine::Slot;

/// Where a frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// The place of each slot's last `Accepted` record: eight bytes of memory per slot.
///
/// # Invariants
/// 1. Runs are ordered and do not overlap; none is empty.
/// 2. A gap in the slots costs a run, never memory for the missing slots.
#[derive(Debug, Default)]
pub(super) struct Index {
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    first: u64,
    locations: Vec<Location>,
}

impl Index {
    /// Remembers the latest record of a slot.
    pub(super) fn insert(&mut self, slot: Slot, location: Location) {
        let after = self.runs.partition_point(|run| run.first <= slot.0);
        if let Some(run) = after.checked_sub(1).map(|at| &mut self.runs[at]) {
            let distance = slot.0 - run.first;
            let len = run.locations.len() as u64;
            if distance < len {
                run.locations[distance as usize] = location;
                return;
            }
            if distance == len {
                run.locations.push(location);
                return;
            }
        }
        self.runs.insert(after, Run { first: slot.0, locations: vec![location] });
    }

    /// Where the slot's last record is.
    pub(super) fn find(&self, slot: Slot) -> Option<Location> {
        self.runs[self.run_of(slot)?].find(slot)
    }

    /// The highest slot.
    pub(super) fn last(&self) -> Option<Slot> {
        self.runs.last().map(Run::last)
    }

    /// The first slot of the unbroken stretch that ends with this slot; `None` when the slot is not here.
    pub(super) fn stretch_start(&self, slot: Slot) -> Option<Slot> {
        let mut run = self.run_of(slot)?;
        while let Some(before) = run.checked_sub(1) {
            if self.runs[before].last().next() != Slot(self.runs[run].first) {
                break;
            }
            run = before;
        }
        Some(Slot(self.runs[run].first))
    }

    /// The last slot of the unbroken stretch that begins with the slot after `slot`; `slot` itself when that one is missing.
    pub(super) fn stretch_end(&self, slot: Slot) -> Slot {
        let mut end = slot;
        while let Some(run) = self.run_of(end.next()) {
            // `next` of the very last slot is that slot itself.
            if self.runs[run].last() == end {
                break;
            }
            end = self.runs[run].last();
        }
        end
    }

    /// Forgets every slot above `slot`; says how many they were.
    pub(super) fn truncate_after(&mut self, slot: Slot) -> u64 {
        let mut forgotten = 0;
        while let Some(run) = self.runs.last_mut() {
            let kept = match slot.0.checked_sub(run.first) {
                Some(distance) => {
                    run.locations.len().min(usize::try_from(distance).unwrap_or(usize::MAX).saturating_add(1))
                }
                None => 0,
            };
            forgotten += (run.locations.len() - kept) as u64;
            run.locations.truncate(kept);
            if kept > 0 {
                break;
            }
            self.runs.pop();
        }
        forgotten
    }

    /// Forgets every slot up to `slot`.
    pub(super) fn forget_upto(&mut self, slot: Slot) {
        self.runs.retain(|run| run.last() > slot);
        if let Some(run) = self.runs.first_mut()
            && let Some(distance) = slot.next().0.checked_sub(run.first)
        {
            let forgotten = usize::try_from(distance).expect("the run goes on behind them, in memory");
            run.locations.drain(..forgotten);
            run.first += distance;
        }
    }

    fn run_of(&self, slot: Slot) -> Option<usize> {
        let at = self.runs.partition_point(|run| run.first <= slot.0).checked_sub(1)?;
        self.runs[at].find(slot).map(|_| at)
    }
}

impl Run {
    fn find(&self, slot: Slot) -> Option<Location> {
        let distance = usize::try_from(slot.0.checked_sub(self.first)?).ok()?;
        self.locations.get(distance).copied()
    }

    fn last(&self) -> Slot {
        Slot(self.first + (self.locations.len() as u64 - 1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(offset: u32) -> Location {
        Location { segment: 0, offset }
    }

    fn index_of(slots: &[u64]) -> Index {
        let mut index = Index::default();
        for (offset, slot) in slots.iter().enumerate() {
            index.insert(Slot(*slot), at(offset as u32));
        }
        index
    }

    #[test]
    fn the_last_record_of_a_slot_wins() {
        let index = index_of(&[1, 2, 3, 2]);
        assert_eq!(index.find(Slot(2)), Some(at(3)));
        assert_eq!(index.find(Slot(3)), Some(at(2)));
        assert_eq!(index.find(Slot(4)), None);
        assert_eq!(index.find(Slot::ZERO), None);
    }

    #[test]
    fn the_extremes_of_slots_do_no_harm() {
        let mut index = index_of(&[u64::MAX, 0, 1, u64::MAX - 1]);
        assert_eq!(index.last(), Some(Slot(u64::MAX)));
        assert_eq!(index.stretch_start(Slot(u64::MAX)), Some(Slot(u64::MAX - 1)));
        assert_eq!(index.stretch_end(Slot(u64::MAX - 2)), Slot(u64::MAX));
        assert_eq!(index.stretch_end(Slot(u64::MAX)), Slot(u64::MAX));
        index.forget_upto(Slot::ZERO);
        assert_eq!((index.find(Slot::ZERO), index.find(Slot(1))), (None, Some(at(2))));
        assert_eq!(index.truncate_after(Slot(u64::MAX)), 0);
        assert_eq!(index.truncate_after(Slot(5)), 2);
        index.forget_upto(Slot(u64::MAX));
        assert_eq!(index.last(), None);
    }

    proptest! {
        #[test]
        fn it_answers_as_a_map_does(slots in proptest::collection::vec(0_u64..20, 0..40), cut in 0_u64..20) {
            let mut index = index_of(&slots);
            let mut map: BTreeMap<u64, Location> =
                slots.iter().enumerate().map(|(offset, slot)| (*slot, at(offset as u32))).collect();
            for after_cut in [false, true] {
                for slot in 0..21 {
                    prop_assert_eq!(index.find(Slot(slot)), map.get(&slot).copied());
                    let start = (0..=slot).rev().take_while(|slot| map.contains_key(slot)).last();
                    prop_assert_eq!(index.stretch_start(Slot(slot)), start.map(Slot));
                    let end = (slot + 1..).take_while(|slot| map.contains_key(slot)).last().unwrap_or(slot);
                    prop_assert_eq!(index.stretch_end(Slot(slot)), Slot(end));
                }
                prop_assert_eq!(index.last(), map.keys().last().copied().map(Slot));
                if !after_cut {
                    let mut behind = index_of(&slots);
                    behind.forget_upto(Slot(cut));
                    for slot in 0..21 {
                        let expected = map.get(&slot).filter(|_| slot > cut).copied();
                        prop_assert_eq!(behind.find(Slot(slot)), expected);
                    }
                    let above = map.split_off(&(cut + 1));
                    prop_assert_eq!(index.truncate_after(Slot(cut)), above.len() as u64);
                }
            }
        }
    }
}
