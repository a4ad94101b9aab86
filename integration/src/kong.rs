//! One exchange on its way through Kong's runtime: what nginx and ngx_wasm_module do around the module.
//! What crashes a worker there, or keeps a call waiting for ever, is a trap here.

pub(crate) mod abi;
mod body;

use crate::headers::Headers;
use crate::message::Message;
use crate::vm::{self, ROOT, State, Vm};

pub(crate) use self::body::Body;

/// nginx shows so many headers at most, its own among them, and has no room for more.
pub(crate) const MAX_HEADERS: usize = 100;

/// Which callback runs: what may be done depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Step {
    /// None, or one of the plugin's own.
    #[default]
    Outside,
    Tick,
    RequestHeaders,
    RequestBody,
    CalloutAnswer,
    ResponseHeaders,
    ResponseBody,
    Log,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The Lua step reads the body before the module is asked.
    #[default]
    Lua,
    Headers,
    Body,
    Provider,
    Over,
}

/// An answer given in the provider's place.
pub(crate) struct LocalAnswer {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// A request's header. Removing one hides it from the module; nginx sends it on all the same.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
    pub(crate) hidden: bool,
}

/// One call and the module's context for it.
#[derive(Default)]
pub(crate) struct Call {
    pub(crate) step: Step,
    at: At,
    pub(crate) request: Vec<Field>,
    pub(crate) body: Body,
    ended: bool,
    pub(crate) response: Headers,
    /// `$upstream_status`.
    pub(crate) upstream_status: Option<String>,
    pub(crate) chunk: Vec<u8>,
    pub(crate) header_filter_entered: bool,
    pub(crate) local_answer: Option<LocalAnswer>,
    pub(crate) called_out: bool,
    gone: bool,
    pub(crate) to_provider: Message,
    pub(crate) to_client: Message,
    pub(crate) cut: bool,
    pub(crate) deleted: bool,
}

fn call<'a>(vm: &'a mut Vm<'_>, id: u32) -> &'a mut Call {
    vm.data_mut().calls.get_mut(&id).expect("the call exists")
}

fn fault(vm: &mut Vm<'_>, text: &str) {
    vm.data_mut().trap.get_or_insert_with(|| text.to_owned());
}

/// Runs a callback of a call. The runtime jumps to whatever it finds, or does not find.
fn run<P: wasmtime::WasmParams>(
    vm: &mut Vm<'_>,
    id: u32,
    step: Step,
    export: &str,
    params: P,
) -> u32 {
    if vm.data().trap.is_some() {
        return 0;
    }
    call(vm, id).step = step;
    vm.data_mut().step = step;
    let action = vm::call::<_, u32>(vm, id, export, params);
    vm.data_mut().step = Step::Outside;
    call(vm, id).step = Step::Outside;
    action.unwrap_or_else(|| {
        fault(vm, &format!("the worker crashes: {export} does not exist"));
        0
    })
}

/// Whether a callout of this call has not been answered.
fn waits(vm: &Vm<'_>, id: u32) -> bool {
    vm.data().callouts.iter().any(|callout| callout.stream == Some(id) && !callout.answered)
}

/// What a request's callback returned has to fit what it did.
fn check_action(vm: &mut Vm<'_>, id: u32, action: u32) {
    match (action, waits(vm, id)) {
        (0, true) => {
            fault(vm, "the worker crashes: the call goes on although a callout is under way")
        }
        (1, false) if call(vm, id).local_answer.is_none() => {
            fault(vm, "the call waits for ever: paused without a callout");
        }
        _ => {}
    }
}

/// A request's headers arrive.
pub(crate) fn begin(vm: &mut Vm<'_>, id: u32, headers: &Headers, end: bool) {
    let fields = headers.iter().map(|(name, value)| Field {
        name: name.to_owned(),
        value: value.to_vec(),
        hidden: false,
    });
    let lua = vm.data().settings.lua;
    let request = fields.collect();
    let at = if lua.is_some() { At::Lua } else { At::Headers };
    vm.data_mut().calls.insert(id, Call { request, at, ended: end, ..Call::default() });
    if at == At::Headers {
        request_headers(vm, id);
    }
    proceed(vm, id);
}

/// What a Lua step does with the body before the module is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lua {
    /// Reads it.
    Reads,
    /// Reads it and sets it anew: then nginx has it in one buffer.
    ReadsAndSets,
}

