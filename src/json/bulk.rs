//! Bytes by the block. In Wasm the compiler's own comparison of slices goes byte
//! by byte and would cost more than all else that is done to a body.
//!
//! In a block, a bit stands for each byte, the lowest for the first one. `Marks::special` tells which
//! ones in a string's inside are quotes, backslashes, control characters or, if `ascii`, beyond ASCII.

#[cfg(not(target_feature = "simd128"))]
mod portable;
#[cfg(target_feature = "simd128")]
mod vectors;

#[cfg(not(target_feature = "simd128"))]
use portable as engine;
#[cfg(target_feature = "simd128")]
use vectors as engine;

use engine::same_block;
pub(super) use engine::{BLOCK, Marks, beyond_ascii, escapable};

/// How many bytes `a` and `b` have in common at their beginnings.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.as_chunks::<BLOCK>().0.iter().zip(b.as_chunks::<BLOCK>().0);
    let mut at = blocks.take_while(|(x, y)| same_block(x, y)).count().saturating_mul(BLOCK);
    let (a, b) = (a.get(at..).unwrap_or_default(), b.get(at..).unwrap_or_default());
    let (words, others) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (x, y) in words.0.iter().zip(others.0) {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return at.saturating_add(differ.trailing_zeros() as usize / 8);
        }
        at = at.saturating_add(8);
    }
    let read = 8_usize.saturating_mul(words.0.len().min(others.0.len()));
    let (a, b) = (a.get(read..).unwrap_or_default(), b.get(read..).unwrap_or_default());
    at.saturating_add(a.iter().zip(b).take_while(|(x, y)| x == y).count())
}

/// Whether `a` and `b` are the same bytes.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && common_prefix(a, b) == a.len()
}

/// What follows `beginning` in `bytes`, if that is how they begin.
pub(super) fn behind<'a>(bytes: &'a [u8], beginning: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = bytes.split_at_checked(beginning.len())?;
    same(start, beginning).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn each_byte_of_a_block_is_told() {
        let bit = |told: bool, at: usize| u32::from(told) << at;
        for (ascii, first) in
            [true, false].into_iter().flat_map(|ascii| (0..=255_u8).map(move |byte| (ascii, byte)))
        {
            let is_special = |byte| matches!(byte, 0..0x20 | b'"' | b'\\') || ascii && byte > 0x7f;
            for second in b"\0\x1f !\"#[\\]a\x7f\x80\xa2\xdc\xff" {
                for at in 0..BLOCK - 1 {
                    let mut block = [b'a'; BLOCK];
                    (block[at], block[at + 1]) = (first, *second);
                    let expected = bit(is_special(first), at) | bit(is_special(*second), at + 1);
                    assert_eq!(Marks::new(ascii).special(&block), expected, "{first} {second}");
                }
            }
        }
    }

    #[test]
    fn where_texts_part_is_found_at_each_place() {
        for at in 0..200 {
            let mut text = [b'a'; 200];
            text[at] = b'b';
            assert_eq!(common_prefix(&text, &[b'a'; 200]), at);
            assert_eq!(common_prefix(&[b'a'; 200], &text[..=at]), at);
        }
    }

    #[test]
    fn beginnings_are_told_apart() {
        let long = [7; 150];
        for length in 0..=150 {
            assert_eq!(behind(&long, &long[..length]), Some(&long[length..]));
            assert_eq!(common_prefix(&long[..length], &long), length);
            assert_eq!(same(&long, &long[..length]), length == 150);
        }
        assert_eq!(behind(b"ab", b"abc"), None);
        assert_eq!(behind(b"ab", b"b"), None);
    }
}
