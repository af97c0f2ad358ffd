"""The log as tiles, on a log in memory and one in PostgreSQL: every file that its size requires, and nothing beyond."""

from __future__ import annotations

from datetime import date

import pytest
from fake_log import FakeLog
from makers import Person, candidates, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import MAX_KEPT_RUNS, KeptRun, ReadBundle, ReadKept, ReadTile
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import bundles_of, decode_bundle
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.domain import Stored
from wardmesh_audit.errors import LogDamaged, NoSuchTile
from wardmesh_audit.ports import Kept, LogStore
from wardmesh_audit.proofs import Head
from wardmesh_audit.tiles import KEPT_ENTRIES, TileReader, _in_places

SIZE = 600


async def fill(store: LogStore, person: Person, count: int = SIZE, **fields: object) -> list[bytes]:
    leaves: list[bytes] = []
    while len(leaves) < count:
        made = candidates(person.scope, *[event(**fields) for _ in range(min(250, count - len(leaves)))])
        await store.seal(person.scope, made)
        leaves += [each.leaf for each in made]
    return leaves


async def bundle(tiles: TileReader, person: Person, path: str) -> tuple[bytes, int]:
    content, skip, parts = b"", 0, 0
    while True:
        part = await tiles.bundle(person.ask(contracts.BUNDLE), ReadBundle(path=path, skip=skip))
        content, skip, parts = content + part.content, skip + part.entries, parts + 1
        if not part.left:
            return content, parts


async def test_every_file_of_every_size_is_there(store: LogStore, operator: Person) -> None:
    leaves = await fill(store, operator)
    tiles = TileReader(store)
    for size in (1, 255, 256, 257, SIZE):
        builder = TileBuilder()
        for tile, content in [*builder.add([leaf_hash(leaf) for leaf in leaves[:size]]), *builder.partial_tiles()]:
            answer = await tiles.tile(operator.ask(contracts.TILE), ReadTile(path=tile.path))
            assert answer.content == content, tile.path
        for at in bundles_of(size):
            content, _ = await bundle(tiles, operator, at.path)
            assert decode_bundle(content, width=at.width) == leaves[at.index * 256 :][: at.width]


async def test_a_bundle_of_large_entries_comes_in_parts(store: LogStore, operator: Person) -> None:
    leaves = await fill(store, operator, 256, details={"text": "x" * 8000})
    content, parts = await bundle(TileReader(store), operator, "tile/entries/000")
    assert parts > 1
    assert decode_bundle(content) == leaves


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/002", "tile/0/002.p/89", "tile/1/000", "tile/1/000.p/3", "tile/2/000.p/1", "tile/63/000.p/1",
        "tile/entries/002", "tile/entries/000.p/0", "tile/0/000.p/256", "tile/0/x000/000", "tile/00/000",
        "checkpoint", "tile/0/../0/000", "tile/0/999999999", "tile/0/000.p/01", "é",
    ],
)  # fmt: skip
async def test_what_the_log_does_not_reach_is_not_there(fake_log: FakeLog, operator: Person, path: str) -> None:
    await fill(fake_log, operator)
    tiles = TileReader(fake_log)
    with pytest.raises(NoSuchTile):
        await tiles.tile(operator.ask(contracts.TILE), ReadTile(path=path))
    with pytest.raises(NoSuchTile):
        await tiles.bundle(operator.ask(contracts.BUNDLE), ReadBundle(path=path))


async def test_what_is_missing_or_there_twice_has_no_bytes(fake_log: FakeLog, operator: Person) -> None:
    """Whoever verifies names it: nothing says that it was pruned, and its hash is in the tree."""
    leaves = await fill(fake_log, operator, 300)
    tiles = TileReader(fake_log)
    for index in (7, 255):
        del fake_log.rows[operator.scope].entries[index]
    content, _ = await bundle(tiles, operator, "tile/entries/000")
    entries = decode_bundle(content)
    assert [index for index, entry in enumerate(entries) if not entry] == [7, 255]
    assert entries[8:255] == leaves[8:255]
    fake_log.rows[operator.scope].entries.clear()
    content, parts = await bundle(tiles, operator, "tile/entries/000")
    assert (decode_bundle(content), parts) == ([b""] * 256, 1)
    assert _in_places([Stored(4, b"a"), Stored(5, b"b"), Stored(5, b"c"), Stored(6, b"d")], 3, 9) == [
        b"",
        b"a",
        b"",
        b"d",
    ]


async def test_a_damaged_tree_is_not_served(fake_log: FakeLog, operator: Person) -> None:
    await fill(fake_log, operator, 300)
    del fake_log.rows[operator.scope].tiles[(0, 0)]
    with pytest.raises(LogDamaged):
        await TileReader(fake_log).tile(operator.ask(contracts.TILE), ReadTile(path="tile/1/000.p/1"))


class Days(FakeLog):
    """Of three entries, the first two are kept to days of their own; runs are those of a real log."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.asked: list[range] = []

    async def head(self, tenant: TenantContext) -> Head:
        return Head(self.size)

    async def kept(self, tenant: TenantContext, *, start: int, end: int) -> Kept:
        self.asked.append(range(start, end))
        days = (date(2027, 1, 1), date(2027, 2, 1))
        runs = [KeptRun(first=i, last=i, kept_to=days[i % 3]) for i in range(start, end) if i % 3 < 2]
        return Kept(runs, date.min)


async def kept(tiles: TileReader, person: Person, size: int | None = None) -> tuple[list[KeptRun], int]:
    runs: list[KeptRun] = []
    start, pages = 0, 0
    while True:
        page = await tiles.kept(person.ask(contracts.KEPT), ReadKept(start=start, size=size))
        assert len(page.model_dump_json()) < 1_000_000
        assert len(page.runs) <= MAX_KEPT_RUNS
        runs, pages, size = [*runs, *page.runs], pages + 1, page.size
        if page.next_start is None:
            return runs, pages
        start = page.next_start


async def test_days_come_in_pages_of_bounded_runs(operator: Person) -> None:
    size = 30_001
    log = Days(size)
    runs, pages = await kept(TileReader(log), operator)
    assert [run.first for run in runs] == [index for index in range(size) if index % 3 < 2]
    assert pages > 1
    assert [each.start for each in log.asked] == list(range(0, size, KEPT_ENTRIES))
    runs, _ = await kept(TileReader(log), operator, size=100)
    assert runs[-1].last == 99, "no run goes on behind what was asked for"


async def test_days_of_a_log_that_ends_and_of_one_that_is_empty(store: LogStore, operator: Person) -> None:
    tiles = TileReader(store)
    assert await kept(tiles, operator) == ([], 1)
    await fill(store, operator, 300)
    assert await kept(tiles, operator) == ([], 1), "kept for ever"
    for start, size in ((300, None), (9**30, None), (301, 300)):
        page = await tiles.kept(operator.ask(contracts.KEPT), ReadKept(start=start, size=size))
        assert (page.runs, page.next_start) == ((), None)
    for size in (301, 9**30):
        with pytest.raises(NoSuchTile):
            await tiles.kept(operator.ask(contracts.KEPT), ReadKept(size=size))
