//! The core in a proxy in memory that does what Kong's runtime does. What could not be carried out
//! there, when it is asked, fails the test.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use integration::{Answer, Callout, Headers, Lua, Message};
use optimizer_core::effect::{Effect, Flow, Side};
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::host::Host;
use optimizer_core::roomy::Roomy;

use super::TICK;
use super::vm::Vm;
use crate::proxy::{Id, Proxy, Setup};

/// nginx shows so many headers, pseudo-headers among them.
const MAX_HEADERS: usize = 100;

/// Compiles the configuration.
pub fn start(setup: Setup) -> Result<Box<dyn Proxy>, String> {
    let vm = Vm::new(setup.on_kong(), Host::Kong)?;
    let mut nginx = Nginx { vm, next_tick: TICK, calls: Vec::new() };
    let mut effects = Vec::new();
    nginx.vm.adapter.start(&mut effects);
    nginx.carry_out_for_all(effects);
    Ok(Box::new(nginx))
}

/// What the core is being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    RequestHeaders,
    RequestBody,
    Callout,
    ResponseHeaders,
    ResponseBody,
    Closed,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Lua,
    Headers,
    Body,
    Provider,
    Over,
}

struct Nginx {
    vm: Vm,
    next_tick: Duration,
    calls: Vec<Call>,
}

struct Call {
    exchange: Exchange,
    at: At,
    request: Headers,
    body: Vec<u8>,
    buffers: usize,
    ended: bool,
    flow: Flow,
    rest: Option<Bytes>,
    local: Option<(Headers, Vec<u8>)>,
    called_out: bool,
    response: Headers,
    reads: bool,
    to_provider: Message,
    to_client: Message,
    gone: bool,
}

