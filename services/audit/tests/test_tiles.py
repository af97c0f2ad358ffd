"""The log as tiles, on a log in memory and one in PostgreSQL: every file that its size requires, and nothing beyond."""

from __future__ import annotations

import pytest
from fake_log import FakeLog, Person, candidates, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import ReadBundle, ReadTile
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import bundles_of, decode_bundle
from wardmesh_audit.errors import LogDamaged, NoSuchTile
from wardmesh_audit.ports import LogStore
from wardmesh_audit.tiles import TileReader

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


async def test_a_damaged_log_is_not_served(fake_log: FakeLog, operator: Person) -> None:
    await fill(fake_log, operator, 300)
    tiles = TileReader(fake_log)
    del fake_log.rows[operator.scope].entries[7]
    with pytest.raises(LogDamaged, match="Entry 7 is missing"):
        await tiles.bundle(operator.ask(contracts.BUNDLE), ReadBundle(path="tile/entries/000", skip=7))
    del fake_log.rows[operator.scope].tiles[(0, 0)]
    with pytest.raises(LogDamaged):
        await tiles.tile(operator.ask(contracts.TILE), ReadTile(path="tile/1/000.p/1"))
