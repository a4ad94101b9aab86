//! What replaying the event streams of both `responses` and `messages` takes.

use super::raw;
use super::sink::Sink;
use crate::json::{self, Kind, Object, ObjectWriter};

/// A stream of named events, being written.
#[derive(Debug)]
pub(super) struct Events {
    out: Sink,
    /// The length of the body that is replayed.
    pub(super) whole: usize,
    numbered: bool,
    next: u64,
}

impl Events {
    pub(super) fn new(out: Sink, body: &Object<'_>) -> Self {
        Self { out, whole: body.text().len(), numbered: false, next: 0 }
    }

    /// Every event tells its number.
    pub(super) fn numbered(out: Sink, body: &Object<'_>) -> Self {
        Self { numbered: true, ..Self::new(out, body) }
    }

    /// Adds an event called `kind` with these members, whose values are JSON.
    pub(super) fn push(&mut self, kind: &str, members: &[(&str, &str)]) {
        let (quoted, number) = (format!("\"{kind}\""), self.next.to_string());
        let mut all = vec![("type", &*quoted)];
        if self.numbered {
            all.push(("sequence_number", &*number));
            self.next = self.next.saturating_add(1);
        }
        all.extend_from_slice(members);
        self.out.push_event(Some(kind), object_of(all).as_bytes());
    }

    pub(super) fn finish(self) -> Sink {
        self.out
    }
}

/// An object of members whose values are JSON already.
pub(super) fn object_of<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut object = ObjectWriter::default();
    for (name, value) in members {
        object.raw(name, value);
    }
    // Made of strings: it is UTF-8.
    String::from_utf8(object.finish()).unwrap_or_default()
}

/// `original` with other values for those of its members that `new` names.
pub(super) fn replaced(original: &Object<'_>, new: &[(&str, &str)]) -> String {
    object_of(original.members().iter().map(|member| {
        let replacement = new.iter().find(|(name, _)| member.name == *name);
        (&*member.name, replacement.map_or(member.value, |(_, value)| value))
    }))
}

/// The items of an array of objects; `None` if `list` is something else.
pub(super) fn objects(list: &str) -> Option<Vec<Object<'_>>> {
    raw::items(list).ok()?.map(|item| Object::parse(item.as_bytes()).ok()).collect()
}

/// What stands between the quotes, if `value` is a string.
pub(super) fn string(value: &str) -> Option<&str> {
    (json::kind(value) == Kind::String).then(|| raw::inside(value))
}

/// The string with this between its quotes.
pub(super) fn quoted(inside: &str) -> String {
    ["\"", inside, "\""].concat()
}
