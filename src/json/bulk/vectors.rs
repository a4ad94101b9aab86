//! A block in the vectors of Wasm. Spelled out: the compiler makes none of loops where it is told to
//! watch the size.

use core::arch::wasm32::{
    i8x16_lt, u8x16, u8x16_bitmask, u8x16_eq, u8x16_ne, u8x16_splat, u8x16_swizzle, u16x8_shr,
    u64x2, v128, v128_and, v128_any_true, v128_or, v128_xor,
};
use std::hint::black_box;

pub const BLOCK: usize = 32;

/// What blocks are compared with.
#[derive(Clone, Copy)]
pub struct Marks {
    quotes: v128,
    backslashes: v128,
    spaces: v128,
    /// The highest bits, if what is beyond ASCII is to be above all else.
    flip: v128,
}

impl Marks {
    /// V8 makes constants anew each time; what it does not know as one it keeps.
    pub fn new(ascii: bool) -> Self {
        let flip = u8x16_splat(if ascii { 0 } else { 0x80 });
        black_box(Self {
            quotes: u8x16_splat(b'"'),
            backslashes: u8x16_splat(b'\\'),
            spaces: v128_xor(u8x16_splat(0x20), flip),
            flip,
        })
    }

    #[inline(always)]
    pub fn special(self, block: &[u8; BLOCK]) -> u32 {
        bits(block, |bytes| {
            let quotes = u8x16_eq(bytes, self.quotes);
            let backslashes = u8x16_eq(bytes, self.backslashes);
            // With a sign: what is beyond ASCII is below zero.
            let others = i8x16_lt(v128_xor(bytes, self.flip), self.spaces);
            v128_or(others, v128_or(quotes, backslashes))
        })
    }

    #[inline(always)]
    pub fn quotes(self, block: &[u8; BLOCK]) -> u32 {
        bits(block, |bytes| u8x16_eq(bytes, self.quotes))
    }

    #[inline(always)]
    pub fn backslashes(self, block: &[u8; BLOCK]) -> u32 {
        bits(block, |bytes| u8x16_eq(bytes, self.backslashes))
    }
}

/// Which bytes of a block are beyond ASCII.
#[inline(always)]
pub fn beyond_ascii(block: &[u8; BLOCK]) -> u32 {
    bits(block, |bytes| bytes)
}

/// Which bytes of a block may follow a backslash, by themselves.
#[inline(always)]
pub fn escapable(block: &[u8; BLOCK]) -> u32 {
    // A bit for each row of ASCII that has some, and in which of them each column has.
    let rows = u8x16(0, 0, 1, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0);
    let columns = u8x16(0, 0, 13, 0, 8, 0, 4, 0, 0, 0, 0, 0, 2, 0, 4, 1);
    let low = u8x16_splat(0x0f);
    bits(block, |bytes| {
        let row = u8x16_swizzle(rows, v128_and(u16x8_shr(bytes, 4), low));
        let column = u8x16_swizzle(columns, v128_and(bytes, low));
        u8x16_ne(v128_and(row, column), u8x16_splat(0))
    })
}

/// The highest bit of each byte of what `found` makes of each vector.
#[inline(always)]
fn bits(block: &[u8; BLOCK], found: impl Fn(v128) -> v128) -> u32 {
    let (first, second) = halves(block);
    let first = u32::from(u8x16_bitmask(found(first)));
    u32::from(u8x16_bitmask(found(second))).wrapping_shl(16) | first
}

/// Without arrays and loops: the compiler would keep them.
#[inline(always)]
fn halves(block: &[u8; BLOCK]) -> (v128, v128) {
    let vector = |half: Option<&[u8; 16]>| {
        let all = half.map_or(0, |half| u128::from_le_bytes(*half));
        u64x2(all as u64, all.wrapping_shr(64) as u64)
    };
    (vector(block.first_chunk()), vector(block.last_chunk()))
}

#[inline(always)]
pub fn same_block(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> bool {
    let ((a, c), (b, d)) = (halves(a), halves(b));
    !v128_any_true(v128_or(v128_xor(a, b), v128_xor(c, d)))
}
