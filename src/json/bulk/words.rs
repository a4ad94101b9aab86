//! A block by arithmetic on words, where there are no vectors that could be spelled out.

/// Outside Wasm the compiler makes vectors of some of it.
pub const BLOCK: usize = if cfg!(target_family = "wasm") { 8 } else { 32 };

#[derive(Clone, Copy)]
pub struct Marks;

impl Marks {
    pub fn new() -> Self {
        Self
    }

    #[inline(always)]
    pub fn special(self, block: &[u8; BLOCK]) -> u32 {
        // Without a way out of the loop, so that there can be vectors.
        let special = |byte: u8| byte.cast_signed() < 0x20 || byte == b'"' || byte == b'\\';
        if BLOCK > 8 && !block.iter().fold(false, |any, &byte| any | special(byte)) {
            return 0;
        }
        bits(block, |word| {
            let low = word & each(0x7f);
            // What is no less than `least` carries into its byte's highest bit; nothing goes further.
            let below = |low: u64, least: u8| !low.wrapping_add(each(0x80_u8.wrapping_sub(least)));
            below(low ^ each(b'"'), 1) | below(low ^ each(b'\\'), 1) | below(low, 0x20) | word
        })
    }
}

pub fn beyond_ascii(block: &[u8; BLOCK]) -> u32 {
    bits(block, |word| word)
}

pub fn same_block(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> bool {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let differ = |x: &[u8; 8], y: &[u8; 8]| u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y);
    words.fold(0, |all, (x, y)| all | differ(x, y)) == 0
}

const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The highest bit of each byte of what `found` makes of each word.
#[inline(always)]
fn bits(block: &[u8; BLOCK], found: impl Fn(u64) -> u64) -> u32 {
    block.as_chunks::<8>().0.iter().zip((0..).step_by(8)).fold(0, |bits, (word, at)| {
        let found = found(u64::from_le_bytes(*word)) & each(0x80);
        // Brings them together in the highest byte.
        let together = found.wrapping_shr(7).wrapping_mul(0x0102_0408_1020_4080);
        bits | (together.wrapping_shr(56) as u32).wrapping_shl(at)
    })
}
