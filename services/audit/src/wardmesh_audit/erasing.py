"""Erasing a person from a scope's log, and showing persons what is theirs.

    hold? → retire the key → wait for who is appending, and count → note the erasure
          → destroy the key, and that of the scope's dead letters
          → row, entry and audit event, in one transaction → forget the note

What always holds:
- Nothing is erased under a legal hold, also one that is placed at this moment: who erases and who holds wait for each
  other.
- The number is exact. Nobody appends by a key that is retired (`subjects`), and who was appending is waited for; so all
  that the key will ever have sealed is counted, whichever server dies.
- The note is beside the keys before the key is destroyed, and stays until the database knows. So after a crash between
  any two steps, the same call goes on with the same erasure, and nothing is left that names the person but what the
  call itself brings. It counts what was under the key that is gone, and what came under another one since.
- The log, the row and the certificate name an erasure and nobody.
- What could not be sealed before may be about anybody, so it is unreadable afterwards (`letters`).
- What was durable in the stream when the call came is sealed first, unless that takes longer than `SETTLE_SECONDS`:
  what is sealed later is under a new key, and may be erased by another call.
- Somebody who is still there is recorded as before, under a new key.

On failure: `UnderHold`, `NothingToErase`; `SigningRefused` before anything is destroyed, where a certificate could not
be signed; else whatever keeps the call from going on, and the call may be repeated.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from wardmesh.audit_erasure import ErasureCertificate
from wardmesh.contracts.audit import ERASED, NOBODY, AuditEvent, Erase, Erased, Erasure, Erasures, ListErasures, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.errors import NothingToErase
from wardmesh.ids import EventId, Scope, ServiceId
from wardmesh.server.context import Call
from wardmesh_audit.letters import Letters
from wardmesh_audit.openings import SubjectKey
from wardmesh_audit.ports import Backlog, PendingErasure, PeopleStore, SubjectKeys
from wardmesh_audit.proving import Prover
from wardmesh_audit.signing import LogSigner

SETTLE_SECONDS: Final = 4.0
"""Sealing takes milliseconds; longer, and something is in trouble that has nothing to do with the person."""
_DOMAIN: Final = b"wardmesh/audit/erasing/v1"
_MARK_BYTES: Final = 16
_log = logging.getLogger(__name__)


class ErasingService:
    """The use cases of erasing."""

    def __init__(
        self,
        store: PeopleStore,
        keys: SubjectKeys,
        letters: Letters,
        prover: Prover,
        signer: LogSigner,
        backlog: Backlog,
        clock: Callable[[], datetime],
    ) -> None:
        self._backlog = backlog
        self._letters = letters
        self._store = store
        self._keys = keys
        self._prover = prover
        self._signer = signer
        self._clock = clock
        # An erasure counts while it holds the lock of the holds: two connections, which many could wait for for ever.
        self._one_at_once = asyncio.Lock()

    async def erase(self, call: Call, request: Erase) -> Erased:
        """Destroy what lets the scope's log say who somebody is."""
        scope, subject = call.caller.scope, request.subject
        if subject == NOBODY:
            raise NothingToErase
        # What was emitted before is erased too. One log that waits for repair must not keep all others from it.
        if not await self._backlog.settled(min(SETTLE_SECONDS, call.seconds_left() / 2)):
            _log.warning("erasing goes on, although not everything that was emitted before is sealed")
        # Before anything: what is destroyed without a certificate, nobody could show to have been.
        head = await self._prover.signed_head(scope)
        async with self._one_at_once, self._store.erasing(call) as rows:
            begun = await self._keys.begun(scope, subject)
            erasure = None if begun is None else await rows.find(begun.erasure_id)
            if erasure is not None:  # ended but for its note: this one is about what came since
                begun = None
            # What a call left that a crash cut off, and what is in use since.
            for taken in (self._keys.retired, self._keys.retire):
                if (key := await taken(scope, subject)) is not None:
                    begun = await self._begin(scope, key, begun)
                    await self._keys.destroy(scope, key)
            if begun is not None:
                await self._letters.forget(scope)
                certificate = ErasureCertificate(
                    self._signer.origin(scope), begun.erasure_id, self._clock(), begun.entries, head.size, head.root
                )
                erasure = Erasure(
                    erasure_id=certificate.erasure_id,
                    erased_at=certificate.erased_at,
                    entries=certificate.entries,
                    certificate=self._signer.sign_note(scope, certificate.text()).decode(),
                )
                await rows.add(erasure, _told(erasure))
            if erasure is None:
                raise NothingToErase
        await self._keys.end(scope, subject)
        return Erased(**dict(erasure), verifier_key=self._signer.verifier_key(scope))

    async def _begin(self, scope: Scope, key: SubjectKey, begun: PendingErasure | None) -> PendingErasure:
        """Note, durably, what is about to be erased: what this retired key is about, and all that was noted before."""
        acts, mark = await self._store.acts(scope, key.pseudonym), _mark(key)
        if begun is None:
            pending = PendingErasure(EventId.new(), acts, mark)
        else:
            gone = begun.gone if begun.mark == mark else begun.entries
            pending = PendingErasure(begun.erasure_id, gone + acts, mark, gone)
        await self._keys.begin(scope, key.subject, pending)
        return pending

    async def erasures(self, call: Call, request: ListErasures) -> Erasures:
        """Return the scope's erasures."""
        return Erasures(erasures=tuple(await self._store.erasures(call.tenant, request.limit)))


def _mark(key: SubjectKey) -> str:
    """Return what tells a key from the next one, and nothing of it to whoever reads the note."""
    return hmac.digest(key.secret, _DOMAIN, "sha256")[:_MARK_BYTES].hex()


def _told(erasure: Erasure) -> AuditEvent:
    """Return what the log says of an erasure."""
    return AuditEvent(
        id=erasure.erasure_id,
        occurred_at=erasure.erased_at,
        category=Category.ADMINISTRATION,
        action=ERASED,
        outcome=Outcome.SUCCESS,
        actor=ServiceId.nil(),
        details={"entries": erasure.entries},
    )
