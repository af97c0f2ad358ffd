"""A log with people in it, on a real database, with keys in a folder; and all that the service makes of it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
from fake_ports import FakeAlarm, FakeEmitter, FakeMemory, FakeWakeups
from keeper import Outbox
from makers import NOW, Person, envelope, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    AuditEvent,
    Checkpoint,
    Entry,
    Erase,
    Filter,
    Leaves,
    Nodes,
    Query,
    ReadLeaves,
    ReadNodes,
    SelectedLeaves,
    SelectLeaves,
)
from wardmesh.contracts.operation import Empty
from wardmesh.ids import EventId, UserId, WorkspaceId
from wardmesh.server.database import Database
from wardmesh.subjects import AuditSubject
from wardmesh_audit.domain import decode_envelope
from wardmesh_audit.erasing import ErasingService
from wardmesh_audit.letters import Letter, Letters
from wardmesh_audit.proving import Prover
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.retention import RetentionService
from wardmesh_audit.service import AuditService
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_people import PostgresPeople
from wardmesh_audit.store_reading import PostgresReading
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_audit.subject_keys import KeyFolder
from wardmesh_audit.subjects import Subjects

ADDRESS, BROWSER = "203.0.113.77", "Mozilla/5.0 (distinctive)"


class FakeBacklog:
    """The port `Backlog`: what waits is sealed when somebody waits for it, or never."""

    def __init__(self) -> None:
        self.waiting: Callable[[], Awaitable[object]] | None = None
        self.stands_still = False

    async def settled(self, seconds: float) -> bool:
        if self.waiting is not None and not self.stands_still:
            await self.waiting()
            self.waiting = None
        return not self.stands_still


@dataclass
class World:
    """A scope's log with all that the service makes of it, and somebody who may everything."""

    keys: KeyFolder
    database: Database
    signer: LogSigner
    owner: Person

    def __post_init__(self) -> None:
        self.outbox = Outbox()
        self.subjects = Subjects(self.keys)
        self.letters = Letters(self.keys)
        self.store = PostgresStore(self.database)
        self.people = PostgresPeople(self.database, self.outbox)
        self.service = AuditService(self.store, FakeEmitter(), lambda: NOW, self.subjects, self.people)
        self.reading = ReadingService(
            self.store, PostgresReading(self.database), FakeWakeups(), self.subjects, self.people
        )
        self.prover = Prover(self.store, FakeWakeups(), self.signer, FakeMemory(), FakeAlarm(), self.subjects)
        self.retention = RetentionService(PostgresRetention(self.database, self.outbox), self.subjects)
        self.backlog = FakeBacklog()
        self.erasing = ErasingService(
            self.people, self.keys, self.letters, self.prover, self.signer, self.backlog, lambda: datetime.now(UTC)
        )

    @property
    def scope(self) -> WorkspaceId:
        assert isinstance(self.owner.scope, WorkspaceId)
        return self.owner.scope

    @property
    def verifier(self) -> str:
        return self.signer.verifier_key(self.scope)

    async def seal(self, *events: AuditEvent, source: str = "auth") -> None:
        made = decode_envelope(
            AuditSubject(self.scope, source).format(), envelope(*events), NOW, random=os.urandom
        ).candidates
        await self.store.seal(self.scope, *await self.subjects.protect(self.scope, made))

    async def relay(self) -> list[AuditEvent]:
        """Seal what waits in the outbox."""
        waiting, self.outbox.waiting = [event for _, event in self.outbox.waiting], []
        if waiting:
            await self.seal(*waiting, source="audit")
        return waiting

    async def acts(self, person: UserId, *, count: int = 3) -> list[AuditEvent]:
        made = [
            event(
                actor=person,
                targets=(person, "openai/api-key"),
                source_address=ADDRESS,
                user_agent=BROWSER,
                details={"email": f"{person}@example.test", "version": number},
            )
            for number in range(count)
        ]
        await self.seal(*made)
        return made

    async def letter(self, said: bytes, scope: WorkspaceId | None = None) -> Letter:
        """Return a dead letter as the stream has it."""
        scope = scope or self.scope
        sealed = await self.letters.seal(
            scope, EventId.new(), "malformed_envelope", AuditSubject(scope, "auth").format(), NOW, said
        )
        letter = Letter.of(1, sealed.subject, sealed.headers, sealed.payload)
        assert letter is not None
        return letter

    async def entries(self, **wanted: object) -> list[Entry]:
        request = Query(filter=Filter.model_validate(wanted), limit=500)
        return list((await self.reading.query(self.owner.ask(contracts.QUERY), request)).entries)

    async def erase(self, person: UserId) -> contracts.Erased:
        return await self.erasing.erase(self.owner.ask(contracts.ERASE), Erase(subject=person))

    # What exports read.
    async def checkpoint(self) -> Checkpoint:
        return await self.prover.checkpoint(self.owner.ask(contracts.CHECKPOINT), Empty())

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        return await self.service.leaves(self.owner.ask(contracts.LEAVES), ReadLeaves(start=start, limit=limit))

    async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        request = SelectLeaves(filter=filter, start=start, end=end, limit=2)
        return await self.reading.select(self.owner.ask(contracts.SELECT), request)

    async def nodes(self, *, size: int, nodes: tuple[tuple[int, int], ...]) -> Nodes:
        return await self.reading.nodes(self.owner.ask(contracts.NODES), ReadNodes(size=size, nodes=nodes))


def read(folder: Path) -> bytes:
    compressed = [str(pq.read_table(file).to_pylist()).encode() for file in folder.rglob("*.parquet")]
    return b"\n".join([*compressed, *(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())])
