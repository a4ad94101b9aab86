//! Anthropic messages: the events of a stream made into the message, and back.

mod block;
mod replay;

use std::borrow::Cow;
use std::cell::OnceCell;

use self::block::Block;
use super::StreamError;
use super::merge::check_room;
use super::raw::{object, push_name, spliceable};
use super::replay::object_of;
use crate::json::{self, Kind, Object};
use crate::sorted::Sorted;
use crate::sse::SseEvent;

pub(super) use self::replay::replay;

/// The message so far.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The message as it started.
    start: Option<String>,
    blocks: Sorted<u64, Block>,
    /// Every `message_delta`.
    changes: Vec<String>,
    usage: OnceCell<Option<String>>,
    stopped: bool,
}

impl State {
    /// # Errors
    /// What makes the stream one that cannot be put together.
    pub(super) fn event(&mut self, event: &SseEvent<'_>) -> Result<(), StreamError> {
        match event.event {
            // What follows the end is not the message's.
            _ if self.stopped => return Ok(()),
            b"error" => return Err(StreamError::ErrorEvent),
            b"ping" => return Ok(()),
            _ if event.data.is_empty() => return Ok(()),
            _ => {}
        }
        let data = object(event.data)?;
        let kind = required(&data, "type")?;
        if kind == "\"error\"" {
            return Err(StreamError::ErrorEvent);
        }
        // The API reserves the right to add events, as it did with `ping`.
        let known = kind.starts_with("\"message_") || kind.starts_with("\"content_block_");
        if known && self.start.is_none() != (kind == "\"message_start\"") {
            return Err(StreamError::Unexpected);
        }
        match kind {
            "\"message_start\"" => self.start(&required_object(&data, "message")?),
            "\"content_block_start\"" => {
                let block = Block::new(&required_object(&data, "content_block")?)?;
                check_room(self.blocks.len())?;
                match self.blocks.insert(index(&data)?, block) {
                    None => Ok(()),
                    Some(_) => Err(StreamError::Unexpected),
                }
            }
            "\"content_block_delta\"" => self.block(&data)?.grow(&required_object(&data, "delta")?),
            "\"content_block_stop\"" => self.block(&data).map(|_| ()),
            "\"message_delta\"" => self.change(&data),
            "\"message_stop\"" => {
                self.stopped = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, message: &Object<'_>) -> Result<(), StreamError> {
        if message.get("content").is_some_and(|content| !json::is_empty(content)) {
            return Err(StreamError::Unexpected);
        }
        self.start = Some(message.text().to_owned());
        Ok(())
    }

    fn block(&mut self, data: &Object<'_>) -> Result<&mut Block, StreamError> {
        self.blocks.get_mut(&index(data)?).ok_or(StreamError::Unexpected)
    }

    /// `message_delta`: what is known only at the message's end.
    fn change(&mut self, data: &Object<'_>) -> Result<(), StreamError> {
        required_object(data, "delta")?;
        self.changes.push(data.text().to_owned());
        self.usage = OnceCell::new();
        Ok(())
    }

    /// The usage reported so far, as JSON. Counts are totals: a later one
    /// replaces an earlier one, a missing or null one does not.
    pub(super) fn usage(&self) -> Option<&str> {
        let merged = self.usage.get_or_init(|| {
            let start = object(self.start.as_ref()?.as_bytes()).ok()?;
            let start = member_object(&start, "usage");
            let mut late = Late::default();
            for change in &self.changes {
                let change = object(change.as_bytes()).ok()?;
                lay(&mut late, member_object(&change, "usage").as_ref()).ok()?;
            }
            match start {
                Some(start) => overlaid(&start, late).ok(),
                None => (!late.is_empty()).then(|| write(late)),
            }
        });
        merged.as_deref()
    }

    /// The message as a plain call would have been given it.
    ///
    /// # Errors
    /// `Incomplete` before `message_stop`; `NotJson` where a tool's input is not.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, StreamError> {
        self.usage();
        let usage = self.usage.take().flatten();
        let text = self.start.take().filter(|_| self.stopped).ok_or(StreamError::Incomplete)?;
        let start = object(text.as_bytes())?;
        let changes = std::mem::take(&mut self.changes);
        let mut late = Late::default();
        for change in &changes {
            let change = object(change.as_bytes())?;
            lay(&mut late, member_object(&change, "delta").as_ref())?;
            lay(&mut late, Some(&change))?;
        }
        for wrapping in ["type", "delta", "usage"] {
            late.remove(wrapping);
        }
        if let Some(usage) = &usage {
            late.insert(Cow::Borrowed("usage"), Cow::Borrowed(usage));
        }
        // Another model took over: the message is labelled with that one.
        if let Some(model) = self.blocks.values().rev().find_map(Block::took_over) {
            late.insert(Cow::Borrowed("model"), Cow::Owned(model));
        }
        late.insert(Cow::Borrowed("content"), Cow::Borrowed("[]"));
        late.retain(|name, value| json::kind(&**value) != Kind::Null || start.get(name).is_none());

        let blocks = self.blocks.values().map(Block::len);
        let length = late.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let length = length
            .chain(blocks)
            .fold(text.len(), |sum, it| sum.saturating_add(it).saturating_add(8));
        let mut out = Vec::with_capacity(length);
        out.push(b'{');
        for member in start.members() {
            let value = late.remove(&member.name);
            self.push(&mut out, &member.name, value.as_deref().unwrap_or(member.value))?;
        }
        for (name, value) in late.iter() {
            self.push(&mut out, name, value)?;
        }
        out.push(b'}');
        Ok(out)
    }

    /// Appends a member of the message; the content is made of the blocks.
    fn push(&mut self, out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), StreamError> {
        push_name(out, name);
        if name != "content" {
            out.extend_from_slice(value.as_bytes());
            return Ok(());
        }
        out.push(b'[');
        for (place, block) in std::mem::take(&mut self.blocks).into_values().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            block.write(out)?;
        }
        out.push(b']');
        Ok(())
    }
}

