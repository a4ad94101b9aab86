//! How the proxy carries out what the core asks of it.

use std::collections::VecDeque;

use bytes::Bytes;
use optimizer_core::callout::{Callout, CalloutId, Outcome};
use optimizer_core::effect::{Effect, Flow, Notice, Side};
use optimizer_core::event::{Body, Event};
use optimizer_core::host::Replace;
use optimizer_core::metric::MetricKind;

use super::{Proxy, TICK, Waiting};
use crate::script::Fields;

/// An event that follows from an effect.
enum Follow {
    CalloutDone(CalloutId, Outcome),
    SharedLoaded(Option<Vec<u8>>),
    Copied(Side, Vec<u8>, bool),
    Answer(Fields, Bytes),
}

impl Proxy {
    /// Hands an event in, carries out what comes of it, and so on until nothing does.
    pub(super) fn feed(&mut self, stream: usize, event: Event<'_>) {
        let mut effects = Vec::new();
        self.handle(stream, event, &mut effects);
        let mut follow = VecDeque::from(self.carry_out(Some(stream), effects));
        while let Some(next) = follow.pop_front() {
            let mut effects = Vec::new();
            match next {
                Follow::CalloutDone(id, outcome) => {
                    self.handle(stream, Event::CalloutDone(id, outcome), &mut effects);
                }
                Follow::SharedLoaded(value) => {
                    self.handle(stream, Event::SharedLoaded(value.as_deref()), &mut effects);
                }
                Follow::Answer(headers, body) => self.local_answer(stream, headers, &body),
                Follow::Copied(side, bytes, end) => {
                    let event = |part| Event::body(side, part);
                    if !bytes.is_empty() {
                        self.handle(stream, event(Body::Chunk(&bytes)), &mut effects);
                    }
                    if end {
                        self.handle(stream, event(Body::End), &mut effects);
                    }
                }
            }
            follow.extend(self.carry_out(Some(stream), effects));
        }
        if self.streams[stream].response.complete {
            self.close(stream);
        }
    }

    fn handle(&mut self, stream: usize, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.streams[stream].exchange.handle(&mut self.adapter, self.now, event, effects);
    }

    /// Nothing is asked for that the host cannot do.
    fn check_possible(&self, effect: &Effect) {
        let can = self.can();
        let possible = match effect {
            Effect::LoadShared(_) | Effect::StoreShared(..) => can.shared_data,
            Effect::Annotate(..) => can.annotate,
            Effect::Flow(Side::Response, Flow::Hold) => can.hold_response,
            Effect::ReplaceBody(Side::Request, _) => can.replace_request == Replace::Held,
            Effect::ReplaceRest(_) => can.replace_request == Replace::Early,
            _ => true,
        };
        assert!(possible, "{effect:?} cannot be done on this host");
    }

