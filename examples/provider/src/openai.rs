//! OpenAI's chat completions, completions and embeddings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::reply::{CREATED, Reply};

fn usage(reply: &Reply) -> Value {
    json!({
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens(),
        "total_tokens": reply.input_tokens + reply.output_tokens(),
    })
}

fn data(event: &Value) -> String {
    format!("data: {event}\n\n")
}

/// What the two kinds of completions differ in.
#[derive(Clone, Copy)]
enum Kind {
    Chat,
    Text,
}

impl Kind {
    fn envelope(self, reply: &Reply, object: &str, choices: Value) -> Value {
        let prefix = match self {
            Self::Chat => "chatcmpl",
            Self::Text => "cmpl",
        };
        json!({
            "id": format!("{prefix}-{}", reply.id), "object": object, "created": CREATED,
            "model": reply.model, "system_fingerprint": "fp_demo", "choices": choices,
        })
    }

    fn events(self, reply: &Reply, request: &Value) -> Vec<String> {
        let object = match self {
            Self::Chat => "chat.completion.chunk",
            Self::Text => "text_completion",
        };
        // With include_usage every chunk has the member, and all but the last one hold null.
        let with_usage = request["stream_options"]["include_usage"] == true;
        let event = |choices: Value, usage: Value| {
            let mut chunk = self.envelope(reply, object, choices);
            if with_usage {
                chunk["usage"] = usage;
            }
            data(&chunk)
        };
        let choice = |text: Option<&str>, finish: Value| match self {
            Self::Chat => {
                let delta = text.map_or(json!({}), |text| json!({"content": text}));
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}])
            }
            Self::Text => json!([{
                "index": 0, "text": text.unwrap_or(""), "logprobs": null, "finish_reason": finish,
            }]),
        };
        let mut events = Vec::new();
        if let Self::Chat = self {
            let delta = json!({"role": "assistant", "content": ""});
            let first = json!([{
                "index": 0, "delta": delta, "logprobs": null, "finish_reason": null,
            }]);
            events.push(event(first, Value::Null));
        }
        for piece in &reply.pieces {
            events.push(event(choice(Some(piece), Value::Null), Value::Null));
        }
        events.push(event(choice(None, json!("stop")), Value::Null));
        if with_usage {
            events.push(event(json!([]), usage(reply)));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }
}

/// The answer of `/v1/chat/completions`.
pub fn chat(reply: &Reply) -> Value {
    let message = json!({
        "role": "assistant", "content": reply.text(), "refusal": null, "annotations": [],
    });
    let choices =
        json!([{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}]);
    let mut answer = Kind::Chat.envelope(reply, "chat.completion", choices);
    answer["usage"] = usage(reply);
    answer
}

/// The events of a streamed `/v1/chat/completions`.
pub fn chat_events(reply: &Reply, request: &Value) -> Vec<String> {
    Kind::Chat.events(reply, request)
}

/// The answer of `/v1/completions`.
pub fn completion(reply: &Reply) -> Value {
    let choices =
        json!([{"index": 0, "text": reply.text(), "logprobs": null, "finish_reason": "stop"}]);
    let mut answer = Kind::Text.envelope(reply, "text_completion", choices);
    answer["usage"] = usage(reply);
    answer
}

/// The events of a streamed `/v1/completions`.
pub fn completion_events(reply: &Reply, request: &Value) -> Vec<String> {
    Kind::Text.events(reply, request)
}

/// The answer of `/v1/embeddings`: a vector for each text or list of tokens.
pub fn embeddings(reply: &Reply, request: &Value) -> Value {
    let input = &request["input"];
    let inputs: Vec<&Value> = match input.as_array() {
        Some(items) if !items[0].is_number() => items.iter().collect(),
        _ => vec![input],
    };
    let length = request["dimensions"].as_u64().unwrap_or(8).clamp(1, 4096) as usize;
    let base64 = request["encoding_format"] == "base64";
    let vectors: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let vector = vector(input.to_string().as_bytes(), length);
            let embedding = if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json!(STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    json!({
        "object": "list", "data": vectors, "model": reply.model,
        "usage": {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens},
    })
}

/// A vector of length one: the bytes, summed up by position.
fn vector(bytes: &[u8], length: usize) -> Vec<f32> {
    let mut sums = vec![0f32; length];
    for (position, byte) in bytes.iter().enumerate() {
        sums[position % length] += f32::from(*byte);
    }
    let norm = sums.iter().map(|x| x * x).sum::<f32>().sqrt();
    sums.into_iter().map(|x| x / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    fn reply(request: &Value) -> Reply {
        Reply::to(Dialect::Chat, request, b"")
    }

    fn chunks(events: &[String]) -> Vec<Value> {
        let (done, chunks) = events.split_last().unwrap();
        assert_eq!(done, "data: [DONE]\n\n");
        let parse = |event: &String| serde_json::from_str(event.strip_prefix("data: ").unwrap());
        chunks.iter().map(|event| parse(event).unwrap()).collect()
    }

    #[test]
    fn streams_the_same_text_as_the_whole_answer() {
        let request = json!({"model": "m", "messages": [{"role": "user", "content": "a b"}]});
        let reply = reply(&request);
        let chat: String = chunks(&chat_events(&reply, &request))
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        let text: String = chunks(&completion_events(&reply, &request))
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
            .collect();
        assert_eq!(chat, reply.text());
        assert_eq!(text, reply.text());
    }

    #[test]
    fn reports_usage_in_the_stream_on_request_only() {
        let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
        let without = chunks(&chat_events(&reply(&request), &request));
        assert!(without.iter().all(|chunk| chunk.get("usage").is_none()));
        request["stream_options"] = json!({"include_usage": true});
        let with = chunks(&chat_events(&reply(&request), &request));
        let (last, others) = with.split_last().unwrap();
        assert!(others.iter().all(|chunk| chunk["usage"].is_null()));
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"], chat(&reply(&request))["usage"]);
    }

    #[test]
    fn gives_a_vector_for_each_input_in_either_encoding() {
        let ask = |request: Value| embeddings(&reply(&request), &request)["data"].clone();
        let floats = ask(json!({"model": "m", "input": ["a", "b"], "dimensions": 3}));
        assert_eq!(floats.as_array().unwrap().len(), 2);
        assert_eq!(floats[1]["embedding"].as_array().unwrap().len(), 3);
        assert_ne!(floats[0]["embedding"], floats[1]["embedding"]);
        let encoded = ask(json!({"model": "m", "input": "a", "encoding_format": "base64"}));
        let bytes = STANDARD.decode(encoded[0]["embedding"].as_str().unwrap()).unwrap();
        assert_eq!(bytes.len(), 8 * 4);
        assert_eq!(ask(json!({"model": "m", "input": [1, 2, 3]})).as_array().unwrap().len(), 1);
    }
}
