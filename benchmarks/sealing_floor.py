"""What sealing is compared with, each as a process of its own.

    python -m benchmarks.sealing_floor copy NATS_URL DATABASE_URL     the floor: fetch, split, COPY, acknowledge
    python -m benchmarks.sealing_floor chain NATS_URL DATABASE_URL    the peer: a hash chain kept by a trigger

Both fetch the same envelopes with nats-py alone. The floor does what cannot be left out: it parses an envelope, takes
it apart into events, and COPYs their bytes to a table that has no key and no index. The peer is the usual
tamper-evident table: a trigger chains each row to the last of its tenant. Every event is a transaction of its own, as
it is where a service writes a row about what it has just done; `WRITERS` of them are under way at once.

Prints `ready`; begins when it is told a line on its standard input; ends when it is terminated.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

import asyncpg
import nats
import nats.errors
from nats.aio.msg import Msg

STREAM: Final = "FLOOR"
CONSUMER: Final = "floor"
FETCH_MESSAGES: Final = 128
"""Some six megabytes of large envelopes: twelve thousand rows a COPY."""
FETCH_SECONDS: Final = 0.5
WRITERS: Final = 8

SCHEMA: Final = """
    create schema floor;
    create table floor.plain (scope text not null, event bytea not null);
    create table floor.chain (
        scope text not null, number bigint not null, event bytea not null, hash bytea not null,
        primary key (scope, number)
    );
    create table floor.last (scope text primary key, number bigint not null, hash bytea not null);
    create function floor.chain() returns trigger language plpgsql as $$
    declare
        before floor.last;
    begin
        -- The lock keeps the chain from forking: two inserts would otherwise follow the same row.
        insert into floor.last values (new.scope, 0, '') on conflict do nothing;
        select * into before from floor.last where scope = new.scope for update;
        new.number := before.number + 1;
        new.hash := sha256(before.hash || new.event);
        update floor.last set number = new.number, hash = new.hash where scope = new.scope;
        return new;
    end
    $$;
    create trigger chain before insert on floor.chain for each row execute function floor.chain();
"""
Row = tuple[str, bytes]


def split(message: Msg) -> list[Row]:
    """Return an envelope's events."""
    events = json.loads(message.data)["events"]
    return [(message.subject, json.dumps(event, separators=(",", ":")).encode()) for event in events]


def last_id(envelope: bytes) -> str:
    """Return the id of the last event of an envelope."""
    return str(json.loads(envelope)["events"][-1]["id"])


async def copy(pool: asyncpg.Pool, messages: list[Msg]) -> None:
    rows = [row for message in messages for row in split(message)]
    await pool.copy_records_to_table("plain", schema_name="floor", columns=["scope", "event"], records=rows)


async def chain(pool: asyncpg.Pool, messages: list[Msg]) -> None:
    room = asyncio.Semaphore(WRITERS)

    async def write(row: Row) -> None:
        async with room:
            await pool.execute("insert into floor.chain (scope, event) values ($1, $2)", *row)

    await asyncio.gather(*(write(row) for message in messages for row in split(message)))


async def work(kind: str, nats_url: str, database_url: str) -> None:
    client = await nats.connect(nats_url)
    pool = await asyncpg.create_pool(database_url, min_size=WRITERS, max_size=WRITERS)
    write = {"copy": copy, "chain": chain}[kind]
    subscription = await client.jetstream().pull_subscribe_bind(CONSUMER, STREAM)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while True:
        try:
            messages = await subscription.fetch(FETCH_MESSAGES, timeout=FETCH_SECONDS)
        except (TimeoutError, nats.errors.TimeoutError):
            continue
        await write(pool, messages)
        for message in messages:
            await message.ack()


if __name__ == "__main__":
    import uvloop

    uvloop.run(work(*sys.argv[1:4]))
