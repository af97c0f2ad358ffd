"""What a witness may cosign: public test data of another witness, and the list of logs."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from fake_witness import OtherLog
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature, SignedNote, Signer, VerifierKey
from wardmesh.crypto.tlog_witness import AddCheckpoint
from wardmesh.errors import WardmeshError
from wardmesh_audit.errors import Inconsistent, MalformedCheckpoint, NotTheLogs, UnknownLog
from wardmesh_audit.witness_rules import Elsewhere, Latest, check_growth, check_signed, read
from wardmesh_audit.witnessed_logs import LogsFile, read_list

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "libs/common/tests/crypto/vectors/tlog_witness.json").read_text()
)
LOG = OtherLog()
KEY = LOG.signer.verifier
LOGS = {KEY.name: (KEY,)}
MLDSA = MldsaSigner(KEY.name, MLDSA44PrivateKey.generate())


def test_another_witnesss_test_data_is_answered_as_it_says() -> None:
    key = bytes.fromhex(VECTORS["log_key"])
    origin = VECTORS["origin_prefix"] + sha256(key).hexdigest()
    logs = {origin: (VerifierKey(origin, key),)}
    latest = Latest()
    for asked in VECTORS["asked"]:
        named = VECTORS["origin_prefix"] + asked["key_hash"]
        checkpoint = Checkpoint(named, asked["size"], bytes.fromhex(asked["root_hash"]))
        line = Signature(named, VerifierKey(named, key).key_id, bytes.fromhex(asked["signature"]))
        proof = tuple(map(bytes.fromhex, asked["proof"]))
        body = AddCheckpoint(asked["old_size"], proof, SignedNote(checkpoint.text(), (line,))).encode()
        status = 200
        try:
            request, said = read(body)
            check_signed(request.note, said, logs)
            check_growth(latest, request, said)
            latest = Latest(said.size, said.root)
        except WardmeshError as error:
            status = error.status
        except Elsewhere:
            status = 409
        assert status == asked["status"], asked["why"]
    assert latest.size == 5


def grow(latest: Latest, old: int, size: int, log: OtherLog = LOG, proof: tuple[bytes, ...] | None = None) -> None:
    request, checkpoint = read(log.request(old, size, proof))
    check_growth(latest, request, checkpoint)


@pytest.mark.property
@given(st.integers(0, 40), st.integers(0, 40))
def test_every_growth_is_allowed_and_no_fork(old: int, more: int) -> None:
    size = old + more
    latest = Latest(old, LOG.checkpoint(old).root)
    grow(latest, old, size)
    if old:
        fork = LOG.branched(old - 1, "x")
        with pytest.raises(Inconsistent if more else Elsewhere):
            grow(latest, old, size, fork)
        with pytest.raises(Elsewhere):
            grow(latest, old - 1, size)
    if LOG.proof(old, size):
        with pytest.raises(Inconsistent):
            grow(latest, old, size, proof=LOG.proof(old, size)[:-1])
    with pytest.raises(Inconsistent):
        grow(latest, old, size, proof=(*LOG.proof(old, size), bytes(32)))


def test_two_roots_of_one_size_are_a_fork_however_they_are_asked() -> None:
    fork = LOG.branched(3, "x")
    for old in (0, 2, 5):
        with pytest.raises(Elsewhere) as found:
            grow(Latest(5, LOG.checkpoint(5).root), old, 5, fork)
        assert found.value.other_root
        assert found.value.size == 5
    with pytest.raises(Elsewhere) as found:
        grow(Latest(5, LOG.checkpoint(5).root), 2, 5)
    assert not found.value.other_root


def test_a_log_cannot_shrink() -> None:
    with pytest.raises(MalformedCheckpoint):
        grow(Latest(5, LOG.checkpoint(5).root), 5, 4, proof=())
    with pytest.raises(Elsewhere):  # an old checkpoint, replayed
        grow(Latest(5, LOG.checkpoint(5).root), 3, 4)


def test_only_a_known_log_with_its_own_key_is_heard() -> None:
    note, checkpoint = LOG.note(3), LOG.checkpoint(3)
    check_signed(note, checkpoint, LOGS)
    with pytest.raises(UnknownLog):
        check_signed(note, checkpoint, {"another.example": (KEY,)})
    stranger = Signer.from_seed(KEY.name, bytes(32))
    with pytest.raises(NotTheLogs):
        check_signed(SignedNote(note.text, (stranger.sign(note.text),)), checkpoint, LOGS)
    check_signed(SignedNote(note.text, (stranger.sign(note.text), *note.signatures)), checkpoint, LOGS)
    wrong = Signature(KEY.name, KEY.key_id, bytes(64))
    with pytest.raises(NotTheLogs):
        check_signed(SignedNote(note.text, (wrong,)), checkpoint, LOGS)


def test_a_log_may_have_several_keys_and_none_may_be_wrong() -> None:
    checkpoint = LOG.checkpoint(3)
    logs = {KEY.name: (KEY, MLDSA.verifier)}
    note = LOG.note(3)
    both = SignedNote(note.text, (*note.signatures, MLDSA.sign(checkpoint)))
    check_signed(both, checkpoint, logs)
    check_signed(SignedNote(note.text, (MLDSA.sign(checkpoint),)), checkpoint, logs)
    other = SignedNote(note.text, (*note.signatures, MLDSA.sign(LOG.checkpoint(4))))
    with pytest.raises(NotTheLogs):
        check_signed(other, checkpoint, logs)


def test_extension_lines_need_a_signature_that_covers_them() -> None:
    extended = LOG.checkpoint(3, "added by somebody")
    quantum = MLDSA.sign(LOG.checkpoint(3))  # which signs the first three lines
    logs = {KEY.name: (KEY, MLDSA.verifier)}
    with pytest.raises(NotTheLogs):
        check_signed(SignedNote(extended.text(), (quantum,)), extended, logs)
    check_signed(SignedNote(extended.text(), (quantum, LOG.signer.sign(extended.text()))), extended, logs)


LIST = f"""# a list
logs/v0

