//! What is answered, before any dialect gives it a shape: a function of the
//! request and of nothing else.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::dialect::Dialect;

/// The moment of every answer. A clock would make equal requests get unequal answers.
pub const CREATED: u64 = 1_767_225_600;

/// Where the text of a request stands, in any dialect.
const TEXT_MEMBERS: [&str; 6] = ["system", "instructions", "tools", "messages", "prompt", "input"];

/// One answer.
#[derive(Debug)]
pub struct Reply {
    /// Sixteen hex digits, derived from the request's bytes.
    pub id: String,
    /// The model that the request named.
    pub model: String,
    /// The answer, in the pieces in which it is streamed.
    pub pieces: Vec<String>,
    /// Tokens read: a quarter of the text's characters, as a rule of thumb has it.
    pub input_tokens: usize,
}

impl Reply {
    /// The answer to a request that the dialect's check let pass.
    pub fn to(dialect: Dialect, request: &Value, bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let said = last_said(&request[dialect.input()]);
        let count = said.split_whitespace().count();
        let first: Vec<_> = said.split_whitespace().take(5).collect();
        let input_tokens = tokens(request);
        let text = format!(
            "You said {count} words, beginning with \"{}\". I read {input_tokens} tokens.",
            first.join(" ")
        );
        Self {
            id: format!("{:016x}", hasher.finish()),
            model: request["model"].as_str().unwrap_or_default().to_owned(),
            pieces: text.split_inclusive(' ').map(str::to_owned).collect(),
            input_tokens,
        }
    }

    /// The whole answer.
    pub fn text(&self) -> String {
        self.pieces.concat()
    }

    /// Tokens written: one a piece.
    pub fn output_tokens(&self) -> usize {
        self.pieces.len()
    }
}

/// Tokens of a request's text.
fn tokens(request: &Value) -> usize {
    fn characters(value: &Value) -> usize {
        match value {
            Value::String(text) => text.chars().count(),
            Value::Array(items) => items.iter().map(characters).sum(),
            Value::Object(members) => members.values().map(characters).sum(),
            _ => 0,
        }
    }
    let all: usize = TEXT_MEMBERS.iter().map(|name| characters(&request[*name])).sum();
    all.div_ceil(4).max(1)
}

/// The text of the last message in which the user said something.
fn last_said(input: &Value) -> String {
    let items = input.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut by_user = items.iter().rev().filter(|item| item["role"] == "user");
    by_user
        .find_map(|item| Some(plain_text(&item["content"])).filter(|text| !text.is_empty()))
        .unwrap_or_else(|| plain_text(input))
}

/// The text in a content part, a list of them, or a plain string; a tool's result is none.
fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain_text).collect::<Vec<_>>().join(" "),
        Value::Object(part) => part.get("text").map(plain_text).unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(dialect: Dialect, request: Value) -> Reply {
        let bytes = request.to_string();
        Reply::to(dialect, &request, bytes.as_bytes())
    }

    #[test]
    fn answers_the_last_user_message() {
        let request = json!({"model": "m", "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": [
                {"type": "text", "text": "one two"}, {"type": "text", "text": "three"},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "content": "a tool's"}]},
        ]});
        let text = reply(Dialect::Chat, request).text();
        assert!(text.starts_with("You said 3 words, beginning with \"one two three\"."), "{text}");
    }

    #[test]
    fn reads_every_form_of_input() {
        for input in [
            json!("one two"),
            json!(["one", "two"]),
            json!([{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}]),
        ] {
            let text = reply(Dialect::Responses, json!({"model": "m", "input": input})).text();
            assert!(text.starts_with("You said 2 words"), "{text}");
        }
    }

    #[test]
    fn equal_requests_get_equal_answers_and_others_another_id() {
        let ask = |text: &str| reply(Dialect::Completions, json!({"model": "m", "prompt": text}));
        assert_eq!(ask("hello").id, ask("hello").id);
        assert_ne!(ask("hello").id, ask("hallo").id);
        assert_eq!(ask("hello there").text(), ask("hello there").text());
    }

    #[test]
    fn counts_a_token_for_four_characters_of_text() {
        let request = json!({"model": "ignored", "system": "1234", "messages": [
            {"role": "", "content": "12345"},
        ]});
        assert_eq!(reply(Dialect::Messages, request).input_tokens, 3);
    }
}
