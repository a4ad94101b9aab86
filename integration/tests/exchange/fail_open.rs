//! Whatever goes wrong, the call goes on as it would have gone without the adapter.

use integration::{ANSWER_LIMIT, Answer, Headers};
use optimizer_core::bypass::Bypass;
use optimizer_core::host::Host;
use serde_json::json;

use crate::proxy::on_every_host;
use crate::reasons::{counted, large, plain, quiet, sized};
use crate::script::{CHAT, CHAT_ANSWER, Script, write_backs};

on_every_host! {
    fn further_ways_to_the_same_reasons(start) {
        let signed = |name: &str| Script::chat().header(name, "x");
        let answers = |text: &str| Script::chat().optimize(text);
        for (setup, script, reason) in [
            (plain(), signed("digest"), Bypass::RequestSigned),
            (plain(), signed("content-digest"), Bypass::RequestSigned),
            (plain(), signed("content-md5"), Bypass::RequestSigned),
            (plain(), signed("repr-digest"), Bypass::RequestSigned),
            (plain(), Script::chat().without("content-type"), Bypass::RequestContentType),
            (plain(), Script::chat_with(b"{\"model\":\"\xff\"}"), Bypass::RequestNotJson),
            (plain(), Script::chat_with("null"), Bypass::RequestNotObject),
            (
                large().with("limits.request_bytes", 64 << 20),
                Script::chat_with(sized(31 << 20)).chunked().in_pieces_of(1 << 20),
                Bypass::RequestOverHostBuffer,
            ),
            (large().with("limits.request_bytes", 1024), Script::chat_with(sized(1025)).chunked(), Bypass::RequestTooLarge),
            (plain(), answers(""), Bypass::AnswerNotJson),
            (plain(), answers("{\"request\":{}"), Bypass::AnswerNotJson),
            (plain(), answers("{}"), Bypass::AnswerWrongShape),
            (plain(), answers("[]"), Bypass::AnswerWrongShape),
            (plain(), answers("null"), Bypass::AnswerWrongShape),
            (plain(), answers(r#"{"request":null}"#), Bypass::AnswerWrongShape),
            (plain(), answers(r#"{"request":[]}"#), Bypass::AnswerWrongShape),
            (plain(), Script::chat().on("/v1/optimize", Answer::json(404, "{}")), Bypass::OptimizerStatus),
            (plain(), Script::chat().on("/v1/optimize", Answer::http(204, Headers::default(), "")), Bypass::AnswerNotJson),
            (plain(), Script::chat().on("/v1/optimize", Answer::json(503, "{}")), Bypass::OptimizerStatus),
            (plain(), Script::chat().on("/v1/optimize", Answer::json(504, "{}")), Bypass::OptimizerStatus),
            (plain(), answers(&"x".repeat(ANSWER_LIMIT + 1)), Bypass::OptimizerReset),
            (plain(), Script::chat().transform(r#"{"model":"m","messages":null}"#), Bypass::TransformRequiredRetyped),
            (plain(), Script::chat().transform(r#"{"messages":{"0":1}}"#), Bypass::TransformRequiredRetyped),
            (plain(), Script::chat().transform(r#"{"model":7}"#), Bypass::TransformRequiredRetyped),
            (plain().serves_anyone(), Script::chat().hit(r#"{"id":"c"}"#).header("cache-control", "no-store"), Bypass::HitNoCache),
            (
                plain().serves_anyone(),
                Script::chat().hit(r#"{"id":"c"}"#).header("accept-encoding", "a").header("accept-encoding", "b"),
                Bypass::HitAmbiguousCaller,
            ),
        ] {
            println!("{}", reason.name());
            let mut proxy = start(setup).unwrap();
            if !proxy.reaches(reason) {
                continue;
            }
            let reason = match (proxy.is(), reason) {
                // It went to a file, and the optimizer, which is gone, was never asked.
                (Host::Kong, Bypass::RequestOverHostBuffer) => Bypass::OptimizerUnreachable,
                // They have no limit of their own for answers of callouts.
                (Host::Kong | Host::WasiHttp, Bypass::OptimizerReset) => Bypass::AnswerNotJson,
                (_, reason) => reason,
            };
            let seen = script.play(&mut *proxy);
            assert_eq!(seen.outcome, format!("bypassed:{}", reason.name()));
            seen.assert_untouched(&script);
        }
    }

    fn the_response_hook_fails_open_in_every_way(start) {
        let on = |answer: Answer| Script::chat().unchanged().on("/v1/optimize-response", answer);
        let json = |text: &str| on(Answer::json(200, text));
        let decided = |response: &str| json(&format!(r#"{{"response":{response},"decisions":[{{"kind":"k"}}]}}"#));
        let grown = format!(r#"{{"padding":"{}"}}"#, "x".repeat(1 << 20));
        for (script, reason) in [
            (on(Answer::Refused), Bypass::OptimizerUnreachable),
            (on(Answer::Timeout), Bypass::OptimizerTimeout),
            (on(Answer::Reset), Bypass::OptimizerReset),
            (on(Answer::json(500, "{}")), Bypass::OptimizerStatus),
            (json("oops"), Bypass::AnswerNotJson),
            (json("[]"), Bypass::AnswerWrongShape),
            (decided("\"x\""), Bypass::AnswerWrongShape),
            (decided("null"), Bypass::AnswerWrongShape),
            (decided(r#"{"a":1,"a":2}"#), Bypass::TransformDuplicateMember),
            (decided(r#"{"choices":[{"index":0}]}"#), Bypass::TransformRequiredMissing),
            (decided(r#"{"choices":"x"}"#), Bypass::TransformRequiredRetyped),
            (decided(r#"{"id":7}"#), Bypass::TransformRequiredRetyped),
            (decided(r#"{"id":"1","model":"m","choices":[]}"#), Bypass::TransformArrayEmptied),
            (decided(&grown), Bypass::TransformTooLarge),
        ] {
            let mut proxy = start(plain()).unwrap();
            if !proxy.reaches(reason) {
                continue;
            }
            let seen = script.play(&mut *proxy);
            seen.assert_response(&format!("bypassed:{}", reason.name()));
            assert_eq!(seen.outcome, "unchanged");
            seen.assert_untouched(&script);
        }
    }

    fn an_untouched_envoy_never_gives_a_413_or_a_500(start) {
        let mut proxy = start(plain()).unwrap();
        for size in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            for chunked in [false, true] {
                let mut script = Script::chat_with(sized(size)).unchanged().provider_body(sized(size));
                script = script.in_pieces_of(1 << 18);
                if chunked {
                    script = script.chunked();
                }
                let seen = script.play(&mut *proxy);
                seen.assert_untouched(&script);
                // nginx holds what fits its buffer, whether the length was told or not.
                let held = size <= 1 << 20 && (!chunked || seen.host == Host::Kong);
                assert_eq!(seen.outcome == "unchanged", held, "{size} {chunked} {}", seen.outcome);
            }
        }
    }

    fn what_is_not_written_back(start) {
        let eligible = || Script::chat().eligible();
        let over = sized(1025);
        let mut of_unknown_length = eligible().provider_body(&over);
        of_unknown_length.provider.headers.remove("content-length");
        let unfinished = Script::new(
            "/v1/responses",
            r#"{"model":"m","input":"i","store":false}"#,
            r#"{"id":"1","status":"in_progress","output":[]}"#,
        );
        let unfinished = unfinished.eligible();
        for (setup, script, reason) in [
            (plain(), eligible().provider_header(":status", "404"), Bypass::ResponseStatus),
            (plain(), eligible().provider_header("content-type", "text/event-stream"), Bypass::StreamIncomplete),
            (plain(), eligible().provider_header("content-encoding", "gzip"), Bypass::ResponseEncoded),
            (plain(), eligible().provider_body("nonsense"), Bypass::ResponseNotJson),
            (plain(), eligible().provider_body("[]"), Bypass::ResponseNotObject),
            (quiet(), eligible().provider_body("nonsense"), Bypass::ResponseNotJson),
            (quiet().with("limits.response_bytes", 1024), eligible().provider_body(&over), Bypass::ResponseTooLarge),
            (quiet().with("limits.response_bytes", 1024), of_unknown_length, Bypass::ResponseTooLarge),
            (plain(), Script::new("/v1/responses", r#"{"model":"m","input":"i"}"#, "{}").eligible(), Bypass::NoStore),
            (plain(), unfinished, Bypass::ResponseError),
        ] {
            let mut proxy = start(setup).unwrap();
            script.play(&mut *proxy).assert_untouched(&script);
            assert!(write_backs(&mut *proxy).is_empty());
            assert_eq!(counted(&*proxy, "write_backs", reason), 1, "{}: {:?}", reason.name(), proxy.counters());
        }
    }

    fn an_answer_too_large_for_the_hook_is_still_written_back(start) {
        let setup = plain().with("limits.response_bytes", 4 << 20);
        let mut proxy = start(setup).unwrap();
        let script = Script::new("/v1/chat/completions", CHAT, "{}").eligible()
            .provider_body(sized(3 << 20)).in_pieces_of(1 << 18);
        let seen = script.play(&mut *proxy);
        seen.assert_response("bypassed:response_over_host_buffer");
        assert!(seen.client.chunks.len() > 4, "it passes piece by piece");
        assert_eq!(write_backs(&mut *proxy).len(), 1);
        assert_ne!(script.body(), CHAT_ANSWER);
        assert_eq!(seen.told(), json!(null));
    }
}
