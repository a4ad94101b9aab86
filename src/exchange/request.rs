//! The request's half of an exchange.

use bytes::Bytes;

use super::{Active, Request, Response, Turn, bytes, let_go};
use crate::admission;
use crate::bypass::Bypass;
use crate::call::Call;
use crate::caller::ProofKey;
use crate::callout::{Kind, Outcome};
use crate::config::Serve;
use crate::decisions::Decisions;
use crate::effect::{Effect, Flow, Notice, Side};
use crate::event::{Body, RequestHead};
use crate::host::Replace;
use crate::json::Object;
use crate::metric::{Metric, Verdict};
use crate::protocol::{self, Answer};
use crate::reader::Finished;
use crate::record::Said;
use crate::roomy::Roomy;
use crate::transform;
use crate::usage::Usage;

/// Larger bodies, in bytes, are not kept while the optimizer is asked if the host shows them again, as it has
/// them anyway: a VM's memory only ever grows, and what waits in two places falls out of the CPU's caches.
pub(super) const KEPT_BYTES: usize = 16 * 1024;

/// What a good answer of the optimizer means for the request.
enum Decision {
    Send(Verdict, Bytes),
    /// There is a hit for a caller who is known to be welcome.
    Serve(Bytes),
    /// There is a hit, for a caller with proven credentials only.
    Prove(Bytes, ProofKey),
}

impl Active {
    /// Begins an exchange; `None` if the path is no LLM endpoint's.
    pub(super) fn begin(turn: &mut Turn<'_>, head: RequestHead<'_>) -> Option<Box<Self>> {
        for name in head.headers.own() {
            if let Ok(name) = std::str::from_utf8(name) {
                turn.push(Effect::RemoveHeader(Side::Request, name.to_owned()));
            }
        }
        let plan = &turn.adapter.plan;
        let path = head.headers.get(":path").unwrap_or_default();
        let Some(dialect) = plan.endpoints.dialect(path) else {
            turn.push(Effect::Flow(Side::Request, Flow::Pass));
            return None;
        };
        let is_llm_call = admission::is_llm_call(head.headers);
        let call = Call::new(plan, dialect, head, is_llm_call.is_ok());
        let admitted = is_llm_call.and_then(|()| admission::admit(plan, head, call.length));
        let reads = plan.hooks.request || plan.hooks.response || plan.hooks.record;
        let mut active = Box::new(Self {
            call,
            request: Request::Idle,
            response: Response::Idle,
            verdict: None,
            decisions: Decisions::default(),
            sent: None,
            write_back: None,
            started: turn.now,
            status: 0,
            response_length: None,
            optimize_took: None,
            said: None,
            reserved: 0,
        });
        match admitted {
            Err(reason) => active.pass(turn, Verdict::Bypassed(reason)),
            Ok(_) if !reads => active.pass(turn, Verdict::Unchanged),
            Ok(_) if !turn.adapter.watch.may_hold() => {
                active.pass(turn, Verdict::Bypassed(Bypass::HostCannotHold));
            }
            Ok(bound)
                if turn.adapter.plan.can().shared_data
                    && turn.adapter.breaker.sync_due(turn.now) =>
            {
                active.request = Request::Syncing { bound };
                turn.push(Effect::LoadShared(turn.adapter.breaker_key.clone()));
            }
            Ok(bound) => active.hold(turn, bound),
        }
        Some(active)
    }

    /// Holds the request until its body is there.
    pub(super) fn hold(&mut self, turn: &mut Turn<'_>, bound: usize) {
        if turn.adapter.breaker.is_open(turn.now) {
            return self.pass(turn, Verdict::Bypassed(Bypass::BreakerOpen));
        }
        let watched = turn.adapter.watch.begin();
        if watched {
            turn.adapter.wake_up(turn.effects);
        }
        self.request = Request::Holding { bound, watched };
        turn.push(Effect::Flow(Side::Request, Flow::Hold));
    }

    pub(super) fn request_body(&mut self, turn: &mut Turn<'_>, part: Body<'_>) {
        if let Request::LetGo(since) = self.request {
            self.request = Request::Settled;
            if turn.adapter.watch.late_body(since, turn.now) {
                turn.push(Effect::Log(Notice::HostWithholdsBodies));
            }
            turn.push(Effect::Flow(Side::Request, Flow::Pass));
            return;
        }
        let Request::Holding { bound, .. } = self.request else {
            match (&mut self.request, part) {
                (Request::Asking { body: kept, length, .. }, Body::Again(body)) => {
                    *kept = Some(body).filter(|body| body.len() == *length);
                }
                (Request::Asking { .. } | Request::Proving { .. }, _) => {}
                (_, part) => let_go(turn, Side::Request, &part),
            }
            return;
        };
        turn.adapter.watch.body_seen();
        self.unwatch(turn);
        let refused = match part {
            Body::Held(size) if size > bound => {
                let limit = turn.adapter.plan.limits.request_bytes.get();
                if bytes(&[size]) > limit {
                    Bypass::RequestTooLarge
                } else {
                    Bypass::RequestOverHostBuffer
                }
            }
            Body::Held(size) => {
                if turn.adapter.reserve(&mut self.reserved, bytes(&[size])) {
                    return;
                }
                Bypass::OverTotalBytes
            }
            Body::Whole(body) => match self.read_request(turn, body, bound, false) {
                Ok(()) => return,
                Err(reason) => reason,
            },
            Body::Early(body) => {
                let early = self.call.length == u64::try_from(body.body().len()).ok();
                match self.read_request(turn, body, bound, early) {
                    Ok(()) => return,
                    Err(reason) => reason,
                }
            }
            Body::Unreadable => Bypass::RequestUnreadable,
            Body::Chunk(_) | Body::Again(_) | Body::End => return,
        };
        self.pass(turn, Verdict::Bypassed(refused));
    }

