//! `response_cleanup`: the white space at the end of the answer.

use serde::Deserialize;

use super::{Call, Decision, Edit, Proposal, literal, raw, tokens};
use crate::dialect::Dialect;
use crate::json::Object;

/// Trims the white space at the end of the assistant's texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseCleanup {}

impl ResponseCleanup {
    pub(super) const KIND: &'static str = "response_cleanup";

    pub(super) fn propose(&self, call: Call<'_>) -> Proposal {
        let mut edits = Vec::new();
        let mut characters: usize = 0;
        for value in texts(call) {
            let trimmed = || {
                let text = raw::string(value)?;
                // An empty text means something else than a blank one.
                let kept = Some(text.trim_end().len()).filter(|kept| *kept > 0)?;
                let tail = text.get(kept..).filter(|tail| !tail.is_empty())?;
                let edit = Edit {
                    range: raw::range(call.body, value)?,
                    replacement: literal::splice(value, [(kept..text.len(), "")])?,
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
fn texts(call: Call<'_>) -> Vec<&str> {
    let Some(body) = raw::object(call.body) else {
        return Vec::new();
    };
    match call.dialect {
        Dialect::OpenAiChat => objects(body.get("choices"))
            .filter_map(|choice| raw::object(choice.get("message")?)?.get("content"))
            .collect(),
        Dialect::OpenAiCompletions => {
            objects(body.get("choices")).filter_map(|choice| choice.get("text")).collect()
        }
        Dialect::OpenAiEmbeddings => Vec::new(),
        Dialect::OpenAiResponses => objects(body.get("output"))
            .flat_map(|item| objects(item.get("content")))
            .filter_map(|block| text_of(&block, "output_text"))
            .collect(),
        Dialect::AnthropicMessages => {
            objects(body.get("content")).filter_map(|block| text_of(&block, "text")).collect()
        }
    }
}

fn objects(list: Option<&str>) -> impl Iterator<Item = Object<'_>> {
    list.into_iter().flat_map(raw::array).filter_map(raw::object)
}

fn text_of<'a>(block: &Object<'a>, kind: &str) -> Option<&'a str> {
    (raw::text(block, "type")? == kind).then(|| block.get("text")).flatten()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{Call, Hook, Strategy, run};
    use crate::dialect::Dialect;

    fn cleaned(endpoint: &str, body: &str) -> Option<String> {
        let strategy = Strategy::new("response_cleanup", "{}").unwrap();
        assert_eq!(strategy.hook(), Hook::Response);
        let call =
            Call { dialect: Dialect::from_endpoint(endpoint).unwrap(), body, can_retrieve: false };
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
            ("/v1/completions", r#"{"choices":[{"text":"a \n\u0020"},{"text":"b"}]}"#),
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
            ("/v1/chat/completions", r#"{"choices":[{"message":{"content":null}}]}"#),
            ("/v1/chat/completions", r#"{"choices":[{"message":{"content":"  "}}]}"#),
            ("/v1/chat/completions", r#"{"choices":{"message":{"content":"x "}}}"#),
            ("/v1/embeddings", r#"{"data":[{"text":"x "}]}"#),
            ("/v1/messages", "not json"),
        ] {
            assert_eq!(cleaned(endpoint, body), None, "{body}");
        }
    }
}
