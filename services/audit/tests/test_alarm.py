"""The alarm of a log that would fork: told once, where people look, and over when the log is whole."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fake_ports import FakeEmitter
from makers import NOW

from wardmesh.errors import AuditUnavailable
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh_audit import alarm as rules
from wardmesh_audit.alarm import ACTION, DISPUTED, ForkAlarm

SCOPE = WorkspaceId.new()


@pytest.fixture
def alarm(emitter: FakeEmitter) -> ForkAlarm:
    return ForkAlarm(emitter, lambda: NOW)


async def test_it_is_told_once_and_in_another_log(
    alarm: ForkAlarm, emitter: FakeEmitter, caplog: pytest.LogCaptureFixture
) -> None:
    assert alarm.degraded() is None
    for _ in range(3):
        await alarm.refused(SCOPE)
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    ((scope, event),) = emitter.emitted
    assert (scope, event.action, event.targets) == (OrgId.nil(), ACTION, (SCOPE,))
    assert alarm.degraded() == "of 1 logs the head is not signed: they do not extend what was signed before"


async def test_it_ends_with_a_signature_and_can_come_again(alarm: ForkAlarm, emitter: FakeEmitter) -> None:
    await alarm.refused(SCOPE)
    alarm.signed(SCOPE)
    alarm.signed(WorkspaceId.new())
    assert alarm.degraded() is None
    await alarm.refused(SCOPE)
    assert len(emitter.emitted) == 2


async def test_what_could_not_be_told_is_told_at_the_next_refusal(alarm: ForkAlarm, emitter: FakeEmitter) -> None:
    emitter.failure = AuditUnavailable()
    await alarm.refused(SCOPE)
    assert emitter.emitted == []
    assert alarm.degraded() is not None
    await alarm.refused(SCOPE)
    await alarm.refused(SCOPE)
    assert len(emitter.emitted) == 1


async def test_it_waits_for_nobody_for_long(
    alarm: ForkAlarm, emitter: FakeEmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "EMIT_SECONDS", 0.0)
    monkeypatch.setattr(emitter, "emit", lambda *_: asyncio.Event().wait())
    await alarm.refused(SCOPE)
    assert alarm.degraded() is not None


async def test_what_it_remembers_is_bounded(
    alarm: ForkAlarm, emitter: FakeEmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_SCOPES", 2)
    for _ in range(5):
        await alarm.refused(WorkspaceId.new())
    assert len(emitter.emitted) == 2


async def test_a_witness_that_contradicts_raises_it_and_takes_it_back(
    alarm: ForkAlarm, emitter: FakeEmitter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await alarm.disputed(SCOPE, "w1")
    await alarm.disputed(SCOPE, "w2")
    alarm.signed(SCOPE)  # which says nothing of what witnesses know
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL] * 2
    assert [(scope, event.action, event.targets) for scope, event in emitter.emitted] == [
        (OrgId.nil(), DISPUTED, (SCOPE, name)) for name in ("w1", "w2")
    ]
    assert alarm.degraded() == "of 1 logs a witness knows more, or another tree, than was ever signed"
    await alarm.refused(SCOPE)
    assert str(alarm.degraded()).count("; ") == 1
    alarm.signed(SCOPE)
    alarm.agreed(SCOPE, "w1")
    assert alarm.degraded() is not None
    alarm.agreed(SCOPE, "w2")
    assert alarm.degraded() is None
    emitter.failure = AuditUnavailable()
    await alarm.disputed(SCOPE, "w1")
    emitted = len(emitter.emitted)
    await alarm.disputed(SCOPE, "w1")
    assert len(emitter.emitted) == emitted + 1
