"""Dead letters: what could never be sealed, as it came, under a key that every erasure of its scope destroys.

    body = nonce (12) ‖ ciphertext ‖ tag (16)      AES-256-GCM, bound to the scope and the entry that tells of it

Whom bytes are about that cannot be read, nobody can tell. So they are under the key of nobody (`NOBODY`), which is kept
as people's are; who erases somebody destroys that key too.

What always holds: what is opened is what came, for that entry of that scope. A letter fits a message of the broker's.

On failure: `ServiceUnavailable` where the key cannot be had. Of a letter that does not open, nobody can tell whether
its key is gone or its bytes were changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidTag

from wardmesh.contracts.audit import NOBODY
from wardmesh.crypto.encoding import length_prefixed
from wardmesh.ids import EventId, InvalidIdError, Scope
from wardmesh.server.messages import OutboundMessage
from wardmesh.subjects import AuditSubject, DeadSubject, InvalidSubjectError
from wardmesh_audit.domain import Random
from wardmesh_audit.ports import SubjectKeys

MAX_DEAD_BYTES: Final = 960 * 1024
"""With the headers it must fit a message (1 MiB), or publishing it would cost us the connection."""
_NONCE_BYTES: Final = 12
_OVERHEAD_BYTES: Final = _NONCE_BYTES + 16
_DOMAIN: Final = b"wardmesh/audit/letters/v1"
_ENTRY: Final = "Wardmesh-Entry"
_REASON: Final = "Wardmesh-Reason"
_SUBJECT: Final = "Wardmesh-Subject"
_RECEIVED: Final = "Wardmesh-Received"
_BYTES: Final = "Wardmesh-Bytes"


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as it lies in stream DEAD."""

    number: int
    scope: Scope
    entry: EventId
    reason: str
    subject: str
    received_at: datetime
    size: int
    """Of what came, in bytes; of which not more than `MAX_DEAD_BYTES` were kept."""
    sealed: bytes

    @property
    def source(self) -> str:
        """The service that wrote it; empty where the subject names none."""
        try:
            return AuditSubject.parse(self.subject).source
        except InvalidSubjectError:
            return ""

    @property
    def kept(self) -> int:
        """How many bytes of it there are."""
        return max(0, len(self.sealed) - _OVERHEAD_BYTES)

    @classmethod
    def of(cls, number: int, subject: str, headers: Mapping[str, str], sealed: bytes) -> Letter | None:
        """Return what a message of the stream is; None if it is no letter of ours."""
        try:
            return cls(
                number,
                DeadSubject.parse(subject).scope,
                EventId.parse(headers[_ENTRY]),
                headers[_REASON],
                headers[_SUBJECT],
                datetime.fromisoformat(headers[_RECEIVED]),
                int(headers[_BYTES]),
                sealed,
            )
        except (KeyError, ValueError, InvalidIdError, InvalidSubjectError):
            return None


class Letters:
    """Seals letters, and opens them."""

    def __init__(self, keys: SubjectKeys, *, random: Random = os.urandom) -> None:
        self._keys = keys
        self._random = random

    async def seal(
        self, scope: Scope, entry: EventId, reason: str, subject: str, received_at: datetime, data: bytes
    ) -> OutboundMessage:
        """Return the message that keeps what came."""
        key = (await self._keys.get_or_make(scope, [NOBODY]))[NOBODY]
        nonce = self._random(_NONCE_BYTES)
        sealed = nonce + key.cipher.encrypt(nonce, data[:MAX_DEAD_BYTES], _context(scope, entry))
        headers = {
            _ENTRY: entry,
            _REASON: reason,
            _SUBJECT: subject,
            _RECEIVED: received_at.isoformat(),
            _BYTES: str(len(data)),
        }
        return OutboundMessage(DeadSubject(scope).format(), sealed, headers, entry)

    async def open(self, letter: Letter) -> bytes | None:
        """Return what a letter says; None if it does not open any more."""
        key = (await self._keys.find(letter.scope, [NOBODY])).get(NOBODY)
        if key is None:
            return None
        nonce, ciphertext = letter.sealed[:_NONCE_BYTES], letter.sealed[_NONCE_BYTES:]
        try:
            return key.cipher.decrypt(nonce, ciphertext, _context(letter.scope, letter.entry))
        except (InvalidTag, ValueError):
            return None

    async def forget(self, scope: Scope) -> None:
        """Make every letter of the scope unreadable, for ever; those that come later have another key."""
        if (key := (await self._keys.find(scope, [NOBODY])).get(NOBODY)) is not None:
            await self._keys.destroy(scope, key)


def _context(scope: Scope, entry: EventId) -> bytes:
    return length_prefixed(_DOMAIN, scope.encode()) + entry.encode()
