"""Everything that a caller might forge at the broker, on a running mesh: nothing of it lands anywhere.

Each refusal is seen (the broker names the subject), and two observers, who hear everything in the account of the
callers
and in that of the streams, see that nothing came of it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import nats
import pytest
from nats.aio.client import Client
from tests.mesh.forging import (
    FORMS,
    Attacker,
    World,
    foreign_replies,
    forgeries,
    identity_fields,
    inboxes,
    infrastructure,
    is_a_pattern,
    is_permitted,
)
from tests.mesh.wire import Watched, Wire, watched_mesh
from tests.mesh.world import sign_up

import wardmesh
from wardmesh.contracts import ALL
from wardmesh.contracts.operation import AnyContract
from wardmesh.headers import AUTHORIZATION
from wardmesh.ids import (
    OrgId,
    Principal,
)  # fmt: skip
from wardmesh.server.broker import BUCKETS, GATEWAY, PRIVATE_BUCKETS, PROVISIONER, STREAMS, stream_of_bucket
from wardmesh.subjects import SERVICES, RpcSubject

AT_ONCE: Final = 200
"""Refusals that may come before the broker takes us for a slow reader."""


@pytest.fixture(scope="module")
async def watched() -> AsyncIterator[Watched]:
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-forgery-"))
    async with watched_mesh(folder / "data") as mesh:
        yield mesh
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
async def world(watched: Watched) -> AsyncIterator[World]:
    """Three attackers: the session of an owner, and the keys of an agent and of a service account."""
    tenant, rival = await sign_up(watched.mesh, "acme"), await sign_up(watched.mesh, "rival")
    async with AsyncExitStack() as stack:
        session = await tenant.log_in(scope=tenant.workspace)
        mesh = await stack.enter_async_context(wardmesh.connect(watched.mesh.nats_url, token=session["token"]))
        agent = await mesh.auth.create_agent(name="narrow")
        key = await mesh.auth.create_key(principal=agent.id, name="narrow", permissions=("secret.read", "event.read"))
        service = await mesh.auth.create_service_account(name="wide", level="admin")
        wide = await mesh.auth.create_key(principal=service.id, name="wide")
        neighbour = await mesh.auth.create_agent(name="neighbour")
        async with await tenant.connect_as_owner(tenant.organization) as organization:
            second = (await organization.auth.create_workspace(name="second")).id

        async def attacker(kind: str, principal: Principal, credential: str, token: str) -> Attacker:
            wire = await stack.enter_async_context(
                Wire.open(watched.mesh.nats_url, user=tenant.workspace, password=credential)
            )
            wire.subscribe(f"_INBOX.{principal}.>")
            assert await wire.refused() == set()
            return Attacker(kind, wire, tenant.workspace, principal, token)

        tokens = [(await tenant.exchange(each.api_key, tenant.workspace))["token"] for each in (key, wide)]
        attackers = (
            await attacker("owner", tenant.owner, session["token"], session["token"]),
            await attacker("agent", agent.id, key.api_key, tokens[0]),
            await attacker("service", service.id, wide.api_key, tokens[1]),
        )
        yield World(watched, tenant, second, neighbour.id, rival, {each.kind: each for each in attackers})


@pytest.fixture(params=["owner", "agent", "service"])
def attacker(request: pytest.FixtureRequest, world: World) -> Attacker:
    world.watched.forget()
    return world.attackers[request.param]


async def assert_nothing_landed(watched: Watched, marker: bytes) -> None:
    for observer in (watched.callers, watched.streams):
        assert [message.subject for message in await observer.settled() if marker in message.data] == []


async def sequences(watched: Watched) -> dict[str, int]:
    """How far each stream is; those of the log go on by themselves."""
    seed = watched.mesh.layout.identities.seed_file(PROVISIONER).read_text().strip()
    client = await nats.connect(watched.mesh.nats_url, nkeys_seed_str=seed, inbox_prefix=f"_INBOX.{PROVISIONER}")
    names = {*STREAMS, *(stream_of_bucket(bucket) for bucket in (*BUCKETS, *PRIVATE_BUCKETS))} - {"AUDIT", "SEALED"}
    found = {name: (await client.jetstream().stream_info(name)).state.last_seq for name in sorted(names)}
    await client.close()
    return found


async def test_the_observers_would_see_it(world: World) -> None:
    """Without this, everything below could pass by being deaf."""
    marker = secrets.token_bytes(16)
    attacker = world.attackers["agent"]
    own = RpcSubject("secrets", "get", attacker.scope, attacker.principal).format()
    attacker.wire.publish(own, marker, reply=f"{attacker.own_inbox}.x")
    assert await attacker.wire.refused() == set()
    assert [each.subject for each in await world.watched.callers.settled() if marker in each.data] == [own]

    service = await connect_as(world.watched, "webhooks")
    await service.jetstream().publish(f"evt.{world.tenant.workspace}.x.y", marker)
    for observer in (world.watched.callers, world.watched.streams):
        assert f"evt.{world.tenant.workspace}.x.y" in {
            each.subject for each in await observer.settled() if marker in each.data
        }
    await service.close()


async def connect_as(watched: Watched, user: str) -> Client:
    seed = watched.mesh.layout.identities.seed_file(user).read_text().strip()
    return await nats.connect(watched.mesh.nats_url, nkeys_seed_str=seed, inbox_prefix=f"_INBOX.{user}")


def test_every_form_is_forged() -> None:
    assert RpcSubject in FORMS
    assert len(FORMS) >= len(STREAMS), "a form for each stream that callers have a part in, and that of requests"
    positions = {form.__name__: identity_fields(form) for form in FORMS}
    assert positions["RpcSubject"] == ["scope", "principal"]
    assert positions["BridgeSubject"] == ["source", "target"]
    assert all(positions.values())


@pytest.mark.parametrize("what", [forgeries, infrastructure, inboxes])
async def test_what_is_not_ones_own_cannot_be_published(attacker: Attacker, world: World, what: Any) -> None:
    marker = secrets.token_bytes(16)
    forged = sorted({subject for subject in what(world, attacker) if not is_permitted(subject, attacker)})
    before = await sequences(world.watched)
    refused: set[tuple[str, str]] = set()
    for start in range(0, len(forged), AT_ONCE):
        for subject in forged[start : start + AT_ONCE]:
            attacker.wire.publish(
                subject, marker, reply=f"{attacker.own_inbox}.x", headers={AUTHORIZATION: f"Bearer {attacker.token}"}
            )
        refused |= await attacker.wire.refused()
    assert_all_refused("Publish", forged, refused)
    await assert_nothing_landed(world.watched, marker)
    assert await sequences(world.watched) == before


@pytest.mark.parametrize("queue", ["", "stolen"])
async def test_what_is_not_ones_own_cannot_be_heard(attacker: Attacker, world: World, queue: str) -> None:
    own = attacker.own_inbox
    heard = {
        *(">", "*", "*.>", "*.*", "*.*.*", "*.*.*.*", "*.*.*.*.*", "$JS.>", "$SRV.>", "$SYS.>", "$KV.>", "$>", "$*.>"),
        *("_INBOX.>", "_INBOX.*.>", "_INBOX.*.*", "_INBOX.*", "_INBOX", f"_INBOX.*.{GATEWAY}.>", "_R_.>", "_GR_.>"),
        *(own, f"{own}*", f"{own}*.>", f"*.{attacker.principal}.>", f"_INBOX.*.{attacker.principal}.>"),
        *(f"rpc.*.*.*.{attacker.principal}", f"rpc.*.*.{attacker.scope}.*", f"rpc.*.*.{attacker.scope}.>", "rpc.>"),
        *(f"rpc.{service}.*.*.*" for service in SERVICES),
        f"rpc.*.*.{attacker.scope}.{attacker.principal}",
        *(each for subjects_of in STREAMS.values() for each in subjects_of),
        *forgeries(world, attacker),
        *infrastructure(world, attacker),
        *inboxes(world, attacker),
        *(f"{inbox.rpartition('.')[0]}.>" for inbox in inboxes(world, attacker)),
    }
    # What is no subject is refused as none, without naming it; there is nothing to be heard on it.
    forged = sorted(subject for subject in heard if is_a_pattern(subject))
    refused: set[tuple[str, str]] = set()
    for start in range(0, len(forged), AT_ONCE):
        for subject in forged[start : start + AT_ONCE]:
            attacker.wire.subscribe(subject, queue)
        refused |= await attacker.wire.refused()
    assert_all_refused("Subscription", forged, refused)


def assert_all_refused(what: str, subjects_: list[str], refused: set[tuple[str, str]]) -> None:
    assert len(subjects_) > 10
    wanted = {(what, subject) for subject in subjects_}
    assert sorted(wanted - refused)[:5] == [], "the broker let these through"
    assert sorted(refused - wanted)[:5] == [], "refused, and never asked for"


@pytest.mark.parametrize("contract", ALL.values(), ids=list(ALL))
async def test_no_answer_lands_where_a_caller_says(world: World, contract: AnyContract) -> None:
    """Every operation, asked on the caller's own subject with its own good token, and every foreign reply."""
    attacker, watched = world.attackers["owner"], world.watched
    watched.forget()
    before = await sequences(watched)
    subject = RpcSubject(contract.service, contract.name, attacker.scope, attacker.principal).format()
    replies = sorted({reply for reply in foreign_replies(world, attacker) if " " not in reply})
    for number, reply in enumerate(replies):
        attacker.wire.publish(
            subject,
            b"{}",
            reply=reply,
            headers={AUTHORIZATION: f"Bearer {attacker.token}", "Request-Id": f"forged-{number}"},
        )
    # On its own subject the broker lets everything through, but for replies that only it may name.
    reserved = {reply for reply in replies if reply.startswith(("$JS.ACK.", "_R_.", "_GR_."))}
    assert len(reserved) >= 2
    assert await attacker.wire.refused() == {("Publish with Reply", reply) for reply in reserved}
    replies = [reply for reply in replies if reply not in reserved]
    refusals = await attacker.wire.until(len(replies))
    heard = await watched.callers.settled()
    landed = [message.subject for message in heard if message.subject in replies and message.subject != subject]
    assert landed == []
    # It is told so by the service, in its own inbox, once for each.
    assert {(where, json.loads(body)["code"]) for where, body in refusals} == {
        (f"{attacker.own_inbox}.refused", "reply_subject_refused")
    }
    assert len(refusals) == len(replies)
    asked = [message.reply for message in heard if message.subject == subject]
    assert sorted(asked) == replies, "each was on the wire as it was forged"
    # And else there is only what the mesh says to itself: the log's own subjects, for the attacker's own scope.
    others = {message.subject for message in heard} - {subject, f"{attacker.own_inbox}.refused"}
    own_log = (
        f"audit.{attacker.scope}.",
        f"sealed.{attacker.scope}",
        f"audit.{OrgId.nil()}.",
        f"sealed.{OrgId.nil()}",
    )
    assert sorted(other for other in others if not other.startswith((*own_log, *OF_SERVICES))) == []
    assert await sequences(watched) == before


OF_SERVICES: Final = (*(f"_INBOX.{service}." for service in SERVICES), "$JS.API.", "$JS.ACK.", "$JS.FC.", "$SRV.")
"""What services say to the broker, and the broker to them, all the time; replies are told apart by their own names."""
