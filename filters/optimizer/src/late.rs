//! What of an answer that passes has not been handed in yet: nobody waits for that.

use std::time::Duration;

use crate::hostcalls;
use crate::shown::Shown;

/// So many bytes are handed in at a time: the core's work for each event of a stream then
/// falls to one of many, and the first is through before any.
const ENOUGH: usize = 4 * 1024;

/// An answer's head, as it came.
pub struct AnswerHead {
    pub shown: Shown,
    pub from_provider: bool,
    pub end_of_stream: bool,
}

/// The head, if it was not handed in yet, and then bytes of the body.
#[derive(Default)]
pub struct Late {
    pub head: Option<AnswerHead>,
    pub bytes: Vec<u8>,
    /// When the first of them came.
    since: Duration,
    /// They are the last ones.
    pub ended: bool,
}

impl Late {
    /// More bytes came.
    pub fn push(&mut self, chunk: Vec<u8>) {
        if self.bytes.is_empty() {
            self.since = hostcalls::now();
            self.bytes = chunk;
        } else {
            self.bytes.extend_from_slice(&chunk);
        }
    }

    /// Whether it is worth being handed in.
    pub fn is_enough(&self) -> bool {
        self.bytes.len() >= ENOUGH
    }

    /// Whether there is nothing to be handed in.
    pub fn is_empty(&self) -> bool {
        self.head.is_none() && self.bytes.is_empty() && !self.ended
    }

    /// The time for the core: when the first byte came, or now.
    pub fn time(&self) -> Duration {
        if self.bytes.is_empty() { hostcalls::now() } else { self.since }
    }
}
