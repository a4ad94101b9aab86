//! OpenAI's Responses API.

use serde_json::{Value, json};

use crate::reply::{CREATED, Reply};

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn item(reply: &Reply, status: &str, content: Value) -> Value {
    json!({
        "type": "message", "id": format!("msg_{}", reply.id), "status": status,
        "role": "assistant", "content": content,
    })
}

fn response(reply: &Reply, request: &Value, status: &str, output: Value, usage: Value) -> Value {
    json!({
        "id": format!("resp_{}", reply.id), "object": "response", "created_at": CREATED,
        "status": status, "model": reply.model, "output": output, "usage": usage,
        "error": null, "incomplete_details": null, "instructions": request["instructions"],
        "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
        "tool_choice": "auto", "tools": [], "previous_response_id": null, "store": false,
    })
}

/// The answer of `/v1/responses`.
pub fn answer(reply: &Reply, request: &Value) -> Value {
    let usage = json!({
        "input_tokens": reply.input_tokens, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.output_tokens(), "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.input_tokens + reply.output_tokens(),
    });
    let output = json!([item(reply, "completed", json!([part(&reply.text())]))]);
    response(reply, request, "completed", output, usage)
}

/// The events of a streamed `/v1/responses`.
pub fn events(reply: &Reply, request: &Value) -> Vec<String> {
    let started = response(reply, request, "in_progress", json!([]), Value::Null);
    let item_id = format!("msg_{}", reply.id);
    let in_part = |mut event: Value| {
        event["item_id"] = json!(item_id);
        event["output_index"] = json!(0);
        event["content_index"] = json!(0);
        event
    };
    let mut events = vec![
        json!({"type": "response.created", "response": started}),
        json!({"type": "response.in_progress", "response": started}),
        json!({"type": "response.output_item.added", "output_index": 0,
            "item": item(reply, "in_progress", json!([]))}),
        in_part(json!({"type": "response.content_part.added", "part": part("")})),
    ];
    events.extend(reply.pieces.iter().map(|piece| {
        in_part(json!({"type": "response.output_text.delta", "delta": piece, "logprobs": []}))
    }));
    let text = reply.text();
    events.extend([
        in_part(json!({"type": "response.output_text.done", "text": text, "logprobs": []})),
        in_part(json!({"type": "response.content_part.done", "part": part(&text)})),
        json!({"type": "response.output_item.done", "output_index": 0,
            "item": item(reply, "completed", json!([part(&text)]))}),
        json!({"type": "response.completed", "response": answer(reply, request)}),
    ]);
    let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
        event["sequence_number"] = json!(number);
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    });
    numbered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    #[test]
    fn the_stream_ends_in_the_whole_answer() {
        let request = json!({"model": "m", "input": "hello", "instructions": "be brief"});
        let reply = Reply::to(Dialect::Responses, &request, b"");
        let events = events(&reply, &request);
        let parsed: Vec<Value> = events
            .iter()
            .map(|event| serde_json::from_str(event.split_once("\ndata: ").unwrap().1).unwrap())
            .collect();
        let deltas: String = parsed.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(deltas, reply.text());
        assert!(events[0].starts_with("event: response.created\n"));
        let last = parsed.last().unwrap();
        assert_eq!(last["sequence_number"], json!(parsed.len() - 1));
        assert_eq!(last["response"], answer(&reply, &request));
    }
}
