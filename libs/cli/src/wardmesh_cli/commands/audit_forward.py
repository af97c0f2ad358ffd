"""`wardmesh audit forward`: send the log on to another system, a SIEM for instance, and see how far that is."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from wardmesh.contracts.audit import (
    MAX_CLIENT_CERTIFICATE_BYTES,
    MAX_CLIENT_KEY_BYTES,
    Filter,
    Forwarder,
    ForwarderState,
    ForwardFormat,
)
from wardmesh_cli.bounded_files import read_bounded
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.audit_filter import FilterOptions, utc
from wardmesh_cli.commands.secret import read_value
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.output import BAD, DOUBTFUL, GOOD, Styled

app = typer.Typer(help="Send the log on to another system, in order, each entry at least once.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="One word: siem")]
SecretOption: TypeAlias = Annotated[
    bool, typer.Option("--secret", help="With a secret, from standard input or asked for.")
]
SecretFileOption: TypeAlias = Annotated[
    Path | None, typer.Option("--secret-file", help="With the secret in this file.")
]
CertificateOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--client-certificate",
        exists=True,
        dir_okay=False,
        help="Shown to an endpoint that asks who comes: PEM, with what vouches for it.",
    ),
]
KeyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--client-key", exists=True, dir_okay=False, help="The certificate's key: PEM, without a password."),
]
_COLUMNS: Final = (
    "name", "address", "format", "state", "next", "behind", "delivered", "failing since", "error", "certificate until",
)  # fmt: skip
_COLOURS: Final = {ForwarderState.OK: GOOD, ForwarderState.RETRYING: BAD, ForwarderState.STOPPED: DOUBTFUL}


def register(group: typer.Typer) -> None:
    group.add_typer(app, name="forward")


@mesh_command(app, "add", where=Where.EITHER)
async def add(
    run: Run,
    name: NameArgument,
    address: Annotated[
        str, typer.Argument(metavar="URL", help="https://…, whose path is not shown again; syslog+tls://…")
    ],
    *,
    form: Annotated[ForwardFormat, typer.Option("--format", help="ocsf, or entries as tail shows them.")] = (
        ForwardFormat.OCSF
    ),
    secret: SecretOption = False,
    secret_file: SecretFileOption = None,
    header: Annotated[
        str | None, typer.Option("--header", help="The secret's header, else Authorization: Bearer …")
    ] = None,
    client_certificate: CertificateOption = None,
    client_key: KeyOption = None,
    start: Annotated[int | None, typer.Option("--start", min=0, help="From this index on, else from now.")] = None,
    start_time: Annotated[
        datetime | None, typer.Option("--from", help="From what was received at this time (UTC) on, else from now.")
    ] = None,
    asked: FilterOptions,
) -> None:
    """Send what matches to an HTTPS endpoint or a syslog receiver, from now on or from further back."""
    wanted = asked.filter()
    added = await run.mesh.audit.add_forwarder(
        name=name,
        url=address,
        format=form,
        secret=_secret(secret, secret_file),
        secret_header=header,
        client_certificate=_pem(client_certificate, MAX_CLIENT_CERTIFICATE_BYTES),
        client_key=_pem(client_key, MAX_CLIENT_KEY_BYTES),
        filter=wanted,
        start=start,
        start_time=utc(start_time),
    )
    _show(run, added)
    run.out.note(f"next: wardmesh audit forward test {name}", "dim")


@mesh_command(app, "edit", where=Where.EITHER)
async def edit(
    run: Run,
    name: NameArgument,
    *,
    address: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="Another address; a secret is given again with it, or left behind."),
    ] = None,
    form: Annotated[ForwardFormat | None, typer.Option("--format", help="ocsf, or entry.")] = None,
    secret: SecretOption = False,
    secret_file: SecretFileOption = None,
    header: Annotated[str | None, typer.Option("--header", help="The secret's header, else the one it had.")] = None,
    no_secret: Annotated[bool, typer.Option("--no-secret", help="Without a secret from now on.")] = False,
    client_certificate: CertificateOption = None,
    client_key: KeyOption = None,
    no_client_certificate: Annotated[
        bool, typer.Option("--no-client-certificate", help="Without a client's certificate from now on.")
    ] = False,
    everything: Annotated[bool, typer.Option("--everything", help="Without a filter from now on.")] = False,
    asked: FilterOptions,
) -> None:
    """Change one; it goes on where it is. Options that filter are the whole filter from now on."""
    wanted = asked.filter()
    if everything and wanted != Filter():
        raise UsageFailed("A filter and --everything contradict each other.", "Leave one of them out.")
    edited = await run.mesh.audit.edit_forwarder(
        name=name,
        url=address,
        format=form,
        secret=_secret(secret, secret_file),
        secret_header=header,
        without_secret=no_secret,
        client_certificate=_pem(client_certificate, MAX_CLIENT_CERTIFICATE_BYTES),
        client_key=_pem(client_key, MAX_CLIENT_KEY_BYTES),
        without_client_certificate=no_client_certificate,
        filter=wanted if everything or wanted != Filter() else None,
    )
    _show(run, edited)
    run.out.note(f"next: wardmesh audit forward test {name}", "dim")


@mesh_command(app, "list", where=Where.EITHER)
async def list_(run: Run) -> None:
    """List what the log is sent on to, how far each is, and what troubles it."""
    found = await run.mesh.audit.list_forwarders()
    if run.out.as_json:
        run.out.document(found)
        return
    run.out.table(
        _COLUMNS,
        [
            (
                each.name,
                each.address,
                each.format,
                Styled(each.state, _COLOURS[each.state]),
                each.next_start,
                max(0, each.size - each.next_start),
                each.delivered_at,
                each.failing_since,
                each.last_error,
                each.client_certificate_until,
            )
            for each in found.forwarders
        ],
    )


@mesh_command(app, "remove", where=Where.EITHER)
async def remove(run: Run, name: NameArgument) -> None:
    """End one; how far it was is forgotten."""
    await run.mesh.audit.remove_forwarder(name=name)
    if run.out.as_json:
        run.out.document({"name": name})
    else:
        run.out.line(f"nothing is sent on to {name} any more")


@mesh_command(app, "pause", where=Where.EITHER)
async def pause(run: Run, name: NameArgument) -> None:
    """Stop one; it keeps its place."""
    _show(run, await run.mesh.audit.pause_forwarder(name=name))


@mesh_command(app, "resume", where=Where.EITHER)
async def resume(run: Run, name: NameArgument) -> None:
    """Let one go on, at once; also one that waits after a failure."""
    _show(run, await run.mesh.audit.resume_forwarder(name=name))


@mesh_command(app, "test", where=Where.EITHER)
async def test(run: Run, name: NameArgument) -> None:
    """Send the newest entry that matches, once more, and say what became of it."""
    tested = await run.mesh.audit.probe_forwarder(name=name)
    if run.out.as_json:
        run.out.document(tested)
    elif tested.index is None:
        run.out.line("no entry matches yet, so nothing was sent")
    elif tested.error is None:
        run.out.line(f"entry {tested.index} was taken")
    if tested.error is not None:
        raise CommandFailed(f"Entry {tested.index} was not taken: {tested.error}.", _advice(tested.error))


def _advice(error: str) -> str:
    """Return what to do about a failure."""
    return {
        "not_public": "The address leads inside, or nowhere; an operator can allow it (WARDMESH_AUDIT_FORWARD_ALLOW).",
        "tls": "Its certificate must be for this name, by an authority that the audit service trusts.",
        "not_encrypted": "Use syslog+tls://, or let an operator name its network (WARDMESH_AUDIT_FORWARD_ALLOW).",
        "client_certificate": "It asks who comes: edit --client-certificate FILE --client-key FILE.",
        "cut_off": "A receiver must end after us, by TLS with close_notify (RFC 5425): else nobody knows what it read.",
        "secret_unusable": "Give it its address and secret anew (edit --to … --secret): the service's key is another.",
    }.get(error, "Look at the endpoint; what is due stays due until it is taken.")


def _secret(asked: bool, file: Path | None) -> str | None:
    return read_value(file, what="secret").decode().rstrip("\r\n") if asked or file is not None else None


def _pem(file: Path | None, max_bytes: int) -> str | None:
    if file is None:
        return None
    try:
        return read_bounded(file, max_bytes).decode("ascii")
    except UnicodeDecodeError:
        raise UsageFailed(f"{file} is not PEM.", "It begins with -----BEGIN …-----.") from None


def _show(run: Run, forwarder: Forwarder) -> None:
    if run.out.as_json:
        run.out.document(forwarder)
    else:
        run.out.line(
            f"{forwarder.name}: {forwarder.state}, to {forwarder.address}, from entry {forwarder.next_start} on"
        )
