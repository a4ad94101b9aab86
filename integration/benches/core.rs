//! What the core costs beside the least that could be done with the same bytes: one
//! validating scan, a copy, a search for line ends. `cargo bench`; the last table has
//! the ratios, measured in turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::samples;
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use optimizer_core::adapter::Adapter;
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::config::Config;
use optimizer_core::dialect::Dialect;
use optimizer_core::effect::{Effect, Side};
use optimizer_core::event::{Body, Event, RequestHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::headers::Headers;
use optimizer_core::host::Host;
use optimizer_core::json::Object;
use optimizer_core::plan::Plan;
use optimizer_core::roomy::Roomy;
use optimizer_core::sse::Splitter;
use optimizer_core::stream::{Assembler, replay};
use serde::de::IgnoredAny;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZE: usize = 100 * 1024;
const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A request, and the optimizer's answer to it.
struct Sample {
    name: &'static str,
    request: Bytes,
    answer: Bytes,
}

impl Sample {
    fn new(name: &'static str, messages: &[String], transformed: &[String]) -> Self {
        let body = |messages: &[String]| {
            let messages: Vec<_> = messages
                .iter()
                .enumerate()
                .map(|(at, text)| (if at % 2 == 0 { "user" } else { "assistant" }, text))
                .map(|(role, text)| json!({"role": role, "content": text}))
                .collect();
            json!({"model": "gpt-4.1-mini", "messages": messages, "temperature": 0.2})
        };
        let answer = json!({
            "protocolVersion": 1, "optimizationId": "opt-1", "request": body(transformed),
            "decisions": [{"kind": "context_compression", "applied": true}],
        });
        Self { name, request: body(messages).to_string().into(), answer: answer.to_string().into() }
    }

    fn all() -> Vec<Self> {
        let (request, _) = samples::request(SIZE, false);
        let (answer, _) = samples::optimized(SIZE, false);
        let mut all = vec![Self {
            name: "prose, one message of 41 cut",
            request: request.into(),
            answer: answer.into(),
        }];
        let halved = |messages: &[String]| {
            let mut messages = messages.to_vec();
            let last = messages.last_mut().expect("a message");
            let middle = last.char_indices().nth(last.chars().count() / 2).expect("a character").0;
            last.truncate(middle);
            messages
        };
        for (name, text, count) in [
            ("plain text, the last of 41 cut", "The quick brown fox jumps over the dog. ", 41),
            ("Chinese, the last of 41 cut", "人工知能は、学習と推論を行う。", 41),
            ("many short messages, the last cut", "Short.", 2000),
        ] {
            let repeats = (SIZE / count / text.len()).max(1);
            let messages: Vec<_> =
                (0..count).map(|at| format!("{at} {}", text.repeat(repeats))).collect();
            all.push(Self::new(name, &messages, &halved(&messages)));
        }
        let messages: Vec<_> =
            (0..41).map(|at| format!("{at} {}", "Say \"it\" again.\n".repeat(140))).collect();
        let kept: Vec<_> =
            messages.iter().take(1).chain(messages.iter().skip(21)).cloned().collect();
        all.push(Self::new("escapes, the older half left out", &messages, &kept));
        all.push(Self::new("escapes, nothing changed", &messages, &messages));
        all
    }
}

/// An exchange, and what it belongs to.
struct Call {
    adapter: Adapter,
    exchange: Exchange,
    effects: Vec<Effect>,
}

impl Call {
    /// One whose headers have come.
    fn held(plan: &Plan) -> Self {
        let adapter = Adapter::new(plan.clone(), 1);
        let mut call = Self { adapter, exchange: Exchange::new(), effects: Vec::new() };
        let head = RequestHead {
            headers: Headers::new(&[
                (b":method", b"POST"),
                (b":path", b"/v1/chat/completions"),
                (b":authority", b"llm.example"),
                (b"content-type", b"application/json"),
                (b"authorization", b"Bearer key"),
                (b"content-length", b"102400"),
            ]),
            truncated: false,
            upstream: Some(b"llm"),
            properties: &[],
            end_of_stream: false,
        };
        call.handle(Event::RequestHeaders(head));
        if call.effects.iter().any(|effect| matches!(effect, Effect::LoadShared(_))) {
            call.handle(Event::SharedLoaded(None));
        }
        call.effects.clear();
        call
    }

    /// One whose body has come, and the callout that went out.
    fn asked(plan: &Plan, sample: &Sample) -> (Self, CalloutId) {
        let call = Self::held(plan).ask((&*sample.request).into());
        let id = call.effects.iter().find_map(|effect| match effect {
            Effect::Callout(callout) => Some(callout.id),
            _ => None,
        });
        let id = id.expect("the optimizer is asked");
        (call, id)
    }

    fn ask(mut self, request: Roomy) -> Self {
        self.handle(Event::RequestBody(Body::Whole(request)));
        self
    }

    fn answer(mut self, id: CalloutId, sample: &Sample) -> Self {
        let outcome = Outcome::Answer { status: 200, body: sample.answer.clone() };
        self.handle(Event::CalloutDone(id, outcome));
        self
    }

    fn handle(&mut self, event: Event<'_>) {
        self.exchange.handle(&mut self.adapter, NOW, event, &mut self.effects);
    }

    fn replaces(&self) -> bool {
        let replaces = |effect: &Effect| matches!(effect, Effect::ReplaceBody(Side::Request, _));
        self.effects.iter().any(replaces)
    }
}

fn plan() -> Plan {
    let config = json!({
        "optimizer": {"upstream": "optimizer"}, "limits": {"host_buffer_bytes": 32 << 20},
    });
    let config = Config::parse(config.to_string().as_bytes()).expect("a configuration");
    Plan::compile(config, Host::Envoy, |_| None).expect("a plan")
}

fn scan(bytes: &[u8]) {
    serde_json::from_slice::<IgnoredAny>(black_box(bytes)).expect("JSON");
}

fn line_ends(stream: &[u8]) {
    let mut rest = black_box(stream);
    while let Some(at) = memchr::memchr(b'\n', rest) {
        let (line, behind) = rest.split_at(at);
        black_box(line);
        rest = &behind[1..];
    }
}

fn split(stream: &[u8], piece: usize) {
    let mut splitter = Splitter::new(1 << 20);
    for piece in black_box(stream).chunks(piece) {
        splitter.push(piece, |event| _ = black_box(event)).expect("small events");
    }
}

/// A stream as providers send it: many events with few tokens each.
fn tokens() -> Vec<u8> {
    let event = |at: usize| {
        let delta = ["\\n", " the", " gateway", ",", " token"][at % 5];
        format!(
            "data: {{\"id\":\"chatcmpl-BqX0aN7T2mVYw1rJ8sKd3uEe\",\"object\":\"chat.completion.chunk\",\
             \"created\":1795219200,\"model\":\"gpt-4.1-mini-2026-04-14\",\"service_tier\":\"default\",\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{delta}\"}},\"logprobs\":null,\
             \"finish_reason\":null}}]}}\n\n"
        )
    };
    let mut stream: String = (0..400).map(event).collect();
    stream.push_str("data: [DONE]\n\n");
    stream.into_bytes()
}

/// An answer of about 64 KB in each dialect that streams.
fn answers() -> Vec<(&'static str, Dialect, String)> {
    let text =
        "The gateway holds each \"request\" and asks\nwhat a shorter one would be; ".repeat(900);
    let tokens = json!({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3});
    let message = json!({"role": "assistant", "content": text});
    let output = json!({"type": "output_text", "annotations": [], "text": text});
    let all = [
        (
            "OpenAI chat",
            Dialect::OpenAiChat,
            json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1}}),
        ),
        (
            "OpenAI completions",
            Dialect::OpenAiCompletions,
            json!({"id": "c", "object": "text_completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": "stop"}]}),
        ),
        (
            "OpenAI responses",
            Dialect::OpenAiResponses,
            json!({"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed",
                "output": [{"id": "o", "type": "message", "status": "completed", "role": "assistant",
                    "content": [output]}], "usage": tokens}),
        ),
        (
            "Anthropic messages",
            Dialect::AnthropicMessages,
            json!({"id": "a", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
                "stop_sequence": null, "usage": tokens}),
        ),
    ];
    all.map(|(name, dialect, body)| (name, dialect, body.to_string())).into()
}

