"""`mesh.bridge`: signed messages between workspaces that agreed to exchange them.

What always holds: a message is signed here with the agreement's key before it leaves, and verified here with it before
it is handed out, whatever the service did. One whose signature fails is never handed out; it is handed back and logged.

On failure: what the operations raise; `Conflict` for a target with which there is no agreement.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from wardmesh.bridge_signing import sign, verify
from wardmesh.client.caller import invalid_request
from wardmesh.client.methods import Surface, Timed, method
from wardmesh.client.secrets import workspace_of
from wardmesh.client.subscription import DEFAULT_PREFETCH, Delivery, Settle, Subscription
from wardmesh.contracts import bridge
from wardmesh.crypto import vault
from wardmesh.crypto.bridge import MAC_BYTES
from wardmesh.errors import Conflict, InternalError, InvalidSignature, WardmeshError
from wardmesh.ids import AgreementId, MessageId, WorkspaceId

DEFAULT_LIFETIME: Final = timedelta(seconds=60)
"""Between a message's issue and its expiry: long enough for retries, short enough to be no treasure."""

_log = logging.getLogger(__name__)


class ReceivedMessage(Delivery):
    """A verified message, as an `async with`: acknowledged if the block succeeds, else delivered again."""

    def __init__(self, delivered: bridge.DeliveredMessage, settle: Settle) -> None:
        super().__init__(delivered.ack, settle)
        message = delivered.message
        self.id = message.id
        self.agreement = message.agreement
        self.source = message.source
        self.type = message.type
        self.kind = message.kind
        self.correlation = message.correlation
        self.issued_at = message.issued_at
        self.expires_at = message.expires_at
        self.content_type = message.content_type
        self.body = message.body
        self.delivery = delivered.delivery

    @property
    def data(self) -> Any:
        """The body as JSON; raises `ValueError` if it is something else (see `content_type` and `body`)."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"ReceivedMessage({self.type} {self.id} from {self.source}, delivery {self.delivery})"


class AgreementKeys:
    """Agreements and their opened keys, in memory for as long as the mesh. Shared by all its views."""

    def __init__(self) -> None:
        self._agreements: dict[WorkspaceId, AgreementId] = {}
        self._newest: dict[AgreementId, str] = {}
        self._keys: dict[tuple[AgreementId, str], bytes] = {}

    async def with_(self, other: WorkspaceId, timed: Timed) -> tuple[AgreementId, str, bytes]:
        """Return the accepted agreement with `other`, and its present key with the key's id."""
        agreement = self._agreements.get(other)
        if agreement is None:
            agreement = self._agreements[other] = await self._find(other, timed)
        key_id = self._newest.get(agreement)
        if key_id is None:
            key_id = await self._fetch(agreement, timed)
        return agreement, key_id, self._keys[agreement, key_id]

    async def of(self, agreement: AgreementId, key_id: str, timed: Timed) -> bytes:
        """Return the key of that id; raise `InvalidSignature` if it is not the agreement's."""
        if (agreement, key_id) not in self._keys:
            await self._fetch(agreement, timed)
        try:
            return self._keys[agreement, key_id]
        except KeyError:
            raise InvalidSignature("The message was signed with a key that is not the agreement's.") from None

    def forget(self, agreement: AgreementId, other: WorkspaceId) -> None:
        """Its key was refused: it has another one by now, or has ended."""
        self._newest.pop(agreement, None)
        self._agreements.pop(other, None)

    async def _find(self, other: WorkspaceId, timed: Timed) -> AgreementId:
        after: AgreementId | None = None
        while True:
            request = bridge.ListAgreements(after=after)
            page = (await timed.caller.call(bridge.LIST, request, deadline=timed.deadline)).response.agreements
            for agreement in page:
                if agreement.state is bridge.AgreementState.ACCEPTED and other in (agreement.source, agreement.target):
                    return agreement.id
            if len(page) < request.limit:
                raise Conflict(f"There is no accepted agreement with {other}; propose one, or have theirs accepted.")
            after = page[-1].id

    async def _fetch(self, agreement: AgreementId, timed: Timed) -> str:
        request = bridge.NameAgreement(agreement=agreement)
        answer = await timed.caller.call(bridge.KEY, request, deadline=timed.deadline)
        found = answer.response
        if found.agreement != agreement:
            raise InternalError("The answer is about another agreement.", request_id=answer.request_id)
        info = vault.bridge_key_info(
            workspace=workspace_of(timed),
            principal=timed.caller.principal,
            agreement=found.agreement,
            key_id=found.key_id,
            request_id=answer.request_id,
        )
        self._keys[agreement, found.key_id] = answer.open(found.sealed, info)
        self._newest[agreement] = found.key_id
        return found.key_id


