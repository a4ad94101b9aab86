//! What all exchanges of one VM share: the plan, the memory budget, the breaker,
//! and the write-backs and records that nobody waits for.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::breaker::{Breaker, Transition};
use crate::bypass::Bypass;
use crate::caller::Stored;
use crate::callout::{Callout, CalloutId, CalloutResult, Kind, Outcome, Trace};
use crate::effect::Effect;
use crate::json::Unjoined;
use crate::metric::{Metric, Verdict, micros};
use crate::plan::Plan;
use crate::sorted::Sorted;
use crate::watch::Watch;

/// How often a host looks after what waits, once it has been woken up.
pub const TICK: Duration = Duration::from_millis(10);

/// Write-backs and records waiting in a VM at most; beyond it the oldest is dropped.
const MAX_QUEUED: usize = 256;
/// Of them sent by one tick at most.
const MAX_PER_TICK: usize = 8;
/// Once they come to so many bytes, the others wait for the next tick: each is
/// there twice until the host has it.
const MAX_BYTES_PER_TICK: u64 = 128 * 1024;
/// Time-out of a callout that nobody waits for.
const QUEUED_TIMEOUT: Duration = Duration::from_secs(5);
/// One of whose end nothing was heard for so long is not waited for: some versions of Kong's
/// runtime do not tell that a callout failed.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Nothing in the answer to one is of interest.
const MAX_QUEUED_ANSWER_BYTES: usize = 64 * 1024;

/// The state of one VM.
#[derive(Debug)]
pub struct Adapter {
    pub(crate) plan: Plan,
    pub(crate) breaker: Breaker,
    pub(crate) watch: Watch,
    held_bytes: u64,
    next_callout: u32,
    queue: VecDeque<Queued>,
    in_flight: Sorted<u32, (Kind, Duration)>,
    /// Makes ids unlike those of other VMs.
    seed: u64,
    /// Ticks have been asked for. Asking again would start the host's timer anew:
    /// on a busy worker it would never end.
    awake: bool,
    /// The shared data's key of the breaker: one for each optimizer.
    pub(crate) breaker_key: String,
    /// The breaker has opened: held calls are to hear of it.
    letting_go: bool,
    /// Stands in for shared data on hosts that have none.
    local: Sorted<String, Vec<u8>>,
    pub(crate) stored: Stored,
}

#[derive(Debug)]
struct Queued {
    kind: Kind,
    trace: Trace,
    body: Unjoined,
}

impl Adapter {
    /// A VM that carries out `plan`. `seed` is a random number, the VM's own.
    pub fn new(plan: Plan, seed: u64) -> Self {
        Self {
            breaker: Breaker::new(plan.breaker_failures, plan.breaker_open),
            breaker_key: format!(
                "optimizer.breaker.{}/{}{}",
                plan.upstream(),
                plan.authority,
                plan.path_prefix
            ),
            letting_go: false,
            watch: Watch::new(plan.can().may_withhold_bodies),
            plan,
            held_bytes: 0,
            next_callout: 0,
            queue: VecDeque::new(),
            in_flight: Sorted::default(),
            seed,
            awake: false,
            local: Sorted::default(),
            stored: Stored::default(),
        }
    }

    /// Lets the metrics that an operator looks for first begin at 0: whoever
    /// computes rates would miss their first event otherwise.
    pub fn start(&self, effects: &mut Vec<Effect>) {
        for metric in [
            Metric::Exchanges(Verdict::Transformed),
            Metric::Exchanges(Verdict::Unchanged),
            Metric::Exchanges(Verdict::Hit),
            Metric::TokensSaved,
            Metric::ProviderRejections,
            Metric::BreakerTransitions(Transition::Opened),
            Metric::BreakerOpen,
        ] {
            effects.push(Effect::Measure(metric, 0));
        }
    }

