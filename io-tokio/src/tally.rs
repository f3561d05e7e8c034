//! Counts and distributions that cost their one writer next to nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was measured so far. One task writes it at a time, so that no operation waits for another; anybody may read it, and
/// sees each number as of some moment.
#[derive(Debug, Default)]
pub(crate) struct Series {
    count: AtomicU64,
    /// The bits of an `f64`, as are all below but the last.
    sum: AtomicU64,
    squares: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    sizes: AtomicU64,
}

/// What several [`Series`] measured, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    sum: f64,
    squares: f64,
    sizes: u64,
}

impl Series {
    /// Adds one measurement of a thing of this size.
    pub(crate) fn record(&self, value: f64, size: u32) {
        let before = self.totals();
        let set = |cell: &AtomicU64, value: f64| cell.store(value.to_bits(), Ordering::Relaxed);
        set(&self.sum, before.sum + value);
        set(&self.squares, before.squares + value * value);
        if before.count == 0 || value < before.min {
            set(&self.min, value);
        }
        if before.count == 0 || value > before.max {
            set(&self.max, value);
        }
        self.sizes.store(before.sizes.wrapping_add(u64::from(size)), Ordering::Relaxed);
        self.count.store(before.count + 1, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        let get = |cell: &AtomicU64| f64::from_bits(cell.load(Ordering::Relaxed));
        Totals {
            count: self.count.load(Ordering::Relaxed),
            min: get(&self.min),
            max: get(&self.max),
            sum: get(&self.sum),
            squares: get(&self.squares),
            sizes: self.sizes.load(Ordering::Relaxed),
        }
    }
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let is_first = self.count == 0;
        self.min = if is_first { other.min } else { self.min.min(other.min) };
        self.max = if is_first { other.max } else { self.max.max(other.max) };
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        self.sizes = self.sizes.wrapping_add(other.sizes);
    }

    /// 0 when nothing was measured.
    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / as_f64(self.count) }
    }

    /// The mean of the sizes; 0 when nothing was measured.
    pub(crate) fn mean_size(&self) -> f64 {
        if self.count == 0 { 0.0 } else { as_f64(self.sizes) / as_f64(self.count) }
    }

    /// The sum of the squares of the distances from the mean.
    pub(crate) fn m2(&self) -> f64 {
        (self.squares - self.sum * self.mean()).max(0.0)
    }

    /// The variance of a sample; 0 when there are fewer than two.
    pub(crate) fn variance(&self) -> f64 {
        if self.count < 2 { 0.0 } else { self.m2() / as_f64(self.count - 1) }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a count beyond 2^53 may be a little off")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_taken_apart_and_added_up_is_the_same_series() {
        let values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.5];
        let whole = Series::default();
        let parts = [Series::default(), Series::default(), Series::default()];
        for (index, value) in values.into_iter().enumerate() {
            whole.record(value, 10);
            parts[index % 2].record(value, 10);
        }
        let mut added = Totals::default();
        parts.iter().for_each(|part| added.add(&part.totals()));
        assert_eq!(added, whole.totals());
        assert_eq!((added.count, added.min, added.max, added.mean(), added.mean_size()), (6, 1.0, 9.0, 3.5, 10.0));
        assert!((added.m2() - 42.0).abs() < 1e-9 && (added.variance() - 8.4).abs() < 1e-9, "{added:?}");
    }

    #[test]
    fn nothing_and_a_single_value_have_no_variance() {
        let series = Series::default();
        assert_eq!((series.totals().mean(), series.totals().variance()), (0.0, 0.0));
        series.record(7.0, 0);
        assert_eq!((series.totals().mean(), series.totals().variance(), series.totals().m2()), (7.0, 0.0, 0.0));
    }
}
