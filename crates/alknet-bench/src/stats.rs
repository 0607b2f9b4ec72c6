//! Medians and what is known of them.

/// A median with the interval that holds the true one in at least 95 of 100
/// runs: by the ranks of the sample, with nothing assumed of its distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Estimate {
    /// Of a sample; of none, zero. With fewer than six values the interval is
    /// their whole range, which holds the median less often.
    pub(crate) fn of(sample: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = sample.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return Self {
                median: 0.0,
                low: 0.0,
                high: 0.0,
            };
        };
        let outside = ranks_outside(sorted.len());
        Self {
            median: (sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0,
            low: sorted[outside],
            high: sorted[last - outside],
        }
    }
}

/// How many of the smallest, and of the largest, of `n` values may be left out
/// so that the rest spans the median with 95 %: each value lies below it with
/// probability one half.
fn ranks_outside(n: usize) -> usize {
    let mut term = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut below = 0.0;
    for k in 0..n / 2 {
        below += term;
        if below > 0.025 {
            return k.saturating_sub(1);
        }
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    0
}

/// The value that a share of the sorted sample does not exceed.
pub(crate) fn quantile(sorted: &[u32], share: f64) -> u32 {
    let at = (share * sorted.len() as f64) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(n: u32) -> (f64, f64, f64) {
        let Estimate { median, low, high } = Estimate::of((1..=n).rev().map(f64::from));
        (median, low, high)
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Ranks for the median at 95 %, from tables of the sign test.
        assert_eq!(ranks(5), (3.0, 1.0, 5.0));
        assert_eq!(ranks(6), (3.5, 1.0, 6.0));
        assert_eq!(ranks(10), (5.5, 2.0, 9.0));
        assert_eq!(ranks(15), (8.0, 4.0, 12.0));
        assert_eq!(ranks(20), (10.5, 6.0, 15.0));
    }

    #[test]
    fn quantiles_stay_within_the_sample() {
        assert_eq!(quantile(&[], 0.5), 0);
        assert_eq!(quantile(&[1, 2, 3], 0.5), 2);
        assert_eq!(quantile(&[1, 2, 3], 1.0), 3);
    }
}
