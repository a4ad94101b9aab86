"""The shipped example as it stands: its access log, its dashboard and its Prometheus."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Callable, Collection, Iterable, Iterator

import pytest

from kit.dialects import CHAT
from kit.envoy import LABEL
from kit.example import running
from kit.message import Answer, as_json
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, hits, rewrites, transforms
from kit.provider import plainly, sse
from kit.proxy import Proxy

EXAMPLES = Path(__file__).parents[2] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana/optimizer.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
QUERIES = sorted({target["expr"] for target in TARGETS})

OURS = re.compile(r"\b(?:optimizer|gen_ai)_\w+")
SELECTOR = re.compile(r"\b(\w+)(?:\{([^}]*)\})?\[")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
SAVED = 40
STREAM = [
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":"Hello."},"finish_reason":null}]}\n\n',
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x","choices":'
    b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x","choices":[],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n',
    b"data: [DONE]\n\n",
]


@pytest.fixture(scope="module")
def example(proxies) -> Proxy:
    return running(proxies, "example")


def all_kinds_of_calls(proxy: Proxy, optimizer, provider) -> None:
    """Calls that between them move every metric of the dashboard."""
    key = "sk-dashboard"
    optimizer.on("/v1/record", Answer(status=204))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"model": "rewritten"}))
    optimizer.on(OPTIMIZE, transforms(
        CHAT.shorten, estimatedTokensSaved=SAVED, cacheEligible=True, cacheKey="ck-dashboard"))
    provider.answers(plainly)
    proxy.send(CHAT.call(key=key))
    provider.answers(sse(*STREAM, gap=0.02))
    proxy.send(CHAT.call(key=key, stream=True))
    provider.answers(as_json({"error": {"message": "no"}}, status=400))
    proxy.send(CHAT.call(key=key))
    provider.answers(plainly)
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    proxy.send(CHAT.call(key=key))
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    proxy.send(CHAT.call(key=key))


def missing(expr: str, samples: Iterable[tuple[str, frozenset]]) -> Iterator[str]:
    """What a query asks for and is not there."""
    grouped = {label.strip() for group in GROUPED.findall(expr) for label in group.split(",")}
    for name, matchers in SELECTOR.findall(expr):
        wanted = set(LABEL.findall(matchers))
        if not any(name == there and wanted <= labels and grouped <= dict(labels).keys()
                   for there, labels in samples):
            yield f"{name}{matchers and '{' + matchers + '}'} by {sorted(grouped)}"


def families(names: Iterable[str]) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


def soon_nothing(wrong: Callable[[], Collection[str]], seconds: float = 15) -> None:
    """Histograms show up late: waits until nothing is wrong any more."""
    deadline = time.monotonic() + seconds
    while (found := wrong()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not found


def test_the_dashboard_is_well_formed():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["title"] and panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(references) == len(set(references)), panel["title"]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_a_query_is_understood_here(target):
    """Else the test below would overlook what it asks for."""
    expr = target["expr"]
    selected = [name for name, _ in SELECTOR.findall(expr)]
    assert selected and selected == OURS.findall(expr)
    grouped = ",".join(GROUPED.findall(expr))
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == (
        {label.strip() for label in grouped.split(",")} - {"le", ""})


def test_everything_that_the_dashboard_asks_for_is_there(example, optimizer, provider):
    all_kinds_of_calls(example, optimizer, provider)

    def gone() -> list[str]:
        samples = example.host.samples()
        return [name for expr in QUERIES for name in missing(expr, samples)]

    soon_nothing(gone)


def test_everything_that_the_module_counts_is_on_the_dashboard(example, optimizer, provider):
    """Also says that no label stayed a part of a name."""
    all_kinds_of_calls(example, optimizer, provider)
    asked_for = families(name for expr in QUERIES for name, _ in SELECTOR.findall(expr))
    soon_nothing(lambda: asked_for ^ families(name for name, _ in example.host.samples()))


def access_log_line(proxy: Proxy, request_id: str) -> dict:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for line in proxy.host.log.read_text(errors="replace").splitlines():
            if line.startswith("{") and request_id in line:
                return json.loads(line)
        time.sleep(0.05)
    raise AssertionError(f"no access log line for {request_id}")


def test_the_access_log_tells_tokens_and_times(example, optimizer, provider):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, estimatedTokensSaved=SAVED))
    provider.answers(sse(*STREAM, gap=0.1))
    reply = example.send(CHAT.call(stream=True))
    request_id = provider.of(reply.case)[0].headers.get("x-request-id")
    line = access_log_line(example, request_id)
    assert line["optimizer"] == "transformed"
    assert line["optimizer_tokens_saved"] == str(SAVED)
    assert (line["gen_ai.usage.input_tokens"], line["gen_ai.usage.output_tokens"]) == ("5", "2")
    assert 0 <= line["upstream_first_byte_ms"] <= line["first_byte_ms"] <= line["ms"] - 200


def test_the_example_leaves_records_without_content(example, optimizer, provider):
    example.send(CHAT.call(headers=[("x-anyray-metadata", '{"team": "search"}')]))
    record = optimizer.wait_for(lambda seen: seen.path == "/v1/record").json
    assert (record["model"], record["promptTokens"], record["completionTokens"]) == ("gpt-x", 5, 2)
    assert "content" not in record


class Prometheus:
    """A real one that reads the example's Envoy."""

    def __init__(self, proxy: Proxy, directory: Path):
        config = (EXAMPLES / "prometheus/prometheus.yml").read_text()
        for shipped, here in (("scrape_interval: 15s", "scrape_interval: 1s"),
                              ("[127.0.0.1:9901]", f"['{proxy.host.admin}']")):
            assert config.count(shipped) == 1, shipped
            config = config.replace(shipped, here)
        (directory / "prometheus.yml").write_text(config)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.log = directory / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={directory}/prometheus.yml",
                 f"--storage.tsdb.path={directory}/data",
                 f"--web.listen-address={self.url.removeprefix('http://')}"],
                stdout=log, stderr=log, cwd=directory)

    def query(self, expr: str) -> list[float]:
        """The finite values that an instant query gives."""
        for variable, duration in (("$__rate_interval", "10s"), ("$__range", "1m")):
            expr = expr.replace(variable, duration)
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            result = json.load(answer)["data"]["result"]
        return [value for sample in result if math.isfinite(value := float(sample["value"][1]))]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).status == 200
        except (urllib.error.URLError, ConnectionError):
            return False


@pytest.fixture
def prometheus(example, tmp_path) -> Iterator[Prometheus]:
    if not shutil.which("prometheus"):
        pytest.skip("no prometheus on PATH (Debian: apt-get install prometheus)")
    started = Prometheus(example, tmp_path)
    try:
        yield started
    finally:
        started.process.terminate()
        started.process.wait(10)


def test_prometheus_has_data_for_every_query(example, prometheus, optimizer, provider):
    deadline = time.monotonic() + 45
    while not prometheus.is_ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    # The queries ask for rates: these need calls between two readings.
    while True:
        all_kinds_of_calls(example, optimizer, provider)
        empty = [expr for expr in QUERIES if not any(prometheus.query(expr))]
        if not empty or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert empty == []
