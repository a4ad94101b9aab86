//! Server-sent events as bytes: a splitter that takes a stream in whatever
//! pieces it arrives, and a writer.
//!
//! The splitter follows the WHATWG rules: lines end in CR, LF or CRLF, a byte
//! order mark may begin the stream, and an event that the stream's end cuts off
//! is no event. `id` and `retry` concern reconnection and are left out.

use memchr::memchr2;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The event's type; empty where none was given.
    pub event: &'a [u8],
    /// The data lines, joined by LF.
    pub data: &'a [u8],
}

/// An event is larger than the splitter may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Cuts a stream into events, wherever its pieces begin and end.
#[derive(Debug)]
pub struct Splitter {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    at_first_line: bool,
    /// The last byte was a CR, and an LF right after it belongs to it.
    after_cr: bool,
    max_event_bytes: usize,
}

impl Splitter {
    /// A splitter that holds no more than `max_event_bytes` of one event.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            has_data: false,
            at_first_line: true,
            after_cr: false,
            max_event_bytes,
        }
    }

    /// Takes the next piece of the stream and hands out each event that ends in it.
    ///
    /// # Errors
    /// An event is too large. What was held of it is dropped, and so the events
    /// of later pieces mean nothing.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut on_event: impl FnMut(SseEvent<'_>),
    ) -> Result<(), TooLarge> {
        // The event's only data line, where it stands in `bytes`: most events need no copy.
        let mut only: Option<&[u8]> = None;
        let mut rest = bytes;
        while let Some((&first, behind)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = behind;
                continue;
            }
            // Every other line is empty: no search for its end.
            let empty = matches!(first, b'\r' | b'\n');
            let end = if empty { Some(0) } else { memchr2(b'\r', b'\n', rest) };
            let (line, tail) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or_default();
            self.check(only.map_or(0, <[u8]>::len), line.len())?;
            let Some((&line_end, behind)) = tail.split_first() else {
                self.line.extend_from_slice(line);
                break;
            };
            self.after_cr = line_end == b'\r';
            rest = behind;
            if !self.line.is_empty() {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                if let Line::Data(value) = self.end_line(&whole) {
                    self.add(only.take());
                    self.add(Some(value));
                }
                whole.clear();
                self.line = whole;
                continue;
            }
            match self.end_line(line) {
                Line::Data(value) if only.is_none() && !self.has_data => only = Some(value),
                Line::Data(value) => {
                    self.add(only.take());
                    self.add(Some(value));
                }
                Line::Blank => {
                    let has_data = std::mem::take(&mut self.has_data);
                    if only.is_some() || has_data {
                        let data = only.take().unwrap_or(&self.data);
                        on_event(SseEvent { event: &self.event, data });
                    }
                    self.event.clear();
                    self.data.clear();
                }
                Line::Other => {}
            }
        }
        self.add(only);
        Ok(())
    }

    fn check(&mut self, only: usize, more: usize) -> Result<(), TooLarge> {
        let held = self.line.len().saturating_add(self.event.len()).saturating_add(self.data.len());
        if held.saturating_add(only).saturating_add(more) <= self.max_event_bytes {
            return Ok(());
        }
        *self = Self::new(self.max_event_bytes);
        Err(TooLarge)
    }

    fn end_line<'l>(&mut self, line: &'l [u8]) -> Line<'l> {
        let first = std::mem::take(&mut self.at_first_line);
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| first).unwrap_or(line);
        if line.is_empty() {
            return Line::Blank;
        }
        if let Some(value) = value_of(line, b"data") {
            return Line::Data(value);
        }
        if let Some(value) = value_of(line, b"event") {
            self.event.clear();
            self.event.extend_from_slice(value);
        }
        Line::Other
    }

    /// Keeps a data line of the event.
    fn add(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
    }
}

/// What a line is.
enum Line<'l> {
    /// It ends the event.
    Blank,
    /// The value of a data line.
    Data(&'l [u8]),
    /// Something else, taken care of.
    Other,
}

/// The value of the field `name`, if `line` is one.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    match line.strip_prefix(name)? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [] => Some(&[]),
        _ => None,
    }
}

