"""Stream DEAD, read letter by letter.

What always holds: what is given out is of the scope that was asked for; what lies there and is no letter of ours is
passed over. No consumer is made: who reads letters leaves nothing behind.

On failure: `ServiceUnavailable` where the broker does not answer.
"""

from __future__ import annotations

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import Scope
from wardmesh.server.streams import DEAD
from wardmesh.subjects import DeadSubject
from wardmesh_audit.letters import Letter


class StreamLetters:
    """The port `LetterBox` on the broker."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def next(self, scope: Scope, after: int) -> Letter | None:
        while True:
            message = await self._get(after + 1, DeadSubject(scope).format())
            if message is None:
                return None
            letter = _letter(message)
            if letter is not None:
                return letter
            after = message.seq or after + 1

    async def get(self, scope: Scope, number: int) -> Letter | None:
        message = await self._get(number)
        letter = None if message is None else _letter(message)
        return letter if letter is not None and letter.scope == scope else None

    async def _get(self, sequence: int, subject: str | None = None) -> RawStreamMsg | None:
        """Return the message at a place, or the first of a subject from there on."""
        try:
            return await self._jetstream.get_msg(DEAD, sequence, subject, next=subject is not None)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            raise ServiceUnavailable("The message broker does not give out dead letters now.") from error


def _letter(message: RawStreamMsg) -> Letter | None:
    return Letter.of(message.seq or 0, message.subject or "", message.headers or {}, message.data or b"")