vkey {KEY}
qpd 86400
contact somebody
something new

vkey {MLDSA.verifier}
vkey {KEY}
origin second.example/log
"""


def test_a_list_of_the_public_network_is_read() -> None:
    assert read_list(LIST.encode()) == {KEY.name: (KEY, MLDSA.verifier), "second.example/log": (KEY,)}
    assert read_list(b"logs/v0\n") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"vkey {KEY}\n",
        "logs/v1\n",
        "logs/v0\norigin x\n",
        "logs/v0\nvkey x\n",
        f"logs/v0\nvkey {KEY}\nvkey {KEY}\n",
        f"logs/v0\nvkey {KEY}\norigin {'x' * 256}\n",
        f"logs/v0\nvkey {KEY}\norigin \n",
        f"logs/v0\nvkey {KEY}\norigin a\tb\n",
        "logs/v0\n" + "".join(f"vkey {Signer.from_seed('x', bytes([n]) * 32).verifier}\n" for n in range(9)),
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"list|line"):
        read_list(text.encode())


@pytest.mark.property
@given(st.text(max_size=100))
def test_whatever_a_list_says_it_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        read_list(f"logs/v0\n{text}".encode())
    with pytest.raises(ValueError, match="UTF-8"):
        read_list(b"logs/v0\n\xff")


def test_a_list_is_read_again_when_it_changes_and_taken_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs"
    with pytest.raises(FileNotFoundError):
        LogsFile(path)
    path.write_text("logs/v0\n")
    file = LogsFile(path)
    assert file.current() == {}
    path.write_text(LIST)
    assert set(file.current()) == {KEY.name, "second.example/log"}
    before = file.current()
    path.write_text("logs/v0\nvkey half")
    assert file.current() is before
    assert "cannot be read" in caplog.text
    path.unlink()
    assert file.current() is before
    path.write_text("logs/v0\n")
    assert file.current() == {}
    path.write_text("nothing")
    with pytest.raises(ValueError, match="logs"):
        LogsFile(path)
