//! The state machine of one exchange: a request and its response.
//!
//! ```text
//! request   Idle ─► Syncing? ─► Holding ─► Asking ─► Settled
//!            │          │          │          └► Proving ─► Settled │ Served
//!            │          │          ├► LetGo ──────────────► Settled
//!            └──────────┴──────────┴──────────────────────► Settled
//! response  Idle ─► Holding ─► Asking ─► Complete
//!            │         ▼
//!            ├────► Copying ────────────► Ended
//!            └─────────┴────────────────► Complete (unread)
//! ```
//! Each request ends in `Settled` with one verdict, or `Served` from the cache.
//! `Ended` and `Complete` know all that they will of the answer; what follows from
//! it is done when the exchange is over, on nobody's time.

mod closing;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::adapter::{Adapter, measure_callout};
use crate::admission::Form;
use crate::breaker::{Admission, Transition};
use crate::bypass::Bypass;
use crate::call::Call;
use crate::callout::{Callout, CalloutId, CalloutResult, Kind, Outcome};
use crate::decisions::Decisions;
use crate::effect::{Effect, Flow, Notice, Side};
use crate::event::{Body, Event};
use crate::json::Places;
use crate::metric::{Metric, Verdict};
use crate::reader::{Finished, Reader};
use crate::record::Said;
use crate::usage::Usage;

/// One exchange. Without an `Active` part it is none of ours.
#[derive(Debug, Default)]
pub struct Exchange(Option<Box<Active>>);

#[derive(Debug)]
struct Active {
    call: Call,
    request: Request,
    response: Response,
    verdict: Option<Verdict>,
    decisions: Decisions,
    /// The request as it went to the provider, kept where it is needed again.
    sent: Option<Bytes>,
    /// The cache key under which the answer is to be written back, as JSON.
    write_back: Option<String>,
    started: Duration,
    /// The answer's status, 0 before it began.
    status: u16,
    /// The one length that its headers tell of its body.
    response_length: Option<u64>,
    /// How long `/v1/optimize` took.
    optimize_took: Option<Duration>,
    /// What the optimizer answered, for the record.
    said: Option<Said>,
    /// Bytes counted against the VM's budget.
    reserved: u64,
}

#[derive(Debug)]
enum Request {
    Idle,
    /// What other workers know of the optimizer is being looked up.
    Syncing {
        bound: usize,
    },
    /// The host holds the request; bodies up to `bound` bytes. `watched` until a
    /// part of the body came, while the host is not known.
    Holding {
        bound: usize,
        watched: bool,
    },
    /// The request was held in vain and let go at this time.
    LetGo(Duration),
    /// The optimizer is being asked about `body`, of `length` bytes; `None` until the host shows it
    /// again. `early`: the host showed it with the headers, and their `content-length` is its own.
    Asking {
        asked: Asked,
        body: Option<Bytes>,
        length: usize,
        places: Option<Places>,
        bound: usize,
        early: bool,
    },
    /// There is `hit`; whether the caller may have it is being looked up.
    Proving {
        body: Option<Bytes>,
        hit: Bytes,
    },
    Settled,
    Served,
}

#[derive(Debug)]
enum Response {
    Idle,
    /// The host holds the answer; bodies up to `bound` bytes.
    Holding {
        bound: usize,
        head: Head,
    },
    /// The optimizer is being asked about `body`.
    Asking {
        asked: Asked,
        body: Bytes,
        places: Option<Places>,
        usage: Option<Usage>,
        bound: usize,
        head: Head,
    },
    /// The answer passes and is read along.
    Copying(Reader),
    /// The answer passed to its end; what was read is looked at when the exchange is over.
    Ended(Reader),
    /// The answer is over; this is what was read of it.
    Complete(Finished),
    /// Between two states, and where the exchange breaks off there.
    Passing,
}

/// A callout that is being waited for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: CalloutId,
    since: Duration,
    /// The breaker waits for the outcome.
    probe: bool,
}

/// What of an answer's head matters once its body changes.
#[derive(Debug)]
struct Head {
    form: Form,
    has_content_length: bool,
    /// Headers that vouch for the very bytes.
    validators: Vec<&'static str>,
}

/// One call of [`Exchange::handle`].
struct Turn<'t> {
    adapter: &'t mut Adapter,
    now: Duration,
    effects: &'t mut Vec<Effect>,
}

