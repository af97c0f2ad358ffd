"""Who may connect to the broker, and what the log says of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_identities import FakeAudit

from wardmesh.client.link import PROMPT_REFUSAL_SECONDS
from wardmesh.contracts import auth as contracts
from wardmesh.errors import InternalError, ServiceUnavailable
from wardmesh.ids import KeyId, OrgId, SessionId, UserId, WorkspaceId
from wardmesh_auth.admission import ANSWERS_ARRIVE, Admission
from wardmesh_auth.callout import ConnectRequest, Grant, Refusal
from wardmesh_auth.domain import ACCESS_TOKEN_LIFETIME, Rights
from wardmesh_auth.tokens import Subject, TokenIssuer


def request(user: str, password: str) -> ConnectRequest:
    return ConnectRequest(
        server_id="N",
        user_nkey="U",
        user=user,
        password=password,
        client_host="192.0.2.1",
        client_name="<script>",
        connection_id=7,
    )


@pytest.fixture
async def owner(auth):
    made = await auth.sign_up()
    return auth.authenticate((await auth.log_in(made.organization, made.workspace)).token)


def last(audit: FakeAudit) -> tuple[str, str, str, str | None]:
    scope, event = audit.events[-1]
    return scope, event.actor, event.outcome.value, event.reason


async def test_a_key_admits_its_principal_to_its_scope_for_ten_minutes(auth, owner) -> None:
    account, key = await auth.service(owner, "member")
    decision = await auth.admission.decide(request(owner.scope, key))
    assert isinstance(decision, Grant)
    assert (decision.scope, decision.principal) == (owner.scope, account.id)
    assert isinstance(decision.credential, KeyId)
    assert decision.expires_at == auth.clock.now + ACCESS_TOKEN_LIFETIME + ANSWERS_ARRIVE
    assert last(auth.audit) == (owner.scope, account.id, "success", None)
    assert key not in auth.audit.events[-1][1].model_dump_json()


async def test_a_connection_outlives_its_credential_by_as_long_as_answers_may_take(auth, owner) -> None:
    _account, key = await auth.service(owner, "member")
    session = await auth.log_in(owner.organization, owner.scope)
    auth.clock.tick(minutes=9)
    decision = await auth.admission.decide(request(owner.scope, session.token))
    assert isinstance(decision, Grant)
    assert isinstance(decision.credential, SessionId)
    assert decision.expires_at == session.expires_at + ANSWERS_ARRIVE
    auth.clock.tick(days=90, minutes=-10)
    decision = await auth.admission.decide(request(owner.scope, key))
    assert isinstance(decision, Grant)
    assert decision.expires_at is not None
    assert decision.expires_at - auth.clock.now < ACCESS_TOKEN_LIFETIME + ANSWERS_ARRIVE


async def test_connections_and_tokens_last_as_long_as_the_settings_say(auth, owner) -> None:
    _account, key = await auth.service(owner, "member")
    lifetime = timedelta(seconds=30)
    admission = Admission(auth.sessions, auth, auth.audit, auth.clock, lifetime=lifetime)
    decision = await admission.decide(request(owner.scope, key))
    assert isinstance(decision, Grant)
    assert decision.expires_at == auth.clock.now + lifetime + ANSWERS_ARRIVE
    issuer = TokenIssuer(Ed25519PrivateKey.generate(), issuer="wardmesh", lifetime=lifetime)
    subject = Subject(
        owner.principal,
        owner.organization,
        owner.scope,
        Rights(owner.level),
        decision.credential,
        auth.clock.now + timedelta(days=1),
    )
    assert issuer.issue(subject, auth.clock.now).expires_at - auth.clock.now <= lifetime


@pytest.mark.parametrize("user", ["", "*", ">", "ws_*", "ws_x.>", "usr_01h455vb4pex5vsknk084sn02q", "APP"])
async def test_a_scope_that_is_none_is_refused_before_the_credential_is_looked_at(auth, owner, user: str) -> None:
    _account, key = await auth.service(owner, "member")
    assert isinstance(await auth.admission.decide(request(user, key)), Refusal)
    assert last(auth.audit)[:3] == (OrgId.nil(), UserId.nil(), "refused")


async def test_wrong_credentials_are_nobodys(auth, owner, forge) -> None:
    _account, key = await auth.service(owner, "member")
    for password in ("", "x" * 10_000, "hunter2", "wmk_", "a.b.c", forge(key, secret=bytes(32)), key[:-1]):
        assert isinstance(await auth.admission.decide(request(owner.scope, password)), Refusal)
        assert last(auth.audit)[:3] == (OrgId.nil(), UserId.nil(), "refused")


async def test_a_good_credential_for_another_scope_is_refused_in_its_own_log(auth, owner) -> None:
    account, key = await auth.service(owner, "member")
    token = (await auth.log_in(owner.organization, owner.scope)).token
    for foreign in (WorkspaceId.new(), owner.organization, (await auth.sign_up()).workspace):
        assert isinstance(await auth.admission.decide(request(foreign, key)), Refusal)
        assert last(auth.audit)[:3] == (owner.scope, account.id, "refused")
        assert isinstance(await auth.admission.decide(request(foreign, token)), Refusal)
        assert last(auth.audit)[:3] == (owner.scope, owner.principal, "refused")


async def test_what_was_revoked_or_expired_does_not_come_back(auth, owner) -> None:
    _account, key = await auth.service(owner, "member")
    _account, other = await auth.service(owner, "member")
    key_id = (await auth.exchange(key)).credential_id
    call = auth.call(contracts.REVOKE_KEY, owner)
    await auth.revocations.revoke_key(call, contracts.RevokeKey(key=key_id))
    assert isinstance(await auth.admission.decide(request(owner.scope, key)), Refusal)
    auth.clock.tick(days=91)
    assert isinstance(await auth.admission.decide(request(owner.scope, other)), Refusal)


async def test_a_store_that_fails_refuses_but_not_as_soon_as_a_wrong_key_is(auth, owner) -> None:
    _account, key = await auth.service(owner, "member")
    waited = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        auth.store.failure = InternalError()  # it fails one question at a time

    admission = Admission(auth.sessions, auth, auth.audit, auth.clock, monotonic=lambda: waited, sleep=sleep)
    auth.store.failure = InternalError()
    assert await admission.decide(request(owner.scope, key)) == Refusal("internal_error")
    assert waited > PROMPT_REFUSAL_SECONDS, "or clients would believe that their credential is wrong"
    waited = 0.0
    auth.store.failure = None
    assert isinstance(await admission.decide(request(owner.scope, "wmk_wrong")), Refusal)
    assert waited == 0.0


async def test_a_store_that_is_back_at_once_decides(auth, owner) -> None:
    _account, key = await auth.service(owner, "member")

    async def repair(_seconds: float) -> None:
        auth.store.failure = None

    admission = Admission(auth.sessions, auth, auth.audit, auth.clock, sleep=repair)
    auth.store.failure = ServiceUnavailable()
    assert isinstance(await admission.decide(request(owner.scope, key)), Grant)
