//! Server-sent events: the splitter beside a plain reading of the rules.

use optimizer_core::sse::{Splitter, SseEvent, TooLarge, push_event};

use crate::first_line;
use crate::random::Random;

type Events = Vec<(Vec<u8>, Vec<u8>)>;

/// A line with the most bytes that an event may have, then the stream.
pub fn target(data: &[u8]) {
    let (most, stream) = first_line(data);
    let most = std::str::from_utf8(most).ok().and_then(|text| text.parse().ok());
    let most = most.unwrap_or(usize::MAX);

    let whole = split(most, [stream]);
    if let Ok(events) = &whole.1 {
        assert_eq!(&whole.0, &by_the_book(stream), "unlike the rules");
        assert_eq!(events, &());
    }
    assert_eq!(split(most, stream.chunks(1)), whole, "byte by byte");
    let mut random = Random::of(data);
    for longest in [3, 64] {
        assert_eq!(split(most, random.pieces(stream, longest)), whole, "in pieces");
    }
    written_again(&whole.0);
}

/// All events, and whether one was too large.
fn split<'a>(
    most: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Events, Result<(), TooLarge>) {
    let mut splitter = Splitter::new(most);
    let mut events = Events::new();
    for piece in pieces {
        let result = splitter.push(piece, |SseEvent { event, data }| {
            assert!(data.len() <= most && event.len() <= most, "more than may be held");
            events.push((event.to_vec(), data.to_vec()));
        });
        if result.is_err() {
            return (events, result);
        }
    }
    (events, Ok(()))
}

/// The rules of WHATWG, over the whole stream, line by line.
fn by_the_book(stream: &[u8]) -> Events {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut lines = vec![Vec::new()];
    let mut bytes = stream.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&&b'\n');
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("a line").push(byte),
        }
    }
    // What no line end follows is no line.
    lines.pop();
    let mut events = Events::new();
    let (mut event, mut data): (Vec<u8>, Option<Vec<u8>>) = (Vec::new(), None);
    for line in lines {
        if line.is_empty() {
            if let Some(data) = data.take() {
                events.push((event, data));
            }
            event = Vec::new();
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend(value);
                }
                None => data = Some(value.to_vec()),
            },
            b"event" => event = value.to_vec(),
            _ => {}
        }
    }
    events
}

/// What is written is read back.
fn written_again(events: &Events) {
    let mut out = Vec::new();
    let mut expected = Events::new();
    for (event, data) in events {
        let Ok(name) = std::str::from_utf8(event) else { continue };
        push_event(&mut out, (!name.is_empty()).then_some(name), data);
        expected.push((event.clone(), data.clone()));
    }
    assert_eq!(split(usize::MAX, [&*out]).0, expected);
}
