//! What no host does on its own.

use std::time::Duration;

use bytes::Bytes;

use super::Exchange;
use super::request::KEPT_BYTES;
use crate::adapter::Adapter;
use crate::bypass::Bypass;
use crate::callout::{CalloutId, Outcome};
use crate::config::Config;
use crate::effect::{Effect, Flow, Side};
use crate::event::{Body, Event, RequestHead, ResponseHead};
use crate::headers::Headers;
use crate::host::Host;
use crate::metric::Metric;
use crate::plan::Plan;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

struct Played {
    adapter: Adapter,
    now: Duration,
    exchange: Exchange,
    effects: Vec<Effect>,
}

impl Played {
    fn new(config: &str) -> Self {
        let config = Config::parse(config.as_bytes()).unwrap();
        let adapter = Adapter::new(Plan::compile(config, Host::Envoy, |_| None).unwrap(), 1);
        let (now, exchange) = (Duration::from_secs(1), Exchange::new());
        Self { adapter, now, exchange, effects: Vec::new() }
    }

    /// A new request with `body`, which waits for the optimizer.
    fn ask(&mut self, body: &str) -> CalloutId {
        self.exchange = Exchange::new();
        self.effects.clear();
        let length = body.len().to_string();
        let fields: [(&[u8], &[u8]); 5] = [
            (b":method", b"POST"),
            (b":path", b"/v1/chat/completions"),
            (b"authorization", b"Bearer sk-a"),
            (b"content-type", b"application/json"),
            (b"content-length", length.as_bytes()),
        ];
        self.hand_in(Event::RequestHeaders(RequestHead {
            headers: Headers::new(&fields),
            truncated: false,
            upstream: Some(b"provider"),
            properties: &[],
            end_of_stream: false,
        }));
        self.hand_in(Event::SharedLoaded(None));
        self.hand_in(Event::RequestBody(Body::Held(body.len())));
        self.hand_in(Event::RequestBody(Body::Whole(body.as_bytes().into())));
        let callout = self.effects.iter().find_map(|effect| match effect {
            Effect::Callout(callout) => Some(callout.id),
            _ => None,
        });
        callout.unwrap()
    }

    fn answer_head(&mut self, status: &str, upstream: Option<&[u8]>) {
        let fields: [(&[u8], &[u8]); 2] =
            [(b":status", status.as_bytes()), (b"content-type", b"application/json")];
        self.hand_in(Event::ResponseHeaders(ResponseHead {
            headers: Headers::new(&fields),
            upstream,
            from_provider: true,
            end_of_stream: false,
        }));
    }

    fn hand_in(&mut self, event: Event<'_>) {
        self.exchange.handle(&mut self.adapter, self.now, event, &mut self.effects);
    }

    fn answer(&mut self, callout: CalloutId, body: String) {
        self.hand_in(Event::CalloutDone(callout, answered(body)));
    }

    fn outcome(&self) -> Option<&str> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Annotate("optimizer_outcome", outcome) => Some(&**outcome),
            _ => None,
        })
    }

    fn counted(&self, metric: Metric) -> bool {
        self.effects.iter().any(|it| matches!(it, Effect::Measure(found, 1) if *found == metric))
    }
}

fn answered(body: String) -> Outcome {
    Outcome::Answer { status: 200, body: body.into() }
}

