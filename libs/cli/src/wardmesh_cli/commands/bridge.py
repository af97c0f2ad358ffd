"""`wardmesh bridge`: signed messages between workspaces that agreed to exchange them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from wardmesh.contracts.bridge import MAX_MESSAGE_LIFETIME_SECONDS, Agreement, AgreementState
from wardmesh.ids import AgreementId, WorkspaceId
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.event import read_json
from wardmesh_cli.connecting import Where
from wardmesh_cli.output import Styled, timestamp, timestamp_json
from wardmesh_cli.parameters import WORKSPACE, AgreementArgument, LimitOption, OtherWorkspace
from wardmesh_cli.streaming import CountOption, GroupOption, SecondsOption, bounded, shown

app = typer.Typer(help="Messages between workspaces.", no_args_is_help=True)
_COLOURS = {AgreementState.PROPOSED: "yellow", AgreementState.ACCEPTED: "green", AgreementState.REVOKED: "red"}
_PAGE = 500


@mesh_command(app, "propose", where=Where.WORKSPACE)
async def propose(run: Run, target: OtherWorkspace) -> None:
    """Offer another workspace to exchange messages."""
    agreement = await run.mesh.bridge.propose(target=target)
    _show(run, agreement)
    if agreement.state is AgreementState.PROPOSED and not run.out.as_json:
        run.out.note(f"next, an admin of {target}: wardmesh bridge accept {agreement.id} -w {target}", "dim")


@mesh_command(app, "accept", where=Where.WORKSPACE)
async def accept(run: Run, agreement: AgreementArgument) -> None:
    """Accept such an offer."""
    _show(run, await run.mesh.bridge.accept(agreement=agreement))


@mesh_command(app, "revoke", where=Where.WORKSPACE)
async def revoke(run: Run, agreement: AgreementArgument) -> None:
    """End an agreement, from either side."""
    _show(run, await run.mesh.bridge.revoke(agreement=agreement))


@mesh_command(app, "list", where=Where.WORKSPACE)
async def list_(run: Run, limit: LimitOption = 1000) -> None:
    """List the workspace's agreements."""
    found: list[Agreement] = []
    after: AgreementId | None = None
    while len(found) < limit:
        size = min(_PAGE, limit - len(found))
        page = (await run.mesh.bridge.list(after=after, limit=size)).agreements
        found.extend(page)
        if len(page) < size:
            break
        after = page[-1].id
    if run.out.as_json:
        run.out.document({"agreements": found})
    else:
        run.out.table(
            ("id", "from", "to", "state", "since"),
            [
                (each.id, each.source, each.target, Styled(each.state, _COLOURS[each.state]), each.created_at)
                for each in found
            ],
        )


@mesh_command(app, "send", where=Where.WORKSPACE)
async def send(
    run: Run,
    target: OtherWorkspace,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Words joined by dots: report.ready")],
    content: Annotated[str | None, typer.Argument(metavar="JSON", help="The body, else standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Take the JSON from this file.", dir_okay=False)] = None,
    lifetime: Annotated[
        int, typer.Option("--lifetime", min=1, max=MAX_MESSAGE_LIFETIME_SECONDS, help="Seconds until it expires.")
    ] = 60,
) -> None:
    """Sign a message and send it; it is on disk when this says so."""
    sent = await run.mesh.bridge.send(target, type_, read_json(content, file), lifetime=timedelta(seconds=lifetime))
    if run.out.as_json:
        run.out.document({"id": sent})
    else:
        run.out.line(f"sent {sent}")


@mesh_command(app, "receive", where=Where.WORKSPACE)
async def receive(
    run: Run,
    group: GroupOption = "cli",
    source: Annotated[
        WorkspaceId | None,
        typer.Option("--from", parser=WORKSPACE, metavar="WORKSPACE", help="Only from this workspace."),
    ] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    count: CountOption = None,
    seconds: SecondsOption = None,
) -> None:
    """Show messages as they come, each verified here. It is acknowledged once shown."""
    run.memory["streaming"] = True
    subscription = run.mesh.bridge.receive(group=group, source=source, type=type_)
    async for message in bounded(subscription, count, seconds):
        async with message:
            if run.out.as_json:
                run.out.item(
                    {
                        "id": message.id,
                        "source": message.source,
                        "type": message.type,
                        "kind": message.kind,
                        "correlation": message.correlation,
                        "issued_at": timestamp_json(message.issued_at),
                        "delivery": message.delivery,
                        **shown(message.body, message.content_type),
                    }
                )
            else:
                body = message.body.decode("utf-8", "replace")
                run.out.line(f"{timestamp(message.issued_at)}  {message.source}  {message.type}  {message.id}  {body}")


def _show(run: Run, agreement: Agreement) -> None:
    if run.out.as_json:
        run.out.document(agreement)
        return
    run.out.facts(
        {
            "id": agreement.id,
            "from": agreement.source,
            "to": agreement.target,
            "state": Styled(agreement.state, _COLOURS[agreement.state]),
        }
    )
