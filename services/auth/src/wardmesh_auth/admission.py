"""Who may connect to the broker: the decision behind the auth callout (`callout` knows the protocol).

The CONNECT names the scope as its user and carries an API key or an access token as its password.

What always holds: the scope is a parsed id before anything else is looked at; the credential is good for exactly that
scope; the connection ends with the credential, and after `ACCESS_TOKEN_LIFETIME` at the latest, so that nobody stays
who would not get in again. It ends later than that by `ANSWERS_ARRIVE`: no gate admits a request any more, and what was
admitted in time is answered. Every decision is in the audit log, under the name that the credential proved or nobody's.

On failure: what is raised here, `Callout` turns into a refusal. The broker tells a client only that it was refused, in
the same words whether its credential is wrong or nobody could look at it; clients go by how soon they hear of it. So
what could not be decided is tried again, and refused no sooner than after `UNDECIDED_SECONDS`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import MAX_DEADLINE, Category
from wardmesh.crypto.apikey import PREFIX
from wardmesh.errors import UnavailableError, WardmeshError
from wardmesh.ids import EventId, KeyId, OrgId, Principal, Scope, SessionId, UserId, parse_scope
from wardmesh.server.authenticator import Authenticator
from wardmesh_auth.callout import ConnectRequest, Decision, Grant, Refusal
from wardmesh_auth.domain import ACCESS_TOKEN_LIFETIME, token_expiry
from wardmesh_auth.sessions import KeyVerdict

ACTION: Final = "connection.open"
MAX_PASSWORD_CHARACTERS: Final = 8192
"""More than any key or token of ours has."""
MAX_SHOWN_CHARACTERS: Final = 64
UNDECIDED_SECONDS: Final = 1.5
"""Longer than clients take for a prompt refusal, by enough for a busy network; with the database's own time-out still
shorter than the broker waits."""
AGAIN_SECONDS: Final = 0.25
ANSWERS_ARRIVE: Final = MAX_DEADLINE + timedelta(seconds=5)
"""The longest call, and room for clocks and whole seconds."""


class AuditQueue(Protocol):
    async def enqueue(self, scope: Scope, event: AuditEvent, *, trace_parent: str | None = None) -> None: ...


class KeyChecker(Protocol):
    async def check_key(self, text: str, scope: Scope | None) -> KeyVerdict: ...


@dataclass(slots=True)
class _Seen:
    """What the audit log is to say of the connect: nobody's until the credential has proved a name."""

    scope: Scope = field(default_factory=OrgId.nil)
    actor: Principal = field(default_factory=UserId.nil)
    targets: tuple[str, ...] = ()


class Admission:
    """Decides about connects. `decide` is what `Callout` is given."""

    def __init__(
        self,
        keys: KeyChecker,
        authenticator: Authenticator,
        audit: AuditQueue,
        clock: Callable[[], datetime],
        *,
        lifetime: timedelta = ACCESS_TOKEN_LIFETIME,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._keys = keys
        self._authenticator = authenticator
        self._audit = audit
        self._clock = clock
        self._lifetime = lifetime
        self._monotonic = monotonic
        self._sleep = sleep

    async def decide(self, request: ConnectRequest) -> Decision:
        """Return a grant of exactly the scope that was asked for, or a refusal."""
        seen = _Seen()
        decision = await self._decide(request, seen)
        await self._record(request, seen, decision)
        return decision

    async def _decide(self, request: ConnectRequest, seen: _Seen) -> Decision:
        give_up = self._monotonic() + UNDECIDED_SECONDS
        while True:
            try:
                return await self._judge(request, seen)
            except UnavailableError as error:
                if self._monotonic() >= give_up:
                    return Refusal(error.code)
                await self._sleep(AGAIN_SECONDS)
            except WardmeshError as error:
                return Refusal(error.code)

    async def _judge(self, request: ConnectRequest, seen: _Seen) -> Decision:
        try:
            scope = parse_scope(request.user)
        except ValueError:
            return Refusal("the user name is to be the id of an organization or a workspace")
        if not 0 < len(request.password) <= MAX_PASSWORD_CHARACTERS:
            return Refusal("the password is to be an API key or an access token")
        if request.password.startswith(PREFIX):
            return await self._with_key(request.password, scope, seen)
        return self._with_token(request.password, scope, seen)

    async def _with_key(self, text: str, scope: Scope, seen: _Seen) -> Decision:
        verdict = await self._keys.check_key(text, scope)
        key = verdict.key
        # Refusals go to the log of the key's own scope: the one that was asked for may be anybody's.
        seen.scope, seen.actor, seen.targets = key.scope, key.principal, (key.id,)
        if verdict.rights is None:
            return Refusal(verdict.refusal or "the key does not reach that scope")
        seen.scope = scope
        return Grant(scope, key.principal, key.id, self._connection_ends(key.expires_at))

    def _with_token(self, text: str, scope: Scope, seen: _Seen) -> Decision:
        caller = self._authenticator.authenticate(text)
        seen.scope, seen.actor, seen.targets = caller.scope, caller.principal, (caller.credential_id,)
        if caller.scope != scope:
            return Refusal("the access token is for another scope")
        ends = self._connection_ends(datetime.fromtimestamp(caller.expires_at, UTC))
        return Grant(scope, caller.principal, _credential(caller.credential_id), ends)

    def _connection_ends(self, credential_expires_at: datetime | None) -> datetime:
        return token_expiry(self._clock(), credential_expires_at, self._lifetime) + ANSWERS_ARRIVE

    async def _record(self, request: ConnectRequest, seen: _Seen, decision: Decision) -> None:
        refused = isinstance(decision, Refusal)
        event = AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.AUTHENTICATION,
            action=ACTION,
            outcome=Outcome.REFUSED if refused else Outcome.SUCCESS,
            actor=seen.actor,
            targets=seen.targets,
            reason=decision.reason if isinstance(decision, Refusal) else None,
            source_address=request.client_host[:MAX_SHOWN_CHARACTERS] or None,
            details={
                "connection": request.connection_id,
                "method": "api_key" if request.password.startswith(PREFIX) else "access_token",
            },
        )
        await self._audit.enqueue(seen.scope, event)


def _credential(text: str) -> KeyId | SessionId:
    return KeyId.parse(text) if text.startswith(KeyId.prefix) else SessionId.parse(text)
