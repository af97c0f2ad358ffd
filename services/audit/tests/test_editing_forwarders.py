"""Changing a forwarder: it keeps its place, nothing is missed for it, and no secret follows to another address."""

from __future__ import annotations

from datetime import timedelta

import pytest
from clients import make
from forwarding_world import World
from hypothesis import given
from hypothesis import strategies as st
from makers import make_person

from wardmesh.contracts.audit import EDIT_FORWARDER, AddForwarder, EditForwarder, Filter, ForwardFormat
from wardmesh.contracts.operation import Category, Empty, Level
from wardmesh.errors import InvalidRequest, ServiceUnavailable
from wardmesh.ids import UserId
from wardmesh_audit.batches import Batch
from wardmesh_audit.client_certificates import ClientCertificate
from wardmesh_audit.errors import NoSuchForwarder, SecretUnusable
from wardmesh_audit.forward_vault import ForwardVault
from wardmesh_audit.ports_forwarding import NotDelivered

AUTHORITY = make("an authority", authority=True)
ELSEWHERE = "https://other.example/elsewhere?token=xyz"


@pytest.fixture
def world() -> World:
    return World()


async def test_what_is_named_is_changed_and_the_rest_stays(world: World) -> None:
    await world.seal(5)
    await world.add(secret_header="X-Key", filter=Filter(category=Category.SECRET_ACCESS), start=2)
    shown = await world.edit(format="entry")
    assert (shown.format, shown.address, shown.has_secret, shown.secret_header, shown.next_start) == (
        ForwardFormat.ENTRY, "https://siem.example:443", True, "X-Key", 2,
    )  # fmt: skip
    assert shown.filter == Filter(category=Category.SECRET_ACCESS)
    shown = await world.edit(filter={})
    assert (shown.filter, shown.format) == (Filter(), ForwardFormat.ENTRY)
    await world.edit(secret="another")
    await world.round()
    (target,) = world.sender.targets
    assert (target.path, target.secret, target.header, target.format) == (
        "/in?token=abc", "another", "X-Key", ForwardFormat.ENTRY,
    )  # fmt: skip
    assert world.sender.indexes == [2, 3, 4]


async def test_another_address_takes_what_is_given_with_it(world: World) -> None:
    await world.seal(3)
    await world.add(secret_header="X-Key")
    call = world.admin.ask(EDIT_FORWARDER)
    request = EditForwarder(name="siem", url=ELSEWHERE, secret="theirs", secret_header="X-Other")
    shown = await world.service.edit(call, request)
    assert (shown.address, shown.secret_header) == ("https://other.example:443", "X-Other")
    await world.round()
    (target,) = world.sender.targets
    assert (target.host, target.path, target.secret, target.header) == (
        "other.example", "/elsewhere?token=xyz", "theirs", "X-Other",
    )  # fmt: skip
    said = call.audit_record.__self__._details  # type: ignore[attr-defined]
    assert said == {
        "changed": ["url", "secret", "secret_header"], "address": "https://other.example:443",
        "address_before": "https://siem.example:443", "start": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "url", [ELSEWHERE, "https://siem.example/elsewhere", "https://siem.example:8443/in?token=abc", "syslog+tls://x"]
)
async def test_no_secret_follows_to_another_address(world: World, url: str) -> None:
    await world.seal(1)
    await world.add(secret_header="X-Key")
    before = world.row.stored
    with pytest.raises(InvalidRequest) as refused:
        await world.edit(url=url)
    assert [each.pointer for each in refused.value.violations] == ["/secret"]
    assert world.row.stored == before
    shown = await world.edit(url=url, without_secret=True)
    assert (shown.has_secret, shown.secret_header) == (False, None)
    await world.round()
    (target,) = world.sender.targets
    assert (target.secret, target.header) == (None, None)


async def test_syslog_has_no_place_for_a_secret(world: World) -> None:
    await world.add(url="syslog+tls://siem.example", secret=None)
    with pytest.raises(InvalidRequest):
        await world.edit(secret="s3cret")
    with pytest.raises(ValueError, match="no place"):
        await world.edit(url="syslog+tls://siem.example", secret="s3cret")
    await world.edit(url=ELSEWHERE, secret="s3cret")


@pytest.mark.parametrize(
    "change",
    [{}, {"without_secret": False}, {"secret": "x", "without_secret": True}, {"secret_header": "X-Key"},
     {"client_certificate": "x", "client_key": "x", "without_client_certificate": True},
     {"secret_header": "Host", "secret": "x"}, {"url": "http://siem.example/"}, {"secret": "x\r\ny"}, {"start": 3}],
)  # fmt: skip
def test_a_change_that_is_none_or_cannot_be_is_refused_by_its_form(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="EditForwarder") as refused:
        EditForwarder.model_validate({"name": "siem"} | change)
    assert "x\r\ny" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://siem.example/in?token=abc", "syslog+tls://siem.example"])
