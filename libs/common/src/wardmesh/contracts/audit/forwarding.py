"""Forwarding: a scope's log, or what of it matches a filter, sent on to somebody else's system, a SIEM for instance.

A forwarder belongs to its scope and not to whoever added it: it goes on until it is paused or removed. It says what a
tail of the same scope and filter would say.

What always holds: entries go in the order of the log, each at least once. What has the index of one that was received
before is a repetition. Of the address nothing but host and port is ever shown, and of the secret nothing at all: many
systems have their key in the path.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, Final, NamedTuple, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from wardmesh.contracts.audit.entries import Filter
from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.fields import Time, Token
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    PEOPLE_AND_SERVICES,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)

MAX_FORWARDERS: Final = 8
"""Of one scope. Each reads the log once more."""
HTTPS: Final = "https"
SYSLOG_TLS: Final = "syslog+tls"
SYSLOG_TCP: Final = "syslog+tcp"
PROBE_SECONDS: Final = 8.0
"""How long an endpoint may take for a probe."""
MAX_CLIENT_CERTIFICATE_BYTES: Final = 16 * 1024
"""A client's certificate with those that vouch for it: eight of the usual kind."""
MAX_CLIENT_KEY_BYTES: Final = 4096
"""A key of RSA with 4096 bits has 3,272."""
_ADDRESS: Final = re.compile(
    r"(?P<scheme>https|syslog\+tls|syslog\+tcp)://"
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(:(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>/[\x21\x22\x24-\x7e]*)?"
)
_PORTS: Final = {"https": 443, "syslog+tls": 6514, "syslog+tcp": 601}
_RESERVED_HEADERS: Final = re.compile(
    r"(?i:host|connection|content-.*|transfer-encoding|te|trailer|upgrade|expect|accept-encoding|wardmesh-.*)"
)


class Address(NamedTuple):
    """Where a forwarder sends to."""

    scheme: str
    host: str
    """A name, or an IP address without brackets."""
    port: int
    path: str
    """With its query; may be a secret."""

    @property
    def origin(self) -> str:
        """What may be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the parts of a forwarder's address; raise `ValueError`, which does not quote it, for one that is none."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(
            "an address is https://host[:port][/path], syslog+tls://host[:port] or syslog+tcp://host[:port], "
            "without a user and a fragment"
        )
    if found["scheme"] != HTTPS and found["path"] not in (None, "/"):
        raise ValueError("an address of a syslog receiver has no path")
    port = int(found["port"] or _PORTS[found["scheme"]])
    if port > 65_535:
        raise ValueError("a port is 65535 at the most")
    return Address(found["scheme"], found["host"].strip("[]").lower(), port, found["path"] or "/")


def _checked_address(text: str) -> str:
    try:
        parse_address(text)
    except ValueError as error:
        raise _refused(str(error)) from None
    return text


def _checked_header(name: str) -> str:
    if _RESERVED_HEADERS.fullmatch(name):
        raise _refused("this header is not free to be chosen")
    return name


def _refused(problem: str) -> PydanticCustomError:
    """Return an error whose text may be shown to whoever sent the request: it quotes nothing of it."""
    return PydanticCustomError("forwarder", "{problem}", {"problem": problem})


Destination = Annotated[str, Field(max_length=2048), AfterValidator(_checked_address)]
"""An address as it is given: a field for it is not shown (`repr`)."""
HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$"), AfterValidator(_checked_header)
]
ForwarderSecret = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,4094}[\x21-\x7e])?$")]
"""Printable ASCII, as a header's value is."""
_TEXT: Final = r"^[\t\r\n\x20-\x7e]+$"
CertificatePem = Annotated[str, StringConstraints(max_length=MAX_CLIENT_CERTIFICATE_BYTES, pattern=_TEXT)]
KeyPem = Annotated[str, StringConstraints(max_length=MAX_CLIENT_KEY_BYTES, pattern=_TEXT)]
"""Without a password."""


class ForwardFormat(enum.StrEnum):
    """What one entry becomes."""

    ENTRY = "entry"
    """The entry as `query` and `tail` give it out, in JSON."""
    OCSF = "ocsf"
    """An OCSF event (`wardmesh.audit_ocsf`), in JSON; `metadata.sequence` is the entry's index."""


class ForwarderState(enum.StrEnum):
    OK = "ok"
    RETRYING = "retrying"
    """The last batch was not taken; it is sent again, for as long as that takes."""
    STOPPED = "stopped"
    """Somebody paused it."""


class AddForwarder(Message):
    """Send entries that match to `url`: each batch as a POST of NDJSON, or each entry as a syslog message.

    From index `start` on, else from what was received at `start_time`, else from now. With a `secret`,
    `Authorization: Bearer …` goes with each POST, or the header that is named with the secret as it is. Syslog goes by
    TLS (RFC 5425); without it (`syslog+tcp`) into networks alone that an operator has named. By TLS an endpoint that
    asks who comes is shown `client_certificate`: PEM, the client's own first, then those that vouch for it.
    """

    name: Token
    url: Destination = Field(repr=False)
    format: ForwardFormat = ForwardFormat.OCSF
    secret: ForwarderSecret | None = Field(default=None, repr=False)
    secret_header: HeaderName | None = None
    client_certificate: CertificatePem | None = Field(default=None, repr=False)
    client_key: KeyPem | None = Field(default=None, repr=False)
    filter: Filter = Filter()
    start: int | None = Field(default=None, ge=0)
    start_time: Time | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        _check_hidden(self)
        return self


def _check_hidden(asked: AddForwarder | EditForwarder) -> None:
    """Refuse what is hidden and has no place where it is sent to."""
    scheme = None if asked.url is None else parse_address(asked.url).scheme
    if asked.secret_header is not None and asked.secret is None:
        raise _refused("a header is named for a secret, and there is none")
    if asked.secret is not None and scheme not in {None, HTTPS}:
        raise _refused("syslog has no place for a secret")
    if (asked.client_certificate is None) != (asked.client_key is None):
        raise _refused("a client's certificate and its key come together")
    if asked.client_certificate is not None and scheme == SYSLOG_TCP:
        raise _refused("without TLS there is nobody to show a certificate to")


class EditForwarder(Message):
    """Change what is named of a forwarder, and nothing else; it goes on where it is.

    A secret never follows to another address, nor does a client's certificate: with a `url`, also with another path of
    the same host, they are given again, or left behind (`without_secret`, `without_client_certificate`). A secret that
    is given without a header goes where the one before it went.
    """

    name: Token
    url: Destination | None = Field(default=None, repr=False)
    format: ForwardFormat | None = None
    secret: ForwarderSecret | None = Field(default=None, repr=False)
    secret_header: HeaderName | None = None
    without_secret: bool = False
    client_certificate: CertificatePem | None = Field(default=None, repr=False)
    client_key: KeyPem | None = Field(default=None, repr=False)
    without_client_certificate: bool = False
    filter: Filter | None = None
    """In the place of the one before, whole; an empty one lets everything through."""

    @model_validator(mode="after")
    def _is_a_change(self) -> Self:
        if not self.model_dump(exclude_defaults=True, exclude={"name"}):
            raise _refused("nothing is named that is to change")
        if self.secret is not None and self.without_secret:
            raise _refused("there is a secret, or there is none")
        if self.client_certificate is not None and self.without_client_certificate:
            raise _refused("there is a client's certificate, or there is none")
        _check_hidden(self)
        return self


class Forwarder(Message):
    """A forwarder, and how far it is: the entries from `next_start` up to the log's `size` have not been taken yet."""

    name: Token
    address: str
    """Without what may be secret: the path."""
    format: ForwardFormat
    has_secret: bool
    secret_header: str | None = None
    client_certificate_until: Time | None = None
    """When the client's certificate expires, if there is one."""
    filter: Filter
    next_start: int
    size: int
    state: ForwarderState
    failing_since: Time | None = None
    last_error: str | None = None
    """One word: `http_503`, `timed_out`, `not_public`, …"""
    failures: int = 0
    """In a row."""
    delivered_at: Time | None = None
    created_at: Time


class Forwarders(Message):
    """In the order of their names."""

    forwarders: Annotated[tuple[Forwarder, ...], Field(max_length=MAX_FORWARDERS)]


class NamedForwarder(Message):
    name: Token


class ForwarderProbe(Message):
    """What became of sending the newest entry that matches, once more or in advance."""

    index: int | None = None
    """Of the entry; none matched, if there is none."""
    error: str | None = None


FORWARD: Final = Permission("audit.forward", Level.ADMIN, kinds=PEOPLE_AND_SERVICES)
"""Not for agents: what is forwarded leaves the house, for good."""

ADD_FORWARDER = operation(
    "audit",
    "add_forwarder",
    AddForwarder,
    Forwarder,
    summary="Forward the log to another system",
    access=FORWARD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "audit_forwarder.add", Durability.IN_TRANSACTION, ("name",)),
    idempotent=False,
)
LIST_FORWARDERS = operation(
    "audit",
    "list_forwarders",
    Empty,
    Forwarders,
    summary="List what the log is forwarded to, and how far that is",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit_forwarder.list"),
    idempotent=True,
)
EDIT_FORWARDER = operation(
    "audit",
    "edit_forwarder",
    EditForwarder,
    Forwarder,
    summary="Change a forwarder; it keeps its place",
    access=FORWARD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "audit_forwarder.edit", Durability.IN_TRANSACTION, ("name",)),
    idempotent=True,
)
REMOVE_FORWARDER = operation(
    "audit",
    "remove_forwarder",
    NamedForwarder,
    Empty,
    summary="End a forwarder",
    access=FORWARD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "audit_forwarder.remove", Durability.IN_TRANSACTION, ("name",)),
    idempotent=True,
)
PAUSE_FORWARDER = operation(
    "audit",
    "pause_forwarder",
    NamedForwarder,
    Forwarder,
    summary="Stop a forwarder; it keeps its place",
    access=FORWARD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "audit_forwarder.pause", Durability.IN_TRANSACTION, ("name",)),
    idempotent=True,
)
RESUME_FORWARDER = operation(
    "audit",
    "resume_forwarder",
    NamedForwarder,
    Forwarder,
    summary="Let a forwarder go on, at once",
    access=FORWARD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "audit_forwarder.resume", Durability.IN_TRANSACTION, ("name",)),
    idempotent=True,
)
PROBE_FORWARDER = operation(
    "audit",
    "probe_forwarder",
    NamedForwarder,
    ForwarderProbe,
    summary="Send one entry to a forwarder's endpoint, and say what became of it",
    access=FORWARD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "audit_forwarder.probe", Durability.BEFORE_ANSWER, ("name",)),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (
    ADD_FORWARDER,
    LIST_FORWARDERS,
    EDIT_FORWARDER,
    REMOVE_FORWARDER,
    PAUSE_FORWARDER,
    RESUME_FORWARDER,
    PROBE_FORWARDER,
)
