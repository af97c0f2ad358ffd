"""TLS to the broker: whom to trust, and never less than was asked for.

What always holds: TLS 1.2 at least. Where TLS is asked for, by an address (`tls://`, `wss://`) or by naming an
authority, the handshake comes before anything else. A NATS server says in plain text whether it wants TLS, and nats-py
believes one that does not: whoever sits in between could otherwise have the credential and every token for one line.
The broker's side of it is `handshake_first: true` (`wardmesh_cli.embedded.broker`).

On failure: `ssl.SSLError`, which `advice` turns into a sentence that says what to do.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeGuard

CA_FILE_VARIABLE: Final = "WARDMESH_CA_FILE"
MINIMUM_VERSION: Final = ssl.TLSVersion.TLSv1_2
SECURE_SCHEMES: Final = ("tls://", "wss://")

PLAIN_ADVICE: Final = (
    "If it is meant to speak plain text, its address begins with nats:// and no authority is named; otherwise its "
    "configuration needs `handshake_first: true`."
)

TLS_ADVICE: Final = "If it speaks TLS, its address begins with tls://."

# Of OpenSSL's x509_vfy.h; Python has no names for them.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_MISMATCHES: Final = (62, 64)  # of the name, of the address


def trusting(ca_file: Path) -> ssl.SSLContext:
    """Return a client's settings that trust the authority in `ca_file` and nobody else.

    Raises `OSError` (`ssl.SSLError` is one) if it can't be read as PEM.
    """
    context = ssl.create_default_context(cafile=str(ca_file))
    context.minimum_version = MINIMUM_VERSION
    return context


def trusting_also(ca_file: Path | None) -> ssl.SSLContext:
    """Return a client's settings that trust the system's authorities, and the one in `ca_file` besides.

    Raises as `trusting` does.
    """
    context = ssl.create_default_context()
    context.minimum_version = MINIMUM_VERSION
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def is_asked_for(servers: Iterable[str]) -> bool:
    """Tell whether one of these addresses says that it speaks TLS; then all have to."""
    return any(server.startswith(SECURE_SCHEMES) for server in servers)


def connect_options(context: ssl.SSLContext | None, *, required: bool) -> dict[str, Any]:
    """Return what nats-py is told. Without a context, the system's authorities are trusted.

    If TLS is not required, `context` is for a broker that asks for it; ours ask nobody, they begin.
    """
    options: dict[str, Any] = {"tls_handshake_first": True} if required else {}
    return options if context is None else options | {"tls": context}


def is_distrust(error: Exception) -> TypeGuard[ssl.SSLError]:
    """Tell whether a connection failed because one end would not have the other. A broken line is not that."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def advice(error: ssl.SSLError) -> str:
    """Return a sentence for whoever could not connect: what is wrong, and what to do."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"The broker does not begin with TLS, or has none of our versions (1.2 or later). {PLAIN_ADVICE}"
    if error.verify_code in _MISMATCHES:
        return (
            "The broker's certificate is for another name or address. Use one that it is for, or make it anew with "
            "this one among its hosts."
        )
    if error.verify_code == _EXPIRED:
        return "The broker's certificate, or its authority's, has expired. Make it anew, and start the broker again."
    if error.verify_code == _NOT_YET_VALID:
        return "The broker's certificate is not valid yet. Set the clock here or there."
    return (
        f"The broker's certificate is not signed by an authority that is trusted here. Name the file of the one that "
        f"signed it ({CA_FILE_VARIABLE}, or the `tls` of `connect`); if that is done, this is not the broker you mean."
    )
