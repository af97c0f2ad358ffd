"""What the service needs from outside: a store, a stream to write to, one to read from, and an audit log.

Every implementation of `Store` passes tests/test_store_contract.py.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from wardmesh.contracts.audit import AuditEvent
from wardmesh.contracts.webhooks import Scheme
from wardmesh.envelope import Event
from wardmesh.ids import Scope, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.fetching import Delivery
from wardmesh.server.messages import OutboundMessage
from wardmesh_webhooks.domain import Received, StoredSource


class Acceptance(enum.Enum):
    """What became of a verified webhook."""

    ACCEPTED = enum.auto()
    DUPLICATE = enum.auto()
    SOURCE_GONE = enum.auto()


class SourceTable(Protocol):
    """The caller's workspace's sources, inside one transaction."""

    async def add(self, name: str, scheme: Scheme, sealed_secret: bytes) -> StoredSource:
        """Add a source; MUST raise `Conflict` if there is one of that name."""

    async def list(self) -> Sequence[StoredSource]:
        """Return the sources by name."""

    async def remove(self, name: str) -> bool:
        """Remove a source; return whether there was one."""


class Store(Protocol):
    def transaction(self, call: Call, *, read_only: bool = False) -> AbstractAsyncContextManager[SourceTable]:
        """Begin a transaction of the caller's workspace; leaving the block MUST commit it durably, or raise."""

    async def find(self, workspace: WorkspaceId, name: str) -> StoredSource | None:
        """Return the source behind an address, before anybody's identity is known."""

    async def accept(self, source: StoredSource, received: Received, event: Event, audit: AuditEvent) -> Acceptance:
        """Take a webhook in: remember its key, and have `event` and `audit` published, all or nothing.

        MUST NOT return before it is durably committed. MUST return `DUPLICATE`, and change nothing, for a key that
        was accepted for this source's name before, and not before that one is committed; `SOURCE_GONE` if this
        incarnation of the source has been removed. MUST NOT see or change another workspace's rows.
        """


class Publisher(Protocol):
    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        """Publish in order. MUST NOT return before every message is durable; MUST raise if one may not be."""


class EventReader(Protocol):
    """Polls of EVENTS; see `wardmesh.server.fetching.Fetcher`."""

    async def fetch(
        self,
        *,
        consumer: str,
        filter_subject: str,
        batch: int,
        wait_seconds: float,
        acks: Sequence[str] = (),
        naks: Sequence[str] = (),
    ) -> list[Delivery]: ...

    async def terminate(self, *, consumer: str, filter_subject: str, token: str) -> None: ...
    async def hand_back(self, *, consumer: str, filter_subject: str, tokens: Iterable[str]) -> None: ...


class AuditQueue(Protocol):
    async def enqueue(self, scope: Scope, event: AuditEvent, *, trace_parent: str | None = None) -> None:
        """Take the event, waiting for room; it becomes durable soon. MAY raise `AuditUnavailable`."""
