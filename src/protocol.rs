//! Optimizer Protocol v1 on the wire: the envelopes we send and the answers we
//! understand. Client and provider bytes go into an envelope as they are.

use std::borrow::Cow;

use bytes::Bytes;

use crate::bypass::Bypass;
use crate::dialect::Dialect;
use crate::json::{self, JsonError, Kind, Object, ObjectWriter, Unjoined};
use crate::roomy::Roomy;

/// Longer keys and ids than this, in bytes, are none: they would be kept for as long as the call takes.
const MAX_NAME_BYTES: usize = 4 * 1024;
/// Longer lists of decisions than this, in bytes, are only counted.
const MAX_LIST_BYTES: usize = 16 * 1024;

/// The body of `POST /v1/optimize`.
///
/// Also returns the request by itself, in the same memory.
pub(crate) fn optimize(
    dialect: Dialect,
    request: Roomy,
    metadata: &[u8],
    can_short_circuit: bool,
) -> (Bytes, Bytes) {
    let before = [r#"{"endpoint":""#, dialect.endpoint(), r#"","request":"#].concat();
    let capabilities: &[u8] = if can_short_circuit {
        br#","capabilities":{"canShortCircuit":true}}"#
    } else {
        br#","capabilities":{"canShortCircuit":false}}"#
    };
    request.between(before.as_bytes(), &[br#","metadata":"#, metadata, capabilities])
}

/// The body of `POST /v1/optimize-response`.
pub(crate) fn optimize_response(
    dialect: Dialect,
    request: &[u8],
    response: &[u8],
    metadata: &[u8],
) -> Vec<u8> {
    envelope(&[
        ("endpoint", quoted(dialect).as_bytes()),
        ("request", request),
        ("response", response),
        ("metadata", metadata),
    ])
}

/// The body of `POST /v1/cache`. `cache_key` is JSON, as the optimizer gave it.
pub(crate) fn cache(
    cache_key: &str,
    request: Bytes,
    response: Bytes,
    ttl_seconds: Option<u64>,
    metadata: &[u8],
) -> Unjoined {
    let mut out = ObjectWriter::default();
    out.raw("cacheKey", cache_key).shared("request", request).shared("response", response);
    if let Some(seconds) = ttl_seconds {
        out.number("ttlSeconds", seconds);
    }
    out.raw("metadata", metadata).finish_unjoined()
}

fn quoted(dialect: Dialect) -> String {
    ["\"", dialect.endpoint(), "\""].concat()
}

fn envelope(members: &[(&str, &[u8])]) -> Vec<u8> {
    let size = members.iter().fold(64_usize, |size, (name, value)| {
        size.saturating_add(name.len()).saturating_add(value.len())
    });
    let mut object = ObjectWriter::with_capacity(size);
    for (name, value) in members {
        object.raw(name, value);
    }
    object.finish()
}

/// An answer of the optimizer. Members that are missing, null or of an
/// unexpected type count as not there: builds differ in what they send.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    members: Object<'a, [u8]>,
    transformed: Option<Result<Object<'a, [u8]>, JsonError>>,
}

impl<'a> Answer<'a> {
    /// Reads an answer whose member `transformed` is to be a version of `original`.
    ///
    /// # Errors
    /// `AnswerNotJson` or `AnswerWrongShape`.
    pub(crate) fn parse(
        body: &'a [u8],
        transformed: &str,
        original: Option<&Object<'_, [u8]>>,
    ) -> Result<Self, Bypass> {
        match Object::parse_with_inner(body, transformed, original) {
            Ok((members, transformed)) => Ok(Self { members, transformed }),
            Err(JsonError::NotJson) => Err(Bypass::AnswerNotJson),
            Err(_) => Err(Bypass::AnswerWrongShape),
        }
    }

    fn typed(&self, name: &str, expected: Kind) -> Option<&'a str> {
        self.members.text_of(name).filter(|value| json::kind(value) == expected)
    }

    /// The transformed request or response.
    ///
    /// # Errors
    /// Why there is none that could be applied.
    pub(crate) fn transformed(&self) -> Result<&Object<'a, [u8]>, Bypass> {
        match &self.transformed {
            Some(Ok(transformed)) => Ok(transformed),
            Some(Err(JsonError::NotJson)) => Err(Bypass::AnswerNotJson),
            Some(Err(JsonError::DuplicateMember)) => Err(Bypass::TransformDuplicateMember),
            Some(Err(_)) | None => Err(Bypass::AnswerWrongShape),
        }
    }

    /// `cachedResponse` of a hit, if it is something that can be served.
    pub(crate) fn hit(&self) -> Option<&'a str> {
        let hit = self.members.get("cacheHit") == Some(b"true");
        let body = self.typed("cachedResponse", Kind::Object).filter(|_| hit)?;
        let object = Object::parse(body.as_bytes()).ok()?;
        (!object.members().is_empty() && !has_error(&object)).then_some(body)
    }

    /// `cacheKey` as JSON, where the optimizer wants the answer written back.
    pub(crate) fn cache_key(&self) -> Option<&'a str> {
        let eligible = self.members.get("cacheEligible") == Some(b"true");
        let usable = |key: &&str| eligible && *key != "\"\"" && key.len() <= MAX_NAME_BYTES;
        self.typed("cacheKey", Kind::String).filter(usable)
    }

    /// `decisions` as JSON.
    pub(crate) fn decisions(&self) -> Option<&'a str> {
        self.typed("decisions", Kind::Array).filter(|list| !json::is_empty(list))
    }

    /// `optimizationId` as JSON.
    pub(crate) fn optimization_id(&self) -> Option<&'a str> {
        self.typed("optimizationId", Kind::String).filter(|id| id.len() <= MAX_NAME_BYTES)
    }

    /// `suppressedKinds` as JSON.
    pub(crate) fn suppressed_kinds(&self) -> Option<&'a str> {
        self.typed("suppressedKinds", Kind::Array)
    }

    /// Whether a list is short enough to be kept.
    pub(crate) fn keeps(list: &str) -> bool {
        list.len() <= MAX_LIST_BYTES
    }

    /// `estimatedTokensSaved`, rounded down; 0 where it cannot be a count.
    pub(crate) fn tokens_saved(&self) -> u64 {
        let estimate = self.typed("estimatedTokensSaved", Kind::Number);
        let estimate = estimate.and_then(|number| number.parse::<f64>().ok());
        // No context window holds more; a cast takes negatives to 0.
        estimate.filter(|&tokens| tokens <= f64::from(u32::MAX)).unwrap_or(0.0) as u64
    }
}

