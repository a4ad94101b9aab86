//! What operators see of an exchange: token counts, times, and how answers were read.

use std::time::Duration;

use crate::proxy::{Id, Proxy, Setup, on_every_host};
use crate::reasons::quiet;
use crate::script::{Script, recorded};
use crate::streams::assembled;
use crate::transforms::DIALECTS;

const TIME_TO_FIRST_TOKEN: &str = "gen_ai_server_time_to_first_token_us.operation.chat";
const DURATION: &str = "gen_ai_client_operation_duration_us.operation.chat";

/// The samples of both token histograms.
fn tokens(proxy: &dyn Proxy, operation: &str) -> [Vec<u64>; 2] {
    ["input", "output"].map(|kind| {
        proxy.samples(&format!("gen_ai_client_token_usage.operation.{operation}.type.{kind}"))
    })
}

/// What the access log shows, where the host's can show anything.
fn shown(proxy: &dyn Proxy, id: Id, name: &str, value: Option<&str>) {
    assert_eq!(
        proxy.annotation(id, name).as_deref(),
        value.filter(|_| proxy.can().annotate),
        "{name}"
    );
}

/// How the one answer of an exchange was read.
fn answer_of(proxy: &dyn Proxy) -> String {
    let counters = proxy.counters();
    let names = counters.keys().filter_map(|name| name.strip_prefix("optimizer_answers.outcome."));
    let names: Vec<_> = names.collect();
    assert!(names.len() < 2, "{counters:?}");
    names.first().map_or("none", |name| name).to_owned()
}

