//! What an answer cost, field by field as each dialect spells it.

use crate::json::{self, Kind, Object, ObjectWriter};

/// Token counts of one answer; what the provider did not say is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// OpenAI's `prompt_tokens`, or `input_tokens`.
    pub(crate) input: Option<u64>,
    /// OpenAI's `completion_tokens`, or `output_tokens`.
    pub(crate) output: Option<u64>,
    /// `total_tokens`; Anthropic has none.
    total: Option<u64>,
    /// Input tokens that came from the provider's prompt cache.
    cached: Option<u64>,
    /// Input tokens that were written to it (Anthropic).
    cache_creation: Option<u64>,
    /// Output tokens that were spent on reasoning.
    reasoning: Option<u64>,
}

impl Usage {
    /// Reads a provider's `usage`, valid JSON. `None`: it is no object.
    pub(crate) fn parse(usage: &str) -> Option<Self> {
        if json::kind(usage) != Kind::Object {
            return None;
        }
        let mut found = Self::default();
        json::each_member(usage, |name, value| {
            let number = || value.parse().ok();
            match name {
                r#""prompt_tokens""# | r#""input_tokens""# => {
                    found.input = found.input.or_else(number)
                }
                r#""completion_tokens""# | r#""output_tokens""# => {
                    found.output = found.output.or_else(number);
                }
                r#""total_tokens""# => found.total = number(),
                r#""cache_read_input_tokens""# => found.cached = found.cached.or_else(number),
                r#""cache_creation_input_tokens""# => found.cache_creation = number(),
                r#""prompt_tokens_details""# | r#""input_tokens_details""# => {
                    found.cached = detail(value, r#""cached_tokens""#).or(found.cached);
                }
                r#""completion_tokens_details""# | r#""output_tokens_details""# => {
                    found.reasoning = detail(value, r#""reasoning_tokens""#);
                }
                _ => {}
            }
        });
        Some(found)
    }

    /// The usage of a provider-shaped body.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        Self::parse(Object::parse_only(body, "usage").ok()?.get("usage")?)
    }

    /// The usage that stands near the end of a provider-shaped body, where providers put it;
    /// the rest is not read.
    pub(crate) fn near_end(body: &[u8]) -> Option<Self> {
        Self::parse(json::near_end(body, b"\"usage\"")?)
    }

    /// Adds what is known to a record.
    pub(crate) fn write(&self, record: &mut ObjectWriter) {
        for (name, tokens) in [
            ("promptTokens", self.input),
            ("completionTokens", self.output),
            ("totalTokens", self.total),
            ("cachedTokens", self.cached),
            ("cacheCreationTokens", self.cache_creation),
            ("reasoningTokens", self.reasoning),
        ] {
            if let Some(tokens) = tokens {
                record.number(name, tokens);
            }
        }
    }
}

fn detail(details: &str, wanted: &str) -> Option<u64> {
    let mut found = None;
    json::each_member(details, |name, value| {
        if name == wanted {
            found = value.parse().ok();
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn written(usage: &str) -> String {
        let mut record = ObjectWriter::default();
        Usage::parse(usage).unwrap().write(&mut record);
        String::from_utf8(record.finish()).unwrap()
    }

    #[test]
    fn each_dialect_s_spelling_is_understood() {
        let chat = r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}"#;
        let all = r#"{"promptTokens":1,"completionTokens":2,"totalTokens":3,"cachedTokens":4,"reasoningTokens":5}"#;
        assert_eq!(written(chat), all);
        let responses = chat
            .replace("\"prompt_tokens", "\"input_tokens")
            .replace("\"completion_tokens", "\"output_tokens");
        assert_eq!(written(&responses), all);
        let anthropic = r#"{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":3,"cache_creation_input_tokens":4}"#;
        assert_eq!(
            written(anthropic),
            r#"{"promptTokens":1,"completionTokens":2,"cachedTokens":3,"cacheCreationTokens":4}"#
        );
    }

    #[test]
    fn what_is_not_said_is_absent() {
        assert_eq!(
            written(r#"{"prompt_tokens":null,"total_tokens":-1,"prompt_tokens_details":null}"#),
            "{}"
        );
        assert_eq!(Usage::of(br#"{"usage":null}"#), None);
        assert_eq!(Usage::of(br#"{"usage":{"input_tokens":7}}"#).unwrap().input, Some(7));
    }
}
