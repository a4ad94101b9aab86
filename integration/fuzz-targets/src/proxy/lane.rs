//! One message on its way through the proxy.

use optimizer_core::effect::Flow;

use crate::script::Fields;

/// A message, what of it is held, and what went out.
#[derive(Debug)]
pub struct Lane {
    /// The headers arrived.
    pub begun: bool,
    pub headers: Fields,
    /// As they arrived.
    pub original_headers: Fields,
    /// What arrived of the body.
    pub original: Vec<u8>,
    pub flow: Flow,
    pub held: Vec<u8>,
    /// The whole held body was handed to the core.
    pub shown: bool,
    /// The sender is done.
    pub ended: bool,
    pub replaced: bool,
    /// The headers as they went out.
    pub out: Option<Fields>,
    pub passed: Vec<u8>,
    pub complete: bool,
}

/// What went out.
pub type Sent = (Option<Fields>, Vec<u8>, bool);

impl Lane {
    /// A message of which nothing has arrived.
    pub fn absent() -> Self {
        Self { begun: false, ..Self::new(Fields::new()) }
    }

    /// A message whose headers arrive: held until the core says otherwise.
    pub fn new(headers: Fields) -> Self {
        Self {
            begun: true,
            original_headers: headers.clone(),
            headers,
            original: Vec::new(),
            flow: Flow::Hold,
            held: Vec::new(),
            shown: false,
            ended: false,
            replaced: false,
            out: None,
            passed: Vec::new(),
            complete: false,
        }
    }

    pub fn set_header(&mut self, name: &str, value: &str) {
        assert!(self.out.is_none(), "{name} set after the headers went");
        let valid = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        assert!(value.bytes().all(valid), "{name}: {value:?}");
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
        self.headers.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    }

    pub fn remove_header(&mut self, name: &str) {
        assert!(self.out.is_none(), "{name} removed after the headers went");
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
    }

    pub fn replace_body(&mut self, body: &[u8], limit: usize) {
        assert!(self.flow == Flow::Hold && self.shown, "a body replaced that is not held whole");
        assert!(body.len() <= limit.max(self.original.len()), "a body over the host's limit");
        self.replaced = true;
        self.held = body.to_vec();
    }

    /// Lets go of what is held, and gives it.
    pub fn release(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        if self.out.is_none() {
            self.out = Some(self.headers.clone());
        }
        self.pass(&held);
        held
    }

    /// Passes a piece on, and the end where it has come.
    pub fn pass(&mut self, piece: &[u8]) {
        self.passed.extend(piece);
        self.complete = self.ended;
        let Some(out) = &self.out else { panic!("a body before its headers") };
        let lengths = out.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
        for (_, length) in lengths {
            let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
            let sent = self.passed.len();
            assert!(
                sent == length || (sent < length && !self.complete),
                "{sent} bytes of {length}"
            );
        }
    }

    pub fn sent(self) -> Sent {
        (self.out, self.passed, self.complete)
    }
}
