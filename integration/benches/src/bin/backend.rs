//! The optimizer and the provider of the benchmark, on one thread: answers are made
//! before the first call, and nothing of a request is read but its framing.
//!
//! Prints its ports and the lengths of its messages as JSON, and serves until it is stopped.
//! `GET /counts` on either tells, as JSON, what came since it was last asked:
//! `"optimizer /v1/optimize": 7, "provider /v1/chat/completions 1843": 7` (the number is
//! the body's length). A request to the provider without a body is not counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use benches::http1::{Connection, Head};
use benches::samples::{self, SIZES, paths};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// Before each event of a stream but the first.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy)]
enum Role {
    Optimizer,
    Provider,
}

/// All answers, with their heads.
struct Services {
    /// By size.
    transforms: Vec<Vec<u8>>,
    streams: Vec<Vec<u8>>,
    hits: Vec<Vec<u8>>,
    raw: Vec<Vec<u8>>,
    response: Vec<u8>,
    raw_response: Vec<u8>,
    accepted: Vec<u8>,
    answer: Vec<u8>,
    counts: RefCell<BTreeMap<String, u64>>,
}

fn with_head(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         date: Sat, 21 Nov 2026 12:00:00 GMT\r\nserver: bench\r\n\
         x-request-id: req_3f0d6f2b8e5c4d7f9a1b2c3d4e5f6071\r\nopenai-processing-ms: 1\r\n\
         x-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\n\
         x-ratelimit-reset-requests: 6ms\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

impl Services {
    fn new() -> Self {
        let by_size = |body: &dyn Fn(usize) -> Vec<u8>| -> Vec<_> {
            SIZES.iter().map(|&size| with_head(&body(size))).collect()
        };
        let (answer, transformed) = samples::answer();
        Self {
            transforms: by_size(&|size| samples::optimized(size, false).0.into_bytes()),
            streams: by_size(&|size| samples::optimized(size, true).0.into_bytes()),
            hits: by_size(&|size| samples::optimized(size, false).1.into_bytes()),
            raw: by_size(&|size| samples::request(size, false).1),
            response: with_head(samples::optimized_response().as_bytes()),
            raw_response: with_head(transformed.as_bytes()),
            accepted: with_head(b"{}"),
            answer: with_head(answer.as_bytes()),
            counts: RefCell::default(),
        }
    }

    /// The optimizer's answer to a body of `length` bytes, which is at least the request's.
    fn advice(&self, path: &str, length: usize) -> &[u8] {
        let size = SIZES.iter().rposition(|&size| size <= length).unwrap_or(0);
        match path {
            paths::OPTIMIZE => &self.transforms[size],
            paths::OPTIMIZE_STREAM => &self.streams[size],
            paths::HIT => &self.hits[size],
            paths::RAW_OPTIMIZE => &self.raw[size],
            paths::OPTIMIZE_RESPONSE => &self.response,
            paths::RAW_OPTIMIZE_RESPONSE => &self.raw_response,
            _ => &self.accepted,
        }
    }

    fn count(&self, key: String) {
        *self.counts.borrow_mut().entry(key).or_default() += 1;
    }

    async fn serve(&self, role: Role, mut connection: Connection) -> io::Result<()> {
        while let Some(head) = connection.request().await? {
            let length = connection.body(&head, |_| {}).await?;
            self.answer(role, &head, length, &mut connection).await?;
        }
        Ok(())
    }

    async fn answer(
        &self,
        role: Role,
        head: &Head,
        length: usize,
        connection: &mut Connection,
    ) -> io::Result<()> {
        let path = head.target.as_str();
        if path == "/counts" {
            let counts = self.counts.take();
            return connection.write(&with_head(json!(counts).to_string().as_bytes())).await;
        }
        match role {
            Role::Optimizer => {
                self.count(format!("optimizer {path}"));
                connection.write(self.advice(path, length)).await
            }
            Role::Provider => {
                // LiteLLM lists its provider's models from time to time; a call has a body.
                if length > 0 {
                    self.count(format!("provider {path} {length}"));
                }
                if path.starts_with(paths::STREAMS) {
                    stream(connection).await
                } else {
                    connection.write(&self.answer).await
                }
            }
        }
    }
}

/// Sends a stream whose events carry the time at which they were sent, in
/// nanoseconds since the Unix epoch.
async fn stream(connection: &mut Connection) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let mut before = head;
    for index in 0..samples::EVENTS {
        if index > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let event = samples::event(now);
        let chunk = format!("{before}{:x}\r\n{event}\r\n", event.len());
        connection.write(chunk.as_bytes()).await?;
        before = "";
    }
    connection.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await
}

async fn listen(
    role: Role,
    listener: TcpListener,
    services: Rc<Services>,
) -> io::Result<Infallible> {
    loop {
        let connection = Connection::new(listener.accept().await?.0)?;
        let services = services.clone();
        spawn_local(async move {
            if let Err(error) = services.serve(role, connection).await
                && error.kind() == io::ErrorKind::InvalidData
            {
                eprintln!("backend: {error}");
            }
        });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let services = Rc::new(Services::new());
        let optimizer = TcpListener::bind(("127.0.0.1", 0)).await?;
        let provider = TcpListener::bind(("127.0.0.1", 0)).await?;
        let ports = (optimizer.local_addr()?.port(), provider.local_addr()?.port());
        let sizes: Vec<_> = SIZES
            .iter()
            .map(|&size| {
                let transformed = |stream| samples::request(size, stream).1.len();
                let advice = samples::optimized(size, false).0.len();
                json!({
                    "original": size, "transformed": transformed(false),
                    "stream": transformed(true), "advice": advice,
                })
            })
            .collect();
        let (answer, changed) = samples::answer();
        println!(
            "{}",
            json!({
                "optimizer": ports.0, "provider": ports.1, "requests": sizes,
                "answer": answer.len(), "changed_answer": changed.len(),
                "authorization": samples::AUTHORIZATION,
            })
        );
        let mut tasks = JoinSet::new();
        tasks.spawn_local(listen(Role::Optimizer, optimizer, services.clone()));
        tasks.spawn_local(listen(Role::Provider, provider, services));
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    })
}
