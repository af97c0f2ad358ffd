"""Logs of which something was pruned: readers go on, exports verify, and nobody passes a deletion off as pruning."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import IO

import asyncpg
import pytest
from fake_log import FakeLog, FakeReading
from fake_people import FakePeople
from fake_ports import SUBJECTS, FakeAlarm, FakeEmitter, FakeMemory, FakeWakeups
from fake_retention import FakeRetention
from keeper import Keeper, Outbox
from makers import Person, event, make_person

from wardmesh.audit_export import ExportIncomplete, export_log, verify_export
from wardmesh.audit_files import Folder
from wardmesh.audit_pruning import ACTION, KEPT
from wardmesh.audit_verify import CHECKPOINT, EARLIER, MAX_PASSES, Report, verify_files
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Checkpoint, Leaves, Prove, Query, ReadLeaves, Tail
from wardmesh.contracts.operation import Category, Empty, Level
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh.ids import Scope
from wardmesh.server.database import Database
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.ports import ReadingStore
from wardmesh_audit.proving import Prover
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.service import AuditService
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_reading import PostgresReading
from wardmesh_audit.store_retention import PostgresRetention

YEARS = count(2020)
TOOL = Category.TOOL_CALL
SIZE = 600


class Log:
    """The service over a keeper, as an export reads it."""

    def __init__(self, keeper: Keeper, reading: ReadingStore, signer: LogSigner, owner: Person, at: datetime) -> None:
        self.store = reading
        self.keeper = keeper
        self.signer = signer
        self.owner = owner
        self.at = at
        self.service = AuditService(keeper.log, FakeEmitter(), now, SUBJECTS, FakePeople(FakeLog()))
        self.reading = ReadingService(keeper.log, reading, FakeWakeups(), SUBJECTS, FakePeople(FakeLog()))
        self.prover = Prover(keeper.log, FakeWakeups(), signer, FakeMemory(), FakeAlarm(), SUBJECTS)

    async def fill(self) -> None:
        """Seal 600 entries, every third of which ends."""
        await self.keeper.keep(self.owner, {TOOL: 30})
        for _ in range(3):
            some = [event(category=TOOL) if index % 3 == 0 else event() for index in range(SIZE // 3)]
            await self.keeper.seal(self.owner.scope, *some, at=self.at)

    async def prune(self) -> None:
        for _ in range(4):
            await Pruner(self.keeper.retention, now).round()
            await self.keeper.relay()

    async def checkpoint(self) -> Checkpoint:
        return await self.prover.checkpoint(self.owner.ask(contracts.CHECKPOINT), Empty())

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        try:
            return await self.service.leaves(self.owner.ask(contracts.LEAVES), ReadLeaves(start=start, limit=limit))
        except LogDamaged:
            return Leaves(leaves=(), hashes=())

    async def export(self, folder: Path) -> Report:
        with contextlib.suppress(ExportIncomplete):
            await export_log(self, folder)
        return self.verify(folder)

    def verify(self, folder: Path) -> Report:
        return verify_export(folder, self.signer.verifier_key(self.owner.scope))


def now() -> datetime:
    return datetime.now(UTC)


def ends(index: int) -> bool:
    return index < SIZE and index % (SIZE // 3) % 3 == 0


GONE = [index for index in range(SIZE) if ends(index)]


@pytest.fixture
def postgres(database: Database, signer: LogSigner) -> Log:
    outbox = Outbox()
    keeper = Keeper(PostgresStore(database), PostgresRetention(database, outbox), outbox)
    reading = PostgresReading(database)
    return Log(
        keeper, reading, signer, make_person(level=Level.OWNER), datetime(2020, 12, 1 + next(YEARS) % 28, tzinfo=UTC)
    )


@pytest.fixture
def fake(signer: LogSigner) -> Log:
    log = FakeLog()
    keeper = Keeper(log, FakeRetention(log), None)
    return Log(keeper, FakeReading(log), signer, make_person(level=Level.OWNER), datetime(2020, 1, 1, tzinfo=UTC))


@pytest.fixture(params=["fake", "postgres"])
def log(request: pytest.FixtureRequest) -> Log:
    found: Log = request.getfixturevalue(request.param)
    return found


async def tamper(superuser: asyncpg.Connection[asyncpg.Record], statement: str, *values: object) -> None:
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")  # no triggers
        done = await superuser.execute(statement, *values)
        assert not done.endswith(" 0")


async def hide(superuser: asyncpg.Connection[asyncpg.Record], scope: Scope) -> None:
    """Turn the head's watermark as if what ends had been pruned; the log says nothing of it."""
    await tamper(
        superuser,
        "update audit.logs set pruning_to = '2021-12-01', pruned_to = '2021-12-01' where scope_id = $1",
        scope,
    )