    /// A watched request is not waited for any longer than the host's doubt lasts.
    pub(super) fn watch(&mut self, turn: &mut Turn<'_>) {
        let Request::Holding { watched: true, .. } = self.request else { return };
        if turn.adapter.watch.is_overdue(self.started, turn.now) {
            self.unwatch(turn);
            self.settle(turn, Verdict::Bypassed(Bypass::RequestBodyOverdue));
            self.request = Request::LetGo(turn.now);
            turn.push(Effect::Flow(Side::Request, Flow::Copy));
        }
    }

    /// The request is not watched any more, if it was.
    pub(super) fn unwatch(&mut self, turn: &mut Turn<'_>) {
        if let Request::Holding { watched, .. } = &mut self.request
            && std::mem::take(watched)
        {
            turn.adapter.watch.end();
        }
    }

    /// The whole body is there: asks the optimizer about it.
    fn read_request(
        &mut self,
        turn: &mut Turn<'_>,
        body: Roomy,
        bound: usize,
        early: bool,
    ) -> Result<(), Bypass> {
        if body.body().is_empty() {
            return Err(Bypass::RequestEmpty);
        }
        let object = Object::parse_first(body.body()).map_err(admission::request_error)?;
        self.call.read_body(&object);
        let places = object.places();
        if !turn.adapter.plan.hooks.request {
            self.send(turn, Verdict::Unchanged, Some(body.into_body()));
            return Ok(());
        }
        if let Err(reason) = turn.adapter.plan.may_transform(early)
            && self.call.may_hit().is_err()
            && self.call.may_write().is_err()
        {
            // Nothing could come of asking.
            return Err(reason);
        }
        let probe = turn.admit()?;
        let Call { dialect, caller, .. } = &self.call;
        let can_short_circuit = turn.adapter.plan.hooks.cache;
        let (envelope, body) =
            protocol::optimize(*dialect, body, &caller.metadata, can_short_circuit);
        let asked = turn.ask(Kind::Optimize, &self.call, envelope, probe);
        let length = body.len();
        let plan = &turn.adapter.plan;
        let shown_again = plan.can().shows_again && length > KEPT_BYTES;
        let keeps = !shown_again || (plan.hooks.record && plan.record_content);
        let body = keeps.then_some(body);
        self.request = Request::Asking { asked, body, length, places, bound, early };
        Ok(())
    }

