//! A block where vectors cannot be spelled out: without a way out of its loops, so that the compiler
//! makes vectors of them where it may.

pub const BLOCK: usize = 32;

#[derive(Clone, Copy)]
pub struct Marks {
    /// The highest bit, if what is beyond ASCII is to be above all else.
    flip: u8,
}

impl Marks {
    pub fn new(ascii: bool) -> Self {
        Self { flip: if ascii { 0 } else { 0x80 } }
    }

    #[inline(always)]
    pub fn special(self, block: &[u8; BLOCK]) -> u32 {
        // With a sign: what is beyond ASCII is below zero.
        let order = |byte: u8| (byte ^ self.flip).cast_signed();
        bits(block, |byte| (order(byte) < order(0x20)) | (byte == b'"') | (byte == b'\\'))
    }

    #[inline(always)]
    pub fn quotes(self, block: &[u8; BLOCK]) -> u32 {
        bits(block, |byte| byte == b'"')
    }

    #[inline(always)]
    pub fn backslashes(self, block: &[u8; BLOCK]) -> u32 {
        bits(block, |byte| byte == b'\\')
    }
}

/// Which bytes of a block are beyond ASCII.
pub fn beyond_ascii(block: &[u8; BLOCK]) -> u32 {
    bits(block, |byte| byte > 0x7f)
}

/// Which bytes of a block may follow a backslash, by themselves.
pub fn escapable(block: &[u8; BLOCK]) -> u32 {
    bits(block, |byte| matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't'))
}

#[inline(always)]
fn bits(block: &[u8; BLOCK], is_found: impl Fn(u8) -> bool) -> u32 {
    let mut found = [0; BLOCK];
    for (found, &byte) in found.iter_mut().zip(block) {
        *found = u8::from(is_found(byte));
    }
    found.as_chunks::<8>().0.iter().zip((0..).step_by(8)).fold(0, |bits, (eight, at)| {
        // Brings the lowest bit of each byte together in the highest byte.
        let together = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080);
        bits | (together.wrapping_shr(56) as u32).wrapping_shl(at)
    })
}

pub fn same_block(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> bool {
    a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}
