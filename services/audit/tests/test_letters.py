"""Dead letters: what opens them, who sees them, and that nothing about them is without a bound."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import pytest
from fake_ports import FakeKeys
from makers import NOW, Person, make_person

from wardmesh.contracts.audit import MAX_PAGE_BYTES
from wardmesh.contracts.audit import letters as contracts
from wardmesh.contracts.audit.letters import DeadLetters, ListDeadLetters, ReadDeadLetter
from wardmesh.ids import EventId, Scope, WorkspaceId
from wardmesh.subjects import AuditSubject
from wardmesh_audit import dead_letters
from wardmesh_audit.dead_letters import DeadLetterService
from wardmesh_audit.errors import LetterErased, NoSuchLetter
from wardmesh_audit.letters import MAX_DEAD_BYTES, Letter, Letters


@dataclass
class FakeBox:
    """The port `LetterBox` in memory."""

    letters: list[Letter] = field(default_factory=list)

    async def next(self, scope: Scope, after: int) -> Letter | None:
        return next((each for each in self.letters if each.scope == scope and each.number > after), None)

    async def get(self, scope: Scope, number: int) -> Letter | None:
        return next((each for each in self.letters if each.scope == scope and each.number == number), None)


@dataclass
class World:
    letters: Letters
    box: FakeBox
    service: DeadLetterService
    person: Person

    async def bury(self, said: bytes, scope: Scope | None = None) -> Letter:
        scope = scope or self.person.scope
        subject = AuditSubject(scope, "webhooks").format()
        sealed = await self.letters.seal(scope, EventId.new(), "malformed_envelope", subject, NOW, said)
        letter = Letter.of(len(self.box.letters) + 1, sealed.subject, sealed.headers, sealed.payload)
        assert letter is not None
        self.box.letters.append(letter)
        return letter

    async def list(self, **wanted: int) -> DeadLetters:
        return await self.service.list(self.person.ask(contracts.DEAD_LETTERS), ListDeadLetters(**wanted))

    async def read(self, number: int) -> bytes:
        said = b""
        while True:
            request = ReadDeadLetter(number=number, offset=len(said))
            part = await self.service.read(self.person.ask(contracts.DEAD_LETTER), request)
            assert len(part.content) <= MAX_PAGE_BYTES
            said += part.content
            if len(said) >= part.kept or not part.content:
                return said


@pytest.fixture
def world() -> World:
    letters, box = Letters(FakeKeys()), FakeBox()
    return World(letters, box, DeadLetterService(box, letters), make_person())


async def test_a_letter_opens_where_it_belongs_and_says_nothing_until_then(world: World) -> None:
    said = b"usr_somebody \xff\x00"
    letter = await world.bury(said)
    assert await world.letters.open(letter) == said
    assert said not in letter.sealed
    assert (letter.source, letter.size, letter.kept) == ("webhooks", len(said), len(said))

    elsewhere = WorkspaceId.new()
    await world.bury(said, elsewhere)  # so that there is a key
    damaged = letter.sealed[:-1] + bytes((letter.sealed[-1] ^ 1,))
    for forged in (
        replace(letter, scope=elsewhere),
        replace(letter, entry=EventId.new()),
        *(replace(letter, sealed=sealed) for sealed in (damaged, b"", letter.sealed[:5], letter.sealed[:27])),
    ):
        assert await world.letters.open(forged) is None


@pytest.mark.parametrize("missing", ["Entry", "Reason", "Subject", "Received", "Bytes"])
async def test_what_is_no_letter_of_ours_is_none(world: World, missing: str) -> None:
    scope = WorkspaceId.new()
    sealed = await world.letters.seal(scope, EventId.new(), "r", "audit.x.y", NOW, b"x")
    headers = dict(sealed.headers)
    assert Letter.of(1, sealed.subject, headers, sealed.payload) is not None
    assert Letter.of(1, "dead.audit", headers, sealed.payload) is None
    assert Letter.of(1, f"dead.bridge.{scope}", headers, sealed.payload) is None
    if missing not in {"Reason", "Subject"}:
        assert Letter.of(1, sealed.subject, headers | {f"Wardmesh-{missing}": "?"}, sealed.payload) is None
    del headers[f"Wardmesh-{missing}"]
    assert Letter.of(1, sealed.subject, headers, sealed.payload) is None


async def test_a_scope_sees_its_own_letters_page_by_page(world: World) -> None:
    numbers = [(await world.bury(b"x")).number for _ in range(5)]
    others = await world.bury(b"other", WorkspaceId.new())
    first = await world.list(limit=3)
    assert first.next_after == numbers[2]
    rest = await world.list(limit=3, after=numbers[2])
    assert [each.number for each in (*first.letters, *rest.letters)] == numbers
    assert rest.next_after is None
    with pytest.raises(NoSuchLetter):
        await world.read(others.number)
    with pytest.raises(NoSuchLetter):
        await world.read(99)


async def test_a_page_looks_at_so_many_bytes_and_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "PAGE_BYTES", 2_000)
    numbers = [(await world.bury(bytes(900))).number for _ in range(4)]
    page = await world.list()
    assert [each.number for each in page.letters] == numbers[:3]
    rest = await world.list(after=page.next_after or 0)
    assert [each.number for each in rest.letters] == numbers[3:]


async def test_a_long_letter_is_read_in_parts_and_says_what_is_missing(world: World) -> None:
    said = os.urandom(1024 * 1024)
    letter = await world.bury(said)
    assert await world.read(letter.number) == said[:MAX_DEAD_BYTES]
    (shown,) = (await world.list()).letters
    assert (shown.size, shown.kept) == (len(said), MAX_DEAD_BYTES)
    empty = await world.bury(b"")
    assert await world.read(empty.number) == b""


async def test_what_an_erasure_took_is_shown_as_such(world: World) -> None:
    letter = await world.bury(b"before")
    await world.letters.forget(world.person.scope)
    later = await world.bury(b"after")
    assert [each.is_erased for each in (await world.list()).letters] == [True, False]
    with pytest.raises(LetterErased):
        await world.read(letter.number)
    assert await world.read(later.number) == b"after"
