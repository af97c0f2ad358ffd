"""One contract for what witnessing keeps, on the fake and on PostgreSQL; and what the database itself refuses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from fake_witness import FakeCosignatures, FakeWitnessed, OtherLog, Outbox, nobody

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.ids import OrgId, ServiceId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import Database, DatabaseRefused
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import COSIGN, the_log
from wardmesh_audit.store_witness import PostgresCosignatures, PostgresWitnessed
from wardmesh_audit.witness_ports import CosignatureStore, Reached, WitnessedStore
from wardmesh_audit.witness_rules import Latest

ONE = Cosigner("w.example/1", Ed25519PrivateKey.generate())
TWO = MldsaSigner("w.example/1", MLDSA44PrivateKey.generate())
KEYS = [(each.verifier.name, each.verifier.key_id) for each in (ONE, TWO)]


@pytest.fixture(params=["fake", "postgresql"])
def cosignatures(request: pytest.FixtureRequest) -> CosignatureStore:
    if request.param == "fake":
        return FakeCosignatures()
    return PostgresCosignatures(request.getfixturevalue("database"))


@dataclass
class Books:
    """The witness's books, and a way to ask in its name."""

    store: WitnessedStore
    outbox: Outbox

    def call(self) -> Call:
        call = nobody(self.outbox)
        call.identify(
            organization=OrgId.nil(), scope=OrgId.nil(), principal=ServiceId.nil(), permissions=frozenset({COSIGN})
        )
        return call

    async def latest(self, origin: str) -> Latest:
        seen: list[Latest] = []

        class Enough(Exception):
            pass

        def look(latest: Latest) -> None:
            seen.append(latest)
            raise Enough

        with pytest.raises(Enough):
            await self.store.advance(self.call(), Checkpoint(origin, 1, bytes(32)), "", look)
        return seen[0]


@pytest.fixture(params=["fake", "postgresql"])
def books(request: pytest.FixtureRequest) -> Books:
    if request.param == "fake":
        return Books(FakeWitnessed(), Outbox())
    return Books(PostgresWitnessed(request.getfixturevalue("database")), Outbox())


def fresh() -> OtherLog:
    return OtherLog(f"other.example/{WorkspaceId.new()}")


async def test_lines_are_found_again_by_their_checkpoint_and_key(cosignatures: CosignatureStore) -> None:
    scope, log = WorkspaceId.new(), fresh()
    for size in (5, 9, 7):
        checkpoint = log.checkpoint(size)
        await cosignatures.keep(scope, checkpoint, {ONE.sign(checkpoint, 100 + size): 100 + size})
    checkpoint = log.checkpoint(9)
    both = {ONE.sign(checkpoint, 500): 500, TWO.sign(checkpoint, 500): 500}
    await cosignatures.keep(scope, checkpoint, both)
    first, second = sorted(await cosignatures.lines(scope, checkpoint, KEYS), key=lambda line: len(line.signature))
    assert first == ONE.sign(checkpoint, 109)  # the first one that was kept stays
    assert len(second.signature) == 8 + 2420
    assert await cosignatures.reached(scope, KEYS) == {KEYS[0]: Reached(9, 109), KEYS[1]: Reached(9, 500)}
    renamed = Checkpoint("renamed", checkpoint.size, checkpoint.root)
    assert await cosignatures.lines(scope, renamed, KEYS) == []
    assert await cosignatures.lines(scope, log.checkpoint(8), KEYS) == []
    assert await cosignatures.lines(scope, checkpoint, []) == []
    assert await cosignatures.lines(WorkspaceId.new(), checkpoint, KEYS) == []
    assert await cosignatures.reached(WorkspaceId.new(), KEYS) == {}


async def test_books_begin_at_nothing_and_go_on(books: Books) -> None:
    log = fresh()
    origin = log.signer.verifier.name
    assert await books.latest(origin) == Latest()
    for size in (0, 3, 3, 8):
        await books.store.advance(books.call(), log.checkpoint(size), "note", lambda _: None)
        assert await books.latest(origin) == Latest(size, log.checkpoint(size).root)
    assert await books.latest(fresh().signer.verifier.name) == Latest()


