//! Header maps as bytes, and the way Proxy-Wasm spells them in guest memory.

/// Headers or trailers in order, several values of one name included. Names
/// are lower-case; values are bytes, because clients send what they like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// The headers of a list of pairs.
    pub fn new<K: AsRef<str>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.add(name.as_ref(), value.as_ref());
        }
        headers
    }

    /// All pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_slice()))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of a name, as bytes.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.iter().find_map(|(n, v)| n.eq_ignore_ascii_case(name).then_some(v))
    }

    /// The first value of a name, where it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.bytes(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// Every value of a name, lossily as text.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| String::from_utf8_lossy(v).into_owned())
            .collect()
    }

    /// Adds a value, keeping those already there.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_ascii_lowercase(), value.to_vec()));
    }

    /// Gives a name this one value.
    pub fn replace(&mut self, name: &str, value: &[u8]) {
        match self.0.iter().position(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(first) => {
                let mut index = 0;
                self.0.retain(|(n, _)| {
                    let keep = index <= first || !n.eq_ignore_ascii_case(name);
                    index += 1;
                    keep
                });
                self.0[first].1 = value.to_vec();
            }
            None => self.add(name, value),
        }
    }

    /// Takes every value of a name away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// The length that the message claims to have.
    pub fn content_length(&self) -> Option<u64> {
        self.get("content-length").and_then(|v| v.parse().ok())
    }

    /// The pairs as Proxy-Wasm lays them out: a count, the sizes, then names
    /// and values, each followed by NUL.
    pub(crate) fn to_guest(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut out = (self.len() as u32).to_le_bytes().to_vec();
        for (name, value) in self.iter() {
            out.extend((name.len() as u32).to_le_bytes());
            out.extend((value.len() as u32).to_le_bytes());
        }
        for (name, value) in self.iter() {
            out.extend(name.as_bytes());
            out.push(0);
            out.extend(value);
            out.push(0);
        }
        out
    }

    /// The reverse of [`Headers::to_guest`]; nothing where the layout is broken.
    pub(crate) fn from_guest(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let word = |at: usize| -> Option<usize> {
            let word = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(word) as usize)
        };
        let count = word(0)?;
        let mut at = count.checked_mul(8)?.checked_add(4)?;
        let mut headers = Self::default();
        for index in 0..count {
            let (name, value) = (word(4 + index * 8)?, word(8 + index * 8)?);
            let text = std::str::from_utf8(bytes.get(at..at + name)?).ok()?;
            at += name + 1;
            headers.add(text, bytes.get(at..at + value)?);
            at += value + 1;
        }
        Some(headers)
    }
}

impl<K: AsRef<str>, V: AsRef<[u8]>, const N: usize> From<[(K, V); N]> for Headers {
    fn from(pairs: [(K, V); N]) -> Self {
        Self::new(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_guest_memory() {
        let headers = Headers::from([("a", &b"1"[..]), ("b", b"\xff\x00"), ("a", b"")]);
        assert_eq!(Headers::from_guest(&headers.to_guest()), Some(headers));
        assert_eq!(Headers::from_guest(&[2, 0, 0, 0, 9]), None);
    }

    #[test]
    fn replace_leaves_one_value_in_its_place() {
        let mut headers = Headers::from([("x", "1"), ("y", "2"), ("X", "3"), ("x", "4")]);
        headers.replace("x", b"5");
        assert_eq!(headers, Headers::from([("x", "5"), ("y", "2")]));
    }
}
