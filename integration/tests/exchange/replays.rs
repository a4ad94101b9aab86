//! Hits for clients that asked for a stream, and for those that did not.

use optimizer_core::bypass::Bypass;
use serde_json::{Value, json};

use crate::proxy::{Proxy, Setup, on_every_host};
use crate::reasons::counted;
use crate::script::{Script, Seen, recorded, write_backs};
use crate::streams::{assembled, endpoint, whole};
use crate::transforms::DIALECTS;

/// A call that the optimizer knows the answer to, `recorded` where the client asks for a stream.
fn hit(name: &str, cached: &Value) -> Script {
    Script::recorded(name).hit(&cached.to_string())
}

fn assert_served(seen: &Seen, content_type: &str) {
    assert_eq!(seen.outcome, "hit");
    assert_eq!(seen.client.status(), Some(200));
    assert_eq!(seen.client.header("content-type"), Some(content_type));
    assert!(seen.client.complete);
    assert!(seen.provider.headers.is_none(), "the provider was contacted");
    assert_eq!(seen.counted["optimizer_exchanges.outcome.hit.reason.none"], 1);
    assert_eq!(seen.response, "none");
}

/// What a streamed call leaves in the cache.
fn written_by(proxy: &mut dyn Proxy, script: &Script) -> Value {
    script.clone().eligible().play(proxy);
    write_backs(proxy).remove(0)["response"].take()
}

