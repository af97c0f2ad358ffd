"""The two key-value buckets that every process of the mesh mirrors: who signs tokens, and what is revoked.

What always holds: `post` returns when the broker has the revocation on disk, and never replaces a later time of the
same id by an earlier one (compare and set by revision).

On failure: `ServiceUnavailable`; of a revocation `OutcomeUnknown`, for its rows are committed by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from wardmesh.errors import OutcomeUnknown, ServiceUnavailable
from wardmesh.server.messaging import Messaging
from wardmesh.server.streams import JWKS, REVOCATIONS, REVOCATIONS_MAX_AGE
from wardmesh_auth.revocation import KNOWN_FOR

__all__ = ["JWKS", "REVOCATIONS", "RevocationBucket", "publish_key"]

POST_ATTEMPTS: Final = 5
"""Two replicas that post the same id at once: one of them reads again."""

if REVOCATIONS_MAX_AGE < KNOWN_FOR:
    raise AssertionError("a revocation would be forgotten while a token that it concerns lives")


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
            raise OutcomeUnknown("The revocation could not be made known everywhere; send it again.") from error
        raise OutcomeUnknown("The revocation is being changed by others; send it again.")

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
