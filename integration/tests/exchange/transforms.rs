//! The request hook: what the optimizer is asked, and how its answer is applied.

use integration::Headers;
use optimizer_core::host::Host;
use serde_json::json;

use crate::proxy::{Setup, on_every_host};
use crate::script::{CHAT, Script};

/// One request and answer of each dialect, and the answer's member that a review would change.
pub const DIALECTS: [(&str, &str, &str); 5] = [
    (
        "/v1/chat/completions",
        r#"{"model":"m","messages":[{"role":"user","content":"long  text"}]}"#,
        r#"{"id":"1","model":"m","choices":[{"index":0}]}"#,
    ),
    (
        "/v1/completions",
        r#"{"model":"m","prompt":"long  text"}"#,
        r#"{"id":"1","model":"m","choices":[{"text":"t"}]}"#,
    ),
    (
        "/v1/embeddings",
        r#"{"model":"m","input":["long  text"]}"#,
        r#"{"object":"list","model":"m","data":[{"embedding":[0.1]}]}"#,
    ),
    (
        "/v1/responses",
        r#"{"model":"m","input":"long  text","store":false}"#,
        r#"{"id":"1","model":"m","status":"completed","output":[{"type":"message"}]}"#,
    ),
    (
        "/v1/messages",
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"long  text"}]}"#,
        r#"{"id":"1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"t"}]}"#,
    ),
];

