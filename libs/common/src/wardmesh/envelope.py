"""Domain events as CloudEvents 1.0 in binary mode: attributes in NATS headers, the data as the body.

Source: CloudEvents 1.0.2 and its NATS protocol binding (headers `ce-…`).

What always holds: the workspace, the source and the type of an event are those of its subject. Headers repeat
them for consumers outside wardmesh, and an event whose headers say otherwise is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from wardmesh.ids import WorkspaceId
from wardmesh.subjects import EventSubject

SPEC_VERSION: Final = "1.0"
JSON_CONTENT_TYPE: Final = "application/json"
MAX_ID_CHARACTERS: Final = 128
"""An event's id is its source's to choose (Stripe's are `evt_1P…`), so it is bounded but not a TypeID."""


class InvalidEventError(ValueError):
    """Headers that are not those of a CloudEvent, or that contradict the subject."""


@dataclass(frozen=True, slots=True)
class Event:
    """One domain event. `data` is the body as bytes; `json()` reads it when it is JSON."""

    id: str
    subject: EventSubject
    time: datetime
    data: bytes
    content_type: str = JSON_CONTENT_TYPE
    trace_parent: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> WorkspaceId:
        return self.subject.workspace

    @property
    def source(self) -> str:
        return self.subject.source

    @property
    def type(self) -> str:
        return self.subject.type

    def json(self) -> Any:
        """Return the data as JSON; raise `InvalidEventError` if it is not."""
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise InvalidEventError(f"event {self.id}: the data is not JSON") from error

    def headers(self) -> dict[str, str]:
        """Return the NATS headers that carry the attributes."""
        headers = {
            "ce-specversion": SPEC_VERSION,
            "ce-id": self.id,
            "ce-source": f"/{self.workspace}/{self.source}",
            "ce-type": self.type,
            "ce-time": self.time.isoformat(),
            "content-type": self.content_type,
        }
        if self.trace_parent is not None:
            headers["ce-traceparent"] = self.trace_parent
        return headers | {f"ce-{name}": value for name, value in self.extensions.items()}

    @classmethod
    def read(cls, subject: EventSubject, headers: Mapping[str, str], data: bytes) -> Event:
        """Return the event that a message carries; raise `InvalidEventError` if it carries none."""
        attributes = {name.lower(): value for name, value in headers.items()}
        if attributes.pop("ce-specversion", None) != SPEC_VERSION:
            raise InvalidEventError("ce-specversion: not a CloudEvent 1.0")
        try:
            event_id = attributes.pop("ce-id")
            source = attributes.pop("ce-source")
            event_type = attributes.pop("ce-type")
            time = datetime.fromisoformat(attributes.pop("ce-time"))
        except KeyError as error:
            raise InvalidEventError(f"{error.args[0]}: missing") from error
        except ValueError as error:
            raise InvalidEventError("ce-time: not an RFC 3339 time") from error
        if source != f"/{subject.workspace}/{subject.source}" or event_type != subject.type:
            raise InvalidEventError("ce-source, ce-type: not those of the subject")
        if not 0 < len(event_id) <= MAX_ID_CHARACTERS:
            raise InvalidEventError(f"ce-id: use 1 to {MAX_ID_CHARACTERS} characters")
        if time.tzinfo is None:
            raise InvalidEventError("ce-time: the offset is missing")
        return cls(
            id=event_id,
            subject=subject,
            time=time,
            data=data,
            content_type=attributes.pop("content-type", JSON_CONTENT_TYPE),
            trace_parent=attributes.pop("ce-traceparent", None),
            extensions={name[3:]: value for name, value in attributes.items() if name.startswith("ce-")},
        )
