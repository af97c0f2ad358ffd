"""Contracts of the webhooks service, the door for events.

Other people's events come in by HTTP, our backends' by `publish`; both are read by `fetch`, a long poll on a durable
consumer that the service names after workspace, principal and group.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from wardmesh.contracts.fields import AckToken, Batch, DottedType, Json, SecretText, Time, Token, WaitSeconds
from wardmesh.contracts.operation import (
    MAX_DEADLINE,
    PEOPLE_AND_SERVICES,
    WORKSPACE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)

MAX_EVENT_BYTES: Final = 256 * 1024
MAX_BODY_BYTES: Final = 900 * 1024
"""Under NATS' default max_payload of 1 MiB, headers included."""
MAX_PUBLISH: Final = 256
BACKEND_SOURCE: Final = "app"
"""The source of events that our own backends publish. No webhook source may take the name, so that nobody can
publish what looks like Stripe's."""

EventKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")]
"""The id of an event, its source's to choose."""
EventPattern = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z0-9][a-z0-9_-]{0,63}|\*)(\.([a-z0-9][a-z0-9_-]{0,63}|\*)){0,8}(\.>)?$|^>$"),
]
"""`stripe.invoice.*`, `app.order.>`: source and type, in which `*` is one word and a final `>` one or more."""
Group = Token


class Scheme(enum.StrEnum):
    """How a source signs what it sends."""

    STRIPE = "stripe"
    GITHUB = "github"
    STANDARD = "standard"


class CreateSource(Message):
    """Somebody who will send events to `POST /hooks/{workspace}/{name}`, and how they sign."""

    name: Token
    scheme: Scheme
    signing_secret: SecretText


class Source(Message):
    name: Token
    scheme: Scheme
    path: str
    created_at: Time


class Sources(Message):
    sources: tuple[Source, ...]


class DeleteSource(Message):
    name: Token


class NewEvent(Message):
    """An event to publish. With an `id`, publishing it again changes nothing."""

    type: DottedType
    data: Json = Field(repr=False)
    id: EventKey | None = None
    time: Time | None = None


class Publish(Message):
    events: Annotated[tuple[NewEvent, ...], Field(min_length=1, max_length=MAX_PUBLISH)]


class Published(Message):
    """The events' ids, in order; every one of them is on disk."""

    ids: tuple[EventKey, ...]


class Fetch(Message):
    """A long poll: acknowledge what was done, hand back what was not, and wait for the next."""

    pattern: EventPattern
    group: Group
    batch: Batch = 64
    wait_seconds: WaitSeconds = 20.0
    acks: tuple[AckToken, ...] = ()
    naks: tuple[AckToken, ...] = ()


class DeliveredEvent(Message):
    """`data` is the event's body as it was received, in base64; `ack` is for the next fetch."""

    id: EventKey
    source: Token
    type: DottedType
    time: Time
    content_type: str
    data: Annotated[bytes, Field(repr=False)]
    delivery: int
    """1 for the first time, more if it was handed back or its reader went away."""
    ack: AckToken
    trace_parent: str | None = None


class Fetched(Message):
    events: tuple[DeliveredEvent, ...]


CREATE_SOURCE = operation(
    "webhooks",
    "create_source",
    CreateSource,
    Source,
    summary="Open the door for a source of webhooks",
    access=Permission("webhook_source.manage", Level.ADMIN, kinds=PEOPLE_AND_SERVICES),
    scopes=WORKSPACE,
    audit=AuditRule(Category.CONFIGURATION, "webhook_source.create", Durability.IN_TRANSACTION, ("name", "scheme")),
    idempotent=False,
)
LIST_SOURCES = operation(
    "webhooks",
    "list_sources",
    Empty,
    Sources,
    summary="List the sources of webhooks",
    access=Permission("webhook_source.list", Level.VIEWER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.CONFIGURATION, "webhook_source.list", Durability.QUEUED),
    idempotent=True,
)
DELETE_SOURCE = operation(
    "webhooks",
    "delete_source",
    DeleteSource,
    Empty,
    summary="Close the door for a source",
    access=Permission("webhook_source.manage", Level.ADMIN, kinds=PEOPLE_AND_SERVICES),
    scopes=WORKSPACE,
    audit=AuditRule(Category.CONFIGURATION, "webhook_source.delete", Durability.IN_TRANSACTION, ("name",)),
    idempotent=True,
)
PUBLISH = operation(
    "webhooks",
    "publish",
    Publish,
    Published,
    summary="Publish events, durably",
    access=Permission("event.publish", Level.MEMBER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.WEBHOOK, "event.publish", Durability.QUEUED),
    idempotent=False,
    max_body_bytes=MAX_BODY_BYTES,
)
FETCH = operation(
    "webhooks",
    "fetch",
    Fetch,
    Fetched,
    summary="Receive events",
    access=Permission("event.read", Level.MEMBER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.WEBHOOK, "event.fetch", Durability.REFUSALS_ONLY, ("pattern", "group")),
    idempotent=True,
    deadline=MAX_DEADLINE,
    max_body_bytes=64 * 1024,
)

CONTRACTS: tuple[AnyContract, ...] = (CREATE_SOURCE, LIST_SOURCES, DELETE_SOURCE, PUBLISH, FETCH)
