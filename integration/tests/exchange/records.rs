//! Records: one for every exchange on an LLM endpoint, whatever became of it.

use std::time::Duration;

use integration::{Answer, Headers};
use optimizer_core::host::Host;
use serde_json::{Value, json};

use crate::proxy::{Id, Proxy, Setup, on_every_host};
use crate::script::{Script, recorded, records};
use crate::streams::{assembled, endpoint};

/// When the hosts of the suite start, in milliseconds since the Unix epoch.
const START_MS: u64 = 1_800_000_000_000;

/// A plain answer of the provider with everything that a usage can hold.
const ANSWER: &str = r#"{"id":"c1","model":"gpt","choices":[{"index":0}],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,
    "prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}}}"#;

fn recording() -> Setup {
    Setup::default().with("hooks.record", true)
}

fn with_content() -> Setup {
    recording().with("record.content", true)
}

/// A chat call with an id, whose answer has a usage.
fn chat() -> Script {
    Script::chat().provider_body(ANSWER).header("x-request-id", "r-1")
}

/// An answer of the optimizer that changes the request.
fn applied() -> &'static str {
    r#"{"optimizationId":"o-1","request":{"max_tokens":3},"decisions":[{"kind":"k","applied":true}]}"#
}

/// The one record that an exchange left.
fn record(proxy: &mut dyn Proxy) -> Value {
    let mut records = records(proxy);
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

/// The members that every record of a chat call has.
fn base() -> Value {
    json!({
        "id": "r-1", "ts": START_MS, "endpoint": "/v1/chat/completions", "method": "POST",
        "provider": "llm", "durationMs": 0,
    })
}

/// `record` with further members.
fn with(mut record: Value, more: Value) -> Value {
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    record
}

/// What an answered chat call adds.
fn answered() -> Value {
    json!({
        "status": 200, "model": "gpt", "promptTokens": 7, "completionTokens": 5, "totalTokens": 12,
        "cachedTokens": 3, "reasoningTokens": 2, "optimizationLatencyMs": 0,
    })
}

fn send(proxy: &mut dyn Proxy, script: &Script) -> Id {
    let id = script.send(proxy);
    script.answer_callouts(proxy);
    id
}

on_every_host! {
    fn every_member_of_a_transformed_call(start) {
        let setup = recording().with("attribution", json!({"user": {"header": "x-user"}}));
        let mut proxy = start(setup).unwrap();
        proxy.advance(Duration::from_millis(1500));
        let claim = r#"{"user":"mallory","team":"t","session_id":"s","intent":"i","intentLabel":null,"tool":"x"}"#;
        let script = chat().optimize(applied()).review(r#"{"id":"2"}"#)
            .header("x-user", "ann").header("x-anyray-metadata", claim);
        let id = script.send(&mut *proxy);
        proxy.advance(Duration::from_millis(44));
        script.answer_callouts(&mut *proxy);
        proxy.advance(Duration::from_millis(300));
        script.provide(&mut *proxy, id);
        if proxy.can().hold_response {
            proxy.advance(Duration::from_millis(56));
            script.answer_callouts(&mut *proxy);
        }
        assert!(proxy.client_got(id).complete);
        let reviews = proxy.can().hold_response;
        let mut decisions = vec![json!({"kind": "k", "applied": true})];
        if reviews {
            decisions.push(json!({"kind": "redaction", "summary": "s", "applied": true}));
        }
        let ended = records(&mut *proxy);
        assert_eq!(ended.len(), 1, "{ended:?}");
        assert_eq!(ended[0], json!({
            "id": "r-1", "ts": START_MS + 1500, "endpoint": "/v1/chat/completions", "method": "POST",
            "status": 200, "model": "gpt", "provider": "llm",
            "promptTokens": 7, "completionTokens": 5, "totalTokens": 12, "cachedTokens": 3, "reasoningTokens": 2,
            "durationMs": if reviews { 400 } else { 344 }, "optimizationLatencyMs": 44,
            "attribution": {"user": "ann", "team": "t", "sessionId": "s", "intent": "i"},
            "decisions": decisions,
            "optimizationId": "o-1", "optimizationStatus": "applied",
        }));
        assert_eq!(proxy.counters()["optimizer_records.outcome.queued.reason.none"], 1);
        assert_eq!(proxy.counters()["optimizer_callouts.kind.record.result.ok"], 1);
    }

    fn calls_that_were_answered(start) {
        let cached = serde_json::from_str::<Value>(ANSWER).unwrap();
        let skipped = with(base(), with(answered(), json!({"optimizationStatus": "skipped"})));
        let hit = with(base(), with(answered(), json!({"optimizationStatus": "applied"})));
        let untold = with(base(), answered());
        let mut unread = untold.clone();
        for member in ["model", "optimizationLatencyMs"] {
            unread.as_object_mut().unwrap().remove(member);
        }
        let mut invalid = chat().optimize("{}");
        invalid.pieces = vec![b"{\"model\":".to_vec()];
        invalid.headers.replace("content-length", b"9");
        for (name, script, expected) in [
            ("unchanged", chat().unchanged(), skipped.clone()),
            ("hit", chat().hit(&cached.to_string()), hit),
            ("hit refused", chat().hit(&cached.to_string()).header("cache-control", "no-cache"), skipped.clone()),
            ("refused", chat().transform(r#"{"messages":null}"#), skipped),
            ("optimizer gone", chat(), untold.clone()),
            ("optimizer babbles", chat().optimize("<html>"), untold),
            ("opted out", chat().header("x-anyray-optimize", "off"), unread.clone()),
            ("signed", chat().header("digest", "x"), unread.clone()),
            ("chunked", { let mut s = chat(); s.headers.remove("content-length"); s }, unread.clone()),
            ("not JSON", invalid, unread),
        ] {
            println!("{name}");
            let mut proxy = start(recording().serves_anyone()).unwrap();
            script.play(&mut *proxy);
            // Where no buffer is to be spared, a body may come whose length nobody told.
            let is_read = name == "chunked" && !proxy.can().limits_buffers;
            assert_eq!(record(&mut *proxy), if is_read { with(base(), answered()) } else { expected });
            assert_eq!(proxy.counters()["optimizer_records.outcome.queued.reason.none"], 1);
        }
    }

    fn streamed_calls(start) {
        for (name, usage) in [
            ("chat_text", json!({"promptTokens": 21, "completionTokens": 34, "totalTokens": 55, "cachedTokens": 0, "reasoningTokens": 0})),
            ("chat_reasoning", json!({"promptTokens": 14, "completionTokens": 29, "totalTokens": 43, "cachedTokens": 0, "reasoningTokens": 17})),
            ("completions_text", json!({"promptTokens": 5, "completionTokens": 16, "totalTokens": 21})),
            ("anthropic_text", json!({"promptTokens": 25, "completionTokens": 15, "cachedTokens": 0, "cacheCreationTokens": 0})),
            // What the events of a stream say is merged, the last word counts.
            ("anthropic_usage_merged", json!({"promptTokens": 2680, "completionTokens": 12, "cachedTokens": 7, "cacheCreationTokens": 188086})),
            // No usage was asked for, or none came.
            ("chat_function_call", json!({})),
        ] {
            let mut proxy = start(recording().serves_anyone()).unwrap();
            let script = Script::recorded(name).header("x-request-id", "r-1");
            let expected = with(with(base(), usage), json!({
                "endpoint": endpoint(name), "status": 200, "model": "m", "optimizationLatencyMs": 0,
            }));
            script.clone().unchanged().in_pieces_of(50).play(&mut *proxy);
            assert_eq!(record(&mut *proxy), with(expected.clone(), json!({"optimizationStatus": "skipped"})), "{name}");

            let cached = assembled(endpoint(name), &recorded(name)).to_string();
            let mut proxy = start(recording().serves_anyone()).unwrap();
            assert_eq!(script.hit(&cached).play(&mut *proxy).outcome, "hit");
            assert_eq!(record(&mut *proxy), with(expected, json!({"optimizationStatus": "applied"})), "{name}");
        }
        let mut proxy = start(recording()).unwrap();
        Script::recorded("responses_text").play(&mut *proxy);
        let record = record(&mut *proxy);
        let usage = assembled("/v1/responses", &recorded("responses_text"))["usage"].take();
        assert!(usage["input_tokens"].is_number());
        assert_eq!(record["promptTokens"], usage["input_tokens"]);
        assert_eq!(record["completionTokens"], usage["output_tokens"]);
        assert_eq!(record["reasoningTokens"], usage["output_tokens_details"]["reasoning_tokens"]);
        assert_eq!(record["cachedTokens"], usage["input_tokens_details"]["cached_tokens"]);
    }

    fn calls_that_failed(start) {
        let told = json!({"model": "gpt", "optimizationLatencyMs": 0, "optimizationStatus": "skipped"});
        let failed = with(base(), told);

        let mut proxy = start(recording()).unwrap();
        let refused = chat().unchanged().provider_header(":status", "429").provider_body(r#"{"error":{}}"#);
        refused.play(&mut *proxy);
        assert_eq!(record(&mut *proxy), with(failed.clone(), json!({"status": 429})), "the provider says no");

        let mut proxy = start(recording()).unwrap();
        let id = send(&mut *proxy, &chat().unchanged());
        proxy.provider_reset(id);
        let status = if proxy.is() == Host::Kong { 502 } else { 503 };
        assert_eq!(record(&mut *proxy), with(failed.clone(), json!({"status": status})), "it is unreachable");

        let mut proxy = start(recording()).unwrap();
        let id = send(&mut *proxy, &chat().unchanged());
        proxy.client_gone(id);
        assert_eq!(record(&mut *proxy), failed, "the client left before the answer");

        let mut proxy = start(recording()).unwrap();
        let id = chat().send(&mut *proxy);
        proxy.client_gone(id);
        if proxy.is() == Host::Kong {
            // Nothing notices before the callout has ended.
            chat().unchanged().answer_callouts(&mut *proxy);
            assert_eq!(record(&mut *proxy), failed);
            assert!(proxy.provider_got(id).headers.is_none());
        } else {
            let gone = record(&mut *proxy);
            assert_eq!(gone, with(base(), json!({"model": "gpt"})), "the client left while the optimizer was asked");
        }

        // The module is asked before the body is there.
        let at_once = || Setup { lua: None, ..recording() };
        let mut proxy = start(at_once()).unwrap();
        let id = proxy.request(&chat().headers, false);
        proxy.request_body(id, b"{\"mo", false);
        proxy.client_gone(id);
        assert_eq!(record(&mut *proxy), base(), "the client left in the middle of its request");

        let mut proxy = start(at_once()).unwrap();
        let slow = chat();
        let id = proxy.request(&slow.headers, false);
        proxy.advance(Duration::from_secs(1));
        proxy.request_body(id, &slow.pieces[0], true);
        slow.answer_callouts(&mut *proxy);
        slow.provide(&mut *proxy, id);
        let late = record(&mut *proxy);
        assert_eq!((&late["status"], &late["promptTokens"]), (&json!(200), &json!(7)), "the body came too late");
        // nginx waits for bodies by itself.
        assert_eq!(late.get("model").is_some(), proxy.is() == Host::Kong);

        let mut proxy = start(at_once().large_buffers()).unwrap();
        let id = proxy.request(&chat().headers, false);
        proxy.local_answer(id, 413);
        assert_eq!(record(&mut *proxy), with(base(), json!({"status": 413})), "the host answered itself");
    }

    fn who_leaves_in_the_middle_of_a_stream(start) {
        let stream = recorded("anthropic_text");
        let text = String::from_utf8(stream.clone()).unwrap();
        let begun = text.find("event: content_block_start").unwrap();
        let stopped = text.find("event: message_stop").unwrap();
        for (name, at, usage) in [
            ("anthropic_text", begun, json!({"promptTokens": 25, "completionTokens": 1, "cachedTokens": 0, "cacheCreationTokens": 0})),
            ("anthropic_text", stopped, json!({"promptTokens": 25, "completionTokens": 15, "cachedTokens": 0, "cacheCreationTokens": 0})),
            ("anthropic_text", 20, json!({})),
            ("chat_text", 2000, json!({})),
        ] {
            for leave in [|p: &mut dyn Proxy, id| p.client_gone(id), |p: &mut dyn Proxy, id| p.provider_reset(id)] {
                let mut proxy = start(with_content()).unwrap();
                let script = Script::recorded(name).header("x-request-id", "r-1").unchanged();
                let id = send(&mut *proxy, &script);
                proxy.response(id, &script.provider.headers, false);
                proxy.response_body(id, &recorded(name)[..at], false);
                proxy.advance(Duration::from_millis(70));
                leave(&mut *proxy, id);
                let expected = with(with(base(), usage.clone()), json!({
                    "endpoint": endpoint(name), "status": 200, "model": "m", "durationMs": 70,
                    "optimizationLatencyMs": 0, "optimizationStatus": "skipped",
                    "content": {"input": serde_json::from_str::<Value>(&script.body()).unwrap()},
                }));
                assert_eq!(record(&mut *proxy), expected, "{name} {at}");
            }
        }
    }

    fn what_is_no_call_leaves_no_record(start) {
        let mut proxy = start(recording()).unwrap();
        for script in [
            chat().set(":path", "/v1/models"),
            chat().set(":method", "PUT"),
            chat().set("content-type", "text/plain"),
        ] {
            script.play(&mut *proxy);
        }
        assert!(records(&mut *proxy).is_empty());
        let mut proxy = start(Setup::default()).unwrap();
        chat().unchanged().play(&mut *proxy);
        assert!(records(&mut *proxy).is_empty(), "off by default");
    }

    fn without_an_id_of_the_hosts_each_record_has_one_of_its_own(start) {
        let mut proxy = start(recording()).unwrap();
        let ids: [&[u8]; 3] = [b"", b"\xff", b"a\tb"];
        for id in ids {
            chat().without("x-request-id").header("x-request-id", id).unchanged().play(&mut *proxy);
        }
        for _ in 0..17 {
            chat().without("x-request-id").unchanged().play(&mut *proxy);
        }
        let records = records(&mut *proxy);
        let mut ids: Vec<_> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20);
        assert!(ids.iter().all(|id| id.len() > 16));
    }

    fn content_goes_along_only_where_it_is_asked_for(start) {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let input = || parsed(&chat().body());
        let streamed = || Script::recorded("chat_text").header("x-request-id", "r-1");
        let document = || assembled("/v1/chat/completions", &recorded("chat_text"));
        for (name, script, content) in [
            ("unchanged", chat().unchanged(), json!({"input": input(), "output": parsed(ANSWER)})),
            ("transformed", chat().optimize(applied()), json!({"input": with(input(), json!({"max_tokens": 3})), "output": parsed(ANSWER)})),
            ("reviewed", chat().unchanged().review(r#"{"id":"2"}"#), json!({"input": input(), "output": with(parsed(ANSWER), json!({"id": "2"}))})),
            ("streamed", streamed().unchanged(), json!({"input": parsed(&streamed().body()), "output": document()})),
            ("replayed", streamed().hit(&document().to_string()), json!({"output": document()})),
            ("optimizer gone", chat(), json!({"input": input(), "output": parsed(ANSWER)})),
            ("provider says no", chat().unchanged().provider_header(":status", "500"), json!({"input": input()})),
            ("opted out", chat().header("x-anyray-optimize", "off"), json!({"output": parsed(ANSWER)})),
            ("stream cut", streamed().unchanged().streams(recorded("chat_cut_off")), json!({"input": parsed(&streamed().body())})),
            ("babble", chat().unchanged().provider_body("nonsense"), json!({"input": input()})),
            ("half a document", chat().unchanged().provider_body("{\"a\":"), json!({"input": input()})),
            ("no text", chat().unchanged().provider_body(b"\"\xff\""), json!({"input": input()})),
            ("encoded", chat().unchanged().provider_header("content-encoding", "br"), json!({"input": input()})),
        ] {
            println!("{name}");
            let mut proxy = start(with_content().serves_anyone()).unwrap();
            script.play(&mut *proxy);
            let is_reviewed = name == "reviewed" && proxy.can().hold_response;
            let unreviewed = json!({"input": input(), "output": parsed(ANSWER)});
            let content = if name == "reviewed" && !is_reviewed { unreviewed } else { content };
            assert_eq!(record(&mut *proxy)["content"], content);
            let mut proxy = start(recording().serves_anyone()).unwrap();
            script.play(&mut *proxy);
            assert_eq!(record(&mut *proxy).get("content"), None);
        }
    }

    fn content_is_the_bytes_themselves(start) {
        let mut proxy = start(with_content()).unwrap();
        let script = chat().unchanged();
        script.play(&mut *proxy);
        proxy.advance(Duration::from_secs(1));
        let sent = String::from_utf8(proxy.pending()[0].body.clone()).unwrap();
        assert!(sent.contains(&format!(r#""content":{{"input":{},"output":{ANSWER}}}"#, script.body())), "{sent}");
    }

    fn a_record_is_sent_when_the_exchange_is_over_and_belongs_to_nobody(start) {
        let setup = recording().with("optimizer.token", "t").with("optimizer.path_prefix", "/team-a");
        let mut proxy = start(setup).unwrap();
        let seen = chat().header("traceparent", "00-1-2-01").unchanged().play(&mut *proxy);
        assert!(seen.callouts.iter().all(|callout| !callout.path().ends_with("/record")), "on the client's time");
        proxy.advance(Duration::from_secs(1));
        let callout = proxy.pending().remove(0);
        assert_eq!(callout.path(), "/team-a/v1/record");
        assert_eq!(callout.stream, None);
        assert_eq!(proxy.time_out(callout.id), Some(Duration::from_secs(5)));
        assert_eq!(callout.headers.get("authorization"), Some("Bearer t"));
        // Each header costs Kong's runtime some memory for good.
        let trace = (proxy.is() != Host::Kong).then_some("00-1-2-01");
        assert_eq!(callout.headers.get("traceparent"), trace);
        assert!(!String::from_utf8(callout.body).unwrap().contains("provider-key"));
    }

    fn what_cannot_be_delivered_is_counted_and_not_tried_again(start) {
        for (answer, result) in [
            (Answer::json(200, "{}"), "ok"),
            (Answer::http(204, Headers::default(), ""), "ok"),
            (Answer::json(404, "{}"), "ok"),
            (Answer::json(400, "{}"), "status"),
            (Answer::json(500, "{}"), "status"),
            (Answer::Refused, "unreachable"),
            (Answer::Timeout, "timeout"),
            (Answer::Reset, "reset"),
        ] {
            let mut proxy = start(recording()).unwrap();
            chat().unchanged().play(&mut *proxy);
            proxy.advance(Duration::from_secs(1));
            let callout = proxy.pending()[0].id;
            proxy.answer(callout, answer);
            let name = format!("optimizer_callouts.kind.record.result.{result}");
            assert_eq!(proxy.counters().get(&name), Some(&1), "{:?}", proxy.counters());
            assert!(records(&mut *proxy).is_empty(), "sent again after {result}");
        }
        let mut proxy = start(recording()).unwrap();
        chat().unchanged().play(&mut *proxy);
        proxy.optimizer_dies();
        let result = if proxy.is() == Host::Kong { "unreachable" } else { "dispatch_failed" };
        records(&mut *proxy);
        assert_eq!(proxy.counters()[&format!("optimizer_callouts.kind.record.result.{result}")], 1);
        assert!(records(&mut *proxy).is_empty());
    }

    fn calls_are_recorded_also_where_no_other_hook_is_on(start) {
        let setup = recording().with("hooks.request", false).with("hooks.response", false);
        let mut proxy = start(setup).unwrap();
        let script = chat().header("accept-encoding", "br");
        let seen = script.play(&mut *proxy);
        assert_eq!(seen.provider.header("accept-encoding"), Some("identity"));
        let mut expected = with(base(), answered());
        expected.as_object_mut().unwrap().remove("optimizationLatencyMs");
        assert_eq!(record(&mut *proxy), expected);
    }
}
