//! Leaves the optimizer alone for a while when it keeps failing.

use std::time::Duration;

/// How often a VM looks at what the others know, at most.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// Counts failed callouts in a row. Closed: callouts go. Open: none does, until
/// the time is over; then a single probe decides. Workers share when it opens
/// and closes; each counts its own failures.
#[derive(Debug)]
pub(crate) struct Breaker {
    limit: u64,
    open_for: Duration,
    failures: u64,
    open_until: Option<Duration>,
    synced: Option<Duration>,
}

/// Whether a callout may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Refused,
    Granted,
    /// The one callout that decides whether the breaker closes.
    Probe,
}

/// What became of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// Too many failures in a row.
    Opened,
    /// Its time is over: one callout tries.
    Probing,
    /// The probe failed too.
    Reopened,
    /// The optimizer answers again.
    Closed,
}

impl Transition {
    /// Every transition.
    pub const ALL: [Transition; 4] =
        [Transition::Opened, Transition::Probing, Transition::Reopened, Transition::Closed];

    /// The transition as metrics spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Transition::Opened => "opened",
            Transition::Probing => "probing",
            Transition::Reopened => "reopened",
            Transition::Closed => "closed",
        }
    }
}

impl Breaker {
    /// A `limit` of 0 never opens.
    pub(crate) const fn new(limit: u64, open_for: Duration) -> Self {
        Self { limit, open_for, failures: 0, open_until: None, synced: None }
    }

    /// Whether a callout would be refused at `now`.
    pub(crate) fn is_open(&self, now: Duration) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// Whether a callout may go at `now`. The first one after the open time is
    /// the probe: until its outcome is known, or another open time has passed, it stays the only one.
    pub(crate) fn admit(&mut self, now: Duration) -> Admission {
        if self.is_open(now) {
            return Admission::Refused;
        }
        if self.open_until.is_none() {
            return Admission::Granted;
        }
        self.open_until = Some(now.saturating_add(self.open_for));
        Admission::Probe
    }

    /// Takes in how a callout ended.
    pub(crate) fn record(&mut self, failed: bool, now: Duration) -> Option<Transition> {
        if !failed {
            self.failures = 0;
            return self.open_until.take().map(|_| Transition::Closed);
        }
        self.failures = self.failures.saturating_add(1);
        if self.limit == 0 || self.failures < self.limit {
            return None;
        }
        let before = self.open_until.replace(now.saturating_add(self.open_for));
        Some(if before.is_some() { Transition::Reopened } else { Transition::Opened })
    }

    /// Whether it is time to look at what other workers know.
    pub(crate) fn sync_due(&mut self, now: Duration) -> bool {
        let due = self.limit > 0
            && self.synced.is_none_or(|synced| now.saturating_sub(synced) >= SYNC_EVERY);
        if due {
            self.synced = Some(now);
        }
        due
    }

    /// What the other workers are to know.
    pub(crate) fn shared(&self) -> Vec<u8> {
        self.open_until.unwrap_or_default().as_nanos().to_be_bytes().to_vec()
    }

    /// Takes in what another worker shared. True if this opened the breaker here.
    pub(crate) fn adopt(&mut self, shared: &[u8], now: Duration) -> bool {
        let Ok(nanoseconds) = shared.try_into().map(u128::from_be_bytes) else { return false };
        let was_open = self.is_open(now);
        match u64::try_from(nanoseconds).map(Duration::from_nanos) {
            Ok(Duration::ZERO) if self.open_until.is_some() => {
                self.open_until = None;
                self.failures = 0;
            }
            // No worker opens for longer: a clock that ran away must not close the way for good.
            Ok(until) if until > now && until <= now.saturating_add(self.open_for) => {
                self.open_until = Some(until);
            }
            _ => {}
        }
        self.is_open(now) && !was_open
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
        assert_eq!(breaker.record(true, at(0)), None);
        assert_eq!(breaker.record(false, at(0)), None);
        assert_eq!(breaker.record(true, at(0)), None);
        assert_eq!(breaker.admit(at(0)), Admission::Granted);
        assert_eq!(breaker.record(true, at(1)), Some(Transition::Opened));
        assert!(breaker.is_open(at(1)));
        assert_eq!(breaker.admit(at(10)), Admission::Refused);
        assert_eq!(breaker.admit(at(11)), Admission::Probe);
        assert_eq!(breaker.admit(at(12)), Admission::Refused, "one probe at a time");
        assert_eq!(breaker.record(false, at(13)), Some(Transition::Closed));
        assert_eq!(breaker.admit(at(13)), Admission::Granted);
    }

    #[test]
    fn a_failed_probe_opens_again_and_a_lost_one_does_not_block_for_ever() {
        let mut breaker = Breaker::new(1, at(10));
        breaker.record(true, at(0));
        assert_eq!(breaker.admit(at(10)), Admission::Probe);
        assert_eq!(breaker.record(true, at(11)), Some(Transition::Reopened));
        assert_eq!(breaker.admit(at(20)), Admission::Refused);
        assert_eq!(breaker.admit(at(21)), Admission::Probe);
        assert_eq!(breaker.admit(at(31)), Admission::Probe, "the outcome never came");
    }

    #[test]
    fn zero_never_opens() {
        let mut breaker = Breaker::new(0, at(10));
        assert!((0..100).all(|_| breaker.record(true, at(0)).is_none()));
        assert_eq!(breaker.admit(at(0)), Admission::Granted);
        assert!(!breaker.sync_due(at(0)));
    }

    #[test]
    fn workers_learn_from_each_other() {
        let (mut one, mut two) = (Breaker::new(1, at(10)), Breaker::new(1, at(10)));
        assert!(two.sync_due(at(0)) && !two.sync_due(Duration::from_millis(99)));
        one.record(true, at(1));
        assert!(two.adopt(&one.shared(), at(1)) && two.is_open(at(10)));
        assert!(!two.adopt(&one.shared(), at(1)), "known already");
        one.record(false, at(2));
        assert!(!two.adopt(&one.shared(), at(2)) && !two.is_open(at(2)));
        for nonsense in [&b""[..], b"x", &u128::MAX.to_be_bytes(), &at(99).as_nanos().to_be_bytes()]
        {
            assert!(!two.adopt(nonsense, at(3)));
        }
    }
}
