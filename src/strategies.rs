//! The optimizer's strategies: pure functions from the raw text of a body to edits.
//!
//! ```text
//!  body ──► strategy 1 ──► edits, decision ──► body' ──► strategy 2 ──► …
//! ```
//!
//! A strategy reads a body through borrowed slices and says which bytes to
//! replace ([`Edit`]) and what it did ([`Decision`]). Bytes that no edit names
//! are never rewritten, so big integers, key order and escapes survive. What a
//! strategy does not understand it leaves alone; it never fails. Nothing here
//! does I/O or asks for the time: originals that were cut away are handed to
//! the caller ([`Original`]), who may keep them for `/v1/retrieve`.
//!
//! A strategy looks only at a text itself and at what stands before it in the
//! prompt. A conversation that grows at its end therefore keeps its transformed
//! prefix, and with it the provider's prompt cache.

mod context_compression;
mod literal;
mod param_tuning;
mod prompt_compression;
mod raw;
mod response_cleanup;
mod texts;

use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;

use crate::dialect::Dialect;

pub use context_compression::ContextCompression;
pub use param_tuning::ParamTuning;
pub use prompt_compression::PromptCompression;
pub use response_cleanup::ResponseCleanup;

/// Which of the exchange's two bodies a strategy works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The request, before the provider sees it.
    Request,
    /// The provider's response, before the client sees it.
    Response,
}

/// What a strategy is asked to work on.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Which LLM API the body belongs to.
    pub dialect: Dialect,
    /// The request's or the response's JSON text.
    pub body: &'a str,
    /// Whether originals are kept for `/v1/retrieve`. Where they are not, nothing is cut away.
    pub can_retrieve: bool,
}

/// Bytes of the body that give way to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes replaced.
    pub range: Range<usize>,
    /// What stands there afterwards, as JSON text.
    pub replacement: String,
}

/// What a strategy reports of its work. Free of content by contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The strategy's name.
    pub kind: &'static str,
    /// What was done, in counts.
    pub summary: String,
    /// Estimated as a quarter of the characters saved.
    pub estimated_tokens_saved: u64,
}

/// A text that a strategy cut, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// The name under which the shortened text refers to it.
    pub handle: String,
    /// The whole text.
    pub content: String,
}

/// A strategy, or a part of it, that would have acted and was not allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// The strategy's name.
    pub kind: &'static str,
    /// Why it held back.
    pub reason: &'static str,
}

/// What one strategy proposes for one body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// In ascending order, without overlaps.
    pub edits: Vec<Edit>,
    /// Present where there are edits.
    pub decision: Option<Decision>,
    /// What the edits cut away.
    pub originals: Vec<Original>,
    /// Present where the strategy held back.
    pub suppressed: Option<Suppressed>,
}

/// What a list of strategies made of one body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The new body; none where nothing changed.
    pub body: Option<String>,
    /// One for each strategy that changed something, in execution order.
    pub decisions: Vec<Decision>,
    /// What was cut away.
    pub originals: Vec<Original>,
    /// Who held back.
    pub suppressed: Vec<Suppressed>,
}

/// Lets the strategies work on the body one after the other, in the order given.
pub fn run<'s>(strategies: impl IntoIterator<Item = &'s Strategy>, call: Call<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    for strategy in strategies {
        let body = outcome.body.as_deref().unwrap_or(call.body);
        let proposal = strategy.propose(Call { body, ..call });
        outcome.suppressed.extend(proposal.suppressed);
        let Some(changed) = apply(body, &proposal.edits) else {
            continue;
        };
        outcome.body = Some(changed);
        outcome.decisions.extend(proposal.decision);
        outcome.originals.extend(proposal.originals);
    }
    outcome
}

/// The body with the edits made. None where there are none, or where they do
/// not fit the body.
pub fn apply(body: &str, edits: &[Edit]) -> Option<String> {
    if edits.is_empty() {
        return None;
    }
    let mut changed = String::with_capacity(body.len());
    let mut at = 0;
    for edit in edits {
        changed.push_str(body.get(at..edit.range.start)?);
        changed.push_str(&edit.replacement);
        at = edit.range.end;
    }
    changed.push_str(body.get(at..)?);
    Some(changed)
}

/// A strategy with its parameters.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// Caps the number of output tokens.
    ParamTuning(ParamTuning),
    /// Collapses white space and drops repeated paragraphs of the prompt.
    PromptCompression(PromptCompression),
    /// Minifies and shortens tool results.
    ContextCompression(ContextCompression),
    /// Trims the white space at the end of the answer.
    ResponseCleanup(ResponseCleanup),
}

impl Strategy {
    /// The names of all strategies.
    pub const KINDS: [&'static str; 4] = [
        ParamTuning::KIND,
        PromptCompression::KIND,
        ContextCompression::KIND,
        ResponseCleanup::KIND,
    ];