/// Appends an event. A CR in `data` arrives as LF: in JSON both are white space.
pub fn push_event(out: &mut Vec<u8>, event: Option<&str>, data: &[u8]) {
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    for line in data.split(|byte| matches!(byte, b'\r' | b'\n')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    type Events = Vec<(String, String)>;

    fn split(pieces: &[&[u8]]) -> Events {
        let mut events = Events::new();
        let mut splitter = Splitter::new(1000);
        for piece in pieces {
            let on_event = |event: SseEvent<'_>| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                events.push((text(event.event), text(event.data)));
            };
            splitter.push(piece, on_event).unwrap();
        }
        events
    }

    fn events(expected: &[(&str, &str)]) -> Events {
        expected.iter().map(|&(event, data)| (event.to_owned(), data.to_owned())).collect()
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        for (stream, expected) in [
            ("data: a\n\n", vec![("", "a")]),
            ("data:a\n\ndata:  b\n\n", vec![("", "a"), ("", " b")]),
            ("data: a\ndata:\ndata: b\n\n", vec![("", "a\n\nb")]),
            ("data\n\n", vec![("", "")]),
            ("data:\n\n", vec![("", "")]),
            ("event: x\ndata: 1\n\ndata: 2\n\n", vec![("x", "1"), ("", "2")]),
            ("event: x\nevent: y\ndata: 1\n\n", vec![("y", "1")]),
            ("event: x\n\ndata: 1\n\n", vec![("", "1")]),
            (": comment\nid: 7\nretry: 10\nother: z\ndata: a:b\n\n", vec![("", "a:b")]),
            (":\n\n:\n\n", vec![]),
            ("Data: a\n data: b\ndata : c\n\n", vec![]),
            ("data: cut off", vec![]),
            ("data: cut off\n", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(split(&[stream.as_bytes()]), events(&expected), "{stream:?}");
        }
    }

    #[test]
    fn every_kind_of_line_end_and_every_split_gives_the_same_events() {
        let lines = [
            "\u{feff}: hello",
            "event: é",
            "data: {\"a\":",
            "data: \"é😀\"}",
            "",
            "data: x",
            "",
            "",
        ];
        let expected = events(&[("é", "{\"a\":\n\"é😀\"}"), ("", "x")]);
        let mixed = lines.iter().zip(["\r\n", "\n", "\r"].iter().cycle());
        let mut streams = vec![mixed.map(|(line, end)| format!("{line}{end}")).collect()];
        for end in ["\n", "\r", "\r\n"] {
            streams.push(lines.join(end));
        }
        for stream in streams {
            let bytes = stream.as_bytes();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(split(&single), expected, "{stream:?}");
            for at in 0..=bytes.len() {
                let (left, right) = bytes.split_at(at);
                assert_eq!(split(&[left, &[], right]), expected, "{stream:?} at {at}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_counts_only_at_the_beginning() {
        assert_eq!(split(&["\u{feff}data: a\n\n".as_bytes()]), events(&[("", "a")]));
        assert_eq!(split(&["\n\u{feff}data: a\n\n".as_bytes()]), events(&[]));
        assert_eq!(split(&["\u{feff}\u{feff}data: a\n\n".as_bytes()]), events(&[]));
    }

    #[test]
    fn an_event_is_bounded_a_stream_is_not() {
        let mut splitter = Splitter::new(20);
        let mut count = 0;
        for _ in 0..1000 {
            splitter.push(b"data: 0123456789\n\n", |_| count += 1).unwrap();
        }
        assert_eq!(count, 1000);
        for too_large in [
            &["data: 0123456789", "0123456789"][..],
            &["data: 0123456789\n", "data: 01234567\n"],
            &["event: 0123456789\n", "data: 0123456\n"],
            &["data: 012345678901234567890123456789\n\n"],
            &[": 0123456789", "0123456789"],
        ] {
            let mut splitter = Splitter::new(20);
            let results: Vec<_> =
                too_large.iter().map(|piece| splitter.push(piece.as_bytes(), |_| {})).collect();
            assert_eq!(results.last(), Some(&Err(TooLarge)), "{too_large:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        push_event(&mut out, None, b"[DONE]");
        push_event(&mut out, Some("ping"), b"{\n\"a\":1\r}");
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "data: [DONE]\n\nevent: ping\ndata: {\ndata: \"a\":1\ndata: }\n\n"
        );
        assert_eq!(split(&[&out]), events(&[("", "[DONE]"), ("ping", "{\n\"a\":1\n}")]));
    }
}
