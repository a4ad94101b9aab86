//! One exchange as a script: what each side says, and what each side saw.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::{Answer, Callout, Headers, Message};
use optimizer_core::host::Host;
use serde_json::{Value, json};

use crate::proxy::{Id, Proxy};

/// A chat request whose spelling no serializer would produce again.
pub const CHAT: &str = r#"{ "model":"gpt","messages":[{"role":"user","content":"h\u0069"}], "seed":9007199254740993,"x":1.0 }"#;

/// An answer to it.
pub const CHAT_ANSWER: &str = r#"{"id":"c1","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}],"usage":{"total_tokens":9007199254740993}}"#;

/// Each dialect that streams: how its recorded streams' names begin, its path, and a call for a stream.
pub const STREAMED: [(&str, &str, &str); 4] = [
    (
        "chat_",
        "/v1/chat/completions",
        r#"{"model":"m","messages":[{"role":"user","content":"c"}],"stream":true,"stream_options":{"include_usage":true}}"#,
    ),
    (
        "completions_",
        "/v1/completions",
        r#"{"model":"m","prompt":"p","stream":true,"stream_options":{"include_usage":true}}"#,
    ),
    ("responses_", "/v1/responses", r#"{"model":"m","input":"i","store":false,"stream":true}"#),
    (
        "anthropic_",
        "/v1/messages",
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"c"}],"stream":true}"#,
    ),
];

/// A recorded stream of a provider.
pub fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/streams/recorded/{name}.sse", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the provider says.
#[derive(Clone)]
pub struct Provider {
    /// Its headers.
    pub headers: Headers,
    /// Its body, as it arrives.
    pub pieces: Vec<Vec<u8>>,
    /// Its trailers.
    pub trailers: Option<Headers>,
}

/// What each side of an exchange says.
#[derive(Clone)]
pub struct Script {
    /// The client's headers.
    pub headers: Headers,
    /// The client's body, as it arrives.
    pub pieces: Vec<Vec<u8>>,
    /// The client's trailers.
    pub trailers: Option<Headers>,
    /// The optimizer's answers by path; refused where there is none.
    pub answers: BTreeMap<&'static str, Answer>,
    /// The provider's answer.
    pub provider: Provider,
}

/// What was seen of an exchange.
#[derive(Debug)]
pub struct Seen {
    /// What the client got.
    pub client: Message,
    /// What the provider got.
    pub provider: Message,
    /// The callouts sent while somebody waited.
    pub callouts: Vec<Callout>,
    /// The access log's `optimizer_outcome`.
    pub outcome: String,
    /// The access log's `optimizer_response`.
    pub response: String,
    /// What counters grew by.
    pub counted: BTreeMap<String, u64>,
    /// Where it was played.
    pub host: Host,
}

impl Script {
    /// A POST of `body` to `path`, which the provider answers with `answer`.
    pub fn new(path: &str, body: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) -> Self {
        let (body, answer) = (body.as_ref().to_vec(), answer.as_ref().to_vec());
        let mut headers = Headers::from([
            (":method", "POST"),
            (":path", path),
            (":authority", "llm.example"),
            ("content-type", "application/json"),
            ("authorization", "Bearer provider-key"),
        ]);
        headers.add("content-length", body.len().to_string().as_bytes());
        let mut answer_headers =
            Headers::from([(":status", "200"), ("content-type", "application/json")]);
        answer_headers.add("content-length", answer.len().to_string().as_bytes());
        Self {
            headers,
            pieces: vec![body],
            trailers: None,
            answers: BTreeMap::new(),
            provider: Provider { headers: answer_headers, pieces: vec![answer], trailers: None },
        }
    }

    /// A chat completion.
    pub fn chat() -> Self {
        Self::chat_with(CHAT)
    }

    /// A call for a stream that the provider answers with a recorded one.
    pub fn recorded(name: &str) -> Self {
        let (_, path, body) = STREAMED.into_iter().find(|(of, ..)| name.starts_with(of)).unwrap();
        Self::new(path, body, "").streams(recorded(name))
    }

