"""Complete fakes of what witnessing needs from outside; other people's logs; and witnesses that misbehave."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_ports import Failing

from wardmesh.contracts.audit import ADD_CHECKPOINT, AddCheckpoint, AuditEvent, Cosigned
from wardmesh.crypto import tlog_witness
from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.note import Signature, SignedNote, Signer, sign_note
from wardmesh.crypto.tlog import consistency_proof
from wardmesh.crypto.vkey import KeyIdentity
from wardmesh.errors import WardmeshError
from wardmesh.ids import OrgId, RequestId, Scope, UserId
from wardmesh.server.context import Call
from wardmesh.server.database import Connection
from wardmesh_audit.witness_ports import Reached, WitnessAnswer, WitnessUnreachable
from wardmesh_audit.witness_rules import Latest, Logs
from wardmesh_audit.witness_signing import WitnessSigner
from wardmesh_audit.witnessing import WitnessService


class OtherLog:
    """A log of somebody else's, of entries 0, 1, 2…; `branch` makes another one of the same name and key."""

    def __init__(self, origin: str = "other.example/log", branch: str = "") -> None:
        self.signer = Signer.from_seed(origin, bytes(range(32)))
        self._branch = branch

    def branched(self, at: int, branch: str) -> OtherLog:
        """Return the log that was the same up to `at` entries, and then another."""
        other = OtherLog(self.signer.verifier.name, branch)
        other._same = at
        return other

    _same = 0

    def hashes(self, size: int) -> list[bytes]:
        return [leaf_hash(f"{number}{self._branch if number >= self._same else ''}".encode()) for number in range(size)]

    def checkpoint(self, size: int, *extensions: str) -> Checkpoint:
        return Checkpoint(self.signer.verifier.name, size, root_of(self.hashes(size)), extensions)

    def note(self, size: int) -> SignedNote:
        return sign_note(self.checkpoint(size).text(), [self.signer])

    def proof(self, old: int, size: int) -> tuple[bytes, ...]:
        hashes = self.hashes(size)
        return tuple(consistency_proof(old, size, lambda level, at: root_of(hashes[at << level : (at + 1) << level])))

    def request(self, old: int, size: int, proof: Sequence[bytes] | None = None) -> bytes:
        hashes = self.proof(old, size) if proof is None else tuple(proof)
        return tlog_witness.AddCheckpoint(old, hashes, self.note(size)).encode()


class FakeCosignatures(Failing):
    """The port `CosignatureStore` in memory."""

    def __init__(self) -> None:
        self.rows: dict[Scope, dict[tuple[str, bytes, int, str], tuple[Signature, int]]] = defaultdict(dict)

    async def lines(self, scope: Scope, checkpoint: Checkpoint, keys: Sequence[KeyIdentity]) -> Sequence[Signature]:
        self._fail()
        wanted = [(name, key_id, checkpoint.size, checkpoint.text()) for name, key_id in keys]
        return [self.rows[scope][key][0] for key in wanted if key in self.rows[scope]]

    async def reached(self, scope: Scope, keys: Sequence[KeyIdentity]) -> Mapping[KeyIdentity, Reached]:
        found: dict[KeyIdentity, Reached] = {}
        for (name, key_id, size, _), (_, time) in self.rows[scope].items():
            if (name, key_id) in keys and size > found.get((name, key_id), Reached(0, 0)).size:
                found[name, key_id] = Reached(size, time)
        return found

    async def keep(self, scope: Scope, checkpoint: Checkpoint, lines: Mapping[Signature, int]) -> None:
        self._fail()
        for line, time in lines.items():
            key = line.name, line.key_id, checkpoint.size, checkpoint.text()
            self.rows[scope].setdefault(key, (line, time))


class FakeWitnessed(Failing):
    """The port `WitnessedStore` in memory."""

    def __init__(self) -> None:
        self.latest: dict[str, Latest] = {}

    async def advance(self, call: Call, checkpoint: Checkpoint, note: str, allow: Callable[[Latest], None]) -> None:
        self._fail()
        allow(self.latest.get(checkpoint.origin, Latest()))
        self.latest[checkpoint.origin] = Latest(checkpoint.size, checkpoint.root)
        call.recorded = True


class FakeWitnessAlarm:
    """The port `WitnessAlarm` in memory."""

    def __init__(self) -> None:
        self.raised: set[tuple[Scope, str]] = set()

    async def disputed(self, scope: Scope, witness: str) -> None:
        self.raised.add((scope, witness))

    def agreed(self, scope: Scope, witness: str) -> None:
        self.raised.discard((scope, witness))


class Outbox:
    """The port `AuditOutbox`: what would be on its way once the transaction commits."""

    def __init__(self) -> None:
        self.sent: list[tuple[Scope, AuditEvent]] = []

    async def put_audit(self, connection: Connection, scope: Scope, event: AuditEvent) -> None:
        connection.after_commit(lambda: self.sent.append((scope, event)))


class FixedLogs:
    """A list of logs that does not change, in the place of a file."""

    def __init__(self, *logs: OtherLog) -> None:
        self.logs: Logs = {log.signer.verifier.name: (log.signer.verifier,) for log in logs}

    def current(self) -> Logs:
        return self.logs


def signer(name: str = "witness.example/w1") -> WitnessSigner:
    return WitnessSigner(name, Ed25519PrivateKey.generate())


def nobody(outbox: Outbox | None = None) -> Call:
    """Return a request as the gates admit it that comes from nobody."""
    return Call(
        ADD_CHECKPOINT,
        scope=OrgId.nil(),
        principal=UserId.nil(),
        request_id=RequestId.new(),
        ends_at=asyncio.get_running_loop().time() + 10,
        trace_id=None,
        outbox=outbox,
    )


async def ask(witness: WitnessService, body: bytes, outbox: Outbox | None = None) -> Cosigned:
    return await witness.add_checkpoint(nobody(outbox), AddCheckpoint(request=body))


class FakeDoor:
    """The port `WitnessDoor`: the way to witnesses in this process, each of which can be made to misbehave."""

    def __init__(self) -> None:
        self.witnesses: dict[str, WitnessService] = {}
        self.answers: dict[str, WitnessAnswer | Exception | Callable[[bytes], WitnessAnswer]] = {}
        """What is answered instead."""
        self.hold: asyncio.Event | None = None
        self.asked: list[tuple[str, bytes]] = []

    async def add_checkpoint(self, url: str, request: bytes) -> WitnessAnswer:
        self.asked.append((url, request))
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.get(url)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, WitnessAnswer):
            return answer
        if answer is not None:
            return answer(request)
        witness = self.witnesses.get(url)
        if witness is None:
            raise WitnessUnreachable("ConnectError")
        try:
            cosigned = await ask(witness, request)
        except WardmeshError as error:
            return WitnessAnswer(error.status, b"")
        if cosigned.known_size is not None:
            return WitnessAnswer(409, f"{cosigned.known_size}\n".encode())
        return WitnessAnswer(200, cosigned.lines.encode())
