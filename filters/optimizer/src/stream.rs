//! One HTTP stream: callbacks become events, effects become host calls.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::effect::{Effect, Flow, Side};
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::headers::Headers;
use optimizer_core::host::Host;
use optimizer_core::plan::Concern;
use optimizer_core::roomy::Roomy;

use crate::late::{AnswerHead, Late};
use crate::shown::Shown;
use crate::types::{Action, BufferType, MapType, StreamType};
use crate::vm::{Callouts, Holding, Vm, log};
use crate::{hostcalls, kong};

/// The stream's context. Its state can also be reached from the root context's ticks.
#[derive(Clone)]
pub struct Stream(Rc<RefCell<State>>);

/// The state of one HTTP stream.
pub struct State {
    context: u32,
    /// This very state, for the VM to find it again.
    own: Weak<dyn Holding>,
    vm: Rc<Vm>,
    exchange: Option<Exchange>,
    request: Message,
    response: Message,
    late: Late,
    /// What the request's body becomes after its first byte, when the host shows it again.
    rest: Option<Bytes>,
    /// The host's name for the provider.
    upstream: Option<Vec<u8>>,
    callouts: Callouts,
}

/// One message of the stream, as the host handles it.
struct Message {
    flow: Flow,
    /// Bytes of the body that the host holds.
    held: usize,
}

/// Which message's callback is running: its return value says how that message
/// goes on, where elsewhere a host call does.
type During = Option<Side>;

impl Stream {
    pub fn new(context: u32, vm: Rc<Vm>) -> Self {
        let message = || Message { flow: Flow::Pass, held: 0 };
        Self(Rc::new_cyclic(|own| {
            RefCell::new(State {
                context,
                own: own.clone() as Weak<dyn Holding>,
                vm,
                exchange: Some(Exchange::new()),
                request: message(),
                response: message(),
                late: Late::default(),
                rest: None,
                upstream: None,
                callouts: Callouts::default(),
            })
        }))
    }

    /// The `request` came, with `count` headers.
    pub fn request_headers(&self, request: &Request, count: usize, end: bool) -> Action {
        self.with(Action::Continue, |state| state.request_headers(request, count, end))
    }

    pub fn request_body(&self, size: usize, end: bool) -> Action {
        self.with(Action::Continue, |state| state.body(Side::Request, size, end))
    }

    pub fn request_trailers(&self) -> Action {
        self.with(Action::Continue, |state| state.trailers(Side::Request))
    }

    pub fn response_headers(&self, count: usize, end: bool) -> Action {
        self.with(Action::Continue, |state| state.response_headers(count, end))
    }

    pub fn response_body(&self, size: usize, end: bool) -> Action {
        self.with(Action::Continue, |state| state.body(Side::Response, size, end))
    }

    pub fn response_trailers(&self) -> Action {
        self.with(Action::Continue, |state| state.trailers(Side::Response))
    }

    /// A callout has ended, `body_size` bytes of its answer's body are there.
    pub fn callout_done(&self, token: u32, body_size: usize) {
        self.with((), |state| {
            let ended = state.callouts.ended(state.vm.host, token, body_size);
            if let Some((id, outcome)) = ended {
                state.show_again(id, &outcome);
                state.run(None, Event::CalloutDone(id, outcome));
            }
        })
    }

    /// The exchange is over.
    pub fn close(&self) {
        self.with((), State::close);
    }

    /// The state, unless the host called in the middle of one of our host calls:
    /// then there is nothing that could be done about it.
    fn with<T>(&self, otherwise: T, act: impl FnOnce(&mut State) -> T) -> T {
        match self.0.try_borrow_mut() {
            Ok(mut state) => act(&mut state),
            Err(_) => otherwise,
        }
    }
}

impl State {
    /// Hands in one event and carries out what follows from it.
    fn run(&mut self, during: During, event: Event<'_>) {
        if self.exchange.is_some() {
            self.run_at(hostcalls::now(), during, event);
        }
    }

    fn run_at(&mut self, now: Duration, during: During, event: Event<'_>) {
        let vm = self.vm.clone();
        self.take_in(&vm, now, during, event);
        if self.exchange.as_ref().is_some_and(Exchange::is_idle) {
            self.exchange = None;
        }
    }