    /// A chat completion with another body.
    pub fn chat_with(body: impl AsRef<[u8]>) -> Self {
        Self::new("/v1/chat/completions", body, CHAT_ANSWER)
    }

    /// The same call, not for a stream.
    pub fn plain(mut self) -> Self {
        let body = self.body().replace(r#","stream":true"#, "");
        self.headers.replace("content-length", body.len().to_string().as_bytes());
        self.pieces = vec![body.into_bytes()];
        self
    }

    /// The client's body as text.
    pub fn body(&self) -> String {
        String::from_utf8_lossy(&self.pieces.concat()).into_owned()
    }

    /// What the optimizer says to a path.
    pub fn on(mut self, path: &'static str, answer: Answer) -> Self {
        self.answers.insert(path, answer);
        self
    }

    /// What it says to `/v1/optimize`, as JSON.
    pub fn optimize(self, answer: impl AsRef<[u8]>) -> Self {
        self.on("/v1/optimize", Answer::json(200, answer))
    }

    /// The optimizer's version of the request, and nothing else.
    pub fn transform(self, request: &str) -> Self {
        self.optimize(format!(r#"{{"protocolVersion":1,"request":{request}}}"#))
    }

    /// The optimizer changes nothing.
    pub fn unchanged(self) -> Self {
        let body = self.body();
        self.transform(&body)
    }

    /// The optimizer changes nothing and wants the answer written back.
    pub fn eligible(self) -> Self {
        let body = self.body();
        self.optimize(format!(r#"{{"request":{body},"cacheEligible":true,"cacheKey":"key-1"}}"#))
    }

    /// A hit.
    pub fn hit(self, cached: &str) -> Self {
        let body = self.body();
        self.optimize(format!(r#"{{"request":{body},"cacheHit":true,"cachedResponse":{cached}}}"#))
    }

    /// The optimizer's version of the answer, with a decision.
    pub fn review(self, response: &str) -> Self {
        let decisions = r#"[{"kind":"redaction","summary":"s","applied":true}]"#;
        let answer = format!(r#"{{"response":{response},"decisions":{decisions}}}"#);
        self.on("/v1/optimize-response", Answer::json(200, answer))
    }

    /// A request header more.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value.as_ref());
        self
    }

    /// A request header instead.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.headers.replace(name, value.as_bytes());
        self
    }

    /// A request header less.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// A header of the provider's instead.
    pub fn provider_header(mut self, name: &str, value: &str) -> Self {
        self.provider.headers.replace(name, value.as_bytes());
        self
    }

    /// Another answer of the provider.
    pub fn provider_body(mut self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        let length = body.len().to_string();
        self.provider.headers.replace("content-length", length.as_bytes());
        self.provider.pieces = vec![body];
        self
    }

    /// The provider answers with this stream.
    pub fn streams(mut self, stream: impl AsRef<[u8]>) -> Self {
        let content_type = "text/event-stream; charset=utf-8";
        self.provider.headers = Headers::from([(":status", "200"), ("content-type", content_type)]);
        self.provider.pieces = vec![stream.as_ref().to_vec(), Vec::new()];
        self
    }

    /// Neither message says how long it is.
    pub fn chunked(mut self) -> Self {
        self.headers.remove("content-length");
        self.provider.headers.remove("content-length");
        self
    }

    /// Both bodies in pieces of this size, their end told by an empty one, as HTTP/1.1 brings them.
    pub fn in_pieces_of(mut self, size: usize) -> Self {
        for pieces in [&mut self.pieces, &mut self.provider.pieces] {
            let body = pieces.concat();
            *pieces = body.chunks(size).map(<[u8]>::to_vec).collect();
            pieces.push(Vec::new());
        }
        self
    }

    /// Plays everything.
    pub fn play(&self, proxy: &mut dyn Proxy) -> Seen {
        let before = Before::of(proxy);
        let id = self.send(proxy);
        self.answer_callouts(proxy);
        self.provide(proxy, id);
        self.answer_callouts(proxy);
        before.seen(proxy, id)
    }

    /// Sends the request.
    pub fn send(&self, proxy: &mut dyn Proxy) -> Id {
        let id = proxy.request(&self.headers, self.is_bodiless());
        if self.is_bodiless() {
            return id;
        }
        let last = self.pieces.len() - 1;
        for (index, piece) in self.pieces.iter().enumerate() {
            proxy.request_body(id, piece, index == last && self.trailers.is_none());
        }
        if let Some(trailers) = &self.trailers {
            proxy.request_trailers(id, trailers);
        }
        id
    }

    fn is_bodiless(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }

    /// Answers what waits, with this script's answers.
    pub fn answer_callouts(&self, proxy: &mut dyn Proxy) {
        while let Some(callout) = proxy.pending().first() {
            let answer = self.answers.iter().find(|(path, _)| callout.path().ends_with(*path));
            let answer = answer.map_or(Answer::Refused, |(_, answer)| answer.clone());
            proxy.answer(callout.id, answer);
        }
    }

    /// The provider answers, if the request reached it.
    pub fn provide(&self, proxy: &mut dyn Proxy, id: Id) {
        if !proxy.provider_got(id).complete {
            return;
        }
        let Provider { headers, pieces, trailers } = &self.provider;
        let bodiless = pieces.is_empty() && trailers.is_none();
        proxy.response(id, headers, bodiless);
        if bodiless {
            return;
        }
        let last = pieces.len() - 1;
        for (index, piece) in pieces.iter().enumerate() {
            proxy.response_body(id, piece, index == last && trailers.is_none());
        }
        if let Some(trailers) = trailers {
            proxy.response_trailers(id, trailers);
        }
    }
}

/// How things stood before an exchange.
pub struct Before {
    callouts: usize,
    counters: BTreeMap<String, u64>,
}

impl Before {
    /// How they stand now.
    pub fn of(proxy: &dyn Proxy) -> Self {
        Self { callouts: proxy.callouts().len(), counters: proxy.counters() }
    }

    /// What exchange `id` came to since.
    pub fn seen(self, proxy: &dyn Proxy, id: Id) -> Seen {
        let counted = self.counted(proxy);
        // What no access log shows, the counters tell.
        let outcome = |family: &str, name| {
            let mut counters = counted.keys().filter_map(|name| name.strip_prefix(family));
            let counter = counters.next_back().and_then(|rest| rest.split_once(".reason."));
            let told = counter.map_or("none".to_owned(), |(outcome, reason)| match reason {
                "none" => outcome.to_owned(),
                reason => format!("{outcome}:{reason}"),
            });
            match proxy.can().annotate {
                true => proxy.annotation(id, name).unwrap_or_else(|| "none".to_owned()),
                false => told,
            }
        };
        Seen {
            outcome: outcome("optimizer_exchanges.outcome.", "optimizer_outcome"),
            response: outcome("optimizer_responses.outcome.", "optimizer_response"),
            client: proxy.client_got(id).clone(),
            provider: proxy.provider_got(id).clone(),
            callouts: proxy.callouts()[self.callouts..].to_vec(),
            counted,
            host: proxy.is(),
        }
    }

    /// What counters grew by since.
    pub fn counted(&self, proxy: &dyn Proxy) -> BTreeMap<String, u64> {
        let grown = proxy.counters().into_iter().filter_map(|(name, value)| {
            let grown = value - self.counters.get(&name).copied().unwrap_or(0);
            (grown > 0).then_some((name, grown))
        });
        grown.collect()
    }
}

impl Seen {
    /// What the response hook came to; on a host that cannot hold answers it came to nothing.
    pub fn assert_response(&self, outcome: &str) {
        let holds = self.host.capabilities().hold_response;
        assert_eq!(self.response, if holds { outcome } else { "none" });
    }

    /// Whether the host lets answers be reviewed. Where it does not, nobody was asked about this
    /// one, and it went through as it came.
    pub fn is_reviewed(&self, script: &Script) -> bool {
        let holds = self.host.capabilities().hold_response;
        if !holds {
            let asked = |callout: &Callout| callout.path().ends_with("/v1/optimize-response");
            assert!(!self.callouts.iter().any(asked), "asked about an answer that has gone");
            assert_eq!(self.response, "none");
            self.assert_untouched_answer(script);
        }
        holds
    }

    /// An answer of ours as the client gets it: nginx ends it with a line feed.
    pub fn served(&self, text: &str) -> String {
        if self.host == Host::Kong { format!("{text}\n") } else { text.to_owned() }
    }

    /// The one callout to a path.
    pub fn callout(&self, path: &str) -> &Callout {
        let mut found = self.callouts.iter().filter(|callout| callout.path() == path);
        let callout = found.next().unwrap_or_else(|| panic!("nobody asked {path}"));
        assert!(found.next().is_none(), "{path} was asked twice");
        callout
    }

    /// The body of the one callout to a path.
    pub fn asked(&self, path: &str) -> Value {
        serde_json::from_slice(&self.callout(path).body).unwrap()
    }

    /// The header that tells the client what was done.
    pub fn told(&self) -> Value {
        let header = self.client.header("x-anyray-optimization");
        header.map_or(json!(null), |text| serde_json::from_str(text).unwrap())
    }

    /// Both bodies went through unchanged, and so did the provider's headers.
    pub fn assert_untouched(&self, script: &Script) {
        assert_eq!(self.provider.text(), script.body());
        assert!(self.provider.complete, "the provider waits for the rest");
        self.assert_untouched_answer(script);
    }

    /// The provider's answer went through unchanged.
    pub fn assert_untouched_answer(&self, script: &Script) {
        let mut headers = self.client.headers.clone().expect("an answer");
        headers.remove("x-anyray-optimization");
        assert_eq!(headers, script.provider.headers);
        if self.host != Host::Kong {
            assert_eq!(self.client.trailers, script.provider.trailers);
        }
        let answer = script.provider.pieces.concat();
        assert_eq!(self.client.text(), String::from_utf8_lossy(&answer));
        assert!(self.client.complete, "the client waits for the rest");
    }
}

/// The outcome of a request that was not played to its end: in the access log, or counted once.
pub fn assert_outcome(proxy: &dyn Proxy, id: Id, outcome: &str) {
    if proxy.can().annotate {
        assert_eq!(proxy.annotation(id, "optimizer_outcome").as_deref(), Some(outcome));
    } else {
        let reason = outcome.strip_prefix("bypassed:").expect("a bypass");
        let name = format!("optimizer_exchanges.outcome.bypassed.reason.{reason}");
        assert!(proxy.counters().contains_key(&name), "{outcome}: {:?}", proxy.counters());
    }
}

/// Lets write-backs leave, and gives their bodies.
pub fn write_backs(proxy: &mut dyn Proxy) -> Vec<Value> {
    queued(proxy, "/v1/cache")
}

/// Lets records leave, and gives them.
pub fn records(proxy: &mut dyn Proxy) -> Vec<Value> {
    queued(proxy, "/v1/record")
}

/// Lets what waits in the queue leave, answers it with 204, and gives the bodies sent to a path.
fn queued(proxy: &mut dyn Proxy, path: &str) -> Vec<Value> {
    let first = proxy.callouts().len();
    // Few leave at a time, one only on Kong, and no more while others are under way.
    let mut idle = 0;
    while idle < 10 {
        proxy.advance(Duration::from_millis(20));
        let pending = proxy.pending();
        idle = if pending.is_empty() { idle + 1 } else { 0 };
        for callout in pending {
            proxy.answer(callout.id, Answer::http(204, Headers::default(), ""));
        }
    }
    let sent = proxy.callouts()[first..].iter().filter(|callout| callout.path() == path);
    sent.map(|callout| serde_json::from_slice(&callout.body).unwrap()).collect()
}
