//! Which API a path belongs to, what it requires, and how its errors look.

use axum::http::StatusCode;
use serde_json::{Value, json};

/// The API that a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI, `/v1/chat/completions`.
    Chat,
    /// OpenAI, `/v1/completions`.
    Completions,
    /// OpenAI, `/v1/embeddings`.
    Embeddings,
    /// OpenAI, `/v1/responses`.
    Responses,
    /// Anthropic, `/v1/messages`.
    Messages,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No key, or one that this provider does not accept.
    Key,
    /// The body is no JSON object.
    NotJson,
    /// The dialect's input is missing or has a type it cannot have.
    Input,
    /// There is no model.
    Model,
}

impl Dialect {
    /// The dialect of a path, whatever stands before the known end.
    pub fn of(path: &str) -> Option<Self> {
        let known = [
            ("/v1/chat/completions", Self::Chat),
            ("/v1/completions", Self::Completions),
            ("/v1/embeddings", Self::Embeddings),
            ("/v1/responses", Self::Responses),
            ("/v1/messages", Self::Messages),
        ];
        known.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, dialect)| dialect)
    }

    /// The member that holds what the caller says.
    pub fn input(self) -> &'static str {
        match self {
            Self::Chat | Self::Messages => "messages",
            Self::Completions => "prompt",
            Self::Embeddings | Self::Responses => "input",
        }
    }

    /// Refuses what a real provider would not take either.
    pub fn check(self, request: &Value) -> Result<(), Refusal> {
        if !request.is_object() {
            return Err(Refusal::NotJson);
        }
        if !request["model"].is_string() {
            return Err(Refusal::Model);
        }
        let input = &request[self.input()];
        let list = input.as_array().is_some_and(|items| !items.is_empty());
        let text = input.is_string() && self.input() != "messages";
        if list || text { Ok(()) } else { Err(Refusal::Input) }
    }

    /// The refusal in the dialect's shape.
    pub fn error(self, refusal: Refusal) -> (StatusCode, Value) {
        let (status, anthropic, openai, message) = match refusal {
            Refusal::Key => (
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                json!("invalid_api_key"),
                "the API key is missing or not valid".to_owned(),
            ),
            Refusal::NotJson => (
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                Value::Null,
                "the body is not a JSON object".to_owned(),
            ),
            Refusal::Input => (
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                Value::Null,
                format!("{}: missing, empty or of the wrong type", self.input()),
            ),
            Refusal::Model => (
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                Value::Null,
                "model: missing or not a string".to_owned(),
            ),
        };
        let body = match self {
            Self::Messages => {
                json!({"type": "error", "error": {"type": anthropic, "message": message}})
            }
            _ => json!({"error": {
                "message": message, "type": "invalid_request_error", "param": null, "code": openai,
            }}),
        };
        (status, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_dialect_under_any_prefix() {
        assert_eq!(Dialect::of("/v1/chat/completions"), Some(Dialect::Chat));
        assert_eq!(Dialect::of("/a/b/v1/completions"), Some(Dialect::Completions));
        assert_eq!(Dialect::of("/anthropic/v1/messages"), Some(Dialect::Messages));
        assert_eq!(Dialect::of("/v1/threads/x/messages"), None);
        assert_eq!(Dialect::of("/v1/models"), None);
    }

    #[test]
    fn refuses_what_a_provider_would_refuse() {
        let check = |dialect: Dialect, body: Value| dialect.check(&body);
        assert_eq!(check(Dialect::Chat, json!([])), Err(Refusal::NotJson));
        assert_eq!(check(Dialect::Chat, json!({"messages": [1]})), Err(Refusal::Model));
        assert_eq!(check(Dialect::Chat, json!({"model": "m"})), Err(Refusal::Input));
        assert_eq!(
            check(Dialect::Messages, json!({"model": "m", "messages": "hello"})),
            Err(Refusal::Input)
        );
        assert_eq!(
            check(Dialect::Messages, json!({"model": "m", "messages": []})),
            Err(Refusal::Input)
        );
        assert_eq!(check(Dialect::Responses, json!({"model": "m", "input": "hello"})), Ok(()));
    }

    #[test]
    fn errors_have_the_shape_of_the_dialect() {
        let (status, body) = Dialect::Messages.error(Refusal::Key);
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(body["error"]["type"], "authentication_error");
        let (status, body) = Dialect::Embeddings.error(Refusal::Input);
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(body["error"]["message"], "input: missing, empty or of the wrong type");
    }
}
