//! A node's own clock: its rate, and where it began.

use trialbay_engine::Instant;

use crate::rng::Rng;

const PPM: i128 = 1_000_000;

/// Maps simulated time to what one node's clock shows.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    since: u64,
    shows: u64,
    rate_ppm: i64,
    rng: Rng,
}

impl Clock {
    /// A clock that shows anything at first, and runs right.
    pub(crate) fn new(mut rng: Rng) -> Self {
        let shows = rng.between(1, 1 << 50);
        Self { since: 0, shows, rate_ppm: 0, rng }
    }

    /// What it shows at `at`.
    pub(crate) fn local(&self, at: u64) -> Instant {
        let passed = i128::from(at.saturating_sub(self.since));
        let shown = passed * (PPM + i128::from(self.rate_ppm)) / PPM;
        Instant(self.shows.saturating_add(u64::try_from(shown).unwrap_or(0)))
    }

    /// The first simulated time at which it shows `local` or later, its rate staying as it is.
    pub(crate) fn global(&self, local: Instant) -> u64 {
        let wanted = i128::from(local.0.saturating_sub(self.shows));
        let rate = PPM + i128::from(self.rate_ppm);
        let passed = (wanted * PPM + rate - 1) / rate;
        self.since.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Runs so many millionths too fast from now on.
    pub(crate) fn set_rate(&mut self, at: u64, ppm: i64) {
        self.shows = self.local(at).0;
        self.since = at;
        self.rate_ppm = ppm.clamp(-900_000, 10_000_000);
    }

    /// The machine booted anew: its clock shows something else entirely.
    pub(crate) fn reboot(&mut self, at: u64) {
        self.since = at;
        self.shows = self.rng.between(1, 1 << 50);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_when_the_clock_shows_it_at_any_rate() {
        for stream in 0..200_i64 {
            let mut clock = Clock::new(Rng::new(3, stream.unsigned_abs()));
            clock.set_rate(500, (stream - 100) * 2_000);
            for wait in [0, 1, 7, 1_000_003] {
                let deadline = Instant(clock.local(1_000).0 + wait);
                let at = clock.global(deadline);
                assert!(clock.local(at) >= deadline);
                assert!(at == 500 || at <= 1_000 || clock.local(at - 1) < deadline);
            }
        }
    }
}
