"""C2SP verifier keys (*vkeys*): a name, an id that follows from name and key, and the key's type and bytes.

    name+id+base64(type || public key)        id: the first four bytes of SHA-256(name, newline, type, public key)

What always holds: a key has one text form, and its id is the one that its bytes have; so one key under two names has
two ids, and a signature made for one log does not pass for another's.

On failure: `InvalidKey`.

Source: C2SP signed-note v1.1, "Verifier keys".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeAlias

from wardmesh.crypto.encoding import base64_decode, base64_encode
from wardmesh.crypto.errors import InvalidKey, MalformedEncoding

KEY_ID_BYTES: Final = 4

KeyIdentity: TypeAlias = tuple[str, bytes]
"""A key's name and its id: what a signature line says of whom it is."""


def is_key_name(name: str) -> bool:
    """Tell whether `name` may name a key: it is not empty, and has no white space and no plus sign."""
    return bool(name) and "+" not in name and not any(character.isspace() for character in name)


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A named public key of one type; each type is a class of its own, which says how a signature is verified."""

    type: ClassVar[bytes]
    length: ClassVar[int]
    algorithm: ClassVar[str]
    makes: ClassVar[str] = "signatures"

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise InvalidKey("a key's name is not empty and has no space and no plus sign")
        if len(self.public_key) != self.length:
            raise InvalidKey(f"an {self.algorithm} public key has {self.length} bytes")

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Return the key that `vkey` (name+id+base64) describes; its id MUST be the one that its bytes have."""
        name, key_id, data = parts_of(vkey)
        if not data.startswith(cls.type):
            raise InvalidKey(f"not a verifier key for {cls.algorithm} {cls.makes} (name+id+base64)")
        key = cls(name, data[len(cls.type) :])
        if key.key_id.hex() != key_id:
            raise InvalidKey("the verifier key's id is not that of its name and bytes")
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name ‖ newline ‖ type ‖ public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.type + self.public_key).digest()[:KEY_ID_BYTES]

    @property
    def identity(self) -> KeyIdentity:
        return self.name, self.key_id

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64_encode(self.type + self.public_key)}"


def parts_of(vkey: str) -> tuple[str, str, bytes]:
    """Return a verifier key's name, its id as it is written, and its type and bytes."""
    name, _, rest = vkey.partition("+")
    key_id, _, encoded = rest.partition("+")  # base64 itself may contain a plus
    try:
        return name, key_id, base64_decode(encoded)
    except MalformedEncoding as error:
        raise InvalidKey("the verifier key's base64 is malformed") from error
