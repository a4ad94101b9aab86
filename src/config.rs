//! The configuration as an operator writes it: strict, every error naming its path.
//!
//! These types are the one source of the JSON Schema and of Kong's
//! `optimizer.meta.json`.

mod reader;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use self::reader::Reader;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Configuration of the optimizer module.
#[derive(Clone, Debug, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the optimizer is.
    pub optimizer: Optimizer,
    /// Base URL of the provider, `https://api.example`, on hosts that do not route calls themselves (wasi-http); nowhere else.
    #[serde(default)]
    pub provider: Option<String>,
    /// The host that the module runs in; `auto` finds out.
    #[serde(default)]
    pub host: HostChoice,
    /// Which hooks run.
    #[serde(default)]
    pub hooks: Hooks,
    /// Path suffix to canonical endpoint, added to the five known ones; the longest match wins.
    #[serde(default)]
    pub endpoints: Named<Endpoint>,
    /// How much is held at most.
    #[serde(default)]
    pub limits: Limits,
    /// What holds on Kong only.
    #[serde(default)]
    pub kong: Kong,
    /// Who is answered from the cache, and what is written to it.
    #[serde(default)]
    pub cache: Cache,
    /// Trusted sources of attribution by name (`user`, `team`, `sessionId`, `intent`, `intentLabel`, …); they win over `x-anyray-metadata`.
    #[serde(default)]
    pub attribution: Named<Attribution>,
    /// When the optimizer is left alone because it keeps failing.
    #[serde(default)]
    pub breaker: Breaker,
    /// When the client gets `x-anyray-optimization`; `on_request`: with `x-anyray-test: 1`.
    #[serde(default)]
    pub decisions_header: DecisionsHeader,
    /// What records carry.
    #[serde(default)]
    pub record: Record,
}

/// Where the optimizer is.
#[derive(Clone, Debug, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Envoy: the cluster's name. Kong: `host:port`. wasi-http: `host:port` or `https://host`.
    pub upstream: String,
    /// `:authority` of callouts; the upstream unless set.
    #[serde(default)]
    pub authority: Option<String>,
    /// Put before `/v1/…`.
    #[serde(default)]
    pub path_prefix: String,
    /// Time-out of each callout that somebody waits for, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Milliseconds<1, 60_000, 800>,
    /// Bearer token of callouts. It shows in the host's configuration dump: prefer `token_env`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Name of the VM's environment variable that holds the bearer token.
    #[serde(default)]
    pub token_env: Option<String>,
}

/// The host that the module runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HostChoice {
    /// Found out when the configuration is read.
    #[default]
    Auto,
    /// Envoy.
    Envoy,
    /// Kong's Wasm runtime.
    Kong,
}

/// Which hooks run.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// `POST /v1/optimize` before the provider is called.
    pub request: bool,
    /// `POST /v1/optimize-response` after it, where the host can wait there.
    pub response: bool,
    /// The same for streams, held and replayed.
    pub stream_response: bool,
    /// Short circuit and write-back.
    pub cache: bool,
    /// `POST /v1/record` after every call.
    pub record: bool,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { request: true, response: true, stream_response: false, cache: true, record: false }
    }
}

/// A canonical endpoint of the Optimizer Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
pub enum Endpoint {
    /// OpenAI chat completions.
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    /// OpenAI completions.
    #[serde(rename = "/v1/completions")]
    Completions,
    /// OpenAI embeddings.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    /// OpenAI responses.
    #[serde(rename = "/v1/responses")]
    Responses,
    /// Anthropic messages.
    #[serde(rename = "/v1/messages")]
    Messages,
}

