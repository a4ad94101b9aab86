//! Headers between client, adapter, optimizer and provider.

use optimizer_core::host::Host;
use serde_json::json;

use crate::proxy::{Setup, on_every_host};
use crate::script::{CHAT, Script, Seen, write_backs};

fn metadata(seen: &Seen) -> serde_json::Value {
    let mut metadata = seen.asked("/v1/optimize")["metadata"].clone();
    metadata.as_object_mut().unwrap().remove("cacheScope");
    metadata
}

on_every_host! {
    fn no_anyray_header_reaches_the_provider(start) {
        let mut proxy = start(Setup::default()).unwrap();
        for path in ["/v1/chat/completions", "/v1/models"] {
            let script = Script::new(path, CHAT, "{}").unchanged()
                .header("x-anyray-optimize", "on")
                .header("X-Anyray-Test", "1")
                .header("x-anyray-metadata", "{}")
                .header("x-anyray-unknown", "1")
                .header("x-anyray-unknown", "2")
                .header("x-other", "stays");
            let seen = script.play(&mut *proxy);
            let headers = seen.provider.headers.unwrap();
            let ours = |(name, _): &(&str, &[u8])| name.starts_with("x-anyray-");
            match seen.host {
                // nginx sends removed headers on. What came once is emptied, and all of it can be left
                // out by its configuration, which finds only headers that nobody removed.
                Host::Kong => {
                    let left: Vec<_> = headers.iter().filter(ours).collect();
                    let expected = ["x-anyray-optimize", "x-anyray-test", "x-anyray-metadata"].map(|name| (name, &b""[..]));
                    let twice = [("x-anyray-unknown", &b"1"[..]), ("x-anyray-unknown", b"2")];
                    assert_eq!(left, [&expected[..], &twice].concat());
                }
                _ => assert!(!headers.iter().any(|header| ours(&header)), "{headers:?}"),
            }
            assert_eq!(headers.get("x-other"), Some("stays"));
        }
    }

    fn keys_stay_on_their_own_side(start) {
        let setup = Setup::default().with("optimizer.token", "optimizer-token");
        let mut proxy = start(setup).unwrap();
        let script = Script::chat().eligible().review(r#"{"id":"2"}"#)
            .header("x-api-key", "provider-key").header("api-key", "provider-key")
            .header("cookie", "provider-key").header("x-custom", "provider-key");
        let seen = script.play(&mut *proxy);
        write_backs(&mut *proxy);
        assert_eq!(proxy.callouts().len(), if proxy.can().hold_response { 3 } else { 2 });
        for callout in proxy.callouts() {
            assert_eq!(callout.headers.get("authorization"), Some("Bearer optimizer-token"));
            let mut names: Vec<_> = callout.headers.iter().map(|(name, _)| name).collect();
            names.retain(|name| !name.starts_with(':') && !matches!(*name, "content-length" | "connection"));
            names.sort_unstable();
            assert_eq!(names, ["authorization", "content-type"]);
            let text = format!("{:?} {}", callout.headers, String::from_utf8_lossy(&callout.body));
            assert!(!text.contains("provider-key"), "{text}");
        }
        let headers = seen.provider.headers.clone().unwrap();
        assert_eq!(headers.all("authorization"), ["Bearer provider-key"]);
        assert!(!format!("{headers:?} {}", seen.provider.text()).contains("optimizer-token"));
        assert!(!format!("{:?}", seen.client).contains("optimizer-token"));
    }

    fn the_token_may_come_from_the_environment(start) {
        let mut setup = Setup::default().with("optimizer.token_env", "OPTIMIZER_TOKEN");
        setup.env.push(("OPTIMIZER_TOKEN".to_owned(), "from-env".to_owned()));
        let seen = Script::chat().unchanged().play(&mut *start(setup).unwrap());
        assert_eq!(seen.callout("/v1/optimize").headers.get("authorization"), Some("Bearer from-env"));
    }

    fn callouts_go_where_the_configuration_says(start) {
        let setup = Setup::default()
            .with("optimizer.authority", "optimizer.example:8088")
            .with("optimizer.path_prefix", "/team-a")
            .with("optimizer.timeout_ms", 123);
        let seen = Script::chat().unchanged().play(&mut *start(setup).unwrap());
        let callout = seen.callout("/team-a/v1/optimize");
        assert_eq!(callout.headers.get(":authority"), Some("optimizer.example:8088"));
        assert_eq!(callout.headers.get(":method"), Some("POST"));
        assert_eq!(callout.headers.get("content-type"), Some("application/json"));
        assert_eq!(callout.timeout, Some(std::time::Duration::from_millis(123)));
    }

    fn the_trace_goes_along_and_nothing_that_breaks_a_header(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged()
            .header("traceparent", "00-1-2-01").header("tracestate", "a=b").header("x-request-id", "r");
        let headers = script.play(&mut *proxy).callout("/v1/optimize").headers.clone();
        assert_eq!(headers.get("traceparent"), Some("00-1-2-01"));
        assert_eq!(headers.get("tracestate"), Some("a=b"));
        assert_eq!(headers.get("x-request-id"), Some("r"));
        let odd = Script::chat().unchanged().header("x-request-id", b"\xff\xfe").header("tracestate", "a\tb");
        let headers = odd.play(&mut *proxy).callout("/v1/optimize").headers.clone();
        assert_eq!(headers.bytes("x-request-id"), None);
        assert_eq!(headers.bytes("tracestate"), None);
    }

    fn headers_that_are_not_text_go_through(start) {
        let script = Script::chat().unchanged()
            .header("x-odd", b"\xff\xc3\x28").header("x-anyray-metadata", b"\xff").header("x-anyray-odd", b"\xff");
        let mut script = script;
        script.provider.headers.add("x-odd", b"\x80\xff");
        let seen = script.play(&mut *start(Setup::default()).unwrap());
        assert_eq!(seen.provider.headers.as_ref().unwrap().bytes("x-odd"), Some(&b"\xff\xc3\x28"[..]));
        assert_eq!(seen.client.headers.as_ref().unwrap().bytes("x-odd"), Some(&b"\x80\xff"[..]));
        seen.assert_untouched(&script);
        assert_eq!(seen.outcome, "unchanged");
    }

    fn what_the_client_claims_is_overlaid_by_what_the_host_knows(start) {
        // A property that both hosts may be asked for.
        let mut setup = Setup::default().with(
            "attribution",
            json!({"user": {"header": "x-user"}, "team": {"property": ["kong", "ctx", "shared", "team"]}}),
        );
        setup.properties.insert("kong.ctx.shared.team".to_owned(), b"blue".to_vec());
        let mut proxy = start(setup).unwrap();
        let claim = r#"{"user":"mallory","user_id":"mallory","team_id":"red","session_id":"s","tool":"t","n":1,"b":true,"deep":{"a":1}}"#;
        let script = Script::chat().unchanged().header("x-anyray-metadata", claim);
        let known = json!({"user": "ann", "team": "blue", "sessionId": "s", "tool": "t", "n": 1, "b": true});
        let seen = script.clone().header("x-user", "ann").play(&mut *proxy);
        assert_eq!(metadata(&seen), known);
        let unknown = metadata(&script.clone().play(&mut *proxy));
        assert_eq!(unknown.get("user"), None, "what is trusted elsewhere cannot be claimed");
        let twice = script.header("x-user", "ann").header("x-user", "bob");
        assert_eq!(metadata(&twice.play(&mut *proxy)), json!({}), "who comes twice is nobody");
    }

    fn a_claim_that_is_too_long_or_no_object_is_ignored(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let long = format!(r#"{{"user":"{}"}}"#, "u".repeat(8192));
        for claim in [long.as_str(), "[1]", "x", "{", r#"{"a":1,"a":2}"#] {
            let seen = Script::chat().unchanged().header("x-anyray-metadata", claim).play(&mut *proxy);
            assert_eq!(metadata(&seen), json!({}));
            assert_eq!(seen.outcome, "unchanged");
        }
    }

    fn the_client_is_told_only_when_it_asks(start) {
        let told = |setting: &str, script: Script| {
            let setup = Setup::default().with("decisions_header", setting);
            script.unchanged().play(&mut *start(setup).unwrap()).told()
        };
        let asks = || Script::chat().header("x-anyray-test", "1");
        let unchanged = json!({"status": "unchanged", "decisions": [], "suppressedKinds": []});
        assert_eq!(told("on_request", asks()), unchanged);
        assert_eq!(told("on_request", Script::chat()), json!(null));
        assert_eq!(told("always", Script::chat()), unchanged);
        assert_eq!(told("never", asks()), json!(null));
    }

    fn it_is_told_of_hits_and_bypasses(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        let asks = || Script::chat().header("x-anyray-test", "1");
        assert_eq!(asks().hit(r#"{"id":"c"}"#).play(&mut *proxy).told()["status"], "hit");
        let refused = asks().play(&mut *proxy).told();
        assert_eq!(refused["status"], "bypassed");
        assert_eq!(refused["reason"], "optimizer_unreachable");
        let off = asks().header("x-anyray-optimize", "OFF").play(&mut *proxy).told();
        assert_eq!(off["reason"], "opted_out");
    }

    fn the_header_is_short_and_plain_whatever_the_optimizer_says(start) {
        let mut proxy = start(Setup::default().with("decisions_header", "always")).unwrap();
        let decisions: Vec<_> = (0..100).map(|n| json!({"kind": format!("k{n}"), "summary": "s".repeat(50)})).collect();
        let answer = json!({"request": {"max_tokens": 1}, "decisions": decisions});
        let seen = Script::chat().optimize(answer.to_string()).play(&mut *proxy);
        assert!(seen.client.header("x-anyray-optimization").unwrap().len() <= 2048);
        assert_eq!(seen.told(), json!({"status": "applied", "decisions": 100, "suppressedKinds": 0}));

        let odd = json!({"request": {"max_tokens": 1}, "decisions": [{"kind": "a\r\nset-cookie: x", "summary": "é\u{7f}😀"}]});
        let seen = Script::chat().optimize(odd.to_string()).play(&mut *proxy);
        let header = seen.client.header("x-anyray-optimization").unwrap();
        assert!(header.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{header}");
        assert_eq!(seen.told()["decisions"][0]["summary"], "é\u{7f}😀");
    }
}
