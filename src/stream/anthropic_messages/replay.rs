//! A message as the stream that would have brought it.

use std::borrow::Cow;

use crate::json::{self, Kind, Object};
use crate::stream::raw::{items, pieces};
use crate::stream::replay::{Events, object_of, objects, quoted, replaced, string};
use crate::stream::sink::Sink;

/// Members of the message that are known at its end only, with what stands for
/// them before.
const LATE: [(&str, &str); 5] = [
    ("stop_reason", "null"),
    ("stop_sequence", "null"),
    ("stop_details", "null"),
    ("container", "null"),
    ("context_management", "null"),
];

/// Counts that `message_delta` repeats.
const FINAL_USAGE: [&str; 8] = [
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "iterations",
    "fallback_credit",
];

/// The stream of a message; `None` if `body` is none.
pub(in crate::stream) fn replay(body: &Object<'_>, to: Sink) -> Option<Sink> {
    if body.get("type") != Some("\"message\"") {
        return None;
    }
    for name in ["id", "model", "role"] {
        body.get(name).filter(|value| json::kind(value) == Kind::String)?;
    }
    let usage = Object::parse(body.get("usage")?.as_bytes()).ok()?;
    let mut events = Events::new(to, body);

    let first_usage = replaced(&usage, &[("output_tokens", "1")]);
    // Live streams begin with the first token counted.
    let mut start = vec![("content", "[]"), ("usage", &*first_usage)];
    start.extend(LATE);
    events.push("message_start", &[("message", &replaced(body, &start))]);

    for (index, block) in objects(body.get("content")?)?.iter().enumerate() {
        push_block(&mut events, &index.to_string(), block)?;
    }

    let mut delta = Vec::new();
    let mut beside = Vec::new();
    for (name, _) in LATE {
        match (name, body.get(name)) {
            ("stop_reason" | "stop_sequence", Some(value)) => delta.push((name, value)),
            (_, None | Some("null")) => {}
            ("context_management", Some(value)) => beside.push((name, value)),
            (_, Some(value)) => delta.push((name, value)),
        }
    }
    let final_usage: Vec<(&str, &str)> = FINAL_USAGE
        .iter()
        .filter_map(|&name| Some((name, usage.get(name).filter(|value| *value != "null")?)))
        .collect();
    let (delta, final_usage) = (object_of(delta), object_of(final_usage));
    let mut members = vec![("delta", &*delta), ("usage", &*final_usage)];
    members.extend(beside);
    events.push("message_delta", &members);
    events.push("message_stop", &[]);
    Some(events.finish())
}

fn push_block(events: &mut Events, index: &str, block: &Object<'_>) -> Option<()> {
    let (start, deltas) = parts(block)?;
    let at = ("index", index);
    events.push("content_block_start", &[at, ("content_block", &replaced(block, &start))]);
    let whole = events.whole;
    let mut push = |delta: &str| events.push("content_block_delta", &[at, ("delta", delta)]);
    for part in deltas {
        match part {
            Delta::Whole(delta) => push(&delta),
            Delta::Pieces(kind, name, text) => {
                for piece in pieces(string(&text)?, whole) {
                    push(&delta(kind, name, &quoted(piece)));
                }
            }
        }
    }
    events.push("content_block_stop", &[at]);
    Some(())
}

/// What grows a block.
enum Delta<'a> {
    Whole(String),
    /// One delta of this type for each piece of a text, JSON, under this name.
    Pieces(&'static str, &'static str, Cow<'a, str>),
}

/// Members that start out empty, and the deltas that bring them.
type Parts<'a> = (Vec<(&'static str, &'static str)>, Vec<Delta<'a>>);

fn parts<'a>(block: &Object<'a>) -> Option<Parts<'a>> {
    let mut start = Vec::new();
    let mut deltas = Vec::new();
    let text = |name| block.get(name).filter(|text| json::kind(text) == Kind::String);
    match block.get("type")? {
        "\"text\"" => {
            start.push(("text", EMPTY));
            deltas.push(Delta::Pieces("text_delta", "text", text("text")?.into()));
            // Null, or missing, where the model was given nothing to cite.
            let citations = block.get("citations").filter(|list| json::kind(list) != Kind::Null);
            if let Some(citations) = citations {
                start.push(("citations", "[]"));
                let whole = |it| Delta::Whole(delta("citations_delta", "citation", it));
                deltas.extend(items(citations).ok()?.map(whole));
            }
        }
        "\"thinking\"" => {
            start.extend([("thinking", EMPTY), ("signature", EMPTY)]);
            deltas.push(Delta::Pieces("thinking_delta", "thinking", text("thinking")?.into()));
            let whole = |it| Delta::Whole(delta("signature_delta", "signature", it));
            deltas.extend(block.get("signature").map(whole));
        }
        "\"compaction\"" => {
            start.extend([("content", "null"), ("encrypted_content", "null")]);
            let late = start.iter().filter_map(|&(name, _)| Some((name, block.get(name)?)));
            let all = [("type", "\"compaction_delta\"")].into_iter().chain(late);
            deltas.push(Delta::Whole(object_of(all)));
        }
        // Tool calls, the provider's own among them.
        _ => {
            let input = block.get("input").filter(|input| json::kind(input) == Kind::Object);
            if let Some(input) = input {
                start.push(("input", "{}"));
                // A live stream starts with an empty piece, and leaves it at that without input.
                deltas.push(Delta::Whole(delta("input_json_delta", "partial_json", EMPTY)));
                if !json::is_empty(input) {
                    let input = serde_json::to_string(input).ok()?;
                    deltas.push(Delta::Pieces("input_json_delta", "partial_json", input.into()));
                }
            }
        }
    }
    Some((start, deltas))
}

fn delta(kind: &str, name: &str, value: &str) -> String {
    object_of([("type", &*quoted(kind)), (name, value)])
}

/// A JSON string with nothing in it.
const EMPTY: &str = "\"\"";
