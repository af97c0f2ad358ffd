"""Signatures: made by the vendors' own libraries and vectors, then attacked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
import stripe
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from wardmesh.contracts.webhooks import Scheme
from wardmesh_webhooks.errors import Reason, SecretRefused, Unverified
from wardmesh_webhooks.scheme import (
    MAX_SECRETS,
    MAX_SIGNATURES,
    Encoding,
    Headers,
    Identity,
    Part,
    SignatureScheme,
    read_secrets,
    verify,
)
from wardmesh_webhooks.schemes import SCHEMES, TOLERANCE

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"id":"evt_1","type":"invoice.paid","created":1}'
EVERY_SCHEME = pytest.mark.parametrize("scheme", list(Scheme))


class Request(NamedTuple):
    headers: list[tuple[str, str]]
    body: bytes


def sign(scheme: Scheme, body: bytes = BODY, *, at: datetime = NOW, secret: str = SECRET) -> Request:
    """Sign with the vendor's own library; GitHub has none, so as its documentation says."""
    seconds = int(at.timestamp())
    match scheme:
        case Scheme.STRIPE:
            signature = stripe.WebhookSignature._compute_signature(f"{seconds}.{body.decode()}", secret)
            return Request([("stripe-signature", f"t={seconds},v1={signature}")], body)
        case Scheme.GITHUB:
            digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            return Request([("x-hub-signature-256", f"sha256={digest}")], body)
        case Scheme.STANDARD:
            signature = Webhook(secret).sign("msg_1", at, body.decode())
            return Request(
                [("webhook-id", "msg_1"), ("webhook-timestamp", str(seconds)), ("webhook-signature", signature)], body
            )


def check(scheme: Scheme, headers: Headers, body: bytes, *, secret: str = SECRET, now: datetime = NOW) -> object:
    return verify(SCHEMES[scheme], read_secrets(SCHEMES[scheme], secret), headers, body, now)


def reason_of(scheme: Scheme, headers: Headers, body: bytes, *, secret: str = SECRET, now: datetime = NOW) -> Reason:
    with pytest.raises(Unverified) as refused:
        check(scheme, headers, body, secret=secret, now=now)
    return refused.value.reason


def changed(headers: list[tuple[str, str]], name: str, value: str) -> list[tuple[str, str]]:
    return [(key, value if key == name else old) for key, old in headers]


@EVERY_SCHEME
def test_what_the_vendor_signed_is_verified(scheme: Scheme) -> None:
    request = sign(scheme)
    verified = check(scheme, request.headers, request.body)
    assert getattr(verified, "signed_at") == (None if scheme is Scheme.GITHUB else NOW)  # noqa: B009
    assert getattr(verified, "message_id") == ("msg_1" if scheme is Scheme.STANDARD else None)  # noqa: B009


def test_what_we_verify_the_vendors_verify_too() -> None:
    """The other way round: our idea of the signature is not merely the same mistake twice."""
    now = datetime.now(UTC)
    headers = dict(sign(Scheme.STRIPE, at=now).headers)
    assert stripe.WebhookSignature.verify_header(BODY.decode(), headers["stripe-signature"], SECRET, tolerance=60)
    Webhook(SECRET).verify(BODY, dict(sign(Scheme.STANDARD, at=now).headers))


def test_githubs_documented_vector() -> None:
    """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries, "Testing"."""
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = [("X-Hub-Signature-256", f"sha256={digest}")]
    assert check(Scheme.GITHUB, headers, b"Hello, World!", secret="It's a Secret to Everybody")


