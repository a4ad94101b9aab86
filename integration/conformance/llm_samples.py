"""One request and one response of each LLM endpoint, rich enough for strategies to work on."""

import copy
import json
import uuid

# Tool results as they come: pretty-printed, and far too long.
TOOL_RESULT = json.dumps([{"row": n, "value": "x" * 20} for n in range(1000)], indent=4)
PROSE = "Answer   politely.\n\n\n\nNever   swear.  "

TOOL = {"name": "lookup", "description": "Looks things up."}
SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}}}

_REQUESTS = {
    "/v1/chat/completions": {
        "model": "model-1",
        "messages": [
            {"role": "system", "content": PROSE},
            {"role": "user", "content": [{"type": "text", "text": "Look up   this."}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "lookup", "arguments": '{"key": "k"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": TOOL_RESULT},
        ],
        "tools": [{"type": "function", "function": {**TOOL, "parameters": SCHEMA}}],
        "tool_choice": "auto",
        "max_tokens": 1_000_000,
        "stream": False,
    },
    "/v1/completions": {"model": "model-1", "prompt": PROSE, "max_tokens": 1_000_000},
    "/v1/embeddings": {"model": "model-1", "input": ["one   text", "another"]},
    "/v1/responses": {
        "model": "model-1",
        "instructions": PROSE,
        "store": False,
        "input": [
            {"role": "user", "content": "Look up   this."},
            {"type": "function_call", "call_id": "call_1", "name": "lookup", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": TOOL_RESULT},
        ],
        "tools": [{"type": "function", **TOOL, "parameters": SCHEMA}],
        "tool_choice": "auto",
        "max_output_tokens": 1_000_000,
    },
    "/v1/messages": {
        "model": "model-1",
        "max_tokens": 1_000_000,
        "system": [{"type": "text", "text": PROSE}],
        "messages": [
            {"role": "user", "content": "Look up   this."},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "call_1", "name": "lookup", "input": {}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": TOOL_RESULT}
                ],
            },
        ],
        "tools": [{**TOOL, "input_schema": SCHEMA}],
        "tool_choice": {"type": "auto"},
    },
}

_RESPONSES = {
    "/v1/chat/completions": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "model-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Done.  \n"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    },
    "/v1/completions": {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "model-1",
        "choices": [{"index": 0, "text": "Done.  \n", "finish_reason": "stop"}],
    },
    "/v1/embeddings": {
        "object": "list",
        "model": "model-1",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}],
    },
    "/v1/responses": {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Done.  \n", "annotations": []}],
            }
        ],
    },
    "/v1/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "model-1",
        "content": [{"type": "text", "text": "Done.  \n"}],
        "stop_reason": "end_turn",
    },
}

ENDPOINTS = list(_REQUESTS)

# What a request is refused for by the provider when it is missing.
REQUIRED = {
    "/v1/chat/completions": ["model", "messages"],
    "/v1/completions": ["model", "prompt"],
    "/v1/embeddings": ["model", "input"],
    "/v1/responses": ["model", "input"],
    "/v1/messages": ["model", "messages", "max_tokens"],
}


def request(endpoint):
    return copy.deepcopy(_REQUESTS[endpoint])


def fresh_request(endpoint):
    """A request that no one has sent before, so that no cache knows it."""
    return {**request(endpoint), "user": str(uuid.uuid4())}


def response(endpoint):
    return copy.deepcopy(_RESPONSES[endpoint])