    fn take_in(&mut self, vm: &Vm, now: Duration, during: During, event: Event<'_>) {
        let Some(exchange) = self.exchange.as_mut() else { return };
        let mut effects =
            vm.effects(|adapter, effects| exchange.handle(adapter, now, event, effects));
        let mut replies = Vec::new();
        for effect in effects.drain(..) {
            replies.extend(self.carry_out(vm, during, effect));
        }
        vm.recycle(effects);
        for reply in replies {
            self.take_in(vm, now, during, reply.borrowed());
        }
    }

    /// Hands the request's body in again, if it is wanted with this outcome of a callout.
    fn show_again(&mut self, id: CalloutId, outcome: &Outcome) {
        if self.exchange.as_ref().is_some_and(|exchange| exchange.wants_request(id, outcome))
            && let Some(body) = hostcalls::buffer(BufferType::HttpRequestBody, self.request.held)
        {
            self.run(None, Event::RequestBody(Body::Again(body.into())));
        }
    }

    /// Carries out one effect; an event may follow from it at once.
    fn carry_out(&mut self, vm: &Vm, during: During, effect: Effect) -> Option<Reply> {
        match effect {
            Effect::Flow(side, flow) => {
                let message = self.message(side);
                let was_held = message.flow == Flow::Hold;
                message.flow = flow;
                if was_held != (flow == Flow::Hold) {
                    vm.hold(self.context, &self.own, flow == Flow::Hold);
                }
                // Kong's runtime lets go by itself when the last callout has ended.
                if was_held && flow != Flow::Hold && during != Some(side) && vm.host != Host::Kong {
                    hostcalls::continue_stream(stream_type(side));
                }
            }
            Effect::SetHeader(side, name, value) => {
                hostcalls::set_header(header_map(side), name, &value);
            }
            Effect::RemoveHeader(Side::Request, name) if vm.host == Host::Kong => {
                kong::empty_request_header(&name);
            }
            Effect::RemoveHeader(side, name) => hostcalls::remove_header(header_map(side), &name),
            Effect::ReplaceBody(side, body) => {
                hostcalls::replace_buffer(body_buffer(side), 0, &body);
            }
            Effect::ReplaceRest(rest) => self.rest = Some(rest),
            Effect::Callout(callout) => {
                let sent = self.callouts.send(self.context, &vm.upstream, &callout);
                if !sent {
                    return Some(Reply::DispatchFailed(callout.id));
                }
            }
            Effect::Respond { headers, body } => {
                hostcalls::send_response(200, &headers, &body);
            }
            Effect::LoadShared(key) => return Some(Reply::Shared(hostcalls::shared_data(&key))),
            Effect::StoreShared(key, value) => hostcalls::set_shared_data(&key, &value),
            Effect::Measure(metric, value) => vm.measure(metric, value),
            Effect::Annotate(name, value) => hostcalls::set_property(name, &value),
            Effect::Log(notice) => log(notice),
            Effect::WakeUp => vm.wake_up(),
            Effect::Sleep => {}
        }
        None
    }

