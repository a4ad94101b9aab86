//! Where a replay is written.

use crate::sse::push_event;

/// A stream being written, or only measured.
#[derive(Debug)]
pub(super) struct Sink {
    out: Vec<u8>,
    len: usize,
    measures: bool,
}

impl Sink {
    pub(super) fn measuring() -> Self {
        Self { out: Vec::new(), len: 0, measures: true }
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), len: 0, measures: false }
    }

    pub(super) fn push_event(&mut self, event: Option<&str>, data: &[u8]) {
        if self.measures {
            self.out.clear();
        }
        let before = self.out.len();
        push_event(&mut self.out, event, data);
        self.len = self.len.saturating_add(self.out.len().saturating_sub(before));
    }

    /// Bytes written so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}
