//! The host functions of Proxy-Wasm ABI 0.2.1, as far as Envoy's HTTP filters need them.

use std::time::Duration;

use wasmtime::{AsContextMut, Caller, Linker, Memory, Result, format_err};

use crate::callout::Callout;
use crate::headers::Headers;
use crate::message::check_values;
use crate::stream::{self, Direction, LocalReply, Stream};
use crate::vm::{Deferred, LogLine, ROOT, State, Tick};

/// What a host function returns where it does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is no such thing.
    NotFound = 1,
    /// The arguments, or the moment, are wrong.
    BadArgument = 2,
    /// A header list could not be read.
    ParseFailure = 4,
    /// Somebody else changed the value meanwhile.
    CasMismatch = 8,
    /// It could not be done.
    InternalFailure = 10,
}

/// Why a host function ends without success: a status for the module, or a trap.
pub(crate) enum Fault {
    Status(Status),
    Trap(wasmtime::Error),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

type Outcome = std::result::Result<(), Fault>;

/// The module's memory and the VM's state, seen from inside a host function.
pub(crate) struct Guest<'a> {
    caller: Caller<'a, State>,
    memory: Memory,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(caller: Caller<'a, State>) -> Result<Self> {
        let memory = caller.data().memory;
        let memory = memory.ok_or_else(|| format_err!("the module exports no memory"))?;
        Ok(Self { caller, memory })
    }

    pub(crate) fn state(&mut self) -> &mut State {
        self.caller.data_mut()
    }

    /// Copies bytes out of the VM.
    pub(crate) fn read(&mut self, at: u32, size: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size as usize];
        self.memory.read(&self.caller, at as usize, &mut bytes)?;
        self.state().usage.bytes_out += u64::from(size);
        Ok(bytes)
    }

    pub(crate) fn text(&mut self, at: u32, size: u32) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(at, size)?).into_owned())
    }

    pub(crate) fn headers(&mut self, at: u32, size: u32) -> std::result::Result<Headers, Fault> {
        let bytes = self.read(at, size)?;
        Ok(Headers::from_guest(&bytes).ok_or(Status::ParseFailure)?)
    }

    pub(crate) fn word(&mut self, at: u32) -> Result<u32> {
        let mut word = [0; 4];
        self.memory.read(&self.caller, at as usize, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Writes to a place that the module named.
    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<()> {
        Ok(self.memory.write(&mut self.caller, at as usize, bytes)?)
    }

    pub(crate) fn give_word(&mut self, at: u32, word: u32) -> Outcome {
        Ok(self.write(at, &word.to_le_bytes())?)
    }

    /// Copies bytes into memory that the module allocates for them.
    pub(crate) fn give(&mut self, bytes: &[u8], at_pointer: u32, at_size: u32) -> Outcome {
        let pointer = self.give_place(bytes.len(), at_pointer, at_size)?;
        if !bytes.is_empty() {
            self.write(pointer, bytes)?;
            self.state().usage.bytes_in += bytes.len() as u64;
        }
        Ok(())
    }

    /// Has the module allocate memory for so many bytes.
    pub(crate) fn give_place(
        &mut self,
        size: usize,
        at_pointer: u32,
        at_size: u32,
    ) -> std::result::Result<u32, Fault> {
        let mut pointer = 0;
        if size > 0 {
            let instance = self.caller.data().instance;
            let instance = instance.ok_or_else(|| format_err!("called before instantiation"))?;
            let allocate = ["proxy_on_memory_allocate", "malloc"]
                .into_iter()
                .find_map(|name| instance.get_typed_func::<u32, u32>(&mut self.caller, name).ok())
                .ok_or_else(|| format_err!("the module exports no allocator"))?;
            pointer = allocate.call(&mut self.caller, size as u32)?;
        }
        self.give_word(at_pointer, pointer)?;
        self.give_word(at_size, size as u32)?;
        Ok(pointer)
    }
}

pub(crate) fn run(body: impl FnOnce() -> Outcome) -> Outcome {
    body()
}

/// Registers one function: counts the call and turns its outcome into a status.
macro_rules! imports {
    ($linker:expr; $($name:literal |$guest:ident $(, $arg:ident : $type:ty)*| $body:block)+) => {
        $($linker.func_wrap(
            "env",
            $name,
            |caller: Caller<'_, State> $(, $arg: $type)*| -> Result<u32> {
                let mut guest = Guest::new(caller)?;
                *guest.state().usage.host_calls.entry($name).or_default() += 1;
                let $guest = &mut guest;
                match run(|| $body) {
                    Ok(()) => Ok(0),
                    Err(Fault::Status(status)) => Ok(status as u32),
                    Err(Fault::Trap(error)) => Err(error),
                }
            },
        )?;)+
    };
}
pub(crate) use imports;

