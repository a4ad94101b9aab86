//! The end of an exchange: what is counted, recorded and written back, on
//! nobody's time.

use bytes::Bytes;

use super::{Active, Request, Response, Turn, bytes};
use crate::admission;
use crate::bypass::Bypass;
use crate::callout::Kind;
use crate::dialect::Dialect;
use crate::effect::Effect;
use crate::json::{Object, Unjoined};
use crate::metric::{Metric, Verdict, micros};
use crate::protocol;
use crate::reader::Finished;
use crate::record::{self, Facts};
use crate::usage::Usage;

impl Active {
    /// Nobody waits for the request any more, if it was still held.
    pub(super) fn abandon_request(&mut self, turn: &mut Turn<'_>, reason: Bypass) {
        if let Request::Asking { asked, .. } = self.request {
            turn.abandon(Kind::Optimize, asked);
        }
        self.unwatch(turn);
        if self.verdict.is_none() {
            self.settle(turn, Verdict::Bypassed(reason));
            self.request = Request::Settled;
        }
    }

    pub(super) fn close(mut self: Box<Self>, turn: &mut Turn<'_>) {
        self.abandon_request(turn, Bypass::ClientGone);
        if let Response::Asking { asked, .. } = self.response {
            turn.abandon(Kind::OptimizeResponse, asked);
        }
        if matches!(self.response, Response::Holding { .. } | Response::Asking { .. }) {
            self.settle_response(turn, Verdict::Bypassed(Bypass::ClientGone));
        }
        let content = turn.adapter.plan.hooks.record && turn.adapter.plan.record_content;
        let whole = self.write_back.is_some() || content;
        let finished = match std::mem::replace(&mut self.response, Response::Passing) {
            Response::Complete(finished) => finished,
            Response::Ended(reader) => reader.finish(true, whole),
            // Who has all bytes that were announced may leave before the end is told, if it is at all.
            Response::Copying(reader) => {
                let ended = self.response_length == Some(bytes(&[reader.seen()]));
                reader.finish(ended, whole)
            }
            Response::Idle => Finished { body: Err(Bypass::ClientGone), usage: None },
            _ => Finished { body: Err(Bypass::ResponseUnreadable), usage: None },
        };
        turn.adapter.reserve(&mut self.reserved, 0);
        if self.status != 0 && self.verdict != Some(Verdict::Hit) {
            turn.count(Metric::Answers(finished.body.as_ref().err().copied()));
        }
        self.measure(turn, finished.usage);
        self.write_back(turn, &finished.body);
        self.record(turn, finished);
    }

    fn measure(&self, turn: &mut Turn<'_>, usage: Option<Usage>) {
        let dialect = self.call.dialect;
        let took = micros(turn.now.saturating_sub(self.started));
        turn.push(Effect::Measure(Metric::OperationDuration(dialect), took));
        let Some(usage) = usage else { return };
        for (tokens, metric, name) in [
            (usage.input, Metric::InputTokens(dialect), "gen_ai.usage.input_tokens"),
            (usage.output, Metric::OutputTokens(dialect), "gen_ai.usage.output_tokens"),
        ] {
            let Some(tokens) = tokens else { continue };
            // A hit cost the provider nothing.
            if self.verdict != Some(Verdict::Hit) {
                turn.push(Effect::Measure(metric, tokens));
            }
            turn.note(name, tokens.to_string());
        }
    }

    /// Queues what the exchange has for the cache.
    fn write_back(&mut self, turn: &mut Turn<'_>, body: &Result<Bytes, Bypass>) {
        let Some(key) = self.write_back.take() else { return };
        let queued = body.as_ref().map_err(|&reason| reason).and_then(|response| {
            self.cacheable(turn, response)?;
            let sent = self.sent.clone().ok_or(Bypass::OverTotalBytes)?;
            let metadata = &self.call.caller.metadata;
            let ttl = turn.adapter.plan.ttl_seconds;
            let envelope = protocol::cache(&key, sent, response.clone(), ttl, metadata);
            self.enqueue(turn, Kind::Cache, envelope)
        });
        turn.count(Metric::WriteBacks(queued.err()));
    }

    /// Whether what the client got may be written to the cache.
    fn cacheable(&self, turn: &Turn<'_>, body: &[u8]) -> Result<(), Bypass> {
        let object = Object::parse(body).map_err(admission::response_error)?;
        let incomplete = self.call.dialect == Dialect::OpenAiResponses
            && object.get("status").is_some_and(|status| status != "\"completed\"");
        if protocol::has_error(&object) || incomplete {
            return Err(Bypass::ResponseError);
        }
        if turn.adapter.breaker.is_open(turn.now) {
            return Err(Bypass::BreakerOpen);
        }
        Ok(())
    }

    /// Queues the trace of the exchange.
    fn record(&self, turn: &mut Turn<'_>, finished: Finished) {
        if !turn.adapter.plan.hooks.record || !self.call.is_llm_call {
            return;
        }
        if turn.adapter.breaker.is_open(turn.now) {
            return turn.count(Metric::Records(Some(Bypass::BreakerOpen)));
        }
        let given = self.call.trace.iter().find(|(name, _)| *name == "x-request-id");
        let id = match given {
            Some((_, id)) => id.clone(),
            None => turn.adapter.new_id(),
        };
        let content = turn.adapter.plan.record_content;
        let record = record::record(Facts {
            call: &self.call,
            id: &id,
            started: self.started,
            ended: turn.now,
            status: self.status,
            verdict: self.verdict.unwrap_or(Verdict::Unchanged),
            optimize_took: self.optimize_took,
            said: self.said.as_ref(),
            usage: finished.usage,
            input: self.sent.clone().filter(|_| content),
            output: finished.body.ok().filter(|_| content),
        });
        let queued = self.enqueue(turn, Kind::Record, record);
        turn.count(Metric::Records(queued.err()));
    }

    fn enqueue(&self, turn: &mut Turn<'_>, kind: Kind, body: Unjoined) -> Result<(), Bypass> {
        let trace = self.call.trace.clone();
        match turn.adapter.enqueue(kind, trace, body, turn.effects)? {
            Some(Kind::Record) => turn.count(Metric::Records(Some(Bypass::QueueFull))),
            Some(_) => turn.count(Metric::WriteBacks(Some(Bypass::QueueFull))),
            None => {}
        }
        Ok(())
    }
}
