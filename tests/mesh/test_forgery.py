"""Everything that a caller might forge at the broker, on a running mesh: nothing of it lands anywhere.

Subjects are made from the dataclasses of `wardmesh.subjects`, so that a form or a position that is added is attacked
too. Each refusal is seen (the broker names the subject), and two observers, who hear everything in the account of the
callers and in that of the streams, see that nothing came of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import secrets
import shutil
import tempfile
import typing
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats
import pytest
from nats.aio.client import Client
from tests.mesh.wire import Watched, Wire, watched_mesh
from tests.mesh.world import Tenant, sign_up

import wardmesh
from wardmesh import subjects
from wardmesh.contracts import ALL
from wardmesh.contracts.operation import AnyContract
from wardmesh.headers import AUTHORIZATION
from wardmesh.ids import (
    AgentId,
    KeyId,
    OrgId,
    Principal,
    Scope,
    ServiceId,
    UserId,
    WorkspaceId,
)  # fmt: skip
from wardmesh.server.broker import BUCKETS, GATEWAY, OPERATOR, PRIVATE_BUCKETS, PROVISIONER, STREAMS, stream_of_bucket
from wardmesh.subjects import SERVICES, RpcSubject

FORMS: Final = tuple(
    form for _, form in sorted(vars(subjects).items()) if dataclasses.is_dataclass(form) and isinstance(form, type)
)
IDENTITIES: Final = (Scope, Principal, WorkspaceId)
"""The types of the positions that say who is speaking, or for whom."""
WORDS: Final = {"service": "secrets", "operation": "get", "type": "order.shipped", "category": "secret"}
EMPTY: Final = ""
AT_ONCE: Final = 200
"""Refusals that may come before the broker takes us for a slow reader."""


@dataclass(frozen=True)
class Attacker:
    """Somebody with a good credential, and the wire."""

    kind: str
    wire: Wire
    scope: Scope
    principal: Principal
    token: str

    @property
    def own_inbox(self) -> str:
        return f"_INBOX.{self.principal}"


@dataclass(frozen=True)
class World:
    """Who is there to be attacked: beside the attacker, in the next workspace, in another organization."""

    watched: Watched
    tenant: Tenant
    second: WorkspaceId
    neighbour: Principal
    """Somebody else in the attacker's own workspace."""
    rival: Tenant
    attackers: dict[str, Attacker]


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


# --- what can be forged


def identity_fields(form: type) -> list[str]:
    """Return the names of a form's positions that hold an identity."""
    hints = typing.get_type_hints(form)
    return [each.name for each in dataclasses.fields(form) if hints[each.name] in IDENTITIES]


def parts_of(form: type, attacker: Attacker, world: World) -> list[str]:
    """Return a form's positions, filled in as truthfully as the attacker can: with its own ids."""
    hints = typing.get_type_hints(form)
    own: dict[Any, str] = {Scope: attacker.scope, Principal: attacker.principal, WorkspaceId: world.tenant.workspace}
    fields = dataclasses.fields(form)
    return [own.get(hints[each.name]) or WORDS.get(each.name, "secrets") for each in fields]


def values(world: World, attacker: Attacker) -> list[str]:
    """Return what an identity position is replaced by: other principals, other scopes, patterns, and rubbish."""
    uuid_of = str(attacker.principal).partition("_")[2]
    return [
        *(world.neighbour, world.tenant.owner, world.rival.owner, UserId.new(), AgentId.new(), ServiceId.new()),
        *(world.second, world.rival.workspace, world.tenant.organization, world.rival.organization, WorkspaceId.new()),
        *(OrgId.nil(), UserId.nil(), WorkspaceId.nil(), attacker.scope, attacker.principal, KeyId.new()),
        *("*", ">", EMPTY, "_", "-", "usr_*", "ws_>", "null", "secrets", GATEWAY, "audit"),
        *(f"{kind}_{uuid_of}" for kind in ("usr", "agt", "svc", "org", "ws", "key")),
        *(str(attacker.principal).upper(), f"{attacker.principal}x", f"{attacker.principal}"[:-1]),
        *(f"{attacker.principal}.x", f"{attacker.scope}.{attacker.principal}", "*.*", "*.>"),
    ]


