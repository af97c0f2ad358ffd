"""C2SP tlog-checkpoints: what a log says of itself, signed.

    example.com/behind-the-sofa
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+…

What always holds: `open_checkpoint` returns a checkpoint only if the trusted key signed it and it is of the log that
the caller meant. One key may sign for many logs; without the origin's comparison one tenant's checkpoint would pass for
another's.

What is not decided here: whether it is consistent with the one before. A log MUST NOT sign two checkpoints that are
not (see `tlog.verify_consistency`); who signs has to compare first.

On failure: `MalformedEncoding`, `BadSignature`.

Source: C2SP tlog-checkpoint v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from wardmesh.crypto.encoding import base64_decode, base64_encode, decimal_decode
from wardmesh.crypto.errors import BadSignature, MalformedEncoding
from wardmesh.crypto.merkle import EMPTY_ROOT, HASH_BYTES
from wardmesh.crypto.note import SignedNote, Signer, VerifierKey, open_note, sign_note

MAX_SIZE: Final = 2**63 - 1
_BODY_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's identity, its number of entries and its root hash at that size."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(map(_is_line, (self.origin, *self.extensions))):
            raise MalformedEncoding("a checkpoint's lines are not empty and have no control characters")
        if not 0 <= self.size <= MAX_SIZE:
            raise MalformedEncoding("a checkpoint's size is out of range")
        if len(self.root) != HASH_BYTES or (self.size == 0 and self.root != EMPTY_ROOT):
            raise MalformedEncoding("a checkpoint's root is not one that a log of its size can have")

    def text(self) -> str:
        """Return the text that is signed."""
        lines = (self.origin, str(self.size), base64_encode(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse_text(cls, text: str) -> Self:
        """Return the checkpoint of a note's text."""
        lines = text.split("\n")
        if len(lines) <= _BODY_LINES or lines.pop() != "":
            raise MalformedEncoding("a checkpoint has at least three lines, each ended by a newline")
        origin, size, root, *extensions = lines
        return cls(origin, decimal_decode(size, maximum=MAX_SIZE), base64_decode(root), tuple(extensions))


def sign_checkpoint(checkpoint: Checkpoint, *signers: Signer) -> bytes:
    """Return the signed checkpoint; the first signer's name SHOULD be the log's origin."""
    return sign_note(checkpoint.text(), signers).encode()


def open_checkpoint(data: bytes, vkey: str | VerifierKey, *, origin: str | None = None) -> Checkpoint:
    """Return the checkpoint in `data` if the log's key has signed it.

    `origin` is the log that is meant; without it, the one that the key is named after.
    """
    key = VerifierKey.parse(vkey) if isinstance(vkey, str) else vkey
    checkpoint = Checkpoint.parse_text(open_note(SignedNote.parse(data), [key]))
    if checkpoint.origin != (key.name if origin is None else origin):
        raise BadSignature("the checkpoint is another log's")
    return checkpoint


def _is_line(text: str) -> bool:
    return bool(text) and all(character >= " " for character in text)
