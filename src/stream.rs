//! Streamed answers: read along until they are the JSON that a plain call would
//! have been given, and written anew from such JSON.
//!
//! ```text
//! bytes ─► Splitter ─► SseEvent ─► the dialect's state ─► finish: the plain body
//! plain body ─► replay ─► bytes
//! ```

mod anthropic_messages;
mod chunks;
mod merge;
mod openai_chat;
mod openai_completions;
mod openai_responses;
mod raw;
mod replay;
mod sink;

use self::sink::Sink;
use crate::dialect::Dialect;
use crate::json::Object;
use crate::sse::{Splitter, SseEvent, TooLarge};

/// Why a stream gave no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// It is larger than the copy may be.
    TooLarge,
    /// An event's data is not JSON.
    NotJson,
    /// JSON that is not of the dialect's shape.
    Unexpected,
    /// The provider reported an error in the middle.
    ErrorEvent,
    /// It ended before the dialect's end marker, or the answer did not come to its end.
    Incomplete,
    /// The dialect has no streams.
    Unsupported,
}

impl From<TooLarge> for StreamError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

/// Reads a stream along and puts the plain body together. Whatever goes wrong
/// is told at the end: the stream itself flows on without us.
#[derive(Debug)]
pub struct Assembler {
    splitter: Splitter,
    state: State,
    bytes_left: usize,
}

#[derive(Debug)]
enum State {
    OpenAiChat(openai_chat::State),
    OpenAiCompletions(openai_completions::State),
    OpenAiResponses(openai_responses::State),
    AnthropicMessages(anthropic_messages::State),
    Broken { error: StreamError, usage: Option<String> },
}

impl Assembler {
    /// An assembler for a stream of at most `max_bytes`.
    pub fn new(dialect: Dialect, max_bytes: usize) -> Self {
        let state = match dialect {
            Dialect::OpenAiChat => State::OpenAiChat(openai_chat::State::default()),
            Dialect::OpenAiCompletions => {
                State::OpenAiCompletions(openai_completions::State::default())
            }
            Dialect::OpenAiResponses => State::OpenAiResponses(openai_responses::State::default()),
            Dialect::AnthropicMessages => {
                State::AnthropicMessages(anthropic_messages::State::default())
            }
            Dialect::OpenAiEmbeddings => {
                State::Broken { error: StreamError::Unsupported, usage: None }
            }
        };
        Self { splitter: Splitter::new(max_bytes), state, bytes_left: max_bytes }
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.error().is_some() {
            return;
        }
        if let Err(error) = self.read(bytes) {
            // What was put together is of no use any more; what was counted is.
            let usage = self.usage().map(str::to_owned);
            self.state = State::Broken { error, usage };
            self.splitter = Splitter::new(0);
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.bytes_left = self.bytes_left.checked_sub(bytes.len()).ok_or(StreamError::TooLarge)?;
        let mut result = Ok(());
        let state = &mut self.state;
        self.splitter.push(bytes, |event| {
            if result.is_ok() {
                result = state.event(&event);
            }
        })?;
        result
    }

    /// What has gone wrong so far.
    pub fn error(&self) -> Option<StreamError> {
        match self.state {
            State::Broken { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The tokens counted so far, as the provider spells them; there also when
    /// the stream broke off.
    pub fn usage(&self) -> Option<&str> {
        match &self.state {
            State::OpenAiChat(state) => state.usage(),
            State::OpenAiCompletions(state) => state.usage(),
            State::OpenAiResponses(state) => state.usage(),
            State::AnthropicMessages(state) => state.usage(),
            State::Broken { usage, .. } => usage.as_deref(),
        }
    }

    /// The body that a plain call would have been given.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn finish(self) -> Result<Vec<u8>, StreamError> {
        match self.state {
            State::OpenAiChat(state) => state.finish(),
            State::OpenAiCompletions(state) => state.finish(),
            State::OpenAiResponses(state) => state.finish(),
            State::AnthropicMessages(state) => state.finish(),
            State::Broken { error, .. } => Err(error),
        }
    }
}

impl State {
    fn event(&mut self, event: &SseEvent<'_>) -> Result<(), StreamError> {
        match self {
            State::OpenAiChat(state) => state.event(event),
            State::OpenAiCompletions(state) => state.event(event),
            State::OpenAiResponses(state) => state.event(event),
            State::AnthropicMessages(state) => state.event(event),
            State::Broken { error, .. } => Err(*error),
        }
    }
}

/// The stream that a client which asked for one is given instead of the plain
/// `body`. `include_usage` is what `stream_options` of OpenAI's chat and
/// completions asks for; the other dialects always tell.
///
/// `None` where the body is not of the dialect's shape.
pub fn replay(dialect: Dialect, body: &Object<'_>, include_usage: bool) -> Option<Vec<u8>> {
    let length = replay_length(dialect, body, include_usage)?;
    replay_of(dialect, body, include_usage, length)
}

/// How long the stream of [`replay`] is: a buffer that grows needs three times
/// its content, one of the right size once.
pub(crate) fn replay_length(
    dialect: Dialect,
    body: &Object<'_>,
    include_usage: bool,
) -> Option<usize> {
    Some(write(dialect, body, include_usage, Sink::measuring())?.len())
}

/// The stream of [`replay`], which is `length` bytes long.
pub(crate) fn replay_of(
    dialect: Dialect,
    body: &Object<'_>,
    include_usage: bool,
    length: usize,
) -> Option<Vec<u8>> {
    write(dialect, body, include_usage, Sink::with_capacity(length)).map(Sink::finish)
}

fn write(dialect: Dialect, body: &Object<'_>, include_usage: bool, to: Sink) -> Option<Sink> {
    match dialect {
        Dialect::OpenAiChat => openai_chat::replay(body, include_usage, to),
        Dialect::OpenAiCompletions => openai_completions::replay(body, include_usage, to),
        Dialect::OpenAiResponses => openai_responses::replay(body, to),
        Dialect::AnthropicMessages => anthropic_messages::replay(body, to),
        Dialect::OpenAiEmbeddings => None,
    }
}

#[cfg(test)]
mod tests;
