//! Write-backs: what is written to the cache, when, and what never is.

use std::time::Duration;

use integration::{Answer, Headers};
use optimizer_core::host::Host;
use serde_json::{Value, json};

use crate::proxy::{Setup, on_every_host};
use crate::script::{CHAT, CHAT_ANSWER, Script, write_backs};
use crate::transforms::DIALECTS;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

on_every_host! {
    fn every_dialect_is_written_back_after_the_client_has_its_answer(start) {
        for (path, body, answer) in DIALECTS {
            for setup in [Setup::default(), Setup::default().with("hooks.response", false)] {
                let mut proxy = start(setup).unwrap();
                let seen = Script::new(path, body, answer).eligible().play(&mut *proxy);
                assert!(seen.client.complete);
                assert!(seen.callouts.iter().all(|callout| callout.path() != "/v1/cache"), "on the client's time");
                assert_eq!(proxy.counters()["optimizer_write_backs.outcome.queued.reason.none"], 1);
                let written = write_backs(&mut *proxy);
                assert_eq!(written.len(), 1, "{path}");
                assert_eq!(written[0]["cacheKey"], "key-1");
                assert_eq!(written[0]["request"], parsed(body));
                assert_eq!(written[0]["response"], parsed(answer));
                assert!(written[0]["metadata"]["cacheScope"].is_string());
                assert_eq!(written[0].get("ttlSeconds"), None);
                assert_eq!(proxy.counters()["optimizer_callouts.kind.cache.result.ok"], 1);
                Script::new(path, body, answer).eligible().play(&mut *proxy);
                proxy.advance(Duration::from_secs(1));
                let callout = proxy.pending().remove(0);
                assert_eq!(callout.stream, None, "it belongs to no exchange");
                assert_eq!(proxy.time_out(callout.id), Some(Duration::from_secs(5)));
            }
        }
    }

    fn it_holds_what_was_sent_and_what_the_client_got(start) {
        let mut proxy = start(Setup::default().with("cache.ttl_seconds", 60)).unwrap();
        let script = Script::chat()
            .optimize(r#"{"request":{"max_tokens":3},"cacheEligible":true,"cacheKey":"k\"\u00e9"}"#)
            .review(r#"{"id":"other"}"#)
            .in_pieces_of(11);
        let seen = script.play(&mut *proxy);
        let written = write_backs(&mut *proxy);
        assert_eq!(written[0]["request"], parsed(&seen.provider.text()));
        assert_eq!(written[0]["response"], parsed(&seen.client.text()));
        assert_eq!(written[0]["response"]["id"] == "other", seen.is_reviewed(&script));
        assert_eq!(written[0]["cacheKey"], "k\"é");
        assert_eq!(written[0]["ttlSeconds"], 60);
    }

    fn a_copied_answer_passes_piece_by_piece_and_is_written_back_whole(start) {
        let setup = Setup::default().with("hooks.response", false);
        for chunked in [false, true] {
            let mut proxy = start(setup.clone().large_buffers()).unwrap();
            let mut script = Script::chat().eligible().in_pieces_of(16);
            if chunked {
                script = script.chunked();
                script.provider.trailers = Some(Headers::from([("x-t", "1")]));
            }
            let seen = script.play(&mut *proxy);
            assert!(seen.client.chunks.len() > 5, "the copy held it up");
            assert_eq!(write_backs(&mut *proxy)[0]["response"], parsed(CHAT_ANSWER));
        }
    }

    fn who_leaves_with_the_last_byte_that_was_announced_leaves_a_whole_answer(start) {
        for (missing, written) in [(0, 1), (1, 0)] {
            let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
            let script = Script::chat().eligible().provider_body(CHAT_ANSWER);
            let id = script.send(&mut *proxy);
            script.answer_callouts(&mut *proxy);
            proxy.response(id, &script.provider.headers, false);
            proxy.response_body(id, &CHAT_ANSWER.as_bytes()[missing..], false);
            proxy.client_gone(id);
            assert_eq!(write_backs(&mut *proxy).len(), written, "{:?}", proxy.counters());
        }
    }

    fn a_refused_hit_is_written_back_all_the_same(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let answer = format!(
            r#"{{"request":{CHAT},"cacheHit":true,"cachedResponse":{{"id":"c"}},"cacheEligible":true,"cacheKey":"k"}}"#
        );
        let seen = Script::chat().optimize(answer).play(&mut *proxy);
        assert_eq!(seen.outcome, "bypassed:hit_unproven");
        assert_eq!(write_backs(&mut *proxy).len(), 1);
    }

    fn a_served_hit_is_not(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        let answer = r#"{"cacheHit":true,"cachedResponse":{"id":"c"},"cacheEligible":true,"cacheKey":"k"}"#;
        assert_eq!(Script::chat().optimize(answer).play(&mut *proxy).outcome, "hit");
        assert!(write_backs(&mut *proxy).is_empty());
    }

    fn without_a_key_or_eligibility_nothing_is_written(start) {
        let mut proxy = start(Setup::default()).unwrap();
        for extra in [
            r#""cacheEligible":true"#,
            r#""cacheKey":"k""#,
            r#""cacheEligible":false,"cacheKey":"k""#,
            r#""cacheEligible":true,"cacheKey":null"#,
            r#""cacheEligible":true,"cacheKey":"""#,
            r#""cacheEligible":"yes","cacheKey":"k""#,
        ] {
            let seen = Script::chat().optimize(format!(r#"{{"request":{CHAT},{extra}}}"#)).play(&mut *proxy);
            assert_eq!(seen.outcome, "unchanged", "{extra}");
            assert!(write_backs(&mut *proxy).is_empty(), "{extra}");
        }
        let off = Setup::default().with("hooks.cache", false);
        let mut proxy = start(off).unwrap();
        Script::chat().eligible().play(&mut *proxy);
        assert!(write_backs(&mut *proxy).is_empty());
    }

    fn failures_of_a_write_back_are_counted_and_nothing_else(start) {
        for (answer, result) in [
            (Answer::Refused, "unreachable"),
            (Answer::Timeout, "timeout"),
            (Answer::Reset, "reset"),
            (Answer::json(500, "{}"), "status"),
        ] {
            let mut proxy = start(Setup::default()).unwrap();
            Script::chat().eligible().play(&mut *proxy);
            proxy.advance(Duration::from_secs(1));
            let callout = proxy.pending()[0].id;
            proxy.answer(callout, answer);
            let name = format!("optimizer_callouts.kind.cache.result.{result}");
            assert_eq!(proxy.counters().get(&name), Some(&1), "{:?}", proxy.counters());
            assert_eq!(Script::chat().unchanged().play(&mut *proxy).outcome, "unchanged");
        }
    }

    fn a_write_back_that_cannot_be_sent_is_counted(start) {
        let mut proxy = start(Setup::default()).unwrap();
        Script::chat().eligible().play(&mut *proxy);
        proxy.optimizer_dies();
        let result = if proxy.is() == Host::Kong { "unreachable" } else { "dispatch_failed" };
        write_backs(&mut *proxy);
        assert_eq!(proxy.counters()[&format!("optimizer_callouts.kind.cache.result.{result}")], 1);
        assert!(write_backs(&mut *proxy).is_empty());
    }

    fn a_burst_leaves_bit_by_bit(start) {
        let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
        for _ in 0..100 {
            Script::chat().eligible().play(&mut *proxy);
        }
        proxy.advance(Duration::from_millis(500));
        let most = proxy.can().background_callouts;
        assert_eq!(proxy.pending().len(), most, "so many under way at once");
        assert_eq!(write_backs(&mut *proxy).len(), 100 - most);
        assert_eq!(proxy.counters()["optimizer_callouts.kind.cache.result.ok"], 100);
    }

    fn a_busy_worker_still_writes_back(start) {
        // Envoy starts the timer anew whenever its period is set.
        let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
        for _ in 0..50 {
            Script::chat().eligible().play(&mut *proxy);
            proxy.advance(Duration::from_millis(5));
        }
        let left = proxy.callouts().iter().filter(|callout| callout.path() == "/v1/cache").count();
        assert!(left > 20, "{left} left so far");
    }

    fn the_call_s_trace_goes_along(start) {
        let mut proxy = start(Setup::default()).unwrap();
        Script::chat().eligible().header("x-request-id", "r-1").play(&mut *proxy);
        write_backs(&mut *proxy);
        let callout = proxy.callouts().last().unwrap();
        // Each header costs Kong's runtime some memory for good.
        let id = (proxy.is() != Host::Kong).then_some("r-1");
        assert_eq!(callout.headers.get("x-request-id"), id);
        assert_eq!(callout.headers.get("authorization"), None);
    }

    fn stored_state_may_be_cached_only_where_the_client_refused_it(start) {
        for (extra, written) in [
            (r#","store":false"#, 1),
            ("", 0),
            (r#","store":true"#, 0),
            (r#","store":false,"background":true"#, 0),
            (r#","store":false,"previous_response_id":"r""#, 0),
            (r#","store":false,"conversation":"c""#, 0),
            (r#","store":false,"conversation":null,"background":false"#, 1),
        ] {
            let mut proxy = start(Setup::default()).unwrap();
            let body = format!(r#"{{"model":"m","input":"i"{extra}}}"#);
            Script::new("/v1/responses", body, DIALECTS[3].2).eligible().play(&mut *proxy);
            assert_eq!(write_backs(&mut *proxy).len(), written, "{extra}");
        }
    }

    fn metadata_of_a_write_back_is_that_of_the_call(start) {
        let setup = Setup::default().with("attribution", json!({"user": {"header": "x-user"}}));
        let mut proxy = start(setup).unwrap();
        let seen = Script::chat().eligible().header("x-user", "ann").play(&mut *proxy);
        let written = write_backs(&mut *proxy);
        assert_eq!(written[0]["metadata"], seen.asked("/v1/optimize")["metadata"]);
        assert_eq!(written[0]["metadata"]["user"], "ann");
    }
}
