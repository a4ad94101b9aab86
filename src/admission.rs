//! Whether a message may be read and held at all, told from its head.

use crate::bypass::Bypass;
use crate::event::{RequestHead, ResponseHead};
use crate::headers::Headers;
use crate::json::JsonError;
use crate::plan::Plan;

/// Headers that sign a body or vouch for its bytes.
pub(crate) const DIGESTS: [&str; 4] = ["content-digest", "digest", "content-md5", "repr-digest"];

/// In which form an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Stream,
}

/// Whether a request is a call at all: a `POST` with a JSON content type.
pub(crate) fn is_llm_call(headers: Headers<'_>) -> Result<(), Bypass> {
    if headers.get(":method") != Some(b"POST") {
        return Err(Bypass::Method);
    }
    if !headers.is_json() {
        return Err(Bypass::RequestContentType);
    }
    Ok(())
}

/// Whether the hooks may look at this LLM call at all, and up to how many bytes
/// it is held. `length`: of its body, as far as its headers tell.
pub(crate) fn admit(
    plan: &Plan,
    head: RequestHead<'_>,
    length: Option<u64>,
) -> Result<usize, Bypass> {
    let headers = head.headers;
    if headers.all("x-anyray-optimize").any(|value| value.eq_ignore_ascii_case(b"off")) {
        return Err(Bypass::OptedOut);
    }
    if head.truncated {
        return Err(Bypass::RequestHeadersTruncated);
    }
    if headers.is_encoded() {
        return Err(Bypass::RequestEncoded);
    }
    let signed = |value: &[u8]| value.starts_with(b"AWS4-");
    if headers.all("authorization").any(signed) || DIGESTS.into_iter().any(|name| headers.has(name))
    {
        return Err(Bypass::RequestSigned);
    }
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

/// How far a body of `length` bytes may be held: a host with a limit of its own
/// answers 413 or 500 beyond it. Where the length is not known beforehand a margin
/// has to remain, because one callback can bring 1 MiB at once.
fn bound(limit: u64, plan: &Plan, length: Option<u64>) -> Result<usize, Unbounded> {
    const MARGIN: u64 = 2 * 1024 * 1024;
    const LEAST: u64 = 3 * 1024 * 1024;
    let host =
        if plan.can().limits_buffers { plan.limits.host_buffer_bytes.get() } else { u64::MAX };
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
/// `length`: of its body, as far as its headers tell.
pub(crate) fn readable(
    head: &ResponseHead<'_>,
    status: u16,
    length: Option<u64>,
) -> Result<Form, Bypass> {
    let headers = head.headers;
    if !head.from_provider {
        return Err(Bypass::ResponseNotFromProvider);
    }
    if !matches!(status, 200..=299) {
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
    if head.end_of_stream || length == Some(0) || status == 204 {
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
