//! Which LLM API a request is, told from its path, and what that API requires.

/// An LLM API's wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// OpenAI chat completions.
    OpenAiChat,
    /// OpenAI (legacy) completions.
    OpenAiCompletions,
    /// OpenAI embeddings.
    OpenAiEmbeddings,
    /// OpenAI responses.
    OpenAiResponses,
    /// Anthropic messages.
    AnthropicMessages,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 5] = [
        Dialect::OpenAiChat,
        Dialect::OpenAiCompletions,
        Dialect::OpenAiEmbeddings,
        Dialect::OpenAiResponses,
        Dialect::AnthropicMessages,
    ];

    /// The API's canonical path, which is its name in the Optimizer Protocol.
    pub const fn endpoint(self) -> &'static str {
        match self {
            Dialect::OpenAiChat => "/v1/chat/completions",
            Dialect::OpenAiCompletions => "/v1/completions",
            Dialect::OpenAiEmbeddings => "/v1/embeddings",
            Dialect::OpenAiResponses => "/v1/responses",
            Dialect::AnthropicMessages => "/v1/messages",
        }
    }

    /// The dialect whose canonical path is `endpoint`.
    pub fn from_endpoint(endpoint: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.endpoint() == endpoint)
    }

    /// The operation's name in OpenTelemetry's GenAI conventions (`gen_ai.operation.name`).
    pub const fn operation(self) -> &'static str {
        match self {
            Dialect::OpenAiChat | Dialect::OpenAiResponses | Dialect::AnthropicMessages => "chat",
            Dialect::OpenAiCompletions => "text_completion",
            Dialect::OpenAiEmbeddings => "embeddings",
        }
    }

    /// The request members that a provider refuses to do without.
    pub const fn required_in_request(self) -> &'static [&'static str] {
        match self {
            Dialect::OpenAiChat => &["model", "messages"],
            Dialect::OpenAiCompletions => &["model", "prompt"],
            Dialect::OpenAiEmbeddings | Dialect::OpenAiResponses => &["model", "input"],
            Dialect::AnthropicMessages => &["model", "messages", "max_tokens"],
        }
    }

    /// The response members that a client's SDK cannot do without. The first
    /// one is the answer itself.
    pub const fn required_in_response(self) -> &'static [&'static str] {
        match self {
            Dialect::OpenAiChat | Dialect::OpenAiCompletions => &["choices", "id", "model"],
            Dialect::OpenAiEmbeddings => &["data", "model"],
            Dialect::OpenAiResponses => &["output", "id", "model"],
            Dialect::AnthropicMessages => &["content", "id", "model", "role", "type"],
        }
    }
}

/// Path suffixes and the dialects they stand for; the longest match wins, among equal ones the last.
#[derive(Clone, Debug)]
pub struct Endpoints(Vec<(String, Dialect)>);

impl Endpoints {
    /// The five canonical paths and `extra` ones.
    pub fn new(extra: impl IntoIterator<Item = (String, Dialect)>) -> Self {
        let known = Dialect::ALL.map(|dialect| (dialect.endpoint().to_owned(), dialect));
        Self(known.into_iter().chain(extra).collect())
    }

    /// The dialect spoken at `path`; a query is ignored.
    pub fn dialect(&self, path: &[u8]) -> Option<Dialect> {
        let end = path.iter().position(|&byte| matches!(byte, b'?' | b'#'));
        let path = end.map_or(path, |end| path.get(..end).unwrap_or_default());
        let mut longest: Option<&(String, Dialect)> = None;
        for endpoint in &self.0 {
            let suffix = &endpoint.0;
            // Among equal suffixes the last one: what was configured.
            if longest.is_none_or(|(longest, _)| suffix.len() >= longest.len())
                && path.ends_with(suffix.as_bytes())
            {
                longest = Some(endpoint);
            }
        }
        longest.map(|&(_, dialect)| dialect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn paths_match_by_their_end() {
        let endpoints = Endpoints::new([
            ("/chat/completions".to_owned(), Dialect::OpenAiChat),
            ("/special/v1/messages".to_owned(), Dialect::OpenAiChat),
        ]);
        for (path, expected) in [
            ("/v1/chat/completions", Some(Dialect::OpenAiChat)),
            ("/openai/v1/chat/completions?x=/v1/messages", Some(Dialect::OpenAiChat)),
            ("/v1/completions", Some(Dialect::OpenAiCompletions)),
            ("/v1/embeddings#x", Some(Dialect::OpenAiEmbeddings)),
            ("/v1/responses", Some(Dialect::OpenAiResponses)),
            ("/anthropic/v1/messages", Some(Dialect::AnthropicMessages)),
            ("/openai/deployments/x/chat/completions?api-version=1", Some(Dialect::OpenAiChat)),
            ("/special/v1/messages", Some(Dialect::OpenAiChat)),
            ("/v1/threads/x/messages", None),
            ("/v1/messages/batches", None),
            ("/v1/messages/", None),
            ("/?q=/v1/messages", None),
            ("", None),
        ] {
            assert_eq!(endpoints.dialect(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn every_endpoint_names_its_dialect() {
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::from_endpoint(dialect.endpoint()), Some(dialect));
        }
        assert_eq!(Dialect::from_endpoint("/v1/anthropic_messages"), None);
    }
}
