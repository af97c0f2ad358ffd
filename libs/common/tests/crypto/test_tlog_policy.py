"""C2SP policies: who must have cosigned, and what is no policy."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import Cosigner, with_lines
from wardmesh.crypto.errors import BadSignature, CryptoError, NotWitnessed
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature, Signer, sign_note
from wardmesh.crypto.tlog_policy import MAX_WITNESSES, InvalidPolicy, Policy

LOG = Signer.from_seed("example.org/ws_1", bytes(range(32)))
NAMES = ("x1", "x2", "x3", "y1", "y2", "y3")
SIGNERS = {name: Cosigner(f"{name}.example.org", Ed25519PrivateKey.generate()) for name in NAMES}
QUANTUM = MldsaSigner("q.example.org", MLDSA44PrivateKey.generate())
CHECKPOINT = Checkpoint("example.org/ws_1", 1, leaf_hash(b"entry"))
NOTE = sign_note(CHECKPOINT.text(), [LOG])
WITNESSES = "".join(f"witness {name} {SIGNERS[name].verifier} https://{name}.example.org/\n" for name in NAMES)
GROUPS = """
group X-witnesses 2 x1 x2 x3
\tgroup Y-witnesses   any y1 y2 y3
group X-and-Y all X-witnesses Y-witnesses
"""


def cosigned_by(*names: str) -> tuple[Policy, bool]:
    policy = Policy.parse(f"# two levels\nlog {LOG.verifier}\n{WITNESSES}{GROUPS}quorum X-and-Y\n".encode())
    note = with_lines(NOTE, [SIGNERS[name].sign(CHECKPOINT, 1) for name in names])
    found = policy.look(note, CHECKPOINT)
    assert set(found.at) == set(names)
    assert set(found.missing) == set(NAMES) - set(names)
    try:
        policy.check(note, CHECKPOINT)
    except NotWitnessed:
        return policy, False
    return policy, True


@pytest.mark.property
@given(st.sets(st.sampled_from(NAMES)))
def test_the_specifications_example_is_evaluated_as_it_says(names: set[str]) -> None:
    enough = len(names & {"x1", "x2", "x3"}) >= 2 and bool(names & {"y1", "y2", "y3"})
    policy, met = cosigned_by(*names)
    assert met is enough is policy.is_met(names)
    assert policy.witnesses["x1"].url == "https://x1.example.org/"
    assert policy.logs == (str(LOG.verifier),)


@pytest.mark.property
@given(st.sets(st.sampled_from(NAMES)), st.integers(1, 6))
def test_keys_and_a_number_are_a_policy_too(names: set[str], quorum: int) -> None:
    policy = Policy.of_keys([str(signer.verifier) for signer in SIGNERS.values()], quorum)
    note = with_lines(NOTE, [SIGNERS[name].sign(CHECKPOINT, 1) for name in names])
    if len(names) >= quorum:
        assert len(policy.check(note, CHECKPOINT).at) == len(names)
    else:
        with pytest.raises(NotWitnessed):
            policy.check(note, CHECKPOINT)


def test_both_kinds_of_key_count_and_who_is_missing_is_named() -> None:
    policy = Policy.of_keys([str(QUANTUM.verifier), str(SIGNERS["x1"].verifier)])
    note = with_lines(NOTE, [QUANTUM.sign(CHECKPOINT, 1)])
    with pytest.raises(NotWitnessed, match=r"missing: x1\.example\.org"):
        policy.check(note, CHECKPOINT)
    assert set(policy.check(with_lines(note, [SIGNERS["x1"].sign(CHECKPOINT, 1)]), CHECKPOINT).at) == {
        "q.example.org",
        "x1.example.org",
    }


def test_a_wrong_line_by_a_witness_of_the_policy_spoils_the_note() -> None:
    key = SIGNERS["x1"].verifier
    forged = Signature(key.name, key.key_id, bytes(7) + b"\x01" + bytes(64))
    policy = Policy.of_keys([str(signer.verifier) for signer in SIGNERS.values()], 1)
    with pytest.raises(BadSignature):
        policy.check(with_lines(NOTE, [SIGNERS["x2"].sign(CHECKPOINT, 1), forged]), CHECKPOINT)


def test_no_quorum_asks_for_nobody() -> None:
    policy = Policy.parse(f"{WITNESSES}quorum none\n".encode())
    assert policy.check(NOTE, CHECKPOINT).missing == NAMES
    assert Policy().check(NOTE, CHECKPOINT).missing == ()


ONE = f"witness a {SIGNERS['x1'].verifier}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ONE,
        f"{ONE}quorum b\n",
        f"quorum a\n{ONE}",
        f"{ONE}quorum a\nquorum none\n",
        f"{ONE}{ONE}quorum a\n",
        f"{ONE}witness b {SIGNERS['x1'].verifier}\nquorum a\n",
        f"{ONE}witness a {SIGNERS['x2'].verifier}\nquorum a\n",
        f"witness none {SIGNERS['x1'].verifier}\nquorum none\n",
        f"witness a {LOG.verifier}\nquorum a\n",
        "witness a\nquorum none\n",
        f"{ONE}group g 2 a\nquorum g\n",
        f"{ONE}group g 0 a\nquorum g\n",
        f"{ONE}group g 01 a\nquorum g\n",
        f"{ONE}group g all\nquorum g\n",
        f"{ONE}group g all a a\nquorum g\n",
        f"{ONE}group g all a\ngroup h all a\nquorum h\n",
        f"{ONE}group g all g\nquorum g\n",
        f"{ONE}group g all none\nquorum g\n",
        f"{ONE}quorum a\r\n",
        f"{ONE}quorum a\n\x00",
        f"{ONE}quorum a b\n",
        f"log {LOG.verifier}\nlog {LOG.verifier}\nquorum none\n",
        "#" * 300_000,
    ],
    ids=itertools.count(),  # the keys are others in each process
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidPolicy):
        Policy.parse(text.encode())


def test_a_policy_has_a_bound() -> None:
    keys = [str(Cosigner(f"w{n}", Ed25519PrivateKey.generate()).verifier) for n in range(MAX_WITNESSES + 1)]
    with pytest.raises(InvalidPolicy, match="at most"):
        Policy.parse("".join(f"witness {n} {key}\n" for n, key in enumerate(keys)).encode())
    for wrong in ([], keys, [keys[0], keys[0]]):
        with pytest.raises(InvalidPolicy):
            Policy.of_keys(wrong)
    for quorum in (0, 3):
        with pytest.raises(InvalidPolicy):
            Policy.of_keys(keys[:2], quorum)


@pytest.mark.property
@given(st.binary(max_size=200))
def test_whatever_a_file_holds_is_a_policy_or_refused(data: bytes) -> None:
    with suppress(CryptoError):
        Policy.parse(data)