async def test_an_export_of_a_pruned_log_is_sound_and_says_what_is_gone(log: Log, tmp_path: Path) -> None:
    await log.fill()
    before = await log.export(tmp_path / "before")
    assert (before.is_sound, before.pruned) == (True, 0)
    await log.prune()
    after = await log.export(tmp_path / "after")
    assert after.is_sound, str(after)
    assert (after.size, after.pruned, after.announced_by) == (SIZE + 1, len(GONE), (SIZE,))
    assert f"{len(GONE)} of them, as the log says in entry {SIZE}" in str(after)
    lines = (tmp_path / "after" / "entries.ndjson").read_bytes().split(b"\n")
    assert [index for index, line in enumerate(lines[:-1]) if not line] == GONE


async def test_a_tail_jumps_over_what_is_gone(log: Log) -> None:
    await log.fill()
    await log.prune()
    seen: list[int] = []
    start = 0
    while start <= SIZE:
        page = await log.reading.tail(log.owner.ask(contracts.TAIL), Tail(start=start, limit=70, wait_seconds=0))
        seen += [entry.index for entry in page.entries]
        assert page.next_start > start
        start = page.next_start
    assert seen == [index for index in range(SIZE + 1) if not ends(index)]


async def test_a_query_does_not_find_what_is_gone(log: Log) -> None:
    await log.fill()
    await log.prune()
    found = await log.reading.query(log.owner.ask(contracts.QUERY), Query(limit=500))
    assert len(found.entries) == SIZE + 1 - len(GONE)
    assert not any(ends(entry.index) for entry in found.entries)


async def test_what_is_gone_can_still_be_proven(log: Log, tmp_path: Path) -> None:
    await log.fill()
    await log.export(tmp_path / "kept by somebody")
    leaf = (tmp_path / "kept by somebody" / "entries.ndjson").read_bytes().split(b"\n")[GONE[5]]
    await log.prune()
    note = (await log.checkpoint()).note.encode()
    checkpoint = open_checkpoint(note, log.signer.verifier_key(log.owner.scope))
    proof = await log.prover.prove(log.owner.ask(contracts.PROVE), Prove(index=GONE[5], size=checkpoint.size))
    verify_inclusion(GONE[5], checkpoint.size, leaf_hash(leaf), list(proof.hashes), checkpoint.root)


async def test_pruning_while_a_log_is_exported_goes_on_to_where_the_log_says_so(log: Log, tmp_path: Path) -> None:
    """A part was read before, a part afterwards; the announcement is beyond the checkpoint that was asked for first."""

    await log.fill()

    class Slow(Log):
        async def leaves_page(self, *, start: int, limit: int) -> Leaves:
            if start:
                await log.prune()
            return await log.leaves_page(start=start, limit=limit)

    slow = Slow(log.keeper, log.store, log.signer, log.owner, log.at)
    report = await slow.export(tmp_path / "log")
    assert report.is_sound, str(report)
    assert report.size == SIZE + 1
    assert 0 < report.pruned < len(GONE)