def test_the_standards_documented_vector() -> None:
    """https://github.com/standard-webhooks/standard-webhooks, of the reference libraries' own tests."""
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ]
    check(Scheme.STANDARD, headers, b'{"test": 2432232314}', secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", now=at)


@EVERY_SCHEME
@given(data=st.data())
def test_any_flipped_bit_of_the_body_is_refused(scheme: Scheme, data: st.DataObject) -> None:
    headers, body = sign(scheme)
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    flipped = bytearray(body)
    flipped[bit // 8] ^= 1 << bit % 8
    assert reason_of(scheme, headers, bytes(flipped)) is Reason.MISMATCH


@EVERY_SCHEME
@given(data=st.data())
def test_any_changed_character_of_a_header_is_refused(scheme: Scheme, data: st.DataObject) -> None:
    headers, body = sign(scheme)
    name, value = data.draw(st.sampled_from(headers))
    position = data.draw(st.integers(0, len(value) - 1))
    character = data.draw(st.characters(min_codepoint=1, max_codepoint=255))
    other = value[:position] + character + value[position + 1 :]
    # A hexadecimal digit's case and blanks around a list's items mean nothing; everything else does.
    if name == "webhook-id" or other.lower().strip(" ") != value.lower().strip(" "):
        assume(other != value)
        reason_of(scheme, changed(headers, name, other), body)


@EVERY_SCHEME
@given(length=st.integers(0, len(BODY) - 1), tail=st.binary(min_size=1, max_size=8))
def test_a_body_cut_short_or_continued_is_refused(scheme: Scheme, length: int, tail: bytes) -> None:
    headers, body = sign(scheme)
    assert reason_of(scheme, headers, body[:length]) is Reason.MISMATCH
    assert reason_of(scheme, headers, body + tail) is Reason.MISMATCH


@EVERY_SCHEME
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["stripe-signature", "x-hub-signature-256", "webhook-id", "webhook-timestamp", "webhook-signature", "x"]
            ),
            st.one_of(
                st.text(max_size=200),
                st.from_regex(re.compile(r"(t=[0-9]*,)?(v1|v0|sha256)[=,][0-9a-fA-F+/=]{0,80}"), fullmatch=True),
                st.from_regex(re.compile(r"[0-9]{0,30}"), fullmatch=True),
            ),
        ),
        max_size=6,
    ),
    body=st.binary(max_size=64),
)
@settings(max_examples=300)
def test_garbage_is_refused_and_never_raises_anything_else(
    scheme: Scheme, headers: list[tuple[str, str]], body: bytes
) -> None:
    reason_of(scheme, headers, body)


@EVERY_SCHEME
def test_without_a_signature_it_is_missing(scheme: Scheme) -> None:
    assert reason_of(scheme, [], BODY) is Reason.MISSING


