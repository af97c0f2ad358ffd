"""Verifying exported parts of a log: what was tampered with is named, and whoever was asked for must have signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from libs.common.tests.selection_world import SIGNER, SOME, FakeLog, leaf, nasty_log

from wardmesh.audit_rows import FORMATS, Format
from wardmesh.audit_selection import MANIFEST, PROOF, export_selection
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.contracts.audit import Filter
from wardmesh.crypto.checkpoint import Checkpoint as Head
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature, SignedNote, Signer
from wardmesh.crypto.tlog_policy import Policy

Change = Callable[[Path], Any]


def _replace(name: str, old: bytes, new: bytes) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return change


def _without_line(name: str, number: int) -> Change:
    def change(folder: Path) -> None:
        lines = (folder / name).read_bytes().split(b"\n")
        del lines[number]
        (folder / name).write_bytes(b"\n".join(lines))

    return change


def _swapped(folder: Path) -> None:
    lines = (folder / "selection.ndjson").read_bytes().split(b"\n")
    lines[3], lines[4] = lines[4], lines[3]
    (folder / "selection.ndjson").write_bytes(b"\n".join(lines))


def _cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _linked(folder: Path) -> None:
    (folder / PROOF).rename(folder.parent / "elsewhere")
    (folder / PROOF).symlink_to(folder.parent / "elsewhere")


NDJSON_CHANGES: list[tuple[Change, int | None]] = [
    (_replace("selection.ndjson", b'"n":6', b'"n":7'), 6),
    (_replace("selection.ndjson", b'{"index":6,', b'{"index":5,'), None),
    (_replace("selection.ndjson", b'{"index":6,', b'{"index":06,'), None),
    (_without_line("selection.ndjson", 2), None),
    (_swapped, None),
    (_cut("selection.ndjson", 900), None),
    (_cut(PROOF, 100), None),
    (_cut(PROOF, 96), None),
    (lambda folder: (folder / PROOF).write_bytes((folder / PROOF).read_bytes() + bytes(32)), None),
    (lambda folder: (folder / PROOF).write_bytes(bytes(32) + (folder / PROOF).read_bytes()[32:]), None),
    (lambda folder: (folder / PROOF).unlink(), None),
    (lambda folder: (folder / MANIFEST).write_text("{}"), None),
    (_linked, None),
    (_replace("checkpoint", b"\n50\n", b"\n51\n"), None),
]


@pytest.mark.parametrize(("change", "entry"), NDJSON_CHANGES)
async def test_a_tampered_selection_is_found(tmp_path: Path, change: Change, entry: int | None) -> None:
    done = await export_selection(nasty_log(), tmp_path / "export", Format.NDJSON, SOME)
    change(tmp_path / "export")
    report = verify_selection(tmp_path / "export", done.verifier_key)
    assert not report.is_sound
    assert report.damage is not None
    if entry is not None:
        assert report.damage.entry == entry


async def test_a_line_that_says_something_else_than_its_entry_is_found(tmp_path: Path) -> None:
    for kind, old, new in ((Format.CSV, b'"success"', b'"refused"'), (Format.OCSF, b'"status_id":1', b'"status_id":2')):
        folder = tmp_path / kind
        await export_selection(nasty_log(), folder, kind, SOME)
        _replace(FORMATS[kind].file, old, new)(folder)
        report = verify_selection(folder)
        assert report.damage is not None
        assert (report.damage.entry, report.entries_checked) == (0, 0)


async def test_another_key_does_not_vouch_for_it(tmp_path: Path) -> None:
    await export_selection(nasty_log(), tmp_path / "export", Format.NDJSON, SOME)
    other = Signer.from_seed("wardmesh.test", bytes(31) + b"1")
    assert not verify_selection(tmp_path / "export", str(other.verifier)).is_sound


async def test_a_part_of_a_log_is_held_to_its_witnesses_too(tmp_path: Path) -> None:
    one, two = (Cosigner(name, Ed25519PrivateKey.generate()) for name in ("w1", "w2"))
    log = FakeLog([leaf(number) for number in range(20)], cosigners=(one,))
    await export_selection(log, tmp_path / "part", Format.NDJSON, Filter(text="x"))
    keys = [str(one.verifier), str(two.verifier)]
    report = verify_selection(tmp_path / "part", policy=Policy.of_keys(keys, 1))
    assert report.is_sound
    assert "cosigned   by w1" in str(report)
    report = verify_selection(tmp_path / "part", policy=Policy.of_keys(keys))
    assert "missing: w2" in str(report.damage)


@pytest.mark.parametrize("kind", Format)
async def test_a_part_of_a_log_is_held_to_the_mldsa_key_that_is_named(tmp_path: Path, kind: Format) -> None:
    ours, other = (MldsaSigner("wardmesh.test", MLDSA44PrivateKey.from_seed_bytes(bytes([n]) * 32)) for n in (1, 2))
    key, part = str(ours.verifier), tmp_path / "part"
    log = FakeLog([leaf(number) for number in range(20)], mldsa=(ours,))
    await export_selection(log, part, kind, Filter(text="x"))
    report = verify_selection(part, str(SIGNER.verifier), mldsa_key=key)
    assert (report.is_sound, report.mldsa_checked) == (True, True), str(report)
    assert "the ML-DSA-44 key has signed it too" in str(report)
    assert verify_selection(part).is_sound, "who does not ask is not told"
    assert not verify_selection(part).mldsa_checked
    for asked in (str(other.verifier), str(MldsaSigner("another.test", ours._private).verifier)):
        report = verify_selection(part, mldsa_key=asked)
        assert (report.is_sound, report.mldsa_checked, report.signature_checked) == (False, False, False)
        assert "has not signed" in str(report.damage)

    # A line that is somebody's, in our key's name: of another tree, by another key, cut short.
    note = SignedNote.parse((part / "checkpoint").read_bytes())
    head = Head.parse_text(note.text)
    sound = note.signatures[-1]
    wrong = [
        ours.sign(Head(head.origin, head.size + 1, head.root)).signature,
        other.sign(head).signature,
        sound.signature[:-1],
    ]
    for each in wrong:
        line = Signature(sound.name, sound.key_id, each)
        (part / "checkpoint").write_bytes(SignedNote(note.text, (*note.signatures[:-1], line)).encode())
        report = verify_selection(part, str(SIGNER.verifier), mldsa_key=key)
        assert report.damage is not None
        assert report.damage.path == "checkpoint"
        assert report.entries_checked == 0
