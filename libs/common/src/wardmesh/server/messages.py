"""Messages as they leave for a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """One message for a stream. `message_id` lets the broker drop a repetition within its window (2 minutes)."""

    subject: str
    payload: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    message_id: str | None = None

    def wire_headers(self) -> dict[str, str]:
        headers = dict(self.headers)
        if self.message_id is not None:
            headers[MESSAGE_ID_HEADER] = self.message_id
        return headers