@EVERY_SCHEME
def test_another_secret_is_refused(scheme: Scheme) -> None:
    headers, body = sign(scheme, secret="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    assert reason_of(scheme, headers, body) is Reason.MISMATCH


@EVERY_SCHEME
def test_two_secrets_are_valid_while_a_sender_changes_from_one_to_the_other(scheme: Scheme) -> None:
    new = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    for signed_with in (SECRET, new):
        headers, body = sign(scheme, secret=signed_with)
        assert check(scheme, headers, body, secret=f"{SECRET}\n{new}")
    headers, body = sign(scheme, secret="whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    assert reason_of(scheme, headers, body, secret=f"{SECRET}\n{new}") is Reason.MISMATCH


@pytest.mark.parametrize(
    ("scheme", "name"), [(Scheme.STRIPE, "stripe-signature"), (Scheme.STANDARD, "webhook-signature")]
)
def test_one_valid_signature_among_several_is_enough(scheme: Scheme, name: str) -> None:
    headers, body = sign(scheme)
    good = dict(headers)[name]
    if scheme is Scheme.STRIPE:
        several = good + ",v1=" + "0" * 64 + ",v0=" + "f" * 64 + ",v9=whatever"
    else:
        several = "v1," + base64.b64encode(bytes(32)).decode() + " v1a,whatever= " + good
    assert check(scheme, changed(headers, name, several), body)


def test_a_signature_of_another_version_alone_is_no_signature() -> None:
    """Stripe's v0 is for tests; whoever takes the strongest that is there, takes that too."""
    headers, body = sign(Scheme.STRIPE)
    downgraded = dict(headers)["stripe-signature"].replace("v1=", "v0=")
    assert reason_of(Scheme.STRIPE, [("stripe-signature", downgraded)], body) is Reason.MALFORMED


def test_no_more_signatures_than_a_sender_has_reason_for() -> None:
    headers, body = sign(Scheme.STRIPE)
    flood = ",v1=" + "0" * 64
    just = dict(headers)["stripe-signature"] + flood * (MAX_SIGNATURES - 1)
    assert check(Scheme.STRIPE, [("stripe-signature", just)], body)
    assert reason_of(Scheme.STRIPE, [("stripe-signature", just + flood)], body) is Reason.MALFORMED


@pytest.mark.parametrize("scheme", [Scheme.STRIPE, Scheme.STANDARD])
def test_freshness_holds_in_both_directions(scheme: Scheme) -> None:
    headers, body = sign(scheme)
    second = timedelta(seconds=1)
    for now in (NOW - TOLERANCE, NOW + TOLERANCE):
        assert check(scheme, headers, body, now=now)
    assert reason_of(scheme, headers, body, now=NOW + TOLERANCE + second) is Reason.TOO_OLD
    assert reason_of(scheme, headers, body, now=NOW - TOLERANCE - second) is Reason.IN_FUTURE


@pytest.mark.parametrize("scheme", [Scheme.STRIPE, Scheme.STANDARD])
def test_freshness_is_judged_after_the_signature(scheme: Scheme) -> None:
    headers, body = sign(scheme, at=NOW - timedelta(days=1), secret="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    assert reason_of(scheme, headers, body) is Reason.MISMATCH


@pytest.mark.parametrize("scheme", [Scheme.STRIPE, Scheme.STANDARD])
def test_an_old_request_with_a_new_timestamp_is_refused(scheme: Scheme) -> None:
    """The attack: a captured request, made fresh by writing the present time into it."""
    yesterday = NOW - timedelta(days=1)
    headers, body = sign(scheme, at=yesterday)
    fresh = [
        (name, value.replace(str(int(yesterday.timestamp())), str(int(NOW.timestamp())))) for name, value in headers
    ]
    assert fresh != headers
    assert reason_of(scheme, fresh, body) is Reason.MISMATCH


def test_two_timestamps_are_refused_whichever_is_signed() -> None:
    headers, body = sign(Scheme.STRIPE)
    value = dict(headers)["stripe-signature"]
    for both in (f"t=1,{value}", f"{value},t=1"):
        assert reason_of(Scheme.STRIPE, [("stripe-signature", both)], body) is Reason.MALFORMED


@EVERY_SCHEME
def test_a_header_that_came_twice_is_refused(scheme: Scheme) -> None:
    headers, body = sign(scheme)
    for name, value in headers:
        assert reason_of(scheme, [*headers, (name, value)], body) is Reason.MALFORMED


def test_a_message_id_is_part_of_what_is_signed() -> None:
    """The attack: the same event under another id, to be taken twice."""
    headers, body = sign(Scheme.STANDARD)
    assert reason_of(Scheme.STANDARD, changed(headers, "webhook-id", "msg_2"), body) is Reason.MISMATCH


def test_moving_the_dots_between_id_timestamp_and_body_is_refused() -> None:
    """`msg_1.17` + `0` and `msg_1` + `17.0`: the pieces are joined with dots, so a piece may hold none that count."""
    seconds = str(int(NOW.timestamp()))
    headers, _ = sign(Scheme.STANDARD, b"tail")
    moved = changed(changed(headers, "webhook-id", "msg_1." + seconds), "webhook-timestamp", seconds)
    assert reason_of(Scheme.STANDARD, moved, b"tail") is Reason.MISMATCH


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme.STANDARD, "whsec_!!!!"),
        (Scheme.STANDARD, "whsec_QUJD"),
        (Scheme.STRIPE, "short"),
        (Scheme.GITHUB, "ünïcödé-ünïcödé-ünïcödé"),
        (Scheme.GITHUB, " "),
        (Scheme.GITHUB, "\n".join(["a-secret-of-some-length"] * (MAX_SECRETS + 1))),
    ],
)
def test_a_secret_that_no_sender_gave_out_is_refused_at_once(scheme: Scheme, text: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        read_secrets(SCHEMES[scheme], text)
    assert text.strip() == "" or text not in str(refused.value)


def test_a_standard_secret_is_read_with_and_without_prefix_and_padding() -> None:
    raw = bytes(range(25))
    encoded = base64.b64encode(raw).decode()
    for text in (f"whsec_{encoded}", encoded, encoded.rstrip("="), f"whsec_{encoded.rstrip('=')}"):
        assert read_secrets(SCHEMES[Scheme.STANDARD], text) == (raw,)


@pytest.mark.parametrize(
    "change",
    [
        {"signed": (Part.TIMESTAMP,)},
        {"signed": (Part.BODY, Part.TIMESTAMP)},
        {"identity": Identity.MESSAGE_ID},
        {"tolerance": TOLERANCE},
        {"message_id_header": "x"},
    ],
)
def test_a_scheme_that_would_verify_nothing_cannot_be_written_down(change: dict[str, object]) -> None:
    sound: dict[str, object] = {
        "signature_header": "x-signature",
        "item_separator": None,
        "label_separator": "=",
        "label": "v1",
        "encoding": Encoding.HEX,
        "signed": (Part.BODY,),
        "identity": Identity.BODY,
        "type_field": "type",
    }
    SignatureScheme(**sound)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sign|timestamp"):
        SignatureScheme(**(sound | change))  # type: ignore[arg-type]
