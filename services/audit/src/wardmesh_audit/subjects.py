"""Whom entries are about: takes people out of what is stored, and puts them back for who may read.

What always holds:
- No id of a user, and nothing else of `contracts.audit.personal`, reaches the database but sealed by that person's key:
  entries have pseudonyms to be searched by, and transactions on a user's behalf run under one (`known_as`).
- What is shown is what the leaf commits to: an opening is compared with its commitment before anybody gets it.
- Nothing is stored under a key that was retired before: whoever appends asks once more, in turn (`Protected`).
- What nobody can open any more is withheld; that is no failure.

On failure: `ServiceUnavailable` where the keys cannot be had, `KeyRetired` (one of these) where it is to be tried anew.
Stored openings that do not open although the key is there are damage (`Opened.is_damaged`): the entry is shown without
them, and the log's operator is told.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from opentelemetry import metrics

from wardmesh.audit_openings import NotOpened, check_openings, committed_of, opened
from wardmesh.contracts.audit import Entry, EntryOpenings, Filter, Opening
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import InvalidIdError, Principal, Scope, UserId
from wardmesh.server.context import Call
from wardmesh_audit import openings
from wardmesh_audit.domain import Candidate, Names, Random, Stored, decode_leaf
from wardmesh_audit.errors import KeyRetired, LogDamaged
from wardmesh_audit.openings import SubjectKey, Unopenable
from wardmesh_audit.ports import Check, SubjectKeys

CHECK_SECONDS: Final = 2.0
"""Looking takes microseconds; meanwhile the log is held, for which others wait five seconds."""
_NO_KEYS: Final[Mapping[UserId, SubjectKey]] = {}
_meter = metrics.get_meter("wardmesh")
_unopenable = _meter.create_counter(
    "wardmesh.audit.unopenable", unit="{entry}", description="Entries whose stored openings are not theirs"
)
_log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """An entry as it may be shown, and what proves that it is what was sealed."""

    entry: Entry
    openings: tuple[Opening, ...] = ()
    is_damaged: bool = False


class Protected(NamedTuple):
    """Candidates as they can be stored, once `check` has said that their keys are still in use."""

    candidates: Sequence[Candidate]
    check: Check | None = None


class Subjects:
    """Knows people by their keys."""

    def __init__(self, keys: SubjectKeys, *, random: Random = os.urandom) -> None:
        self._keys = keys
        self._random = random

    async def protect(self, scope: Scope, candidates: Sequence[Candidate]) -> Protected:
        """Return candidates as they can be stored."""
        people = {value.subject for each in candidates for value, _ in each.committed}
        if not people:
            return Protected(candidates)
        keys = await self._keys.to_seal(scope, people)
        sealed = [self._protected(scope, each, keys) if each.committed else each for each in candidates]
        return Protected(sealed, partial(self._check, scope, keys.values()))

    async def _check(self, scope: Scope, keys: Collection[SubjectKey]) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                if not await self._keys.in_use(scope, keys):
                    raise KeyRetired
        except TimeoutError as error:
            raise ServiceUnavailable("The folder of people's keys does not answer.") from error

    def _protected(self, scope: Scope, candidate: Candidate, keys: Mapping[UserId, SubjectKey]) -> Candidate:
        event = candidate.event
        names = {value.value: keys[value.subject].pseudonym for value, _ in candidate.committed if value.is_id}
        actor, acting_for, targets = event.actor, event.acting_for, event.targets
        return Candidate(
            event,
            candidate.source,
            candidate.received_at,
            candidate.leaf,
            candidate.leaf_hash,
            candidate.committed,
            openings.seal(scope, event.id, candidate.committed, keys, random=self._random),
            Names(
                names.get(actor, actor),
                None if acting_for is None else names.get(acting_for, acting_for),
                [names.get(target, target) for target in targets] if targets else targets,
            ),
        )

    async def opened(self, scope: Scope, stored: Iterable[Stored]) -> list[Opened]:
        """Return entries, each with what can be opened of it; raise `LogDamaged` for a leaf that is none."""
        return await self._opened_all(scope, [(each, decode_leaf(each)) for each in stored])

    async def _opened_all(self, scope: Scope, there: Sequence[tuple[Stored, Entry]]) -> list[Opened]:
        keys = await self._keys_of(scope, [each for each, entry in there if entry.withheld])
        return [self._opened(scope, each, entry, keys) if entry.withheld else Opened(entry) for each, entry in there]

    async def entries(self, scope: Scope, stored: Iterable[Stored]) -> tuple[Entry, ...]:
        """Return entries as they may be shown."""
        return tuple(each.entry for each in await self.opened(scope, stored))

    async def openings(self, scope: Scope, stored: Iterable[Stored]) -> tuple[EntryOpenings, ...]:
        """Return what can be opened of each of these, without what is no entry: whoever verifies will see that."""
        readable = [(each, entry) for each in stored if (entry := _committing(each)) is not None]
        return tuple(
            EntryOpenings(index=each.entry.index, openings=each.openings, unopenable=each.is_damaged)
            for each in await self._opened_all(scope, readable)
            if each.openings or each.is_damaged
        )

    async def known_as(self, call: Call) -> None:
        """Let the database know the caller by a pseudonym; that is whom rows name, and whom policies compare with."""
        who = call.caller.principal
        if isinstance(who, UserId):
            scope = call.caller.scope
            call.known_as((await self._keys.get_or_make(scope, [who]))[who].pseudonym)

    async def shown(self, scope: Scope, principals: Collection[Principal]) -> Mapping[Principal, Principal]:
        """Return whom pseudonyms stand for; what stands for nobody, or for nobody any more, stays as it is."""
        users = [who for who in principals if isinstance(who, UserId)]
        keys = await self._keys.named(scope, users) if users else _NO_KEYS
        return {who: keys[who].subject if isinstance(who, UserId) and who in keys else who for who in principals}

    async def names(self, scope: Scope, query: Filter) -> Mapping[str, str]:
        """Return the pseudonyms of the users that a filter names; none of those who have no key."""
        people = _people(query)
        if not people:
            return {}
        return {who: key.pseudonym for who, key in (await self._keys.find(scope, people)).items()}

    async def concealed(self, scope: Scope, query: Filter) -> Filter:
        """Return a filter as it can be kept: with pseudonyms in the place of users."""
        people = _people(query)
        if not people:
            return query
        keys = await self._keys.get_or_make(scope, people)
        return _renamed(query, {who: key.pseudonym for who, key in keys.items()})

    async def revealed(self, scope: Scope, kept: Filter) -> Filter:
        """Return the filter that was kept, with the users whose keys there are; the others stay pseudonyms."""
        people = _people(kept)
        return _renamed(kept, await self.shown(scope, people)) if people else kept

    async def _keys_of(self, scope: Scope, stored: Sequence[Stored]) -> Mapping[UserId, SubjectKey]:
        wanted: set[UserId] = set()
        for each in stored:
            try:
                wanted.update(openings.pseudonyms(each.openings or b""))
            except Unopenable:
                continue  # said when it is opened
        return await self._keys.named(scope, wanted) if wanted else _NO_KEYS

    def _opened(self, scope: Scope, stored: Stored, entry: Entry, keys: Mapping[UserId, SubjectKey]) -> Opened:
        sealed = stored.openings or b""
        try:
            found = openings.open_(scope, entry.event.id, sealed, keys)
            withheld = check_openings(stored.leaf, found)
            shown = Opened(opened(entry, found), tuple(found))
            # With all the keys there is nothing that could stay closed.
            is_damaged = withheld > 0 and all(who in keys for who in openings.pseudonyms(sealed))
            if not is_damaged:
                return shown
        except (Unopenable, NotOpened):
            pass
        _unopenable.add(1)
        _log.critical("what opens entry %d of %s was changed", stored.index, scope)
        return Opened(entry, (), is_damaged=True)


def _renamed(query: Filter, names: Mapping[UserId, UserId] | Mapping[Principal, Principal]) -> Filter:
    actor, target = query.actor, query.target
    if isinstance(actor, UserId):
        actor = names.get(actor, actor)
    if (who := _user(target)) is not None:
        target = names.get(who, who)
    return query.model_copy(update={"actor": actor, "target": target})


def _committing(stored: Stored) -> Entry | None:
    try:
        entry = decode_leaf(stored) if committed_of(stored.leaf) else None
    except (NotOpened, LogDamaged):
        return None
    return entry if entry is not None and entry.withheld else None


def _people(query: Filter) -> set[UserId]:
    return {who for who in map(_user, (query.actor, query.target)) if who is not None}


def _user(text: str | None) -> UserId | None:
    try:
        return UserId.parse(text)
    except InvalidIdError:
        return None
