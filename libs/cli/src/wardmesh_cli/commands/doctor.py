"""`wardmesh doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wardmesh_cli.checks import State, examine
from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.failures import FAILED
from wardmesh_cli.output import BAD, DOUBTFUL, GOOD, QUIET, Styled

_COLOURS = {State.OK: GOOD, State.DOUBTFUL: DOUBTFUL, State.WRONG: BAD, State.SKIPPED: QUIET}


async def doctor(
    run: Run,
    audit_spool: Annotated[
        Path | None,
        typer.Option("--audit-spool", envvar="WARDMESH_AUDIT_SPOOL", help="A folder of audit events that wait."),
    ] = None,
) -> None:
    """Look at what wardmesh needs here, and at the mesh if there is one. Fails if something is wrong."""
    found = await examine(run.data, run.around, audit_spool)
    wrong = any(finding.state is State.WRONG for finding in found)
    if run.out.as_json:
        run.out.document({"healthy": not wrong, "findings": [asdict(finding) for finding in found]})
    else:
        run.out.table(
            ("check", "state", "found", "what to do"),
            [
                (finding.name, Styled(finding.state, _COLOURS[finding.state]), finding.what, finding.do or "")
                for finding in found
            ],
        )
    if wrong:
        raise typer.Exit(FAILED)


def register(app: typer.Typer) -> None:
    local_command(app, "doctor", with_data=True)(doctor)
