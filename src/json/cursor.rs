//! A walk through JSON that is known to be valid.

use super::string::end_of_string;
use super::{Kind, kind};

/// Shows each item of `array`, valid JSON; nothing, if it is no array.
pub fn each_item<'a>(array: &'a str, mut see: impl FnMut(&'a str)) {
    let mut cursor = Cursor::new(array.as_bytes());
    if cursor.peek() != Some(b'[') {
        return;
    }
    cursor.bump();
    while cursor.item(b']') {
        see(cursor.next_value(array));
    }
}

/// The items of `array`, valid JSON; `None`, if it is no array.
pub fn items(array: &str) -> Option<Vec<&str>> {
    let mut items = Vec::new();
    each_item(array, |item| items.push(item));
    (kind(array) == Kind::Array).then_some(items)
}

/// Shows each member of `object`, valid JSON: its name with its quotes, as it stands there, and its value.
pub fn each_member<'a>(object: &'a str, mut see: impl FnMut(&'a str, &'a str)) {
    let mut cursor = Cursor::new(object.as_bytes());
    if cursor.peek() != Some(b'{') {
        return;
    }
    cursor.bump();
    while cursor.item(b'}') {
        let name = cursor.next_value(object);
        cursor.colon();
        see(name, cursor.next_value(object));
    }
}

/// A position in valid JSON.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { bytes: text, at: 0 }
    }

    pub(super) fn bump(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn current(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while self.current().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.bump();
        }
        self.current()
    }

    /// Moves to the next item of an array or object; false at its end, which is consumed.
    pub(super) fn item(&mut self, close: u8) -> bool {
        if self.peek() == Some(b',') {
            self.bump();
        }
        match self.peek() {
            None => false,
            Some(byte) if byte == close => {
                self.bump();
                false
            }
            Some(_) => true,
        }
    }

    pub(super) fn colon(&mut self) {
        if self.peek() == Some(b':') {
            self.bump();
        }
    }

    /// The same as `skip_value`, of the text that the cursor goes through.
    fn next_value(&mut self, text: &'a str) -> &'a str {
        self.peek();
        let start = self.at;
        self.skip_value();
        text.get(start..self.at).unwrap_or_default()
    }

    /// Moves behind the value at the cursor and returns its text.
    pub(super) fn skip_value(&mut self) -> &'a [u8] {
        self.peek();
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.skip_string(),
                b'{' | b'[' => {
                    depth = depth.saturating_add(1);
                    self.bump();
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.bump();
                }
                b',' | b':' => self.bump(),
                _ => {
                    while self.current().is_some_and(|byte| {
                        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
                    }) {
                        self.bump();
                    }
                }
            }
            if depth == 0 {
                break;
            }
        }
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    fn skip_string(&mut self) {
        self.bump();
        let length = end_of_string(self.rest()).map(|ended| ended.length);
        self.at = length.map_or(self.bytes.len(), |length| self.at.saturating_add(length));
    }
}
