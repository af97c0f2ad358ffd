"""Images are made of what was tested: their locks are parts of the one that tests ran with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
HASHES = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(lock: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / lock).read_text()))


@pytest.mark.parametrize("lock", ["infra/requirements.lock", "infra/build.lock"])
def test_every_pin_of_an_image_is_one_that_was_tested(lock: str) -> None:
    assert pins(lock)
    assert pins(lock).items() <= pins("requirements.lock").items(), "run: make lock"


@pytest.mark.parametrize("lock", ["requirements.lock", "infra/requirements.lock", "infra/build.lock"])
def test_a_lock_names_no_host_and_hashes_everything(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    blocks = PIN.split(text)
    assert all(HASHES.search(block) for block in blocks[3::3])


def test_images_have_no_tools_for_tests() -> None:
    assert not pins("infra/requirements.lock").keys() & {
        "pytest",
        "mypy",
        "ruff",
        "testcontainers",
        "pip",
        "setuptools",
    }