impl Nginx {
    fn feed(&mut self, id: Id, step: Step, event: Event<'_>) {
        let mut effects = Vec::new();
        let now = self.vm.clock();
        self.calls[id].exchange.handle(&mut self.vm.adapter, now, event, &mut effects);
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            self.carry_out(id, step, effect);
        }
    }

    fn carry_out(&mut self, id: Id, step: Step, effect: Effect) {
        match effect {
            Effect::Measure(metric, value) => self.vm.measure(metric, value),
            // The timer runs all the time.
            Effect::WakeUp | Effect::Sleep => {}
            Effect::Log(notice) => self.vm.logs.push(notice.text().to_owned()),
            Effect::Callout(callout) => {
                assert!(matches!(step, Step::RequestHeaders | Step::RequestBody), "{step:?}");
                let first = !std::mem::replace(&mut self.calls[id].called_out, true);
                assert!(first, "a second callout of one call");
                self.dispatch(Some(id), callout);
            }
            Effect::Flow(Side::Request, flow) => self.calls[id].flow = flow,
            Effect::Flow(Side::Response, flow) => {
                assert_ne!(flow, Flow::Hold, "an answer cannot be held");
                self.calls[id].reads = flow == Flow::Copy;
            }
            Effect::SetHeader(Side::Request, name, value) => {
                assert!(self.calls[id].to_provider.headers.is_none(), "{name} set too late");
                self.calls[id].request.replace(name, value.as_bytes());
            }
            Effect::RemoveHeader(Side::Request, name) => {
                // Removed ones would go on; see the filter.
                let request = &mut self.calls[id].request;
                if request.all(&name).len() < 2 {
                    request.replace(&name, b"");
                }
            }
            Effect::SetHeader(Side::Response, name, value) => {
                assert_eq!(step, Step::ResponseHeaders, "{name} set too late");
                self.calls[id].response.replace(name, value.as_bytes());
            }
            Effect::ReplaceRest(rest) => self.calls[id].rest = Some(rest),
            Effect::Respond { headers, body } => {
                assert_eq!(step, Step::Callout);
                let mut answer = Headers::from([(":status", "200")]);
                for (name, value) in &headers {
                    answer.add(name, value.as_bytes());
                }
                let body = [&body[..], b"\n"].concat();
                answer.replace("content-length", body.len().to_string().as_bytes());
                self.calls[id].local = Some((answer, body));
            }
            other => panic!("{other:?} cannot be done here"),
        }
    }

    /// Carries out what belongs to no call.
    fn carry_out_for_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Measure(metric, value) => self.vm.measure(metric, value),
                Effect::Callout(callout) => self.dispatch(None, callout),
                Effect::Log(notice) => self.vm.logs.push(notice.text().to_owned()),
                Effect::Sleep => {}
                other => panic!("{other:?} of no call"),
            }
        }
    }

    fn dispatch(&mut self, id: Option<Id>, callout: optimizer_core::callout::Callout) {
        let waits = |callout: &Callout| callout.stream.is_none() && !callout.answered;
        assert!(
            id.is_some() || !self.vm.callouts.iter().any(waits),
            "a second callout of the timer"
        );
        self.vm.send(id, callout);
    }

    /// Callouts to where nobody listens end at once.
    fn refuse(&mut self) {
        while !self.vm.setup.optimizer_is_healthy
            && let Some(index) = self.vm.callouts.iter().position(|callout| !callout.answered)
        {
            self.deliver(index, Answer::Refused);
        }
    }

    fn deliver(&mut self, index: usize, answer: Answer) {
        let (headers, body) = answer.seen_on_kong();
        let fields: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        let (callout, outcome, waiting) = self.vm.answered(index, &fields, body);
        if let Some(id) = waiting {
            self.feed(id, Step::Callout, Event::CalloutDone(callout, outcome));
            return self.proceed(id);
        }
        let mut effects = Vec::new();
        self.vm.adapter.callout_done(callout, outcome, self.vm.clock(), &mut effects);
        self.carry_out_for_all(effects);
    }

    fn waits(&self, id: Id) -> bool {
        self.vm.callouts.iter().any(|c| c.stream == Some(id as u32) && !c.answered)
    }

    /// Goes on with a call as far as it can go.
    fn proceed(&mut self, id: Id) {
        loop {
            self.refuse();
            if self.waits(id) {
                return;
            }
            if let Some((headers, body)) = self.calls[id].local.take() {
                return self.answer_locally(id, &headers, &body);
            }
            let (at, ended) = (self.calls[id].at, self.calls[id].ended);
            match at {
                At::Lua if ended => self.request_headers(id),
                At::Headers if ended => self.request_body(id),
                At::Body if self.calls[id].gone => return self.close(id),
                At::Body => return self.send_on(id),
                _ => return,
            }
        }
    }

    fn is_visible(&self, id: Id) -> bool {
        let size = self.calls[id].body.len();
        size > 0 && size <= self.vm.setup.buffer_limit
    }

    fn request_headers(&mut self, id: Id) {
        let visible = self.vm.setup.lua.is_some() && self.is_visible(id);
        let call = &mut self.calls[id];
        call.at = At::Headers;
        if visible && self.vm.setup.lua == Some(Lua::ReadsAndSets) {
            call.buffers = 1;
            call.request.replace("content-length", call.body.len().to_string().as_bytes());
        }
        let headers = call.request.clone();
        let fields: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v)).collect();
        let shown = &fields[..fields.len().min(MAX_HEADERS)];
        let properties = &self.vm.setup.properties;
        let upstream = properties.get("kong.service_id").cloned();
        let wanted = self.vm.adapter.plan().properties().iter();
        let known: Vec<_> = wanted.map(|path| properties.get(&path.join(".")).cloned()).collect();
        let head = RequestHead {
            headers: optimizer_core::headers::Headers::new(shown),
            truncated: shown.len() < fields.len(),
            upstream: upstream.as_deref(),
            properties: &known,
            end_of_stream: false,
        };
        self.feed(id, Step::RequestHeaders, Event::RequestHeaders(head));
        if visible
            && self.vm.adapter.plan().wants_early_bodies()
            && self.calls[id].flow == Flow::Hold
        {
            let part = match self.calls[id].buffers {
                1 => Body::Early,
                _ => Body::Whole,
            };
            self.show(id, Step::RequestHeaders, part);
        }
    }

    fn show(&mut self, id: Id, step: Step, part: fn(Roomy) -> Body<'static>) {
        let body = Roomy::new(self.calls[id].body.clone(), 0);
        self.feed(id, step, Event::RequestBody(Body::Held(body.body().len())));
        if self.calls[id].flow == Flow::Hold {
            self.feed(id, step, Event::RequestBody(part(body)));
        }
    }

    fn request_body(&mut self, id: Id) {
        let visible = self.is_visible(id);
        let call = &mut self.calls[id];
        call.at = At::Body;
        if let Some(rest) = call.rest.take() {
            assert_eq!(call.buffers, 1, "a body replaced that nobody prepared");
            call.body.truncate(1);
            call.body.extend(rest);
        } else if call.flow == Flow::Hold && !call.body.is_empty() {
            match visible {
                true => self.show(id, Step::RequestBody, Body::Whole),
                false => self.show(id, Step::RequestBody, |_| Body::Unreadable),
            }
        }
    }

    fn send_on(&mut self, id: Id) {
        let call = &mut self.calls[id];
        call.at = At::Provider;
        call.request.remove("content-length");
        if !call.body.is_empty() {
            call.request.add("content-length", call.body.len().to_string().as_bytes());
        }
        call.to_provider.headers_out("the provider", &call.request, call.body.is_empty());
        if !call.body.is_empty() {
            call.to_provider.body_out("the provider", call.body.clone(), true);
        }
    }

    fn answer_headers(&mut self, id: Id, headers: &Headers, end: bool, from_provider: bool) {
        let call = &mut self.calls[id];
        call.at = At::Provider;
        call.response = headers.clone();
        let fields: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v)).collect();
        let upstream = self.vm.setup.properties.get("kong.service_id").cloned();
        let head = ResponseHead {
            headers: optimizer_core::headers::Headers::new(&fields),
            upstream: upstream.as_deref(),
            from_provider,
            end_of_stream: false,
        };
        self.feed(id, Step::ResponseHeaders, Event::ResponseHeaders(head));
        let call = &mut self.calls[id];
        call.to_client.headers_out("the client", &call.response, end);
        if end {
            self.close(id);
        }
    }

    fn answer_body(&mut self, id: Id, piece: &[u8], end: bool) {
        if self.calls[id].at == At::Over {
            return;
        }
        if self.calls[id].reads && !piece.is_empty() {
            self.feed(id, Step::ResponseBody, Event::ResponseBody(Body::Chunk(piece)));
        }
        if self.calls[id].reads && end {
            self.feed(id, Step::ResponseBody, Event::ResponseBody(Body::End));
        }
        self.calls[id].to_client.body_out("the client", piece.to_vec(), end);
        if end {
            self.close(id);
        }
    }

    fn answer_locally(&mut self, id: Id, headers: &Headers, body: &[u8]) {
        self.answer_headers(id, headers, body.is_empty(), false);
        if !body.is_empty() {
            self.answer_body(id, body, true);
        }
    }

    fn close(&mut self, id: Id) {
        if std::mem::replace(&mut self.calls[id].at, At::Over) != At::Over {
            self.feed(id, Step::Closed, Event::Closed);
        }
    }
}

