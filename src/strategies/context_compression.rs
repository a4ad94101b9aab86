//! `context_compression`: tool results, minified and shortened.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::texts::{Source, Text, texts};
use super::{
    Call, Decision, Edit, Original, Proposal, StrategyError, Suppressed, literal, raw, tokens,
};

/// Minifies the JSON in tool results, and cuts an over-long result in the middle.
/// The cut names a handle under which the original can be retrieved.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextCompression {
    /// Whether white space is taken out of results that are JSON.
    #[serde(default = "default_minify_json")]
    minify_json: bool,
    /// The most characters a result keeps, the note about the cut included. None: never cut.
    #[serde(default = "default_max_characters")]
    max_characters: Option<usize>,
}

fn default_minify_json() -> bool {
    true
}

fn default_max_characters() -> Option<usize> {
    Some(16_000)
}

/// What was done with one result.
struct Shortened {
    literal: String,
    minified: usize,
    cut: usize,
    original: Option<Original>,
}

impl ContextCompression {
    pub(super) const KIND: &'static str = "context_compression";

    pub(super) fn check(&self) -> Result<(), StrategyError> {
        // Below that the note would be most of what is left.
        if self.max_characters.is_some_and(|most| most < 400) {
            return Err(StrategyError::param("max_characters", "must be null or at least 400"));
        }
        Ok(())
    }

    pub(super) fn propose(&self, call: Call<'_>) -> Proposal {
        let mut proposal = Proposal::default();
        let (mut minified, mut cut): (usize, usize) = (0, 0);
        for text in texts(call.dialect, call.body) {
            if text.source != Source::Tool || text.pinned {
                continue;
            }
            let Some(range) = raw::range(call.body, text.literal) else {
                continue;
            };
            let Some(short) = self.shorten(&text, call.can_retrieve, &mut proposal) else {
                continue;
            };
            minified = minified.saturating_add(short.minified);
            cut = cut.saturating_add(short.cut);
            proposal.originals.extend(short.original);
            proposal.edits.push(Edit { range, replacement: short.literal });
        }
        if !proposal.edits.is_empty() {
            proposal.decision = Some(Decision {
                kind: Self::KIND,
                summary: format!(
                    "tool results: {minified} characters of white space removed, {cut} characters cut"
                ),
                estimated_tokens_saved: tokens(minified.saturating_add(cut)),
            });
        }
        proposal
    }

    /// None where nothing is to be done.
    fn shorten(
        &self,
        result: &Text<'_>,
        can_retrieve: bool,
        proposal: &mut Proposal,
    ) -> Option<Shortened> {
        let text = raw::string(result.literal)?;
        let white_space = if self.minify_json { white_space(&text) } else { Vec::new() };
        let minified = white_space.iter().map(ExactSizeIterator::len).sum();
        let mut short =
            Shortened { literal: result.literal.to_owned(), minified, cut: 0, original: None };
        if minified > 0 {
            let changes = white_space.into_iter().map(|range| (range, ""));
            short.literal = literal::splice(result.literal, changes)?;
        }
        let left = raw::string(&short.literal)?;
        if let Some(cut) = self.middle(&left, &text) {
            if can_retrieve {
                short.literal = literal::splice(&short.literal, [(cut.range, cut.note.as_str())])?;
                short.cut = cut.saved;
                short.original = Some(Original { handle: cut.handle, content: text.into_owned() });
            } else {
                proposal.suppressed = Some(Suppressed { kind: Self::KIND, reason: "no_retrieve" });
            }
        }
        (short.minified > 0 || short.cut > 0).then_some(short)
    }

    /// What to take out of the middle so that `max_characters` are left.
    fn middle(&self, text: &str, original: &str) -> Option<Cut> {
        let most = self.max_characters?;
        // Bytes are an upper bound: most results need no counting.
        if text.len() <= most {
            return None;
        }
        let characters = text.chars().count();
        if characters <= most {
            return None;
        }
        let handle = handle(original);
        let note = |removed: usize| {
            format!("\n[… {removed} characters removed; retrieve with handle \"{handle}\"]\n")
        };
        // The note is longest for the largest number.
        let keep = most.saturating_sub(note(characters).chars().count());
        let removed = characters.saturating_sub(keep);
        let head = keep.div_ceil(2);
        let mut offsets = text.char_indices().map(|(offset, _)| offset);
        let start = offsets.nth(head)?;
        let end = offsets.nth(removed.saturating_sub(1)).unwrap_or(text.len());
        let note = note(removed);
        Some(Cut {
            range: start..end,
            saved: removed.saturating_sub(note.chars().count()),
            note,
            handle,
        })
    }
}