    /// The strategy of this name, with its parameters given as a JSON object.
    pub fn new(kind: &str, params: &str) -> Result<Strategy, StrategyError> {
        let strategy = match kind {
            ParamTuning::KIND => Strategy::ParamTuning(read(params)?),
            PromptCompression::KIND => Strategy::PromptCompression(read(params)?),
            ContextCompression::KIND => Strategy::ContextCompression(read(params)?),
            ResponseCleanup::KIND => Strategy::ResponseCleanup(read(params)?),
            _ => return Err(StrategyError::UnknownKind),
        };
        let checked = match &strategy {
            Strategy::ParamTuning(s) => s.check(),
            Strategy::PromptCompression(s) => s.check(),
            Strategy::ContextCompression(s) => s.check(),
            Strategy::ResponseCleanup(_) => Ok(()),
        };
        checked.map(|()| strategy)
    }

    /// The strategy's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Strategy::ParamTuning(_) => ParamTuning::KIND,
            Strategy::PromptCompression(_) => PromptCompression::KIND,
            Strategy::ContextCompression(_) => ContextCompression::KIND,
            Strategy::ResponseCleanup(_) => ResponseCleanup::KIND,
        }
    }

    /// Which body the strategy works on.
    pub fn hook(&self) -> Hook {
        match self {
            Strategy::ResponseCleanup(_) => Hook::Response,
            _ => Hook::Request,
        }
    }

    /// What the strategy would change.
    pub fn propose(&self, call: Call<'_>) -> Proposal {
        match self {
            Strategy::ParamTuning(s) => s.propose(call),
            Strategy::PromptCompression(s) => s.propose(call),
            Strategy::ContextCompression(s) => s.propose(call),
            Strategy::ResponseCleanup(s) => s.propose(call),
        }
    }
}

fn read<T: DeserializeOwned>(params: &str) -> Result<T, StrategyError> {
    let mut json = serde_json::Deserializer::from_str(params);
    serde_path_to_error::deserialize(&mut json).map_err(|error| StrategyError::Param {
        path: error.path().to_string(),
        message: error.inner().to_string(),
    })
}

/// Why there is no strategy of that name with those parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StrategyError {
    /// No strategy has that name.
    UnknownKind,
    /// A parameter is wrong.
    Param {
        /// Where it stands in the parameters.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

impl StrategyError {
    fn param(path: &str, message: &str) -> StrategyError {
        StrategyError::Param { path: path.to_owned(), message: message.to_owned() }
    }
}

impl fmt::Display for StrategyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StrategyError::UnknownKind => {
                write!(f, "no such strategy; there are {}", Strategy::KINDS.join(", "))
            }
            StrategyError::Param { path, message } => write!(f, "{path}: {message}"),
        }
    }
}

impl std::error::Error for StrategyError {}

/// A rough estimate: a token is about four characters of English.
fn tokens(characters: usize) -> u64 {
    (characters / 4) as u64
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::{Call, Edit, Outcome, Strategy, apply, run};
    use crate::dialect::Dialect;

    fn strategies(kinds: &[(&str, &str)]) -> Vec<Strategy> {
        kinds.iter().map(|(kind, params)| Strategy::new(kind, params).unwrap()).collect()
    }

    #[test]
    fn each_strategy_works_on_what_the_former_left() {
        let call = Call {
            dialect: Dialect::OpenAiCompletions,
            body: r#"{"prompt":"a  b","max_tokens":500}"#,
            can_retrieve: false,
        };
        let list = strategies(&[
            ("param_tuning", r#"{"max_output_tokens":200}"#),
            ("prompt_compression", "{}"),
            ("param_tuning", r#"{"max_output_tokens":100}"#),
        ]);
        let outcome = run(&list, call);
        assert_eq!(outcome.body.unwrap(), r#"{"prompt":"a b","max_tokens":100}"#);
        let kinds: Vec<_> = outcome.decisions.iter().map(|d| d.kind).collect();
        assert_eq!(kinds, ["param_tuning", "prompt_compression", "param_tuning"]);
    }

    #[test]
    fn nothing_to_do_is_no_new_body() {
        let list = strategies(&[("prompt_compression", "{}"), ("context_compression", "{}")]);
        for body in ["", "null", "[[[[", r#"{"prompt":"a b"}"#, "{\"prompt\":\"\\ud800  \"}"] {
            let call = Call { dialect: Dialect::OpenAiCompletions, body, can_retrieve: true };
            assert_eq!(run(&list, call), Outcome::default(), "{body}");
        }
    }

    #[test]
    fn edits_that_do_not_fit_are_not_made() {
        let edit = |range| Edit { range, replacement: String::from("x") };
        assert_eq!(apply("abc", &[edit(1..2)]).unwrap(), "axc");
        assert_eq!(apply("abc", &[]), None);
        assert_eq!(apply("abc", &[edit(3..4)]), None);
        assert_eq!(apply("abc", &[edit(1..2), edit(0..1)]), None);
        assert_eq!(apply("é", &[edit(1..2)]), None);
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = Strategy::new("magic", "{}").unwrap_err().to_string();
        assert!(error.contains("prompt_compression"), "{error}");
    }
}
