//! What one call to an LLM endpoint is, read from its head and its body.

use bytes::Bytes;

use crate::adapter::Trace;
use crate::bypass::Bypass;
use crate::caller::Caller;
use crate::config::{DecisionsHeader, Serve};
use crate::dialect::Dialect;
use crate::event::{RequestHead, ResponseHead};
use crate::headers::{Headers, is_header_value};
use crate::json::{self, JsonError, Kind, Object};
use crate::plan::Plan;
use crate::reader::Form;
use crate::stream;

/// A longer `model`, in bytes, is no name: records leave it out.
const MAX_MODEL_BYTES: usize = 256;

/// Headers of a call that its callouts carry on.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

/// Headers that sign a body or vouch for its bytes.
pub(crate) const DIGESTS: [&str; 4] = ["content-digest", "digest", "content-md5", "repr-digest"];

/// One call, as far as its head tells.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) dialect: Dialect,
    pub(crate) caller: Caller,
    pub(crate) trace: Trace,
    /// The host's name for the provider, as the request was routed.
    pub(crate) upstream: Option<Vec<u8>>,
    /// A 2xx of the provider proves the caller's credentials.
    pub(crate) provable: bool,
    /// The client gets `x-anyray-optimization`.
    pub(crate) wants_decisions: bool,
    pub(crate) has_content_length: bool,
    /// A JSON `POST`, whatever else may be wrong with it.
    pub(crate) is_llm_call: bool,
    /// `model` of the request, as JSON.
    pub(crate) model: Option<String>,
    no_cache: bool,
    no_store: bool,
    body: BodyFacts,
}

/// One call, as far as its body tells.
#[derive(Clone, Copy, Debug, Default)]
struct BodyFacts {
    stream: bool,
    include_usage: bool,
    stateful: bool,
}

impl Call {
    pub(crate) fn new(plan: &Plan, dialect: Dialect, head: RequestHead<'_>) -> Self {
        let headers = head.headers;
        let trace = TRACE
            .into_iter()
            .filter_map(|name| {
                let value = headers.get(name)?.trim_ascii();
                if value.is_empty() || !is_header_value(value) {
                    return None;
                }
                Some((name, std::str::from_utf8(value).ok()?.to_owned()))
            })
            .collect();
        let is_llm_call = is_llm_call(headers).is_ok();
        Self {
            dialect,
            caller: Caller::new(plan, dialect, head),
            trace,
            upstream: head.upstream.map(<[u8]>::to_vec),
            provable: plan.serve == Serve::Proven
                && plan.hooks.cache
                && plan.hooks.request
                && is_llm_call,
            is_llm_call,
            model: None,
            wants_decisions: match plan.decisions_header {
                DecisionsHeader::Always => true,
                DecisionsHeader::OnRequest => headers.get("x-anyray-test") == Some(b"1"),
                DecisionsHeader::Never => false,
            },
            has_content_length: headers.has("content-length"),
            no_cache: headers.cache_control("no-cache"),
            no_store: headers.cache_control("no-store"),
            body: BodyFacts::default(),
        }
    }

    /// Reads the body's facts; its members must be those of this call.
    pub(crate) fn read_body(&mut self, body: &Object<'_>) {
        let set = |name| {
            body.get(name).is_some_and(|value| json::kind(value) != Kind::Null && value != "false")
        };
        let is_name =
            |model: &&str| json::kind(model) == Kind::String && model.len() <= MAX_MODEL_BYTES;
        self.model = body.get("model").filter(is_name).map(Into::into);
        let options = body.get("stream_options").map(str::as_bytes).map(Object::parse);
        self.body = BodyFacts {
            stream: body.get("stream") == Some("true"),
            include_usage: options.is_some_and(|options| {
                options.is_ok_and(|options| options.get("include_usage") == Some("true"))
            }),
            // A replayed id would point at state that the provider keeps, or does not.
            stateful: self.dialect == Dialect::OpenAiResponses
                && (["background", "previous_response_id", "conversation"].into_iter().any(set)
                    || body.get("store") != Some("false")),
        };
    }

    /// The client asked for a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.body.stream
    }

    /// `answer`, one JSON document, as the stream that the client asked for.
    pub(crate) fn replay(&self, answer: &[u8]) -> Option<Bytes> {
        let object = Object::parse(answer).ok()?;
        stream::replay(self.dialect, &object, self.body.include_usage).map(Bytes::from)
    }

    /// Whether the answer may be written to the cache.
    pub(crate) fn may_write(&self) -> Result<(), Bypass> {
        if self.no_store || self.body.stateful { Err(Bypass::NoStore) } else { Ok(()) }
    }

    /// Whether a hit may answer this call, leaving aside who calls.
    pub(crate) fn may_hit(&self) -> Result<(), Bypass> {
        if self.body.stateful {
            Err(Bypass::HitStateful)
        } else if self.no_cache || self.no_store {
            Err(Bypass::HitNoCache)
        } else if self.caller.ambiguous {
            Err(Bypass::HitAmbiguousCaller)
        } else {
            Ok(())
        }
    }
}

