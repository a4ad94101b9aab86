"""The benchmark: `make bench`.

All rows are measured in turns, round after round, so that whatever the machine does
besides falls on all of them. What is compared is compared within a round, and the
median of the rounds is what counts.
"""

from __future__ import annotations

import argparse
import json
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
from bench.variants import STREAMS, VARIANTS, Variant  # noqa: E402

SIZES = [2 * 1024, 100 * 1024, 1024 * 1024]
CONNECTIONS = [1, 16]
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
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row in a round")
    parser.add_argument("--only", help="names of rows, divided by commas")
    parser.add_argument("--sizes", type=numbers, default=SIZES, help="bytes, divided by commas")
    parser.add_argument("--connections", type=numbers, default=CONNECTIONS, help="divided by commas")
    parser.add_argument("--results", type=Path, help="where to write bench.json, bench.md and bench.svg")
    parser.add_argument("--readme", type=Path, help="where to write the summary, between its marks")
    parser.add_argument("--hold", action="store_true", help="start everything, say where it is, and wait for Ctrl-C")
    return parser.parse_args()


def rotated(rows: list[Variant], number: int) -> list[Variant]:
    """No row always comes after the same one's load."""
    turn = number % len(rows)
    return rows[turn:] + rows[:turn]


def measure(stage: Stage, options: argparse.Namespace) -> tuple[Measured, Measured, dict[str, list[float]]]:
    wanted = ["bare", *options.only.split(",")] if options.only else list(TITLES)
    rows = [variant for variant in VARIANTS if variant.name in wanted]
    measured: Measured = {}
    streams: Measured = {}
    ready: dict[str, list[float]] = {}
    for number in range(options.rounds):
        for size in options.sizes:
            for count in options.connections:
                for row in rotated(rows, number):
                    seen = stage.run(row, size, count, options.seconds)
                    measured.setdefault((row.name, size, count), []).append(seen)
                for service in (name for name in SERVICES if name in wanted):
                    seen = stage.direct(service, size, count, options.seconds / 2)
                    measured.setdefault((service, size, count), []).append(seen)
        if options.only:
            continue
        for row in rotated(STREAMS, number):
            seen = stage.run(row, SIZES[0], 1, options.seconds)
            streams.setdefault((row.name, SIZES[0], 1), []).append(seen)
        for name in STARTS:
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
        (options.results / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.results / "bench.md").write_text(text)
        (options.results / "bench.svg").write_text(picture)
    if options.readme and is_whole(options):
        report.write_between_marks(options.readme, "make bench", report.summary(cells, TITLES))
    print(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