impl Turn<'_> {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn count(&mut self, metric: Metric) {
        self.push(Effect::Measure(metric, 1));
    }

    /// Shows a value in the access log, where the host can.
    fn note(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        if self.adapter.plan.can().annotate {
            self.push(Effect::Annotate(name, value.into()));
        }
    }

    /// Asks the breaker whether a callout may go; whether it is the probe.
    fn admit(&mut self) -> Result<bool, Bypass> {
        match self.adapter.breaker.admit(self.now) {
            Admission::Refused => Err(Bypass::BreakerOpen),
            Admission::Granted => Ok(false),
            Admission::Probe => {
                self.transition(Transition::Probing);
                Ok(true)
            }
        }
    }

    /// Counts, shares and tells what became of the breaker.
    fn transition(&mut self, transition: Transition) {
        self.count(Metric::BreakerTransitions(transition));
        let open = u64::from(transition != Transition::Closed);
        self.push(Effect::Measure(Metric::BreakerOpen, open));
        if self.adapter.plan.can().shared_data {
            let (key, value) = (self.adapter.breaker_key.clone(), self.adapter.breaker.shared());
            self.push(Effect::StoreShared(key, value));
        }
        match transition {
            Transition::Opened => {
                self.push(Effect::Log(Notice::OptimizerFails));
                self.adapter.let_go(self.effects);
            }
            Transition::Closed => self.push(Effect::Log(Notice::OptimizerAnswers)),
            Transition::Probing | Transition::Reopened => {}
        }
    }

    /// Sends a callout that the exchange waits for.
    fn ask(&mut self, kind: Kind, call: &Call, body: Bytes, probe: bool) -> Asked {
        let callout: Callout = self.adapter.callout(kind, &call.trace, body);
        let asked = Asked { id: callout.id, since: self.now, probe };
        self.push(Effect::Callout(callout));
        asked
    }

    /// A callout that nobody waits for any more.
    fn abandon(&mut self, kind: Kind, asked: Asked) {
        let took = self.now.saturating_sub(asked.since);
        measure_callout(kind, CalloutResult::Abandoned, took, self.effects);
    }

    /// How a callout that was waited for ended.
    fn timed(&self, asked: Asked, outcome: Outcome) -> Outcome {
        outcome.timed(self.now.saturating_sub(asked.since), self.adapter.plan.timeout)
    }

    /// Takes in how a callout that was waited for ended, and what its answer came to.
    fn answered<T>(
        &mut self,
        kind: Kind,
        asked: Asked,
        failed: bool,
        used: &Result<T, Bypass>,
    ) -> Duration {
        let took = self.now.saturating_sub(asked.since);
        let plan = &self.adapter.plan;
        // Whoever waited gets what was waited for; the next ones need not wait as long.
        let late = !plan.can().total_timeout && took > plan.timeout;
        let result = match used.as_ref().map(|_| ()).map_err(|&reason| reason).into() {
            CalloutResult::Ok if late => CalloutResult::Late,
            result => result,
        };
        let unreadable = matches!(result, CalloutResult::NotJson | CalloutResult::WrongShape);
        let failed = failed || unreadable || late;
        if let Some(transition) = self.adapter.breaker.record(failed, self.now) {
            self.transition(transition);
        }
        measure_callout(kind, result, took, self.effects);
        took
    }
}

impl Exchange {
    /// An exchange that has not begun.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Whether nothing that follows concerns it: the call is none of ours, or over.
    pub const fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the answer passes whatever its head says. A host may let it go on, then, and hand in its
    /// head, as it came, with the first part of its body ([`Flow::Copy`]); the time is when that part came.
    pub fn answer_passes(&self, adapter: &Adapter) -> bool {
        self.0.as_ref().is_some_and(|active| active.answer_passes(&adapter.plan))
    }

    /// Whether anything depends on [`ResponseHead::upstream`](crate::event::ResponseHead::upstream) of an
    /// answer with this `status`, handed in at `now`: else it need not be told.
    pub fn asks_for_upstream(&self, adapter: &Adapter, now: Duration, status: u16) -> bool {
        self.0.as_ref().is_some_and(|active| active.at_stake(adapter, now, status).is_some())
    }

    /// Whether the request's body is to be shown again ([`Body::Again`]) before this outcome of a callout is
    /// told.
    pub fn wants_request(&self, id: CalloutId, outcome: &Outcome) -> bool {
        self.0.as_ref().is_some_and(|active| {
            matches!(&active.request, Request::Asking { asked, body: None, .. } if asked.id == id)
                && outcome.is_success()
        })
    }

