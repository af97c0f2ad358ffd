"""Waiting until the broker has heard what was sent on a connection.

nats-py's `flush` hands its PING to the socket at once, and what `subscribe` and `publish` have put down before it at
the next turn of the loop. So the PONG may be back before the broker knows of the subscription, and who asks meanwhile
is told that nobody answers. Once it is back, all from before is written, and a second PING comes behind it (found with
2.16; `tests/test_round_trip.py` sees whether it still is so).
"""

from __future__ import annotations

from typing import Final

from nats.aio.client import Client

ROUND_TRIP_SECONDS: Final = 10
"""What nats-py's `flush` waits for by itself."""


async def heard(client: Client, *, seconds: int = ROUND_TRIP_SECONDS) -> None:
    """Return when the broker has had all that was sent before; raise nats-py's errors after twice that time."""
    await client.flush(seconds)
    await client.flush(seconds)
