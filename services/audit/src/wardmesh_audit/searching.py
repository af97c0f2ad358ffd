"""What a filter means. Pure; the store's SQL says the same of what has a column, and leaves words to this.

What always holds: every part that `plain_words` returns is in the leaf of every entry that has the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from wardmesh.contracts.audit import AuditEvent, Entry, Filter
from wardmesh.contracts.fields import Json

SINCE_MARGIN: Final = timedelta(days=1)
"""How far an emitter's clock may be ahead of ours for `since` to find its events: it is why `since` need not look at
everything that was received long before."""
_SPAN_BITS: Final = 16
"""65,536 entries: so few that what is sorted by trace among them is at hand, so many that a log has few such parts."""
_TRACE_BITS: Final = 40
"""Of a trace's id: what shares them is told apart by the rest."""
# What JSON spells as it is, so that it can be looked for in a leaf without reading it.
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]+")


def matches(query: Filter, entry: Entry) -> bool:
    """Tell whether an entry matches every field that the filter gives."""
    event = entry.event
    return (
        (query.category is None or event.category == query.category)
        and (query.actor is None or event.actor == query.actor)
        and (query.agent is None or query.agent in (event.actor, event.acting_for))
        and (query.action is None or event.action == query.action)
        and (query.outcome is None or event.outcome == query.outcome)
        and (query.target is None or query.target in event.targets)
        and (query.request_id is None or event.request_id == query.request_id)
        and (query.trace_id is None or event.trace_id == query.trace_id)
        and (
            query.since is None
            or (event.occurred_at >= query.since and entry.received_at >= query.since - SINCE_MARGIN)
        )
        and (query.until is None or event.occurred_at < query.until)
        and (query.text is None or has_words(query.text, event))
    )


def trace_place(trace_id: str, index: int) -> int:
    """Return where a trace is looked for in the part of the log that has entry `index`; it fits a bigint."""
    return (index >> _SPAN_BITS) << _TRACE_BITS | int(trace_id, 16) >> (128 - _TRACE_BITS)


def trace_places(trace_id: str, start: int, end: int) -> list[int]:
    """Return where a trace may be in entries [start, end), in the order of the log."""
    return [
        trace_place(trace_id, span << _SPAN_BITS) for span in range(start >> _SPAN_BITS, (end - 1 >> _SPAN_BITS) + 1)
    ]


def has_words(text: str, event: AuditEvent) -> bool:
    """Tell whether every word is somewhere in what the event says, whatever the case of its ASCII letters."""
    said = b"\n".join(map(_folded, _texts(event)))
    return all(word in said for word in _folded(text).split())


def plain_words(text: str) -> list[str]:
    """Return, for each word, the longest part of it that a leaf would have verbatim but for the case of its letters."""
    found = (max(_PLAIN.findall(word), key=len, default="") for word in text.split())
    return [part for part in dict.fromkeys(found) if part]


def _texts(event: AuditEvent) -> Iterator[str]:
    yield event.action
    yield from event.targets
    if event.reason is not None:
        yield event.reason
    yield from _strings(event.details)


def _strings(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _folded(text: str) -> bytes:
    # Of bytes, `lower` knows ASCII alone, as PostgreSQL does with collation C.
    return text.encode("utf-8", "surrogatepass").lower()
