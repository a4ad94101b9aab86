//! What one call to an LLM endpoint is, read from its head and its body.

use bytes::Bytes;

use crate::bypass::Bypass;
use crate::caller::Caller;
use crate::callout::Trace;
use crate::config::DecisionsHeader;
use crate::dialect::Dialect;
use crate::event::RequestHead;
use crate::headers::is_header_value;
use crate::json::{self, Kind, Object};
use crate::plan::Plan;
use crate::stream;

/// A longer `model`, in bytes, is no name: records leave it out.
const MAX_MODEL_BYTES: usize = 256;

/// Headers of a call that its callouts carry on.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

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
    /// The one length that its headers tell of its body.
    pub(crate) length: Option<u64>,
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
    pub(crate) fn new(
        plan: &Plan,
        dialect: Dialect,
        head: RequestHead<'_>,
        is_llm_call: bool,
    ) -> Self {
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
        Self {
            dialect,
            caller: Caller::new(plan, dialect, head),
            trace,
            upstream: head.upstream.map(<[u8]>::to_vec),
            provable: plan.proves() && is_llm_call && !head.truncated,
            is_llm_call,
            model: None,
            wants_decisions: match plan.decisions_header {
                DecisionsHeader::Always => true,
                DecisionsHeader::OnRequest => headers.get("x-anyray-test") == Some(b"1"),
                DecisionsHeader::Never => false,
            },
            has_content_length: headers.has("content-length"),
            length: headers.content_length(),
            no_cache: headers.cache_control("no-cache"),
            no_store: headers.cache_control("no-store"),
            body: BodyFacts::default(),
        }
    }

    /// Reads the body's facts; its members must be those of this call.
    pub(crate) fn read_body(&mut self, body: &Object<'_, [u8]>) {
        let set = |name| {
            body.get(name).is_some_and(|value| json::kind(value) != Kind::Null && value != b"false")
        };
        let is_name =
            |model: &&str| json::kind(model) == Kind::String && model.len() <= MAX_MODEL_BYTES;
        self.model = body.text_of("model").filter(is_name).map(Into::into);
        let options = body.get("stream_options").map(Object::parse);
        self.body = BodyFacts {
            stream: body.get("stream") == Some(b"true"),
            include_usage: options.is_some_and(|options| {
                options.is_ok_and(|options| options.get("include_usage") == Some("true"))
            }),
            // A replayed id would point at state that the provider keeps, or does not.
            stateful: self.dialect == Dialect::OpenAiResponses
                && (["background", "previous_response_id", "conversation"].into_iter().any(set)
                    || body.get("store") != Some(b"false")),
        };
    }

    /// The client asked for a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.body.stream
    }

    /// How long the stream of [`Call::replay`] is.
    pub(crate) fn replay_length(&self, answer: &[u8]) -> Option<usize> {
        let object = Object::parse(answer).ok()?;
        stream::replay_length(self.dialect, &object, self.body.include_usage)
    }

    /// `answer`, one JSON document, as the stream that the client asked for, `length` bytes.
    pub(crate) fn replay(&self, answer: &[u8], length: usize) -> Option<Bytes> {
        let object = Object::parse(answer).ok()?;
        let include_usage = self.body.include_usage;
        stream::replay_of(self.dialect, &object, include_usage, length).map(Bytes::from)
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
