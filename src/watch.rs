//! Whether the host shows the bodies of requests whose headers it holds.
//!
//! An Envoy without `allow_on_headers_stop_iteration` does not: a held call would
//! wait for ever. The module cannot read that setting, so it finds out: the first
//! part of a body seen while its request is held proves the host good. Until then
//! held calls are watched, and let go when nothing comes.

use std::time::Duration;

/// A held request of whose body nothing came for so long is let go, while the
/// host is not known.
const PATIENCE: Duration = Duration::from_millis(750);
/// A body that comes within this time of being let go was there all along: the
/// host withheld it. A slow client's comes when it likes.
const AT_ONCE: Duration = Duration::from_millis(5);

/// So many calls in a row must show it: a slow client's body may come at that very moment.
const SUSPICIONS: u32 = 2;

/// What is known about the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    ShowsBodies,
    WithholdsBodies,
}

/// What is known about the host, and how many calls are being watched.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    known: Known,
    suspicions: u32,
    watched: usize,
}

impl Watch {
    /// Watches a host that may withhold bodies; any other is known to show them.
    pub(crate) fn new(may_withhold_bodies: bool) -> Self {
        let known = if may_withhold_bodies { Known::Nothing } else { Known::ShowsBodies };
        Self { known, ..Self::default() }
    }

    /// Whether a request may be held at all.
    pub(crate) fn may_hold(&self) -> bool {
        self.known != Known::WithholdsBodies
    }

    /// A request is held from now on; whether it has to be watched.
    pub(crate) fn begin(&mut self) -> bool {
        let watch = self.known == Known::Nothing;
        if watch {
            self.watched = self.watched.saturating_add(1);
        }
        watch
    }

    /// A watched request is no longer held, or its body came.
    pub(crate) fn end(&mut self) {
        self.watched = self.watched.saturating_sub(1);
    }

    /// Whether ticks are needed.
    pub(crate) fn is_watching(&self) -> bool {
        self.watched > 0
    }

    /// A part of a body came while its request was held.
    pub(crate) fn body_seen(&mut self) {
        self.known = Known::ShowsBodies;
    }

    /// Whether a request held since `since` has to be let go.
    pub(crate) fn is_overdue(&self, since: Duration, now: Duration) -> bool {
        self.known != Known::ShowsBodies && now.saturating_sub(since) >= PATIENCE
    }

    /// The body of a request that was let go at `since` comes; true if this is
    /// how the module learns that the host withholds bodies.
    pub(crate) fn late_body(&mut self, since: Duration, now: Duration) -> bool {
        if self.known != Known::Nothing {
            return false;
        }
        if now.saturating_sub(since) > AT_ONCE {
            self.suspicions = 0;
            return false;
        }
        self.suspicions = self.suspicions.saturating_add(1);
        let withheld = self.suspicions >= SUSPICIONS;
        if withheld {
            self.known = Known::WithholdsBodies;
        }
        withheld
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn one_body_seen_ends_the_doubt() {
        let mut watch = Watch::default();
        assert!(watch.begin() && watch.is_watching());
        watch.body_seen();
        watch.end();
        assert!(!watch.begin() && !watch.is_watching());
        assert!(!watch.is_overdue(ms(0), ms(10_000)), "a slow client is waited for");
        assert!(!watch.late_body(ms(0), ms(0)) && watch.may_hold());
    }

    #[test]
    fn a_body_that_was_there_all_along_is_the_verdict() {
        let mut watch = Watch::default();
        assert!(!watch.is_overdue(ms(0), ms(749)) && watch.is_overdue(ms(0), ms(750)));
        assert!(!watch.late_body(ms(750), ms(760)) && watch.may_hold(), "a slow client");
        assert!(!watch.late_body(ms(750), ms(751)) && watch.may_hold(), "once may be chance");
        assert!(!watch.late_body(ms(750), ms(760)), "a slow client ends the suspicion");
        assert!(!watch.late_body(ms(750), ms(751)));
        assert!(watch.late_body(ms(750), ms(751)) && !watch.may_hold());
        assert!(!watch.late_body(ms(750), ms(751)), "said once");
    }
}
