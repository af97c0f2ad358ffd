"""What becomes of each message of a batch: sealed and acknowledged, buried, or asked to come again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from fake_log import FakeLog
from fake_ports import LETTERS, SUBJECTS, FakeEmitter, FakeKeys, FakePublisher
from makers import Delivered, delivered, event, seal_all
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from wardmesh.contracts.audit import SealedEntries
from wardmesh.contracts.operation import Category
from wardmesh.errors import AuditUnavailable, ServiceUnavailable
from wardmesh.headers import TRACE_PARENT
from wardmesh.ids import OrgId, Scope, UserId, WorkspaceId
from wardmesh.server.database_errors import DatabaseBusy, DatabaseDefect, DatabaseUnavailable
from wardmesh.server.messages import MESSAGE_ID_HEADER
from wardmesh_audit import domain, sealer, subjects
from wardmesh_audit.domain import Candidate, Stored, decode_leaf
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.letters import MAX_DEAD_BYTES, Letter
from wardmesh_audit.ports import Check, Sealed
from wardmesh_audit.sealer import (
    DAMAGED_RETRY_SECONDS,
    PUBLISH_BYTES,
    PUBLISH_ENTRIES,
    RETRY_SECONDS,
    Sealer,
)
from wardmesh_audit.subjects import Subjects

ONE, OTHER = WorkspaceId.new(), WorkspaceId.new()


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def sealing(fake_log: FakeLog, publisher: FakePublisher, emitter: FakeEmitter) -> Sealer:
    return Sealer(fake_log, publisher, emitter, SUBJECTS, LETTERS)


async def test_a_batch_is_sealed_published_and_acknowledged(
    sealing: Sealer, fake_log: FakeLog, publisher: FakePublisher
) -> None:
    messages = [delivered(ONE, event(), event()), delivered(OTHER, event()), delivered(ONE, event())]
    await seal_all(sealing, messages)
    assert [message.outcome for message in messages] == ["acknowledged"] * 3
    assert (fake_log.rows[ONE].head.size, fake_log.rows[OTHER].head.size) == (3, 1)
    assert fake_log.rows[ONE].published_size == 3
    news = {message.subject: message for message in publisher.published}
    assert news.keys() == {f"sealed.{ONE}", f"sealed.{OTHER}"}
    told = SealedEntries.model_validate_json(news[f"sealed.{ONE}"].payload)
    assert [entry.index for entry in told.entries] == [0, 1, 2]


async def test_news_of_a_log_come_in_its_order_in_one_message_that_has_an_id(
    sealing: Sealer, publisher: FakePublisher
) -> None:
    await seal_all(sealing, [delivered(ONE, event(), event(category=Category.BRIDGE), event())])
    (message,) = publisher.published
    assert [entry.index for entry in SealedEntries.model_validate_json(message.payload).entries] == [0, 1, 2]
    assert message.wire_headers()[MESSAGE_ID_HEADER] == f"{ONE}:0-2"


async def test_news_say_what_the_log_says(sealing: Sealer, fake_log: FakeLog, publisher: FakePublisher) -> None:
    """What is told at once is made of the leaf's bytes; what is told after a crash is read and parsed."""
    first = delivered(ONE, event(details={"b": [1.5, {"y": None, "x": "é"}], "a": {}}), event(reason="why"))
    publisher.failure = ServiceUnavailable()
    await seal_all(sealing, [first])
    await seal_all(sealing, [delivered(ONE, event())])
    [again] = publisher.published
    stored = [decode_leaf(Stored(index, leaf)) for index, leaf in sorted(fake_log.rows[ONE].entries.items())]
    assert SealedEntries.model_validate_json(again.payload).entries == tuple(stored)

    await seal_all(sealing, [delivered(ONE, event(details={"z": 1, "a": [True]}), event(targets=('\x00"}', "ü")))])
    told = SealedEntries.model_validate_json(publisher.published[-1].payload).entries
    assert told == tuple(decode_leaf(Stored(index, fake_log.rows[ONE].entries[index])) for index in (3, 4))