/// A piece of the request's body arrives.
pub(crate) fn request_body(vm: &mut Vm<'_>, id: u32, piece: &[u8], end: bool) {
    let call = call(vm, id);
    if call.at == At::Over || call.ended {
        return;
    }
    call.body.receive(piece);
    call.ended = end;
    proceed(vm, id);
}

fn request_headers(vm: &mut Vm<'_>, id: u32) {
    let names = [":method", ":path", ":scheme", ":authority"];
    let fields = call(vm, id).request.iter();
    let count = fields.filter(|field| !names.contains(&field.name.as_str())).count() as u32;
    // Whether there is a body is never told here.
    let end = u32::from(vm.data().settings.tells_the_end_with_headers);
    let action = run(vm, id, Step::RequestHeaders, "proxy_on_request_headers", (id, count, end));
    check_action(vm, id, action);
    refuse(vm);
}

/// Callouts to where nobody listens end at once.
fn refuse(vm: &mut Vm<'_>) {
    loop {
        let State { callouts, settings, .. } = vm.data();
        let dead = callouts.iter().position(|callout| {
            !callout.answered && settings.clusters.get(&callout.cluster) != Some(&true)
        });
        let Some(index) = dead else { return };
        if vm.data().trap.is_some() {
            return;
        }
        callout_ended(vm, index, Some(vec![(":dispatch_status", "broken connection".into())]), &[]);
    }
}

/// Goes on with a call as far as it can go.
fn proceed(vm: &mut Vm<'_>, id: u32) {
    loop {
        if vm.data().trap.is_some() || waits(vm, id) {
            return;
        }
        if let Some(answer) = call(vm, id).local_answer.take() {
            return answer_locally(vm, id, &answer.headers, &answer.body);
        }
        let limit = vm.data().settings.buffer_limit;
        let lua = vm.data().settings.lua;
        let state = call(vm, id);
        match state.at {
            At::Lua if state.ended => {
                state.body.spill_over(limit);
                if lua == Some(Lua::ReadsAndSets) {
                    state.set_anew();
                }
                state.at = At::Headers;
                request_headers(vm, id);
            }
            At::Headers if state.ended => {
                state.body.spill_over(limit);
                state.at = At::Body;
                let size = state.body.len() as u32;
                if size > 0 {
                    let end = 1u32;
                    let action =
                        run(vm, id, Step::RequestBody, "proxy_on_request_body", (id, size, end));
                    check_action(vm, id, action);
                    if let Some(crash) = call(vm, id).body.crash() {
                        fault(vm, &format!("the worker crashes: {crash}"));
                    }
                    refuse(vm);
                }
            }
            At::Body if state.gone => return over(vm, id),
            At::Body => {
                state.at = At::Provider;
                state.send_on();
                return;
            }
            _ => return,
        }
    }
}

impl Call {
    /// As Lua's `set_body_data` does: one buffer, and its length in the headers.
    fn set_anew(&mut self) {
        if self.body.set_anew() {
            let length = self.body.len().to_string();
            self.request.retain(|field| field.name != "content-length");
            self.request.push(Field {
                name: "content-length".to_owned(),
                value: length.into_bytes(),
                hidden: false,
            });
        }
    }

    /// To the provider. nginx states the length itself.
    fn send_on(&mut self) {
        let fields = self.request.iter().filter(|field| field.name != "content-length");
        let mut headers = Headers::new(fields.map(|field| (&field.name, &field.value)));
        let body = self.body.to_provider();
        if !body.is_empty() {
            headers.add("content-length", body.len().to_string().as_bytes());
        }
        self.to_provider.headers_out("the provider", &headers, body.is_empty());
        if !body.is_empty() {
            self.to_provider.body_out("the provider", body, true);
        }
    }
}

/// The headers of an answer arrive, from the provider or from nginx itself.
pub(crate) fn response(vm: &mut Vm<'_>, id: u32, headers: Headers, end: bool) {
    let count = headers.len() as u32;
    let call_ = call(vm, id);
    call_.at = At::Provider;
    call_.response = headers;
    call_.header_filter_entered = true;
    let told = u32::from(vm.data().settings.tells_the_end_with_headers);
    let action = run(vm, id, Step::ResponseHeaders, "proxy_on_response_headers", (id, count, told));
    if action != 0 {
        fault(vm, "paused in the answer's headers: nothing is held there");
    }
    let call = call(vm, id);
    let headers = call.response.clone();
    call.to_client.headers_out("the client", &headers, end);
    if end {
        over(vm, id);
    }
}