async def test_a_certificate_is_given_kept_exchanged_and_left_behind(world: World, url: str) -> None:
    first, second = (make(by=AUTHORITY, until=timedelta(days=days)) for days in (3, 5))
    await world.seal(1)
    await world.add(url=url, secret=None, client_certificate=first.pem, client_key=first.key)
    listed = await world.service.list(world.admin.ask(EDIT_FORWARDER), Empty())
    assert [each.client_certificate_until for each in listed.forwarders] == [first.certificate.not_valid_after_utc]
    for hidden in (first.key, first.key.splitlines()[1], first.pem.splitlines()[1]):
        assert hidden not in repr(world.row.stored) + listed.model_dump_json() + str(listed)
    shown = await world.edit(format="entry")
    assert shown.client_certificate_until == first.certificate.not_valid_after_utc
    with pytest.raises(InvalidRequest) as refused:
        await world.edit(url=f"{url.partition('//')[0]}//other.example")
    assert [each.pointer for each in refused.value.violations] == ["/client_certificate"]
    await world.round()
    shown = await world.edit(client_certificate=second.pem, client_key=second.key)
    assert shown.client_certificate_until == second.certificate.not_valid_after_utc
    await world.seal(1)
    await world.round()
    shown = await world.edit(without_client_certificate=True)
    assert shown.client_certificate_until is None
    await world.seal(1)
    await world.round()
    assert [target.client for target in world.sender.targets] == [
        ClientCertificate(first.pem, first.key), ClientCertificate(second.pem, second.key), None,
    ]  # fmt: skip
    assert first.key not in repr(world.sender.targets)
    await world.edit(url="https://other.example/")


async def test_secret_and_certificate_are_exchanged_one_by_one(world: World) -> None:
    made = make(by=AUTHORITY)
    await world.seal(1)
    await world.add(client_certificate=made.pem, client_key=made.key)
    await world.edit(secret="another")
    await world.round()
    await world.edit(without_client_certificate=True)
    await world.seal(1)
    await world.round()
    assert [(target.path, target.secret, target.client is None) for target in world.sender.targets] == [
        ("/in?token=abc", "another", False), ("/in?token=abc", "another", True),
    ]  # fmt: skip


