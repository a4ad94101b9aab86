//! Every reason for leaving a call alone is reached, is counted, shows in the access log, and leaves the call alone.

use std::time::Duration;

use integration::{ANSWER_LIMIT, Answer, Headers};
use optimizer_core::bypass::Bypass;
use serde_json::json;

use crate::proxy::{Proxy, Setup, Start, on_every_host};
use crate::script::{Before, CHAT, CHAT_ANSWER, Script, write_backs};

/// How a reason is reached.
enum Case {
    /// The request hook leaves the request alone, and with it the answer.
    Request(Setup, Script),
    /// The response hook leaves the answer alone.
    Response(Setup, Script),
    /// The answer is not written back.
    WriteBack(Setup, Script),
    /// It takes more than one plain exchange; done, with the counters to look at.
    Played(fn(Start, Bypass)),
    /// No host of this suite gets there.
    Unreachable(&'static str),
}

use Case::{Played, Request, Response, Unreachable, WriteBack};

fn plain() -> Setup {
    Setup::default()
}

fn large() -> Setup {
    plain().large_buffers()
}

fn quiet() -> Setup {
    plain().with("hooks.response", false)
}

/// A chat request of this many bytes.
fn sized(bytes: usize) -> String {
    let empty = r#"{"model":"m","messages":[{"role":"user","content":""}]}"#;
    let content = "c".repeat(bytes - empty.len());
    empty.replace(r#""content":"""#, &format!(r#""content":"{content}""#))
}

fn answered(status: &str) -> Script {
    Script::chat().unchanged().provider_header(":status", status)
}

/// How `reason` is reached. A new reason does not compile without its case.
fn case(reason: Bypass) -> Case {
    let chat = Script::chat;
    let hit = || chat().hit(r#"{"id":"cached"}"#);
    let tools = r#"{"model":"m","messages":[{"role":"user","content":"c"}],"tools":[{"type":"function"}],"tool_choice":"auto"}"#;
    match reason {
        Bypass::OptedOut => Request(plain(), chat().header("x-anyray-optimize", "Off")),
        Bypass::Method => Request(plain(), chat().set(":method", "PUT")),
        Bypass::RequestContentType => Request(plain(), chat().set("content-type", "text/plain")),
        Bypass::RequestEncoded => Request(plain(), chat().header("content-encoding", "gzip")),
        Bypass::RequestSigned => {
            Request(plain(), chat().set("authorization", "AWS4-HMAC-SHA256 Credential=x"))
        }
        Bypass::RequestEmpty => {
            let mut script = chat().set("content-length", "0");
            script.pieces.clear();
            Request(plain(), script)
        }
        Bypass::RequestTooLarge => {
            Request(plain().with("limits.request_bytes", 1024), Script::chat_with(sized(1025)))
        }
        Bypass::RequestOverHostBuffer => {
            Request(plain(), Script::chat_with(sized((1 << 20) + 1)).in_pieces_of(1 << 16))
        }
        Bypass::RequestLengthUnknown => Request(plain(), chat().chunked()),
        Bypass::RequestUnreadable => {
            Unreachable("Envoy hands every body over; Kong does not where nginx spilled it to disk")
        }
        Bypass::RequestNotJson => Request(plain(), Script::chat_with("{\"model\":")),
        Bypass::RequestNotObject => Request(plain(), Script::chat_with("[1]")),
        Bypass::RequestDuplicateMember => {
            Request(plain(), Script::chat_with(r#"{"model":"a","messages":[],"model":"b"}"#))
        }
        Bypass::OverTotalBytes => Played(over_total_bytes),
        Bypass::HostCannotHold => Unreachable("Envoy holds calls; Kong's runtime does not"),
        Bypass::ClientGone => Played(client_gone),
        Bypass::HostAnswered => Played(host_answered),
        Bypass::BreakerOpen => Played(breaker_open),
        Bypass::OptimizerDispatchFailed => {
            let setup = Setup { optimizer_is_healthy: false, ..plain() };
            Request(setup, chat())
        }
        Bypass::OptimizerUnreachable => {
            Request(plain(), chat().on("/v1/optimize", Answer::Refused))
        }
        Bypass::OptimizerTimeout => Request(plain(), chat().on("/v1/optimize", Answer::Timeout)),
        Bypass::OptimizerReset => Request(plain(), chat().on("/v1/optimize", Answer::Reset)),
        Bypass::OptimizerStatus => {
            Request(plain(), chat().on("/v1/optimize", Answer::json(500, "{}")))
        }
        Bypass::AnswerTooLarge => {
            let setup =
                plain().with("limits.request_bytes", 1024).with("limits.response_bytes", 1024);
            let answer = format!(r#"{{"request":{{}},"x":"{}"}}"#, "x".repeat((1 << 20) + 1024));
            Request(setup, chat().optimize(answer))
        }
        Bypass::AnswerNotJson => Request(plain(), chat().optimize("<html>")),
        Bypass::AnswerWrongShape => Request(plain(), chat().optimize(r#"{"request":"x"}"#)),
        Bypass::TransformDuplicateMember => {
            Request(plain(), chat().transform(r#"{"max_tokens":1,"max_tokens":2}"#))
        }
        Bypass::TransformRequiredMissing => {
            // Measured to break calls elsewhere: `messages` swapped for `input`.
            Request(plain(), chat().transform(r#"{"model":"gpt","input":"hi"}"#))
        }
        Bypass::TransformRequiredRetyped => {
            Request(plain(), chat().transform(r#"{"model":"gpt","messages":"x"}"#))
        }
        Bypass::TransformArrayEmptied => {
            Request(plain(), chat().transform(r#"{"model":"gpt","messages":[]}"#))
        }
        Bypass::TransformStreamChanged => Request(plain(), chat().transform(r#"{"stream":true}"#)),
        Bypass::TransformToolChoiceWithoutTools => Request(
            plain(),
            Script::chat_with(tools)
                .transform(&tools.replace(r#""tools":[{"type":"function"}],"#, "")),
        ),
        Bypass::TransformTooLarge => {
            let grown = format!(r#"{{"padding":"{}"}}"#, "x".repeat(1 << 20));
            Request(plain(), chat().transform(&grown))
        }
        Bypass::HitUnproven => Request(plain(), hit()),
        Bypass::HitNoCache => {
            Request(plain().serves_anyone(), hit().header("cache-control", "max-age=0, no-cache"))
        }
        Bypass::HitStream => {
            let script = Script::chat_with(r#"{"model":"m","messages":[],"stream":true}"#);
            Request(plain().serves_anyone(), script.hit(r#"{"id":"cached"}"#))
        }
        Bypass::HitStateful => {
            let body = r#"{"model":"m","input":"i","previous_response_id":"r","store":false}"#;
            let script = Script::new("/v1/responses", body, "{}").hit(r#"{"id":"cached"}"#);
            Request(plain().serves_anyone(), script)
        }
        Bypass::HitAmbiguousCaller => {
            Request(plain().serves_anyone(), hit().header("authorization", "Bearer other"))
        }
        Bypass::RequestBypassed => Response(plain(), chat()),
        Bypass::ResponseNotFromProvider => Played(response_not_from_provider),
        Bypass::ResponseStatus => Response(plain(), answered("404")),
        Bypass::ResponseStream => Response(
            plain(),
            chat().unchanged().provider_header("content-type", "text/event-stream; charset=utf-8"),
        ),
        Bypass::ResponseContentType => {
            Response(plain(), chat().unchanged().provider_header("content-type", "audio/mpeg"))
        }
        Bypass::ResponseEncoded => {
            Response(plain(), chat().unchanged().provider_header("content-encoding", "br"))
        }
        Bypass::ResponseEmpty => {
            let mut script = answered("204");
            script.provider.pieces.clear();
            script.provider.headers.remove("content-length");
            Response(plain(), script)
        }
        Bypass::ResponseTooLarge => {
            let setup = plain().with("limits.response_bytes", 1024);
            Response(setup, chat().unchanged().provider_body(sized(1025)))
        }
        Bypass::ResponseOverHostBuffer => {
            let script = chat().unchanged().provider_body(sized((1 << 20) + 1));
            Response(plain(), script.in_pieces_of(1 << 16))
        }
        Bypass::ResponseLengthUnknown => {
            let mut script = chat().unchanged();
            script.provider.headers.remove("content-length");
            Response(plain(), script)
        }
        Bypass::ResponseUnreadable => Played(response_unreadable),
        Bypass::ResponseNotJson => Response(plain(), chat().unchanged().provider_body("{\"id\"")),
        Bypass::ResponseNotObject => Response(plain(), chat().unchanged().provider_body("[]")),
        Bypass::ResponseDuplicateMember => {
            Response(plain(), chat().unchanged().provider_body(r#"{"id":1,"id":2}"#))
        }
        Bypass::ResponseError => {
            WriteBack(plain(), chat().eligible().provider_body(r#"{"error":{"message":"m"}}"#))
        }
        Bypass::NoStore => {
            WriteBack(plain(), chat().eligible().header("cache-control", "no-store"))
        }
        Bypass::QueueFull => Played(queue_full),
    }
}

/// The counter of a reason in one of the families.
fn counter(family: &str, reason: Bypass) -> String {
    format!("optimizer_{family}.outcome.bypassed.reason.{}", reason.name())
}

fn counted(proxy: &dyn Proxy, family: &str, reason: Bypass) -> u64 {
    proxy.counters().get(&counter(family, reason)).copied().unwrap_or(0)
}

fn over_total_bytes(start: Start, reason: Bypass) {
    let setup = large().with("limits.total_bytes", 1 << 20).with("hooks.response", false);
    let mut proxy = start(setup).unwrap();
    let script = Script::chat_with(sized(700_000)).unchanged();
    let first = script.send(&mut *proxy);
    let second = script.send(&mut *proxy);
    assert!(proxy.provider_got(second).complete, "left alone at once");
    assert_eq!(proxy.provider_got(second).text(), script.body());
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    script.answer_callouts(&mut *proxy);
    script.provide(&mut *proxy, first);
    script.provide(&mut *proxy, second);
    assert_eq!(script.play(&mut *proxy).outcome, "unchanged", "the budget is free again");
    for _ in 0..3 {
        let left = script.send(&mut *proxy);
        proxy.client_gone(left);
        assert!(proxy.provider_got(left).headers.is_none(), "it was held");
    }
    let eligible = Script::chat_with(sized(300_000)).eligible();
    for _ in 0..5 {
        assert_eq!(eligible.play(&mut *proxy).outcome, "unchanged", "written back, and free again");
        assert_eq!(write_backs(&mut *proxy).len(), 1);
    }
}

fn client_gone(start: Start, reason: Bypass) {
    let mut proxy = start(plain()).unwrap();
    let script = Script::chat().unchanged().review("{}");
    let id = script.send(&mut *proxy);
    proxy.client_gone(id);
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    assert_eq!(proxy.counters()["optimizer_callouts.kind.optimize.result.abandoned"], 1);
    assert_eq!(proxy.annotation(id, "optimizer_outcome").as_deref(), Some("bypassed:client_gone"));
    script.answer_callouts(&mut *proxy);
    assert!(proxy.provider_got(id).headers.is_none());

    let id = script.send(&mut *proxy);
    script.answer_callouts(&mut *proxy);
    script.provide(&mut *proxy, id);
    proxy.client_gone(id);
    assert_eq!(counted(&*proxy, "responses", reason), 1);
    script.answer_callouts(&mut *proxy);
    assert_eq!(script.play(&mut *proxy).outcome, "unchanged");
}

/// The host buffers less than the configuration says.
fn host_answered(start: Start, reason: Bypass) {
    let setup = Setup { buffer_limit: 1 << 20, ..large() };
    let mut proxy = start(setup).unwrap();
    let script = Script::chat_with(sized(2 << 20)).unchanged().in_pieces_of(1 << 18);
    let seen = script.play(&mut *proxy);
    assert_eq!(seen.client.status(), Some(413));
    assert_eq!(seen.outcome, format!("bypassed:{}", reason.name()));
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);

    let long = Script::chat().unchanged().provider_body(sized(2 << 20)).in_pieces_of(1 << 18);
    assert_eq!(long.play(&mut *proxy).client.status(), Some(500));
    assert_eq!(Script::chat().unchanged().play(&mut *proxy).outcome, "unchanged", "and goes on");
}

fn breaker_open(start: Start, reason: Bypass) {
    let mut proxy = start(plain().with("breaker.failures", 2)).unwrap();
    let (down, up) = (Script::chat(), Script::chat().unchanged());
    for _ in 0..2 {
        assert_eq!(down.play(&mut *proxy).outcome, "bypassed:optimizer_unreachable");
    }
    let seen = up.play(&mut *proxy);
    seen.assert_untouched(&up);
    assert_eq!(seen.outcome, format!("bypassed:{}", reason.name()));
    assert!(seen.callouts.is_empty(), "the optimizer is left alone");
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    proxy.advance(Duration::from_secs(10));
    let probe = up.send(&mut *proxy);
    let meanwhile = up.send(&mut *proxy);
    assert_eq!(proxy.pending().len(), 1, "one probe at a time");
    assert!(proxy.provider_got(meanwhile).complete);
    up.answer_callouts(&mut *proxy);
    assert!(proxy.provider_got(probe).complete);
    assert_eq!(up.play(&mut *proxy).outcome, "unchanged", "the probe closed it");

    let mut never = start(plain().with("breaker.failures", 0)).unwrap();
    for _ in 0..20 {
        assert_eq!(down.play(&mut *never).outcome, "bypassed:optimizer_unreachable");
    }
}

fn response_not_from_provider(start: Start, reason: Bypass) {
    let mut proxy = start(plain()).unwrap();
    let script = Script::chat().unchanged();
    let id = script.send(&mut *proxy);
    script.answer_callouts(&mut *proxy);
    proxy.provider_reset(id);
    assert_eq!(counted(&*proxy, "responses", reason), 1);
    assert_eq!(proxy.client_got(id).status(), Some(503));
}

/// The answer breaks off while it is copied for the write-back.
fn response_unreadable(start: Start, reason: Bypass) {
    let mut proxy = start(quiet()).unwrap();
    let script = Script::chat().eligible();
    let id = script.send(&mut *proxy);
    script.answer_callouts(&mut *proxy);
    proxy.response(id, &script.provider.headers, false);
    proxy.response_body(id, b"{\"id\":", false);
    proxy.provider_reset(id);
    assert!(proxy.was_cut(id));
    assert_eq!(counted(&*proxy, "write_backs", reason), 1);
    assert!(write_backs(&mut *proxy).is_empty());
}

fn queue_full(start: Start, reason: Bypass) {
    let mut proxy = start(quiet()).unwrap();
    for _ in 0..257 {
        Script::chat().eligible().play(&mut *proxy);
    }
    assert_eq!(counted(&*proxy, "write_backs", reason), 1);
    assert_eq!(write_backs(&mut *proxy).len(), 256);
}

on_every_host! {
    fn every_reason_is_reached(start) {
        for &reason in Bypass::ALL {
            let name = reason.name();
            println!("{name}");
            match case(reason) {
                Request(setup, script) => {
                    let mut proxy = start(setup).unwrap();
                    let seen = script.play(&mut *proxy);
                    seen.assert_untouched(&script);
                    assert_eq!(seen.outcome, format!("bypassed:{name}"));
                    assert_eq!(seen.counted.get(&counter("exchanges", reason)), Some(&1), "{name}");
                }
                Response(setup, script) => {
                    let mut proxy = start(setup).unwrap();
                    let seen = script.play(&mut *proxy);
                    seen.assert_untouched(&script);
                    assert_eq!(seen.response, format!("bypassed:{name}"));
                    assert_eq!(seen.counted.get(&counter("responses", reason)), Some(&1), "{name}");
                }
                WriteBack(setup, script) => {
                    let mut proxy = start(setup).unwrap();
                    let before = Before::of(&*proxy);
                    script.play(&mut *proxy).assert_untouched(&script);
                    assert!(write_backs(&mut *proxy).is_empty(), "{name}");
                    let counted = before.counted(&*proxy);
                    assert_eq!(counted.get(&counter("write_backs", reason)), Some(&1), "{name}");
                }
                Played(play) => play(start, reason),
                Unreachable(why) => assert!(!why.is_empty()),
            }
        }
    }

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
            let seen = script.play(&mut *start(setup).unwrap());
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
            let seen = script.play(&mut *start(plain()).unwrap());
            assert_eq!(seen.response, format!("bypassed:{}", reason.name()));
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
                let held = size <= 1 << 20 && !chunked;
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
            (plain(), eligible().provider_header("content-type", "text/event-stream"), Bypass::ResponseStream),
            (plain(), eligible().provider_header("content-encoding", "gzip"), Bypass::ResponseEncoded),
            (plain(), eligible().provider_body("nonsense"), Bypass::ResponseNotJson),
            (plain(), eligible().provider_body("[]"), Bypass::ResponseNotObject),
            (quiet(), eligible().provider_body("nonsense"), Bypass::ResponseNotJson),
            (quiet().with("limits.response_bytes", 1024), eligible().provider_body(&over), Bypass::ResponseTooLarge),
            (quiet().with("limits.response_bytes", 1024), of_unknown_length, Bypass::ResponseTooLarge),
            (plain(), Script::chat_with(r#"{"model":"m","messages":[],"stream":true}"#).eligible(), Bypass::ResponseStream),
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
        assert_eq!(seen.response, "bypassed:response_over_host_buffer");
        assert!(seen.client.chunks.len() > 4, "it passes piece by piece");
        assert_eq!(write_backs(&mut *proxy).len(), 1);
        assert_ne!(script.body(), CHAT_ANSWER);
        assert_eq!(seen.told(), json!(null));
    }
}
