"""A key-value bucket, mirrored in memory: the signing keys and the revocations that every process watches.

What always holds: `ready` is set only while the mirror has everything that the bucket had when the watch began. It
is cleared when the connection is lost, because a watch is silent for some seconds after a server restart; the gates
refuse while it is cleared. When the connection is back, the watch begins anew.

Reads are plain dictionary look-ups, so that a gate costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, TypeVar

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from wardmesh.server.messaging import Messaging

RETRY_SECONDS: Final = 0.5
_log = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")


class Mirror(Mapping[str, ValueT], Generic[ValueT]):
    """The bucket's keys and values as they are now. `decode` raises `ValueError` for what it cannot read."""

    def __init__(self, messaging: Messaging, bucket: str, decode: Callable[[bytes], ValueT]) -> None:
        self._messaging = messaging
        self._bucket = bucket
        self._decode = decode
        self._values: dict[str, ValueT] = {}
        self._lost = asyncio.Event()
        self.ready = asyncio.Event()

    def __getitem__(self, key: str) -> ValueT:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    async def run(self) -> None:
        """Mirror for ever."""
        self._messaging.on_disconnect(self._forget)
        while True:
            self._lost.clear()
            try:
                await self._watch()
            except (nats.errors.Error, TimeoutError) as error:
                _log.warning("watching bucket %s failed: %s", self._bucket, type(error).__name__)
            self.ready.clear()
            await asyncio.sleep(RETRY_SECONDS if self._messaging.is_connected else RETRY_SECONDS / 5)

    def _forget(self) -> None:
        self.ready.clear()
        self._lost.set()

    async def _watch(self) -> None:
        """Follow the bucket until the connection is lost."""
        bucket = await self._messaging.jetstream.key_value(self._bucket)
        watcher = await bucket.watchall()
        following = asyncio.create_task(self._follow(watcher))
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({following, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            following.cancel()
            lost.cancel()
            await _stop_quietly(watcher)

    async def _follow(self, watcher: KeyValue.KeyWatcher) -> None:
        seen: dict[str, ValueT] = {}
        async for entry in watcher:
            self._apply(entry, seen)

    def _apply(self, entry: KeyValue.Entry | None, seen: dict[str, ValueT]) -> None:
        if entry is None:  # the marker: everything that was there has come
            self._values = seen
            self.ready.set()
        elif entry.operation in ("DEL", "PURGE"):
            seen.pop(entry.key, None)
        else:
            try:
                seen[entry.key] = self._decode(entry.value or b"")
            except ValueError:
                _log.error("bucket %s: the value of a key cannot be read", self._bucket)


async def _stop_quietly(watcher: KeyValue.KeyWatcher) -> None:
    with contextlib.suppress(nats.errors.Error):
        await watcher.stop()  # type: ignore[no-untyped-call]
