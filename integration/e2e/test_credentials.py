"""The provider's credentials never reach the optimizer, the optimizer's never the provider."""

import pytest

from conftest import PATIENT, module
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.message import Answer, as_json
from kit.optimizer import CACHE, OPTIMIZE, OPTIMIZE_RESPONSE, says
from kit.proxy import ON

TOKEN = "canary-of-the-optimizer"
CREDENTIALS = [
    ("authorization", "Bearer canary-authorization"),
    ("x-api-key", "canary-x-api-key"),
    ("api-key", "canary-api-key"),
    ("cookie", "session=canary-cookie"),
    ("proxy-authorization", "Basic canary-proxy-authorization"),
    ("x-goog-api-key", "canary-google"),
    ("openai-organization", "canary-organization"),
    ("x-custom-secret", "canary-custom"),
    ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
]

BY_VALUE = Setup(module(optimizer=PATIENT | {"token": TOKEN}))
BY_NAME = Setup(module(optimizer=PATIENT | {"token_env": "OPTIMIZER_TOKEN"}),
                environment={"OPTIMIZER_TOKEN": TOKEN})


@pytest.fixture(params=[BY_VALUE, BY_NAME], ids=["token", "token_env"])
def guarded(request, proxies):
    return proxies.get(request.param)


# Is for the first proxy on the way (RFC 9110, section 11.7.2); Envoy passes it on.
CONSUMED = [] if ON == "envoy" else ["proxy-authorization"]


def logs(proxy) -> str:
    return proxy.host.log.read_text(errors="replace") + proxy.host.access_log.read_text()


def test_each_side_keeps_its_credentials(guarded, optimizer, provider, http):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-canary"))
    provider.answers(as_json(CHAT.answer, headers=[("set-cookie", "s=canary-set-cookie")]))
    reply = guarded.send(CHAT.call(
        headers=[*CREDENTIALS, ("x-anyray-test", "1")], query="?key=canary-query"), http)
    optimizer.written_back("ck-canary")

    calls = optimizer.to(OPTIMIZE) + optimizer.to(OPTIMIZE_RESPONSE) + optimizer.to(CACHE)
    assert len(calls) == 3
    for call in calls:
        assert call.headers.all("authorization") == [f"Bearer {TOKEN}"]
        assert "canary" not in call.everything.replace(TOKEN, "").replace("ck-canary", "")
    [seen] = provider.of(reply.case)
    for name, value in CREDENTIALS:
        assert seen.headers.all(name) == ([] if name in CONSUMED else [value])
    assert seen.path.endswith("?key=canary-query")
    assert TOKEN not in seen.everything
    assert TOKEN not in reply.everything
    assert reply.headers.get("set-cookie") == "s=canary-set-cookie"
    assert "canary" not in logs(guarded).replace("ck-canary", "")


LEAKY = [("set-cookie", "x=canary-leak"), ("x-internal", "canary-leak"), ("location", "/canary-leak")]


@pytest.mark.parametrize("answer", [
    as_json({"request": CHAT.request, "decisions": []}, headers=LEAKY),
    as_json({"error": "canary-leak"}, status=500, headers=LEAKY),
    Answer(status=302, headers=LEAKY, body=b"canary-leak"),
    as_json({"error": "canary-leak", "detail": TOKEN}),
    as_json(b'"canary-leak'),
], ids=["an answer's headers", "an error", "a redirect", "a wrong shape", "no JSON"])
def test_nothing_of_the_optimizer_s_answer_leaks(guarded, optimizer, provider, http, answer):
    optimizer.on(OPTIMIZE, answer)
    optimizer.on(OPTIMIZE_RESPONSE, answer)
    reply = guarded.send(CHAT.call(headers=[("x-anyray-test", "1")]), http)
    assert (reply.status, reply.json) == (200, CHAT.answer)
    assert "canary" not in provider.of(reply.case)[0].everything
    assert "canary" not in reply.everything
    assert "canary" not in logs(guarded)


def test_a_refused_caller_s_key_is_not_logged(guarded, optimizer, provider):
    provider.answers(as_json({"error": {"message": "bad key canary-body"}}, status=401))
    guarded.send(CHAT.call(headers=CREDENTIALS))
    assert "canary" not in logs(guarded)


def test_counters_are_content_free(guarded):
    guarded.send(CHAT.call(headers=[*CREDENTIALS, ("x-anyray-metadata", '{"user":"canary"}')]))
    assert "canary" not in guarded.host.measured()


def test_a_token_by_name_shows_nowhere_in_the_module_s_configuration(proxies):
    dump = proxies.get(BY_NAME).host.ask("/config_dump")
    plugin = [line for line in dump.splitlines() if '"value"' in line and "upstream" in line]
    assert plugin and TOKEN not in "".join(plugin)
