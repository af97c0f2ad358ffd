"""A log of ours, its prover, and three witnesses in this process that can be made to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_log import FakeLog
from fake_ports import SUBJECTS, FakeAlarm, FakeEmitter, FakeMemory, FakeWakeups
from fake_witness import FakeCosignatures, FakeDoor, FakeWitnessAlarm, FakeWitnessed
from makers import NOW, Person, candidates, event, make_person

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Checkpoint
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.note import SignedNote, VerifierKey
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.crypto.tlog_witness import AddCheckpoint
from wardmesh.ids import EventId, Scope
from wardmesh_audit.cosigning import Cosigning
from wardmesh_audit.proving import Prover
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.witness_rules import Logs
from wardmesh_audit.witness_signing import WitnessSigner
from wardmesh_audit.witnessing import WitnessService

NAMES = ("w1", "w2", "w3")
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}


class Trusting:
    """A list of logs with every log of a mesh's."""

    def __init__(self, signer: LogSigner) -> None:
        self._signer = signer
        self.logs: dict[str, tuple[VerifierKey, ...]] = {}

    def add(self, scope: Scope) -> None:
        self.logs[self._signer.origin(scope)] = (VerifierKey.parse(self._signer.verifier_key(scope)),)

    def current(self) -> Logs:
        return self.logs


@dataclass
class World:
    """A log, its prover, and three witnesses in this process."""

    quorum: str
    log: FakeLog = field(default_factory=FakeLog)
    memory: FakeMemory = field(default_factory=FakeMemory)
    alarm: FakeWitnessAlarm = field(default_factory=FakeWitnessAlarm)
    kept: FakeCosignatures = field(default_factory=FakeCosignatures)
    door: FakeDoor = field(default_factory=FakeDoor)
    signer: LogSigner = field(default_factory=lambda: LogSigner("ours.example", Ed25519PrivateKey.generate()))
    person: Person = field(default_factory=make_person)
    cosigning: list[Cosigning] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trusted = Trusting(self.signer)
        self.trusted.add(self.person.scope)
        self.books = {name: FakeWitnessed() for name in NAMES}
        self.memories = {name: FakeMemory() for name in NAMES}
        listed: object = self.trusted
        for name in NAMES:
            self.door.witnesses[f"https://{name}.example"] = WitnessService(
                self.books[name],
                WitnessSigner(f"{name}.example", KEYS[name]),
                listed,  # type: ignore[arg-type]  # as a file would be
                self.memories[name],
                FakeEmitter(),
                lambda: NOW,
            )
        self.policy = Policy.parse(
            "".join(
                f"witness {name} {Cosigner(f'{name}.example', KEYS[name]).verifier} https://{name}.example/\n"
                for name in NAMES
            ).encode()
            + f"group two 2 w1 w2 w3\nquorum {self.quorum}\n".encode()
        )
        self.prover = self.process()

    def process(self) -> Prover:
        """Return another process of ours, with the same database, bucket and witnesses."""
        made = Cosigning(self.policy, self.log, self.kept, self.door, self.memory, self.alarm, lambda: NOW)
        self.cosigning.append(made)
        return Prover(self.log, FakeWakeups(), self.signer, self.memory, FakeAlarm(), SUBJECTS, made)

    @property
    def scope(self) -> Scope:
        return self.person.scope

    async def seal(self, count: int) -> list[EventId]:
        events = [event() for _ in range(count)]
        await self.log.seal(self.scope, candidates(self.scope, *events))
        return [each.id for each in events]

    async def checkpoint(self, prover: Prover | None = None, seconds: float = 10) -> Checkpoint:
        ask = self.person.ask(contracts.CHECKPOINT, seconds=seconds)
        return await (prover or self.prover).checkpoint(ask, Empty())

    def who(self, note: str) -> set[str]:
        """Return whose right lines a note has; it must be signed by the log."""
        signed = open_checkpoint(note.encode(), self.signer.verifier_key(self.scope))
        return set(self.policy.look(SignedNote.parse(note.encode()), signed).at)

    def breaks(self, name: str, answer: object) -> None:
        self.door.answers[f"https://{name}.example"] = answer  # type: ignore[assignment]  # any of what it takes

    def mended(self, name: str) -> None:
        self.door.answers.pop(f"https://{name}.example")

    def asked(self, name: str) -> list[AddCheckpoint]:
        return [AddCheckpoint.parse(body) for url, body in self.door.asked if url == f"https://{name}.example"]

    async def forget(self) -> None:
        """Let every pause be over."""
        for each in self.cosigning:
            each._pauses.clear()


@asynccontextmanager
async def cosigned_log(quorum: str) -> AsyncIterator[World]:
    made = World(quorum)
    yield made
    for each in made.cosigning:
        await each.close()
