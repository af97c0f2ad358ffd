"""A bridge message's signature covers every field, each in its place, and the body itself."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wardmesh.crypto.bridge import BridgeMessage, body_digest, sign, verify
from wardmesh.crypto.errors import BadSignature, InvalidKey, MalformedEncoding

KEY = bytes(range(32))
BODY = b'{"month": "2026-10"}'
MESSAGE = BridgeMessage(
    key_id="key_1",
    source="ws_a",
    destination="ws_b",
    subject="report.build",
    kind="request",
    id="msg_1",
    nonce=bytes(16),
    issued_at=datetime(2026, 11, 1, 12, tzinfo=UTC),
    expires_at=datetime(2026, 11, 1, 12, 2, tzinfo=UTC),
    correlation="",
    content_type="application/json",
    body_digest=body_digest(BODY),
)
TEXTS = ("key_id", "source", "destination", "subject", "kind", "id", "correlation", "content_type")


def test_the_canonical_bytes_are_pinned() -> None:
    # Written out from the module's description; receivers in other languages will do the same.
    fields = [
        b"key_1", b"ws_a", b"ws_b", b"report.build", b"request", b"msg_1", bytes(16),
        (1_793_534_400_000_000).to_bytes(8, "big"), (1_793_534_520_000_000).to_bytes(8, "big"),
        b"", b"application/json", hashlib.sha256(BODY).digest(),
    ]  # fmt: skip
    canonical = (12).to_bytes(8, "big") + b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    assert MESSAGE.canonical_bytes() == canonical
    assert sign(KEY, MESSAGE) == hmac.new(KEY, canonical, "sha256").digest()


def test_a_signed_message_verifies() -> None:
    verify(KEY, MESSAGE, sign(KEY, MESSAGE), body=BODY)


@pytest.mark.parametrize(
    "changed",
    [
        *({name: "other"} for name in TEXTS),
        {"nonce": bytes(15)},
        {"issued_at": MESSAGE.issued_at + timedelta(microseconds=1)},
        {"expires_at": MESSAGE.expires_at + timedelta(microseconds=1)},
        {"body_digest": body_digest(b"")},
    ],
)
def test_every_field_is_covered(changed: dict[str, object]) -> None:
    mac = sign(KEY, MESSAGE)
    with pytest.raises(BadSignature):
        verify(KEY, replace(MESSAGE, **changed), mac, body=BODY)  # type: ignore[arg-type]  # one field of any type


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(TEXTS, 2)))
def test_fields_cannot_change_places(one: str, other: str) -> None:
    values = {one: getattr(MESSAGE, other), other: getattr(MESSAGE, one)}
    with pytest.raises(BadSignature):
        verify(KEY, replace(MESSAGE, **values), sign(KEY, MESSAGE), body=BODY)


@pytest.mark.property
@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_text_cannot_move_between_neighbours(one: str, two: str, three: str, four: str) -> None:
    assume((one, two) != (three, four))
    some = replace(MESSAGE, source=one, destination=two)
    others = replace(MESSAGE, source=three, destination=four)
    assert some.canonical_bytes() != others.canonical_bytes()


def test_the_body_is_covered_and_not_only_its_claimed_digest() -> None:
    with pytest.raises(BadSignature):
        verify(KEY, MESSAGE, sign(KEY, MESSAGE), body=BODY + b" ")


@pytest.mark.property
@given(st.integers(0, 255))
def test_any_flipped_bit_of_the_signature_is_refused(bit: int) -> None:
    mac = bytearray(sign(KEY, MESSAGE))
    mac[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadSignature):
        verify(KEY, MESSAGE, bytes(mac), body=BODY)


@pytest.mark.parametrize("mac", [b"", sign(KEY, MESSAGE)[:16], sign(KEY, MESSAGE) + b"\0"])
def test_truncated_and_extended_signatures_are_refused(mac: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(KEY, MESSAGE, mac, body=BODY)


def test_another_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify(KEY, MESSAGE, sign(KEY[::-1], MESSAGE), body=BODY)


def test_one_moment_in_two_time_zones_is_one_moment() -> None:
    elsewhere = MESSAGE.issued_at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    verify(KEY, replace(MESSAGE, issued_at=elsewhere), sign(KEY, MESSAGE), body=BODY)


def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(MESSAGE, issued_at=datetime(2026, 11, 1))  # noqa: DTZ001 - the mistake in question


def test_a_lone_surrogate_is_refused_and_does_not_crash() -> None:
    with pytest.raises(MalformedEncoding):
        verify(KEY, replace(MESSAGE, subject="\ud800"), bytes(32), body=BODY)


def test_short_keys_are_refused() -> None:
    with pytest.raises(InvalidKey):
        sign(KEY[:31], MESSAGE)
