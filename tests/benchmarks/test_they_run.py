"""A slice of every benchmark: that it runs and says what it measured. What the figures are is no test's business."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import PROGRAMS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_runs_and_says_what_it_measured(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--short", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures
    for figure in figures:
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0
        assert figure["claim"]
        assert figure["detail"]
