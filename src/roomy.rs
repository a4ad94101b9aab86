//! A body with room around it: what is sent about it is written where it stands.

use bytes::Bytes;

/// A body and the room before and behind it. Hosts that can leave some when they read a body
/// spare it a copy; where there is none, or too little, one is made.
#[derive(Debug)]
pub struct Roomy {
    bytes: Vec<u8>,
    /// Where the body begins.
    start: usize,
}

impl Roomy {
    /// As much room before a body as is ever used, in bytes.
    pub const BEFORE: usize = 64;
    /// As much room behind a body as is mostly used, in bytes.
    pub const BEHIND: usize = 512;

    /// The body is what stands in `bytes` from `start` on; the room behind it is their spare capacity.
    pub fn new(bytes: Vec<u8>, start: usize) -> Self {
        Self { start: start.min(bytes.len()), bytes }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The body by itself.
    pub fn into_body(self) -> Bytes {
        Bytes::from(self.bytes).split_off(self.start)
    }

    /// The body between what comes `before` and `behind` it, and the body by itself, in the same memory.
    pub(crate) fn between(mut self, before: &[u8], behind: &[&[u8]]) -> (Bytes, Bytes) {
        if self.start < before.len() {
            let most = behind.iter().map(|part| part.len()).chain([before.len(), self.bytes.len()]);
            let mut bytes = Vec::with_capacity(most.fold(0, usize::saturating_add));
            bytes.extend_from_slice(before);
            bytes.extend_from_slice(self.body());
            self = Self { bytes, start: before.len() };
        }
        let begin = self.start.saturating_sub(before.len());
        if let Some(room) = self.bytes.get_mut(begin..self.start) {
            room.copy_from_slice(before);
        }
        let end = self.bytes.len();
        for part in behind {
            self.bytes.extend_from_slice(part);
        }
        let all = Bytes::from(self.bytes);
        (all.slice(begin..), all.slice(self.start..end))
    }
}

impl From<&[u8]> for Roomy {
    /// A copy, with room.
    fn from(body: &[u8]) -> Self {
        let room = Self::BEFORE.saturating_add(Self::BEHIND);
        let mut bytes = Vec::with_capacity(body.len().saturating_add(room));
        bytes.resize(Self::BEFORE, 0);
        bytes.extend_from_slice(body);
        Self { bytes, start: Self::BEFORE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_body_is_copied_only_where_there_is_no_room() {
        for (start, spare, stays) in [(0, 0, false), (3, 9, false), (4, 9, true), (64, 512, true)] {
            let mut bytes = Vec::with_capacity(start + 4 + spare);
            bytes.resize(start, 0);
            bytes.extend_from_slice(b"body");
            let roomy = Roomy::new(bytes, start);
            let place = roomy.body().as_ptr();
            let (all, body) = roomy.between(b"<<<<", &[b">", b">>"]);
            assert_eq!((&*all, &*body), (&b"<<<<body>>>"[..], &b"body"[..]));
            assert_eq!(body.as_ptr() == place, stays, "{start}");
            assert_eq!(all.as_ptr_range().start.wrapping_add(4), body.as_ptr());
        }
        assert_eq!(Roomy::new(b"..body".to_vec(), 2).into_body(), "body");
        assert_eq!(Roomy::new(b"..".to_vec(), 7).into_body(), "");
        assert_eq!(Roomy::from(&b"body"[..]).body(), b"body");
    }
}
