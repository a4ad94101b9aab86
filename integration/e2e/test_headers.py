"""What goes beside the bodies: the adapter's own headers, attribution, the decisions."""

import json

import pytest

from conftest import PATIENT, module
from kit.client import Request
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.message import as_json
from kit.optimizer import CACHE, DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, hits, says, transforms

TEST = ("x-anyray-test", "1")
OURS = [
    ("x-anyray-optimize", "on"), ("x-anyray-metadata", '{"user":"ann"}'), TEST,
    ("x-anyray-optimization", "{}"), ("X-Anyray-Future", "1"),
]


@pytest.mark.parametrize("path", [CHAT.path, "/v1/models", "/"])
def test_ours_never_reach_the_provider(plain, provider, http, path):
    reply = plain.send(Request(path=path, headers=[("content-type", "application/json"), *OURS],
                               body=CHAT.call().body), http)
    names = [name.lower() for name, _ in provider.of(reply.case)[0].headers]
    assert not [name for name in names if name.startswith("x-anyray")]


def test_ours_do_not_reach_the_provider_of_an_opted_out_call(plain, provider, optimizer, http):
    reply = plain.send(CHAT.call(headers=[("x-anyray-optimize", "OFF"), *OURS[1:]]), http)
    names = [name.lower() for name, _ in provider.of(reply.case)[0].headers]
    assert not [name for name in names if name.startswith("x-anyray")]
    assert optimizer.calls == []


def metadata(proxy, optimizer, *headers) -> dict:
    """What the optimizer is told about a call with these headers."""
    optimizer.reset()
    proxy.send(CHAT.call(headers=headers))
    told = optimizer.asked().json.get("metadata", {})
    told.pop("cacheScope", None)
    return told


CLAIMS = {
    '{"user":"ann","team":"red","sessionId":"s1","tool":"cli"}':
        {"user": "ann", "team": "red", "sessionId": "s1", "tool": "cli"},
    '{"user_id":"ann","team_id":"red","session_id":"s1"}':
        {"user": "ann", "team": "red", "sessionId": "s1"},
    '{"userId":"ann"}': {"user": "ann"},
    '{"n":1,"yes":true,"none":null}': {"n": 1, "yes": True, "none": None},
    '{"user":"ann","deep":{"a":1},"list":[1]}': {"user": "ann"},
    '{"user":"caf\\u00e9"}': {"user": "café"},
    'not json': {},
    '["user"]': {},
    '"user"': {},
    '': {},
    json.dumps({"user": "u" * 9000}): {},
}


@pytest.mark.parametrize("claim, told", CLAIMS.items(), ids=[claim[:40] for claim in CLAIMS])
def test_the_client_s_metadata(plain, optimizer, claim, told):
    assert metadata(plain, optimizer, ("x-anyray-metadata", claim)) == told


def test_write_back_and_response_hook_carry_the_metadata(plain, optimizer):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-metadata"))
    plain.send(CHAT.call(headers=[OURS[1]]))
    told = optimizer.asked().json["metadata"]
    assert told["user"] == "ann"
    assert optimizer.to(OPTIMIZE_RESPONSE)[0].json["metadata"] == told
    assert optimizer.written_back("ck-metadata")["metadata"] == told


TRUSTED = Setup(module(
    optimizer=PATIENT | {"authority": "brain.internal", "path_prefix": "/tenant"},
    attribution={
        "user": {"header": "X-Verified-User"},
        "team": {"property": ["xds", "cluster_name"]},
        "region": {"header": "x-region"},
        "intent": {"property": ["no", "such", "property"]},
    },
    decisions_header="always",
))


def test_trusted_attribution_wins_also_where_it_is_silent(proxies, optimizer):
    proxy = proxies.get(TRUSTED)
    claim = ("x-anyray-metadata", '{"user_id":"mallory","team":"x","intent":"i","tool":"cli"}')
    told = metadata(proxy, optimizer, claim, ("x-verified-user", "ann"), ("x-region", "eu"))
    assert told == {"user": "ann", "team": "provider", "region": "eu", "tool": "cli"}


@pytest.mark.parametrize("values", [["ann", "bob"], ["ann", "ann"]], ids=["differing", "equal"])
def test_attribution_that_comes_twice_is_none(proxies, optimizer, values):
    twice = [("x-verified-user", value) for value in values]
    claim = ("x-anyray-metadata", '{"user":"mallory"}')
    told = metadata(proxies.get(TRUSTED), optimizer, claim, *twice)
    assert "user" not in told


def test_authority_and_path_prefix_are_the_configured_ones(proxies, optimizer):
    proxies.get(TRUSTED).send(CHAT.call())
    asked = optimizer.asked()
    assert (asked.path, asked.headers.get("host")) == ("/tenant/v1/optimize", "brain.internal")


def test_the_authority_is_the_upstream_unless_set(plain, optimizer):
    plain.send(CHAT.call())
    assert optimizer.asked().headers.get("host") == "optimizer"


def decisions(reply) -> dict | None:
    values = reply.headers.all("x-anyray-optimization")
    assert len(values) <= 1
    return json.loads(values[0]) if values else None


