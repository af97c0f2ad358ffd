"""What callers decide about forwarding: what is sent on, where to, and that it stops. (What follows: `forwarding`.)

What always holds: the address's path, the secret and a client's key are sealed before they are stored, and are in no
answer. They serve the address that they were given for and no other: who may change an address must not get to see what
goes there. A filter names users by pseudonyms where it is stored. A change and the entry that tells of it are committed
together. A forwarder is its scope's: whoever added it may be gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from wardmesh.contracts.audit import (
    PROBE_SECONDS,
    AddForwarder,
    EditForwarder,
    Forwarder,
    ForwarderProbe,
    Forwarders,
    ForwarderState,
    NamedForwarder,
    parse_address,
)
from wardmesh.contracts.operation import Empty
from wardmesh.errors import RateLimited
from wardmesh.server.context import Call
from wardmesh_audit.batches import Batch
from wardmesh_audit.behalf import scope_of
from wardmesh_audit.client_certificates import Unusable, Usable
from wardmesh_audit.errors import NoSuchForwarder
from wardmesh_audit.forward_vault import ForwardVault, Hidden
from wardmesh_audit.forwarder_changes import changed_forwarder, refused
from wardmesh_audit.forwarding import target_of
from wardmesh_audit.outward_tls import usable
from wardmesh_audit.ports_forwarding import (
    ForwarderSettings,
    ForwarderStore,
    NewForwarder,
    NotDelivered,
    Sender,
    StoredForwarder,
)
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.subjects import Subjects

MAX_PROBES: Final = 4
"""At once in one process: each holds a caller's place for as long as somebody else's server takes."""


class ForwarderService:
    """The use cases of forwarding."""

    def __init__(
        self,
        store: ForwarderStore,
        reading: ReadingService,
        sender: Sender,
        vault: ForwardVault,
        subjects: Subjects,
        clock: Callable[[], datetime],
    ) -> None:
        self._clock = clock
        self._subjects = subjects
        self._store = store
        self._reading = reading
        self._sender = sender
        self._vault = vault
        self._probes = 0

    async def add(self, call: Call, request: AddForwarder) -> Forwarder:
        """Begin to forward."""
        place = parse_address(request.url)
        scope = scope_of(call.tenant)
        size = await self._reading.size(call.tenant)
        start = request.start
        if start is None:
            start = await self._reading.beginning(call.tenant, request.start_time, size)
        shown = await self._shown_to_endpoints(request)
        hidden = Hidden(place.path, request.secret, None if shown is None else shown.client)
        call.note(address=place.origin, start=start)
        added = await self._store.add(
            call,
            NewForwarder(
                name=request.name,
                address=place.origin,
                format=request.format,
                secret_header=request.secret_header,
                has_secret=request.secret is not None,
                certificate_until=None if shown is None else shown.until,
                sealed=self._vault.seal(scope, request.name, place.origin, request.secret_header, hidden),
                filter=await self._subjects.concealed(scope, request.filter),
                next_start=start,
            ),
        )
        return await self._shown(added, size)

    async def list(self, call: Call, _request: Empty) -> Forwarders:
        """Return the scope's forwarders."""
        size = await self._reading.size(call.tenant)
        return Forwarders(
            forwarders=tuple([await self._shown(each, size) for each in await self._store.forwarders(call)])
        )

    async def edit(self, call: Call, request: EditForwarder) -> Forwarder:
        """Change one. A batch that is on its way at this moment still arrives where it was sent to, and then again."""
        scope = scope_of(call.tenant)
        size = await self._reading.size(call.tenant)
        query = None if request.filter is None else await self._subjects.concealed(scope, request.filter)
        shown = await self._shown_to_endpoints(request)

        def change(stored: StoredForwarder) -> ForwarderSettings:
            changed = changed_forwarder(stored, request, query, shown, self._vault)
            call.note(changed=[*request.model_dump(exclude_defaults=True, exclude={"name"})])
            call.note(address=changed.address, address_before=stored.address, start=stored.next_start)
            return changed

        return await self._shown(await self._store.edit(call, request.name, change), size)

    async def remove(self, call: Call, request: NamedForwarder) -> Empty:
        """End one. A batch that is on its way at this moment still arrives."""
        await self._store.remove(call, request.name)
        return Empty()

    async def pause(self, call: Call, request: NamedForwarder) -> Forwarder:
        """Stop one where it is."""
        return await self._switch(call, request.name, paused=True)

    async def resume(self, call: Call, request: NamedForwarder) -> Forwarder:
        """Let one go on, also one that waits after a failure."""
        return await self._switch(call, request.name, paused=False)

    async def _shown_to_endpoints(self, request: AddForwarder | EditForwarder) -> Usable | None:
        """Return the client's certificate of a request; raise `InvalidRequest` for one that is of no use."""
        certificate, key = request.client_certificate, request.client_key
        if certificate is None or key is None:
            return None
        try:
            return await asyncio.to_thread(usable, certificate, key, self._clock())
        except Unusable as error:
            raise refused(error.field, error.problem) from None

    async def _switch(self, call: Call, name: str, *, paused: bool) -> Forwarder:
        size = await self._reading.size(call.tenant)
        return await self._shown(await self._store.set_paused(call, name, paused=paused), size)

    async def probe(self, call: Call, request: NamedForwarder) -> ForwarderProbe:
        """Send the newest entry that matches, and say what became of it; nothing is remembered of it."""
        found = next((each for each in await self._store.forwarders(call) if each.name == request.name), None)
        if found is None:
            raise NoSuchForwarder
        entry = await self._reading.newest(call.tenant, found.filter)
        if entry is None:
            return ForwarderProbe()
        if self._probes >= MAX_PROBES:
            raise RateLimited("Too many probes of forwarders are under way.", retry_after_seconds=1.0)
        self._probes += 1
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                async with self._sender.open(target_of(found, self._vault)) as endpoint:
                    await endpoint.send(Batch(found.scope, found.name, (entry,)))
        except TimeoutError:
            return ForwarderProbe(index=entry.index, error="timed_out")
        except NotDelivered as error:
            return ForwarderProbe(index=entry.index, error=error.error)
        finally:
            self._probes -= 1
        return ForwarderProbe(index=entry.index)

    async def _shown(self, stored: StoredForwarder, size: int) -> Forwarder:
        if stored.paused:
            state = ForwarderState.STOPPED
        else:
            state = ForwarderState.RETRYING if stored.failures else ForwarderState.OK
        return Forwarder(
            name=stored.name,
            address=stored.address,
            format=stored.format,
            has_secret=stored.has_secret,
            secret_header=stored.secret_header,
            client_certificate_until=stored.certificate_until,
            filter=await self._subjects.revealed(stored.scope, stored.filter),
            next_start=stored.next_start,
            size=size,
            state=state,
            failing_since=stored.failing_since,
            last_error=stored.last_error,
            failures=stored.failures,
            delivered_at=stored.delivered_at,
            created_at=stored.created_at,
        )
