"""The module's metrics at Envoy's /stats/prometheus."""

import time

import pytest

from kit.dialects import CHAT
from kit.message import as_json
from kit.optimizer import OPTIMIZE, hits, says, transforms


def sample(proxy, name, **labels) -> float:
    return proxy.envoy.samples().get((name, frozenset(labels.items())), 0)


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
    names = {name for name, _ in plain.envoy.samples()}
    assert not [name for name in names if "_outcome_" in name or "_kind_" in name]


def test_the_access_log_tells_the_outcome(plain, optimizer, provider):
    line = plain.logged(plain.send(CHAT.call()).case)
    assert (line["outcome"], line["response"]) == ("unchanged", "unchanged")
    line = plain.logged(plain.send(CHAT.call(raw=b"[]")).case)
    assert line["outcome"] == "bypassed:request_not_object"
