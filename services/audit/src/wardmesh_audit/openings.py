"""What entries commit to, sealed by a key a person: what is stored beside a leaf. Pure.

    openings = (pseudonym (16) ‖ length (4, big-endian) ‖ nonce (12) ‖ ciphertext ‖ tag (16)) for each person
    plaintext = number of values (1) ‖ salt (32) for each ‖ JSON [[path, value], …]
    AES-256-GCM, bound to scope, event and pseudonym

A key belongs to one person in one scope. From it follow, by HMAC-SHA256, the key that seals and the person's pseudonym:
an id of the form of a user's, by which entries are searched. Without the key nobody can tell whose it is, nor that of
two scopes is one person's.

What always holds: what is opened is what was sealed, for that event of that scope; a ciphertext that was moved to
another entry opens nowhere. A nonce is random: 2^32 entries are more than a person lives to see.

On failure: `Unopenable` for bytes that are none, of another entry, or of another key.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic_core import to_json

from wardmesh.contracts.audit import Opening
from wardmesh.crypto.commitment import SALT_BYTES
from wardmesh.crypto.encoding import length_prefixed
from wardmesh.ids import EventId, Scope, UserId
from wardmesh_audit.domain import Committed, Random

KEY_BYTES: Final = 32
_PSEUDONYM_BYTES: Final = 16
_LENGTH_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = _PSEUDONYM_BYTES + _LENGTH_BYTES
_DOMAIN: Final = b"wardmesh/audit/openings/v1"


class Unopenable(ValueError):
    """Not what was sealed for this entry by this key."""


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The key of a person in a scope; it shows neither itself nor whose it is."""

    subject: UserId = field(repr=False)
    secret: bytes = field(repr=False)
    pseudonym: UserId = field(init=False)
    cipher: AESGCM = field(init=False, repr=False, compare=False)
    _prefix: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a person's key has {KEY_BYTES} bytes")
        name = UUID(bytes=_derived(self.secret, b"pseudonym")[:_PSEUDONYM_BYTES])
        object.__setattr__(self, "pseudonym", UserId.from_uuid(name))
        object.__setattr__(self, "cipher", AESGCM(_derived(self.secret, b"key")))
        object.__setattr__(self, "_prefix", name.bytes)

    def seal(self, scope: Scope, event_id: EventId, values: Sequence[Committed], nonce: bytes) -> bytes:
        """Return the part of an entry's openings that is this person's; `nonce` MUST be random."""
        salts = b"".join([salt for _, salt in values])
        said = bytes((len(values),)) + salts + to_json([(value.path, value.value) for value, _ in values])
        sealed = nonce + self.cipher.encrypt(nonce, said, _context(scope, event_id, self._prefix))
        return self._prefix + len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed


def seal(
    scope: Scope,
    event_id: EventId,
    committed: Sequence[Committed],
    keys: Mapping[UserId, SubjectKey],
    *,
    random: Random = os.urandom,
) -> bytes:
    """Return what is stored beside a leaf: everything that it commits to, each value sealed by its person's key."""
    who = committed[0].personal.subject
    if all(each.personal.subject == who for each in committed):  # nearly always
        return keys[who].seal(scope, event_id, committed, random(_NONCE_BYTES))
    people: dict[UserId, list[Committed]] = {}
    for each in committed:
        people.setdefault(each.personal.subject, []).append(each)
    return b"".join(keys[who].seal(scope, event_id, values, random(_NONCE_BYTES)) for who, values in people.items())


def pseudonyms(openings: bytes) -> Iterator[UserId]:
    """Yield whose keys openings were sealed by; raise `Unopenable` for what are none."""
    return (UserId.from_uuid(UUID(bytes=name)) for name, _ in _parts(openings))


def open_(scope: Scope, event_id: EventId, openings: bytes, keys: Mapping[UserId, SubjectKey]) -> list[Opening]:
    """Return what can be opened with these keys, by pseudonym; what is another's stays closed."""
    found: list[Opening] = []
    for name, sealed in _parts(openings):
        key = keys.get(UserId.from_uuid(UUID(bytes=name)))
        if key is None:
            continue
        try:
            said = key.cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(scope, event_id, name))
            found.extend(_values(said))
        except (InvalidTag, ValueError, TypeError, IndexError) as error:
            raise Unopenable("openings that are not this entry's") from error
    return found


def _values(said: bytes) -> Iterator[Opening]:
    salts_end = 1 + said[0] * SALT_BYTES
    values = json.loads(said[salts_end:])
    if len(values) != said[0]:
        raise ValueError("not as many values as salts")
    for place, (path, value) in enumerate(values):
        start = 1 + SALT_BYTES * place
        yield Opening(path=path, salt=said[start : start + SALT_BYTES], value=value)


def _parts(openings: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(openings):
        name, length = openings[place : place + _PSEUDONYM_BYTES], openings[place + _PSEUDONYM_BYTES :][:_LENGTH_BYTES]
        end = place + _HEAD_BYTES + int.from_bytes(length, "big")
        if len(length) != _LENGTH_BYTES or end > len(openings) or end - place <= _HEAD_BYTES + _NONCE_BYTES:
            raise Unopenable("openings that end too early")
        yield name, openings[place + _HEAD_BYTES : end]
        place = end


def _context(scope: Scope, event_id: EventId, pseudonym: bytes) -> bytes:
    """Return what a ciphertext is bound to. Events' ids and pseudonyms have one length each, so nothing can shift."""
    return _context_head(scope) + event_id.encode() + pseudonym


@lru_cache(maxsize=1024)
def _context_head(scope: Scope) -> bytes:
    return length_prefixed(_DOMAIN, scope.encode())


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, length_prefixed(b"wardmesh/audit/subject/v1", purpose), "sha256")