def test_decisions_are_told_on_request(plain, optimizer, http):
    suppressed = {"kind": "relevance_filter", "reason": "no_retrieve"}
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, suppressedKinds=[suppressed]))
    assert decisions(plain.send(CHAT.call(), http)) is None
    assert decisions(plain.send(CHAT.call(headers=[("x-anyray-test", "0")]), http)) is None
    told = decisions(plain.send(CHAT.call(headers=[TEST]), http))
    assert told == {"status": "applied", "decisions": [DECISION], "suppressedKinds": [suppressed]}


def test_every_status_is_told(plain, optimizer, provider, key, http):
    ask = lambda **more: decisions(plain.send(CHAT.call(key=key, headers=[TEST], **more), http))
    unchanged = ask()
    assert (unchanged["status"], unchanged["decisions"]) == ("unchanged", [])
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    assert ask()["status"] == "hit"
    bypassed = ask(raw=b"no json")
    assert (bypassed["status"], bypassed["reason"]) == ("bypassed", "request_not_json")


def test_decisions_of_older_optimizers_are_understood(plain, optimizer):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, decisions=[
        {"strategy": "a", "applied": True}, {"name": "b"}, {"kind": "c", "summary": None},
    ]))
    told = decisions(plain.send(CHAT.call(headers=[TEST])))
    assert [decision["kind"] for decision in told["decisions"]] == ["a", "b", "c"]


@pytest.mark.parametrize("junk", [None, "x", 7, {}, [1, None, "x", []], [{"summary": "no kind"}]],
                         ids=str)
def test_decisions_of_the_wrong_shape_spoil_nothing(plain, optimizer, provider, junk):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, decisions=junk, suppressedKinds=junk))
    reply = plain.send(CHAT.call(headers=[TEST]))
    assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
    assert decisions(reply)["status"] == "applied"


def test_long_decisions_become_counts(plain, optimizer, http):
    many = [DECISION | {"summary": "s" * 100}] * 40
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, decisions=many))
    told = decisions(plain.send(CHAT.call(headers=[TEST]), http))
    assert told == {"status": "applied", "decisions": 40, "suppressedKinds": 0}


def test_no_header_of_ours_can_be_split(plain, optimizer, http):
    nasty = DECISION | {"kind": "a\r\nset-cookie: x=1", "summary": "\u0000\u007f\u2028é\n"}
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, decisions=[nasty]))
    reply = plain.send(CHAT.call(headers=[TEST]), http)
    assert not reply.headers.has("set-cookie")
    [value] = reply.headers.all("x-anyray-optimization")
    assert all(" " <= character <= "~" for character in value)
    [decision] = json.loads(value)["decisions"]
    assert decision["kind"].startswith("a")


def test_decisions_are_told_always_where_configured(proxies, optimizer, provider, http):
    proxy = proxies.get(TRUSTED)
    assert decisions(proxy.send(CHAT.call(), http))["status"] == "unchanged"
    told = decisions(proxy.send(CHAT.call(prefix="/gone"), http))
    assert told is None or told["status"] == "unchanged"
    assert decisions(proxy.send(Request(path="/other"), http)) is None


def test_decisions_are_never_told_where_configured(proxies):
    proxy = proxies.get(Setup(module(decisions_header="never", cache={"ttl_seconds": 60})))
    assert decisions(proxy.send(CHAT.call(headers=[TEST]))) is None


def test_the_provider_cannot_speak_for_the_adapter(plain, provider):
    provider.answers(as_json(CHAT.answer, headers=[("x-anyray-optimization", '{"forged":1}')]))
    told = decisions(plain.send(CHAT.call(headers=[TEST])))
    assert told["status"] == "unchanged"


ALLOWED_ON_CALLOUTS = {
    "host", "content-type", "content-length", "transfer-encoding", "accept", "accept-encoding",
    "user-agent", "traceparent", "tracestate", "x-request-id", "authorization",
    # Envoy's own.
    "x-envoy-internal", "x-forwarded-for", "x-forwarded-proto", "x-envoy-expected-rq-timeout-ms",
}


def test_callouts_carry_the_trace_and_nothing_else_of_the_client_s(plain, optimizer, provider, http):
    trace = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "v=1,w=2"}
    others = [("accept-language", "de"), ("user-agent", "the-client/1"), ("x-session", "s"),
              ("cookie", "c=1"), ("baggage", "b=1"), ("x-b3-traceid", "1")]
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-trace"))
    reply = plain.send(CHAT.call(key="sk-1", headers=[*trace.items(), *others]), http)
    optimizer.written_back("ck-trace")
    request_id = provider.of(reply.case)[0].headers.get("x-request-id")
    calls = optimizer.to(OPTIMIZE) + optimizer.to(OPTIMIZE_RESPONSE) + optimizer.to(CACHE)
    assert len(calls) == 3
    for call in calls:
        assert {name.lower() for name, _ in call.headers} <= ALLOWED_ON_CALLOUTS
        assert call.headers.get("traceparent") == trace["traceparent"]
        assert call.headers.get("tracestate") == trace["tracestate"]
        assert call.headers.get("x-request-id") == request_id
        assert call.headers.get("user-agent") != "the-client/1"
        assert not call.headers.has("authorization")
