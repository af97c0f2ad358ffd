"""A bridge message between its contract and its signature: which field is signed as which.

Sender, service and receiver use this one mapping, so that they sign and verify the same bytes
(`wardmesh.crypto.bridge` lays them out).

What always holds: every field of `SignedMessage` but the agreement is signed, and the agreement is bound by its key:
`key_id` names one agreement's.

On failure: `InvalidSignature`.
"""

from __future__ import annotations

from wardmesh.contracts.bridge import SignedMessage
from wardmesh.crypto import bridge
from wardmesh.crypto.errors import CryptoError
from wardmesh.errors import InvalidSignature


def signed_fields(message: SignedMessage) -> bridge.BridgeMessage:
    """Return what of `message` the signature covers, with the digest of its body as it is."""
    return bridge.BridgeMessage(
        key_id=message.key_id,
        source=message.source,
        destination=message.target,
        subject=message.type,
        kind=message.kind.value,
        id=message.id,
        nonce=message.nonce,
        issued_at=message.issued_at,
        expires_at=message.expires_at,
        correlation=message.correlation or "",
        content_type=message.content_type,
        body_digest=bridge.body_digest(message.body),
    )


def sign(key: bytes, message: SignedMessage) -> SignedMessage:
    """Return `message` with its signature under `key`; what stood there before does not matter."""
    return message.model_copy(update={"signature": bridge.sign(key, signed_fields(message))})


def verify(key: bytes, message: SignedMessage) -> None:
    """Return only if the signature is that of the message under `key`."""
    try:
        bridge.verify(key, signed_fields(message), message.signature, body=message.body)
    except CryptoError as error:
        raise InvalidSignature from error
