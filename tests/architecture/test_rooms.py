"""The house keeps its shape: the same rooms in every service, pure rules, nothing done at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from wardmesh.subjects import SERVICES

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("__main__", "app", "settings", "handlers", "service", "domain", "ports", "store", "errors")
MAX_LINES: Final = 400
IMPURE: Final = frozenset({"time", "random", "secrets", "socket", "asyncio", "os", "pathlib"})

services = pytest.mark.parametrize("service", SERVICES)
sources = pytest.mark.parametrize(
    "path",
    [path for folder in ("libs", "services") for path in sorted((ROOT / folder).glob("*/src/**/*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)


def package(service: str) -> Path:
    return ROOT / "services" / service / "src" / f"wardmesh_{service}"


@services
@pytest.mark.parametrize("room", ROOMS)
def test_every_service_has_the_same_rooms(service: str, room: str) -> None:
    assert (package(service) / f"{room}.py").is_file()


@services
def test_rules_are_pure(service: str) -> None:
    tree = ast.parse((package(service) / "domain.py").read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor)
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & IMPURE
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in IMPURE
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today", "uuid4", "uuid7"}, "clock and chance are arguments"


@services
def test_sql_is_in_the_store_alone(service: str) -> None:
    for path in package(service).glob("*.py"):
        if path.name == "store.py" or path.name.startswith("store_"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.lower().split()
                assert words[:2] not in (["insert", "into"], ["delete", "from"]), path
                assert not (words[:1] == ["select"] and "from" in words), path


@sources
def test_a_file_has_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES, "split it: one subject a file"


@sources
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "begin with what it is for"


def test_the_folders_of_services_and_libraries_are_no_packages() -> None:
    assert not (ROOT / "services" / "__init__.py").exists()
    assert not (ROOT / "libs" / "__init__.py").exists()


def test_importing_a_service_does_nothing() -> None:
    program = "; ".join(
        [
            "import sys, threading, asyncio",
            *(f"import wardmesh_{service}.app, wardmesh_{service}.settings" for service in SERVICES),
            "assert threading.active_count() == 1, threading.enumerate()",
        ]
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_client_brings_none_of_what_the_services_are_made_of() -> None:
    program = (
        "import sys, wardmesh, wardmesh.client.mesh; "
        "theirs = {'asyncpg', 'faststream', 'starlette', 'structlog', 'joserfc', 'wardmesh.server'}; "
        "loaded = theirs & set(sys.modules); "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_the_lock_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "http" not in "".join(line for line in lock.splitlines() if line.startswith("-"))
    assert "://" not in lock
