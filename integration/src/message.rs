//! What left the proxy: the message as the next hop received it.

use crate::headers::Headers;

/// A message on its way out, or out.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The headers; none while they are held.
    pub headers: Option<Headers>,
    /// The body, piece by piece as it was passed on.
    pub chunks: Vec<Vec<u8>>,
    /// The trailers.
    pub trailers: Option<Headers>,
    /// Whether its end was passed on.
    pub complete: bool,
}

impl Message {
    /// The whole body.
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body()).into_owned()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name)
    }

    /// The status code of a response.
    pub fn status(&self) -> Option<u16> {
        self.header(":status")?.parse().ok()
    }

    /// Receives the headers.
    pub fn headers_out(&mut self, to: &str, headers: &Headers, end: bool) {
        check_values(to, headers);
        self.headers = Some(headers.clone());
        self.finish(to, end);
    }

    /// Receives a piece of the body.
    pub fn body_out(&mut self, to: &str, chunk: Vec<u8>, end: bool) {
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
        self.check_length(to, false);
        self.finish(to, end);
    }

    /// Receives the trailers.
    pub fn trailers_out(&mut self, to: &str, trailers: &Headers) {
        check_values(to, trailers);
        self.trailers = Some(trailers.clone());
        self.finish(to, true);
    }

    fn finish(&mut self, to: &str, end: bool) {
        if end {
            self.complete = true;
            self.check_length(to, true);
        }
    }

    /// Envoy never mends a `content-length`: a surplus becomes the beginning of the next
    /// message on that connection, a shortage hangs.
    fn check_length(&self, to: &str, whole: bool) {
        // Answers to HEAD, and 304, name the length of a body that they do not have.
        let bodiless = self.chunks.is_empty() && self.status().is_some_and(|s| s == 304);
        let Some(length) = self.headers.as_ref().and_then(Headers::content_length) else {
            return;
        };
        let sent: u64 = self.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        assert!(
            bodiless || sent == length || (!whole && sent < length),
            "content-length broken: {to} was promised {length} bytes and got {sent}"
        );
    }
}

/// Fails where a value holds what would end it on the wire: Envoy passes that on, so nobody may set it.
pub fn check_values(to: &str, headers: &Headers) {
    for (name, value) in headers.iter() {
        assert!(
            !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')),
            "header injected: {to} got {name}: {:?}",
            String::from_utf8_lossy(value)
        );
    }
}
