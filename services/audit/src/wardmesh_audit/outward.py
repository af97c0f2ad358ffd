"""Where forwarding may connect to. The address is a tenant's word, and we stand inside of somebody's network.

What always holds:
- Addresses are judged, not names: what a name resolves to is looked at, and the connection then goes to that very
  address, so that a name that says something else a moment later (DNS rebinding) is of no use.
- One address that is refused refuses the name. A spelling that only some programs take for an address (`2130706433`,
  `0x7f.1`) is judged by what the resolver makes of it.
- Refused is all that is not a public unicast address: loopback, private, link-local (with the clouds' metadata),
  shared, unique-local, multicast, reserved, and what is a way to an IPv4 address in IPv6's clothes. An operator can
  name networks that are allowed all the same.

On failure: `NotPublic`, also for a name that does not resolve: whoever asks learns nothing of names inside.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name; raises `OSError`."""

MAX_ADDRESSES: Final = 16
"""Of one name that are looked at; one with more is refused."""
LOOKUPS: Final = 8
"""At once, in threads of their own: a name server that is slow on purpose must not hold up anything else."""

# Each is no place on the Internet, whatever this version of Python's `is_global` says of it.
_REFUSED: Final[tuple[IPNetwork, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's wire server answers at a public address
        "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip


class NotPublic(Exception):
    """A name has no address that may be connected to."""


def is_allowed(address: IPAddress, allowed: Sequence[IPNetwork]) -> bool:
    """Tell whether an address is public, or in a network that is allowed."""
    if any(address in network for network in allowed):
        return True
    return address.is_global and not any(address in network for network in _REFUSED)


def judged(addresses: Sequence[str], allowed: Sequence[IPNetwork]) -> list[IPAddress]:
    """Return addresses that may all be connected to, IPv4 first; raise `NotPublic` if one of them may not."""
    found: list[IPAddress] = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise NotPublic from None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # it is that address, and is connected to as such
        if not is_allowed(address, allowed):
            raise NotPublic
        if address not in found:
            found.append(address)
    if not found or len(found) > MAX_ADDRESSES:
        raise NotPublic
    return sorted(found, key=lambda address: address.version)


class Outward:
    """Says to which addresses a name leads that may be connected to."""

    def __init__(self, allowed: Sequence[IPNetwork] = (), *, lookup: Lookup | None = None) -> None:
        self._allowed = tuple(allowed)
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="outward")
        self._lookup = lookup or self._resolve

    async def addresses(self, host: str, port: int) -> list[IPAddress]:
        """Return the addresses of `host`, which may be one itself."""
        try:
            found = await self._lookup(host, port)
        except (OSError, UnicodeError):
            raise NotPublic from None
        return judged(found, self._allowed)

    def is_named(self, address: IPAddress) -> bool:
        """Tell whether an operator has named the network of an address."""
        return any(address in network for network in self._allowed)

    def close(self) -> None:
        """Take no more names; whoever still waits for one is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        return [str(entry[4][0]) for entry in found]
