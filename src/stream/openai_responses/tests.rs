use crate::dialect::Dialect;
use crate::json::Object;
use crate::sse::push_event;
use crate::stream::{Assembler, StreamError, replay};
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const CREATED: &str = r#"{"type":"response.created","sequence_number":0,"response":{"id":"r","status":"in_progress","output":[],"usage":null}}"#;

fn stream_of(events: &[&str]) -> Assembler {
    let mut out = Vec::new();
    for event in events {
        push_event(&mut out, None, event.as_bytes());
    }
    let mut assembler = Assembler::new(Dialect::OpenAiResponses, 1 << 20);
    assembler.push(&out);
    assembler
}

fn assembled(events: &[&str]) -> Result<String, StreamError> {
    stream_of(events).finish().map(|body| String::from_utf8(body).unwrap())
}

fn completed(response: &str) -> String {
    format!(r#"{{"type":"response.completed","sequence_number":9,"response":{response}}}"#)
}

fn item(index: u64, item: &str) -> String {
    format!(r#"{{"type":"response.output_item.done","output_index":{index},"item":{item}}}"#)
}

#[test]
fn the_last_response_is_taken_as_it_is() {
    let body = r#"{ "id":"r", "n":12345678901234567890, "t":"\u00e9\/", "output":[ ] }"#;
    let events = [CREATED, &item(0, r#"{"type":"x"}"#), &completed(body), "[DONE]"];
    assert_eq!(assembled(&events).unwrap(), body);
}

#[test]
fn output_that_was_left_out_comes_from_the_items() {
    let items = [item(2, "2"), item(0, "0"), item(10, "10"), item(2, "3")];
    let mut events = vec![CREATED];
    events.extend(items.iter().map(String::as_str));
    for (body, expected) in [
        (r#"{"id":"r","output":null,"x":1}"#, r#"{"id":"r","output":[0,3,10],"x":1}"#),
        (r#"{"id":"r"}"#, r#"{"id":"r","output":[0,3,10]}"#),
    ] {
        let last = completed(body);
        assert_eq!(assembled(&[&events[..], &[&*last]].concat()).unwrap(), expected);
    }
}

#[test]
fn says_what_is_wrong() {
    let good = completed(r#"{"status":"completed","output":[]}"#);
    for (event, error) in [
        (r#"{"type":"response.failed","response":{}}"#, StreamError::Incomplete),
        (r#"{"type":"response.incomplete","response":{}}"#, StreamError::Incomplete),
        (r#"{"type":"error","code":"x","message":"y"}"#, StreamError::ErrorEvent),
        (r#"{"type":"response.created","error":{"message":"x"}}"#, StreamError::ErrorEvent),
        (&completed(r#"{"status":"incomplete","output":[]}"#), StreamError::Incomplete),
        (&completed(r#"{"output":{}}"#), StreamError::Unexpected),
        (&completed("1"), StreamError::Unexpected),
        (r#"{"type":"response.completed"}"#, StreamError::Unexpected),
        (r#"{"type":"response.output_item.done","output_index":0}"#, StreamError::Unexpected),
        (r#"{"type":"response.output_item.done","item":{}}"#, StreamError::Unexpected),
        ("{}", StreamError::Unexpected),
        ("[]", StreamError::Unexpected),
        ("[DONE]", StreamError::NotJson),
    ] {
        assert_eq!(assembled(&[CREATED, event, &good]), Err(error), "{event}");
    }
    assert_eq!(assembled(&[CREATED]), Err(StreamError::Incomplete));
    assert!(assembled(&[CREATED, r#"{"type":"response.news","error":null}"#, &good]).is_ok());
    let mut out = Vec::new();
    push_event(&mut out, Some("error"), b"");
    let mut assembler = stream_of(&[CREATED]);
    assembler.push(&out);
    assert_eq!(assembler.finish(), Err(StreamError::ErrorEvent));
}

#[test]
fn usage_is_there_however_the_stream_ends() {
    assert_eq!(stream_of(&[CREATED]).usage(), None);
    for kind in ["completed", "failed", "incomplete", "in_progress"] {
        let last = format!(
            r#"{{"type":"response.{kind}","response":{{"output":[],"usage":{{ "total_tokens":5 }}}}}}"#
        );
        let assembler = stream_of(&[CREATED, &last, "{"]);
        assert_eq!(assembler.usage(), Some(r#"{ "total_tokens":5 }"#), "{kind}");
    }
}

#[test]
fn is_replayed_as_a_live_stream_comes() {
    let message = r#"{"id":"m","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"hi","annotations":[]}]}"#;
    let call = r#"{"id":"f","type":"function_call","status":"completed","call_id":"c","name":"g","arguments":"{}"}"#;
    let body = format!(
        "{{\"id\":\"r\",\"status\":\"completed\",\"model\":\"x\",\r\n\"output\":[{message},{call}],\"usage\":{{\"total_tokens\":5}}}}"
    );
    let begun =
        r#""response":{"id":"r","status":"in_progress","model":"x","output":[],"usage":null}"#;
    let at = r#""item_id":"m","output_index":0,"content_index":0"#;
    let in_call = r#""item_id":"f","output_index":1"#;
    let expected = [
        ("created", begun.to_owned()),
        ("in_progress", begun.to_owned()),
        ("output_item.added", r#""output_index":0,"item":{"id":"m","type":"message","status":"in_progress","role":"assistant","content":[]}"#.to_owned()),
        ("content_part.added", format!(r#"{at},"part":{{"type":"output_text","text":"","annotations":[]}}"#)),
        ("output_text.delta", format!(r#"{at},"delta":"hi","logprobs":[]"#)),
        ("output_text.done", format!(r#"{at},"text":"hi","logprobs":[]"#)),
        ("content_part.done", format!(r#"{at},"part":{{"type":"output_text","text":"hi","annotations":[]}}"#)),
        ("output_item.done", format!(r#""output_index":0,"item":{message}"#)),
        ("output_item.added", r#""output_index":1,"item":{"id":"f","type":"function_call","status":"in_progress","call_id":"c","name":"g","arguments":""}"#.to_owned()),
        ("function_call_arguments.delta", format!(r#"{in_call},"delta":"{{}}""#)),
        ("function_call_arguments.done", format!(r#"{in_call},"arguments":"{{}}""#)),
        ("output_item.done", format!(r#""output_index":1,"item":{call}"#)),
        ("completed", format!("\"response\":{}", body.replace("\r\n", "\ndata: \ndata: "))),
    ];
    let expected: String = expected
        .iter()
        .enumerate()
        .map(|(number, (kind, rest))| {
            format!("event: response.{kind}\ndata: {{\"type\":\"response.{kind}\",\"sequence_number\":{number},{rest}}}\n\n")
        })
        .collect();
    let parsed = Object::parse(body.as_bytes()).unwrap();
    let stream = replay(Dialect::OpenAiResponses, &parsed, false).unwrap();
    assert_eq!(String::from_utf8(stream).unwrap(), expected);
}

#[test]
fn a_failed_tool_is_replayed_as_failed() {
    let body = |error: &str| {
        format!(
            r#"{{"id":"r","model":"x","output":[{{"id":"m","type":"mcp_call","arguments":"","error":{error}}}]}}"#
        )
    };
    for (error, failed) in [("null", false), (r#"{"code":1}"#, true)] {
        let body = body(error);
        let parsed = Object::parse(body.as_bytes()).unwrap();
        let stream = replay(Dialect::OpenAiResponses, &parsed, false).unwrap();
        let stream = String::from_utf8(stream).unwrap();
        assert_eq!(stream.contains("event: response.mcp_call.failed\n"), failed);
        assert_eq!(stream.contains("event: response.mcp_call.completed\n"), !failed);
    }
}
