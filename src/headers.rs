//! A borrowed view on a message's headers, as raw bytes: they need not be UTF-8,
//! and one name may come several times.

/// The headers of one message.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(&'a [(&'a [u8], &'a [u8])]);

impl<'a> Headers<'a> {
    /// Wraps name-value pairs in the order in which they were sent.
    pub const fn new(fields: &'a [(&'a [u8], &'a [u8])]) -> Self {
        Self(fields)
    }

    /// All names and values, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.iter().copied()
    }

    /// All values of `name`, in order.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
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
        self.all(name).nth(1).is_some()
    }

    /// `:status`, 0 where it is missing or no number.
    pub fn status(self) -> u16 {
        self.get(":status").and_then(ascii_number).unwrap_or(0)
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
        self.media_type().is_some_and(|media_type| {
            let media_type = media_type.to_ascii_lowercase();
            media_type == b"application/json"
                || (media_type.starts_with(b"application/") && media_type.ends_with(b"+json"))
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

/// A non-negative decimal number.
fn ascii_number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    let text = text.trim_ascii();
    // `FromStr` takes a leading plus sign, HTTP does not.
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
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
