"""Where a request breaks its model: pointers and messages, for the problem document of `wardmesh.errors`.

What always holds: what was sent is never repeated, not even by a validator of ours.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_VIOLATIONS: Final = 20  # a body with a thousand wrong fields is not worth a thousand lines


class Violation(BaseModel):
    """One place where a request breaks its model; the value itself is never repeated."""

    model_config = ConfigDict(frozen=True)

    pointer: str
    message: str


def violations_of(error: ValidationError) -> tuple[Violation, ...]:
    """Return what pydantic found, as JSON pointers and messages, without the values that were sent."""
    found: list[Violation] = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_VIOLATIONS]:
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in item["loc"])
        message = item["msg"] if item["type"] not in _MESSAGES_WITH_INPUT else "is not valid"
        found.append(Violation(pointer=pointer, message=message))
    return tuple(found)


_MESSAGES_WITH_INPUT: Final = frozenset({"value_error", "assertion_error"})  # a validator of ours may quote the value
