//! Events in any order, also in those that no host knows: nothing panics, and
//! what was held is given back.

use std::time::Duration;

use bytes::Bytes;
use optimizer_core::adapter::Adapter;
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::config::Config;
use optimizer_core::effect::Effect;
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::headers::Headers;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;
use optimizer_core::roomy::Roomy;

const CONFIGS: [&str; 4] = [
    r#"{"optimizer":{"upstream":"o"}}"#,
    r#"{"optimizer":{"upstream":"o"},"cache":{"serve":"anyone"},"hooks":{"stream_response":true,"record":true},
        "record":{"content":true},"limits":{"host_buffer_bytes":4194304},"decisions_header":"always"}"#,
    r#"{"optimizer":{"upstream":"o"},"limits":{"request_bytes":1024,"response_bytes":1024,"total_bytes":1048576},
        "breaker":{"failures":1,"open_ms":1},"hooks":{"record":true}}"#,
    r#"{"optimizer":{"upstream":"o:1"},"host":"kong","kong":{"transform":true},"hooks":{"record":true}}"#,
];
const PATHS: [&[u8]; 4] =
    [b"/v1/chat/completions", b"/v1/responses", b"/v1/messages", b"/elsewhere"];
const BODIES: [&[u8]; 8] = [
    br#"{"model":"m","messages":[{}],"max_tokens":1,"input":"x","store":false}"#,
    br#"{"model":"m","messages":[{}],"max_tokens":1,"input":"x","store":false,"stream":true}"#,
    br#"{"id":"1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#,
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    br#"{"request":{"model":"n"},"cacheEligible":true,"cacheKey":"k","decisions":[{"kind":"k"}]}"#,
    br#"{"response":{"id":"2"},"decisions":[{"kind":"k"}]}"#,
    br#"{"cacheHit":true,"cachedResponse":{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}}"#,
    b"{",
];
const TYPES: [&[u8]; 4] = [b"application/json", b"text/event-stream", b"text/plain", b""];
const STATUSES: [&[u8]; 4] = [b"200", b"401", b"500", b"x"];

/// More events than this are not played.
const MAX_EVENTS: usize = 400;

/// The configuration in the first byte, then two bytes for each event.
pub fn target(data: &[u8]) {
    let Some((&config, events)) = data.split_first() else { return };
    let config = Config::parse(CONFIGS[usize::from(config) % CONFIGS.len()].as_bytes());
    let plan = Plan::compile(config.expect("valid"), Host::Envoy, |_| None).expect("valid");
    let mut state = State {
        adapter: Adapter::new(plan, 1),
        exchanges: [None, None, None],
        now: Duration::from_secs(1_800_000_000),
        callouts: Vec::new(),
    };
    for pair in events.chunks_exact(2).take(MAX_EVENTS) {
        state.event(pair[0], usize::from(pair[1]));
    }
    for place in 0..state.exchanges.len() {
        state.feed(place, Event::Closed);
    }
    for _ in 0..600 {
        state.tick();
        while let Some(id) = state.callouts.pop() {
            state.root(|adapter, now, effects| {
                adapter.callout_done(id, Outcome::Timeout, now, effects);
            });
        }
    }
    assert_eq!(state.adapter.held_bytes(), 0, "bytes that nobody holds");
}

struct State {
    adapter: Adapter,
    exchanges: [Option<Exchange>; 3],
    now: Duration,
    callouts: Vec<CalloutId>,
}

impl State {
    /// `kind` says what happens to which exchange, `with` the rest.
    fn event(&mut self, kind: u8, with: usize) {
        let place = usize::from(kind >> 6) % self.exchanges.len();
        let body = BODIES[with % BODIES.len()];
        let part = match with >> 5 {
            0 => Body::Held(with * 100),
            1 => Body::Unreadable,
            2 => Body::Early(body.into()),
            3 => Body::Whole(Roomy::new(body.to_vec(), 0)),
            4 => Body::End,
            _ => Body::Chunk(body),
        };
        self.now += Duration::from_millis(with as u64);
        match kind & 0x3f {
            0..=7 => self.begin(place, with),
            8..=19 => self.feed(place, Event::RequestBody(part)),
            20..=25 => self.answer(place, with),
            26..=39 => self.feed(place, Event::ResponseBody(part)),
            40..=53 => {
                let id = match self.callouts.is_empty() {
                    true => CalloutId(with as u32),
                    false => self.callouts.swap_remove(with % self.callouts.len()),
                };
                let outcome = match with >> 4 {
                    0 => Outcome::DispatchFailed,
                    1 => Outcome::Unreachable,
                    2 => Outcome::Timeout,
                    3 => Outcome::Reset,
                    4 => Outcome::TooLarge,
                    5 => Outcome::Answer { status: 500, body: Bytes::new() },
                    _ => Outcome::Answer { status: 200, body: Bytes::from_static(body) },
                };
                self.feed(place, Event::CalloutDone(id, outcome.clone()));
                self.root(|adapter, now, effects| {
                    adapter.callout_done(id, outcome, now, effects);
                });
            }
            54..=56 => {
                let value = [0; 48];
                self.feed(place, Event::SharedLoaded(value.get(..with % 64)));
            }
            57 | 58 => self.feed(place, Event::Tick),
            59..=61 => self.tick(),
            _ => {
                self.feed(place, Event::Closed);
                self.exchanges[place] = None;
            }
        }
    }

    fn begin(&mut self, place: usize, with: usize) {
        // The one thing that every host keeps: an exchange begins once.
        self.feed(place, Event::Closed);
        self.exchanges[place] = Some(Exchange::new());
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"POST"),
            (b":path", PATHS[with % 4]),
            (b"content-type", TYPES[(with >> 2) % 2 * 3 % 4]),
            (b"authorization", b"Bearer x"),
        ];
        if with & 8 == 0 {
            fields.push((b"content-length", b"100"));
        }
        if with & 16 != 0 {
            fields.push((b"x-anyray-test", b"1"));
        }
        self.feed(
            place,
            Event::RequestHeaders(RequestHead {
                headers: Headers::new(&fields),
                truncated: with & 0xfe == 0xd2,
                upstream: Some(b"llm"),
                properties: &[],
                end_of_stream: with & 0xe0 == 0xe0,
            }),
        );
    }

    fn answer(&mut self, place: usize, with: usize) {
        let fields: [(&[u8], &[u8]); 3] = [
            (b":status", STATUSES[with % 4]),
            (b"content-type", TYPES[(with >> 2) % 4]),
            (b"content-length", b"100"),
        ];
        self.feed(
            place,
            Event::ResponseHeaders(ResponseHead {
                headers: Headers::new(&fields[..2 + (with >> 4) % 2]),
                upstream: Some(b"llm"),
                from_provider: with & 0x20 == 0,
                end_of_stream: with & 0xc0 == 0xc0,
            }),
        );
    }

    fn feed(&mut self, place: usize, event: Event<'_>) {
        let Some(exchange) = &mut self.exchanges[place] else { return };
        let mut effects = Vec::new();
        exchange.handle(&mut self.adapter, self.now, event, &mut effects);
        self.note(&effects);
    }

    fn tick(&mut self) {
        self.root(|adapter, now, effects| adapter.tick(now, effects));
    }

    fn root(&mut self, run: impl FnOnce(&mut Adapter, Duration, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        run(&mut self.adapter, self.now, &mut effects);
        self.note(&effects);
    }

    fn note(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Callout(callout) = effect {
                self.callouts.push(callout.id);
            }
        }
    }
}