def head_of(form: type, attacker: Attacker, world: World) -> str:
    """Return a form's first token, as its own `format` writes it."""
    values_of: dict[Any, Any] = {
        Scope: attacker.scope, Principal: attacker.principal, WorkspaceId: world.tenant.workspace, str: "a"
    }  # fmt: skip
    hints = typing.get_type_hints(form)
    formatted: str = form(**{each.name: values_of[hints[each.name]] for each in dataclasses.fields(form)}).format()  # type: ignore[attr-defined]
    return formatted.partition(".")[0]


def forgeries(world: World, attacker: Attacker) -> Iterator[str]:
    """Every subject form; each identity position, and each two, replaced by each of the values."""
    replacements = values(world, attacker)
    for form in FORMS:
        head, truthful = head_of(form, attacker, world), parts_of(form, attacker, world)
        names = [each.name for each in dataclasses.fields(form)]
        positions = [names.index(name) for name in identity_fields(form)]
        assert positions, form
        yield ".".join((head, *truthful))
        for position, value in itertools.product(positions, replacements):
            parts = truthful.copy()
            parts[position] = value
            yield ".".join((head, *parts))
        for one, other in itertools.product(replacements, repeat=2):
            parts = truthful.copy()
            for position, value in zip(positions, (one, other), strict=False):
                parts[position] = value
            yield ".".join((head, *parts))
        yield ".".join((head, *truthful, "more"))
        yield ".".join((head, *truthful[:-1]))
        yield ".".join(("", head, *truthful))
        yield ".".join((head.upper(), *truthful))


