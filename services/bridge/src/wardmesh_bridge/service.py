"""The bridge's use cases: agreeing, sending, receiving.

What always holds:
- A message that `send` acknowledged is committed with its admission, and will be in the stream: both or neither.
- All messages of a batch or none; the first that is refused is named.
- Sending a message again, unchanged, is acknowledged again and delivered once: clients retry blindly.
- An agreement's key leaves only sealed to the key in the caller's own access token, bound to this one request.
- Both workspaces' audit logs say when an agreement between them changes.

On failure: the errors of `wardmesh_bridge.errors`; those of the store, the broker and the key's keeper pass through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from pydantic import ValidationError

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.bridge import (
    Agreement,
    Agreements,
    AgreementState,
    DeliveredMessage,
    ListAgreements,
    NameAgreement,
    Propose,
    Receive,
    Received,
    SealedBridgeKey,
    Send,
    Sent,
    SignedMessage,
)
from wardmesh.crypto import errors as crypto_errors
from wardmesh.crypto.sealing import seal_to
from wardmesh.crypto.vault import bridge_key_info
from wardmesh.errors import InvalidRequest, ScopeMismatch, Violation, WardmeshError
from wardmesh.headers import TRACE_PARENT
from wardmesh.ids import AgreementId, WorkspaceId
from wardmesh.server import telemetry
from wardmesh.server.context import Call
from wardmesh.server.fetching import Delivery, consumer_name
from wardmesh.subjects import BridgeSubject
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.domain import (
    check_fresh,
    check_not_used,
    check_sender,
    check_sides,
    check_signature,
    other_side,
)
from wardmesh_bridge.errors import (
    AlreadyUsed,
    NoHolderKey,
    NoSuchAgreement,
    NotAccepted,
    NotYours,
    ProposedByThem,
    SignatureRefused,
)
from wardmesh_bridge.ports import BridgeStore, BridgeTransaction

ANSWER_SECONDS: Final = 2.0
"""A long poll ends this much before its caller stops waiting."""
_log = logging.getLogger(__name__)


class Inbox(Protocol):
    """Verified messages, group by group: `wardmesh.server.fetching.Fetcher` on the stream INBOX."""

    async def fetch(
        self,
        *,
        consumer: str,
        filter_subject: str,
        batch: int,
        wait_seconds: float,
        acks: Sequence[str] = (),
        naks: Sequence[str] = (),
    ) -> Sequence[Delivery]:
        """Settle the last batch and wait for the next."""

    async def terminate(self, *, consumer: str, filter_subject: str, token: str) -> None:
        """Never deliver this one to this group again."""

    async def hand_back(self, *, consumer: str, filter_subject: str, tokens: Iterable[str]) -> None:
        """Deliver these again, at once: whoever they were taken for is gone."""


class BridgeService:
    """One method an operation; each owns its transaction."""

    def __init__(self, store: BridgeStore, keys: AgreementKeys, inbox: Inbox, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._keys = keys
        self._inbox = inbox
        self._clock = clock

    async def propose(self, call: Call, request: Propose) -> Agreement:
        """Offer another workspace an agreement. Offering it again returns the one that there is."""
        workspace = _workspace(call)
        if request.target == workspace:
            raise InvalidRequest("A workspace cannot agree with itself; name another one as the target.")
        async with self._store.transaction(call) as rows:
            fresh = AgreementId.new()
            proposed = await rows.propose(fresh, request.target, self._clock())
            agreement = await rows.live_agreement(request.target)
            if agreement is None:  # revoked between the two
                raise NotAccepted("The agreement was revoked at this moment; propose it again.")
            call.note(targets=(agreement.id,))
            if proposed:
                await rows.record(agreement.target, _told(call, agreement))
            elif agreement.source != workspace and agreement.state is AgreementState.PROPOSED:
                raise ProposedByThem(f"{agreement.source} has proposed {agreement.id} already: accept that.")
        return agreement

    async def accept(self, call: Call, request: NameAgreement) -> Agreement:
        """Accept what was offered, which makes the agreement's key. Only the target may."""
        workspace, now = _workspace(call), self._clock()
        async with self._store.transaction(call) as rows:
            agreement = await _existing(rows, request.agreement)
            if agreement.target != workspace:
                raise NotYours
            if await rows.accept(agreement.id, now):
                agreement = await _existing(rows, agreement.id)
                await rows.add_key(agreement.id, await self._keys.new(agreement, now))
                await rows.record(agreement.source, _told(call, agreement))
            else:
                agreement = await _existing(rows, agreement.id)  # somebody was faster
            if agreement.state is not AgreementState.ACCEPTED:
                raise NotAccepted("The agreement has been revoked; have a new one proposed.")
        return agreement

    async def revoke(self, call: Call, request: NameAgreement) -> Agreement:
        """End an agreement from either side: nothing is sent or delivered under it any more."""
        workspace = _workspace(call)
        async with self._store.transaction(call) as rows:
            agreement = await _existing(rows, request.agreement)
            if await rows.revoke(agreement.id, self._clock()):
                agreement = await _existing(rows, agreement.id)
                await rows.record(other_side(agreement, workspace), _told(call, agreement))
        return agreement

    async def list(self, call: Call, request: ListAgreements) -> Agreements:
        """List the workspace's agreements, of either side."""
        async with self._store.transaction(call, read_only=True) as rows:
            return Agreements(agreements=tuple(await rows.agreements(after=request.after, limit=request.limit)))

    async def key(self, call: Call, request: NameAgreement) -> SealedBridgeKey:
        """Return the agreement's newest key, sealed to the caller for this request.

        Also of one that was revoked: with it, what was delivered before can be verified, and nothing can be sent.
        """
        caller, workspace = call.caller, _workspace(call)
        if caller.holder_key is None:
            raise NoHolderKey
        async with self._store.transaction(call, read_only=True) as rows:
            agreement = await _existing(rows, request.agreement)
            stored = await rows.present_key(agreement.id)
        if stored is None:
            raise NotAccepted
        call.note(key_id=stored.key_id)
        info = bridge_key_info(
            workspace=workspace,
            principal=caller.principal,
            agreement=agreement.id,
            key_id=stored.key_id,
            request_id=call.request_id,
        )
        key = await self._keys.open(stored, agreement)
        try:
            sealed = seal_to(caller.holder_key, key, info)
        except crypto_errors.InvalidKey as error:
            raise NoHolderKey("The key in your access token (its claim `cnf`) cannot be sealed to.") from error
        return SealedBridgeKey(agreement=agreement.id, key_id=stored.key_id, sealed=sealed)

    async def send(self, call: Call, request: Send) -> Sent:
        """Admit signed messages, all or none; return when they are committed."""
        workspace, now = _workspace(call), self._clock()
        opened: dict[tuple[AgreementId, str], tuple[Agreement, bytes]] = {}
        async with self._store.transaction(call) as rows:
            for index, message in enumerate(request.messages):
                try:
                    await self._admit(rows, message, workspace, now, opened)
                except WardmeshError as error:
                    error.violations = (Violation(pointer=f"/messages/{index}", message=error.detail),)
                    raise
            await rows.forget()
            ids = tuple(message.id for message in request.messages)
            call.note(targets=ids, messages=len(ids))
        return Sent(ids=ids)

    async def _admit(
        self,
        rows: BridgeTransaction,
        message: SignedMessage,
        sender: WorkspaceId,
        now: datetime,
        opened: dict[tuple[AgreementId, str], tuple[Agreement, bytes]],
    ) -> None:
        check_sender(message, sender)
        name = (message.agreement, message.key_id)
        if name in opened:
            agreement, key = opened[name]
            check_sides(message, agreement)
        else:
            agreement = check_sides(message, await rows.agreement(message.agreement))
            stored = await rows.key(agreement.id, message.key_id)
            if stored is None:
                raise SignatureRefused
            key = await self._keys.open(stored, agreement)
            opened[name] = (agreement, key)
        check_signature(message, key)
        admission = await rows.admission(message)
        if admission is None:
            check_fresh(message, now)
            if await rows.admit(message, now):
                await rows.forward(_stream_subject(message), message.model_dump_json().encode(), trace_headers())
                return
            admission = await rows.admission(message)  # another request was faster, or the id was used
            if admission is None:
                raise AlreadyUsed
        check_not_used(message, admission)

    async def fetch(self, call: Call, request: Receive) -> Received:
        """Return verified messages to the caller's workspace, waiting for the first."""
        workspace = _workspace(call)
        consumer = consumer_name(workspace, call.caller.principal, request.group)
        filter_subject = f"inbox.{workspace}.{request.source or '*'}.{request.type or '>'}"
        deliveries = await self._inbox.fetch(
            consumer=consumer,
            filter_subject=filter_subject,
            batch=request.batch,
            wait_seconds=max(0.0, min(request.wait_seconds, call.seconds_left() - ANSWER_SECONDS)),
            acks=request.acks,
            naks=request.naks,
        )
        messages = []
        for delivery in deliveries:
            try:
                message = SignedMessage.model_validate_json(delivery.data)
            except ValidationError:
                # Nothing that was verified looks like this; it must not hold up what was.
                _log.error("a message in an inbox cannot be read, and is left out")
                await self._inbox.terminate(consumer=consumer, filter_subject=filter_subject, token=delivery.ack)
                continue
            messages.append(DeliveredMessage(message=message, delivery=delivery.delivered, ack=delivery.ack))
        if messages:
            taken = [message.ack for message in messages]
            call.hand_back = partial(
                self._inbox.hand_back, consumer=consumer, filter_subject=filter_subject, tokens=taken
            )
        return Received(messages=tuple(messages))


async def _existing(rows: BridgeTransaction, agreement: AgreementId) -> Agreement:
    found = await rows.agreement(agreement)
    if found is None:
        raise NoSuchAgreement
    return found


def _told(call: Call, agreement: Agreement) -> AuditEvent:
    """Return what the other workspace's log is to say. It names who did it, and nothing of their call."""
    event = call.audit_event(Outcome.SUCCESS, None)
    private: dict[str, object] = {"details": {}, "acting_for": None, "request_id": None, "trace_id": None}
    return event.model_copy(update={"targets": (agreement.id,), **private})


def _stream_subject(message: SignedMessage) -> str:
    return BridgeSubject(message.source, message.target, message.type).format()


def trace_headers() -> dict[str, str]:
    """Return the headers that let whoever reads the message continue the trace."""
    parent = telemetry.trace_parent()
    return {} if parent is None else {TRACE_PARENT: parent}


def _workspace(call: Call) -> WorkspaceId:
    workspace = call.caller.workspace
    if workspace is None:  # the contracts are asked in workspaces only; the gates have seen to it
        raise ScopeMismatch
    return workspace
