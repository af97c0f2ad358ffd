"""What must never rest in the clear, what may, and why: the table that the hunt goes by.

`NEVER` names every kind of secret; the test fails if one of them was not pushed through. `SECRET_FIELDS` says which
fields of the contracts carry one; `HIDDEN_BUT_STORED` which fields are kept out of `repr` for their size or their
content, and are stored all the same. A field that a contract hides from `repr` and that stands in neither fails the
test, so a new secret cannot be forgotten here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wardmesh.contracts import ALL

NEVER: Final[Mapping[str, str]] = {
    # given to the mesh
    "password": "a person's; argon2id keeps a hash",
    "API key": "presented or made; its SHA-256 is kept",
    "refresh token": "presented or handed out; its SHA-256 is kept",
    "access token": "a bearer token; nothing of it is kept but its id",
    "secret value": "the vault's whole point; sealed in transit, encrypted at rest",
    "signing secret": "a webhook source's; encrypted at rest",
    "forwarder's secret": "and the path of its address, which often is one; encrypted at rest",
    "malformed request": "a secret that came in the wrong place: nobody can tell which part of it is one",
    # made by the mesh
    "bridge key": "signs messages between workspaces; wrapped at rest, sealed to who asks",
    "holder's private key": "opens what is sealed to a client; never leaves it",
    "vault's private key": "opens what is sealed to the vault; wrapped at rest",
    "key encryption key": "in a file that its service reads, nowhere else",
    "signing key": "of access tokens and of the log's checkpoints; likewise",
    "nkey seed": "of the broker's users, the callout's keys; likewise",
    "database password": "in a file; PostgreSQL has a SCRAM verifier",
}

SECRET_FIELDS: Final[Mapping[str, str]] = {
    "SignUp.password": "password",
    "LogIn.password": "password",
    "CreateUser.password": "password",
    "ExchangeKey.api_key": "API key",
    "CreatedKey.api_key": "API key",
    "Refresh.refresh_token": "refresh token",
    "Session.refresh_token": "refresh token",
    "AccessToken.token": "access token",
    "Session.token": "access token",
    "CreateSource.signing_secret": "signing secret",
    "AddForwarder.secret": "forwarder's secret",
    "AddForwarder.url": "forwarder's secret",
    "EditForwarder.secret": "forwarder's secret",
    "EditForwarder.url": "forwarder's secret",
    "AddForwarder.client_key": "forwarder's secret",
    "EditForwarder.client_key": "forwarder's secret",
}

HIDDEN_BUT_STORED: Final[Mapping[str, str]] = {
    "AddForwarder.client_certificate": "whoever is sent entries is shown it; it is large",
    "EditForwarder.client_certificate": "the same",
    "PutSecret.sealed": "ciphertext; its plaintext is a `secret value`",
    "SealedSecret.sealed": "ciphertext; its plaintext is a `secret value`",
    "SealedBridgeKey.sealed": "ciphertext; its plaintext is a `bridge key`",
    "SignedMessage.body": "a message is kept until it is delivered; it is signed, not secret from the mesh",
    "NewEvent.data": "an event is stored by design; senders keep secrets out of events",
    "DeliveredEvent.data": "the same event on its way out",
}

STORED_BY_DESIGN: Final[Mapping[str, str]] = {
    "names, secrets' paths, e-mail addresses, event types and keys": "they are what things are found by",
    "an audit event's targets, details and reason": "the log is there to keep them; emitters keep secrets out",
    "User-Agent and source address": "the audit log says where a request came from",
    "request ids and trace ids": "logs, traces and the audit log are joined by them",
    "the name of an unknown field": "told to whoever sent it, in the answer's `violations`; kept nowhere",
    "the user of a refused CONNECT, the subject of a refused publish": "nats-server names them in its own log, which "
    "it has no setting for; the first is the scope's id, and our client writes nothing else there",
}

ANSWERS: Final = "answers"
"""The place of what the mesh says to whoever it refuses."""
BROKER_LOG: Final = "broker's log"


def hidden_fields() -> Iterator[str]:
    """Yield `Model.field` for every field of a contract that `repr` does not show."""
    seen: set[type[BaseModel]] = set()
    waiting: list[type[BaseModel]] = [
        model for contract in ALL.values() for model in (contract.request, contract.response)
    ]
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, info in model.model_fields.items():
            if not info.repr:
                yield f"{model.__name__}.{name}"
            waiting.extend(_models_in(info))


def _models_in(info: FieldInfo) -> Iterator[type[BaseModel]]:
    waiting: list[Any] = [info.annotation]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        waiting.extend(getattr(annotation, "__args__", ()))
