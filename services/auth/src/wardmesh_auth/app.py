"""Puts auth together: identities, the callout and the gateway. Everything that is constructed, is constructed here.

Besides the service's own connection to the broker there are three, each of a user that may do one thing: `callout`
(account AUTH) hears who wants to connect, `system` (account SYS) finds and kicks, `gateway` (account APP) forwards.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from wardmesh.contracts import ALL
from wardmesh.server.broker import GATEWAY
from wardmesh.server.http import serving
from wardmesh.server.messaging import Messaging
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.server.runtime import VERSION, Runtime
from wardmesh.server.settings import read_seed
from wardmesh_auth import buckets, handlers, openapi
from wardmesh_auth.admission import Admission
from wardmesh_auth.callout import Callout
from wardmesh_auth.connections import Connections
from wardmesh_auth.gateway import Gateway
from wardmesh_auth.gateway_http import Door, application
from wardmesh_auth.gateway_log import LogPages
from wardmesh_auth.gateway_streams import Streams
from wardmesh_auth.gateway_witness import WitnessPage
from wardmesh_auth.passwords import Argon2Passwords
from wardmesh_auth.responder import respond
from wardmesh_auth.revocation import Announcer, Reconciler, RevocationService
from wardmesh_auth.service import IdentityService
from wardmesh_auth.sessions import SessionService
from wardmesh_auth.settings import Settings
from wardmesh_auth.store import PostgresLedger, PostgresStore
from wardmesh_auth.tokens import TokenIssuer, published_jwk, read_signing_key

CALLOUT_USER: Final = "callout"
SYSTEM_USER: Final = "system"
ACCOUNT_ATTEMPTS: Final = Rate(per_second=1.0, burst=30)
"""Passwords tried on one account: a person's mistakes pass, a dictionary does not."""
WITNESS_REQUESTS: Final = Rate(per_second=20.0, burst=200)
"""Checkpoints that one address brings to be cosigned: a mesh with many logs passes, a flood of signatures does not."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def build(runtime: Runtime, settings: Settings) -> AsyncIterator[None]:
    """The service, for as long as the block runs."""
    async with AsyncExitStack() as stack:
        system = await _connected(stack, runtime, settings, SYSTEM_USER, settings.auth_sys_seed_file)
        callout = await _connected(stack, runtime, settings, CALLOUT_USER, settings.auth_callout_seed_file)
        forwarding = await _connected(stack, runtime, settings, GATEWAY, settings.auth_gateway_seed_file)

        lifetime = timedelta(seconds=settings.auth_token_seconds)
        signing_key = read_signing_key(settings.auth_signing_key_file)
        issuer = TokenIssuer(signing_key, issuer=settings.issuer, lifetime=lifetime)
        for bucket in (buckets.JWKS, buckets.REVOCATIONS):
            await runtime.messaging.expect_bucket(bucket, replicas=settings.stream_replicas)
        await buckets.publish_key(runtime.messaging, issuer.kid, published_jwk(issuer.kid, issuer.public_jwk))

        store, board = PostgresStore(runtime.database), buckets.RevocationBucket(runtime.messaging)
        announcer = Announcer(board, Connections(system.nats))
        passwords = Argon2Passwords(threads=settings.auth_password_threads)
        stack.callback(passwords.close)
        revocations = RevocationService(store, announcer, _now)
        sessions = SessionService(
            store,
            passwords,
            issuer,
            revocations,
            attempts=RateLimiter(ACCOUNT_ATTEMPTS),
            sign_up_open=settings.auth_sign_up == "open",
            clock=_now,
            monotonic=time.monotonic,
            randomness=os.urandom,
        )
        identities = IdentityService(store, passwords, announcer, clock=_now, randomness=os.urandom)
        handlers.bind(runtime.operations, sessions, identities, revocations)

        reconciler = Reconciler(PostgresLedger(runtime.database), board, runtime.revocations, _now)
        runtime.background("revocation reconciler", reconciler.run)

        admission = Admission(sessions, runtime.authenticator, runtime.audit, _now, lifetime=lifetime)
        await respond(
            callout.nats,
            Callout(
                admission.decide,
                issuer_seed=read_seed(settings.auth_callout_issuer_seed_file),
                xkey_seed=read_seed(settings.auth_callout_xkey_seed_file),
                clock=_now,
                on_error=_log_callout_error,
            ),
            on_error=_log_callout_error,
        )

        gateway = Gateway(forwarding, runtime.instance)
        await gateway.start()
        door = Door(
            gateway,
            runtime.audit,
            limiter=RateLimiter(Rate(settings.auth_logins_per_second, settings.auth_logins_burst)),
            monotonic=time.monotonic,
            state_origin=lambda who, request_id, origin: issuer.state_origin(who, request_id, origin, _now()),
            jwks=lambda: _jwks(runtime, issuer),
            openapi=openapi.document(ALL.values(), version=VERSION),
        )
        streams = Streams(door)
        witness = WitnessPage(door, RateLimiter(WITNESS_REQUESTS))
        http = application(door, [*streams.routes(), *LogPages(door).routes(), *witness.routes()])
        await stack.enter_async_context(serving(http, settings.auth_http_host, settings.auth_http_port))
        stack.callback(streams.close)
        yield


async def _connected(
    stack: AsyncExitStack, runtime: Runtime, settings: Settings, user: str, seed_file: Path
) -> Messaging:
    """Return a connection of one of auth's other users; the process ends if it closes for good."""
    messaging = Messaging(user)
    await messaging.connect(settings.nats_servers(), seed=read_seed(seed_file), ca_file=settings.nats_ca_file)
    stack.push_async_callback(messaging.drain)
    stopping = asyncio.Event()
    stack.callback(stopping.set)  # before the drain, which closes it on purpose

    async def closed() -> None:
        await messaging.closed.wait()
        if stopping.is_set():
            await asyncio.Event().wait()  # until the runtime ends its tasks

    async def check() -> str | None:
        return None if messaging.is_connected else "not connected"

    runtime.background(f"broker connection of {user}", closed)
    runtime.health.add(user, check)
    return messaging


def _jwks(runtime: Runtime, issuer: TokenIssuer) -> list[dict[str, str]]:
    """All keys that the mesh verifies with, this replica's own among them also before the mirror has it."""
    mirrored = {
        kid: {name: str(value) for name, value in key.as_dict(private=False).items()}
        for kid, key in runtime.keys.items()
    }
    mirrored[issuer.kid] = issuer.public_jwk
    return [published_jwk(kid, jwk) for kid, jwk in sorted(mirrored.items())]


def _log_callout_error(error: Exception) -> None:
    # Its text is ours or a driver's; what kind it is says enough.
    _log.warning("a connect could not be decided on: %s", type(error).__name__)


def _now() -> datetime:
    return datetime.now(UTC)
