//! A response as the stream that would have brought it.

use crate::json::{self, Kind, Object};
use crate::stream::raw::pieces;
use crate::stream::replay::{Events, objects, quoted, replaced, string};
use crate::stream::sink::Sink;

/// How an item that is no message and no reasoning is announced.
struct Call {
    kind: &'static str,
    /// The member that comes in pieces, and its events' name.
    streamed: Option<(&'static str, &'static str)>,
    /// Events before and after the pieces; `completed` is `failed` for an item with an error.
    before: &'static [&'static str],
    after: &'static [&'static str],
    /// Members that are known only when the item is done, and what stands for them before.
    late: &'static [(&'static str, &'static str)],
}

const CALLS: [Call; 8] = [
    Call {
        kind: "function_call",
        streamed: Some(("arguments", "function_call_arguments")),
        before: &[],
        after: &[],
        late: &[],
    },
    Call {
        kind: "custom_tool_call",
        streamed: Some(("input", "custom_tool_call_input")),
        before: &[],
        after: &[],
        late: &[],
    },
    Call {
        kind: "mcp_call",
        streamed: Some(("arguments", "mcp_call_arguments")),
        before: &["in_progress"],
        after: &["completed"],
        late: &[("output", "null"), ("error", "null")],
    },
    Call {
        kind: "mcp_list_tools",
        streamed: None,
        before: &["in_progress"],
        after: &["completed"],
        late: &[("tools", "[]")],
    },
    Call {
        kind: "code_interpreter_call",
        streamed: Some(("code", "code_interpreter_call_code")),
        before: &["in_progress"],
        after: &["interpreting", "completed"],
        late: &[("outputs", "null")],
    },
    Call {
        kind: "web_search_call",
        streamed: None,
        before: &["in_progress", "searching"],
        after: &["completed"],
        late: &[],
    },
    Call {
        kind: "file_search_call",
        streamed: None,
        before: &["in_progress", "searching"],
        after: &["completed"],
        late: &[("results", "null")],
    },
    Call {
        kind: "image_generation_call",
        streamed: None,
        before: &["in_progress", "generating"],
        after: &["completed"],
        late: &[("result", "null")],
    },
];

/// The stream of a response that ended; `None` if `body` is none.
pub(in crate::stream) fn replay(body: &Object<'_>, to: Sink) -> Option<Sink> {
    for name in ["id", "model"] {
        body.get(name).filter(|value| json::kind(value) == Kind::String)?;
    }
    let last = match body.get("status") {
        None | Some("\"completed\"") => "response.completed",
        Some("\"incomplete\"") => "response.incomplete",
        Some(_) => return None,
    };
    let started = replaced(
        body,
        &[
            ("status", "\"in_progress\""),
            ("output", "[]"),
            ("usage", "null"),
            ("completed_at", "null"),
            ("incomplete_details", "null"),
        ],
    );
    let mut events = Events::numbered(to, body);
    events.push("response.created", &[("response", &started)]);
    events.push("response.in_progress", &[("response", &started)]);
    for (index, item) in objects(body.get("output")?)?.iter().enumerate() {
        push_item(&mut events, &index.to_string(), item)?;
    }
    events.push(last, &[("response", body.text())]);
    Some(events.finish())
}

fn push_item(events: &mut Events, index: &str, item: &Object<'_>) -> Option<()> {
    let at = ("output_index", index);
    let kind = string(item.get("type")?)?;
    let call = CALLS.iter().find(|call| call.kind == kind);
    let holds_parts = matches!(kind, "message" | "reasoning");
    // What comes in between names its item; one without a name comes whole.
    match item.get("id").filter(|id| json::kind(id) == Kind::String) {
        None => events.push("response.output_item.added", &[at, ("item", item.text())]),
        Some(id) => {
            let mut started = vec![("status", "\"in_progress\"")];
            match call {
                Some(call) => {
                    started.extend(call.late);
                    started.extend(call.streamed.map(|(member, _)| (member, "\"\"")));
                }
                None if holds_parts => {
                    let parts = ["summary", "content"].into_iter();
                    let parts = parts.filter(|name| list(item, name).is_some());
                    started.extend(parts.map(|name| (name, "[]")));
                }
                None => {}
            }
            let started = replaced(item, &started);
            events.push("response.output_item.added", &[at, ("item", &started)]);
            let mut open = OpenItem { events, place: [("item_id", id), at] };
            match call {
                Some(call) => open.push_call(item, call)?,
                None if holds_parts => open.push_parts(item)?,
                None => {}
            }
        }
    }
    events.push("response.output_item.done", &[at, ("item", item.text())]);
    Some(())
}

