//! OpenAI chat completions: `delta`s of a message.

use super::StreamError;
use super::chunks::{Choice, Chunks, Replay};
use super::merge::{Grown, Members};
use super::raw::{inside, items, pieces, push_member, push_name};
use super::sink::Sink;
use crate::json::{self, Kind, Object};
use crate::sse::SseEvent;

/// What a stream has told so far.
#[derive(Debug, Default)]
pub(super) struct State(Chunks);

impl State {
    pub(super) fn event(&mut self, event: &SseEvent<'_>) -> Result<(), StreamError> {
        self.0.event(event, "delta")
    }

    pub(super) fn usage(&self) -> Option<&str> {
        self.0.usage()
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        self.0.finish("chat.completion", "message", |choice| {
            let message = choice.remove("delta").unwrap_or_else(|| Grown::whole("{}"));
            choice.insert("message".to_owned(), completed(message)?);
            Ok(())
        })
    }
}

/// The message with what every plain one has.
fn completed(mut message: Grown) -> Result<Grown, StreamError> {
    let members = message.members()?.ok_or(StreamError::Unexpected)?;
    or_insert(members, "role", "\"assistant\"");
    or_insert(members, "content", "null");
    if let Some(Grown::Indexed(calls)) = members.get_mut("tool_calls") {
        for call in calls.values_mut() {
            let call = call.members()?.ok_or(StreamError::Unexpected)?;
            call.remove("index");
            if let Some(function) = call.get_mut("function") {
                let function = function.members()?.ok_or(StreamError::Unexpected)?;
                or_insert(function, "arguments", "\"\"");
                or_insert(call, "type", "\"function\"");
            }
        }
    }
    Ok(message)
}

fn or_insert(members: &mut Members, name: &str, value: &str) {
    members.insert_new(name.to_owned(), Grown::whole(value));
}

/// The stream that gives `body`.
pub(super) fn replay(body: &Object<'_>, include_usage: bool, to: Sink) -> Option<Sink> {
    let mut replay = Replay::new(body, "chat.completion.chunk", "delta", include_usage, to);
    for mut choice in Choice::all(body)? {
        let message = Object::parse(choice.members.get("message")?.as_bytes()).ok()?;
        replay.piece(&mut choice, &opening(&message));
        texts(&mut replay, &mut choice, &message, body.text().len());
        if let Some(call) = typed(&message, "function_call", Kind::Object) {
            let (opening, arguments) = opened(call)?;
            replay.piece(&mut choice, &object("function_call", &opening));
            for piece in pieces(arguments, body.text().len()) {
                let piece = object("arguments", &quoted(piece));
                replay.piece(&mut choice, &object("function_call", &piece));
            }
        }
        if let Some(calls) = typed(&message, "tool_calls", Kind::Array) {
            for (index, call) in items(calls).ok()?.enumerate() {
                let call = Object::parse(call.as_bytes()).ok()?;
                tool_call(&mut replay, &mut choice, index, &call, body.text().len())?;
            }
        }
        replay.end(choice, b"{}");
    }
    replay.finish()
}

/// The first delta: the role, and all that does not come in pieces.
fn opening(message: &Object<'_>) -> Vec<u8> {
    let mut out = vec![b'{'];
    if let Some(role) = message.get("role") {
        push_member(&mut out, "role", role.as_bytes());
    }
    for member in message.members() {
        let value = match &*member.name {
            "role" => continue,
            "content" if is_text(&member.name, member.value) => "\"\"",
            "refusal" if is_text(&member.name, member.value) => "null",
            name if is_text(name, member.value) || is_call(name, member.value) => continue,
            _ => member.value,
        };
        push_member(&mut out, &member.name, value.as_bytes());
    }
    out.push(b'}');
    out
}

/// The texts: first whatever leads to the content (reasoning), as live ones do.
fn texts(replay: &mut Replay<'_>, choice: &mut Choice<'_>, message: &Object<'_>, whole: usize) {
    let (answer, before): (Vec<_>, Vec<_>) = message
        .members()
        .iter()
        .filter(|member| is_text(&member.name, member.value))
        .partition(|member| matches!(&*member.name, "content" | "refusal"));
    let mut logprobs = choice.logprobs().is_some();
    for member in before {
        for piece in pieces(inside(member.value), whole) {
            replay.piece(choice, &object(&member.name, &quoted(piece)));
        }
    }
    for member in answer {
        if std::mem::take(&mut logprobs) {
            // They cannot be told apart by piece.
            replay.piece_and_logprobs(choice, &object(&member.name, member.value.as_bytes()));
            continue;
        }
        for piece in pieces(inside(member.value), whole) {
            replay.piece(choice, &object(&member.name, &quoted(piece)));
        }
    }
    if logprobs {
        replay.piece_and_logprobs(choice, b"{}");
    }
}

fn tool_call(
    replay: &mut Replay<'_>,
    choice: &mut Choice<'_>,
    index: usize,
    call: &Object<'_>,
    whole: usize,
) -> Option<()> {
    let index = index.to_string();
    let mut begin = vec![b'{'];
    push_member(&mut begin, "index", index.as_bytes());
    let mut arguments = "";
    for member in call.members().iter().filter(|member| member.name != "index") {
        if member.name == "function" {
            let (opening, rest) = opened(member.value)?;
            push_member(&mut begin, "function", &opening);
            arguments = rest;
        } else {
            push_member(&mut begin, &member.name, member.value.as_bytes());
        }
    }
    begin.push(b'}');
    replay.piece(choice, &object("tool_calls", &in_array(&begin)));
    for piece in pieces(arguments, whole) {
        let mut more = vec![b'{'];
        push_member(&mut more, "index", index.as_bytes());
        push_member(&mut more, "function", &object("arguments", &quoted(piece)));
        more.push(b'}');
        replay.piece(choice, &object("tool_calls", &in_array(&more)));
    }
    Some(())
}

/// A called function without its arguments, and the inside of these.
fn opened(function: &str) -> Option<(Vec<u8>, &str)> {
    let function = Object::parse(function.as_bytes()).ok()?;
    let mut out = vec![b'{'];
    let mut arguments = "";
    for member in function.members() {
        if member.name == "arguments" && json::kind(member.value) == Kind::String {
            arguments = inside(member.value);
            push_member(&mut out, "arguments", b"\"\"");
        } else {
            push_member(&mut out, &member.name, member.value.as_bytes());
        }
    }
    out.push(b'}');
    Some((out, arguments))
}

/// Whether this member comes in pieces that are joined.
fn is_text(name: &str, value: &str) -> bool {
    let whole = matches!(name, "role" | "id" | "name" | "type" | "index");
    !whole && json::kind(value) == Kind::String && value != "\"\""
}

fn is_call(name: &str, value: &str) -> bool {
    match name {
        "function_call" => json::kind(value) == Kind::Object,
        "tool_calls" => json::kind(value) == Kind::Array && !json::is_empty(value),
        _ => false,
    }
}

fn typed<'a>(object: &Object<'a>, name: &str, kind: Kind) -> Option<&'a str> {
    object.get(name).filter(|value| json::kind(value) == kind)
}

fn object(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'{'];
    push_name(&mut out, name);
    out.extend_from_slice(value);
    out.push(b'}');
    out
}

fn in_array(item: &[u8]) -> Vec<u8> {
    [b"[", item, b"]"].concat()
}

fn quoted(inside: &str) -> Vec<u8> {
    [b"\"", inside.as_bytes(), b"\""].concat()
}
