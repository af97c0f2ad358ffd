"""What entries commit to: sealed by a key a person, and opened for who may read."""

from __future__ import annotations

import os

import pytest
from fake_ports import KEYS, SUBJECTS
from makers import NOW, candidates, envelope, event

from wardmesh.audit_openings import committed_of
from wardmesh.contracts.audit import NOBODY
from wardmesh.ids import AgentId, UserId, WorkspaceId
from wardmesh.subjects import AuditSubject
from wardmesh_audit import domain, openings
from wardmesh_audit.domain import Candidate, Stored, decode_envelope
from wardmesh_audit.openings import SubjectKey, Unopenable

SCOPE = WorkspaceId.new()
PERSON, OTHER = UserId.new(), UserId.new()
ADDRESS, AGENT = "203.0.113.77", "Mozilla/5.0 (distinctive)"


def of_person(**changes: object) -> Candidate:
    fields = {
        "actor": PERSON,
        "targets": (OTHER, "openai/api-key"),
        "source_address": ADDRESS,
        "user_agent": AGENT,
        "details": {"email": "ada@example.test", "approved_by": OTHER, "version": 3},
    }
    (candidate,) = candidates(SCOPE, event(**fields | changes))
    return candidate


def stored(candidate: Candidate, index: int = 0) -> Stored:
    return Stored(index, candidate.leaf, candidate.openings)


async def test_a_leaf_says_nothing_of_a_person_and_its_openings_say_all() -> None:
    candidate = of_person()

    for value in (PERSON, OTHER, ADDRESS, AGENT, "ada@example.test"):
        assert value.encode() not in candidate.leaf
        assert value.encode() not in (candidate.openings or b"")
    assert set(committed_of(candidate.leaf)) == {
        "/actor", "/targets/0", "/source_address", "/user_agent", "/details/email", "/details/approved_by"
    }  # fmt: skip
    (found,) = await SUBJECTS.opened(SCOPE, [stored(candidate)])
    assert found.entry.event == candidate.event
    assert found.entry.withheld == ()
    assert len(found.openings) == 6


async def test_whoever_acts_for_a_user_is_seen_from_where_the_user_is() -> None:
    agent = AgentId.new()
    candidate = of_person(actor=agent, acting_for=PERSON)

    assert set(committed_of(candidate.leaf)) >= {"/acting_for", "/source_address", "/user_agent"}
    assert candidate.names is not None
    assert candidate.names.actor == agent
    assert (await SUBJECTS.entries(SCOPE, [stored(candidate)]))[0].event == candidate.event


async def test_rows_name_people_by_pseudonyms_that_two_scopes_do_not_share() -> None:
    first, second = KEYS.made(SCOPE, [PERSON])[PERSON], KEYS.made(WorkspaceId.new(), [PERSON])[PERSON]
    names = of_person().stored_names()

    assert names.actor == first.pseudonym
    assert list(names.targets) == [KEYS.made(SCOPE, [OTHER])[OTHER].pseudonym, "openai/api-key"]
    assert len({first.pseudonym, second.pseudonym, PERSON}) == 3
    assert first.secret.hex() not in repr(first)
    assert PERSON not in repr(first)


async def test_without_a_key_its_person_is_withheld_and_nobody_else() -> None:
    person = UserId.new()
    candidate = of_person(actor=person)
    await KEYS.destroy(SCOPE, KEYS.made(SCOPE, [person])[person])

    (entry,) = await SUBJECTS.entries(SCOPE, [stored(candidate)])

    assert entry.event.actor == NOBODY
    assert entry.event.targets == (OTHER, "openai/api-key")
    assert (entry.event.source_address, entry.event.user_agent) == (None, None)
    assert entry.event.details == {"approved_by": OTHER, "version": 3}
    assert set(entry.withheld) == {"/actor", "/source_address", "/user_agent", "/details/email"}


async def test_news_say_what_the_leaf_says() -> None:
    candidate = of_person()

    told = domain.news_of(7, candidate)
    again = domain.news_of_stored(stored(candidate, 7))

    for news in (told, again):
        entry = domain.Entry.model_validate_json(news.entry)
        assert entry.index == 7
        assert entry.event.actor == NOBODY
        assert set(entry.withheld) == set(committed_of(candidate.leaf))
        assert PERSON.encode() not in news.entry


@pytest.mark.parametrize("way", ["of another entry", "of another scope", "cut", "flipped", "gone", "a part is gone"])
async def test_openings_that_are_not_the_entrys_open_nothing_and_are_damage(way: str) -> None:
    candidate = of_person()
    sealed = candidate.openings or b""
    first = 20 + int.from_bytes(sealed[16:20], "big")
    match way:
        case "of another entry":
            changed = of_person().openings
        case "of another scope":
            scope = WorkspaceId.new()
            values = candidate.committed
            changed = openings.seal(scope, candidate.event.id, values, KEYS.made(scope, [PERSON, OTHER]))
        case "cut":
            changed = sealed[:-1]
        case "flipped":
            changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        case "gone":
            changed = None
        case _:
            changed = sealed[:first]

    (found,) = await SUBJECTS.opened(SCOPE, [Stored(0, candidate.leaf, changed)])

    # What was sealed by keys that this scope has not is like what was erased.
    assert found.is_damaged is (way != "of another scope")
    assert found.openings == ()
    assert set(found.entry.withheld) == set(committed_of(candidate.leaf))


async def test_a_changed_commitment_is_damage() -> None:
    candidate = of_person()
    place = candidate.leaf.index(b'"/actor":"') + 10
    changed = candidate.leaf[:place] + b"AAAA" + candidate.leaf[place + 4 :]

    (found,) = await SUBJECTS.opened(SCOPE, [Stored(0, changed, candidate.openings)])

    assert found.is_damaged


def test_nothing_that_names_a_person_is_stored_before_it_is_protected() -> None:
    subject = AuditSubject(SCOPE, "auth").format()
    (candidate,) = decode_envelope(subject, envelope(event(actor=PERSON)), NOW, random=os.urandom).candidates

    with pytest.raises(RuntimeError, match="not protected"):
        candidate.stored_names()


def test_what_is_about_nobody_is_what_it_was() -> None:
    for said in (event(), event(actor=UserId.nil(), source_address=ADDRESS, details={"email": "a@b.c"})):
        (candidate,) = candidates(SCOPE, said)
        assert candidate.leaf.endswith(b'"version":1}')
        assert candidate.committed == ()


def test_rubbish_is_no_openings() -> None:
    key = SubjectKey(PERSON, bytes(32))
    for rubbish in (b"\x00", b"\xff" * 20, b"\x00" * 60, bytes(16) + b"\x00\x00\x00\x05hello"):
        with pytest.raises(Unopenable):
            openings.open_(SCOPE, event().id, key._prefix + rubbish[16:], {key.pseudonym: key})
