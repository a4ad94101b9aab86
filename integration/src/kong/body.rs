//! A request's body as nginx keeps it: in buffers, or in a file.

/// A request's body.
#[derive(Default)]
pub(crate) struct Body {
    buffers: Vec<Vec<u8>>,
    /// It went to a file: nobody sees it any more but the provider.
    spilled: bool,
    /// So many buffers at the end are the runtime's own.
    own: usize,
    /// A callout has ended: what is written from now on all lies in the same place.
    answered: bool,
    written_since: bool,
    /// Freed entries of buffers that are not the runtime's own, and that it did not take again.
    astray: usize,
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
        self.own = 0;
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
    /// go to a list that outlives the request, from which what is appended takes one again before a
    /// callout; after it, what is appended takes the place of an earlier piece.
    pub(crate) fn write(&mut self, start: usize, bytes: &[u8]) {
        let theirs = self.buffers.len() - self.own;
        let mut before = 0;
        for (index, buffer) in self.buffers.iter_mut().enumerate() {
            let keep = start.saturating_sub(before).min(buffer.len());
            before += buffer.len();
            buffer.truncate(keep);
            match keep {
                0 if index < theirs => self.astray += 1,
                0 => self.own -= 1,
                _ => {}
            }
        }
        if self.answered && std::mem::replace(&mut self.written_since, true) {
            self.crash = Some("wrong bytes: the second piece lies where the first one does");
        }
        if !self.answered {
            self.astray = self.astray.saturating_sub(1);
        }
        self.buffers.retain(|buffer| !buffer.is_empty());
        self.buffers.push(bytes.to_vec());
        self.own += 1;
    }

    /// A callout of this request has ended.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// What will crash the worker or break the body, if anything will.
    pub(crate) fn crash(&self) -> Option<&'static str> {
        self.crash.or((self.astray > 0).then_some("a buffer of the request's body was freed"))
    }
}