fn floors(group: &mut BenchmarkGroup<'_, WallTime>, bytes: &[u8]) {
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("floor: a validating scan", |bench| bench.iter(|| scan(bytes)));
    let mut copy = vec![0; bytes.len()];
    let copying = |to: &mut [u8]| to.copy_from_slice(black_box(bytes));
    group.bench_function("floor: a copy", |bench| bench.iter(|| copying(black_box(&mut copy))));
}

fn bodies(criterion: &mut Criterion, plan: &Plan, sample: &Sample) {
    let mut group = criterion.benchmark_group("request body");
    floors(&mut group, &sample.request);
    group.bench_function("the way in: read, put into an envelope", |bench| {
        bench.iter_batched(
            || (Call::held(plan), Roomy::from(&*sample.request)),
            |(call, request)| call.ask(request),
            BatchSize::SmallInput,
        );
    });
    group.finish();

    let mut group = criterion.benchmark_group("optimizer's answer");
    floors(&mut group, &sample.answer);
    group.bench_function("the answer: read, compared, spliced", |bench| {
        bench.iter_batched(
            || Call::asked(plan, sample),
            |(call, id)| call.answer(id, sample),
            BatchSize::SmallInput,
        );
    });
    group.finish();

    let mut group = criterion.benchmark_group("splice");
    floors(&mut group, &sample.answer);
    let original = Object::parse_first(&sample.request).expect("an object");
    let (_, new) = Object::parse_with_inner(&sample.answer, "request", None).expect("an object");
    let new = new.expect("a request").expect("an object");
    group.bench_function("compare and splice what was read apart", |bench| {
        bench.iter(|| original.overlay(black_box(&new), true));
    });
    group.finish();
}

