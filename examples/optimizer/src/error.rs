//! What a caller hears when a call cannot be answered.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer of the form `{"error":{"message","path"?}}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    pub status: StatusCode,
    pub message: String,
    /// Where in the call's body the fault lies.
    pub path: Option<String>,
}

impl Error {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Error {
        Error { status, message: message.into(), path: None }
    }

    /// 400, for what stands at `path`.
    pub fn at(path: &str, message: impl Into<String>) -> Error {
        Error { path: Some(path.to_owned()), ..Error::new(StatusCode::BAD_REQUEST, message) }
    }
}

impl From<BytesRejection> for Error {
    fn from(rejection: BytesRejection) -> Error {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Error::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than allowed")
            }
            _ => Error::new(StatusCode::BAD_REQUEST, "the body ended early"),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: Fault,
        }
        #[derive(Serialize)]
        struct Fault {
            message: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<String>,
        }

        let error = Fault { message: self.message, path: self.path };
        (self.status, Json(Body { error })).into_response()
    }
}