class Growing:
    """A log behind a gateway that is another one, further on, each time that it is found to have grown."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [Folder(each) for each in folders]
        self.checkpoints = 0

    @property
    def _now(self) -> Folder:
        return self._folders[min(self.checkpoints // 2, len(self._folders) - 1)]

    def read(self, path: str, max_bytes: int) -> bytes | None:
        if path == CHECKPOINT:
            self.checkpoints += 1
        # What was there before does not go; it may have been read by then, or not.
        return self._now.read(path, max_bytes) or self._folders[0].read(path, max_bytes)

    def open(self, _path: str) -> IO[bytes] | None:
        return None

    def take(self, path: str, size: int, max_bytes: int) -> IO[bytes] | None:
        return self._now.take(path, size, max_bytes)

    def exists(self, _path: str) -> bool:
        return False


async def test_a_log_that_is_pruned_while_it_is_read_is_read_again(fake: Log, tmp_path: Path) -> None:
    await fake.fill()
    await fake.export(tmp_path / "before")
    await fake.prune()
    await fake.export(tmp_path / "after")
    for bundle in ("tile/entries/000", "tile/entries/001"):  # read when the checkpoint was old, and they were pruned
        shutil.copy(tmp_path / "after" / bundle, tmp_path / "before" / bundle)
    served = Growing([tmp_path / "before", tmp_path / "after"])
    report = verify_files(served, "url", fake.signer.verifier_key(fake.owner.scope))
    assert report.is_sound, str(report)
    assert (report.size, report.announced_by, report.checkpoints_checked) == (SIZE + 1, (SIZE,), (EARLIER,))


async def test_a_log_that_grows_without_a_word_is_not_read_for_ever(
    postgres: Log, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    await postgres.fill()
    await hide(superuser, postgres.owner.scope)
    folders = [tmp_path / str(number) for number in range(MAX_PASSES)]
    for folder in folders:
        await postgres.export(folder)
        await postgres.keeper.seal(postgres.owner.scope, event(), at=now())
    served = Growing(folders)
    report = verify_files(served, "url", postgres.signer.verifier_key(postgres.owner.scope))
    assert report.damage is not None
    assert (report.damage.entry, served.checkpoints) == (GONE[0], 2 * MAX_PASSES - 1)


async def test_a_deletion_is_no_pruning(
    postgres: Log, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    """Beside what was pruned, one more entry is deleted, which was kept for ever."""
    await postgres.fill()
    await postgres.prune()
    victim = SIZE - 1
    scope = postgres.owner.scope
    await tamper(superuser, "delete from audit.entries where scope_id = $1 and index = $2", scope, victim)
    with pytest.raises(LogDamaged, match=f"Entry {victim} is missing"):
        await postgres.reading.tail(
            postgres.owner.ask(contracts.TAIL), Tail(start=SIZE - 10, limit=100, wait_seconds=0)
        )
    report = await postgres.export(tmp_path / "log")
    assert report.damage is not None
    assert report.damage.entry == victim


async def test_a_deletion_that_is_passed_off_as_pruning_is_found(
    postgres: Log, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    """The rows say that it was kept no longer than the others; what the log announced was without it."""
    await postgres.fill()
    await postgres.prune()
    victim, scope = SIZE - 1, postgres.owner.scope
    assert not ends(victim)
    await tamper(superuser, "delete from audit.entries where scope_id = $1 and index = $2", scope, victim)
    await tamper(
        superuser,
        "update audit.leaves set kept_to = (select pruned_to from audit.logs where scope_id = $1) "
        "where scope_id = $1 and index = $2",
        scope,
        victim,
    )
    report = await postgres.export(tmp_path / "log")
    assert report.damage is not None, str(report)
    assert "does not say that it was pruned" in report.damage.what
    assert report.damage.entry == GONE[0], "of entries with one digest, the first that is missing"


async def test_a_log_that_was_emptied_without_a_word_is_found(
    postgres: Log, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    """Hidden by turning the head's watermark, with no announcement in the log."""
    await postgres.fill()
    await hide(superuser, postgres.owner.scope)
    report = await postgres.export(tmp_path / "log")
    assert report.damage is not None, str(report)
    assert report.damage.entry == GONE[0]


