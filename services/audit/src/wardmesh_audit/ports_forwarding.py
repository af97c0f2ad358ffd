"""What forwarding needs from outside: rows that say where and how far, the log as a tail reads it, and a way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wardmesh.contracts.audit import AuditEvent, Entries, Filter, ForwardFormat
from wardmesh.ids import Scope
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.batches import Batch
from wardmesh_audit.client_certificates import ClientCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwarderSettings:
    """What a change may make another: all of a forwarder but its name and its place."""

    address: str
    format: ForwardFormat
    secret_header: str | None
    has_secret: bool
    certificate_until: datetime | None
    """When the client's certificate expires, if there is one."""
    sealed: bytes = field(repr=False)
    filter: Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class NewForwarder(ForwarderSettings):
    """A forwarder that is to be kept."""

    name: str
    next_start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForwarder(ForwarderSettings):
    """A forwarder as it is kept."""

    scope: Scope
    name: str
    incarnation: UUID
    created_at: datetime
    next_start: int
    paused: bool
    failures: int
    failing_since: datetime | None
    last_error: str | None
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Leased:
    """A forwarder that is ours to work for until its lease runs out."""

    forwarder: StoredForwarder
    lease: UUID


class ForwarderStore(Protocol):
    """Forwarders, for callers. What changes one MUST commit together with the call's audit event, or not at all."""

    async def add(self, call: Call, new: NewForwarder) -> StoredForwarder:
        """Keep one; raise `ForwarderExists` for a name that is taken, `TooManyForwarders` for one too many."""

    async def forwarders(self, call: Call) -> Sequence[StoredForwarder]:
        """Return the scope's, by name."""

    async def edit(
        self, call: Call, name: str, change: Callable[[StoredForwarder], ForwarderSettings]
    ) -> StoredForwarder:
        """Change one, and let it go on at once; raise `NoSuchForwarder`, and what `change` raises.

        Nobody else MUST be able to change it in between. Who is at it MUST NOT be able to move its cursor afterwards,
        or to say that it failed: what was sent, was sent as it was before.
        """

    async def remove(self, call: Call, name: str) -> bool:
        """Forget one; tell whether it was there. Who is at it MUST NOT be able to move its cursor afterwards."""

    async def set_paused(self, call: Call, name: str, *, paused: bool) -> StoredForwarder:
        """Stop one, or let it go on at once; raise `NoSuchForwarder`."""


class ForwardingStore(Protocol):
    """Cursors and leases. What was said with a lease that is no longer held MUST change nothing."""

    async def lease(self, amount: int, seconds: float) -> Sequence[Leased]:
        """Take forwarders that have entries to look at, whose pause is over and that nobody is at.

        Two callers MUST NOT hold the same one at once.
        """

    async def advance(
        self, leased: Leased, next_start: int, *, delivered: bool, seconds: float, well: AuditEvent
    ) -> bool:
        """Move the cursor, and hold the lease for so long again; tell whether it is still ours to go on with.

        MUST be durable on return if something was `delivered`. A forwarder of which the log says that it is failing is
        well again with that, and `well` is put on its way in the same transaction.
        """

    async def failed(
        self, leased: Leased, error: str, *, pause_seconds: float, told_after: int, event: AuditEvent
    ) -> None:
        """Give the lease back for a later attempt; after so many failures in a row, put `event` on its way, once."""

    async def release(self, leased: Leased) -> None:
        """Give the lease back."""


class Following(Protocol):
    """The log, as a tail reads it."""

    async def following(self, tenant: TenantContext, kept: Filter, *, start: int, limit: int) -> Entries:
        """Return what there is from `start` on, and where to go on, without waiting. `kept`: as it is stored."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send to, in the clear; never kept, never shown."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    header: str | None
    secret: str | None = field(repr=False)
    format: ForwardFormat
    client: ClientCertificate | None = field(default=None, repr=False)
    attempt: int = 0
    """How many have failed before: a name may have several addresses, and each gets its turn."""


class NotDelivered(Exception):
    """An endpoint did not take a batch. `error` is a word of ours, and nothing that the endpoint said."""

    def __init__(self, error: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class BatchTooLarge(NotDelivered):
    """It would take a smaller one."""


class Endpoint(Protocol):
    """A connection to somebody else's system."""

    async def send(self, batch: Batch) -> None:
        """Send a batch; raise `NotDelivered` unless it was taken. MUST end within the sender's bound."""


class Sender(Protocol):
    """The way out."""

    def open(self, target: Target) -> AbstractAsyncContextManager[Endpoint]:
        """Connect; raise `NotDelivered` if that cannot be. MUST NOT connect to what is not to be reached."""
