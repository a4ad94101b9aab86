//! OpenAI (legacy) completions: pieces of a text.

use super::StreamError;
use super::chunks::{Choice, Chunks, Replay};
use super::merge::Grown;
use super::raw::{inside, pieces};
use super::sink::Sink;
use crate::json::{self, Kind, Object};
use crate::sse::SseEvent;

/// What a stream has told so far.
#[derive(Debug, Default)]
pub(super) struct State(Chunks);

impl State {
    pub(super) fn event(&mut self, event: &SseEvent<'_>) -> Result<(), StreamError> {
        self.0.event(event, "text")
    }

    pub(super) fn usage(&self) -> Option<&str> {
        self.0.usage()
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        self.0.finish("text_completion", "text", |choice| {
            choice.insert_new("text".to_owned(), Grown::whole("\"\""));
            Ok(())
        })
    }
}

/// The stream that gives `body`.
pub(super) fn replay(body: &Object<'_>, include_usage: bool, to: Sink) -> Option<Sink> {
    let mut replay = Replay::new(body, "text_completion", "text", include_usage, to);
    for mut choice in Choice::all(body)? {
        let text = choice.members.get("text").filter(|text| json::kind(text) == Kind::String)?;
        if choice.logprobs().is_some() {
            // They cannot be told apart by piece.
            replay.piece_and_logprobs(&mut choice, text.as_bytes());
        } else {
            for piece in pieces(inside(text), body.text().len()) {
                replay.piece(&mut choice, format!("\"{piece}\"").as_bytes());
            }
        }
        replay.end(choice, b"\"\"");
    }
    replay.finish()
}
