//! `prompt_compression`: white space and repeated paragraphs of the prompt.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;

use super::texts::{Source, texts};
use super::{Call, Decision, Edit, Proposal, StrategyError, literal, raw, tokens};

/// Collapses runs of white space in the user's and the system's texts, and drops
/// paragraphs that stand further up in the same prompt already.
///
/// Code is left alone: what is fenced with ``` or ~~~, and lines that are
/// indented as Markdown indents code. Line breaks, paragraph breaks and
/// indentation stay.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptCompression {
    /// A repeated paragraph of at least so many characters counts as boilerplate.
    #[serde(default = "default_min_repeat_characters")]
    min_repeat_characters: usize,
}

fn default_min_repeat_characters() -> usize {
    200
}

impl PromptCompression {
    pub(super) const KIND: &'static str = "prompt_compression";

    pub(super) fn check(&self) -> Result<(), StrategyError> {
        if self.min_repeat_characters < 20 {
            return Err(StrategyError::param("min_repeat_characters", "must be at least 20"));
        }
        Ok(())
    }

    pub(super) fn propose(&self, call: Call<'_>) -> Proposal {
        let texts: Vec<_> = texts(call.dialect, call.body)
            .into_iter()
            .filter(|text| text.source == Source::Author)
            .filter_map(|text| Some((raw::string(text.literal)?, text)))
            .collect();

        let mut edits = Vec::new();
        let mut characters: usize = 0;
        let mut paragraphs: usize = 0;
        let mut seen = BTreeSet::new();
        let mut prompt = 0;
        for (decoded, text) in &texts {
            if text.prompt != prompt {
                prompt = text.prompt;
                seen.clear();
            }
            let repeats = self.repeats(decoded, &mut seen);
            if text.pinned {
                continue;
            }
            let removed = removals(decoded, &repeats);
            let Some(edit) = edit(call.body, text.literal, &removed) else {
                continue;
            };
            edits.push(edit);
            paragraphs = paragraphs.saturating_add(repeats.len());
            characters = removed
                .iter()
                .filter_map(|range| decoded.get(range.clone()))
                .fold(characters, |sum, part| sum.saturating_add(part.chars().count()));
        }
        // Texts come in prompt order, edits in the body's.
        edits.sort_by_key(|edit| edit.range.start);
        Proposal {
            decision: (!edits.is_empty()).then(|| Decision {
                kind: Self::KIND,
                summary: format!(
                    "prompt: {characters} characters removed, repeated paragraphs among them: {paragraphs}"
                ),
                estimated_tokens_saved: tokens(characters),
            }),
            edits,
            ..Proposal::default()
        }
    }

    /// The paragraphs that were seen before, line breaks included. Something is
    /// always left of a text.
    fn repeats<'a>(&self, text: &'a str, seen: &mut BTreeSet<&'a str>) -> Vec<Range<usize>> {
        let mut repeats = Vec::new();
        let mut something_left = false;
        let mut end_paragraph = |range: Range<usize>, prose: bool| {
            let content = text.get(range.clone()).unwrap_or_default().trim_end();
            let least = self.min_repeat_characters.saturating_sub(1);
            let boilerplate = prose && content.chars().nth(least).is_some();
            if boilerplate && !seen.insert(content) {
                repeats.push(range);
            } else {
                something_left = true;
            }
        };
        let mut paragraph: Option<(Range<usize>, bool)> = None;
        for line in lines(text) {
            if line.kind == Kind::Blank {
                if let Some((range, prose)) = paragraph.take() {
                    end_paragraph(range, prose);
                }
                continue;
            }
            let (range, prose) = paragraph.get_or_insert((line.content.start..line.end, true));
            range.end = line.end;
            *prose &= line.kind == Kind::Prose;
        }
        if let Some((range, prose)) = paragraph {
            end_paragraph(range, prose);
        }
        if something_left { repeats } else { Vec::new() }
    }
}