/// Registers every function.
pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    link_environment(linker)?;
    link_messages(linker)?;
    link_calls(linker)
}

/// Logs, time, metrics, shared data, properties.
fn link_environment(linker: &mut Linker<State>) -> Result<()> {
    imports! { linker;
        "proxy_log" |guest, level: u32, at: u32, size: u32| {
            let text = guest.text(at, size)?;
            guest.state().logs.push(LogLine { level, text });
            Ok(())
        }
        "proxy_get_log_level" |guest, at: u32| {
            let level = guest.state().settings.log_level;
            guest.give_word(at, level)
        }
        "proxy_get_current_time_nanoseconds" |guest, at: u32| {
            let state = guest.state();
            let now = (state.settings.epoch + state.now).as_nanos() as u64;
            Ok(guest.write(at, &now.to_le_bytes())?)
        }
        "proxy_set_tick_period_milliseconds" |guest, period: u32| {
            let state = guest.state();
            let period = Duration::from_millis(period.into());
            state.tick = (!period.is_zero()).then(|| Tick { period, due: state.now + period });
            Ok(())
        }
        "proxy_define_metric" |guest, kind: u32, at: u32, size: u32, at_id: u32| {
            let name = guest.text(at, size)?;
            let id = guest.state().metrics.define(kind, name)?;
            guest.give_word(at_id, id)
        }
        "proxy_increment_metric" |guest, id: u32, offset: i64| {
            Ok(guest.state().metrics.increment(id, offset)?)
        }
        "proxy_record_metric" |guest, id: u32, value: u64| {
            Ok(guest.state().metrics.record(id, value)?)
        }
        "proxy_get_metric" |guest, id: u32, at: u32| {
            let value = guest.state().metrics.get(id)?;
            Ok(guest.write(at, &value.to_le_bytes())?)
        }
        "proxy_get_shared_data" |guest, at: u32, size: u32, at_value: u32, at_size: u32, at_cas: u32| {
            let key = guest.read(at, size)?;
            let entry = guest.state().settings.shared_data.get(&key);
            let (value, cas) = entry.ok_or(Status::NotFound)?;
            guest.give(&value, at_value, at_size)?;
            guest.give_word(at_cas, cas)
        }
        "proxy_set_shared_data" |guest, at: u32, size: u32, value: u32, value_size: u32, cas: u32| {
            let (key, value) = (guest.read(at, size)?, guest.read(value, value_size)?);
            Ok(guest.state().settings.shared_data.set(key, value, cas)?)
        }
        "proxy_get_property" |guest, at: u32, size: u32, at_value: u32, at_size: u32| {
            let path = guest.text(at, size)?.replace('\0', ".");
            let value = property(guest.state(), &path).ok_or(Status::NotFound)?;
            guest.give(&value, at_value, at_size)
        }
        "proxy_set_property" |guest, at: u32, size: u32, value: u32, value_size: u32| {
            let (path, value) = (guest.text(at, size)?, guest.read(value, value_size)?);
            let stream = current(guest.state())?;
            stream.filter_state.insert(path, value);
            Ok(())
        }
        "proxy_call_foreign_function" |_guest, _name: u32, _size: u32, _arguments: u32, _arguments_size: u32, _at: u32, _at_size: u32| {
            Err(Status::NotFound.into())
        }
    }
    Ok(())
}

