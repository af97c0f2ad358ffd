"""The asking side of `request_reply`: prints how many calls a second were answered."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import nats
import uvloop

import wardmesh
from wardmesh.contracts import secrets
from wardmesh.ids import ServiceId, WorkspaceId

REQUEST = secrets.ListSecrets(prefix="openai/")


async def rate(ask: Callable[[], Awaitable[object]], in_flight: int, calls: int) -> float:
    """Return calls a second, after a short warm-up."""

    async def worker(share: int) -> None:
        for _ in range(share):
            await ask()

    await asyncio.gather(*[worker(5) for _ in range(in_flight)])
    started = time.perf_counter()
    await asyncio.gather(*[worker(calls // in_flight) for _ in range(in_flight)])
    return calls // in_flight * in_flight / (time.perf_counter() - started)


async def raw(url: str, in_flight: int, calls: int, headers: dict[str, str] | None) -> float:
    client = await nats.connect(url)
    subject, body = f"rpc.secrets.list.{WorkspaceId.new()}.{ServiceId.new()}", REQUEST.model_dump_json().encode()
    measured = await rate(lambda: client.request(subject, body, timeout=10, headers=headers), in_flight, calls)
    await client.close()
    return measured


async def gated(url: str, in_flight: int, calls: int, token: str) -> float:
    async with wardmesh.connect(url, token=token) as mesh:
        return await rate(lambda: mesh.call(secrets.LIST, REQUEST), in_flight, calls)


async def main(url: str, kind: str, in_flight: int, calls: int, token: str) -> None:
    if kind in ("raw", "header"):
        headers = {"Authorization": f"Bearer {token}"} if kind == "header" else None
        print(await raw(url, in_flight, calls, headers))
    else:
        print(await gated(url, in_flight, calls, token))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
