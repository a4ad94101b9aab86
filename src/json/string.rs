//! Where a JSON string ends.

use super::bulk::{BLOCK, Marks};

/// A string, read to its end.
pub(super) struct Ended {
    /// How many bytes its inside has, and the quote behind it.
    pub(super) length: usize,
    /// Whether bytes beyond ASCII were seen, in it or close behind.
    pub(super) wide: bool,
}

/// What a special byte of a string's inside is.
enum Special {
    /// The quote behind it.
    End,
    /// An escape of so many bytes.
    Escape(usize),
    BeyondAscii,
}

/// Reads the string whose `inside` this is, to its closing quote. `None`: it is no JSON string.
/// Bytes beyond ASCII may be anything.
pub(super) fn end_of_string(inside: &[u8]) -> Option<Ended> {
    let mut marks = Marks::new(true);
    let mut wide = false;
    // What stands before belongs to an escape.
    let mut unescaped: usize = 0;
    let mut at: usize = 0;
    for block in inside.as_chunks::<BLOCK>().0 {
        let mut places = marks.special(block);
        if places != 0 {
            places &= from(unescaped.saturating_sub(at));
        }
        while places != 0 {
            let place = at.wrapping_add(places.trailing_zeros() as usize);
            match special(inside.get(place..)?)? {
                Special::End => return Some(Ended { length: place.wrapping_add(1), wide }),
                Special::Escape(length) => {
                    unescaped = place.wrapping_add(length);
                    places &= from(unescaped.wrapping_sub(at));
                }
                Special::BeyondAscii => {
                    wide = true;
                    marks = Marks::new(false);
                    places = marks.special(block) & from(place.wrapping_sub(at));
                }
            }
        }
        at = at.wrapping_add(BLOCK);
    }
    // Less than a block is left of the whole text.
    at = at.max(unescaped);
    loop {
        let rest = inside.get(at..)?;
        at = at.wrapping_add(match rest.first()? {
            b' ' | b'!' | b'#'..=b'[' | b']'..=0x7f => 1,
            _ => match special(rest)? {
                Special::End => return Some(Ended { length: at.wrapping_add(1), wide }),
                Special::Escape(length) => length,
                Special::BeyondAscii => {
                    wide = true;
                    1
                }
            },
        });
    }
}

/// The bits of a block's bytes from this one on.
#[inline(always)]
fn from(byte: usize) -> u32 {
    u32::try_from(byte).ok().and_then(|byte| u32::MAX.checked_shl(byte)).unwrap_or(0)
}

/// What it is that `rest` begins with. `None`: it must not stand in a string.
#[inline(always)]
fn special(rest: &[u8]) -> Option<Special> {
    match rest {
        [b'"', ..] => Some(Special::End),
        [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => {
            Some(Special::Escape(2))
        }
        [b'\\', b'u', a, b, c, d, ..] if [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit) => {
            Some(Special::Escape(6))
        }
        [0x80..=0xff, ..] => Some(Special::BeyondAscii),
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

    #[test]
    fn what_follows_a_byte_beyond_ascii_is_still_seen() {
        for before in 0..70 {
            for between in ["", "a", "é"] {
                let start = format!("{}é{between}", "a".repeat(before));
                for (rest, length) in [("\"", 1), ("\\\"\"", 3), ("\n\"", 0), ("\\x\"", 0), ("", 0)]
                {
                    let text = format!("{start}{rest}");
                    let behind = format!(
                        "{text}{}",
                        if length > 0 { "aé\"".repeat(20) } else { String::new() }
                    );
                    for text in [text, behind] {
                        let ended = end_of_string(text.as_bytes()).map(|it| (it.length, it.wide));
                        let expected = (length > 0).then_some((start.len() + length, true));
                        assert_eq!(ended, expected, "{text}");
                    }
                }
            }
        }
    }
}
