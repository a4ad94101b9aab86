//! The recorded streams, which the tests with the official SDKs read as well.

use super::*;
use crate::json;
use crate::sse::push_event;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const CHAT: Dialect = Dialect::OpenAiChat;
const COMPLETIONS: Dialect = Dialect::OpenAiCompletions;
const MAX_BYTES: usize = 1 << 20;

macro_rules! recorded {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../integration/streams/recorded/", $name, ".sse")))),*]
    };
}

const CHAT_STREAMS: [(&str, &str); 14] = recorded![
    "chat_audio",
    "chat_azure",
    "chat_cr_bom",
    "chat_crlf_unicode",
    "chat_function_call",
    "chat_logprobs",
    "chat_reasoning",
    "chat_reasoning_details",
    "chat_refusal",
    "chat_text",
    "chat_tool_calls",
    "chat_tool_calls_interleaved",
    "chat_two_choices",
    "chat_vllm",
];
const COMPLETIONS_STREAMS: [(&str, &str); 3] =
    recorded!["completions_logprobs", "completions_text", "completions_two_choices"];

const RESPONSES_STREAMS: [(&str, &str); 10] = recorded![
    "responses_annotations",
    "responses_hosted_tools",
    "responses_logprobs",
    "responses_output_left_out",
    "responses_reasoning",
    "responses_refusal",
    "responses_text",
    "responses_text_crlf",
    "responses_tools",
    "responses_tools_interleaved",
];
const MESSAGES_STREAMS: [(&str, &str); 15] = recorded![
    "anthropic_beta_context",
    "anthropic_beta_fallback",
    "anthropic_citations",
    "anthropic_empty",
    "anthropic_max_tokens",
    "anthropic_refusal",
    "anthropic_server_tools",
    "anthropic_text",
    "anthropic_text_crlf",
    "anthropic_text_escaped",
    "anthropic_thinking",
    "anthropic_tools_interleaved",
    "anthropic_tools_parallel",
    "anthropic_unknown_event",
    "anthropic_usage_merged",
];

fn streams() -> impl Iterator<Item = (Dialect, &'static str, &'static str)> {
    let of = |dialect, streams: &'static [(&str, &str)]| {
        streams.iter().map(move |&(name, stream)| (dialect, name, stream))
    };
    of(CHAT, &CHAT_STREAMS)
        .chain(of(COMPLETIONS, &COMPLETIONS_STREAMS))
        .chain(of(Dialect::OpenAiResponses, &RESPONSES_STREAMS))
        .chain(of(Dialect::AnthropicMessages, &MESSAGES_STREAMS))
}

fn assembled(dialect: Dialect, pieces: &[&[u8]]) -> Result<String, StreamError> {
    let mut assembler = Assembler::new(dialect, MAX_BYTES);
    for piece in pieces {
        assembler.push(piece);
    }
    assembler.finish().map(|body| {
        assert!(Object::parse(&body).is_ok(), "{}", String::from_utf8_lossy(&body));
        String::from_utf8(body).unwrap()
    })
}

fn stream_of(events: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        push_event(&mut out, None, event.as_bytes());
    }
    out
}

fn replayed(dialect: Dialect, body: &str, include_usage: bool) -> Option<String> {
    let stream = replay(dialect, &Object::parse(body.as_bytes()).unwrap(), include_usage)?;
    Some(String::from_utf8(stream).unwrap())
}

#[test]
fn every_split_gives_the_same() {
    fn events(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(MAX_BYTES);
        let mut events = Vec::new();
        for piece in pieces {
            splitter.push(piece, |event| events.push([event.event, event.data].join(&0))).unwrap();
        }
        events
    }
    for (dialect, name, stream) in streams() {
        let bytes = stream.as_bytes();
        let whole = assembled(dialect, &[bytes]).unwrap();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(assembled(dialect, &single).unwrap(), whole, "{name}");
        let expected = events(&[bytes]);
        for at in 0..=bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert!(events(&[left, right]) == expected, "{name} at {at}");
        }
    }
}

#[test]
fn what_is_replayed_is_assembled_to_the_same_body() {
    for (dialect, name, stream) in streams() {
        let body = assembled(dialect, &[stream.as_bytes()]).unwrap();
        let pretty = body.replace("},\"", "},\r\n \"").replace("[{", "[\r\n{");
        for body in [body, pretty] {
            let stream = replayed(dialect, &body, true).unwrap();
            let again = assembled(dialect, &[stream.as_bytes()]).unwrap();
            assert!(json::equal(&again, &body), "{name}: {again} {body}");
        }
    }
}

