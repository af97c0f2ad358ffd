"""Receipts, and what was kept of a log, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_shell import Shell
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from fake_audit import LOG_KEY
from fake_mesh import World

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature
from wardmesh.ids import EventId, UserId

KEY = str(LOG_KEY.verifier)
MLDSA, MLDSA_OTHER = (
    MldsaSigner(LOG_KEY.verifier.name, MLDSA44PrivateKey.from_seed_bytes(bytes([n]) * 32)) for n in (1, 2)
)


def filled(world: World, count: int = 5) -> list[EventId]:
    for _ in range(count):
        world.log("secret.get")
    return [entry.event.id for entry in world.entries]


def test_a_receipt_is_kept_and_verified_without_the_mesh(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    ids = filled(world)
    file = tmp_path / "a.tlog-proof"
    ran = wardmesh("audit", "receipt", ids[3], "--output", str(file))
    assert (ran.status, ran.out) == (0, f"entry 3 of 5, receipt in {file}\n")
    assert KEY in ran.err
    connections = len(world.connections)
    verified = wardmesh("audit", "verify-receipt", str(file), "--key", KEY)
    assert (verified.status, len(world.connections)) == (0, connections)
    assert "it is entry 3 of the log" in verified.out
    assert wardmesh("audit", "verify-receipt", str(file), "--key", KEY, "--json").json["index"] == 3
    assert wardmesh("audit", "receipt", ids[3], "--output", str(file)).status == 2  # nothing is written over
    assert wardmesh("audit", "receipt", ids[3]).out == file.read_text()


def test_a_receipt_that_was_changed_proves_nothing(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    ids = filled(world)
    file, entry = tmp_path / "a.tlog-proof", tmp_path / "entry"
    wardmesh("audit", "receipt", ids[3], "--output", str(file))
    entry.write_text("another")
    ran = wardmesh("audit", "verify-receipt", str(file), "--key", KEY, "--entry", str(entry))
    assert ran.status == 1
    assert "proves nothing" in ran.err
    file.write_bytes(file.read_bytes().replace(b"index 3", b"index 2"))
    assert wardmesh("audit", "verify-receipt", str(file), "--key", KEY).status == 1
    assert wardmesh("audit", "verify-receipt", str(file), "--key", "nonsense").status == 2


def test_an_event_that_is_not_sealed_says_so(wardmesh: Shell) -> None:
    ran = wardmesh("audit", "receipt", EventId.new(), "--wait", "0")
    assert ran.status == 1
    assert "not_sealed" in ran.err


def test_growth_since_a_checkpoint_that_was_kept(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    kept, present = tmp_path / "kept", tmp_path / "present"
    filled(world)
    kept.write_text(wardmesh("audit", "checkpoint").out)
    filled(world, 7)
    ran = wardmesh("audit", "growth", str(kept), "--key", KEY, "--output", str(present))
    assert (ran.status, "grew from 5 to 12 entries" in ran.out) == (0, True)
    assert wardmesh("audit", "growth", str(present), "--json").json["old_size"] == 12

    del world.entries[10:]
    shrunk = wardmesh("audit", "growth", str(present))
    assert shrunk.status == 1
    assert "cannot shrink" in shrunk.err
    del world.entries[2]
    filled(world, 9)
    assert wardmesh("audit", "growth", str(kept)).status == 1
    kept.write_text("nonsense")
    assert wardmesh("audit", "growth", str(kept)).status == 2


class Forger:
    """Puts a line in the name of `MLDSA` on a checkpoint, and has not its key."""

    verifier = MLDSA.verifier

    def sign(self, checkpoint: Checkpoint) -> Signature:
        return Signature(*MLDSA.verifier.identity, MLDSA_OTHER.sign(checkpoint).signature)


def erased(wardmesh: Shell, folder: Path) -> tuple[str, ...]:
    """Erase somebody; return what verifies the certificate with the receipt of the entry that tells of it."""
    certificate, told = str(folder / "certificate"), str(folder / "told.tlog-proof")
    ran = wardmesh("audit", "erase", UserId.new(), "--yes", "--output", certificate, "--receipt", told)
    assert ran.status == 0, ran.err
    return "verify-certificate", certificate, "--receipt", told


def test_receipts_certificates_and_growth_are_held_to_the_mldsa_key_that_is_named(
    wardmesh: Shell, world: World, tmp_path: Path
) -> None:
    kept, file = tmp_path / "kept", tmp_path / "a.tlog-proof"
    filled(world, 3)
    kept.write_text(wardmesh("audit", "checkpoint").out)  # from before the log had such a key
    ids = filled(world)
    world.mldsa = [MLDSA]
    wardmesh("audit", "receipt", ids[3], "--output", str(file))
    for command in (("verify-receipt", str(file)), ("growth", str(kept)), erased(wardmesh, tmp_path)):
        asked = ("audit", *command, "--key", KEY, "--mldsa-key")
        ran = wardmesh(*asked, str(MLDSA.verifier))
        assert (ran.status, "the ML-DSA-44 key has signed" in ran.out) == (0, True), ran.err
        assert wardmesh(*asked, str(MLDSA.verifier), "--json").json["mldsa_checked"]
        ran = wardmesh("audit", *command, "--key", KEY)
        assert (ran.status, "ML-DSA" in ran.out) == (0, False)
        assert not wardmesh("audit", *command, "--key", KEY, "--json").json["mldsa_checked"]
        ran = wardmesh(*asked, str(MLDSA_OTHER.verifier))
        assert (ran.status, "the ML-DSA-44 key has not signed the checkpoint" in ran.err) == (1, True), ran.err
        for no_key in (KEY, "", "nonsense"):
            assert wardmesh(*asked, no_key).status == 2, no_key


@pytest.mark.parametrize(
    ("signers", "why"), [([], "has not signed"), ([Forger()], "signature by the trusted key is wrong")]
)
def test_an_mldsa_line_that_is_missing_or_forged(
    wardmesh: Shell, world: World, tmp_path: Path, signers: list[MldsaSigner], why: str
) -> None:
    kept, file = tmp_path / "kept", tmp_path / "a.tlog-proof"
    ids = filled(world)
    world.mldsa = signers
    wardmesh("audit", "receipt", ids[3], "--output", str(file))
    kept.write_text(wardmesh("audit", "checkpoint").out)
    for command in (("verify-receipt", str(file)), ("growth", str(kept)), erased(wardmesh, tmp_path)):
        assert wardmesh("audit", *command, "--key", KEY).status == 0, "the log's own signature is good"
        ran = wardmesh("audit", *command, "--key", KEY, "--mldsa-key", str(MLDSA.verifier))
        assert (ran.status, why in ran.err, ran.out) == (1, True, ""), ran.err


def test_a_certificate_alone_is_not_held_to_an_mldsa_key(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    filled(world)
    world.mldsa = [MLDSA]
    verify, certificate, *_ = erased(wardmesh, tmp_path)
    ran = wardmesh("audit", verify, certificate, "--key", KEY, "--mldsa-key", str(MLDSA.verifier))
    assert (ran.status, ran.out, "Add --receipt" in ran.err) == (2, "", True), (
        "a signature that was asked for is looked at"
    )
    assert not wardmesh("audit", verify, certificate, "--key", KEY, "--json").json["mldsa_checked"]
