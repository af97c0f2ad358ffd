"""From the stream of messages as they were sent to the receivers' inboxes: every message is verified once more.

What always holds:
- What reaches an inbox is what a side of the agreement signed and `send` admitted, under an agreement that is in force
  now; and it reaches it once, however often the stream delivers it. Where the message is (its subject) counts for
  nothing unless the signature says the same.
- What is refused is kept as a dead letter for the two workspaces that its subject names, and both logs say so.
- Settling, forwarding, and what the logs say, commit together.

On failure: what cannot be decided now (the database is away, a key does not open) raises, and the message comes again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.bridge import SignedMessage
from wardmesh.contracts.fields import Json
from wardmesh.contracts.operation import Category
from wardmesh.errors import InvalidRequest, RefusedError, RequestError, WardmeshError
from wardmesh.ids import EventId, ServiceId, WorkspaceId
from wardmesh.subjects import BridgeSubject, InboxSubject, InvalidSubjectError
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.domain import (
    DeadLetter,
    check_not_used,
    check_sides,
    check_signature,
    check_subject,
)
from wardmesh_bridge.errors import NotAdmitted, SignatureRefused, StoredKeyUnopenable
from wardmesh_bridge.ports import BridgeStore, BridgeTransaction
from wardmesh_bridge.service import trace_headers

_log = logging.getLogger(__name__)


class Deliverer:
    """Takes messages out of the stream, one by one; any number may run."""

    def __init__(self, store: BridgeStore, keys: AgreementKeys, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    async def deliver(self, subject: str, payload: bytes) -> None:
        """Deal with one message; when this returns it may be acknowledged."""
        try:
            place = BridgeSubject.parse(subject)
        except InvalidSubjectError:
            # Only this service can write to the stream, and it has no such subjects. Nobody to tell but the operator.
            _log.error("a message on a subject that is none of ours was dropped")
            return
        async with self._store.as_receiver(place.target) as rows:
            try:
                message = await self._verified(rows, place, payload)
            except StoredKeyUnopenable:
                _log.error("the key of an agreement does not open")
                raise
            except (RequestError, RefusedError) as error:
                await self._refuse(rows, place, subject, payload, error)
                return
            if not await rows.settle(message, self._clock()):
                return  # the stream delivered it again
            inbox = InboxSubject(place.target, place.source, place.type).format()
            await rows.forward(inbox, payload, trace_headers())
            await self._record(
                rows,
                place,
                "message.deliver",
                Outcome.SUCCESS,
                None,
                {"message": message.id, "kind": message.kind.value},
            )

    async def _verified(self, rows: BridgeTransaction, place: BridgeSubject, payload: bytes) -> SignedMessage:
        """Return the message if all is well with it; raise why not."""
        try:
            message = SignedMessage.model_validate_json(payload)
        except ValidationError:
            raise InvalidRequest("It cannot be read as a signed message.") from None
        check_subject(message, place)
        agreement = check_sides(message, await rows.agreement(message.agreement))
        stored = await rows.key(agreement.id, message.key_id)
        if stored is None:
            raise SignatureRefused
        check_signature(message, await self._keys.open(stored, agreement))
        admission = await rows.admission(message)
        if admission is None:
            raise NotAdmitted
        check_not_used(message, admission)
        return message

    async def _refuse(
        self, rows: BridgeTransaction, place: BridgeSubject, subject: str, payload: bytes, error: WardmeshError
    ) -> None:
        letter = DeadLetter(
            id=EventId.new(),
            sender=place.source,
            receiver=place.target,
            subject=subject,
            reason=f"{error.code}: {error.detail}",
            payload=payload,
        )
        await rows.bury(letter, self._clock())
        await self._record(rows, place, "message.refuse", Outcome.REFUSED, error.code, {"dead_letter": letter.id})
        _log.warning("a bridge message was refused", extra={"code": error.code, "dead_letter": str(letter.id)})

    async def _record(
        self,
        rows: BridgeTransaction,
        place: BridgeSubject,
        action: str,
        outcome: Outcome,
        reason: str | None,
        details: dict[str, Json],
    ) -> None:
        """Tell both workspaces' logs, each about the other."""
        for workspace, other in ((place.source, place.target), (place.target, place.source)):
            await rows.record(workspace, self._event(action, outcome, reason, other, place, details))

    def _event(
        self,
        action: str,
        outcome: Outcome,
        reason: str | None,
        other: WorkspaceId,
        place: BridgeSubject,
        details: dict[str, Json],
    ) -> AuditEvent:
        return AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.BRIDGE,
            action=action,
            outcome=outcome,
            actor=ServiceId.nil(),  # the bridge itself
            targets=(other,),
            reason=reason,
            details={**details, "source": place.source, "target": place.target, "type": place.type},
        )