/// An item between its first and its last event.
struct OpenItem<'e, 'b> {
    events: &'e mut Events,
    place: [(&'b str, &'b str); 2],
}

impl OpenItem<'_, '_> {
    fn push(&mut self, kind: &str, members: &[(&str, &str)]) {
        self.events.push(&format!("response.{kind}"), &[&self.place, members].concat());
    }

    fn push_call(&mut self, item: &Object<'_>, call: &Call) -> Option<()> {
        for state in call.before {
            self.push(&format!("{}.{state}", call.kind), &[]);
        }
        if let Some((member, event)) = call.streamed
            && let Some(text) = item.get(member).filter(|text| *text != "null")
        {
            self.push_text(event, &[], (member, text))?;
        }
        let failed = item.get("error").is_some_and(|error| json::kind(error) != Kind::Null);
        for state in call.after {
            let state = if failed && *state == "completed" { "failed" } else { state };
            self.push(&format!("{}.{state}", call.kind), &[]);
        }
        Some(())
    }

    /// The deltas of a text and the event that repeats it whole, under its own name.
    fn push_text(&mut self, event: &str, at: &[(&str, &str)], whole: (&str, &str)) -> Option<()> {
        for piece in pieces(string(whole.1)?, self.events.whole) {
            let delta = quoted(piece);
            self.push(&format!("{event}.delta"), &[at, &[("delta", &*delta)]].concat());
        }
        self.push(&format!("{event}.done"), &[at, &[whole]].concat());
        Some(())
    }

    /// A reasoning's summary, and what a message or a reasoning holds.
    fn push_parts(&mut self, item: &Object<'_>) -> Option<()> {
        for (index, part) in objects(list(item, "summary").unwrap_or("[]"))?.iter().enumerate() {
            let at = ("summary_index", &*index.to_string());
            let started = replaced(part, &[("text", "\"\"")]);
            self.push("reasoning_summary_part.added", &[at, ("part", &started)]);
            self.push_text("reasoning_summary_text", &[at], ("text", part.get("text")?))?;
            self.push("reasoning_summary_part.done", &[at, ("part", part.text())]);
        }
        for (index, part) in objects(list(item, "content").unwrap_or("[]"))?.iter().enumerate() {
            let at = ("content_index", &*index.to_string());
            match string(part.get("type")?)? {
                "output_text" => self.push_output_text(at, part)?,
                "refusal" => self.push_part("refusal", at, part, "refusal")?,
                "reasoning_text" => self.push_part("reasoning_text", at, part, "text")?,
                _ => self.push("content_part.added", &[at, ("part", part.text())]),
            }
            self.push("content_part.done", &[at, ("part", part.text())]);
        }
        Some(())
    }

    fn push_part(
        &mut self,
        event: &str,
        at: (&str, &str),
        part: &Object<'_>,
        member: &str,
    ) -> Option<()> {
        let started = replaced(part, &[(member, "\"\"")]);
        self.push("content_part.added", &[at, ("part", &started)]);
        self.push_text(event, &[at], (member, part.get(member)?))
    }

    fn push_output_text(&mut self, at: (&str, &str), part: &Object<'_>) -> Option<()> {
        let text = part.get("text")?;
        let logprobs = ("logprobs", list(part, "logprobs").unwrap_or("[]"));
        let started =
            replaced(part, &[("text", "\"\""), ("annotations", "[]"), ("logprobs", "[]")]);
        self.push("content_part.added", &[at, ("part", &started)]);
        if json::is_empty(logprobs.1) {
            for piece in pieces(string(text)?, self.events.whole) {
                let delta = quoted(piece);
                self.push("output_text.delta", &[at, ("delta", &delta), logprobs]);
            }
        } else {
            // The probabilities stay with the text that they are about.
            self.push("output_text.delta", &[at, ("delta", text), logprobs]);
        }
        let annotations = objects(list(part, "annotations").unwrap_or("[]"))?;
        for (index, annotation) in annotations.iter().enumerate() {
            let index = index.to_string();
            let members = [at, ("annotation_index", &*index), ("annotation", annotation.text())];
            self.push("output_text.annotation.added", &members);
        }
        self.push("output_text.done", &[at, ("text", text), logprobs]);
        Some(())
    }
}

fn list<'a>(item: &Object<'a>, name: &str) -> Option<&'a str> {
    item.get(name).filter(|value| json::kind(value) == Kind::Array)
}
