//! The response's half of an exchange.

use bytes::Bytes;

use super::{Active, Head, Request, Response, Turn, bytes, let_go};
use crate::bypass::Bypass;
use crate::call::{self, DIGESTS};
use crate::callout::{Kind, Outcome};
use crate::dialect::Dialect;
use crate::effect::{Effect, Flow, Side};
use crate::event::{Body, ResponseHead};
use crate::json::Object;
use crate::metric::{Metric, Verdict};
use crate::protocol::{self, Answer};
use crate::transform;

impl Active {
    pub(super) fn response_headers(&mut self, turn: &mut Turn<'_>, head: &ResponseHead<'_>) {
        self.response = Response::Passing;
        if matches!(self.request, Request::Served) {
            turn.push(Effect::Flow(Side::Response, Flow::Pass));
            return;
        }
        self.abandon_request(turn, Bypass::HostAnswered);
        self.learn(turn, head);
        let readable = call::readable(head);
        let mut bound = None;
        if turn.adapter.plan.hooks.response {
            match readable.and_then(|()| self.may_hold(turn, head)) {
                Ok(hold) => bound = Some(hold),
                Err(reason) => self.settle_response(turn, Verdict::Bypassed(reason)),
            }
        }
        if self.write_back.is_some() {
            let limit = turn.adapter.plan.limits.response_bytes.get();
            let too_large = head.headers.content_length().is_some_and(|length| length > limit);
            let copyable =
                readable.and(if too_large { Err(Bypass::ResponseTooLarge) } else { Ok(()) });
            if let Err(reason) = copyable {
                self.drop_write_back(turn, reason);
            }
        }
        if let Some(bound) = bound {
            let present = |name: &&str| head.headers.has(name);
            let head = Head {
                has_content_length: head.headers.has("content-length"),
                validators: ["etag"].into_iter().chain(DIGESTS).filter(present).collect(),
            };
            self.response = Response::Holding { bound, head };
            turn.push(Effect::Flow(Side::Response, Flow::Hold));
            return;
        }
        self.tell(turn);
        self.copy_or_pass(turn);
    }

    /// What an answer's head teaches about the caller and the transform.
    fn learn(&mut self, turn: &mut Turn<'_>, head: &ResponseHead<'_>) {
        let status = head.headers.status();
        if !head.from_provider {
            return;
        }
        if self.verdict == Some(Verdict::Transformed) && (400..500).contains(&status) {
            turn.count(Metric::ProviderRejections);
        }
        if self.call.provable && head.upstream == self.call.upstream.as_deref() {
            let proof = self.call.caller.proof;
            match status {
                200..=299 => Self::store_shared(turn, proof.slot(), proof.proven_at(turn.now)),
                401 | 403 => self.load_shared(turn, proof.slot()),
                _ => {}
            }
        }
    }

    /// Whether the response hook may wait for this answer, and up to how many bytes.
    fn may_hold(&self, turn: &Turn<'_>, head: &ResponseHead<'_>) -> Result<usize, Bypass> {
        if matches!(self.verdict, Some(Verdict::Bypassed(_))) {
            return Err(Bypass::RequestBypassed);
        }
        if self.call.is_stream() {
            return Err(Bypass::ResponseStream);
        }
        if self.sent.is_none() {
            return Err(Bypass::OverTotalBytes);
        }
        if turn.adapter.breaker.is_open(turn.now) {
            return Err(Bypass::BreakerOpen);
        }
        call::response_bound(&turn.adapter.plan, head.headers.content_length())
    }

