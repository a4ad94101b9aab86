//! A request's body as nginx keeps it: in buffers, or in a file.

/// A request's body.
#[derive(Default)]
pub(crate) struct Body {
    buffers: Vec<Vec<u8>>,
    /// It went to a file: nobody sees it any more but the provider.
    spilled: bool,
    /// Buffers that were freed although the request still owns them, less those taken back.
    owed: usize,
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
    /// go to a list that outlives the request, and each that is appended is taken from there.
    pub(crate) fn write(&mut self, start: usize, bytes: &[u8]) {
        let mut before = 0;
        let mut emptied = 0;
        for (index, buffer) in self.buffers.iter_mut().enumerate() {
            let keep = start.saturating_sub(before).min(buffer.len());
            before += buffer.len();
            buffer.truncate(keep);
            if keep == 0 {
                emptied += 1;
                if index == 0 {
                    self.crash = Some("the first buffer of the request's body was freed");
                }
            }
        }
        self.buffers.retain(|buffer| !buffer.is_empty());
        self.buffers.push(bytes.to_vec());
        match emptied {
            0 => self.owed = self.owed.saturating_sub(1),
            emptied => self.owed += emptied,
        }
    }

    /// What will crash the worker, if anything will.
    pub(crate) fn crash(&self) -> Option<&'static str> {
        let owed = (self.owed > 0).then_some("buffers of the request's body were freed twice");
        self.crash.or(owed)
    }
}
