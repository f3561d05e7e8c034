//! What a power cut leaves of a write that was not synced.

use super::Counters;
use crate::rng::Rng;

const SECTOR_BYTES: usize = super::SECTOR_BYTES as usize;

/// What is found instead of `new`, written over `old` at `offset`: as many bytes as were written at all.
///
/// Bytes written where nothing was may be zeros or garbage; those written over others are the old or the new ones.
/// (The log's assumptions about the medium are weaker. The store's are these: it writes its one header again and again
/// in place, and relies on each byte being an old or a new one.)
pub(super) fn survivor(old: &[u8], new: &[u8], offset: u64, rng: &mut Rng, counters: &mut Counters) -> Vec<u8> {
    match rng.below(8) {
        0..=1 => {
            counters.writes_kept += 1;
            new.to_vec()
        }
        2..=3 => {
            counters.writes_lost += 1;
            Vec::new()
        }
        4..=5 => {
            counters.writes_torn += 1;
            let mut end = rng.below(new.len() as u64) as usize;
            if rng.chance(0.5) {
                end -= ((offset + end as u64) % SECTOR_BYTES as u64).min(end as u64) as usize;
            }
            new[..end].to_vec()
        }
        _ => {
            counters.writes_torn += 1;
            mixture(old, new, offset, rng, counters)
        }
    }
}

/// Each sector for itself.
fn mixture(old: &[u8], new: &[u8], offset: u64, rng: &mut Rng, counters: &mut Counters) -> Vec<u8> {
    let mut left = Vec::with_capacity(new.len());
    while left.len() < new.len() {
        let start = left.len();
        let rest_of_sector = SECTOR_BYTES - ((offset + start as u64) % SECTOR_BYTES as u64) as usize;
        let end = new.len().min(start + rest_of_sector);
        let (old, new) = (&old[start..end], &new[start..end]);
        let is_fresh = old.iter().all(|byte| *byte == 0);
        match rng.below(5) {
            0 => left.extend_from_slice(old),
            1 => {
                let kept = rng.below(new.len() as u64) as usize;
                left.extend_from_slice(&new[..kept]);
                left.extend_from_slice(&old[kept..]);
            }
            2 if is_fresh => {
                counters.sectors_zeroed += 1;
                left.resize(end, 0);
            }
            3 if is_fresh => {
                counters.sectors_garbled += 1;
                left.extend((start..end).map(|_| rng.below(256) as u8));
            }
            _ => left.extend_from_slice(new),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_written_over_another_is_anything_but_the_old_or_the_new_one() {
        let mut rng = Rng::new(3, 1);
        let mut counters = Counters::default();
        for _ in 0..2_000 {
            let len = rng.between(1, 3_000) as usize;
            let left = survivor(&vec![1; len], &vec![2; len], rng.below(10_000), &mut rng, &mut counters);
            assert!(left.len() <= len && left.iter().all(|byte| [1, 2].contains(byte)));
        }
        assert_eq!((counters.sectors_zeroed, counters.sectors_garbled), (0, 0));
        assert!(counters.writes_kept > 300 && counters.writes_lost > 300 && counters.writes_torn > 800);
    }

    #[test]
    fn bytes_written_where_nothing_was_may_be_anything() {
        let mut rng = Rng::new(3, 2);
        let mut counters = Counters::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            seen.extend(survivor(&[0; 1_000], &[2; 1_000], 100, &mut rng, &mut counters));
        }
        assert_eq!(seen.len(), 256);
        assert!(counters.sectors_zeroed > 0 && counters.sectors_garbled > 0);
    }
}
