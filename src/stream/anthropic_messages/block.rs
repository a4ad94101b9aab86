//! One content block, growing by its deltas.

use super::required;
use crate::json::{self, Kind, Object};
use crate::rope::Rope;
use crate::sorted::Sorted;
use crate::stream::StreamError;
use crate::stream::raw::{inside, object, push_name};
use crate::stream::replay::string;

/// A block as it started, and what came since by the member it belongs to: the
/// raw insides of strings and arrays, or a whole value.
#[derive(Debug)]
pub(super) struct Block {
    start: String,
    grown: Sorted<&'static str, Rope>,
}

impl Block {
    pub(super) fn new(start: &Object<'_>) -> Result<Self, StreamError> {
        required(start, "type")?;
        Ok(Self { start: start.text().to_owned(), grown: Sorted::default() })
    }

    pub(super) fn grow(&mut self, delta: &Object<'_>) -> Result<(), StreamError> {
        let text = |name| string(required(delta, name)?).ok_or(StreamError::Unexpected);
        match required(delta, "type")? {
            "\"text_delta\"" => self.push("text", "", text("text")?),
            "\"thinking_delta\"" => self.push("thinking", "", text("thinking")?),
            "\"input_json_delta\"" => self.push("input", "", text("partial_json")?),
            "\"citations_delta\"" => {
                self.push("citations", ",", required(delta, "citation")?);
            }
            "\"signature_delta\"" => {
                self.replace("signature", required(delta, "signature")?);
            }
            "\"compaction_delta\"" => {
                for name in ["content", "encrypted_content"] {
                    if let Some(value) = delta.get(name) {
                        self.replace(name, value);
                    }
                }
            }
            // Without knowing what it adds, the block would come out wrong.
            _ => return Err(StreamError::Unexpected),
        }
        Ok(())
    }

    /// Adds to a member, behind what it has and `between`.
    fn push(&mut self, name: &'static str, between: &str, more: &str) {
        match self.grown.get_mut(name) {
            Some(grown) => {
                grown.push(between.as_bytes());
                grown.push(more.as_bytes());
            }
            None => self.replace(name, more),
        }
    }

    fn replace(&mut self, name: &'static str, value: &str) {
        let mut rope = Rope::default();
        rope.push(value.as_bytes());
        self.grown.insert(name, rope);
    }

    /// About as long as the block is as JSON.
    pub(super) fn len(&self) -> usize {
        self.grown
            .values()
            .fold(self.start.len(), |sum, grown| sum.saturating_add(grown.len()).saturating_add(32))
    }

    /// Appends the block with all that came.
    pub(super) fn write(self, out: &mut Vec<u8>) -> Result<(), StreamError> {
        let start = object(self.start.as_bytes())?;
        let mut grown = self.grown;
        grown.retain(|&name, rope| name != "input" || !rope.is_empty());
        out.push(b'{');
        for member in start.members() {
            push_name(out, &member.name);
            match grown.remove(&*member.name) {
                Some(rope) => write_grown(out, &member.name, Some(member.value), rope)?,
                None => out.extend_from_slice(member.value.as_bytes()),
            }
        }
        for (name, rope) in grown {
            push_name(out, name);
            write_grown(out, name, None, rope)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// The model that continues from here, as JSON, where the block says so.
    pub(super) fn took_over(&self) -> Option<String> {
        let start = object(self.start.as_bytes()).ok()?;
        let to = start.get("to").filter(|_| start.get("type") == Some("\"fallback\""))?;
        Some(object(to.as_bytes()).ok()?.get("model")?.to_owned())
    }
}

/// Appends a member's value: what it was `before`, and what came since.
fn write_grown(
    out: &mut Vec<u8>,
    name: &str,
    before: Option<&str>,
    grown: Rope,
) -> Result<(), StreamError> {
    let was = before.filter(|before| json::kind(before) != Kind::Null);
    match name {
        "text" | "thinking" => {
            let before = string(was.unwrap_or("\"\"")).ok_or(StreamError::Unexpected)?;
            out.push(b'"');
            out.extend_from_slice(before.as_bytes());
            grown.write(out);
            out.push(b'"');
        }
        "citations" => {
            let before = was.unwrap_or("[]");
            if json::kind(before) != Kind::Array {
                return Err(StreamError::Unexpected);
            }
            let before = inside(before).trim_ascii();
            out.push(b'[');
            out.extend_from_slice(before.as_bytes());
            if !before.is_empty() {
                out.push(b',');
            }
            grown.write(out);
            out.push(b']');
        }
        "input" => out.extend_from_slice(document(grown)?.as_bytes()),
        _ => match before {
            // Null never takes anything away.
            Some(before) if grown == *b"null".as_slice() => {
                out.extend_from_slice(before.as_bytes())
            }
            _ => grown.write(out),
        },
    }
    Ok(())
}

/// The JSON text that a JSON string with this inside holds.
fn document(inside: Rope) -> Result<String, StreamError> {
    let mut quoted = Vec::with_capacity(inside.len().saturating_add(2));
    quoted.push(b'"');
    inside.write(&mut quoted);
    quoted.push(b'"');
    drop(inside);
    let text: String = serde_json::from_slice(&quoted).map_err(|_| StreamError::NotJson)?;
    if !json::is_json(&text) {
        return Err(StreamError::NotJson);
    }
    Ok(text)
}
