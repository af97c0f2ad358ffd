"""The streams and the bucket that the log owns.

- AUDIT: envelopes until they are sealed. A work queue: what is acknowledged is gone, so personal data does not linger
  beside the log, and nothing is ever dropped by age. When it is full, publishers are told (discard new).
- SEALED: news of what was sealed, for whoever wants to follow at once. In memory: PostgreSQL is the record, a second
  copy on disk would cost an fsync for each message and be one more place to erase from. Who missed something reads it
  by index (`audit.tail`).
- DEAD: messages that could not be sealed, raw, for people to look at. When it is full, the oldest go: a flood of
  rubbish must not hold up the log.
- Bucket `checkpoints`: what was signed last, apart from the database.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig

MIB: Final = 1024 * 1024
DAY_SECONDS: Final = 86_400.0
DEAD_SUBJECT: Final = "dead.audit"
CHECKPOINTS: Final = "checkpoints"

_AUDIT: Final = StreamConfig(
    name="AUDIT",
    description="Audit envelopes, until they are sealed",
    subjects=["audit.>"],
    retention=RetentionPolicy.WORK_QUEUE,
    discard=DiscardPolicy.NEW,
    # `max_bytes` is a setting
    storage=StorageType.FILE,
    duplicate_window=120,
)
SEALED: Final = StreamConfig(
    name="SEALED",
    description="News of sealed entries; the record is the log itself",
    subjects=["sealed.>"],
    retention=RetentionPolicy.LIMITS,
    discard=DiscardPolicy.OLD,
    max_age=3600.0,
    max_bytes=64 * MIB,
    storage=StorageType.MEMORY,
    duplicate_window=120,
)
DEAD: Final = StreamConfig(
    name="DEAD",
    description="Messages that could not be processed, as they came",
    subjects=["dead.>"],
    retention=RetentionPolicy.LIMITS,
    discard=DiscardPolicy.OLD,
    max_age=30 * DAY_SECONDS,
    max_bytes=128 * MIB,
    storage=StorageType.FILE,
    duplicate_window=120,
)


def audit(max_bytes: int) -> StreamConfig:
    """Return stream AUDIT, which holds so much until it is sealed."""
    return replace(_AUDIT, max_bytes=max_bytes)


def checkpoints(replicas: int) -> KeyValueConfig:
    """Return the bucket of what was signed last: one value a scope, for ever."""
    return KeyValueConfig(
        bucket=CHECKPOINTS, description="Heads of logs as they were signed last", history=1, replicas=replicas
    )
