"""What callers decide about forwarding: what is sent on, where to, and that it stops. (What follows: `forwarding`.)

What always holds: the address's path and the secret are sealed before they are stored, and are in no answer. A secret
goes to the address that it was given for and to no other: who may change an address must not get to see what goes
there. A filter names users by pseudonyms where it is stored. A change and the entry that tells of it are committed
together. A forwarder is its scope's: whoever added it may be gone.
"""

from __future__ import annotations

import asyncio
from typing import Final

from wardmesh.contracts.audit import (
    HTTPS,
    PROBE_SECONDS,
    AddForwarder,
    EditForwarder,
    Filter,
    Forwarder,
    ForwarderProbe,
    Forwarders,
    ForwarderState,
    NamedForwarder,
    parse_address,
)
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.errors import Undecryptable
from wardmesh.errors import InvalidRequest, RateLimited
from wardmesh.server.context import Call
from wardmesh.violations import Violation
from wardmesh_audit.batches import Batch
from wardmesh_audit.behalf import scope_of
from wardmesh_audit.errors import NoSuchForwarder, SecretUnusable
from wardmesh_audit.forward_vault import ForwardVault, Hidden
from wardmesh_audit.forwarding import target_of
from wardmesh_audit.ports_forwarding import (
    ChangedForwarder,
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
    ) -> None:
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
        hidden = Hidden(place.path, request.secret)
        call.note(address=place.origin, start=start)
        added = await self._store.add(
            call,
            NewForwarder(
                name=request.name,
                address=place.origin,
                format=request.format,
                secret_header=request.secret_header,
                has_secret=request.secret is not None,
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

        def change(stored: StoredForwarder) -> ChangedForwarder:
            changed = changed_forwarder(stored, request, query, self._vault)
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


def changed_forwarder(
    stored: StoredForwarder, request: EditForwarder, query: Filter | None, vault: ForwardVault
) -> ChangedForwarder:
    """Return what a forwarder is after a change; `query` is the new filter, as it is kept.

    Raise `InvalidRequest` for a secret that would follow to another address, or that has no place at this one;
    `SecretUnusable` where what stays hidden does not open.
    """
    place = None if request.url is None else parse_address(request.url)
    address = stored.address if place is None else place.origin
    header, has_secret, sealed = stored.secret_header, stored.has_secret, stored.sealed
    if place is not None and has_secret and request.secret is None and not request.without_secret:
        raise _refused("secret", "it does not follow to another address: give it again, or leave it behind")
    if request.secret is not None and parse_address(address).scheme != HTTPS:
        raise _refused("secret", "syslog has no place for a secret")
    if place is not None or request.secret is not None or request.without_secret:
        path = _opened(stored, vault).path if place is None else place.path
        has_secret = request.secret is not None
        header = request.secret_header or header if has_secret else None
        sealed = vault.seal(stored.scope, stored.name, address, header, Hidden(path, request.secret))
    return ChangedForwarder(
        address=address,
        format=request.format or stored.format,
        secret_header=header,
        has_secret=has_secret,
        sealed=sealed,
        filter=stored.filter if query is None else query,
    )


def _opened(stored: StoredForwarder, vault: ForwardVault) -> Hidden:
    try:
        return vault.open(stored.scope, stored.name, stored.address, stored.secret_header, stored.sealed)
    except Undecryptable:
        raise SecretUnusable from None


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(violations=(Violation(pointer=f"/{field}", message=message),))
