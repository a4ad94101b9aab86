//! Whether and how an optimizer's version of a message is applied. The
//! optimizer is trusted with content, not with validity.

use std::borrow::Cow;

use crate::bypass::Bypass;
use crate::dialect::Dialect;
use crate::json::{self, Kind, Member, Object};

/// Lays the optimizer's request over the client's. `None`: nothing changes.
///
/// A request with `model` and one of `messages`, `prompt`, `input` is full: what
/// it lacks was taken out on purpose. A sparse one changes only what it holds.
///
/// # Errors
/// The reason why it is not applied.
pub(crate) fn request<'n>(
    dialect: Dialect,
    original: &Object<'_, [u8]>,
    new: &Object<'n, [u8]>,
) -> Result<Option<Cow<'n, [u8]>>, Bypass> {
    let has = |name| new.get(name).is_some();
    let full = has("model") && ["messages", "prompt", "input"].into_iter().any(has);
    let result = Overlay { original, new, full };
    result.check(dialect.required_in_request())?;
    if !same_switch(original.get("stream"), result.get("stream")) {
        return Err(Bypass::TransformStreamChanged);
    }
    // A provider refuses these where there are no tools.
    let refers_to_tools = ["tool_choice", "parallel_tool_calls"]
        .into_iter()
        .any(|name| result.get(name).is_some_and(|value| json::kind(value) != Kind::Null));
    if original.get("tools").is_some() && result.get("tools").is_none() && refers_to_tools {
        return Err(Bypass::TransformToolChoiceWithoutTools);
    }
    Ok(result.apply())
}

/// Lays the optimizer's response over the provider's. `None`: nothing changes.
/// A response that holds the dialect's answer is full.
///
/// # Errors
/// The reason why it is not applied.
pub(crate) fn response<'n>(
    dialect: Dialect,
    original: &Object<'_, [u8]>,
    new: &Object<'n, [u8]>,
) -> Result<Option<Cow<'n, [u8]>>, Bypass> {
    let required = dialect.required_in_response();
    let full = required.first().is_some_and(|answer| new.get(answer).is_some());
    let result = Overlay { original, new, full };
    result.check(required)?;
    Ok(result.apply())
}

/// Readers give up at some depth, the first ones here.
const MAX_DEPTH: usize = 128;

struct Overlay<'o, 'n> {
    original: &'o Object<'o, [u8]>,
    new: &'o Object<'n, [u8]>,
    full: bool,
}

impl<'o, 'n> Overlay<'o, 'n> {
    /// A member as it will be.
    fn member(&self, name: &str) -> Option<&'o Member<'o, [u8]>> {
        let new: &'o Object<'o, [u8]> = self.new;
        new.member(name).or(if self.full { None } else { self.original.member(name) })
    }

    fn get(&self, name: &str) -> Option<&'o [u8]> {
        self.member(name).map(|member| member.value)
    }

    fn check(&self, required: &[&str]) -> Result<(), Bypass> {
        for &name in required {
            let Some(before) = self.original.member(name) else { continue };
            let after = self.member(name).ok_or(Bypass::TransformRequiredMissing)?;
            // An array of nothing but objects (messages, choices) stays one.
            if json::kind(before.value) != json::kind(after.value)
                || (before.holds_only_objects() && !after.holds_only_objects())
            {
                return Err(Bypass::TransformRequiredRetyped);
            }
        }
        for member in self.new.members().iter().filter(|member| member.depth() > MAX_DEPTH) {
            let before = self.original.member(&member.name).map_or(0, Member::depth);
            if member.depth() > before {
                return Err(Bypass::TransformTooDeep);
            }
        }
        for member in self.original.members() {
            let emptied = |after| json::kind(after) == Kind::Array && json::is_empty(after);
            if json::kind(member.value) == Kind::Array
                && !json::is_empty(member.value)
                && self.get(&member.name).is_some_and(emptied)
            {
                return Err(Bypass::TransformArrayEmptied);
            }
        }
        Ok(())
    }

    fn apply(&self) -> Option<Cow<'n, [u8]>> {
        self.original.overlay(self.new, self.full)
    }
}

