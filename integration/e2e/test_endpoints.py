"""Which calls are an LLM endpoint's, and what the others see of the module: nothing."""

import pytest

from conftest import module
from kit.client import Request
from kit.dialects import CHAT, MESSAGES
from kit.envoy_config import Setup
from kit.optimizer import transforms

JSON = [("content-type", "application/json")]


@pytest.mark.parametrize("path", [
    "/v1/threads/t1/messages",
    "/v1/chat/completions/extra",
    "/v1/models",
    "/chat/completions",
    "/?path=/v1/chat/completions",
])
def test_other_paths_are_nobody_s_business(plain, optimizer, provider, http, path):
    counting = plain.counting()
    body = CHAT.call().body
    reply = plain.send(Request(path=path, headers=JSON, body=body), http)
    assert provider.of(reply.case)[0].body == body
    assert optimizer.calls == []
    assert plain.outcome(reply) is None
    counting.expect(exchanges={})


@pytest.mark.parametrize("path, endpoint", [
    ("/v1/messages", "/v1/messages"),
    ("/anthropic/v1/messages?beta=true", "/v1/messages"),
    ("/a/b/c/v1/chat/completions", "/v1/chat/completions"),
    ("/v1/embeddings?", "/v1/embeddings"),
])
def test_a_known_path_counts_behind_any_prefix(plain, optimizer, http, path, endpoint):
    plain.send(Request(path=path, headers=JSON, body=CHAT.call().body), http)
    assert optimizer.asked().json["endpoint"] == endpoint


@pytest.mark.parametrize("content_type", [
    "application/json", "Application/JSON; charset=UTF-8", "application/json ; x=y",
])
def test_a_json_content_type_counts_in_any_spelling(plain, optimizer, content_type):
    headers = [("content-type", content_type)]
    plain.send(Request(path=CHAT.path, headers=headers, body=CHAT.call().body))
    assert len(optimizer.calls) > 0


def test_configured_endpoints_are_added_and_the_longest_match_wins(proxies, optimizer, provider):
    proxy = proxies.get(Setup(module(endpoints={
        "/chat/completions": "/v1/chat/completions",
        "/special/v1/chat/completions": "/v1/messages",
    })))
    azure = "/openai/deployments/d1/chat/completions"
    for path, endpoint in [
        (azure + "?api-version=2026-01-01", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/special/v1/chat/completions", "/v1/messages"),
        ("/v1/messages", "/v1/messages"),
    ]:
        optimizer.reset()
        proxy.send(Request(path=path, headers=JSON, body=MESSAGES.call().body))
        assert optimizer.asked().json["endpoint"] == endpoint
    optimizer.on("/v1/optimize", transforms(CHAT.shorten))
    reply = proxy.send(Request(path=azure, headers=JSON, body=CHAT.call().body))
    assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