/// How much is held at most.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// What the host was told it may buffer, in bytes. The module cannot read it and never provokes the host's 413 or 500.
    pub host_buffer_bytes: ByteCount<{ 64 * KIB }, { 4 * GIB }, MIB>,
    /// Larger requests are left alone, in bytes.
    pub request_bytes: ByteCount<KIB, GIB, { 16 * MIB }>,
    /// Larger answers, and larger copies of streams, are left alone, in bytes.
    pub response_bytes: ByteCount<KIB, GIB, { 16 * MIB }>,
    /// All bodies held in one VM at a time, in bytes; beyond it calls are left alone.
    pub total_bytes: ByteCount<MIB, { 4 * GIB }, { 256 * MIB }>,
}

/// What holds on Kong only.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Kong {
    /// Transforms on Kong's runtime; they need a prepared body.
    pub transform: bool,
    /// Counters and histograms. Older runtimes, which know none, end a module that defines one.
    pub metrics: bool,
}

impl Default for Kong {
    fn default() -> Self {
        Self { transform: false, metrics: true }
    }
}

/// Who is answered from the cache, and what is written to it.
#[derive(Clone, Debug, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Who may be answered from the cache: callers whose credentials the provider just accepted, callers with a trusted `user`, or anyone.
    pub serve: Serve,
    /// How long credentials stay proven, in seconds.
    pub proof_seconds: Seconds<1, 86_400, 300>,
    /// What `metadata.cacheScope` stands for: `caller` (the credentials), `shared` (nothing, left out) or the name of a trusted attribution.
    pub scope: String,
    /// `ttlSeconds` of the write-back, in seconds.
    pub ttl_seconds: Option<Seconds<1, 31_536_000, 1>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            serve: Serve::default(),
            proof_seconds: Seconds::default(),
            scope: "caller".to_owned(),
            ttl_seconds: None,
        }
    }
}

/// Who may be answered from the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Serve {
    /// A caller whose credentials got a 2xx from this provider on this endpoint within `proof_seconds`.
    #[default]
    Proven,
    /// A caller for whom a trusted attribution source gave a `user`.
    Authenticated,
    /// Everyone: the operator vouches.
    Anyone,
}

/// A trusted source of one attribution: exactly one of the two.
#[derive(Clone, Debug, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Attribution {
    /// A request header that the host sets, or strips from what clients send.
    #[serde(default)]
    pub header: Option<String>,
    /// A path of the host's properties.
    #[serde(default)]
    pub property: Option<Vec<String>>,
}

/// When the optimizer is left alone because it keeps failing.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// After so many failed callouts in a row the optimizer is left alone; 0: never.
    pub failures: Count<0, 1_000, 5>,
    /// For so long, in milliseconds; then a single probe.
    pub open_ms: Milliseconds<1, 600_000, 10_000>,
}

/// When the client gets `x-anyray-optimization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DecisionsHeader {
    /// With `x-anyray-test: 1`.
    #[default]
    OnRequest,
    /// With every answer on an LLM endpoint.
    Always,
    /// Never.
    Never,
}

/// What records carry.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    /// Whether records carry prompts and answers.
    pub content: bool,
}

/// Values under names that the operator chooses, in their order.
#[derive(Clone, Debug)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Named<T>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Named(all))
            }
        }
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

/// A value that is shown nowhere.
#[derive(Clone, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

const BYTES: u8 = 0;
const MILLISECONDS: u8 = 1;
const SECONDS: u8 = 2;
const COUNT: u8 = 3;

/// A whole number of bytes from `MIN` to `MAX`.
pub type ByteCount<const MIN: u64, const MAX: u64, const DEFAULT: u64> =
    Whole<BYTES, MIN, MAX, DEFAULT>;
/// A whole number of milliseconds from `MIN` to `MAX`.
pub type Milliseconds<const MIN: u64, const MAX: u64, const DEFAULT: u64> =
    Whole<MILLISECONDS, MIN, MAX, DEFAULT>;
/// A whole number of seconds from `MIN` to `MAX`.
pub type Seconds<const MIN: u64, const MAX: u64, const DEFAULT: u64> =
    Whole<SECONDS, MIN, MAX, DEFAULT>;
