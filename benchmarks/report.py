"""What a benchmark says, and how it is printed."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure with what was aimed at."""

    claim: str
    value: float
    unit: str
    aim: float
    better: Literal["more", "less"]
    detail: str
    """What was measured against what, in the same run."""

    @property
    def reached(self) -> bool:
        return self.value >= self.aim if self.better == "more" else self.value <= self.aim


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(figure) | {"reached": figure.reached} for figure in figures], indent=2))
        return
    width = max(len(figure.claim) for figure in figures)
    for figure in figures:
        sign = "≥" if figure.better == "more" else "≤"
        verdict = "reached" if figure.reached else "MISSED"
        print(f"{figure.claim:<{width}}  {figure.value:8.2f} {figure.unit:<3} (aim {sign} {figure.aim:g})  {verdict}")
        print(f"{'':<{width}}  {figure.detail}")


def step(text: str) -> None:
    """Say what is being measured, for whoever waits."""
    print(f"… {text}", file=sys.stderr, flush=True)


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the median of each round's ratio: rounds alternate, so that a noisy neighbour hits both sides."""
    return statistics.median(measured / floor for measured, floor in pairs)
