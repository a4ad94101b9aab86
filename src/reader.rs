//! Reads an answer along as it passes. Whatever it runs into, the answer flows on.

use bytes::Bytes;

use crate::admission::{Form, response_error};
use crate::bypass::Bypass;
use crate::dialect::Dialect;
use crate::json::Object;
use crate::rope::Rope;
use crate::stream::{Assembler, StreamError};
use crate::usage::Usage;

/// An answer that is being read along.
#[derive(Debug)]
pub(crate) struct Reader {
    seen: usize,
    copy: Copy,
}

#[derive(Debug)]
enum Copy {
    Json(Rope),
    Stream(Box<Assembler>),
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The answer as one JSON document; perhaps nothing, where only its usage was wanted.
    pub(crate) body: Result<Bytes, Bypass>,
    /// What it cost, as far as it got.
    pub(crate) usage: Option<Usage>,
}

impl Reader {
    pub(crate) fn new(dialect: Dialect, form: Form, max_bytes: usize) -> Self {
        let copy = match form {
            Form::Json => Copy::Json(Rope::default()),
            Form::Stream => Copy::Stream(Box::new(Assembler::new(dialect, max_bytes))),
        };
        Self { seen: 0, copy }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.seen = self.seen.saturating_add(chunk.len());
        match &mut self.copy {
            Copy::Json(copy) => copy.push(chunk),
            Copy::Stream(assembler) => assembler.push(chunk),
        }
    }

    /// Bytes seen so far: no less than what is held of them.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    pub(crate) fn form(&self) -> Form {
        match self.copy {
            Copy::Json(_) => Form::Json,
            Copy::Stream(_) => Form::Stream,
        }
    }

    /// `ended`: the body came to its end. `whole`: not only what it cost is of interest.
    pub(crate) fn finish(self, ended: bool, whole: bool) -> Finished {
        match self.copy {
            Copy::Json(_) if !ended => {
                Finished { body: Err(Bypass::ResponseUnreadable), usage: None }
            }
            Copy::Json(copy) => {
                let body = copy.join();
                if !whole && let Some(usage) = Usage::near_end(&body) {
                    return Finished { body: Ok(Bytes::new()), usage: Some(usage) };
                }
                match Object::parse_only(&body, "usage") {
                    Ok(object) => {
                        let usage = object.get("usage").and_then(Usage::parse);
                        Finished { usage, body: Ok(body.into()) }
                    }
                    Err(error) => Finished { usage: None, body: Err(response_error(error)) },
                }
            }
            Copy::Stream(assembler) => {
                let usage = assembler.usage().and_then(Usage::parse);
                // Not the end but the end marker says that all is there: OpenAI's SDK hangs up
                // as soon as it has it.
                let body = assembler.finish().map(Bytes::from).map_err(stream_error);
                Finished { body, usage }
            }
        }
    }
}

/// The JSON document that a whole stream stands for.
pub(crate) fn assemble(dialect: Dialect, stream: Bytes) -> Result<Bytes, Bypass> {
    let mut assembler = Assembler::new(dialect, stream.len());
    assembler.push(&stream);
    // Not both at a time: the stream and the document.
    drop(stream);
    assembler.finish().map(Bytes::from).map_err(stream_error)
}

fn stream_error(error: StreamError) -> Bypass {
    match error {
        StreamError::TooLarge => Bypass::ResponseTooLarge,
        StreamError::NotJson => Bypass::ResponseNotJson,
        StreamError::Unexpected | StreamError::Unsupported => Bypass::StreamUnexpected,
        StreamError::ErrorEvent => Bypass::ResponseError,
        StreamError::Incomplete => Bypass::StreamIncomplete,
    }
}
