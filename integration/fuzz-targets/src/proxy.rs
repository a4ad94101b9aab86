//! A proxy in memory that carries out what the core asks, as Envoy would, or Kong where the
//! configuration says so, and checks at each step what must hold at each step.

mod checks;
mod effects;
mod lane;

use std::collections::BTreeMap;
use std::time::Duration;

use optimizer_core::adapter::Adapter;
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::config::Config;
use optimizer_core::dialect::{Dialect, Endpoints};
use optimizer_core::effect::{Flow, Side};
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::headers::Headers;
use optimizer_core::host::{Capabilities, Host};
use optimizer_core::plan::Plan;
use optimizer_core::roomy::Roomy;
use serde_json::Value;

use self::lane::Lane;
use crate::script::{Ending, Fields, Script, Step};

/// The wall clock at the start.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// How often ticks come, once asked for.
const TICK: Duration = Duration::from_millis(10);
/// What the environment holds under every name.
pub const TOKEN: &str = "opt1mizer-token";

/// A proxy with one worker.
pub struct Proxy {
    adapter: Adapter,
    config: Value,
    endpoints: Endpoints,
    now: Duration,
    tick: Option<Duration>,
    streams: Vec<Stream>,
    /// The stream that a digit names.
    named: [Option<usize>; 10],
    waiting: Vec<Waiting>,
    shared: BTreeMap<String, Vec<u8>>,
    upstream: Vec<u8>,
    refuses: bool,
    withholds: bool,
    /// Which credentials the provider accepted where, and when last.
    proven: BTreeMap<Proof, Duration>,
    report: Report,
}

/// What came of it all, for comparison.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// For each exchange what the provider and the client got, and the access log.
    pub exchanges: Vec<(lane::Sent, lane::Sent, BTreeMap<&'static str, String>)>,
    /// Every callout's path and body.
    pub callouts: Vec<(String, String)>,
    /// Every counter, and every sample of every histogram.
    pub measured: BTreeMap<String, Vec<u64>>,
}

struct Stream {
    exchange: Exchange,
    dialect: Option<Dialect>,
    credentials: Fields,
    upstream: Vec<u8>,
    request: Lane,
    response: Lane,
    /// The body of the answer to the last callout that was waited for.
    advice: Vec<u8>,
    annotations: BTreeMap<&'static str, String>,
    /// The proxy answers itself: the request goes no further.
    answered: bool,
    served: bool,
    over: bool,
}

