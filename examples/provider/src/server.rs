//! The HTTP side: routes, keys, streams.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::dialect::{Dialect, Refusal};
use crate::journal::{self, Journal};
use crate::reply::Reply;
use crate::{anthropic, openai, responses};

/// The largest body taken.
const BODY_BYTES: usize = 64 << 20;

#[derive(Clone)]
struct Provider {
    journal: Arc<Mutex<Journal>>,
    chunk: Duration,
}

impl Provider {
    fn journal<R>(&self, with: impl FnOnce(&mut Journal) -> R) -> R {
        with(&mut self.journal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The provider's routes. Each piece of an answer takes `chunk`.
pub fn router(chunk: Duration) -> Router {
    let provider = Provider { journal: Arc::default(), chunk };
    Router::new()
        .route("/demo/calls", get(calls))
        .route("/demo/reset", post(reset))
        .fallback(post(answer))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(provider)
}

async fn calls(State(provider): State<Provider>) -> Response {
    provider.journal(|journal| Json(&*journal).into_response())
}

async fn reset(State(provider): State<Provider>) -> StatusCode {
    provider.journal(|journal| *journal = Journal::default());
    StatusCode::NO_CONTENT
}

async fn answer(
    State(provider): State<Provider>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(dialect) = Dialect::of(uri.path()) else {
        let error = json!({"error": {"message": "no such path", "type": "not_found_error"}});
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    };
    provider.journal(|journal| journal.note(uri.path(), &headers, &body));
    let request = match accept(dialect, &headers, &body) {
        Ok(request) => request,
        Err(refusal) => {
            let (status, error) = dialect.error(refusal);
            return (status, Json(error)).into_response();
        }
    };
    let reply = Reply::to(dialect, &request, &body);
    if request["stream"] == true && dialect != Dialect::Embeddings {
        return streamed(provider.chunk, events(dialect, &reply, &request));
    }
    // A model needs its time for each piece, whether the client sees them come or not.
    let pieces = u32::try_from(reply.pieces.len()).unwrap_or(u32::MAX);
    sleep(provider.chunk.saturating_mul(pieces)).await;
    Json(whole(dialect, &reply, &request)).into_response()
}

fn accept(dialect: Dialect, headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    if journal::key(headers).is_none_or(|key| key.is_empty() || key.starts_with("bad")) {
        return Err(Refusal::Key);
    }
    let request = serde_json::from_slice(body).map_err(|_| Refusal::NotJson)?;
    dialect.check(&request)?;
    Ok(request)
}

fn whole(dialect: Dialect, reply: &Reply, request: &Value) -> Value {
    match dialect {
        Dialect::Chat => openai::chat(reply),
        Dialect::Completions => openai::completion(reply),
        Dialect::Embeddings => openai::embeddings(reply, request),
        Dialect::Responses => responses::answer(reply, request),
        Dialect::Messages => anthropic::answer(reply),
    }
}

fn events(dialect: Dialect, reply: &Reply, request: &Value) -> Vec<String> {
    match dialect {
        Dialect::Chat => openai::chat_events(reply, request),
        Dialect::Completions => openai::completion_events(reply, request),
        Dialect::Responses => responses::events(reply, request),
        Dialect::Messages => anthropic::events(reply),
        Dialect::Embeddings => Vec::new(),
    }
}

fn streamed(chunk: Duration, events: Vec<String>) -> Response {
    let events = stream::iter(events).then(move |event| async move {
        sleep(chunk).await;
        Ok::<_, Infallible>(event)
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(events)).into_response()
}
