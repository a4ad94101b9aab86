//! Calls from the module to a cluster, and what can come back.

use std::time::Duration;

use crate::headers::Headers;

/// Envoy drops an answer larger than this on its way to the module.
pub const ANSWER_LIMIT: usize = 33_554_432;

/// One HTTP call that the module sent.
#[derive(Clone, Debug)]
pub struct Callout {
    /// The token by which the module knows it.
    pub id: u32,
    /// The cluster it goes to.
    pub cluster: String,
    /// Its headers, `:path` and the other pseudo headers included.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
    /// How long the module waits; none for ever.
    pub timeout: Option<Duration>,
    /// When it left, on the host's clock.
    pub sent_at: Duration,
    /// The stream on whose behalf it left; none for the root context.
    pub stream: Option<u32>,
    /// Whether it has been answered.
    pub answered: bool,
}

impl Callout {
    /// The path, which says what kind of call it is.
    pub fn path(&self) -> &str {
        self.headers.get(":path").unwrap_or("")
    }

    /// When the host gives it up.
    pub fn deadline(&self) -> Option<Duration> {
        self.timeout.map(|timeout| self.sent_at + timeout)
    }
}

/// What becomes of a callout.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The service answered.
    Http {
        /// The status code.
        status: u16,
        /// Headers besides the status.
        headers: Headers,
        /// The body.
        body: Vec<u8>,
    },
    /// Nothing came until the time-out; the clock moves on to it.
    Timeout,
    /// The connection was refused or lost before an answer began.
    Refused,
    /// The answer broke off.
    Reset,
}

impl Answer {
    /// An answer with a JSON body.
    pub fn json(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::http(status, Headers::from([("content-type", "application/json")]), body)
    }

    /// Any HTTP answer.
    pub fn http(status: u16, headers: Headers, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Self::Http { status, headers, body }
    }

    /// What the caller gets to see in Kong's runtime.
    pub fn seen_on_kong(self) -> (Vec<(&'static str, String)>, Vec<u8>) {
        let told = |status: &str| vec![(":dispatch_status", status.to_owned())];
        match self {
            Self::Http { status, body, .. } => {
                let mut headers = told("ok");
                headers.push((":status", status.to_string()));
                (headers, body)
            }
            Self::Refused => (told("broken connection"), Vec::new()),
            Self::Timeout => (told("timeout"), Vec::new()),
            Self::Reset => {
                let mut headers = told("broken connection");
                headers.push((":status", "200".to_owned()));
                (headers, Vec::new())
            }
        }
    }

    /// What the caller gets to see; none where it gets no headers at all.
    pub fn seen(self) -> Option<(Headers, Vec<u8>)> {
        let (status, extra, body) = match self {
            // Only an answer of the service itself carries this header.
            Self::Http {
                status,
                mut headers,
                body,
            } => {
                headers.add("x-envoy-upstream-service-time", b"1");
                (status, headers, body)
            }
            Self::Refused => (
                503,
                Headers::from([("content-type", "text/plain")]),
                b"upstream connect error or disconnect/reset before headers. reset reason: connection failure".to_vec(),
            ),
            Self::Timeout => (
                504,
                Headers::from([("content-type", "text/plain")]),
                b"upstream request timeout".to_vec(),
            ),
            Self::Reset => return None,
        };
        if body.len() > ANSWER_LIMIT {
            return None;
        }
        let mut headers = Headers::from([(":status", status.to_string())]);
        headers.add("content-length", body.len().to_string().as_bytes());
        for (name, value) in extra.iter() {
            headers.add(name, value);
        }
        Some((headers, body))
    }
}