impl Proxy for Nginx {
    fn request(&mut self, headers: &Headers, end: bool) -> Id {
        let id = self.calls.len();
        self.calls.push(Call {
            exchange: Exchange::new(),
            at: At::Lua,
            request: headers.clone(),
            body: Vec::new(),
            buffers: 0,
            ended: end,
            flow: Flow::Pass,
            rest: None,
            local: None,
            called_out: false,
            response: Headers::default(),
            reads: false,
            to_provider: Message::default(),
            to_client: Message::default(),
            gone: false,
        });
        if self.vm.setup.lua.is_none() {
            self.request_headers(id);
        }
        self.proceed(id);
        id
    }

    fn request_body(&mut self, id: Id, piece: &[u8], end: bool) {
        let call = &mut self.calls[id];
        if call.at == At::Over || call.ended {
            return;
        }
        call.body.extend(piece);
        call.buffers += usize::from(!piece.is_empty());
        call.ended = end;
        self.proceed(id);
    }

    fn request_trailers(&mut self, id: Id, _: &Headers) {
        Proxy::request_body(self, id, b"", true);
    }

    fn client_gone(&mut self, id: Id) {
        self.calls[id].gone = true;
        if !self.waits(id) {
            self.close(id);
        }
    }

    fn response(&mut self, id: Id, headers: &Headers, end: bool) {
        self.answer_headers(id, headers, end, true);
    }