fn chat(padding: usize) -> String {
    format!(r#"{{"model":"m","messages":[],"user":"{}"}}"#, "u".repeat(padding))
}

/// Shows `again`, if that is wanted, and has the optimizer name another model: whether it was wanted,
/// what became of the request, and whether the provider gets the other model.
fn changed(config: &str, body: &str, again: Option<&str>) -> (bool, String, bool) {
    let mut played = Played::new(config);
    let callout = played.ask(body);
    let other = body.replace("\"m\"", "\"n\"");
    let outcome = answered(format!(r#"{{"request":{other}}}"#));
    let wanted = played.exchange.wants_request(callout, &outcome);
    assert!(!played.exchange.wants_request(callout, &Outcome::Timeout), "nothing can become of it");
    if let (true, Some(again)) = (wanted, again) {
        let again = Bytes::copy_from_slice(again.as_bytes());
        played.hand_in(Event::RequestBody(Body::Again(again)));
    }
    played.hand_in(Event::CalloutDone(callout, outcome));
    assert!(matches!(played.effects.last(), Some(Effect::Flow(Side::Request, Flow::Pass))));
    let mut sent = played.effects.iter().filter_map(|effect| match effect {
        Effect::ReplaceBody(Side::Request, body) => Some(body),
        _ => None,
    });
    (wanted, played.outcome().unwrap().to_owned(), sent.any(|body| *body == other))
}

#[test]
fn a_large_body_is_not_kept_while_the_optimizer_is_asked() {
    let plain = r#"{"optimizer":{"upstream":"o"}}"#;
    let records =
        r#"{"optimizer":{"upstream":"o"},"hooks":{"record":true},"record":{"content":true}}"#;
    let (small, large) = (chat(KEPT_BYTES - 50), chat(KEPT_BYTES));
    let transformed = |wanted| (wanted, "transformed".to_owned(), true);
    assert_eq!(changed(plain, &small, Some(&small)), transformed(false));
    assert_eq!(changed(plain, &large, Some(&large)), transformed(true));
    assert_eq!(changed(records, &large, Some(&large)), transformed(false));
    let unread = (true, "bypassed:request_unreadable".to_owned(), false);
    assert_eq!(changed(plain, &large, None), unread);
    assert_eq!(changed(plain, &large, Some(&small)), unread);
}

#[test]
fn an_answer_of_which_a_part_was_not_shown_is_not_written_back() {
    let config = r#"{"optimizer":{"upstream":"o"},"hooks":{"response":false}}"#;
    for hole in [false, true] {
        let mut played = Played::new(config);
        let callout = played.ask(&chat(1));
        let answer = format!(r#"{{"request":{},"cacheEligible":true,"cacheKey":"k"}}"#, chat(1));
        played.answer(callout, answer);
        played.answer_head("200", None);
        let parts: [&[u8]; 3] = [br#"{"id":"i""#, br#","more":1"#, b"}"];
        for (index, part) in parts.into_iter().enumerate() {
            let part = if hole && index == 1 { Body::Unreadable } else { Body::Chunk(part) };
            played.hand_in(Event::ResponseBody(part));
        }
        played.hand_in(Event::ResponseBody(Body::End));
        played.hand_in(Event::Closed);
        let reason = hole.then_some(Bypass::ResponseUnreadable);
        assert!(played.counted(Metric::WriteBacks(reason)), "{hole} {:?}", played.effects);
        assert!(played.counted(Metric::Answers(reason)), "{hole}");
    }
}

#[test]
fn a_proof_is_stored_anew_after_a_sixteenth_of_its_time() {
    let config = r#"{"optimizer":{"upstream":"o"},"cache":{"proof_seconds":160}}"#;
    let mut played = Played::new(config);
    // Whether a proof is at stake with an answer of this status at this time, and whether one is stored.
    let mut told = |seconds, status: &str| {
        played.now = Duration::from_secs(seconds);
        let callout = played.ask(&chat(1));
        played.answer(callout, format!(r#"{{"request":{}}}"#, chat(1)));
        let number = status.parse().unwrap();
        let asks = played.exchange.asks_for_upstream(&played.adapter, played.now, number);
        played.answer_head(status, asks.then_some(b"provider"));
        let mut stored = played.effects.iter().filter(
            |effect| matches!(effect, Effect::StoreShared(key, _) if key.contains("proof")),
        );
        (asks, stored.next().is_some())
    };
    let (stored, left_alone, looked_up) = ((true, true), (false, false), (true, false));
    assert_eq!(told(1000, "200"), stored);
    assert_eq!(told(1000, "200"), left_alone);
    assert_eq!(told(1009, "201"), left_alone);
    assert_eq!(told(1009, "500"), left_alone);
    assert_eq!(told(1010, "200"), stored);
    assert_eq!(told(1011, "200"), left_alone);
    assert_eq!(told(1012, "401"), looked_up);
    assert_eq!(told(1013, "200"), stored, "void in between");
    assert_eq!(told(900, "200"), stored, "the clock was set");
}