    /// The plan being carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of bodies held by all exchanges and waiting write-backs.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Time has passed after [`Effect::WakeUp`]: sends what waits. `now` is the
    /// time since the Unix epoch.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.give_up(now, effects);
        let most = self.plan.can().background_callouts;
        let mut sent: u64 = 0;
        for _ in 0..MAX_PER_TICK {
            if self.in_flight.len() >= most || sent >= MAX_BYTES_PER_TICK {
                break;
            }
            let Some(Queued { kind, trace, body }) = self.pop() else {
                break;
            };
            sent = sent.saturating_add(length(&body));
            let trace = if most > 1 { trace } else { Trace::new() };
            let mut callout = self.callout(kind, &trace, body.join().into());
            callout.timeout = QUEUED_TIMEOUT;
            callout.max_answer_bytes = MAX_QUEUED_ANSWER_BYTES;
            self.in_flight.insert(callout.id.0, (kind, now));
            effects.push(Effect::Callout(callout));
        }
        self.letting_go = false;
        if self.queue.is_empty() && !self.watch.is_watching() {
            self.awake = false;
            effects.push(Effect::Sleep);
        }
    }

    /// Forgets callouts of whose end the host said nothing.
    fn give_up(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.in_flight.retain(|_, &(kind, since)| {
            let took = now.saturating_sub(since);
            let waits = took < LOST_AFTER;
            if !waits {
                measure_callout(kind, CalloutResult::Abandoned, took, effects);
            }
            waits
        });
    }

    /// A callout sent by [`Adapter::tick`] has ended.
    pub fn callout_done(
        &mut self,
        id: CalloutId,
        outcome: Outcome,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some((kind, since)) = self.in_flight.remove(&id.0) else {
            return;
        };
        let took = now.saturating_sub(since);
        let outcome = outcome.timed(took, QUEUED_TIMEOUT);
        // An optimizer that keeps no records says so with 404.
        let ignored =
            kind == Kind::Record && matches!(outcome, Outcome::Answer { status: 404, .. });
        let used = if ignored { Ok(()) } else { outcome.success().map(drop) };
        let result = CalloutResult::from(used);
        measure_callout(kind, result, took, effects);
    }

    /// A callout that somebody waits for, unless changed.
    pub(crate) fn callout(&mut self, kind: Kind, trace: &Trace, body: Bytes) -> Callout {
        self.next_callout = self.next_callout.wrapping_add(1);
        let plan = &self.plan;
        let mut headers: Vec<(&'static str, Cow<'static, str>)> = vec![
            (":method", "POST".into()),
            (":path", format!("{}{}", plan.path_prefix, kind.path()).into()),
            (":authority", plan.authority.clone().into()),
            ("content-type", "application/json".into()),
        ];
        if let Some(authorization) = &plan.authorization {
            headers.push(("authorization", authorization.clone().into()));
        }
        headers.extend(trace.iter().map(|(name, value)| (*name, value.clone().into())));
        // An answer holds a request, perhaps a cached response, and little beside them.
        let limits = &plan.limits;
        let bodies = limits.request_bytes.get().saturating_add(limits.response_bytes.get());
        let max_answer_bytes = bodies.saturating_add(64 * 1024);
        Callout {
            id: CalloutId(self.next_callout),
            kind,
            headers,
            body,
            timeout: plan.timeout,
            max_answer_bytes: usize::try_from(max_answer_bytes).unwrap_or(usize::MAX),
        }
    }

    /// Queues a write-back or a record; returns what had to go for it.
    ///
    /// # Errors
    /// The VM's budget does not allow it.
    pub(crate) fn enqueue(
        &mut self,
        kind: Kind,
        trace: Trace,
        body: Unjoined,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Kind>, Bypass> {
        if !self.reserve(&mut 0, length(&body)) {
            return Err(Bypass::OverTotalBytes);
        }
        self.wake_up(effects);
        let full = self.queue.len() >= MAX_QUEUED;
        let dropped = if full { self.pop() } else { None };
        self.queue.push_back(Queued { kind, trace, body });
        Ok(dropped.map(|dropped| dropped.kind))
    }

    /// Calls that wait for the optimizer are not to wait any longer.
    pub(crate) fn let_go(&mut self, effects: &mut Vec<Effect>) {
        if self.plan.can().let_go_any_time {
            self.letting_go = true;
            self.wake_up(effects);
        }
    }

    /// Whether calls that wait for the optimizer are let go.
    pub(crate) fn is_letting_go(&self, now: Duration) -> bool {
        self.letting_go && self.breaker.is_open(now)
    }

    /// Asks for ticks.
    pub(crate) fn wake_up(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.awake, true) {
            effects.push(Effect::WakeUp);
        }
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.held_bytes = self.held_bytes.saturating_sub(length(&queued.body));
        Some(queued)
    }

    /// An id for a call that the host gave none.
    pub(crate) fn new_id(&mut self) -> String {
        self.next_callout = self.next_callout.wrapping_add(1);
        format!("{:016x}-{:08x}", self.seed, self.next_callout)
    }

    /// Changes what an exchange holds from `reserved` to `wanted` bytes; false,
    /// and no change, if the VM's budget does not allow it.
    pub(crate) fn reserve(&mut self, reserved: &mut u64, wanted: u64) -> bool {
        let held = self.held_bytes.saturating_sub(*reserved).saturating_add(wanted);
        if wanted > *reserved && held > self.plan.limits.total_bytes.get() {
            return false;
        }
        self.held_bytes = held;
        *reserved = wanted;
        true
    }

    pub(crate) fn local(&mut self) -> &mut Sorted<String, Vec<u8>> {
        &mut self.local
    }
}

fn length(body: &Unjoined) -> u64 {
    u64::try_from(body.length()).unwrap_or(u64::MAX)
}

/// Counts one callout and how long it took.
pub(crate) fn measure_callout(
    kind: Kind,
    result: CalloutResult,
    took: Duration,
    effects: &mut Vec<Effect>,
) {
    effects.push(Effect::Measure(Metric::Callouts(kind, result), 1));
    effects.push(Effect::Measure(Metric::CalloutDuration(kind), micros(took)));
}
