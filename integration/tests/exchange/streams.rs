//! Streams are read along as they pass, and written back as what a plain call would have been given.

use std::time::Duration;

use integration::Headers;
use optimizer_core::bypass::Bypass;
use optimizer_core::dialect::Dialect;
use optimizer_core::stream::Assembler;
use serde_json::{Value, json};

use crate::proxy::{Proxy, Setup, Start, on_every_host};
use crate::reasons::counted;
use crate::script::{CHAT_ANSWER, STREAMED, Script, recorded, write_backs};
use crate::transforms::DIALECTS;

/// The recorded streams that stand for no body, and why.
const BROKEN: [(&str, Bypass); 16] = [
    ("chat_cut_off", Bypass::StreamIncomplete),
    ("chat_error", Bypass::ResponseError),
    ("chat_error_event", Bypass::ResponseError),
    ("chat_not_json", Bypass::ResponseNotJson),
    ("chat_unfinished", Bypass::StreamIncomplete),
    ("chat_without_done", Bypass::StreamIncomplete),
    ("completions_cut_off", Bypass::StreamIncomplete),
    ("completions_error", Bypass::ResponseError),
    ("responses_cut", Bypass::StreamIncomplete),
    ("responses_error", Bypass::ResponseError),
    ("responses_failed", Bypass::StreamIncomplete),
    ("responses_incomplete", Bypass::StreamIncomplete),
    ("anthropic_cut", Bypass::StreamIncomplete),
    ("anthropic_cut_input", Bypass::ResponseNotJson),
    ("anthropic_error", Bypass::ResponseError),
    ("anthropic_unknown_delta", Bypass::StreamUnexpected),
];

/// The other recorded streams.
pub fn whole() -> Vec<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/streams/recorded");
    let names = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name());
    let names = names.filter_map(|name| Some(name.to_str()?.strip_suffix(".sse")?.to_owned()));
    let whole: Vec<_> =
        names.filter(|name| BROKEN.iter().all(|(broken, _)| name != broken)).collect();
    assert!(whole.len() > 40, "{directory} holds {whole:?}");
    whole
}

/// What a whole stream stands for. That the official SDKs see the same is tested beside the recordings.
pub fn assembled(endpoint: &str, stream: &[u8]) -> Value {
    let mut assembler = Assembler::new(Dialect::from_endpoint(endpoint).unwrap(), 1 << 20);
    assembler.push(stream);
    serde_json::from_slice(&assembler.finish().unwrap()).unwrap()
}

/// The endpoint of a recorded stream.
pub fn endpoint(name: &str) -> &'static str {
    STREAMED.into_iter().find(|(of, ..)| name.starts_with(of)).unwrap().1
}

/// Splits a stream in two at every byte, and wants it written back as if it had not been.
fn every_split(start: Start, name: &str) {
    let stream = recorded(name);
    let expected = assembled(endpoint(name), &stream);
    let mut script = Script::recorded(name).eligible();
    let stride = start(Setup::default()).unwrap().stride();
    let places: Vec<usize> = (1..stream.len()).step_by(stride).collect();
    for places in places.chunks(200) {
        let mut proxy = start(Setup::default()).unwrap();
        for &at in places {
            let (left, right) = stream.split_at(at);
            script.provider.pieces = vec![left.to_vec(), right.to_vec()];
            assert_eq!(script.play(&mut *proxy).client.chunks, [left, right], "{name} at {at}");
        }
        let written = write_backs(&mut *proxy);
        assert_eq!(written.len(), places.len());
        for (written, at) in written.iter().zip(places) {
            assert_eq!(written["response"], expected, "{name} at {at}");
        }
    }
}