async def test_news_fit_a_message(sealing: Sealer, publisher: FakePublisher) -> None:
    large = [event(details={"x": "y" * 60_000}) for _ in range(20)]
    await seal_all(sealing, [delivered(ONE, *large, *[event() for _ in range(300)])])
    told = [SealedEntries.model_validate_json(message.payload).entries for message in publisher.published]
    assert [entry.index for entries in told for entry in entries] == list(range(320))
    assert all(len(message.payload) < PUBLISH_BYTES + 1_000 for message in publisher.published)
    assert all(len(entries) <= PUBLISH_ENTRIES for entries in told)


async def test_a_crash_after_the_commit_is_repaired_by_redelivery(
    sealing: Sealer, fake_log: FakeLog, publisher: FakePublisher
) -> None:
    first = delivered(ONE, event())
    publisher.failure = ServiceUnavailable()
    await seal_all(sealing, [first])
    assert first.outcome == RETRY_SECONDS
    assert (fake_log.rows[ONE].head.size, fake_log.rows[ONE].published_size) == (1, 0)

    first.outcome = None
    await seal_all(sealing, [first])
    assert first.outcome == "acknowledged"
    assert (fake_log.rows[ONE].head.size, fake_log.rows[ONE].published_size) == (1, 1)
    assert len(publisher.published) == 1


@pytest.mark.parametrize("failure", [DatabaseUnavailable(), DatabaseBusy()])
async def test_what_cannot_be_sealed_now_comes_again(sealing: Sealer, fake_log: FakeLog, failure: Exception) -> None:
    fake_log.failure = failure
    message = delivered(ONE, event())
    await seal_all(sealing, [message])
    assert message.outcome == RETRY_SECONDS


async def test_what_was_sealed_by_a_retired_key_is_sealed_by_the_next(
    fake_log: FakeLog, publisher: FakePublisher, emitter: FakeEmitter
) -> None:
    keys, person = FakeKeys(), UserId.new()
    sealing = Sealer(fake_log, publisher, emitter, Subjects(keys), LETTERS)
    await seal_all(sealing, [delivered(ONE, event(actor=person))])
    first = await keys.retire(ONE, person)
    message = delivered(ONE, event(actor=person))
    await seal_all(sealing, [message])
    second = keys.people[ONE, person]
    assert message.outcome == "acknowledged"
    assert first is not None
    assert [names.actor for names in fake_log.rows[ONE].names.values()] == [first.pseudonym, second.pseudonym]


