"""C2SP tlog-witness: what a log asks a witness, and what it is answered, byte for byte.

    POST <submission prefix>/add-checkpoint

    old 20852014
    PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
    …

    example.com/behind-the-sofa
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+…

The answer is cosignature lines (200), or the size that the witness knows (409, `text/x.tlog.size`).

What always holds: parsing is bounded and believes nothing; a request has one spelling, and what `parse` accepts,
`encode` writes back byte for byte.

On failure: `MalformedEncoding`.

Source: C2SP tlog-witness (the revision that is named in docs/adr/0025-witnesses.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from wardmesh.crypto.checkpoint import MAX_SIZE, Checkpoint
from wardmesh.crypto.encoding import base64_decode, base64_encode, decimal_decode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.note import MAX_SIGNATURES, Signature, SignedNote

ADD_CHECKPOINT_PATH: Final = "add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
MAX_PROOF_LINES: Final = 63
MAX_REQUEST_BYTES: Final = 64 * 1024
"""A proof is 3 KiB at the most, an ML-DSA-44 signature 3.3 KiB in base64: room for a dozen of those, and to spare."""
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_SIZE_BYTES: Final = 20
"""Of a size that is answered: nineteen digits and a newline."""
_OLD: Final = "old "


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A signed checkpoint, and the proof that it extends the one of `old_size`. Nothing of it is verified."""

    old_size: int
    proof: tuple[bytes, ...]
    note: SignedNote

    def __post_init__(self) -> None:
        if not 0 <= self.old_size <= MAX_SIZE:
            raise MalformedEncoding("the old size is out of range")
        if len(self.proof) > MAX_PROOF_LINES or any(len(value) != HASH_BYTES for value in self.proof):
            raise MalformedEncoding(f"a proof has at most {MAX_PROOF_LINES} hashes of {HASH_BYTES} bytes")

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says; MUST NOT be believed before a key of that log was found to have signed it."""
        return Checkpoint.parse_text(self.note.text)

    def encode(self) -> bytes:
        """Return the request's body."""
        lines = [f"{_OLD}{self.old_size}", *map(base64_encode, self.proof), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.note.encode()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Return the request that `body` is."""
        if len(body) > MAX_REQUEST_BYTES:
            raise MalformedEncoding("the request is too long")
        head, blank_line, rest = body.partition(b"\n\n")
        if not blank_line:
            raise MalformedEncoding("a request is an old size, a proof, a blank line and a checkpoint")
        try:
            first, *lines = head.decode("ascii").split("\n", MAX_PROOF_LINES + 1)
        except UnicodeDecodeError as error:
            raise MalformedEncoding("a request is ASCII up to its checkpoint") from error
        if not first.startswith(_OLD):
            raise MalformedEncoding("a request begins with the old size (`old 7`)")
        old_size = decimal_decode(first.removeprefix(_OLD), maximum=MAX_SIZE)
        request = cls(old_size, tuple(map(base64_decode, lines)), SignedNote.parse(rest))
        Checkpoint.parse_text(request.note.text)
        return request


def encode_lines(lines: tuple[Signature, ...]) -> bytes:
    """Return cosignature lines as a witness answers them."""
    return "".join(f"{line}\n" for line in lines).encode()


def parse_lines(body: bytes) -> tuple[Signature, ...]:
    """Return the cosignature lines that a witness answered, at least one. None of them is verified."""
    if len(body) > MAX_ANSWER_BYTES:
        raise MalformedEncoding("the answer is too long")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedEncoding("the answer is not UTF-8") from error
    if not text.endswith("\n"):
        raise MalformedEncoding("an answer's lines end with a newline")
    return tuple(map(Signature.parse, text[:-1].split("\n", MAX_SIGNATURES)))


def parse_size(body: bytes) -> int:
    """Return the size that a witness knows."""
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedEncoding("a size is ASCII") from error
    if not text.endswith("\n"):
        raise MalformedEncoding("a size ends with a newline")
    return decimal_decode(text[:-1], maximum=MAX_SIZE)