on_every_host! {
    fn tokens_of_plain_answers(start) {
        for ((path, body, answer), operation) in
            DIALECTS.into_iter().zip(["chat", "text_completion", "embeddings", "chat", "chat"])
        {
            let usage = match path {
                "/v1/embeddings" => r#"{"prompt_tokens":7,"total_tokens":7}"#,
                "/v1/responses" | "/v1/messages" => r#"{"input_tokens":7,"output_tokens":5}"#,
                _ => r#"{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}"#,
            };
            let answer = answer.replacen('{', &format!(r#"{{"usage":{usage},"#), 1);
            let output = if path == "/v1/embeddings" { vec![] } else { vec![5] };
            let held = Script::new(path, body, &answer).unchanged();
            for (setup, script) in [
                (Setup::default(), held.clone()),
                (Setup::default(), held.clone().review(&answer)),
                (quiet(), held.in_pieces_of(10)),
                (Setup::default(), Script::new(path, body, &answer)),
                (Setup::default(), Script::new(path, body, &answer).header("x-anyray-optimize", "off")),
            ] {
                let mut proxy = start(setup).unwrap();
                let id = script.send(&mut *proxy);
                script.answer_callouts(&mut *proxy);
                script.provide(&mut *proxy, id);
                script.answer_callouts(&mut *proxy);
                assert_eq!(tokens(&*proxy, operation), [vec![7], output.clone()], "{path}");
                shown(&*proxy, id, "gen_ai.usage.input_tokens", Some("7"));
                let output = output.first().map(u64::to_string);
                shown(&*proxy, id, "gen_ai.usage.output_tokens", output.as_deref());
                assert_eq!(answer_of(&*proxy), "read.reason.none");
            }
        }
    }

    fn tokens_of_streams(start) {
        for (name, operation, input, output) in [
            ("chat_text", "chat", 21, 34),
            ("completions_text", "text_completion", 5, 16),
            ("anthropic_text", "chat", 25, 15),
            ("anthropic_usage_merged", "chat", 2680, 12),
        ] {
            for setup in [Setup::default(), Setup::default().large_buffers().with("hooks.stream_response", true)] {
                for script in [Script::recorded(name), Script::recorded(name).unchanged()] {
                    let mut proxy = start(setup.clone()).unwrap();
                    script.play(&mut *proxy);
                    assert_eq!(tokens(&*proxy, operation), [[input], [output]], "{name}");
                    shown(&*proxy, 0, "gen_ai.usage.input_tokens", Some(&input.to_string()));
                    shown(&*proxy, 0, "gen_ai.usage.output_tokens", Some(&output.to_string()));
                    assert_eq!(answer_of(&*proxy), "read.reason.none");
                }
            }
        }
        let mut proxy = start(Setup::default()).unwrap();
        Script::recorded("responses_text").play(&mut *proxy);
        let usage = assembled("/v1/responses", &recorded("responses_text"))["usage"].take();
        let told = ["input_tokens", "output_tokens"].map(|name| vec![usage[name].as_u64().unwrap()]);
        assert_eq!(tokens(&*proxy, "chat"), told);
    }

    fn a_stream_without_usage_counts_nothing(start) {
        let mut proxy = start(Setup::default()).unwrap();
        Script::recorded("chat_function_call").play(&mut *proxy);
        assert_eq!(tokens(&*proxy, "chat"), [[0; 0], [0; 0]]);
        assert_eq!(proxy.annotation(0, "gen_ai.usage.input_tokens"), None);
        assert_eq!(answer_of(&*proxy), "read.reason.none");
    }

    fn the_tokens_of_a_hit_are_shown_and_not_counted(start) {
        let cached = assembled("/v1/chat/completions", &recorded("chat_text")).to_string();
        let streamed = Script::recorded("chat_text").hit(&cached);
        for script in [streamed.clone(), streamed.plain()] {
            let mut proxy = start(Setup::default().serves_anyone()).unwrap();
            assert_eq!(script.play(&mut *proxy).outcome, "hit");
            assert_eq!(tokens(&*proxy, "chat"), [[0; 0], [0; 0]]);
            shown(&*proxy, 0, "gen_ai.usage.input_tokens", Some("21"));
            shown(&*proxy, 0, "gen_ai.usage.output_tokens", Some("34"));
            assert_eq!(answer_of(&*proxy), "none", "the provider gave no answer");
            assert_eq!(proxy.samples(DURATION).len(), 1);
            assert!(proxy.samples(TIME_TO_FIRST_TOKEN).is_empty());
        }
    }

    fn usage_that_is_no_count_is_left_out(start) {
        for usage in [
            "null", "[]", "7", "{}",
            r#"{"prompt_tokens":-1,"completion_tokens":"5"}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":1e3}"#,
            r#"{"prompt_tokens":18446744073709551616,"completion_tokens":null}"#,
            r#"{"prompt_tokens":1,"prompt_tokens":2}"#,
        ] {
            let answer = format!(r#"{{"id":"1","usage":{usage}}}"#);
            let stream = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n");
            for script in [Script::chat().provider_body(&answer), Script::recorded("chat_text").streams(stream)] {
                let mut proxy = start(Setup::default()).unwrap();
                script.play(&mut *proxy).assert_untouched(&script);
                assert_eq!(tokens(&*proxy, "chat"), [[0; 0], [0; 0]], "{usage}");
            }
        }
    }

    fn how_answers_were_read(start) {
        let small = || Setup::default().with("limits.response_bytes", 1024);
        for (setup, script, expected) in [
            (Setup::default(), Script::recorded("chat_cut_off"), "bypassed.reason.stream_incomplete"),
            (Setup::default(), Script::recorded("chat_error"), "bypassed.reason.response_error"),
            (small(), Script::recorded("chat_text").in_pieces_of(100), "bypassed.reason.response_too_large"),
            (Setup::default(), Script::chat().provider_header(":status", "500"), "bypassed.reason.response_status"),
            (Setup::default(), Script::chat().provider_header("content-encoding", "br"), "bypassed.reason.response_encoded"),
            (Setup::default(), Script::chat().provider_header("content-type", "audio/mpeg"), "bypassed.reason.response_content_type"),
        ] {
            for script in [script.clone(), script.unchanged()] {
                let mut proxy = start(setup.clone()).unwrap();
                script.play(&mut *proxy).assert_untouched(&script);
                assert_eq!(answer_of(&*proxy), expected);
                assert_eq!(tokens(&*proxy, "chat"), [[0; 0], [0; 0]]);
            }
        }
    }

    fn what_a_stream_told_before_it_broke_off_counts(start) {
        let mut proxy = start(Setup::default()).unwrap();
        Script::recorded("anthropic_cut").play(&mut *proxy);
        assert_eq!(tokens(&*proxy, "chat"), [[25], [3]]);
        assert_eq!(answer_of(&*proxy), "bypassed.reason.stream_incomplete");
    }

    fn time_to_the_first_token_and_to_the_end(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::recorded("chat_text").unchanged();
        let id = script.send(&mut *proxy);
        proxy.advance(Duration::from_millis(44));
        script.answer_callouts(&mut *proxy);
        proxy.advance(Duration::from_millis(200));
        proxy.response(id, &script.provider.headers, false);
        proxy.advance(Duration::from_millis(300));
        for piece in recorded("chat_text").chunks(1000) {
            proxy.response_body(id, piece, false);
            proxy.advance(Duration::from_millis(100));
        }
        assert!(proxy.samples(DURATION).is_empty());
        proxy.response_body(id, b"", true);
        assert_eq!(proxy.samples(TIME_TO_FIRST_TOKEN), [544_000]);
        assert_eq!(proxy.samples(DURATION), [1_444_000]);

        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged();
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        proxy.advance(Duration::from_millis(250));
        proxy.client_gone(id);
        assert_eq!(proxy.samples(DURATION), [250_000], "also of calls that failed");
        assert!(proxy.samples(TIME_TO_FIRST_TOKEN).is_empty());
    }

    fn calls_to_other_paths_are_not_measured(start) {
        let mut proxy = start(Setup::default()).unwrap();
        Script::new("/v1/models", "{}", r#"{"usage":{"prompt_tokens":1}}"#).play(&mut *proxy);
        assert!(proxy.counters().is_empty() && proxy.samples(DURATION).is_empty());
        assert_eq!(tokens(&*proxy, "chat"), [[0; 0], [0; 0]]);
    }

    fn tokens_saved_are_shown_where_a_transform_was_applied(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let saving = |request: &str| format!(r#"{{"request":{request},"estimatedTokensSaved":41.9}}"#);
        Script::recorded("chat_text").optimize(saving(r#"{"max_tokens":3}"#)).play(&mut *proxy);
        Script::recorded("chat_text").optimize(saving("{}")).play(&mut *proxy);
        shown(&*proxy, 0, "optimizer_tokens_saved", Some("41"));
        shown(&*proxy, 1, "optimizer_tokens_saved", None);
        assert_eq!(proxy.counters()["optimizer_tokens_saved"], 41);
    }
}
