"""What commands that follow something share: when to stop, and how a body is shown."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from wardmesh.client.subscription import Delivery, Subscription

DeliveryT = TypeVar("DeliveryT", bound=Delivery)
T = TypeVar("T")

GroupOption: TypeAlias = Annotated[
    str, typer.Option("--group", "-g", help="Readers of one group share; each group gets all.")
]
CountOption: TypeAlias = Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after so many.")]
SecondsOption: TypeAlias = Annotated[float | None, typer.Option("--seconds", min=0, help="Stop after so long.")]


async def bounded(
    subscription: Subscription[Any, DeliveryT], count: int | None, seconds: float | None
) -> AsyncIterator[DeliveryT]:
    """Yield what a subscription brings, up to `count` of it and for `seconds`."""
    async with subscription:
        async for delivery in until(subscription, count, seconds):
            yield delivery


async def until(source: AsyncIterable[T], count: int | None, seconds: float | None) -> AsyncIterator[T]:
    """Yield what `source` brings, up to `count` of it and for `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = None if seconds is None else loop.time() + seconds
    iterator = aiter(source)
    taken = 0
    while count is None or taken < count:
        try:
            async with asyncio.timeout_at(deadline):
                item = await anext(iterator)
        except (StopAsyncIteration, TimeoutError):
            return
        taken += 1
        yield item


def shown(body: bytes, content_type: str) -> dict[str, Any]:
    """Return a body for a JSON document: as JSON if it is, as text if it is, else in base64."""
    try:
        return {"data": json.loads(body)}
    except ValueError:
        pass
    try:
        return {"content_type": content_type, "text": body.decode()}
    except UnicodeDecodeError:
        return {"content_type": content_type, "base64": base64.b64encode(body).decode()}
