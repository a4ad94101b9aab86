//! What all exchanges of one VM share: the plan, the memory budget, the breaker
//! and the write-backs that nobody waits for.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::breaker::Breaker;
use crate::callout::{Callout, CalloutId, CalloutResult, Kind, Outcome};
use crate::effect::Effect;
use crate::exchange::Exchange;
use crate::metric::Metric;
use crate::plan::Plan;

/// Write-backs waiting in a VM at most; beyond it the oldest is dropped.
const MAX_QUEUED: usize = 256;
/// Write-backs under way at a time at most.
const MAX_IN_FLIGHT: usize = 32;
/// Write-backs sent by one tick at most.
const MAX_PER_TICK: usize = 8;
/// Time-out of a write-back.
const WRITE_BACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing in the answer to a write-back is of interest.
const MAX_WRITE_BACK_ANSWER_BYTES: usize = 64 * 1024;

/// Headers of the call that callouts carry on.
pub(crate) type Trace = Vec<(&'static str, String)>;

/// The state of one VM.
#[derive(Debug)]
pub struct Adapter {
    pub(crate) plan: Plan,
    pub(crate) breaker: Breaker,
    held_bytes: u64,
    next_callout: u32,
    queue: VecDeque<WriteBack>,
    in_flight: BTreeMap<u32, Duration>,
    /// Ticks have been asked for. Asking again would start the host's timer anew:
    /// on a busy worker it would never end.
    awake: bool,
    /// Stands in for shared data on hosts that have none.
    local: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug)]
struct WriteBack {
    trace: Trace,
    body: Bytes,
}

impl Adapter {
    /// A VM that carries out `plan`.
    pub fn new(plan: Plan) -> Self {
        Self {
            breaker: Breaker::new(plan.breaker_failures, plan.breaker_open),
            plan,
            held_bytes: 0,
            next_callout: 0,
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            awake: false,
            local: BTreeMap::new(),
        }
    }

    /// The plan being carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The state of one more exchange.
    pub fn exchange(&self) -> Exchange {
        Exchange::new()
    }

    /// Bytes of bodies held by all exchanges and waiting write-backs.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Time has passed after [`Effect::WakeUp`]: sends what waits. `now` is the
    /// time since the Unix epoch.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for _ in 0..MAX_PER_TICK {
            if self.in_flight.len() >= MAX_IN_FLIGHT {
                break;
            }
            let Some(WriteBack { trace, body }) = self.pop() else {
                break;
            };
            let mut callout = self.callout(Kind::Cache, &trace, body);
            callout.timeout = WRITE_BACK_TIMEOUT;
            callout.max_answer_bytes = MAX_WRITE_BACK_ANSWER_BYTES;
            self.in_flight.insert(callout.id.0, now);
            effects.push(Effect::Callout(callout));
        }
        if self.queue.is_empty() {
            self.awake = false;
            effects.push(Effect::Sleep);
        }
    }

    /// A callout sent by [`Adapter::tick`] has ended.
    pub fn callout_done(
        &mut self,
        id: CalloutId,
        outcome: Outcome,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some(since) = self.in_flight.remove(&id.0) else {
            return;
        };
        let took = now.saturating_sub(since);
        let outcome = outcome.timed(took, WRITE_BACK_TIMEOUT);
        let result = CalloutResult::from(outcome.success().map(drop));
        measure_callout(Kind::Cache, result, took, effects);
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

    /// Queues a write-back; false if an older one had to go for it.
    pub(crate) fn write_back(
        &mut self,
        trace: Trace,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if !std::mem::replace(&mut self.awake, true) {
            effects.push(Effect::WakeUp);
        }
        let fits = self.queue.len() < MAX_QUEUED || self.pop().is_none();
        self.held_bytes = self.held_bytes.saturating_add(length(&body));
        self.queue.push_back(WriteBack { trace, body });
        fits
    }

    fn pop(&mut self) -> Option<WriteBack> {
        let write_back = self.queue.pop_front()?;
        self.held_bytes = self.held_bytes.saturating_sub(length(&write_back.body));
        Some(write_back)
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

    pub(crate) fn local(&mut self) -> &mut BTreeMap<String, Vec<u8>> {
        &mut self.local
    }
}

fn length(body: &Bytes) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}

/// Counts one callout and how long it took.
pub(crate) fn measure_callout(
    kind: Kind,
    result: CalloutResult,
    took: Duration,
    effects: &mut Vec<Effect>,
) {
    effects.push(Effect::Measure(Metric::Callouts(kind, result), 1));
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    effects.push(Effect::Measure(Metric::CalloutDuration(kind), micros));
}
