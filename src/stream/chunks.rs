//! What OpenAI's chat and completions have in common: an answer as a stream of
//! chunks, each with the answer's own members and pieces of its choices.

use super::StreamError;
use super::merge::{Members, Rule, check_room, length, merge_member, take};
use super::raw::{items, object, push_member, push_name};
use super::sink::Sink;
use crate::json::{self, Kind, Object};
use crate::protocol::has_error;
use crate::sorted::Sorted;
use crate::sse::SseEvent;

/// The members that a chunk of any kind carries, in the order of the API.
const HEAD: [&str; 6] = ["id", "object", "created", "model", "service_tier", "system_fingerprint"];

/// What the chunks have told so far.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    head: Sorted<String, String>,
    choices: Sorted<u64, Members>,
    usage: Option<String>,
    done: bool,
    /// Members, items and choices so far.
    used: usize,
}

impl Chunks {
    /// Takes the next event. `piece` is the choices' member that comes in pieces.
    pub(super) fn event(&mut self, event: &SseEvent<'_>, piece: &str) -> Result<(), StreamError> {
        if self.done {
            return Ok(());
        }
        if event.event == b"error" {
            return Err(StreamError::ErrorEvent);
        }
        if event.data.starts_with(b"[DONE]") {
            self.done = true;
            return Ok(());
        }
        let chunk = object(event.data)?;
        if has_error(&chunk) || chunk.get("object") == Some("\"error\"") {
            return Err(StreamError::ErrorEvent);
        }
        if let Some(usage) = chunk.get("usage").filter(|usage| json::kind(usage) == Kind::Object) {
            self.usage = Some(usage.to_owned());
        }
        // What has none is no chunk: some gateways keep a connection alive like this.
        let Some(choices) = chunk.get("choices") else { return Ok(()) };
        for choice in items(choices)? {
            self.choice(&object(choice.as_bytes())?, piece)?;
        }
        for member in chunk.members() {
            self.head(&member.name, member.value)?;
        }
        Ok(())
    }

    fn head(&mut self, name: &str, value: &str) -> Result<(), StreamError> {
        match name {
            "choices" | "usage" | "obfuscation" => return Ok(()),
            "system_fingerprint" | "moderation" if !is_blank(value) => {}
            // Some providers begin with a chunk that names neither the answer nor the model.
            _ if self.head.get(name).is_some_and(|old| !is_blank(old)) => return Ok(()),
            _ => {}
        }
        take(&mut self.used)?;
        self.head.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn choice(&mut self, choice: &Object<'_>, piece: &str) -> Result<(), StreamError> {
        let index = choice.get("index").and_then(|index| index.parse().ok());
        let index = index.ok_or(StreamError::Unexpected)?;
        if self.choices.get(&index).is_none() {
            take(&mut self.used)?;
            self.choices.insert(index, Members::default());
        }
        let Some(members) = self.choices.get_mut(&index) else { return Ok(()) };
        for member in choice.members() {
            let name = &*member.name;
            if name == piece {
                merge_member(members, name, member.value, Rule::Piece, 0, &mut self.used)?;
            } else if name != "finish_reason" || is_reason(member.value) {
                merge_member(members, name, member.value, Rule::State, 0, &mut self.used)?;
            }
        }
        Ok(())
    }

    /// The tokens counted so far.
    pub(super) fn usage(&self) -> Option<&str> {
        self.usage.as_deref()
    }

    /// The plain body, an `object`. `complete` turns the members of a choice
    /// into those of a plain body, of which `answer` holds the answer.
    pub(super) fn finish(
        mut self,
        object: &str,
        answer: &str,
        complete: impl Fn(&mut Members) -> Result<(), StreamError>,
    ) -> Result<Vec<u8>, StreamError> {
        if !self.done {
            return Err(StreamError::Incomplete);
        }
        if self.choices.is_empty() {
            return Err(StreamError::Unexpected);
        }
        self.head.insert("object".to_owned(), format!("\"{object}\""));
        let choices = self.choices.values().map(length).fold(256, usize::saturating_add);
        let head = self.head.values().map(|value| value.len().saturating_add(64));
        let usage = self.usage.as_ref().map_or(0, String::len);
        let mut out =
            Vec::with_capacity(head.fold(choices.saturating_add(usage), usize::saturating_add));
        out.push(b'{');
        for name in HEAD {
            if let Some(value) = self.head.remove(name) {
                push_member(&mut out, name, value.as_bytes());
            }
        }
        push_name(&mut out, "choices");
        for (place, mut members) in std::mem::take(&mut self.choices).into_values().enumerate() {
            if members.get("finish_reason").is_none() {
                return Err(StreamError::Incomplete);
            }
            complete(&mut members)?;
            out.extend_from_slice(if place == 0 { b"[{" } else { b",{" });
            for name in ["index", answer] {
                if let Some(value) = members.remove(name) {
                    push_name(&mut out, name);
                    value.write(&mut out);
                }
            }
            for (name, value) in members.iter() {
                push_name(&mut out, name);
                value.write(&mut out);
            }
            out.push(b'}');
        }
        out.push(b']');
        if let Some(usage) = self.usage {
            push_member(&mut out, "usage", usage.as_bytes());
        }
        for (name, value) in self.head.iter() {
            push_member(&mut out, name, value.as_bytes());
        }
        out.push(b'}');
        Ok(out)
    }
}

/// Whether a member of a chunk tells nothing.
fn is_blank(value: &str) -> bool {
    matches!(value, "null" | "\"\"" | "0")
}

/// A plain body written as chunks.
pub(super) struct Replay<'a> {
    out: Sink,
    /// More than this is no stream that a provider would send: each chunk repeats the head.
    max_bytes: usize,
    /// The beginning of every chunk, an object still open.
    head: Vec<u8>,
    /// Further members of the body, as `head`; the first chunk carries them.
    once: Vec<u8>,
    piece: &'static str,
    include_usage: bool,
    usage: Option<&'a str>,
}

