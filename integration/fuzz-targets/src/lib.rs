//! What holds of the core whatever it is fed.
//!
//! Each target takes any bytes and panics where one of its properties does not
//! hold. The fuzzer in `integration/fuzz` calls them, and `cargo test` plays the
//! corpus and mutations of it to them.

pub mod configuration;
pub mod events;
pub mod exchange;
pub mod json;
pub mod mutation;
mod oracle;
mod proxy;
mod random;
mod script;
pub mod sse;
pub mod streams;

/// A target: the fuzzer's bytes in, a panic where a property does not hold.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const ALL: [(&str, Target); 6] = [
    ("json", json::target),
    ("sse", sse::target),
    ("streams", streams::target),
    ("configuration", configuration::target),
    ("exchange", exchange::target),
    ("events", events::target),
];

/// The two parts of an input, around the first line that is `===`.
fn two_parts(data: &[u8]) -> (&[u8], &[u8]) {
    const LINE: &[u8] = b"\n===\n";
    match data.windows(LINE.len()).position(|window| window == LINE) {
        Some(at) => (&data[..at], &data[at + LINE.len()..]),
        None => (data, data),
    }
}

/// The first line and what follows it.
fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}
