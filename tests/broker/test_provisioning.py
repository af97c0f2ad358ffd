"""Declaring the streams on a real broker: once, again, at once, over something else, and on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext
from nats.js.errors import ServiceUnavailableError
from tests.broker.conftest import WAIT_SECONDS, RunningBroker, run_broker

from wardmesh.server import provision as module
from wardmesh.server.broker import BUCKETS, PRIVATE_BUCKETS, PROVISIONER, STREAMS, stream_of_bucket
from wardmesh.server.messaging import Messaging
from wardmesh.server.nkey import Kind, new_seed
from wardmesh.server.provision import BrokerUnreachable, StreamsDiffer, provision
from wardmesh.server.streams import SIZES, Choices, declared, drift

MIB = 1024 * 1024
DEFAULT = Choices()


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    async for running in run_broker(tmp_path, with_callout=False):
        yield running


async def declare(running: RunningBroker, choices: Choices = DEFAULT, *, update: bool = False) -> module.Provisioned:
    return await provision([running.url], running.seed(PROVISIONER), choices, update=update)


async def run(running: RunningBroker, *arguments: str, **environment: str) -> tuple[int | None, str]:
    """Run it as the container does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "wardmesh.server.provision", *arguments),
        env={
            "PATH": os.environ["PATH"],
            "WARDMESH_NATS_URL": running.url,
            "WARDMESH_NATS_SEED_FILE": str(running.identities.seed_file(PROVISIONER)),
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def test_every_stream_and_bucket_is_declared_and_the_same_rules_hold_for_all() -> None:
    streams = declared(Choices(replicas=3))
    buckets = [stream_of_bucket(bucket) for bucket in (*BUCKETS, *PRIVATE_BUCKETS)]
    assert set(streams) == {*STREAMS, *buckets}
    for name, config in streams.items():
        assert config.subjects == (list(STREAMS[name]) if name in STREAMS else [f"$KV.{name.removeprefix('KV_')}.>"])
        assert (config.deny_delete, config.deny_purge) == (True, True)
        assert (config.allow_rollup_hdrs, config.allow_direct) == (False, False)
        assert (config.mirror, config.sources, config.republish, config.subject_transform) == (None,) * 4
        assert config.num_replicas == 3
        assert config.max_bytes is not None
        assert config.duplicate_window


def test_a_field_that_says_the_same_in_other_words_is_no_drift() -> None:
    config = declared(Choices())["KV_jwks"]
    assert drift(config, config.evolve(max_age=0, max_msgs=-1, max_consumers=-1, sources=[], mirror_direct=None)) == []
    assert drift(config, config.evolve(max_bytes=1, allow_direct=True)) == ["allow_direct", "max_bytes"]
    assert drift(config, config.evolve(max_bytes=1), besides=SIZES) == []


async def test_it_may_run_any_number_of_times_and_at_once(empty: RunningBroker) -> None:
    outcomes = await asyncio.gather(*[declare(empty) for _ in range(4)])
    made = [name for outcome in outcomes for name in outcome.created]
    assert set(made) == set(declared(Choices()))
    assert await declare(empty) == module.Provisioned((), ())
    assert (await run(empty))[0] == 0

    service = Messaging("audit")
    await service.connect([empty.url], seed=empty.seed("audit"))
    for stream in ("AUDIT", "SEALED", "DEAD"):
        await service.expect_stream(stream)
    await service.expect_bucket("checkpoints")
    assert service.drift == {}
    await service.drain()


async def test_what_differs_is_named_and_left_alone_until_told_otherwise(empty: RunningBroker) -> None:
    js = (await empty.static(PROVISIONER)).jetstream(timeout=WAIT_SECONDS)
    stretched = declared(Choices())["EVENTS"].evolve(subjects=["evt.>", "rpc.>"])
    await js.add_stream(stretched)
    with pytest.raises(StreamsDiffer, match="EVENTS: max_bytes, subjects") as refused:
        await declare(empty, Choices(events_max_bytes=MIB))
    assert refused.value.differences == {"EVENTS": ("max_bytes", "subjects")}
    assert (await js.stream_info("EVENTS")).config.subjects == ["evt.>", "rpc.>"]
    assert (await js.stream_info("AUDIT")).config.deny_purge, "the others are declared all the same"

    code, output = await run(empty)
    assert (code, "EVENTS: subjects" in output) == (module.EXIT_DIFFERS, True)
    code, output = await run(empty, "--update", WARDMESH_EVENTS_MAX_BYTES=str(8 * MIB))
    assert (code, "changed EVENTS" in output) == (0, True)
    info = await js.stream_info("EVENTS")
    assert (info.config.subjects, info.config.max_bytes) == (["evt.>"], 8 * MIB)


async def test_what_the_broker_does_not_change_in_place_stays_and_is_named(empty: RunningBroker) -> None:
    js = (await empty.static(PROVISIONER)).jetstream(timeout=WAIT_SECONDS)
    await js.add_stream(declared(Choices())["BRIDGE"].evolve(retention="limits"))
    with pytest.raises(StreamsDiffer) as refused:
        await declare(empty, update=True)
    assert refused.value.differences == {"BRIDGE": ("retention",)}


async def test_nobody_else_can_provision_and_it_says_so(
    mesh_broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1.0)
    with pytest.raises(BrokerUnreachable, match="uthorization"):
        await provision([mesh_broker.url], new_seed(Kind.USER))
    with pytest.raises(BrokerUnreachable):
        await provision(["nats://127.0.0.1:1"], mesh_broker.seed(PROVISIONER))
    with pytest.raises(BrokerUnreachable):
        await provision([mesh_broker.url], mesh_broker.seed("webhooks"))
    code, output = await run(mesh_broker, WARDMESH_NATS_SEED_FILE=str(tmp_path / "none"))
    assert (code, "none" in output) == (module.EXIT_CONFIG, True)
    code, output = await run(mesh_broker, WARDMESH_STREAM_REPLICAS="many")
    assert (code, "WARDMESH_STREAM_REPLICAS" in output) == (module.EXIT_CONFIG, True)


async def fetched(reading: JetStreamContext.PullSubscription) -> Msg:
    """The next message. The node asked may not know of the consumer yet: "503", which readers take as "again"."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(ServiceUnavailableError):
                (message,) = await reading.fetch(1, timeout=WAIT_SECONDS)
                return message
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("left", ["meta.inf", "meta.inf.tmp"])
async def test_what_a_kill_left_half_made_is_brought_back_by_declaring_it_and_stays(
    empty: RunningBroker, left: str
) -> None:
    """Killed while it makes a stream, the server leaves a description without a checksum, or with no name yet."""
    await declare(empty)
    events = (await empty.static("webhooks")).jetstream(timeout=WAIT_SECONDS)
    await events.publish("evt.ws.s.t", b"kept")
    await events.pull_subscribe("evt.>", durable="reader", stream="EVENTS")
    await empty.supervisor["n0"].stop()
    stream = next(empty.configs[0].store_dir.glob("jetstream/*/streams/EVENTS"))
    for folder in (stream, stream / "obs" / "reader"):
        (folder / "meta.sum").unlink()
        (folder / "meta.inf").rename(folder / left)

    await empty.supervisor["n0"].start()
    assert (await declare(empty)).created == ("EVENTS",)
    again = (await empty.static("webhooks")).jetstream(timeout=WAIT_SECONDS)
    await again.pull_subscribe("evt.>", durable="reader", stream="EVENTS")
    empty.supervisor.kill("n0")
    await empty.supervisor["n0"].wait_ready(WAIT_SECONDS)
    assert await declare(empty) == module.Provisioned((), ()), "a later crash does not take it away again"
    after = (await empty.static("webhooks")).jetstream(timeout=WAIT_SECONDS)
    reading = await after.pull_subscribe("evt.>", durable="reader", stream="EVENTS")
    assert (await fetched(reading)).data == b"kept"


async def test_on_a_cluster_each_stream_has_its_copies_and_is_reached_from_every_node(
    mesh_cluster: RunningBroker,
) -> None:
    choices = Choices(replicas=3, events_max_bytes=64 * MIB)
    servers = [config.url for config in mesh_cluster.configs]
    assert set((await provision(servers, mesh_cluster.seed(PROVISIONER), choices)).created) == set(declared(choices))
    assert await provision(servers, mesh_cluster.seed(PROVISIONER), choices) == module.Provisioned((), ())
    js = (await mesh_cluster.static(PROVISIONER)).jetstream(timeout=WAIT_SECONDS)
    info = await js.stream_info("EVENTS")
    assert info.cluster is not None
    assert len(info.cluster.replicas or []) == 2

    for number, url in enumerate(servers):
        subject = f"evt.ws{number}.s.t"
        service = (await mesh_cluster.static("webhooks", url=url)).jetstream(timeout=WAIT_SECONDS)
        assert (await service.publish(subject, b"one")).stream == "EVENTS"
        elsewhere = await mesh_cluster.static("webhooks", url=servers[number - 1])
        reading = await elsewhere.jetstream(timeout=WAIT_SECONDS).pull_subscribe(
            subject, durable=f"r{number}", stream="EVENTS"
        )
        await (await fetched(reading)).ack_sync(timeout=WAIT_SECONDS)
        auth = (await mesh_cluster.static("auth", url=url)).jetstream(timeout=WAIT_SECONDS)
        bucket = await auth.key_value("jwks")
        watching = await (await elsewhere.jetstream(timeout=WAIT_SECONDS).key_value("jwks")).watchall()
        await bucket.put(f"k{number}", b"1")
        async with asyncio.timeout(WAIT_SECONDS):
            while (entry := await watching.updates()) is None or entry.key != f"k{number}":
                pass
        await watching.stop()
