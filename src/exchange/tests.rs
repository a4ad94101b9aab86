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
    exchange: Exchange,
    effects: Vec<Effect>,
}

impl Played {
    /// A request with `body` that waits for the optimizer.
    fn asking(config: &str, body: &str) -> (Self, CalloutId) {
        let config = Config::parse(config.as_bytes()).unwrap();
        let adapter = Adapter::new(Plan::compile(config, Host::Envoy, |_| None).unwrap(), 1);
        let mut played = Self { adapter, exchange: Exchange::new(), effects: Vec::new() };
        let length = body.len().to_string();
        let fields: [(&[u8], &[u8]); 4] = [
            (b":method", b"POST"),
            (b":path", b"/v1/chat/completions"),
            (b"content-type", b"application/json"),
            (b"content-length", length.as_bytes()),
        ];
        played.hand_in(Event::RequestHeaders(RequestHead {
            headers: Headers::new(&fields),
            truncated: false,
            upstream: None,
            properties: &[],
            end_of_stream: false,
        }));
        played.hand_in(Event::SharedLoaded(None));
        played.hand_in(Event::RequestBody(Body::Held(body.len())));
        played.hand_in(Event::RequestBody(Body::Whole(body.as_bytes().into())));
        let callout = played.effects.iter().find_map(|effect| match effect {
            Effect::Callout(callout) => Some(callout.id),
            _ => None,
        });
        (played, callout.unwrap())
    }

    fn hand_in(&mut self, event: Event<'_>) {
        let now = Duration::from_secs(1);
        self.exchange.handle(&mut self.adapter, now, event, &mut self.effects);
    }

    fn answer(&mut self, callout: CalloutId, body: String) {
        let outcome = Outcome::Answer { status: 200, body: body.into() };
        self.hand_in(Event::CalloutDone(callout, outcome));
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

fn chat(padding: usize) -> String {
    format!(r#"{{"model":"m","messages":[],"user":"{}"}}"#, "u".repeat(padding))
}

/// Shows `again`, if that is wanted, and has the optimizer name another model: whether it was wanted,
/// what became of the request, and whether the provider gets the other model.
fn changed(config: &str, body: &str, again: Option<&str>) -> (bool, String, bool) {
    let (mut played, callout) = Played::asking(config, body);
    let wanted = played.exchange.wants_request(callout);
    if let (true, Some(again)) = (wanted, again) {
        let again = Bytes::copy_from_slice(again.as_bytes());
        played.hand_in(Event::RequestBody(Body::Again(again)));
    }
    let other = body.replace("\"m\"", "\"n\"");
    played.answer(callout, format!(r#"{{"request":{other}}}"#));
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
        let (mut played, callout) = Played::asking(config, &chat(1));
        let answer = format!(r#"{{"request":{},"cacheEligible":true,"cacheKey":"k"}}"#, chat(1));
        played.answer(callout, answer);
        let fields: [(&[u8], &[u8]); 2] =
            [(b":status", b"200"), (b"content-type", b"application/json")];
        played.hand_in(Event::ResponseHeaders(ResponseHead {
            headers: Headers::new(&fields),
            upstream: None,
            from_provider: true,
            end_of_stream: false,
        }));
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
