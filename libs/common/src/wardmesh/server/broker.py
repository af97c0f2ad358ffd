"""What each of the mesh's own users may publish and subscribe to at the broker, as data.

The five services, the gateway and the operators' probe are static users of account APP, each with an nkey. (Clients are
not here: they come through the auth callout, with two permissions; see `wardmesh_auth.callout`.) The streams are in an
account of their own, STREAMS, whose one user is the provisioner; `stream_imports` says what of it APP can reach.

What always holds:
- A service hears requests to itself only, and replies to itself only. It can't publish a request at all, so it can't
  speak as a client; it publishes audit envelopes under its own name only.
- It may answer any client, but not write into another service's inbox: a forged acknowledgement of the broker's would
  be believed there. `allow_responses` is not used: it would let whoever asks choose where the answer goes.
- It makes and reads consumers of the streams that it owns, and watches the two buckets that everybody reads. Nobody in
  APP may make, change, delete or purge a stream, delete a message or a consumer, or fetch a message by itself.
- What the broker says in its own name on behalf of a service (an acknowledgement, a status, a delivery) ends in APP: it
  is no request to JetStream, and no stream takes it. In one account it would be: permissions are not asked for what the
  broker itself sends, and the reply subject is the caller's choice (docs/adr/0008).

Pure: no I/O, no configuration. `wardmesh_cli.embedded.broker` and `infra/nats` render it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from wardmesh.subjects import SERVICES

GATEWAY: Final = "gateway"
"""The HTTP door inside the auth process: forwards the requests of HTTP callers, with their own tokens."""
OPERATOR: Final = "operator"
"""`wardmesh status` and `nats micro ls`: asks services how they are, and nothing else."""

PROVISIONER: Final = "provisioner"
"""Declares streams and buckets, and reads nothing: at the broker what migrations are in the database.

A stream is a subscription by another name. Who may update one can let it take `rpc.>`, and read everybody's requests
with their tokens; no permission of the broker's looks into that. So no service declares its own (`server.provision`).
"""

ACCOUNT: Final = "APP"
STREAMS_ACCOUNT: Final = "STREAMS"

STREAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "EVENTS": ("evt.>",),
        "AUDIT": ("audit.>",),
        "SEALED": ("sealed.>",),
        "DEAD": ("dead.>",),
        "BRIDGE": ("bridge.>",),
        "INBOX": ("inbox.>",),
    }
)
"""Every stream and the subjects that it takes."""

OWNED_STREAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "audit": ("AUDIT", "SEALED", "DEAD"),
        "auth": (),
        "bridge": ("BRIDGE", "INBOX"),
        "secrets": (),
        "webhooks": ("EVENTS",),
    }
)
"""Which service reads a stream."""

BUCKETS: Final[Mapping[str, str]] = MappingProxyType({"jwks": "auth", "revocations": "auth"})
"""Every key-value bucket and the service that writes it. Every service reads all of them."""

PRIVATE_BUCKETS: Final[Mapping[str, str]] = MappingProxyType({"checkpoints": "audit"})
"""Buckets that only the service which writes them reads."""

_PUBLISHES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "audit": ("sealed.*", "dead.audit.*"),
        "auth": (),
        "bridge": ("bridge.*.*.>", "inbox.*.*.>"),
        "secrets": (),
        "webhooks": ("evt.*.*.>",),
    }
)

_HEARS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"audit": ("sealed.*",)})
"""Subjects of its own streams that a service subscribes to as they are published, to be woken by them."""


_PULL: Final = "$JS.API.CONSUMER.MSG.NEXT."
_ACCOUNT_INFO: Final = "$JS.API.INFO"
"""By this import the server tells an account that uses another's JetStream from one that has none, to which it answers
every request with "not enabled" (found on 2.15.1). Nobody may publish there."""


@dataclass(frozen=True, slots=True)
class SubjectRules:
    """Subjects that are allowed, and those among them that are denied all the same."""

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user may publish and subscribe to; whatever is not allowed is refused."""

    publish: SubjectRules
    subscribe: SubjectRules


@dataclass(frozen=True, slots=True)
class StreamImports:
    """What account APP reaches of account STREAMS: the whole of it, subject by subject."""

    requests: tuple[str, ...]
    """Answered once: publishing into a stream, most of the API, acknowledgements."""
    polls: tuple[str, ...]
    """Answered by many messages: pulls."""
    deliveries: tuple[str, ...]
    """Subjects that a consumer of STREAMS can push to: the inboxes of services, which watch buckets."""


def static_permissions() -> Mapping[str, Permissions]:
    """Return the permissions of every static user of accounts APP and STREAMS, by name."""
    users = {service: _service(service) for service in SERVICES}
    return MappingProxyType(users | {GATEWAY: _gateway(), OPERATOR: _operator(), PROVISIONER: _provisioner()})