/// What came of an answer, `spliced` or a part of it, without a copy of that part.
pub(crate) fn shared(answer: &Bytes, spliced: Cow<'_, [u8]>) -> Bytes {
    match spliced {
        Cow::Borrowed(part) => answer.slice_ref(part),
        Cow::Owned(bytes) => bytes.into(),
    }
}

/// Whether a provider-shaped body reports an error. OpenAI's responses carry
/// `"error": null` where there is none.
pub(crate) fn has_error(body: &Object<'_>) -> bool {
    body.get("error").is_some_and(|error| json::kind(error) != Kind::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parse(body: &[u8]) -> Result<Answer<'_>, Bypass> {
        Answer::parse(body, "request", None)
    }

    #[test]
    fn envelopes_carry_bytes_as_they_are() {
        let request = Bytes::from_static(br#" {"n":1.0e0,"x":"\u00e9"} "#);
        let (envelope, body) = optimize(Dialect::OpenAiChat, (&*request).into(), b"{}", true);
        assert_eq!(body, request);
        assert_eq!(
            envelope,
            r#"{"endpoint":"/v1/chat/completions","request": {"n":1.0e0,"x":"\u00e9"} ,"metadata":{},"capabilities":{"canShortCircuit":true}}"#
        );
        assert_eq!(
            String::from_utf8(cache(r#""k""#, "{}".into(), "{}".into(), Some(60), b"{}").join())
                .unwrap(),
            r#"{"cacheKey":"k","request":{},"response":{},"ttlSeconds":60,"metadata":{}}"#
        );
        assert_eq!(
            String::from_utf8(optimize_response(Dialect::AnthropicMessages, b"1", b"2", b"3"))
                .unwrap(),
            r#"{"endpoint":"/v1/messages","request":1,"response":2,"metadata":3}"#
        );
    }

    #[test]
    fn answers_are_read_leniently() {
        let odd = br#"{"request":[],"cacheHit":"true","cachedResponse":{"a":1},"cacheKey":5,
            "decisions":{},"estimatedTokensSaved":"9","response":null}"#;
        let answer = parse(odd).unwrap();
        assert_eq!(answer.transformed().err(), Some(Bypass::AnswerWrongShape));
        assert!(answer.hit().is_none() && answer.cache_key().is_none());
        assert!(answer.decisions().is_none());
        assert_eq!(answer.tokens_saved(), 0);
        assert_eq!(parse(b"<html>").err(), Some(Bypass::AnswerNotJson));
        assert_eq!(parse(b"[]").err(), Some(Bypass::AnswerWrongShape));
        assert_eq!(parse(br#"{"a":1,"a":1}"#).err(), Some(Bypass::AnswerWrongShape));
    }

    #[test]
    fn hits_need_a_usable_body() {
        let hit = |body: &str| {
            let text = format!(r#"{{"cacheHit":true,"cachedResponse":{body}}}"#);
            parse(text.as_bytes()).unwrap().hit().map(str::to_owned)
        };
        assert_eq!(hit(r#"{"id":1,"error":null}"#).unwrap(), r#"{"id":1,"error":null}"#);
        for bad in ["null", "[]", "\"x\"", "{}", r#"{"error":{"m":1}}"#, r#"{"a":1,"a":2}"#] {
            assert_eq!(hit(bad), None, "{bad}");
        }
        let answer = br#"{"cacheHit":false,"cachedResponse":{"a":1},"cacheEligible":true,
            "cacheKey":"k","estimatedTokensSaved":12.7}"#;
        let answer = parse(answer).unwrap();
        assert!(answer.hit().is_none());
        assert_eq!(answer.cache_key(), Some("\"k\""));
        assert_eq!(answer.tokens_saved(), 12);
        for (estimate, tokens) in [("-3", 0), ("1e300", 0), ("2e3", 2000)] {
            let text = format!(r#"{{"estimatedTokensSaved":{estimate}}}"#);
            assert_eq!(parse(text.as_bytes()).unwrap().tokens_saved(), tokens);
        }
        assert!(parse(br#"{"cacheKey":"k"}"#).unwrap().cache_key().is_none());
    }
}
