"""What the log does for callers: take events, and prove them. Showing them is in `reading`.

What always holds:
- `emit` takes who acts and where from the gates, never from the body, and returns when the events are on disk.
- A head is signed only if it extends everything that was ever signed; what is signed is remembered, in the database and
  outside of it, before it is given out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from wardmesh.contracts.audit import (
    Checkpoint,
    Emit,
    Emitted,
    InclusionProof,
    Leaves,
    Prove,
    ReadLeaves,
)
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.tiles import TILE_WIDTH, Tile, decode_tile
from wardmesh.errors import Overloaded
from wardmesh.ids import Scope
from wardmesh.server import telemetry
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_audit import domain, proofs
from wardmesh_audit.errors import LogDamaged, NoSuchEntry, SigningRefused
from wardmesh_audit.ports import Emitter, LogStore, SignedMeanwhile, SignedMemory
from wardmesh_audit.proofs import Head, SignedHead
from wardmesh_audit.signing import LogSigner

SIGN_ATTEMPTS: Final = 5
_log = logging.getLogger(__name__)


class AuditService:
    """The use cases of writing and proving."""

    def __init__(
        self,
        store: LogStore,
        emitter: Emitter,
        signer: LogSigner,
        memory: SignedMemory,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._emitter = emitter
        self._signer = signer
        self._memory = memory
        self._clock = clock

    async def emit(self, call: Call, request: Emit) -> Emitted:
        """Take events; return their ids when every one is durable."""
        caller = call.caller
        now = self._clock()
        events = [
            domain.complete(
                new,
                actor=caller.principal,
                acting_for=caller.acting_for,
                request_id=call.request_id,
                trace_id=call.trace_id,
                now=now,
            )
            for new in request.events
        ]
        await self._emitter.emit(caller.scope, events, trace_parent=telemetry.trace_parent())
        return Emitted(ids=tuple(event.id for event in events))

    async def checkpoint(self, call: Call, _request: Empty) -> Checkpoint:
        """Return the committed head, signed."""
        scope = call.caller.scope
        for _ in range(SIGN_ATTEMPTS):
            try:
                signed = await self._sign(scope, call.tenant)
            except SignedMeanwhile:
                continue
            except SigningRefused:
                _log.critical("the log of %s does not extend what was signed before; nothing is signed", scope)
                raise
            return Checkpoint(
                note=signed.note.decode(), verifier_key=self._signer.verifier_key(scope), size=signed.size
            )
        raise Overloaded("Too many ask for a checkpoint of this log at once.")

    async def _sign(self, scope: Scope, tenant: TenantContext) -> SignedHead:
        outside, revision = await self._memory.last(scope)
        inside = await self._store.signed(scope)
        head = await self._store.head(tenant)
        for before in (outside, inside):
            await self._check_extension(tenant, head, before)
        signed = self._signer.sign(scope, head)
        if head.size == 0 or (outside is not None and outside.note == signed.note):
            return signed
        await self._memory.remember(scope, signed, revision)
        await self._store.remember_signed(scope, signed)
        return signed

    async def _check_extension(self, tenant: TenantContext, head: Head, before: SignedHead | None) -> None:
        if before is not None and before.size > head.size:
            raise SigningRefused
        tiles = [*proofs.head_tiles(head.size), *([] if before is None else proofs.head_tiles(before.size))]
        proofs.check_extension(head, before, await self._store.tiles(tenant, tiles))

    async def leaves(self, call: Call, request: ReadLeaves) -> Leaves:
        """Return leaves as they were hashed, and the tree's own hashes for them."""
        size = (await self._store.head(call.tenant)).size
        end = min(size, request.start + request.limit)
        if request.start >= end:
            return Leaves(leaves=(), hashes=())
        found = await self._store.leaves(call.tenant, start=request.start, end=end)
        for expected, stored in enumerate(found, request.start):
            if stored.index != expected:
                found = found[: expected - request.start]
                break
        if not found:
            raise LogDamaged(f"Entry {request.start} is missing.")
        hashes = await self._leaf_hashes(call.tenant, request.start, request.start + len(found), size)
        return Leaves(leaves=tuple(stored.leaf for stored in found), hashes=hashes)

    async def _leaf_hashes(self, tenant: TenantContext, start: int, end: int, size: int) -> tuple[bytes, ...]:
        wanted = [Tile.at(0, index, size) for index in range(start // TILE_WIDTH, (end - 1) // TILE_WIDTH + 1)]
        contents = await self._store.tiles(tenant, wanted)
        try:
            hashes = [value for tile in wanted for value in decode_tile(contents[tile], width=tile.width)]
        except MalformedEncoding as error:
            raise LogDamaged(f"The tree is damaged around entry {start}.") from error
        first = wanted[0].first_entry()
        return tuple(hashes[start - first : end - first])

    async def prove(self, call: Call, request: Prove) -> InclusionProof:
        """Prove that an entry is in the tree of a size that the log has, or once had."""
        size = (await self._store.head(call.tenant)).size
        if not request.index < request.size <= size:
            raise NoSuchEntry
        tiles = await self._store.tiles(call.tenant, proofs.inclusion_tiles(request.index, request.size))
        hashes = proofs.prove_inclusion(request.index, request.size, tiles)
        return InclusionProof(index=request.index, size=request.size, hashes=tuple(hashes))