    fn response_body(&mut self, id: Id, piece: &[u8], end: bool) {
        self.answer_body(id, piece, end);
    }

    fn response_trailers(&mut self, id: Id, _: &Headers) {
        self.answer_body(id, b"", true);
    }

    fn provider_reset(&mut self, id: Id) {
        if self.calls[id].to_client.headers.is_some() {
            return self.client_gone(id);
        }
        let headers = Headers::from([(":status", "502"), ("content-type", "text/html")]);
        self.answer_headers(id, &headers, false, true);
        self.answer_body(id, b"<html>", true);
    }

    fn local_answer(&mut self, id: Id, status: u16) {
        let mut headers = Headers::from([("content-type", "text/plain"), ("content-length", "5")]);
        headers.add(":status", status.to_string().as_bytes());
        self.answer_locally(id, &headers, b"local");
    }

    fn optimizer_dies(&mut self) {
        self.vm.setup.optimizer_is_healthy = false;
    }

    fn reroute(&mut self, upstream: &str) {
        let properties = &mut self.vm.setup.properties;
        properties.insert("kong.service_id".to_owned(), upstream.as_bytes().to_vec());
    }

    fn is(&self) -> Host {
        self.vm.adapter.plan().host()
    }

    fn callouts(&self) -> &[Callout] {
        &self.vm.callouts
    }

    fn answer(&mut self, callout: u32, answer: Answer) {
        let index = callout as usize - 1;
        match (&answer, self.vm.callouts[index].deadline()) {
            (Answer::Timeout, Some(deadline)) => {
                let wait = deadline.saturating_sub(self.vm.now);
                self.advance(wait);
            }
            _ => self.deliver(index, answer),
        }
    }

    fn advance(&mut self, time: Duration) {
        let target = self.vm.now + time;
        loop {
            let overdue = self.vm.overdue();
            let due = overdue.map_or(self.next_tick, |(due, _)| due.min(self.next_tick));
            if due > target {
                self.vm.now = target;
                return;
            }
            self.vm.now = due;
            match overdue {
                Some((deadline, index)) if deadline == due => self.deliver(index, Answer::Timeout),
                _ => {
                    self.next_tick += TICK;
                    let mut effects = Vec::new();
                    self.vm.adapter.tick(self.vm.clock(), &mut effects);
                    self.carry_out_for_all(effects);
                    self.refuse();
                }
            }
        }
    }

    fn provider_got(&self, id: Id) -> &Message {
        &self.calls[id].to_provider
    }

    fn client_got(&self, id: Id) -> &Message {
        &self.calls[id].to_client
    }

    fn was_cut(&self, id: Id) -> bool {
        self.calls[id].gone
    }

    fn annotation(&self, _: Id, _: &str) -> Option<String> {
        None
    }

    fn logs(&self) -> Vec<String> {
        self.vm.logs.clone()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.vm.counters()
    }

    fn samples(&self, name: &str) -> Vec<u64> {
        self.vm.samples(name)
    }
}