/// Bodies, headers and trailers.
fn link_messages(linker: &mut Linker<State>) -> Result<()> {
    imports! { linker;
        "proxy_get_buffer_bytes" |guest, buffer: u32, start: u32, size: u32, at: u32, at_size: u32| {
            let bytes = {
                let bytes = buffer_bytes(guest.state(), buffer)?;
                let start = (start as usize).min(bytes.len());
                let end = start.saturating_add(size as usize).min(bytes.len());
                bytes[start..end].to_vec()
            };
            guest.give(&bytes, at, at_size)
        }
        "proxy_get_buffer_status" |guest, buffer: u32, at_size: u32, at_flags: u32| {
            let size = buffer_bytes(guest.state(), buffer)?.len() as u32;
            guest.give_word(at_size, size)?;
            guest.give_word(at_flags, 0)
        }
        "proxy_set_buffer_bytes" |guest, buffer: u32, start: u32, size: u32, at: u32, at_size: u32| {
            let bytes = guest.read(at, at_size)?;
            let direction = match buffer {
                0 => Direction::Request,
                1 => Direction::Response,
                _ => return Err(Status::BadArgument.into()),
            };
            let state = guest.state();
            let id = state.context();
            let body = current(state)?.flow_mut(direction).body_mut();
            let body = body.ok_or(Status::BadArgument)?;
            if start == 0 && size == 0 {
                body.splice(..0, bytes);
            } else if start == 0 && size as usize >= body.len() {
                *body = bytes;
            } else if start as usize >= body.len() {
                body.extend(bytes);
            } else {
                return Err(Status::BadArgument.into());
            }
            stream::body_replaced(&mut guest.caller.as_context_mut(), id, direction);
            Ok(())
        }
        "proxy_get_header_map_pairs" |guest, map: u32, at: u32, at_size: u32| {
            let pairs = map_read(guest.state(), map)?.to_guest();
            guest.give(&pairs, at, at_size)
        }
        "proxy_set_header_map_pairs" |guest, map: u32, at: u32, size: u32| {
            let pairs = guest.headers(at, size)?;
            *map_mut(guest.state(), map)? = pairs;
            Ok(())
        }
        "proxy_get_header_map_size" |guest, map: u32, at: u32| {
            let size = map_read(guest.state(), map)?.to_guest().len() as u32;
            guest.give_word(at, size)
        }
        "proxy_get_header_map_value" |guest, map: u32, name: u32, size: u32, at: u32, at_size: u32| {
            let name = guest.text(name, size)?;
            let value = map_read(guest.state(), map)?.bytes(&name).ok_or(Status::NotFound)?.to_vec();
            guest.give(&value, at, at_size)
        }
        "proxy_add_header_map_value" |guest, map: u32, name: u32, size: u32, at: u32, at_size: u32| {
            let (name, value) = (guest.text(name, size)?, guest.read(at, at_size)?);
            map_mut(guest.state(), map)?.add(&name, &value);
            Ok(())
        }
        "proxy_replace_header_map_value" |guest, map: u32, name: u32, size: u32, at: u32, at_size: u32| {
            let (name, value) = (guest.text(name, size)?, guest.read(at, at_size)?);
            map_mut(guest.state(), map)?.replace(&name, &value);
            Ok(())
        }
        "proxy_remove_header_map_value" |guest, map: u32, name: u32, size: u32| {
            let name = guest.text(name, size)?;
            map_mut(guest.state(), map)?.remove(&name);
            Ok(())
        }
    }
    Ok(())
}

/// Streams and callouts.
fn link_calls(linker: &mut Linker<State>) -> Result<()> {
    imports! { linker;
        "proxy_continue_stream" |guest, kind: u32| {
            let direction = match kind {
                0 => Direction::Request,
                1 => Direction::Response,
                _ => return Err(Status::BadArgument.into()),
            };
            let state = guest.state();
            let id = state.context();
            // The request's headers are out of reach at once, whichever side goes on.
            current(state)?.request.let_go();
            state.deferred.push(Deferred::Continue(id, direction));
            Ok(())
        }
        "proxy_close_stream" |guest, _kind: u32| {
            let state = guest.state();
            let id = state.context();
            current(state)?;
            state.deferred.push(Deferred::Close(id));
            Ok(())
        }
        "proxy_send_local_response" |guest, status: u32, details: u32, details_size: u32, body: u32, body_size: u32, headers: u32, headers_size: u32, _grpc_status: i32| {
            let reply = LocalReply {
                status: status as u16,
                details: guest.text(details, details_size)?.replace(' ', "_"),
                body: guest.read(body, body_size)?,
                headers: guest.headers(headers, headers_size)?,
            };
            let state = guest.state();
            let id = state.context();
            current(state)?;
            // Of several answers given in one call, the last one is sent.
            state.deferred.retain(|action| !matches!(action, Deferred::LocalReply(of, _) if *of == id));
            state.deferred.push(Deferred::LocalReply(id, reply));
            Ok(())
        }
        "proxy_http_call" |guest, cluster: u32, cluster_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32, trailers: u32, trailers_size: u32, timeout: u32, at_id: u32| {
            let cluster = guest.text(cluster, cluster_size)?;
            let headers = guest.headers(headers, headers_size)?;
            let body = guest.read(body, body_size)?;
            guest.headers(trailers, trailers_size)?;
            let id = http_call(guest.state(), cluster, headers, body, timeout)?;
            guest.give_word(at_id, id)
        }
        "proxy_set_effective_context" |guest, id: u32| {
            if !guest.state().exists(id) {
                return Err(Status::BadArgument.into());
            }
            guest.state().effective = id;
            Ok(())
        }
        "proxy_done" |guest| {
            let state = guest.state();
            let id = state.context();
            if !current(state)?.lingering {
                return Err(Status::NotFound.into());
            }
            state.deferred.push(Deferred::Delete(id));
            Ok(())
        }
    }
    Ok(())
}

