//! The configuration, checked as a whole and compiled once for one host.

use crate::config::{
    Attribution, Cache, Config, ConfigError, DecisionsHeader, Endpoint, Hooks, HostChoice, Limits,
    Serve,
};
use crate::dialect::{Dialect, Endpoints};
use crate::forward::Target;
use crate::headers::is_header_value;
use crate::host::{Capabilities, Host};

/// What the module does, decided once. Read-only at run time.
#[derive(Clone, Debug)]
pub struct Plan {
    host: Host,
    upstream: String,
    optimizer: Option<Target>,
    provider: Option<Target>,
    pub(crate) authority: String,
    pub(crate) path_prefix: String,
    pub(crate) authorization: Option<String>,
    pub(crate) timeout: std::time::Duration,
    pub(crate) hooks: Hooks,
    pub(crate) endpoints: Endpoints,
    pub(crate) limits: Limits,
    pub(crate) serve: Serve,
    pub(crate) proof: std::time::Duration,
    pub(crate) scope: Scope,
    pub(crate) ttl_seconds: Option<u64>,
    pub(crate) trusted: Vec<Trusted>,
    pub(crate) breaker_failures: u64,
    pub(crate) breaker_open: std::time::Duration,
    pub(crate) decisions_header: DecisionsHeader,
    pub(crate) record_content: bool,
    properties: Vec<Vec<String>>,
    notes: Vec<String>,
}

/// What `metadata.cacheScope` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The caller's credentials.
    Caller,
    /// Nothing: the cache is shared by all.
    Shared,
    /// A trusted attribution.
    Attribution(String),
}

/// A trusted source of one attribution.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    pub(crate) name: String,
    pub(crate) source: Source,
}

/// Where a trusted attribution comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A request header.
    Header(String),
    /// The property at this index of [`Plan::properties`].
    Property(usize),
}

impl Plan {
    /// Checks what no single member shows and decides what the host allows.
    /// `env` looks up the VM's environment variables.
    ///
    /// # Errors
    /// Names the path of what is wrong; never shows a token.
    pub fn compile(
        config: Config,
        detected: Host,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let host = match config.host {
            HostChoice::Auto => detected,
            _ if detected == Host::WasiHttp => {
                return Err(ConfigError::new("host", "this is wasi-http: leave it out"));
            }
            HostChoice::Envoy => Host::Envoy,
            HostChoice::Kong => Host::Kong,
        };
        let can = host.capabilities();
        let Config { optimizer, mut hooks, cache, limits, .. } = config;
        check_upstream(&optimizer.upstream, host)?;
        let target = Target::from_origin(&optimizer.upstream).filter(|_| !can.routes);
        let provider = provider(config.provider.as_deref(), host)?;
        let default = target.as_ref().map_or(&optimizer.upstream, |target| &target.authority);
        let authority = optimizer.authority.unwrap_or_else(|| default.clone());
        if target.as_ref().is_some_and(|target| target.authority != authority) {
            return Err(ConfigError::new(
                "optimizer.authority",
                format!("{} sends the authority that it connects to: leave it out", host.name()),
            ));
        }
        if authority.is_empty() || !is_token_like(&authority) {
            return Err(ConfigError::new(
                "optimizer.authority",
                format!("expected a host name, with or without a port, got {authority:?}"),
            ));
        }
        check_path_prefix(&optimizer.path_prefix)?;
        let authorization = bearer(optimizer.token.map(|token| token.0), optimizer.token_env, env)?;
        let mut extra = Vec::new();
        for (suffix, endpoint) in config.endpoints {
            if !suffix.starts_with('/') {
                return Err(ConfigError::new(
                    format!("endpoints.{suffix}"),
                    "expected a path suffix that begins with \"/\"",
                ));
            }
            extra.push((suffix, dialect(endpoint)));
        }
        let mut properties = Vec::new();
        let mut trusted = Vec::new();
        for (name, source) in config.attribution {
            if source.property.is_some() && !can.properties {
                return Err(ConfigError::new(
                    format!("attribution.{name}.property"),
                    format!("{} knows no properties: use a header", host.name()),
                ));
            }
            trusted.push(trust(name, source, &mut properties)?);
        }
        let scope = scope(&cache, &trusted)?;

        let mut notes = Vec::new();
        if !can.hold_request && (hooks.request || hooks.response) {
            notes.push(format!(
                "on {} this version cannot hold calls: every call is left alone (host_cannot_hold)",
                host.name()
            ));
        }
        if !can.outlives_calls {
            if hooks.cache && hooks.request && cache.serve == Serve::Proven {
                notes.push(format!(
                    "on {} proofs do not outlive an instance, which may serve a single call: \
                     cache.serve \"proven\" hardly ever serves a hit; \"authenticated\" and \"anyone\" do",
                    host.name()
                ));
            }
            if config.breaker.failures.get() > 0 {
                notes.push(format!(
                    "on {} the breaker does not outlive an instance either: while the optimizer \
                     fails, each call may wait for optimizer.timeout_ms",
                    host.name()
                ));
            }
        }
        hooks.response &= can.hold_response;
        hooks.stream_response &= hooks.response;
        Ok(Self {
            host,
            upstream: optimizer.upstream,
            optimizer: target,
            provider,
            authority,
            path_prefix: optimizer.path_prefix,
            authorization,
            timeout: std::time::Duration::from_millis(optimizer.timeout_ms.get()),
            hooks,
            endpoints: Endpoints::new(extra),
            limits,
            serve: cache.serve,
            proof: std::time::Duration::from_secs(cache.proof_seconds.get()),
            scope,
            ttl_seconds: cache.ttl_seconds.map(|seconds| seconds.get()),
            trusted,
            breaker_failures: config.breaker.failures.get(),
            breaker_open: std::time::Duration::from_millis(config.breaker.open_ms.get()),
            decisions_header: config.decisions_header,
            record_content: config.record.content,
            properties,
            notes,
        })
    }

