"""`wardmesh audit mine | erase | erasures | verify-certificate`: what is asked for, and what is shown."""

from __future__ import annotations

from pathlib import Path

from command_shell import Shell
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_audit import LOG_KEY
from fake_mesh import World

from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.note import Signer
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import UserId

KEY = str(LOG_KEY.verifier)


def test_ones_own_entries_page_by_page(wardmesh: Shell, world: World) -> None:
    for _ in range(5):
        world.log("secret.get")
    rows = wardmesh("audit", "mine").out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["4", "3", "2", "1", "0"]
    assert len(wardmesh("audit", "mine", "--limit", "2", "--json").json["entries"]) == 2


def test_somebody_who_was_erased_is_shown_as_withheld(wardmesh: Shell, world: World) -> None:
    world.log("secret.get")
    world.entries[0] = world.entries[0].model_copy(update={"withheld": ("/actor",)})
    assert "(withheld)" in wardmesh("audit", "query").out
    assert "(withheld)" in wardmesh("audit", "tail", "--start", "0", "--count", "1").out
    assert wardmesh("audit", "query", "--json").json["entries"][0]["withheld"] == ["/actor"]


def test_an_erasure_is_meant_and_its_certificate_verifies_without_the_mesh(
    wardmesh: Shell, world: World, tmp_path: Path
) -> None:
    person, file = UserId.new(), tmp_path / "certificate"
    refused = wardmesh("audit", "erase", person)
    assert (refused.status, world.erasures) == (2, []), "nobody there to ask"
    assert "--yes" in refused.err
    ran = wardmesh("audit", "erase", person, "--yes", "--output", str(file))
    assert (ran.status, ran.out) == (0, f"erased from 3 entries, certificate in {file}\n")
    assert person not in file.read_text()
    assert wardmesh("audit", "erase", person, "--yes", "--output", str(file)).status == 2, "nothing is written over"
    assert len(world.erasures) == 1

    connections = len(world.connections)
    verified = wardmesh("audit", "verify-certificate", str(file), "--key", KEY)
    assert (verified.status, len(world.connections)) == (0, connections)
    assert "a person was erased" in verified.out
    assert wardmesh("audit", "verify-certificate", str(file), "--key", KEY, "--json").json["entries"] == 3
    assert wardmesh("audit", "erasures", "--json").json["erasures"][0]["certificate"] == file.read_text()
    assert wardmesh("audit", "erasures").out.splitlines()[1].split()[-1] == "3"


def test_a_certificate_goes_with_a_receipt_that_witnesses_have_seen(
    wardmesh: Shell, world: World, tmp_path: Path
) -> None:
    one, two = (Cosigner(name, Ed25519PrivateKey.generate()) for name in ("w1.example", "w2.example"))
    world.cosigners.append(one)
    world.log("secret.get")
    file, receipt = tmp_path / "certificate", tmp_path / "receipt"
    erase = ("audit", "erase", UserId.new(), "--yes", "--output", str(file))
    assert wardmesh(*erase, "--receipt", str(file)).status == 2, "two files"
    ran = wardmesh(*erase, "--receipt", str(receipt))
    assert (ran.status, "receipt: entry 1 of 2" in ran.err) == (0, True), ran.err

    connections = len(world.connections)
    verify = ("audit", "verify-certificate", str(file), "--key", KEY)
    ran = wardmesh(*verify, "--receipt", str(receipt), "--witness", str(one.verifier))
    assert (ran.status, len(world.connections)) == (0, connections)
    assert "cosigned   by w1.example" in ran.out
    assert "told by    entry 1 of the log" in ran.out
    asked = ("--receipt", str(receipt), "--witness", str(one.verifier), "--json")
    found = wardmesh(*verify, *asked).json
    assert (found["told_by"], list(found["cosigned_by"])) == (1, ["w1.example"])
    found = wardmesh(*verify, "--json").json
    assert (found["told_by"], found["cosigned_by"]) == (None, None)
    ran = wardmesh(*verify, "--receipt", str(receipt), "--witness", str(two.verifier))
    assert (ran.status, "missing: w2.example" in ran.err) == (1, True), ran.err
    ran = wardmesh(*verify, "--witness", str(one.verifier))
    assert (ran.status, "Add --receipt" in ran.err) == (2, True), "cosignatures that were asked for are not passed over"
    receipt.unlink()
    assert wardmesh("audit", "receipt", world.entries[0].event.id, "--output", str(receipt)).status == 0
    ran = wardmesh(*verify, "--receipt", str(receipt))
    assert (ran.status, "of another event than the erasure" in ran.err) == (1, True), ran.err


def test_an_erasure_stands_where_its_receipt_could_not_be_had(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    file, receipt = tmp_path / "certificate", tmp_path / "receipt"
    erase = ("audit", "erase", UserId.new(), "--yes", "--output", str(file), "--receipt", str(receipt))
    world.failures["audit.receipt"] = ServiceUnavailable("Too few witnesses for the quorum.")
    ran = wardmesh(*erase)
    assert (ran.status, len(world.erasures)) == (1, 1)
    assert "The person was erased, but there is no receipt of it yet" in ran.err
    assert f"wardmesh audit receipt {world.erasures[0].erasure_id} --output {receipt}" in ran.err
    assert wardmesh("audit", "verify-certificate", str(file), "--key", KEY).status == 0
    world.failures.clear()
    assert wardmesh("audit", "receipt", world.erasures[0].erasure_id, "--output", str(receipt)).status == 0
    verify = ("audit", "verify-certificate", str(file), "--key", KEY, "--receipt", str(receipt))
    assert wardmesh(*verify).status == 0


def test_what_certifies_nothing(wardmesh: Shell, tmp_path: Path) -> None:
    file = tmp_path / "certificate"
    wardmesh("audit", "erase", UserId.new(), "--yes", "--output", str(file))
    genuine = file.read_text()
    other = Signer.from_seed("wardmesh/other", bytes(32))
    forgeries = {
        "more entries": genuine.replace("entries 3", "entries 4"),
        "another day": genuine.replace("2026-11-22", "2026-11-23"),
        "a checkpoint": sign_checkpoint(Checkpoint("wardmesh/test", 1, bytes(32)), LOG_KEY).decode(),
        "nothing": "",
    }
    for what, forged in forgeries.items():
        file.write_text(forged)
        ran = wardmesh("audit", "verify-certificate", str(file), "--key", KEY)
        assert (ran.status, "certifies nothing" in ran.err) == (1, True), what
    file.write_text(genuine)
    assert wardmesh("audit", "verify-certificate", str(file), "--key", str(other.verifier)).status == 1
    assert wardmesh("audit", "verify-certificate", str(file), "--key", "nonsense").status == 2


def test_who_is_not_there_is_said_so(wardmesh: Shell) -> None:
    ran = wardmesh("audit", "erase", UserId.nil(), "--yes")
    assert ran.status == 1
    assert "nothing_to_erase" in ran.err
