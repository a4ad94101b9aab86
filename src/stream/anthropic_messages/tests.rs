use crate::dialect::Dialect;
use crate::json::{self, Object};
use crate::sse::push_event;
use crate::stream::{Assembler, StreamError, replay};
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const START: &str = r#"{"type":"message_start","message":{"type":"message","id":"m","role":"assistant","model":"c","content":[],"stop_reason":null,"usage":{"input_tokens":10,"output_tokens":1}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

fn stream_of(events: &[&str]) -> Assembler {
    let mut out = Vec::new();
    for event in events {
        push_event(&mut out, None, event.as_bytes());
    }
    let mut assembler = Assembler::new(Dialect::AnthropicMessages, 1 << 20);
    assembler.push(&out);
    assembler
}

fn content(between: &[&str]) -> Result<String, StreamError> {
    let body = stream_of(&[&[START], between, &[STOP]].concat()).finish()?;
    let body = Object::parse(&body).unwrap();
    Ok(body.get("content").unwrap().to_owned())
}

fn block(block: &str, deltas: &[&str]) -> Result<String, StreamError> {
    let start = format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#);
    let deltas: Vec<String> = deltas
        .iter()
        .map(|it| format!(r#"{{"type":"content_block_delta","index":0,"delta":{it}}}"#))
        .collect();
    let mut events = vec![&*start];
    events.extend(deltas.iter().map(String::as_str));
    events.push(r#"{"type":"content_block_stop","index":0}"#);
    content(&events)
}

#[test]
fn texts_keep_their_escapes_even_halves_of_a_pair() {
    assert_eq!(
        block(
            r#"{"type":"text","text":"\u0041"}"#,
            &[
                r#"{"type":"text_delta","text":"\ud83d"}"#,
                r#"{"type":"text_delta","text":"\ude00é\/"}"#,
            ]
        )
        .unwrap(),
        r#"[{"type":"text","text":"\u0041\ud83d\ude00é\/"}]"#
    );
}

#[test]
fn inputs_are_taken_as_they_were_written() {
    let tool = r#"{"type":"tool_use","id":"t","name":"f","input":{}}"#;
    assert_eq!(
        block(
            tool,
            &[
                r#"{"type":"input_json_delta","partial_json":""}"#,
                r#"{"type":"input_json_delta","partial_json":"{ \"a\\u00"}"#,
                r#"{"type":"input_json_delta","partial_json":"e9\\\"\" : 1.50,\n"}"#,
                r#"{"type":"input_json_delta","partial_json":"\"n\":12345678901234567890}"}"#,
            ]
        )
        .unwrap(),
        "[{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{ \"a\\u00e9\\\"\" : 1.50,\n\"n\":12345678901234567890}}]"
    );
    let empty = r#"{"type":"input_json_delta","partial_json":""}"#;
    assert_eq!(block(tool, &[empty, empty]).unwrap(), format!("[{tool}]"));
    for cut_off in [r#"{\"a\":"#, r#"{\"a\":1},\"id\":{}"#, r#"\ud83d"#] {
        let delta = format!(r#"{{"type":"input_json_delta","partial_json":"{cut_off}"}}"#);
        assert_eq!(block(tool, &[&delta]), Err(StreamError::NotJson), "{cut_off}");
    }
}

#[test]
fn every_delta_finds_its_member() {
    let signature = r#"{"type":"signature_delta","signature":"last"}"#;
    assert_eq!(
        block(
            r#"{"type":"thinking","thinking":null}"#,
            &[
                r#"{"type":"thinking_delta","thinking":"a","estimated_tokens":5}"#,
                r#"{"type":"signature_delta","signature":"first"}"#,
                signature
            ]
        )
        .unwrap(),
        r#"[{"type":"thinking","thinking":"a","signature":"last"}]"#
    );
    let cite = |n| format!(r#"{{"type":"citations_delta","citation":{{"n":{n}}}}}"#);
    for (before, after) in [
        (r#""text":"""#, r#""text":"","citations":[{"n":1},{"n":2}]"#),
        (r#""citations":null"#, r#""citations":[{"n":1},{"n":2}]"#),
        (r#""citations":[ ]"#, r#""citations":[{"n":1},{"n":2}]"#),
        (r#""citations":[0]"#, r#""citations":[0,{"n":1},{"n":2}]"#),
    ] {
        let start = format!(r#"{{"type":"text",{before}}}"#);
        let expected = format!(r#"[{{"type":"text",{after}}}]"#);
        assert_eq!(block(&start, &[&cite(1), &cite(2)]).unwrap(), expected);
    }
}

#[test]
fn says_what_is_wrong() {
    let text =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    let delta =
        |delta: &str| format!(r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#);
    let deltas = [
        r#"{"type":"frame_delta","frame":1}"#,
        r#"{"type":"text_delta"}"#,
        r#"{"type":"text_delta","text":1}"#,
        r#"{"text":"no type"}"#,
        "1",
    ]
    .map(delta);
    for delta in &deltas {
        assert_eq!(content(&[text, delta]), Err(StreamError::Unexpected), "{delta}");
    }
    for (events, error) in [
        (&[text, text][..], StreamError::Unexpected),
        (&[START], StreamError::Unexpected),
        (&[r#"{"type":"content_block_stop","index":0}"#], StreamError::Unexpected),
        (&[r#"{"type":"content_block_stop","index":-1}"#], StreamError::Unexpected),
        (
            &[r#"{"type":"content_block_start","index":0,"content_block":{}}"#],
            StreamError::Unexpected,
        ),
        (&[r#"{"type":"message_delta"}"#], StreamError::Unexpected),
        (&[r#"{"type":"error","error":{}}"#], StreamError::ErrorEvent),
        (&["{}"], StreamError::Unexpected),
        (&["[]"], StreamError::Unexpected),
        (&["{"], StreamError::NotJson),
    ] {
        assert_eq!(content(events), Err(error), "{events:?}");
    }
    assert_eq!(
        block(r#"{"type":"text","text":1}"#, &[r#"{"type":"text_delta","text":"x"}"#]),
        Err(StreamError::Unexpected)
    );
    assert_eq!(
        block(
            r#"{"type":"text","citations":"x"}"#,
            &[r#"{"type":"citations_delta","citation":1}"#]
        ),
        Err(StreamError::Unexpected)
    );
    for early in [text, STOP, r#"{"type":"message_delta","delta":{}}"#] {
        assert_eq!(stream_of(&[early, START, STOP]).finish(), Err(StreamError::Unexpected));
    }
    let full = START.replace("[]", "[1]");
    assert_eq!(stream_of(&[&full, STOP]).finish(), Err(StreamError::Unexpected));
    for (kind, error) in [("error", StreamError::ErrorEvent), ("ping", StreamError::Incomplete)] {
        let mut out = Vec::new();
        push_event(&mut out, Some(kind), b"not JSON");
        let mut assembler = stream_of(&[START]);
        assembler.push(&out);
        assert_eq!(assembler.finish(), Err(error));
    }
    // What is not known of the message, or follows it, does not matter.
    let odd = [r#"{"type":"news"}"#, START, r#"{"type":"news"}"#, STOP, r#"{"type":"error"}"#];
    assert!(stream_of(&odd).finish().is_ok());
}

#[test]
fn what_comes_late_is_laid_over_what_was_there() {
    let change = |delta: &str, usage: &str, beside: &str| {
        format!(r#"{{"type":"message_delta","delta":{delta},"usage":{usage}{beside}}}"#)
    };
    let first = change(
        r#"{"stop_reason":"end_turn","stop_sequence":null,"container":{"id":"x"}}"#,
        r#"{"output_tokens":7,"input_tokens":null,"server_tool_use":null}"#,
        r#","context_management":{"applied_edits":[]}"#,
    );
    let second = change(
        r#"{"container":null}"#,
        r#"{"output_tokens":12345678901234567890,"server_tool_use":{"web_search_requests":1}}"#,
        "",
    );
    let assembler = stream_of(&[START, &first, &second, STOP]);
    let usage = r#"{"input_tokens":10,"output_tokens":12345678901234567890,"server_tool_use":{"web_search_requests":1}}"#;
    assert_eq!(assembler.usage(), Some(usage));
    assert_eq!(
        String::from_utf8(assembler.finish().unwrap()).unwrap(),
        format!(
            r#"{{"type":"message","id":"m","role":"assistant","model":"c","content":[],"stop_reason":"end_turn","usage":{usage},"container":{{"id":"x"}},"context_management":{{"applied_edits":[]}},"stop_sequence":null}}"#
        )
    );
}

#[test]
fn usage_is_there_however_the_stream_ends() {
    assert_eq!(stream_of(&[]).usage(), None);
    let delta = r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":5}}"#;
    for (events, usage) in [
        (&[START][..], r#"{"input_tokens":10,"output_tokens":1}"#),
        (&[START, delta], r#"{"input_tokens":10,"output_tokens":5}"#),
        (&[START, delta, "{"], r#"{"input_tokens":10,"output_tokens":5}"#),
        (&[START, delta, r#"{"type":"error"}"#], r#"{"input_tokens":10,"output_tokens":5}"#),
        (&[r#"{"type":"message_start","message":{}}"#, delta], r#"{"output_tokens":5}"#),
    ] {
        let assembler = stream_of(events);
        assert_eq!(assembler.usage(), Some(usage), "{events:?}");
        assert!(assembler.finish().is_err());
    }
}

#[test]
fn is_replayed_as_a_live_stream_comes() {
    let body = r#"{"id":"m","type":"message","role":"assistant","model":"c",
        "content":[{"type":"text","text":"hi"},{"type":"tool_use","id":"t","name":"f","input":{"a":"\"\n"}},{"type":"tool_use","id":"u","name":"g","input":{}}],
        "stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":1,"cache_read_input_tokens":null,"output_tokens":9,"service_tier":"standard"}}"#;
    let body = body.replace("\\n", "\\\\n");
    let expected = [
        (
            "message_start",
            r#","message":{"id":"m","type":"message","role":"assistant","model":"c","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"cache_read_input_tokens":null,"output_tokens":1,"service_tier":"standard"}}"#,
        ),
        ("content_block_start", r#","index":0,"content_block":{"type":"text","text":""}"#),
        ("content_block_delta", r#","index":0,"delta":{"type":"text_delta","text":"hi"}"#),
        ("content_block_stop", r#","index":0"#),
        (
            "content_block_start",
            r#","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}"#,
        ),
        (
            "content_block_delta",
            r#","index":1,"delta":{"type":"input_json_delta","partial_json":""}"#,
        ),
        (
            "content_block_delta",
            r#","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":\"\\\"\\\\n\"}"}"#,
        ),
        ("content_block_stop", r#","index":1"#),
        (
            "content_block_start",
            r#","index":2,"content_block":{"type":"tool_use","id":"u","name":"g","input":{}}"#,
        ),
        (
            "content_block_delta",
            r#","index":2,"delta":{"type":"input_json_delta","partial_json":""}"#,
        ),
        ("content_block_stop", r#","index":2"#),
        (
            "message_delta",
            r#","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":1,"output_tokens":9}"#,
        ),
        ("message_stop", ""),
    ];
    let expected: String = expected
        .iter()
        .map(|(kind, rest)| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n"))
        .collect();
    let parsed = Object::parse(body.as_bytes()).unwrap();
    let stream = replay(Dialect::AnthropicMessages, &parsed, false).unwrap();
    assert_eq!(String::from_utf8(stream).unwrap(), expected);
    let mut assembler = Assembler::new(Dialect::AnthropicMessages, 1 << 20);
    assembler.push(expected.as_bytes());
    let again = String::from_utf8(assembler.finish().unwrap()).unwrap();
    assert!(json::equal(&again, &body));
}
