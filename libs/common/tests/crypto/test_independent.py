"""An implementation by other people reads what we write: tlog-scales, https://github.com/florolf/tlog-scales."""

from __future__ import annotations

from pathlib import Path

import pytest

from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.note import Signer
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import bundles_of, encode_bundle, node_reader
from wardmesh.crypto.tlog import consistency_proof, frontier_at, inclusion_proof

backend = pytest.importorskip("tlog_scales.backend", reason="tlog-scales is not installed")
reader = pytest.importorskip("tlog_scales.reader")
signing = pytest.importorskip("tlog_scales.signing")

SIGNER = Signer.from_seed("example.org/ws_1", bytes(range(32)))
SIZES = [1, 2, 3, 255, 256, 257, 700, 256 * 256 + 300]


@pytest.mark.parametrize("size", SIZES)
def test_it_reads_our_folder_and_agrees(tmp_path: Path, size: int) -> None:
    entries = [b"entry %d" % number for number in range(size)]
    builder = TileBuilder()
    tiles = dict([*builder.add([leaf_hash(entry) for entry in entries]), *builder.partial_tiles()])
    files = {tile.path: content for tile, content in tiles.items()}
    for bundle in bundles_of(size):
        files[bundle.path] = encode_bundle(entries[bundle.index * 256 :][: bundle.width])
    files["checkpoint"] = sign_checkpoint(Checkpoint("example.org/ws_1", size, builder.root()), SIGNER)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)

    theirs = reader.TilesReader(backend.LocalBackend(tmp_path))
    checkpoint = theirs.get_checkpoint()
    checkpoint.verify(signing.Vkey.from_string(str(SIGNER.verifier)))
    assert checkpoint.root_hash == theirs.calculate_root_hash() == builder.root()

    ours = node_reader(size, tiles.__getitem__)
    for index in {0, size // 3, size // 2, size - 1}:
        assert theirs.get_entry(index) == entries[index]
        proof = theirs.get_inclusion_proof(index, size)
        assert inclusion_proof(index, size, ours) == proof.node_hashes
        proof.check(leaf_hash(entries[index]), builder.root())
    for old in {1, size // 3, size // 2, size - 1} - {0}:
        proof = theirs.get_consistency_proof(old, size)
        assert consistency_proof(old, size, ours) == proof.node_hashes
        proof.check(frontier_at(old, ours).root(), builder.root())


def test_we_sign_what_it_signs() -> None:
    root = leaf_hash(b"entry")
    theirs = signing.PlainEd25519Signer("example.org/ws_1", bytes(range(32)))
    assert theirs.vkey.serialize() == str(SIGNER.verifier)
    tlog = pytest.importorskip("tlog_scales.tlog")
    signed = tlog.Checkpoint.make_signed("example.org/ws_1", 1, root, [theirs])
    assert signed.serialize().encode() == sign_checkpoint(Checkpoint("example.org/ws_1", 1, root), SIGNER)
