//! The `x-anyray-optimization` header: what was done, without content.

use serde::{Deserialize, Serialize};

use crate::json;
use crate::metric::Verdict;
use crate::protocol::Answer;

/// Longer headers than this, in bytes, shrink to counts.
const MAX_BYTES: usize = 2 * 1024;

/// What the optimizer reported about one exchange.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    decisions: Vec<Decision>,
    suppressed: Vec<Suppressed>,
    /// How many more there are of both, in lists too long to be read.
    unread: (usize, usize),
}

/// One entry of `decisions`. Older builds call the kind `strategy` or `name`.
#[derive(Debug, Deserialize, Serialize)]
struct Decision {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing)]
    strategy: Option<String>,
    #[serde(skip_serializing)]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<bool>,
}

/// One entry of `suppressedKinds`.
#[derive(Debug, Deserialize, Serialize)]
struct Suppressed {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Decisions {
    /// Adds what `answer` reports. What is not of the protocol's shape is left out.
    pub(crate) fn add(&mut self, answer: &Answer<'_>) {
        let decisions: Vec<Decision> = read(answer.decisions(), &mut self.unread.0);
        self.decisions.extend(decisions.into_iter().map(|mut decision| {
            let older = decision.strategy.take().or(decision.name.take());
            decision.kind = decision.kind.or(older);
            decision
        }));
        let suppressed: Vec<Suppressed> = read(answer.suppressed_kinds(), &mut self.unread.1);
        self.suppressed.extend(suppressed);
    }

    /// The header's value, visible ASCII.
    pub(crate) fn header(&self, verdict: Verdict) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Header<D, S> {
            status: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'static str>,
            decisions: D,
            suppressed_kinds: S,
        }
        let status = match verdict {
            Verdict::Transformed => "applied",
            other => other.name(),
        };
        let reason = match verdict {
            Verdict::Bypassed(reason) => Some(reason.name()),
            _ => None,
        };
        let (decisions, suppressed_kinds) = (&self.decisions, &self.suppressed);
        let full = ascii(&Header { status, reason, decisions, suppressed_kinds });
        if full.len() <= MAX_BYTES && self.unread == (0, 0) {
            return full;
        }
        let decisions = self.decisions.len().saturating_add(self.unread.0);
        let suppressed_kinds = self.suppressed.len().saturating_add(self.unread.1);
        ascii(&Header { status, reason, decisions, suppressed_kinds })
    }
}

/// The entries of a list, or only their number where it is too long to be kept.
fn read<'a, T: Deserialize<'a>>(list: Option<&'a str>, unread: &mut usize) -> Vec<T> {
    match list {
        Some(list) if Answer::keeps(list) => serde_json::from_str(list).unwrap_or_default(),
        Some(list) => {
            *unread = unread.saturating_add(json::count_items(list));
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// JSON in visible ASCII: what is not stands in strings only, where it is escaped.
fn ascii(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
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
