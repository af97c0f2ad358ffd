"""The contract of `LogStore`, on the fake and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from makers import Person, candidates, event, published

from wardmesh.contracts.audit import MAX_PAGE_BYTES
from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.note import Signer
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import Tile, tiles_of
from wardmesh.ids import OrgId
from wardmesh.server.database import Database
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import the_log
from wardmesh_audit.domain import decode_leaf
from wardmesh_audit.errors import KeyRetired
from wardmesh_audit.ports import Located, LogStore
from wardmesh_audit.proofs import Head, SignedHead
from wardmesh_audit.store import _KNOWN, _TILES, PostgresStore


def tenant(person: Person) -> TenantContext:
    caller = person.caller
    return TenantContext(caller.organization, caller.workspace, caller.principal, caller.permissions)


async def test_an_unused_log_is_empty(store: LogStore, operator: Person) -> None:
    assert await store.head(tenant(operator)) == Head()
    assert await store.leaves(tenant(operator), start=0, end=10) == []
    assert await store.signed(operator.scope) is None


async def test_what_is_sealed_is_in_order_and_under_the_root(store: LogStore, operator: Person) -> None:
    events = [event() for _ in range(5)]
    first = await store.seal(operator.scope, candidates(operator.scope, *events[:2]))
    second = await store.seal(operator.scope, candidates(operator.scope, *events[2:]))
    assert (first.first, len(first.added), second.first, len(second.added)) == (0, 2, 2, 3)

    leaves = await store.leaves(tenant(operator), start=0, end=100)
    assert [leaf.index for leaf in leaves] == [0, 1, 2, 3, 4]
    assert [decode_leaf(leaf).event for leaf in leaves] == events
    head = await store.head(tenant(operator))
    assert head.size == 5
    assert head.root == root_of([leaf_hash(leaf.leaf) for leaf in leaves])


async def test_an_event_is_sealed_once_for_ever(store: LogStore, operator: Person) -> None:
    known, new = event(), event()
    await store.seal(operator.scope, candidates(operator.scope, known))
    again = await store.seal(
        operator.scope, (*candidates(operator.scope, new, known), *candidates(operator.scope, new))
    )
    assert (again.first, len(again.added), again.known) == (1, 1, 2)
    only_known = await store.seal(operator.scope, candidates(operator.scope, known, new))
    assert (len(only_known.added), only_known.known) == (0, 2)
    assert (await store.head(tenant(operator))).size == 2


async def test_what_must_be_true_is_asked_in_turn_and_nothing_is_appended_if_it_is_not(
    store: LogStore, operator: Person
) -> None:
    under_way, most = 0, 0

    async def check() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1

    batches = [candidates(operator.scope, event()) for _ in range(5)]
    await asyncio.gather(*(store.seal(operator.scope, batch, check) for batch in batches))
    assert most == 1
    assert (await store.head(tenant(operator))).size == 5

    async def refuse() -> None:
        raise KeyRetired

    with pytest.raises(KeyRetired):
        await store.seal(operator.scope, candidates(operator.scope, event()), refuse)
    assert (await store.head(tenant(operator))).size == 5


async def test_the_same_event_may_be_in_two_logs(store: LogStore, person: Callable[..., Person]) -> None:
    one, other, same = person(), person(), event()
    await store.seal(one.scope, candidates(one.scope, same))
    assert len((await store.seal(other.scope, candidates(other.scope, same))).added) == 1


async def test_concurrent_sealing_of_one_log_leaves_no_gap(store: LogStore, operator: Person) -> None:
    batches = [candidates(operator.scope, *[event() for _ in range(7)]) for _ in range(20)]
    repeated = [*batches, *batches[::2]]
    sealed = await asyncio.gather(*(store.seal(operator.scope, batch) for batch in repeated))
    assert sum(len(each.added) for each in sealed) == 140
    leaves = await store.leaves(tenant(operator), start=0, end=1000)
    assert [leaf.index for leaf in leaves] == list(range(140))
    assert (await store.head(tenant(operator))).root == root_of([leaf_hash(leaf.leaf) for leaf in leaves])


@pytest.mark.parametrize("step", [1000, 255, 257])
async def test_tiles_are_those_of_the_tree(store: LogStore, operator: Person, step: int) -> None:
    total = 1000
    everything = candidates(operator.scope, *[event() for _ in range(500)])
    everything += candidates(operator.scope, *[event() for _ in range(500)])
    for start in range(0, total, step):
        await store.seal(operator.scope, everything[start : start + step])
    builder = TileBuilder()
    expected = dict(builder.add([each.leaf_hash for each in everything]))
    expected |= dict(builder.partial_tiles())
    assert await store.tiles(tenant(operator), tiles_of(total)) == expected
    assert (await store.head(tenant(operator))).root == builder.root()
    # What a smaller tree had, too.
    earlier = await store.tiles(tenant(operator), [Tile(0, 1, 7), Tile(1, 0, 2)])
    assert earlier == {tile: expected[Tile.at(tile.level, tile.index, total)][: tile.width * 32] for tile in earlier}


async def test_publishing_goes_on_where_it_stopped(store: LogStore, operator: Person) -> None:
    await store.seal(operator.scope, candidates(operator.scope, *[event() for _ in range(5)]))

    async def publish(limit: int, upto: int | None, failure: Exception | None = None) -> list[int]:
        async with store.publication(operator.scope, limit=limit) as publication:
            publication.upto = upto
            if failure is not None:
                raise failure
            return [stored.index for stored in publication.entries]

    assert await publish(3, None) == [0, 1, 2]
    assert await publish(3, 3) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the broker is away"):
        await publish(3, 5, RuntimeError("the broker is away"))
    assert await publish(3, 5) == [3, 4]
    assert await publish(3, None) == []
    assert await published(store, operator.scope) == 5


async def test_what_a_publisher_has_at_hand_is_not_read(store: LogStore, operator: Person) -> None:
    await store.seal(operator.scope, candidates(operator.scope, *[event() for _ in range(5)]))

    async def due(at_hand: range) -> tuple[list[int], int, int]:
        async with store.publication(operator.scope, limit=9, at_hand=at_hand) as publication:
            indexes = [stored.index for stored in publication.entries]
            return indexes, publication.published_size, publication.size

    assert await due(range(5)) == ([], 0, 5)
    assert await due(range(3, 5)) == ([0, 1, 2, 3, 4], 0, 5)  # somebody's crash left three unpublished before them


async def test_a_reader_sees_its_own_scope_only(store: LogStore, person: Callable[..., Person]) -> None:
    one, rival = person(), person()
    organization = person(OrgId.parse(one.caller.organization))
    await store.seal(one.scope, candidates(one.scope, event()))
    for stranger in (rival, organization):
        assert await store.head(tenant(stranger)) == Head()
        assert await store.leaves(tenant(stranger), start=0, end=9) == []
        assert (await store.tiles(tenant(stranger), [Tile(0, 0, 1)]))[Tile(0, 0, 1)] == b""


async def test_a_page_of_leaves_fits_a_message(store: LogStore, operator: Person) -> None:
    large = [event(details={"text": "x" * 60_000}) for _ in range(12)]
    await store.seal(operator.scope, candidates(operator.scope, *large))
    found = await store.leaves(tenant(operator), start=0, end=12)
    assert 0 < sum(len(stored.leaf) for stored in found) <= MAX_PAGE_BYTES
    assert [stored.index for stored in found] == list(range(len(found)))


async def test_what_was_signed_is_remembered_and_never_goes_back(store: LogStore, operator: Person) -> None:
    await store.seal(operator.scope, candidates(operator.scope, event(), event(), event()))
    root = (await store.head(tenant(operator))).root
    signer = Signer.from_seed("log", bytes(32))
    heads = [SignedHead(size, root, sign_checkpoint(Checkpoint("log", size, root), signer)) for size in (2, 3)]
    for head in heads:
        await store.remember_signed(operator.scope, head)
        assert await store.signed(operator.scope) == head
    await store.remember_signed(operator.scope, heads[0])
    assert await store.signed(operator.scope) == heads[1]


async def test_an_event_is_located_in_its_own_log(
    store: LogStore, operator: Person, person: Callable[..., Person]
) -> None:
    known = [event() for _ in range(3)]
    (*_, last) = made = candidates(operator.scope, *known)
    await store.seal(operator.scope, made)
    assert await store.locate(the_log(operator.scope), known[2].id) == Located(2, last.leaf_hash, last.leaf)
    assert await store.locate(the_log(operator.scope), event().id) is None
    assert await store.locate(the_log(person().scope), known[2].id) is None


async def test_targets_are_searched_as_they_were_said(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record], operator: Person
) -> None:
    said = [
        ("plain",),
        (),
        ('quo"te', "back\\slash", "{bra,ce}", "com,ma", " ", "NULL", "ünïcode \U0001f600", "new\nline"),
    ]
    await PostgresStore(database).seal(
        operator.scope, candidates(operator.scope, *[event(targets=each) for each in said])
    )
    rows = await superuser.fetch("select targets from audit.entries where scope_id = $1 order by index", operator.scope)
    assert [tuple(row["targets"]) for row in rows] == said


async def test_what_is_in_already_is_looked_up_and_not_searched_for(database: Database, operator: Person) -> None:
    """Without statistics too, as in a database that is new: what sealing costs must not grow with the log."""
    scope = operator.scope
    there, absent = [event() for _ in range(400)], [event() for _ in range(100)]
    await PostgresStore(database).seal(scope, candidates(scope, *there))
    ids = [each.id for each in [*there[::4], *absent]]
    async with database.transaction(the_log(scope)) as connection:
        found = {row["event_id"] for row in await connection.fetch(_KNOWN, scope, ids)}
        plan = "\n".join(row[0] for row in await connection.fetch(f"explain (analyze) {_KNOWN}", scope, ids))
    assert found == {each.id for each in there[::4]}
    assert "leaves_scope_id_event_id_key" in plan
    assert "Rows Removed" not in plan


async def test_looking_for_tiles_is_planned_once_and_not_at_every_append(database: Database, operator: Person) -> None:
    async with database.transaction(the_log(operator.scope)) as connection:
        for _ in range(10):
            await connection.fetch(_TILES, operator.scope, [0], [7], [3])
        planned = await connection.fetchval(
            "select generic_plans from pg_prepared_statements where statement = $1", _TILES
        )
    assert planned >= 5  # the first five are planned for their values, whatever they are
