//! The core itself, its effects carried out in memory.

pub mod kong;
mod lane;
mod proxy;
mod vm;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use integration::{Answer, Headers};
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::effect::{Effect, Flow, Side};
use optimizer_core::event::{Body, Event, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::host::Host;
use optimizer_core::roomy::Roomy;

use self::lane::Lane;
use self::vm::Vm;
use crate::proxy::{Id, OPTIMIZER, Proxy, Setup};

/// How long after `WakeUp` a tick comes.
const TICK: Duration = Duration::from_millis(10);

/// Compiles the configuration.
pub fn start(setup: Setup) -> Result<Box<dyn Proxy>, String> {
    let vm = Vm::new(setup, Host::Envoy)?;
    let mut native = Native { vm, tick: None, calls: Vec::new() };
    let mut effects = Vec::new();
    native.vm.adapter.start(&mut effects);
    native.carry_out(None, effects);
    Ok(Box::new(native))
}

struct Native {
    vm: Vm,
    tick: Option<Duration>,
    calls: Vec<Call>,
}

struct Call {
    exchange: Exchange,
    request: Lane,
    response: Lane,
    annotations: BTreeMap<String, String>,
    /// The proxy answers itself: the request goes no further.
    answered: bool,
    cut: bool,
    over: bool,
}

/// An event that follows from an effect.
enum Follow {
    CalloutDone(CalloutId, Outcome),
    SharedLoaded(Option<Vec<u8>>),
    Copied(Side, Vec<u8>, bool),
}

impl Native {
    fn lane(&mut self, id: Id, side: Side) -> &mut Lane {
        match side {
            Side::Request => &mut self.calls[id].request,
            Side::Response => &mut self.calls[id].response,
        }
    }

    /// Hands an event in, carries out what comes of it, and so on until nothing does.
    fn feed(&mut self, id: Id, event: Event<'_>) {
        let mut effects = Vec::new();
        let now = self.vm.clock();
        self.calls[id].exchange.handle(&mut self.vm.adapter, now, event, &mut effects);
        let mut follow = self.carry_out(Some(id), effects);
        while let Some(next) = follow.pop_front() {
            let event = match &next {
                Follow::CalloutDone(callout, outcome) => {
                    Event::CalloutDone(*callout, outcome.clone())
                }
                Follow::SharedLoaded(value) => Event::SharedLoaded(value.as_deref()),
                Follow::Copied(side, piece, _) => Event::body(*side, Body::Chunk(piece)),
            };
            let mut effects = Vec::new();
            self.calls[id].exchange.handle(&mut self.vm.adapter, now, event, &mut effects);
            if let Follow::Copied(side, _, true) = next {
                let event = Event::body(side, Body::End);
                self.calls[id].exchange.handle(&mut self.vm.adapter, now, event, &mut effects);
            }
            follow.extend(self.carry_out(Some(id), effects));
        }
        if self.calls[id].response.out.complete {
            self.close(id);
        }
    }

    fn carry_out(&mut self, id: Option<Id>, effects: Vec<Effect>) -> VecDeque<Follow> {
        let mut follow = VecDeque::new();
        for effect in effects {
            match (effect, id) {
                (Effect::Callout(callout), _) => follow.extend(self.dispatch(id, callout)),
                (Effect::Measure(metric, value), _) => self.vm.measure(metric, value),
                (Effect::WakeUp, _) => {
                    self.tick.get_or_insert(self.vm.now + TICK);
                }
                (Effect::Sleep, _) => self.tick = None,
                (Effect::Log(notice), _) => self.vm.logs.push(notice.text().to_owned()),
                (Effect::StoreShared(key, value), _) => {
                    self.vm.setup.shared_data.set(key.into_bytes(), value, 0).unwrap();
                }
                (Effect::LoadShared(key), _) => {
                    let value = self.vm.setup.shared_data.get(key.as_bytes());
                    follow.push_back(Follow::SharedLoaded(value.map(|(value, _)| value)));
                }
                (Effect::Annotate(name, value), Some(id)) => {
                    self.calls[id].annotations.insert(name.to_owned(), value.into_owned());
                }
                (Effect::SetHeader(side, name, value), Some(id)) => {
                    let lane = self.lane(id, side);
                    assert!(lane.out.headers.is_none(), "{name} set after the headers went");
                    lane.headers.replace(name, value.as_bytes());
                }
                (Effect::RemoveHeader(side, name), Some(id)) => {
                    let lane = self.lane(id, side);
                    assert!(lane.out.headers.is_none(), "{name} removed after the headers went");
                    lane.headers.remove(&name);
                }
                (Effect::ReplaceBody(side, body), Some(id)) => {
                    let limit = self.vm.setup.buffer_limit;
                    let lane = self.lane(id, side);
                    assert!(lane.is_held() && lane.ended, "a body replaced that is not held whole");
                    assert!(body.len() <= limit, "a body set over the host's limit");
                    lane.held = body.to_vec();
                }
                (Effect::ReplaceRest(rest), Some(_)) => {
                    panic!("{rest:?} on a host that replaces bodies")
                }
                (Effect::Flow(side, flow), Some(id)) => {
                    let lane = self.lane(id, side);
                    let was_held = std::mem::replace(&mut lane.flow, flow) == Flow::Hold;
                    if was_held && flow != Flow::Hold {
                        let (held, end) = (lane.release(), lane.ended);
                        if flow == Flow::Copy && (!held.is_empty() || end) {
                            follow.push_back(Follow::Copied(side, held, end));
                        }
                    }
                }
                (Effect::Respond { headers, body }, Some(id)) => {
                    let mut answer = Headers::from([(":status", "200")]);
                    for (name, value) in &headers {
                        answer.add(name, value.as_bytes());
                    }
                    answer.replace("content-length", body.len().to_string().as_bytes());
                    self.answer_locally(id, answer, &body);
                }
                (effect, None) => panic!("{effect:?} of no exchange"),
            }
        }
        follow
    }

    fn dispatch(
        &mut self,
        id: Option<Id>,
        callout: optimizer_core::callout::Callout,
    ) -> Option<Follow> {
        assert_eq!(self.vm.adapter.plan().upstream(), OPTIMIZER);
        if !self.vm.setup.optimizer_is_healthy {
            let failed = Outcome::DispatchFailed;
            if id.is_none() {
                self.callout_done(callout.id, failed);
                return None;
            }
            return Some(Follow::CalloutDone(callout.id, failed));
        }
        self.vm.send(id, callout);
        None
    }

    fn tick(&mut self) {
        self.tick = Some(self.vm.now + TICK);
        for id in 0..self.calls.len() {
            let Call { request, response, over, .. } = &self.calls[id];
            if !over && (request.is_held() || response.is_held()) {
                self.feed(id, Event::Tick);
            }
        }
        let mut effects = Vec::new();
        let now = self.vm.clock();
        self.vm.adapter.tick(now, &mut effects);
        self.carry_out(None, effects);
    }

    /// A callout of no exchange has ended.
    fn callout_done(&mut self, id: CalloutId, outcome: Outcome) {
        let mut effects = Vec::new();
        let now = self.vm.clock();
        self.vm.adapter.callout_done(id, outcome, now, &mut effects);
        self.carry_out(None, effects);
    }

    /// The proxy's own answer takes the provider's place and passes the adapter like any other.
    fn answer_locally(&mut self, id: Id, headers: Headers, body: &[u8]) {
        self.calls[id].answered = true;
        self.answer_headers(id, &headers, body.is_empty(), false);
        if !body.is_empty() {
            self.piece(id, Side::Response, body, true, None);
        }
    }

    fn answer_headers(&mut self, id: Id, headers: &Headers, end: bool, from_provider: bool) {
        let lane = &mut self.calls[id].response;
        lane.headers = headers.clone();
        lane.ended = end;
        let fields: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v)).collect();
        let upstream = self.vm.setup.properties.get("xds.cluster_name").cloned();
        self.feed(
            id,
            Event::ResponseHeaders(ResponseHead {
                headers: optimizer_core::headers::Headers::new(&fields),
                upstream: upstream.as_deref(),
                from_provider,
                end_of_stream: end,
            }),
        );
    }

    /// A part of a body arrives, or the trailers that end it.
    fn piece(&mut self, id: Id, side: Side, piece: &[u8], end: bool, trailers: Option<&Headers>) {
        let (limit, shows_bodies) = (self.vm.setup.buffer_limit, self.vm.setup.shows_held_bodies);
        if self.calls[id].over || (side == Side::Request && self.calls[id].answered) {
            return;
        }
        let lane = self.lane(id, side);
        lane.ended = end || trailers.is_some();
        lane.trailers = trailers.cloned();
        let ended = lane.ended;
        let event = |part| Event::body(side, part);
        match lane.flow {
            Flow::Hold if !shows_bodies => lane.held.extend(piece),
            Flow::Hold => {
                lane.held.extend(piece);
                let size = lane.held.len();
                if size > limit {
                    return self.too_large(id, side);
                }
                self.feed(id, event(Body::Held(size)));
                let lane = self.lane(id, side);
                if ended && lane.is_held() {
                    let whole = Roomy::new(lane.held.clone(), 0);
                    self.feed(id, event(Body::Whole(whole)));
                }
            }
            flow => {
                // Like a real host: the piece is shown first, and goes on when the callback returns.
                if flow == Flow::Copy {
                    if !piece.is_empty() {
                        self.feed(id, event(Body::Chunk(piece)));
                    }
                    if ended {
                        self.feed(id, event(Body::End));
                    }
                }
                self.lane(id, side).pass(piece.to_vec());
            }
        }
        if self.calls[id].response.out.complete {
            self.close(id);
        }
    }

    /// The proxy may not buffer so much: it answers a request with 413, and in place of an answer with 500.
    fn too_large(&mut self, id: Id, side: Side) {
        let status = if side == Side::Request { "413" } else { "500" };
        let headers = Headers::from([(":status", status), ("content-length", "4")]);
        if side == Side::Request {
            return self.answer_locally(id, headers, b"over");
        }
        let lane = self.lane(id, side);
        lane.out.headers_out(lane.to, &headers, false);
        lane.out.body_out(lane.to, b"over".to_vec(), true);
        self.close(id);
    }

    fn close(&mut self, id: Id) {
        if !std::mem::replace(&mut self.calls[id].over, true) {
            self.feed(id, Event::Closed);
        }
    }

    fn deliver(&mut self, index: usize, answer: Answer) {
        let (headers, body) = answer.seen().unwrap_or_default();
        let fields: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v)).collect();
        let (callout, outcome, waiting) = self.vm.answered(index, &fields, body);
        match waiting {
            None => self.callout_done(callout, outcome),
            Some(id) if !self.calls[id].over => {
                let Call { exchange, request, .. } = &self.calls[id];
                if exchange.wants_request(callout, &outcome) {
                    let again = request.held.clone().into();
                    self.feed(id, Event::RequestBody(Body::Again(again)));
                }
                self.feed(id, Event::CalloutDone(callout, outcome));
            }
            Some(_) => {}
        }
    }
}