/// The stream that the running call acts upon.
fn current(state: &mut State) -> std::result::Result<&mut Stream, Status> {
    let id = state.context();
    let stream = state.streams.get_mut(&id).filter(|stream| !stream.deleted);
    stream.ok_or(Status::NotFound)
}

fn buffer_bytes(state: &mut State, buffer: u32) -> std::result::Result<&[u8], Status> {
    match buffer {
        0 | 1 if !state.settings.shows_bodies => Err(Status::NotFound),
        0 | 1 => {
            let direction = [Direction::Request, Direction::Response][buffer as usize];
            let flow = current(state).map_err(|_| Status::BadArgument)?.flow_mut(direction);
            Ok(flow.body_mut().map_or(&[], |body| body.as_slice()))
        }
        4 => state.answer.as_ref().map(|(_, body)| body.as_slice()).ok_or(Status::NotFound),
        6 => Ok(state.settings.vm_configuration.as_bytes()),
        7 => Ok(state.settings.configuration.as_bytes()),
        _ => Err(Status::NotFound),
    }
}

fn map_read(state: &mut State, map: u32) -> std::result::Result<&Headers, Status> {
    if map == 6 {
        let answer = state.answer.as_ref();
        return answer.map(|(headers, _)| headers).ok_or(Status::BadArgument);
    }
    let stream = current(state).map_err(|_| Status::BadArgument)?;
    if !stream.logging {
        return held(stream, map).map(|headers| &*headers);
    }
    // The access log sees the headers of messages that have long gone.
    let flow = match map {
        0 => &stream.request,
        2 => &stream.response,
        _ => return Err(Status::BadArgument),
    };
    flow.headers.as_ref().ok_or(Status::BadArgument)
}

fn map_mut(state: &mut State, map: u32) -> std::result::Result<&mut Headers, Status> {
    held(current(state).map_err(|_| Status::BadArgument)?, map)
}

fn held(stream: &mut Stream, map: u32) -> std::result::Result<&mut Headers, Status> {
    let headers = match map {
        0 => stream.request.headers_held(),
        1 => stream.request.trailers_held(),
        2 => stream.response.headers_held(),
        3 => stream.response.trailers_held(),
        _ => None,
    };
    headers.ok_or(Status::BadArgument)
}

fn property(state: &mut State, path: &str) -> Option<Vec<u8>> {
    let plugin = match path {
        "plugin_name" => Some(&state.settings.plugin_name),
        _ => None,
    };
    if let Some(value) = plugin {
        return Some(value.clone().into_bytes());
    }
    let set = state.settings.properties.get(path).cloned();
    let stream = current(state).ok()?;
    match path {
        "response.code_details" => stream.code_details.clone().map(String::into_bytes),
        _ => stream.filter_state.get(path).cloned().or(set),
    }
}

fn http_call(
    state: &mut State,
    cluster: String,
    headers: Headers,
    body: Vec<u8>,
    timeout: u32,
) -> std::result::Result<u32, Status> {
    let healthy = *state.settings.clusters.get(&cluster).ok_or(Status::BadArgument)?;
    if [":path", ":method", ":authority"].iter().any(|name| headers.get(name).is_none()) {
        return Err(Status::BadArgument);
    }
    if !healthy {
        return Err(Status::InternalFailure);
    }
    check_values("the callout", &headers);
    let id = (state.forgotten + state.callouts.len()) as u32 + 1;
    let context = state.context();
    let mut headers = headers;
    if !body.is_empty() {
        headers.replace("content-length", body.len().to_string().as_bytes());
    }
    state.callouts.push(Callout {
        id,
        cluster,
        headers,
        body,
        timeout: (timeout > 0).then(|| Duration::from_millis(timeout.into())),
        sent_at: state.now,
        stream: (context != ROOT).then_some(context),
        answered: false,
    });
    Ok(id)
}
