//! Bytes that grow without being moved: a `Vec` that doubles its memory needs
//! three times its content at that moment.

/// So many bytes beyond its content a rope reserves at most.
const MAX_FREE: usize = 32 * 1024;

/// Bytes that come piece by piece. What has come is not copied again until all
/// of it is written out.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    segments: Vec<Vec<u8>>,
    len: usize,
}

impl Rope {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if let Some(last) = self.segments.last_mut() {
            let free = last.capacity().saturating_sub(last.len());
            let (fits, behind) = bytes.split_at_checked(free).unwrap_or((bytes, &[]));
            last.extend_from_slice(fits);
            rest = behind;
        }
        if !rest.is_empty() {
            let mut segment = Vec::with_capacity(rest.len().max(self.len.min(MAX_FREE)));
            segment.extend_from_slice(rest);
            self.segments.push(segment);
        }
        self.len = self.len.saturating_add(bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends all of it to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for segment in &self.segments {
            out.extend_from_slice(segment);
        }
    }

    /// All of it in one piece.
    pub(crate) fn join(mut self) -> Vec<u8> {
        if self.segments.len() == 1 {
            return self.segments.pop().unwrap_or_default();
        }
        let mut out = Vec::with_capacity(self.len);
        self.write(&mut out);
        out
    }
}

impl PartialEq<[u8]> for Rope {
    fn eq(&self, other: &[u8]) -> bool {
        let mut rest = other;
        self.len == other.len()
            && self.segments.iter().all(|segment| {
                let Some(behind) = rest.strip_prefix(&**segment) else { return false };
                rest = behind;
                true
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_was_pushed_comes_out_in_order() {
        let (mut rope, mut expected) = (Rope::default(), Vec::new());
        assert!(rope.is_empty() && rope == b""[..]);
        for n in 0..2000_usize {
            let piece = vec![u8::try_from(n % 251).unwrap(); n * n % 97];
            rope.push(&piece);
            expected.extend(piece);
            assert_eq!(rope.len(), expected.len());
        }
        assert!(rope == *expected && rope != expected[1..]);
        let held: usize = rope.segments.iter().map(Vec::capacity).sum();
        assert!(held <= expected.len() + MAX_FREE && rope.segments.len() < 20);
        assert_eq!(rope.join(), expected);
    }
}