/// None where nothing is to be removed.
fn edit(body: &str, text: &str, removed: &[Range<usize>]) -> Option<Edit> {
    if removed.is_empty() {
        return None;
    }
    Some(Edit {
        range: raw::range(body, text)?,
        replacement: literal::splice(text, removed.iter().map(|range| (range.clone(), "")))?,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Prose,
    Blank,
    Code,
}

struct Line {
    kind: Kind,
    /// Without the line break.
    content: Range<usize>,
    /// Where the line break ends.
    end: usize,
}

fn lines(text: &str) -> impl Iterator<Item = Line> {
    let mut fence = None;
    let mut start: usize = 0;
    text.split_inclusive('\n').map(move |line| {
        let content = line.strip_suffix('\n').unwrap_or(line);
        let content = content.strip_suffix('\r').unwrap_or(content);
        let range = start..start.saturating_add(content.len());
        start = start.saturating_add(line.len());
        Line { kind: kind(content, &mut fence), content: range, end: start }
    })
}

/// A fence opens wherever three backticks (or tildes) stand together, not only at
/// the beginning of a line as in Markdown: prompts are seldom that tidy.
fn kind(line: &str, fence: &mut Option<(char, usize)>) -> Kind {
    let mut code = fence.is_some();
    let mut run = (' ', 0_usize);
    // The blank at the end closes a run there.
    for character in line.chars().chain([' ']) {
        if character == run.0 {
            run.1 = run.1.saturating_add(1);
            continue;
        }
        if matches!(run.0, '`' | '~') && run.1 >= 3 {
            code = true;
            *fence = match *fence {
                None => Some(run),
                Some((mark, length)) if mark == run.0 && run.1 >= length => None,
                open => open,
            };
        }
        run = (character, 1);
    }
    if code {
        Kind::Code
    } else if line.chars().all(is_space) {
        Kind::Blank
    } else if line.starts_with("    ") || line.trim_start_matches(' ').starts_with('\t') {
        Kind::Code
    } else {
        Kind::Prose
    }
}

/// White space that means no more than a blank does. A no-break space does mean more.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

/// What to take out, in ascending order.
fn removals(text: &str, repeats: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut removed: Vec<Range<usize>> = Vec::new();
    let mut repeats = repeats.iter().peekable();
    let mut after_blank = false;
    for line in lines(text) {
        while repeats.next_if(|repeat| repeat.end <= line.content.start).is_some() {}
        let repeated = repeats.peek().is_some_and(|repeat| repeat.contains(&line.content.start));
        if repeated {
            remove(&mut removed, line.content.start..line.end);
            // The blank lines behind it go too.
            after_blank = true;
            continue;
        }
        match line.kind {
            Kind::Blank if after_blank => remove(&mut removed, line.content.start..line.end),
            Kind::Blank if line.end > line.content.end => remove(&mut removed, line.content),
            Kind::Prose => runs(text, &line, &mut removed),
            Kind::Blank | Kind::Code => {}
        }
        after_blank = line.kind == Kind::Blank;
    }
    removed
}

fn remove(removed: &mut Vec<Range<usize>>, range: Range<usize>) {
    match removed.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ if range.is_empty() => {}
        _ => removed.push(range),
    }
}

/// All but the first character of each run within a line, and all of the run
/// before a line break. The indentation stays.
fn runs(text: &str, line: &Line, removed: &mut Vec<Range<usize>>) {
    let content = text.get(line.content.clone()).unwrap_or_default();
    let mut run: Option<usize> = None;
    let mut indentation = true;
    for (offset, character) in content.char_indices() {
        let at = line.content.start.saturating_add(offset);
        if is_space(character) {
            if !indentation {
                run.get_or_insert(at);
            }
            continue;
        }
        indentation = false;
        if let Some(start) = run.take() {
            remove(removed, start.saturating_add(1)..at);
        }
    }
    if let Some(start) = run {
        // At the very end of the text a blank may be what the model is to go on from.
        let keep = usize::from(line.end == line.content.end);
        remove(removed, start.saturating_add(keep)..line.content.end);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use serde_json::{Value, json};

    use super::super::{Call, Outcome, Strategy, run};
    use crate::dialect::Dialect;

    fn outcome(endpoint: &str, body: &str) -> Outcome {
        let strategy =
            Strategy::new("prompt_compression", r#"{"min_repeat_characters":20}"#).unwrap();
        let call =
            Call { dialect: Dialect::from_endpoint(endpoint).unwrap(), body, can_retrieve: true };
        run([&strategy], call)
    }

    /// The text after the strategy, as the content of a user's message.
    fn compressed(text: &str) -> String {
        let body = json!({"messages": [{"role": "user", "content": text}]}).to_string();
        let changed = outcome("/v1/chat/completions", &body).body.unwrap_or(body);
        let changed: Value = serde_json::from_str(&changed).unwrap();
        changed["messages"][0]["content"].as_str().unwrap().to_owned()
    }

    #[test]
    fn runs_of_white_space_collapse() {
        for (text, expected) in [
            ("a  b \t c\td", "a b c\td"),
            ("a  \nb\t\nc", "a\nb\nc"),
            ("a\n\n\n \n\nb", "a\n\nb"),
            ("a \r\n\r\n\r\nb", "a\r\n\r\nb"),
            ("  - a  b\n  - c", "  - a b\n  - c"),
            ("answer:   ", "answer: "),
            ("  \n\n\n", "\n"),
            ("a\u{a0}\u{a0}b", "a\u{a0}\u{a0}b"),
            ("   ", "   "),
            ("", ""),
        ] {
            assert_eq!(compressed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn code_stays() {
        for text in [
            "```\na  b\n\n\n\nc  \n```",
            "~~~rust\na  b\n```\nc  d\n~~~",
            "````\n```\na  b\n```\nc  d\n````",
            "see ```a  b``` there",
            "see:  ```\na  b\n``` ",
            "```\nnever  closed\n\n\n\n",
            "    indented  code\n\tand  this",
        ] {
            assert_eq!(compressed(text), text);
        }
        assert_eq!(compressed("a  b\n```\na  b\n```\na  b"), "a b\n```\na  b\n```\na b");
    }

    const BOILERPLATE: &str = "Answer in English, politely,\nand never swear.";

    #[test]
    fn a_repeated_paragraph_goes() {
        let text = format!("{BOILERPLATE}\n\nQ1\n\n{BOILERPLATE}\n\nQ2");
        assert_eq!(compressed(&text), format!("{BOILERPLATE}\n\nQ1\n\nQ2"));
        let short = "Be polite.\n\nQ1\n\nBe polite.\n\nQ2";
        assert_eq!(compressed(short), short);
        let fenced = format!("```\n{BOILERPLATE}\n```");
        let fenced = format!("{fenced}\n\nQ1\n\n{fenced}");
        assert_eq!(compressed(&fenced), fenced);
    }

    #[test]
    fn a_repeated_paragraph_goes_across_messages() {
        let again = format!("{BOILERPLATE}\n\nQ");
        let body = json!({"system": BOILERPLATE, "messages": [
            {"role": "user", "content": again},
            {"role": "assistant", "content": again},
            {"role": "user", "content": [{"type": "text", "text": again}]},
            {"role": "user", "content": BOILERPLATE},
        ]});
        let changed = outcome("/v1/messages", &body.to_string());
        let expected = json!({"system": BOILERPLATE, "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": again},
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            // A text that is nothing else stays: an empty one means something else.
            {"role": "user", "content": BOILERPLATE},
        ]});
        let body: Value = serde_json::from_str(&changed.body.unwrap()).unwrap();
        assert_eq!(body, expected);
        let saved = 2 * (BOILERPLATE.len() as u64 + 2);
        let decision = &changed.decisions[0];
        assert_eq!(decision.kind, "prompt_compression");
        assert_eq!(decision.estimated_tokens_saved, saved / 4);
        assert_eq!(
            decision.summary,
            format!("prompt: {saved} characters removed, repeated paragraphs among them: 2")
        );
    }

    #[test]
    fn prompts_of_one_request_do_not_know_each_other() {
        let prompt = format!("{BOILERPLATE}\n\nQ");
        let body = json!({"prompt": [prompt, prompt]}).to_string();
        assert_eq!(outcome("/v1/completions", &body), Outcome::default());
    }

    #[test]
    fn nothing_before_a_cache_mark_changes() {
        let again = format!("{BOILERPLATE}\n\nQ  Q");
        let body = |marked: &str, last: &str| {
            json!({"system": again, "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": marked, "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": last},
                ]},
            ]})
        };
        let changed = outcome("/v1/messages", &body(&again, &again).to_string());
        let changed: Value = serde_json::from_str(&changed.body.unwrap()).unwrap();
        assert_eq!(changed, body(&again, "Q Q"));
    }

    #[test]
    fn other_bytes_stay_as_they_are() {
        let body = r#" {"seed" : 12345678901234567890, "messages":[{"role":"user","content":"\u00e9\u0020 \/ caf\u00e9 "}],"temperature":1.0e0} "#;
        assert_eq!(
            outcome("/v1/chat/completions", body).body.unwrap(),
            body.replace(r"\u0020 ", r"\u0020")
        );
    }

    #[test]
    fn edits_are_ordered_although_the_system_stands_last() {
        let body = r#"{"messages":[{"role":"user","content":"a  b"}],"system":"c  d"}"#;
        assert_eq!(
            outcome("/v1/messages", body).body.unwrap(),
            r#"{"messages":[{"role":"user","content":"a b"}],"system":"c d"}"#
        );
    }

    #[test]
    fn parameters_are_checked() {
        let refused = Strategy::new("prompt_compression", r#"{"min_repeat_characters":19}"#);
        assert_eq!(refused.unwrap_err().to_string(), "min_repeat_characters: must be at least 20");
    }
}