    pub(super) fn optimize_done(&mut self, turn: &mut Turn<'_>, outcome: Outcome) {
        let Request::Asking { asked, body, places, bound, early, .. } =
            std::mem::replace(&mut self.request, Request::Settled)
        else {
            return;
        };
        let outcome = turn.timed(asked, outcome);
        let failed = outcome.is_failure();
        let decided = outcome.success().and_then(|answer| {
            let body = body.as_ref().ok_or(Bypass::RequestUnreadable)?;
            let original = Object::parse_again(body, places).map_err(admission::request_error)?;
            self.decide(turn, body, &original, bound, early, &answer)
        });
        self.optimize_took = Some(turn.answered(Kind::Optimize, asked, failed, &decided));
        match decided {
            Ok(Decision::Send(verdict, changed)) => self.send(turn, verdict, Some(changed)),
            Ok(Decision::Serve(hit)) => self.serve(turn, hit, body),
            Ok(Decision::Prove(hit, proof)) => {
                self.request = Request::Proving { body, hit };
                self.load_shared(turn, proof.slot());
            }
            Err(reason) => self.send(turn, Verdict::Bypassed(reason), body),
        }
    }

    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        body: &Bytes,
        original: &Object<'_, [u8]>,
        bound: usize,
        early: bool,
        answer_body: &Bytes,
    ) -> Result<Decision, Bypass> {
        let answer = Answer::parse(answer_body, "request", Some(original))?;
        if self.call.wants_decisions {
            self.decisions.add(&answer);
        }
        let plan = &turn.adapter.plan;
        if plan.hooks.record {
            let mut said = Said::new(answer.optimization_id());
            said.decide(answer.decisions());
            self.said = Some(said);
        }
        if plan.hooks.cache {
            match (answer.cache_key(), self.call.may_write()) {
                (Some(key), Ok(())) => self.write_back = Some(key.to_owned()),
                (Some(_), Err(reason)) => {
                    turn.effects.push(Effect::Measure(Metric::WriteBacks(Some(reason)), 1));
                }
                (None, _) => {}
            }
            if let Some(hit) = answer.hit() {
                self.call.may_hit()?;
                let hit = answer_body.slice_ref(hit.as_bytes());
                let caller = &self.call.caller;
                return match (plan.serve, caller.proof) {
                    (Serve::Anyone, _) => Ok(Decision::Serve(hit)),
                    (Serve::Authenticated, _) if caller.has_user => Ok(Decision::Serve(hit)),
                    (Serve::Proven, Some(proof)) => Ok(Decision::Prove(hit, proof)),
                    _ => Err(Bypass::HitUnproven),
                };
            }
        }
        let transformed = answer.transformed()?;
        let Some(new) = transform::request(self.call.dialect, original, transformed)? else {
            return Ok(Decision::Send(Verdict::Unchanged, body.clone()));
        };
        turn.adapter.plan.may_transform(early)?;
        if new.len() > bound.max(body.len()) {
            return Err(Bypass::TransformTooLarge);
        }
        let saved = answer.tokens_saved();
        turn.push(Effect::Measure(Metric::TokensSaved, saved));
        turn.note("optimizer_tokens_saved", saved.to_string());
        Ok(Decision::Send(Verdict::Transformed, protocol::shared(answer_body, new)))
    }

    /// Lets the request go on to the provider with `body`, whole and read.
    pub(super) fn send(&mut self, turn: &mut Turn<'_>, verdict: Verdict, body: Option<Bytes>) {
        let plan = &turn.adapter.plan;
        let hooks = plan.hooks;
        let bypassed = matches!(verdict, Verdict::Bypassed(_));
        let hook = if self.call.is_stream() { hooks.stream_response } else { hooks.response };
        let reads = (hook && !bypassed) || self.write_back.is_some();
        let keeps = reads || (hooks.record && plan.record_content);
        if let (Verdict::Transformed, Some(body)) = (verdict, &body) {
            match plan.can().replace_request {
                Replace::Held => {
                    if self.call.has_content_length {
                        let length = body.len().to_string().into();
                        turn.push(Effect::SetHeader(Side::Request, "content-length", length));
                    }
                    turn.push(Effect::ReplaceBody(Side::Request, body.clone()));
                }
                // What stands before the first member is always the client's.
                Replace::Early => turn.push(Effect::ReplaceRest(body.slice(1.min(body.len())..))),
            }
        }
        let body = body.filter(|_| keeps);
        let kept = bytes(&[body.as_ref().map_or(0, Bytes::len)]);
        let kept = turn.adapter.reserve(&mut self.reserved, kept) && body.is_some();
        if kept && reads || (hooks.record && !bypassed) {
            // An answer that will be read must come unencoded.
            turn.push(Effect::SetHeader(Side::Request, "accept-encoding", "identity".into()));
        }
        self.sent = body.filter(|_| kept);
        self.pass(turn, verdict);
    }

    /// Answers from the cache, in the mode that the client asked for; `body` is
    /// the request, should that not be possible.
    pub(super) fn serve(&mut self, turn: &mut Turn<'_>, hit: Bytes, body: Option<Bytes>) {
        let (content_type, answer) = if self.call.is_stream() {
            let replay = self.call.replay_length(&hit);
            let Some(stream) = replay.and_then(|length| self.call.replay(&hit, length)) else {
                return self.send(turn, Verdict::Bypassed(Bypass::HitUnreplayable), body);
            };
            ("text/event-stream", stream)
        } else {
            ("application/json", hit.clone())
        };
        self.settle(turn, Verdict::Hit);
        self.request = Request::Served;
        self.write_back = None;
        self.status = 200;
        let usage = Usage::of(&hit);
        // Kept for the record alone.
        let plan = &turn.adapter.plan;
        let kept = plan.hooks.record && plan.record_content;
        let wanted = if kept { bytes(&[hit.len()]) } else { 0 };
        let kept = turn.adapter.reserve(&mut self.reserved, wanted) && kept;
        let body =
            if kept { Ok(Bytes::copy_from_slice(&hit)) } else { Err(Bypass::OverTotalBytes) };
        self.response = Response::Complete(Finished { usage, body });
        let mut headers = vec![("content-type", content_type.into())];
        if self.call.wants_decisions {
            let value = self.decisions.header(Verdict::Hit).into();
            headers.push(("x-anyray-optimization", value));
        }
        turn.push(Effect::Respond { headers, body: answer });
    }

    /// Lets the request go on.
    fn pass(&mut self, turn: &mut Turn<'_>, verdict: Verdict) {
        self.settle(turn, verdict);
        self.request = Request::Settled;
        if self.sent.is_none() {
            turn.adapter.reserve(&mut self.reserved, 0);
        }
        turn.push(Effect::Flow(Side::Request, Flow::Pass));
    }

    /// Fixes what the request hook came to.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, verdict: Verdict) {
        self.verdict = Some(verdict);
        turn.count(Metric::Exchanges(verdict));
        turn.note("optimizer_outcome", verdict.annotation());
    }
}
