"""How a command fails: one line on standard error that says what to do next, and an exit status.

    0  it was done        1  it was refused or failed        2  it was asked wrongly        130  interrupted

What always holds: no failure of ours shows a traceback, a secret or another program's raw text as the only help.
"""

from __future__ import annotations

from typing import Final

from wardmesh.errors import InvalidRequest, WardmeshError
from wardmesh_cli.output import BAD, Output

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


class CommandFailed(Exception):
    """A command could not do what was asked; `advice` says what to do next."""

    def __init__(self, what: str, advice: str, *, status: int = FAILED) -> None:
        super().__init__(f"{what} {advice}")
        self.what = what
        self.advice = advice
        self.status = status


class UsageFailed(CommandFailed):
    """It was asked wrongly."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, advice, status=USAGE)


def report(error: Exception, out: Output) -> int:
    """Say on standard error what went wrong, and return the exit status."""
    if isinstance(error, WardmeshError):
        _report_wire(error, out)
        return USAGE if isinstance(error, InvalidRequest) else FAILED
    if isinstance(error, CommandFailed):
        if out.as_json:
            _problem(out, {"code": "command_failed", "title": error.what, "detail": error.advice})
        else:
            out.note(f"wardmesh: {error.what} {error.advice}", BAD)
        return error.status
    # Errors of the embedded servers are sentences that say what to do, by their own rule.
    if out.as_json:
        _problem(out, {"code": "command_failed", "title": type(error).__name__, "detail": str(error)})
    else:
        out.note(f"wardmesh: {error}", BAD)
    return FAILED


def _report_wire(error: WardmeshError, out: Output) -> None:
    if out.as_json:
        _problem(out, error.to_problem().model_dump(mode="json", exclude_none=True))
        return
    identified = f"{error.code}, {error.request_id}" if error.request_id else error.code
    out.note(f"wardmesh: {error.title}. {error.detail} [{identified}]", BAD)
    for violation in error.violations:
        out.note(f"  {violation.pointer or '/'}: {violation.message}", BAD)


def _problem(out: Output, problem: dict[str, object]) -> None:
    from wardmesh_cli.output import to_json

    out.note(to_json(problem))
