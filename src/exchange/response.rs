//! The response's half of an exchange.

use std::time::Duration;

use bytes::Bytes;

use super::{Active, Head, Request, Response, Turn, bytes, let_go};
use crate::adapter::Adapter;
use crate::admission::{self, DIGESTS, Form};
use crate::bypass::Bypass;
use crate::caller::ProofKey;
use crate::callout::{Kind, Outcome};
use crate::effect::{Effect, Flow, Side};
use crate::event::{Body, ResponseHead};
use crate::json::Object;
use crate::metric::{Metric, Verdict, micros};
use crate::plan::Plan;
use crate::protocol::{self, Answer};
use crate::reader::{self, Finished, Reader};
use crate::transform;
use crate::usage::Usage;

/// A changed answer.
struct Changed {
    /// As one document.
    document: Bytes,
    usage: Option<Usage>,
    /// As the client gets it, so many bytes.
    wire: usize,
}

impl Active {
    pub(super) fn response_headers(&mut self, turn: &mut Turn<'_>, head: &ResponseHead<'_>) {
        if matches!(self.request, Request::Served) {
            turn.push(Effect::Flow(Side::Response, Flow::Pass));
            return;
        }
        let asking = match self.request {
            Request::Asking { asked, .. } if head.from_provider => Some(asked),
            _ => None,
        };
        match asking {
            // Some versions of Kong's runtime do not tell that a callout failed: they go on.
            Some(asked) => {
                let failed: Result<(), _> = Err(Bypass::OptimizerUnreachable);
                turn.answered(Kind::Optimize, asked, true, &failed);
                self.request = Request::Settled;
                self.settle(turn, Verdict::Bypassed(Bypass::OptimizerUnreachable));
            }
            // A host that holds nothing but bodies: there was none.
            None if head.from_provider => self.abandon_request(turn, Bypass::RequestEmpty),
            None => self.abandon_request(turn, Bypass::HostAnswered),
        }
        self.status = head.headers.status();
        self.response_length = head.headers.content_length();
        self.learn(turn, head);
        let length = head.headers.content_length();
        let readable = admission::readable(head, self.status, length);
        if turn.adapter.plan.hooks.response {
            match readable.and_then(|form| self.may_hold(turn, head, form, length)) {
                Ok((bound, head)) => {
                    self.response = Response::Holding { bound, head };
                    turn.push(Effect::Flow(Side::Response, Flow::Hold));
                    return;
                }
                Err(reason) => self.settle_response(turn, Verdict::Bypassed(reason)),
            }
        }
        self.tell(turn);
        let limit = turn.adapter.plan.limits.response_bytes.get();
        let too_large = length.is_some_and(|length| length > limit);
        match readable {
            Ok(_) if too_large => self.pass_unread(turn, Bypass::ResponseTooLarge),
            Ok(form) => self.read_along(turn, form),
            Err(reason) => self.pass_unread(turn, reason),
        }
    }

    /// What the provider proves with this `status`, or makes void, if anything.
    pub(super) fn at_stake(
        &self,
        adapter: &Adapter,
        now: Duration,
        status: u16,
    ) -> Option<ProofKey> {
        let proof = self.call.caller.proof.filter(|_| self.call.provable)?;
        let told = match status {
            200..=299 => !adapter.stored.has(&proof, now, adapter.plan.proof),
            status => matches!(status, 401 | 403),
        };
        told.then_some(proof)
    }

    /// What an answer's head teaches about the caller and the transform.
    fn learn(&mut self, turn: &mut Turn<'_>, head: &ResponseHead<'_>) {
        let status = self.status;
        if !head.from_provider {
            return;
        }
        if self.verdict == Some(Verdict::Transformed) && (400..500).contains(&status) {
            turn.count(Metric::ProviderRejections);
        }
        if let Some(proof) = self.at_stake(turn.adapter, turn.now, status)
            && head.upstream == self.call.upstream.as_deref()
        {
            let accepted = (200..300).contains(&status);
            turn.adapter.stored.set(proof, accepted.then_some(turn.now));
            if accepted {
                Self::store_shared(turn, proof.slot(), proof.proven_at(turn.now));
            } else {
                self.load_shared(turn, proof.slot());
            }
        }
    }

    /// See [`Exchange::answer_passes`](super::Exchange::answer_passes).
    pub(super) fn answer_passes(&self, plan: &Plan) -> bool {
        let held = plan.hooks.response && self.may_hold_any(plan).is_ok();
        matches!(self.request, Request::Settled) && !held && !self.call.wants_decisions
    }

    /// Whether the response hook may wait for any answer to this call.
    fn may_hold_any(&self, plan: &Plan) -> Result<(), Bypass> {
        if matches!(self.verdict, Some(Verdict::Bypassed(_))) {
            return Err(Bypass::RequestBypassed);
        }
        if self.call.is_stream() && !plan.hooks.stream_response {
            return Err(Bypass::ResponseStream);
        }
        if self.sent.is_none() {
            return Err(Bypass::OverTotalBytes);
        }
        Ok(())
    }