    /// Takes in one event at `now` (the time since the Unix epoch) and pushes
    /// what the host is to do about it.
    pub fn handle(
        &mut self,
        adapter: &mut Adapter,
        now: Duration,
        event: Event<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let mut turn = Turn { adapter, now, effects };
        if let Event::RequestHeaders(head) = event {
            self.0 = Active::begin(&mut turn, head);
            return;
        }
        let Some(active) = &mut self.0 else {
            // Not ours: make sure that nothing stays held.
            match event {
                Event::RequestBody(_) => turn.push(Effect::Flow(Side::Request, Flow::Pass)),
                Event::ResponseHeaders(_) | Event::ResponseBody(_) => {
                    turn.push(Effect::Flow(Side::Response, Flow::Pass));
                }
                _ => {}
            }
            return;
        };
        match event {
            Event::RequestHeaders(_) => {}
            Event::RequestBody(part) => active.request_body(&mut turn, part),
            Event::ResponseHeaders(head) => active.response_headers(&mut turn, &head),
            Event::ResponseBody(part) => active.response_body(&mut turn, part),
            Event::CalloutDone(id, outcome) => match (&active.request, &active.response) {
                (Request::Asking { asked, .. }, _) if asked.id == id => {
                    active.optimize_done(&mut turn, outcome);
                }
                (_, Response::Asking { asked, .. }) if asked.id == id => {
                    active.optimize_response_done(&mut turn, outcome);
                }
                _ => {}
            },
            Event::Tick => active.tick(&mut turn),
            Event::SharedLoaded(value) => active.shared_loaded(&mut turn, value),
            Event::Closed => {
                if let Some(active) = self.0.take() {
                    active.close(&mut turn);
                }
            }
        }
    }
}

impl Active {
    /// Reads a shared value; `shared_loaded` goes on with it.
    fn load_shared(&mut self, turn: &mut Turn<'_>, key: String) {
        if turn.adapter.plan.can().shared_data {
            turn.push(Effect::LoadShared(key));
        } else {
            let value = turn.adapter.local().get(&key).cloned();
            self.shared_loaded(turn, value.as_deref());
        }
    }

    fn store_shared(turn: &mut Turn<'_>, key: String, value: Vec<u8>) {
        if turn.adapter.plan.can().shared_data {
            turn.push(Effect::StoreShared(key, value));
        } else {
            turn.adapter.local().insert(key, value);
        }
    }

    fn shared_loaded(&mut self, turn: &mut Turn<'_>, value: Option<&[u8]>) {
        let proof = self.call.caller.proof;
        match std::mem::replace(&mut self.request, Request::Settled) {
            Request::Proving { body, hit } => {
                let lasts = turn.adapter.plan.proof;
                let both = proof.zip(value);
                if both.is_some_and(|(proof, value)| proof.is_proven(value, turn.now, lasts)) {
                    self.serve(turn, hit, body);
                } else {
                    self.send(turn, Verdict::Bypassed(Bypass::HitUnproven), body);
                }
            }
            Request::Syncing { bound } => {
                let shared = value.unwrap_or_default();
                if turn.adapter.breaker.adopt(shared, turn.now) {
                    turn.adapter.let_go(turn.effects);
                }
                self.hold(turn, bound);
            }
            other => {
                // The provider refused the credentials: whatever proved them is void.
                self.request = other;
                if let Some(proof) = proof
                    && value.is_some_and(|value| proof.is_in(value))
                {
                    Self::store_shared(turn, proof.slot(), Vec::new());
                }
            }
        }
    }

    /// Time has passed, and a message is held.
    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.watch(turn);
        if !turn.adapter.is_letting_go(turn.now) {
            return;
        }
        let open = Verdict::Bypassed(Bypass::BreakerOpen);
        match std::mem::replace(&mut self.request, Request::Settled) {
            Request::Asking { asked, body, .. } if !asked.probe => {
                turn.abandon(Kind::Optimize, asked);
                self.send(turn, open, body);
            }
            other => self.request = other,
        }
        match std::mem::replace(&mut self.response, Response::Passing) {
            Response::Asking { asked, body, usage, .. } if !asked.probe => {
                turn.abandon(Kind::OptimizeResponse, asked);
                self.release_response(turn, open, body, usage);
            }
            other => self.response = other,
        }
    }

    /// The header that tells the client what was done.
    fn tell(&self, turn: &mut Turn<'_>) {
        if let (true, Some(verdict)) = (self.call.wants_decisions, self.verdict) {
            let value = self.decisions.header(verdict).into();
            turn.push(Effect::SetHeader(Side::Response, "x-anyray-optimization", value));
        }
    }
}

/// A body's length, and sums of lengths, as the budget counts them.
fn bytes(lengths: &[usize]) -> u64 {
    lengths
        .iter()
        .fold(0, |sum: u64, &length| sum.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)))
}

/// A part that does not belong to the flow that was asked for: a binding that
/// holds although nothing is to be held must let go.
fn let_go(turn: &mut Turn<'_>, side: Side, part: &Body<'_>) {
    if matches!(part, Body::Held(_) | Body::Whole(_) | Body::Early(_) | Body::Unreadable) {
        turn.push(Effect::Flow(side, Flow::Pass));
    }
}
