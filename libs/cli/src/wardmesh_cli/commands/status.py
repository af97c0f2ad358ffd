"""`wardmesh status`: which services answer, what the streams hold, and who lags behind."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import nkeys  # type: ignore[import-untyped]  # has no type hints
import typer

from wardmesh.errors import ServiceUnavailable
from wardmesh.subjects import SERVICES
from wardmesh_cli import probing
from wardmesh_cli import profile as profiles
from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.connecting import tls_of
from wardmesh_cli.failures import FAILED, CommandFailed
from wardmesh_cli.output import BAD, DOUBTFUL, GOOD, Cell, Styled
from wardmesh_cli.probing import ServiceStats, StreamState

LAG_WORTH_A_COLOUR = 1000


async def status(
    run: Run,
    seed_file: Annotated[
        Path | None,
        typer.Option("--operator-seed-file", help="The operator's nkey, else the data folder's.", dir_okay=False),
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="NATS addresses, else the profile's.")] = None,
    monitoring_url: Annotated[
        str | None, typer.Option("--monitoring-url", help="The broker's monitoring page, else the profile's.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca-file", help="The authority to trust.", dir_okay=False)] = None,
) -> None:
    """Show services, versions, streams and lag. Fails if a service does not answer."""
    file = run.around.profile_file(run.data)
    profile = None if file is None else profiles.load(file)
    seed = seed_file or _operator_of(file)
    address = url or (profile.url if profile else None)
    if seed is None or address is None:
        raise CommandFailed(
            "There is no operator to ask as.",
            "Run this beside the .wardmesh/ of `wardmesh up`, or give --url and --operator-seed-file.",
        )
    authority = ca_file or (profile.ca_file if profile else None)
    tls = None if authority is None else tls_of(authority)
    connection = await probing.connect_operator(address, read_seed(seed), tls)
    try:
        found = await probing.services(connection)
        version = probing.version_of(connection)
    finally:
        await connection.close()
    page = monitoring_url or (profile.monitoring_url if profile else None)
    streams = None if page is None else await _streams(run, page)
    missing = sorted(set(SERVICES) - {stats.name for stats in found})
    if run.out.as_json:
        run.out.document(
            {
                "url": address,
                "nats_version": version,
                "missing": missing,
                "services": [
                    stats.model_dump() | {"requests": stats.requests, "degraded": stats.degraded} for stats in found
                ],
                "streams": None if streams is None else [asdict(stream) for stream in streams],
            }
        )
    else:
        _show(run, address, version, found, missing, streams)
    if missing:
        raise typer.Exit(FAILED)


async def _streams(run: Run, page: str) -> list[StreamState] | None:
    try:
        return await probing.streams(page, run.around.http)
    except ServiceUnavailable as error:
        run.out.note(f"{error.detail} Streams are not shown.", DOUBTFUL)
        return None


def _show(
    run: Run,
    address: str,
    version: str,
    found: list[ServiceStats],
    missing: list[str],
    streams: list[StreamState] | None,
) -> None:
    out = run.out
    out.line(f"NATS {version} at {address}")
    out.line()
    rows: list[list[Cell]] = [
        [
            stats.name,
            Styled("degraded", DOUBTFUL) if stats.degraded else Styled("answers", GOOD),
            stats.version,
            stats.id,
            stats.started[:19].replace("T", " ") + "Z",
            stats.requests,
            Styled(str(stats.errors), DOUBTFUL if stats.errors else ""),
        ]
        for stats in found
    ]
    rows += [[name, Styled("does not answer", BAD), None, None, None, None, None] for name in missing]
    out.table(
        ("service", "state", "version", "instance", "since", "requests", "refused"),
        sorted(rows, key=lambda row: str(row[0])),
    )
    for stats in found:
        for part, what in stats.degraded.items():
            out.line(f"{stats.name}: {part}: {what}", DOUBTFUL)
    if streams is None:
        return
    out.line()
    out.table(
        ("stream", "messages", "size", "copies", "reader", "waiting", "in hand"),
        [row for stream in streams if not stream.is_bucket for row in _rows(stream)],
    )


def _rows(stream: StreamState) -> list[list[Cell]]:
    head: list[Cell] = [stream.name, stream.messages, _size(stream.bytes), stream.replicas]
    if not stream.consumers:
        return [[*head, None, None, None]]
    return [
        [
            *(head if first else [""] * len(head)),
            consumer.name,
            Styled(str(consumer.waiting), DOUBTFUL if consumer.waiting > LAG_WORTH_A_COLOUR else ""),
            consumer.unacknowledged,
        ]
        for first, consumer in zip([True] + [False] * len(stream.consumers), stream.consumers, strict=False)
    ]


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def read_seed(file: Path) -> str:
    """Return the nkey seed in a file."""
    try:
        seed = file.read_text(encoding="ascii").strip()
        nkeys.from_seed(bytearray(seed.encode()))  # a cut or mistyped one is told here, not by a traceback
    except (OSError, ValueError, nkeys.NkeysError) as error:
        raise CommandFailed(f"{file} can't be read as an nkey seed.", "Check its name and whose it is.") from error
    return seed


def _operator_of(file: Path | None) -> Path | None:
    """Return the operator's seed in the data folder that a profile lies in."""
    if file is None:
        return None
    seed = file.parent / "identities" / f"{probing.OPERATOR}.nkey"
    return seed if seed.is_file() else None


def register(app: typer.Typer) -> None:
    local_command(app, "status", with_data=True)(status)