    pub(super) fn response_body(&mut self, turn: &mut Turn<'_>, part: Body<'_>) {
        match (&mut self.response, part) {
            (Response::Holding { bound, .. }, Body::Held(size)) => {
                let bound = *bound;
                let sent = self.sent.as_ref().map_or(0, Bytes::len);
                if size > bound {
                    let limit = turn.adapter.plan.limits.response_bytes.get();
                    let too_large = bytes(&[size]) > limit;
                    self.give_up(
                        turn,
                        if too_large {
                            Bypass::ResponseTooLarge
                        } else {
                            Bypass::ResponseOverHostBuffer
                        },
                    );
                } else if !turn.adapter.reserve(&mut self.reserved, bytes(&[sent, size])) {
                    self.give_up(turn, Bypass::OverTotalBytes);
                }
            }
            (Response::Holding { .. }, Body::Whole(body)) => self.ask_about_response(turn, body),
            (Response::Holding { .. }, Body::Unreadable) => {
                self.drop_write_back(turn, Bypass::ResponseUnreadable);
                self.give_up(turn, Bypass::ResponseUnreadable);
            }
            (Response::Copying(copy), Body::Chunk(chunk)) => {
                copy.extend_from_slice(chunk);
                let size = bytes(&[copy.len()]);
                let sent = self.sent.as_ref().map_or(0, Bytes::len);
                let wanted = size.saturating_add(bytes(&[sent]));
                if size > turn.adapter.plan.limits.response_bytes.get() {
                    self.drop_write_back(turn, Bypass::ResponseTooLarge);
                    self.copy_or_pass(turn);
                } else if !turn.adapter.reserve(&mut self.reserved, wanted) {
                    self.drop_write_back(turn, Bypass::OverTotalBytes);
                    self.copy_or_pass(turn);
                }
            }
            (Response::Copying(copy), Body::End) => {
                self.response = Response::Complete(std::mem::take(copy).into());
            }
            (Response::Asking { .. }, _) => {}
            (_, part) => let_go(turn, Side::Response, &part),
        }
    }

    fn ask_about_response(&mut self, turn: &mut Turn<'_>, body: Bytes) {
        if let Err(error) = Object::parse(&body) {
            let reason = call::response_error(error);
            self.drop_write_back(turn, reason);
            return self.give_up(turn, reason);
        }
        if !turn.adapter.breaker.admits(turn.now) {
            return self.release_response(turn, Verdict::Bypassed(Bypass::BreakerOpen), body);
        }
        let sent = self.sent.clone().unwrap_or_default();
        let Response::Holding { bound, head } =
            std::mem::replace(&mut self.response, Response::Passing)
        else {
            return;
        };
        let metadata = &self.call.caller.metadata;
        let envelope = protocol::optimize_response(self.call.dialect, &sent, &body, metadata);
        let asked = turn.ask(Kind::OptimizeResponse, &self.call, envelope);
        self.response = Response::Asking { asked, body, bound, head };
    }

    pub(super) fn optimize_response_done(&mut self, turn: &mut Turn<'_>, outcome: Outcome) {
        let Response::Asking { asked, body, bound, head } =
            std::mem::replace(&mut self.response, Response::Passing)
        else {
            return;
        };
        let outcome = turn.timed(asked, outcome);
        let failed = outcome.is_failure();
        let decided = outcome.success().and_then(|answer| self.review(&body, bound, &answer));
        turn.answered(Kind::OptimizeResponse, asked, failed, &decided);
        match decided {
            Ok(Some(changed)) => {
                if head.has_content_length {
                    let length = changed.len().to_string().into();
                    turn.push(Effect::SetHeader(Side::Response, "content-length", length));
                }
                for name in head.validators {
                    turn.push(Effect::RemoveHeader(Side::Response, name.to_owned()));
                }
                turn.push(Effect::ReplaceBody(Side::Response, changed.clone()));
                self.release_response(turn, Verdict::Transformed, changed);
            }
            Ok(None) => self.release_response(turn, Verdict::Unchanged, body),
            Err(reason) => self.release_response(turn, Verdict::Bypassed(reason), body),
        }
    }

    /// What the optimizer's answer makes of the provider's.
    fn review(
        &mut self,
        body: &Bytes,
        bound: usize,
        answer: &Bytes,
    ) -> Result<Option<Bytes>, Bypass> {
        let answer = Answer::parse(answer)?;
        if answer.decisions().is_none() {
            return Ok(None);
        }
        let transformed = answer.response().ok_or(Bypass::AnswerWrongShape)?;
        let original = Object::parse(body).map_err(call::response_error)?;
        let changed = transform::response(self.call.dialect, &original, transformed)?;
        if changed.as_ref().is_some_and(|changed| changed.len() > bound.max(body.len())) {
            return Err(Bypass::TransformTooLarge);
        }
        if self.call.wants_decisions {
            self.decisions.add(&answer);
        }
        Ok(changed.map(Bytes::from))
    }