    /// Whether the response hook may wait for this answer, and up to how many bytes.
    fn may_hold(
        &self,
        turn: &Turn<'_>,
        head: &ResponseHead<'_>,
        form: Form,
        length: Option<u64>,
    ) -> Result<(usize, Head), Bypass> {
        let plan = &turn.adapter.plan;
        self.may_hold_any(plan)?;
        if form == Form::Stream && !plan.hooks.stream_response {
            return Err(Bypass::ResponseStream);
        }
        if turn.adapter.breaker.is_open(turn.now) {
            return Err(Bypass::BreakerOpen);
        }
        let bound = admission::response_bound(plan, length)?;
        let present = |name: &&str| head.headers.has(name);
        let head = Head {
            form,
            has_content_length: head.headers.has("content-length"),
            validators: ["etag"].into_iter().chain(DIGESTS).filter(present).collect(),
        };
        Ok((bound, head))
    }

    pub(super) fn response_body(&mut self, turn: &mut Turn<'_>, part: Body<'_>) {
        let sent = self.sent.as_ref().map_or(0, Bytes::len);
        match (&mut self.response, part) {
            (Response::Holding { bound, .. }, Body::Held(size)) => {
                let limit = turn.adapter.plan.limits.response_bytes.get();
                if size > *bound && bytes(&[size]) > limit {
                    self.give_up(turn, Bypass::ResponseTooLarge);
                } else if size > *bound {
                    self.give_up(turn, Bypass::ResponseOverHostBuffer);
                } else if !turn.adapter.reserve(&mut self.reserved, bytes(&[sent, size])) {
                    self.give_up(turn, Bypass::OverTotalBytes);
                }
            }
            (Response::Holding { .. }, Body::Whole(body)) => {
                self.ask_about_response(turn, body.into_body());
            }
            (Response::Holding { .. }, Body::Unreadable) => {
                self.give_up(turn, Bypass::ResponseUnreadable);
            }
            (Response::Copying(reader), Body::Chunk(chunk)) => {
                if reader.seen() == 0 && reader.form() == Form::Stream {
                    let took = micros(turn.now.saturating_sub(self.started));
                    let metric = Metric::TimeToFirstToken(self.call.dialect);
                    turn.push(Effect::Measure(metric, took));
                }
                reader.push(chunk);
                let size = reader.seen();
                if bytes(&[size]) > turn.adapter.plan.limits.response_bytes.get() {
                    self.pass_unread(turn, Bypass::ResponseTooLarge);
                } else if !turn.adapter.reserve(&mut self.reserved, bytes(&[sent, size])) {
                    self.pass_unread(turn, Bypass::OverTotalBytes);
                }
            }
            // Without these bytes the rest means something else.
            (Response::Copying(_), Body::Unreadable) => {
                self.pass_unread(turn, Bypass::ResponseUnreadable);
            }
            (Response::Copying(_), Body::End) => {
                if let Response::Copying(reader) =
                    std::mem::replace(&mut self.response, Response::Passing)
                {
                    self.response = Response::Ended(reader);
                }
            }
            (Response::Asking { .. }, _) => {}
            (_, part) => let_go(turn, Side::Response, &part),
        }
    }

    /// The whole answer is there: asks the optimizer about it.
    fn ask_about_response(&mut self, turn: &mut Turn<'_>, body: Bytes) {
        let Response::Holding { bound, head } = &self.response else { return };
        let (bound, form) = (*bound, head.form);
        let document = match form {
            Form::Json => Ok(body),
            Form::Stream => reader::assemble(self.call.dialect, body),
        };
        let document = match document {
            Ok(document) => document,
            Err(reason) => return self.give_up(turn, reason),
        };
        let (usage, places) = match Object::parse_first(&document) {
            Ok(object) => (object.text_of("usage").and_then(Usage::parse), object.places()),
            Err(error) => return self.give_up(turn, admission::response_error(error)),
        };
        let probe = match turn.admit() {
            Ok(probe) => probe,
            Err(reason) => return self.give_up(turn, reason),
        };
        let Response::Holding { head, .. } =
            std::mem::replace(&mut self.response, Response::Passing)
        else {
            return;
        };
        let sent = self.sent.clone().unwrap_or_default();
        let metadata = &self.call.caller.metadata;
        let envelope = protocol::optimize_response(self.call.dialect, &sent, &document, metadata);
        let asked = turn.ask(Kind::OptimizeResponse, &self.call, envelope.into(), probe);
        self.response = Response::Asking { asked, body: document, places, usage, bound, head };
    }

