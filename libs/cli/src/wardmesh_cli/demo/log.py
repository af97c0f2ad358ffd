"""What the log says of all that; the log as files, verified offline; and a forger who is found out."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from wardmesh import Mesh
from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_verify import ENTRIES
from wardmesh.contracts.audit import Entry, Outcome
from wardmesh.ids import ServiceId
from wardmesh_cli.activation import typed
from wardmesh_cli.demo.stage import Stage, Tenants, eventually
from wardmesh_cli.demo.tour import Evidence, NotShown, must
from wardmesh_cli.output import BAD, GOOD, Styled

_YES, _NO = Outcome.SUCCESS, Outcome.REFUSED
EXPECTED: Final[Mapping[tuple[str, Outcome, str | None], str]] = {
    ("agent.create", _YES, None): "an agent was made",
    ("key.create", _YES, None): "a key was made",
    ("secret.list", _NO, "permission_denied"): "the agent asked for more than its key lists",
    ("connection.open", _NO, "the key does not reach that scope"): "the key was tried on the other workspace",
    ("identity.read", _NO, "reply_subject_refused"): "an answer was asked into a foreign inbox",
    ("secret.put", _YES, None): "a secret was stored",
    ("secret.get", _NO, "permission_denied"): "a secret was refused without a grant",
    ("secret.grant", _YES, None): "the grant",
    ("secret.get", _YES, None): "the secret was read",
    ("webhook_source.create", _YES, None): "the door was opened for Stripe",
    ("webhook.receive", _YES, None): "an event was accepted",
    ("webhook.receive", _NO, "signature_mismatch"): "a forged event was refused",
    ("agreement.propose", _YES, None): "an agreement was proposed",
    ("message.send", _YES, None): "a message was sent",
    ("message.send", _NO, "invalid_signature"): "a tampered message was refused",
    ("key.revoke", _YES, None): "the key was revoked",
    ("connection.open", _NO, "the key has expired or was revoked"): "the revoked key was tried again",
    ("identity.read", _NO, "token_revoked"): "the token that it had left was tried",
}
"""What the log of north must tell, by action, outcome and reason."""
TAIL_SECONDS: Final = 40.0
"""Entries are sealed within a fraction of a second; a message that was lost on its way comes again after thirty."""
_PAGE: Final = 500


async def play(stage: Stage, tenants: Tenants) -> None:
    tour = stage.tour
    with tour.chapter("The log is the proof"):
        async with stage.visit(tenants.admin_key, tenants.north) as mesh:
            entries = await tour.step("everything is in the log of north, the refusals too", told(mesh))
            tour.table(("index", "outcome", "action", "by", "what, or why not"), _rows(entries, tenants))
            export = await tour.step("the log leaves the mesh as files", exported(stage, mesh))
            await tour.step("verified offline", verified(export))
            await tour.step("a forger changes one word of one entry", forged(stage, export))


async def told(mesh: Mesh) -> Evidence[list[Entry]]:
    """Read the log until it tells everything."""
    entries: list[Entry] = []
    missing = dict(EXPECTED)

    async def look() -> list[Entry] | None:
        start = entries[-1].index + 1 if entries else 0
        page = (await mesh.audit.tail_page(start=start, limit=_PAGE, wait_seconds=0.5)).entries
        entries.extend(page)
        for entry in page:
            missing.pop(_fact(entry), None)
        return None if missing else entries

    found = await eventually(
        look, seconds=TAIL_SECONDS, otherwise=lambda: f"the log does not tell: {'; '.join(missing.values())}"
    )
    must([entry.index for entry in found] == list(range(len(found))), "the log has gaps")
    refusals = sum(entry.event.outcome is Outcome.REFUSED for entry in found)
    return Evidence(f"{len(found)} entries without a gap, {refusals} of them refusals", found)


async def exported(stage: Stage, mesh: Mesh) -> Evidence[Path]:
    folder = stage.folder / "export"
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    done = await export_log(mesh.audit, folder)
    return Evidence(f"{done.size} entries, in a standard format (C2SP tlog-tiles)", folder, (str(folder),))


async def verified(folder: Path) -> Evidence[None]:
    report = await asyncio.to_thread(verify_export, folder)
    must(report.is_sound, f"it is damaged: {report.damage.what if report.damage else ''}")
    return Evidence(
        f"{report.entries_checked} entries, every tile, the root, the signature",
        None,
        (f"root {report.root.hex()}", f"again, by yourself: {typed(f'wardmesh audit verify {folder}')}"),
    )


async def forged(stage: Stage, folder: Path) -> Evidence[None]:
    """Turn a refusal of a copy into a success, in the entries and in their readable copy."""
    copy = stage.folder / "forged"
    await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, folder, copy)
    index = await asyncio.to_thread(_forge, copy)
    report = await asyncio.to_thread(verify_export, copy)
    if report.damage is None:
        raise NotShown("the forgery went unnoticed")
    must(report.damage.entry == index, f"entry {index} was changed, and {report.damage.entry} is blamed")
    await asyncio.to_thread(shutil.rmtree, copy)
    return Evidence(f"found out, at entry {index}", None, (report.damage.what,))


def _fact(entry: Entry) -> tuple[str, Outcome, str | None]:
    return entry.event.action, entry.event.outcome, entry.event.reason


def _forge(folder: Path) -> int:
    genuine, false = b'"outcome":"refused"', b'"outcome":"success"'
    lines = (folder / ENTRIES).read_bytes().splitlines()
    index = next(place for place, line in enumerate(lines) if genuine in line)
    for file in [folder / ENTRIES, *(path for path in (folder / "tile" / "entries").rglob("*") if path.is_file())]:
        content = file.read_bytes()
        if lines[index] in content:
            file.write_bytes(content.replace(lines[index], lines[index].replace(genuine, false)))
    return index


def _rows(entries: Sequence[Entry], tenants: Tenants) -> list[list[int | str | Styled]]:
    """Return what the steps left: for each fact that must be there, its first entry."""
    first: dict[tuple[str, Outcome, str | None], Entry] = {}
    for entry in entries:
        if _fact(entry) in EXPECTED:
            first.setdefault(_fact(entry), entry)
    names: Mapping[str, str] = {
        tenants.agent.id: "researcher",
        tenants.agent.key_id: "the researcher's key",
        tenants.admin.principal: "administrator",
        tenants.south: "south",
        ServiceId.nil(): "whoever it was",
    }
    return [
        [
            entry.index,
            Styled(entry.event.outcome, GOOD if entry.event.outcome is Outcome.SUCCESS else BAD),
            entry.event.action,
            names.get(entry.event.actor, entry.event.actor),
            entry.event.reason or ", ".join(names.get(target, target) for target in entry.event.targets[:1]),
        ]
        for entry in sorted(first.values(), key=lambda entry: entry.index)
    ]