fn streams(criterion: &mut Criterion) {
    let tokens = tokens();
    let mut group = criterion.benchmark_group("SSE splitter");
    group.throughput(Throughput::Bytes(tokens.len() as u64));
    group.bench_function("floor: line ends by memchr", |bench| bench.iter(|| line_ends(&tokens)));
    for (name, piece) in [("in one piece", usize::MAX), ("in pieces of 1400 bytes", 1400)] {
        group.bench_function(name, |bench| bench.iter(|| split(&tokens, piece)));
    }
    group.finish();

    let mut streams = vec![("OpenAI chat, by the token", Dialect::OpenAiChat, tokens)];
    for (name, dialect, body) in answers() {
        let object = Object::parse(body.as_bytes()).expect("an object");
        let told = || replay(dialect, black_box(&object), false).expect("can be replayed");
        let mut group = criterion.benchmark_group(format!("replay, {name}"));
        floors(&mut group, body.as_bytes());
        group.bench_function("replay", |bench| bench.iter(told));
        group.finish();
        streams.push((name, dialect, told()));
    }
    for (name, dialect, stream) in &streams {
        let mut group = criterion.benchmark_group(format!("assembler, {name}"));
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function("floor: scans of its events", |bench| {
            bench.iter(|| scan_events(stream));
        });
        let mut copy = vec![0; stream.len()];
        let copying = |to: &mut [u8]| to.copy_from_slice(black_box(stream));
        group.bench_function("floor: a copy", |bench| bench.iter(|| copying(black_box(&mut copy))));
        group.bench_function("put together", |bench| {
            bench.iter(|| {
                let mut assembler = Assembler::new(*dialect, 1 << 20);
                assembler.push(black_box(stream));
                black_box(assembler.finish())
            });
        });
        group.finish();
    }
}

