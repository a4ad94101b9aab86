//! The configuration: refused with one readable line, or good for a call.

use optimizer_core::config::Config;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;
use serde_json::Value;

use crate::proxy::{Proxy, TOKEN};
use crate::script::Script;

/// A call with both hooks, in the words of [`crate::script`].
const CALL: &str = r#"0 open POST /v1/chat/completions x-user=ann
0 body {"model":"m","messages":[{"role":"user","content":"hi"}]}
0 end
outcome 0 200 {"request":{"model":"m","messages":[{"role":"user","content":"HI"}]},"cacheEligible":true,"cacheKey":"k"}
0 answer 200
0 chunk {"id":"1","model":"m","choices":[{"index":0,"message":{"content":"x"}}]}
0 done
outcome 0 200 {"response":{"id":"2"},"decisions":[{"kind":"k"}]}
"#;

/// A configuration.
pub fn target(data: &[u8]) {
    let token = token(data);
    let check = |text: &str| {
        assert!(!text.is_empty() && !text.contains('\n'), "one readable line: {text:?}");
        assert!(!text.contains(TOKEN), "the environment's token: {text:?}");
        if let Some(token) = &token {
            assert!(!text.contains(token), "the token: {text:?}");
        }
    };
    let config = match Config::parse(data) {
        Ok(config) => config,
        Err(error) => return check(&error.to_string()),
    };
    check(&format!("{config:?}"));
    for host in [Host::Envoy, Host::Kong, Host::WasiHttp] {
        let plan = Plan::compile(config.clone(), host, |_| Some(TOKEN.to_owned()));
        match plan {
            Err(error) => check(&error.to_string()),
            Ok(plan) => plan.notes().iter().for_each(|note| check(note)),
        }
        if let Some(proxy) = Proxy::new(data, host) {
            proxy.play(&Script::parse(CALL.as_bytes()));
        }
    }
}

/// The token in the configuration, where it cannot be mistaken for something else.
fn token(data: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(data).ok()?;
    let token = config.pointer("/optimizer/token")?.as_str()?.to_owned();
    let text = std::str::from_utf8(data).ok()?;
    (token.len() >= 12 && text.matches(&token).count() == 1).then_some(token)
}
