//! Inputs from inputs: lines moved, doubled, dropped and crossed, bytes and numbers changed.

use crate::random::Random;

/// Longer inputs are not made, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// What breaks parsers.
const PIECES: [&[u8]; 20] = [
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\ud83d",
    b"\\u0000",
    b"1e999",
    b"-0",
    b"18446744073709551616",
    b"\xff",
    b"\xc3",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"data: ",
    b",",
    b":",
    b"\"",
];

/// Another input, made of `input` and now and then of `other`.
pub fn mutate(input: &[u8], other: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = input.to_vec();
    for _ in 0..=random.below(3) {
        out = match random.below(4) {
            0 => lines(&out, other, &mut random),
            _ => bytes(&out, &mut random),
        };
    }
    out.truncate(MAX_BYTES);
    out
}

fn lines(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let at = random.below(lines.len());
    match random.below(5) {
        0 => {
            lines.remove(at);
        }
        1 => lines.insert(random.below(lines.len()), lines[at]),
        2 => lines.swap(at, (at + 1) % input.split(|&byte| byte == b'\n').count()),
        3 => {
            let others: Vec<&[u8]> = other.split(|&byte| byte == b'\n').collect();
            lines.insert(at, others[random.below(others.len())]);
        }
        _ => lines.truncate(at),
    }
    lines.join(&b'\n')
}

fn bytes(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = input.to_vec();
    let at = random.below(out.len() + 1);
    let end = (at + random.below(8)).min(out.len());
    match random.below(6) {
        0 if at < out.len() => out[at] ^= 1 << random.below(8),
        1 => out.truncate(at),
        2 => {
            out.drain(at..end);
        }
        3 => {
            let doubled = out[at..end].to_vec();
            out.splice(at..at, doubled);
        }
        _ => {
            let piece = PIECES[random.below(PIECES.len())];
            out.splice(at..end, piece.iter().copied());
        }
    }
    out
}
