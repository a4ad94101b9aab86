//! One exchange on its way through the proxy: what Envoy's filter manager does around the module.

use std::collections::BTreeMap;

use crate::headers::Headers;
use crate::message::Message;
use crate::vm::{self, Deferred, Vm};

/// From the client, or from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

impl Direction {
    fn callback(self, part: &str) -> String {
        match self {
            Self::Request => format!("proxy_on_request_{part}"),
            Self::Response => format!("proxy_on_response_{part}"),
        }
    }

    /// Who receives the message in the end.
    fn receiver(self) -> &'static str {
        match self {
            Self::Request => "the upstream",
            Self::Response => "the client",
        }
    }
}

/// Whether a message is being passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Iteration {
    #[default]
    Going,
    /// Held; body and trailer callbacks still run.
    Stopped,
    /// Held; no callback runs until it is resumed.
    StoppedAll,
}

/// One direction of a stream.
#[derive(Default)]
pub(crate) struct Flow {
    /// None until they arrive.
    pub(crate) headers: Option<Headers>,
    pub(crate) trailers: Option<Headers>,
    pub(crate) out: Message,
    iteration: Iteration,
    /// Whether the module may still read and change headers, and trailers.
    headers_held: bool,
    trailers_held: bool,
    /// What the host holds back.
    buffer: Option<Vec<u8>>,
    /// The module asked for buffering: it sees the buffer, and the limit applies.
    capturing: bool,
    /// The piece that the module is being shown while nothing is buffered.
    piece: Option<Vec<u8>>,
    /// The sender is done.
    ended: bool,
}

impl Flow {
    pub(crate) fn headers_held(&mut self) -> Option<&mut Headers> {
        self.headers.as_mut().filter(|_| self.headers_held)
    }

    pub(crate) fn trailers_held(&mut self) -> Option<&mut Headers> {
        self.trailers.as_mut().filter(|_| self.trailers_held)
    }

    /// The body as the module sees it now.
    pub(crate) fn body_mut(&mut self) -> Option<&mut Vec<u8>> {
        match self.capturing {
            true => self.buffer.as_mut(),
            false => self.piece.as_mut(),
        }
    }

    /// Takes headers and trailers out of the module's reach.
    pub(crate) fn let_go(&mut self) {
        self.headers_held = false;
        self.trailers_held = false;
    }

    fn hold(&mut self, bytes: Vec<u8>) {
        self.buffer.get_or_insert_default().extend(bytes);
    }
}

/// One HTTP exchange and the module's context for it.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) request: Flow,
    pub(crate) response: Flow,
    /// `response.code_details`.
    pub(crate) code_details: Option<String>,
    /// What the module set for the access log.
    pub(crate) filter_state: BTreeMap<String, Vec<u8>>,
    /// A local answer is on its way: the request goes no further.
    request_over: bool,
    /// The client saw the connection end early.
    pub(crate) cut: bool,
    /// Neither side is there any more.
    pub(crate) ended: bool,
    /// The access log is being written.
    pub(crate) logging: bool,
    /// The module asked to keep its context until it says `proxy_done`.
    pub(crate) lingering: bool,
    pub(crate) deleted: bool,
}

impl Stream {
    pub(crate) fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }

    fn takes(&self, direction: Direction) -> bool {
        !(self.ended || direction == Direction::Request && self.request_over)
    }
}

/// An answer that the proxy gives in the upstream's place.
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    pub(crate) details: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl LocalReply {
    pub(crate) fn plain(status: u16, details: &str, body: &str) -> Self {
        Self {
            status,
            details: details.to_owned(),
            headers: Headers::default(),
            body: body.as_bytes().to_vec(),
        }
    }

    fn into_parts(self) -> (Headers, Vec<u8>) {
        let mut headers = Headers::from([(":status", self.status.to_string())]);
        for (name, value) in self.headers.iter() {
            headers.add(name, value);
        }
        if !self.body.is_empty() {
            headers.replace("content-length", self.body.len().to_string().as_bytes());
            if headers.get("content-type").is_none() {
                headers.add("content-type", b"text/plain");
            }
        }
        (headers, self.body)
    }
}

fn stream<'a>(vm: &'a mut Vm<'_>, id: u32) -> Option<&'a mut Stream> {
    vm.data_mut().streams.get_mut(&id)
}

/// The flow of a stream that still takes part in its direction.
fn flow<'a>(vm: &'a mut Vm<'_>, id: u32, direction: Direction) -> Option<&'a mut Flow> {
    let stream = stream(vm, id).filter(|stream| stream.takes(direction))?;
    Some(stream.flow_mut(direction))
}

/// Runs one filter callback. Nothing where the stream goes no further in this direction.
fn filter<P: wasmtime::WasmParams>(
    vm: &mut Vm<'_>,
    id: u32,
    direction: Direction,
    part: &str,
    params: P,
) -> Option<u32> {
    let outer = vm.data_mut().filtering.replace((id, direction));
    let action = vm::call(vm, id, &direction.callback(part), params);
    vm.data_mut().filtering = outer;
    if vm.data().trap.is_some() {
        fail(vm, id);
    }
    flow(vm, id, direction)?;
    Some(action.unwrap_or(0))
}

