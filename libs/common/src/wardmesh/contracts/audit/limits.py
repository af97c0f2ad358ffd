"""What an event may not exceed, and how far a clock may be off. Pure; the same rules for client, service and sealer.

What always holds: a problem is a sentence that names the place and never what stands there.

Two clocks meet in an event: `occurred_at` is its emitter's, `received_at` the broker's. An event is late because its
emitter kept it while the mesh was away (a spool, an outbox); one from the future can only come from a wrong clock. So
the bound is narrow ahead and wide behind. The sealer's is wider than the one at the door, so that what was admitted is
not dead after all because the broker's clock and a service's differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from pydantic_core import PydanticCustomError, to_json

from wardmesh.contracts.fields import Json

MAX_DETAILS_BYTES: Final = 8 * 1024
MAX_DETAILS_DEPTH: Final = 8
"""Details are things to look at. Deeper ones cost every reader a stack, and no screen shows them."""
MAX_INTEGER: Final = 2**63 - 1
"""Beyond 64 bits every other language and every column reads another number."""
MAX_AHEAD: Final = timedelta(minutes=5)
"""Of the emitter's clock before ours: what machines that keep time are never off by."""
MAX_LATENESS: Final = timedelta(days=30)
"""How long an emitter may keep an event before it is too late to say when it was."""
SEALING_MARGIN: Final = timedelta(hours=1)
"""By which the sealer is more patient than the door."""


def details_problem(details: Mapping[str, Json]) -> str | None:
    """Return what is wrong with an event's details, or None. Places are numbers: a key is somebody's word too."""
    if is_too_deep(details):
        return f"nested deeper than {MAX_DETAILS_DEPTH} levels"
    return next(
        (f"at {place}: {problem}" for place, value in _walk(dict(details), "") if (problem := _bad(value))), None
    )


def is_too_deep(details: Mapping[str, Json]) -> bool:
    """Tell whether there is more in details than `MAX_DETAILS_DEPTH` containers in each other; quick on flat ones."""
    level = [value for value in details.values() if isinstance(value, dict | list)]
    for _ in range(MAX_DETAILS_DEPTH):
        if not level:
            return False
        level = [inner for value in level for inner in _inside(value) if isinstance(inner, dict | list)]
    return bool(level)


def time_problem(occurred_at: datetime, now: datetime, *, margin: timedelta = timedelta(0)) -> str | None:
    """Return what is wrong with the time that an event says of itself, or None."""
    if occurred_at > now + MAX_AHEAD + margin:
        return f"more than {MAX_AHEAD} in the future; set the clock of the machine that says so"
    if occurred_at < now - MAX_LATENESS - margin:
        return f"more than {MAX_LATENESS.days} days ago"
    return None


def text_problem(text: str) -> str | None:
    """Return why a text cannot be kept as it is, or None."""
    if "\x00" in text:
        return "has a NUL character"
    return None if text.isascii() or _is_unicode(text) else "has half of a surrogate pair, which is no character"


def checked_details(details: dict[str, Json]) -> dict[str, Json]:
    """Return `details`; raise for what no log could say again."""
    if (problem := details_problem(details)) is not None:
        raise PydanticCustomError("details", "{problem}", {"problem": problem})
    if len(to_json(details)) > MAX_DETAILS_BYTES:
        raise PydanticCustomError("details", "details are at most {limit} bytes of JSON", {"limit": MAX_DETAILS_BYTES})
    return details


def checked_text(text: str) -> str:
    """Return `text`; raise for what no log could say again."""
    if (problem := text_problem(text)) is not None:
        raise PydanticCustomError("text", "{problem}", {"problem": problem})
    return text


def _inside(value: dict[str, Json] | list[Json]) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value


def _walk(value: Json, place: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict):
        for key in value:
            yield place, key
    if isinstance(value, dict | list):
        for number, inner in enumerate(_inside(value)):
            yield from _walk(inner, f"{place}/{number}")
    else:
        yield place, value


def _bad(value: Json) -> str | None:
    match value:
        case str():
            return text_problem(value)
        case bool():
            return None
        case int():
            return None if -MAX_INTEGER <= value <= MAX_INTEGER else "a number of more than 64 bits"
        case float():
            return None if math.isfinite(value) else "a number that JSON does not have"
        case _:
            return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
