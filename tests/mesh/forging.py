"""What a caller might forge: subjects of every form, of the broker's and of everybody's inbox; and foreign replies.

Subjects are made from the dataclasses of `wardmesh.subjects`, so that a form or a position that is added is attacked
too.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.mesh.wire import Watched, Wire
from tests.mesh.world import Tenant

from wardmesh import subjects
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


def foreign_replies(world: World, attacker: Attacker) -> Iterator[str]:
    """Reply subjects that are not the attacker's; the broker checks none of them."""
    yield from inboxes(world, attacker)
    yield from (attacker.own_inbox, f"{attacker.own_inbox}.", f"{attacker.own_inbox}.*", f"{attacker.own_inbox}.>")
    victim = world.rival.workspace
    yield from (f"evt.{victim}.a.b", f"audit.{victim}.secrets", f"sealed.{victim}", f"dead.audit.{victim}")
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


def is_a_pattern(subject: str) -> bool:
    tokens = subject.split(".")
    return all(tokens) and ">" not in tokens[:-1]