/// Headers arrive.
pub(crate) fn headers(vm: &mut Vm<'_>, id: u32, direction: Direction, headers: Headers, end: bool) {
    let stop_is_partial = vm.data().settings.allow_on_headers_stop_iteration;
    let count = headers.len() as u32;
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    held.headers = Some(headers);
    held.headers_held = true;
    held.ended = end;
    let Some(action) = filter(vm, id, direction, "headers", (id, count, u32::from(end))) else {
        return;
    };
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    match action {
        0 => {
            held.headers_held = false;
            pass_headers(vm, id, direction, false);
        }
        1 if stop_is_partial => held.iteration = Iteration::Stopped,
        _ => held.iteration = Iteration::StoppedAll,
    }
}

/// A piece of the body arrives.
pub(crate) fn data(vm: &mut Vm<'_>, id: u32, direction: Direction, piece: Vec<u8>, end: bool) {
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    held.ended |= end;
    if held.iteration == Iteration::StoppedAll {
        // Held against back pressure: no limit here.
        return held.hold(piece);
    }
    if held.capturing {
        held.hold(piece);
        if over_limit(vm, id, direction) {
            return too_large(vm, id, direction);
        }
    } else {
        held.piece = Some(piece);
    }
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    let size = held.body_mut().map_or(0, |body| body.len()) as u32;
    let action = filter(vm, id, direction, "body", (id, size, u32::from(end)));
    let (Some(action), Some(held)) = (action, flow(vm, id, direction)) else {
        return;
    };
    held.capturing = false;
    let piece = held.piece.take();
    match (action, held.iteration) {
        (0, Iteration::Going) => pass_data(vm, id, direction, piece.unwrap_or_default(), end),
        (0, _) => {
            held.hold(piece.unwrap_or_default());
            resume(vm, id, direction);
        }
        _ => {
            held.iteration = Iteration::Stopped;
            held.capturing = true;
            held.hold(piece.unwrap_or_default());
            if over_limit(vm, id, direction) {
                too_large(vm, id, direction);
            }
        }
    }
}

/// Trailers arrive.
pub(crate) fn trailers(vm: &mut Vm<'_>, id: u32, direction: Direction, trailers: Headers) {
    let count = trailers.len() as u32;
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    held.trailers = Some(trailers);
    held.trailers_held = true;
    held.ended = true;
    if held.iteration == Iteration::StoppedAll {
        return;
    }
    let action = filter(vm, id, direction, "trailers", (id, count));
    let (Some(action), Some(held)) = (action, flow(vm, id, direction)) else {
        return;
    };
    match (action, held.iteration) {
        (0, Iteration::Going) => pass_trailers(vm, id, direction),
        (0, _) => resume(vm, id, direction),
        _ => held.iteration = Iteration::Stopped,
    }
}

/// Passes on what is held. What was held before the module saw it, it sees now.
pub(crate) fn resume(vm: &mut Vm<'_>, id: u32, direction: Direction) {
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    let unseen = match held.iteration {
        Iteration::Going => return,
        Iteration::Stopped => false,
        Iteration::StoppedAll => true,
    };
    held.iteration = Iteration::Going;
    held.capturing = false;
    held.headers_held = false;
    let (buffer, trailed) = (held.buffer.take(), held.trailers.is_some());
    if held.out.headers.is_none() {
        pass_headers(vm, id, direction, buffer.is_some() || trailed);
    }
    if let Some(buffer) = buffer {
        let Some(held) = flow(vm, id, direction) else {
            return;
        };
        let end = held.ended && !trailed;
        match unseen {
            true => data(vm, id, direction, buffer, end),
            false => pass_data(vm, id, direction, buffer, end),
        }
    }
    if trailed && let Some(held) = flow(vm, id, direction) {
        match (unseen, held.trailers.clone()) {
            (true, Some(held)) => trailers(vm, id, direction, held),
            _ => pass_trailers(vm, id, direction),
        }
    }
}

fn pass_headers(vm: &mut Vm<'_>, id: u32, direction: Direction, more: bool) {
    let Some(held) = flow(vm, id, direction) else {
        return;
    };
    let end = held.ended && !more;
    let headers = held.headers.clone().unwrap_or_default();
    held.out.headers_out(direction.receiver(), &headers, end);
    passed(vm, id, direction);
}

fn pass_data(vm: &mut Vm<'_>, id: u32, direction: Direction, piece: Vec<u8>, end: bool) {
    if let Some(held) = flow(vm, id, direction) {
        held.out.body_out(direction.receiver(), piece, end);
        passed(vm, id, direction);
    }
}

fn pass_trailers(vm: &mut Vm<'_>, id: u32, direction: Direction) {
    if let Some(held) = flow(vm, id, direction) {
        held.trailers_held = false;
        let trailers = held.trailers.clone().unwrap_or_default();
        held.out.trailers_out(direction.receiver(), &trailers);
        passed(vm, id, direction);
    }
}

