//! A closed loop of chat requests over connections that stay open: each sends its
//! next request when the answer to the last one is there. Every answer's status
//! and length are checked; one that is wrong ends the run. Calls that begin before the
//! warm-up is over are not counted; each connection makes at least one that is, however
//! long the machine stood still.
//!
//! `load --port N --path P --size BYTES --connections N --seconds S --warm-up S
//! --answer-bytes N`, or `--stream yes` in the place of `--answer-bytes`. Prints one line of JSON; times in µs.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use benches::arguments::Arguments;
use benches::http1::Connection;
use benches::samples::{self, AUTHORIZATION};
use serde_json::{Value, json};
use tokio::task::JoinSet;

struct Plan {
    port: u16,
    request: Vec<u8>,
    /// `None`: a stream.
    answer_bytes: Option<usize>,
    counted_from: Instant,
    until: Instant,
}

/// What was seen, in nanoseconds.
#[derive(Default)]
struct Seen {
    calls: u64,
    /// From a request to the end of its answer.
    whole: Vec<u64>,
    /// From a request to the first byte of the answer's body.
    first: Vec<u64>,
    /// From the provider's sending of an event to its arrival: the first of each stream, and the others.
    first_event: Vec<u64>,
    later_events: Vec<u64>,
    /// When the last counted call began.
    last: Option<Instant>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.whole.extend(other.whole);
        self.first.extend(other.first);
        self.first_event.extend(other.first_event);
        self.later_events.extend(other.later_events);
        self.last = self.last.max(other.last);
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When the events in `bytes` were sent; none is split, as each comes in one write.
fn sent(bytes: &[u8]) -> impl Iterator<Item = u64> {
    const MARK: &[u8] = b"\"sent\":";
    bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).filter_map(
        move |(at, _)| {
            let digits = bytes[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            digits.copied().try_fold(0_u64, |sum, digit| {
                sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
            })
        },
    )
}

async fn run(plan: &Plan) -> io::Result<Seen> {
    let mut connection = Connection::to(plan.port).await?;
    let mut seen = Seen::default();
    loop {
        let began = Instant::now();
        if began >= plan.until && seen.last.is_some() {
            return Ok(seen);
        }
        let counts = began >= plan.counted_from;
        connection.write(&plan.request).await?;
        let head = connection.response().await?;
        let mut first = None;
        let mut lags = Vec::new();
        let length = match plan.answer_bytes {
            Some(_) => connection.body(&head, |_| {}).await?,
            None => {
                connection
                    .body(&head, |part| {
                        first.get_or_insert_with(|| began.elapsed());
                        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                        lags.extend(sent(part).map(|at| nanoseconds(now).saturating_sub(at)));
                    })
                    .await?
            }
        };
        let took = began.elapsed();
        if head.status != 200 || plan.answer_bytes.is_some_and(|expected| expected != length) {
            return Err(wrong(format!("status {}, {length} bytes", head.status)));
        }
        if plan.answer_bytes.is_none() && lags.len() < 2 {
            return Err(wrong(format!("a stream of {} events", lags.len())));
        }
        seen.calls += 1;
        if counts {
            seen.last = Some(began);
            seen.whole.push(nanoseconds(took));
            seen.first.extend(first.map(nanoseconds));
            seen.first_event.extend(lags.first());
            seen.later_events.extend(lags.iter().skip(1));
        }
    }
}

/// The median and the 99th percentile in µs, and how many there are.
fn summary(mut times: Vec<u64>) -> Value {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (share * (times.len() as f64 - 1.0)).round() as usize;
        times.get(index).map(|&time| time as f64 / 1000.0)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "count": times.len() })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::of_process()?;
    let port = arguments.take("port", None)?;
    let path: String = arguments.take("path", None)?;
    let size: usize = arguments.take("size", None)?;
    let connections: usize = arguments.take("connections", Some(1))?;
    let seconds = arguments.take("seconds", Some(1.0))?;
    let warm_up = arguments.take("warm-up", Some(0.2))?;
    let stream = arguments.take("stream", Some(String::new()))? == "yes";
    let answer_bytes = if stream { None } else { Some(arguments.take("answer-bytes", None)?) };
    arguments.finish()?;

    let body = samples::request(size, stream).0;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: api.openai.com\r\naccept: application/json\r\n\
         accept-encoding: identity\r\nauthorization: {AUTHORIZATION}\r\n\
         user-agent: OpenAI/Python 2.9.0\r\nx-stainless-lang: python\r\nx-stainless-os: Linux\r\n\
         x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\nx-stainless-retry-count: 0\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.into_bytes(), body].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let counted_from = began + Duration::from_secs_f64(warm_up);
    let until = counted_from + Duration::from_secs_f64(seconds);
    let seen = runtime.block_on(async {
        let plan = Plan { port, request, answer_bytes, counted_from, until };
        let plan: &'static Plan = Box::leak(Box::new(plan));
        let mut tasks: JoinSet<_> = (0..connections).map(|_| run(plan)).collect();
        let mut seen = Seen::default();
        while let Some(ended) = tasks.join_next().await {
            seen.add(ended.map_err(io::Error::other)??);
        }
        Ok::<_, io::Error>(seen)
    })?;
    let counted = Some(until).max(seen.last).unwrap_or(until) - counted_from;
    let per_second = seen.whole.len() as f64 / counted.as_secs_f64();
    println!(
        "{}",
        json!({
            "calls": seen.calls, "seconds": began.elapsed().as_secs_f64(), "per_second": per_second, "whole": summary(seen.whole),
            "first": summary(seen.first), "first_event": summary(seen.first_event),
            "later_events": summary(seen.later_events),
        })
    );
    Ok(())
}
