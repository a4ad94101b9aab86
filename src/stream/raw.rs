//! Pieces of raw JSON: taken apart without decoding, put together without encoding.

use super::StreamError;
use crate::json::{self, JsonError, Object};

pub(super) fn object(bytes: &[u8]) -> Result<Object<'_>, StreamError> {
    Object::parse(bytes).map_err(Into::into)
}

/// The same, to be laid over another one or to have one laid over it.
pub(super) fn spliceable(bytes: &[u8]) -> Result<Object<'_, [u8]>, StreamError> {
    Object::parse_first(bytes).map_err(Into::into)
}

impl From<JsonError> for StreamError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::NotJson => StreamError::NotJson,
            _ => StreamError::Unexpected,
        }
    }
}

/// The items of an array.
pub(super) fn items(array: &str) -> Result<impl Iterator<Item = &str>, StreamError> {
    json::items(array).map(Vec::into_iter).ok_or(StreamError::Unexpected)
}

/// What stands between a string's quotes or an array's brackets.
pub(super) fn inside(value: &str) -> &str {
    let value = value.trim_ascii();
    value.get(1..value.len().saturating_sub(1)).unwrap_or_default()
}

/// Appends a member to the object that is being written at the end of `out`.
pub(super) fn push_member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    push_name(out, name);
    out.extend_from_slice(value);
}

/// The same, for a value that is written next.
pub(super) fn push_name(out: &mut Vec<u8>, name: &str) {
    // No value ends like this.
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    json::push_string(out, name);
    out.push(b':');
}

/// A shorter text is not worth an event of its own.
const MIN_PIECE: usize = 32;
/// Each event costs some hundred bytes: the texts of a long body are not cut finer than this.
const MAX_PIECES: usize = 256;

/// The inside of a string cut into what can be the inside of a string each:
/// never within a character, an escape or a pair of surrogates. The string
/// belongs to a body of `whole` bytes.
pub(super) fn pieces(inside: &str, whole: usize) -> impl Iterator<Item = &str> {
    let size = whole.div_euclid(MAX_PIECES).max(MIN_PIECE);
    let mut rest = inside;
    std::iter::from_fn(move || {
        let (piece, behind) = rest.split_at_checked(cut(rest, size))?;
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first place at or after `size` where the inside of a string may be cut.
fn cut(inside: &str, size: usize) -> usize {
    let mut at = 0_usize;
    while at < size {
        let Some(rest) = inside.get(at..).filter(|rest| !rest.is_empty()) else { break };
        at = at.saturating_add(unit(rest));
    }
    at
}

/// The length of the character that `inside` begins with, as it is written.
fn unit(inside: &str) -> usize {
    let bytes = inside.as_bytes();
    match bytes {
        [
            b'\\',
            b'u',
            b'd' | b'D',
            b'8' | b'9' | b'a' | b'b' | b'A' | b'B',
            _,
            _,
            b'\\',
            b'u',
            ..,
        ] => 12,
        [b'\\', b'u', ..] => 6,
        [b'\\', ..] => 2,
        _ => inside.chars().next().map_or(0, char::len_utf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_piece_of_a_text_is_a_text() {
        let units =
            ["é", "😀", "a", r"\n", r"\u00e9", r"\ud83d\ude00", r#"\""#, r"\\", r"\ud83dx", " "];
        let mut text = String::new();
        for round in 0..2000 {
            text.push_str(units[round * round % 7 + round % 4]);
        }
        for inside in ["", "short", &text] {
            let cut: Vec<&str> = pieces(inside, inside.len()).collect();
            assert_eq!(cut.concat(), inside);
            assert!(cut.len() <= MAX_PIECES);
            for piece in cut {
                let quoted = format!("\"{piece}\"");
                assert!(json::is_json(&quoted), "{piece}");
                let high_at_end =
                    piece.len() >= 6 && piece[piece.len() - 6..].starts_with(r"\ud83d");
                assert!(!high_at_end && !piece.starts_with(r"\ude00"), "{piece}");
            }
        }
    }
}