    fn carry_out(&mut self, stream: Option<usize>, effects: Vec<Effect>) -> Vec<Follow> {
        let mut follow = Vec::new();
        for effect in effects {
            self.check_possible(&effect);
            match (effect, stream) {
                (Effect::Callout(callout), _) => follow.extend(self.dispatch(stream, callout)),
                (Effect::Measure(metric, value), _) => {
                    let samples = self.report.measured.entry(metric.name()).or_default();
                    match (metric.kind(), samples.last_mut()) {
                        (MetricKind::Counter, Some(count)) => *count += value,
                        (MetricKind::Gauge, Some(last)) => *last = value,
                        _ => samples.push(value),
                    }
                }
                (Effect::WakeUp, _) => {
                    assert_eq!(self.tick, None, "woken up while awake");
                    self.tick = Some(self.now + TICK);
                }
                (Effect::Sleep, _) => self.tick = None,
                (Effect::StoreShared(key, value), _) => {
                    self.shared.insert(key, value);
                }
                (Effect::LoadShared(key), _) => {
                    follow.push(Follow::SharedLoaded(self.shared.get(&key).cloned()));
                }
                (Effect::Log(notice), _) => {
                    let fault = notice == Notice::HostWithholdsBodies;
                    assert!(self.withholds || !fault, "{}", notice.text());
                }
                (Effect::Annotate(name, value), Some(stream)) => {
                    let before = self.streams[stream].annotations.insert(name, value.into_owned());
                    assert_eq!(before, None, "{name} said twice");
                }
                (Effect::SetHeader(side, name, value), Some(stream)) => {
                    self.lane(stream, side).set_header(name, &value);
                }
                (Effect::RemoveHeader(side, name), Some(stream)) => {
                    self.lane(stream, side).remove_header(&name);
                }
                (Effect::ReplaceBody(side, body), Some(stream)) => {
                    let limit = self.limit("host_buffer_bytes", 1 << 20);
                    self.lane(stream, side).replace_body(&body, limit);
                    self.check_replaced(stream, side);
                }
                (Effect::ReplaceRest(rest), Some(stream)) => {
                    let limit = self.limit("request_bytes", 16 << 20);
                    let lane = self.lane(stream, Side::Request);
                    let kept = lane.original.iter().take(1).copied();
                    let body: Vec<u8> = kept.chain(rest.iter().copied()).collect();
                    lane.replace_body(&body, limit);
                    lane.set_header("content-length", &body.len().to_string());
                    self.check_replaced(stream, Side::Request);
                }
                (Effect::Flow(side, flow), Some(stream)) => {
                    let over = self.streams[stream].answered && side == Side::Request;
                    let lane = self.lane(stream, side);
                    let was_held = lane.flow == Flow::Hold;
                    assert!(was_held || flow != Flow::Hold, "held after it went on");
                    lane.flow = flow;
                    if !over && was_held && flow != Flow::Hold {
                        let held = lane.release();
                        if flow == Flow::Copy && (!held.is_empty() || lane.ended) {
                            let ended = lane.ended;
                            follow.push(Follow::Copied(side, held, ended));
                        }
                    }
                }
                (Effect::Respond { headers, body }, Some(stream)) => {
                    self.check_served(stream);
                    let mut fields = vec![(b":status".to_vec(), b"200".to_vec())];
                    fields.extend(headers.iter().map(|(name, value)| {
                        (name.as_bytes().to_vec(), value.as_bytes().to_vec())
                    }));
                    let length = body.len().to_string().into_bytes();
                    fields.push((b"content-length".to_vec(), length));
                    follow.push(Follow::Answer(fields, body));
                }
                (effect, None) => panic!("{effect:?} of no exchange"),
            }
        }
        follow
    }

    fn dispatch(&mut self, stream: Option<usize>, callout: Callout) -> Option<Follow> {
        self.check_callout(stream, &callout);
        if self.refuses {
            let failed = Outcome::DispatchFailed;
            if stream.is_none() {
                self.root_callout_done(callout.id, failed);
                return None;
            }
            return Some(Follow::CalloutDone(callout.id, failed));
        }
        let path = callout.headers.iter().find(|(name, _)| *name == ":path");
        let path = path.map(|(_, value)| value.to_string()).unwrap_or_default();
        let body = String::from_utf8_lossy(&callout.body).into_owned();
        self.report.callouts.push((path, body));
        self.waiting.push(Waiting {
            id: callout.id,
            stream,
            deadline: self.now + callout.timeout,
            most: callout.max_answer_bytes,
        });
        None
    }

    /// Time passes for what belongs to no exchange.
    pub(super) fn adapter_ticks(&mut self) {
        let mut effects = Vec::new();
        self.adapter.tick(self.now, &mut effects);
        self.carry_out(None, effects);
    }

    pub(super) fn root_callout_done(&mut self, id: CalloutId, outcome: Outcome) {
        let mut effects = Vec::new();
        self.adapter.callout_done(id, outcome, self.now, &mut effects);
        self.carry_out(None, effects);
    }
}
