//! Anthropic's Messages API.

use serde_json::{Value, json};

use crate::reply::Reply;

fn message(reply: &Reply, content: Value, stop_reason: Value, output_tokens: usize) -> Value {
    json!({
        "id": format!("msg_{}", reply.id), "type": "message", "role": "assistant",
        "model": reply.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {
            "input_tokens": reply.input_tokens, "output_tokens": output_tokens,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        },
    })
}

/// The answer of `/v1/messages`.
pub fn answer(reply: &Reply) -> Value {
    let content = json!([{"type": "text", "text": reply.text()}]);
    message(reply, content, json!("end_turn"), reply.output_tokens())
}

/// The events of a streamed `/v1/messages`.
pub fn events(reply: &Reply) -> Vec<String> {
    let mut events = vec![
        json!({"type": "message_start", "message": message(reply, json!([]), Value::Null, 1)}),
        json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
    ];
    events.extend(reply.pieces.iter().map(|piece| {
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": piece}})
    }));
    events.extend([
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": reply.output_tokens()}}),
        json!({"type": "message_stop"}),
    ]);
    let framed = events.into_iter().map(|event| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    });
    framed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    #[test]
    fn streams_in_the_order_of_the_api() {
        let request = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
        let reply = Reply::to(Dialect::Messages, &request, b"");
        let mut names: Vec<String> = events(&reply)
            .iter()
            .map(|event| event.strip_prefix("event: ").unwrap().lines().next().unwrap().to_owned())
            .collect();
        names.dedup();
        let order = "message_start content_block_start ping content_block_delta \
                     content_block_stop message_delta message_stop";
        assert_eq!(names.join(" "), order);
        assert_eq!(answer(&reply)["content"][0]["text"], reply.text());
    }
}
