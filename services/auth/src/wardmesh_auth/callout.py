"""The broker's auth callout: reading its question, and writing the answer that gives a client its two permissions.

Whoever connects and is not one of the mesh's static users is asked about here (ADR-26 of NATS). The question is a JWT,
sealed to our curve key, that carries the CONNECT of the client; the answer is a JWT, sealed to the server's curve key,
that carries either a user JWT or a refusal. `decide`, which is injected, knows credentials; this module knows the
protocol and what a client may do at the broker.

What always holds:
- A client gets `rpc.*.*.{scope}.{principal}` to publish and `_INBOX.{principal}.>` to subscribe to, built from ids that
  have been parsed, and nothing else. It can't respond, nor reach JetStream.
- A question that isn't sealed is not answered, so credentials never cross the broker in the clear.
- A `decide` that raises refuses.

On failure: `CalloutError` for a question that can't be read; the broker then refuses the client by itself when its
time-out has passed. The reason of a refusal goes to the broker's log, never to the client.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as ModelField

from wardmesh.ids import KeyId, Principal, Scope, SessionId
from wardmesh.server import nkey
from wardmesh.server.nkey import InvalidNkeyError, Kind
from wardmesh.subjects import reply_inbox

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
QUEUE: Final = "auth"
SERVER_XKEY_HEADER: Final = "Nats-Server-Xkey"
ACCOUNT: Final = "APP"
"""The account that clients are placed in; what a user JWT calls its audience."""

MAX_SUBSCRIPTIONS: Final = 64
"""A client needs one, for its inbox; a few more for whoever tries things out by hand."""
CONNECTION_TYPES: Final = ("STANDARD", "WEBSOCKET")
"""Not leaf nodes, gateways or MQTT, which bring subjects of their own."""

_AUDIENCE = "nats-authorization-request"
_JWT_VERSION = 2
_SEALED_PREFIX = b"xkv1"
_NONCE_BYTES = 24
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class CalloutError(Exception):
    """A question that can't be read; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """Who asks to connect, and with what."""

    server_id: str
    user_nkey: str
    """The one-time key that the answer must name."""
    user: str
    """The scope that the client asks for."""
    password: str = field(repr=False)
    """Its API key or access token."""
    client_host: str
    client_name: str
    connection_id: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A client may connect, as this principal in this scope."""

    scope: Scope
    principal: Principal
    credential: KeyId | SessionId
    expires_at: datetime | None
    """When the broker ends the connection; None keeps it until it is kicked."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client may not connect. The reason is for the broker's log."""

    reason: str


Decision: TypeAlias = Grant | Refusal
Decide: TypeAlias = Callable[[ConnectRequest], Awaitable[Decision]]


