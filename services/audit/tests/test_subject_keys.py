"""The contract of the port `SubjectKeys`, on the fake and on a folder; and what the folder promises besides."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from fake_ports import FakeKeys

from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import EventId, UserId, WorkspaceId
from wardmesh_audit import subject_keys
from wardmesh_audit.errors import KeysDamaged
from wardmesh_audit.ports import PendingErasure, SubjectKeys
from wardmesh_audit.subject_keys import KeyFolder

SCOPE = WorkspaceId.new()


@pytest.fixture(params=["fake", "folder"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> SubjectKeys:
    return FakeKeys() if request.param == "fake" else KeyFolder.open(tmp_path / "keys")


async def test_a_person_has_one_key_in_a_scope_and_another_in_another(keys: SubjectKeys) -> None:
    one, two = UserId.new(), UserId.new()
    made = await keys.get_or_make(SCOPE, [one, two])
    again = await keys.get_or_make(SCOPE, [two, one])
    elsewhere = await keys.get_or_make(WorkspaceId.new(), [one])

    assert made == again
    assert made[one].subject == one
    assert len({key.secret for key in (*made.values(), *elsewhere.values())}) == 3
    assert len({key.pseudonym for key in (*made.values(), *elsewhere.values())}) == 3


async def test_a_key_is_found_by_its_person_and_by_its_pseudonym_in_its_scope_only(keys: SubjectKeys) -> None:
    person, nobody = UserId.new(), UserId.new()
    assert await keys.find(SCOPE, [person]) == {}
    key = (await keys.get_or_make(SCOPE, [person]))[person]

    assert await keys.find(SCOPE, [person, nobody]) == {person: key}
    assert await keys.named(SCOPE, [key.pseudonym, nobody]) == {key.pseudonym: key}
    assert await keys.find(WorkspaceId.new(), [person]) == {}
    assert await keys.named(WorkspaceId.new(), [key.pseudonym]) == {}
    assert await keys.find(SCOPE, [key.pseudonym]) == {}
    assert await keys.named(SCOPE, [person]) == {}


async def test_what_was_destroyed_is_gone_and_who_comes_again_has_another(keys: SubjectKeys) -> None:
    person, other = UserId.new(), UserId.new()
    before = await keys.get_or_make(SCOPE, [person, other])
    for _ in range(2):  # it may be repeated
        await keys.destroy(SCOPE, before[person])

    assert await keys.find(SCOPE, [person, other]) == {other: before[other]}
    assert await keys.named(SCOPE, [before[person].pseudonym]) == {}
    after = (await keys.get_or_make(SCOPE, [person]))[person]
    assert after.secret != before[person].secret
    assert after.pseudonym != before[person].pseudonym
    await keys.destroy(SCOPE, before[person])  # by whoever was late
    assert await keys.find(SCOPE, [person]) == {person: after}


async def test_what_is_retired_opens_and_seals_nothing_more(keys: SubjectKeys) -> None:
    person, other = UserId.new(), UserId.new()
    before = await keys.to_seal(SCOPE, [person, other])
    assert before == await keys.get_or_make(SCOPE, [person, other])
    assert await keys.in_use(SCOPE, before.values())
    assert await keys.retired(SCOPE, person) is None
    for _ in range(2):  # it may be repeated
        assert await keys.retire(SCOPE, person) == await keys.retired(SCOPE, person) == before[person]

    assert not await keys.in_use(SCOPE, before.values())
    assert await keys.in_use(SCOPE, [before[other]])
    assert await keys.find(SCOPE, [person, other]) == {other: before[other]}
    assert await keys.named(SCOPE, [before[person].pseudonym]) == {before[person].pseudonym: before[person]}
    after = await keys.to_seal(SCOPE, [person, other])
    assert after[person].secret != before[person].secret
    assert await keys.in_use(SCOPE, after.values())
    assert await keys.retire(SCOPE, person) == before[person], "the one before it is not destroyed yet"
    assert await keys.in_use(SCOPE, after.values())

    await keys.destroy(SCOPE, before[person])
    assert await keys.retired(SCOPE, person) is None
    assert await keys.named(SCOPE, [before[person].pseudonym]) == {}
    assert await keys.in_use(SCOPE, after.values())
    assert await keys.retire(SCOPE, person) == after[person]
    assert await keys.retire(SCOPE, UserId.new()) is None


async def test_an_erasure_is_remembered_until_it_ends(keys: SubjectKeys) -> None:
    person = UserId.new()
    assert await keys.begun(SCOPE, person) is None
    erasure = PendingErasure(EventId.new(), 7, "of a key", 3)
    await keys.begin(SCOPE, person, erasure)

    assert await keys.begun(SCOPE, person) == erasure
    assert await keys.begun(WorkspaceId.new(), person) is None
    for _ in range(2):
        await keys.end(SCOPE, person)
    assert await keys.begun(SCOPE, person) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def test_processes_share_a_folder(folder: Path) -> None:
    person = UserId.new()
    one, other = KeyFolder.open(folder), KeyFolder.open(folder)
    assert one.folder_id == other.folder_id

    made = await asyncio.gather(*(each.get_or_make(SCOPE, [person]) for each in [one, other] * 8))
    assert len({found[person].secret for found in made}) == 1

    assert await one.to_seal(SCOPE, [person]) == made[0]
    await other.retire(SCOPE, person)  # `one` has it in memory
    assert not await one.in_use(SCOPE, made[0].values())
    await other.destroy(SCOPE, made[0][person])
    assert await one.find(SCOPE, [person]) == {}
    assert await one.named(SCOPE, [made[0][person].pseudonym]) == {}
    assert (await one.get_or_make(SCOPE, [person]))[person] == (await other.get_or_make(SCOPE, [person]))[person]


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _only(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def _folders(folder: Path) -> list[Path]:
    return [folder, *(each for each in folder.iterdir() if each.is_dir())]


async def test_names_tell_nothing_and_only_the_owner_reads(folder: Path) -> None:
    keys, person = KeyFolder.open(folder), UserId.new()
    key = (await keys.get_or_make(SCOPE, [person]))[person]
    await keys.begin(SCOPE, person, PendingErasure(EventId.new(), 1))

    files = _files(folder)
    assert len(files) == 7  # id, secret, two locks, person, pseudonym, erasure
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not any(word in str(file.relative_to(folder)) for word in (person, SCOPE, key.pseudonym))
    assert all(stat.S_IMODE(each.stat().st_mode) == 0o700 for each in _folders(folder))


async def test_nothing_of_a_destroyed_key_is_left_in_its_file(folder: Path) -> None:
    keys, person = KeyFolder.open(folder), UserId.new()
    key = (await keys.get_or_make(SCOPE, [person]))[person]
    file = _only(folder / "people")
    with file.open("rb") as opened:  # as somebody has it who is reading at this moment
        assert person.encode() in opened.read()
        await keys.retire(SCOPE, person)
        await keys.destroy(SCOPE, key)
        opened.seek(0)
        assert opened.read().strip(b"\0\n") == b""
    assert _files(folder / "people") == _files(folder / "pseudonyms") == _files(folder / "retired") == []


async def test_of_keys_that_were_made_at_once_one_is_destroyed_and_the_others_stay(folder: Path) -> None:
    keys, people = KeyFolder.open(folder), [UserId.new() for _ in range(150)]
    made = await keys.get_or_make(SCOPE, people)
    assert len({file.stat().st_ino for file in _files(folder / "people")}) == 3, "three files, each with many names"
    await keys.destroy(SCOPE, made[people[70]])

    kept = {who: key for who, key in made.items() if who != people[70]}
    for each in (keys, KeyFolder.open(folder)):
        assert await each.find(SCOPE, people) == kept
        assert set(await each.named(SCOPE, [key.pseudonym for key in made.values()])) == {
            key.pseudonym for key in kept.values()
        }
    files = b"".join(file.read_bytes() for file in _files(folder))
    assert people[70].encode() not in files
    assert made[people[70]].secret.hex().encode() not in files
    assert (await keys.get_or_make(SCOPE, people))[people[70]] != made[people[70]]


async def test_what_a_crash_left_is_swept_away(folder: Path) -> None:
    KeyFolder.open(folder)
    old, young = folder / "people" / ".old", folder / "people" / ".young"
    for file in (old, young):
        file.write_bytes(b"{}")
    os.utime(old, (0, 0))
    KeyFolder.open(folder)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("links", range(7))
async def test_what_a_crash_left_of_keys_that_nobody_was_given_names_nobody_once_it_is_swept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, links: int
) -> None:
    """Three keys in one file, and the machine is off after so many of their names were given."""
    keys, people = KeyFolder.open(folder), [UserId.new() for _ in range(3)]
    with monkeypatch.context() as patched:
        real, made = os.link, iter(range(links))

        def dying(*args: Path) -> None:
            if next(made, None) is None:
                raise OSError("the machine is off")
            real(*args)

        patched.setattr(subject_keys.os, "link", dying)
        with suppress(ServiceUnavailable):
            await keys.get_or_make(SCOPE, people)
    after = KeyFolder.open(folder)
    kept = {who: (await after.get_or_make(SCOPE, [who]))[who] for who in people}
    await after.destroy(SCOPE, kept[erased := people.pop()])
    retired = await after.retire(SCOPE, people[0])  # has a name, if not the one that it was given
    for file in (folder / "people").glob(".*"):
        os.utime(file, (0, 0))
    swept = KeyFolder.open(folder)
    assert list((folder / "people").glob(".*")) == []
    assert erased.encode() not in b"".join(file.read_bytes() for file in _files(folder))
    assert await swept.retired(SCOPE, people[0]) == retired == kept[people[0]]
    assert await swept.find(SCOPE, people) == await after.find(SCOPE, people) == {people[1]: kept[people[1]]}
    assert len(await swept.named(SCOPE, [kept[who].pseudonym for who in people])) == 2


async def test_a_crash_between_any_two_steps_is_repaired_by_the_next_who_asks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that changes the folder is made to fail, in turn, while keys are made and destroyed."""
    for step in range(100):
        keys, person = KeyFolder.open(folder), UserId.new()
        taken, crashed = 0, False
        with monkeypatch.context() as patched:
            for name in ("link", "rename", "fsync", "pwrite", "unlink"):
                real = getattr(os, name)

                def dying(*args: object, real: object = real, last: int = step, **options: object) -> object:
                    nonlocal taken
                    taken += 1
                    if taken > last:
                        raise OSError("the machine is off")
                    return real(*args, **options)  # type: ignore[operator]

                patched.setattr(subject_keys.os, name, dying)
            try:
                made = (await keys.get_or_make(SCOPE, [person]))[person]
                await keys.retire(SCOPE, person)
                await keys.destroy(SCOPE, made)
            except ServiceUnavailable:
                crashed = True

        after = KeyFolder.open(folder)
        key = (await after.get_or_make(SCOPE, [person]))[person]
        assert await after.named(SCOPE, [key.pseudonym]) == {key.pseudonym: key}
        if (left := await after.retired(SCOPE, person)) is not None:
            await after.destroy(SCOPE, left)
        assert await after.retire(SCOPE, person) == key
        await after.destroy(SCOPE, key)
        assert _files(folder / "retired") == []
        assert await after.find(SCOPE, [person]) == await after.named(SCOPE, [key.pseudonym]) == {}
        assert all(not file.read_bytes().strip(b"\0\n") for file in _files(folder / "pseudonyms"))
        if not crashed:
            return
    pytest.fail("it never came to an end")


async def test_what_is_remembered_is_bounded(folder: Path) -> None:
    opened = KeyFolder.open(folder)
    keys = KeyFolder(folder, opened._secret, opened.folder_id, cached=3)
    people = [UserId.new() for _ in range(10)]
    made = await keys.get_or_make(SCOPE, people)

    assert len(keys._known) <= 3
    assert await keys.find(SCOPE, people) == made


async def test_a_file_that_is_no_key_is_said_to_be_damaged(folder: Path) -> None:
    keys, person = KeyFolder.open(folder), UserId.new()
    await keys.get_or_make(SCOPE, [person])
    file = _only(folder / "people")
    file.write_bytes(b'{"subject":"usr_x"}')

    with pytest.raises(KeysDamaged):
        await keys.find(SCOPE, [person])


async def test_a_folder_that_is_away_seals_nothing(folder: Path) -> None:
    keys, person = KeyFolder.open(folder), UserId.new()
    (folder / "people").rename(folder / "away")
    with pytest.raises(ServiceUnavailable):
        await keys.get_or_make(SCOPE, [person])
    (folder / "file").write_text("x")
    with pytest.raises(ServiceUnavailable):
        KeyFolder.open(folder / "file")
