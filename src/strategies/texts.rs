//! Where a request's texts stand, in prompt order, and which of them a cache
//! mark pins.
//!
//! An Anthropic `cache_control` mark caches all of the prompt up to and including
//! the block that carries it, in the order tools, system, messages. One changed
//! byte before the mark loses that cache, so every text there counts as pinned.
//! The mark is honoured on OpenAI's endpoints too: gateways in front of Anthropic's
//! models take it there.

use super::raw;
use crate::dialect::Dialect;

/// A text of the request.
#[derive(Debug)]
pub(super) struct Text<'a> {
    /// The JSON string literal, quotes included.
    pub literal: &'a str,
    pub source: Source,
    /// Which of the request's prompts it belongs to: `/v1/completions` takes several.
    pub prompt: usize,
    /// Whether changing it would lose a prompt cache.
    pub pinned: bool,
}

/// Who wrote a text. The model's own words are never listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The system's instructions or the user.
    Author,
    /// A tool that the model called.
    Tool,
}

/// A request of more texts than that is none that a strategy could help.
const MOST_TEXTS: usize = 100_000;

/// The texts of a request. Empty where its shape is unknown.
pub(super) fn texts(dialect: Dialect, request: &str) -> Vec<Text<'_>> {
    let Some(body) = raw::object(request) else {
        return Vec::new();
    };
    let mut walk = Walk::default();
    match dialect {
        Dialect::OpenAiChat => walk.items(body.get("messages")),
        Dialect::OpenAiCompletions => walk.prompts(body.get("prompt")),
        Dialect::OpenAiEmbeddings => {}
        Dialect::OpenAiResponses => {
            walk.content(body.get("instructions"), Some(Source::Author));
            walk.input(body.get("input"));
        }
        Dialect::AnthropicMessages => {
            walk.content(body.get("system"), Some(Source::Author));
            walk.items(body.get("messages"));
        }
    }
    // A mark on the request itself stands for one on the last block.
    if raw::has(&body, "cache_control") {
        walk.mark();
    }
    walk.finish()
}

#[derive(Default)]
struct Walk<'a> {
    texts: Vec<Text<'a>>,
    prompt: usize,
    /// How many texts stand before the last mark.
    pinned: usize,
}