/// The exchange is over once the client has the whole answer.
fn passed(vm: &mut Vm<'_>, id: u32, direction: Direction) {
    let complete = flow(vm, id, direction).is_some_and(|flow| flow.out.complete);
    if complete && direction == Direction::Response {
        end(vm, id);
    }
}

fn over_limit(vm: &mut Vm<'_>, id: u32, direction: Direction) -> bool {
    let limit = vm.data().settings.buffer_limit;
    let held = flow(vm, id, direction).and_then(|flow| flow.buffer.as_ref());
    held.is_some_and(|buffer| buffer.len() > limit)
}

/// The module replaced a body. Where that is the buffered one, a body beyond the limit makes Envoy
/// answer on the spot, with the module still running; only a request's own filter callback is waited for.
pub(crate) fn body_replaced(vm: &mut Vm<'_>, id: u32, direction: Direction) {
    let captured = flow(vm, id, direction).is_some_and(|flow| flow.capturing);
    if !captured || !over_limit(vm, id, direction) {
        return;
    }
    match vm.data().filtering {
        Some((_, Direction::Request)) => {
            let deferred = &mut vm.data_mut().deferred;
            deferred.push(Deferred::TooLarge(id, direction));
        }
        _ => too_large(vm, id, direction),
    }
}

/// Envoy's own answer to a body that it may not buffer.
pub(crate) fn too_large(vm: &mut Vm<'_>, id: u32, direction: Direction) {
    match direction {
        Direction::Request => {
            let reply = LocalReply::plain(413, "request_payload_too_large", "Payload Too Large");
            local_reply(vm, id, reply);
        }
        Direction::Response => {
            let reply =
                LocalReply::plain(500, "response_payload_too_large", "Internal Server Error");
            local_reply(vm, id, reply);
        }
    }
}

/// Answers in the upstream's place. The module's response callbacks run on it, unless an answer was
/// already under way: that one is replaced, or cut off where the client has its headers.
pub(crate) fn local_reply(vm: &mut Vm<'_>, id: u32, reply: LocalReply) {
    let Some(stream) = stream(vm, id).filter(|stream| !stream.ended) else {
        return;
    };
    if stream.response.out.headers.is_some() {
        return reset(vm, id);
    }
    stream.request_over = true;
    stream.code_details = Some(reply.details.clone());
    let under_way = stream.response.headers.is_some();
    let (headers, body) = reply.into_parts();
    let bodiless = body.is_empty();
    if under_way {
        return direct_reply(vm, id, headers, body);
    }
    self::headers(vm, id, Direction::Response, headers, bodiless);
    if !bodiless {
        data(vm, id, Direction::Response, body, true);
    }
}

/// Answers past the module.
fn direct_reply(vm: &mut Vm<'_>, id: u32, headers: Headers, body: Vec<u8>) {
    if let Some(stream) = stream(vm, id) {
        let out = &mut stream.response.out;
        out.headers_out(Direction::Response.receiver(), &headers, false);
        out.body_out(Direction::Response.receiver(), body, true);
        stream.response.headers = Some(headers);
        end(vm, id);
    }
}

/// The module trapped in a callback of this stream.
fn fail(vm: &mut Vm<'_>, id: u32) {
    let Some(stream) = stream(vm, id).filter(|stream| !stream.ended) else {
        return;
    };
    stream.request_over = true;
    if stream.response.out.headers.is_some() {
        return reset(vm, id);
    }
    stream.code_details = Some("wasm_fail_stream".to_owned());
    let (headers, body) = LocalReply::plain(503, "wasm_fail_stream", "").into_parts();
    direct_reply(vm, id, headers, body);
}

/// The connection breaks before the answer is complete.
pub(crate) fn reset(vm: &mut Vm<'_>, id: u32) {
    if let Some(stream) = stream(vm, id).filter(|stream| !stream.ended) {
        stream.cut = true;
        end(vm, id);
    }
}

/// The stream is over: the access log is written, then the module's context goes.
fn end(vm: &mut Vm<'_>, id: u32) {
    let Some(stream) = stream(vm, id).filter(|stream| !stream.ended) else {
        return;
    };
    stream.ended = true;
    stream.logging = true;
    vm::call::<_, ()>(vm, id, "proxy_on_log", id);
    if let Some(stream) = self::stream(vm, id) {
        stream.logging = false;
    }
    match vm::call::<_, u32>(vm, id, "proxy_on_done", id) {
        Some(0) => {
            if let Some(stream) = self::stream(vm, id) {
                stream.lingering = true;
            }
        }
        _ => delete(vm, id),
    }
}

/// The module's context for this stream goes.
pub(crate) fn delete(vm: &mut Vm<'_>, id: u32) {
    vm::call::<_, ()>(vm, id, "proxy_on_delete", id);
    if let Some(stream) = stream(vm, id) {
        stream.deleted = true;
        stream.lingering = false;
    }
}