fn is_llm_call(headers: Headers<'_>) -> Result<(), Bypass> {
    if headers.get(":method") != Some(b"POST") {
        return Err(Bypass::Method);
    }
    if !headers.is_json() {
        return Err(Bypass::RequestContentType);
    }
    Ok(())
}

/// Whether the hooks may look at this request at all, and up to how many bytes
/// it is held.
pub(crate) fn admit(plan: &Plan, head: RequestHead<'_>) -> Result<usize, Bypass> {
    let headers = head.headers;
    is_llm_call(headers)?;
    if headers.all("x-anyray-optimize").any(|value| value.eq_ignore_ascii_case(b"off")) {
        return Err(Bypass::OptedOut);
    }
    if !plan.can().hold_request {
        return Err(Bypass::HostCannotHold);
    }
    if headers.is_encoded() {
        return Err(Bypass::RequestEncoded);
    }
    let signed = |value: &[u8]| value.starts_with(b"AWS4-");
    if headers.all("authorization").any(signed) || DIGESTS.into_iter().any(|name| headers.has(name))
    {
        return Err(Bypass::RequestSigned);
    }
    let length = headers.content_length();
    if head.end_of_stream || length == Some(0) {
        return Err(Bypass::RequestEmpty);
    }
    bound(plan.limits.request_bytes.get(), plan, length).map_err(|reason| match reason {
        Unbounded::TooLarge => Bypass::RequestTooLarge,
        Unbounded::OverHostBuffer => Bypass::RequestOverHostBuffer,
        Unbounded::LengthUnknown => Bypass::RequestLengthUnknown,
    })
}

/// Up to how many bytes an answer is held.
pub(crate) fn response_bound(plan: &Plan, length: Option<u64>) -> Result<usize, Bypass> {
    bound(plan.limits.response_bytes.get(), plan, length).map_err(|reason| match reason {
        Unbounded::TooLarge => Bypass::ResponseTooLarge,
        Unbounded::OverHostBuffer => Bypass::ResponseOverHostBuffer,
        Unbounded::LengthUnknown => Bypass::ResponseLengthUnknown,
    })
}

/// Why a body cannot be held.
enum Unbounded {
    TooLarge,
    OverHostBuffer,
    LengthUnknown,
}

/// How far a body of `length` bytes may be held: a host that buffers more than
/// it may answers 413 or 500. Where the length is not known beforehand a margin
/// has to remain, because one callback can bring 1 MiB at once.
fn bound(limit: u64, plan: &Plan, length: Option<u64>) -> Result<usize, Unbounded> {
    const MARGIN: u64 = 2 * 1024 * 1024;
    const LEAST: u64 = 3 * 1024 * 1024;
    let host = plan.limits.host_buffer_bytes.get();
    let bound = match length {
        Some(length) if length > limit => return Err(Unbounded::TooLarge),
        Some(length) if length > host => return Err(Unbounded::OverHostBuffer),
        Some(_) => limit.min(host),
        None if host < LEAST => return Err(Unbounded::LengthUnknown),
        None => limit.min(host.saturating_sub(MARGIN)),
    };
    Ok(usize::try_from(bound).unwrap_or(usize::MAX))
}

/// Whether an answer can be read at all, and in which form it comes.
pub(crate) fn readable(head: &ResponseHead<'_>) -> Result<Form, Bypass> {
    let headers = head.headers;
    if !head.from_provider {
        return Err(Bypass::ResponseNotFromProvider);
    }
    if !matches!(headers.status(), 200..=299) {
        return Err(Bypass::ResponseStatus);
    }
    let form = if headers.is_event_stream() {
        Form::Stream
    } else if headers.is_json() {
        Form::Json
    } else {
        return Err(Bypass::ResponseContentType);
    };
    if headers.is_encoded() {
        return Err(Bypass::ResponseEncoded);
    }
    if head.end_of_stream || headers.content_length() == Some(0) {
        return Err(Bypass::ResponseEmpty);
    }
    Ok(form)
}

/// The reason that follows from a request's body that cannot be spliced.
pub(crate) fn request_error(error: JsonError) -> Bypass {
    match error {
        JsonError::NotJson => Bypass::RequestNotJson,
        JsonError::NotObject => Bypass::RequestNotObject,
        JsonError::DuplicateMember => Bypass::RequestDuplicateMember,
        JsonError::TooManyMembers => Bypass::RequestTooManyMembers,
    }
}

/// The reason that follows from an answer's body that cannot be spliced.
pub(crate) fn response_error(error: JsonError) -> Bypass {
    match error {
        JsonError::NotJson => Bypass::ResponseNotJson,
        JsonError::NotObject => Bypass::ResponseNotObject,
        JsonError::DuplicateMember => Bypass::ResponseDuplicateMember,
        JsonError::TooManyMembers => Bypass::ResponseTooManyMembers,
    }
}