fn scan_events(stream: &[u8]) {
    let splitting = Splitter::new(1 << 20).push(black_box(stream), |event| {
        if event.data.starts_with(b"{") {
            scan(event.data);
        }
    });
    splitting.expect("small events");
}

/// How long `job` takes on what `prepare` makes, in ten goes.
fn time<S, R>(mut prepare: impl FnMut() -> S, mut job: impl FnMut(S) -> R) -> f64 {
    let mut all = Duration::ZERO;
    for _ in 0..10 {
        let state = prepare();
        let start = Instant::now();
        let result = black_box(job(black_box(state)));
        all += start.elapsed();
        drop(result);
    }
    all.as_secs_f64() * 1e6 / 10.0
}

/// Prints medians in microseconds of what is measured in turns, and each beside the first.
fn turns(name: &str, jobs: &mut [(&str, &mut dyn FnMut() -> f64)]) {
    let mut times = vec![Vec::new(); jobs.len()];
    for round in 0..120 {
        for ((_, job), times) in jobs.iter_mut().zip(&mut times) {
            let time = job();
            if round >= 20 {
                times.push(time);
            }
        }
    }
    let medians: Vec<f64> = times
        .into_iter()
        .map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    println!("{name}");
    for ((job, _), median) in jobs.iter().zip(&medians) {
        println!("  {job:38} {median:9.2} us {:7.2} x", median / medians[0]);
    }
}

/// Prints what `job` asks of the allocator.
fn allocations<S, R>(name: &str, state: S, job: impl FnOnce(S) -> R) -> R {
    let region = Region::new(ALLOCATOR);
    let result = job(state);
    let seen = region.change();
    let count = seen.allocations + seen.reallocations;
    println!("  {name:38} {count:5} allocations {:9} bytes", seen.bytes_allocated);
    result
}

fn ratios(plan: &Plan, samples: &[Sample]) {
    println!("\nRatios, measured in turns");
    for sample in samples {
        let (request, answer) = (&sample.request, &sample.answer);
        turns(
            &format!("{}: {} bytes; answer: {}", sample.name, request.len(), answer.len()),
            &mut [
                ("one scan of the body", &mut || time(|| (), |()| scan(request))),
                ("the way in", &mut || {
                    let shown = || (Call::held(plan), Roomy::from(&**request));
                    time(shown, |(call, request)| call.ask(request))
                }),
            ],
        );
        turns(
            "",
            &mut [
                ("one scan of the answer", &mut || time(|| (), |()| scan(answer))),
                ("the answer", &mut || {
                    let job = |(call, id): (Call, _)| call.answer(id, sample);
                    time(|| Call::asked(plan, sample), job)
                }),
            ],
        );
    }
    println!("Allocations, {}", samples[0].name);
    let call = allocations("the headers", plan, Call::held);
    let shown = (call, Roomy::from(&*samples[0].request));
    drop(allocations("the way in", shown, |(call, request)| call.ask(request)));
    let job = |(call, id): (Call, _)| call.answer(id, &samples[0]);
    drop(allocations("the answer", Call::asked(plan, &samples[0]), job));
    let tokens = tokens();
    turns(
        &format!("stream: {} bytes", tokens.len()),
        &mut [
            ("line ends by memchr", &mut || time(|| (), |()| line_ends(&tokens))),
            ("the splitter, in one piece", &mut || time(|| (), |()| split(&tokens, usize::MAX))),
            ("the splitter, in pieces", &mut || time(|| (), |()| split(&tokens, 1400))),
        ],
    );
}

fn main() {
    let plan = plan();
    let samples = Sample::all();
    for sample in &samples {
        let (call, id) = Call::asked(&plan, sample);
        let changes = sample.name != "escapes, nothing changed";
        assert_eq!(call.answer(id, sample).replaces(), changes, "{}", sample.name);
    }
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    bodies(&mut criterion, &plan, &samples[0]);
    streams(&mut criterion);
    criterion.final_summary();
    ratios(&plan, &samples);
}
