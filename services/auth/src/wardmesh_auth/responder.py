"""Puts the callout on the wire: hears the broker's questions in account AUTH, and answers them.

What always holds: replicas share the questions (a queue group); at most `MAX_IN_FLIGHT` are being decided at once,
since each may cost a password hash or a database query; one that can't be read is dropped, and the broker refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.round_trip import heard
from wardmesh_auth.callout import QUEUE, SERVER_XKEY_HEADER, SUBJECT, Callout, CalloutError

MAX_IN_FLIGHT: Final = 64
"""More would wait for the database longer than the broker waits for us."""
MAX_WAITING: Final = 4096
"""A whole fleet that reconnects at once; beyond that the broker's time-out refuses and clients try again."""


async def respond(
    connection: Client, callout: Callout, *, on_error: Callable[[CalloutError], None] = lambda _error: None
) -> None:
    """Answer the broker's questions for as long as the connection lives; it ends with the connection's drain."""
    slots = asyncio.Semaphore(MAX_IN_FLIGHT)
    running: set[asyncio.Task[None]] = set()

    async def answer(message: Msg) -> None:
        try:
            headers = message.headers or {}
            await message.respond(await callout.answer(message.data, headers.get(SERVER_XKEY_HEADER)))
        except CalloutError as error:
            on_error(error)
        finally:
            slots.release()

    async def take(message: Msg) -> None:
        # Callbacks of a subscription run one after another: waiting here is what bounds the tasks.
        await slots.acquire()
        task = asyncio.create_task(answer(message))
        running.add(task)
        task.add_done_callback(running.discard)

    await connection.subscribe(SUBJECT, queue=QUEUE, cb=take, pending_msgs_limit=MAX_WAITING)
    await heard(connection)
