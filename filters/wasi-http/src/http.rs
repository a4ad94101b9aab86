//! Messages, as the host's resources and as the core's headers.

use std::rc::Rc;

use optimizer_core::forward::{Scheme, Target, end_to_end};
use optimizer_core::headers::Headers;
use optimizer_core::host::Host;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    self, ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingRequest,
    OutgoingResponse, ResponseOutparam,
};

use crate::io::{Writer, ready};

/// The headers of a message as the core sees them: with pseudo-headers.
pub struct Head(Vec<(String, Vec<u8>)>);

impl Head {
    pub fn new<const N: usize>(pseudo: [(&str, &str); N], fields: &Fields) -> Self {
        let mut all = Vec::from(pseudo.map(|(name, value)| (name.to_owned(), value.into())));
        all.extend(fields.entries());
        Self(all)
    }

    pub fn of_answer(status: u16, fields: &Fields) -> Self {
        Self::new([(":status", &*status.to_string())], fields)
    }

    /// Whether they can be set anew, to go on.
    pub fn fits(&self) -> bool {
        self.read(|headers| Host::WasiHttp.capabilities().carries(headers))
    }

    /// As the core reads them.
    pub fn read<T>(&self, look: impl FnOnce(Headers<'_>) -> T) -> T {
        let fields: Vec<_> = self.0.iter().map(|(n, v)| (n.as_bytes(), &**v)).collect();
        look(Headers::new(&fields))
    }

    /// What of them goes on.
    pub fn forwarded(&self) -> Fields {
        self.read(|headers| {
            let list = end_to_end(headers)
                .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()));
            fields(list.collect())
        })
    }
}

/// Headers, handed over at once: each call of the host costs. What it does not let pass stays behind.
pub fn fields(list: Vec<(String, Vec<u8>)>) -> Fields {
    Fields::from_list(&list).unwrap_or_else(|_| {
        let fields = Fields::new();
        for (name, value) in &list {
            let _ = fields.append(name, value);
        }
        fields
    })
}

/// The method's name.
pub fn method_name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}

/// A request that is under way.
pub struct Sent {
    pub answer: FutureIncomingResponse,
    /// Takes its body, if it was announced.
    pub body: Option<Writer>,
}

/// Sends the head of a request.
///
/// # Errors
/// The host refuses it.
pub fn send(
    target: &Target,
    method: &Method,
    path: &str,
    fields: Fields,
    has_body: bool,
) -> Result<Sent, ErrorCode> {
    let request = OutgoingRequest::new(fields);
    let scheme = match target.scheme {
        Scheme::Http => types::Scheme::Http,
        Scheme::Https => types::Scheme::Https,
    };
    let refused = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_method(method).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    request.set_scheme(Some(&scheme)).map_err(refused)?;
    request.set_authority(Some(&target.authority)).map_err(refused)?;
    request.set_path_with_query(Some(path)).map_err(refused)?;
    let body = match has_body {
        true => request.body().ok().and_then(Writer::new),
        false => None,
    };
    Ok(Sent { answer: outgoing_handler::handle(request, None)?, body })
}

/// Waits for the head of the answer.
///
/// # Errors
/// There is none.
pub async fn answered(future: FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    ready(&Rc::new(future.subscribe())).await;
    let missing = ErrorCode::InternalError(None);
    future.get().and_then(Result::ok).unwrap_or(Err(missing))
}

/// Whether something took too long.
pub fn is_timeout(error: &ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::DnsTimeout
            | ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::HttpResponseTimeout
    )
}

/// Sends the head of the answer to the client; what takes its body, if it has one.
pub fn respond(
    out: ResponseOutparam,
    status: u16,
    fields: Fields,
    has_body: bool,
) -> Option<Writer> {
    let response = OutgoingResponse::new(fields);
    // A status that cannot be sent leaves 200; no host takes such a one from a provider.
    let _ = response.set_status_code(status);
    let body = match has_body {
        true => response.body().ok().and_then(Writer::new),
        false => None,
    };
    ResponseOutparam::set(out, Ok(response));
    body
}

/// The header that announces so many bytes.
pub fn content_length(bytes: usize) -> (String, Vec<u8>) {
    ("content-length".to_owned(), bytes.to_string().into())
}

/// The headers of a plain text that is ours.
pub fn text_fields(text: &str) -> Fields {
    fields(vec![("content-type".to_owned(), b"text/plain".into()), content_length(text.len())])
}

/// Answers the client with a plain text.
pub async fn answer(out: ResponseOutparam, status: u16, text: &str) {
    if let Some(body) = respond(out, status, text_fields(text), true)
        && body.write(text.as_bytes()).await.is_ok()
    {
        body.finish(None);
    }
}
