//! Exchanges as lines of text: what happens, in which order.
//!
//! ```text
//! config {…}                 the configuration, without `optimizer.upstream`; first line only
//! 0 open POST /v1/… a=b …    a request's headers; the digit names the exchange. `chunked`: no length
//! 0 body {…}                 a piece of its body; `0 body*9 x` is nine times as long
//! 0 end
//! outcome 1 200 {…}          how the callout that has waited second longest ends: a status and a body,
//!                            or `unreachable`, `timeout`, `reset`, `large`
//! 0 answer 200 a=b …         the provider's headers. `stream`: of an event stream; `chunked`
//! 0 chunk {…}                a piece of its body, `\n` stands for a line end
//! 0 done
//! 0 local 503                the proxy answers itself
//! 0 gone                     the client leaves
//! wait 800                   milliseconds pass
//! route NAME                 calls are routed to another provider from now on
//! refuse / accept            the host refuses callouts, or not
//! withhold                   the host does not show the bodies of requests whose headers it holds; before all calls
//! ```
//! Other lines mean nothing.

use crate::random::Random;

/// More lines than this are not read.
const MAX_LINES: usize = 256;
/// One callback brings no more, in bytes.
const MAX_PIECE: usize = 1 << 20;
/// All bodies together are no larger, in bytes.
const MAX_BODIES: usize = 4 << 20;
/// Longer times than this do not pass at once, in milliseconds.
const MAX_WAIT: u64 = 2_000;

/// Name-value pairs.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A line.
#[derive(Clone, Debug)]
pub enum Step {
    Open { id: usize, headers: Fields },
    Body { id: usize, piece: Vec<u8> },
    End { id: usize },
    Answer { id: usize, headers: Fields },
    Chunk { id: usize, piece: Vec<u8> },
    Done { id: usize },
    Local { id: usize, status: u16 },
    Gone { id: usize },
    Outcome { index: usize, outcome: Ending },
    Wait { milliseconds: u64 },
    Route { upstream: Vec<u8> },
    Dispatch { refused: bool },
    Withhold,
}

/// How a callout ends.
#[derive(Clone, Debug)]
pub enum Ending {
    Answer(u16, Vec<u8>),
    Unreachable,
    Timeout,
    Reset,
    TooLarge,
}

/// What happens, line by line.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub config: Vec<u8>,
    pub steps: Vec<Step>,
}

impl Script {
    /// Reads all lines that mean something.
    pub fn parse(text: &[u8]) -> Self {
        let mut script = Self { config: b"{}".to_vec(), steps: Vec::new() };
        let mut bodies = 0;
        for (place, line) in text.split(|&byte| byte == b'\n').take(MAX_LINES).enumerate() {
            if let (0, Some(config)) = (place, line.strip_prefix(b"config ")) {
                script.config = config.to_vec();
            } else if let Some(step) = step(line, &mut bodies) {
                script.steps.push(step);
            }
        }
        script.tell_lengths();
        script
    }

    /// The same with the bodies in smaller pieces.
    pub fn in_pieces(&self, random: &mut Random, most: usize) -> Self {
        let mut steps = Vec::new();
        for step in &self.steps {
            match step {
                Step::Body { id, piece } => steps.extend(
                    random
                        .pieces(piece, most)
                        .into_iter()
                        .map(|piece| Step::Body { id: *id, piece: piece.to_vec() }),
                ),
                Step::Chunk { id, piece } => steps.extend(
                    random
                        .pieces(piece, most)
                        .into_iter()
                        .map(|piece| Step::Chunk { id: *id, piece: piece.to_vec() }),
                ),
                other => steps.push(other.clone()),
            }
        }
        Self { config: self.config.clone(), steps }
    }

    /// The bytes of all bodies.
    pub fn body_bytes(&self) -> usize {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Body { piece, .. } | Step::Chunk { piece, .. } => piece.len(),
                _ => 0,
            })
            .sum()
    }

    /// Peers are honest about how much follows.
    fn tell_lengths(&mut self) {
        for at in 0..self.steps.len() {
            let rest = &self.steps[at + 1..];
            let length = match &self.steps[at] {
                Step::Open { id, .. } => length(rest, *id, true),
                Step::Answer { id, .. } => length(rest, *id, false),
                _ => continue,
            };
            let (Step::Open { headers, .. } | Step::Answer { headers, .. }) = &mut self.steps[at]
            else {
                continue;
            };
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"));
            let before = headers.len();
            headers.retain(|(name, _)| name != b"chunked");
            if headers.len() == before {
                headers.push((b"content-length".to_vec(), length.to_string().into_bytes()));
            }
        }
    }
}

