"""The two key-value buckets that every process of the mesh mirrors: who signs tokens, and what is revoked.

What always holds: `post` returns when the broker has the revocation on disk, and never replaces a later time of the
same id by an earlier one (compare and set by revision).

On failure: `ServiceUnavailable`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import nats.errors
import nats.js.errors
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.kv import KeyValue

from wardmesh.errors import ServiceUnavailable
from wardmesh.server.broker import stream_of_bucket
from wardmesh.server.messaging import Messaging
from wardmesh_auth.revocation import KNOWN_FOR

JWKS: Final = "jwks"
REVOCATIONS: Final = "revocations"
KEPT_FOR: Final = max(timedelta(hours=1), KNOWN_FOR)
"""Longer than any token lives that a revocation could still concern."""
MAX_VALUE_BYTES: Final = 4096
MAX_BUCKET_BYTES: Final = 64 * 1024 * 1024
POST_ATTEMPTS: Final = 5
"""Two replicas that post the same id at once: one of them reads again."""


async def declare(messaging: Messaging, *, replicas: int) -> None:
    """Make the buckets, or report where they are not as declared."""
    await messaging.ensure_stream(_bucket(JWKS, None), replicas=replicas)
    await messaging.ensure_stream(_bucket(REVOCATIONS, KEPT_FOR), replicas=replicas)


async def publish_key(messaging: Messaging, kid: str, jwk: Mapping[str, str]) -> None:
    """Let the mesh verify what is signed with this key.

    Keys of others stay: replicas may be rolled from one key to the next. To retire a key, an operator deletes it.
    """
    try:
        bucket = await messaging.jetstream.key_value(JWKS)
        await bucket.put(kid, json.dumps(dict(jwk), sort_keys=True).encode())
    except (nats.errors.Error, TimeoutError) as error:
        raise ServiceUnavailable("The signing key could not be published.") from error


class RevocationBucket:
    """Implements `ports.RevocationBoard`."""

    def __init__(self, messaging: Messaging) -> None:
        self._messaging = messaging
        self._bucket: KeyValue | None = None

    async def post(self, identifier: str, at: datetime) -> None:
        try:
            for _ in range(POST_ATTEMPTS):
                if await self._try_post(identifier, at.timestamp()):
                    return
        except (nats.errors.Error, TimeoutError) as error:
            raise ServiceUnavailable("The revocation could not be made known everywhere; send it again.") from error
        raise ServiceUnavailable("The revocation is being changed by others; send it again.")

    async def _try_post(self, identifier: str, at: float) -> bool:
        if self._bucket is None:
            self._bucket = await self._messaging.jetstream.key_value(REVOCATIONS)
        bucket, value = self._bucket, repr(at).encode()
        try:
            try:
                entry = await bucket.get(identifier)
            except nats.js.errors.KeyNotFoundError:
                await bucket.create(identifier, value)
                return True
            if entry.value is None or float(entry.value) < at:
                await bucket.update(identifier, value, last=entry.revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return False  # somebody else was faster
        return True


def _bucket(name: str, kept_for: timedelta | None) -> StreamConfig:
    # What nats-py's create_key_value declares, through `ensure_stream`, which knows replicas and reports drift.
    return StreamConfig(
        name=stream_of_bucket(name),
        subjects=[f"$KV.{name}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_msgs_per_subject=1,
        max_msg_size=MAX_VALUE_BYTES,
        max_bytes=MAX_BUCKET_BYTES,
        max_age=None if kept_for is None else kept_for.total_seconds(),
        duplicate_window=120.0,
        allow_rollup_hdrs=True,
        allow_direct=True,
        deny_delete=True,
    )