    /// Lets a held answer go on; its body as the client gets it is `body`.
    fn release_response(&mut self, turn: &mut Turn<'_>, verdict: Verdict, body: Bytes) {
        self.settle_response(turn, verdict);
        self.tell(turn);
        let sent = self.sent.as_ref().map_or(0, Bytes::len);
        let kept = if self.write_back.is_some() { bytes(&[sent, body.len()]) } else { 0 };
        self.response = if turn.adapter.reserve(&mut self.reserved, kept) && kept > 0 {
            Response::Complete(body)
        } else {
            Response::Passing
        };
        turn.push(Effect::Flow(Side::Response, Flow::Pass));
    }

    /// Leaves a held answer alone.
    fn give_up(&mut self, turn: &mut Turn<'_>, reason: Bypass) {
        self.settle_response(turn, Verdict::Bypassed(reason));
        self.tell(turn);
        self.copy_or_pass(turn);
    }

    /// Lets the answer go on, copied where it is to be written back.
    fn copy_or_pass(&mut self, turn: &mut Turn<'_>) {
        let (response, flow) = if self.write_back.is_some() {
            (Response::Copying(Vec::new()), Flow::Copy)
        } else {
            self.sent = None;
            turn.adapter.reserve(&mut self.reserved, 0);
            (Response::Passing, Flow::Pass)
        };
        self.response = response;
        turn.push(Effect::Flow(Side::Response, flow));
    }

    /// Fixes what the response hook came to.
    pub(super) fn settle_response(&mut self, turn: &mut Turn<'_>, verdict: Verdict) {
        turn.count(Metric::Responses(verdict));
        turn.annotate("optimizer_response", verdict);
    }

    fn drop_write_back(&mut self, turn: &mut Turn<'_>, reason: Bypass) {
        if self.write_back.take().is_some() {
            turn.count(Metric::WriteBacks(Some(reason)));
        }
    }

    /// The exchange is over: queues what it has for the cache.
    pub(super) fn write_back(&mut self, turn: &mut Turn<'_>) {
        let Some(key) = self.write_back.take() else { return };
        let metric = match self.cacheable(turn) {
            Ok(response) => {
                let (plan, call) = (&turn.adapter.plan, &self.call);
                let sent = self.sent.as_deref().unwrap_or_default();
                let metadata = &call.caller.metadata;
                let envelope = protocol::cache(&key, sent, &response, plan.ttl_seconds, metadata);
                let (trace, body) = (call.trace.clone(), envelope.into());
                if !turn.adapter.write_back(trace, body, turn.effects) {
                    turn.count(Metric::WriteBacks(Some(Bypass::QueueFull)));
                }
                Metric::WriteBacks(None)
            }
            Err(reason) => Metric::WriteBacks(Some(reason)),
        };
        turn.count(metric);
    }

    /// What the client got, if it may be written to the cache.
    fn cacheable(&mut self, turn: &Turn<'_>) -> Result<Bytes, Bypass> {
        let body = match std::mem::replace(&mut self.response, Response::Passing) {
            Response::Complete(body) => body,
            Response::Idle => return Err(Bypass::ClientGone),
            _ => return Err(Bypass::ResponseUnreadable),
        };
        let object = Object::parse(&body).map_err(call::response_error)?;
        let incomplete = self.call.dialect == Dialect::OpenAiResponses
            && object.get("status").is_some_and(|status| status != "\"completed\"");
        if protocol::has_error(&object) || incomplete {
            return Err(Bypass::ResponseError);
        }
        if self.sent.is_none() {
            return Err(Bypass::OverTotalBytes);
        }
        if turn.adapter.breaker.is_open(turn.now) {
            return Err(Bypass::BreakerOpen);
        }
        Ok(body)
    }
}
