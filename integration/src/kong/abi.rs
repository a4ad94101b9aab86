//! The host functions of Proxy-Wasm as Kong's runtime has them, as far as a filter like ours needs
//! them. What returns a status on Envoy is often a trap there.

use std::time::Duration;

use wasmtime::{Caller, Linker, Result, format_err};

use super::{Call, Field, LocalAnswer, MAX_HEADERS, Step};
use crate::abi::{Fault, Guest, Status, imports, run};
use crate::callout::Callout;
use crate::headers::Headers;
use crate::message::check_values;
use crate::vm::{LogLine, ROOT, State, Tick};

type Outcome = std::result::Result<(), Fault>;

fn trap<T>(text: impl Into<String>) -> std::result::Result<T, Fault> {
    Err(Fault::Trap(format_err!("host trap: {}", text.into())))
}

/// Registers every function.
pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    link_environment(linker)?;
    link_messages(linker)?;
    link_calls(linker)
}

/// A request's header, and what happens to it.
enum Change<'a> {
    Add(&'a [u8]),
    Set(&'a [u8]),
    Remove,
}

fn link_environment(linker: &mut Linker<State>) -> Result<()> {
    imports! { linker;
        "proxy_log" |guest, level: u32, at: u32, size: u32| {
            let text = guest.text(at, size)?;
            guest.state().logs.push(LogLine { level, text });
            Ok(())
        }
        // Another function than the ABI's: a module that imports that one does not load.
        "proxy_get_log_level" |_guest, _a: u32, _b: u32| { trap("proxy_get_log_level: not yet implemented") }
        "proxy_get_current_time_nanoseconds" |guest, at: u32| {
            let state = guest.state();
            let now = (state.settings.epoch + state.now).as_nanos() as u64;
            Ok(guest.write(at, &now.to_le_bytes())?)
        }
        "proxy_set_effective_context" |_guest, _id: u32| { Ok(()) }
        "proxy_set_tick_period_milliseconds" |guest, period: u32| {
            let state = guest.state();
            if state.current != ROOT {
                return trap("can only set tick_period in root context");
            }
            if period > 0 && state.tick.is_some() {
                return trap("tick_period already set");
            }
            let period = Duration::from_millis(period.into());
            state.tick = (!period.is_zero()).then(|| Tick { period, due: state.now + period });
            Ok(())
        }
        "proxy_define_metric" |guest, kind: u32, at: u32, size: u32, at_id: u32| {
            let name = guest.text(at, size)?;
            let state = guest.state();
            let full = format!("pw:{}:{name}", state.settings.plugin_name);
            if full.len() > state.settings.max_metric_name {
                return trap(format!("could not define metric: name {name:?} too long"));
            }
            let id = state.metrics.define(kind, name)?;
            guest.give_word(at_id, id)
        }
        "proxy_increment_metric" |guest, id: u32, offset: i64| {
            match guest.state().metrics.increment(id, offset) {
                Ok(()) => Ok(()),
                Err(_) => trap("could not increment value in metric"),
            }
        }
        "proxy_record_metric" |guest, id: u32, value: u64| {
            match guest.state().metrics.record(id, value) {
                Ok(()) => Ok(()),
                Err(_) => trap("could not record value in metric"),
            }
        }
        "proxy_get_shared_data" |_guest, _a: u32, _b: u32, _c: u32, _d: u32, _e: u32| {
            trap("failed getting value from shm (could not resolve namespace)")
        }
        "proxy_set_shared_data" |_guest, _a: u32, _b: u32, _c: u32, _d: u32, _e: u32| {
            trap("failed setting value to shm (could not resolve namespace)")
        }
        "proxy_get_property" |guest, at: u32, size: u32, at_value: u32, at_size: u32| {
            let path = guest.text(at, size)?.replace('\0', ".");
            let value = property(guest.state(), &path)?;
            guest.give(&value, at_value, at_size)
        }
        "proxy_set_property" |_guest, _a: u32, _b: u32, _c: u32, _d: u32| { trap("could not set property") }
        "proxy_call_foreign_function" |_guest, _a: u32, _b: u32, _c: u32, _d: u32, _e: u32, _f: u32| {
            trap("unknown foreign function")
        }
        "proxy_done" |_guest| { trap("proxy_done: not yet implemented") }
        "proxy_close_stream" |_guest, _kind: u32| { trap("proxy_close_stream: not yet implemented") }
    }
    Ok(())
}

fn link_messages(linker: &mut Linker<State>) -> Result<()> {
    imports! { linker;
        "proxy_get_buffer_bytes" |guest, buffer: u32, _start: u32, size: u32, at: u32, at_size: u32| {
            let pieces = buffer_pieces(guest.state(), buffer)?;
            show(guest, &pieces, size as usize, at, at_size)
        }
        "proxy_set_buffer_bytes" |guest, buffer: u32, start: u32, size: u32, at: u32, at_size: u32| {
            let bytes = guest.read(at, at_size)?;
            let state = guest.state();
            match (buffer, state.step) {
                (0, Step::RequestHeaders | Step::RequestBody) => {
                    let body = &mut current(state)?.body;
                    let start = start as usize;
                    if start == 0 && size == 0 && !bytes.is_empty() {
                        return trap("prepending to a body is nothing that this host models");
                    }
                    body.write(start, &bytes);
                    Ok(())
                }
                (0, _) => trap("can only set request body during \"on_request_body\""),
                (1, Step::ResponseBody) => trap("replacing an answer's body is nothing that this host models"),
                (1, _) => trap("can only set response body during \"on_response_body\""),
                _ => Err(Status::BadArgument.into()),
            }
        }
        "proxy_get_header_map_pairs" |guest, map: u32, at: u32, at_size: u32| {
            if map == 6 && guest.state().current == ROOT {
                return trap("the host keeps what it copies for this for ever");
            }
            let headers = headers_of(guest.state(), map)?;
            if headers.len() > MAX_HEADERS {
                return trap("the host writes past the memory that it asked for");
            }
            let pairs = headers.to_guest();
            guest.give(&pairs, at, at_size)
        }
        "proxy_get_header_map_value" |guest, map: u32, name: u32, size: u32, at: u32, at_size: u32| {
            let name = guest.text(name, size)?;
            let headers = headers_of(guest.state(), map)?;
            let value = headers.bytes(&name).ok_or(Status::NotFound)?.to_vec();
            guest.give(&value, at, at_size)
        }
        "proxy_add_header_map_value" |guest, map: u32, name: u32, size: u32, at: u32, at_size: u32| {
            let (name, value) = (guest.text(name, size)?, guest.read(at, at_size)?);
            change(guest.state(), map, &name, &Change::Add(&value))
        }
        "proxy_replace_header_map_value" |guest, map: u32, name: u32, size: u32, at: u32, at_size: u32| {
            let (name, value) = (guest.text(name, size)?, guest.read(at, at_size)?);
            change(guest.state(), map, &name, &Change::Set(&value))
        }
        "proxy_remove_header_map_value" |guest, map: u32, name: u32, size: u32| {
            let name = guest.text(name, size)?;
            change(guest.state(), map, &name, &Change::Remove)
        }
    }
    Ok(())
}

fn link_calls(linker: &mut Linker<State>) -> Result<()> {
    imports! { linker;
        "proxy_continue_stream" |guest, _kind: u32| {
            match guest.state().current {
                ROOT => trap("the worker crashes: there is no request to resume"),
                _ => trap("a call resumed before its callout ended"),
            }
        }
        "proxy_send_local_response" |guest, status: u32, details: u32, details_size: u32, body: u32, body_size: u32, headers: u32, headers_size: u32, _grpc_status: i32| {
            guest.text(details, details_size)?;
            let mut body = guest.read(body, body_size)?;
            let extra = guest.headers(headers, headers_size)?;
            let mut headers = Headers::from([(":status", status.to_string())]);
            for (name, value) in extra.iter() {
                headers.replace(name, value);
            }
            if !body.is_empty() {
                body.push(b'\n');
                headers.replace("content-length", body.len().to_string().as_bytes());
            }
            let call = current(guest.state())?;
            if call.header_filter_entered {
                return trap("response already sent");
            }
            if call.local_answer.is_some() {
                return trap("local response already stashed");
            }
            call.local_answer = Some(LocalAnswer { headers, body });
            Ok(())
        }
        "proxy_http_call" |guest, host: u32, host_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32, trailers: u32, trailers_size: u32, timeout: u32, at_id: u32| {
            let host = guest.text(host, host_size)?;
            let headers = guest.headers(headers, headers_size)?;
            let body = guest.read(body, body_size)?;
            guest.headers(trailers, trailers_size)?;
            let id = http_call(guest.state(), host, headers, body, timeout)?;
            guest.give_word(at_id, id)
        }
    }
    Ok(())
}

/// The call that the running callback belongs to; the root context has none.
fn current(state: &mut State) -> std::result::Result<&mut Call, Fault> {
    let id = state.current;
    match state.calls.get_mut(&id).filter(|call| !call.deleted) {
        Some(call) => Ok(call),
        None => trap("the worker crashes: there is no request"),
    }
}

fn buffer_pieces(state: &mut State, buffer: u32) -> std::result::Result<Vec<Vec<u8>>, Fault> {
    match (buffer, state.step) {
        (0, Step::RequestHeaders | Step::RequestBody | Step::Log) => {
            Ok(current(state)?.body.visible().ok_or(Status::NotFound)?.to_vec())
        }
        (0, _) => trap("can only get request body during \"on_request_body\", \"on_log\""),
        (1, Step::ResponseBody) => match current(state)?.chunk.clone() {
            chunk if chunk.is_empty() => Err(Status::NotFound.into()),
            chunk => Ok(vec![chunk]),
        },
        (1, _) => trap("can only get response body during \"on_response_body\""),
        (4, Step::CalloutAnswer) => match state.answer.clone() {
            Some((_, body)) if !body.is_empty() => Ok(vec![body]),
            _ => Err(Status::NotFound.into()),
        },
        (4, _) => trap("can only get dispatch response body during \"on_http_dispatch_response\""),
        (6, _) => Ok(vec![state.settings.vm_configuration.clone().into_bytes()]),
        (7, _) => Ok(vec![state.settings.configuration.clone().into_bytes()]),
        _ => Err(Status::BadArgument.into()),
    }
}

/// Shows up to `most` bytes. Of a body in several buffers the runtime asks for memory for as many,
/// and then writes more: it goes on after each buffer in which it came to the end.
fn show(guest: &mut Guest<'_>, pieces: &[Vec<u8>], most: usize, at: u32, at_size: u32) -> Outcome {
    let whole = pieces.concat();
    let size = whole.len().min(most);
    if pieces.len() < 2 || size == whole.len() {
        return guest.give(&whole[..size], at, at_size);
    }
    let mut place = guest.give_place(size, at, at_size)?;
    let mut seen = 0;
    for piece in pieces {
        seen += piece.len();
        let mut copied = piece.len();
        if seen > most {
            copied -= seen - most;
            seen = 0;
        }
        guest.write(place, &piece[..copied])?;
        place += copied as u32;
    }
    Ok(())
}

fn headers_of(state: &mut State, map: u32) -> std::result::Result<Headers, Fault> {
    match (map, state.step) {
        (0, _) => {
            let fields = current(state)?.request.iter().filter(|field| !field.hidden);
            Ok(Headers::new(fields.map(|field| (&field.name, &field.value))))
        }
        (2, _) => Ok(current(state)?.response.clone()),
        (6, Step::CalloutAnswer) => {
            state.answer.clone().map(|(headers, _)| headers).ok_or(Status::BadArgument.into())
        }
        (6, _) => trap("the worker crashes: no callout has ended"),
        _ => Err(Status::BadArgument.into()),
    }
}

fn change(state: &mut State, map: u32, name: &str, change: &Change<'_>) -> Outcome {
    let step = state.step;
    let call = current(state)?;
    match map {
        0 => {
            let may = match step {
                Step::RequestHeaders | Step::RequestBody => true,
                Step::CalloutAnswer => !call.header_filter_entered,
                _ => false,
            };
            if !may {
                return trap("can only set request headers before response is produced");
            }
            change_request(&mut call.request, name, change);
        }
        2 => {
            if step != Step::ResponseHeaders {
                return trap("can only set response headers before \"on_response_body\"");
            }
            match change {
                Change::Add(value) => call.response.add(name, value),
                Change::Set(value) => call.response.replace(name, value),
                Change::Remove => call.response.remove(name),
            }
        }
        _ => return Err(Status::BadArgument.into()),
    }
    Ok(())
}

/// nginx finds a header by its hash, removes it by taking that away, and sends it on all the same.
/// Setting one that came several times removes all of them.
fn change_request(fields: &mut Vec<Field>, name: &str, change: &Change<'_>) {
    let found: Vec<usize> = (0..fields.len())
        .filter(|&at| !fields[at].hidden && fields[at].name.eq_ignore_ascii_case(name))
        .collect();
    match (change, &found[..]) {
        (Change::Add(value), _) | (Change::Set(value), []) => fields.push(Field {
            name: name.to_ascii_lowercase(),
            value: value.to_vec(),
            hidden: false,
        }),
        (Change::Set(value), &[first, ..]) => {
            fields[first].value = value.to_vec();
            if found.len() > 1 {
                found.iter().for_each(|&at| fields[at].hidden = true);
            }
        }
        (Change::Remove, _) => found.iter().for_each(|&at| fields[at].hidden = true),
    }
}

fn property(state: &mut State, path: &str) -> std::result::Result<Vec<u8>, Fault> {
    let id = state.current;
    let Some(call) = state.calls.get(&id) else {
        // While the plugin is configured some crash the worker; those with a scope do not.
        return match path.contains('.') {
            true => Err(Status::InternalFailure.into()),
            false => trap(format!("the worker crashes: property {path:?}")),
        };
    };
    let value = match path {
        "ngx.upstream_status" => call.upstream_status.clone().map(String::into_bytes),
        _ if path.starts_with("ngx.") || path.starts_with("kong.") => {
            state.settings.properties.get(path).cloned()
        }
        _ => return trap(format!("an error in the log for every call: property {path:?}")),
    };
    value.ok_or(Status::NotFound.into())
}

fn http_call(
    state: &mut State,
    host: String,
    headers: Headers,
    body: Vec<u8>,
    timeout: u32,
) -> std::result::Result<u32, Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_[]/".contains(&byte);
    let is_socket = host.starts_with("unix:/");
    if host.is_empty()
        || !host.bytes().all(plain)
        || host.starts_with(':')
        || (host.contains('/') && !is_socket)
    {
        return trap(format!("dispatch failed: tcp socket - bad argument: {host:?}"));
    }
    for name in [":method", ":path"] {
        if headers.get(name).is_none() {
            return trap(format!("dispatch failed: no {name}"));
        }
    }
    check_values("the callout", &headers);
    let stream = match (state.current, state.step) {
        (ROOT, Step::Tick) => {
            if state.callouts.iter().any(|callout| callout.stream.is_none() && !callout.answered) {
                return trap(
                    "a second callout of the timer: the first one's connection is never given back",
                );
            }
            None
        }
        (ROOT, _) => {
            return trap(
                "a callout of the root context outside of a tick: its connection is never given back",
            );
        }
        (id, Step::RequestHeaders | Step::RequestBody) => {
            let call = current(state)?;
            if std::mem::replace(&mut call.called_out, true) {
                return trap("a second callout of one call: both share one list of buffers");
            }
            Some(id)
        }
        _ => return trap("can only send HTTP dispatch during request steps and \"on_tick\""),
    };
    let id = (state.forgotten + state.callouts.len()) as u32 + 1;
    let mut headers = headers;
    headers.replace("content-length", body.len().to_string().as_bytes());
    headers.add("connection", b"close");
    state.callouts.push(Callout {
        id,
        cluster: host,
        headers,
        body,
        timeout: (timeout > 0).then(|| Duration::from_millis(timeout.into())),
        sent_at: state.now,
        stream,
        answered: false,
    });
    Ok(id)
}
