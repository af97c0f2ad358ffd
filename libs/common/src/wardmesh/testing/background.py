"""An event loop in a thread of its own.

A mesh lives longer than a test, and is watched over while tests run, whatever loops those have and even while they
block. So it lives in neither pytest's thread nor any test's loop. (On Linux the kernel also ends a child whose parent
thread ends: this one ends last.)

What always holds: `run` returns when the coroutine has ended, also when it is interrupted: Ctrl-C cancels it and waits
for what it cleans up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

ResultT = TypeVar("ResultT")


class Background:
    """A context manager: the loop turns while the block runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="wardmesh-testing", daemon=True)

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine in the background and wait for it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                with contextlib.suppress(concurrent.futures.CancelledError, Exception):
                    self.submit(_everything_else()).result()
            raise

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> concurrent.futures.Future[ResultT]:
        """Begin a coroutine in the background."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @contextlib.contextmanager
    def opened(self, context: AbstractAsyncContextManager[ResultT]) -> Iterator[ResultT]:
        """Keep an asynchronous context open in the background while the block runs."""
        value = self.run(context.__aenter__())
        try:
            yield value
        finally:
            self.run(context.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


async def _everything_else() -> None:
    """Wait for the tasks that were cancelled to have cleaned up."""
    current = asyncio.current_task()
    cancelled = [task for task in asyncio.all_tasks() if task is not current and task.cancelling()]
    if cancelled:
        await asyncio.wait(cancelled)
