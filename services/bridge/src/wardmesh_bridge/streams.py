"""The streams that the bridge owns.

- BRIDGE: messages as they were sent, until they are verified. A work queue: what was dealt with is gone.
- INBOX: verified messages, for as long as receivers may take.

Neither drops anything to make room: when one is full, the outbox keeps what comes next.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

MIB: Final = 1024 * 1024
MAX_MESSAGE_BYTES: Final = 512 * 1024
"""A body of 256 KiB in base64, with its fields; and below what one fetch may bring."""
INBOX_MAX_AGE: Final = timedelta(days=7)
DUPLICATE_WINDOW_SECONDS: Final = 120

BRIDGE: Final = StreamConfig(
    name="BRIDGE",
    description="Bridge messages as they were sent, until they are verified",
    subjects=["bridge.>"],
    retention=RetentionPolicy.WORK_QUEUE,
    discard=DiscardPolicy.NEW,
    max_bytes=1024 * MIB,
    max_msg_size=MAX_MESSAGE_BYTES,
    storage=StorageType.FILE,
    duplicate_window=DUPLICATE_WINDOW_SECONDS,
)
INBOX: Final = StreamConfig(
    name="INBOX",
    description="Verified bridge messages, for their receivers",
    subjects=["inbox.>"],
    retention=RetentionPolicy.LIMITS,
    discard=DiscardPolicy.NEW,
    max_age=INBOX_MAX_AGE.total_seconds(),
    max_bytes=4096 * MIB,
    max_msg_size=MAX_MESSAGE_BYTES,
    storage=StorageType.FILE,
    duplicate_window=DUPLICATE_WINDOW_SECONDS,
)
