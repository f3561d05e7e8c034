//! Chance, from a seed: one stream per subsystem, so that taking one fault away does not shift the others.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// One subsystem's stream of chance. Integer and IEEE arithmetic only, so that it is the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream numbered `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.any() % end }
    }

    /// A number from `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// Whether something with this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.any() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A number from `low` to `high` whose order of magnitude is what varies.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let low = low.max(1);
        let doublings = u64::from((high / low).max(1).ilog2());
        let base = low << self.below(doublings + 1);
        self.between(base, base.saturating_mul(2)).min(high)
    }

    /// A probability from `low` to `high` whose order of magnitude is what varies.
    pub fn rate(&mut self, low: f64, high: f64) -> f64 {
        self.magnitude((low * 1e9) as u64, (high * 1e9) as u64) as f64 / 1e9
    }

    /// One of them; `None` of none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of.get(index).copied()
    }

    /// Puts them into any order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for end in (1..elements.len()).rev() {
            let other = usize::try_from(self.below(end as u64 + 1)).unwrap_or(0);
            elements.swap(end, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        assert_eq!(Rng::new(7, 1).any(), Rng::new(7, 1).any());
        assert_ne!(Rng::new(7, 1).any(), Rng::new(7, 2).any());
        assert_ne!(Rng::new(7, 1).any(), Rng::new(8, 1).any());
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut rng = Rng::new(1, 1);
        for _ in 0..1_000 {
            assert!((10..=1_000).contains(&rng.magnitude(10, 1_000)));
            assert!((3..=5).contains(&rng.between(3, 5)));
            assert!(!rng.chance(0.0) && rng.chance(1.0));
        }
    }
}