impl<'a> Replay<'a> {
    /// The choices' `piece` is what comes in pieces.
    pub(super) fn new(
        body: &Object<'a>,
        object: &str,
        piece: &'static str,
        include_usage: bool,
        out: Sink,
    ) -> Self {
        let mut head = vec![b'{'];
        for name in HEAD {
            if name == "object" {
                push_member(&mut head, name, format!("\"{object}\"").as_bytes());
            } else if let Some(value) = body.get(name) {
                push_member(&mut head, name, value.as_bytes());
            }
        }
        let mut once = head.clone();
        for member in body.members() {
            if !HEAD.contains(&&*member.name) && !matches!(&*member.name, "choices" | "usage") {
                push_member(&mut once, &member.name, member.value.as_bytes());
            }
        }
        let usage = body.get("usage").filter(|usage| json::kind(usage) == Kind::Object);
        let max_bytes = body.text().len().saturating_mul(32).saturating_add(64 * 1024);
        Self { out, max_bytes, head, once, piece, include_usage, usage }
    }

    /// Writes a chunk with the next piece of `choice`.
    pub(super) fn piece(&mut self, choice: &mut Choice<'_>, piece: &[u8]) {
        self.piece_with(choice, piece, None, None);
    }

    /// Writes a chunk with the next piece of `choice` and its log probabilities.
    pub(super) fn piece_and_logprobs(&mut self, choice: &mut Choice<'_>, piece: &[u8]) {
        let logprobs = choice.logprobs();
        self.piece_with(choice, piece, logprobs, None);
    }

    /// Writes the last chunk of `choice`.
    pub(super) fn end(&mut self, mut choice: Choice<'_>, piece: &[u8]) {
        let reason = choice.finish_reason;
        self.piece_with(&mut choice, piece, None, Some(reason));
    }

    fn piece_with(
        &mut self,
        choice: &mut Choice<'_>,
        piece: &[u8],
        logprobs: Option<&str>,
        finish_reason: Option<&str>,
    ) {
        if self.out.len() > self.max_bytes {
            return;
        }
        let mut out = b"[{".to_vec();
        push_member(&mut out, "index", choice.index.to_string().as_bytes());
        push_member(&mut out, self.piece, piece);
        if choice.members.get("logprobs").is_some() {
            push_member(&mut out, "logprobs", logprobs.unwrap_or("null").as_bytes());
        }
        push_member(&mut out, "finish_reason", finish_reason.unwrap_or("null").as_bytes());
        if !std::mem::replace(&mut choice.begun, true) {
            for member in choice.members.members() {
                let known = ["index", "message", "text", "logprobs", "finish_reason"];
                if !known.contains(&&*member.name) {
                    push_member(&mut out, &member.name, member.value.as_bytes());
                }
            }
        }
        out.extend_from_slice(b"}]");
        let usage = self.include_usage.then_some("null");
        self.chunk(&out, usage);
    }

    fn chunk(&mut self, choices: &[u8], usage: Option<&str>) {
        let mut chunk = std::mem::take(&mut self.once);
        if chunk.is_empty() {
            chunk.extend_from_slice(&self.head);
        }
        push_member(&mut chunk, "choices", choices);
        if let Some(usage) = usage {
            push_member(&mut chunk, "usage", usage.as_bytes());
        }
        chunk.push(b'}');
        self.out.push_event(None, &chunk);
    }

    /// The whole stream; `None` if it became too large.
    pub(super) fn finish(mut self) -> Option<Sink> {
        if self.include_usage && self.usage.is_some() {
            self.chunk(b"[]", self.usage);
        }
        self.out.push_event(None, b"[DONE]");
        (self.out.len() <= self.max_bytes).then_some(self.out)
    }
}

/// A choice of a plain body.
pub(super) struct Choice<'a> {
    pub(super) members: Object<'a>,
    index: u64,
    finish_reason: &'a str,
    begun: bool,
}

impl<'a> Choice<'a> {
    /// The choices of a plain body, in the order of their `index`.
    pub(super) fn all(body: &Object<'a>) -> Option<Vec<Self>> {
        let mut choices = Sorted::default();
        for item in items(body.get("choices")?).ok()? {
            let members = Object::parse(item.as_bytes()).ok()?;
            let index = members.get("index")?.parse().ok()?;
            let finish_reason = members.get("finish_reason").filter(|value| is_reason(value))?;
            let choice = Self { members, index, finish_reason, begun: false };
            check_room(choices.len()).ok()?;
            if choices.insert(index, choice).is_some() {
                return None;
            }
        }
        (!choices.is_empty()).then(|| choices.into_values().collect())
    }

    /// The log probabilities, if there are any.
    pub(super) fn logprobs(&self) -> Option<&'a str> {
        self.members.get("logprobs").filter(|value| json::kind(value) != Kind::Null)
    }
}

fn is_reason(value: &str) -> bool {
    json::kind(value) == Kind::String && value != "\"\""
}
