"""One trace through the mesh: HTTP gateway → NATS → secrets → SQL → outbox → audit, seen by an in-memory exporter."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import wardmesh_audit.app
import wardmesh_audit.settings
import wardmesh_auth.app
import wardmesh_auth.settings
import wardmesh_secrets.app
import wardmesh_secrets.settings
from wardmesh.server.runtime import running
from wardmesh_cli.embedded.mesh import EmbeddedMesh

PASSWORD: Final = "correct horse battery staple"
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
SERVICES: Final[dict[str, tuple[Any, Any]]] = {
    "auth": (wardmesh_auth.settings.Settings, wardmesh_auth.app.build),
    "audit": (wardmesh_audit.settings.Settings, wardmesh_audit.app.build),
    "secrets": (wardmesh_secrets.settings.Settings, wardmesh_secrets.app.build),
}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # once a process: no other test of this suite sets one
    return exporter


@pytest.fixture
async def gateway(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Three services in this process, on a real broker and a real database."""
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-trace-"))
    async with EmbeddedMesh(data_dir=folder / "data", services=()) as mesh, AsyncExitStack() as stack:
        for service, (settings, build) in SERVICES.items():
            for name, value in mesh.environment(service).items():
                monkeypatch.setenv(name, value)
            await stack.enter_async_context(running(service, settings(), build))
        yield mesh.http_url
    shutil.rmtree(folder)


async def spans_until(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """Return the trace's spans once one is called `name`: the log is sealed after the answer."""
    async with asyncio.timeout(20):
        while True:
            found = [
                span
                for span in exporter.get_finished_spans()
                if span.context is not None and format(span.context.trace_id, "032x") == TRACE_ID
            ]
            if name in {span.name for span in found}:
                return found
            await asyncio.sleep(0.05)


async def test_one_trace_id_through_gateway_secrets_and_audit(gateway: str, exporter: InMemorySpanExporter) -> None:
    async with httpx2.AsyncClient(base_url=gateway, timeout=20) as http:
        signed_up = (
            await http.post(
                "/v1/-/auth/sign_up", json={"organization": "acme", "email": "a@example.com", "password": PASSWORD}
            )
        ).json()
        credential = {"organization": signed_up["organization"], "email": "a@example.com", "password": PASSWORD}
        session = (
            await http.post(
                f"/v1/{signed_up['organization']}/auth/log_in", json=credential | {"scope": signed_up["workspace"]}
            )
        ).json()
        answer = await http.post(
            f"/v1/{signed_up['workspace']}/secrets/grant",
            json={"pattern": "openai/*", "principal": signed_up["user"]},
            headers={
                "Authorization": f"Bearer {session['token']}",
                "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01",
            },
        )
        assert answer.status_code == 200, answer.text

        found = await spans_until(exporter, "audit.seal")
        by_id = {span.context.span_id: span for span in found if span.context is not None}
        kinds = {span.name: span for span in found}
        assert {"secrets.grant", "postgresql.transaction", "audit.seal"} <= set(kinds)
        for child, parent in (("audit.seal", "secrets.grant"), ("postgresql.transaction", "secrets.grant")):
            chain, span = [], kinds[child]
            while span.parent is not None and span.parent.span_id in by_id:
                span = by_id[span.parent.span_id]
                chain.append(span.name)
            assert parent in chain, f"{child} hangs below {chain}"
        entry = await http.post(
            f"/v1/{signed_up['workspace']}/audit/query",
            json={"filter": {"action": "secret.grant"}},
            headers={"Authorization": f"Bearer {session['token']}"},
        )
        assert entry.json()["entries"][0]["event"]["trace_id"] == TRACE_ID
        secrets_of_the_test = (PASSWORD, session["token"], session["refresh_token"])
        everything = "".join(span.to_json() for span in exporter.get_finished_spans())
        assert not any(secret in everything for secret in secrets_of_the_test)
