//! The response hook on streams: held, reviewed as one document, and told again.

use integration::Answer;
use optimizer_core::bypass::Bypass;
use serde_json::{Value, json};

use crate::proxy::{Setup, on_every_host};
use crate::reasons::{counted, large, plain};
use crate::script::{Script, recorded, records, write_backs};
use crate::streams::{assembled, endpoint, whole};

/// Streams are held.
fn held() -> Setup {
    large().with("hooks.stream_response", true)
}

on_every_host! {
    fn every_recorded_stream_is_reviewed_as_one_document(start) {
        for name in whole() {
            let mut proxy = start(held()).unwrap();
            let script = Script::recorded(&name).unchanged().review(r#"{"id":"other"}"#);
            let script = script.in_pieces_of(100);
            let seen = script.play(&mut *proxy);
            if !seen.is_reviewed(&script) {
                continue;
            }
            assert_eq!(seen.response, "transformed", "{name}");
            assert_eq!(seen.counted["optimizer_responses.outcome.transformed.reason.none"], 1);
            let mut expected = assembled(endpoint(&name), &recorded(&name));
            let asked = seen.asked("/v1/optimize-response");
            assert_eq!(asked["endpoint"], endpoint(&name));
            assert_eq!(asked["request"], serde_json::from_str::<Value>(&script.body()).unwrap());
            assert_eq!(asked["response"], expected, "{name}");
            expected["id"] = json!("other");
            assert_eq!(assembled(endpoint(&name), &seen.client.body()), expected, "{name}");
            assert_eq!(seen.client.header("content-type"), script.provider.headers.get("content-type"));
            assert!(seen.client.complete);
        }
    }

    fn nothing_reaches_the_client_before_the_optimizer_answered(start) {
        let mut proxy = start(held()).unwrap();
        let script = Script::recorded("chat_text").unchanged().review(r#"{"model":"other"}"#);
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        script.provide(&mut *proxy, id);
        assert_eq!(proxy.client_got(id).headers.is_none(), proxy.can().hold_response);
        script.answer_callouts(&mut *proxy);
        assert!(proxy.client_got(id).complete);
    }

    fn the_length_of_a_replay_is_right(start) {
        let stream = recorded("anthropic_text");
        let mut script = Script::recorded("anthropic_text").unchanged().review(r#"{"model":"a longer name than before"}"#);
        script = script.provider_header("content-length", &stream.len().to_string())
            .provider_header("etag", "\"e\"").provider_header("x-ratelimit-remaining", "7");
        // With a length it may be held on a host that buffers little.
        let seen = script.play(&mut *start(plain().with("hooks.stream_response", true)).unwrap());
        if !seen.is_reviewed(&script) {
            return;
        }
        assert_eq!(seen.response, "transformed");
        let length = seen.client.body().len().to_string();
        assert_eq!(seen.client.header("content-length"), Some(&*length));
        assert_eq!(seen.client.header("etag"), None);
        assert_eq!(seen.client.header("x-ratelimit-remaining"), Some("7"));
    }

    fn what_did_not_change_keeps_its_bytes(start) {
        for answer in [
            r#"{"response":{"model":"gpt-4o-2024-08-06"},"decisions":[{"kind":"k"}]}"#,
            r#"{"response":{"model":"other"},"decisions":[]}"#,
            "{}",
        ] {
            let script = Script::recorded("chat_text").unchanged()
                .on("/v1/optimize-response", Answer::json(200, answer)).in_pieces_of(333);
            let seen = script.play(&mut *start(held()).unwrap());
            seen.assert_untouched(&script);
            seen.assert_response("unchanged");
        }
    }

    fn it_fails_open_in_every_way(start) {
        let on = |answer: Answer| Script::recorded("chat_text").unchanged().on("/v1/optimize-response", answer);
        let decided = |response: &str| on(Answer::json(200, format!(r#"{{"response":{response},"decisions":[{{"kind":"k"}}]}}"#)));
        let streams = |stream: &[u8]| Script::recorded("chat_text").unchanged().review(r#"{"model":"other"}"#).streams(stream);
        let few = plain().with("hooks.stream_response", true);
        for (setup, script, reason) in [
            (held(), on(Answer::Refused), Bypass::OptimizerUnreachable),
            (held(), on(Answer::Timeout), Bypass::OptimizerTimeout),
            (held(), on(Answer::Reset), Bypass::OptimizerReset),
            (held(), on(Answer::json(500, "{}")), Bypass::OptimizerStatus),
            (held(), on(Answer::json(200, "x")), Bypass::AnswerNotJson),
            (held(), decided("null"), Bypass::AnswerWrongShape),
            (held(), decided(r#"{"choices":"x"}"#), Bypass::TransformRequiredRetyped),
            (held(), decided(r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[]}"#), Bypass::TransformArrayEmptied),
            (held(), decided(r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0}]}"#), Bypass::TransformUnreplayable),
            (held(), streams(&recorded("chat_without_done")), Bypass::StreamIncomplete),
            (held(), streams(&recorded("chat_error")), Bypass::ResponseError),
            (held(), streams(&recorded("chat_not_json")), Bypass::ResponseNotJson),
            (held(), streams(b"data: {}\n\ndata: [DONE]\n\n"), Bypass::StreamUnexpected),
            (held(), streams(b""), Bypass::StreamIncomplete),
            (held().with("limits.response_bytes", 1024), streams(&recorded("chat_text")).in_pieces_of(100), Bypass::ResponseTooLarge),
            (few, streams(&recorded("chat_text")), Bypass::ResponseLengthUnknown),
            (large(), streams(&recorded("chat_text")), Bypass::ResponseStream),
        ] {
            println!("{}", reason.name());
            let mut proxy = start(setup).unwrap();
            if !proxy.reaches(reason) {
                continue;
            }
            let seen = script.play(&mut *proxy);
            seen.assert_untouched(&script);
            seen.assert_response(&format!("bypassed:{}", reason.name()));
            assert_eq!(seen.outcome, "unchanged");
            assert_eq!(counted(&*proxy, "responses", reason), u64::from(proxy.can().hold_response));
        }
    }

    fn a_stream_over_the_hosts_buffer_flows_on_and_is_still_read(start) {
        let mut proxy = start(held().with("limits.response_bytes", 64 << 20)).unwrap();
        let long = format!(": {}\n\n", "x".repeat(1 << 20)).repeat(33);
        let stream = [long.as_bytes(), &recorded("chat_text")].concat();
        let mut script = Script::recorded("chat_text").eligible().streams(stream);
        script = script.in_pieces_of(1 << 20);
        let seen = script.play(&mut *proxy);
        seen.assert_response("bypassed:response_over_host_buffer");
        assert!(seen.client.body() == script.provider.pieces.concat());
        assert!(seen.client.complete);
        assert_eq!(write_backs(&mut *proxy)[0]["response"]["object"], "chat.completion");
    }

    fn what_the_client_got_is_written_back_and_recorded(start) {
        let mut proxy = start(held().with("hooks.record", true).with("record.content", true)).unwrap();
        let script = Script::recorded("chat_text").eligible().review(r#"{"id":"other"}"#);
        let seen = script.play(&mut *proxy);
        let client = assembled("/v1/chat/completions", &seen.client.body());
        let reviews = seen.is_reviewed(&script);
        assert_eq!(client["id"] == "other", reviews);
        assert_eq!(write_backs(&mut *proxy)[0]["response"], client);
        script.play(&mut *proxy);
        let record = records(&mut *proxy).remove(0);
        assert_eq!(record["content"]["output"], client);
        assert_eq!(record["promptTokens"], 21);
        let decisions = json!([{"kind": "redaction", "summary": "s", "applied": true}]);
        assert_eq!(record.get("decisions"), Some(&decisions).filter(|_| reviews));
    }

    fn both_hooks_tell_the_client_of_a_stream(start) {
        let mut proxy = start(held()).unwrap();
        let script = Script::recorded("chat_text").header("x-anyray-test", "1").review(r#"{"id":"other"}"#);
        let answer = r#"{"request":{"max_tokens":3},"decisions":[{"kind":"k","applied":true}]}"#;
        let script = script.optimize(answer);
        let seen = script.play(&mut *proxy);
        let mut decisions = vec![json!({"kind": "k", "applied": true})];
        if seen.is_reviewed(&script) {
            decisions.push(json!({"kind": "redaction", "summary": "s", "applied": true}));
        }
        assert_eq!(seen.told()["decisions"], json!(decisions));
    }

    fn who_leaves_while_a_stream_is_held(start) {
        let mut proxy = start(held()).unwrap();
        let script = Script::recorded("chat_text").eligible();
        for whole in [false, true] {
            let id = script.send(&mut *proxy);
            script.answer_callouts(&mut *proxy);
            proxy.response(id, &script.provider.headers, false);
            proxy.response_body(id, &recorded("chat_text"), whole);
            proxy.client_gone(id);
            if !proxy.can().hold_response {
                assert_eq!(proxy.client_got(id).body(), recorded("chat_text"), "it is not held");
                assert_eq!(write_backs(&mut *proxy).len(), 1, "and it is whole");
                continue;
            }
            assert!(write_backs(&mut *proxy).is_empty());
        }
        if !proxy.can().hold_response {
            return;
        }
        assert_eq!(counted(&*proxy, "responses", Bypass::ClientGone), 2);
        assert_eq!(counted(&*proxy, "write_backs", Bypass::ResponseUnreadable), 2);
        assert_eq!(proxy.counters()["optimizer_callouts.kind.optimize_response.result.abandoned"], 1);
        assert_eq!(script.play(&mut *proxy).outcome, "unchanged");
    }

    fn a_plain_client_s_stream_is_held_only_where_streams_are(start) {
        let script = Script::recorded("chat_text").plain().unchanged().review(r#"{"model":"other"}"#);
        let seen = script.play(&mut *start(large()).unwrap());
        seen.assert_response("bypassed:response_stream");
        seen.assert_untouched(&script);
        let seen = script.play(&mut *start(held()).unwrap());
        if !seen.is_reviewed(&script) {
            return;
        }
        assert_eq!(seen.response, "transformed");
        let told = assembled("/v1/chat/completions", &seen.client.body());
        assert_eq!(told["model"], "other");
        assert!(told["usage"].is_object(), "the plain client had been told");
    }
}
