"""Asks the witnesses of our logs to cosign what was signed, and puts their lines on what is given out.

What always holds:
- A line is kept, and given out, only if it verifies against the key that the policy names.
- Sealing never waits for a witness. Giving out a checkpoint waits `WAIT_SECONDS` for all of them together; one that
  does not answer is left alone for a while, which grows. What comes later is kept for the next one who asks.
- A witness is asked once for a checkpoint, however many ask us; how much is under way is bounded.
- A witness that knows more of a log than was ever signed, or another tree of it, raises the alarm. That is its word and
  no proof, so it stops nothing by itself; a policy that asks for its cosignature does.

On failure: nothing is raised for what a witness does; whether there are enough lines is in what is returned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cachetools import FIFOCache
from opentelemetry import metrics

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import WitnessKey, check_cosignature, with_lines
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.note import Signature, SignedNote
from wardmesh.crypto.tlog_policy import Policy, Witness
from wardmesh.crypto.tlog_witness import AddCheckpoint, parse_lines, parse_size
from wardmesh.crypto.vkey import KeyIdentity
from wardmesh.errors import WardmeshError
from wardmesh.ids import Scope
from wardmesh_audit import proofs
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.ports import LogStore, SignedMemory
from wardmesh_audit.proofs import SignedHead
from wardmesh_audit.witness_ports import CosignatureStore, WitnessAlarm, WitnessDoor, WitnessUnreachable

WAIT_SECONDS: Final = 3.0
"""How long whoever asks for a checkpoint waits for witnesses; public ones answer within one."""
ASK_SECONDS: Final = 10.0
"""How long one witness may take for one checkpoint, with the wait for its turn."""
MAX_CONFLICTS: Final = 4
"""Another size than we thought, again and again: other processes of ours are at it too."""
MAX_UNDER_WAY: Final = 256
AT_ONCE: Final = 8
"""Requests that one witness gets from us at a time."""
FIRST_PAUSE_SECONDS: Final = 5.0
LONG_PAUSE_SECONDS: Final = 20.0
"""After three failures in a row: what is said aloud."""
LONGEST_PAUSE_SECONDS: Final = 300.0
MAX_REMEMBERED: Final = 10_000
"""Pauses and complete notes, by log; beyond that the oldest are forgotten, which costs a question."""
MAX_AHEAD: Final = timedelta(minutes=5)
"""How far a witness's clock may be ahead of ours."""

_meter = metrics.get_meter("wardmesh")
_asked = _meter.create_counter(
    "wardmesh.audit.cosignatures",
    unit="{request}",
    description="Checkpoints that witnesses were asked to cosign, by outcome",
)
_log = logging.getLogger(__name__)


class _Unusable(Exception):
    """What a witness said cannot be used."""


class _Overtaken(Exception):
    """The witness has cosigned a later checkpoint of ours."""


class _Disputed(Exception):
    """The witness knows another log than ours."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A note with the lines that there are."""

    note: bytes
    is_enough: bool
    is_overtaken: bool = False
    """Whether a witness has gone on to a later checkpoint of ours, and so will not cosign this one any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Witnesses that are asked at one address."""

    url: str
    witnesses: tuple[Witness, ...]

    @property
    def keys(self) -> list[KeyIdentity]:
        return [witness.key.identity for witness in self.witnesses]

    @property
    def name(self) -> str:
        return self.witnesses[0].name


def places_of(policy: Policy) -> tuple[Place, ...]:
    """Return where the policy's witnesses are asked; raise `ValueError` for one that has no address."""
    found: dict[str, list[Witness]] = {}
    for witness in policy.witnesses.values():
        if witness.url is None or not witness.url.startswith(("https://", "http://")):
            raise ValueError(f"witness {witness.name}: say where it is asked (https://…)")
        found.setdefault(witness.url.rstrip("/"), []).append(witness)
    return tuple(Place(url, tuple(there)) for url, there in found.items())


