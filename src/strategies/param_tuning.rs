//! `param_tuning`: a cap on the number of output tokens.

use serde::Deserialize;

use super::{Call, Decision, Edit, Proposal, StrategyError, raw};
use crate::dialect::Dialect;
use crate::json::Object;

/// Caps `max_tokens`, `max_completion_tokens` or `max_output_tokens`, whichever
/// the endpoint knows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamTuning {
    /// The cap.
    max_output_tokens: u64,
    /// Whether a request without a limit gets the cap as its limit.
    #[serde(default)]
    set_when_absent: bool,
}

impl ParamTuning {
    pub(super) const KIND: &'static str = "param_tuning";

    pub(super) fn check(&self) -> Result<(), StrategyError> {
        if self.max_output_tokens == 0 {
            return Err(StrategyError::param("max_output_tokens", "must be at least 1"));
        }
        Ok(())
    }

    pub(super) fn propose(&self, call: Call<'_>) -> Proposal {
        let edit = raw::object(call.body).and_then(|body| self.edit(call, &body));
        Proposal {
            decision: edit.as_ref().map(|_| Decision {
                kind: Self::KIND,
                summary: format!("output limited to {} tokens", self.max_output_tokens),
                // How long the answer would have been is anybody's guess.
                estimated_tokens_saved: 0,
            }),
            edits: edit.into_iter().collect(),
            ..Proposal::default()
        }
    }

    fn edit(&self, call: Call<'_>, body: &Object<'_>) -> Option<Edit> {
        // The name to set is the last one: chat's `max_tokens` is its old spelling.
        let names: &[&str] = match call.dialect {
            Dialect::OpenAiChat => &["max_tokens", "max_completion_tokens"],
            Dialect::OpenAiCompletions | Dialect::AnthropicMessages => &["max_tokens"],
            Dialect::OpenAiResponses => &["max_output_tokens"],
            Dialect::OpenAiEmbeddings => return None,
        };
        // Anthropic refuses a limit that is not above the budget for thinking.
        let budget = || number(raw::object(body.get("thinking")?)?.get("budget_tokens")?);
        if budget().is_some_and(|budget| budget >= self.max_output_tokens as f64) {
            return None;
        }

        if let Some(name) = names.iter().find(|name| raw::has(body, name)) {
            let limit = body.get(name)?;
            return (number(limit)? > self.max_output_tokens as f64)
                .then(|| self.replace(call.body, limit))
                .flatten();
        }
        if !self.set_when_absent {
            return None;
        }
        let name = names.last()?;
        match body.get(name) {
            Some(null) => self.replace(call.body, null),
            None => self.insert(call.body, name),
        }
    }

    fn replace(&self, body: &str, value: &str) -> Option<Edit> {
        Some(Edit {
            range: raw::range(body, value)?,
            replacement: self.max_output_tokens.to_string(),
        })
    }

    /// Adds a member at the end.
    fn insert(&self, body: &str, name: &str) -> Option<Edit> {
        let end = body.rfind('}')?;
        let before = body.get(..end)?.trim_end();
        let comma = if before.ends_with('{') { "" } else { "," };
        Some(Edit {
            range: before.len()..before.len(),
            replacement: format!(r#"{comma}"{name}":{}"#, self.max_output_tokens),
        })
    }
}

/// Any spelling of a number will do.
fn number(json: &str) -> Option<f64> {
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{Call, Strategy, run};
    use crate::dialect::Dialect;

    fn tuned(params: &str, endpoint: &str, body: &str) -> Option<String> {
        let strategy = Strategy::new("param_tuning", params).unwrap();
        let call =
            Call { dialect: Dialect::from_endpoint(endpoint).unwrap(), body, can_retrieve: true };
        run([&strategy], call).body
    }

    const CAP: &str = r#"{"max_output_tokens":100}"#;
    const SET: &str = r#"{"max_output_tokens":100,"set_when_absent":true}"#;

    #[test]
    fn a_larger_limit_is_capped_and_nothing_else_moves() {
        for (endpoint, name) in [
            ("/v1/chat/completions", "max_tokens"),
            ("/v1/chat/completions", "max_completion_tokens"),
            ("/v1/completions", "max_tokens"),
            ("/v1/responses", "max_output_tokens"),
            ("/v1/messages", "max_tokens"),
        ] {
            for limit in ["101", "1e9", "100.5", "99999999999999999999999"] {
                let body = |limit: &str| {
                    format!(r#"{{ "seed":12345678901234567890, "{name}" : {limit} }}"#)
                };
                assert_eq!(
                    tuned(CAP, endpoint, &body(limit)),
                    Some(body("100")),
                    "{endpoint} {limit}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_larger_limit_stays() {
        for limit in ["100", "1", "-5", "\"500\"", "null", "[]", "{}"] {
            let body = format!(r#"{{"max_tokens":{limit}}}"#);
            assert_eq!(tuned(CAP, "/v1/messages", &body), None, "{limit}");
        }
    }

    #[test]
    fn another_endpoints_limit_stays() {
        assert_eq!(tuned(SET, "/v1/embeddings", r#"{"max_tokens":500}"#), None);
        assert_eq!(tuned(CAP, "/v1/responses", r#"{"max_tokens":500}"#), None);
    }

    #[test]
    fn an_absent_limit_is_set_where_configured() {
        let chat = "/v1/chat/completions";
        assert_eq!(tuned(CAP, chat, r#"{"n":1}"#), None);
        assert_eq!(
            tuned(SET, chat, "{\"n\":1 }\n").unwrap(),
            "{\"n\":1,\"max_completion_tokens\":100 }\n"
        );
        assert_eq!(
            tuned(SET, chat, r#"{"max_completion_tokens":null}"#).unwrap(),
            r#"{"max_completion_tokens":100}"#
        );
        assert_eq!(tuned(SET, "/v1/completions", "{}").unwrap(), r#"{"max_tokens":100}"#);
        assert_eq!(tuned(SET, chat, r#"{"max_tokens":7}"#), None);
    }

    #[test]
    fn a_thinking_budget_is_never_overtaken() {
        let body = |budget: u32| {
            format!(
                r#"{{"max_tokens":500,"thinking":{{"type":"enabled","budget_tokens":{budget}}}}}"#
            )
        };
        assert_eq!(tuned(CAP, "/v1/messages", &body(100)), None);
        assert!(tuned(CAP, "/v1/messages", &body(99)).is_some());
    }

    #[test]
    fn unknown_shapes_are_left_alone() {
        for body in ["", "null", "[]", "[1,2,3,4]", r#"{"max_tokens":500,"max_tokens":600}"#] {
            assert_eq!(tuned(SET, "/v1/messages", body), None, "{body}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        let refused = |params| Strategy::new("param_tuning", params).unwrap_err().to_string();
        assert!(refused("{}").contains("max_output_tokens"));
        assert!(refused(r#"{"max_output_tokens":0}"#).starts_with("max_output_tokens: "));
        assert!(refused(r#"{"max_output_tokens":"x"}"#).starts_with("max_output_tokens: "));
        assert!(refused(r#"{"max_output_tokens":1,"colour":2}"#).starts_with("colour: "));
    }
}
