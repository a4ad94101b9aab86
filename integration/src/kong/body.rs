//! A request's body as nginx keeps it: in buffers, or in a file.

/// A request's body.
#[derive(Default)]
pub(crate) struct Body {
    buffers: Vec<Vec<u8>>,
    /// It went to a file: nobody sees it any more but the provider.
    spilled: bool,
    written: bool,
    crash: Option<&'static str>,
}

impl Body {
    /// What the client sends in one segment becomes one buffer.
    pub(crate) fn receive(&mut self, piece: &[u8]) {
        if !piece.is_empty() {
            self.buffers.push(piece.to_vec());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffers.iter().map(Vec::len).sum()
    }

    /// More than `client_body_buffer_size` is written to a file.
    pub(crate) fn spill_over(&mut self, limit: usize) {
        self.spilled |= self.len() > limit;
    }

    /// Lua sets the body that it read, if it could read it: one buffer.
    pub(crate) fn set_anew(&mut self) -> bool {
        if self.spilled || self.buffers.is_empty() {
            return false;
        }
        self.buffers = vec![self.buffers.concat()];
        true
    }

    /// The buffers as the module can see them.
    pub(crate) fn visible(&self) -> Option<&[Vec<u8>]> {
        (!self.spilled && !self.buffers.is_empty()).then_some(&self.buffers)
    }

    pub(crate) fn to_provider(&self) -> Vec<u8> {
        self.buffers.concat()
    }

    /// Cuts the body at `start` and appends to it, as nginx does: buffers of which nothing remains
    /// go to a list that outlives the request, and what is appended takes the place of an earlier piece.
    pub(crate) fn write(&mut self, start: usize, bytes: &[u8]) {
        let mut before = 0;
        for buffer in &mut self.buffers {
            let keep = start.saturating_sub(before).min(buffer.len());
            before += buffer.len();
            buffer.truncate(keep);
            if keep == 0 {
                self.crash = Some("a buffer of the request's body was freed");
            }
        }
        if std::mem::replace(&mut self.written, true) {
            self.crash = Some("wrong bytes: the second piece lies where the first one does");
        }
        self.buffers.retain(|buffer| !buffer.is_empty());
        self.buffers.push(bytes.to_vec());
    }

    /// What will crash the worker or break the body, if anything will.
    pub(crate) fn crash(&self) -> Option<&'static str> {
        self.crash
    }
}
