"""The benchmark: `make bench`. Writes integration/benches/results/.

All rows are measured in turns, round after round, so that whatever the machine does
besides falls on all of them; what is compared is compared within a round, and the
median of the rounds is what counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from kit.envoy import binary  # noqa: E402

from bench import machine, results  # noqa: E402
from bench.stage import Built, Stage  # noqa: E402
from bench.variants import VARIANTS  # noqa: E402

SIZES = [2 * 1024, 100 * 1024, 1024 * 1024]
CONNECTIONS = [1, 16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in Built.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row in a round")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "bench.json")
    parser.add_argument("--only", help="names of rows, divided by commas")
    parser.add_argument("--sizes", help="bytes, divided by commas")
    parser.add_argument("--connections", help="divided by commas")
    options = parser.parse_args()
    built = Built(**{name: getattr(options, name).resolve() for name in Built.__dataclass_fields__})
    rows = [v for v in VARIANTS if not options.only or v.name in ["bare", *options.only.split(",")]]
    sizes = [int(s) for s in options.sizes.split(",")] if options.sizes else SIZES
    connections = [int(c) for c in options.connections.split(",")] if options.connections else CONNECTIONS
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(built, Path(directory))
        try:
            measured: results.Measured = {}
            began = time.monotonic()
            for number in range(options.rounds):
                for size in sizes:
                    for count in connections:
                        turn = number % len(rows)
                        for row in rows[turn:] + rows[:turn]:
                            seen = stage.run(row, size, count, options.seconds)
                            measured.setdefault((row.name, size, count), []).append(seen)
                        for service in ("provider", "optimizer"):
                            seen = stage.direct(service, size, count, options.seconds)
                            measured.setdefault((service, size, count), []).append(seen)
            found = results.cells(measured)
            for line in results.lines(found):
                print(line)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({
                "machine": machine.described(binary()),
                "rounds": options.rounds, "seconds": options.seconds,
                "cells": found, "resident_bytes": stage.resident(),
            }, indent=1) + "\n")
            print(f"{time.monotonic() - began:.0f} s, {options.json}")
        finally:
            stage.stop()


if __name__ == "__main__":
    main()
