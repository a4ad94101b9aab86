//! One message on its way through the native proxy, held or passed on as the core says.

use integration::{Headers, Message};
use optimizer_core::effect::Flow;

/// A message, what of it is held, and what went out.
pub struct Lane {
    pub to: &'static str,
    pub headers: Headers,
    pub flow: Flow,
    pub held: Vec<u8>,
    pub trailers: Option<Headers>,
    pub ended: bool,
    pub out: Message,
}

impl Lane {
    /// A message of which nothing is known. Held until the core says otherwise, so that a core that
    /// says nothing fails the test.
    pub fn new(to: &'static str) -> Self {
        Self {
            to,
            headers: Headers::default(),
            flow: Flow::Hold,
            held: Vec::new(),
            trailers: None,
            ended: false,
            out: Message::default(),
        }
    }

    /// Lets go of what is held, and gives it.
    pub fn release(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        if self.out.headers.is_none() {
            let end = self.ended && held.is_empty() && self.trailers.is_none();
            self.out.headers_out(self.to, &self.headers, end);
        }
        self.pass(held.clone());
        held
    }

    /// Passes a piece on, and the end where it has come.
    pub fn pass(&mut self, piece: Vec<u8>) {
        let end = self.ended && self.trailers.is_none() && !self.out.complete;
        if !piece.is_empty() || end {
            self.out.body_out(self.to, piece, end);
        }
        if let (true, Some(trailers)) = (self.ended, &self.trailers) {
            self.out.trailers_out(self.to, &trailers.clone());
        }
    }

    /// Whether it came and the core holds it.
    pub fn is_held(&self) -> bool {
        self.flow == Flow::Hold && !self.headers.is_empty()
    }
}
