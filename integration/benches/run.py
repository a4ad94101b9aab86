"""The benchmark: `make bench`.

All rows are measured in short turns, over and over, so that whatever the machine does
besides falls on all of them. What is compared is compared within a turn, and the
median of the turns is what counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from kit.envoy import binary  # noqa: E402

from bench import chart, machine, report, results, targets  # noqa: E402
from bench.results import Measured  # noqa: E402
from bench.stage import Built, Stage  # noqa: E402
from bench.turns import ordered, turns  # noqa: E402
from bench.variants import STREAMS, VARIANTS, Variant  # noqa: E402

SIZES = [2 * 1024, 100 * 1024, 1024 * 1024]
CONNECTIONS = [1, 16]
# The shortest turn, in seconds, by size: with 16 connections a call of 1 MB can take 0.1 s, a stream takes 0.05.
TURN = {2 * 1024: 0.1, 100 * 1024: 0.1, 1024 * 1024: 0.5}
STREAM_TURN = 0.3
STARTS_IN_A_ROUND = 3
# A row's part of its seconds in a round: more where a target compares.
JUDGED, NOT_JUDGED = 1.5, 0.5
# In which order rows have their turns: what a target compares stands side by side.
NEIGHBOURS = ["bare", "left_alone", "noop", "hit", "lua_request", "callout_request", "request",
              "ext_proc_request", "ext_proc_both", "both", "callout_both", "lua_both", "wasi_request"]
SERVICES = {"provider": "the provider itself", "optimizer": "the optimizer itself"}
TITLES = {variant.name: variant.title for variant in VARIANTS} | SERVICES
STREAM_TITLES = {variant.name: variant.title for variant in STREAMS}
STARTS = ["bare", "noop", "both"]


def is_whole(options: argparse.Namespace) -> bool:
    return not options.only and options.sizes == SIZES and options.connections == CONNECTIONS


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in Built.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0,
                        help=f"of each row in a round; {JUDGED} times as many where a target compares, {NOT_JUDGED} elsewhere")
    parser.add_argument("--only", help="names of rows, divided by commas")
    parser.add_argument("--sizes", type=numbers, default=SIZES, help="bytes, divided by commas")
    parser.add_argument("--connections", type=numbers, default=CONNECTIONS, help="divided by commas")
    parser.add_argument("--results", type=Path, help="where to write bench.json, bench.md and bench.svg")
    parser.add_argument("--readme", type=Path, help="where to write the summary, between its marks")
    parser.add_argument("--hold", action="store_true", help="start everything, say where it is, and wait for Ctrl-C")
    return parser.parse_args()


def neighbours(rows: list[Variant]) -> list[Variant]:
    return sorted(rows, key=lambda row: NEIGHBOURS.index(row.name))


def measure(stage: Stage, options: argparse.Namespace) -> tuple[Measured, Measured, dict[str, list[float]]]:
    wanted = ["bare", *options.only.split(",")] if options.only else list(TITLES)
    rows = neighbours([variant for variant in VARIANTS if variant.name in wanted])
    services = [name for name in SERVICES if name in wanted]
    measured: Measured = {}
    streams: Measured = {}
    ready: dict[str, list[float]] = {}
    for number in range(options.rounds):
        for size in options.sizes:
            for count in options.connections:
                share = JUDGED if (size, count) in targets.CELLS else NOT_JUDGED
                for turn in turns(number, options.seconds * share, TURN[size]):
                    for row in ordered(rows, turn.number):
                        seen = stage.run(row, size, count, turn)
                        measured.setdefault((row.name, size, count), []).append(seen)
                    for service in services:
                        seen = stage.direct(service, size, count, turn)
                        measured.setdefault((service, size, count), []).append(seen)
        if options.only:
            continue
        for turn in turns(number, options.seconds * 2, STREAM_TURN):
            for row in ordered(neighbours(STREAMS), turn.number):
                seen = stage.run(row, SIZES[0], 1, turn)
                streams.setdefault((row.name, SIZES[0], 1), []).append(seen)
        for start in range(STARTS_IN_A_ROUND):
            for name in ordered(STARTS, number * STARTS_IN_A_ROUND + start):
                ready.setdefault(name, []).append(stage.seconds_to_ready(name))
    return measured, streams, ready


def hold(stage: Stage) -> None:
    """For other load generators."""
    print(f"optimizer 127.0.0.1:{stage.backend.optimizer}, provider 127.0.0.1:{stage.backend.provider}")
    print(f"authorization: {stage.backend.said['authorization']}")
    for variant in [*VARIANTS, *STREAMS]:
        host = stage.host(variant.host)
        print(f"http://127.0.0.1:{host.port}{variant.path}  {variant.title}  ({stage.directory / variant.host})")
    print("Ctrl-C ends it", flush=True)
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        print()


def main() -> None:
    options = arguments()
    built = Built(**{name: getattr(options, name).resolve() for name in Built.__dataclass_fields__})
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(built, Path(directory))
        try:
            if options.hold:
                return hold(stage)
            measured, streams, ready = measure(stage, options)
            resident = stage.resident()
        finally:
            stage.stop()
    module_bytes = built.module.stat().st_size
    judged = targets.of_run(measured, streams, ready, module_bytes)
    found = {
        "machine": machine.described(binary()),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": [target.to_json() for target in judged],
        "cells": results.cells(measured),
        "streams": results.cells(streams),
        "resident_bytes": resident,
        "seconds_to_ready": {name: [round(s, 4) for s in took] for name, took in ready.items()},
        "ready_beside_noop": {
            name: round(median(a / b for a, b in zip(took, ready["noop"])), 4) for name, took in ready.items()
        },
        "module_bytes": module_bytes,
        "taken_again": stage.again,
    }
    cells = report.Cells(found["cells"])
    print(report.proxies(cells, TITLES))
    if streams:
        print(report.streams(report.Cells(found["streams"]), STREAM_TITLES))
    print(report.resident(resident, TITLES))
    print("\n".join(target.line() for target in judged if target.value is not None))
    if options.results and is_whole(options):
        options.results.mkdir(parents=True, exist_ok=True)
        text = report.markdown(found, TITLES, STREAM_TITLES)
        about = f"{found['machine']['cpu']}, Envoy {found['machine']['envoy']}"
        picture = chart.svg(cells, TITLES, max(options.connections), about)
        (options.results / "bench.json").write_text(results.text(found))
        (options.results / "bench.md").write_text(text)
        (options.results / "bench.svg").write_text(picture)
    if options.readme and is_whole(options):
        report.write_between_marks(options.readme, "make bench", report.summary(cells, TITLES))
    print(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
