"""Tiles, bundles and their paths are C2SP tlog-tiles', and the parsers accept nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import (
    MAX_ENTRY_BYTES,
    MAX_INDEX,
    EntryBundle,
    Tile,
    bundles_between,
    bundles_of,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    node_reader,
    parse_path,
    tiles_between,
    tiles_of,
)
from wardmesh.crypto.tlog import consistency_proof, frontier_at, inclusion_proof

sizes = st.integers(0, 1030)


def test_paths_of_the_specification() -> None:
    # C2SP tlog-tiles, "Merkle Tree": index 1234067 is x001/x234/067.
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(63, 0, 1).path == "tile/63/000.p/1"
    assert EntryBundle(1234067, 255).path == "tile/entries/x001/x234/067.p/255"
    assert EntryBundle(999).path == "tile/entries/999"
    assert EntryBundle(1000).path == "tile/entries/x001/000"


def test_tiles_of_the_specification() -> None:
    # C2SP tlog-tiles, "Partial Tiles": the trees of 70,000 and of 256 entries.
    of_70000 = list(tiles_of(70_000))
    assert [tile for tile in of_70000 if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert sum(tile.level == 0 for tile in of_70000) == 274
    assert sum(tile.level == 1 for tile in of_70000) == 2
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(bundles_of(256)) == [EntryBundle(0)]
    assert list(tiles_of(0)) == list(bundles_of(0)) == []


@pytest.mark.property
@given(st.integers(0, 63), st.integers(0, MAX_INDEX), st.integers(1, 256))
def test_paths_read_back(level: int, index: int, width: int) -> None:
    for address in (Tile(level, index, width), EntryBundle(index, width)):
        assert parse_path(address.path) == address


@pytest.mark.property
@given(st.text(alphabet="x0123456789/.p", max_size=24))
def test_whatever_parses_is_spelled_the_one_way(rest: str) -> None:
    for path in (f"tile/{rest}", f"tile/0/{rest}", f"tile/entries/{rest}"):
        try:
            address = parse_path(path)
        except MalformedEncoding:
            continue
        assert address.path == path


@pytest.mark.parametrize(
    "path",
    [
        "", "tile", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/64/000",
        "tile/-1/000", "tile/0/x000", "tile/0/x000/000", "tile/0/x000/x001/000", "tile/0/001/000", "tile/0/x001/x000",
        "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p", "tile/0/000.p/1/",
        "/tile/0/000", "tile/0/000\n", "tile/0/000 ", "tile/data/000", "tile/entries/../000", "tile/0/٠٠٠",
        "tile/0/" + "x999/" * 6 + "999", "tile/0/" + "x001/" * 9000 + "000", "x/tile/0/000",
    ],
)  # fmt: skip
def test_hostile_paths_are_refused(path: str) -> None:
    with pytest.raises(MalformedEncoding):
        parse_path(path)


@pytest.mark.parametrize(
    ("level", "index", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 2**63, 1), (0, 0, 0), (0, 0, 257)]
)
def test_addresses_out_of_range_are_refused(level: int, index: int, width: int) -> None:
    with pytest.raises(ValueError, match="from"):
        Tile(level, index, width)


@pytest.mark.property
@given(sizes, sizes)
def test_what_is_written_as_a_log_grows_is_what_it_needs(one: int, other: int) -> None:
    old, new = sorted((one, other))
    assert set(tiles_of(new)) - set(tiles_of(old)) == set(tiles_between(old, new))
    assert set(bundles_of(new)) - set(bundles_of(old)) == set(bundles_between(old, new))


def test_a_log_cannot_shrink() -> None:
    with pytest.raises(ValueError, match="shrink"):
        list(tiles_between(2, 1))


@pytest.mark.property
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=256))
def test_bundles_read_back(entries: list[bytes]) -> None:
    data = encode_bundle(entries)
    assert decode_bundle(data, width=len(entries)) == entries
    for width in (len(entries) - 1, len(entries) + 1):
        with pytest.raises(MalformedEncoding):
            decode_bundle(data, width=width)


@pytest.mark.property
@given(st.binary(max_size=40), st.integers(1, 8))
def test_whatever_decodes_as_a_bundle_is_its_encoding(data: bytes, width: int) -> None:
    try:
        entries = decode_bundle(data, width=width)
    except MalformedEncoding:
        return
    assert encode_bundle(entries) == data


def test_bundles_at_their_limits() -> None:
    longest = bytes(MAX_ENTRY_BYTES)
    assert encode_bundle([b"ab", b""]) == b"\x00\x02ab\x00\x00"
    assert decode_bundle(encode_bundle([longest]), width=1) == [longest]
    for entries in ([longest + b"\0"], [], [b""] * 257):
        with pytest.raises(ValueError, match="entr"):
            encode_bundle(entries)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x01", b"\x00\x00\x00", b"\xff\xffab", b"\x00\x01a\x00"])
def test_cut_bundles_are_refused(data: bytes) -> None:
    for width in (1, 2):
        with pytest.raises(MalformedEncoding):
            decode_bundle(data, width=width)


def test_tiles_read_back() -> None:
    hashes = [leaf_hash(b"%d" % number) for number in range(256)]
    assert decode_tile(encode_tile(hashes)) == hashes
    assert decode_tile(encode_tile(hashes[:3]), width=3) == hashes[:3]
    for data in (b"", bytes(31), bytes(32 * 255), bytes(32 * 257)):
        with pytest.raises(MalformedEncoding):
            decode_tile(data)
    for wrong in ([], [bytes(31)], [bytes(32)] * 257):
        with pytest.raises(ValueError, match="hashes"):
            encode_tile(wrong)


@pytest.mark.property
@given(st.data())
def test_built_tiles_are_those_of_the_definition(obvious: Any, data: st.DataObject) -> None:
    """MTH(D[(n · 256 + i) · 256^l : (n · 256 + i + 1) · 256^l]), however the leaves come."""
    builder, tiles = TileBuilder(), {}
    size = data.draw(sizes)
    while builder.size < size:
        batch = data.draw(st.integers(1, size - builder.size))
        leaves = [obvious.root(index, index + 1) for index in range(builder.size, builder.size + batch)]
        for tile, content in builder.add(leaves):
            assert tile not in tiles
            tiles[tile] = content
    tiles |= dict(builder.partial_tiles())
    assert builder.root() == obvious.root(0, size)
    assert set(tiles) == set(tiles_of(size))
    for tile, content in tiles.items():
        first = tile.index * 256
        expected = [obvious.node(8 * tile.level, first + position) for position in range(tile.width)]
        assert decode_tile(content, width=tile.width) == expected


def test_three_levels_of_tiles() -> None:
    builder, size = TileBuilder(), 256 * 256 + 300
    tiles = [tile for tile, _ in builder.add([bytes(32)] * size)] + [tile for tile, _ in builder.partial_tiles()]
    assert sorted(tiles) == sorted(tiles_of(size))


@pytest.mark.property
@given(st.data())
def test_proofs_can_be_made_from_tiles_alone(obvious: Any, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 1030))
    builder = TileBuilder()
    tiles = dict(builder.add([obvious.root(index, index + 1) for index in range(size)])) | dict(builder.partial_tiles())
    read = node_reader(size, tiles.__getitem__)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert frontier_at(size, read).root() == obvious.root(0, size)
    assert inclusion_proof(index, size, read) == obvious.path(index, 0, size)
    assert consistency_proof(old, size, read) == (obvious.subproof(old, 0, size) if old else [])


def test_a_tile_of_the_wrong_length_is_refused() -> None:
    read = node_reader(3, lambda _tile: bytes(64))
    with pytest.raises(MalformedEncoding):
        read(0, 2)