Received = Subscription[bridge.DeliveredMessage, ReceivedMessage]


class Bridge(Surface):
    """The bridge service. `send` and `receive` sign and verify; the methods above them are what is sent."""

    propose = method(bridge.PROPOSE)
    accept = method(bridge.ACCEPT)
    revoke = method(bridge.REVOKE)
    list = method(bridge.LIST)
    key = method(bridge.KEY)
    send_signed = method(bridge.SEND)
    fetch = method(bridge.FETCH)

    def __init__(
        self, timed: Timed, keys: AgreementKeys, on_open: Callable[[Subscription[Any, Any]], None] | None = None
    ) -> None:
        super().__init__(timed)
        self._keys = keys
        self._on_open = on_open

    async def send(
        self,
        target: WorkspaceId,
        type: str,  # noqa: A002
        data: Any,
        *,
        kind: bridge.Kind = bridge.Kind.EVENT,
        correlation: MessageId | None = None,
        lifetime: timedelta = DEFAULT_LIFETIME,
        content_type: str = "application/json",
    ) -> MessageId:
        """Sign a message, send it, and return its id once it is on disk. `data` is JSON, or bytes as they are."""
        body = data if isinstance(data, bytes) else _json(data)
        message_id = MessageId.new()

        async def attempt() -> None:
            agreement, key_id, key = await self._keys.with_(target, self._timed)
            now = datetime.now(UTC)
            try:
                unsigned = bridge.SignedMessage(
                    agreement=agreement,
                    key_id=key_id,
                    id=message_id,
                    source=workspace_of(self._timed),
                    target=target,
                    type=type,
                    kind=kind,
                    nonce=secrets.token_bytes(bridge.NONCE_BYTES),
                    issued_at=now,
                    expires_at=now + lifetime,
                    correlation=correlation,
                    content_type=content_type,
                    body=body,
                    signature=bytes(MAC_BYTES),
                )
            except ValidationError as error:
                raise invalid_request(error) from None
            try:
                await self.send_signed(messages=(sign(key, unsigned),))
            except InvalidSignature:
                self._keys.forget(agreement, target)
                raise

        try:
            await attempt()
        except InvalidSignature:  # the key was changed: nothing was stored
            await attempt()
        return message_id

    def receive(
        self,
        *,
        group: str,
        source: WorkspaceId | None = None,
        type: str | None = None,  # noqa: A002
        prefetch: int = DEFAULT_PREFETCH,
    ) -> Received:
        """Return an endless `async for` of verified messages to this workspace.

        Readers of one `group` share them; each group gets all. At most twice `prefetch` are out at once.
        """
        workspace = workspace_of(self._timed)
        try:
            bridge.Receive(group=group, source=source, type=type, batch=prefetch)
        except ValidationError as error:
            raise invalid_request(error) from None
        caller = self._timed.caller

        async def fetch(
            *, batch: int, wait_seconds: float, acks: tuple[str, ...], naks: tuple[str, ...], deadline: timedelta
        ) -> Sequence[bridge.DeliveredMessage]:
            request = bridge.Receive(
                group=group, source=source, type=type, batch=batch, wait_seconds=wait_seconds, acks=acks, naks=naks
            )
            return (await caller.call(bridge.FETCH, request, deadline=deadline)).response.messages

        async def admit(delivered: bridge.DeliveredMessage, settle: Settle) -> ReceivedMessage | None:
            message = delivered.message
            try:
                if message.target != workspace or source not in (None, message.source):
                    raise InvalidSignature("The message is for another workspace, or from another than asked for.")
                verify(await self._keys.of(message.agreement, message.key_id, self._timed), message)
            except WardmeshError as error:
                _log.warning("bridge message %s is withheld: %s", message.id, error.code)
                return None
            return ReceivedMessage(delivered, settle)

        return Subscription(fetch, admit, prefetch=max(prefetch, 1), on_open=self._on_open)


def _json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