/// Members that come late, by their names.
type Late<'a> = Sorted<Cow<'a, str>, Cow<'a, str>>;

/// Lays `newer` over what is there. Null never takes anything away.
fn lay<'a>(late: &mut Late<'a>, newer: Option<&Object<'a>>) -> Result<(), StreamError> {
    for member in newer.map_or(&[][..], Object::members) {
        check_room(late.len())?;
        let (name, value) = (member.name.clone(), Cow::Borrowed(member.value));
        if json::kind(member.value) == Kind::Null {
            late.insert_new(name, value);
        } else {
            late.insert(name, value);
        }
    }
    Ok(())
}

fn write(late: Late<'_>) -> String {
    object_of(late.iter().map(|(name, value)| (&**name, &**value)))
}

fn overlaid(base: &Object<'_>, mut late: Late<'_>) -> Result<String, StreamError> {
    late.retain(|name, value| json::kind(&**value) != Kind::Null || base.get(name).is_none());
    let late = write(late);
    let changed = spliceable(base.text().as_bytes())?.overlay(&spliceable(late.as_bytes())?, false);
    changed.map_or_else(
        || Ok(base.text().to_owned()),
        |bytes| String::from_utf8(bytes.into_owned()).map_err(|_| StreamError::NotJson),
    )
}

fn required<'a>(object: &Object<'a>, name: &str) -> Result<&'a str, StreamError> {
    object.get(name).ok_or(StreamError::Unexpected)
}

fn required_object<'a>(data: &Object<'a>, name: &str) -> Result<Object<'a>, StreamError> {
    object(required(data, name)?.as_bytes())
}

fn member_object<'a>(data: &Object<'a>, name: &str) -> Option<Object<'a>> {
    object(data.get(name)?.as_bytes()).ok()
}

fn index(data: &Object<'_>) -> Result<u64, StreamError> {
    required(data, "index")?.parse().map_err(|_| StreamError::Unexpected)
}

#[cfg(test)]
mod tests;
