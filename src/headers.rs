//! A borrowed view on a message's headers, as raw bytes: they need not be UTF-8,
//! and one name may come several times.

/// How the names of the headers begin that are meant for the module alone.
pub(crate) const OWN: &str = "x-anyray-";

/// The headers of one message.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    fields: &'a [(&'a [u8], &'a [u8])],
    /// The [`mark`]s of all names: most names that are asked for do not come.
    marks: u64,
}

impl<'a> Headers<'a> {
    /// Wraps name-value pairs in the order in which they were sent.
    pub fn new(fields: &'a [(&'a [u8], &'a [u8])]) -> Self {
        let marks = fields.iter().fold(0, |marks, (name, _)| marks | mark(name));
        Self { fields, marks }
    }

    /// All names and values, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.fields.iter().copied()
    }

    /// The names of those that are meant for the module alone.
    pub(crate) fn own(self) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().map(|&(name, _)| name).filter(|name| is_own(name))
    }

    /// All values of `name`, in order.
    pub fn all<'n>(self, name: &'n str) -> Values<'a, 'n> {
        let name = name.as_bytes();
        let may_come = self.marks & mark(name) != 0;
        Values { fields: if may_come { self.fields } else { &[] }.iter(), name }
    }

    /// The first value of `name`.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Whether `name` comes at all.
    pub fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether `name` comes more than once.
    pub fn repeats(self, name: &str) -> bool {
        let mut values = self.all(name);
        values.next().is_some() && values.next().is_some()
    }

    /// `:status`, 0 where it is missing or no number.
    pub fn status(self) -> u16 {
        self.get(":status").map_or(0, status)
    }

    /// `content-length`, if it came once and is a number.
    pub fn content_length(self) -> Option<u64> {
        let mut values = self.all("content-length");
        match (values.next(), values.next()) {
            (Some(value), None) => ascii_number(value),
            _ => None,
        }
    }

    /// Whether the body is in a content coding other than identity.
    pub fn is_encoded(self) -> bool {
        self.all("content-encoding").any(|value| {
            let value = value.trim_ascii();
            !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
        })
    }

    /// Whether the content type is JSON, whatever its case and parameters.
    pub fn is_json(self) -> bool {
        const APPLICATION: &[u8] = b"application/";
        let media_type = self.media_type().and_then(|it| it.split_at_checked(APPLICATION.len()));
        media_type.is_some_and(|(kind, subtype)| {
            let suffix = subtype.len().checked_sub(b"+json".len()).and_then(|at| subtype.get(at..));
            same(kind, APPLICATION)
                && (same(subtype, b"json") || suffix.is_some_and(|suffix| same(suffix, b"+json")))
        })
    }

    /// Whether the content type is that of server-sent events.
    pub fn is_event_stream(self) -> bool {
        self.media_type()
            .is_some_and(|media_type| media_type.eq_ignore_ascii_case(b"text/event-stream"))
    }

    /// The content type without its parameters, if it came once.
    fn media_type(self) -> Option<&'a [u8]> {
        let value = self.get("content-type").filter(|_| !self.repeats("content-type"))?;
        value.split(|&byte| byte == b';').next().map(<[u8]>::trim_ascii)
    }

    /// Whether `cache-control` holds the directive `name`.
    pub fn cache_control(self, name: &str) -> bool {
        self.all("cache-control")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The values of one header, in order.
#[derive(Clone, Debug)]
pub struct Values<'a, 'n> {
    fields: std::slice::Iter<'a, (&'a [u8], &'a [u8])>,
    name: &'n [u8],
}

impl<'a> Iterator for Values<'a, '_> {
    type Item = &'a [u8];

    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        for (name, value) in self.fields.by_ref() {
            if same(name, self.name) {
                return Some(value);
            }
        }
        None
    }
}

/// Whether a header of this name is meant for the module alone.
pub(crate) fn is_own(name: &[u8]) -> bool {
    // Many names begin with "x-", few so far.
    matches!(name, [b'x' | b'X', _, b'a' | b'A', b'n' | b'N', ..])
        && name.get(..OWN.len()).is_some_and(|start| same(start, OWN.as_bytes()))
}

/// One of 64 bits, the same for names that are the same.
fn mark(name: &[u8]) -> u64 {
    // With this bit set, letters are in lower case.
    let last = usize::from(name.last().map_or(0, |last| last | 0x20));
    1 << (name.len().wrapping_mul(7).wrapping_add(last) % 64)
}

/// Whether `text` is `known`, in whatever case: mostly in the same.
#[inline]
fn same(text: &[u8], known: &[u8]) -> bool {
    text.len() == known.len() && (text == known || text.eq_ignore_ascii_case(known))
}

/// The value of `:status`, 0 where it is no number.
pub(crate) fn status(value: &[u8]) -> u16 {
    ascii_number(value).and_then(|status| status.try_into().ok()).unwrap_or(0)
}

/// A non-negative decimal number.
fn ascii_number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        // Without `checked_mul`, which is a function of its own where numbers have 64 bits at most.
        let fits = digit < 10 && number <= u64::MAX.wrapping_sub(digit).wrapping_div(10);
        fits.then(|| number.wrapping_mul(10).wrapping_add(digit))
    })
}

/// Whether `value` can stand in a header as it is: visible ASCII and spaces
/// only, so that it can neither end the header nor begin another one.
pub fn is_header_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn with<T>(fields: &[(&str, &str)], look: impl Fn(Headers<'_>) -> T) -> T {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        look(Headers::new(&fields))
    }

    #[test]
    fn json_is_told_by_media_type_alone() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            (" application/json ;x", true),
            ("application/vnd.x+json", true),
            ("text/json", false),
            ("application/jsonl", false),
            ("text/plain; application/json", false),
            ("", false),
        ] {
            assert_eq!(
                with(&[("Content-Type", value)], |headers| headers.is_json()),
                expected,
                "{value}"
            );
        }
        assert!(!with(&[], |headers| headers.is_json()));
        let twice = [("content-type", "application/json"), ("content-type", "text/plain")];
        assert!(!with(&twice, |headers| headers.is_json()));
    }

    #[test]
    fn lengths_are_plain_numbers_that_came_once() {
        let length = |value| with(&[("content-length", value)], |headers| headers.content_length());
        assert_eq!(length("17"), Some(17));
        for bad in ["", "-1", "+1", "1,1", "0x1", "99999999999999999999"] {
            assert_eq!(length(bad), None, "{bad}");
        }
        let twice = [("content-length", "1"), ("Content-Length", "2")];
        assert_eq!(with(&twice, |headers| headers.content_length()), None);
    }

    #[test]
    fn codings_and_cache_directives() {
        assert!(!with(&[("content-encoding", "Identity")], |headers| headers.is_encoded()));
        assert!(with(&[("content-encoding", "gzip")], |headers| headers.is_encoded()));
        let both = [("content-encoding", "identity"), ("content-encoding", "br")];
        assert!(with(&both, |headers| headers.is_encoded()));
        let control = [("Cache-Control", "max-age=0, No-Store"), ("cache-control", "no-cache")];
        assert!(with(&control, |headers| headers.cache_control("no-store")));
        assert!(with(&control, |headers| headers.cache_control("no-cache")));
        assert!(!with(&control, |headers| headers.cache_control("no-transform")));
    }

    #[test]
    fn header_values_hold_no_control_characters() {
        assert!(is_header_value(b"Bearer abc"));
        assert!(!is_header_value(b"a\r\nb: c"));
        assert!(!is_header_value("é".as_bytes()));
    }
}
