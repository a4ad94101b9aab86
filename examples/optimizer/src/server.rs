//! The routes, and what holds for all of them: the token, the limits, the log.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::cache::Cache;
use crate::config::Config;
use crate::error::Error;
use crate::optimize::{Ids, Note, Optimizer};
use crate::originals::Originals;
use crate::records::{Record, Records};
use crate::wire::{self, RetrieveAnswer, RetrieveCall};

/// All that a call needs.
pub struct Server {
    optimizer: Optimizer,
    records: Records,
    /// The digest of the token, if callers need one.
    token: Option<[u8; 32]>,
    body_limit_bytes: usize,
}

type Body = Result<Bytes, BytesRejection>;

impl Server {
    pub fn new(config: Config) -> Server {
        Server {
            optimizer: Optimizer {
                strategies: config.strategies,
                cache: Cache::new(config.cache),
                originals: Originals::new(&config.retrieve),
                ids: Ids::new(),
            },
            records: Records::new(config.records),
            token: config.token.map(|token| Sha256::digest(token).into()),
            body_limit_bytes: config.body_limit_bytes,
        }
    }

    pub fn router(self) -> Router {
        let limit = DefaultBodyLimit::max(self.body_limit_bytes);
        let server = Arc::new(self);
        Router::new()
            .route("/v1/optimize", post(optimize))
            .route("/v1/optimize-response", post(optimize_response))
            .route("/v1/cache", post(cache))
            .route("/v1/record", post(record))
            .route("/v1/records", get(records))
            .route("/v1/retrieve", post(retrieve))
            .route_layer(middleware::from_fn_with_state(server.clone(), authorize))
            .route("/health", get(health))
            .method_not_allowed_fallback(async || {
                Error::new(StatusCode::METHOD_NOT_ALLOWED, "no such method here")
            })
            .fallback(async || Error::new(StatusCode::NOT_FOUND, "no such route"))
            .layer(limit)
            .layer(middleware::from_fn(log))
            .with_state(server)
    }
}

async fn optimize(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Error> {
    Ok(server.optimizer.request(wire::read(&body?)?))
}

async fn optimize_response(
    State(server): State<Arc<Server>>,
    body: Body,
) -> Result<Response, Error> {
    Ok(server.optimizer.response(wire::read(&body?)?))
}

async fn cache(State(server): State<Arc<Server>>, body: Body) -> Result<StatusCode, Error> {
    server.optimizer.cache.write(wire::read(&body?)?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn record(State(server): State<Arc<Server>>, body: Body) -> Result<StatusCode, Error> {
    server.records.add(Record::read(&body?)?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn records(State(server): State<Arc<Server>>) -> Result<Response, Error> {
    #[derive(Serialize)]
    struct List {
        records: Vec<Box<RawValue>>,
    }

    let records = server.records.list()?;
    Ok(Json(List { records }).into_response())
}

async fn retrieve(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Error> {
    let call: RetrieveCall = wire::read(&body?)?;
    match server.optimizer.originals.get(&call.handle) {
        Some(content) => Ok(Json(RetrieveAnswer { content: &content }).into_response()),
        None => Err(Error::new(StatusCode::NOT_FOUND, "nothing is kept under that handle")),
    }
}

async fn health() -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Health {
        ready: bool,
        optimizer_version: &'static str,
    }

    Json(Health {
        ready: true,
        optimizer_version: concat!("reference-", env!("CARGO_PKG_VERSION")),
    })
    .into_response()
}

async fn authorize(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    match server.token {
        Some(token) if !presented(request.headers(), &token) => {
            let error = Error::new(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
            ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
        }
        _ => next.run(request).await,
    }
}

/// Digests are compared, so that not even the token's length shows in the time it takes.
fn presented(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return false;
    };
    match value.as_bytes().split_at_checked(7) {
        Some((scheme, presented)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            let presented: [u8; 32] = Sha256::digest(presented).into();
            presented.ct_eq(token).into()
        }
        _ => false,
    }
}

/// One line for each call, without anything of its content.
async fn log(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    eprintln!(
        "{method} {} {} {:.1}ms {}",
        path.as_ref().map_or("-", MatchedPath::as_str),
        response.status().as_u16(),
        start.elapsed().as_secs_f64() * 1e3,
        response.extensions().get::<Note>().map_or("", |note| &note.0),
    );
    response
}
