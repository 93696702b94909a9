//! When to try again. A pure schedule: the clock is the caller's.

use std::time::Duration;

/// Exponential backoff with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The delay after the first failure, before jitter.
    pub first: Duration,
    /// The longest delay, before jitter.
    pub longest: Duration,
}

impl Backoff {
    /// For a push to a registry. Podman tries again by itself as well.
    pub(crate) const PUSH: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) };

    /// The delay after this many failures (counted from 1): doubled each time, then spread over 75 % to 125 %.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        self.at(failures, fastrand::f64())
    }

    fn at(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let delay = self.first.saturating_mul(1 << doublings).min(self.longest);
        delay.mul_f64(0.75 + 0.5 * chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_are_spread() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(8) };
        let middle: Vec<_> = (1..=6).map(|failures| backoff.at(failures, 0.5).as_secs()).collect();
        assert_eq!(middle, [1, 2, 4, 8, 8, 8]);
        assert_eq!(backoff.at(1, 0.0), Duration::from_millis(750));
        assert_eq!(backoff.at(u32::MAX, 1.0), Duration::from_secs(10));
    }
}
