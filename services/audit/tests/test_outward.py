"""Where forwarding may connect to: attacks on the inside of somebody's network, by address and by name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh_audit.outward import MAX_ADDRESSES, NotPublic, Outward, judged

INSIDE = (
    "127.0.0.1", "127.255.255.254", "0.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "203.0.113.1",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:53aa:64c:0:fbff:80ff:fffe", "fe80::1", "fd00:ec2::254", "fc00::1",
    "fec0::1", "ff02::1", "2001:db8::1", "fe80::1%1",
)  # fmt: skip
PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2001:4860:4860::8888", "::ffff:1.1.1.1")


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_refused(address: str) -> None:
    with pytest.raises(NotPublic):
        judged([address], ())
    with pytest.raises(NotPublic):
        judged(["1.1.1.1", address], ())


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_may_be_connected_to(address: str) -> None:
    assert judged([address], ())


def test_a_mapped_address_is_the_one_that_it_maps() -> None:
    assert judged(["::ffff:1.1.1.1", "1.1.1.1"], ()) == [ipaddress.ip_address("1.1.1.1")]
    named = [ipaddress.ip_network("10.0.0.0/8")]
    assert judged(["::ffff:10.0.0.1"], named) == [ipaddress.ip_address("10.0.0.1")]
    # A network that was named opens itself, and no other way to it.
    for way in ("64:ff9b::a00:1", "2002:a00:1::", "::10.0.0.1", "10.0.0.1.1"):
        with pytest.raises(NotPublic):
            judged([way], named)


@pytest.mark.property
@given(st.ip_addresses(v=4))
def test_no_form_of_an_address_says_more_than_the_address(address: ipaddress.IPv4Address) -> None:
    def may(text: str) -> bool:
        try:
            return bool(judged([text], ()))
        except NotPublic:
            return False

    assert may(f"::ffff:{address}") == may(str(address))
    assert not may(f"64:ff9b::{address}")
    assert not may(f"::{address}")


def test_neither_none_nor_many_addresses_are_some() -> None:
    for addresses in ([], [f"1.1.1.{number}" for number in range(MAX_ADDRESSES + 1)]):
        with pytest.raises(NotPublic):
            judged(addresses, ())


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "::1"])
async def test_spellings_of_loopback_are_judged_by_what_the_resolver_makes_of_them(host: str) -> None:
    outward = Outward()
    with pytest.raises(NotPublic):
        await outward.addresses(host, 443)
    outward.close()


async def test_a_name_for_loopback_is_refused_unless_its_network_is_named() -> None:
    outward = Outward()
    with pytest.raises(NotPublic):
        await outward.addresses("localhost", 443)
    outward.close()
    named = Outward([ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")])
    assert ipaddress.ip_address("127.0.0.1") in await named.addresses("localhost", 443)
    named.close()


async def test_a_name_that_does_not_resolve_says_no_more_than_one_that_leads_inside() -> None:
    async def fails(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def inside(host: str, port: int) -> Sequence[str]:
        return ["10.0.0.1"]

    said = set()
    for lookup in (fails, inside):
        with pytest.raises(NotPublic) as refused:
            await Outward(lookup=lookup).addresses("intranet", 443)
        said.add((str(refused.value), refused.value.__cause__))
    assert said == {("", None)}


async def test_a_label_that_is_too_long_is_no_name() -> None:
    outward = Outward()
    with pytest.raises(NotPublic):
        await asyncio.wait_for(outward.addresses("a" * 64 + ".example", 443), 10)
    outward.close()