    fn message(&mut self, side: Side) -> &mut Message {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    fn action(&mut self, side: Side) -> Action {
        // Kong's runtime waits for callouts, and for ever where there is none; bodies it
        // shows as a whole without being asked to hold them.
        let waits_for_callouts = self.vm.host == Host::Kong;
        let hold = match waits_for_callouts {
            true => side == Side::Request && self.callouts.are_pending(),
            false => self.message(side).flow == Flow::Hold,
        };
        if hold { Action::Pause } else { Action::Continue }
    }

    /// `size` bytes of the body are there; `end`: all of it.
    fn body(&mut self, side: Side, size: usize, end: bool) -> Action {
        let during = Some(side);
        if let (Side::Request, Some(rest)) = (side, self.rest.take()) {
            kong::replace_request_body(&rest);
        }
        if self.message(side).flow == Flow::Hold {
            let now = hostcalls::now();
            self.message(side).held = size;
            self.run_at(now, during, Event::body(side, Body::Held(size)));
            if end && self.message(side).flow == Flow::Hold {
                let body = match size {
                    0 => Some(Roomy::new(Vec::new(), 0)),
                    _ => hostcalls::roomy_buffer(body_buffer(side), size),
                };
                let part = body.map_or(Body::Unreadable, Body::Whole);
                self.run_at(now, during, Event::body(side, part));
            }
        }
        if self.message(side).flow == Flow::Copy && (size > 0 || end) {
            match side {
                // That a part of it came is all that matters.
                Side::Request => self.run(during, Event::RequestBody(Body::Chunk(&[]))),
                Side::Response => self.gather(size, end),
            }
        }
        self.action(side)
    }

    /// `size` bytes of an answer that passes are there; `end`: the last ones.
    fn gather(&mut self, size: usize, end: bool) {
        if size > 0 {
            let Some(chunk) = hostcalls::buffer(BufferType::HttpResponseBody, size) else {
                self.catch_up();
                return self.run(None, Event::ResponseBody(Body::Unreadable));
            };
            self.late.push(chunk);
        }
        self.late.ended |= end;
        if self.late.is_enough() {
            self.catch_up();
        }
    }

    /// Hands in what was put off.
    fn catch_up(&mut self) {
        let at = self.late.time();
        let Late { head, bytes, ended, .. } = std::mem::take(&mut self.late);
        if let Some(head) = head {
            self.answer_head(at, &head);
        }
        if self.response.flow == Flow::Copy && !bytes.is_empty() {
            self.run_at(at, None, Event::ResponseBody(Body::Chunk(&bytes)));
        }
        if self.response.flow == Flow::Copy && ended {
            self.run_at(at, None, Event::ResponseBody(Body::End));
        }
    }

    /// The body ended without saying so: trailers follow.
    fn trailers(&mut self, side: Side) -> Action {
        match self.message(side).flow {
            Flow::Hold => {
                let held = self.message(side).held;
                self.body(side, held, true)
            }
            Flow::Copy => self.body(side, 0, true),
            Flow::Pass => Action::Continue,
        }
    }

    fn request_headers(&mut self, request: &Request, count: usize, end_of_stream: bool) -> Action {
        let vm = self.vm.clone();
        let fields = request.shown.fields();
        let headers = Headers::new(&fields);
        let (mut now, mut upstream, mut properties) = (Duration::ZERO, None, Vec::new());
        if request.concern == Concern::Call {
            now = hostcalls::now();
            upstream = match vm.host {
                Host::Kong => kong::upstream(),
                _ => hostcalls::property_at(UPSTREAM).ok(),
            };
            let adapter = vm.adapter.borrow();
            let paths = adapter.plan().properties().iter();
            properties = paths.map(|path| hostcalls::property(path).ok()).collect();
        }
        // Kong's runtime does not know with the headers; older versions always say that this is all.
        let head = RequestHead {
            headers,
            truncated: fields.len() < count,
            upstream: upstream.as_deref(),
            properties: &properties,
            end_of_stream: end_of_stream && vm.host != Host::Kong,
        };
        self.run_at(now, Some(Side::Request), Event::RequestHeaders(head));
        if self.exchange.is_none() {
            return self.action(Side::Request);
        }
        if vm.host == Host::Kong {
            self.upstream = upstream;
        }
        if vm.adapter.borrow().plan().wants_early_bodies() {
            self.early_body();
        }
        self.action(Side::Request)
    }

    /// Hands the request's body in, if the host shows it while the headers are handed in.
    fn early_body(&mut self) {
        let during = Some(Side::Request);
        if self.request.flow != Flow::Hold {
            return;
        }
        // All of it: for less than a body in several pieces, nginx writes past what it asked for.
        let shown = hostcalls::roomy_buffer(BufferType::HttpRequestBody, usize::MAX);
        let Some(body) = shown.filter(|shown| !shown.body().is_empty()) else { return };
        let length = body.body().len();
        self.run(during, Event::RequestBody(Body::Held(length)));
        if self.request.flow == Flow::Hold {
            let part = if kong::has_body_in_one_buffer(length) {
                kong::take_request_body(body.body());
                Body::Early(body)
            } else {
                Body::Whole(body)
            };
            self.run(during, Event::RequestBody(part));
        }
    }

    fn response_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        if self.exchange.is_none() {
            return Action::Continue;
        }
        let vm = self.vm.clone();
        let shown = Shown::ask(vm.host, MapType::HttpResponseHeaders, count);
        let from_provider = match vm.host {
            Host::Kong => kong::is_from_provider(Headers::new(&shown.fields())),
            _ => hostcalls::property_at(CODE_DETAILS).is_ok_and(|it| it == b"via_upstream"),
        };
        let end_of_stream = end_of_stream && vm.host != Host::Kong;
        let head = AnswerHead { shown, from_provider, end_of_stream };
        let passes = |exchange: &Exchange| exchange.answer_passes(&vm.adapter.borrow());
        if self.exchange.as_ref().is_some_and(passes) {
            self.late.head = Some(head);
            self.response.flow = Flow::Copy;
        } else {
            self.answer_head(hostcalls::now(), &head);
        }
        self.action(Side::Response)
    }

