"""What a forwarder is after a change. Pure.

What always holds: what is hidden serves the address that it was given for: with another address, path, secret and a
client's key are given again, or left behind. What is not named stays.

On failure: `InvalidRequest`, `SecretUnusable`.
"""

from __future__ import annotations

from typing import Final

from wardmesh.contracts.audit import HTTPS, SYSLOG_TCP, EditForwarder, Filter, parse_address
from wardmesh.crypto.errors import Undecryptable
from wardmesh.errors import InvalidRequest
from wardmesh.violations import Violation
from wardmesh_audit.client_certificates import Usable
from wardmesh_audit.errors import SecretUnusable
from wardmesh_audit.forward_vault import ForwardVault, Hidden
from wardmesh_audit.ports_forwarding import ForwarderSettings, StoredForwarder

_HIDDEN: Final = {"url", "secret", "without_secret", "client_certificate", "without_client_certificate"}
"""What of a change makes what is sealed another."""


def changed_forwarder(
    stored: StoredForwarder,
    request: EditForwarder,
    query: Filter | None,
    shown: Usable | None,
    vault: ForwardVault,
) -> ForwarderSettings:
    """Return what a forwarder is after a change; `query` is the new filter, as it is kept.

    Raise `InvalidRequest` for what is hidden and would follow to another address, or has no place at this one;
    `SecretUnusable` where what stays hidden does not open.
    """
    place = None if request.url is None else parse_address(request.url)
    address = stored.address if place is None else place.origin
    scheme = parse_address(address).scheme
    keeps_secret = stored.has_secret and request.secret is None and not request.without_secret
    keeps_client = stored.certificate_until is not None and shown is None and not request.without_client_certificate
    if place is not None:
        for kept, name in ((keeps_secret, "secret"), (keeps_client, "client_certificate")):
            if kept:
                raise refused(name, "it does not follow to another address: give it again, or leave it behind")
    if request.secret is not None and scheme != HTTPS:
        raise refused("secret", "syslog has no place for a secret")
    if shown is not None and scheme == SYSLOG_TCP:
        raise refused("client_certificate", "without TLS there is nobody to show a certificate to")

    sealed, header = stored.sealed, stored.secret_header
    has_secret = keeps_secret or request.secret is not None
    if request.model_dump(exclude_defaults=True, include=_HIDDEN):
        before = _opened(stored, vault) if place is None else Hidden(place.path)
        header = request.secret_header or header if has_secret else None
        client = None if shown is None else shown.client
        hides = Hidden(
            before.path, before.secret if keeps_secret else request.secret, before.client if keeps_client else client
        )
        sealed = vault.seal(stored.scope, stored.name, address, header, hides)
    return ForwarderSettings(
        address=address,
        format=request.format or stored.format,
        secret_header=header,
        has_secret=has_secret,
        certificate_until=stored.certificate_until if keeps_client else None if shown is None else shown.until,
        sealed=sealed,
        filter=stored.filter if query is None else query,
    )


def _opened(stored: StoredForwarder, vault: ForwardVault) -> Hidden:
    try:
        return vault.open(stored.scope, stored.name, stored.address, stored.secret_header, stored.sealed)
    except Undecryptable:
        raise SecretUnusable from None


def refused(field: str, message: str) -> InvalidRequest:
    """Return the error that names a field of a request, and what is wrong with it."""
    return InvalidRequest(violations=(Violation(pointer=f"/{field}", message=message),))
