//! The `x-anyray-optimization` header: what was done, without content.

use crate::json::{self, Kind, Object, ObjectWriter};
use crate::metric::Verdict;
use crate::protocol::Answer;

/// Longer headers than this, in bytes, shrink to counts.
const MAX_BYTES: usize = 2 * 1024;

/// What the optimizer reported about one exchange.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// Entries as JSON, with the members that are shown.
    decisions: Vec<String>,
    suppressed: Vec<String>,
    /// How many more there are of both, in lists too long to be read.
    unread: (usize, usize),
}

/// A member that is shown: its name, the names that stand for it, and its type.
type Shown = (&'static str, &'static [&'static str], Kind);

/// Of an entry of `decisions`. Older builds call the kind `strategy` or `name`.
const DECISION: [Shown; 3] = [
    ("kind", &["kind", "strategy", "name"], Kind::String),
    ("summary", &["summary"], Kind::String),
    ("applied", &["applied"], Kind::Bool),
];

/// Of an entry of `suppressedKinds`.
const SUPPRESSED: [Shown; 2] =
    [("kind", &["kind"], Kind::String), ("reason", &["reason"], Kind::String)];

impl Decisions {
    /// Adds what `answer` reports. What is not of the protocol's shape is left out.
    pub(crate) fn add(&mut self, answer: &Answer<'_>) {
        read(answer.decisions(), &DECISION, &mut self.decisions, &mut self.unread.0);
        read(answer.suppressed_kinds(), &SUPPRESSED, &mut self.suppressed, &mut self.unread.1);
    }

    /// The header's value, visible ASCII.
    pub(crate) fn header(&self, verdict: Verdict) -> String {
        let status = match verdict {
            Verdict::Transformed => "applied",
            other => other.name(),
        };
        let write = |list: fn(&[String], usize) -> String| {
            let mut out = ObjectWriter::default();
            out.string("status", status);
            if let Verdict::Bypassed(reason) = verdict {
                out.string("reason", reason.name());
            }
            out.raw("decisions", list(&self.decisions, self.unread.0));
            out.raw("suppressedKinds", list(&self.suppressed, self.unread.1));
            ascii(&out.finish())
        };
        let full = write(|list, _| format!("[{}]", list.join(",")));
        if full.len() <= MAX_BYTES && self.unread == (0, 0) {
            return full;
        }
        write(|list, unread| list.len().saturating_add(unread).to_string())
    }
}

/// Adds the entries of a list, or only their number where it is too long to be kept.
fn read(list: Option<&str>, members: &[Shown], entries: &mut Vec<String>, unread: &mut usize) {
    let Some(list) = list else { return };
    if !Answer::keeps(list) {
        return json::each_item(list, |_| *unread = unread.saturating_add(1));
    }
    json::each_item(list, |item| entries.extend(shown(item, members)));
}

fn shown(entry: &str, members: &[Shown]) -> Option<String> {
    let entry = Object::parse(entry.as_bytes()).ok()?;
    let mut out = ObjectWriter::default();
    for (name, spellings, kind) in members {
        let mut values = spellings.iter().filter_map(|spelling| entry.get(spelling));
        if let Some(value) = values.find(|value| json::kind(value) == *kind) {
            out.raw(name, value);
        }
    }
    String::from_utf8(out.finish()).ok()
}

/// JSON in visible ASCII: what is not stands in strings only, where it is escaped.
fn ascii(json: &[u8]) -> String {
    let mut out = String::with_capacity(json.len());
    for character in std::str::from_utf8(json).unwrap_or_default().chars() {
        if character == ' ' || character.is_ascii_graphic() {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bypass::Bypass;
    use crate::headers::is_header_value;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(answer: &str) -> Decisions {
        let mut decisions = Decisions::default();
        decisions.add(&Answer::parse(answer.as_bytes(), "request", None).unwrap());
        decisions
    }

    #[test]
    fn only_what_the_protocol_names_is_shown() {
        let decisions =
            of(r#"{"decisions":[{"kind":"a","summary":"s","applied":true,"prompt":"x"},
            {"strategy":"b"},{"name":"c"}],"suppressedKinds":[{"kind":"k","reason":"r"}]}"#);
        assert_eq!(
            decisions.header(Verdict::Transformed),
            r#"{"status":"applied","decisions":[{"kind":"a","summary":"s","applied":true},{"kind":"b"},{"kind":"c"}],"suppressedKinds":[{"kind":"k","reason":"r"}]}"#
        );
        let none = of(r#"{"decisions":["x"],"suppressedKinds":7}"#);
        assert_eq!(
            none.header(Verdict::Bypassed(Bypass::OptedOut)),
            r#"{"status":"bypassed","reason":"opted_out","decisions":[],"suppressedKinds":[]}"#
        );
    }

    #[test]
    fn the_value_cannot_break_out_of_its_header() {
        let header = of(r#"{"decisions":[{"kind":"a\r\nset-cookie: x","summary":"é😀\u007f"}]}"#)
            .header(Verdict::Unchanged);
        assert!(is_header_value(header.as_bytes()));
        assert!(
            header.contains(r"a\r\nset-cookie: x") && header.contains(r"\u00e9\ud83d\ude00\u007f")
        );
    }

    #[test]
    fn long_ones_shrink_to_counts() {
        let entries = vec![r#"{"kind":"long","summary":"xxxxxxxxxxxxxxxxxxxxxxxx"}"#; 100];
        let decisions = of(&format!(r#"{{"decisions":[{}]}}"#, entries.join(",")));
        assert_eq!(
            decisions.header(Verdict::Hit),
            r#"{"status":"hit","decisions":100,"suppressedKinds":0}"#
        );
        let entries = vec!["{}"; 10_000];
        let decisions = of(&format!(r#"{{"suppressedKinds":[{}]}}"#, entries.join(",")));
        assert_eq!(
            decisions.header(Verdict::Hit),
            r#"{"status":"hit","decisions":0,"suppressedKinds":10000}"#
        );
    }
}
