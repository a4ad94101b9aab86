//! Bytes by the block. In Wasm the compiler's own comparison of slices goes byte
//! by byte and would cost more than all else that is done to a body.

/// How many bytes `a` and `b` have in common at their beginnings.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0);
    let mut at = blocks.take_while(|(x, y)| same_block(x, y)).count().saturating_mul(32);
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

fn same_block(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let differ = |x: &[u8; 8], y: &[u8; 8]| u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y);
    words.fold(0, |all, (x, y)| all | differ(x, y)) == 0
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

/// What is left of a string's inside from its first quote, backslash or control
/// character on; nothing, if there is none.
#[inline]
pub(super) fn skip_plain(inside: &[u8]) -> &[u8] {
    let mut rest = inside;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK>() {
        if let Some(at) = first_in_block(block) {
            return rest.get(at..).unwrap_or_default();
        }
        rest = behind;
    }
    let at = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
    rest.get(at..).unwrap_or_default()
}

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Spelled out: the compiler makes no vectors of loops where it is told to watch the size.
#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
#[inline(always)]
fn first_in_block(block: &[u8; BLOCK]) -> Option<usize> {
    use core::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, u64x2, v128_or};
    let all = u128::from_le_bytes(*block);
    let bytes = u64x2(all as u64, (all >> 64) as u64);
    let quotes = u8x16_eq(bytes, u8x16_splat(b'"'));
    let escapes = u8x16_eq(bytes, u8x16_splat(b'\\'));
    let controls = u8x16_lt(bytes, u8x16_splat(0x20));
    let found = u8x16_bitmask(v128_or(controls, v128_or(quotes, escapes)));
    (found != 0).then(|| found.trailing_zeros() as usize)
}

#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
const BLOCK: usize = 16;

#[cfg(all(target_family = "wasm", not(target_feature = "simd128")))]
use first_special as first_in_block;

#[cfg(all(target_family = "wasm", not(target_feature = "simd128")))]
const BLOCK: usize = 8;

#[cfg(not(target_family = "wasm"))]
const BLOCK: usize = 32;

#[cfg(not(target_family = "wasm"))]
#[inline(always)]
fn first_in_block(block: &[u8; BLOCK]) -> Option<usize> {
    // Most strings are short.
    let (first, _) = block.split_first_chunk::<8>()?;
    if let Some(at) = first_special(first) {
        return Some(at);
    }
    // Written without a way out of the loop, so that the compiler makes vectors of it.
    let any = block.iter().fold(0, |any, &byte| any | u8::from(is_special(byte)));
    (any != 0).then(|| block.iter().position(|&byte| is_special(byte)))?
}

/// Finds a byte in a word by arithmetic: exact for the first one found.
#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
#[inline(always)]
fn first_special(word: &[u8; 8]) -> Option<usize> {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_le_bytes(*word);
    let below = |word: u64, least: u8| word.wrapping_sub(all(least)) & !word;
    let quotes = below(word ^ all(b'"'), 1);
    let escapes = below(word ^ all(b'\\'), 1);
    let found = (quotes | escapes | below(word, 0x20)) & all(0x80);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_byte_at_every_place_is_found_or_not() {
        for at in 0..100 {
            for byte in 0..=255 {
                let mut text = [b'a'; 100];
                text[at] = byte;
                let special = matches!(byte, 0..0x20 | b'"' | b'\\');
                assert_eq!(skip_plain(&text).len(), if special { 100 - at } else { 0 }, "{byte}");
                let common = common_prefix(&text, &[b'a'; 100]);
                assert_eq!(common, if byte == b'a' { 100 } else { at });
            }
        }
    }

    #[test]
    fn the_first_of_several_counts() {
        let text: Vec<u8> = (0..=255).chain(0..=255).collect();
        for from in 0..text.len() {
            let rest = &text[from..];
            let expected = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
            assert_eq!(rest.len() - skip_plain(rest).len(), expected);
        }
    }

    #[test]
    fn beginnings_are_told_apart() {
        let long = [7; 70];
        for length in 0..=70 {
            assert_eq!(behind(&long, &long[..length]), Some(&long[length..]));
            assert_eq!(common_prefix(&long[..length], &long), length);
            assert_eq!(same(&long, &long[..length]), length == 70);
        }
        assert_eq!(behind(b"ab", b"abc"), None);
        assert_eq!(behind(b"ab", b"b"), None);
    }
}