/// The data of a stream's events.
fn events(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

on_every_host! {
    fn what_a_stream_left_answers_streams_and_plain_calls(start) {
        for name in whole() {
            let mut proxy = start(Setup::default()).unwrap();
            let written = written_by(&mut *proxy, &Script::recorded(&name));

            let seen = hit(&name, &written).play(&mut *proxy);
            assert_served(&seen, "text/event-stream");
            assert_eq!(assembled(endpoint(&name), &seen.client.body()), written, "{name}");

            let plain = Script::recorded(&name).plain().hit(&written.to_string());
            let seen = plain.play(&mut *proxy);
            assert_served(&seen, "application/json");
            assert_eq!(serde_json::from_str::<Value>(&seen.client.text()).unwrap(), written, "{name}");
        }
    }

    fn what_a_plain_call_left_answers_streams(start) {
        let plain_answers = [
            ("chat_text", r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"t"},"finish_reason":"stop"}],"usage":{"total_tokens":9007199254740993}}"#),
            ("completions_text", r#"{"id":"1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"t","finish_reason":"stop","logprobs":null}]}"#),
            ("responses_text", r#"{"id":"1","object":"response","created_at":1,"model":"m","status":"completed","output":[{"id":"m1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"t","annotations":[],"logprobs":[]}]}]}"#),
            ("anthropic_text", r#"{"id":"1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"t"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":2}}"#),
        ];
        for (name, answer) in plain_answers {
            let mut proxy = start(Setup::default()).unwrap();
            let mut plain = Script::recorded(name).plain();
            plain.provider = Script::chat().provider_body(answer).provider;
            let written = written_by(&mut *proxy, &plain);
            assert_eq!(written, serde_json::from_str::<Value>(answer).unwrap());
            let seen = hit(name, &written).play(&mut *proxy);
            assert_served(&seen, "text/event-stream");
            assert_eq!(assembled(endpoint(name), &seen.client.body()), written, "{}", seen.client.text());
        }
    }

    fn usage_is_told_in_a_stream_only_to_who_asked(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        for name in ["chat_text", "completions_text"] {
            let cached = assembled(endpoint(name), &recorded(name));
            assert!(cached["usage"]["total_tokens"].is_number());
            let asks = hit(name, &cached);
            let body = asks.body();
            for (options, told) in [
                (r#","stream_options":{"include_usage":true}"#, true),
                (r#","stream_options":{"include_usage":false}"#, false),
                (r#","stream_options":null"#, false),
                ("", false),
            ] {
                let body = body.replace(r#","stream_options":{"include_usage":true}"#, options);
                let mut script = asks.clone();
                script.headers.replace("content-length", body.len().to_string().as_bytes());
                script.pieces = vec![body.into_bytes()];
                let seen = script.play(&mut *proxy);
                assert_served(&seen, "text/event-stream");
                let with_usage = events(&seen.client.text()).iter().filter(|event| event["usage"].is_object()).count();
                assert_eq!(with_usage, usize::from(told), "{options}");
            }
        }
        let cached = assembled("/v1/messages", &recorded("anthropic_text"));
        let seen = hit("anthropic_text", &cached).play(&mut *proxy);
        let events = events(&seen.client.text());
        assert_eq!(events[0]["type"], "message_start");
        assert_eq!(events.last().unwrap()["type"], "message_stop");
        assert_eq!(events[events.len() - 2]["usage"]["output_tokens"], 15);
    }

    fn a_hit_that_cannot_be_told_as_a_stream_is_not_served(start) {
        let elsewhere = assembled("/v1/messages", &recorded("anthropic_text"));
        let unfinished = json!({"id": "c", "object": "chat.completion", "choices": [{"index": 0}]});
        for cached in [json!({"id": "c"}), elsewhere, unfinished] {
            let mut proxy = start(Setup::default().serves_anyone()).unwrap();
            let body = Script::recorded("chat_text").body();
            let answer = json!({
                "request": {"model": "other", "messages": []},
                "cacheHit": true, "cachedResponse": cached, "cacheEligible": true, "cacheKey": "k",
            });
            let script = Script::recorded("chat_text").header("x-anyray-test", "1").optimize(answer.to_string());
            let seen = script.play(&mut *proxy);
            seen.assert_untouched(&script);
            assert_eq!(seen.provider.text(), body);
            assert_eq!(seen.outcome, "bypassed:hit_unreplayable");
            assert_eq!(seen.told()["reason"], "hit_unreplayable");
            assert_eq!(counted(&*proxy, "exchanges", Bypass::HitUnreplayable), 1);
            // What could not be told is replaced by what can be.
            assert_eq!(write_backs(&mut *proxy)[0]["response"]["object"], "chat.completion");
            let plain = script.plain().play(&mut *proxy);
            assert_served(&plain, "application/json");
        }
        let (path, body, _) = DIALECTS[2];
        let body = body.replace('}', r#","stream":true}"#);
        let cached = r#"{"object":"list","model":"m","data":[{"embedding":[0.1]}]}"#;
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        let seen = Script::new(path, body, cached).hit(cached).play(&mut *proxy);
        assert_eq!(seen.outcome, "bypassed:hit_unreplayable", "embeddings have no streams");
    }

    fn a_streaming_caller_is_proven_like_any_other(start) {
        let cached = assembled("/v1/messages", &recorded("anthropic_text"));
        let script = hit("anthropic_text", &cached);
        let mut proxy = start(Setup::default()).unwrap();
        let seen = script.play(&mut *proxy);
        assert_eq!(seen.outcome, "bypassed:hit_unproven");
        seen.assert_untouched(&script);
        assert_served(&script.play(&mut *proxy), "text/event-stream");
        let stranger = script.clone().set("authorization", "Bearer other").play(&mut *proxy);
        assert_eq!(stranger.outcome, "bypassed:hit_unproven");
        let fresh = script.header("cache-control", "no-cache").play(&mut *proxy);
        assert_eq!(fresh.outcome, "bypassed:hit_no_cache");
    }

    fn a_replay_is_told_of_and_written_back_no_more(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        let cached = assembled("/v1/chat/completions", &recorded("chat_text"));
        let answer = json!({
            "cacheHit": true, "cachedResponse": cached, "cacheEligible": true, "cacheKey": "k",
            "decisions": [{"kind": "cache", "summary": "s", "applied": true}],
        });
        let script = Script::recorded("chat_text").header("x-anyray-test", "1").optimize(answer.to_string());
        let seen = script.play(&mut *proxy);
        assert_served(&seen, "text/event-stream");
        assert_eq!(seen.told(), json!({
            "status": "hit",
            "decisions": [{"kind": "cache", "summary": "s", "applied": true}],
            "suppressedKinds": [],
        }));
        assert!(write_backs(&mut *proxy).is_empty());
    }

    fn only_true_asks_for_a_stream(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        let cached = assembled("/v1/chat/completions", &recorded("chat_text"));
        for stream in ["false", "null", "\"true\"", "1"] {
            let body = format!(r#"{{"model":"m","messages":[],"stream":{stream}}}"#);
            let seen = Script::chat_with(body).hit(&cached.to_string()).play(&mut *proxy);
            assert_served(&seen, "application/json");
        }
    }

    fn a_long_answer_is_replayed_whole(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        let mut cached = assembled("/v1/chat/completions", &recorded("chat_text"));
        // The answer itself is longer than the bodies that this host buffers.
        cached["choices"][0]["message"]["content"] = json!("é".repeat(1 << 20));
        let seen = hit("chat_text", &cached).play(&mut *proxy);
        assert_served(&seen, "text/event-stream");
        let length = seen.client.body().len().to_string();
        assert_eq!(seen.client.header("content-length"), Some(&*length));
        let contents: String = events(&seen.client.text())
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(contents, "é".repeat(1 << 20));
    }
}
