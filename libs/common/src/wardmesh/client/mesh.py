"""The client: `async with wardmesh.connect() as mesh`.

What always holds: inside the `async with`, calls work through restarts of the broker and of services and through the
expiry of tokens, or end in an error that says whether to try again. On leaving it, what was queued is sent and what was
done is acknowledged, for as long as `CLOSE_SECONDS`.

On failure: `connect` raises `CredentialRefused`, or `ServiceUnavailable` if nothing answers in time.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from wardmesh import header_parser
from wardmesh.client.audit import Audit, Emitter, emitter
from wardmesh.client.auth import Auth
from wardmesh.client.bridge import AgreementKeys, Bridge
from wardmesh.client.caller import Caller
from wardmesh.client.connection import Connection
from wardmesh.client.credentials import Credential, KeyCredential, SessionCredential, TokenCredential
from wardmesh.client.link import Dialling
from wardmesh.client.methods import Timed
from wardmesh.client.secrets import SealingKeys, Secrets, workspace_of
from wardmesh.client.spool_files import SpoolFolder
from wardmesh.client.subscription import Subscription
from wardmesh.client.webhooks import Events, Publisher, Webhooks, publisher
from wardmesh.contracts.auth import Session
from wardmesh.contracts.operation import DEFAULT_DEADLINE, Contract, Message
from wardmesh.crypto.sealing import HolderKey
from wardmesh.errors import CredentialRefused, ServiceUnavailable
from wardmesh.ids import Principal, Scope, WorkspaceId, parse_scope
from wardmesh.tls import CA_FILE_VARIABLE, is_asked_for, trusting

P = ParamSpec("P")
RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

URL_VARIABLE: Final = "WARDMESH_URL"
API_KEY_VARIABLE: Final = "WARDMESH_API_KEY"
DEFAULT_URL: Final = "nats://127.0.0.1:4222"
CLOSE_SECONDS: Final = 5.0
_WEBSOCKET: Final = ("ws://", "wss://")


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all views of one mesh have in common."""

    caller: Caller
    emitter: Emitter
    publisher: Publisher
    sealing_keys: SealingKeys = field(default_factory=SealingKeys)
    agreement_keys: AgreementKeys = field(default_factory=AgreementKeys)
    subscriptions: weakref.WeakSet[Subscription[Any, Any]] = field(default_factory=weakref.WeakSet)


class Mesh:
    """The mesh, as one principal in one scope. Made by `connect`."""

    def __init__(self, shared: _Shared, deadline: timedelta | None = None) -> None:
        self._shared = shared
        self._timed = Timed(shared.caller, deadline)

    @property
    def principal(self) -> Principal:
        """Who is calling."""
        return self._shared.caller.principal

    @property
    def scope(self) -> Scope:
        """Where: an organization or a workspace."""
        return self._shared.caller.scope

    @property
    def workspace(self) -> WorkspaceId:
        """The scope as a workspace; raises `ScopeMismatch` if it is an organization."""
        return workspace_of(self._timed)

    @cached_property
    def auth(self) -> Auth:
        return Auth(self._timed)

    @cached_property
    def secrets(self) -> Secrets:
        return Secrets(self._timed, self._shared.sealing_keys)

    @cached_property
    def bridge(self) -> Bridge:
        return Bridge(self._timed, self._shared.agreement_keys, self._shared.subscriptions.add)

    @cached_property
    def webhooks(self) -> Webhooks:
        return Webhooks(self._timed)

    @cached_property
    def events(self) -> Events:
        return Events(self._timed, self._shared.publisher, self._shared.subscriptions.add)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self._timed, self._shared.emitter)

    def within(self, deadline: timedelta) -> Mesh:
        """Return a view of this mesh whose calls have another deadline (30 s at the most)."""
        return Mesh(self._shared, deadline)

    async def call(
        self, contract: Contract[P, RequestT, ResponseT], request: RequestT, *, deadline: timedelta | None = None
    ) -> ResponseT:
        """Call any operation by its contract."""
        answer = await self._shared.caller.call(contract, request, deadline=deadline or self._timed.deadline)
        return answer.response