impl<'a> Walk<'a> {
    fn finish(mut self) -> Vec<Text<'a>> {
        if self.texts.len() > MOST_TEXTS {
            return Vec::new();
        }
        for text in self.texts.iter_mut().take(self.pinned) {
            text.pinned = true;
        }
        self.texts
    }

    fn mark(&mut self) {
        self.pinned = self.texts.len();
    }

    fn push(&mut self, value: &'a str, source: Source) {
        if value.starts_with('"') && self.texts.len() <= MOST_TEXTS {
            self.texts.push(Text { literal: value, source, prompt: self.prompt, pinned: false });
        }
    }

    fn prompts(&mut self, prompt: Option<&'a str>) {
        let Some(prompt) = prompt else { return };
        self.push(prompt, Source::Author);
        for prompt in raw::array(prompt) {
            self.push(prompt, Source::Author);
            self.prompt = self.prompt.saturating_add(1);
        }
    }

    fn input(&mut self, input: Option<&'a str>) {
        if let Some(text) = input {
            self.push(text, Source::Author);
        }
        self.items(input);
    }

    /// Messages, or the items of the Responses API's `input`.
    fn items(&mut self, items: Option<&'a str>) {
        for item in items.into_iter().flat_map(raw::array) {
            self.item(item);
        }
    }

    fn item(&mut self, value: &'a str) {
        let Some(item) = raw::object(value) else {
            // Whatever this is, it may carry a mark.
            return self.mark();
        };
        let (kind, role) = (raw::text(&item, "type"), raw::text(&item, "role"));
        match (kind.as_deref(), role.as_deref()) {
            (Some("function_call_output" | "custom_tool_call_output"), _) => {
                self.content(item.get("output"), Some(Source::Tool));
            }
            (None | Some("message"), Some("system" | "developer" | "user")) => {
                self.content(item.get("content"), Some(Source::Author));
            }
            (None, Some("tool" | "function")) => {
                self.content(item.get("content"), Some(Source::Tool));
            }
            _ => self.content(item.get("content"), None),
        }
        if raw::has(&item, "cache_control") {
            self.mark();
        }
    }

    /// A text, or a list of blocks. Without a source it is searched for marks only.
    fn content(&mut self, content: Option<&'a str>, source: Option<Source>) {
        let Some(content) = content else { return };
        if let Some(source) = source {
            self.push(content, source);
        }
        for block in raw::array(content) {
            self.block(block, source);
        }
    }

    fn block(&mut self, value: &'a str, source: Option<Source>) {
        let Some(block) = raw::object(value) else {
            return self.mark();
        };
        match (raw::text(&block, "type").as_deref(), source, block.get("text")) {
            (Some("text" | "input_text"), Some(source), Some(text)) => self.push(text, source),
            // Tool results hold no tool results: the walk ends here, however deep the body.
            (Some("tool_result"), Some(Source::Author), _) => {
                self.content(block.get("content"), Some(Source::Tool));
            }
            _ => {}
        }
        if raw::has(&block, "cache_control") {
            self.mark();
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::{Source, texts};
    use crate::dialect::Dialect;

    /// The texts as `source:literal`, the pinned ones with a `!`.
    fn seen(endpoint: &str, request: &str) -> Vec<String> {
        texts(Dialect::from_endpoint(endpoint).unwrap(), request)
            .iter()
            .map(|text| {
                let source = match text.source {
                    Source::Author => 'a',
                    Source::Tool => 't',
                };
                let pin = if text.pinned { "!" } else { "" };
                format!("{pin}{source}:{}", text.literal.trim_matches('"'))
            })
            .collect()
    }

    #[test]
    fn chat() {
        let request = r#"{"messages":[{"role":"system","content":"s"},{"role":"developer","content":[{"type":"text","text":"d"}]},
            {"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"u"}]},
            {"role":"assistant","content":"no","tool_calls":[]},{"role":"tool","tool_call_id":"1","content":"r"}]}"#;
        assert_eq!(seen("/v1/chat/completions", request), ["a:s", "a:d", "a:u", "t:r"]);
    }

    #[test]
    fn completions() {
        assert_eq!(seen("/v1/completions", r#"{"prompt":"p"}"#), ["a:p"]);
        let several = texts(Dialect::OpenAiCompletions, r#"{"prompt":["p","q"]}"#);
        assert_eq!(several.iter().map(|text| text.prompt).collect::<Vec<_>>(), [0, 1]);
        assert!(seen("/v1/completions", r#"{"prompt":[[1,2],3]}"#).is_empty());
    }

    #[test]
    fn responses() {
        let request = r#"{"instructions":"i","input":[{"role":"user","content":"u"},
            {"type":"message","role":"user","content":[{"type":"input_text","text":"v"}]},
            {"type":"message","role":"assistant","content":[{"type":"output_text","text":"no"}]},
            {"type":"function_call_output","call_id":"1","output":"r"},
            {"type":"function_call_output","call_id":"2","output":[{"type":"input_text","text":"q"}]},
            {"type":"reasoning","summary":[]}]}"#;
        assert_eq!(seen("/v1/responses", request), ["a:i", "a:u", "a:v", "t:r", "t:q"]);
        assert_eq!(seen("/v1/responses", r#"{"input":"x"}"#), ["a:x"]);
    }

    #[test]
    fn messages_in_prompt_order() {
        let request = r#"{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":[{"type":"text","text":"no"}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"r"},
            {"type":"tool_result","tool_use_id":"2","content":[{"type":"text","text":"q"}]}]}],"system":"s"}"#;
        assert_eq!(seen("/v1/messages", request), ["a:s", "a:u", "t:r", "t:q"]);
    }

    #[test]
    fn a_mark_pins_all_that_stands_before_it() {
        let mark = r#""cache_control":{"type":"ephemeral"}"#;
        let on_block = format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"u",{mark}}},{{"type":"text","text":"v"}}]}}],
            "system":[{{"type":"text","text":"s"}}]}}"#
        );
        assert_eq!(seen("/v1/messages", &on_block), ["!a:s", "!a:u", "a:v"]);

        let on_tool_use = format!(
            r#"{{"system":"s","messages":[{{"role":"user","content":"u"}},
            {{"role":"assistant","content":[{{"type":"tool_use","id":"1","name":"n","input":{{}},{mark}}}]}},{{"role":"user","content":"v"}}]}}"#
        );
        assert_eq!(seen("/v1/messages", &on_tool_use), ["!a:s", "!a:u", "a:v"]);

        let on_request =
            format!(r#"{{"system":"s",{mark},"messages":[{{"role":"user","content":"u"}}]}}"#);
        assert_eq!(seen("/v1/messages", &on_request), ["!a:s", "!a:u"]);

        let on_tool = format!(r#"{{"tools":[{{"name":"n",{mark}}}],"system":"s","messages":[]}}"#);
        assert_eq!(seen("/v1/messages", &on_tool), ["a:s"]);

        let spelt_oddly = on_block.replace("cache_control", r"cache\u005fcontrol");
        assert_eq!(seen("/v1/messages", &spelt_oddly), ["!a:s", "!a:u", "a:v"]);

        let null = on_block.replace(r#"{"type":"ephemeral"}"#, "null");
        assert_eq!(seen("/v1/messages", &null), ["a:s", "a:u", "a:v"]);
    }

    #[test]
    fn what_cannot_be_read_may_carry_a_mark() {
        let twice = r#"{"system":"s","messages":[{"role":"user","role":"user","content":"u"},{"role":"user","content":"v"}]}"#;
        assert_eq!(seen("/v1/messages", twice), ["!a:s", "a:v"]);
    }

    #[test]
    fn unknown_shapes_hold_no_texts() {
        for request in [
            "",
            "null",
            "[]",
            r#"["s",null]"#,
            r#"{"messages":null}"#,
            r#"{"messages":"x"}"#,
            r#"{"messages":{"role":"user"}}"#,
            r#"{"messages":[1,"x",["user","u"],{"role":1,"content":"x"},{"role":"user","content":{"type":"text"}}]}"#,
            r#"{"messages":[{"role":"user","content":"a"}],"messages":[]}"#,
        ] {
            assert!(seen("/v1/messages", request).is_empty(), "{request}");
        }
        assert!(seen("/v1/embeddings", r#"{"input":"x"}"#).is_empty());
    }

    #[test]
    fn a_request_of_far_too_many_texts_holds_none() {
        let request =
            |texts: usize| format!(r#"{{"prompt":["a"{}]}}"#, r#","a""#.repeat(texts - 1));
        assert_eq!(seen("/v1/completions", &request(100_000)).len(), 100_000);
        assert!(seen("/v1/completions", &request(100_001)).is_empty());
    }

    #[test]
    fn depth_does_not_matter() {
        let result = |inner: &str| format!(r#"[{{"type":"tool_result","content":{inner}}}]"#);
        let mut content = String::from("\"deep\"");
        for _ in 0..200 {
            content = result(&content);
        }
        let request = format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
        assert!(seen("/v1/messages", &request).is_empty());

        let brackets = "[".repeat(200_000) + &"]".repeat(200_000);
        let request = format!(
            r#"{{"messages":[{{"role":"user","content":{brackets}}},{{"role":"user","content":"u"}}]}}"#
        );
        assert_eq!(seen("/v1/messages", &request).last().unwrap(), "a:u");
    }
}
