"""Finds a principal's live connections at every broker, and drops them.

No bookkeeping: the name in a client's user JWT is its principal, brokers report that name as the authorized user of the
connection, and answer a question about it, all of them at once (`$SYS.REQ.SERVER.PING.CONNZ`). So it finds what other
replicas let in, and what was let in before we started.

What always holds: deny first, then call `drop`: a client whose credential still works comes back at once. That is
why dropping all connections of a principal is right even if one key of several was revoked. A connection that was
let in while we asked is found by the next round; `drop` returns after a round that found none.

On failure: `ConnectionsError` if no broker answered. A broker that is cut off from us keeps its connections; their
requests are refused by the token gate all the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client
from nats.errors import Error, NoRespondersError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wardmesh.ids import Principal
from wardmesh_auth.callout import ACCOUNT

FIRST_ANSWER_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 0.1
"""Brokers of one cluster answer within a few milliseconds of each other; nobody knows how many there are."""
KICK_SECONDS: Final = 2.0
MAX_ROUNDS: Final = 10
PAGE: Final = 1024
"""Connections that a broker reports at a time; the next round finds the rest."""


class ConnectionsError(Exception):
    """No broker answered."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One live connection."""

    server_id: str
    connection_id: int
    client_name: str


class Connections:
    """The connections of clients, seen through a connection of the system account."""

    def __init__(self, system: Client) -> None:
        self._system = system

    async def find(self, principal: Principal) -> list[Connection]:
        """Return the live connections of a principal."""
        async with aclosing(self._answers(principal)) as answers:
            return [connection async for page in answers for connection in page]

    async def drop(self, principal: Principal) -> int:
        """Drop the live connections of a principal; return how many."""
        dropped = 0
        for _ in range(MAX_ROUNDS):
            found = 0
            async with aclosing(self._answers(principal)) as answers:
                async for page in answers:
                    found += len(page)
                    # At once, not when the last broker has answered: a kick takes a millisecond, the silence a hundred.
                    dropped += sum(await asyncio.gather(*(self._kick(connection) for connection in page)))
            if not found:
                break
        return dropped

    async def _kick(self, connection: Connection) -> bool:
        request = json.dumps({"cid": connection.connection_id}).encode()
        try:
            answer = await self._system.request(
                f"$SYS.REQ.SERVER.{connection.server_id}.KICK", request, timeout=KICK_SECONDS
            )
        except (TimeoutError, NoRespondersError):
            return False  # that broker is gone, and its connections with it; the next round knows
        return "error" not in json.loads(answer.data)

    async def _answers(self, principal: Principal) -> AsyncGenerator[list[Connection], None]:
        """Yield each broker's connections of a principal as it answers, until all have been silent for a while."""
        inbox = self._system.new_inbox()
        try:
            subscription = await self._system.subscribe(inbox)
            question = {"acc": ACCOUNT, "auth": True, "user": str(principal), "limit": PAGE}
            await self._system.publish("$SYS.REQ.SERVER.PING.CONNZ", json.dumps(question).encode(), reply=inbox)
        except Error as error:
            raise ConnectionsError("the connection to the broker is gone") from error
        try:
            patience = FIRST_ANSWER_SECONDS
            while True:
                try:
                    message = await subscription.next_msg(timeout=patience)
                except TimeoutError:  # nats-py's is one of these
                    break
                patience = QUIET_SECONDS
                yield _read(message.data)
            if patience == FIRST_ANSWER_SECONDS:
                raise ConnectionsError(f"no broker answered within {FIRST_ANSWER_SECONDS:g} s")
        finally:
            if not self._system.is_closed:
                await subscription.unsubscribe()


class _Server(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str


class _Connection(BaseModel):
    model_config = ConfigDict(extra="ignore")
    cid: int
    name: str = ""


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore")
    connections: list[_Connection] = Field(default_factory=list)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")
    server: _Server
    data: _Data


def _read(answer: bytes) -> list[Connection]:
    try:
        parsed = _Answer.model_validate_json(answer)
    except ValidationError as error:
        raise ConnectionsError("a broker's answer can't be read") from error
    return [Connection(parsed.server.id, each.cid, each.name) for each in parsed.data.connections]
