"""What the log proves to callers: signed checkpoints, inclusion, growth, and receipts.

What always holds:
- A head is signed only if it extends everything that was ever signed; what is signed is remembered, in the database and
  outside of it, before it is given out.
- A proof is of committed entries, and a receipt is checked against its own checkpoint before it is given out.
- Where the logs have witnesses, what is given out has the lines that could be had within a bound (`cosigning`); where
  their policy asks for a quorum, nothing is given out without.
- A receipt is for who emitted the event, and for who may read the log. To anybody else an event that is there looks
  like one that is not, also by how long the answer takes.

Receipts are made on the log's own behalf, because who only writes may read no row; those transactions read only.

On failure: `SigningRefused` rather than a fork, `NotWitnessed` without the quorum, `LogDamaged` for a tree that
contradicts itself, `NoSuchEntry` and `NotSealed` for what is not there.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from wardmesh.contracts.audit import (
    READ,
    AskReceipt,
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    Prove,
    ProveGrowth,
    Receipt,
)
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.errors import BadProof
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh.crypto.tlog_proof import TlogProof
from wardmesh.errors import NotSealed, Overloaded
from wardmesh.ids import EventId, Scope
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh.server.tokens import Caller
from wardmesh_audit import domain, proofs
from wardmesh_audit.behalf import the_log
from wardmesh_audit.cosigning import Cosigning
from wardmesh_audit.errors import LogDamaged, NoSuchEntry, NotWitnessed, SigningRefused
from wardmesh_audit.ports import Alarm, Located, LogStore, SignedMeanwhile, SignedMemory, Wakeups
from wardmesh_audit.proofs import Head, SignedHead
from wardmesh_audit.signing import LogSigner, same_signers
from wardmesh_audit.subjects import Opened, Subjects

ANSWER_SECONDS: Final = 1.0
"""Kept of the caller's deadline for the way back."""
SIGN_ATTEMPTS: Final = 5


