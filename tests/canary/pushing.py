"""Secrets in all the wrong places: malformed bodies, headers, paths, subjects, credentials; by both doors."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.canary.doors import Answers, HttpDoor, NatsDoor, connect_to_broker
from tests.canary.malformed import variations
from tests.canary.pouch import Pouch, among_hard_characters
from tests.canary.table import ANSWERS, BROKER_LOG
from tests.canary.walk import People, Recorded

import wardmesh
from wardmesh.contracts import auth
from wardmesh.contracts.operation import Credential
from wardmesh.errors import WardmeshError
from wardmesh.headers import AUTHORIZATION, REQUEST_ID
from wardmesh.ids import OrgId, Scope, WorkspaceId

AT_ONCE: Final = 24
Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
_MALFORMED = "malformed request"
_ASIDE = frozenset({ANSWERS})
_NAMED_BY_BROKER = frozenset({BROKER_LOG})

HEADERS: Final = (
    "Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization", "Content-Type", "Accept", "Content-Encoding",
    "X-Request-Id", "Request-Id", "Deadline-Ms", "traceparent", "tracestate", "baggage", "Referer", "Origin",
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Last-Event-ID", "Idempotency-Key", "Stripe-Signature",
    "X-Hub-Signature-256", "X-GitHub-Event", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "X-Unknown",
)  # fmt: skip
"""All but User-Agent, which the audit log keeps by design."""


@dataclass(frozen=True)
class Doors:
    """Every way in, and what was said at it."""

    nats: dict[Scope, NatsDoor]
    gateway: HttpDoor
    ingest: HttpDoor
    answers: Answers
    client_log: Path


@dataclass
class Pushing:
    """Pushes, and counts what it pushed: (contract or place, door) → how many requests."""

    them: People
    doors: Doors
    pouch: Pouch
    counts: dict[tuple[str, str], int]

    async def everything(self, recorded: dict[str, Recorded]) -> None:
        await self.replay(recorded)
        await self.malformed(recorded)
        await self.wrong_credentials()
        await self.headers(recorded)
        await self.paths()
        await self.broken_http()
        await self.webhooks()
        await self.witness()
        await self.subjects()
        await self.connects()
        await self.client_library()

    async def replay(self, recorded: dict[str, Recorded]) -> None:
        """Ask by HTTP what was granted by NATS, with the secrets that it carried."""

        async def ask(item: Recorded) -> None:
            body = item.body
            if item.contract.is_long_poll:
                body = json.dumps({**item.document, "wait_seconds": 0}).encode()
            answer = await self.doors.gateway.ask(
                item.contract, item.scope, body, self._token(item.scope), {REQUEST_ID: item.request_id}
            )
            if answer.status_code == 200:
                response = item.contract.response.model_validate_json(answer.content)
                self.pouch.take_message(response, f"{item.contract.key} answered by HTTP, its")
            self._count(item.contract.key, "granted once, by HTTP")

        await _all([partial(ask, item) for item in recorded.values()])

    async def malformed(self, recorded: dict[str, Recorded]) -> None:
        """Send what each contract refuses, made of a request that it took."""
        wanted: list[Work] = []
        for key, item in recorded.items():
            for door, ask in (("NATS", self._by_nats(item)), ("HTTP", self._by_http(item))):
                core = self.pouch.core(_MALFORMED, f"{key} by {door}")
                field = self.pouch.core(_MALFORMED, f"{key} by {door} (a field's name)", may_rest_in=_ASIDE)
                bodies = [body for _, body in variations(item.contract, item.document, core, field)]
                self._count(key, f"malformed, by {door}", len(bodies))
                wanted += [partial(self._refused, ask, body) for body in bodies]
        await _all(wanted)

    async def wrong_credentials(self) -> None:
        """Present credentials that fit their contracts and are not ours."""
        organization = self.them.tenant.organization
        door = self.doors.nats[organization]
        for contract, kind, form in (
            (auth.LOG_IN, "password", "{}"),
            (auth.EXCHANGE_KEY, "API key", "wmk_{}"),
            (auth.EXCHANGE_KEY, "API key", "{}"),
            (auth.REFRESH, "refresh token", "wmr_{}"),
        ):
            name = {"password": "password", "API key": "api_key", "refresh token": "refresh_token"}[kind]
            for by in ("NATS", "HTTP"):
                core = self.pouch.core(kind, f"a wrong {kind} for {contract.key} by {by}")
                body: dict[str, Any] = {name: form.format(core)}
                if contract is auth.LOG_IN:
                    body |= {"organization": organization, "email": self.them.tenant.email}
                sent = json.dumps(body).encode()
                if by == "NATS":
                    assert not await door.ask(contract, sent)
                else:
                    assert (await self.doors.gateway.ask(contract, organization, sent, None)).status_code == 401
                self._count("a wrong credential", by)

    async def headers(self, recorded: dict[str, Recorded]) -> None:
        """Put a secret where each header's value belongs, and a name of its own."""
        item = recorded["auth.who_am_i"]
        door = self.doors.nats[item.scope]
        token = self._token(item.scope)
        hook = f"/hooks/{self.them.tenant.workspace}/stripe"
        for name in HEADERS:
            core = self.pouch.core(_MALFORMED, f"the header {name} by HTTP")
            for value in (core, f"Bearer {core}", f"Basic {core}", among_hard_characters(core)):
                await self.doors.gateway.ask(item.contract, item.scope, b"{}", token, {name: _printable(value)})
                await self.doors.ingest.send("POST", hook, {name: _printable(value)}, b"{}")
            core = self.pouch.core(_MALFORMED, f"the header {name} by NATS")
            for value in (core, f"Bearer {core}", f"Basic {core}"):
                await door.ask(item.contract, b"{}", door.headers(**{name: value}))
            self._count("headers", "HTTP", 4)
            self._count("headers", "NATS", 3)
        for name in (self.pouch.core(_MALFORMED, "a header's name"), "x" * 300):
            await self.doors.gateway.ask(item.contract, item.scope, b"{}", token, {name: "1"})
            await door.ask(item.contract, b"{}", door.headers(**{name: "1"}))
        await self._tokens(recorded)

    async def _tokens(self, recorded: dict[str, Recorded]) -> None:
        """Send access tokens that are none: with a secret as a claim, as a key's id, as the signature."""
        item = recorded["auth.who_am_i"]
        door = self.doors.nats[item.scope]
        real = self._token(item.scope).split(".")
        for what in ("kid", "iss", "sub", "jti", "signature", "algorithm"):
            core = self.pouch.core(_MALFORMED, f"a token's {what}")
            header = {"alg": "Ed25519", "typ": "JWT", "kid": "k"} | (
                {"kid": core} if what == "kid" else {"alg": core} if what == "algorithm" else {}
            )
            claims = json.loads(base64.urlsafe_b64decode(real[1] + "==")) | ({what: core} if len(what) == 3 else {})
            parts = [_encoded(header), _encoded(claims), core if what == "signature" else real[2]]
            for token in (".".join(parts), ".".join(parts[:2])):
                assert not await door.ask(item.contract, b"{}", {AUTHORIZATION: f"Bearer {token}"})
                assert (await self.doors.gateway.ask(item.contract, item.scope, b"{}", token)).status_code == 401
            self._count("tokens", "NATS", 2)
            self._count("tokens", "HTTP", 2)

    async def paths(self) -> None:
        """Put a secret into each part of a path and into the query, at both HTTP doors."""
        workspace = self.them.tenant.workspace
        headers = {AUTHORIZATION: f"Bearer {self._token(workspace)}", "Content-Type": "application/json"}
        core = self.pouch.core(_MALFORMED, "HTTP path and query")
        word = self.pouch.core(_MALFORMED, "HTTP path, as a word", word=True)
        field = self.pouch.core(_MALFORMED, "HTTP query (a field's name)", may_rest_in=_ASIDE)

        async def send(method: str, path: str) -> None:
            body = b"" if method == "GET" else b"[]"
            await self.doors.gateway.send(method, path, headers, body)
            await self.doors.ingest.send(method, path, headers, body)
            self._count("paths and queries", "HTTP", 2)

        sends: list[Work] = []
        for secret in (core, word):
            for path in (
                f"/{secret}", f"/v1/{secret}/auth/who_am_i", f"/v1/{workspace}/{secret}/who_am_i",
                f"/v1/{workspace}/auth/{secret}", f"/v1/{workspace}/auth/who_am_i/{secret}",
                f"/v1/{workspace}/auth/who_am_i?token={secret}", f"/v1/{workspace}/auth/who_am_i?{secret}",
                f"/v1/{workspace}/audit/tail?start={secret}", f"/v1/{workspace}/audit/tail?category={secret}",
                f"/v1/{workspace}/audit/tail?token={secret}", f"/v1/{workspace}/audit/tail?{field}=1",
                f"/v1/{workspace}/webhooks/events?pattern={secret}.UPPER&group=g",
                f"/v1/{workspace}/webhooks/events?pattern=a&group=g&api_key={secret}",
                f"/hooks/{secret}/stripe", f"/hooks/{workspace}/{secret}", f"/hooks/{workspace}/stripe?key={secret}",
                f"/hooks/{workspace}/stripe/{secret}", f"/.well-known/{secret}", f"/..%2f{secret}",
            ):  # fmt: skip
                sends += [partial(send, method, path) for method in ("POST", "GET", "PUT", secret)]
        await _all(sends)

    async def broken_http(self) -> None:
        """Write what is not HTTP, or not all of it."""
        core = self.pouch.core(_MALFORMED, "broken HTTP").encode()
        path = f"/v1/{self.them.tenant.organization}/auth/log_in".encode()
        start = b"POST " + path + b" HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        for sent in (
            core + b"\r\n\r\n",
            core + b" / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /" + core + b" HTTP/" + core + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + core + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: " + core + b"\r\nHost: " + core + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nAuthorization: Bearer \x00" + core + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: " + core * 3_000 + b"\r\n\r\n",
            b"GET /" + core * 3_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
            start + b"Content-Length: " + core + b'\r\n\r\n{"password": "' + core,
            start + b'Content-Length: 4000\r\n\r\n{"password": "' + core,
            start + b"Transfer-Encoding: chunked\r\n\r\n" + core + b"\r\n",
            start + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"password": "' + core + b'"}\r\n',
        ):
            await asyncio.gather(self.doors.gateway.send_bytes(sent), self.doors.ingest.send_bytes(sent))
            self._count("broken HTTP", "HTTP", 2)

    async def webhooks(self) -> None:
        """Send events that nobody signed: nothing of them is kept, neither body nor header."""
        path = f"/hooks/{self.them.tenant.workspace}"
        core = self.pouch.core(_MALFORMED, "an unsigned webhook")
        body = json.dumps({"id": core, "type": "invoice.paid", "secret": among_hard_characters(core)}).encode()
        for source in ("stripe", "github", "standard", "nobody"):
            for headers in (
                {"stripe-signature": f"t=1,v1={core}", "x-hub-signature-256": f"sha256={core}"},
                {"stripe-signature": core, "x-hub-signature-256": core, "webhook-signature": f"v1,{core}"},
                {"content-type": f"text/{core}"},
                {"content-encoding": core},
                {},
            ):
                sent = {"content-type": "application/json", **headers}
                answer = await self.doors.ingest.send("POST", f"{path}/{source}", sent, body)
                assert answer.status_code >= 400
                self._count("unsigned webhooks", "HTTP")

    async def witness(self) -> None:
        """Ask the witness, in its own form, with a secret in each place: nobody signed it, so nothing is kept."""
        core = self.pouch.core(_MALFORMED, "a request to the witness")
        line = f"\u2014 {core} {base64.b64encode(core.encode()[:40].ljust(40)).decode()}\n"
        root = base64.b64encode(core.encode()[:32].ljust(32)).decode()
        for body in (
            f"old {core}\n\n{core}\n1\n{root}\n\n{line}",
            f"old 0\n{root}\n\n{core}\n1\n{root}\n\n{line}",
            f"old 0\n\n{core}\n{core}\n{root}\n\n{line}",
            f"old 0\n\n{core}\n1\n{root}\n{core}\n\n{line}",
            core,
        ):
            answer = await self.doors.gateway.send("POST", "/v1/witness/add-checkpoint", {}, body.encode())
            assert 400 <= answer.status_code < 500
            self._count("requests to the witness", "HTTP")

    async def subjects(self) -> None:
        """Publish and subscribe where a client may not, and where nobody answers."""
        workspace = self.them.tenant.workspace
        door = self.doors.nats[workspace]
        me = f"{workspace}.{door.principal}"
        inner = self.pouch.core(_MALFORMED, "a word of a subject that a service gets to see", word=True)
        reply = f"_INBOX.{door.principal}.x"
        await door.publish(f"rpc.auth.{inner}.{me}", reply=f"{reply}.{inner}")
        await door.publish(f"rpc.auth.{inner.upper()}.{me}", reply=reply)
        await door.publish(f"rpc.{inner}.get.{me}", reply=reply)
        await door.publish(f"rpc.auth.who_am_i.{me}", b"{}", f"_INBOX.{inner}.x")
        await door.publish(f"rpc.auth.who_am_i.{me}", inner.encode(), "")
        self._count("subjects", "NATS", 5)
        # What the broker itself refuses it names in its log, by subject: that is what its operator needs to see.
        outer = self.pouch.core(
            _MALFORMED, "a subject that the broker refuses", word=True, may_rest_in=_NAMED_BY_BROKER
        )
        for subject in (f"rpc.auth.who_am_i.{outer}.{door.principal}", f"evt.{workspace}.{outer}", f"$JS.API.{outer}"):
            await door.publish(subject)
            self._count("subjects", "NATS")
        await door.client.subscribe(f"evt.{outer}.>")
        await door.client.flush()
        refused = self.pouch.control("a subject that the broker refuses", BROKER_LOG)
        await door.publish(f"evt.{refused}")

    async def connects(self) -> None:
        """Connect with a secret as every part of a credential."""
        mesh, workspace = self.them.tenant.mesh, self.them.tenant.workspace
        token = self._token(workspace)

        async def connect(**options: Any) -> None:
            await connect_to_broker(mesh, self.doors.answers, **options)
            self._count("CONNECT", "NATS")

        core = self.pouch.core(_MALFORMED, "the password of a CONNECT")
        for form in ("{}", "wmk_{}", "wmr_{}", "eyJhbGciOiJFZDI1NTE5In0.{}.{}", "{}" * 300):
            await connect(user=workspace, **{"pass": form.format(*[core] * form.count("{}"))})
        await connect(user=OrgId.new(), **{"pass": among_hard_characters(core)})
        await connect(user=workspace, **{"pass": f"{token}{core}"})
        core = self.pouch.core(_MALFORMED, "the token, JWT or signature of a CONNECT")
        for name in ("auth_token", "jwt", "sig"):
            await connect(user=workspace, **{name: core, "pass": core})
            await connect(**{name: core})
        core = self.pouch.core(_MALFORMED, "the user or nkey of a CONNECT", may_rest_in=_NAMED_BY_BROKER)
        await connect(nkey=core, sig="x")
        await connect(user=core, **{"pass": token})
        await connect(user=f"wmk_{core}", **{"pass": workspace})
        await connect(user=among_hard_characters(core))

    async def client_library(self) -> None:
        """What the library says, in exceptions and their causes, to a program that handed it something wrong."""
        mesh = self.them.tenant.mesh
        home = self.them.home
        core = self.pouch.core(_MALFORMED, "the client library")
        text = among_hard_characters(core)
        token, soon = self._token(home.scope), timedelta(seconds=2)
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: _enter(wardmesh.connect(mesh.nats_url, text, timeout=soon)),
            lambda: _enter(wardmesh.connect(mesh.nats_url, f"wmk_{core}", timeout=soon)),
            lambda: _enter(wardmesh.connect(mesh.nats_url, token=f"a.{core}.b", timeout=soon)),
            lambda: _enter(wardmesh.connect(f"nats://{core}:{core}@127.0.0.1:1", token=token, timeout=soon)),
            lambda: home.auth.create_user(email=core, password=text),
            lambda: home.auth.create_user(email="b@example.com", password=[text]),  # type: ignore[arg-type]
            lambda: home.auth.exchange_key(api_key=text),
            lambda: home.auth.refresh(refresh_token=text * 300),
            lambda: home.secrets.put(f"{text}", text),
            lambda: home.secrets.put("app/long", text * 3_000),
            lambda: home.secrets.get(f"*{core}"),
            lambda: home.webhooks.create_source(name="x", scheme=text, signing_secret=text),  # type: ignore[arg-type]
            lambda: home.webhooks.create_source(name="standard2", scheme="standard", signing_secret=text),  # type: ignore[arg-type]
            lambda: home.events.publish(text, {}),
            lambda: home.bridge.send(WorkspaceId.new(), text, {"note": core}),
        ]  # fmt: skip
        with self.doors.client_log.open("a") as log:
            for attempt in attempts:
                try:
                    await attempt()
                except (WardmeshError, ValueError) as error:
                    log.write("".join(traceback.format_exception(error)))
                    self._count("the client library", "NATS")
                else:
                    raise AssertionError("the library took something malformed")

    def _by_nats(self, item: Recorded) -> Callable[[bytes], Awaitable[bool]]:
        return lambda body: self.doors.nats[item.scope].ask(item.contract, body)

    def _by_http(self, item: Recorded) -> Callable[[bytes], Awaitable[bool]]:
        token = None if isinstance(item.contract.access, Credential) else self._token(item.scope)

        async def ask(body: bytes) -> bool:
            return (await self.doors.gateway.ask(item.contract, item.scope, body, token)).status_code == 200

        return ask

    async def _refused(self, ask: Callable[[bytes], Awaitable[bool]], body: bytes) -> None:
        assert not await ask(body), "something malformed was granted"

    def _token(self, scope: Scope) -> str:
        return self.them.sessions[scope].token

    def _count(self, what: str, door: str, number: int = 1) -> None:
        self.counts[what, door] = self.counts.get((what, door), 0) + number


async def _all(work: Sequence[Work]) -> None:
    """Do everything, so many at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(do: Work) -> None:
        async with places:
            await do()

    async with asyncio.TaskGroup() as group:
        for do in work:
            group.create_task(one(do))


async def _enter(connecting: Any) -> None:
    async with connecting:
        pass


def _encoded(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def _printable(text: str) -> str:
    return " ".join(text.encode("ascii", "ignore").decode().split())
