//! The adapter as an ext_proc server: what the Wasm module does, done by the same
//! core linked natively, with Envoy's gRPC protocol in the place of host calls.
//!
//! `ext-proc --optimizer PORT --configuration JSON`; prints `{"port": PORT}`.
#![forbid(unsafe_code)]

mod messages;
mod optimizer;

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use benches::arguments::Arguments;
use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, ProcessingRequest, ProcessingResponse,
};
use futures_util::{Stream, stream};
use optimizer_core::adapter::Adapter;
use optimizer_core::config::Config;
use optimizer_core::effect::{Effect, Flow, Side};
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::headers::Headers;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::messages::{Changes, reply};
use crate::optimizer::Optimizer;

/// Bodies of 1 MiB and what surrounds them; tonic refuses more than 4 MiB otherwise.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// A body fits into one window.
const WINDOW_BYTES: u32 = 16 << 20;

struct Shared {
    adapter: Mutex<Adapter>,
    values: Mutex<HashMap<String, Vec<u8>>>,
    optimizer: Optimizer,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One HTTP exchange: one gRPC stream.
struct Call {
    shared: Arc<Shared>,
    exchange: Exchange,
    changes: Changes,
}

fn fields(headers: &HttpHeaders) -> Vec<(&[u8], &[u8])> {
    let fields = headers.headers.iter().flat_map(|map| &map.headers);
    fields
        .map(|field| {
            // Envoy fills one or the other.
            let raw = !field.raw_value.is_empty();
            (field.key.as_bytes(), if raw { &*field.raw_value } else { field.value.as_bytes() })
        })
        .collect()
}

impl Call {
    fn handle(&mut self, event: Event<'_>) -> Vec<Effect> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut effects = Vec::new();
        self.exchange.handle(&mut locked(&self.shared.adapter), now, event, &mut effects);
        effects
    }

    /// Hands an event in and carries out all that comes of it.
    async fn run(&mut self, event: Event<'_>) {
        let mut waiting = self.handle(event);
        waiting.reverse();
        while let Some(effect) = waiting.pop() {
            let mut more = match effect {
                Effect::Callout(callout) => {
                    let outcome = self.shared.optimizer.call(&callout).await;
                    self.handle(Event::CalloutDone(callout.id, outcome))
                }
                Effect::LoadShared(key) => {
                    let value = locked(&self.shared.values).get(&key).cloned();
                    self.handle(Event::SharedLoaded(value.as_deref()))
                }
                Effect::StoreShared(key, value) => {
                    locked(&self.shared.values).insert(key, value);
                    continue;
                }
                other => {
                    self.changes.take(other);
                    continue;
                }
            };
            more.reverse();
            waiting.append(&mut more);
        }
    }

    async fn body(&mut self, side: Side, body: Vec<u8>) {
        if self.changes.flow(side) == Flow::Hold {
            let body = Body::Whole(Bytes::from(body));
            self.run(match side {
                Side::Request => Event::RequestBody(body),
                Side::Response => Event::ResponseBody(body),
            })
            .await;
        }
    }

    /// What Envoy is told about one part of the exchange.
    async fn process(&mut self, part: Part) -> Result<ProcessingResponse, Status> {
        match &part {
            Part::RequestHeaders(headers) => {
                let fields = fields(headers);
                let head = RequestHead {
                    headers: Headers::new(&fields),
                    upstream: Some(b"provider"),
                    properties: &[],
                    end_of_stream: headers.end_of_stream,
                };
                self.run(Event::RequestHeaders(head)).await;
            }
            Part::ResponseHeaders(headers) => {
                let fields = fields(headers);
                let head = ResponseHead {
                    headers: Headers::new(&fields),
                    upstream: Some(b"provider"),
                    from_provider: true,
                    end_of_stream: headers.end_of_stream,
                };
                self.run(Event::ResponseHeaders(head)).await;
            }
            _ => {}
        }
        match part {
            Part::RequestHeaders(_) => Ok(reply::request_headers(&mut self.changes)),
            Part::ResponseHeaders(_) => Ok(reply::response_headers(&mut self.changes)),
            Part::RequestBody(part) => {
                self.body(Side::Request, part.body).await;
                Ok(reply::request_body(&mut self.changes))
            }
            Part::ResponseBody(part) => {
                self.body(Side::Response, part.body).await;
                Ok(reply::response_body(&mut self.changes))
            }
            Part::RequestTrailers(_) | Part::ResponseTrailers(_) => {
                Err(Status::unimplemented("trailers are not asked for"))
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.handle(Event::Closed);
    }
}

struct Processor(Arc<Shared>);

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let call =
            Call { shared: self.0.clone(), exchange: Exchange::new(), changes: Changes::default() };
        let state = (request.into_inner(), call);
        let replies = stream::try_unfold(state, |(mut parts, mut call)| async move {
            let Some(part) = parts.message().await?.and_then(|message| message.request) else {
                return Ok(None);
            };
            let reply = call.process(part).await?;
            Ok(Some((reply, (parts, call))))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::of_process()?;
    let optimizer = Optimizer::at(arguments.take("optimizer", None)?);
    let configuration: String = arguments.take("configuration", None)?;
    arguments.finish()?;
    let config = Config::parse(configuration.as_bytes()).map_err(|error| error.to_string())?;
    let plan = Plan::compile(config, Host::Envoy, |_| None).map_err(|error| error.to_string())?;
    let adapter = Mutex::new(Adapter::new(plan, 1));
    let shared = Arc::new(Shared { adapter, values: Mutex::default(), optimizer });
    let service = ExternalProcessorServer::new(Processor(shared))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The server's own setting does not hold for connections that it is given.
        let listener = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
        println!("{{\"port\": {}}}", listener.local_addr()?.port());
        Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .add_service(service)
            .serve_with_incoming(listener)
            .await?;
        Ok(())
    })
}