class Prover:
    """The use cases that sign and prove."""

    def __init__(
        self,
        store: LogStore,
        wakeups: Wakeups,
        signer: LogSigner,
        memory: SignedMemory,
        alarm: Alarm,
        subjects: Subjects,
        cosigning: Cosigning | None = None,
    ) -> None:
        self._subjects = subjects
        self._store = store
        self._alarm = alarm
        self._wakeups = wakeups
        self._signer = signer
        self._memory = memory
        self._cosigning = cosigning
        self._ending = False

    def end_waits(self) -> None:
        """Answer the receipts that wait, each when it next looks (`MAX_SILENCE_SECONDS`), and let no new one wait."""
        self._ending = True

    async def checkpoint(self, call: Call, _request: Empty) -> Checkpoint:
        """Return the committed head, signed."""
        scope = call.caller.scope
        signed = await self._cosigned(call, await self._signed(scope, call.tenant))
        return Checkpoint(
            note=signed.note.decode(),
            verifier_key=self._signer.verifier_key(scope),
            size=signed.size,
            mldsa_key=self._signer.mldsa_key(scope),
        )

    async def signed_head(self, scope: Scope) -> SignedHead:
        """Return the committed head, signed on the log's own behalf."""
        return await self._signed(scope, the_log(scope))

    async def prove(self, call: Call, request: Prove) -> InclusionProof:
        """Prove that an entry is in the tree of a size that the log has, or once had."""
        size = (await self._store.head(call.tenant)).size
        if not request.index < request.size <= size:
            raise NoSuchEntry
        tiles = await self._store.tiles(call.tenant, proofs.inclusion_tiles(request.index, request.size))
        hashes = proofs.prove_inclusion(request.index, request.size, tiles)
        return InclusionProof(index=request.index, size=request.size, hashes=tuple(hashes))

    async def consistency(self, call: Call, request: ProveGrowth) -> ConsistencyProof:
        """Prove that the log at one size begins with what it was at a smaller one."""
        size = (await self._store.head(call.tenant)).size
        if not request.old_size <= request.size <= size:
            raise NoSuchEntry
        tiles = await self._store.tiles(call.tenant, proofs.consistency_tiles(request.old_size, request.size))
        hashes = proofs.prove_consistency(request.old_size, request.size, tiles)
        return ConsistencyProof(old_size=request.old_size, size=request.size, hashes=tuple(hashes))

    async def receipt(self, call: Call, request: AskReceipt) -> Receipt:
        """Return the receipt of an event, waiting for it to be sealed."""
        scope = call.caller.scope
        located = await self._located(call, request)
        signed = await self._cosigned(call, await self._covering(scope, located.index))
        tiles = await self._store.tiles(the_log(scope), proofs.inclusion_tiles(located.index, signed.size))
        hashes = proofs.prove_inclusion(located.index, signed.size, tiles)
        try:
            verify_inclusion(located.index, signed.size, located.leaf_hash, hashes, signed.root)
        except BadProof as error:
            await self._signed(scope, the_log(scope))  # says so if it is the log as a whole that is another
            raise LogDamaged(f"The tree is damaged around entry {located.index}.") from error
        proof = TlogProof(located.index, tuple(hashes), signed.note, extra=located.leaf)
        return Receipt(
            index=located.index,
            size=signed.size,
            proof=proof.encode().decode(),
            verifier_key=self._signer.verifier_key(scope),
            openings=() if located.leaf is None else (await self._opened(scope, located, located.leaf)).openings,
        )

    async def _opened(self, scope: Scope, located: Located, leaf: bytes) -> Opened:
        (found,) = await self._subjects.opened(scope, [domain.Stored(located.index, leaf, located.openings)])
        return found

    async def _located(self, call: Call, request: AskReceipt) -> Located:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(request.wait_seconds, max(0.0, call.seconds_left() - ANSWER_SECONDS))
        async with self._wakeups.listen(call.caller.scope) as listener:  # before looking: nothing falls in between
            while True:
                located = await self._find(call.caller, request.event_id)
                if located is not None:
                    return located
                left = ends_at - loop.time()
                if left <= 0 or self._ending:
                    raise NotSealed
                await listener.wait(left)

    async def _find(self, caller: Caller, event_id: EventId) -> Located | None:
        """Return where an event is, if it is there and the caller may know."""
        found = await self._store.locate(the_log(caller.scope), event_id)
        if found is None:
            return None
        if found.leaf is not None and leaf_hash(found.leaf) != found.leaf_hash:
            raise LogDamaged(f"Entry {found.index} of the log is damaged.")
        if READ.name in caller.permissions:
            return found
        if found.leaf is None:
            return None
        # Who was erased has emitted nothing any more that anybody could tell.
        emitter = (await self._opened(caller.scope, found, found.leaf)).entry.event.actor
        return found if emitter == caller.principal else None

    async def _covering(self, scope: Scope, index: int) -> SignedHead:
        """Return a signed head that has the entry: the last one will do, and spares signing another."""
        last, _ = await self._memory.last(scope)
        if last is not None and index < last.size <= (await self._store.head(the_log(scope))).size:
            return last
        return await self._signed(scope, the_log(scope))

    async def _cosigned(self, call: Call, signed: SignedHead) -> SignedHead:
        """Return a signed head, the given one unless witnesses are further already, with what they say of it."""
        if self._cosigning is None:
            return signed
        scope = call.caller.scope
        for _ in range(SIGN_ATTEMPTS):
            collected = await self._cosigning.collect(scope, signed, call.seconds_left() - ANSWER_SECONDS)
            if collected.is_enough:
                return replace(signed, note=collected.note)
            if not collected.is_overtaken:
                break
            signed = await self._signed(scope, the_log(scope))
        raise NotWitnessed

    async def _signed(self, scope: Scope, tenant: TenantContext) -> SignedHead:
        for _ in range(SIGN_ATTEMPTS):
            try:
                signed = await self._sign(scope, tenant)
            except SignedMeanwhile:
                continue
            except SigningRefused:
                await self._alarm.refused(scope)
                raise
            self._alarm.signed(scope)
            return signed
        raise Overloaded("Too many ask for a checkpoint of this log at once.")

    async def _sign(self, scope: Scope, tenant: TenantContext) -> SignedHead:
        outside, revision = await self._memory.last(scope)
        inside = await self._store.signed(scope)
        head = await self._store.head(tenant)
        for before in (outside, inside):
            await self._check_extension(tenant, head, before)
        signed = self._signer.sign(scope, head)
        if head.size == 0:
            return signed
        if outside is not None and same_signers(outside.note, signed.note):
            return outside
        await self._memory.remember(scope, signed, revision)
        await self._store.remember_signed(scope, signed)
        return signed

    async def _check_extension(self, tenant: TenantContext, head: Head, before: SignedHead | None) -> None:
        if before is not None and before.size > head.size:
            raise SigningRefused
        tiles = [*proofs.head_tiles(head.size), *([] if before is None else proofs.head_tiles(before.size))]
        proofs.check_extension(head, before, await self._store.tiles(tenant, tiles))
