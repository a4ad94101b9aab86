//! What the core wants changed, as Envoy is told.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::{BodyMutation, CommonResponse, HeaderMutation};
use optimizer_core::effect::{Effect, Flow, Side};

/// What is to be changed of the message at hand.
pub struct Changes {
    request: Flow,
    response: Flow,
    headers: HeaderMutation,
    body: Option<Bytes>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            request: Flow::Pass,
            response: Flow::Pass,
            headers: HeaderMutation::default(),
            body: None,
        }
    }
}

impl Changes {
    pub fn flow(&self, side: Side) -> Flow {
        match side {
            Side::Request => self.request,
            Side::Response => self.response,
        }
    }

    /// Takes in an effect that changes a message; the others are an operator's.
    pub fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Flow(Side::Request, flow) => self.request = flow,
            Effect::Flow(Side::Response, flow) => self.response = flow,
            Effect::SetHeader(_, name, value) => self.headers.set_headers.push(HeaderValueOption {
                header: Some(HeaderValue {
                    key: name.to_owned(),
                    raw_value: value.into_owned().into_bytes(),
                    ..HeaderValue::default()
                }),
                append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
                ..HeaderValueOption::default()
            }),
            Effect::RemoveHeader(_, name) => self.headers.remove_headers.push(name),
            Effect::ReplaceBody(_, body) => self.body = Some(body),
            _ => {}
        }
    }

    fn common(&mut self) -> CommonResponse {
        let headers = std::mem::take(&mut self.headers);
        let changed = !headers.set_headers.is_empty() || !headers.remove_headers.is_empty();
        let body = self.body.take().map(|body| Mutation::Body(body.into()));
        CommonResponse {
            header_mutation: changed.then_some(headers),
            body_mutation: body.map(|mutation| BodyMutation { mutation: Some(mutation) }),
            ..CommonResponse::default()
        }
    }
}

/// Answers to the parts of an exchange.
pub mod reply {
    use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
    use envoy_types::pb::envoy::service::ext_proc::v3::{
        BodyResponse, HeadersResponse, ProcessingResponse,
    };

    use super::Changes;

    fn response(reply: Reply) -> ProcessingResponse {
        ProcessingResponse { response: Some(reply), ..ProcessingResponse::default() }
    }

    fn headers(changes: &mut Changes) -> HeadersResponse {
        HeadersResponse { response: Some(changes.common()) }
    }

    fn body(changes: &mut Changes) -> BodyResponse {
        BodyResponse { response: Some(changes.common()) }
    }

    pub fn request_headers(changes: &mut Changes) -> ProcessingResponse {
        response(Reply::RequestHeaders(headers(changes)))
    }

    pub fn response_headers(changes: &mut Changes) -> ProcessingResponse {
        response(Reply::ResponseHeaders(headers(changes)))
    }

    pub fn request_body(changes: &mut Changes) -> ProcessingResponse {
        response(Reply::RequestBody(body(changes)))
    }

    pub fn response_body(changes: &mut Changes) -> ProcessingResponse {
        response(Reply::ResponseBody(body(changes)))
    }
}
