//! One content block, growing by its deltas.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{overlaid, required};
use crate::json::{self, Kind, Object};
use crate::stream::StreamError;
use crate::stream::raw::{inside, object};
use crate::stream::replay::{quoted, string};

/// A block as it started, and what came since by the member it belongs to: the
/// raw insides of strings and arrays, or a whole value.
#[derive(Debug)]
pub(super) struct Block {
    start: String,
    grown: BTreeMap<&'static str, String>,
}

impl Block {
    pub(super) fn new(start: &Object<'_>) -> Result<Self, StreamError> {
        required(start, "type")?;
        Ok(Self { start: start.text().to_owned(), grown: BTreeMap::new() })
    }

    pub(super) fn grow(&mut self, delta: &Object<'_>) -> Result<(), StreamError> {
        let text = |name| string(required(delta, name)?).ok_or(StreamError::Unexpected);
        match required(delta, "type")? {
            "\"text_delta\"" => self.grown("text").push_str(text("text")?),
            "\"thinking_delta\"" => self.grown("thinking").push_str(text("thinking")?),
            "\"input_json_delta\"" => self.grown("input").push_str(text("partial_json")?),
            "\"citations_delta\"" => {
                let citations = self.grown("citations");
                if !citations.is_empty() {
                    citations.push(',');
                }
                citations.push_str(required(delta, "citation")?);
            }
            "\"signature_delta\"" => {
                required(delta, "signature")?.clone_into(self.grown("signature"));
            }
            "\"compaction_delta\"" => {
                for name in ["content", "encrypted_content"] {
                    if let Some(value) = delta.get(name) {
                        value.clone_into(self.grown(name));
                    }
                }
            }
            // Without knowing what it adds, the block would come out wrong.
            _ => return Err(StreamError::Unexpected),
        }
        Ok(())
    }

    fn grown(&mut self, name: &'static str) -> &mut String {
        self.grown.entry(name).or_default()
    }

    /// The block with all that came.
    pub(super) fn finish(&self) -> Result<String, StreamError> {
        let start = object(self.start.as_bytes())?;
        let mut late = super::Late::new();
        for (&name, grown) in &self.grown {
            let before = start.get(name).filter(|before| json::kind(before) != Kind::Null);
            let value = match name {
                "text" | "thinking" => {
                    let before = string(before.unwrap_or("\"\"")).ok_or(StreamError::Unexpected)?;
                    quoted(&[before, grown].concat())
                }
                "citations" => {
                    let before = before.unwrap_or("[]");
                    if json::kind(before) != Kind::Array {
                        return Err(StreamError::Unexpected);
                    }
                    let before = inside(before).trim_ascii();
                    let comma = if before.is_empty() { "" } else { "," };
                    ["[", before, comma, grown, "]"].concat()
                }
                "input" if grown.is_empty() => continue,
                "input" => document(grown)?,
                _ => grown.clone(),
            };
            late.insert(name.into(), value.into());
        }
        overlaid(&start, late)
    }

    /// The model that continues from here, as JSON, where the block says so.
    pub(super) fn took_over(&self) -> Option<String> {
        let start = object(self.start.as_bytes()).ok()?;
        let to = start.get("to").filter(|_| start.get("type") == Some("\"fallback\""))?;
        Some(object(to.as_bytes()).ok()?.get("model")?.to_owned())
    }
}

/// The JSON text that a JSON string with this inside holds.
fn document(inside: &str) -> Result<String, StreamError> {
    let text: String = serde_json::from_str(&quoted(inside)).map_err(|_| StreamError::NotJson)?;
    serde_json::from_str::<&RawValue>(&text).map_err(|_| StreamError::NotJson)?;
    Ok(text)
}
