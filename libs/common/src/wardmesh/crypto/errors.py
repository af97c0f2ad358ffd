"""The errors of `wardmesh.crypto`.

    CryptoError
    ├── InvalidKey          a key has the wrong length or form
    ├── MalformedEncoding   text or bytes do not parse, or are not in their one canonical form
    ├── Undecryptable       ciphertext, key and context do not belong together
    ├── BadSignature        no signature, or a wrong one, by the key that was trusted
    ├── NotWitnessed        too few of the trusted witnesses have cosigned (fields say who is missing)
    ├── BadProof            an inclusion or consistency proof does not prove what it should
    └── InconsistentLog     a log's entries or tiles are not what its checkpoint signed (fields say where)

What always holds: a message is a sentence of ours and names no value that came from outside, so it may be logged. In
particular `Undecryptable` never says which of key, context and ciphertext was wrong: to an attacker that is an oracle.

Not in this tree: a caller's own mistake (a naive datetime, an index beyond a size it chose itself) is a `ValueError`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class CryptoError(Exception):
    """Any refusal of `wardmesh.crypto`."""


class InvalidKey(CryptoError):
    """A key has the wrong length or form."""


class MalformedEncoding(CryptoError):
    """Text or bytes do not parse, or are not in their one canonical form."""


class Undecryptable(CryptoError):
    """Ciphertext, key and context do not belong together; which of them is wrong is not said."""

    def __init__(self) -> None:
        super().__init__("it cannot be opened with this key in this context")


class BadSignature(CryptoError):
    """There is no signature by the trusted key, or a wrong one."""


class NotWitnessed(CryptoError):
    """Too few of the witnesses that the verifier trusts have cosigned; their names are the verifier's own."""

    def __init__(self, cosigned: tuple[str, ...], missing: tuple[str, ...]) -> None:
        self.cosigned = cosigned
        self.missing = missing
        whole = len(cosigned) + len(missing)
        super().__init__(
            f"{len(cosigned)} of {whole} trusted witnesses have cosigned the checkpoint, too few; "
            f"missing: {', '.join(missing)}"
        )


class BadProof(CryptoError):
    """A proof does not prove what it should."""


class Fault(StrEnum):
    """What is wrong with a log."""

    ENTRY_CHANGED = "entry changed"  # this entry is not the one that was signed
    ENTRY_MISSING = "entry missing"  # the log ends before its signed size
    ENTRY_EXTRA = "entry extra"  # the log goes on after its signed size
    TILE_CHANGED = "tile changed"  # a stored tile differs from the entries under it
    TILE_MISSING = "tile missing"  # a tile that the signed size requires is not stored
    FORKED = "forked"  # what was signed at an earlier size is not what this log was then
    ROOT_DIFFERS = "root differs"  # the entries make another root, and no tiles say where they differ


_ADVICE: Final = {
    Fault.ENTRY_CHANGED: "is not what was signed",
    Fault.ENTRY_MISSING: "is missing: the log ends before its signed size",
    Fault.ENTRY_EXTRA: "lies beyond the signed size",
    Fault.TILE_CHANGED: "is the first that differs from the entries beneath",
    Fault.TILE_MISSING: "is not stored",
    Fault.FORKED: "is where a checkpoint that was kept ends, and this log was never what that one says",
    Fault.ROOT_DIFFERS: "to the last: somewhere an entry is not what was signed; stored tiles would tell where",
}


class InconsistentLog(CryptoError):
    """A log is not what its checkpoint signed.

    `first` is the index of the first entry concerned. `tile` is the path of the stored tile that disagrees, if one
    does. `proven` says that both the blame and the place are certain: the other side of the disagreement makes the
    signed root.
    """

    def __init__(self, fault: Fault, first: int, *, tile: str | None = None, proven: bool = True) -> None:
        self.fault = fault
        self.first = first
        self.tile = tile
        self.proven = proven
        where = f"{tile} (from entry {first})" if tile and fault in _TILE_FAULTS else f"entry {first}"
        doubt = "" if proven else "; there may be others before it"
        super().__init__(f"{where} {_ADVICE[fault]}{doubt}")


_TILE_FAULTS: Final = frozenset({Fault.TILE_CHANGED, Fault.TILE_MISSING})
