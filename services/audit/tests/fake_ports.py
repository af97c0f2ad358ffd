"""Complete fakes of what the log needs besides its rows. Each can be made to fail (`failure` is raised once)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from wardmesh.contracts.audit import (
    AuditEvent,
)
from wardmesh.ids import Scope, UserId
from wardmesh.server.messages import OutboundMessage
from wardmesh_audit.letters import Letters
from wardmesh_audit.openings import KEY_BYTES, SubjectKey
from wardmesh_audit.ports import (
    PendingErasure,
    SignedMeanwhile,
)
from wardmesh_audit.proofs import SignedHead
from wardmesh_audit.subjects import Subjects


class Failing:
    """Something that fails once when told to."""

    failure: Exception | None = None

    def _fail(self) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure


class FakeKeys(Failing):
    """The port `SubjectKeys` in memory."""

    def __init__(self) -> None:
        self.people: dict[tuple[Scope, UserId], SubjectKey] = {}
        self.out_of_use: dict[tuple[Scope, UserId], SubjectKey] = {}
        self.remembered: dict[tuple[Scope, UserId], SubjectKey] = {}
        """Given out `to_seal`, until it turns out to be retired."""
        self.erasures: dict[tuple[Scope, UserId], PendingErasure] = {}

    async def get_or_make(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        self._fail()
        return self.made(scope, subjects)

    def made(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        for who in subjects:
            if (scope, who) not in self.people:
                self.people[scope, who] = SubjectKey(who, os.urandom(KEY_BYTES))
        return {who: self.people[scope, who] for who in subjects}

    async def to_seal(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        self._fail()
        for who, key in self.made(scope, [who for who in subjects if (scope, who) not in self.remembered]).items():
            self.remembered[scope, who] = key
        return {who: self.remembered[scope, who] for who in subjects}

    async def in_use(self, scope: Scope, keys: Collection[SubjectKey]) -> bool:
        self._fail()
        gone = [key.subject for key in keys if self.people.get((scope, key.subject)) != key]
        for who in gone:
            self.remembered.pop((scope, who), None)
        return not gone

    async def find(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        self._fail()
        return {who: self.people[scope, who] for who in subjects if (scope, who) in self.people}

    async def named(self, scope: Scope, pseudonyms: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        self._fail()
        keys = [key for (of, _), key in (*self.people.items(), *self.out_of_use.items()) if of == scope]
        return {key.pseudonym: key for key in keys if key.pseudonym in pseudonyms}

    async def retire(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        self._fail()
        name = scope, subject
        if name not in self.out_of_use and name in self.people:
            self.out_of_use[name] = self.people.pop(name)
        return self.out_of_use.get(name)

    async def retired(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        self._fail()
        return self.out_of_use.get((scope, subject))

    async def destroy(self, scope: Scope, key: SubjectKey) -> None:
        self._fail()
        for keys in (self.people, self.out_of_use):
            if keys.get((scope, key.subject)) == key:
                del keys[scope, key.subject]

    async def begun(self, scope: Scope, subject: UserId) -> PendingErasure | None:
        self._fail()
        return self.erasures.get((scope, subject))

    async def begin(self, scope: Scope, subject: UserId, erasure: PendingErasure) -> None:
        self._fail()
        self.erasures[scope, subject] = erasure

    async def end(self, scope: Scope, subject: UserId) -> None:
        self._fail()
        self.erasures.pop((scope, subject), None)


KEYS = FakeKeys()
SUBJECTS = Subjects(KEYS)
"""Whom `candidates` are about."""
LETTERS = Letters(KEYS)


class FakeMemory(Failing):
    """The port `SignedMemory` in memory."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[SignedHead, int]] = {}
        self.overtaken_by: SignedHead | None = None
        """Somebody who signs between our looking and our remembering, once."""

    async def last(self, log: str) -> tuple[SignedHead | None, int]:
        self._fail()
        return self.values.get(log, (None, 0))

    async def remember(self, log: str, signed: SignedHead, revision: int) -> None:
        self._fail()
        if self.overtaken_by is not None:
            overtaking, self.overtaken_by = self.overtaken_by, None
            self.values[log] = (overtaking, revision + 1)
        if self.values.get(log, (None, 0))[1] != revision:
            raise SignedMeanwhile
        self.values[log] = (signed, revision + 1)


class FakeEmitter(Failing):
    """The port `Emitter` in memory."""

    def __init__(self) -> None:
        self.emitted: list[tuple[Scope, AuditEvent]] = []

    async def emit(self, scope: Scope, events: Iterable[AuditEvent], *, trace_parent: str | None = None) -> None:
        self._fail()
        self.emitted.extend((scope, event) for event in events)


class FakeAlarm:
    """The port `Alarm` in memory."""

    def __init__(self) -> None:
        self.raised: list[Scope] = []

    async def refused(self, scope: Scope) -> None:
        self.raised.append(scope)

    def signed(self, scope: Scope) -> None:
        self.raised = [each for each in self.raised if each != scope]


class FakePublisher(Failing):
    """The port `Publisher` in memory."""

    def __init__(self) -> None:
        self.published: list[OutboundMessage] = []

    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        self._fail()
        self.published.extend(messages)


class FakeListener:
    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.event.wait()
        except TimeoutError:
            pass
        self.event.clear()


class FakeWakeups:
    """The port `Wakeups` in memory; `wake` is the news."""

    def __init__(self) -> None:
        self.listeners: set[FakeListener] = set()

    @asynccontextmanager
    async def listen(self, scope: Scope) -> AsyncIterator[FakeListener]:
        listener = FakeListener()
        self.listeners.add(listener)
        yield listener
        self.listeners.discard(listener)

    def wake(self) -> None:
        for listener in self.listeners:
            listener.event.set()
