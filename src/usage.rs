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
    /// Reads a provider's `usage`, valid JSON. `None`: it is no object, or says one thing twice.
    pub(crate) fn parse(usage: &str) -> Option<Self> {
        if json::kind(usage) != Kind::Object {
            return None;
        }
        let [prompt, completion, prompt_details, completion_details, rest @ ..] = members(
            usage,
            [
                "\"prompt_tokens\"",
                "\"completion_tokens\"",
                "\"prompt_tokens_details\"",
                "\"completion_tokens_details\"",
                "\"input_tokens\"",
                "\"output_tokens\"",
                "\"input_tokens_details\"",
                "\"output_tokens_details\"",
                "\"total_tokens\"",
                "\"cache_read_input_tokens\"",
                "\"cache_creation_input_tokens\"",
            ],
        )?;
        let [input, output, input_details, output_details, total, cached, cache_creation] = rest;
        let detail = |details: Option<&str>, name| {
            let [found] = members(details?, [name])?;
            number(found)
        };
        Some(Self {
            input: number(prompt).or_else(|| number(input)),
            output: number(completion).or_else(|| number(output)),
            total: number(total),
            cached: detail(prompt_details.or(input_details), "\"cached_tokens\"")
                .or_else(|| number(cached)),
            cache_creation: number(cache_creation),
            reasoning: detail(completion_details.or(output_details), "\"reasoning_tokens\""),
        })
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

/// The values of the members of `object`, valid JSON, that are called `quoted`; `None` if one of
/// them comes twice.
fn members<'a, const N: usize>(object: &'a str, quoted: [&str; N]) -> Option<[Option<&'a str>; N]> {
    let mut values = [None; N];
    let mut twice = false;
    json::each_member(object, |name, value| {
        let place = quoted.iter().position(|wanted| *wanted == name);
        if let Some(found) = place.and_then(|place| values.get_mut(place)) {
            twice |= found.replace(value).is_some();
        }
    });
    (!twice).then_some(values)
}

fn number(value: Option<&str>) -> Option<u64> {
    value?.parse().ok()
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
    fn the_end_of_an_answer_is_enough() {
        let far = format!(r#"{{"usage":{{"input_tokens":7}},"a":"{}"}}"#, "x".repeat(4096));
        for (body, expected) in [
            (r#"{"a":[ }, "usage" : {"input_tokens":7}, "b":[{}]} "#, Some(7)),
            (r#"{"a":{"usage":{"input_tokens":7}}}"#, None),
            (r#"{"usage":{"input_tokens":7}"#, None),
            (r#"{"usage":{"input_tokens":7},"b"}"#, None),
            (r#"{"usage":{"input_tokens":7}}}"#, None),
            (r#"{"a":"\"usage\":{}"}"#, None),
            (r#"{"a":"usage"}"#, None),
            (r#""usage""#, None),
            ("", None),
            (&far, None),
        ] {
            let found = Usage::near_end(body.as_bytes());
            assert_eq!(found.and_then(|usage| usage.input), expected, "{body}");
        }
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