    pub(super) fn optimize_response_done(&mut self, turn: &mut Turn<'_>, outcome: Outcome) {
        let Response::Asking { asked, body, places, usage, bound, head } =
            std::mem::replace(&mut self.response, Response::Passing)
        else {
            return;
        };
        let outcome = turn.timed(asked, outcome);
        let failed = outcome.is_failure();
        let decided = outcome.success().and_then(|answer| {
            let original = Object::parse_again(&body, places).map_err(admission::response_error)?;
            self.review(&original, usage, bound, head.form, &answer)
        });
        turn.answered(Kind::OptimizeResponse, asked, failed, &decided);
        match decided {
            Ok(Some(changed)) => {
                // The answer as it was is of no use any more: it need not be there beside the new one.
                drop(body);
                self.replace_response(turn, head, changed);
            }
            Ok(None) => self.release_response(turn, Verdict::Unchanged, body, usage),
            Err(reason) => self.release_response(turn, Verdict::Bypassed(reason), body, usage),
        }
    }

    /// Lets a held answer go on changed.
    fn replace_response(&mut self, turn: &mut Turn<'_>, head: Head, changed: Changed) {
        let Changed { document, usage, wire } = changed;
        let wire = match head.form {
            Form::Json => document.clone(),
            Form::Stream => match self.call.replay(&document, wire) {
                Some(stream) => stream,
                None => {
                    let reason = Verdict::Bypassed(Bypass::TransformUnreplayable);
                    return self.release_response(turn, reason, document, usage);
                }
            },
        };
        if head.has_content_length {
            let length = wire.len().to_string().into();
            turn.push(Effect::SetHeader(Side::Response, "content-length", length));
        }
        for name in head.validators {
            turn.push(Effect::RemoveHeader(Side::Response, name.to_owned()));
        }
        turn.push(Effect::ReplaceBody(Side::Response, wire));
        self.release_response(turn, Verdict::Transformed, document, usage);
    }

    /// What the optimizer's answer makes of the provider's.
    fn review(
        &mut self,
        original: &Object<'_, [u8]>,
        usage: Option<Usage>,
        bound: usize,
        form: Form,
        answer_body: &Bytes,
    ) -> Result<Option<Changed>, Bypass> {
        let answer = Answer::parse(answer_body, "response", Some(original))?;
        if answer.decisions().is_none() {
            return Ok(None);
        }
        let transformed = answer.transformed()?;
        let Some(document) = transform::response(self.call.dialect, original, transformed)? else {
            return Ok(None);
        };
        let document = protocol::shared(answer_body, document);
        let usage = transformed.text_of("usage").map_or(usage, Usage::parse);
        let wire = match form {
            Form::Json => document.len(),
            Form::Stream => {
                self.call.replay_length(&document).ok_or(Bypass::TransformUnreplayable)?
            }
        };
        if wire > bound.max(original.text().len()) {
            return Err(Bypass::TransformTooLarge);
        }
        if self.call.wants_decisions {
            self.decisions.add(&answer);
        }
        if let Some(said) = &mut self.said {
            said.decide(answer.decisions());
        }
        Ok(Some(Changed { document, usage, wire }))
    }

    /// Lets a held answer go on; as one document it is `body`.
    pub(super) fn release_response(
        &mut self,
        turn: &mut Turn<'_>,
        verdict: Verdict,
        body: Bytes,
        usage: Option<Usage>,
    ) {
        self.settle_response(turn, verdict);
        self.tell(turn);
        self.response = Response::Complete(Finished { usage, body: Ok(body) });
        turn.push(Effect::Flow(Side::Response, Flow::Pass));
    }

    /// Leaves a held answer alone; it is still read along.
    fn give_up(&mut self, turn: &mut Turn<'_>, reason: Bypass) {
        let form = match &self.response {
            Response::Holding { head, .. } => head.form,
            _ => Form::Json,
        };
        self.settle_response(turn, Verdict::Bypassed(reason));
        self.tell(turn);
        self.read_along(turn, form);
    }

    /// Lets the answer go on and reads it along.
    fn read_along(&mut self, turn: &mut Turn<'_>, form: Form) {
        let max_bytes = turn.adapter.plan.limits.response_bytes.get();
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        self.response = Response::Copying(Reader::new(self.call.dialect, form, max_bytes));
        turn.push(Effect::Flow(Side::Response, Flow::Copy));
    }

    /// Lets the answer go on unread.
    fn pass_unread(&mut self, turn: &mut Turn<'_>, reason: Bypass) {
        self.response = Response::Complete(Finished { body: Err(reason), usage: None });
        let sent = self.sent.as_ref().map_or(0, Bytes::len);
        turn.adapter.reserve(&mut self.reserved, bytes(&[sent]));
        turn.push(Effect::Flow(Side::Response, Flow::Pass));
    }

    /// Fixes what the response hook came to.
    pub(super) fn settle_response(&mut self, turn: &mut Turn<'_>, verdict: Verdict) {
        turn.count(Metric::Responses(verdict));
        turn.note("optimizer_response", verdict.annotation());
    }
}
