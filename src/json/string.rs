//! Where a JSON string ends.

use super::bulk::{BLOCK, Marks, beyond_ascii};

/// A string, read to its end.
pub(super) struct Ended {
    /// How many bytes its inside has, and the quote behind it.
    pub(super) length: usize,
    /// Whether bytes beyond ASCII were seen, in it or close behind.
    pub(super) wide: bool,
}

/// Reads the string whose `inside` this is, to its closing quote. `None`: it is no JSON string.
/// Bytes beyond ASCII may be anything.
pub(super) fn end_of_string(inside: &[u8]) -> Option<Ended> {
    let mut reading = Reading { inside, unescaped: 0, wide: false };
    let marks = Marks::new();
    let (blocks, tail) = inside.as_chunks::<BLOCK>();
    let mut at: usize = 0;
    for block in blocks {
        let places = marks.special(block);
        if places != 0 && reading.ends(block, at, places)? {
            return Some(reading.ended());
        }
        at = at.wrapping_add(BLOCK);
    }
    let mut last = [b' '; BLOCK];
    last.get_mut(..tail.len())?.copy_from_slice(tail);
    reading.ends(&last, at, marks.special(&last))?.then(|| reading.ended())
}

struct Reading<'a> {
    inside: &'a [u8],
    /// What stands before belongs to an escape; at the end, what stands before is the string.
    unescaped: usize,
    wide: bool,
}

impl Reading<'_> {
    /// Whether the string ends in `block`, which begins `at` and has something special in these
    /// `places`. `None`: it is no JSON string.
    fn ends(&mut self, block: &[u8; BLOCK], at: usize, mut places: u32) -> Option<bool> {
        while places != 0 {
            let place = at.wrapping_add(places.trailing_zeros() as usize);
            places &= places.wrapping_sub(1);
            if place < self.unescaped {
                continue;
            }
            match self.inside.get(place..)? {
                [b'"', ..] => {
                    self.unescaped = place.wrapping_add(1);
                    return Some(true);
                }
                [b'\\', escaped @ ..] => {
                    self.unescaped = place.wrapping_add(length_of_escape(escaped)?);
                }
                [0x80..=0xff, ..] => {
                    self.wide = true;
                    places &= !beyond_ascii(block);
                }
                _ => return None,
            }
        }
        Some(false)
    }

    fn ended(&self) -> Ended {
        Ended { length: self.unescaped, wide: self.wide }
    }
}

/// How long an escape is, the backslash before what is `escaped` with it.
fn length_of_escape(escaped: &[u8]) -> Option<usize> {
    match escaped {
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Some(2),
        [b'u', a, b, c, d, ..] if [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn each_byte_at_each_place_is_told() {
        for at in 0..100 {
            for byte in 0..=255 {
                let mut text = [b'a'; 101];
                text[100] = b'"';
                text[at] = byte;
                let ended = end_of_string(&text).map(|it| (it.length, it.wide));
                let expected = match byte {
                    b'"' => Some((at + 1, false)),
                    0..0x20 | b'\\' => None,
                    _ => Some((101, byte >= 0x80)),
                };
                assert_eq!(ended, expected, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn escapes_hide_what_they_escape_at_each_place() {
        for before in 0..70 {
            for escape in ["\\\"", "\\\\", "\\n", "\\u00e9", "\\\\\\\"", "\\\"\\\"\\\\"] {
                let inside = format!("{}{escape}", "a".repeat(before));
                for behind in ["", "x", "\\", ", \"a\": \"b\", \"c\": [\"d\", \"e\", \"f\", 123]"] {
                    let text = format!("{inside}\"{behind}");
                    let ended = end_of_string(text.as_bytes()).unwrap();
                    assert_eq!(ended.length, inside.len() + 1, "{text}");
                }
                assert!(end_of_string(inside.as_bytes()).is_none());
            }
            for wrong in ["\\", "\\x", "\\u12g4\"", "\\u123\"", "\\u123", "\\\n\"", "\n\""] {
                let text = format!("{}{wrong}", "a".repeat(before));
                assert!(end_of_string(text.as_bytes()).is_none(), "{text}");
            }
        }
    }
}