/// Endpoint, upstream and credentials: what a provider's 2xx proves.
type Proof = (Option<&'static str>, Vec<u8>, Fields);

struct Waiting {
    id: CalloutId,
    stream: Option<usize>,
    deadline: Duration,
    most: usize,
}

impl Proxy {
    /// A proxy with a configuration, `optimizer.upstream` aside; `None` if it is refused.
    pub fn new(config: &[u8], host: Host) -> Option<Self> {
        let mut config: Value = serde_json::from_slice(config).ok()?;
        let optimizer = config.as_object_mut()?.entry("optimizer").or_insert_with(Value::default);
        if optimizer.is_null() {
            *optimizer = serde_json::json!({"upstream": "optimizer:8088"});
        }
        let parsed = Config::parse(config.to_string().as_bytes()).ok()?;
        let plan = Plan::compile(parsed, host, |_| Some(TOKEN.to_owned())).ok()?;
        let extra: Vec<_> = config["endpoints"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(suffix, endpoint)| {
                Some((suffix.clone(), Dialect::from_endpoint(endpoint.as_str()?)?))
            })
            .collect();
        Some(Self {
            adapter: Adapter::new(plan, 1),
            config,
            endpoints: Endpoints::new(extra),
            now: EPOCH,
            tick: None,
            streams: Vec::new(),
            named: [None; 10],
            waiting: Vec::new(),
            shared: BTreeMap::new(),
            upstream: b"llm".to_vec(),
            refuses: false,
            withholds: false,
            proven: BTreeMap::new(),
            report: Report::default(),
        })
    }

    /// Lets everything happen, then brings all to its end.
    pub fn play(mut self, script: &Script) -> Report {
        for step in &script.steps {
            self.step(step);
            self.check_held();
        }
        self.finish()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { id, headers } => {
                if let Some(stream) = self.named[*id].take() {
                    self.close(stream);
                }
                self.named[*id] = Some(self.open(headers.clone()));
            }
            Step::Body { id, piece } => self.piece(*id, Side::Request, piece, false),
            Step::End { id } => self.piece(*id, Side::Request, &[], true),
            Step::Answer { id, headers } => {
                let Some(stream) = self.named[*id] else { return };
                let Stream { request, response, answered, over, .. } = &self.streams[stream];
                if request.out.is_some() && !response.begun && !answered && !over {
                    self.answer(stream, headers.clone(), true);
                }
            }
            Step::Chunk { id, piece } => self.piece(*id, Side::Response, piece, false),
            Step::Done { id } => self.piece(*id, Side::Response, &[], true),
            Step::Local { id, status } => {
                let Some(stream) = self.named[*id] else { return };
                let Stream { response, over, .. } = &self.streams[stream];
                if !response.begun && !over {
                    let status = status.to_string().into_bytes();
                    let headers = vec![
                        (b":status".to_vec(), status),
                        (b"content-length".to_vec(), b"5".to_vec()),
                    ];
                    self.local_answer(stream, headers, b"local");
                }
            }
            Step::Gone { id } => {
                if let Some(stream) = self.named[*id] {
                    self.close(stream);
                }
            }
            Step::Outcome { index, outcome } => {
                if *index < self.waiting.len() {
                    self.end_callout(*index, outcome);
                }
            }
            Step::Wait { milliseconds } => self.wait(Duration::from_millis(*milliseconds)),
            Step::Route { upstream } => self.upstream.clone_from(upstream),
            Step::Dispatch { refused } => self.refuses = *refused,
            Step::Withhold => self.withholds |= self.streams.is_empty(),
        }
    }

    /// Brings everything to its end: nothing may be left behind.
    fn finish(mut self) -> Report {
        for stream in 0..self.streams.len() {
            for side in [Side::Request, Side::Response] {
                if self.lane(stream, side).begun && !self.lane(stream, side).ended {
                    self.piece_of(stream, side, &[], true);
                }
                while let Some(index) =
                    self.waiting.iter().position(|waiting| waiting.stream == Some(stream))
                {
                    self.end_callout(index, &Ending::Unreachable);
                }
            }
        }
        // A host that withholds bodies gets its requests back after a while.
        self.wait(Duration::from_secs(1));
        for stream in 0..self.streams.len() {
            self.check_done(stream);
            self.close(stream);
        }
        for _ in 0..2_000 {
            if self.tick.is_none() && self.waiting.is_empty() {
                break;
            }
            self.wait(TICK);
            while !self.waiting.is_empty() {
                self.end_callout(0, &Ending::Answer(204, Vec::new()));
            }
        }
        assert_eq!(self.tick, None, "ticks for ever");
        assert_eq!(self.adapter.held_bytes(), 0, "bytes that nobody holds");
        self.check_counts();
        let Self { streams, mut report, .. } = self;
        for stream in streams {
            let Stream { request, response, annotations, .. } = stream;
            report.exchanges.push((request.sent(), response.sent(), annotations));
        }
        report
    }

    fn lane(&mut self, stream: usize, side: Side) -> &mut Lane {
        match side {
            Side::Request => &mut self.streams[stream].request,
            Side::Response => &mut self.streams[stream].response,
        }
    }

    fn open(&mut self, headers: Fields) -> usize {
        let credentials = ["authorization", "x-api-key", "api-key"].into_iter().flat_map(|name| {
            headers.iter().filter(move |(other, _)| other == name.as_bytes()).cloned()
        });
        let path = headers.iter().find(|(name, _)| name == b":path").map(|(_, path)| path);
        self.streams.push(Stream {
            exchange: Exchange::new(),
            dialect: path.and_then(|path| self.endpoints.dialect(path)),
            credentials: credentials.collect(),
            upstream: self.upstream.clone(),
            request: Lane::new(headers.clone()),
            response: Lane::absent(),
            advice: Vec::new(),
            annotations: BTreeMap::new(),
            answered: false,
            served: false,
            over: false,
        });
        let stream = self.streams.len() - 1;
        let fields = borrowed(&headers);
        let wanted = self.adapter.plan().properties().len();
        let properties = vec![Some(b"property".to_vec()); wanted];
        let upstream = self.upstream.clone();
        self.feed(
            stream,
            Event::RequestHeaders(RequestHead {
                headers: Headers::new(&fields),
                truncated: false,
                upstream: Some(&upstream),
                properties: &properties,
                end_of_stream: false,
            }),
        );
        stream
    }

    fn answer(&mut self, stream: usize, headers: Fields, from_provider: bool) {
        let status = headers.iter().find(|(name, _)| name == b":status");
        if from_provider && self.streams[stream].upstream == self.upstream {
            self.learn(stream, status.map_or(&[], |(_, status)| status));
        }
        self.streams[stream].response = Lane::new(headers.clone());
        let fields = borrowed(&headers);
        let upstream = self.upstream.clone();
        self.feed(
            stream,
            Event::ResponseHeaders(ResponseHead {
                headers: Headers::new(&fields),
                upstream: Some(&upstream),
                from_provider,
                end_of_stream: false,
            }),
        );
    }

    /// The proxy's own answer takes the provider's place and passes the adapter like any other.
    fn local_answer(&mut self, stream: usize, headers: Fields, body: &[u8]) {
        self.streams[stream].answered = true;
        self.answer(stream, headers, false);
        self.piece_of(stream, Side::Response, body, true);
    }

    fn piece(&mut self, digit: usize, side: Side, piece: &[u8], end: bool) {
        if let Some(stream) = self.named[digit] {
            self.piece_of(stream, side, piece, end);
        }
    }

    /// A part of a body arrives.
    fn piece_of(&mut self, stream: usize, side: Side, piece: &[u8], end: bool) {
        let Stream { over, answered, .. } = self.streams[stream];
        let withheld = side == Side::Request && self.withholds;
        let limit = match self.can().limits_buffers {
            true => self.limit("host_buffer_bytes", 1 << 20),
            false => usize::MAX,
        };
        let early = side == Side::Request && self.adapter.plan().wants_early_bodies();
        let lane = self.lane(stream, side);
        if over || !lane.begun || lane.ended || (side == Side::Request && answered) {
            return;
        }
        lane.ended = end;
        lane.original.extend(piece);
        let event = |part| Event::body(side, part);
        match lane.flow {
            Flow::Hold => {
                lane.held.extend(piece);
                assert!(lane.held.len() <= limit, "more held than the host buffers");
                if withheld {
                    return;
                }
                let size = lane.held.len();
                self.feed(stream, event(Body::Held(size)));
                let lane = self.lane(stream, side);
                if end && lane.flow == Flow::Hold {
                    lane.shown = true;
                    let whole = Roomy::new(lane.held.clone(), 0);
                    // On Kong as if Lua had set the body before the module was asked.
                    let part = if early { Body::Early(whole) } else { Body::Whole(whole) };
                    self.feed(stream, event(part));
                }
            }
            flow => {
                if flow == Flow::Copy {
                    if !piece.is_empty() {
                        self.feed(stream, event(Body::Chunk(piece)));
                    }
                    if end {
                        self.feed(stream, event(Body::End));
                    }
                }
                self.lane(stream, side).pass(piece);
            }
        }
        if self.streams[stream].response.complete {
            self.close(stream);
        }
    }

    fn close(&mut self, stream: usize) {
        if !std::mem::replace(&mut self.streams[stream].over, true) {
            self.check_passed(stream);
            self.feed(stream, Event::Closed);
            // The host drops what is still under way for it.
            self.waiting.retain(|waiting| waiting.stream != Some(stream));
        }
    }

    /// A callout ends.
    fn end_callout(&mut self, index: usize, ending: &Ending) {
        let Waiting { id, stream, most, .. } = self.waiting.remove(index);
        let outcome = match ending {
            Ending::Answer(_, body) if body.len() > most => Outcome::TooLarge,
            Ending::Answer(status, body) => {
                Outcome::Answer { status: *status, body: body.clone().into() }
            }
            Ending::Unreachable => Outcome::Unreachable,
            Ending::Timeout => Outcome::Timeout,
            Ending::Reset => Outcome::Reset,
            Ending::TooLarge => Outcome::TooLarge,
        };
        match stream {
            Some(stream) => {
                if let Ending::Answer(_, body) = ending {
                    self.streams[stream].advice.clone_from(body);
                }
                self.feed(stream, Event::CalloutDone(id, outcome));
            }
            None => self.root_callout_done(id, outcome),
        }
    }

    /// Time passes: ticks come and callouts time out.
    fn wait(&mut self, time: Duration) {
        let target = self.now + time;
        loop {
            let overdue = self.waiting.iter().enumerate();
            let overdue = overdue.map(|(index, waiting)| (waiting.deadline, index)).min();
            let deadline = overdue.map(|(deadline, _)| deadline);
            let next = [self.tick, deadline].into_iter().flatten().min();
            let Some(due) = next.filter(|due| *due <= target) else { break };
            self.now = self.now.max(due);
            match overdue {
                Some((deadline, index)) if deadline == due => {
                    self.end_callout(index, &Ending::Timeout);
                }
                _ => self.ticks(),
            }
        }
        self.now = target;
    }

    fn ticks(&mut self) {
        self.tick = Some(self.now + TICK);
        let lets_go = self.can().let_go_any_time;
        for stream in (0..self.streams.len()).filter(|_| lets_go) {
            let Stream { over, request, response, .. } = &self.streams[stream];
            if !over && [request, response].iter().any(|lane| lane.begun && lane.flow == Flow::Hold)
            {
                self.feed(stream, Event::Tick);
            }
        }
        self.adapter_ticks();
    }

    /// What the host can do that the proxy stands for.
    fn can(&self) -> Capabilities {
        self.adapter.plan().can()
    }

    fn limit(&self, name: &str, default: usize) -> usize {
        self.config["limits"][name].as_u64().map_or(default, |limit| limit as usize)
    }
}

fn borrowed(headers: &Fields) -> Vec<(&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (&**name, &**value)).collect()
}
