//! `response_cleanup`: the white space at the end of the answer.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Call, Decision, Edit, Proposal, literal, raw, tokens};

/// Trims the white space at the end of the assistant's texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseCleanup {}

/// A response, a choice, a message, an output item or a content block.
#[derive(Deserialize)]
struct Node<'a> {
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

impl<'a> Node<'a> {
    fn text_of(&self, kind: &str) -> Option<&'a RawValue> {
        let of_kind = raw::string(self.kind?.get())? == kind;
        self.text.filter(|_| of_kind)
    }
}

impl ResponseCleanup {
    pub(super) const KIND: &'static str = "response_cleanup";

    pub(super) fn propose(&self, call: Call<'_>) -> Proposal {
        let mut edits = Vec::new();
        let mut characters: usize = 0;
        for value in texts(call) {
            let trimmed = || {
                let text = raw::string(value.get())?;
                // An empty text means something else than a blank one.
                let kept = Some(text.trim_end().len()).filter(|kept| *kept > 0)?;
                let tail = text.get(kept..).filter(|tail| !tail.is_empty())?;
                let edit = Edit {
                    range: raw::range(call.body, value.get())?,
                    replacement: literal::splice(value.get(), [(kept..text.len(), "")])?,
                };
                Some((edit, tail.chars().count()))
            };
            if let Some((edit, removed)) = trimmed() {
                edits.push(edit);
                characters = characters.saturating_add(removed);
            }
        }
        Proposal {
            decision: (!edits.is_empty()).then(|| Decision {
                kind: Self::KIND,
                summary: format!("removed {characters} characters of white space at the end"),
                estimated_tokens_saved: tokens(characters),
            }),
            edits,
            ..Proposal::default()
        }
    }
}

/// The assistant's texts, in the order of the body.
fn texts(call: Call<'_>) -> Vec<&RawValue> {
    let Some(body) = node(call.body) else {
        return Vec::new();
    };
    let nodes = |list: Option<_>| {
        list.into_iter()
            .flat_map(raw::array)
            .map(RawValue::get)
            .filter_map(node)
    };
    match call.endpoint {
        "/v1/chat/completions" => nodes(body.choices)
            .filter_map(|choice| node(choice.message?.get())?.content)
            .collect(),
        "/v1/completions" => nodes(body.choices)
            .filter_map(|choice| choice.text)
            .collect(),
        "/v1/responses" => nodes(body.output)
            .flat_map(|item| nodes(item.content))
            .filter_map(|block| block.text_of("output_text"))
            .collect(),
        "/v1/messages" => nodes(body.content)
            .filter_map(|block| block.text_of("text"))
            .collect(),
        _ => Vec::new(),
    }
}

fn node(json: &str) -> Option<Node<'_>> {
    raw::object(json)
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{Call, Hook, Strategy, run};

    fn cleaned(endpoint: &str, body: &str) -> Option<String> {
        let strategy = Strategy::new("response_cleanup", "{}").unwrap();
        assert_eq!(strategy.hook(), Hook::Response);
        let call = Call {
            endpoint,
            body,
            can_retrieve: false,
        };
        let outcome = run([&strategy], call);
        assert_eq!(outcome.decisions.len(), usize::from(outcome.body.is_some()));
        outcome.body
    }

    #[test]
    fn every_dialects_texts_are_trimmed() {
        for (endpoint, body) in [
            (
                "/v1/chat/completions",
                r#"{"id":1.0,"choices":[{"message":{"content":" \u00e9 \n\u0020"}},{"message":{"content":"x\n "}}]}"#,
            ),
            (
                "/v1/completions",
                r#"{"choices":[{"text":"a \n\u0020"},{"text":"b"}]}"#,
            ),
            (
                "/v1/responses",
                r#"{"output":[{"type":"reasoning","content":[{"type":"reasoning_text","text":"a "}]},
                {"type":"message","content":[{"type":"output_text","text":"a \n\u0020"}]}]}"#,
            ),
            (
                "/v1/messages",
                r#"{"content":[{"type":"thinking","thinking":"a "},{"type":"text","text":"a \n\u0020"}]}"#,
            ),
        ] {
            let expected = body.replace(r" \n\u0020", "").replace(r"x\n ", "x");
            assert_eq!(cleaned(endpoint, body), Some(expected), "{endpoint}");
        }
    }

    #[test]
    fn the_rest_is_left_alone() {
        for (endpoint, body) in [
            (
                "/v1/chat/completions",
                r#"{"choices":[{"message":{"content":null}}]}"#,
            ),
            (
                "/v1/chat/completions",
                r#"{"choices":[{"message":{"content":"  "}}]}"#,
            ),
            (
                "/v1/chat/completions",
                r#"{"choices":{"message":{"content":"x "}}}"#,
            ),
            ("/v1/embeddings", r#"{"data":[{"text":"x "}]}"#),
            ("/v1/messages", "not json"),
            ("/elsewhere", r#"{"content":[{"type":"text","text":"x "}]}"#),
        ] {
            assert_eq!(cleaned(endpoint, body), None, "{body}");
        }
    }
}
