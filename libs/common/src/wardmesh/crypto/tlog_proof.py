"""C2SP tlog-proofs: one entry's place in a log, in a file that anybody can check offline.

    c2sp.org/tlog-proof@v1
    extra eyJldmVudCI6…
    index 73894
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=

    example.com/behind-the-sofa
    109482
    sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

    — example.com/behind-the-sofa hI2DJw…

What always holds: `verify_proof` returns a checkpoint only if the log's key signed it and the leaf is in the tree that
it commits to, at the index that the proof says. `extra` is nobody's word: it may be believed only where it is what was
hashed. A proof has one spelling: what `parse` accepts, `encode` writes back byte for byte.

On failure: `MalformedEncoding`, `BadSignature`, `BadProof`.

Source: C2SP tlog-proof v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from wardmesh.crypto.checkpoint import MAX_SIZE, Checkpoint, open_checkpoint
from wardmesh.crypto.encoding import base64_decode, base64_encode, decimal_decode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.note import MAX_NOTE_BYTES, VerifierKey
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES
from wardmesh.crypto.tlog import MAX_PROOF_HASHES, verify_inclusion

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_TLOG_PROOF_BYTES: Final = MAX_NOTE_BYTES + 2 * MAX_ENTRY_BYTES
"""A checkpoint, an entry in base64, and the lines around them."""
_EXTRA: Final = "extra "
_INDEX: Final = "index "
_MAX_HEAD_LINES: Final = MAX_PROOF_HASHES + 3  # the header, `extra` and `index`


@dataclass(frozen=True, slots=True)
class TlogProof:
    """Where an entry is, the hashes that show it, and the signed checkpoint of the tree that it is in."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None
    """Whatever the maker added. Not authenticated."""

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_SIZE:
            raise MalformedEncoding("the index is out of range")
        if len(self.hashes) > MAX_PROOF_HASHES or any(len(value) != HASH_BYTES for value in self.hashes):
            raise MalformedEncoding(f"a proof has at most {MAX_PROOF_HASHES} hashes of {HASH_BYTES} bytes")

    def encode(self) -> bytes:
        """Return the proof as it is handed on."""
        extra = [] if self.extra is None else [_EXTRA + base64_encode(self.extra)]
        lines = [HEADER, *extra, f"{_INDEX}{self.index}", *map(base64_encode, self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the proof that `data` is; nothing of it is verified."""
        if len(data) > MAX_TLOG_PROOF_BYTES:
            raise MalformedEncoding("the proof is too long")
        head, blank_line, checkpoint = data.partition(b"\n\n")
        if not blank_line:
            raise MalformedEncoding("a proof is a few lines, a blank line and a checkpoint")
        try:
            header, *lines = head.decode("ascii").split("\n", _MAX_HEAD_LINES)
        except UnicodeDecodeError as error:
            raise MalformedEncoding("a proof is ASCII up to its checkpoint") from error
        if header != HEADER:
            raise MalformedEncoding(f"a proof begins with the line {HEADER}")
        extra = base64_decode(lines.pop(0).removeprefix(_EXTRA)) if lines and lines[0].startswith(_EXTRA) else None
        if not lines or not lines[0].startswith(_INDEX):
            raise MalformedEncoding("a proof says which entry it is about (`index 7`)")
        index = decimal_decode(lines.pop(0).removeprefix(_INDEX), maximum=MAX_SIZE)
        return cls(index, tuple(map(base64_decode, lines)), checkpoint, extra)


def verify_proof(proof: TlogProof, leaf: bytes, vkey: str | VerifierKey, *, origin: str | None = None) -> Checkpoint:
    """Return the checkpoint only if `vkey` has signed it and leaf hash `leaf` is where the proof says.

    `origin` as in `open_checkpoint`.
    """
    checkpoint = open_checkpoint(proof.checkpoint, vkey, origin=origin)
    verify_inclusion(proof.index, checkpoint.size, leaf, proof.hashes, checkpoint.root)
    return checkpoint
