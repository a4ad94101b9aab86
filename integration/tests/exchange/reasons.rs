//! Every reason for leaving a call alone is reached, is counted, shows in the access log, and leaves the call alone.

use std::time::Duration;

use integration::Answer;
use optimizer_core::bypass::Bypass;
use optimizer_core::host::Host;

use crate::proxy::{Proxy, Setup, Start, on_every_host};
use crate::script::{Before, CHAT_ANSWER, Script, recorded, write_backs};

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

/// The shortest configuration.
pub fn plain() -> Setup {
    Setup::default()
}

/// The same with large buffers.
pub fn large() -> Setup {
    plain().large_buffers()
}

/// Without the response hook: answers are only read along.
pub fn quiet() -> Setup {
    plain().with("hooks.response", false)
}

/// A chat request for a stream.
fn streamed() -> Script {
    Script::recorded("chat_text")
}

/// A chat request of this many bytes.
pub fn sized(bytes: usize) -> String {
    let empty = r#"{"model":"m","messages":[{"role":"user","content":""}]}"#;
    let content = "c".repeat(bytes - empty.len());
    empty.replace(r#""content":"""#, &format!(r#""content":"{content}""#))
}

fn answered(status: &str) -> Script {
    Script::chat().unchanged().provider_header(":status", status)
}

/// How `reason` is reached. A new reason does not compile without its case.
fn case(reason: Bypass, host: Host) -> Case {
    if host == Host::Kong
        && let Some(case) = case_on_kong(reason)
    {
        return case;
    }
    let chat = Script::chat;
    let hit = || chat().hit(r#"{"id":"cached"}"#);
    let tools = r#"{"model":"m","messages":[{"role":"user","content":"c"}],"tools":[{"type":"function"}],"tool_choice":"auto"}"#;
    match reason {
        Bypass::OptedOut => Request(plain(), chat().header("x-anyray-optimize", "Off")),
        Bypass::Method => Request(plain(), chat().set(":method", "PUT")),
        Bypass::RequestContentType => Request(plain(), chat().set("content-type", "text/plain")),
        Bypass::RequestHeadersTruncated => {
            Unreachable("Envoy shows every header; Kong shows a hundred")
        }
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
        Bypass::RequestTooManyMembers => Request(plain(), Script::chat_with(many_members())),
        Bypass::OverTotalBytes => Played(over_total_bytes),
        Bypass::RequestBodyOverdue => Played(request_body_overdue),
        Bypass::HostCannotHold => Played(host_cannot_hold),
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
        Bypass::TransformTooDeep => {
            let deep = format!(r#"{{"metadata":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
            Request(plain(), chat().transform(&deep))
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
        Bypass::TransformSwitchedOff | Bypass::TransformUnprepared => {
            Unreachable("Envoy replaces every body that it holds")
        }
        Bypass::TransformTooLarge => {
            let grown = format!(r#"{{"padding":"{}"}}"#, "x".repeat(1 << 20));
            Request(plain(), chat().transform(&grown))
        }
        Bypass::HitUnproven => Request(plain(), hit()),
        Bypass::HitNoCache => {
            Request(plain().serves_anyone(), hit().header("cache-control", "max-age=0, no-cache"))
        }
        Bypass::HitUnreplayable => {
            Request(plain().serves_anyone(), streamed().hit(r#"{"id":"cached"}"#))
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
        Bypass::StreamUnexpected => {
            WriteBack(plain(), streamed().eligible().streams("data: {}\n\ndata: [DONE]\n\n"))
        }
        Bypass::StreamIncomplete => {
            WriteBack(plain(), streamed().eligible().streams(recorded("chat_without_done")))
        }
        Bypass::TransformUnreplayable => {
            let setup = large().with("hooks.stream_response", true);
            let changed = r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0}]}"#;
            Response(setup, streamed().unchanged().review(changed))
        }
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
            WriteBack(plain(), chat().eligible().provider_body(r#"{"id":1,"id":2}"#))
        }
        Bypass::ResponseTooManyMembers => {
            WriteBack(plain(), chat().eligible().provider_body(many_members()))
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

/// How `reason` is reached on Kong, where that is another way, or none.
fn case_on_kong(reason: Bypass) -> Option<Case> {
    let chat = Script::chat;
    let transformed = || chat().transform(r#"{"max_tokens":3}"#);
    let at_once = || Setup { lua: None, ..plain() };
    Some(match reason {
        Bypass::RequestHeadersTruncated => {
            let mut script = chat();
            for n in 0..100 {
                script = script.header(&format!("x-{n}"), "1");
            }
            Request(plain(), script)
        }
        Bypass::RequestUnreadable => {
            Request(plain(), Script::chat_with(sized((1 << 20) + 1)).in_pieces_of(1 << 16))
        }
        Bypass::RequestOverHostBuffer | Bypass::RequestLengthUnknown => {
            Unreachable("nginx writes to a file what it may not buffer")
        }
        Bypass::RequestBodyOverdue | Bypass::HostCannotHold => {
            Unreachable("nginx shows bodies without being asked to hold them")
        }
        Bypass::RequestEmpty => {
            // Without a body nor its length.
            let mut script = chat().without("content-length");
            script.pieces.clear();
            Request(at_once(), script)
        }
        Bypass::ClientGone => Played(client_gone_on_kong),
        Bypass::HostAnswered => Played(host_answered_on_kong),
        Bypass::OptimizerDispatchFailed => {
            Unreachable("a callout that cannot be sent ends like one that was refused")
        }
        Bypass::TransformSwitchedOff => {
            Request(plain().with("kong.transform", false), transformed())
        }
        Bypass::TransformUnprepared => Request(at_once(), transformed()),
        Bypass::TransformTooLarge => {
            let grown = format!(r#"{{"padding":"{}"}}"#, "x".repeat(1 << 20));
            Request(plain().with("limits.request_bytes", 1 << 20), chat().transform(&grown))
        }
        Bypass::ResponseNotFromProvider => Played(not_from_provider_on_kong),
        _ => return None,
    })
}

/// Reasons of the response hook alone: on a host that cannot hold answers nothing counts them.
const OF_THE_HOOK: [Bypass; 5] = [
    Bypass::RequestBypassed,
    Bypass::ResponseStream,
    Bypass::TransformUnreplayable,
    Bypass::ResponseOverHostBuffer,
    Bypass::ResponseLengthUnknown,
];

/// The counter of a reason in one of the families.
pub fn counter(family: &str, reason: Bypass) -> String {
    format!("optimizer_{family}.outcome.bypassed.reason.{}", reason.name())
}

/// How often a reason was counted in one of the families.
pub fn counted(proxy: &dyn Proxy, family: &str, reason: Bypass) -> u64 {
    proxy.counters().get(&counter(family, reason)).copied().unwrap_or(0)
}

/// An object that nobody's API knows.
fn many_members() -> String {
    let members: Vec<String> = (0..10_000).map(|n| format!("\"{n}\":{n}")).collect();
    format!("{{{}}}", members.join(","))
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
        if proxy.is() == Host::Kong {
            // Nothing notices before the callout has ended.
            script.answer_callouts(&mut *proxy);
        }
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

/// Nothing notices that a client left while a callout is under way; before it something does.
fn client_gone_on_kong(start: Start, reason: Bypass) {
    let mut proxy = start(Setup { lua: None, ..plain() }).unwrap();
    let script = Script::chat().unchanged();
    let id = proxy.request(&script.headers, false);
    proxy.client_gone(id);
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);

    let id = script.send(&mut *proxy);
    proxy.client_gone(id);
    script.answer_callouts(&mut *proxy);
    assert!(proxy.provider_got(id).headers.is_none());
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    assert_eq!(script.play(&mut *proxy).outcome, "unchanged");
}

/// nginx, or Lua in it, answers before the body is there.
fn host_answered_on_kong(start: Start, reason: Bypass) {
    let mut proxy = start(Setup { lua: None, ..plain() }).unwrap();
    let script = Script::chat().unchanged();
    let id = proxy.request(&script.headers, false);
    proxy.local_answer(id, 413);
    assert_eq!(proxy.client_got(id).status(), Some(413));
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    assert_eq!(script.play(&mut *proxy).outcome, "unchanged");
}

fn not_from_provider_on_kong(start: Start, reason: Bypass) {
    let mut proxy = start(plain()).unwrap();
    let script = Script::chat().unchanged();
    let id = script.send(&mut *proxy);
    script.answer_callouts(&mut *proxy);
    proxy.local_answer(id, 200);
    assert_eq!(counted(&*proxy, "answers", reason), 1);
}

/// A slow client on a host of which nothing is known yet; it is no reason to think ill of the host.
fn request_body_overdue(start: Start, reason: Bypass) {
    let mut proxy = start(plain()).unwrap();
    let script = Script::chat().unchanged();
    let slow = |proxy: &mut dyn Proxy| {
        let id = proxy.request(&script.headers, false);
        proxy.advance(Duration::from_millis(700));
        assert!(proxy.provider_got(id).headers.is_none(), "let go too early");
        proxy.advance(Duration::from_millis(500));
        let held = proxy.provider_got(id).headers.is_none();
        proxy.request_body(id, &script.pieces[0], true);
        script.answer_callouts(proxy);
        assert_eq!(proxy.provider_got(id).text(), script.body());
        held
    };
    assert!(!slow(&mut *proxy), "a call waits for what may never come");
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    assert!(!slow(&mut *proxy));
    assert_eq!(script.play(&mut *proxy).outcome, "unchanged");
    assert!(slow(&mut *proxy), "the host is known by now, and the client is waited for");
    assert_eq!(counted(&*proxy, "exchanges", reason), 2);
    assert_eq!(proxy.counters()["optimizer_exchanges.outcome.unchanged.reason.none"], 2);
    assert!(proxy.logs().iter().all(|line| !line.contains("held requests")));
}

/// The host does not show the bodies of held requests.
fn host_cannot_hold(start: Start, reason: Bypass) {
    let setup = Setup { shows_held_bodies: false, ..plain() };
    let mut proxy = start(setup).unwrap();
    let script = Script::chat().unchanged();
    let first = script.send(&mut *proxy);
    let second = script.send(&mut *proxy);
    let gone = script.send(&mut *proxy);
    proxy.client_gone(gone);
    proxy.advance(Duration::from_secs(1));
    for id in [first, second] {
        assert_eq!(proxy.provider_got(id).text(), script.body());
        assert!(proxy.provider_got(id).complete);
        script.provide(&mut *proxy, id);
        assert_eq!(proxy.client_got(id).text(), CHAT_ANSWER);
    }
    assert_eq!(counted(&*proxy, "exchanges", Bypass::RequestBodyOverdue), 2);
    let seen = script.play(&mut *proxy);
    seen.assert_untouched(&script);
    assert_eq!(seen.outcome, format!("bypassed:{}", reason.name()));
    assert_eq!(counted(&*proxy, "exchanges", reason), 1);
    assert!(proxy.callouts().is_empty());
    let lines =
        proxy.logs().into_iter().filter(|line| line.contains("allow_on_headers_stop_iteration"));
    assert_eq!(lines.count(), 1, "the operator is told once");
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
            let host = start(plain()).unwrap();
            if !host.reaches(reason) {
                continue;
            }
            match case(reason, host.is()) {
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
                    if seen.is_reviewed(&script) {
                        assert_eq!(seen.response, format!("bypassed:{name}"));
                        assert_eq!(seen.counted.get(&counter("responses", reason)), Some(&1), "{name}");
                    } else {
                        let counted = !OF_THE_HOOK.contains(&reason);
                        let counter = counter("answers", reason);
                        assert_eq!(seen.counted.contains_key(&counter), counted, "{name}: {:?}", seen.counted);
                    }
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
}
