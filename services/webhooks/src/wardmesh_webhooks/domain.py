"""The rules of the door for events. Pure: no await, no clock, no I/O.

What always holds: a type that comes out of `safe_type` is one to eight words of a subject, whatever went in; a filter
that comes out of `filter_subject` matches subjects of its workspace only; what an event is told apart by was signed.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from wardmesh.contracts.webhooks import BACKEND_SOURCE, Scheme
from wardmesh.crypto.encoding import length_prefixed
from wardmesh.errors import InvalidRequest, MalformedJson
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh.subjects import MAX_TOKEN_CHARACTERS, MAX_TYPE_TOKENS, word
from wardmesh_webhooks.scheme import Headers, Identity, SignatureScheme, Verified
from wardmesh_webhooks.schemes import SCHEMES

MAX_WEBHOOK_BYTES: Final = 512 * 1024
"""Of a body. In base64, with what a fetch puts around it, it still fits one message."""
MAX_SOURCES: Final = 100
"""Of one workspace."""
MAX_TYPE_CHARACTERS: Final = 256
"""Of a type that a stranger names: a subject has 512 at the most."""
RECEIPT_AGE: Final = timedelta(days=30)
"""How long an event is remembered whose signature grows old. Stripe tries for 3 days, others for up to 14."""
UNTYPED: Final = "untyped"

_EVENT_ID = re.compile(r"[\x21-\x7e]{1,128}")
_OTHER_CHARACTERS = re.compile(r"[^a-z0-9_-]+")
_JSON_CONTENT = re.compile(r"application/(json|[a-z0-9.-]{1,64}\+json)")


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source as the store has it."""

    organization: OrgId
    workspace: WorkspaceId
    name: str
    scheme: Scheme
    incarnation: UUID
    """Differs if a source of the same name is made again."""
    created_at: datetime
    sealed_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """A verified webhook, read."""

    event_id: str
    type: str
    time: datetime
    content_type: str
    key: bytes
    """32 bytes that are the same if and only if the event is."""
    forget_at: datetime | None
    """When it need not be remembered any more; never, if its signature stays valid."""
    body: bytes = field(repr=False)


def secret_context(workspace: WorkspaceId, name: str, scheme: Scheme) -> tuple[bytes, ...]:
    """Return what a sealed signing secret is bound to: moved to another source it does not open."""
    return (b"wardmesh/webhooks/source/v1", workspace.encode(), name.encode(), scheme.encode())


def check_source_name(name: str) -> None:
    """Raise `InvalidRequest` for a name under which nothing may come in by HTTP."""
    if name == BACKEND_SOURCE:
        raise InvalidRequest(f"The source {BACKEND_SOURCE!r} is your own backends'. Choose another name.")


def content_type(header: str | None) -> str | None:
    """Return a JSON media type without its parameters, or None for any other content."""
    media_type = (header or "").partition(";")[0].strip(" \t").lower()
    return media_type if _JSON_CONTENT.fullmatch(media_type) else None


def read(scheme: Scheme, verified: Verified, headers: Headers, body: bytes, content: str, now: datetime) -> Received:
    """Return what a verified body says; raise `MalformedJson` if it is not a JSON object."""
    spec = SCHEMES[scheme]
    document = _object(body)
    event_id, key = _identity(spec, verified, document, body)
    return Received(
        event_id=event_id,
        type=_type(spec, headers, document),
        time=verified.signed_at or now,
        content_type=content,
        key=key,
        forget_at=None if verified.signed_at is None else now + RECEIPT_AGE,
        body=body,
    )


def safe_type(*names: object) -> str:
    """Return a type made of `names`: words that can be in a subject, whatever a stranger called them."""
    words = [
        _OTHER_CHARACTERS.sub("_", part.lower()).strip("_-")[:MAX_TOKEN_CHARACTERS]
        for name in names
        if isinstance(name, str)
        for part in name[:MAX_TYPE_CHARACTERS].split(".")
    ]
    kept: list[str] = []
    for candidate in filter(None, words):
        if len(kept) == MAX_TYPE_TOKENS or sum(map(len, kept)) + len(kept) + len(candidate) > MAX_TYPE_CHARACTERS:
            break
        kept.append(candidate)
    return ".".join(kept) or UNTYPED


def filter_subject(workspace: WorkspaceId, pattern: str) -> str:
    """Return the subjects that a group is to receive: `pattern` inside `workspace`, and nowhere else."""
    words = pattern.split(".")
    for position, text in enumerate(words):
        if text == ">" and position == len(words) - 1:
            continue
        if text != "*":
            word("pattern", text)
    if len(words) == 1 and pattern != ">":
        raise InvalidRequest("A pattern names a source and a type: stripe.invoice.*, or stripe.> for all of a source.")
    return f"evt.{WorkspaceId.parse(workspace)}.{pattern}"


def message_id(workspace: WorkspaceId, source: str, event_id: str) -> str:
    """Return what the broker drops a repetition by: an event's id counts within its workspace and source."""
    return f"{workspace}:{source}:{event_id}"


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):  # also a number with more digits than Python converts
        raise MalformedJson from None
    if not isinstance(document, dict):
        raise MalformedJson("The body is JSON, but not an object.")
    return document


def _identity(spec: SignatureScheme, verified: Verified, document: dict[str, Any], body: bytes) -> tuple[str, bytes]:
    event_id = document.get("id") if spec.identity is Identity.BODY_ID else verified.message_id
    if isinstance(event_id, str) and _EVENT_ID.fullmatch(event_id):
        return event_id, hashlib.sha256(length_prefixed(b"id", event_id.encode())).digest()
    digest = hashlib.sha256(body).digest()
    return f"sha256:{digest.hex()}", hashlib.sha256(length_prefixed(b"body", digest)).digest()


def _type(spec: SignatureScheme, headers: Headers, document: dict[str, Any]) -> str:
    named = [value for name, value in headers if name.lower() == spec.type_header][:1]
    return safe_type(*named, document.get(spec.type_field))
