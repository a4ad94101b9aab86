//! What an exchange through the built module costs its host: calls by name, bytes copied
//! each way, and Wasm instructions by callback. `make bench-core`. Of a stream also what its
//! first event waits for. With a word: those ways in whose names it stands.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use benches::samples;
use integration::{Answer, Headers, Host, StreamId, Usage};
use serde_json::{Value, json};

/// Exchanges before the first that is looked at: buffers have their sizes by then.
const WARM: u32 = 20;

fn host(hooks: Value) -> Host {
    let config = json!({
        "optimizer": {"upstream": "optimizer"}, "hooks": hooks, "cache": {"serve": "anyone"},
        "limits": {"host_buffer_bytes": 32 << 20},
    });
    let host = Host::builder().config(config.to_string()).cluster("optimizer");
    let host = host.property("xds.cluster_name", "llm").buffer_limit(32 << 20);
    host.start().expect("the module starts")
}

/// One way through the module.
struct Way {
    name: &'static str,
    hooks: Value,
    path: &'static str,
    request: Vec<u8>,
    streams: bool,
    /// The optimizer's answers, in the order in which it is asked.
    answers: Vec<String>,
}

impl Way {
    fn all() -> Vec<Self> {
        let both = json!({});
        let request_alone = json!({"response": false, "cache": false});
        let mut all = Vec::new();
        let streams = false;
        for (size, names) in [
            (2 * 1024, ["2 KB, request hook", "2 KB, both hooks", "2 KB, a hit"]),
            (100 * 1024, ["100 KB, request hook", "100 KB, both hooks", "100 KB, a hit"]),
        ] {
            let (request, _) = samples::request(size, false);
            let (transform, hit) = samples::optimized(size, false);
            let ways = [
                (request_alone.clone(), vec![transform.clone()]),
                (both.clone(), vec![transform, samples::optimized_response()]),
                (both.clone(), vec![hit]),
            ];
            for (name, (hooks, answers)) in names.into_iter().zip(ways) {
                let (path, request) = ("/v1/chat/completions", request.clone());
                all.push(Self { name, hooks, path, request, streams, answers });
            }
        }
        let (request, _) = samples::request(2 * 1024, false);
        let (hooks, path, answers) = (both.clone(), "/v1/models", Vec::new());
        let name = "2 KB, a path that is left alone";
        all.push(Self { name, hooks, path, request, streams, answers });
        let (request, _) = samples::request(2 * 1024, true);
        let (hooks, path) = (both, "/v1/chat/completions");
        let (streams, answers) = (true, vec![samples::optimized(2 * 1024, true).0]);
        all.push(Self {
            name: "2 KB, a stream read along",
            hooks,
            path,
            request,
            streams,
            answers,
        });
        all
    }

    /// The stream, and what it had cost until the provider answered and until its first event was through.
    fn exchange(&self, host: &mut Host) -> (StreamId, [Usage; 2]) {
        let length = self.request.len().to_string();
        let stream = host.request(
            Headers::from([
                (":method", "POST"),
                (":path", self.path),
                (":authority", "llm.example"),
                (":scheme", "http"),
                ("content-type", "application/json"),
                ("authorization", samples::AUTHORIZATION),
                ("accept", "application/json"),
                ("user-agent", "OpenAI/Python 2.8.1"),
                ("x-request-id", "3f0d6f2b-8e5c-4d7f-9a1b-2c3d4e5f6071"),
                ("content-length", &length),
            ]),
            false,
        );
        let (last, others) = pieces(&self.request);
        for piece in others {
            host.request_body(stream, piece, false);
        }
        host.request_body(stream, last, true);
        let mut answers = self.answers.iter();
        advise(host, answers.next());
        let asked = host.usage().clone();
        let mut begun = asked.clone();
        if self.streams {
            let head = [(":status", "200"), ("content-type", "text/event-stream")];
            host.response(stream, Headers::from(head), false);
            for sent in 0..samples::EVENTS {
                host.response_body(stream, samples::event(1_795_219_200_000_000_000), false);
                if sent == 0 {
                    begun = host.usage().clone();
                }
            }
            host.response_body(stream, "data: [DONE]\n\n", true);
        } else if host.upstream(stream).headers.is_some() {
            let (answer, _) = samples::answer();
            let length = answer.len().to_string();
            let headers = [
                (":status", "200"),
                ("content-type", "application/json"),
                ("content-length", &length),
            ];
            host.response(stream, Headers::from(headers), false);
            host.response_body(stream, &answer, true);
            advise(host, answers.next());
        }
        assert!(answers.next().is_none() && host.trap().is_none(), "{:?}", host.logs());
        (stream, [asked, begun])
    }
}

/// As they come from the network.
fn pieces(body: &[u8]) -> (&[u8], impl Iterator<Item = &[u8]>) {
    let at = body.len().saturating_sub(1) / (16 * 1024) * (16 * 1024);
    let (others, last) = body.split_at(at);
    (last, others.chunks(16 * 1024))
}

fn advise(host: &mut Host, answer: Option<&String>) {
    if let Some(answer) = answer {
        let id = host.pending_one().id;
        host.answer(id, Answer::json(200, answer.clone()));
    }
}

/// Lets what was put off leave.
fn settle(host: &mut Host) {
    for _ in 0..3 {
        host.advance(Duration::from_millis(20));
        while let Some(id) = host.pending().first().map(|callout| callout.id) {
            host.answer(id, Answer::http(204, Headers::default(), ""));
        }
    }
    host.forget();
}

/// What was counted between two looks.
fn since<K: Clone + Ord>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let earlier = |name| before.get(name).copied().unwrap_or(0);
    let counts = after.iter().map(|(name, &count)| (name.clone(), count - earlier(name)));
    counts.filter(|&(_, count)| count > 0).collect()
}

fn print_all<K: Display>(what: &str, counts: &BTreeMap<K, u64>) {
    println!("  {} {what}", counts.values().sum::<u64>());
    for (name, count) in counts {
        println!("  {count:9} {name}");
    }
}

fn print_between(before: &Usage, after: &Usage) {
    let (bytes_in, bytes_out) =
        (after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out);
    println!("  {bytes_in} bytes into the VM, {bytes_out} out of it");
    print_all("Wasm instructions", &since(&before.instructions, &after.instructions));
    print_all("host calls", &since(&before.host_calls, &after.host_calls));
}

fn main() {
    integration::count_instructions();
    // Cargo adds options of its own.
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let word = word.unwrap_or_default();
    for way in Way::all().into_iter().filter(|way| way.name.contains(&word)) {
        let mut host = host(way.hooks.clone());
        for _ in 0..WARM {
            way.exchange(&mut host);
            settle(&mut host);
        }
        let before = host.usage().clone();
        let (stream, [asked, begun]) = way.exchange(&mut host);
        assert!(host.is_over(stream), "the exchange is over");
        let after = host.usage();
        let answers: usize = way.answers.iter().map(String::len).sum();
        let size = way.request.len();
        println!("{}: request {size} bytes, the optimizer's answers {answers}", way.name);
        println!("  linear memory {} KB", host.memory_size() / 1024);
        print_between(&before, after);
        if way.streams {
            println!("{}: from the provider's head until the first event is through", way.name);
            print_between(&asked, &begun);
        }
    }
}
