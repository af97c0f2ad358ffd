"""A request on its way through a handler: who asks, what for, until when, and what the audit log will say of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Protocol

from pydantic_core import to_json

from wardmesh.contracts.audit import MAX_TARGETS, AuditEvent, Outcome
from wardmesh.contracts.fields import Json
from wardmesh.contracts.operation import AnyContract, Category, Credential, Durability
from wardmesh.errors import TokenMissing
from wardmesh.ids import EventId, OrgId, Principal, RequestId, Scope, WorkspaceId
from wardmesh.server import telemetry
from wardmesh.server.database import Connection, Database
from wardmesh.server.origin import Origin
from wardmesh.server.tenant import TenantContext
from wardmesh.server.tokens import Caller

MAX_TARGET_CHARACTERS: Final = 256
UNKNOWN_ORIGIN: Final = Origin()


class AuditOutbox(Protocol):
    """Where an audit event waits, inside the transaction of what it is about."""

    async def put_audit(self, connection: Connection, scope: Scope, event: AuditEvent) -> None:
        """Write `event` to the outbox. MUST be part of the connection's transaction."""


class Call:
    """One request, from the gates to the answer. Lives as long as its handler runs."""

    def __init__(
        self,
        contract: AnyContract,
        *,
        scope: Scope,
        principal: Principal,
        request_id: RequestId,
        ends_at: float,
        trace_id: str | None,
        outbox: AuditOutbox | None,
    ) -> None:
        self.contract = contract
        self.request_id = request_id
        self.trace_id = trace_id
        self.ends_at = ends_at
        """When the caller stops waiting, on the event loop's clock."""
        self._outbox = outbox
        self._caller: Caller | None = None
        self._tenant: TenantContext | None = None
        # What a Credential operation's subject says is nobody's word yet, so it is recorded as nobody's.
        self.audit_scope: Scope = OrgId.nil() if isinstance(contract.access, Credential) else scope
        self.audit_actor: Principal = principal
        self._targets: list[str] = []
        self._details: dict[str, Json] = {}
        self._origin: Origin = UNKNOWN_ORIGIN
        self.hand_back: Callable[[], Awaitable[None]] | None = None
        """Called if the answer finds nobody to take it; a handler that takes something off a stream sets it."""
        self.recorded = False
        """Whether the audit event of this call is committed with what it did."""

    @property
    def caller(self) -> Caller:
        """Who asks. A `Credential` operation has no caller until it has established one, and then uses `tenant`."""
        if self._caller is None:
            raise TokenMissing
        return self._caller

    @property
    def tenant(self) -> TenantContext:
        """On whose behalf transactions run."""
        if self._tenant is None:
            caller = self.caller
            self._tenant = TenantContext(caller.organization, caller.workspace, caller.principal, caller.permissions)
        return self._tenant

    def admit(self, caller: Caller) -> None:
        """The gates' word for who asks; handlers never call it."""
        self._caller = caller
        self.audit_actor = caller.principal

    def came_from(self, origin: Origin | None) -> None:
        """The gates' word for where the request came from; None for a statement that nobody of ours has signed."""
        if origin is None:
            self._details["origin_refused"] = True
        else:
            self._origin = origin

    def known_as(self, name: Principal) -> None:
        """Let transactions run in another name than the caller's, a pseudonym; audit events keep the caller's own."""
        self._tenant = replace(self.tenant, principal_id=name)

    def identify(
        self,
        *,
        organization: OrgId,
        scope: Scope,
        principal: Principal,
        permissions: frozenset[str] = frozenset(),
    ) -> None:
        """Say whom a `Credential` operation is about: transactions and the audit event are theirs from now on."""
        if not isinstance(self.contract.access, Credential):
            raise TypeError(f"{self.contract.key} has a caller already")
        workspace = scope if isinstance(scope, WorkspaceId) else None
        self._tenant = TenantContext(organization, workspace, principal, permissions)
        self.audit_scope = scope
        self.audit_actor = principal

    def trace_parent(self) -> str | None:
        """Return the present span for a message's headers, or None if the call is not traced."""
        return None if self.trace_id is None else telemetry.trace_parent()

    def seconds_left(self) -> float:
        """How long the caller still waits; never negative."""
        return max(0.0, self.ends_at - asyncio.get_running_loop().time())

    def note(self, *, targets: Iterable[str] = (), **details: Json) -> None:
        """Add to the audit event what it was done to and what there is to know about it. Never a secret."""
        self._targets.extend(targets)
        self._details.update(details)

    @asynccontextmanager
    async def transaction(self, database: Database, *, read_only: bool = False) -> AsyncIterator[Connection]:
        """Run the block in a transaction that sees the tenant's rows and no others.

        If the contract says so, the audit event is committed with it: both or neither.
        """
        async with database.transaction(self.tenant, read_only=read_only) as connection:
            if not read_only and self.contract.audit.durability is Durability.IN_TRANSACTION:
                connection.before_commit(self._record)
                connection.after_commit(self._set_recorded)
            yield connection

    async def _record(self, connection: Connection) -> None:
        # The second transaction of one call is recorded with the first.
        if self._outbox is not None and not self.recorded:
            await self._outbox.put_audit(connection, self.audit_scope, self.audit_event(Outcome.SUCCESS, None))

    def _set_recorded(self) -> None:
        self.recorded = self._outbox is not None

    def name_targets(self, request: object) -> None:
        """Take the targets that the contract's audit rule names from the request."""
        for name in self.contract.audit.targets:
            value = getattr(request, name)
            # A field that was left empty names nothing, and an envelope with an empty target is refused by the log.
            if value is not None and value != "":
                self._targets.append(str(value)[:MAX_TARGET_CHARACTERS])

    def audit_record(self, outcome: Outcome, reason: str | None) -> bytes:
        """Return what the log is to say of this call, as it stands in an envelope.

        Written and not serialized: every request makes one, and a model of it costs as much as five of the gates. Ids
        and the contract's words need no escaping.
        """
        rule = self.contract.audit
        record = (
            f'{{"id":"{EventId.new()}","occurred_at":"{_now()}",{_constants(rule.category, rule.action, outcome)}'
            f',"actor":"{self.audit_actor}","request_id":"{self.request_id}"'
        )
        optional: dict[str, Any] = {
            "acting_for": None
            if self._caller is None or self._caller.acting_for is None
            else str(self._caller.acting_for),
            "targets": self._targets[:MAX_TARGETS] or None,
            "reason": reason,
            "trace_id": self.trace_id,
            "source_address": self._origin.address,
            "user_agent": self._origin.user_agent,
            "details": self._details or None,
        }
        rest = {name: value for name, value in optional.items() if value is not None}
        return f"{record}}}".encode() if not rest else record.encode() + b"," + to_json(rest)[1:]

    def audit_event(self, outcome: Outcome, reason: str | None) -> AuditEvent:
        """Return the same as an event."""
        return AuditEvent.model_validate_json(self.audit_record(outcome, reason))


def _now() -> str:
    now = time.time()
    return f"{_second(int(now))}.{int(now % 1 * 1e6):06}Z"


@lru_cache(maxsize=2)
def _second(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _constants(category: Category, action: str, outcome: Outcome) -> str:
    return f'"category":"{category}","action":"{action}","outcome":"{outcome}"'