    fn answer_head(&mut self, now: Duration, head: &AnswerHead) {
        let fields = head.shown.fields();
        let headers = Headers::new(&fields);
        let asks = |exchange: &Exchange| {
            exchange.asks_for_upstream(&self.vm.adapter.borrow(), now, headers.status())
        };
        let upstream = match self.vm.host {
            Host::Kong => self.upstream.clone(),
            _ if self.exchange.as_ref().is_some_and(asks) => hostcalls::property_at(UPSTREAM).ok(),
            _ => None,
        };
        let head = ResponseHead {
            headers,
            upstream: upstream.as_deref(),
            from_provider: head.from_provider,
            end_of_stream: head.end_of_stream,
        };
        self.run_at(now, Some(Side::Response), Event::ResponseHeaders(head));
    }

    fn close(&mut self) {
        if !self.late.is_empty() {
            self.catch_up();
        }
        self.run(None, Event::Closed);
        self.exchange = None;
        let holds = [&self.request, &self.response].into_iter().any(|it| it.flow == Flow::Hold);
        if holds {
            self.vm.hold(self.context, &self.own, false);
        }
    }
}

impl Holding for RefCell<State> {
    fn tick(&self) {
        if let Ok(mut state) = self.try_borrow_mut() {
            state.run(None, Event::Tick);
        }
    }
}

/// A request that is not left alone, as it comes.
pub struct Request {
    vm: Rc<Vm>,
    shown: Shown,
    concern: Concern,
}

impl Request {
    /// The request that is just coming, with `count` headers; `None` if it is left alone.
    pub fn of_interest(vm: Rc<Vm>, count: usize) -> Option<Self> {
        let shown = Shown::ask(vm.host, MapType::HttpRequestHeaders, count);
        let concern = shown.concern(vm.adapter.borrow().plan());
        (concern != Concern::Nothing).then_some(Self { vm, shown, concern })
    }

    /// The VM that it came to.
    pub fn vm(&self) -> Rc<Vm> {
        self.vm.clone()
    }
}

/// What comes back at once from carrying out an effect.
enum Reply {
    Shared(Option<Vec<u8>>),
    DispatchFailed(CalloutId),
}

impl Reply {
    fn borrowed(&self) -> Event<'_> {
        match self {
            Reply::Shared(value) => Event::SharedLoaded(value.as_deref()),
            Reply::DispatchFailed(id) => Event::CalloutDone(*id, Outcome::DispatchFailed),
        }
    }
}

const fn header_map(side: Side) -> MapType {
    match side {
        Side::Request => MapType::HttpRequestHeaders,
        Side::Response => MapType::HttpResponseHeaders,
    }
}

const fn body_buffer(side: Side) -> BufferType {
    match side {
        Side::Request => BufferType::HttpRequestBody,
        Side::Response => BufferType::HttpResponseBody,
    }
}

const fn stream_type(side: Side) -> StreamType {
    match side {
        Side::Request => StreamType::HttpRequest,
        Side::Response => StreamType::HttpResponse,
    }
}

/// Envoy's name for the cluster that the call is routed to.
const UPSTREAM: &str = "xds\0cluster_name";
const CODE_DETAILS: &str = "response\0code_details";