#[test]
fn a_cut_off_stream_gives_no_body_wherever_it_is_cut() {
    for (dialect, name, stream) in streams() {
        let end = stream.find(match dialect {
            Dialect::OpenAiResponses => "event: response.completed",
            Dialect::AnthropicMessages => "event: message_stop",
            _ => "data: [DONE]",
        });
        let end = end.unwrap();
        for at in (0..end).step_by(97).chain([end, stream.len() - 2]) {
            let result = assembled(dialect, &[&stream.as_bytes()[..at]]);
            assert_eq!(result, Err(StreamError::Incomplete), "{name} at {at}");
        }
    }
}

#[test]
fn says_what_is_wrong() {
    let good =
        r#"{"id":"c","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#;
    for (events, error) in [
        (&[good][..], StreamError::Incomplete),
        (&["[DONE]"], StreamError::Unexpected),
        (&[r#"{"choices":[]}"#, "[DONE]"], StreamError::Unexpected),
        (&[r#"{"choices":[{"index":0,"delta":{}}]}"#, "[DONE]"], StreamError::Incomplete),
        (&[r#"{"choices":[{"index":0,"finish_reason":""}]}"#, "[DONE]"], StreamError::Incomplete),
        (&[good, "{", "[DONE]"], StreamError::NotJson),
        (&[good, "[]", "[DONE]"], StreamError::Unexpected),
        (&[good, r#"{"choices":{}}"#, "[DONE]"], StreamError::Unexpected),
        (&[good, r#"{"choices":[1]}"#, "[DONE]"], StreamError::Unexpected),
        (&[good, r#"{"choices":[{"delta":{}}]}"#, "[DONE]"], StreamError::Unexpected),
        (&[good, r#"{"choices":[{"index":-1}]}"#, "[DONE]"], StreamError::Unexpected),
        (&[good, r#"{"error":{"message":"x"}}"#, "[DONE]"], StreamError::ErrorEvent),
        (&[good, r#"{"object":"error","message":"x"}"#, "[DONE]"], StreamError::ErrorEvent),
        (
            &[r#"{"choices":[{"index":0,"delta":"x","finish_reason":"stop"}]}"#, "[DONE]"],
            StreamError::Unexpected,
        ),
    ] {
        assert_eq!(assembled(CHAT, &[&stream_of(events)]), Err(error), "{events:?}");
    }
    let mut out = stream_of(&[good]);
    push_event(&mut out, Some("error"), b"overloaded");
    out.extend(stream_of(&["[DONE]"]));
    assert_eq!(assembled(CHAT, &[&out]), Err(StreamError::ErrorEvent));
    assert_eq!(
        assembled(Dialect::OpenAiEmbeddings, &[b"data: {}\n\n"]),
        Err(StreamError::Unsupported)
    );
    // What follows the end is not the answer's.
    assert!(assembled(CHAT, &[&stream_of(&[good, "{}", "[DONE]", r#"{"error":1}"#])]).is_ok());
}

#[test]
fn a_plain_message_has_what_deltas_leave_out() {
    let events = [
        r#"{"id":"","object":"","created":0,"choices":[],"filter":[1],"x":"kept"}"#,
        r#"{"id":"c","object":"chat.completion.chunk","created":7,"choices":[{"index":0,"delta":{}}],"x":"later"}"#,
        r#"{"id":"d","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"g"}}]}}]}"#,
        r#"{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"custom","custom":{"name":"f","input":"i"}}]}}]}"#,
        r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"obfuscation":"zz"}"#,
        "[DONE]",
    ];
    assert_eq!(
        assembled(CHAT, &[&stream_of(&events)]).unwrap(),
        r#"{"id":"c","object":"chat.completion","created":7,"choices":[{"index":0,"message":{"content":null,"role":"assistant","tool_calls":[{"custom":{"name":"f","input":"i"},"id":"a","type":"custom"},{"function":{"arguments":"","name":"g"},"id":"b","type":"function"}]},"finish_reason":"tool_calls"}],"filter":[1],"x":"kept"}"#
    );
}

#[test]
fn what_providers_say_again_is_not_said_twice() {
    let call =
        r#"{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"1"}}"#;
    let event = format!(
        r#"{{"id":"c","choices":[{{"index":0,"delta":{{"role":"assistant","tool_calls":[{call}]}},"finish_reason":null}}]}}"#
    );
    let last = r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":""}]},"finish_reason":"tool_calls"}]}"#;
    assert_eq!(
        assembled(CHAT, &[&stream_of(&[&event, &event, last, "[DONE]"])]).unwrap(),
        r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"content":null,"role":"assistant","tool_calls":[{"function":{"arguments":"11","name":"f"},"id":"call_1","type":"function"}]},"finish_reason":"tool_calls"}]}"#
    );
}

#[test]
fn usage_is_there_however_the_stream_ends() {
    let first = r#"{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":1}}"#;
    let second = r#"{"choices":[],"usage":{ "prompt_tokens":12345678901234567890 }}"#;
    let null = r#"{"choices":[],"usage":null}"#;
    for (last, error) in [
        ("", None),
        ("data: {\n\n", Some(StreamError::NotJson)),
        ("event: error\ndata: {}\n\n", Some(StreamError::ErrorEvent)),
    ] {
        for dialect in [CHAT, COMPLETIONS] {
            let mut assembler = Assembler::new(dialect, MAX_BYTES);
            assert_eq!(assembler.usage(), None);
            assembler.push(&stream_of(&[first, second, null]));
            assembler.push(last.as_bytes());
            assembler.push(b"data: {}\n\n");
            assert_eq!(assembler.usage(), Some(r#"{ "prompt_tokens":12345678901234567890 }"#));
            assert_eq!(assembler.error(), error);
            assert_eq!(assembler.finish(), Err(error.unwrap_or(StreamError::Incomplete)));
        }
    }
}

#[test]
fn the_copy_is_bounded() {
    for (dialect, name, stream) in streams() {
        for (max_bytes, fits) in [(stream.len(), true), (stream.len() - 1, false)] {
            let mut assembler = Assembler::new(dialect, max_bytes);
            for piece in stream.as_bytes().chunks(100) {
                assembler.push(piece);
            }
            assert_eq!(
                assembler.finish().err(),
                (!fits).then_some(StreamError::TooLarge),
                "{name}"
            );
        }
    }
    let choices: Vec<String> = (0..10_000).map(|index| format!("{{\"index\":{index}}}")).collect();
    let event = format!("{{\"choices\":[{}]}}", choices.join(","));
    assert_eq!(assembled(CHAT, &[&stream_of(&[&event])]), Err(StreamError::TooLarge));
}

#[test]
fn chat_is_replayed_as_a_live_stream_comes() {
    let body = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","system_fingerprint":"f","extra":[1],
        "choices":[{"index":0,"message":{"role":"assistant","content":"hi","refusal":null,"reasoning_content":"hm",
        "tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}],
        "usage":{"total_tokens":3}}"#;
    let choice = |delta: &str, reason: &str| {
        format!(
            r#"[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}],"usage":null}}"#
        )
    };
    let head = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"f","#;
    let chunks = [
        format!(
            r#""extra":[1],"choices":{}"#,
            choice(r#"{"role":"assistant","content":"","refusal":null}"#, "null")
        ),
        format!(r#""choices":{}"#, choice(r#"{"reasoning_content":"hm"}"#, "null")),
        format!(r#""choices":{}"#, choice(r#"{"content":"hi"}"#, "null")),
        format!(
            r#""choices":{}"#,
            choice(
                r#"{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":""}}]}"#,
                "null"
            )
        ),
        format!(
            r#""choices":{}"#,
            choice(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}"#, "null")
        ),
        format!(r#""choices":{}"#, choice("{}", "\"tool_calls\"")),
        r#""choices":[],"usage":{"total_tokens":3}}"#.to_owned(),
    ];
    let mut expected: String =
        chunks.iter().map(|chunk| format!("data: {head}{chunk}\n\n")).collect();
    expected.push_str("data: [DONE]\n\n");
    assert_eq!(replayed(CHAT, body, true).unwrap(), expected);
}

#[test]
fn what_has_not_the_shape_is_not_replayed() {
    let choice = r#"{"index":0,"text":"t","message":{"role":"assistant","content":"x"},"finish_reason":"stop"}"#;
    let body = |choices: &str| format!(r#"{{"id":"c","choices":{choices}}}"#);
    for dialect in [CHAT, COMPLETIONS] {
        assert!(replayed(dialect, &body(&format!("[{choice}]")), false).is_some());
        for choices in [
            "null".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            "[1]".to_owned(),
            format!("[{choice},{choice}]"),
            format!("[{}]", choice.replace("\"stop\"", "null")),
            format!("[{}]", choice.replace("\"index\":0", "\"index\":null")),
            format!("[{}]", choice.replace("\"message\"", "\"m\"").replace("\"text\"", "\"t\"")),
            format!(
                "[{}]",
                choice
                    .replace("\"t\"", "1")
                    .replace("{\"role\":\"assistant\",\"content\":\"x\"}", "1")
            ),
        ] {
            assert_eq!(replayed(dialect, &body(&choices), false), None, "{choices}");
        }
        assert_eq!(replayed(dialect, "{}", false), None);
    }
    let body = body(&format!("[{choice}]"));
    assert_eq!(replayed(Dialect::OpenAiEmbeddings, &body, false), None);
}