struct Cut {
    range: Range<usize>,
    note: String,
    handle: String,
    /// In characters, the note counted against it.
    saved: usize,
}

/// A name that only the content leads to, the same for the same content: a
/// prompt that is sent again is cut to the same bytes.
fn handle(content: &str) -> String {
    let digest = Sha256::digest(content.as_bytes());
    let number = digest.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
    format!("cut_{number:032x}")
}

/// The white space between the tokens of a JSON object or array; nothing for
/// any other text.
fn white_space(text: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let json = text.trim_start().starts_with(['{', '['])
        && serde_json::from_str::<&RawValue>(text).is_ok();
    if !json {
        return ranges;
    }
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b' ' | b'\t' | b'\n' | b'\r' => match ranges.last_mut() {
                Some(range) if range.end == at => range.end = at.saturating_add(1),
                _ => ranges.push(at..at.saturating_add(1)),
            },
            _ => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use serde_json::{Value, json};

    use super::super::{Call, Outcome, Strategy, Suppressed, run};
    use crate::dialect::Dialect;

    fn outcome(params: &str, endpoint: &str, body: &Value, can_retrieve: bool) -> Outcome {
        let strategy = Strategy::new("context_compression", params).unwrap();
        let body = body.to_string();
        let call =
            Call { dialect: Dialect::from_endpoint(endpoint).unwrap(), body: &body, can_retrieve };
        run([&strategy], call)
    }

    fn chat(result: &str) -> Value {
        json!({"messages": [{"role": "tool", "tool_call_id": "1", "content": result}]})
    }

    /// The result as the strategy leaves it.
    fn shortened(params: &str, result: &str) -> (String, Outcome) {
        let body = chat(result);
        let outcome = outcome(params, "/v1/chat/completions", &body, true);
        let changed = match &outcome.body {
            Some(changed) => serde_json::from_str(changed).unwrap(),
            None => body,
        };
        let text = changed["messages"][0]["content"].as_str().unwrap().to_owned();
        (text, outcome)
    }

    #[test]
    fn json_is_minified_and_its_numbers_stay() {
        let (text, outcome) = shortened(
            "{}",
            "{ \"a b\" : [ 12345678901234567890, 1.0 ],\n\t\"q\" : \"\\\" , \\\\\" }\n",
        );
        assert_eq!(text, "{\"a b\":[12345678901234567890,1.0],\"q\":\"\\\" , \\\\\"}");
        assert_eq!(outcome.decisions[0].kind, "context_compression");
        assert_eq!(outcome.decisions[0].estimated_tokens_saved, 3);
        assert!(outcome.originals.is_empty());
    }

    #[test]
    fn what_is_no_json_stays() {
        for result in ["two  words", "{ not json }", "[1, 2", "\"a\"  ", "", "[1,2]", "[ 1 ] x"] {
            assert_eq!(shortened("{}", result).1, Outcome::default(), "{result}");
        }
        let off = shortened(r#"{"minify_json":false}"#, "[ 1 ]");
        assert_eq!(off.1, Outcome::default());
    }

    #[test]
    fn every_dialects_results_are_found() {
        let results = |text: &str| {
            [
                ("/v1/chat/completions", chat(text)),
                (
                    "/v1/chat/completions",
                    json!({"messages": [{"role": "tool", "content": [{"type": "text", "text": text}]}]}),
                ),
                (
                    "/v1/responses",
                    json!({"input": [{"type": "function_call_output", "output": text}]}),
                ),
                (
                    "/v1/messages",
                    json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": text}]}]}),
                ),
                (
                    "/v1/messages",
                    json!({"messages": [{"role": "user", "content": [
                        {"type": "tool_result", "content": [{"type": "text", "text": text}]}]}]}),
                ),
            ]
        };
        for ((endpoint, body), (_, expected)) in results("[ 1 ]").into_iter().zip(results("[1]")) {
            let changed = outcome("{}", endpoint, &body, true).body.unwrap();
            assert_eq!(changed, expected.to_string());
        }
    }

    #[test]
    fn an_over_long_result_is_cut_in_the_middle() {
        let result: String = (0..1000).map(|n| ['é', '\n', '"', '😀'][n % 4]).collect();
        let (text, outcome) = shortened(r#"{"max_characters":400}"#, &result);
        let original = &outcome.originals[0];
        assert_eq!(original.content, result);

        let (head, rest) = text.split_once("\n[… ").unwrap();
        let (removed, rest) = rest.split_once(" characters removed; ").unwrap();
        let tail =
            rest.strip_prefix(&format!("retrieve with handle \"{}\"]\n", original.handle)).unwrap();
        assert!(result.starts_with(head) && result.ends_with(tail));
        let kept = head.chars().count() + tail.chars().count();
        assert_eq!(removed.parse::<usize>().unwrap() + kept, 1000);
        assert!(head.chars().count().abs_diff(tail.chars().count()) <= 1);
        let length = text.chars().count();
        assert!((399..=400).contains(&length), "{length}");
        assert_eq!(outcome.decisions[0].estimated_tokens_saved, (1000 - length as u64) / 4);
        // Once cut, the result is short enough.
        let again = shortened(r#"{"max_characters":400}"#, &text);
        assert_eq!(again.1, Outcome::default());
    }

    #[test]
    fn handles_depend_on_the_content_alone() {
        let params = r#"{"max_characters":400}"#;
        let handle = |result: &str| shortened(params, result).1.originals[0].handle.clone();
        assert_eq!(handle(&"a".repeat(500)), handle(&"a".repeat(500)));
        assert_ne!(handle(&"a".repeat(500)), handle(&"a".repeat(501)));
    }

    #[test]
    fn what_minifying_makes_short_enough_is_not_cut() {
        let spaced = format!("[{}1]", " ".repeat(500));
        let (text, outcome) = shortened(r#"{"max_characters":400}"#, &spaced);
        assert_eq!(text, "[1]");
        assert!(outcome.originals.is_empty());
        let long = format!("[  \"{}\"]", "x".repeat(500));
        let (_, outcome) = shortened(r#"{"max_characters":400}"#, &long);
        assert_eq!(outcome.originals[0].content, long, "the original is the client's");
    }

    #[test]
    fn nothing_is_cut_that_could_not_be_retrieved() {
        let suppressed = [Suppressed { kind: "context_compression", reason: "no_retrieve" }];
        let params = r#"{"max_characters":400}"#;
        let chat_outcome = |text: &str| outcome(params, "/v1/chat/completions", &chat(text), false);

        let plain = chat_outcome(&"x".repeat(500));
        assert_eq!((plain.body, plain.suppressed), (None, suppressed.to_vec()));

        let json = chat_outcome(&format!("[ \"{}\"]", "x".repeat(500)));
        let minified = chat(&format!("[\"{}\"]", "x".repeat(500))).to_string();
        assert_eq!((json.body, json.suppressed), (Some(minified), suppressed.to_vec()));
        assert!(chat_outcome("x").suppressed.is_empty());
    }

    #[test]
    fn nothing_before_a_cache_mark_changes() {
        let block =
            |text: &str| json!({"type": "tool_result", "tool_use_id": "1", "content": text});
        let mut marked = block("[ 1 ]");
        marked["cache_control"] = json!({"type": "ephemeral"});
        let body = |last: Value| json!({"messages": [{"role": "user", "content": [block("[ 0 ]"), marked, last]}]});
        let changed = outcome("{}", "/v1/messages", &body(block("[ 2 ]")), true);
        assert_eq!(changed.body.unwrap(), body(block("[2]")).to_string());
    }

    #[test]
    fn other_texts_stay() {
        let body = json!({"messages": [{"role": "user", "content": "[ 1 ]"},
            {"role": "assistant", "content": "[ 1 ]", "tool_calls": [{"function": {"arguments": "{ }"}}]}]});
        let untouched = outcome("{}", "/v1/chat/completions", &body, true);
        assert_eq!(untouched, Outcome::default());
    }

    #[test]
    fn never_cut_where_so_configured() {
        let (_, outcome) = shortened(r#"{"max_characters":null}"#, &"x".repeat(100_000));
        assert_eq!(outcome, Outcome::default());
        let refused = Strategy::new("context_compression", r#"{"max_characters":399}"#);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "max_characters: must be null or at least 400"
        );
    }
}
