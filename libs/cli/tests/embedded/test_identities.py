"""Keys that are made once: what is lost is never made again, what is damaged is named."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from wardmesh.server.nkey import Kind, public_key
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.errors import IdentityDamaged, IdentityMissing
from wardmesh_cli.embedded.identities import Identities
from wardmesh_cli.embedded.layout import Layout

MANIFEST = "MADE"


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    made = Identities(tmp_path / "identities")
    made.make()
    return made


def contents(identities: Identities) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in identities.folder.iterdir()}


def test_everything_is_made_for_its_owner_only(identities: Identities) -> None:
    assert stat.S_IMODE(identities.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in identities.folder.iterdir()} == {0o600}
    assert [file.name for file in identities.folder.parent.iterdir()] == ["identities"]


def test_everybody_has_a_key_of_their_own(identities: Identities) -> None:
    found = contents(identities)
    del found[MANIFEST]
    assert len(set(found.values())) == len(found)
    assert {identities.kek_file(service).stat().st_size for service in SERVICES} == {32}
    keys = identities.public_keys()
    assert keys.static_users["auth"] == public_key(Kind.USER, identities.seed_file("auth").read_text().strip())
    assert (keys.callout_issuer[0], keys.callout_xkey[0]) == ("A", "X")


def test_a_second_time_changes_nothing(identities: Identities) -> None:
    before = contents(identities)
    identities.make()
    identities.make(anew=False)
    assert contents(identities) == before


def test_what_is_lost_is_named_and_never_made_again(identities: Identities) -> None:
    for name in sorted(contents(identities)):
        file = identities.folder / name
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(IdentityMissing, match=f"{name} is missing: restore it"):
            identities.make()
        assert not file.exists()
        file.write_bytes(content)
    identities.make()


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"not what it was", b"\xff" * 40])
def test_what_is_damaged_is_named_and_stays(identities: Identities, content: bytes) -> None:
    for name in sorted(contents(identities).keys() - {MANIFEST}):
        if name.endswith(".password") and content.isascii() and content.decode().isprintable() and content:
            continue  # that may be a password
        file = identities.folder / name
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(IdentityDamaged, match=f"{name} is damaged") as damaged:
            identities.make()
        assert not content or repr(content)[2:-1] not in str(damaged.value)
        assert file.read_bytes() == content
        file.write_bytes(before)


def test_one_key_in_the_place_of_another_is_noticed(identities: Identities) -> None:
    identities.seed_file("auth").write_bytes(identities.xkey_seed_file.read_bytes())
    with pytest.raises(IdentityDamaged, match=r"auth\.nkey"):
        identities.make()


def test_a_key_that_no_earlier_version_had_is_made(identities: Identities) -> None:
    before = contents(identities)
    manifest = identities.folder / MANIFEST
    manifest.write_text("\n".join(name for name in before[MANIFEST].decode().split() if name != "operator.nkey"))
    identities.seed_file("operator").unlink()
    identities.make()
    after = contents(identities)
    assert after["operator.nkey"] != before["operator.nkey"]
    assert {name: after[name] for name in after if name != "operator.nkey"} == {
        name: before[name] for name in before if name != "operator.nkey"
    }


def test_an_interrupted_first_time_is_begun_again(tmp_path: Path) -> None:
    leftover = tmp_path / ".identities.new"
    leftover.mkdir()
    (leftover / "auth.nkey").write_text("half")
    Identities(tmp_path / "identities").make()
    assert [file.name for file in tmp_path.iterdir()] == ["identities"]


@pytest.mark.parametrize("emptied", [False, True])
def test_data_without_its_identities_gets_no_new_ones(tmp_path: Path, emptied: bool) -> None:
    layout = Layout(tmp_path)
    assert not layout.has_data()
    layout.jetstream.mkdir()
    assert not layout.has_data()
    (layout.jetstream / "jetstream").mkdir()
    assert layout.has_data()
    if emptied:
        layout.identities.folder.mkdir()
    with pytest.raises(IdentityMissing, match="identities is missing"):
        layout.identities.make(anew=not layout.has_data())
    assert not layout.identities.folder.exists() or not any(layout.identities.folder.iterdir())
