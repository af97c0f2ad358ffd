"""Every stream and bucket of the mesh, in full: what `server.provision` declares and what services expect to find.

| stream         | holds                                         | until                  | when it is full         |
|----------------|-----------------------------------------------|------------------------|-------------------------|
| EVENTS         | domain events of all workspaces               | a week                 | publishers are refused  |
| AUDIT          | audit envelopes on their way to the log       | they are sealed        | publishers are refused  |
| SEALED         | news of what was sealed                       | an hour                | the oldest go           |
| DEAD           | what could not be processed, as it came       | thirty days            | the oldest go           |
| BRIDGE         | bridge messages as they were sent             | they are verified      | the outbox keeps them   |
| INBOX          | verified bridge messages, for their receivers | a week                 | the outbox keeps them   |
| KV_jwks        | the keys that verify access tokens            | one is retired         | no new key is published |
| KV_revocations | what is revoked                               | it can concern nothing | revoking is refused     |
| KV_checkpoints | heads of logs as they were signed last        | for ever               | (it never is)           |

What always holds, of every one: it is on disk, so that a broker that was killed has it when it is back; no message of
it can be deleted or purged by the API, and none brings a header that purges (`Nats-Rollup`); no message is fetched by
itself (`allow_direct`), because the broker would answer with its headers and body on whatever subject the asker names;
none mirrors, sources, transforms or publishes again.

What an operator chooses is in `Choices`. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from wardmesh.server.broker import STREAMS, stream_of_bucket

EVENTS: Final = "EVENTS"
AUDIT: Final = "AUDIT"
SEALED: Final = "SEALED"
DEAD: Final = "DEAD"
BRIDGE: Final = "BRIDGE"
INBOX: Final = "INBOX"
JWKS: Final = "jwks"
REVOCATIONS: Final = "revocations"
CHECKPOINTS: Final = "checkpoints"

MIB: Final = 1024 * 1024
DUPLICATE_WINDOW: Final = timedelta(minutes=2)
"""For a publisher that tries again at once. The broker holds the ids in memory; readers go by the event's own id."""
UNLIMITED: Final = -1

EVENTS_MAX_AGE: Final = timedelta(days=7)
"""A reader that was away for a long week-end finds everything."""
EVENTS_MAX_BYTES: Final = 2048 * MIB
"""Nothing that was acknowledged makes room for something new, so this is how far the slowest may fall behind."""
EVENT_MAX_BYTES: Final = 528 * 1024
"""One message: a webhook's body of 512 KiB and 16 KiB of headers; below what one fetch may bring."""

AUDIT_MAX_BYTES: Final = 1024 * MIB
"""Some two million events that wait for their database; reserved on the broker's disk."""
SEALED_MAX_AGE: Final = timedelta(hours=1)
SEALED_MAX_BYTES: Final = 64 * MIB
"""PostgreSQL is the record, and who missed something reads it by index. On disk all the same: a stream in memory ends
with its server, nobody would declare it again, and sealing, which publishes before it acknowledges, would stop."""
DEAD_MAX_AGE: Final = timedelta(days=30)
"""Long enough for people to look."""
DEAD_MAX_BYTES: Final = 1024 * MIB
"""The oldest go when it is full: a flood of rubbish must not hold up the log."""

BRIDGE_MAX_BYTES: Final = 1024 * MIB
INBOX_MAX_BYTES: Final = 4096 * MIB
INBOX_MAX_AGE: Final = timedelta(days=7)
BRIDGE_MESSAGE_MAX_BYTES: Final = 512 * 1024
"""A body of 256 KiB in base64, with its fields; and below what one fetch may bring."""

BUCKET_VALUE_MAX_BYTES: Final = 4096
BUCKET_MAX_BYTES: Final = 64 * MIB
REVOCATIONS_MAX_AGE: Final = timedelta(hours=1)
"""Longer than any token lives that a revocation could still concern."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is an operator's to choose."""

    replicas: int = 1
    """Copies of each stream in a cluster: 3, so that any one node may die."""
    events_max_bytes: int = EVENTS_MAX_BYTES
    audit_max_bytes: int = AUDIT_MAX_BYTES


SIZES: Final = frozenset({"max_bytes"})
"""Fields that only the provisioner is told the value of."""