/// Whether a switch is set the same way; null and false are the same as absent.
fn same_switch(before: Option<&[u8]>, after: Option<&[u8]>) -> bool {
    let set =
        |value: Option<&[u8]>| value.is_some_and(|value| !matches!(value, b"null" | b"false"));
    match (before, after) {
        (Some(before), Some(after)) if set(Some(before)) => json::equal(before, after),
        (before, after) => set(before) == set(after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Answer;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const CHAT: &str = r#"{"model":"m","messages":[{"role":"user"}],"tools":[{"x":1}],"tool_choice":"auto","stream":true,"seed":7}"#;

    type Apply = for<'n> fn(
        Dialect,
        &Object<'_, [u8]>,
        &Object<'n, [u8]>,
    ) -> Result<Option<Cow<'n, [u8]>>, Bypass>;

    /// What becomes of `original` with an answer that holds `transformed`.
    fn applied(
        apply: Apply,
        dialect: Dialect,
        original: &str,
        transformed: &str,
    ) -> Result<Option<String>, Bypass> {
        let original = Object::parse_first(original.as_bytes()).unwrap();
        let text = format!(r#"{{"version":{transformed}}}"#);
        let answer = Answer::parse(text.as_bytes(), "version", Some(&original))?;
        let body = apply(dialect, &original, answer.transformed()?)?;
        Ok(body.map(|bytes| String::from_utf8(bytes.into_owned()).unwrap()))
    }

    fn chat(transformed: &str) -> Result<Option<String>, Bypass> {
        applied(request, Dialect::OpenAiChat, CHAT, transformed)
    }

    #[test]
    fn a_full_request_removes_and_a_sparse_one_does_not() {
        let full = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}"#;
        assert_eq!(
            chat(full).unwrap().unwrap(),
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}"#
        );
        assert_eq!(
            chat(r#"{"seed":8}"#).unwrap().unwrap(),
            CHAT.replace("\"seed\":7", "\"seed\":8")
        );
        assert_eq!(chat("{}"), Ok(None));
        assert_eq!(chat(CHAT), Ok(None));
    }

    #[test]
    fn bad_content_in_a_good_answer_is_not_applied() {
        for (transformed, reason) in [
            (r#"{"messages":null}"#, Bypass::TransformRequiredRetyped),
            (r#"{"messages":"x"}"#, Bypass::TransformRequiredRetyped),
            (r#"{"messages":{}}"#, Bypass::TransformRequiredRetyped),
            (r#"{"messages":[null]}"#, Bypass::TransformRequiredRetyped),
            (r#"{"messages":[{},"x"]}"#, Bypass::TransformRequiredRetyped),
            (r#"{"model":5}"#, Bypass::TransformRequiredRetyped),
            (r#"{"messages":[]}"#, Bypass::TransformArrayEmptied),
            (r#"{"tools":[ ]}"#, Bypass::TransformArrayEmptied),
            (r#"{"model":"m","input":[{}]}"#, Bypass::TransformRequiredMissing),
            (r#"{"stream":false}"#, Bypass::TransformStreamChanged),
            (r#"{"stream":"true"}"#, Bypass::TransformStreamChanged),
            (r#"{"model":"m","messages":[{}]}"#, Bypass::TransformStreamChanged),
            (
                r#"{"model":"m","messages":[{}],"stream":true,"tool_choice":"auto"}"#,
                Bypass::TransformToolChoiceWithoutTools,
            ),
            (r#"{"seed":1,"seed":2}"#, Bypass::TransformDuplicateMember),
            ("[]", Bypass::AnswerWrongShape),
        ] {
            assert_eq!(chat(transformed), Err(reason), "{transformed}");
        }
    }

    #[test]
    fn what_is_too_deep_for_readers_is_not_applied_unless_it_was_there() {
        let deep = |depth, inside| format!("{}{inside}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(chat(&format!(r#"{{"a":{}}}"#, deep(129, ""))), Err(Bypass::TransformTooDeep));
        assert!(chat(&format!(r#"{{"a":{}}}"#, deep(128, ""))).is_ok());
        let text = format!(r#"{{"a":{}}}"#, deep(300, "1"));
        let answer = format!(r#"{{"a":{}}}"#, deep(300, "2"));
        assert!(applied(request, Dialect::OpenAiChat, &text, &answer).unwrap().is_some());
        let deeper = format!(r#"{{"a":{}}}"#, deep(301, "1"));
        let refused = applied(request, Dialect::OpenAiChat, &text, &deeper);
        assert_eq!(refused, Err(Bypass::TransformTooDeep));
    }

    #[test]
    fn what_the_client_did_not_send_is_not_required() {
        let original = r#"{"messages":[{"role":"user"}]}"#;
        let answer = r#"{"messages":[{"role":"user","content":""}],"stream":false}"#;
        assert!(applied(request, Dialect::OpenAiChat, original, answer).unwrap().is_some());
        let choice = r#"{"model":"m","tool_choice":"auto","input":"x"}"#;
        let answer = r#"{"model":"m","tool_choice":"none","input":"y"}"#;
        assert!(applied(request, Dialect::OpenAiResponses, choice, answer).unwrap().is_some());
    }

    #[test]
    fn responses_keep_what_clients_need() {
        let text = r#"{"id":"1","model":"m","choices":[{"index":0}],"usage":{"total_tokens":1}}"#;
        let apply = |answer| applied(response, Dialect::OpenAiChat, text, answer);
        assert_eq!(
            apply(r#"{"id":"1","model":"m","choices":[{"index":1}]}"#).unwrap().unwrap(),
            r#"{"id":"1","model":"m","choices":[{"index":1}]}"#
        );
        assert_eq!(apply(r#"{"choices":[]}"#), Err(Bypass::TransformRequiredMissing));
        assert_eq!(
            apply(r#"{"id":"1","model":"m","choices":[]}"#),
            Err(Bypass::TransformArrayEmptied)
        );
        assert_eq!(apply(r#"{"id":null}"#), Err(Bypass::TransformRequiredRetyped));
        assert!(apply(r#"{"extra":1}"#).unwrap().unwrap().ends_with(r#","extra":1}"#));
    }
}
