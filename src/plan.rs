//! The configuration, checked as a whole and compiled once for one host.

use crate::bypass::Bypass;
use crate::config::{
    Attribution, Cache, Config, ConfigError, DecisionsHeader, Endpoint, Hooks, HostChoice, Limits,
    Serve,
};
use crate::dialect::{Dialect, Endpoints};
use crate::forward::Target;
use crate::headers::{OWN, is_header_value, is_own};
use crate::host::{Capabilities, Host, Replace};

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
    kong_transform: bool,
    metrics: bool,
    properties: Vec<Vec<String>>,
    notes: Vec<String>,
}

/// What a request is to the module, told from its headers alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Nothing: no event of it is of interest.
    Nothing,
    /// It carries headers that are meant for the module and go no further. Of its head nothing
    /// else is of interest: neither the time, nor the upstream, nor properties.
    Headers,
    /// Its path is an LLM endpoint's.
    Call,
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
        let default = match &target {
            Some(target) => &*target.authority,
            // A socket's path is nobody's name.
            None if host == Host::Kong && optimizer.upstream.starts_with("unix:") => "localhost",
            None => &optimizer.upstream,
        };
        let authority = optimizer.authority.unwrap_or_else(|| default.to_owned());
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
        for (suffix, endpoint) in config.endpoints.0 {
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
        for (name, source) in config.attribution.0 {
            if let Some(property) = &source.property {
                check_property(&name, property, host)?;
            }
            trusted.push(trust(name, source, &mut properties)?);
        }
        let scope = scope(&cache, &trusted)?;

        let mut notes = Vec::new();
        if can.replace_request == Replace::Early {
            if hooks.request && !config.kong.transform {
                notes.push("request transforms: switched off (kong.transform)".to_owned());
                hooks.request &= hooks.cache;
            } else if hooks.request {
                notes.push("request transforms: of bodies read before the module".to_owned());
            }
        }
        if hooks.response && !can.hold_response {
            notes.push("response hook: not possible on this host".to_owned());
        }
        if !can.let_go_any_time && (hooks.cache || hooks.record) {
            notes.push("write-backs and records: by timer, a queue per worker".to_owned());
        }
        if can.outlives_calls && !can.shared_data {
            notes.push("proofs and breaker: per worker".to_owned());
        }
        if host == Host::Kong && !config.kong.metrics {
            notes.push("metrics: switched off (kong.metrics)".to_owned());
        }
        if !can.total_timeout {
            notes.push("optimizer.timeout_ms: for each step of a callout, not for all".to_owned());
        }
        if !can.outlives_calls && hooks.cache && hooks.request && cache.serve == Serve::Proven {
            notes.push(
                "proofs: per instance, which may serve a single call: hits need cache.serve authenticated or anyone"
                    .to_owned(),
            );
        }
        if !can.outlives_calls && config.breaker.failures.get() > 0 {
            notes.push("breaker: per instance, which may serve a single call".to_owned());
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
            kong_transform: config.kong.transform,
            metrics: host != Host::Kong || config.kong.metrics,
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

    /// What a request with these headers is to the module.
    pub fn concern<'a>(&self, headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Concern {
        let mut path = None;
        let mut has_own = false;
        for (name, value) in headers {
            match name {
                b":path" => _ = path.get_or_insert(value),
                _ => has_own |= is_own(name),
            }
        }
        if path.is_some_and(|path| self.endpoints.dialect(path).is_some()) {
            Concern::Call
        } else if has_own {
            Concern::Headers
        } else {
            Concern::Nothing
        }
    }

    /// Host properties to read for each request, in the order in which
    /// [`RequestHead::properties`](crate::event::RequestHead::properties) hands them in.
    pub fn properties(&self) -> &[Vec<String>] {
        &self.properties
    }

    /// Whether a hit is for callers with proven credentials only.
    pub(crate) fn proves(&self) -> bool {
        self.serve == Serve::Proven && self.hooks.cache && self.hooks.request
    }

    /// Whether a request's body can be transformed. `early`: the host showed it with the headers,
    /// and their `content-length` is its own: whoever read it before set it anew.
    pub(crate) fn may_transform(&self, early: bool) -> Result<(), Bypass> {
        match self.can().replace_request {
            Replace::Held => Ok(()),
            Replace::Early if !self.kong_transform => Err(Bypass::TransformSwitchedOff),
            Replace::Early if !early => Err(Bypass::TransformUnprepared),
            Replace::Early => Ok(()),
        }
    }

    /// Whether bodies that the host shows with the headers are wanted then.
    pub fn wants_early_bodies(&self) -> bool {
        self.can().replace_request == Replace::Early && self.kong_transform && self.hooks.request
    }

    /// Whether the host is to count anything.
    pub fn has_metrics(&self) -> bool {
        self.metrics
    }

    /// What to tell the operator at start, in one line.
    pub fn introduction(&self) -> String {
        let mut line = format!("ready on {}, asking {}", self.host.name(), self.upstream);
        if let Some(provider) = &self.provider {
            line = format!("{line} for {}", provider.url());
        }
        for note in &self.notes {
            line.push_str("; ");
            line.push_str(note);
        }
        line
    }

    /// What the operator should know at start.
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
        Host::Kong => {
            (is_dispatchable(upstream), "host:port, [address]:port or unix:/path of a socket")
        }
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

/// Whether Kong's runtime takes a callout to this: anything that nginx cannot
/// parse traps there.
fn is_dispatchable(text: &str) -> bool {
    const MAX_NAME: usize = 253;
    const MAX_LABEL: usize = 63;
    // A socket's address holds so much of its path, the NUL at its end among it.
    const MAX_PATH: usize = 107;
    if let Some(path) = text.strip_prefix("unix:") {
        let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        return path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(is_path);
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label =
        |label: &str| !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(is_name);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= MAX_NAME && host.split('.').all(is_label),
    };
    is_host
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether the host can be asked for a property. Some of what Kong's runtime knows
/// by Envoy's names crashes it; nginx variables and what Lua left for filters do not.
fn check_property(name: &str, property: &[String], host: Host) -> Result<(), ConfigError> {
    let error = |text: String| Err(ConfigError::new(format!("attribution.{name}.property"), text));
    if !host.capabilities().properties {
        return error(format!("{} knows no properties: use a header", host.name()));
    }
    let is_name = |text: &String| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let mut path = property.iter().map(String::as_str);
    let known = match (path.next(), path.next(), path.next()) {
        (Some("ngx"), Some(_), None) => true,
        (Some("kong"), Some("ctx"), Some("shared")) => property.len() == 4,
        _ => false,
    };
    if host == Host::Kong && !(known && property.iter().all(is_name)) {
        return error(format!(
            r#"expected ["ngx", "an_nginx_variable"] or ["kong", "ctx", "shared", "name"], got {property:?}"#
        ));
    }
    Ok(())
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
                    "names an environment variable that the VM does not have (Envoy: vm_config.environment_variables; Kong: nginx_main_env; nginx: env; wasmtime: --env)",
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
            if header.is_empty() || !header.bytes().all(is_name) || header.starts_with(OWN) {
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

    #[test]
    fn a_request_is_of_interest_by_its_path_or_by_headers_for_the_module() {
        let plan = compile(r#"{"optimizer":{"upstream":"o"}}"#, Host::Envoy).unwrap();
        let (chat, files) = ((":path", "/v1/messages?x=1"), (":path", "/v1/files"));
        let own = ("X-Anyray-Metadata", "{}");
        for (headers, expected) in [
            (&[(":method", "POST"), chat][..], Concern::Call),
            (&[own, chat], Concern::Call),
            (&[chat, files], Concern::Call),
            (&[files, chat], Concern::Nothing),
            (&[files, own], Concern::Headers),
            (&[own], Concern::Headers),
            (&[files, ("x-request-id", "1"), ("path", "/v1/messages")], Concern::Nothing),
            (&[], Concern::Nothing),
        ] {
            let fields = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            assert_eq!(plan.concern(fields), expected, "{headers:?}");
        }
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
    fn kong_takes_only_what_nginx_can_parse() {
        let json = |upstream: &str| format!(r#"{{"optimizer":{{"upstream":"{upstream}"}}}}"#);
        for good in [
            "optimizer:8088",
            "127.0.0.1:1",
            "a.b-c_d:65535",
            "[::1]:80",
            "[::ffff:10.0.0.1]:80",
            "unix:/run/optimizer.sock",
        ] {
            assert!(compile(&json(good), Host::Kong).is_ok(), "{good}");
        }
        let long_name = format!("{}:1", "a.".repeat(127) + "a");
        let long_path = format!("unix:/{}", "a".repeat(107));
        for bad in [
            "optimizer",
            "o:0",
            "o:65536",
            "o:+1",
            ":1",
            "o:",
            "a/b:1",
            "http://o:1",
            "::1:80",
            "[::1]",
            "[::1:80",
            "[fe80::1%eth0]:80",
            "a..b:1",
            ".a:1",
            "a.:1",
            "a b:1",
            "é:1",
            "u@o:1",
            "o:1/",
            "o:1?x",
            "o:1-2",
            "*:1",
            "unix:",
            "unix:relative",
            "unix:/a:b",
            "unix:/a b",
            &long_name,
            &long_path,
        ] {
            assert!(error(&json(bad), Host::Kong).contains("expected host:port"), "{bad}");
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
        let json = |more| format!(r#"{{"optimizer":{{"upstream":"o:1"}}{more}}}"#);
        let envoy = compile(&json(""), Host::Envoy).unwrap();
        assert!(envoy.notes().is_empty());
        assert_eq!(envoy.introduction(), "ready on envoy, asking o:1");
        let notes = |more| compile(&json(more), Host::Kong).unwrap().notes().join("|");
        assert!(notes("").contains("request transforms: switched off (kong.transform)|response hook: not possible on this host|"));
        assert!(
            notes(r#","kong":{"transform":true}"#)
                .contains("request transforms: of bodies read before")
        );
        let none = notes(r#","hooks":{"request":false,"response":false,"cache":false}"#);
        assert!(!none.contains("request") && !none.contains("response") && !none.contains("timer"));
    }

    #[test]
    fn kong_is_asked_for_harmless_properties_only() {
        let compile = |property: &str, host| {
            let json = format!(
                r#"{{"optimizer":{{"upstream":"o:1"}},"attribution":{{"user":{{"property":{property}}}}}}}"#
            );
            compile(&json, host)
        };
        for good in [r#"["ngx","remote_user"]"#, r#"["kong","ctx","shared","user"]"#] {
            assert!(compile(good, Host::Kong).is_ok(), "{good}");
        }
        for bad in [
            r#"["upstream","address"]"#,
            r#"["plugin_name"]"#,
            r#"["ngx"]"#,
            r#"["ngx",""]"#,
            r#"["ngx","a","b"]"#,
            r#"["ngx","a.b"]"#,
            r#"["ngx.a"]"#,
            r#"["ngx","a\u0000b"]"#,
            r#"["kong","ctx","shared"]"#,
            r#"["kong","client","protocol"]"#,
        ] {
            let text = compile(bad, Host::Kong).unwrap_err();
            assert!(text.contains("attribution.user.property: expected [\"ngx\""), "{bad}: {text}");
            assert!(compile(bad, Host::Envoy).is_ok(), "{bad}");
        }
    }
}
