//! Changes, as Envoy is told of them.

use benches::native::Changes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ProcessingResponse,
};

fn common(changes: Changes) -> CommonResponse {
    let Changes { set, removed, body } = changes;
    let header = |(name, value): (&str, std::borrow::Cow<'_, str>)| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            raw_value: value.into_owned().into_bytes(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    let changed = !set.is_empty() || !removed.is_empty();
    let headers = HeaderMutation {
        set_headers: set.into_iter().map(header).collect(),
        remove_headers: removed,
    };
    let body = body.map(|body| Mutation::Body(body.into()));
    CommonResponse {
        header_mutation: changed.then_some(headers),
        body_mutation: body.map(|mutation| BodyMutation { mutation: Some(mutation) }),
        ..CommonResponse::default()
    }
}

fn response(reply: Reply) -> ProcessingResponse {
    ProcessingResponse { response: Some(reply), ..ProcessingResponse::default() }
}

fn headers(changes: Changes) -> HeadersResponse {
    HeadersResponse { response: Some(common(changes)) }
}

fn body(changes: Changes) -> BodyResponse {
    BodyResponse { response: Some(common(changes)) }
}

pub fn request_headers(changes: Changes) -> ProcessingResponse {
    response(Reply::RequestHeaders(headers(changes)))
}

pub fn response_headers(changes: Changes) -> ProcessingResponse {
    response(Reply::ResponseHeaders(headers(changes)))
}

pub fn request_body(changes: Changes) -> ProcessingResponse {
    response(Reply::RequestBody(body(changes)))
}

pub fn response_body(changes: Changes) -> ProcessingResponse {
    response(Reply::ResponseBody(body(changes)))
}
