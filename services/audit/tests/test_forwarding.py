"""What a turn does: order, at least once, pauses, halves, stops; on a log in memory, with an endpoint that obeys."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fake_forwarding import FakeSender
from fake_ports import KEYS
from forwarding_world import World
from hypothesis import given
from hypothesis import strategies as st
from makers import Person, candidates, event, make_person

from wardmesh.contracts.audit import ADD_FORWARDER, AddForwarder, Filter, ForwardFormat, parse_address
from wardmesh.contracts.operation import Category
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import UserId
from wardmesh_audit.batches import LONGEST_PAUSE_SECONDS, TOLD_AFTER, Batch, body_of, headers_of, pause_seconds
from wardmesh_audit.forwarding import FAILING, WELL, Forwarding, Timing
from wardmesh_audit.ports_forwarding import BatchTooLarge, NotDelivered

DOWN = NotDelivered("http_503")


@pytest.fixture
def world() -> World:
    return World()


async def test_everything_goes_in_order_and_what_comes_later_follows(world: World) -> None:
    await world.seal(1203)
    await world.add()
    await world.round()
    assert world.sender.indexes == list(range(1203))
    assert [len(batch.entries) for batch in world.sender.taken] == [500, 500, 203]
    assert len(world.sender.targets) == 1, "one connection a turn"
    await world.round()
    await world.seal(2)
    await world.round()
    assert world.sender.indexes == list(range(1205))
    assert world.row.lease is None


async def test_it_begins_now_or_at_an_index(world: World) -> None:
    await world.seal(5)
    await world.add(start=None)
    await world.add(name="other", start=3)
    await world.round()
    assert world.sender.indexes == [3, 4]
    await world.seal(1)
    await world.round()
    assert world.sender.indexes == [3, 4, 5, 5]


async def test_only_what_matches_goes_and_nothing_is_opened_for_the_rest(world: World) -> None:
    await world.seal(3)
    await world.add(filter=Filter(category=Category.TOOL_CALL))
    await world.round()
    assert (world.sender.taken, world.sender.targets, world.row.stored.next_start) == ([], [], 3)
    await world.seal(1, category=Category.TOOL_CALL, action="tool.call")
    await world.seal(1)
    await world.round()
    assert (world.sender.indexes, world.row.stored.next_start) == ([3], 5)


async def test_people_are_named_to_the_endpoint_and_nowhere_in_the_rows(world: World) -> None:
    """A filter names a user, the row a pseudonym; after an erasure nobody can say whom, and nothing is passed over."""
    user, other = UserId.new(), UserId.new()
    await world.seal(1, actor=user)
    await world.seal(1, actor=other, targets=(user,))
    await world.add(filter=Filter(actor=user))
    await world.add(name="about", filter=Filter(target=user))
    kept = [row.stored.filter for row in world.store.rows[world.admin.scope].values()]
    assert str(user) not in str(kept)
    await world.round()
    assert sorted(world.sender.indexes) == [0, 1]
    said = {entry.index: entry.event for batch in world.sender.taken for entry in batch.entries}
    assert (said[0].actor, said[1].targets) == (user, (user,))
    listed = await world.service.list(world.admin.ask(ADD_FORWARDER), None)  # type: ignore[arg-type]
    assert [each.filter for each in listed.forwarders] == [Filter(target=user), Filter(actor=user)]

    await KEYS.destroy(world.admin.scope, KEYS.made(world.admin.scope, [user])[user])
    await world.seal(1)
    await world.round()
    listed = await world.service.list(world.admin.ask(ADD_FORWARDER), None)  # type: ignore[arg-type]
    assert str(user) not in listed.model_dump_json()
    assert [each.next_start for each in listed.forwarders] == [3, 3]


async def test_the_endpoint_gets_what_was_hidden_and_nobody_else_does(world: World) -> None:
    await world.seal(1)
    await world.add(secret_header="X-Key")
    await world.round()
    (target,) = world.sender.targets
    assert (target.path, target.secret, target.header) == ("/in?token=abc", "s3cret", "X-Key")
    listed = await world.service.list(world.admin.ask(ADD_FORWARDER), None)  # type: ignore[arg-type]
    for shown in (repr(target), repr(world.row.stored), listed.model_dump_json(), str(listed)):
        assert "abc" not in shown
        assert "s3cret" not in shown
    assert listed.forwarders[0].address == "https://siem.example:443"


@pytest.mark.parametrize("change", [{"address": "https://evil.example:443"}, {"secret_header": "X-Other"}])
async def test_a_row_that_was_turned_elsewhere_sends_nothing(world: World, change: dict[str, str]) -> None:
    await world.seal(1)
    await world.add()
    world.row.stored = replace(world.row.stored, **change)
    await world.round()
    assert (world.sender.targets, world.row.stored.last_error) == ([], "secret_unusable")


async def test_what_failed_is_sent_again_after_a_pause_that_grows(world: World) -> None:
    await world.seal(3)
    await world.add()
    world.sender.answers = [DOWN] * 12
    paused: list[float] = []
    for _ in range(12):
        await world.round()
        paused.append(world.row.attempt_at - world.now)
        await world.round()  # nothing happens before the pause is over
        world.now = world.row.attempt_at
    assert paused[:4] == [1, 2, 4, 8]
    assert paused[-1] == LONGEST_PAUSE_SECONDS
    assert world.sender.taken == []
    assert [target.attempt for target in world.sender.targets] == list(range(12)), "each address gets its turn"
    await world.round()
    assert world.sender.indexes == [0, 1, 2]
    assert [each.action for _, each in world.store.outbox] == [FAILING, WELL]
    assert world.store.outbox[0][1].reason == "http_503"


async def test_a_failure_after_a_success_is_the_first(world: World) -> None:
    await world.seal(600)
    await world.add()
    world.row.stored = replace(world.row.stored, failures=9)
    world.sender.answers = [None, DOWN]
    await world.round()
    assert (world.sender.indexes, world.row.stored.failures) == (list(range(500)), 1)
    assert world.row.attempt_at - world.now == 1


async def test_a_batch_that_is_too_large_is_halved(world: World) -> None:
    await world.seal(10)
    await world.add()

    def at_most_three(batch: Batch) -> None:
        if len(batch.entries) > 3:
            raise BatchTooLarge("http_413")

    world.sender.before_answer = at_most_three
    await world.round()
    assert world.sender.indexes == list(range(10))
    assert max(len(batch.entries) for batch in world.sender.taken) == 2
    world.sender.before_answer = lambda _batch: (_ for _ in ()).throw(BatchTooLarge("http_413"))
    world.sender.answers = [BatchTooLarge("http_413")]
    world.sender.before_answer = lambda _batch: None
    await world.seal(1)
    await world.round()
    assert world.row.stored.last_error == "http_413", "one entry cannot be halved, and is not passed over"


async def test_a_damaged_log_is_not_passed_over(world: World) -> None:
    await world.seal(3)
    await world.add()
    del world.log.rows[world.admin.scope].entries[1]
    await world.round()
    assert (world.sender.indexes, world.row.stored.last_error) == ([], "log_damaged")


async def test_trouble_of_our_own_is_no_failure_of_the_endpoints(world: World) -> None:
    await world.seal(3)
    await world.add()
    world.reads.failure = ServiceUnavailable()
    await world.round()
    assert (world.row.stored.failures, world.row.lease is not None) == (0, True)
    world.now += Timing().lease + 1
    world.store.failure = ServiceUnavailable()
    await world.round()
    await world.round()
    assert world.sender.indexes == [0, 1, 2]


async def test_one_that_is_removed_or_paused_meanwhile_stops_with_the_batch_in_hand(world: World) -> None:
    await world.seal(1200)
    await world.add()
    world.sender.before_answer = lambda _batch: world.store.rows[world.admin.scope].pop("siem", None)
    await world.round()
    assert len(world.sender.taken) == 1
    await world.add()

    def pause(_batch: Batch) -> None:
        world.row.stored = replace(world.row.stored, paused=True)

    world.sender.before_answer = pause
    await world.round()
    assert (len(world.sender.taken), world.row.stored.next_start) == (2, 500)


async def test_stopping_finishes_the_batch_in_hand_and_begins_no_other(world: World) -> None:
    await world.seal(1200)
    await world.add()
    await world.replica.begin_turns()
    stopping: list[asyncio.Task[None]] = []
    world.sender.before_answer = lambda _batch: stopping.append(asyncio.ensure_future(world.replica.stop()))
    await world.replica.turns_end()
    await asyncio.gather(*stopping)
    assert (len(world.sender.taken), world.row.stored.next_start, world.row.lease) == (1, 500, None)


async def test_stopping_does_not_wait_for_ever(world: World) -> None:
    await world.seal(1)
    await world.add()

    class Silent(FakeSender):
        async def send(self, batch: Batch) -> None:
            await asyncio.sleep(3600)

    silent = Forwarding(
        world.store, world.reading, Silent(), world.vault, lambda: datetime.now(UTC), timing=Timing(batch=0.05)
    )
    await silent.begin_turns()
    async with asyncio.timeout(5):
        await silent.stop()
    assert world.row.stored.next_start == 0


@pytest.mark.property
@given(data=st.data())
async def test_nothing_is_missing_and_nothing_out_of_order_whatever_fails(data: st.DataObject) -> None:
    """Replicas that die at any step, endpoints that take a batch and say that they did not, leases that run out."""
    world = World()
    await world.add(filter=Filter(category=Category.TOOL_CALL))
    received: list[int] = []
    wanted: list[int] = []
    size = 0

    def take(batch: Batch) -> None:
        fate = data.draw(st.sampled_from(["taken", "taken", "lost answer", "refused", "database away"]))
        if fate != "refused":
            received.extend(entry.index for entry in batch.entries)
        if fate == "database away":
            world.store.failure = ServiceUnavailable()
        elif fate != "taken":
            raise NotDelivered("broken")

    world.sender.before_answer = take
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 4))):
            is_wanted = data.draw(st.booleans())
            changes = {"category": Category.TOOL_CALL, "action": "tool.call"} if is_wanted else {}
            await world.seal(1, **changes)
            wanted += [size] if is_wanted else []
            size += 1
        await world.round()
        world.now += data.draw(st.sampled_from([0.0, 2.0, 1000.0]))
    world.sender.before_answer = lambda batch: received.extend(entry.index for entry in batch.entries)
    world.store.failure = None
    world.now += 1000
    await world.round()
    assert sorted(set(received)) == wanted
    # Dropping what has the index of one that was had before leaves the log's order.
    assert list(dict.fromkeys(received)) == wanted


def test_a_batch_says_what_is_in_it() -> None:
    person = make_person()
    (entry,) = _entries(person, 1)
    batch = Batch(person.scope, "siem", [entry.model_copy(update={"index": index}) for index in (3, 7)])
    headers = headers_of(batch)
    assert (headers["Wardmesh-First-Index"], headers["Wardmesh-Last-Index"], headers["Wardmesh-Entries"]) == (
        "3", "7", "2",
    )  # fmt: skip
    ocsf = [json.loads(line) for line in gzip.decompress(body_of(batch, ForwardFormat.OCSF)).splitlines()]
    assert [each["metadata"]["sequence"] for each in ocsf] == [3, 7]
    own = [json.loads(line) for line in gzip.decompress(body_of(batch, ForwardFormat.ENTRY)).splitlines()]
    assert [each["index"] for each in own] == [3, 7]
    assert body_of(batch, ForwardFormat.OCSF) == body_of(batch, ForwardFormat.OCSF), "a repetition is the same bytes"


def _entries(person: Person, count: int):  # type: ignore[no-untyped-def]
    from wardmesh_audit.domain import Stored, decode_leaf

    made = candidates(person.scope, *(event() for _ in range(count)))
    return [decode_leaf(Stored(index, each.leaf)) for index, each in enumerate(made)]


@given(st.integers(0, 10**6), st.none() | st.floats(0, 1e9), st.floats(0, 1))
def test_a_pause_is_bounded(failures: int, asked: float | None, jitter: float) -> None:
    pause = pause_seconds(failures, asked, jitter)
    assert 0 < pause <= LONGEST_PAUSE_SECONDS
    assert pause >= min(asked or 0, LONGEST_PAUSE_SECONDS), "an endpoint that asks for time gets it"
    assert TOLD_AFTER > 1


@pytest.mark.parametrize(
    "url",
    ["http://siem.example/", "https://", "https:///x", "https://user:pass@siem.example/", "https://siem.example/#x",
     "https://siem.example:0/", "https://siem.example:65536/", "https://siem.example/a b", "https://[::1/",
     "https://fe80::1%eth0/", "https://[fe80::1%25eth0]/", "ftp://siem.example/", "https://siem.example\\@evil/",
     "https://siem.example/\r\nX: y", "file:///etc/passwd", "HTTPS://siem.example/", "https://-x/"],
)  # fmt: skip
def test_an_address_is_https_and_nothing_else(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        AddForwarder(name="siem", url=url)


@pytest.mark.parametrize("secret", ["", " x", "x ", "x\r\nX-Evil: y", "x\ny", "schlüssel", "x" * 4097])
def test_a_secret_fits_a_header(secret: str) -> None:
    with pytest.raises(ValueError, match="secret") as refused:
        AddForwarder(name="siem", url="https://siem.example/", secret=secret)
    assert "Evil" not in str(refused.value)


@pytest.mark.parametrize(
    "header", ["Host", "content-length", "Content-Encoding", "Transfer-Encoding", "Connection", "Wardmesh-Scope", "X:y"]
)
def test_a_secrets_header_is_none_that_the_request_is_made_of(header: str) -> None:
    with pytest.raises(ValueError, match="secret_header"):
        AddForwarder(name="siem", url="https://siem.example/", secret="x", secret_header=header)
    with pytest.raises(ValueError, match="there is none"):
        AddForwarder(name="siem", url="https://siem.example/", secret_header="X-Key")


def test_an_origin_is_what_may_be_shown() -> None:
    assert parse_address("https://[2606:4700::1]:8443/x?y=z").origin == "https://[2606:4700::1]:8443"
    assert parse_address("https://SIEM.example").origin == "https://siem.example:443"
    assert parse_address(parse_address("https://siem.example/x").origin).path == "/"
