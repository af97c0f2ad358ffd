"""What is acknowledged, and what comes again; and that AsyncAPI documents the stream."""

from __future__ import annotations

from typing import Any

import pytest
from faststream.specification import AsyncAPI

from wardmesh.errors import ServiceUnavailable
from wardmesh.server.nkey import Kind, new_seed
from wardmesh_bridge.subscriber import RETRY_SECONDS, receive, verifying_broker


class FakeMessage:
    """A message of the stream that remembers how it was settled."""

    subject = "bridge.a.b.c"
    data = b"payload"
    headers = None

    def __init__(self) -> None:
        self.settled: list[str] = []

    async def ack(self) -> None:
        self.settled.append("ack")

    async def nak(self, delay: float) -> None:
        self.settled.append(f"nak {delay:g}")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(None, "ack"), (ServiceUnavailable(), f"nak {RETRY_SECONDS:g}"), (ValueError("x"), f"nak {RETRY_SECONDS:g}")],
)
async def test_settling(failure: Exception | None, expected: str, caplog: pytest.LogCaptureFixture) -> None:
    async def deliver(subject: str, payload: bytes) -> None:
        assert (subject, payload) == ("bridge.a.b.c", b"payload")
        if failure is not None:
            raise failure

    message: Any = FakeMessage()
    await receive(message, deliver)
    assert message.settled == [expected]
    assert "payload" not in caplog.text


async def test_the_page_of_asyncapi_has_both_streams() -> None:
    async def deliver(_subject: str, _payload: bytes) -> None:
        raise AssertionError

    broker = verifying_broker(["nats://127.0.0.1:1"], seed=new_seed(Kind.USER), deliver=deliver, closed=lambda: None)
    page = AsyncAPI(broker).to_specification().to_json()
    for word in ("SentMessages", "VerifiedMessages", "SignedMessage", "expires_at"):
        assert word in page
