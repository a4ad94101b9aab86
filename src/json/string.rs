//! Where a JSON string ends.

use super::bulk::{BLOCK, Marks, beyond_ascii, escapable};

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
    let mut marks = Marks::new(true);
    let mut wide = false;
    // 1: the first byte of a block is escaped.
    let mut escaped: u32 = 0;
    let mut at: usize = 0;
    for block in inside.as_chunks::<BLOCK>().0 {
        let special = marks.special(block);
        if special | escaped != 0 {
            let quotes = marks.quotes(block);
            let backslashes = marks.backslashes(block);
            let mut end = quotes;
            if backslashes | escaped != 0 {
                let escapes = Escapes::new(backslashes, escaped);
                end &= !escapes.escaped;
                let those = escapes.escaped & below(end);
                if those != 0 && !are_escapes(block, those, inside.get(at..)?) {
                    return None;
                }
                escaped = escapes.next;
            }
            let others = special & !(quotes | backslashes) & below(end);
            if others != 0 {
                if others & !beyond_ascii(block) != 0 {
                    return None;
                }
                wide = true;
                marks = Marks::new(false);
            }
            if end != 0 {
                let length = at.wrapping_add(end.trailing_zeros() as usize).wrapping_add(1);
                return Some(Ended { length, wide });
            }
        }
        at = at.wrapping_add(BLOCK);
    }
    // Less than a block is left of the whole text.
    at = at.wrapping_sub(escaped as usize);
    loop {
        let rest = inside.get(at..)?;
        at = at.wrapping_add(match rest {
            [b'"', ..] => return Some(Ended { length: at.wrapping_add(1), wide }),
            [b'\\', b'u', behind @ ..] if is_unit(behind) => 6,
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'\\' | 0..0x20, ..] | [] => return None,
            [byte, ..] => {
                wide |= !byte.is_ascii();
                1
            }
        });
    }
}

/// The bits below the lowest one, or all.
#[inline(always)]
fn below(bits: u32) -> u32 {
    bits.wrapping_sub(1) & !bits
}

/// Which bytes of a block are escaped.
struct Escapes {
    escaped: u32,
    /// 1: the first byte of the next block is.
    next: u32,
}

impl Escapes {
    /// `first` is 1 if the first byte is escaped.
    fn new(backslashes: u32, first: u32) -> Self {
        const ODD: u32 = 0xaaaa_aaaa;
        // As in simdjson: a subtraction carries through each row of backslashes, of which
        // every second one escapes what follows it.
        let escaping = backslashes & !first;
        let rows = (escaping.wrapping_shl(1) | ODD).wrapping_sub(escaping) ^ ODD;
        let next = (rows & backslashes).wrapping_shr(31);
        Self { escaped: rows ^ (backslashes | first), next }
    }
}

/// Whether the `escaped` bytes of a block, with which `text` begins, may be.
fn are_escapes(block: &[u8; BLOCK], escaped: u32, text: &[u8]) -> bool {
    let mut others = escaped & !escapable(block);
    while others != 0 {
        match text.get(others.trailing_zeros() as usize..) {
            Some([b'u', behind @ ..]) if is_unit(behind) => {}
            _ => return false,
        }
        others &= others.wrapping_sub(1);
    }
    true
}

/// Whether a UTF-16 code unit in hexadecimal digits follows.
fn is_unit(text: &[u8]) -> bool {
    text.first_chunk::<4>().is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
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
