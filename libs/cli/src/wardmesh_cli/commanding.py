"""How a command is made of a function: shared options, an event loop, errors, exit status.

    @mesh_command(secret, "list", where=Where.WORKSPACE)
    async def list_secrets(run: Run, prefix: Annotated[str, typer.Argument()] = "") -> None:
        page = await run.mesh.secrets.list(prefix=prefix)

Typer reads the options off the function's signature, without `run` and with the options of the connection added. A
parameter that is a dataclass stands for its fields: options that several commands have are declared there once.

What always holds: a command ends in one of the exit statuses of `wardmesh_cli.failures`; what went wrong is one line.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, TypeVar, get_args

import typer

import wardmesh
from wardmesh.errors import CredentialRefused, TokenExpired, WardmeshError
from wardmesh.ids import Id, WorkspaceId
from wardmesh_cli.connecting import FRESH_ENOUGH, ConnectionOptions, Surroundings, Target, Where, opened, target_of
from wardmesh_cli.failures import INTERRUPTED, CommandFailed, report
from wardmesh_cli.output import Output
from wardmesh_cli.parameters import WORKSPACE, DataOption, JsonOption

_PANEL: Final = "Connection"
_KEYWORD: Final = inspect.Parameter.KEYWORD_ONLY
_BROKEN_PIPE: Final = 128 + signal.SIGPIPE
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass
class Run:
    """What a command is given."""

    out: Output
    around: Surroundings
    data: Path | None = None
    target: Target | None = None
    connected: wardmesh.Mesh | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    """What a stream remembers when it begins again with a new token."""

    @property
    def mesh(self) -> wardmesh.Mesh:
        if self.connected is None:
            raise RuntimeError("this command is not connected")
        return self.connected


def _option(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)


_JSON = _option("as_json", JsonOption, default=False)
_DATA = _option("data", DataOption)
_CONNECTION = (
    _option("url", Annotated[str | None, typer.Option("--url", help="NATS addresses.", rich_help_panel=_PANEL)]),
    _option(
        "api_key_file",
        Annotated[
            Path | None,
            typer.Option(
                "--api-key-file", help="A file that holds an API key.", dir_okay=False, rich_help_panel=_PANEL
            ),
        ],
    ),
    _option(
        "ca_file",
        Annotated[
            Path | None,
            typer.Option("--ca-file", help="The authority to trust.", dir_okay=False, rich_help_panel=_PANEL),
        ],
    ),
    _option(
        "data",
        Annotated[
            Path | None,
            typer.Option(
                "--data", help="The data folder whose profile to use.", file_okay=False, rich_help_panel=_PANEL
            ),
        ],
    ),
)
_WORKSPACE = _option(
    "workspace",
    Annotated[
        WorkspaceId | None,
        typer.Option("--workspace", "-w", parser=WORKSPACE, metavar="WORKSPACE", help="ws_…", rich_help_panel=_PANEL),
    ],
)
_ORG = _option(
    "org",
    Annotated[bool, typer.Option("--org", help="The organization instead of a workspace.", rich_help_panel=_PANEL)],
    default=False,
)


def mesh_command(group: typer.Typer, name: str, *, where: Where) -> Callable[[FunctionT], FunctionT]:
    """Make a command that is connected to the mesh: an `async def` whose first parameter is the `Run`."""
    shared = [*_CONNECTION]
    if where is not Where.ORGANIZATION:
        shared.append(_WORKSPACE)
    if where is Where.EITHER:
        shared.append(_ORG)
    names = [parameter.name for parameter in shared]

    def register(function: FunctionT) -> FunctionT:
        def command(ctx: typer.Context, as_json: bool, **arguments: Any) -> None:
            options = ConnectionOptions(**{name: arguments.pop(name) for name in names})
            run = Run(Output(as_json=as_json), _surroundings(ctx), options.data)

            async def connected() -> None:
                run.target = target_of(options, run.around, where)
                while True:
                    began = time.monotonic()
                    try:
                        async with opened(run.target, run.around) as mesh:
                            run.connected = mesh
                            await function(run, **_collected(function, arguments))
                            return
                    except (TokenExpired, CredentialRefused):
                        # A login's token lasts minutes, a stream for ever: get the next one and go on.
                        lasted = time.monotonic() - began
                        if run.target.login is None or not run.memory or lasted < FRESH_ENOUGH.total_seconds():
                            raise

            perform(connected, run.out)

        _add(group, name, function, command, shared)
        return function

    return register


def local_command(group: typer.Typer, name: str, *, with_data: bool = False) -> Callable[[FunctionT], FunctionT]:
    """Make a command that is not connected: an `async def` whose first parameter is the `Run`."""

    def register(function: FunctionT) -> FunctionT:
        def command(ctx: typer.Context, as_json: bool, **arguments: Any) -> None:
            data = arguments.pop("data") if with_data else None
            run = Run(Output(as_json=as_json), _surroundings(ctx), data)
            perform(lambda: function(run, **_collected(function, arguments)), run.out)

        _add(group, name, function, command, [_DATA] if with_data else [])
        return function

    return register


def perform(action: Callable[[], Awaitable[None]], out: Output) -> None:
    """Run an action to its end; leave with the exit status that it deserves."""
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")

    async def run() -> None:
        await action()

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_BROKEN_PIPE) from None
    except (WardmeshError, CommandFailed) as error:
        raise typer.Exit(report(error, out)) from None
    except Exception as error:
        if not _explains_itself(error):
            raise
        raise typer.Exit(report(error, out)) from None


def _explains_itself(error: Exception) -> bool:
    """Tell whether an error is one of the embedded servers', without importing what may not be installed."""
    return any(kind.__name__ == "EmbeddedError" for kind in type(error).__mro__)


def _surroundings(ctx: typer.Context) -> Surroundings:
    return ctx.obj if isinstance(ctx.obj, Surroundings) else Surroundings()


def _add(
    group: typer.Typer,
    name: str,
    function: Callable[..., Any],
    command: Callable[..., None],
    shared: Sequence[inspect.Parameter],
) -> None:
    own = [
        parameter.replace(kind=_KEYWORD, annotation=_for_typer(parameter.annotation))
        for asked in _parameters(function)[1:]
        for parameter in _options_of(asked)
    ]
    shared = [parameter.replace(annotation=_for_typer(parameter.annotation)) for parameter in shared]
    context = inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *own, _JSON, *shared])  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {}
    command.__doc__ = function.__doc__
    group.command(name)(command)


def _parameters(of: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(of, eval_str=True).parameters.values())


def _is_several(parameter: inspect.Parameter) -> bool:
    return is_dataclass(parameter.annotation)


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return what typer reads for a parameter: itself, or a dataclass's fields."""
    return _parameters(parameter.annotation) if _is_several(parameter) else [parameter]


def _collected(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a function's arguments, of the options that typer has read for them."""
    arguments: dict[str, Any] = {}
    for asked in _parameters(function)[1:]:
        read = {each.name: options[each.name] for each in _options_of(asked)}
        arguments |= {asked.name: asked.annotation(**read)} if _is_several(asked) else read
    return arguments


def _for_typer(annotation: Any) -> Any:
    """Return the annotation with ids as text: typer knows no unions, and the parameter's own parser makes the id."""
    base, *rest = get_args(annotation)
    kinds = [kind for kind in (get_args(base) or (base,)) if kind is not NoneType]
    if not all(isinstance(kind, type) and issubclass(kind, Id) for kind in kinds):
        return annotation
    optional = NoneType in get_args(base)
    return Annotated[(str | None) if optional else str, *rest]