async def test_an_announcement_that_somebody_emitted_is_not_believed(
    postgres: Log, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    """The very words of the log, by somebody with a token: the gates say who it was."""
    await postgres.fill()
    await Pruner(postgres.keeper.retention, now).round()
    outbox = postgres.keeper._outbox
    assert outbox is not None
    mine = [each for each in outbox.waiting if each[0] == postgres.owner.scope]
    forged = mine[0][1].model_copy(update={"actor": postgres.owner.caller.principal})
    assert forged.action == ACTION
    outbox.waiting.clear()
    await postgres.keeper.seal(postgres.owner.scope, forged, at=now(), source="audit")
    await tamper(superuser, "update audit.logs set pruned_to = pruning_to where scope_id = $1", postgres.owner.scope)
    report = await postgres.export(tmp_path / "log")
    assert report.damage is not None
    assert "does not say that it was pruned" in report.damage.what


@pytest.mark.parametrize(
    "change",
    [
        "update audit.entries set leaf = leaf || ' ' where scope_id = $1 and index = $2",
        "delete from audit.entries where scope_id = $1 and index = $2",
        "update audit.leaves set leaf_hash = sha256(leaf_hash) where scope_id = $1 and index = $2",
        "update audit.leaves set kept_to = '2021-02-01' where scope_id = $1 and index = $2 + 1",
    ],
    ids=["changed", "deleted", "hash changed", "kept for ever"],
)
async def test_what_was_tampered_with_does_not_end(
    postgres: Log, superuser: asyncpg.Connection[asyncpg.Record], change: str
) -> None:
    """It is evidence: pruning refuses, and everything of that month stays."""
    await postgres.fill()
    month = await superuser.fetchval(
        "select max(kept_to) from audit.leaves where scope_id = $1 and kept_to < 'infinity'", postgres.owner.scope
    )
    await tamper(superuser, change.replace("2021-02-01", str(month)), postgres.owner.scope, GONE[7])
    readable = await postgres.keeper.readable(postgres.owner)
    await postgres.prune()
    assert await postgres.keeper.readable(postgres.owner) == readable
    await tamper(superuser, "delete from audit.entries where scope_id = $1", postgres.owner.scope)  # for the others


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: [], "was to be kept"),
        (lambda lines: lines[1:], "was to be kept"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "does not say that it was pruned"),
        (lambda lines: [b"[" * 300, *lines], "has a line that is none"),
        (lambda lines: [*lines, b'{"first":900,"last":901,"kept_to":"2020-02-01"}'], "goes on after the last entry"),
        (lambda lines: [line.replace(b'"last":0', b'"last":1') for line in lines], "does not say that it was pruned"),
        (lambda lines: [line.replace(b"2020-", b"2019-") for line in lines], "does not say that it was pruned"),
    ],
    ids=["no lines", "one less", "moved", "no JSON", "one more", "a longer run", "another day"],
)
async def test_a_spoilt_list_of_what_was_kept_is_damage(
    fake: Log, tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    await fake.fill()
    await fake.prune()
    assert (await fake.export(tmp_path)).is_sound
    file = tmp_path / KEPT
    file.write_bytes(b"".join(line + b"\n" for line in spoil(file.read_bytes().splitlines())))
    report = fake.verify(tmp_path)
    assert report.damage is not None
    assert says in report.damage.what
    file.unlink()
    assert not fake.verify(tmp_path).is_sound


async def test_a_pruned_entry_that_comes_back_is_checked_like_any_other(fake: Log, tmp_path: Path) -> None:
    """Who kept a copy may put it back; another one in its place is damage."""
    await fake.fill()
    await fake.export(tmp_path / "before")
    await fake.prune()
    await fake.export(tmp_path / "after")
    bundle = "tile/entries/001"
    (tmp_path / "after" / bundle).write_bytes((tmp_path / "before" / bundle).read_bytes())
    lines = [(tmp_path / each / "entries.ndjson").read_bytes().splitlines() for each in ("before", "after")]
    lines[1][256:512] = lines[0][256:512]
    (tmp_path / "after" / "entries.ndjson").write_bytes(b"".join(line + b"\n" for line in lines[1]))
    report = fake.verify(tmp_path / "after")
    assert report.is_sound, str(report)
    assert report.pruned == len([index for index in GONE if not 256 <= index < 512])


async def test_what_ends_is_announced_in_words_that_anybody_can_check(fake: Log, tmp_path: Path) -> None:
    await fake.fill()
    await fake.prune()
    await fake.export(tmp_path)
    document = json.loads((tmp_path / "entries.ndjson").read_bytes().splitlines()[SIZE])
    assert document["source"] == "audit"
    assert document["event"]["action"] == ACTION
    details = document["event"]["details"]
    assert (details["first"], details["last"], details["entries"]) == (GONE[0], GONE[-1], len(GONE))
