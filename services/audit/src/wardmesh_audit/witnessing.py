"""This mesh as a witness of other people's logs: `add_checkpoint`.

What always holds: of a log, one tree is cosigned, and it only grows. What was cosigned last is read, compared and
changed in one transaction, and is durable before a cosignature exists; if the process ends in between, the log asks
again and is told the size. It is remembered outside of the database too: one that was restored to an earlier point
makes us cosign nothing that we would not have cosigned before. Who asks is nobody; the log's signature is what counts.

A log that has signed two roots of one size has forked. That is not cosigned, and is written with both into the mesh's
own log, for it is evidence.

On failure: the errors of `witness_rules`; `NotAWitness` where no logs are configured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Final

from opentelemetry import metrics

from wardmesh.contracts.audit import AddCheckpoint, Cosigned, Outcome
from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.encoding import base64_encode
from wardmesh.crypto.tlog_witness import encode_lines
from wardmesh.errors import Overloaded, WardmeshError
from wardmesh.ids import OrgId, ServiceId
from wardmesh.server.context import Call
from wardmesh_audit import witness_rules as rules
from wardmesh_audit.behalf import COSIGN
from wardmesh_audit.errors import NotAWitness
from wardmesh_audit.ports import Emitter, SignedMeanwhile, SignedMemory
from wardmesh_audit.proofs import SignedHead
from wardmesh_audit.witness_ports import WitnessedStore
from wardmesh_audit.witness_signing import WitnessSigner
from wardmesh_audit.witnessed_logs import LogsFile

FORKED: Final = "forked"
MEMORY_ATTEMPTS: Final = 5

_meter = metrics.get_meter("wardmesh")
_cosigned = _meter.create_counter(
    "wardmesh.audit.witnessed", unit="{checkpoint}", description="Checkpoints of other logs that were cosigned"
)
_forked = _meter.create_counter(
    "wardmesh.audit.witnessed_forks", unit="{request}", description="Other logs that signed two trees of one size"
)
_log = logging.getLogger(__name__)


def remembered_as(origin: str) -> str:
    """Return as what another's log is remembered outside of the database: a bucket's keys have few letters."""
    return f"witnessed.{sha256(origin.encode()).hexdigest()}"


class WitnessService:
    """The use case of a witness. Without a signer it is none."""

    def __init__(
        self,
        store: WitnessedStore,
        signer: WitnessSigner | None,
        logs: LogsFile | None,
        memory: SignedMemory,
        emitter: Emitter,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._signer = signer
        self._logs = logs
        self._memory = memory
        self._emitter = emitter
        self._clock = clock

    async def add_checkpoint(self, call: Call, asked: AddCheckpoint) -> Cosigned:
        """Cosign a checkpoint, or say where its log has to begin."""
        if self._signer is None or self._logs is None:
            raise NotAWitness
        request, checkpoint = rules.read(asked.request)
        rules.check_signed(request.note, checkpoint, self._logs.current())
        # It is known now whose checkpoint it is; the witness keeps its own books, in the mesh's own scope.
        call.identify(
            organization=OrgId.nil(),
            scope=OrgId.nil(),
            principal=ServiceId.nil(),
            permissions=frozenset({COSIGN}),
        )
        call.note(targets=[checkpoint.origin[:256]], size=checkpoint.size)
        note = request.note.encode()
        outside, _ = await self._memory.last(remembered_as(checkpoint.origin))

        def allow(latest: rules.Latest) -> None:
            rules.check_growth(rules.later(latest, outside), request, checkpoint)

        try:
            await self._store.advance(call, checkpoint, note.decode(), allow)
            await self._remember(SignedHead(checkpoint.size, checkpoint.root, note), checkpoint.origin)
        except rules.Elsewhere as elsewhere:
            if elsewhere.other_root:
                await self._tell_of_fork(call, checkpoint, note)
            call.recorded = True  # where a log has to begin is part of the protocol, and changed nothing
            return Cosigned(known_size=elsewhere.size)
        _cosigned.add(1)
        lines = self._signer.sign(checkpoint, int(self._clock().timestamp()))
        return Cosigned(lines=encode_lines(lines).decode())

    async def _remember(self, cosigned: SignedHead, origin: str) -> None:
        """Remember what is in the books by now, unless another process that came later has already."""
        for _ in range(MEMORY_ATTEMPTS):
            last, revision = await self._memory.last(remembered_as(origin))
            if last is not None and last.size >= cosigned.size:
                rules.later(rules.Latest(cosigned.size, cosigned.root), last)
                return
            try:
                await self._memory.remember(remembered_as(origin), cosigned, revision)
            except SignedMeanwhile:
                continue
            return
        raise Overloaded("Too many bring checkpoints of this log at once.")

    async def _tell_of_fork(self, call: Call, checkpoint: Checkpoint, note: bytes) -> None:
        _forked.add(1)
        _log.critical("a log that is witnessed has signed two trees of %d entries", checkpoint.size)
        call.note(root=base64_encode(checkpoint.root), note=note[:4096].decode(errors="replace"))
        try:
            await self._emitter.emit(OrgId.nil(), [call.audit_event(Outcome.REFUSED, FORKED)])
        except WardmeshError:
            _log.error("the mesh's own log could not be told of a fork")