def account_of(user: str) -> str:
    """Return the account of a static user."""
    return STREAMS_ACCOUNT if user == PROVISIONER else ACCOUNT


def stream_imports() -> StreamImports:
    """Return what account APP reaches of account STREAMS: what at least one service may ask of it, and its like.

    Every one has a wildcard. An answer whose reply subject is an import's goes on into the other account if that import
    is one subject, and nowhere if it is a pattern: the server then looks for the answer's subject, not for the reply's
    (found on 2.15.1). Who may ask for what is the users' permissions to say, which have no wildcard to spare.
    """
    wanted = (subject for service in SERVICES for subject in _asks_of_streams(service))
    asked = _unique(_ACCOUNT_INFO, *(_pattern(subject) for subject in wanted))
    polls = tuple(subject for subject in asked if subject.startswith(_PULL))
    return StreamImports(
        requests=tuple(subject for subject in asked if subject not in polls),
        polls=polls,
        deliveries=tuple(f"{inbox_prefix(service)}.>" for service in SERVICES),
    )


def inbox_prefix(user: str) -> str:
    """Return the inbox prefix of a static user, as nats-py's `inbox_prefix` takes it."""
    return f"_INBOX.{user}"


def stream_of_bucket(bucket: str) -> str:
    """Return the name of the stream that keeps a bucket."""
    return f"KV_{bucket}"


def _service(service: str) -> Permissions:
    # The gateway's inboxes are those of the callers that it speaks for, `_INBOX.{principal}.gateway.…`; it has none
    # of its own, and neither has anybody a reason to answer a service.
    others = sorted({*SERVICES, GATEWAY, PROVISIONER} - {service})
    return Permissions(
        publish=SubjectRules(
            allow=("_INBOX.>", *_asks_of_streams(service)),
            deny=tuple(f"{inbox_prefix(other)}.>" for other in others),
        ),
        subscribe=SubjectRules(
            allow=(
                f"rpc.{service}.*.*.*",
                f"{inbox_prefix(service)}.>",
                *_HEARS.get(service, ()),
                *(
                    f"$SRV.{verb}{rest}"
                    for verb in ("PING", "INFO", "STATS")
                    for rest in ("", f".{service}", f".{service}.*")
                ),
            )
        ),
    )


def _asks_of_streams(service: str) -> tuple[str, ...]:
    return _unique(
        f"audit.*.{service}",
        *_PUBLISHES[service],
        *(subject for stream in OWNED_STREAMS[service] for subject in _reader_of_stream(stream)),
        *(subject for bucket in BUCKETS for subject in _watcher_of_bucket(bucket)),
        *(subject for bucket in _owned_buckets(service) for subject in _owner_of_bucket(bucket)),
    )


def _owned_buckets(service: str) -> tuple[str, ...]:
    return tuple(bucket for bucket, owner in {**BUCKETS, **PRIVATE_BUCKETS}.items() if owner == service)


def _gateway() -> Permissions:
    return Permissions(
        publish=SubjectRules(allow=("rpc.*.*.*.*",)),
        subscribe=SubjectRules(allow=("_INBOX.*.gateway.>",)),
    )


def _operator() -> Permissions:
    return Permissions(
        publish=SubjectRules(
            allow=("$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>")
        ),
        subscribe=SubjectRules(allow=(f"{inbox_prefix(OPERATOR)}.>",)),
    )


def _provisioner() -> Permissions:
    streams = (*STREAMS, *(stream_of_bucket(bucket) for bucket in (*BUCKETS, *PRIVATE_BUCKETS)))
    verbs = ("CREATE", "UPDATE", "INFO")
    return Permissions(
        publish=SubjectRules(
            allow=("$JS.API.INFO", *(f"$JS.API.STREAM.{verb}.{stream}" for stream in streams for verb in verbs))
        ),
        subscribe=SubjectRules(allow=(f"{inbox_prefix(PROVISIONER)}.>",)),
    )


def _reader_of_stream(stream: str) -> tuple[str, ...]:
    # Durable pull consumers. No DIRECT.GET: it answers with a message's own headers and body, on whatever subject the
    # asker names. No CONSUMER.DELETE: unused consumers are forgotten by the broker.
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.*",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.NAMES.{stream}",
        f"{_PULL}{stream}.*",
        f"$JS.ACK.{stream}.>",
    )


def _owner_of_bucket(bucket: str) -> tuple[str, ...]:
    stream = stream_of_bucket(bucket)
    return (f"$KV.{bucket}.>", f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}")


def _watcher_of_bucket(bucket: str) -> tuple[str, ...]:
    # A watch is an ordered consumer: ephemeral, made by the watcher, named by the broker, flow control answered by it.
    stream = stream_of_bucket(bucket)
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.FC.{stream}.>",
    )


def _pattern(subject: str) -> str:
    *before, last = subject.split(".")
    return subject if {"*", ">"} & {*before, last} else ".".join((*before, "*"))


def _unique(*subjects: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects))
