//! The protocol's messages.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::Error;

/// Reads the body of a call. What the protocol does not name is ignored.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    let Ok(json) = std::str::from_utf8(body) else {
        return Err(Error::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"));
    };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let message = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        // Where the text is no JSON the path leads nowhere.
        let known = error.inner().is_data() && path != ".";
        Error {
            status: StatusCode::BAD_REQUEST,
            message: error.inner().to_string(),
            path: known.then_some(path),
        }
    })?;
    deserializer.end().map_err(|error| Error::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(message)
}

/// What has to be an object, as the text it is.
pub struct Object<'a>(pub &'a RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'a>, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?;
        if value.get().starts_with('{') {
            Ok(Object(value))
        } else {
            Err(serde::de::Error::custom("expected an object"))
        }
    }
}

/// A value of metadata.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, a number, a boolean or null")]
pub enum Scalar {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Number(value) => value.fmt(f),
            Scalar::Text(value) => value.fmt(f),
        }
    }
}

/// Who calls, and for what: scalars by name.
#[derive(Default, Deserialize)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<String, Scalar>);

impl Metadata {
    /// Whose answers may be served. None is a scope of its own: the one that all share.
    pub fn cache_scope(&self) -> Option<String> {
        match self.0.get("cacheScope") {
            None | Some(Scalar::Null) => None,
            Some(scope) => Some(scope.to_string()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OptimizeCall<'a> {
    pub endpoint: String,
    #[serde(borrow)]
    pub request: Object<'a>,
    pub metadata: Option<Metadata>,
    pub capabilities: Option<Capabilities>,
    pub enabled_kinds: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    #[serde(default)]
    pub can_short_circuit: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptimizeAnswer<'a> {
    pub protocol_version: u8,
    pub optimization_id: String,
    pub request: &'a RawValue,
    pub decisions: Vec<Decision>,
    pub estimated_tokens_saved: u64,
    pub cache_hit: bool,
    pub cache_eligible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_response: Option<&'a RawValue>,
    pub suppressed_kinds: Vec<SuppressedKind>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    pub kind: &'static str,
    pub summary: String,
    pub applied: bool,
    pub estimated_tokens_saved: u64,
}

#[derive(Serialize)]
pub struct SuppressedKind {
    pub kind: &'static str,
    pub reason: &'static str,
}

#[derive(Deserialize)]
pub struct OptimizeResponseCall<'a> {
    pub endpoint: String,
    #[serde(borrow)]
    pub response: Object<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptimizeResponseAnswer<'a> {
    pub protocol_version: u8,
    pub response: &'a RawValue,
    pub decisions: Vec<Decision>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheCall<'a> {
    pub cache_key: String,
    #[serde(borrow)]
    pub response: Object<'a>,
    pub ttl_seconds: Option<u64>,
    pub metadata: Option<Metadata>,
}

#[derive(Deserialize)]
pub struct RetrieveCall {
    pub handle: String,
}

#[derive(Serialize)]
pub struct RetrieveAnswer<'a> {
    pub content: &'a str,
}