def connect(
    url: str | None = None,
    api_key: str | None = None,
    *,
    token: str | None = None,
    session: Session | None = None,
    on_session: Callable[[Session, HolderKey], Awaitable[None]] | None = None,
    holder: HolderKey | None = None,
    scope: Scope | str | None = None,
    tls: ssl.SSLContext | None = None,
    name: str = "wardmesh",
    timeout: timedelta = DEFAULT_DEADLINE,
    audit_spool: Path | None = None,
) -> AbstractAsyncContextManager[Mesh]:
    """Return the mesh as an asynchronous context manager.

    `url` is one or more NATS addresses joined by commas (`WARDMESH_URL`). The credential is one of `api_key`
    (`WARDMESH_API_KEY`), `token`, and `session`; `on_session` is given each session that follows, to be kept. `holder`
    is the private key that the token or the session names. `scope` is one other than the credential's own. `timeout`
    is how long to wait for the mesh to answer at all.

    An address that begins with `tls://` is spoken to in TLS or not at all, and so is every one if `tls` is given. The
    broker's certificate is trusted if `tls` trusts it, else the authority in the file `WARDMESH_CA_FILE`, else the
    system's. `ws://` and `wss://` need the package aiohttp.

    Raises `HeaderParserUnusable` where another package keeps nats-py from reading headers.

    With `audit_spool`, a folder of this process alone, `audit.emit` returns when the event is on disk there; it is sent
    when the mesh is there, by this process or the next that opens the folder. So a mesh that does not answer is waited
    for no longer than `timeout`, and is no failure.
    """
    header_parser.check()
    servers = tuple(part.strip() for part in (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).split(","))
    credential = _credential(api_key, token, session, on_session, holder, parse_scope(scope) if scope else None)
    if any(server.startswith(_WEBSOCKET) for server in servers) and importlib.util.find_spec("aiohttp") is None:
        raise ValueError("ws:// and wss:// need the package aiohttp: install it, or name a nats:// or tls:// address")
    dialling = Dialling(
        servers=servers,
        user=credential.scope,
        password=credential.password,
        principal=credential.principal,
        name=name,
        tls=tls or _tls_of_environment(),
        tls_required=tls is not None or is_asked_for(servers),
    )
    return _opening(dialling, credential, timeout.total_seconds(), audit_spool)


@asynccontextmanager
async def _opening(
    dialling: Dialling, credential: Credential, patience_seconds: float, spool: Path | None
) -> AsyncIterator[Mesh]:
    if spool is None:
        async with _connected(dialling, credential, patience_seconds, None) as mesh:
            yield mesh
        return
    files = await asyncio.to_thread(SpoolFolder.open, spool, credential.scope, credential.principal)
    try:
        async with _connected(dialling, credential, patience_seconds, files) as mesh:
            yield mesh
    finally:
        await asyncio.to_thread(files.close)


@asynccontextmanager
async def _connected(
    dialling: Dialling, credential: Credential, patience_seconds: float, spool: SpoolFolder | None
) -> AsyncIterator[Mesh]:
    connection = Connection(dialling)
    caller = Caller(connection, credential)
    connection.start()
    fresh: asyncio.Task[None] | None = None
    try:
        try:
            await _first_grant(connection, caller, patience_seconds)
        except ServiceUnavailable:
            if spool is None:
                raise
        fresh = asyncio.get_running_loop().create_task(caller.grants.keep_fresh(caller.exchange, connection.renew))
        shared = _Shared(caller, emitter(caller, spool), publisher(caller))
        try:
            yield Mesh(shared)
        finally:
            await _settle(shared)
    finally:
        if fresh is not None:
            fresh.cancel()
            await asyncio.gather(fresh, return_exceptions=True)
        await caller.grants.close()
        await connection.close()


async def _first_grant(connection: Connection, caller: Caller, patience_seconds: float) -> None:
    until = asyncio.get_running_loop().time() + patience_seconds
    await connection.link(until)
    try:
        async with asyncio.timeout_at(until):
            await caller.grants.renewed(caller.exchange, stale=None)
    except TimeoutError as error:
        raise ServiceUnavailable("The auth service does not answer.") from error


async def _settle(shared: _Shared) -> None:
    """Acknowledge what was done, then send what was queued, all within `CLOSE_SECONDS`."""
    closings = [asyncio.ensure_future(subscription.close()) for subscription in list(shared.subscriptions)]
    closings += [asyncio.ensure_future(batcher.close(CLOSE_SECONDS)) for batcher in (shared.emitter, shared.publisher)]
    await asyncio.wait(closings, timeout=CLOSE_SECONDS + 1)
    for closing in closings:
        closing.cancel()
    await asyncio.gather(*closings, return_exceptions=True)


def _tls_of_environment() -> ssl.SSLContext | None:
    ca_file = os.environ.get(CA_FILE_VARIABLE)
    if not ca_file:
        return None
    try:
        return trusting(Path(ca_file))
    except OSError as error:
        raise ValueError(f"{CA_FILE_VARIABLE}: {ca_file} can't be read as a certificate authority (PEM)") from error


def _credential(
    api_key: str | None,
    token: str | None,
    session: Session | None,
    on_session: Callable[[Session, HolderKey], Awaitable[None]] | None,
    holder: HolderKey | None,
    scope: Scope | None,
) -> Credential:
    if sum(given is not None for given in (api_key, token, session)) > 1:
        raise ValueError("give one credential: an API key, a token or a session")
    if token is not None:
        credential: Credential = TokenCredential(token, holder=holder)
    elif session is not None:
        credential = SessionCredential(session, holder=holder, on_rotation=on_session)
    else:
        text = api_key or os.environ.get(API_KEY_VARIABLE)
        if not text:
            raise CredentialRefused(f"There is no credential: give an API key, or set {API_KEY_VARIABLE}.")
        return KeyCredential(text, scope=scope)
    if scope is not None and scope != credential.scope:
        raise ValueError("a token is good for its own scope only")
    return credential
