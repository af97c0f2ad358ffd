"""C2SP tlog-policies: which witnesses' cosignatures make a checkpoint believable, in a file that many tools read.

    witness w1 witness.example.com/w1+8d66cf3f+BM… https://witness.example.com/
    witness w2 other.example.org+…
    group both all w1 w2
    quorum both

What always holds: `check` returns only if the quorum has cosigned the very checkpoint; each witness counts once. A
policy refers only to what stands above, so it is a tree and evaluating it ends.

On failure: `InvalidPolicy`, which says which line; `NotWitnessed`, which has the names of who is missing;
`BadSignature` for a wrong line by a witness of the policy.

Source: C2SP tlog-policy (the revision that is named in docs/adr/0025-witnesses.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import WitnessKey, cosigned, parse_witness_key
from wardmesh.crypto.encoding import decimal_decode
from wardmesh.crypto.errors import CryptoError, InvalidKey, MalformedEncoding, NotWitnessed
from wardmesh.crypto.note import SignedNote

MAX_POLICY_BYTES: Final = 256 * 1024
"""An ML-DSA-44 key has 1.8 KiB in base64."""
MAX_WITNESSES: Final = 64
"""A note has a hundred lines at the most, and the log's own are among them."""
MAX_GROUPS: Final = 64
MAX_LOGS: Final = 64
NOBODY: Final = "none"
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class InvalidPolicy(CryptoError):
    """A policy file is not one."""

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {why}" if line is not None else why)


@dataclass(frozen=True, slots=True)
class Witness:
    """One witness: its name in the policy, its key, and where it takes checkpoints, if the policy says so."""

    name: str
    key: WitnessKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """At least `threshold` of `members`, each a witness or another group."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Who has cosigned, and when (seconds since 1970), and who of the policy has not."""

    at: Mapping[str, int]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Witnesses, and which of them must have cosigned."""

    witnesses: Mapping[str, Witness] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, Group] = field(default_factory=lambda: MappingProxyType({}))
    quorum: str = NOBODY
    logs: tuple[str, ...] = ()
    """The verifier keys of the logs that it is about, as written; none, if that is known from elsewhere."""

    @classmethod
    def of_keys(cls, vkeys: Iterable[str], quorum: int | None = None) -> Self:
        """Return the policy that so many of these keys must have cosigned; all of them, if no number is given."""
        found: dict[str, Witness] = {}
        for number, vkey in enumerate(vkeys, 1):
            key = parse_witness_key(vkey)
            if any(each.key.public_key == key.public_key for each in found.values()):
                raise InvalidPolicy("a witness's key is named twice")
            name = key.name if key.name not in found else f"{key.name} ({number})"
            found[name] = Witness(name, key)
        wanted = len(found) if quorum is None else quorum
        if not found or not 1 <= wanted <= len(found):
            raise InvalidPolicy("a quorum is at least one witness, and at most all that are named")
        if len(found) > MAX_WITNESSES:
            raise InvalidPolicy(f"a policy has at most {MAX_WITNESSES} witnesses")
        return cls(found, {"": Group(wanted, tuple(found))}, "")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the policy that a file holds."""
        if len(data) > MAX_POLICY_BYTES:
            raise InvalidPolicy("the policy is too long")
        # Octets above ASCII have no meaning here but their own; this way each is one character, and stays it.
        text = data.decode("utf-8", errors="surrogateescape")
        if _FORBIDDEN.search(text) is not None:
            raise InvalidPolicy("a policy has no control characters but tab and newline")
        reader = _Reader()
        for number, line in enumerate(text.split("\n"), 1):
            words = re.split(r"[ \t]+", line.strip(" \t"))
            if words == [""] or words[0].startswith("#"):
                continue
            try:
                reader.read(words)
            except (InvalidPolicy, InvalidKey, MalformedEncoding) as error:
                raise InvalidPolicy(str(error), number) from error
        if reader.quorum is None:
            raise InvalidPolicy("a policy has one quorum line")
        return cls(reader.witnesses, reader.groups, reader.quorum, tuple(reader.logs))

    def is_met(self, names: Collection[str]) -> bool:
        """Tell whether cosignatures by these witnesses are enough."""
        return self.quorum == NOBODY or self._has(self.quorum, names)

    def _has(self, name: str, names: Collection[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in names
        return sum(self._has(member, names) for member in group.members) >= group.threshold

    def look(self, note: SignedNote, checkpoint: Checkpoint) -> Witnessed:
        """Return who of the policy has cosigned the note, whose checkpoint that is."""
        times = cosigned(note, checkpoint, [witness.key for witness in self.witnesses.values()])
        at = {name: times[witness.key] for name, witness in self.witnesses.items() if witness.key in times}
        return Witnessed(at, tuple(name for name in self.witnesses if name not in at))

    def check(self, note: SignedNote, checkpoint: Checkpoint) -> Witnessed:
        """Return who has cosigned, only if that is a quorum."""
        found = self.look(note, checkpoint)
        if not self.is_met(found.at):
            raise NotWitnessed(tuple(found.at), found.missing)
        return found


class _Reader:
    """Takes a policy line by line."""

    def __init__(self) -> None:
        self.witnesses: dict[str, Witness] = {}
        self.groups: dict[str, Group] = {}
        self.logs: list[str] = []
        self.quorum: str | None = None
        self._members: set[str] = set()

    def read(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._log(vkey)
            case ["witness", name, vkey]:
                self._witness(name, vkey, None)
            case ["witness", name, vkey, url]:
                self._witness(name, vkey, url)
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case ["quorum", name]:
                if self.quorum is not None:
                    raise InvalidPolicy("a policy has one quorum line")
                if name != NOBODY:
                    self._known(name)
                self.quorum = name
            case _:
                raise InvalidPolicy("not a line of a policy: log, witness, group or quorum")

    def _log(self, vkey: str) -> None:
        if vkey in self.logs or len(self.logs) >= MAX_LOGS:
            raise InvalidPolicy(f"a policy has at most {MAX_LOGS} logs, each once")
        self.logs.append(vkey)

    def _witness(self, name: str, vkey: str, url: str | None) -> None:
        self._new(name)
        key = parse_witness_key(vkey)
        if any(each.key.public_key == key.public_key for each in self.witnesses.values()):
            raise InvalidPolicy("that witness's key is in the policy already")
        if len(self.witnesses) >= MAX_WITNESSES:
            raise InvalidPolicy(f"a policy has at most {MAX_WITNESSES} witnesses")
        self.witnesses[name] = Witness(name, key, url)

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        self._new(name)
        if len(self.groups) >= MAX_GROUPS:
            raise InvalidPolicy(f"a policy has at most {MAX_GROUPS} groups")
        for member in members:
            self._known(member)
            if member in self._members:
                raise InvalidPolicy("a name is a member once")
            self._members.add(member)
        words = {"all": len(members), "any": 1}
        number = words[threshold] if threshold in words else decimal_decode(threshold)
        if not 1 <= number <= len(members):
            raise InvalidPolicy("a threshold is at least one, and at most the number of members")
        self.groups[name] = Group(number, tuple(members))

    def _new(self, name: str) -> None:
        if name == NOBODY or name in self.witnesses or name in self.groups:
            raise InvalidPolicy("that name is taken")

    def _known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise InvalidPolicy("a name is defined on a line above")