on_every_host! {
    fn every_split_of_a_chat(start) {
        every_split(start, "chat_crlf_unicode");
    }

    fn every_split_of_a_completion(start) {
        every_split(start, "completions_text");
    }

    fn every_split_of_a_response(start) {
        every_split(start, "responses_text_crlf");
    }

    fn every_split_of_a_message(start) {
        every_split(start, "anthropic_text");
    }

    fn every_recorded_stream_is_written_back_after_its_last_byte(start) {
        for name in whole() {
            let mut proxy = start(Setup::default()).unwrap();
            let mut script = Script::recorded(&name).eligible();
            let stream = recorded(&name);
            let bytes = stream.chunks(1).map(<[u8]>::to_vec).chain([Vec::new()]).collect();
            for pieces in [script.provider.pieces.clone(), bytes] {
                script.provider.pieces = pieces;
                let seen = script.play(&mut *proxy);
                seen.assert_untouched(&script);
                assert_eq!(seen.client.chunks.len(), script.provider.pieces.len() - 1, "{name} was held up");
                seen.assert_response("bypassed:response_stream");
                assert_eq!(seen.counted["optimizer_write_backs.outcome.queued.reason.none"], 1, "{name}");
                assert!(seen.callouts.iter().all(|callout| callout.path() == "/v1/optimize"), "on the client's time");
                let request: Value = serde_json::from_str(&script.body()).unwrap();
                let written = write_backs(&mut *proxy);
                assert_eq!(written.len(), 1, "{name}");
                assert_eq!(written[0]["request"], request);
                assert_eq!(request["stream"], true);
                assert_eq!(written[0]["cacheKey"], "key-1");
                assert_eq!(written[0]["response"], assembled(endpoint(&name), &stream), "{name}");
            }
        }
    }

    fn what_is_written_is_what_the_provider_said(start) {
        for (name, member, text) in [
            (
                "chat_text",
                "/choices/0/message/content",
                "Envoy is a proxy that stands between clients and services. It speaks HTTP/1.1, HTTP/2 and HTTP/3,\nand \"filters\" can read & change what passes.",
            ),
            ("chat_tool_calls", "/choices/0/message/tool_calls/0/function/arguments", r#"{"city":"Zürich","unit":"c"}"#),
            ("completions_text", "/choices/0/text", "\n\nOnce upon a time there was a \"proxy\" — naïve, 😀 quick."),
            ("responses_text", "/output/0/content/0/text", "Grüße aus Zürich! 😀 \"q\" \\ \n\u{2028}"),
            ("anthropic_text", "/content/0/text", "Grüße aus Zürich! 😀 \"quoted\" \\ back\n\u{2028} done"),
            ("anthropic_tools_interleaved", "/content/2/input/x", "é"),
        ] {
            let mut proxy = start(Setup::default()).unwrap();
            Script::recorded(name).eligible().play(&mut *proxy);
            let written = write_backs(&mut *proxy);
            assert_eq!(written[0]["response"].pointer(member), Some(&json!(text)), "{name}: {}", written[0]);
        }
    }

    fn a_stream_that_stands_for_nothing_is_not_written_back(start) {
        for (name, reason) in BROKEN {
            let mut proxy = start(Setup::default()).unwrap();
            let script = Script::recorded(name).eligible();
            script.play(&mut *proxy).assert_untouched(&script);
            assert!(write_backs(&mut *proxy).is_empty(), "{name}");
            assert_eq!(counted(&*proxy, "write_backs", reason), 1, "{name}: {:?}", proxy.counters());
        }
    }

    fn other_things_on_the_wire_instead_of_a_stream(start) {
        let eligible = || Script::recorded("chat_text").eligible();
        for (script, reason) in [
            (eligible().streams(""), Bypass::StreamIncomplete),
            (eligible().streams("\n\n: nothing\n\n"), Bypass::StreamIncomplete),
            (eligible().streams("data: [DONE]\n\n"), Bypass::StreamUnexpected),
            (eligible().streams("data: \u{fffd}\n\ndata: [DONE]\n\n"), Bypass::ResponseNotJson),
            (eligible().streams(b"data: {\"a\":\"\xff\"}\n\ndata: [DONE]\n\n"), Bypass::ResponseNotJson),
            (eligible().streams(recorded("anthropic_text")), Bypass::StreamIncomplete),
            (Script::new(DIALECTS[2].0, DIALECTS[2].1, "").eligible().streams(recorded("chat_text")), Bypass::StreamUnexpected),
            (eligible().provider_header("content-encoding", "gzip"), Bypass::ResponseEncoded),
            (eligible().provider_header(":status", "400"), Bypass::ResponseStatus),
        ] {
            let mut proxy = start(Setup::default()).unwrap();
            script.play(&mut *proxy).assert_untouched(&script);
            assert!(write_backs(&mut *proxy).is_empty());
            assert_eq!(counted(&*proxy, "write_backs", reason), 1, "{}: {:?}", reason.name(), proxy.counters());
        }
    }

    fn a_stream_for_a_plain_client_and_a_plain_answer_to_a_streaming_one(start) {
        for setup in [Setup::default(), Setup::default().with("hooks.response", false)] {
            let mut proxy = start(setup).unwrap();
            let script = Script::recorded("chat_text").plain().eligible();
            script.play(&mut *proxy).assert_untouched(&script);
            assert_eq!(write_backs(&mut *proxy)[0]["response"]["object"], "chat.completion");

            let mut script = Script::recorded("chat_text").eligible();
            script.provider = Script::chat().provider;
            script.play(&mut *proxy).assert_untouched(&script);
            assert_eq!(write_backs(&mut *proxy)[0]["response"], serde_json::from_str::<Value>(CHAT_ANSWER).unwrap());
        }
    }

    fn trailers_end_a_stream_too(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let mut script = Script::recorded("chat_text").eligible();
        script.provider.pieces.pop();
        script.provider.trailers = Some(Headers::from([("x-t", "1")]));
        let seen = script.play(&mut *proxy);
        seen.assert_untouched(&script);
        assert_eq!(write_backs(&mut *proxy).len(), 1);
    }

    fn who_leaves_in_the_middle_leaves_nothing_in_the_cache(start) {
        let stream = recorded("chat_text");
        let reason = Bypass::StreamIncomplete;
        for at in [0, 1, stream.len() / 2, stream.len()] {
            for leave in [|p: &mut dyn Proxy, id| p.client_gone(id), |p: &mut dyn Proxy, id| p.provider_reset(id)] {
                let mut proxy = start(Setup::default()).unwrap();
                let script = Script::recorded("chat_text").eligible();
                let id = script.send(&mut *proxy);
                script.answer_callouts(&mut *proxy);
                proxy.response(id, &script.provider.headers, false);
                if at > 0 {
                    proxy.response_body(id, &stream[..at], false);
                }
                leave(&mut *proxy, id);
                assert!(proxy.was_cut(id));
                // With the end marker all is there, also where the body's end is not.
                let whole = at == stream.len();
                assert_eq!(write_backs(&mut *proxy).len(), usize::from(whole));
                assert_eq!(counted(&*proxy, "write_backs", reason), u64::from(!whole), "{at}");
                assert_eq!(proxy.client_got(id).body(), &stream[..at]);
            }
        }
    }

    fn a_long_stream_flows_on_when_its_copy_is_dropped(start) {
        let mut proxy = start(Setup::default().with("limits.response_bytes", 1024)).unwrap();
        let script = Script::recorded("chat_text").eligible().in_pieces_of(100);
        let seen = script.play(&mut *proxy);
        seen.assert_untouched(&script);
        assert!(seen.client.chunks.len() > 80);
        assert!(write_backs(&mut *proxy).is_empty());
        assert_eq!(counted(&*proxy, "write_backs", Bypass::ResponseTooLarge), 1);
    }

    fn a_stream_is_written_back_whatever_it_answered(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::recorded("anthropic_text");
        let transformed = script.body().replace("\"c\"", "\"d\"");
        let answer = format!(r#"{{"request":{transformed},"cacheEligible":true,"cacheKey":"k"}}"#);
        let seen = script.clone().optimize(answer).play(&mut *proxy);
        assert_eq!(seen.outcome, "transformed");
        assert_eq!(write_backs(&mut *proxy)[0]["request"]["messages"][0]["content"], "d");

        let refused = r#"{"cacheHit":true,"cachedResponse":{"id":"c"},"cacheEligible":true,"cacheKey":"k"}"#;
        let seen = script.clone().set("authorization", "Bearer other").optimize(refused).play(&mut *proxy);
        assert_eq!(seen.outcome, "bypassed:hit_unproven");
        assert_eq!(write_backs(&mut *proxy).len(), 1);

        let no_store = script.eligible().header("cache-control", "no-store");
        assert_eq!(no_store.play(&mut *proxy).outcome, "unchanged");
        assert_eq!(counted(&*proxy, "write_backs", Bypass::NoStore), 1);
    }

    fn identity_is_asked_for_where_a_stream_is_read(start) {
        let script = Script::recorded("chat_text").header("accept-encoding", "gzip, br");
        let asks = |setup: Setup, script: Script| {
            let seen = script.play(&mut *start(setup).unwrap());
            seen.provider.headers.unwrap().all("accept-encoding")
        };
        let (plain, record) = (Setup::default, || Setup::default().with("hooks.record", true));
        let held = || Setup::default().with("hooks.stream_response", true);
        assert_eq!(asks(plain(), script.clone().unchanged()), ["gzip, br"]);
        assert_eq!(asks(plain(), script.clone().eligible()), ["identity"]);
        assert_eq!(asks(record(), script.clone().unchanged()), ["identity"]);
        let reviews = start(held()).unwrap().can().hold_response;
        let for_the_review = if reviews { "identity" } else { "gzip, br" };
        assert_eq!(asks(held(), script.clone().unchanged()), [for_the_review]);
        for setup in [record(), held()] {
            assert_eq!(asks(setup, script.clone()), ["gzip, br"], "the optimizer is gone");
        }
    }

    fn the_client_is_told_on_streams_too(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::recorded("chat_text").header("x-anyray-test", "1");
        let seen = script.clone().transform(r#"{"max_tokens":3}"#).play(&mut *proxy);
        assert_eq!(seen.told()["status"], "applied");
        seen.assert_untouched_answer(&script);
        let seen = script.play(&mut *proxy);
        assert_eq!(seen.told()["reason"], "optimizer_unreachable");
        seen.assert_untouched(&script);
    }

    fn a_slow_stream_is_never_waited_for(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::recorded("chat_text").eligible().in_pieces_of(1000);
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        proxy.response(id, &script.provider.headers, false);
        assert!(proxy.client_got(id).headers.is_some(), "the headers were held");
        for (index, piece) in script.provider.pieces.iter().enumerate() {
            proxy.advance(Duration::from_secs(30));
            proxy.response_body(id, piece, piece.is_empty());
            let passed = script.provider.pieces[..=index].concat();
            assert_eq!(proxy.client_got(id).body(), passed);
        }
        assert_eq!(write_backs(&mut *proxy).len(), 1);
    }
}
