"""A log in memory that is forwarded to an endpoint that obeys, with all that the service makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

from fake_forwarding import FakeForwarding, FakeSender
from fake_log import FakeLog, FakeReading
from fake_people import FakePeople
from fake_ports import SUBJECTS, FakeWakeups
from makers import NOW, candidates, event, make_person

from wardmesh.contracts.audit import ADD_FORWARDER, EDIT_FORWARDER, AddForwarder, EditForwarder, Forwarder
from wardmesh.contracts.operation import Level
from wardmesh_audit.forward_vault import ForwardVault
from wardmesh_audit.forwarders import ForwarderService
from wardmesh_audit.forwarding import Forwarding
from wardmesh_audit.reading import ReadingService

KEY = bytes(range(32))


class World:
    """A log, its forwarders, and one replica or more."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = FakeLog()
        self.reads = FakeReading(self.log)
        self.reading = ReadingService(self.log, self.reads, FakeWakeups(), SUBJECTS, FakePeople(self.log))
        self.store = FakeForwarding(self.log, lambda: self.now)
        self.sender = FakeSender()
        self.vault = ForwardVault(KEY)
        self.service = ForwarderService(self.store, self.reading, self.sender, self.vault, SUBJECTS, lambda: NOW)
        self.admin = make_person(level=Level.ADMIN)
        self.replica = self.another()

    def another(self) -> Forwarding:
        return Forwarding(
            self.store, self.reading, self.sender, self.vault, lambda: datetime.now(UTC), jitter=lambda: 1.0
        )

    async def seal(self, count: int, **changes: object) -> None:
        scope = self.admin.scope
        for first in range(0, count, 500):
            events = (event(**changes) for _ in range(min(500, count - first)))
            await self.log.seal(scope, candidates(scope, *events))

    async def add(self, **changes: object) -> None:
        fields = {"name": "siem", "url": "https://siem.example/in?token=abc", "start": 0, "secret": "s3cret"} | changes
        await self.service.add(self.admin.ask(ADD_FORWARDER), AddForwarder.model_validate(fields))

    async def edit(self, name: str = "siem", **changes: object) -> Forwarder:
        request = EditForwarder.model_validate({"name": name} | changes)
        return await self.service.edit(self.admin.ask(EDIT_FORWARDER), request)

    async def round(self) -> None:
        await self.replica.begin_turns()
        await self.replica.turns_end()

    @property
    def row(self):  # type: ignore[no-untyped-def]
        return self.store.rows[self.admin.scope]["siem"]