async def test_a_certificate_that_is_of_no_use_is_refused_with_its_field(world: World) -> None:
    good, expired = make(by=AUTHORITY), make(by=AUTHORITY, until=timedelta(hours=-1))
    for certificate, key, pointer in (
        ("hello", good.key, "/client_certificate"),
        (good.pem, "hello", "/client_key"),
        (good.pem, make().key, "/client_key"),
        (expired.pem, expired.key, "/client_certificate"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await world.add(client_certificate=certificate, client_key=key)
        assert [each.pointer for each in refused.value.violations] == [pointer]
    assert world.store.rows[world.admin.scope] == {}
    await world.add(url="syslog+tcp://siem.example", secret=None)
    with pytest.raises(InvalidRequest, match="invalid_request") as refused:
        await world.edit(client_certificate=good.pem, client_key=good.key)
    assert "without TLS" in refused.value.violations[0].message


@pytest.mark.parametrize(
    "given",
    [{"client_certificate": "x"}, {"client_key": "x"}, {"client_certificate": "x" * 16385, "client_key": "x"},
     {"client_certificate": "x", "client_key": "x" * 4097}, {"client_certificate": "x\0", "client_key": "x"},
     {"url": "syslog+tcp://siem.example", "client_certificate": "x", "client_key": "x"}],
)  # fmt: skip
def test_a_certificate_has_a_key_bounds_and_tls(given: dict[str, str]) -> None:
    for kind in (AddForwarder, EditForwarder):
        with pytest.raises(ValueError, match=r"client|key|TLS"):
            kind.model_validate({"name": "siem", "url": "https://siem.example"} | given)


async def test_there_has_to_be_one_in_this_scope(world: World) -> None:
    await world.add()
    with pytest.raises(NoSuchForwarder):
        await world.edit("other", format="entry")
    rival = make_person(level=Level.ADMIN).ask(EDIT_FORWARDER)
    with pytest.raises(NoSuchForwarder):
        await world.service.edit(rival, EditForwarder(name="siem", without_secret=True))


async def test_a_secret_that_does_not_open_is_given_anew_with_its_address(world: World) -> None:
    """As after the key file was exchanged: the forwarder goes on where it was."""
    await world.seal(3)
    await world.add()
    world.vault = world.service._vault = ForwardVault(bytes(32))
    world.replica = world.another()
    await world.round()
    assert world.row.stored.last_error == "secret_unusable"
    with pytest.raises(SecretUnusable):
        await world.edit(secret="s3cret")
    await world.edit(url="https://siem.example/in?token=abc", secret="s3cret")
    await world.round()
    assert (world.sender.indexes, world.row.stored.last_error) == ([0, 1, 2], None)


async def test_a_new_filter_names_people_by_pseudonyms_too(world: World) -> None:
    user = UserId.new()
    await world.seal(1, actor=user)
    await world.add()
    shown = await world.edit(filter={"actor": user})
    assert shown.filter == Filter(actor=user)
    assert str(user) not in str(world.row.stored.filter)
    await world.round()
    assert world.sender.indexes == [0]


async def test_a_batch_that_is_on_its_way_moves_nothing_and_goes_to_the_new_address(world: World) -> None:
    await world.seal(700)
    await world.add()
    sent: list[tuple[str, int, int]] = []

    async def edited_meanwhile(batch: Batch) -> None:
        sent.append((world.sender.targets[-1].host, batch.entries[0].index, batch.entries[-1].index))
        if len(sent) == 1:
            await world.edit(url=ELSEWHERE, without_secret=True)

    world.sender.meanwhile = edited_meanwhile
    await world.round()
    assert world.row.stored.next_start == 0, "what the old address took says nothing of the new one"
    await world.round()
    assert sent == [("siem.example", 0, 499), ("other.example", 0, 499), ("other.example", 500, 699)]
    assert world.row.stored.next_start == 700


async def test_what_the_old_filter_passed_over_is_looked_at_again(world: World) -> None:
    await world.seal(1, category=Category.TOOL_CALL, action="tool.call")
    await world.seal(2)
    await world.seal(1, category=Category.TOOL_CALL, action="tool.call")
    await world.add(filter=Filter(category=Category.TOOL_CALL))

    async def edited_meanwhile(_batch: Batch) -> None:
        world.sender.meanwhile = None
        await world.edit(filter={})

    world.sender.meanwhile = edited_meanwhile
    await world.round()
    await world.round()
    assert world.sender.indexes == [0, 3, 0, 1, 2, 3]


async def test_the_old_addresss_failure_is_none_of_the_new_ones_and_nobody_waits_for_it(world: World) -> None:
    await world.seal(1)
    await world.add()
    world.sender.answers = [NotDelivered("http_503", retry_after_seconds=200), NotDelivered("http_503")]
    await world.round()
    assert world.row.attempt_at - world.now == 200

    async def edited_meanwhile(_batch: Batch) -> None:
        world.sender.meanwhile = None
        await world.edit(url=ELSEWHERE, without_secret=True)

    await world.edit(format="entry")
    world.sender.meanwhile = edited_meanwhile
    await world.round()
    assert (world.row.stored.failures, world.row.attempt_at) == (1, world.now), "the second was the old address's"
    await world.round()
    assert (world.sender.indexes, world.row.stored.failures) == ([0], 0)


async def test_one_that_was_stopped_stays_stopped(world: World) -> None:
    await world.seal(1)
    await world.add()
    await world.store.set_paused(world.admin.ask(EDIT_FORWARDER), "siem", paused=True)
    assert (await world.edit(format="entry")).state == "stopped"
    await world.round()
    assert world.sender.indexes == []


@pytest.mark.property
@given(data=st.data())
async def test_each_address_gets_all_from_where_it_began_whatever_is_changed_and_fails(data: st.DataObject) -> None:
    """Between batches and while one is on its way: addresses change, endpoints fail, and replicas die."""
    world = World()
    await world.add(url="https://a0/", secret=None)
    began, received, size = {"a0": 0}, {"a0": []}, 0  # type: dict[str, int], dict[str, list[int]], int

    async def edit() -> None:
        name = f"a{len(began)}"
        failure, world.store.failure = world.store.failure, None
        shown = await world.edit(url=f"https://{name}/")
        began[name], received[name] = shown.next_start, []
        world.store.failure = failure

    async def take(batch: Batch) -> None:
        host = world.sender.targets[-1].host
        fate = data.draw(st.sampled_from(["taken", "taken", "edited", "edited", "lost answer", "refused", "database"]))
        if fate != "refused":
            received[host] += [entry.index for entry in batch.entries]
        if fate == "edited":
            await edit()
        elif fate == "database":
            world.store.failure = ServiceUnavailable()
        elif fate != "taken":
            raise NotDelivered("broken")

    world.sender.meanwhile = take
    for _ in range(data.draw(st.integers(1, 8))):
        added = data.draw(st.integers(0, 700))
        await world.seal(added)
        size += added
        await world.round()
        if data.draw(st.booleans()):
            await edit()
        world.now += data.draw(st.sampled_from([0.0, 2.0, 1000.0]))

    async def yes(batch: Batch) -> None:
        received[world.sender.targets[-1].host] += [entry.index for entry in batch.entries]

    world.sender.meanwhile, world.store.failure = yes, None
    world.now += 1000
    await world.round()
    *before, last = began
    assert list(dict.fromkeys(received[last])) == list(range(began[last], size))
    assert set().union(*received.values()) == set(range(size))
    for name in before:  # in the order of the log, without a gap, as far as it came
        came = list(dict.fromkeys(received[name]))
        assert came == list(range(began[name], began[name] + len(came)))
