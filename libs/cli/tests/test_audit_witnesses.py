"""Cosignatures from the command line: what is asked for must be there, and who is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_shell import Shell
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_audit import LOG_KEY, NOW
from fake_mesh import World
from test_audit_verify import KEY as EXPORT_KEY
from test_audit_verify import LEAVES, Log, note

from wardmesh.audit_export import export_log
from wardmesh.contracts.audit import Checkpoint, Witnesses, WitnessState
from wardmesh.crypto import checkpoint as signed
from wardmesh.crypto.cosignature import Cosigner, with_lines
from wardmesh.crypto.note import Signature, SignedNote

KEY = str(LOG_KEY.verifier)
ONE, TWO, THREE = (Cosigner(f"w{number}.example", Ed25519PrivateKey.generate()) for number in (1, 2, 3))
VKEYS = [str(each.verifier) for each in (ONE, TWO, THREE)]
ALL = [option for vkey in VKEYS for option in ("--witness", vkey)]


class CosignedLog(Log):
    async def checkpoint(self) -> Checkpoint:
        parsed = SignedNote.parse(note(len(LEAVES)))
        at = signed.Checkpoint.parse_text(parsed.text)
        lines = [each.sign(at, 1_765_558_886) for each in (ONE, TWO)]
        return Checkpoint(note=with_lines(parsed, lines).encode().decode(), verifier_key=EXPORT_KEY, size=len(LEAVES))


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    await export_log(CosignedLog(), tmp_path / "export")
    return tmp_path / "export"


def test_an_export_is_held_to_its_witnesses(wardmesh: Shell, export: Path) -> None:
    verify = ("audit", "verify", str(export), "--key", EXPORT_KEY)
    assert wardmesh(*verify).status == 0  # nobody asked, and unknown lines are ignored
    ran = wardmesh(*verify, *ALL, "--quorum", "2")
    assert ran.status == 0, ran.out
    assert "cosigned   by w1.example, at 2025-12-12 17:01:26 UTC" in ran.out
    assert "not by w3.example" in ran.out
    found = wardmesh(*verify, *ALL, "--quorum", "2", "--json").json
    assert (set(found["cosigned_by"]), found["not_cosigned_by"]) == ({"w1.example", "w2.example"}, ["w3.example"])
    for quorum in (("--quorum", "3"), ()):
        ran = wardmesh(*verify, *ALL, *quorum)
        assert ran.status == 1
        assert "2 of 3 trusted witnesses have cosigned the checkpoint, too few; missing: w3.example" in ran.out
    assert wardmesh(*verify, "--witness", VKEYS[2]).status == 1


def test_a_wrong_line_by_a_witness_that_is_asked_for_is_damage(wardmesh: Shell, export: Path) -> None:
    file = export / "checkpoint"
    parsed = SignedNote.parse(file.read_bytes())
    lines = [
        Signature(line.name, line.key_id, line.signature[:-1] + bytes([line.signature[-1] ^ 1]))
        if line.name == "w1.example"
        else line
        for line in parsed.signatures
    ]
    file.write_bytes(SignedNote(parsed.text, tuple(lines)).encode())
    verify = ("audit", "verify", str(export), "--key", EXPORT_KEY)
    assert wardmesh(*verify, "--witness", VKEYS[1]).status == 0
    assert wardmesh(*verify, *ALL, "--quorum", "1").status == 1


def test_a_policy_says_it_all(wardmesh: Shell, export: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    lines = "".join(f"witness w{number} {vkey}\n" for number, vkey in enumerate(VKEYS, 1))
    policy.write_text(f"log {EXPORT_KEY}\n{lines}group g 2 w1 w2 w3\nquorum g\n")
    verify = ("audit", "verify", str(export), "--policy", str(policy))
    assert wardmesh(*verify).status == 0
    policy.write_text(f"{lines}quorum w3\n")
    assert wardmesh(*verify).status == 1
    policy.write_text(f"log {KEY}\n{lines}quorum w1\n")  # another log's
    ran = wardmesh(*verify)
    assert (ran.status, "does not name the key" in ran.out) == (1, True)
    policy.write_text("nonsense")
    assert wardmesh(*verify).status == 2


def test_what_makes_no_sense_is_said(wardmesh: Shell, export: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.write_text("quorum none\n")
    verify = ("audit", "verify", str(export))
    for options in (
        ("--quorum", "1"),
        ("--witness", "nonsense"),
        ("--witness", EXPORT_KEY),
        ("--witness", VKEYS[0], "--witness", VKEYS[0]),
        ("--witness", VKEYS[0], "--quorum", "2"),
        ("--witness", VKEYS[0], "--policy", str(policy)),
        ("--quorum", "1", "--policy", str(policy)),
    ):
        assert wardmesh(*verify, *options).status == 2, options


def test_receipts_and_growth_are_held_to_them_too(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    world.cosigners = [ONE, TWO]
    world.log("secret.get")
    file, kept = tmp_path / "a.tlog-proof", tmp_path / "kept"
    wardmesh("audit", "receipt", world.entries[0].event.id, "--output", str(file))
    verify = ("audit", "verify-receipt", str(file), "--key", KEY)
    ran = wardmesh(*verify, *ALL, "--quorum", "2")
    assert (ran.status, "cosigned   by w2.example" in ran.out) == (0, True)
    assert set(wardmesh(*verify, "--witness", VKEYS[0], "--json").json["cosigned_by"]) == {"w1.example"}
    ran = wardmesh(*verify, *ALL)
    assert (ran.status, "missing: w3.example" in ran.err) == (1, True)

    kept.write_text(wardmesh("audit", "checkpoint").out)
    world.log("secret.get")
    growth = ("audit", "growth", str(kept), "--key", KEY)
    assert wardmesh(*growth, *ALL, "--quorum", "2").status == 0
    ran = wardmesh(*growth, *ALL)
    assert (ran.status, "not witnessed" in ran.err, "w3.example" in ran.err) == (1, True, True)
    world.cosigners = []
    assert wardmesh(*growth, "--witness", VKEYS[0]).status == 1


def test_the_witnesses_of_a_log_are_listed(wardmesh: Shell, world: World) -> None:
    ran = wardmesh("audit", "witness", "keys")
    assert (ran.out, "witnesses no logs" in ran.err) == ("", True)
    world.witnesses = Witnesses(
        witnesses=(
            WitnessState(name="w1", verifier_key=VKEYS[0], size=7, cosigned_at=NOW),
            WitnessState(name="w2", verifier_key=VKEYS[1]),
        ),
        quorum="w1",
        own_keys=(VKEYS[2],),
    )
    ran = wardmesh("audit", "witness", "list")
    assert ran.status == 0
    assert "never" in ran.out
    assert "quorum: w1" in ran.err
    assert wardmesh("audit", "witness", "list", "--json").json["witnesses"][0]["size"] == 7
    assert wardmesh("audit", "witness", "keys").out == f"{VKEYS[2]}\n"
    assert wardmesh("audit", "witness", "keys", "--json").json == {"keys": [VKEYS[2]]}
