"""The two servers alone, for those who test something else than a mesh with them."""

from __future__ import annotations

import asyncpg
import nats

from wardmesh.testing import BareServer


async def test_the_broker_keeps_streams(nats_server: BareServer) -> None:
    client = await nats.connect(nats_server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ORDERS", subjects=["order.>"])
    assert (await jetstream.publish("order.made", b"7")).seq == 1
    await client.close()


async def test_the_database_takes_a_superuser_by_tcp(postgres: BareServer) -> None:
    connection = await asyncpg.connect(postgres.url)
    assert await connection.fetchval("select rolsuper from pg_roles where rolname = current_user")
    await connection.execute("create database elsewhere")
    await connection.close()


def test_their_addresses_are_not_shown_by_accident(postgres: BareServer) -> None:
    assert postgres.url not in repr(postgres)
