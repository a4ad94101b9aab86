"""What a user would otherwise run: `make bench-peers`.

The same load through the LiteLLM proxy, without and with hooks that do what the module does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from kit.envoy import binary  # noqa: E402

from bench import machine, report, results  # noqa: E402
from bench.litellm import HOOKS, LiteLlm  # noqa: E402
from bench.results import Measured  # noqa: E402
from bench.stage import Built, Stage  # noqa: E402
from bench.targets import Target  # noqa: E402
from bench.turns import ordered, turns  # noqa: E402
from bench.variants import VARIANTS  # noqa: E402

ROWS = [variant for variant in VARIANTS if variant.name in ("bare", "request", "both")]
TITLES = {"bare": "Envoy", "request": "Envoy with the module, request hook",
          "both": "Envoy with the module, request and response hook"} | {h.name: h.title for h in HOOKS}
SIZES = [2 * 1024, 100 * 1024]
CONNECTIONS = [1, 16]
# The shortest turn, in seconds, by connections: a call of LiteLLM takes 10 ms, with 16 connections 250.
TURN = {1: 0.3, 16: 1.0}
# What the target compares: the hooks add so little to LiteLLM that it takes many turns to see it.
TARGET = (SIZES[0], CONNECTIONS[0])
JUDGED = 4.5


def added_p50(measured: Measured, hook: str) -> float:
    """What our request hook adds to Envoy by what one of LiteLLM's adds to LiteLLM, at 2 KB and one connection."""

    def added(with_hook: str, without: str) -> float:
        turns = zip(measured[with_hook, *TARGET], measured[without, *TARGET], strict=True)
        return median(one["p50_us"] - other["p50_us"] for one, other in turns)

    return added("request", "bare") / added(hook, "litellm")


def measure(stage: Stage, peers: list[LiteLlm], options: argparse.Namespace) -> Measured:
    measured: Measured = {}
    rows = {row.name: partial(stage.run, row) for row in ROWS}
    rows |= {peer.hooks.name: partial(peer.run, stage.built.load) for peer in peers}
    for number in range(options.rounds):
        for size in SIZES:
            for count in CONNECTIONS:
                share = JUDGED if (size, count) == TARGET else 1.0
                for turn in turns(number, options.seconds * share, TURN[count]):
                    for name in ordered(list(rows), turn.number):
                        measured.setdefault((name, size, count), []).append(rows[name](size, count, turn))
    return measured


def markdown(found: dict) -> str:
    machine_found = report.machine(found["machine"])
    return f"""# Results of `make bench-peers`

{machine_found}
LiteLLM {found["litellm"]}, one worker, on the CPU on which Envoy runs in its turn. {found["rounds"]} rounds, in each {found["seconds"]:g} s for each row,
and {JUDGED:g} times as many for 2 KB with one connection, in turns of {TURN[1]:g} s with one connection and {TURN[16]:g} s with 16.
All numbers are ratios to bare Envoy within a turn, the median of the turns.

{report.targets(found["targets"])}
LiteLLM's hook asks with LiteLLM's own HTTP client, as its own guardrails do. Beside the fastest hook that we could write, which asks with aiohttp by hand: {report.ratio(found["added_p50_beside_by_hand"])}.

{report.proxies(report.Cells(found["cells"]), TITLES)}
{report.resident(found["resident_bytes"], TITLES)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in Built.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    parser.add_argument("--litellm", type=Path, required=True, help="its command in a virtual environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help=f"of each row in a round; {JUDGED} times as many where the target compares")
    parser.add_argument("--results", type=Path, help="where to write peers.json and peers.md")
    options = parser.parse_args()
    built = Built(**{name: getattr(options, name).resolve() for name in Built.__dataclass_fields__})
    began = time.monotonic()
    peers: list[LiteLlm] = []
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(built, Path(directory))
        try:
            for hooks in HOOKS:
                peers.append(LiteLlm(options.litellm.resolve(), hooks, stage.backend, Path(directory) / hooks.name))
            measured = measure(stage, peers, options)
            resident = stage.resident() | {
                peer.hooks.name: machine.resident_bytes(peer.process.pid) for peer in peers
            }
        finally:
            for peer in peers:
                peer.stop()
            stage.stop()
    target = Target("p50 that the request hook adds, 2 KB, 1 connection, beside what LiteLLM's adds to LiteLLM",
                    "≤", 1 / 15, added_p50(measured, "litellm_request"))
    packages = options.litellm.resolve().parents[1].glob("lib/python*/site-packages")
    versions = [d.version for p in packages for d in importlib.metadata.distributions(name="litellm", path=[str(p)])]
    found = {
        "machine": machine.described(binary()),
        "litellm": versions[0],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": [target.to_json()],
        "added_p50_beside_by_hand": round(added_p50(measured, "litellm_by_hand"), 3),
        "cells": results.cells(measured),
        "resident_bytes": resident,
    }
    text = markdown(found)
    print(text)
    print(target.line())
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "peers.json").write_text(results.text(found))
        (options.results / "peers.md").write_text(text)
    print(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