async def test_who_is_refused_leaves_the_books_as_they_were(books: Books) -> None:
    log = fresh()
    await books.store.advance(books.call(), log.checkpoint(3), "note", lambda _: None)

    def refuse(_: Latest) -> None:
        raise LookupError

    sent = len(books.outbox.sent)
    call = books.call()
    with pytest.raises(LookupError):
        await books.store.advance(call, log.checkpoint(5), "note", refuse)
    assert not call.recorded
    assert len(books.outbox.sent) == sent
    assert (await books.latest(log.signer.verifier.name)).size == 3


async def test_nobody_overtakes_between_the_look_and_the_change(database: Database) -> None:
    books, log = Books(PostgresWitnessed(database), Outbox()), fresh()
    grown: list[int] = []

    async def extend(size: int) -> None:
        def allow(latest: Latest) -> None:
            if latest.size:
                raise LookupError
            grown.append(size)

        await books.store.advance(books.call(), log.checkpoint(size), "note", allow)

    outcomes = await asyncio.gather(*(extend(size) for size in range(1, 9)), return_exceptions=True)
    assert len(grown) == 1
    assert sum(isinstance(outcome, LookupError) for outcome in outcomes) == 7
    assert (await books.latest(log.signer.verifier.name)).size == grown[0]
    # Each cosigned checkpoint is in the mesh's own log, with the change.
    ((scope, event),) = books.outbox.sent
    assert (scope, event.action) == (OrgId.nil(), "log.cosign")


async def test_the_database_moves_the_books_forward_only(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    books, log = Books(PostgresWitnessed(database), Outbox()), fresh()
    origin = log.signer.verifier.name
    await books.store.advance(books.call(), log.checkpoint(5), "note", lambda _: None)
    back = "update audit.witnessed set size = $2, root = $3 where origin = $1"
    for size, root in ((4, log.checkpoint(4).root), (5, bytes(32))):
        with pytest.raises(DatabaseRefused):
            await books.store.advance(books.call(), Checkpoint(origin, size, root), "note", lambda _: None)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(back, origin, size, root)
    for statement in ("delete from audit.witnessed", "truncate audit.witnessed"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(statement)
    assert (await books.latest(origin)).size == 5


async def test_cosignatures_are_only_ever_added(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    scope, checkpoint = WorkspaceId.new(), fresh().checkpoint(5)
    await PostgresCosignatures(database).keep(scope, checkpoint, {ONE.sign(checkpoint, 7): 7})
    for statement in (
        "update audit.cosignatures set size = 9",
        "delete from audit.cosignatures",
        "truncate audit.cosignatures",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(statement)


async def test_no_caller_reaches_the_books_and_none_writes_cosignatures(database: Database) -> None:
    scope, checkpoint = WorkspaceId.new(), fresh().checkpoint(5)
    await PostgresCosignatures(database).keep(scope, checkpoint, {ONE.sign(checkpoint, 7): 7})
    everything = frozenset({"audit.read", "audit.export", "audit.write", "audit.retain", "audit.hold", "audit.lift"})
    reader = TenantContext(OrgId.new(), scope, ServiceId.new(), everything)
    async with database.transaction(reader) as connection:
        assert await connection.fetchval("select count(*) from audit.cosignatures") == 1
        assert await connection.fetchval("select count(*) from audit.witnessed") == 0
    stranger = TenantContext(OrgId.new(), WorkspaceId.new(), ServiceId.new(), everything)
    async with database.transaction(stranger, read_only=True) as connection:
        assert await connection.fetchval("select count(*) from audit.cosignatures") == 0
    for statement in (
        "insert into audit.cosignatures (witness, key_id, size, text_hash, signature, time) "
        "values ('w', '\\x00000000', 1, sha256(''), '\\x00', 1)",
        "insert into audit.witnessed (origin, root) values ('o', sha256(''))",
    ):
        with pytest.raises(DatabaseRefused):
            async with database.transaction(reader) as connection:
                await connection.execute(statement)
    # The sealer's own permission does not open the witness's books either.
    async with database.transaction(the_log(OrgId.nil()), read_only=True) as connection:
        assert await connection.fetchval("select count(*) from audit.witnessed") == 0
