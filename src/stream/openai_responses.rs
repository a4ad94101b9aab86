//! OpenAI responses: a stream ends with the response as a plain call gives it.

mod replay;

use super::StreamError;
use super::merge::check_room;
use super::raw::{object, spliceable};
use super::replay::object_of;
use crate::json::{self, Kind, Object};
use crate::sorted::Sorted;
use crate::sse::SseEvent;

pub(super) use self::replay::replay;

/// The response, once it came, and what is needed where that leaves something out.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Finished items by their place in the output.
    items: Sorted<u64, String>,
    usage: Option<String>,
    response: Option<Vec<u8>>,
}

impl State {
    /// # Errors
    /// What makes the stream one that cannot be put together.
    pub(super) fn event(&mut self, event: &SseEvent<'_>) -> Result<(), StreamError> {
        match event.event {
            // What follows the end is not the response's: some servers add `[DONE]`.
            _ if self.response.is_some() => return Ok(()),
            b"error" => return Err(StreamError::ErrorEvent),
            _ if event.data.is_empty() => return Ok(()),
            _ => {}
        }
        let data = object(event.data)?;
        if data.get("error").is_some_and(|error| json::kind(error) != Kind::Null) {
            return Err(StreamError::ErrorEvent);
        }
        match data.get("type").ok_or(StreamError::Unexpected)? {
            "\"error\"" => Err(StreamError::ErrorEvent),
            "\"response.output_item.done\"" => self.item(&data),
            "\"response.completed\"" => self.complete(&data),
            "\"response.failed\"" | "\"response.incomplete\"" | "\"response.cancelled\"" => {
                self.read_usage(&data);
                Err(StreamError::Incomplete)
            }
            _ => {
                self.read_usage(&data);
                Ok(())
            }
        }
    }

    fn read_usage(&mut self, data: &Object<'_>) {
        let response = data.get("response").and_then(|it| Object::parse(it.as_bytes()).ok());
        let usage = response.as_ref().and_then(|response| response.get("usage"));
        if let Some(usage) = usage.filter(|usage| json::kind(usage) == Kind::Object) {
            self.usage = Some(usage.to_owned());
        }
    }

    fn item(&mut self, data: &Object<'_>) -> Result<(), StreamError> {
        let item = data.get("item").ok_or(StreamError::Unexpected)?;
        let index = data.get("output_index").and_then(|index| index.parse().ok());
        check_room(self.items.len())?;
        self.items.insert(index.ok_or(StreamError::Unexpected)?, item.to_owned());
        Ok(())
    }

    fn complete(&mut self, data: &Object<'_>) -> Result<(), StreamError> {
        self.read_usage(data);
        let text = data.get("response").ok_or(StreamError::Unexpected)?;
        let response = spliceable(text.as_bytes())?;
        if response.get("status").is_some_and(|status| status != b"\"completed\"") {
            return Err(StreamError::Incomplete);
        }
        let items = std::mem::take(&mut self.items);
        let body = match response.get("output").map(json::kind) {
            Some(Kind::Array) => text.as_bytes().to_vec(),
            // Some servers leave the output to the items' own events.
            None | Some(Kind::Null) => {
                let items: Vec<String> = items.into_values().collect();
                let output = object_of([("output", &*format!("[{}]", items.join(",")))]);
                let output = spliceable(output.as_bytes())?;
                let whole = response.overlay(&output, false).ok_or(StreamError::Unexpected)?;
                whole.into_owned()
            }
            Some(_) => return Err(StreamError::Unexpected),
        };
        self.response = Some(body);
        Ok(())
    }

    /// The usage reported so far, as JSON.
    pub(super) fn usage(&self) -> Option<&str> {
        self.usage.as_deref()
    }

    /// The response as a plain call would have given it.
    ///
    /// # Errors
    /// `Incomplete` before `response.completed`.
    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        self.response.ok_or(StreamError::Incomplete)
    }
}

#[cfg(test)]
mod tests;
