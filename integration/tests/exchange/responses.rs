//! The response hook.

use integration::{Answer, Headers};
use optimizer_core::host::Host;
use serde_json::json;

use crate::proxy::{Setup, on_every_host};
use crate::script::{CHAT, CHAT_ANSWER, Script};
use crate::transforms::DIALECTS;

on_every_host! {
    fn every_dialect_is_reviewed(start) {
        for (path, body, answer) in DIALECTS {
            let mut proxy = start(Setup::default()).unwrap();
            let changed = answer.replace("\"model\":\"m\"", "\"model\":\"other\"");
            let script = Script::new(path, body, answer).unchanged().review(&changed);
            let seen = script.play(&mut *proxy);
            if !seen.is_reviewed(&script) {
                continue;
            }
            assert_eq!(seen.client.text(), changed, "{path}");
            assert_eq!(seen.client.header("content-length"), Some(&*changed.len().to_string()));
            assert_eq!(seen.response, "transformed");
            let asked = seen.asked("/v1/optimize-response");
            assert_eq!(asked["endpoint"], path);
            assert_eq!(asked["request"], serde_json::from_str::<serde_json::Value>(body).unwrap());
            assert_eq!(asked["response"], serde_json::from_str::<serde_json::Value>(answer).unwrap());
            assert!(asked["metadata"]["cacheScope"].is_string());
            assert_eq!(seen.counted["optimizer_responses.outcome.transformed.reason.none"], 1);
            assert_eq!(seen.counted["optimizer_callouts.kind.optimize_response.result.ok"], 1);
        }
    }

    fn the_request_in_it_is_the_one_that_was_sent(start) {
        let script = Script::chat().transform(r#"{"max_tokens":3}"#).review("{}");
        let seen = script.play(&mut *start(Setup::default()).unwrap());
        if !seen.is_reviewed(&script) {
            return;
        }
        assert_eq!(seen.asked("/v1/optimize-response")["request"]["max_tokens"], 3);
        let asked = String::from_utf8(seen.callout("/v1/optimize-response").body.clone()).unwrap();
        assert!(asked.contains(&format!(r#""response":{CHAT_ANSWER}"#)), "the provider's bytes");
    }

    fn the_providers_headers_survive_but_not_what_vouches_for_the_body(start) {
        let script = Script::chat().unchanged().review(r#"{"id":"other"}"#)
            .provider_header("x-ratelimit-remaining", "7")
            .provider_header("set-cookie", "a=b")
            .provider_header("etag", "\"e\"")
            .provider_header("digest", "sha-256=x");
        let seen = script.play(&mut *start(Setup::default()).unwrap());
        if !seen.is_reviewed(&script) {
            return;
        }
        assert_eq!(seen.client.header("x-ratelimit-remaining"), Some("7"));
        assert_eq!(seen.client.header("set-cookie"), Some("a=b"));
        assert_eq!(seen.client.header("etag"), None);
        assert_eq!(seen.client.header("digest"), None);
        assert_eq!(seen.client.status(), Some(200));

        let kept = script.review(CHAT_ANSWER);
        let seen = kept.play(&mut *start(Setup::default()).unwrap());
        seen.assert_untouched(&kept);
        seen.assert_response("unchanged");
    }

    fn without_decisions_nothing_is_applied(start) {
        for answer in [
            r#"{"response":{"id":"other"}}"#,
            r#"{"response":{"id":"other"},"decisions":[]}"#,
            r#"{"response":{"id":"other"},"decisions":null}"#,
            "{}",
        ] {
            let script = Script::chat().unchanged().on("/v1/optimize-response", Answer::json(200, answer));
            let seen = script.play(&mut *start(Setup::default()).unwrap());
            seen.assert_untouched(&script);
            seen.assert_response("unchanged");
        }
    }

    fn nothing_reaches_the_client_before_the_optimizer_answered(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged().review(r#"{"id":"other"}"#);
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        script.provide(&mut *proxy, id);
        assert_eq!(proxy.client_got(id).headers.is_none(), proxy.can().hold_response);
        script.answer_callouts(&mut *proxy);
        assert!(proxy.client_got(id).complete);
    }

    fn with_the_hook_off_answers_pass_piece_by_piece(start) {
        let setup = Setup::default().with("hooks.response", false);
        let script = Script::chat().unchanged().header("accept-encoding", "br").in_pieces_of(20);
        let seen = script.play(&mut *start(setup).unwrap());
        seen.assert_untouched(&script);
        assert_eq!(seen.response, "none");
        assert_eq!(seen.provider.header("accept-encoding"), Some("br"));
        assert!(seen.client.chunks.len() > 3);
    }

    fn identity_is_asked_for_exactly_where_an_answer_is_read(start) {
        let read = Script::chat().header("accept-encoding", "gzip, br");
        let asks = |setup: Setup, script: &Script| {
            let seen = script.play(&mut *start(setup).unwrap());
            seen.provider.headers.unwrap().all("accept-encoding")
        };
        let quiet = || Setup::default().with("hooks.response", false);
        let reviews = start(Setup::default()).unwrap().can().hold_response;
        let for_the_review = if reviews { "identity" } else { "gzip, br" };
        assert_eq!(asks(Setup::default(), &read.clone().unchanged()), [for_the_review]);
        assert_eq!(asks(quiet(), &read.clone().eligible()), ["identity"], "for the write-back");
        assert_eq!(asks(quiet(), &read.clone().unchanged()), ["gzip, br"]);
        assert_eq!(asks(Setup::default(), &read), ["gzip, br"], "the optimizer is gone");
        let off = read.clone().header("x-anyray-optimize", "off");
        assert_eq!(asks(Setup::default(), &off), ["gzip, br"]);
        let streamed = Script::chat_with(r#"{"model":"m","messages":[],"stream":true}"#)
            .header("accept-encoding", "gzip, br").unchanged();
        assert_eq!(asks(Setup::default(), &streamed), ["gzip, br"]);
    }

    fn a_local_answer_of_the_host_is_not_reviewed(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged();
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        proxy.provider_reset(id);
        assert_eq!(proxy.client_got(id).status(), Some(if proxy.is() == Host::Kong { 502 } else { 503 }));
        assert!(proxy.client_got(id).complete);
        let outcome = proxy.can().hold_response.then_some("bypassed:response_not_from_provider");
        assert_eq!(proxy.annotation(id, "optimizer_response").as_deref(), outcome);
    }

    fn an_answer_cut_off_while_held_is_cut_off_for_the_client(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged();
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        proxy.response(id, &script.provider.headers, false);
        proxy.response_body(id, b"{\"id\"", false);
        proxy.provider_reset(id);
        assert!(proxy.was_cut(id));
        assert!(proxy.pending().is_empty());
    }

    fn both_hooks_tell_the_client_what_they_did(start) {
        let mut script = Script::chat().header("x-anyray-test", "1").review(r#"{"id":"other"}"#);
        script = script.optimize(r#"{"request":{"max_tokens":3},
            "decisions":[{"strategy":"old_name","applied":true}],
            "suppressedKinds":[{"kind":"k","reason":"r"}]}"#);
        let seen = script.play(&mut *start(Setup::default()).unwrap());
        let mut decisions = vec![json!({"kind": "old_name", "applied": true})];
        if seen.is_reviewed(&script) {
            decisions.push(json!({"kind": "redaction", "summary": "s", "applied": true}));
        }
        assert_eq!(seen.told(), json!({
            "status": "applied",
            "decisions": decisions,
            "suppressedKinds": [{"kind": "k", "reason": "r"}],
        }));
    }

    fn an_unusual_answer_is_held_whole_whatever_its_pieces(start) {
        let mut proxy = start(Setup::default().large_buffers()).unwrap();
        let long = format!(r#"{{"id":"1","model":"m","choices":[{{"text":"{}"}}]}}"#, "é".repeat(5000));
        for size in [1, 1000, 20_000] {
            let mut script = Script::new("/v1/chat/completions", CHAT, &long).unchanged();
            script = script.review(r#"{"id":"2"}"#).in_pieces_of(size);
            let seen = script.play(&mut *proxy);
            if !seen.is_reviewed(&script) {
                continue;
            }
            assert_eq!(seen.client.text(), long.replace("\"id\":\"1\"", "\"id\":\"2\""));
        }
        let mut script = Script::chat().unchanged().review(r#"{"id":"2"}"#);
        script.provider.headers.remove("content-length");
        script.provider.trailers = Some(Headers::from([("x-t", "1")]));
        let seen = script.play(&mut *proxy);
        assert_eq!(seen.client.text().contains(r#""id":"2""#), seen.is_reviewed(&script));
    }
}