class Cosigning:
    """Collects cosignatures. `close` ends what is under way."""

    def __init__(
        self,
        policy: Policy,
        store: LogStore,
        kept: CosignatureStore,
        door: WitnessDoor,
        memory: SignedMemory,
        alarm: WitnessAlarm,
        clock: Callable[[], datetime],
    ) -> None:
        self.policy = policy
        self._places = places_of(policy)
        self._keys: Mapping[KeyIdentity, WitnessKey] = {
            each.key.identity: each.key for each in policy.witnesses.values()
        }
        self._store = store
        self._kept = kept
        self._door = door
        self._memory = memory
        self._alarm = alarm
        self._clock = clock
        self._under_way: dict[tuple[Scope, str, int], asyncio.Task[bool]] = {}
        self._turns = {place.url: asyncio.Semaphore(AT_ONCE) for place in self._places}
        self._pauses: FIFOCache[tuple[str, Scope | None], tuple[float, float]] = FIFOCache(MAX_REMEMBERED)
        self._complete: FIFOCache[Scope, tuple[bytes, bytes]] = FIFOCache(MAX_REMEMBERED)

    async def collect(self, scope: Scope, signed: SignedHead, seconds: float) -> Collected:
        """Return what was signed with the witnesses' lines; ask for those that are missing, `seconds` at the most."""
        if signed.size == 0 or not self._places:
            # That a log is empty is remembered by nobody, so nobody is asked about it; a quorum has not seen it.
            return Collected(signed.note, self.policy.is_met(()))
        own, complete = self._complete.get(scope, (b"", b""))
        if own == signed.note:
            return Collected(complete, is_enough=True)
        note = SignedNote.parse(signed.note)
        checkpoint = Checkpoint.parse_text(note.text)
        lines = await self._lines(scope, checkpoint)
        tasks = [
            task
            for place in self._places
            if any(key not in lines for key in place.keys) and (task := self._asking(scope, place, signed)) is not None
        ]
        overtaken = False
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=max(0.0, min(WAIT_SECONDS, seconds)))
            overtaken = any(not task.cancelled() and task.result() for task in done)
            lines = await self._lines(scope, checkpoint)
        cosigned = with_lines(note, lines.values()).encode()
        there = {name for name, each in self.policy.witnesses.items() if each.key.identity in lines}
        if len(there) == len(self.policy.witnesses):
            self._complete[scope] = signed.note, cosigned
        return Collected(cosigned, self.policy.is_met(there), overtaken)

    def degraded(self) -> str | None:
        """Return in a few words which witnesses could not be reached time and again, or None."""
        down = [
            place.name for place in self._places if self._pauses.get((place.url, None), (0, 0))[1] >= LONG_PAUSE_SECONDS
        ]
        return f"witnesses that cannot be reached: {', '.join(down)}" if down else None

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _lines(self, scope: Scope, checkpoint: Checkpoint) -> dict[KeyIdentity, Signature]:
        """Return the lines that are kept and that verify."""
        found = {}
        for line in await self._kept.lines(scope, checkpoint, list(self._keys)):
            key = self._keys.get(line.identity)
            try:
                if key is not None:
                    check_cosignature(checkpoint, line, key)
                    found[line.identity] = line
            except CryptoError:
                _log.error("a cosignature that was kept is damaged")
        return found

    def _asking(self, scope: Scope, place: Place, signed: SignedHead) -> asyncio.Task[bool] | None:
        """Return the one request for this, begun now unless it is under way; None if that witness is left alone."""
        key = scope, place.url, signed.size
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_UNDER_WAY or self._is_paused(scope, place):
                return None
            task = asyncio.create_task(self._ask(scope, place, signed))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return task

    async def _ask(self, scope: Scope, place: Place, signed: SignedHead) -> bool:
        """Ask one witness, and keep what it gives; return whether it has gone on to a later checkpoint of ours."""
        outcome = "failed"
        try:
            async with asyncio.timeout(ASK_SECONDS), self._turns[place.url]:
                await self._submit(scope, place, signed)
        except _Overtaken:
            outcome = "overtaken"
        except _Disputed:
            outcome = "disputed"
            await self._alarm.disputed(scope, place.name)
            self._pause(place.url, scope)
        except (WitnessUnreachable, TimeoutError):
            _log.warning("the witness %s cannot be reached", place.name)
            self._pause(place.url, None)
        except _Unusable as error:
            _log.warning("the witness %s has not cosigned: %s", place.name, error)
            self._pause(place.url, scope)
        except WardmeshError as error:
            _log.error("a cosignature could not be asked for or kept: %s", error.code)
        except Exception as error:  # noqa: BLE001 - a defect of this must not keep checkpoints back
            _log.error("defect in asking a witness", extra={"error_type": type(error).__name__})
            self._pause(place.url, scope)
        else:
            outcome = "cosigned"
            self._alarm.agreed(scope, place.name)
            self._pauses.pop((place.url, None), None)
            self._pauses.pop((place.url, scope), None)
        _asked.add(1, {"witness": place.name, "outcome": outcome})
        return outcome == "overtaken"

    async def _submit(self, scope: Scope, place: Place, signed: SignedHead) -> None:
        note = SignedNote.parse(signed.note)
        checkpoint = Checkpoint.parse_text(note.text)
        reached = await self._kept.reached(scope, place.keys)
        old = min(max((each.size for each in reached.values()), default=0), signed.size)
        for _ in range(MAX_CONFLICTS):
            request = AddCheckpoint(old, await self._proof(scope, old, signed), note)
            answer = await self._door.add_checkpoint(place.url, request.encode())
            if answer.status == 200:
                await self._kept.keep(scope, checkpoint, self._verified(place, checkpoint, answer.body))
                return
            if answer.status == 422:
                # It compares sizes first: of this size it knows another tree than the one that our proof begins with.
                raise _Disputed
            if answer.status != 409:
                raise _Unusable(f"status {answer.status}")
            known = _size(answer.body)
            if known > signed.size:
                await self._compare(scope, known)
            if known == old:
                if old == signed.size:
                    raise _Disputed
                raise _Unusable("it asks for the size that it was given")
            old = known
        raise _Unusable("it names another size each time")

    async def _compare(self, scope: Scope, known: int) -> None:
        """A witness is further than what it was asked about: another process of ours was faster, or we forgot."""
        outside, _ = await self._memory.last(scope)
        inside = await self._store.signed(scope)
        if any(last is not None and last.size >= known for last in (outside, inside)):
            raise _Overtaken
        raise _Disputed

    async def _proof(self, scope: Scope, old: int, signed: SignedHead) -> tuple[bytes, ...]:
        wanted = [*proofs.consistency_tiles(old, signed.size), *proofs.head_tiles(old)]
        tiles = await self._store.tiles(the_log(scope), wanted)
        hashes = proofs.prove_consistency(old, signed.size, tiles)
        if old:
            try:  # or a damaged tree of ours would look like a witness that contradicts us
                proofs.check_consistency(old, signed, hashes, proofs.root_from_tiles(old, tiles))
            except CryptoError as error:
                raise LogDamaged(f"The tree is damaged before entry {signed.size}.") from error
        return tuple(hashes)

    def _verified(self, place: Place, checkpoint: Checkpoint, body: bytes) -> Mapping[Signature, int]:
        """Return the lines of the witness's keys with their times; lines of others are ignored."""
        latest = (self._clock() + MAX_AHEAD).timestamp()
        found: dict[Signature, int] = {}
        try:
            for line in parse_lines(body):
                if line.identity in place.keys:
                    time = check_cosignature(checkpoint, line, self._keys[line.identity])
                    if time > latest:
                        raise _Unusable("its clock is far ahead")
                    found[line] = time
        except CryptoError as error:
            raise _Unusable(str(error)) from error
        if not found:
            raise _Unusable("its answer has no line by the key that the policy names")
        return found

    def _is_paused(self, scope: Scope, place: Place) -> bool:
        now = asyncio.get_running_loop().time()
        return any(self._pauses.get((place.url, which), (0.0, 0.0))[0] > now for which in (None, scope))

    def _pause(self, url: str, scope: Scope | None) -> None:
        _, last = self._pauses.pop((url, scope), (0.0, FIRST_PAUSE_SECONDS / 2))
        seconds = min(2 * last, LONGEST_PAUSE_SECONDS)
        self._pauses[url, scope] = asyncio.get_running_loop().time() + seconds, seconds


def _size(body: bytes) -> int:
    try:
        return parse_size(body)
    except CryptoError as error:
        raise _Unusable("it says 409 without a size") from error