/// A piece of an answer's body arrives.
pub(crate) fn response_body(vm: &mut Vm<'_>, id: u32, piece: Vec<u8>, end: bool) {
    let call_ = call(vm, id);
    if call_.at == At::Over {
        return;
    }
    // With a length the end is told only of a body that comes in one piece.
    let told = match call_.response.content_length() {
        Some(length) if length > 0 => piece.len() as u64 == length,
        _ => end,
    };
    call_.chunk.clone_from(&piece);
    if !piece.is_empty() || told {
        let params = (id, piece.len() as u32, u32::from(told));
        if run(vm, id, Step::ResponseBody, "proxy_on_response_body", params) != 0 {
            fault(vm, "paused in the answer's body: it would be buffered");
        }
    }
    let call = call(vm, id);
    call.chunk.clear();
    call.to_client.body_out("the client", piece, end);
    if end {
        over(vm, id);
    }
}

/// nginx, Lua in it, or the module answers in the provider's place.
pub(crate) fn answer_locally(vm: &mut Vm<'_>, id: u32, headers: &Headers, body: &[u8]) {
    response(vm, id, headers.clone(), body.is_empty());
    if !body.is_empty() && vm.data().trap.is_none() {
        response_body(vm, id, body.to_vec(), true);
    }
}

/// The client leaves. While a callout is under way nothing notices.
pub(crate) fn client_gone(vm: &mut Vm<'_>, id: u32) {
    let waits = waits(vm, id);
    let call = call(vm, id);
    if call.at == At::Over {
        return;
    }
    call.cut = true;
    call.gone = true;
    if !waits {
        over(vm, id);
    }
}

fn over(vm: &mut Vm<'_>, id: u32) {
    call(vm, id).at = At::Over;
    if vm.data().trap.is_some() {
        return;
    }
    call(vm, id).step = Step::Log;
    vm.data_mut().step = Step::Log;
    vm::call::<_, u32>(vm, id, "proxy_on_done", id);
    vm::call::<_, ()>(vm, id, "proxy_on_log", id);
    vm::call::<_, ()>(vm, id, "proxy_on_delete", id);
    vm.data_mut().step = Step::Outside;
    call(vm, id).deleted = true;
}

/// A callout ends: with headers and a body, or with headers alone that say why not.
pub(crate) fn callout_ended(
    vm: &mut Vm<'_>,
    index: usize,
    headers: Option<Vec<(&str, String)>>,
    body: &[u8],
) {
    let callout = &mut vm.data_mut().callouts[index];
    callout.answered = true;
    let (token, stream) = (callout.id, callout.stream);
    let headers = Headers::new(headers.unwrap_or_default());
    let sizes = match headers.get(":status") {
        Some(_) => (headers.len() as u32, body.len() as u32),
        None => (0, 0),
    };
    vm.data_mut().answer = Some((headers, body.to_vec()));
    vm.data_mut().step = Step::CalloutAnswer;
    if let Some(id) = stream {
        call(vm, id).body.answered();
    }
    let context = stream.unwrap_or(ROOT);
    if stream.is_some_and(|id| call(vm, id).deleted) {
        fault(vm, "the worker crashes: a callout ended after its call");
    }
    vm::call::<_, ()>(
        vm,
        context,
        "proxy_on_http_call_response",
        (ROOT, token, sizes.0, sizes.1, 0u32),
    );
    vm.data_mut().step = Step::Outside;
    vm.data_mut().answer = None;
    if let Some(id) = stream {
        proceed(vm, id);
    }
}

/// A callout ends, and nobody is told.
pub(crate) fn forget(vm: &mut Vm<'_>, index: usize) {
    let callout = &mut vm.data_mut().callouts[index];
    callout.answered = true;
    if let Some(id) = callout.stream {
        proceed(vm, id);
    }
}

/// The timer.
pub(crate) fn tick(vm: &mut Vm<'_>) {
    vm.data_mut().step = Step::Tick;
    vm::call::<_, ()>(vm, ROOT, "proxy_on_tick", ROOT);
    vm.data_mut().step = Step::Outside;
    refuse(vm);
}
