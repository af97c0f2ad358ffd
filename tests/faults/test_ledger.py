"""The checks of this suite, on what they must object to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.faults import ledger as checks
from tests.faults.ledger import Ledger, Log, check_here, check_log, check_there


def log_of(*events: dict[str, Any]) -> Log:
    entries = [{"event": {"outcome": "success", "id": f"evt_{number}", **event}} for number, event in enumerate(events)]
    return Log(entries, Counter(entry["event"]["id"] for entry in entries))


@pytest.mark.parametrize("kind", ["published", "hooked", "sent", "emitted"])
def test_what_was_promised_and_did_not_arrive_is_missed(kind: str) -> None:
    ledger = Ledger(**{kind: {"x_1"}})
    assert [problem for problem in ledger.problems() if "x_1" in problem]
    ledger.events_received["x_1"] = ledger.messages_received["x_1"] = ledger.tailed["x_1"] = 1
    assert ledger.problems() == []
    ledger.tailed["x_1"] = 2
    assert ledger.problems() == ["the tail showed 1 audit events more than once, such as x_1"]


def test_what_was_done_and_is_not_in_the_log_is_missed() -> None:
    put, got = {"action": "secret.put", "targets": ["load/a"]}, {"action": "secret.get", "targets": ["load/a"]}
    hook = {"action": "webhook.receive", "details": {"event": "evt_h"}}
    delivery = {"action": "message.deliver", "details": {"message": "msg_1"}}
    ledger = Ledger(emitted={"evt_0"}, hooked={"evt_h"}, sent={"msg_1"}, reads=Counter({"load/a": 1}))
    whole = [put, got, hook, delivery]
    assert check_here(ledger, {"load/a": 1})(log_of(*whole)) == []
    assert check_there(ledger)(log_of(*whole)) == []
    for absent in range(len(whole)):
        assert check_here(ledger, {"load/a": 1})(log_of(*whole[:absent], *whole[absent + 1 :])), whole[absent]
    assert check_here(ledger, {"load/a": 2})(log_of(*whole)), "a version without an entry"
    assert check_here(Ledger(emitted={"evt_9"}), {"load/a": 1})(log_of(*whole)), "an event that was acknowledged"
    assert check_there(ledger)(log_of(put))


@pytest.mark.parametrize("wrong", [["the exported log does not verify"], ["1 events are in the log more than once"]])
async def test_a_log_that_was_wrong_for_a_moment_was_wrong(monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
    looks = 0

    async def look(_mesh: object) -> tuple[Log, list[str]]:
        nonlocal looks
        looks += 1
        return log_of(), wrong if looks == 1 else []

    monkeypatch.setattr(checks, "_export_and_verify", look)
    assert await check_log(None, lambda _log: [], seconds=5) == wrong  # type: ignore[arg-type]
    assert looks == 1


async def test_what_is_absent_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def look(_mesh: object) -> tuple[Log, list[str]]:
        nonlocal looks
        looks += 1
        return log_of(), []

    monkeypatch.setattr(checks, "_export_and_verify", look)
    assert await check_log(None, lambda _log: [] if looks > 1 else ["absent"], seconds=5) == []  # type: ignore[arg-type]
    assert await check_log(None, lambda _log: ["absent"], seconds=0) == ["absent"]  # type: ignore[arg-type]