/// A whole number from `MIN` to `MAX`.
pub type Count<const MIN: u64, const MAX: u64, const DEFAULT: u64> =
    Whole<COUNT, MIN, MAX, DEFAULT>;

/// A whole number of some unit from `MIN` to `MAX`, `DEFAULT` unless set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Whole<const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64>(u64);

impl<const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64>
    Whole<UNIT, MIN, MAX, DEFAULT>
{
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64> Default
    for Whole<UNIT, MIN, MAX, DEFAULT>
{
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64> fmt::Debug
    for Whole<UNIT, MIN, MAX, DEFAULT>
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

struct WholeVisitor {
    unit: &'static str,
    min: u64,
    max: u64,
}

impl Visitor<'_> for WholeVisitor {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.unit)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        if (self.min..=self.max).contains(&number) {
            return Ok(number);
        }
        let Self { unit, min, max } = self;
        Err(E::custom(format_args!("expected {unit} from {min} to {max}, got {number}")))
    }
}

impl<'de, const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64> Deserialize<'de>
    for Whole<UNIT, MIN, MAX, DEFAULT>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let unit = match UNIT {
            BYTES => "a whole number of bytes",
            MILLISECONDS => "a whole number of milliseconds",
            SECONDS => "a whole number of seconds",
            _ => "a whole number",
        };
        let visitor = WholeVisitor { unit, min: MIN, max: MAX };
        deserializer.deserialize_u64(visitor).map(Self)
    }
}

#[cfg(feature = "schema")]
mod schema {
    use std::collections::BTreeMap;

    use super::*;

    impl<T: serde::Serialize> serde::Serialize for Named<T> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
        }
    }

    impl<T: schemars::JsonSchema> schemars::JsonSchema for Named<T> {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> std::borrow::Cow<'static, str> {
            BTreeMap::<String, T>::schema_name()
        }

        fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
            BTreeMap::<String, T>::json_schema(generator)
        }
    }

    impl<const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64> serde::Serialize
        for Whole<UNIT, MIN, MAX, DEFAULT>
    {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u64(self.0)
        }
    }

    impl<const UNIT: u8, const MIN: u64, const MAX: u64, const DEFAULT: u64> schemars::JsonSchema
        for Whole<UNIT, MIN, MAX, DEFAULT>
    {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Whole".into()
        }

        fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            schemars::json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
        }
    }
}

/// What is wrong with a configuration, where, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    message: String,
}

impl ConfigError {
    /// `path` as an operator would write it (`limits.request_bytes`), empty for the whole.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: one_line(path.into()), message: one_line(message.into()) }
    }
}

