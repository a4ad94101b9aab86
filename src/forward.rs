//! What a host has to know that is no proxy by itself and forwards calls in the
//! adapter's name: where to, and what of a message goes on.

use crate::headers::Headers;

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// Where requests are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Host name or address, with the port where there is one.
    pub authority: String,
    path_prefix: String,
}

impl Target {
    /// Reads `https://host[:port][/path]` or the same with `http`.
    pub(crate) fn from_url(url: &str) -> Option<Self> {
        let (scheme, rest) = match url.split_once("://")? {
            ("http", rest) => (Scheme::Http, rest),
            ("https", rest) => (Scheme::Https, rest),
            _ => return None,
        };
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))?;
        let path_prefix = path.trim_end_matches('/');
        let is_path = path_prefix.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_authority(authority) || !is_path || path_prefix.contains(['?', '#']) {
            return None;
        }
        let (authority, path_prefix) = (authority.to_owned(), path_prefix.to_owned());
        Some(Self { scheme, authority, path_prefix })
    }

    /// Reads a URL without a path, or `host:port`, which is spoken to in the clear.
    pub(crate) fn from_origin(origin: &str) -> Option<Self> {
        let target = match origin.contains("://") {
            true => Self::from_url(origin),
            false => origin.contains(':').then(|| Self::from_url(&format!("http://{origin}")))?,
        };
        target.filter(|target| target.path_prefix.is_empty() && !origin.ends_with('/'))
    }

    /// The URL that it was read from, in one spelling.
    pub fn url(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{scheme}://{}{}", self.authority, self.path_prefix)
    }

    /// The path to ask for where the client asked for `path`.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path_prefix)
    }
}

/// A host name or an address, with or without a port from 1 on.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    is_host
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
}

/// Headers that concern one connection, or that whoever sends the message sets
/// anew (RFC 9110, sections 7.2, 7.6.1 and 10.1.1).
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The headers of a message that go on with it.
pub fn end_to_end<'a>(headers: Headers<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    headers.iter().filter(move |(name, _)| {
        let of_the_connection =
            OF_THE_CONNECTION.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        let mut named =
            headers.all("connection").flat_map(|value| value.split(|&byte| byte == b','));
        !name.starts_with(b":")
            && !of_the_connection
            && !named.any(|named| named.trim_ascii().eq_ignore_ascii_case(name))
    })
}

/// Whether an answer with this status to a request with this method has a body,
/// whatever its headers say (RFC 9112, section 6.3).
pub fn has_body(method: &str, status: u16) -> bool {
    method != "HEAD" && !matches!(status, 100..=199 | 204 | 304)
}

/// Why the client gets no answer of the provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The request cannot go on: its headers are too large.
    RequestTooLarge,
    /// The answer cannot go on: its headers are too large.
    AnswerTooLarge,
    /// It cannot be reached, or broke off.
    Unreachable,
    /// It took longer than the host waits.
    Timeout,
}

impl Unanswered {
    /// What the client gets in its place: status and plain text (RFC 9110, sections 15.6.3 and 15.6.5; RFC 6585, section 5).
    pub const fn answer(self) -> (u16, &'static str) {
        match self {
            Unanswered::RequestTooLarge => (431, "the request's headers are too large\n"),
            Unanswered::AnswerTooLarge => {
                (502, "the headers of the provider's answer are too large\n")
            }
            Unanswered::Unreachable => (502, "the provider cannot be reached\n"),
            Unanswered::Timeout => (504, "the provider took too long to answer\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn urls_are_read_strictly() {
        for (url, scheme, authority, path) in [
            ("https://api.example", Scheme::Https, "api.example", "/v1/x"),
            ("http://10.0.0.1:8080/", Scheme::Http, "10.0.0.1:8080", "/v1/x"),
            ("http://[::1]:80", Scheme::Http, "[::1]:80", "/v1/x"),
            ("https://[2001:db8::1]/a/b/", Scheme::Https, "[2001:db8::1]", "/a/b/v1/x"),
        ] {
            let target = Target::from_url(url).unwrap();
            assert_eq!((target.scheme, &*target.authority), (scheme, authority), "{url}");
            assert_eq!(target.path("/v1/x"), path, "{url}");
        }
        for bad in [
            "",
            "api.example",
            "ftp://api.example",
            "HTTPS://api.example",
            "https://",
            "https:///v1",
            "https://user@api.example",
            "https://api.example:0",
            "https://api.example:x",
            "https://api.example:+1",
            "https://api.example:",
            "https://a b",
            "https://api.example/a?b",
            "https://api.example/a b",
            "https://[::1",
            "https://[x]:1",
        ] {
            assert_eq!(Target::from_url(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_origin_has_no_path_and_says_its_port_or_its_scheme() {
        let plain = Target::from_origin("optimizer:8088").unwrap();
        assert_eq!((plain.scheme, &*plain.authority), (Scheme::Http, "optimizer:8088"));
        assert_eq!(Target::from_origin("https://o").unwrap().scheme, Scheme::Https);
        for bad in ["optimizer", "o:0", "http://o/", "http://o/x", "o:1/x", "o:1/"] {
            assert_eq!(Target::from_origin(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_concerns_the_connection_stays_there() {
        let fields: [(&[u8], &[u8]); 9] = [
            (b":path", b"/"),
            (b"Host", b"me"),
            (b"connection", b"close, X-Hop"),
            (b"x-hop", b"1"),
            (b"TE", b"trailers"),
            (b"transfer-encoding", b"chunked"),
            (b"content-length", b"3"),
            (b"cookie", b"\xff"),
            (b"cookie", b"b"),
        ];
        let kept: Vec<_> = end_to_end(Headers::new(&fields)).collect();
        assert_eq!(kept, fields[6..]);
    }

    #[test]
    fn bodies_by_method_and_status() {
        assert!(has_body("POST", 200) && has_body("GET", 404));
        for (method, status) in [("HEAD", 200), ("POST", 204), ("GET", 304), ("GET", 101)] {
            assert!(!has_body(method, status), "{method} {status}");
        }
    }
}
