"""What of an event identifies a person, and how an event looks without it. Pure; the same for sealer and verifier.

Personal are, each under a path into the event (RFC 6901):
- `/actor`, `/acting_for`, `/targets/N`, `/details/NAME`: the id of a user,
- `/source_address`, `/user_agent`: where a user acts, or somebody on a user's behalf,
- `/details/NAME` for the names in `PERSONAL_DETAILS`: where the event is about a user.

In a leaf of version 2 these are not there: in the place of an id stands that of nobody (`usr_000…`), the others are
left out, and `committed` has a commitment for each path (`wardmesh.crypto.commitment`). An `Opening` opens one.

What always holds: `conceal` takes every value away that `personal_values` names, and `reveal` puts the same ones back.

On failure: `ValueError` for an opening of something that can't be personal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field, StringConstraints

from wardmesh.contracts.audit.events import AuditEvent
from wardmesh.contracts.operation import Message
from wardmesh.ids import InvalidIdError, UserId

PERSONAL_DETAILS: Final = frozenset({"email", "login", "username", "display_name", "phone"})
"""Details that name a person, by the names that emitters shall give them."""
MAX_PERSONAL: Final = 128
"""Sixteen targets, sixty-four details and four fields are 84."""
NOBODY: Final = UserId.nil()
_MARK: Final = f"{UserId.prefix}_"
_ACTOR: Final = "/actor"
_ACTING_FOR: Final = "/acting_for"
_TARGETS: Final = "/targets/"
_DETAILS: Final = "/details/"
_FIELDS: Final = ("source_address", "user_agent")
_PLAIN: Final[dict[str, tuple[str, UserId | None]]] = {
    _ACTOR: ("actor", NOBODY),
    _ACTING_FOR: ("acting_for", NOBODY),
    "/source_address": ("source_address", None),
    "/user_agent": ("user_agent", None),
}
"""The fields that are taken away as a whole, and what stands there instead."""

MAX_PATH_CHARACTERS: Final = 128 * 1024
"""A detail's name is at most as long as a leaf, and each of its characters may be written as two."""

Path = Annotated[str, StringConstraints(min_length=2, max_length=MAX_PATH_CHARACTERS, pattern=r"^/")]


class Opening(Message):
    """What an entry commits to at a path: the value, and the salt (32 bytes) that the commitment was made with."""

    path: Path
    salt: Annotated[bytes, Field(min_length=32, max_length=32)]
    value: str


class EntryOpenings(Message):
    """What is there to open of the entry at an index.

    It is `unopenable` if the log has the keys, and what it has for this entry is not what was sealed with it.
    """

    index: int = Field(ge=0)
    openings: Annotated[tuple[Opening, ...], Field(max_length=MAX_PERSONAL)] = ()
    unopenable: bool = False


class Personal(NamedTuple):
    """A value that identifies a person: where it is, whom, and which."""

    path: str
    subject: UserId
    value: str

    @property
    def is_id(self) -> bool:
        """Whether it is the user's id, and not something else about the user."""
        return self.value == self.subject


def personal_values(event: AuditEvent) -> list[Personal]:
    """Return what identifies people, in an order that is the same for the same event."""
    found: list[Personal] = []
    about: UserId | None = None
    for path, principal in ((_ACTOR, event.actor), (_ACTING_FOR, event.acting_for)):
        if (who := _user(principal)) is not None:
            found.append(Personal(path, who, who))
            about = about or who
    if about is not None:
        for name in _FIELDS:
            said = getattr(event, name)
            if said is not None:
                found.append(Personal(f"/{name}", about, said))
    for place, target in enumerate(event.targets):
        if (who := _user(target)) is not None:
            found.append(Personal(f"{_TARGETS}{place}", who, target))
            about = about or who
    if event.details:
        found.extend(_of_details(event.details, about))
    return found


def _of_details(details: dict[str, Any], about: UserId | None) -> Iterator[Personal]:
    for name, said in details.items():
        if not isinstance(said, str):
            continue
        if (who := _user(said)) is not None:
            yield Personal(f"{_DETAILS}{_escaped(name)}", who, said)
        elif about is not None and name in PERSONAL_DETAILS:
            yield Personal(f"{_DETAILS}{_escaped(name)}", about, said)


def conceal(event: AuditEvent, values: Iterable[Personal]) -> dict[str, Any]:
    """Return an event's fields without these values."""
    fields = dict(event.__dict__)
    for path, _, value in values:
        if (plain := _PLAIN.get(path)) is not None:
            fields[plain[0]] = plain[1]
        elif path.startswith(_TARGETS):
            targets = list(fields["targets"])
            targets[int(path[len(_TARGETS) :])] = NOBODY
            fields["targets"] = tuple(targets)
        else:
            details, name = dict(fields["details"]), _unescaped(path[len(_DETAILS) :])
            if _user(value) is None:
                del details[name]
            else:
                details[name] = NOBODY
            fields["details"] = details
    return fields


def reveal(event: AuditEvent, openings: Iterable[Opening]) -> AuditEvent:
    """Return an event with what was taken from it; whether that is what it commits to, the caller has checked."""
    changes: dict[str, Any] = {}
    for opening in openings:
        path, value = opening.path, opening.value
        if path in (_ACTOR, _ACTING_FOR):
            changes[path[1:]] = UserId.parse(value)
        elif path[1:] in _FIELDS:
            changes[path[1:]] = value
        elif path.startswith(_TARGETS) and path[len(_TARGETS) :].isdecimal():
            place, targets = int(path[len(_TARGETS) :]), list(changes.get("targets", event.targets))
            if place >= len(targets):
                raise ValueError("an opening of a target that is not there")
            targets[place] = value
            changes["targets"] = tuple(targets)
        elif path.startswith(_DETAILS):
            details = changes.setdefault("details", dict(event.details))
            details[_unescaped(path[len(_DETAILS) :])] = value
        else:
            raise ValueError("an opening of what is not personal")
    return event.model_copy(update=changes) if changes else event


def _user(text: str | None) -> UserId | None:
    """Return the user that an id names, if it names one, and not nobody."""
    if text is None or not text.startswith(_MARK) or text == NOBODY:
        return None
    if type(text) is UserId:
        return text
    try:
        return UserId.parse(text)
    except InvalidIdError:
        return None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescaped(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")
