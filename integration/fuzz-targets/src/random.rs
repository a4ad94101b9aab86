//! Pseudo-random numbers that are the same on every run.

/// xorshift64*, enough to vary inputs.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A sequence that depends on `data` alone.
    pub fn of(data: &[u8]) -> Self {
        Self::new(data.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// `bytes` cut into pieces of 1 to `most` bytes.
    pub fn pieces<'a>(&mut self, bytes: &'a [u8], most: usize) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let size = (1 + self.below(most)).min(rest.len());
            let (piece, behind) = rest.split_at(size);
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }
}