/// An error is one line, whatever the names in the configuration hold.
fn one_line(text: String) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.path {
            "" => write!(formatter, "configuration: {}", self.message),
            path => write!(formatter, "configuration: {path}: {}", self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Names the path of the first thing that is wrong; never shows a token.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let text = json.trim_ascii();
        if text.is_empty() {
            return Err(ConfigError::new(
                "",
                r#"is empty, expected at least {"optimizer": {"upstream": "…"}}"#,
            ));
        }
        if text.first() != Some(&b'{') {
            return Err(ConfigError::new(
                "",
                "expected a JSON object (Envoy hands over a google.protobuf.StringValue as it is, a Struct not as JSON: use StringValue)",
            ));
        }
        let whole: &RawValue = serde_json::from_slice(text)
            .map_err(|error| ConfigError::new("", format!("not JSON: {error}")))?;
        Self::deserialize(Reader::new(whole.get())).map_err(|error| match &*error.path {
            "optimizer.token" => ConfigError::new(error.path, "expected a string"),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn error(json: &str) -> String {
        Config::parse(json.as_bytes()).unwrap_err().to_string()
    }

    /// The smallest configuration with `member` added.
    fn with(member: &str) -> String {
        format!(r#"{{"optimizer":{{"upstream":"o"}},{member}}}"#)
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = Config::parse(br#"{"optimizer":{"upstream":"o"}}"#).unwrap();
        assert_eq!(config.optimizer.timeout_ms.get(), 800);
        assert_eq!(config.limits.host_buffer_bytes.get(), 1 << 20);
        assert_eq!(config.limits.request_bytes.get(), 16 << 20);
        assert_eq!(config.limits.response_bytes.get(), 16 << 20);
        assert_eq!(config.limits.total_bytes.get(), 256 << 20);
        assert_eq!(config.cache.serve, Serve::Proven);
        assert_eq!(config.cache.proof_seconds.get(), 300);
        assert_eq!(config.cache.scope, "caller");
        assert_eq!((config.breaker.failures.get(), config.breaker.open_ms.get()), (5, 10_000));
        assert_eq!(config.decisions_header, DecisionsHeader::OnRequest);
        let hooks = config.hooks;
        assert!(hooks.request && hooks.response && hooks.cache);
        assert!(!hooks.stream_response && !hooks.record && !config.record.content);
    }

    #[test]
    fn errors_name_the_path_and_what_was_expected() {
        for (json, expected) in [
            (
                with(r#""limits":{"request_bytes":"8MB"}"#),
                r#"configuration: limits.request_bytes: expected a whole number of bytes, got "8MB""#,
            ),
            (
                with(r#""limits":{"request_bytes":1}"#),
                "configuration: limits.request_bytes: expected a whole number of bytes from 1024 to 1073741824, got 1",
            ),
            (
                with(r#""breaker":{"failures":-1}"#),
                "configuration: breaker.failures: expected a whole number, got -1",
            ),
            (
                with(r#""breaker":{"open_ms":1.5}"#),
                "configuration: breaker.open_ms: expected a whole number of milliseconds, got 1.5",
            ),
            (
                with(r#""hooks":{"request":"yes"}"#),
                r#"configuration: hooks.request: expected a boolean, got "yes""#,
            ),
            (
                with(r#""hooks":{"requests":true}"#),
                "configuration: hooks.requests: unknown field `requests`, expected one of `request`, `response`, `stream_response`, `cache`, `record`",
            ),
            (
                with(r#""host":"nginx""#),
                "configuration: host: unknown variant `nginx`, expected one of `auto`, `envoy`, `kong`",
            ),
            (
                with(r#""endpoints":{"/x":"/v1/chat"}"#),
                "configuration: endpoints./x: unknown variant `/v1/chat`, expected one of `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses`, `/v1/messages`",
            ),
            (
                r#"{"optimizer":{}}"#.to_owned(),
                "configuration: optimizer.upstream: required, but missing",
            ),
            ("{}".to_owned(), "configuration: optimizer: required, but missing"),
            (
                r#"{"optimizer":{"upstream":1}}"#.to_owned(),
                "configuration: optimizer.upstream: expected a string, got 1",
            ),
        ] {
            assert_eq!(error(&json), expected, "{json}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_as_such() {
        assert!(error("").contains("is empty"));
        assert!(error("  ").contains("is empty"));
        assert!(error("\n\x0b\n\toptimizer").contains("StringValue"));
        assert!(error("[]").contains("expected a JSON object"));
        assert!(error(r#"{"optimizer":"#).starts_with("configuration: not JSON: EOF"));
        assert!(error(r#"{"optimizer":{"upstream":"o"}} x"#).contains("not JSON: trailing"));
    }

    #[test]
    fn an_error_is_one_line() {
        let text = error(&with(r#""a\nb\u0000":1"#));
        assert!(text.starts_with("configuration: a\u{fffd}b\u{fffd}: unknown field"), "{text}");
        assert!(!text.contains(char::is_control));
    }

    #[test]
    fn a_token_is_shown_nowhere() {
        let text = error(r#"{"optimizer":{"upstream":"o","token":123456}}"#);
        assert_eq!(text, "configuration: optimizer.token: expected a string");
        let config = Config::parse(br#"{"optimizer":{"upstream":"o","token":"canary"}}"#).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }
}