on_every_host! {
    fn every_dialect_is_transformed(start) {
        for (path, body, answer) in DIALECTS {
            let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
            let shorter = body.replace("long  text", "short");
            let script = Script::new(&format!("/prefix{path}?x=1"), body, answer);
            let seen = script.transform(&shorter).play(&mut *proxy);
            assert_eq!(seen.provider.text(), shorter, "{path}");
            assert_eq!(seen.client.text(), answer);
            assert_eq!(seen.outcome, "transformed");
            let asked = seen.asked("/v1/optimize");
            assert_eq!(asked["endpoint"], path);
            assert_eq!(asked["capabilities"], json!({"canShortCircuit": true}));
            assert_eq!(seen.counted["optimizer_exchanges.outcome.transformed.reason.none"], 1);
            assert_eq!(seen.counted["optimizer_callouts.kind.optimize.result.ok"], 1);
        }
    }

    fn the_optimizer_gets_the_bytes_of_the_client(start) {
        let seen = Script::chat().unchanged().play(&mut *start(Setup::default()).unwrap());
        let asked = String::from_utf8(seen.callout("/v1/optimize").body.clone()).unwrap();
        assert!(asked.contains(&format!(r#""request":{CHAT},"#)), "{asked}");
    }

    fn what_did_not_change_keeps_its_bytes(start) {
        let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
        // What a JavaScript optimizer makes of CHAT without changing anything.
        let same = r#"{"messages":[{"content":"hi","role":"user"}],"model":"gpt","seed":9007199254740992,"x":1}"#;
        let script = Script::chat().transform(same);
        let seen = script.play(&mut *proxy);
        seen.assert_untouched(&script);
        assert_eq!(seen.outcome, "unchanged");

        let changed = same.replace("\"hi\"", "\"ho\"");
        let seen = Script::chat().transform(&changed).play(&mut *proxy);
        let sent = seen.provider.text();
        assert!(sent.contains(r#""ho""#), "{sent}");
        assert!(sent.contains("9007199254740993") && sent.contains("1.0"), "{sent}");
    }

    fn a_full_request_removes_members_and_a_sparse_one_does_not(start) {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"c"}],"tools":[{"type":"function"}]}"#;
        let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
        let full = r#"{"model":"m","messages":[{"role":"user","content":"c"}]}"#;
        let seen = Script::chat_with(body).transform(full).play(&mut *proxy);
        let sent: serde_json::Value = serde_json::from_slice(&seen.provider.body()).unwrap();
        assert_eq!(sent, serde_json::from_str::<serde_json::Value>(full).unwrap());

        let seen = Script::chat_with(body).transform(r#"{"max_tokens":5}"#).play(&mut *proxy);
        let sent: serde_json::Value = serde_json::from_slice(&seen.provider.body()).unwrap();
        assert_eq!(sent["max_tokens"], 5);
        assert_eq!(sent["tools"], json!([{"type": "function"}]));
    }

    fn bodies_may_come_in_any_pieces(start) {
        let shorter = CHAT.replace(r"h\u0069", "h");
        let longer = CHAT.replace(r"h\u0069", &"h".repeat(500));
        for changed in [&shorter, &longer] {
            for size in [1, 7, 64, 4096] {
                let mut proxy = start(Setup::default().large_buffers()).unwrap();
                let script = Script::chat().transform(changed).in_pieces_of(size);
                for script in [script.clone(), script.chunked()] {
                    let script = script.review(r#"{"id":"other"}"#);
                    let seen = script.play(&mut *proxy);
                    assert_eq!(seen.provider.text(), **changed);
                    assert_eq!(seen.client.text().contains(r#""id":"other""#), seen.is_reviewed(&script));
                    assert!(seen.provider.complete && seen.client.complete);
                }
            }
        }
    }

    fn trailers_end_a_body_too(start) {
        let mut proxy = start(Setup::default().large_buffers()).unwrap();
        let mut script = Script::chat().chunked().transform(r#"{"max_tokens":1}"#);
        script = script.review(r#"{"id":"other"}"#);
        script.trailers = Some(Headers::from([("x-request-trailer", "1")]));
        script.provider.trailers = Some(Headers::from([("x-response-trailer", "2")]));
        let seen = script.play(&mut *proxy);
        assert!(seen.provider.text().contains(r#""max_tokens":1"#));
        if !seen.is_reviewed(&script) {
            assert_eq!((seen.provider.trailers, seen.client.trailers), (None, None), "nginx drops trailers");
            return;
        }
        assert!(seen.client.text().contains(r#""id":"other""#));
        assert_eq!(seen.provider.trailers, script.trailers);
        assert_eq!(seen.client.trailers, script.provider.trailers);
    }

    fn the_length_is_right_or_absent(start) {
        let mut proxy = start(Setup::default().large_buffers()).unwrap();
        let with = Script::chat().transform(r#"{"max_tokens":1}"#);
        let seen = with.play(&mut *proxy);
        let length = seen.provider.body().len().to_string();
        assert_eq!(seen.provider.header("content-length"), Some(&*length));
        let seen = with.chunked().play(&mut *proxy);
        // nginx has the whole body and tells its length.
        let told = (seen.host == Host::Kong).then_some(&*length);
        assert_eq!(seen.provider.header("content-length"), told);
    }

    fn nothing_reaches_the_provider_before_the_optimizer_answered(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged();
        let id = script.send(&mut *proxy);
        assert!(proxy.provider_got(id).headers.is_none());
        let asked = proxy.pending()[0].id;
        assert_eq!(proxy.time_out(asked), Some(std::time::Duration::from_millis(800)));
        script.answer_callouts(&mut *proxy);
        assert!(proxy.provider_got(id).complete);
    }

    fn streams_are_transformed_and_their_answers_pass_piece_by_piece(start) {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"c"}],"stream":true}"#;
        let mut script = Script::chat_with(body).transform(&body.replace("\"c\"", "\"d\""));
        script.provider.headers =
            Headers::from([(":status", "200"), ("content-type", "text/event-stream")]);
        script.provider.pieces =
            ["data: {\"a\":1}\n", "\ndata: [DO", "NE]\n\n"].map(|p| p.as_bytes().to_vec()).to_vec();
        let script = script.header("accept-encoding", "gzip");
        let seen = script.play(&mut *start(Setup::default()).unwrap());
        assert!(seen.provider.text().contains("\"d\""));
        assert_eq!(seen.provider.header("accept-encoding"), Some("gzip"));
        assert_eq!(seen.client.chunks, script.provider.pieces);
        assert_eq!(seen.client.headers, Some(script.provider.headers.clone()));
        assert_eq!(seen.outcome, "transformed");
        seen.assert_response("bypassed:response_stream");
    }

    fn estimates_and_times_are_measured(start) {
        let mut proxy = start(Setup::default().with("hooks.response", false)).unwrap();
        let script = Script::chat();
        let applied = script.clone().optimize(r#"{"request":{"max_tokens":3},"estimatedTokensSaved":41.9}"#);
        let id = applied.send(&mut *proxy);
        proxy.advance(std::time::Duration::from_millis(44));
        applied.answer_callouts(&mut *proxy);
        applied.provide(&mut *proxy, id);
        assert_eq!(proxy.counters()["optimizer_tokens_saved"], 41);
        assert_eq!(proxy.samples("optimizer_callout_duration_us.kind.optimize"), [44_000]);
        script.optimize(r#"{"request":{"model":"gpt"},"estimatedTokensSaved":7}"#).play(&mut *proxy);
        assert_eq!(proxy.counters()["optimizer_tokens_saved"], 41, "only what was applied counts");
    }

    fn a_providers_refusal_of_a_transform_is_counted(start) {
        let mut proxy = start(Setup::default()).unwrap();
        let refused = Script::chat().provider_header(":status", "400");
        refused.clone().transform(r#"{"max_tokens":3}"#).play(&mut *proxy);
        refused.unchanged().play(&mut *proxy);
        let local = Script::chat().transform(r#"{"max_tokens":3}"#);
        let id = local.send(&mut *proxy);
        local.answer_callouts(&mut *proxy);
        proxy.local_answer(id, 429);
        assert_eq!(proxy.counters()["optimizer_provider_rejections"], 1);
    }

    fn with_the_hook_off_nobody_is_asked(start) {
        let setup = Setup::default().with("hooks.request", false).with("hooks.response", false);
        let script = Script::chat();
        let seen = script.play(&mut *start(setup).unwrap());
        assert!(seen.callouts.is_empty());
        seen.assert_untouched(&script);
    }

    fn other_paths_are_none_of_ours(start) {
        let mut proxy = start(Setup::default().with("endpoints", json!({"/talk": "/v1/messages"}))).unwrap();
        for path in ["/v1/threads/x/messages", "/v1/models", "/", "/?q=/v1/messages"] {
            let script = Script::new(path, CHAT, "{}");
            let seen = script.play(&mut *proxy);
            seen.assert_untouched(&script);
            assert_eq!(seen.outcome, "none");
            assert!(seen.callouts.is_empty() && seen.counted.is_empty(), "{path}");
        }
        let talk = Script::new("/api/talk?v=1", DIALECTS[4].1, DIALECTS[4].2).unchanged();
        assert_eq!(talk.play(&mut *proxy).asked("/v1/optimize")["endpoint"], "/v1/messages");
    }
}