class Callout:
    """Answers questions with the two keys of the callout: the issuer signs, the curve key seals."""

    def __init__(
        self,
        decide: Decide,
        *,
        issuer_seed: str,
        xkey_seed: str,
        clock: Callable[[], datetime],
        on_error: Callable[[Exception], None] = lambda _error: None,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._decide = decide
        self._issuer_seed = issuer_seed
        self._issuer = nkey.public_key(Kind.ACCOUNT, issuer_seed)
        self._xkey = PrivateKey(nkey.seed_bytes(Kind.CURVE, xkey_seed))
        self._clock = clock
        self._on_error = on_error
        self._randomness = randomness

    async def answer(self, data: bytes, server_xkey: str | None) -> bytes:
        """Return the sealed answer to a sealed question; raise `CalloutError` if it can't be read."""
        box = self._box(server_xkey)
        request = read_request(unseal(box, data))
        try:
            decision = await self._decide(request)
            answer = self._response(request, decision)
        except Exception as error:  # noqa: BLE001 - a gate that errs refuses
            self._on_error(error)
            answer = self._response(request, Refusal("the credential could not be checked"))
        return seal(box, answer, self._randomness(_NONCE_BYTES))

    def _box(self, server_xkey: str | None) -> Box:
        if server_xkey is None:
            raise CalloutError("the question is not sealed: configure the callout's xkey at the broker")
        try:
            return Box(self._xkey, PublicKey(nkey.decode(Kind.CURVE, server_xkey)))
        except InvalidNkeyError as error:
            raise CalloutError("the server's curve key is not one") from error

    def _response(self, request: ConnectRequest, decision: Decision) -> bytes:
        issued_at = self._clock()
        content: dict[str, Any] = {"type": "authorization_response", "version": _JWT_VERSION}
        if isinstance(decision, Grant):
            claims = user_claims(request.user_nkey, decision, issuer=self._issuer, issued_at=issued_at)
            content["jwt"] = sign(claims, self._issuer_seed).decode()
        else:
            content["error"] = decision.reason
        return sign(
            {
                "iss": self._issuer,
                "sub": request.user_nkey,
                "aud": request.server_id,
                "iat": int(issued_at.timestamp()),
                "nats": content,
            },
            self._issuer_seed,
        )


def user_claims(user_nkey: str, grant: Grant, *, issuer: str, issued_at: datetime) -> dict[str, Any]:
    """Return the claims of a client's user JWT: its two permissions, and its name, which `connections` finds it by."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": user_nkey,
        "aud": ACCOUNT,
        "name": str(grant.principal),
        "iat": int(issued_at.timestamp()),
        "nats": {
            "type": "user",
            "version": _JWT_VERSION,
            "pub": {"allow": [f"rpc.*.*.{grant.scope}.{grant.principal}"]},
            "sub": {"allow": [f"{reply_inbox(grant.principal)}.>"]},
            "subs": MAX_SUBSCRIPTIONS,
            "data": -1,
            "payload": -1,
            "allowed_connection_types": list(CONNECTION_TYPES),
            "tags": [str(grant.scope), str(grant.credential)],
        },
    }
    if grant.expires_at is not None:
        claims["exp"] = int(grant.expires_at.timestamp())
    return claims


class _ConnectOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    user: str = ""
    password: str = ModelField("", alias="pass", repr=False)


class _ClientInfo(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: int = 0
    host: str = ""
    name: str = ""


class _ServerId(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str


class _Question(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    server_id: _ServerId
    user_nkey: str
    client_info: _ClientInfo
    connect_opts: _ConnectOptions


class _Claims(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    iss: str
    aud: str
    nats: _Question


def read_request(token: bytes) -> ConnectRequest:
    """Return what a question says, its signature checked against the server that it names."""
    try:
        signed, _, signature = token.rpartition(b".")
        header, _, payload = signed.partition(b".")
        if json.loads(_unbase64(header)) != _HEADER:
            raise CalloutError("the question is signed in another way than with an nkey")
        claims = _Claims.model_validate_json(_unbase64(payload))
        is_genuine = nkey.is_signed_by(Kind.SERVER, claims.iss, _unbase64(signature), signed)
    except (ValueError, ValidationError) as error:
        raise CalloutError("the question is not a JWT of a broker") from error
    question = claims.nats
    if not is_genuine or claims.iss != question.server_id.id:
        raise CalloutError("the question is not signed by the server that it names")
    if claims.aud != _AUDIENCE:
        raise CalloutError("the JWT is meant for something else")
    try:
        nkey.decode(Kind.USER, question.user_nkey)
    except InvalidNkeyError as error:
        raise CalloutError("the question names no user key") from error
    return ConnectRequest(
        server_id=question.server_id.id,
        user_nkey=question.user_nkey,
        user=question.connect_opts.user,
        password=question.connect_opts.password,
        client_host=question.client_info.host,
        client_name=question.client_info.name,
        connection_id=question.client_info.id,
    )


def sign(claims: dict[str, Any], issuer_seed: str) -> bytes:
    """Return the claims as a JWT signed by an account, with an id that is their digest, as NATS makes it."""
    digest = hashlib.new("sha512_256", _json(claims)).digest()
    claims = claims | {"jti": base64.b32encode(digest).rstrip(b"=").decode()}
    signed = _base64(_json(_HEADER)) + b"." + _base64(_json(claims))
    return signed + b"." + _base64(nkey.sign(Kind.ACCOUNT, issuer_seed, signed))


def seal(box: Box, message: bytes, nonce: bytes) -> bytes:
    """Return a message that only the other side of `box` can read."""
    return _SEALED_PREFIX + bytes(box.encrypt(message, nonce))


def unseal(box: Box, sealed: bytes) -> bytes:
    """Return what was sealed; raise `CalloutError` if it was not, or for somebody else."""
    if not sealed.startswith(_SEALED_PREFIX):
        raise CalloutError("the question is not sealed: configure the callout's xkey at the broker")
    try:
        return bytes(box.decrypt(sealed[len(_SEALED_PREFIX) :]))
    except (CryptoError, ValueError) as error:
        raise CalloutError("the question is sealed to another key") from error


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise CalloutError("the question is not a JWT") from error
