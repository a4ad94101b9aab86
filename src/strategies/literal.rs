//! Changing a JSON string literal without respelling what stays.

use std::ops::Range;

use super::raw;

/// The literal with ranges of its decoded text replaced. What is not replaced
/// keeps its spelling, escapes included. None where the changes do not fit: they
/// have to be in ascending order, apart, and on character boundaries.
pub(super) fn splice<'r>(
    literal: &str,
    changes: impl IntoIterator<Item = (Range<usize>, &'r str)>,
) -> Option<String> {
    let mut spliced = String::with_capacity(literal.len());
    let mut cursor = Cursor::new(literal)?;
    let mut kept_from = 0;
    for (range, replacement) in changes {
        cursor.seek(range.start)?;
        spliced.push_str(literal.get(kept_from..cursor.raw)?);
        cursor.seek(range.end)?;
        kept_from = cursor.raw;
        if !replacement.is_empty() {
            let quoted = serde_json::to_string(replacement).ok()?;
            spliced.push_str(quoted.strip_prefix('"')?.strip_suffix('"')?);
        }
    }
    spliced.push_str(literal.get(kept_from..)?);
    // The decoder has the last word on whether this still is a text.
    raw::string(&spliced).is_some().then_some(spliced)
}

/// Walks the literal and its decoded text side by side.
struct Cursor<'a> {
    literal: &'a str,
    /// Offset in the literal.
    raw: usize,
    /// Offset in the decoded text.
    text: usize,
    /// Offset in the literal of the next escape, or of the closing quote.
    plain_until: usize,
}

impl<'a> Cursor<'a> {
    fn new(literal: &'a str) -> Option<Cursor<'a>> {
        let mut cursor = Cursor { literal, raw: 1, text: 0, plain_until: 1 };
        cursor.find_escape()?;
        Some(cursor)
    }

    fn find_escape(&mut self) -> Option<()> {
        let rest = self.literal.get(self.raw..)?;
        let plain = rest.find('\\').unwrap_or(rest.len().checked_sub(1)?);
        self.plain_until = self.raw.saturating_add(plain);
        Some(())
    }

    /// Goes forward to an offset in the decoded text.
    fn seek(&mut self, text: usize) -> Option<()> {
        while self.text < text {
            let plain = self.plain_until.saturating_sub(self.raw);
            let (raw_length, text_length) = match plain.min(text.saturating_sub(self.text)) {
                0 => escape(self.literal.get(self.raw..)?)?,
                step => (step, step),
            };
            self.raw = self.raw.saturating_add(raw_length);
            self.text = self.text.saturating_add(text_length);
            if plain == 0 {
                self.find_escape()?;
            }
        }
        (self.text == text).then_some(())
    }
}

/// The length of the escape at the beginning of `rest`, and of what it stands for.
fn escape(rest: &str) -> Option<(usize, usize)> {
    if !rest.starts_with('\\') {
        return None;
    }
    if rest.as_bytes().get(1) != Some(&b'u') {
        return Some((2, 1));
    }
    let unit = u32::from_str_radix(rest.get(2..6)?, 16).ok()?;
    Some(match unit {
        0..0x80 => (6, 1),
        0x80..0x800 => (6, 2),
        // A surrogate pair is spelt as two escapes and stands for four bytes.
        0xD800..0xDC00 => (12, 4),
        _ => (6, 3),
    })
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::splice;

    fn cut(literal: &str, ranges: &[(usize, usize)]) -> Option<String> {
        splice(literal, ranges.iter().map(|&(start, end)| (start..end, "")))
    }

    #[test]
    fn what_stays_keeps_its_escapes() {
        // Decoded: é ␣ ␣ 😀 ␣ ␣ / n (2 + 1 + 1 + 4 + 1 + 1 + 1 + 1 bytes)
        let literal = r#""\u00e9  \ud83d\ude00\u0020 \/n""#;
        assert_eq!(cut(literal, &[(3, 4), (9, 10)]).unwrap(), r#""\u00e9 \ud83d\ude00\u0020\/n""#);
    }

    #[test]
    fn a_replacement_is_escaped() {
        let spliced = splice(r#""a\tb""#, [(1..2, "\"\n\"")]).unwrap();
        assert_eq!(spliced, r#""a\"\n\"b""#);
    }

    #[test]
    fn both_ends_can_change() {
        assert_eq!(cut(r#""\n\nx\n""#, &[(0, 2), (3, 4)]).unwrap(), r#""x""#);
        assert_eq!(cut(r#""""#, &[(0, 0)]).unwrap(), r#""""#);
    }

    #[test]
    fn changes_that_do_not_fit_change_nothing() {
        assert_eq!(cut(r#""abc""#, &[(2, 4)]), None, "past the end");
        assert_eq!(cut(r#""abc""#, &[(2, 3), (0, 1)]), None, "not in order");
        assert_eq!(cut(r#""\u00e9""#, &[(1, 2)]), None, "inside an escape");
        assert_eq!(cut("\"é\"", &[(0, 1)]), None, "inside a character");
        assert_eq!(cut("", &[]), None, "no literal");
    }
}
