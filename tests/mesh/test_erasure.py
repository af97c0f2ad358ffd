"""A person acts, is erased, and is then hunted: in every row, message, bucket and key, and in what readers are given.

On real servers, with the five services as processes. A control before the erasure finds the person where the person
should be; so the hunt that finds nothing afterwards would have.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.canary.hunt import Secret, hunt
from tests.mesh import hunting
from tests.mesh.hunting import everything_is_sealed, files_in, what_readers_get
from tests.mesh.world import Tenant

import wardmesh
from wardmesh.audit_erasure import open_certificate
from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.audit_rows import Format
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.contracts.audit import Filter, NewAuditEvent
from wardmesh.contracts.operation import Category
from wardmesh.crypto.errors import BadSignature
from wardmesh.errors import NotFound, NothingToErase, PermissionDenied, UnderHold
from wardmesh.ids import EventId, UserId


@dataclass(frozen=True)
class Hunted:
    """Somebody whose every trait is found nowhere else."""

    user: UserId
    email: str
    password: str
    user_agent: str
    login: str

    def traits(self) -> list[Secret]:
        said = {"id": self.user, "e-mail": self.login, "user agent": self.user_agent}
        return [Secret(kind, "the person", value.encode()) for kind, value in said.items()]


async def make_person(acme: Tenant) -> Hunted:
    email, password = f"{secrets.token_hex(12)}@example.com", secrets.token_urlsafe(18)
    async with await acme.connect_as_owner() as owner:
        made = await owner.auth.create_user(email=email, password=password, level="admin")
    return Hunted(
        UserId.parse(made.id), email, password, f"Hunted/{secrets.token_hex(16)}", f"{secrets.token_hex(16)}@x.test"
    )


async def act(acme: Tenant, person: Hunted) -> EventId:
    """Log in, use the gateway and the broker, and say something about oneself; return the event that says it."""
    headers = {"User-Agent": person.user_agent}
    async with httpx2.AsyncClient(base_url=acme.mesh.http_url, timeout=30, headers=headers) as http:
        credential = {"organization": acme.organization, "email": person.email, "password": person.password}
        credential["scope"] = acme.workspace
        session = (await http.post(f"/v1/{acme.organization}/auth/log_in", json=credential)).json()
        bearer = {"Authorization": f"Bearer {session['token']}"}
        answer = await http.post(f"/v1/{acme.workspace}/audit/query", json={}, headers=bearer)
        assert answer.status_code == 200, answer.text
        wrong = {**credential, "password": "wrong, and long enough"}
        # A log-in that failed is nobody's act, so its entry keeps where it came from: not from the person's browser.
        failed = await http.post(f"/v1/{acme.organization}/auth/log_in", json=wrong, headers={"User-Agent": "Other/1"})
        assert failed.status_code == 401
    async with await acme_session(acme, person) as mesh:
        await mesh.secrets.put("hunted/key", b"value")
        await mesh.audit.place_hold(reason="to see that it is kept")
        await mesh.audit.save_position(name="hunted", next_start=0)
        with pytest.raises(PermissionDenied):
            await mesh.audit.erase(subject=person.user)
        return await mesh.audit.emit(
            NewAuditEvent(
                category=Category.ADMINISTRATION,
                action="person.change",
                targets=(person.user,),
                details={"email": person.login, "approved_by": person.user},
            )
        )


async def acme_session(acme: Tenant, person: Hunted) -> Any:
    session = await acme.log_in(email=person.email, password=person.password, scope=acme.workspace)
    return wardmesh.connect(acme.mesh.nats_url, token=session["token"])


async def unreadable(acme: Tenant, person: Hunted) -> int:
    """Let a service write something about the person that cannot be sealed; return the number of the letter."""
    said = b'{"version":1,"events":[{"actor":"%b","details":{"email":"%b"' % (
        person.user.encode(),
        person.login.encode(),
    )
    async with hunting.service_connection(acme.mesh, "secrets") as client:
        await client.jetstream().publish(f"audit.{acme.workspace}.secrets", said)
    await everything_is_sealed(acme.mesh)
    async with await acme.connect_as_owner() as owner:
        (letter,) = (await owner.audit.dead_letters()).letters
    assert (letter.reason, letter.source, letter.size) == ("malformed_envelope", "secrets", len(said))
    return letter.number


def found_in(person: Hunted, place: str, files: Collection[Path]) -> set[str]:
    return {finding.secret.kind for finding in hunt(person.traits(), {place: files}).findings}


async def test_somebody_who_is_erased_is_found_nowhere_and_every_proof_holds(acme: Tenant, tmp_path: Path) -> None:
    mesh = acme.mesh
    for name in ("rows before", "rows", "messages", "before", "after"):
        (tmp_path / name).mkdir()
    since = await hunting.places_in_streams(mesh)
    person = await make_person(acme)
    event = await act(acme, person)
    await everything_is_sealed(mesh)

    async with await acme.connect_as_owner() as owner, await acme.connect_as_owner(acme.organization) as owner_of_all:
        # The control: readers see the person, who has a key in both scopes, and rows have nobody even now.
        assert found_in(person, "rows", await hunting.write_rows(mesh, tmp_path / "rows before")) == set()
        keys = hunting.keys_of(mesh, person.user)
        assert {key.origin for key in keys} == {acme.workspace, acme.organization}
        assert {each.secret for each in hunt(keys, {"keys": hunting.key_files(mesh)}).findings} == set(keys)
        assert found_in(person, "keys", hunting.key_files(mesh)) == {"id"}
        await what_readers_get(owner, tmp_path / "before", person.user, event)
        for export in ("whole", *Format):
            assert found_in(person, export, files_in(tmp_path / "before" / export)) == {"id", "e-mail", "user agent"}
        assert found_in(person, "answers", [tmp_path / "before" / "answers"]) == {"id", "e-mail", "user agent"}
        receipt = await owner.audit.receipt(event_id=event)
        kept = await owner.audit.checkpoint()
        async with await acme_session(acme, person) as hunted:
            mine = await hunted.audit.mine()
            assert {entry.event.actor for entry in mine.entries} == {person.user}
            assert "person.change" in {entry.event.action for entry in mine.entries}
        await everything_is_sealed(mesh)
        letter = await unreadable(acme, person)
        assert person.login.encode() in await owner.audit.dead_letter(letter)

        with pytest.raises(UnderHold):
            await owner.audit.erase(subject=person.user)
        await owner.audit.lift_hold(number=1, reason="it was")
        erased = [await each.audit.erase(subject=person.user) for each in (owner, owner_of_all)]
        await everything_is_sealed(mesh)

        with pytest.raises(NothingToErase):
            await owner.audit.erase(subject=person.user)
        await everything_is_sealed(mesh)
        await what_readers_get(owner, tmp_path / "after", person.user, event)
        await export_log(owner_of_all.audit, tmp_path / "after" / "organization")
        messages = await hunting.write_messages(mesh, since, tmp_path / "messages")
        assert len(messages["SEALED"]) > 10
        assert messages["DEAD"]
        with pytest.raises(NotFound, match="entry about it stays"):
            await owner.audit.dead_letter(letter)
        places = {
            "rows": await hunting.write_rows(mesh, tmp_path / "rows"),
            "messages": files_in(tmp_path / "messages"),
            "buckets on disk": hunting.files_of_buckets(mesh),
            "keys": hunting.key_files(mesh),
            "given": files_in(tmp_path / "after"),
        }
        assert [str(each) for each in hunt([*person.traits(), *keys], places).findings] == []
        # Logs name principals until they are rotated; a key they never had, nor did anything before.
        elsewhere = {name: files_in(tmp_path / name) for name in ("rows before", "before")}
        assert hunt(keys, elsewhere | {"logs": files_in(mesh.layout.logs)}).findings == []
        assert not [file for file in hunting.key_files(mesh) if file.parent.name == "erasures"]

        # What was kept from before verifies as it did, and the log grew from it.
        assert verify_export(tmp_path / "before" / "whole", kept.verifier_key).is_sound
        report = verify_export(tmp_path / "after" / "whole", kept.verifier_key, kept={"kept": kept.note.encode()})
        assert report.is_sound, str(report)
        assert report.withheld > 0
        for kind in Format:
            assert verify_selection(tmp_path / "before" / kind, kept.verifier_key).is_sound
            assert verify_selection(tmp_path / "after" / kind, kept.verifier_key).withheld > 0
        assert verify_receipt(receipt.proof.encode(), kept.verifier_key, openings=receipt.openings).withheld == 0
        present = await owner.audit.checkpoint()
        growth = await owner.audit.consistency(old_size=kept.size, size=present.size)
        verify_growth(kept.note.encode(), present.note.encode(), growth.hashes, kept.verifier_key)
        for each in erased:
            certificate = open_certificate(each.certificate.encode(), each.verifier_key)
            assert certificate.entries == each.entries > 0
            assert person.user not in each.certificate
            with pytest.raises(BadSignature):
                open_certificate(each.certificate.replace(f"entries {each.entries}", "entries 1").encode(),
                                 each.verifier_key)  # fmt: skip
        told = [entry async for entry in owner.audit.search(Filter(action="audit.subject_erased"))]
        assert [entry.event.id for entry in told] == [erased[0].erasure_id]
        assert person.user not in json.dumps([entry.model_dump(mode="json") for entry in told])


async def test_the_hunt_looks_into_every_bucket(acme: Tenant, tmp_path: Path) -> None:
    """A control: somebody whose access is ended is in the bucket of what is revoked, and is found there."""
    person = await make_person(acme)
    scope = Secret("scope", "the signed head", acme.workspace.encode())
    async with await acme.connect_as_owner() as owner, await acme.connect_as_owner(acme.organization) as owner_of_all:
        await owner.audit.checkpoint()
        await owner_of_all.auth.revoke_principal(principal=person.user)
    await everything_is_sealed(acme.mesh)
    since = await hunting.places_in_streams(acme.mesh)
    messages = await hunting.write_messages(acme.mesh, since, tmp_path)
    places = {bucket: messages[bucket] for bucket in hunting.BUCKET_STREAMS}
    report = hunt([*person.traits(), scope], places | {"disk": hunting.files_of_buckets(acme.mesh)})
    assert report.places_of(person.traits()[0]) == {"KV_revocations", "disk"}
    assert report.places_of(scope) == {"KV_checkpoints", "disk"}
