"""The way out by syslog, to a real receiver: what it says, what it takes for taken, and where it does not go."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import pytest
from makers import candidates, event, make_person
from receiver import Receiver, end_early, end_rudely, receiver

from wardmesh.contracts.audit import AddForwarder, Entry, ForwardFormat, Outcome, parse_address
from wardmesh_audit.batches import Batch, frames_of, syslog_of
from wardmesh_audit.domain import Stored, decode_leaf
from wardmesh_audit.outward import Outward
from wardmesh_audit.outward_tls import OutwardTls
from wardmesh_audit.ports_forwarding import NotDelivered, Target
from wardmesh_audit.sending_syslog import SyslogSender

LOCAL = [ipaddress.ip_network("127.0.0.0/8")]
KINDS = {"tls": "syslog+tls", "tcp": "syslog+tcp"}


@pytest.fixture(params=KINDS)
async def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Receiver]:
    async with receiver(tmp_path_factory.mktemp("syslog") if request.param == "tls" else None) as running:
        running.scheme = KINDS[request.param]  # type: ignore[attr-defined]
        yield running


def batch(count: int = 3, **changes: object) -> Batch:
    scope = make_person().scope
    made = candidates(scope, *(event(**changes) for _ in range(count)))
    return Batch(scope, "siem", [decode_leaf(Stored(index, each.leaf)) for index, each in enumerate(made, 40)])


def target(there: Receiver, host: str = "localhost", scheme: str | None = None) -> Target:
    place = parse_address(f"{scheme or there.scheme}://{host}:{there.port}")  # type: ignore[attr-defined]
    return Target(place.scheme, place.host, place.port, place.path, None, None, ForwardFormat.OCSF)


async def send(
    there: Receiver, *batches: Batch, to: Target | None = None, seconds: float = 5.0, allowed: Sequence[object] = LOCAL
) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    trusted = OutwardTls(there.ca_file if there.ca_file.name else None)
    sender = SyslogSender(Outward(allowed, lookup=lookup), trusted, seconds=seconds)  # type: ignore[arg-type]
    try:
        async with sender.open(to or target(there)) as endpoint:
            for each in batches or [batch()]:
                await endpoint.send(each)
    finally:
        sender.close()


async def why_not(there: Receiver, *batches: Batch, **options: object) -> str:
    with pytest.raises(NotDelivered) as refused:
        await send(there, *batches, **options)  # type: ignore[arg-type]
    assert refused.value.__cause__ is None
    return refused.value.error


async def test_each_entry_is_a_message_with_its_index(there: Receiver) -> None:
    sent = batch(outcome=Outcome.REFUSED, details={"text": 'ünï\ncode ]"\\ 12 <13>1'})
    await send(there, sent, sent)
    assert there.indexes == [40, 41, 42] * 2
    assert there.connections == 2
    for message, entry in zip(there.parsed, [*sent.entries, *sent.entries], strict=True):
        assert (message["priority"], message["app"]) == (b"108", b"wardmesh-audit")
        assert datetime.fromisoformat(message["time"].decode()) == entry.event.occurred_at
        said = f'[wardmesh@32473 scope="{sent.scope}" index="{entry.index}" event="{entry.event.id}"]'
        assert message["data"].decode() == said
        assert json.loads(message["text"])["metadata"]["uid"] == entry.event.id


async def test_a_large_batch_arrives_whole(there: Receiver) -> None:
    await send(there, batch(60, details={f"k{n}": "x" * 100 for n in range(50)}))
    assert there.indexes == list(range(40, 100))


@pytest.mark.parametrize("manner", ["resets", "stays", "cuts off", "reads slowly"])
async def test_what_is_not_ended_in_order_was_not_taken(there: Receiver, manner: str) -> None:
    there.manner = [manner]
    large = Batch((sent := batch(1, details={f"k{n}": "x" * 100 for n in range(60)})).scope, "siem", sent.entries * 300)
    began = asyncio.get_running_loop().time()
    if there.scheme == "syslog+tls" and manner in {"resets", "stays"}:  # type: ignore[attr-defined]
        # Its TLS library has read all and answers the end, whatever the program does: more than that nobody can say.
        await send(there, large, seconds=5)
        assert len(there.messages) == 300
        return
    with pytest.raises(NotDelivered) as refused:
        await send(there, large, seconds=0.5)
    assert refused.value.error == ("broken" if manner in {"resets", "cuts off"} else "timed_out")
    assert asyncio.get_running_loop().time() - began < 2.0
    there.release.set()
    await send(there, batch())


async def test_what_a_receiver_says_besides_is_dropped(there: Receiver) -> None:
    there.manner = ["talks"]
    await send(there, batch(40))
    assert there.indexes == list(range(40, 80))


async def test_what_is_not_there_is_unreachable(there: Receiver) -> None:
    assert await why_not(there, to=_at_port(target(there), 1)) == "unreachable"


def _at_port(where: Target, port: int) -> Target:
    return Target(where.scheme, where.host, port, where.path, None, None, where.format)


async def test_nobody_is_sent_inside_and_without_tls_nobody_outside(there: Receiver) -> None:
    assert await why_not(there, allowed=()) == "not_public"
    assert there.connections == 0

    async def public(host: str, port: int) -> list[str]:
        return ["1.1.1.1"]

    sender = SyslogSender(Outward(LOCAL, lookup=public), OutwardTls(None), seconds=0.2)
    with pytest.raises(NotDelivered, match="not_encrypted"):
        async with sender.open(target(there, scheme="syslog+tcp")):
            pass
    sender.close()


async def test_a_certificate_is_for_the_name_and_by_somebody_who_is_trusted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with receiver(tmp_path_factory.mktemp("syslog")) as there:
        where = target(there, "other.example", "syslog+tls")
        assert await why_not(there, to=where) == "tls"
        there.ca_file = type(there.ca_file)()
        assert await why_not(there, to=target(there, scheme="syslog+tls")) == "tls"
        assert there.messages == []


async def test_an_end_that_anybody_on_the_way_could_have_made_is_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with receiver(tmp_path_factory.mktemp("syslog")) as there:
        assert there.context is not None
        with socket.create_server(("127.0.0.1", 0)) as listening:
            rude = asyncio.create_task(asyncio.to_thread(end_rudely, listening, there.context))
            where = _at_port(target(there, scheme="syslog+tls"), listening.getsockname()[1])
            assert await why_not(there, to=where) == "cut_off"
            await rude


async def test_an_end_that_came_before_ours_is_no_answer(there: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        early = asyncio.create_task(asyncio.to_thread(end_early, listening, there.context))
        where = _at_port(target(there), listening.getsockname()[1])
        large = batch(400, details={f"k{n}": "x" * 100 for n in range(60)})
        assert await why_not(there, large, to=where) == "cut_off"
        await early


def test_a_message_says_how_grave_it_is_and_no_text_ends_it() -> None:
    def of(**changes: object) -> tuple[Entry, bytes]:
        (entry,) = batch(1, **changes).entries
        return entry, syslog_of(entry, ForwardFormat.ENTRY)

    for outcome, priority in (
        (Outcome.SUCCESS, b"<110>1 "),
        (Outcome.REFUSED, b"<108>1 "),
        (Outcome.FAILED, b"<107>1 "),
    ):
        assert of(outcome=outcome)[1].startswith(priority)
    entry, message = of(reason="a\nb\0c", targets=("9 <13>1 - - - - - - forged",))
    assert b"\n" not in message
    framed = frames_of(Batch(entry.scope, "siem", [entry]), ForwardFormat.ENTRY)
    length, _, rest = framed.partition(b" ")
    assert int(length) == len(rest) == len(message)


@pytest.mark.parametrize(
    "url", ["syslog://siem.example", "syslog+tls://siem.example/path", "syslog+udp://siem.example", "syslog+tls://"]
)
def test_an_address_of_a_receiver(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        AddForwarder(name="siem", url=url)


def test_a_receiver_has_standard_ports_and_no_secret() -> None:
    assert parse_address("syslog+tls://siem.example").origin == "syslog+tls://siem.example:6514"
    assert parse_address("syslog+tcp://[::1]").origin == "syslog+tcp://[::1]:601"
    AddForwarder(name="siem", url="syslog+tls://siem.example/")
    with pytest.raises(ValueError, match="no place for a secret"):
        AddForwarder(name="siem", url="syslog+tls://siem.example", secret="x")
