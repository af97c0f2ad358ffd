"""The log of a mesh in memory (`fake_mesh`), as the client shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from wardmesh.audit_erasure import ErasureCertificate
from wardmesh.client.caller import invalid_request
from wardmesh.contracts import audit
from wardmesh.contracts.operation import Category
from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.cosignature import with_lines
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.note import SignedNote, Signer, sign_note
from wardmesh.crypto.tlog import consistency_proof, inclusion_proof
from wardmesh.crypto.tlog_proof import TlogProof
from wardmesh.errors import NotFound, NothingToErase, NotSealed
from wardmesh.ids import EventId, ServiceId, UserId

if TYPE_CHECKING:
    from fake_mesh import World


LOG_KEY = Signer.from_seed("wardmesh/test", bytes(32))
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class FakeTail:
    """A tail that ends with what there is."""

    def __init__(self, world: World, start: int, action: str | None, resume: str | None) -> None:
        self._world = world
        self._action = action
        self._resume = resume
        self.position = world.positions.get(resume or "", start)
        self._handed = self.position - 1

    async def __aenter__(self) -> FakeTail:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.position = self._handed + 1
        if self._resume is not None:
            self._world.positions[self._resume] = self.position

    async def __aiter__(self) -> AsyncIterator[audit.Entry]:
        for entry in self._world.entries[self.position :]:
            self.position = self._handed = entry.index
            if self._action in (None, entry.event.action):
                yield entry
            self.position = entry.index + 1
        if self._world.expiries:
            raise self._world.expiries.pop()


class FakeAudit:
    def __init__(self, world: World) -> None:
        self._world = world

    def tail(self, *, start: int | None, start_time: datetime | None, resume: str | None, **wanted: Any) -> FakeTail:
        self._world.searched.append(audit.Filter(**wanted))
        action = wanted["action"]
        return FakeTail(self._world, len(self._world.entries) if start is None else start, action, resume)

    async def search(self, wanted: audit.Filter, *, limit: int) -> AsyncIterator[audit.Entry]:
        self._world.searched.append(wanted)
        matching = (entry for entry in reversed(self._world.entries) if wanted.outcome in (None, entry.event.outcome))
        for _, entry in zip(range(limit), matching, strict=False):
            yield entry

    async def list_positions(self) -> audit.Positions:
        found = sorted(self._world.positions.items())
        return audit.Positions(
            positions=tuple(audit.Position(name=name, next_start=place, saved_at=NOW) for name, place in found)
        )

    async def delete_position(self, *, name: str) -> None:
        del self._world.positions[name]

    async def checkpoint(self) -> audit.Checkpoint:
        signed = Checkpoint("wardmesh/test", len(self._leaves()), root_of(self._hashes()))
        lines = [cosigner.sign(signed, 1_765_558_886) for cosigner in self._world.cosigners]
        lines += [signer.sign(signed) for signer in self._world.mldsa]
        note = with_lines(SignedNote.parse(sign_checkpoint(signed, LOG_KEY)), lines).encode()
        return audit.Checkpoint(
            note=note.decode(),
            verifier_key=str(LOG_KEY.verifier),
            mldsa_key=next((str(signer.verifier) for signer in self._world.mldsa), None),
            size=len(self._leaves()),
        )

    async def receipt(self, *, event_id: EventId, wait_seconds: float) -> audit.Receipt:
        self._world.fail("audit.receipt")
        ids = [entry.event.id for entry in self._world.entries]
        if event_id not in ids:
            raise NotSealed
        index, signed = ids.index(event_id), await self.checkpoint()
        hashes = tuple(inclusion_proof(index, signed.size, self._node))
        proof = TlogProof(index, hashes, signed.note.encode(), extra=self._leaves()[index])
        return audit.Receipt(
            index=index, size=signed.size, proof=proof.encode().decode(), verifier_key=signed.verifier_key
        )

    async def consistency(self, *, old_size: int, size: int) -> audit.ConsistencyProof:
        hashes = tuple(consistency_proof(old_size, size, self._node))
        return audit.ConsistencyProof(old_size=old_size, size=size, hashes=hashes)

    async def mine(self, *, before: int | None, limit: int) -> audit.OwnEntries:
        found = [each for each in reversed(self._world.entries) if before is None or each.index < before][:limit]
        more = bool(found) and found[-1].index > 0
        return audit.OwnEntries(entries=tuple(found), next_before=found[-1].index if more else None)

    async def erase(self, *, subject: UserId) -> audit.Erased:
        if subject.is_nil:
            raise NothingToErase
        text = ErasureCertificate("wardmesh/test", EventId.new(), NOW, 3, len(self._leaves()), root_of(self._hashes()))
        certificate = sign_note(text.text(), [LOG_KEY]).encode().decode()
        erasure = audit.Erasure(
            erasure_id=text.erasure_id, erased_at=NOW, entries=text.entries, certificate=certificate
        )
        self._world.erasures.append(erasure)
        told = audit.AuditEvent(
            id=text.erasure_id,
            occurred_at=NOW,
            category=Category.ADMINISTRATION,
            action=audit.ERASED,
            outcome=audit.Outcome.SUCCESS,
            actor=ServiceId.nil(),
            details={"entries": text.entries},
        )
        entry = audit.Entry(index=text.size, scope=self._world.workspace, source="audit", event=told, received_at=NOW)
        self._world.entries.append(entry)
        return audit.Erased(**dict(erasure), verifier_key=str(LOG_KEY.verifier))

    async def erasures(self, *, limit: int) -> audit.Erasures:
        return audit.Erasures(erasures=tuple(self._world.erasures[:limit]))

    async def dead_letters(self, *, after: int, limit: int) -> audit.letters.DeadLetters:
        found = [letter for letter in self._world.letters if letter.number > after]
        more = len(found) > limit
        return audit.letters.DeadLetters(
            letters=tuple(found[:limit]), next_after=found[limit - 1].number if more else None
        )

    async def dead_letter(self, number: int) -> bytes:
        self._world.fail("audit.dead_letter")
        return next(said for letter, said in self._world.letters.items() if letter.number == number)

    async def witnesses(self) -> audit.Witnesses:
        return self._world.witnesses

    async def retention(self) -> audit.Retention:
        return audit.Retention(
            categories=tuple(
                audit.CategoryRetention(
                    category=category, days=self._world.days.get(category), floor_days=audit.floor_days(category)
                )
                for category in Category
            )
        )

    async def set_retention(self, *, category: Category, days: int | None) -> audit.Retention:
        self._world.days[category] = audit.SetRetention(category=category, days=days).days
        return await self.retention()

    async def prunings(self, *, limit: int) -> audit.Prunings:
        return audit.Prunings(prunings=tuple(self._world.prunings[:limit]))

    async def place_hold(self, *, reason: str) -> audit.Hold:
        number = len(self._world.holds) + 1
        hold = audit.Hold(number=number, reason=reason, placed_by=UserId.nil(), placed_at=NOW)
        self._world.holds.append(hold)
        return hold

    async def lift_hold(self, *, number: int, reason: str) -> audit.Hold:
        if number > len(self._world.holds):
            raise NotFound
        lifted = {"lifted_by": UserId.nil(), "lifted_at": NOW, "lifted_because": reason}
        self._world.holds[number - 1] = self._world.holds[number - 1].model_copy(update=lifted)
        return self._world.holds[number - 1]

    async def holds(self, *, limit: int) -> audit.Holds:
        return audit.Holds(holds=tuple(self._world.holds[:limit]))

    async def add_forwarder(self, **fields: Any) -> audit.Forwarder:
        try:
            asked = audit.AddForwarder(**fields)
        except ValidationError as error:  # as the client's own methods do
            raise invalid_request(error) from None
        self._world.asked_to_forward.append(asked)
        place = len(self._world.entries) if asked.start is None else asked.start
        added = audit.Forwarder(
            name=asked.name, address=audit.parse_address(asked.url).origin, format=asked.format,
            has_secret=asked.secret is not None, secret_header=asked.secret_header, filter=asked.filter,
            next_start=place, size=len(self._world.entries), state=audit.ForwarderState.OK, created_at=NOW,
        )  # fmt: skip
        self._world.forwarders[asked.name] = added
        return added

    async def edit_forwarder(self, **fields: Any) -> audit.Forwarder:
        try:
            asked = audit.EditForwarder(**fields)
        except ValidationError as error:
            raise invalid_request(error) from None
        if asked.name not in self._world.forwarders:
            raise NotFound
        self._world.asked_to_edit.append(asked)
        given = {"format": asked.format, "filter": asked.filter}
        if asked.url is not None:
            given["address"] = audit.parse_address(asked.url).origin
        changed = {name: value for name, value in given.items() if value is not None}
        self._world.forwarders[asked.name] = self._world.forwarders[asked.name].model_copy(update=changed)
        return self._world.forwarders[asked.name]

    async def list_forwarders(self) -> audit.Forwarders:
        return audit.Forwarders(forwarders=tuple(each for _, each in sorted(self._world.forwarders.items())))

    async def remove_forwarder(self, *, name: str) -> None:
        self._world.forwarders.pop(name, None)

    async def pause_forwarder(self, *, name: str) -> audit.Forwarder:
        return self._switched(name, audit.ForwarderState.STOPPED)

    async def resume_forwarder(self, *, name: str) -> audit.Forwarder:
        return self._switched(name, audit.ForwarderState.OK)

    async def probe_forwarder(self, *, name: str) -> audit.ForwarderProbe:
        if name not in self._world.forwarders:
            raise NotFound
        return self._world.probed

    def _switched(self, name: str, state: audit.ForwarderState) -> audit.Forwarder:
        if name not in self._world.forwarders:
            raise NotFound
        self._world.forwarders[name] = self._world.forwarders[name].model_copy(update={"state": state})
        return self._world.forwarders[name]

    def _leaves(self) -> list[bytes]:
        return [entry.model_dump_json().encode() for entry in self._world.entries]

    def _hashes(self) -> list[bytes]:
        return [leaf_hash(leaf) for leaf in self._leaves()]

    def _node(self, level: int, index: int) -> bytes:
        return root_of(self._hashes()[index << level : (index + 1) << level])
