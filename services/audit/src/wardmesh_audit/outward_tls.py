"""TLS on the way out: whom endpoints' certificates are believed from, and whom we say that we are.

What always holds: a certificate of ours is shown where it was given for, and to nobody else. What is remembered is
bounded. Keys touch no disk: OpenSSL is given them as files, which are in memory where the system can, and elsewhere are
encrypted under a password that nobody keeps.

On failure: `NotDelivered` where what was kept is refused by the library; `refused_us` tells an endpoint that will not
have our certificate, or wants one, from one whose own is not believed.
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Final

from cachetools import LRUCache
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from wardmesh.tls import trusting_also
from wardmesh_audit.client_certificates import ClientCertificate, Unusable, Usable, checked
from wardmesh_audit.ports_forwarding import NotDelivered

CLIENT_CERTIFICATE: Final = "client_certificate"
"""Our word for an endpoint that will not have ours, or wants one."""
REMEMBERED: Final = 64
"""Settings with a certificate: each costs 20 ms to make, most of it for the system's authorities."""
_REFUSALS: Final = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)
"""Alerts of RFC 8446 (6.2) by which the other side refuses a certificate; OpenSSL's words for them end so."""


class OutwardTls:
    """Settings for connections out."""

    def __init__(self, ca_file: Path | None) -> None:
        self._ca_file = ca_file
        self._as_nobody = trusting_also(ca_file)
        self._known: LRUCache[ClientCertificate, ssl.SSLContext] = LRUCache(REMEMBERED)
        self._lock = Lock()

    def context(self, client: ClientCertificate | None) -> ssl.SSLContext:
        """Return the settings to connect with; in a thread, if there is a certificate."""
        if client is None:
            return self._as_nobody
        with self._lock:
            known = self._known.get(client)
        if known is None:
            known = trusting_also(self._ca_file)
            try:
                show(known, client)
            except (ssl.SSLError, ValueError):
                raise NotDelivered(CLIENT_CERTIFICATE) from None
            with self._lock:
                self._known[client] = known
        return known


def usable(certificate: str, key: str, now: datetime) -> Usable:
    """Return what endpoints can be shown; raise `Unusable`. In a thread: a key is tried out."""
    found = checked(certificate, key, now)
    try:
        show(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), found.client)
    except ssl.SSLError:
        raise Unusable("client_certificate", "it is too weak for TLS here") from None
    return found


def show(context: ssl.SSLContext, client: ClientCertificate, *, in_memory: bool = hasattr(os, "memfd_create")) -> None:
    """Let connections with these settings show a certificate; raise `ssl.SSLError` if the library will not have it."""
    password = None if in_memory else secrets.token_hex(32)
    key = client.key.encode()
    if password is not None:
        key = load_pem_private_key(key, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())
        )
    with ExitStack() as stack:
        file = _in_memory if in_memory else _on_disk
        paths = [stack.enter_context(file(content)) for content in (client.certificate.encode(), key)]
        context.load_cert_chain(paths[0], paths[1], password)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("wardmesh", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def _on_disk(content: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="wardmesh-") as file:
        file.write(content)
        file.flush()
        yield file.name


def refused_us(error: BaseException) -> bool:
    """Tell whether the other side ended a connection because of our certificate, or for want of one."""
    return any("ALERT" in reason and reason.endswith(_REFUSALS) for reason in map(_reason, tls_errors(error)))


def tls_errors(error: BaseException) -> Iterator[ssl.SSLError]:
    """Yield the errors of the TLS library among an error and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            yield seen
        seen = seen.__cause__ or seen.__context__


def _reason(error: ssl.SSLError) -> str:
    return error.reason or ""