    /// The host that the plan is for.
    pub fn host(&self) -> Host {
        self.host
    }

    /// What the host can do.
    pub fn can(&self) -> Capabilities {
        self.host.capabilities()
    }

    /// The host's name for where callouts go (Envoy: a cluster).
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Where callouts go, on hosts that do not route them by a name of their own.
    pub fn optimizer(&self) -> Option<&Target> {
        self.optimizer.as_ref()
    }

    /// Where calls go, on hosts that do not route them.
    pub fn provider(&self) -> Option<&Target> {
        self.provider.as_ref()
    }

    /// Host properties to read for each request, in the order in which
    /// [`RequestHead::properties`](crate::event::RequestHead::properties) hands them in.
    pub fn properties(&self) -> &[Vec<String>] {
        &self.properties
    }

    /// What the operator should know at start, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

fn dialect(endpoint: Endpoint) -> Dialect {
    match endpoint {
        Endpoint::ChatCompletions => Dialect::OpenAiChat,
        Endpoint::Completions => Dialect::OpenAiCompletions,
        Endpoint::Embeddings => Dialect::OpenAiEmbeddings,
        Endpoint::Responses => Dialect::OpenAiResponses,
        Endpoint::Messages => Dialect::AnthropicMessages,
    }
}

fn is_token_like(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn check_upstream(upstream: &str, host: Host) -> Result<(), ConfigError> {
    let (valid, expected) = match host {
        Host::Envoy => {
            (!upstream.is_empty() && is_token_like(upstream), "the name of an Envoy cluster")
        }
        Host::Kong => (is_host_port(upstream), "host:port"),
        Host::WasiHttp => {
            (Target::from_origin(upstream).is_some(), "host:port or a URL without a path")
        }
    };
    if valid {
        return Ok(());
    }
    Err(ConfigError::new("optimizer.upstream", format!("expected {expected}, got {upstream:?}")))
}

fn provider(url: Option<&str>, host: Host) -> Result<Option<Target>, ConfigError> {
    let error = |text: String| Err(ConfigError::new("provider", text));
    match (url, host.capabilities().routes) {
        (None, true) => Ok(None),
        (Some(_), true) => error(format!("{} routes calls itself: leave it out", host.name())),
        (None, false) => error(format!("is missing: where does {} send calls?", host.name())),
        (Some(url), false) => match Target::from_url(url) {
            // A URL may hold a password where none belongs.
            None => {
                error("expected a URL like \"https://api.example\", without user or query".into())
            }
            target => Ok(target),
        },
    }
}

/// A host name or IPv4 address with a port; anything else would trap Kong's runtime when dispatched to.
fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn check_path_prefix(prefix: &str) -> Result<(), ConfigError> {
    let is_path = prefix.starts_with('/') && !prefix.ends_with('/') && is_token_like(prefix);
    if prefix.is_empty() || (is_path && !prefix.contains(['?', '#'])) {
        return Ok(());
    }
    Err(ConfigError::new(
        "optimizer.path_prefix",
        format!("expected a path like \"/optimizer\" without a slash at the end, got {prefix:?}"),
    ))
}

fn bearer(
    token: Option<String>,
    token_env: Option<String>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, ConfigError> {
    let (path, token) = match (token, token_env) {
        (None, None) => return Ok(None),
        (Some(token), None) => ("optimizer.token", token),
        (None, Some(name)) => {
            // Who puts the token itself here by mistake must not find it in the log.
            let token = env(&name).ok_or_else(|| {
                ConfigError::new(
                    "optimizer.token_env",
                    "names an environment variable that the VM does not have (Envoy: vm_config.environment_variables; wasmtime: --env)",
                )
            })?;
            ("optimizer.token_env", token)
        }
        (Some(_), Some(_)) => {
            return Err(ConfigError::new(
                "optimizer.token_env",
                "expected only one of token and token_env",
            ));
        }
    };
    if token.is_empty() || !is_header_value(token.as_bytes()) {
        return Err(ConfigError::new(path, "expected a token of visible ASCII characters"));
    }
    Ok(Some(format!("Bearer {token}")))
}

fn trust(
    name: String,
    source: Attribution,
    properties: &mut Vec<Vec<String>>,
) -> Result<Trusted, ConfigError> {
    let path = format!("attribution.{name}");
    if name == "cacheScope" {
        return Err(ConfigError::new(path, "is set by the module, see cache.scope"));
    }
    if canonical_name(&name) != name {
        let canonical = canonical_name(&name);
        return Err(ConfigError::new(path, format!("expected the name {canonical:?}")));
    }
    let source = match (source.header, source.property) {
        (Some(header), None) => {
            let header = header.to_ascii_lowercase();
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if header.is_empty() || !header.bytes().all(is_name) || header.starts_with("x-anyray-")
            {
                return Err(ConfigError::new(
                    format!("{path}.header"),
                    format!("expected a header that the host sets, got {header:?}"),
                ));
            }
            Source::Header(header)
        }
        (None, Some(property)) if !property.is_empty() => {
            properties.push(property);
            Source::Property(properties.len().saturating_sub(1))
        }
        _ => {
            return Err(ConfigError::new(
                path,
                r#"expected {"header": "x-…"} or {"property": ["…"]}"#,
            ));
        }
    };
    Ok(Trusted { name, source })
}

/// The one spelling of an attribution's name.
pub(crate) fn canonical_name(name: &str) -> &str {
    match name {
        "user_id" | "userId" => "user",
        "team_id" => "team",
        "session_id" => "sessionId",
        other => other,
    }
}

fn scope(cache: &Cache, trusted: &[Trusted]) -> Result<Scope, ConfigError> {
    match &*cache.scope {
        "caller" => Ok(Scope::Caller),
        "shared" => Ok(Scope::Shared),
        name if trusted.iter().any(|source| source.name == name) => {
            Ok(Scope::Attribution(name.to_owned()))
        }
        name => Err(ConfigError::new(
            "cache.scope",
            format!("expected \"caller\", \"shared\" or a name from attribution, got {name:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn compile(json: &str, host: Host) -> Result<Plan, String> {
        let env = |name: &str| (name == "TOKEN").then(|| "canary".to_owned());
        Plan::compile(Config::parse(json.as_bytes()).unwrap(), host, env)
            .map_err(|error| error.to_string())
    }

    fn error(json: &str, host: Host) -> String {
        compile(json, host).unwrap_err()
    }

    #[test]
    fn what_no_single_member_shows_is_checked() {
        for (json, expected) in [
            (r#"{"optimizer":{"upstream":""}}"#, "optimizer.upstream: expected the name"),
            (r#"{"optimizer":{"upstream":"o","authority":"a b"}}"#, "optimizer.authority: "),
            (r#"{"optimizer":{"upstream":"o","path_prefix":"x"}}"#, "optimizer.path_prefix: "),
            (r#"{"optimizer":{"upstream":"o","path_prefix":"/x/"}}"#, "optimizer.path_prefix: "),
            (r#"{"optimizer":{"upstream":"o","token":"a\nb"}}"#, "optimizer.token: expected a"),
            (
                r#"{"optimizer":{"upstream":"o","token":"a","token_env":"TOKEN"}}"#,
                "optimizer.token_env: expected only one",
            ),
            (r#"{"optimizer":{"upstream":"o","token_env":"NO"}}"#, "optimizer.token_env: names an"),
            (r#"{"optimizer":{"upstream":"o"},"cache":{"scope":"team"}}"#, "cache.scope: "),
            (
                r#"{"optimizer":{"upstream":"o"},"endpoints":{"x":"/v1/messages"}}"#,
                "endpoints.x: expected a path",
            ),
            (
                r#"{"optimizer":{"upstream":"o"},"attribution":{"user_id":{"header":"x-u"}}}"#,
                "attribution.user_id: expected the name \"user\"",
            ),
            (
                r#"{"optimizer":{"upstream":"o"},"attribution":{"user":{}}}"#,
                "attribution.user: expected {",
            ),
            (
                r#"{"optimizer":{"upstream":"o"},"attribution":{"user":{"header":"x-anyray-u"}}}"#,
                "attribution.user.header: expected a header that the host sets",
            ),
            (
                r#"{"optimizer":{"upstream":"o"},"attribution":{"cacheScope":{"header":"x-u"}}}"#,
                "attribution.cacheScope: is set by",
            ),
        ] {
            let text = error(json, Host::Envoy);
            assert!(text.starts_with(&format!("configuration: {expected}")), "{text}");
            assert!(!text.contains("canary"));
        }
    }

    #[test]
    fn kong_takes_host_and_port_only() {
        for good in ["optimizer:8088", "127.0.0.1:1", "a.b-c:65535"] {
            let json = format!(r#"{{"optimizer":{{"upstream":"{good}"}}}}"#);
            assert!(compile(&json, Host::Kong).is_ok(), "{good}");
        }
        for bad in ["optimizer", "o:0", "o:65536", "o:+1", ":1", "o:", "a/b:1", "http://o:1"] {
            let json = format!(r#"{{"optimizer":{{"upstream":"{bad}"}}}}"#);
            assert!(error(&json, Host::Kong).contains("expected host:port"), "{bad}");
        }
    }

    #[test]
    fn a_host_that_routes_nothing_is_told_where_to_send() {
        let json = |upstream, more| format!(r#"{{"optimizer":{{"upstream":"{upstream}"}}{more}}}"#);
        let provider = r#","provider":"https://api.example/base/""#;
        for (upstream, authority) in
            [("o:1", "o:1"), ("http://o", "o"), ("https://o:8443", "o:8443")]
        {
            let plan = compile(&json(upstream, provider), Host::WasiHttp).unwrap();
            assert_eq!(plan.optimizer().unwrap().authority, authority);
            assert_eq!(plan.authority, authority);
            assert_eq!(plan.provider().unwrap().path("/v1/messages"), "/base/v1/messages");
        }
        for (upstream, more, expected) in [
            ("o", provider, "optimizer.upstream: expected host:port or a URL without a path"),
            ("http://o/x", provider, "optimizer.upstream: "),
            ("o:1", "", "provider: is missing"),
            ("o:1", r#","provider":"https://u:canary@p""#, "provider: expected a URL"),
            ("o:1", r#","provider":"http://p","host":"envoy""#, "host: this is wasi-http"),
            (
                "o:1",
                r#","provider":"http://p","attribution":{"user":{"property":["x"]}}"#,
                "attribution.user.property: wasi-http knows no properties",
            ),
        ] {
            let text = error(&json(upstream, more), Host::WasiHttp);
            assert!(text.starts_with(&format!("configuration: {expected}")), "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
        let other = r#"{"optimizer":{"upstream":"o:1","authority":"p"},"provider":"http://p"}"#;
        assert!(error(other, Host::WasiHttp).contains("optimizer.authority: "));
        for host in [Host::Envoy, Host::Kong] {
            assert!(error(&json("o:1", provider), host).contains("provider: "));
            assert!(compile(&json("o:1", ""), host).unwrap().provider().is_none());
        }
    }

    #[test]
    fn what_does_not_outlive_a_call_is_said() {
        let notes = |more| {
            let json =
                format!(r#"{{"optimizer":{{"upstream":"o:1"}},"provider":"http://p"{more}}}"#);
            let plan = compile(&json, Host::WasiHttp).unwrap();
            assert!(!plan.can().shared_data && !plan.can().outlives_calls);
            plan.notes().join("|")
        };
        let all = notes("");
        assert!(all.contains("cache.serve") && all.contains("breaker"), "{all}");
        assert!(!notes(r#","cache":{"serve":"anyone"}"#).contains("cache.serve"));
        assert!(!notes(r#","hooks":{"cache":false}"#).contains("cache.serve"));
        assert!(!notes(r#","breaker":{"failures":0}"#).contains("breaker"));
    }

    #[test]
    fn the_token_comes_from_either_place() {
        let both = [
            r#"{"optimizer":{"upstream":"o","token":"canary"}}"#,
            r#"{"optimizer":{"upstream":"o","token_env":"TOKEN"}}"#,
        ];
        for json in both {
            let plan = compile(json, Host::Envoy).unwrap();
            assert_eq!(plan.authorization.as_deref(), Some("Bearer canary"));
        }
    }

    #[test]
    fn what_the_host_cannot_do_is_noted_once() {
        let json = r#"{"optimizer":{"upstream":"o:1"}}"#;
        assert!(compile(json, Host::Envoy).unwrap().notes().is_empty());
        assert_eq!(compile(json, Host::Kong).unwrap().notes().len(), 1);
    }
}
