"""The module's metrics at Envoy's /stats/prometheus."""

import time

import pytest

from conftest import module
from kit.dialects import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from kit.envoy_config import Setup
from kit.message import as_json
from kit.optimizer import OPTIMIZE, hits, says, transforms
from kit.provider import sse
from kit.streams import told


def sample(proxy, name, **labels) -> float:
    return proxy.host.samples().get((name, frozenset(labels.items())), 0)


def test_counters_have_their_names_and_labels(plain, optimizer, provider, key):
    def value() -> list[float]:
        return [
            sample(plain, "optimizer_exchanges", outcome="transformed", reason="none"),
            sample(plain, "optimizer_exchanges", outcome="hit", reason="none"),
            sample(plain, "optimizer_exchanges", outcome="bypassed", reason="optimizer_status"),
            sample(plain, "optimizer_callouts", kind="optimize", result="ok"),
            sample(plain, "optimizer_callouts", kind="optimize", result="status"),
            sample(plain, "optimizer_tokens_saved"),
        ]

    before = value()
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, estimatedTokensSaved=41))
    plain.send(CHAT.call(key=key))
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    plain.send(CHAT.call(key=key))
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    last = plain.send(CHAT.call(key=key))
    plain.logged(last.case)
    assert [now - then for now, then in zip(value(), before)] == [1, 1, 1, 2, 1, 41]


@pytest.mark.parametrize("saved", [None, -5, "7", 1e300, [3]], ids=str)
def test_savings_that_are_no_count_are_not_summed(plain, optimizer, saved):
    counting = plain.counting()
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, estimatedTokensSaved=saved))
    reply = plain.send(CHAT.call())
    assert plain.outcome(reply) == "transformed"
    assert counting.moved("tokens_saved") == {}


def test_savings_of_a_transform_that_was_not_applied_do_not_count(plain, optimizer):
    counting = plain.counting()
    optimizer.on(OPTIMIZE, says(request=CHAT.body(messages=[]), estimatedTokensSaved=9))
    plain.outcome(plain.send(CHAT.call()))
    assert counting.moved("tokens_saved") == {}


def test_the_callouts_time_is_a_histogram(plain, optimizer):
    def taken(part: str) -> float:
        return sample(plain, f"optimizer_callout_duration_us_{part}", kind="optimize")

    optimizer.on(OPTIMIZE, as_json({"request": {}}, delay=0.2))
    before = taken("sum")
    plain.send(CHAT.call())
    # What earlier calls took may be merged in late, but they took next to nothing.
    deadline = time.monotonic() + 10
    while taken("sum") - before < 180_000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 180_000 <= taken("sum") - before < 10_000_000
    assert taken("count") > 0


def test_no_name_keeps_an_unlabelled_part(plain):
    plain.outcome(plain.send(CHAT.call()))
    names = {name for name, _ in plain.host.samples()}
    parts = ("_outcome_", "_kind_", "_operation_chat", "_type_")
    assert not [name for name in names if any(part in name for part in parts)]


def costing(dialect, tokens_in: int, tokens_out: int | None) -> dict:
    """A plain answer that cost so many tokens."""
    usage = {name: tokens_in if "prompt" in name or "input" in name else tokens_out
             for name, value in dialect.answer["usage"].items() if isinstance(value, int)}
    return dialect.answer | {"usage": usage}


def test_tokens_and_times_are_histograms(proxies, optimizer, provider, key):
    """Envoy's histograms count exactly, and know their sums to some hundredths."""
    # An Envoy of its own, lest calls of other tests be merged in late.
    proxy = proxies.get(Setup(module(cache={"proof_seconds": 301})))
    calls = [(CHAT, 1000, 200), (RESPONSES, 3000, 100), (MESSAGES, 2000, 400),
             (COMPLETIONS, 500, 50), (EMBEDDINGS, 800, None)]
    for dialect, tokens_in, tokens_out in calls:
        provider.answers(as_json(costing(dialect, tokens_in, tokens_out)))
        assert proxy.send(dialect.call(key=key)).status == 200
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    for stream in (False, True):
        assert proxy.outcome(proxy.send(CHAT.call(key=key, stream=stream))) == "hit"
    optimizer.on(OPTIMIZE, says())
    stream = told(CHAT)
    provider.answers(sse(0.3, stream[0], 0.2, *stream[1:]))
    assert proxy.send(CHAT.call(stream=True)).body == b"".join(stream)

    counts = {
        ("token_usage_count", "chat", "input"): 4, ("token_usage_count", "chat", "output"): 4,
        ("token_usage_count", "text_completion", "input"): 1,
        ("token_usage_count", "text_completion", "output"): 1,
        ("token_usage_count", "embeddings", "input"): 1,
        ("operation_duration_us_count", "chat"): 6,
        ("operation_duration_us_count", "text_completion"): 1,
        ("operation_duration_us_count", "embeddings"): 1,
        ("time_to_first_token_us_count", "chat"): 1,
    }

    def gen_ai(part: str) -> dict[tuple, float]:
        return {
            (name.split("_", 3)[3], *(value for _, value in sorted(labels))): count
            for (name, labels), count in proxy.host.samples().items()
            if name.startswith("gen_ai_") and name.endswith(part)
        }

    deadline = time.monotonic() + 5
    while gen_ai("_count") != counts and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gen_ai("_count") == counts
    sums = gen_ai("_sum")
    assert sums["token_usage_sum", "chat", "input"] == pytest.approx(6005, rel=0.06)
    assert sums["token_usage_sum", "chat", "output"] == pytest.approx(702, rel=0.06)
    assert sums["token_usage_sum", "embeddings", "input"] == pytest.approx(800, rel=0.06)
    assert 280_000 < sums["time_to_first_token_us_sum", "chat"] < 480_000
    assert sums["operation_duration_us_sum", "chat"] > 480_000


@pytest.mark.parametrize("dialect, tokens", [
    (CHAT, ("5", "2")), (COMPLETIONS, ("4", "2")), (RESPONSES, ("3", "2")), (MESSAGES, ("3", "2")),
], ids=str)
def test_the_access_log_tells_the_tokens(plain, optimizer, provider, http, dialect, tokens, key):
    provider.answers(sse(*told(dialect)))
    replies = [plain.send(dialect.call(stream=True), http)]
    provider.answers(provider.default)
    replies.append(plain.send(dialect.call(key=key), http))
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    replies.append(plain.send(dialect.call(key=key, stream=True), http))
    for reply in replies:
        line = plain.logged(reply.case)
        assert (line["input_tokens"], line["output_tokens"]) == tokens


def test_the_access_log_tells_no_tokens_that_are_not_known(plain, provider, http):
    provider.answers(sse(*told(MESSAGES)[:4], gap=0.01, end="reset"))
    line = plain.logged(plain.send(MESSAGES.call(stream=True), http).case)
    assert (line["input_tokens"], line["output_tokens"]) == ("3", "1")
    provider.answers(as_json({"error": {}}, status=500))
    line = plain.logged(plain.send(CHAT.call(), http).case)
    assert (line["input_tokens"], line["output_tokens"]) == (None, None)
    provider.answers(provider.default)
    line = plain.logged(plain.send(EMBEDDINGS.call(), http).case)
    assert (line["input_tokens"], line["output_tokens"]) == ("2", None)


def test_the_access_log_tells_the_outcome(plain, optimizer, provider):
    line = plain.logged(plain.send(CHAT.call()).case)
    assert (line["outcome"], line["response"]) == ("unchanged", "unchanged")
    line = plain.logged(plain.send(CHAT.call(raw=b"[]")).case)
    assert line["outcome"] == "bypassed:request_not_object"
