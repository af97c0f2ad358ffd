"""A whole log is verified only if it is what was signed; otherwise the first bad entry is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.errors import BadSignature, Fault, InconsistentLog
from wardmesh.crypto.log_verify import verify_log
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.note import Signer
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import Tile, tiles_of

SIGNER = Signer.from_seed("example.org/ws_1", bytes(range(32)))
VKEY = str(SIGNER.verifier)
SIZE = 700
ENTRIES = [b"entry %d" % number for number in range(SIZE)]


class StoredLog:
    """A log with its tiles and its checkpoint, to be tampered with."""

    def __init__(self, entries: list[bytes]) -> None:
        builder = TileBuilder()
        tiles = [*builder.add([leaf_hash(entry) for entry in entries]), *builder.partial_tiles()]
        self.tiles: dict[Tile, bytes] = dict(tiles)
        self.checkpoint = sign_checkpoint(Checkpoint("example.org/ws_1", len(entries), builder.root()), SIGNER)


LOG = StoredLog(ENTRIES)
sizes = st.integers(0, SIZE)


def changed(entries: list[bytes], index: int) -> list[bytes]:
    return [*entries[:index], entries[index] + b"!", *entries[index + 1 :]]


def deleted(entries: list[bytes], index: int) -> list[bytes]:
    return entries[:index] + entries[index + 1 :]


def inserted(entries: list[bytes], index: int) -> list[bytes]:
    return [*entries[:index], b"inserted", *entries[index:]]


def swapped(entries: list[bytes], index: int) -> list[bytes]:
    other = (index + 1) % len(entries)
    entries = list(entries)
    entries[index], entries[other] = entries[other], entries[index]
    return entries


TAMPERINGS = [changed, deleted, inserted, swapped]
Tampering = Callable[[list[bytes], int], list[bytes]]


@pytest.mark.property
@given(sizes)
def test_sound_logs_of_any_size_verify(size: int) -> None:
    log = StoredLog(ENTRIES[:size])
    verified = verify_log(iter(ENTRIES[:size]), log.checkpoint, VKEY, stored=log.tiles.get)
    assert verified.checkpoint.size == size
    assert verified.tiles == len(list(tiles_of(size)))
    assert verify_log(ENTRIES[:size], log.checkpoint, VKEY).tiles == 0


@pytest.mark.property
@pytest.mark.parametrize("tamper", TAMPERINGS)
@given(index=st.integers(0, SIZE - 2))
def test_tampering_with_entries_is_found_and_named(tamper: Tampering, index: int) -> None:
    with pytest.raises(InconsistentLog) as caught:
        verify_log(tamper(ENTRIES, index), LOG.checkpoint, VKEY, stored=LOG.tiles.get)
    assert (caught.value.fault, caught.value.first, caught.value.proven) == (Fault.ENTRY_CHANGED, index, True)


@pytest.mark.parametrize("tamper", TAMPERINGS)
@pytest.mark.parametrize("index", [0, 255, 256, 698])
def test_without_tiles_it_is_found_too(tamper: Tampering, index: int) -> None:
    with pytest.raises(InconsistentLog) as caught:
        verify_log(tamper(ENTRIES, index), LOG.checkpoint, VKEY)
    assert caught.value.fault in {Fault.ROOT_DIFFERS, Fault.ENTRY_MISSING}
    assert caught.value.tile is None


@pytest.mark.property
@given(count=st.integers(0, SIZE - 1))
def test_a_truncated_log_is_found(count: int) -> None:
    with pytest.raises(InconsistentLog) as caught:
        verify_log(ENTRIES[:count], LOG.checkpoint, VKEY, stored=LOG.tiles.get)
    assert (caught.value.fault, caught.value.first, caught.value.proven) == (Fault.ENTRY_MISSING, count, True)
    with pytest.raises(InconsistentLog) as caught:
        verify_log(ENTRIES[:count], LOG.checkpoint, VKEY)
    # Something is missing; without tiles it may just as well be from the middle.
    assert (caught.value.fault, caught.value.first, caught.value.proven) == (Fault.ENTRY_MISSING, count, False)


def test_an_extended_log_is_found() -> None:
    with pytest.raises(InconsistentLog) as caught:
        verify_log([*ENTRIES, b"one more"], LOG.checkpoint, VKEY, stored=LOG.tiles.get)
    assert (caught.value.fault, caught.value.first) == (Fault.ENTRY_EXTRA, SIZE)


def test_a_log_that_signs_a_size_it_does_not_have_is_found() -> None:
    root = TileBuilder()
    root.add([leaf_hash(entry) for entry in ENTRIES[:5]])
    lie = sign_checkpoint(Checkpoint("example.org/ws_1", 8, root.root()), SIGNER)
    with pytest.raises(InconsistentLog) as caught:
        verify_log(ENTRIES[:5], lie, VKEY)
    assert (caught.value.fault, caught.value.first) == (Fault.ENTRY_MISSING, 5)


@pytest.mark.property
@given(st.data())
def test_tampering_with_any_tile_is_found_and_named(data: st.DataObject) -> None:
    tile = data.draw(st.sampled_from(sorted(LOG.tiles)))
    content = bytearray(LOG.tiles[tile])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    tiles = {**LOG.tiles, tile: bytes(content)}
    with pytest.raises(InconsistentLog) as caught:
        verify_log(ENTRIES, LOG.checkpoint, VKEY, stored=tiles.get)
    found = caught.value
    assert (found.fault, found.tile, found.proven) == (Fault.TILE_CHANGED, tile.path, True)
    assert found.first == tile.first_entry(at // 32)


@pytest.mark.parametrize("tile", sorted(LOG.tiles))
def test_missing_cut_and_extended_tiles_are_found(tile: Tile) -> None:
    whole = LOG.tiles[tile]
    damages = ((None, Fault.TILE_MISSING), (whole[:-32], Fault.TILE_CHANGED), (whole + bytes(32), Fault.TILE_CHANGED))
    for content, fault in damages:
        with pytest.raises(InconsistentLog) as caught:
            verify_log(ENTRIES, LOG.checkpoint, VKEY, stored=lambda at, it=content: it if at == tile else LOG.tiles[at])
        assert (caught.value.fault, caught.value.tile) == (fault, tile.path)


def test_entry_and_tiles_changed_together_are_found_by_the_signature() -> None:
    """Whoever has the database can make entries and tiles agree; the signed root it cannot make."""
    forged = StoredLog(changed(ENTRIES, 300))
    with pytest.raises(InconsistentLog) as caught:
        verify_log(changed(ENTRIES, 300), LOG.checkpoint, VKEY, stored=forged.tiles.get)
    assert caught.value.fault is Fault.ROOT_DIFFERS
    # Were the tiles above forgotten, they narrow it down: the second full tile's entries.
    tiles = {**LOG.tiles, Tile(0, 1): forged.tiles[Tile(0, 1)]}
    with pytest.raises(InconsistentLog) as caught:
        verify_log(changed(ENTRIES, 300), LOG.checkpoint, VKEY, stored=tiles.get)
    assert (caught.value.fault, caught.value.first, caught.value.proven) == (Fault.ENTRY_CHANGED, 256, False)


def test_a_checkpoint_by_another_key_or_of_another_log_is_refused_first() -> None:
    stranger = Signer.from_seed("example.org/ws_1", bytes(32))

    def unread() -> Iterator[bytes]:
        pytest.fail("entries were read for a checkpoint that nobody vouches for")
        yield b""

    with pytest.raises(BadSignature):
        verify_log(unread(), LOG.checkpoint, str(stranger.verifier))
    with pytest.raises(BadSignature):
        verify_log(unread(), LOG.checkpoint, VKEY, origin="example.org/ws_2")


def test_memory_does_not_grow_with_the_log() -> None:
    def peak(count: int) -> int:
        builder = TileBuilder()
        leaves = [leaf_hash(b"same")] * 256
        for _ in range(count // 256):
            builder.add(leaves)
        checkpoint = sign_checkpoint(Checkpoint("example.org/ws_1", count, builder.root()), SIGNER)
        tracemalloc.start()
        try:
            verify_log((b"same" for _ in range(count)), checkpoint, VKEY)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(256 * 128) < peak(256 * 8) + 50_000


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InconsistentLog(Fault.ENTRY_CHANGED, 7, tile="tile/0/000"), "entry 7 is not what was signed"),
        (InconsistentLog(Fault.TILE_MISSING, 256, tile="tile/0/001"), "tile/0/001 (from entry 256) is not stored"),
        (
            InconsistentLog(Fault.ENTRY_MISSING, 7, proven=False),
            "entry 7 is missing: the log ends before its signed size; there may be others before it",
        ),
    ],
)
def test_the_sentence_says_where(error: InconsistentLog, sentence: str) -> None:
    assert str(error) == sentence
