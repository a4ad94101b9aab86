//! The adapter as an ext_proc server: what the Wasm module does, done by the same
//! core linked natively, with Envoy's gRPC protocol in the place of host calls.
//!
//! `ext-proc --optimizer PORT --configuration JSON`; prints `{"port": PORT}`.
#![forbid(unsafe_code)]

mod replies;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

use benches::arguments::Arguments;
use benches::native::{Call, Field, Shared};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, ProcessingRequest, ProcessingResponse,
};
use futures_util::{Stream, stream};
use optimizer_core::effect::Side;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Bodies of 1 MiB and what surrounds them; tonic refuses more than 4 MiB otherwise.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// A body fits into one window.
const WINDOW_BYTES: u32 = 16 << 20;

fn fields(headers: &HttpHeaders) -> Vec<Field<'_>> {
    let fields = headers.headers.iter().flat_map(|map| &map.headers);
    fields
        .map(|field| {
            // Envoy fills one or the other.
            let raw = !field.raw_value.is_empty();
            (field.key.as_bytes(), if raw { &*field.raw_value } else { field.value.as_bytes() })
        })
        .collect()
}

/// What Envoy is told about one part of an exchange.
async fn process(call: &mut Call, part: Part) -> Result<ProcessingResponse, Status> {
    match part {
        Part::RequestHeaders(headers) => {
            call.request_headers(&fields(&headers), headers.end_of_stream).await;
            Ok(replies::request_headers(call.changes()))
        }
        Part::ResponseHeaders(headers) => {
            call.response_headers(&fields(&headers), headers.end_of_stream).await;
            Ok(replies::response_headers(call.changes()))
        }
        Part::RequestBody(part) => {
            call.body(Side::Request, part.body).await;
            Ok(replies::request_body(call.changes()))
        }
        Part::ResponseBody(part) => {
            call.body(Side::Response, part.body).await;
            Ok(replies::response_body(call.changes()))
        }
        Part::RequestTrailers(_) | Part::ResponseTrailers(_) => {
            Err(Status::unimplemented("trailers are not asked for"))
        }
    }
}

struct Processor(Arc<Shared>);

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    /// One HTTP exchange.
    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let state = (request.into_inner(), Call::new(self.0.clone()));
        let replies = stream::try_unfold(state, |(mut parts, mut call)| async move {
            let Some(part) = parts.message().await?.and_then(|message| message.request) else {
                return Ok(None);
            };
            let reply = process(&mut call, part).await?;
            Ok(Some((reply, (parts, call))))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::of_process()?;
    let optimizer = arguments.take("optimizer", None)?;
    let configuration: String = arguments.take("configuration", None)?;
    arguments.finish()?;
    let shared = Arc::new(Shared::new(&configuration, optimizer)?);
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
