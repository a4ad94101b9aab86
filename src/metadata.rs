//! `metadata` of callouts: what the client claims, overlaid by what the host
//! knows. A client can never attribute its spend to somebody else.

use crate::event::RequestHead;
use crate::headers::Headers;
use crate::json::{self, Kind, Object, ObjectWriter};
use crate::plan::{Plan, Source, canonical_name};

/// Larger claims than this, in bytes, are ignored as a whole.
const MAX_CLAIM_BYTES: usize = 8 * 1024;

/// The trusted attributions of a call, in the plan's order.
pub(crate) fn trusted<'p>(plan: &'p Plan, head: RequestHead<'_>) -> Vec<(&'p str, String)> {
    plan.trusted
        .iter()
        .filter_map(|trusted| {
            let value = match &trusted.source {
                Source::Header(name) => head.headers.get(name),
                Source::Property(index) => head.properties.get(*index)?.as_deref(),
            };
            let value = std::str::from_utf8(value?).ok()?;
            (!value.is_empty()).then(|| (&*trusted.name, value.to_owned()))
        })
        .collect()
}

/// The JSON object that callouts carry as `metadata`. Without attribution
/// (`trusted` is `None`: the caller is ambiguous) it holds `scope`, a JSON string, alone.
pub(crate) fn metadata(
    plan: &Plan,
    headers: Headers<'_>,
    trusted: Option<&[(&str, String)]>,
    scope: Option<&str>,
) -> Vec<u8> {
    let mut out = ObjectWriter::default();
    if let Some(trusted) = trusted {
        let mut seen: Vec<String> = Vec::new();
        if let Some(claims) = claims(headers) {
            for member in claims.members() {
                let name = canonical_name(&member.name);
                let reserved =
                    name == "cacheScope" || plan.trusted.iter().any(|source| source.name == name);
                let scalar = !matches!(json::kind(member.value), Kind::Object | Kind::Array);
                if scalar && !reserved && !seen.iter().any(|other| other == name) {
                    out.raw(name, member.value);
                    seen.push(name.to_owned());
                }
            }
        }
        for (name, value) in trusted {
            out.string(name, value);
        }
    }
    if let Some(scope) = scope {
        out.raw("cacheScope", scope);
    }
    out.finish()
}

fn claims(headers: Headers<'_>) -> Option<Object<'_>> {
    let claim = headers.get("x-anyray-metadata")?;
    if headers.repeats("x-anyray-metadata") || claim.len() > MAX_CLAIM_BYTES {
        return None;
    }
    Object::parse(claim).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::host::Host;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn plan() -> Plan {
        let json = br#"{"optimizer":{"upstream":"o"},"attribution":{
            "team":{"property":["p"]},"user":{"header":"x-user"}}}"#;
        Plan::compile(Config::parse(json).unwrap(), Host::Envoy, |_| None).unwrap()
    }

    fn built(fields: &[(&str, &[u8])], property: Option<&[u8]>) -> String {
        let plan = plan();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
        let headers = Headers::new(&fields);
        let properties = [property.map(<[u8]>::to_vec)];
        let head = RequestHead {
            headers,
            truncated: false,
            upstream: None,
            properties: &properties,
            end_of_stream: false,
        };
        let trusted = trusted(&plan, head);
        String::from_utf8(metadata(&plan, headers, Some(&trusted), Some(r#""s""#))).unwrap()
    }

    #[test]
    fn claims_are_scalars_under_their_canonical_names() {
        let claim = br#"{"session_id":"a\u0062","intent":"i","n":1e400,"b":true,"z":null,"o":{},"l":[1],"sessionId":"second","cache\u0053cope":"stolen"}"#;
        assert_eq!(
            built(&[("X-Anyray-Metadata", claim)], None),
            r#"{"sessionId":"a\u0062","intent":"i","n":1e400,"b":true,"z":null,"cacheScope":"s"}"#
        );
    }

    #[test]
    fn what_is_trusted_cannot_be_claimed() {
        let claim = br#"{"user":"eve","user_id":"eve","userId":"eve","team_id":"eve"}"#;
        let fields = [("x-anyray-metadata", &claim[..]), ("x-user", b"ann \"a\"")];
        assert_eq!(
            built(&fields, Some(b"red")),
            r#"{"team":"red","user":"ann \"a\"","cacheScope":"s"}"#
        );
        // Not even where the host knows nothing.
        assert_eq!(built(&[("x-anyray-metadata", claim)], None), r#"{"cacheScope":"s"}"#);
    }

    #[test]
    fn absurd_claims_are_ignored() {
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CLAIM_BYTES));
        for claim in [&b"\xff"[..], b"[]", b"{", b"{\"a\":1,\"a\":2}", large.as_bytes()] {
            assert_eq!(built(&[("x-anyray-metadata", claim)], None), r#"{"cacheScope":"s"}"#);
        }
        let twice = [("x-anyray-metadata", &b"{\"a\":1}"[..]), ("x-anyray-metadata", b"{}")];
        assert_eq!(built(&twice, None), r#"{"cacheScope":"s"}"#);
        assert_eq!(built(&[("x-user", b"\xff")], Some(b"")), r#"{"cacheScope":"s"}"#);
    }
}