def declared(choices: Choices) -> Mapping[str, StreamConfig]:
    """Return every stream of the mesh by name, those that keep buckets included."""
    streams = (
        _stream(
            EVENTS,
            "Domain events of every workspace, as CloudEvents",
            max_age=EVENTS_MAX_AGE.total_seconds(),
            max_bytes=choices.events_max_bytes,
            max_msg_size=EVENT_MAX_BYTES,
        ),
        # A work queue: what is acknowledged is gone, so personal data does not linger beside the log, and nothing is
        # ever dropped by age.
        _stream(
            AUDIT,
            "Audit envelopes, until they are sealed",
            retention=RetentionPolicy.WORK_QUEUE,
            max_bytes=choices.audit_max_bytes,
        ),
        _stream(
            SEALED,
            "News of sealed entries; the record is the log itself",
            discard=DiscardPolicy.OLD,
            max_age=SEALED_MAX_AGE.total_seconds(),
            max_bytes=SEALED_MAX_BYTES,
        ),
        _stream(
            DEAD,
            "Messages that could not be processed, as they came",
            discard=DiscardPolicy.OLD,
            max_age=DEAD_MAX_AGE.total_seconds(),
            max_bytes=DEAD_MAX_BYTES,
        ),
        _stream(
            BRIDGE,
            "Bridge messages as they were sent, until they are verified",
            retention=RetentionPolicy.WORK_QUEUE,
            max_bytes=BRIDGE_MAX_BYTES,
            max_msg_size=BRIDGE_MESSAGE_MAX_BYTES,
        ),
        _stream(
            INBOX,
            "Verified bridge messages, for their receivers",
            max_age=INBOX_MAX_AGE.total_seconds(),
            max_bytes=INBOX_MAX_BYTES,
            max_msg_size=BRIDGE_MESSAGE_MAX_BYTES,
        ),
        _bucket(JWKS, "The keys that verify access tokens", max_bytes=BUCKET_MAX_BYTES),
        _bucket(
            REVOCATIONS,
            "What is revoked, and since when",
            max_bytes=BUCKET_MAX_BYTES,
            max_age=REVOCATIONS_MAX_AGE.total_seconds(),
        ),
        # One value of a few hundred bytes for each scope there ever was: it must never be full.
        _bucket(CHECKPOINTS, "Heads of logs as they were signed last", max_bytes=UNLIMITED),
    )
    return MappingProxyType({str(config.name): replace(config, num_replicas=choices.replicas) for config in streams})


def drift(declaration: StreamConfig, present: StreamConfig, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """Return the names of the fields in which a stream is not as declared, but for those in `besides`."""
    wanted, found = declaration.as_dict(), present.as_dict()
    return sorted(
        name for name in _COMPARED - besides if _meaning(name, wanted.get(name)) != _meaning(name, found.get(name))
    )


def _stream(name: str, description: str, **settings: Any) -> StreamConfig:
    return replace(_COMMON, name=name, description=description, subjects=list(STREAMS[name]), **settings)


def _bucket(name: str, description: str, **settings: Any) -> StreamConfig:
    # What nats-py's create_key_value makes, without what could purge it: no roll-up, no direct reads.
    return replace(
        _COMMON,
        name=stream_of_bucket(name),
        description=description,
        subjects=[f"$KV.{name}.>"],
        max_msgs_per_subject=1,
        max_msg_size=BUCKET_VALUE_MAX_BYTES,
        **settings,
    )


_COMMON: Final = StreamConfig(
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.NEW,
    duplicate_window=DUPLICATE_WINDOW.total_seconds(),
    deny_delete=True,
    deny_purge=True,
    allow_rollup_hdrs=False,
    allow_direct=False,
    mirror_direct=False,
    sealed=False,
    no_ack=False,
)

_COMPARED: Final = frozenset(
    {
        "subjects", "retention", "storage", "num_replicas", "discard", "max_age", "max_bytes", "max_msgs",
        "max_msgs_per_subject", "max_msg_size", "max_consumers", "duplicate_window", "deny_delete", "deny_purge",
        "allow_rollup_hdrs", "allow_direct", "mirror_direct", "sealed", "no_ack", "mirror", "sources", "republish",
        "subject_transform", "allow_msg_ttl", "allow_msg_schedules", "allow_msg_counter", "allow_atomic",
        "subject_delete_marker_ttl", "placement",
    }
)  # fmt: skip
_UNLIMITED_BY: Final = frozenset({"max_bytes", "max_msgs", "max_msgs_per_subject", "max_msg_size", "max_consumers"})


def _meaning(name: str, value: object) -> object:
    """Give one form to what says the same: absent, off, empty; and absent, 0, -1 for what is without limit."""
    if not value or (name in _UNLIMITED_BY and value == UNLIMITED):
        return None
    return value