async def test_who_is_erased_again_and_again_is_sealed_later(
    fake_log: FakeLog, publisher: FakePublisher, emitter: FakeEmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, asked = FakeKeys(), 0

    async def never(*_: object) -> bool:
        nonlocal asked
        asked += 1
        return False

    monkeypatch.setattr(keys, "in_use", never)
    message, other = delivered(ONE, event(actor=UserId.new())), delivered(OTHER, event())
    await seal_all(Sealer(fake_log, publisher, emitter, Subjects(keys), LETTERS), [message, other])
    assert (message.outcome, other.outcome) == (RETRY_SECONDS, "acknowledged")
    assert asked == sealer.ATTEMPTS
    assert fake_log.rows[ONE].head.size == 0


async def test_a_folder_that_hangs_does_not_hold_the_log(
    fake_log: FakeLog, publisher: FakePublisher, emitter: FakeEmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FakeKeys()

    async def hanging(*_: object) -> bool:
        return await asyncio.Event().wait()

    monkeypatch.setattr(keys, "in_use", hanging)
    monkeypatch.setattr(subjects, "CHECK_SECONDS", 0.01)
    message = delivered(ONE, event(actor=UserId.new()))
    await seal_all(Sealer(fake_log, publisher, emitter, Subjects(keys), LETTERS), [message])
    assert message.outcome == RETRY_SECONDS
    assert not fake_log.appending[ONE].locked()


@pytest.mark.parametrize("failure", [LogDamaged("x"), RuntimeError(), DatabaseDefect("x", sqlstate="42703")])
async def test_what_somebody_must_repair_waits_and_is_not_buried(
    sealing: Sealer, fake_log: FakeLog, publisher: FakePublisher, failure: Exception
) -> None:
    fake_log.failure = failure
    message = delivered(ONE, event())
    await seal_all(sealing, [message])
    assert message.outcome == DAMAGED_RETRY_SECONDS
    assert publisher.published == []


async def test_one_scopes_trouble_is_its_own(sealing: Sealer, fake_log: FakeLog) -> None:
    fake_log.failure = LogDamaged("x")
    messages = [delivered(ONE, event()), delivered(OTHER, event())]
    await seal_all(sealing, messages)
    assert sorted(str(message.outcome) for message in messages) == [str(DAMAGED_RETRY_SECONDS), "acknowledged"]


def letters_in(publisher: FakePublisher) -> list[Letter]:
    found = [Letter.of(1, each.subject, each.headers, each.payload) for each in publisher.published]
    return [letter for letter in found if letter is not None]


async def test_a_poisonous_message_is_buried_and_holds_nobody_up(
    sealing: Sealer, fake_log: FakeLog, publisher: FakePublisher, emitter: FakeEmitter
) -> None:
    poison = Delivered(f"audit.{ONE}.secrets", b"{not json")
    forged = Delivered("audit.everything.secrets", delivered(ONE, event()).data)
    good = delivered(ONE, event())
    await seal_all(sealing, [poison, forged, good])
    assert [each.outcome for each in (poison, forged, good)] == ["acknowledged"] * 3
    assert fake_log.rows[ONE].head.size == 1

    letters = {each.reason: each for each in letters_in(publisher)}
    assert await LETTERS.open(letters["malformed_envelope"]) == poison.data
    assert await LETTERS.open(letters["forged_subject"]) == forged.data
    assert letters["forged_subject"].subject == forged.subject
    assert {reason: (each.scope, each.source) for reason, each in letters.items()} == {
        "malformed_envelope": (ONE, "secrets"),
        "forged_subject": (OrgId.nil(), ""),
    }
    assert {(scope, told.action, told.reason) for scope, told in emitter.emitted} == {
        (ONE, domain.REJECTED, "malformed_envelope"),
        (OrgId.nil(), domain.REJECTED, "forged_subject"),
    }


async def test_a_message_is_not_buried_without_a_record(
    sealing: Sealer, publisher: FakePublisher, emitter: FakeEmitter
) -> None:
    for failing, failure in ((publisher, ServiceUnavailable()), (emitter, AuditUnavailable())):
        failing.failure = failure
        poison = Delivered(f"audit.{ONE}.secrets", b"{")
        await seal_all(sealing, [poison])
        assert poison.outcome == RETRY_SECONDS


async def test_a_dead_letter_fits_a_message(sealing: Sealer, publisher: FakePublisher) -> None:
    poison = Delivered(f"audit.{ONE}.secrets", b"x" * 1024 * 1024)
    await seal_all(sealing, [poison])
    (letter,) = letters_in(publisher)
    assert (letter.size, letter.kept) == (1024 * 1024, MAX_DEAD_BYTES)
    assert await LETTERS.open(letter) == poison.data[:MAX_DEAD_BYTES]


class Picky(FakeLog):
    """Has no room for one particular action."""

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        if any(candidate.event.action == "no.room" for candidate in candidates):
            raise DatabaseDefect("UntranslatableCharacter", sqlstate="22P05")
        return await super().seal(scope, candidates, check)


async def test_the_one_message_that_fits_no_column_is_found(publisher: FakePublisher, emitter: FakeEmitter) -> None:
    store = Picky()
    messages = [delivered(ONE, event(action=action)) for action in ("a.b", "no.room", "c.d")]
    await seal_all(Sealer(store, publisher, emitter, SUBJECTS, LETTERS), messages)
    assert [message.outcome for message in messages] == ["acknowledged"] * 3
    assert store.rows[ONE].head.size == 2
    assert [await LETTERS.open(letter) for letter in letters_in(publisher)] == [messages[1].data]
    assert [told.reason for _, told in emitter.emitted] == ["unstorable_event"]


async def test_telling_of_a_rejection_that_is_rejected_ends(publisher: FakePublisher, emitter: FakeEmitter) -> None:
    class Closed(FakeLog):
        async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
            raise DatabaseDefect("x", sqlstate="22P05")

    about = delivered(ONE, event(action=domain.REJECTED), source="audit")
    await seal_all(Sealer(Closed(), publisher, emitter, SUBJECTS, LETTERS), [about])
    assert about.outcome == "acknowledged"
    assert emitter.emitted == []


async def test_a_damaged_leaf_does_not_stop_the_news(
    sealing: Sealer, fake_log: FakeLog, publisher: FakePublisher
) -> None:
    publisher.failure = ServiceUnavailable()
    await seal_all(sealing, [delivered(ONE, event(), event())])
    fake_log.rows[ONE].entries[0] = b"rubbish"
    await seal_all(sealing, [delivered(ONE, event())])
    told = SealedEntries.model_validate_json(publisher.published[0].payload)
    assert [entry.index for entry in told.entries] == [1, 2]
    assert fake_log.rows[ONE].published_size == 3


async def test_sealing_continues_the_traces_of_its_messages(sealing: Sealer, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("wardmesh.server.telemetry._tracer", provider.get_tracer("test"))
    traces = ["4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"]
    messages = []
    for trace_id in traces:
        message = delivered(ONE, event())
        message.headers = {TRACE_PARENT: f"00-{trace_id}-00f067aa0ba902b7-01"}
        messages.append(message)
    await seal_all(sealing, messages)
    spans = exporter.get_finished_spans()
    assert {trace.format_trace_id(span.get_span_context().trace_id) for span in spans} == set(traces)
    assert {span.name for span in spans} == {"audit.seal"}


async def test_a_scope_with_much_to_seal_gets_several_transactions(
    sealing: Sealer, fake_log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = fake_log.seal

    async def counting(scope: Scope, candidates: Sequence[Candidate], check: Check | None) -> Sealed:
        sizes.append(len(candidates))
        return await original(scope, candidates, check)

    monkeypatch.setattr(fake_log, "seal", counting)
    monkeypatch.setattr(sealer, "TRANSACTION_EVENTS", 10)
    messages = [delivered(ONE, *[event() for _ in range(number)]) for number in (4, 6, 1, 12, 3)]
    await seal_all(sealing, messages)
    assert sizes == [10, 1, 12, 3]
    assert {message.outcome for message in messages} == {"acknowledged"}


async def test_a_defect_with_one_message_does_not_touch_the_others(
    sealing: Sealer, publisher: FakePublisher, fake_log: FakeLog
) -> None:
    class Odd(Exception):
        pass

    fake_log.failure = Odd()
    poison, good, other = Delivered("x", b""), delivered(ONE, event()), delivered(OTHER, event())
    publisher.failure = Odd()
    await seal_all(sealing, [poison, good, other])
    assert sorted(str(each.outcome) for each in (poison, good, other)) == ["30.0", "30.0", "acknowledged"]


async def test_a_batch_is_taken_while_the_last_is_at_the_database(
    sealing: Sealer, fake_log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other scopes it is sealed meanwhile; of the same scope, behind what came before."""
    answers = asyncio.Event()
    original = fake_log.seal

    async def slow(scope: Scope, candidates: Sequence[Candidate], check: Check | None) -> Sealed:
        if candidates[0].event.id == first.id:
            await answers.wait()
        return await original(scope, candidates, check)

    monkeypatch.setattr(fake_log, "seal", slow)
    first, second, others = event(), event(), event()
    held, behind, free = delivered(ONE, first), delivered(ONE, second), delivered(OTHER, others)
    await sealing.take([held])
    await sealing.take([behind, free])
    settled = asyncio.create_task(sealing.finish())
    while free.outcome is None:
        await asyncio.sleep(0)
    assert (held.outcome, behind.outcome, settled.done()) == (None, None, False)
    answers.set()
    await settled
    assert {held.outcome, behind.outcome} == {"acknowledged"}
    assert [event_id for event_id, _ in fake_log.rows[ONE].leaves] == [first.id, second.id]


async def test_what_is_under_way_has_a_bound(
    sealing: Sealer, fake_log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    under_way = 0
    original = fake_log.seal

    async def counting(scope: Scope, candidates: Sequence[Candidate], check: Check | None) -> Sealed:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return await original(scope, candidates, check)

    monkeypatch.setattr(fake_log, "seal", counting)
    for _ in range(3):
        await sealing.take([delivered(WorkspaceId.new(), event()) for _ in range(20)])
    await sealing.finish()
    assert len(at_once) == 60
    assert max(at_once) == sealer.PARALLEL_TRANSACTIONS


async def test_what_is_taken_while_it_ends_is_sealed_before_take_returns(sealing: Sealer) -> None:
    """The connection that acknowledges is closed as soon as nobody is at a batch."""
    await sealing.finish()
    late = delivered(ONE, event())
    await sealing.take([late])
    assert late.outcome == "acknowledged"