/// How many bytes of a body follow.
fn length(steps: &[Step], exchange: usize, request: bool) -> usize {
    let mut length = 0;
    for step in steps {
        match step {
            Step::Body { id, piece } if request && *id == exchange => length += piece.len(),
            Step::Chunk { id, piece } if !request && *id == exchange => length += piece.len(),
            Step::End { id } if request && *id == exchange => break,
            Step::Done { id } if !request && *id == exchange => break,
            Step::Open { id, .. } if *id == exchange => break,
            _ => {}
        }
    }
    length
}

fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&byte| byte == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn step(line: &[u8], bodies: &mut usize) -> Option<Step> {
    let (first, rest) = word(line);
    match first {
        b"outcome" => {
            let (index, rest) = word(rest);
            let (kind, body) = word(rest);
            let outcome = match kind {
                b"unreachable" => Ending::Unreachable,
                b"timeout" => Ending::Timeout,
                b"reset" => Ending::Reset,
                b"large" => Ending::TooLarge,
                status => Ending::Answer(number(status)?, body.to_vec()),
            };
            return Some(Step::Outcome { index: number(index)?, outcome });
        }
        b"wait" => {
            return Some(Step::Wait { milliseconds: number::<u64>(rest)?.min(MAX_WAIT) });
        }
        b"route" => return Some(Step::Route { upstream: rest.to_vec() }),
        b"refuse" => return Some(Step::Dispatch { refused: true }),
        b"accept" => return Some(Step::Dispatch { refused: false }),
        b"withhold" => return Some(Step::Withhold),
        _ => {}
    }
    let id = match first {
        [digit @ b'0'..=b'9'] => usize::from(digit - b'0'),
        _ => return None,
    };
    let (verb, rest) = word(rest);
    Some(match verb {
        b"open" => Step::Open { id, headers: request_headers(rest) },
        b"end" => Step::End { id },
        b"answer" => Step::Answer { id, headers: answer_headers(rest)? },
        b"done" => Step::Done { id },
        b"local" => Step::Local { id, status: number(rest)? },
        b"gone" => Step::Gone { id },
        verb => {
            let (verb, times) = match verb.iter().position(|&byte| byte == b'*') {
                Some(at) => (&verb[..at], number::<usize>(&verb[at + 1..])?),
                None => (verb, 1),
            };
            let piece = text(rest);
            let size = piece.len().saturating_mul(times);
            if size == 0 || size > MAX_PIECE || *bodies + size > MAX_BODIES {
                return None;
            }
            *bodies += size;
            let piece = piece.repeat(times);
            match verb {
                b"body" => Step::Body { id, piece },
                b"chunk" => Step::Chunk { id, piece },
                _ => return None,
            }
        }
    })
}

/// `\n` stands for a line end; JSON's own is in strings only, where it may be one too.
fn text(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut bytes = line.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' if bytes.next_if_eq(&&b'n').is_some() => out.push(b'\n'),
            byte => out.push(byte),
        }
    }
    out
}

fn fields(words: &[u8], headers: &mut Fields) {
    for word in words.split(|&byte| byte == b' ').filter(|word| !word.is_empty()) {
        match word.iter().position(|&byte| byte == b'=') {
            // The host has its own idea of the pseudo-headers.
            Some(at) if word[0] != b':' => {
                headers.push((word[..at].to_ascii_lowercase(), word[at + 1..].to_vec()));
            }
            _ if word == b"chunked" => headers.push((b"chunked".to_vec(), Vec::new())),
            _ => {}
        }
    }
}

fn request_headers(line: &[u8]) -> Fields {
    let (method, rest) = word(line);
    let (path, rest) = word(rest);
    let mut headers = vec![
        (b":method".to_vec(), method.to_vec()),
        (b":path".to_vec(), path.to_vec()),
        (b":authority".to_vec(), b"llm.example".to_vec()),
    ];
    fields(rest, &mut headers);
    default_header(&mut headers, b"content-type", b"application/json");
    default_header(&mut headers, b"authorization", b"Bearer pr0vider-key");
    headers
}

fn answer_headers(line: &[u8]) -> Option<Fields> {
    let (status, rest) = word(line);
    let status: u16 = number(status)?;
    let mut headers = vec![(b":status".to_vec(), status.to_string().into_bytes())];
    let (first, others) = word(rest);
    if first == b"stream" {
        headers.push((b"content-type".to_vec(), b"text/event-stream".to_vec()));
        headers.push((b"chunked".to_vec(), Vec::new()));
        fields(others, &mut headers);
    } else {
        fields(rest, &mut headers);
        default_header(&mut headers, b"content-type", b"application/json");
    }
    Some(headers)
}

fn default_header(headers: &mut Fields, name: &[u8], value: &[u8]) {
    if headers.iter().all(|(other, _)| other != name) {
        headers.push((name.to_vec(), value.to_vec()));
    }
}
