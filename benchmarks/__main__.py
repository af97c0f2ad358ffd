"""Run the benchmarks: `python -m benchmarks [NAME…] [--json]`."""

from __future__ import annotations

import argparse
import importlib
from typing import Final

from benchmarks.report import Figure, show, step

PROGRAMS: Final = ("request_reply", "durable_publish", "footprint", "sealing", "log_growth", "verification")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], help="which to run (all)")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--short", action="store_true", help="a slice of each, to see that it runs")
    options = parser.parse_args()
    figures: list[Figure] = []
    for name in options.names or PROGRAMS:
        step(name)
        figures += importlib.import_module(f"benchmarks.{name}").measure(short=options.short)
    show(figures, as_json=options.as_json)


if __name__ == "__main__":
    main()
