"""Openings beside an export's entries, and certificates of erasure: what is believed and what is not."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.audit_erasure import ErasureCertificate, open_certificate
from wardmesh.audit_openings import NotOpened, OpeningsCheck, check_openings, committed_of, lines
from wardmesh.contracts.audit import EntryOpenings, Opening
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.commitment import commit
from wardmesh.crypto.errors import CryptoError, MalformedEncoding
from wardmesh.crypto.note import Signer, sign_note
from wardmesh.ids import EventId

SALT, OTHER_SALT = bytes(range(32)), bytes(32)
OPENING = Opening(path="/actor", salt=SALT, value="usr_01h455vb4pex5vsknk084sn02q")
SIGNER = Signer.from_seed("wardmesh/ws_1", bytes(32))


def leaf(*openings: Opening) -> bytes:
    committed = {each.path: commit(each.path, each.salt, each.value).hex() for each in openings}
    said = b'"event":{},"version":2}'
    return b"{" + said if not openings else b'{"committed":' + json.dumps(committed).encode() + b"," + said


def test_a_leaf_without_commitments_has_none_and_opens_nothing() -> None:
    assert committed_of(leaf()) == {}
    assert check_openings(leaf(), []) == 0
    with pytest.raises(NotOpened):
        check_openings(leaf(), [OPENING])


def test_what_is_not_opened_is_withheld() -> None:
    other = Opening(path="/user_agent", salt=OTHER_SALT, value="curl")
    assert check_openings(leaf(OPENING, other), [OPENING, other]) == 0
    assert check_openings(leaf(OPENING, other), [other]) == 1
    assert check_openings(leaf(OPENING, other), []) == 2


@pytest.mark.parametrize("change", [{"value": "usr_x"}, {"salt": OTHER_SALT}, {"path": "/acting_for"}])
def test_another_opening_opens_nothing(change: dict[str, object]) -> None:
    with pytest.raises(NotOpened):
        check_openings(leaf(OPENING), [OPENING.model_copy(update=change)])
    with pytest.raises(NotOpened, match="twice"):
        check_openings(leaf(OPENING), [OPENING, OPENING])


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b'{"a":1}', b'{"a":"zz"}', b"[" * 3000, b'"a"', b"null"])
def test_commitments_that_cannot_be_read_are_damage(head: bytes) -> None:
    with pytest.raises(NotOpened):
        committed_of(b'{"committed":' + head + b',"event":{}}')


def test_openings_are_read_beside_the_entries() -> None:
    entries = [leaf(), leaf(OPENING), leaf(), leaf(OPENING)]
    file = io.BytesIO(b"".join(lines([EntryOpenings(index=1, openings=(OPENING,))])))
    check = OpeningsCheck(file)
    check.bundle(0, entries[:2])
    check.bundle(2, entries[2:])
    check.end(4)
    assert (check.opened, check.withheld, check.damaged) == (1, 1, None)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        (b"rubbish\n", 0),
        (b'{"index":2,"openings":[]}\n{"index":1,"openings":[]}\n', 2),
        (b'{"index":9}\n', 2),
        (b'{"index":1,"unopenable":true}\n', 1),
        (b'{"index":0,"openings":[' + OPENING.model_dump_json().encode() + b"]}\n", 0),
        (b"{" * 600_000, 0),
    ],
)
def test_a_file_of_openings_that_is_none_is_named_by_its_first_entry(text: bytes, entry: int) -> None:
    check = OpeningsCheck(io.BytesIO(text))
    check.bundle(0, [leaf(), leaf(OPENING)])
    check.end(2)
    assert check.damaged is not None
    assert check.damaged[1] == entry


certificates = st.builds(
    ErasureCertificate,
    origin=st.just(SIGNER.verifier.name),
    erasure_id=st.builds(EventId.new),
    erased_at=st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - made aware
    entries=st.integers(0, 2**63 - 1),
    size=st.integers(0, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
)


@given(certificates)
def test_a_certificate_says_what_it_was_made_of_and_is_no_checkpoint(certificate: ErasureCertificate) -> None:
    note = sign_note(certificate.text(), [SIGNER]).encode()
    assert open_certificate(note, str(SIGNER.verifier)) == certificate
    with pytest.raises(CryptoError):
        open_checkpoint(note, str(SIGNER.verifier))


@given(certificates, st.data())
def test_no_byte_of_a_certificate_can_be_changed(certificate: ErasureCertificate, data: st.DataObject) -> None:
    note = sign_note(certificate.text(), [SIGNER]).encode()
    place = data.draw(st.integers(0, len(note) - 1))
    changed = note[:place] + bytes([note[place] ^ data.draw(st.integers(1, 255))]) + note[place + 1 :]
    try:
        found = open_certificate(changed, str(SIGNER.verifier))
    except CryptoError:
        return
    assert found == certificate, "only what nobody signed was changed"


@pytest.mark.parametrize(
    ("old", "new"),
    [("entries 3", "entries 03"), ("entries 3", "entries -3"), ("Z\n", "+00:00\n"), ("size ", "size  "),
     ("root ", "Root "), ("\nlog", "\nmore x\nlog"), ("certificate v1", "certificate v2")],
)  # fmt: skip
def test_a_certificate_has_one_spelling(old: str, new: str) -> None:
    text = ErasureCertificate("wardmesh/ws_1", EventId.new(), datetime.now(UTC), 3, 9, bytes(32)).text()
    assert old in text
    with pytest.raises(MalformedEncoding):
        ErasureCertificate.parse_text(text.replace(old, new, 1))


def test_another_logs_certificate_is_none() -> None:
    other = ErasureCertificate("wardmesh/ws_2", EventId.new(), datetime.now(UTC), 3, 9, bytes(32))
    with pytest.raises(CryptoError, match="another log's"):
        open_certificate(sign_note(other.text(), [SIGNER]).encode(), str(SIGNER.verifier))