def infrastructure(world: World, attacker: Attacker) -> Iterator[str]:
    """What belongs to the broker, the streams and the mesh's own users."""
    streams = (*STREAMS, *(stream_of_bucket(bucket) for bucket in (*BUCKETS, *PRIVATE_BUCKETS)))
    yield from ("$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.MINE", "$JS.x")
    for stream in streams:
        verbs = ("CREATE", "UPDATE", "INFO", "DELETE", "PURGE", "SNAPSHOT", "RESTORE", "MSG.GET", "MSG.DELETE")
        yield from (f"$JS.API.STREAM.{verb}.{stream}" for verb in verbs)
        yield from (f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.x", f"$JS.FC.{stream}.x.y")
        yield from (f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.mine.x")
        yield from (f"$JS.API.CONSUMER.{verb}.{stream}.sealer" for verb in ("INFO", "DELETE", "MSG.NEXT", "PAUSE"))
        yield from (f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.mine", f"$JS.API.CONSUMER.NAMES.{stream}")
        yield from (f"$JS.ACK.{stream}.sealer.1.1.1.1.0", f"$JS.EVENT.ADVISORY.STREAM.CREATED.{stream}")
    yield from (f"$KV.{bucket}.{key}" for bucket in (*BUCKETS, *PRIVATE_BUCKETS) for key in ("x", attacker.principal))
    yield from (f"$SRV.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".secrets", ".secrets.x"))
    yield from ("$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ")
    yield from ("$SYS.REQ.SERVER.x.KICK", "$SYS.ACCOUNT.APP.CONNECT", "$SYS._INBOX.x.y", "$SYS.REQ.ACCOUNT.APP.JSZ")
    for stream_subjects in STREAMS.values():
        for head in (each.removesuffix(">") for each in stream_subjects):
            yield from (f"{head}{attacker.scope}.x", f"{head}{attacker.scope}.{attacker.principal}.x", f"{head}x")
    yield from (
        f"_R_.{UserId.new()}",
        "_GR_.x.y.z",
        "_EMPTY_",
        "x",
        "rpc",
        f"rpc.{attacker.scope}.{attacker.principal}",
    )


def inboxes(world: World, attacker: Attacker) -> Iterator[str]:
    """Inboxes of everybody, and what looks like one's own."""
    others = (
        world.neighbour,
        world.rival.owner,
        UserId.new(),
        UserId.nil(),
        *SERVICES,
        OPERATOR,
        PROVISIONER,
        "system",
    )
    if attacker.principal != world.tenant.owner:
        others = (*others, world.tenant.owner)
    for other in others:
        yield from (f"_INBOX.{other}.x", f"_INBOX.{other}.refused", f"_INBOX.{other}.{GATEWAY}.i.n")
    yield from (f"_INBOX.{GATEWAY}.x", "_INBOX.x", f"_INBOX..{attacker.principal}.x")
    yield from (f"_INBOX.{attacker.principal}x.y", f"_inbox.{attacker.principal}.x", f"_INBOX.{attacker.scope}.x")


def is_permitted(subject: str, attacker: Attacker) -> bool:
    """What the two permissions of a client say, in other words than the broker's configuration."""
    tokens = subject.split(".")
    return len(tokens) == 5 and tokens[0] == "rpc" and tokens[3:] == [attacker.scope, attacker.principal]


# --- nothing lands


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


def is_a_pattern(subject: str) -> bool:
    tokens = subject.split(".")
    return all(tokens) and ">" not in tokens[:-1]


def assert_all_refused(what: str, subjects_: list[str], refused: set[tuple[str, str]]) -> None:
    assert len(subjects_) > 10
    wanted = {(what, subject) for subject in subjects_}
    assert sorted(wanted - refused)[:5] == [], "the broker let these through"
    assert sorted(refused - wanted)[:5] == [], "refused, and never asked for"


# --- foreign reply subjects


def foreign_replies(world: World, attacker: Attacker) -> Iterator[str]:
    """Reply subjects that are not the attacker's; the broker checks none of them."""
    yield from inboxes(world, attacker)
    yield from (attacker.own_inbox, f"{attacker.own_inbox}.", f"{attacker.own_inbox}.*", f"{attacker.own_inbox}.>")
    victim = world.rival.workspace
    yield from (f"evt.{victim}.a.b", f"audit.{victim}.secrets", f"sealed.{victim}.secret", "dead.audit")
    yield from (f"bridge.{victim}.{attacker.scope}.t", f"inbox.{victim}.{attacker.scope}.t")
    yield from ("$KV.jwks.forged", f"$KV.revocations.{world.neighbour}", "$KV.checkpoints.x", "$SRV.PING")
    yield from (
        "$JS.ACK.AUDIT.sealer.1.1.1.1.0",
        "$JS.ACK.EVENTS.x.1.1.1.1.0",
        "$JS.FC.KV_jwks.x.y",
        "_R_.x",
        "_GR_.x.y",
    )
    yield from (f"$JS.API.STREAM.{verb}.AUDIT" for verb in ("DELETE", "PURGE", "UPDATE", "INFO"))
    yield from ("$JS.API.CONSUMER.DELETE.AUDIT.sealer", "$JS.API.CONSUMER.MSG.NEXT.AUDIT.forged", "$JS.API.INFO")
    yield from ("$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.AUTH", "$SYS._INBOX.x")
    yield from (
        RpcSubject("auth", "revoke_key", scope, principal).format()
        for scope, principal in ((victim, world.rival.owner), (attacker.scope, world.neighbour))
    )
    yield from (RpcSubject("audit", "query", attacker.scope, attacker.principal).format(), EMPTY)


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
        f"sealed.{attacker.scope}.",
        f"audit.{OrgId.nil()}.",
        f"sealed.{OrgId.nil()}.",
    )
    assert sorted(other for other in others if not other.startswith((*own_log, *OF_SERVICES))) == []
    assert await sequences(watched) == before


OF_SERVICES: Final = (*(f"_INBOX.{service}." for service in SERVICES), "$JS.API.", "$JS.ACK.", "$JS.FC.", "$SRV.")
"""What services say to the broker, and the broker to them, all the time; replies are told apart by their own names."""
