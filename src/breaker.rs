//! Leaves the optimizer alone for a while when it keeps failing.

use std::time::Duration;

/// Counts failed callouts in a row. Closed: callouts go. Open: none does, until
/// the time is over; then a single probe decides.
#[derive(Debug)]
pub(crate) struct Breaker {
    limit: u64,
    open_for: Duration,
    failures: u64,
    open_until: Option<Duration>,
}

impl Breaker {
    /// A `limit` of 0 never opens.
    pub(crate) const fn new(limit: u64, open_for: Duration) -> Self {
        Self { limit, open_for, failures: 0, open_until: None }
    }

    /// Whether a callout would be refused at `now`.
    pub(crate) fn is_open(&self, now: Duration) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// Whether a callout may go at `now`. The first one after the open time is
    /// the probe: until its outcome is known, or another open time has passed, it stays the only one.
    pub(crate) fn admits(&mut self, now: Duration) -> bool {
        if self.is_open(now) {
            return false;
        }
        if self.open_until.is_some() {
            self.open_until = Some(now.saturating_add(self.open_for));
        }
        true
    }

    /// Takes in how a callout ended.
    pub(crate) fn record(&mut self, failed: bool, now: Duration) {
        if !failed {
            self.failures = 0;
            self.open_until = None;
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.limit > 0 && self.failures >= self.limit {
            self.open_until = Some(now.saturating_add(self.open_for));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let mut breaker = Breaker::new(2, at(10));
        breaker.record(true, at(0));
        breaker.record(false, at(0));
        breaker.record(true, at(0));
        assert!(breaker.admits(at(0)));
        breaker.record(true, at(1));
        assert!(breaker.is_open(at(1)) && !breaker.admits(at(10)));
        assert!(!breaker.is_open(at(11)) && breaker.admits(at(11)));
        assert!(!breaker.admits(at(12)), "one probe at a time");
        breaker.record(false, at(13));
        assert!(breaker.admits(at(13)) && breaker.admits(at(13)));
    }

    #[test]
    fn a_failed_probe_opens_again_and_a_lost_one_does_not_block_for_ever() {
        let mut breaker = Breaker::new(1, at(10));
        breaker.record(true, at(0));
        assert!(breaker.admits(at(10)));
        breaker.record(true, at(11));
        assert!(!breaker.admits(at(20)) && breaker.admits(at(21)));
        assert!(breaker.admits(at(31)), "the outcome of the probe never came");
    }

    #[test]
    fn zero_never_opens() {
        let mut breaker = Breaker::new(0, at(10));
        (0..100).for_each(|_| breaker.record(true, at(0)));
        assert!(breaker.admits(at(0)));
    }
}
