"""API keys: one text a key, and nothing of it in a log."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.apikey import PREFIX, ApiKey
from wardmesh.crypto.encoding import base64url_decode, base64url_encode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.ids import AgentId, KeyId, OrgId, ServiceId, UserId, WorkspaceId

uuids = st.uuids()


@st.composite
def keys(draw: st.DrawFn) -> ApiKey:
    organization = OrgId.from_uuid(draw(uuids))
    workspace = WorkspaceId.from_uuid(draw(uuids))
    kind = draw(st.sampled_from((UserId, AgentId, ServiceId)))
    return ApiKey(
        organization=organization,
        scope=draw(st.sampled_from((organization, workspace))),
        principal=kind.from_uuid(draw(uuids)),
        id=KeyId.from_uuid(draw(uuids)),
        secret=draw(st.binary(min_size=32, max_size=32)),
    )


@given(keys())
def test_a_key_survives_its_text(key: ApiKey) -> None:
    text = key.encode()
    parsed = ApiKey.parse(text)
    assert text.startswith("wmk_")
    assert len(text) == 142
    assert (parsed.organization, parsed.scope, parsed.principal, parsed.id, parsed.secret) == (
        key.organization, key.scope, key.principal, key.id, key.secret,
    )  # fmt: skip
    assert type(parsed.scope) is type(key.scope)
    assert type(parsed.principal) is type(key.principal)


@given(keys(), st.integers(min_value=4, max_value=141), st.sampled_from("abcXYZ019-_="))
def test_a_mistyped_character_is_noticed(key: ApiKey, place: int, character: str) -> None:
    text = key.encode()
    if text[place] != character:
        with pytest.raises(MalformedEncoding):
            ApiKey.parse(text[:place] + character + text[place + 1 :])


@given(st.text(max_size=200))
def test_other_text_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(MalformedEncoding) as caught:
        ApiKey.parse(PREFIX + text)
    assert len(text) < 8 or text not in str(caught.value)


@given(keys())
def test_the_secret_is_in_no_representation(key: ApiKey) -> None:
    assert repr(key.secret) not in repr(key)
    assert "secret" not in repr(key)


@pytest.mark.parametrize(("place", "value"), [(0, 2), (17, 0), (17, 3), (34, 0), (34, 4)])
def test_unknown_versions_and_kinds_are_refused_though_their_checksum_is_right(place: int, value: int) -> None:
    organization = OrgId.new()
    key = ApiKey(
        organization=organization, scope=WorkspaceId.new(), principal=AgentId.new(), id=KeyId.new(), secret=bytes(32)
    )
    body = bytearray(base64url_decode(key.encode()[4:])[:-4])
    body[place] = value
    with pytest.raises(MalformedEncoding):
        ApiKey.parse(PREFIX + base64url_encode(bytes(body) + zlib.crc32(body).to_bytes(4, "big")))


def test_a_key_for_another_organization_than_its_own_cannot_be_made_or_read() -> None:
    with pytest.raises(ValueError, match="its own"):
        ApiKey(organization=OrgId.new(), scope=OrgId.new(), principal=AgentId.new(), id=KeyId.new(), secret=bytes(32))
    organization = OrgId.new()
    key = ApiKey(
        organization=organization, scope=organization, principal=AgentId.new(), id=KeyId.new(), secret=bytes(32)
    )
    body = bytearray(base64url_decode(key.encode()[4:])[:-4])
    body[1] ^= 1
    with pytest.raises(MalformedEncoding):
        ApiKey.parse(PREFIX + base64url_encode(bytes(body) + zlib.crc32(body).to_bytes(4, "big")))


def test_the_layout_does_not_change() -> None:
    key = ApiKey(
        organization=OrgId.nil(),
        scope=WorkspaceId.nil(),
        principal=AgentId.nil(),
        id=KeyId.nil(),
        secret=bytes(range(32)),
    )
    assert base64url_decode(key.encode()[4:]).hex() == (
        "01" + "00" * 16 + "02" + "00" * 16 + "02" + "00" * 16 + "00" * 16 + bytes(range(32)).hex() + "60a34d86"
    )
