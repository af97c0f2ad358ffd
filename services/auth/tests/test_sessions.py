"""Credentials for tokens, and every way to present a wrong one."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey

from wardmesh.contracts import auth as contracts
from wardmesh.contracts.audit import Authentication, Outcome, typed
from wardmesh.contracts.operation import Level
from wardmesh.crypto.encoding import base64url_decode, base64url_encode
from wardmesh.errors import CredentialRefused, Overloaded, RateLimited, TokenExpired, TokenInvalid, TokenRevoked
from wardmesh.ids import OrgId, ServiceId, UserId, WorkspaceId
from wardmesh.server.tokens import ALGORITHM, MAX_TOKEN_LIFETIME
from wardmesh_auth import passwords as passwords_module
from wardmesh_auth.domain import MAX_SIBLINGS, REFRESH_GRACE, REFRESH_TOKEN_LIFETIME
from wardmesh_auth.errors import KeyRefused, NotAMember, RefreshRefused, RefreshReused, SignUpClosed, WrongPassword
from wardmesh_auth.passwords import Argon2Passwords, Cost


def refresh_request(token: str, **changes: object) -> contracts.Refresh:
    return contracts.Refresh.model_validate({"refresh_token": token} | changes)


async def refresh(auth, token: str, **changes: object) -> contracts.Session:
    return await auth.sessions.refresh(auth.call(contracts.REFRESH), refresh_request(token, **changes))


# --- signing up and in


async def test_who_signs_up_owns_the_organization_and_so_its_workspaces(auth) -> None:
    made = await auth.sign_up()
    for scope in (made.organization, made.workspace):
        caller = auth.authenticate((await auth.log_in(made.organization, scope)).token)
        assert (caller.principal, caller.scope, caller.level) == (made.user, scope, Level.OWNER)
    scope, event = auth.store.audited[0]
    assert (scope, event.action, event.actor) == (made.organization, "organization.create", made.user)


async def test_a_closed_mesh_takes_no_organization(auth) -> None:
    closed = type(auth)(sign_up_open=False)
    with pytest.raises(SignUpClosed):
        await closed.sign_up()
    assert not closed.passwords.computed


async def test_an_unknown_user_costs_and_says_the_same_as_a_wrong_password(auth) -> None:
    made = await auth.sign_up()
    answers = []
    for organization, email in [
        (made.organization, "ada@example.com"),
        (made.organization, "nobody@example.com"),
        (OrgId.new(), "ada@example.com"),
    ]:
        before = auth.passwords.computed
        request = contracts.LogIn(organization=organization, email=email, password="not the password")
        with pytest.raises(WrongPassword) as refused:
            await auth.sessions.log_in(auth.call(contracts.LOG_IN), request)
        answers.append((str(refused.value), auth.passwords.computed - before))
    assert len(set(answers)) == 1
    assert answers[0][1] == 1


async def test_attempts_are_recorded_as_nobodys_and_only_where_there_is_an_organization(auth) -> None:
    made = await auth.sign_up()
    for organization, expected in [(made.organization, made.organization), (OrgId.new(), OrgId.nil())]:
        call = auth.call(contracts.LOG_IN)
        request = contracts.LogIn(organization=organization, email="ada@example.com", password="wrong")
        with pytest.raises(WrongPassword):
            await auth.sessions.log_in(call, request)
        assert (call.audit_scope, call.audit_actor) == (expected, UserId.nil())


async def test_the_log_knows_more_of_a_failed_login_than_who_failed_is_told(auth) -> None:
    made = await auth.sign_up()
    for email, failure in [("ada@example.com", "wrong_password"), ("nobody@example.com", "unknown_address")]:
        call = auth.call(contracts.LOG_IN)
        request = contracts.LogIn(organization=made.organization, email=email, password="wrong")
        with pytest.raises(WrongPassword):
            await auth.sessions.log_in(call, request)
        entry = typed(call.audit_event(Outcome.REFUSED, "credential_refused"))
        assert isinstance(entry, Authentication)
        assert (entry.method, entry.failure) == ("password", failure)


async def test_passwords_are_tried_so_often_and_then_no_more(auth) -> None:
    made = await auth.sign_up()
    request = contracts.LogIn(organization=made.organization, email="ada@example.com", password="wrong")
    for _ in range(5):
        with pytest.raises(WrongPassword):
            await auth.sessions.log_in(auth.call(contracts.LOG_IN), request)
    with pytest.raises(RateLimited):
        await auth.log_in(made.organization)
    auth.clock.tick(seconds=1)
    await auth.log_in(made.organization)


async def test_a_user_gets_no_token_for_a_scope_of_others(auth) -> None:
    made = await auth.sign_up()
    other = await auth.sign_up()
    for scope in (other.organization, other.workspace, WorkspaceId.new()):
        with pytest.raises(NotAMember):
            await auth.log_in(made.organization, scope)


async def test_a_failed_commit_gives_no_token(auth) -> None:
    made = await auth.sign_up()
    auth.store.failure = Overloaded()
    with pytest.raises(Overloaded):
        await auth.log_in(made.organization)
    assert not auth.store.organizations[made.organization].sessions


# --- tokens


async def test_a_token_says_who_where_and_with_which_key(auth) -> None:
    made = await auth.sign_up()
    request = contracts.LogIn(
        organization=made.organization, email="ada@example.com", password="correct horse battery staple",
        scope=made.workspace, holder_key=bytes(range(32)),
    )  # fmt: skip
    session = await auth.sessions.log_in(auth.call(contracts.LOG_IN), request)
    caller = auth.authenticate(session.token)
    assert caller.holder_key == bytes(range(32))
    assert (caller.organization, caller.workspace, caller.credential_id) == (
        made.organization,
        made.workspace,
        session.session,
    )
    assert caller.expires_at - caller.issued_at == MAX_TOKEN_LIFETIME.total_seconds()
    auth.clock.tick(minutes=10)
    with pytest.raises(TokenExpired):
        auth.authenticate(session.token)


async def test_tokens_of_other_makers_are_refused(auth) -> None:
    token = (await auth.log_in((await auth.sign_up()).organization)).token
    head, payload, signature = token.split(".")
    other = OKPKey.generate_key("Ed25519")
    claims = json.loads(base64url_decode(payload))

    def signed(key: OKPKey, header: dict[str, str], body: dict[str, object]) -> str:
        return jws.serialize_compact(header, json.dumps(body).encode(), key, algorithms=[ALGORITHM])

    none = base64url_encode(json.dumps({"alg": "none", "kid": auth.issuer.kid}).encode())
    hmac = base64url_encode(json.dumps({"alg": "HS256", "kid": auth.issuer.kid}).encode())
    eddsa = base64url_encode(json.dumps({"alg": "EdDSA", "kid": auth.issuer.kid}).encode())
    more = base64url_encode(json.dumps(claims | {"level": "owner", "org": OrgId.new()}).encode())
    for forged in (
        f"{none}.{payload}.",
        f"{hmac}.{payload}.{signature}",
        f"{eddsa}.{payload}.{signature}",
        f"{head}.{more}.{signature}",
        signed(other, {"alg": ALGORITHM, "kid": auth.issuer.kid}, claims),
        signed(other, {"alg": ALGORITHM, "kid": other.thumbprint()}, claims),
        signed(auth.issuer._key, {"alg": ALGORITHM, "kid": auth.issuer.kid}, claims | {"iss": "https://evil.example"}),
    ):
        with pytest.raises(TokenInvalid):
            auth.authenticate(forged)


# --- refreshing


async def test_a_refresh_token_counts_once_and_a_spent_one_ends_the_session(auth) -> None:
    made = await auth.sign_up()
    first = await auth.log_in(made.organization)
    second = await refresh(auth, first.refresh_token)
    auth.connections.live[made.user] = 2
    auth.clock.tick(seconds=REFRESH_GRACE.total_seconds() + 1)
    with pytest.raises(RefreshReused):
        await refresh(auth, first.refresh_token)
    with pytest.raises(RefreshRefused):
        await refresh(auth, second.refresh_token)
    with pytest.raises(TokenRevoked):
        auth.authenticate(second.token)
    assert first.session in auth.board.posted
    assert not auth.connections.live


async def test_a_lost_answer_is_repeated_for_a_moment(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    await refresh(auth, first.refresh_token)
    auth.clock.tick(seconds=5)
    again = await refresh(auth, first.refresh_token)
    auth.clock.tick(minutes=9)
    await refresh(auth, again.refresh_token)


async def test_a_retry_that_does_not_end_is_no_retry(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    for _ in range(MAX_SIBLINGS):
        await refresh(auth, first.refresh_token)
    with pytest.raises(RefreshReused):
        await refresh(auth, first.refresh_token)


async def test_many_at_once_with_one_token_get_one_generation(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    pairs = await asyncio.gather(*(refresh(auth, first.refresh_token) for _ in range(4)))
    auth.clock.tick(minutes=1)
    await refresh(auth, pairs[3].refresh_token)


async def test_the_end_of_a_session_is_true_before_it_is_known(auth) -> None:
    made = await auth.sign_up()
    first = await auth.log_in(made.organization)
    await refresh(auth, first.refresh_token)
    auth.clock.tick(minutes=1)
    auth.board.is_down = True
    with pytest.raises(RefreshReused):
        await refresh(auth, first.refresh_token)
    rows = auth.store.organizations[made.organization]
    assert rows.sessions[first.session].revoked_at == auth.clock.now
    assert rows.revocations[first.session] == auth.clock.now


@pytest.mark.parametrize("text", ["wmr_", "wmr_AAAA", "wmk_AAAA", "hunter2", "wmr_" + "A" * 92])
async def test_what_is_no_refresh_token_is_refused(auth, text: str) -> None:
    with pytest.raises(RefreshRefused):
        await refresh(auth, text)


async def test_nobody_can_end_a_session_with_a_made_up_token(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    parsed = type_of_refresh(first.refresh_token)
    forged = type(parsed)(organization=parsed.organization, session=parsed.session, secret=bytes(32)).encode()
    with pytest.raises(RefreshRefused):
        await refresh(auth, forged)
    await refresh(auth, first.refresh_token)


async def test_a_refresh_token_of_another_tenant_finds_nothing(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    other = await auth.sign_up()
    parsed = type_of_refresh(first.refresh_token)
    moved = type(parsed)(organization=other.organization, session=parsed.session, secret=parsed.secret).encode()
    with pytest.raises(RefreshRefused):
        await refresh(auth, moved)


async def test_a_refresh_for_a_foreign_scope_spends_nothing(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    foreign = (await auth.sign_up()).workspace
    with pytest.raises(NotAMember):
        await refresh(auth, first.refresh_token, scope=foreign)
    auth.clock.tick(minutes=1)
    await refresh(auth, first.refresh_token)


async def test_a_session_that_nobody_used_has_ended(auth) -> None:
    first = await auth.log_in((await auth.sign_up()).organization)
    auth.clock.tick(seconds=REFRESH_TOKEN_LIFETIME.total_seconds())
    with pytest.raises(RefreshRefused):
        await refresh(auth, first.refresh_token)


def type_of_refresh(text: str):
    from wardmesh_auth.refresh_tokens import RefreshToken

    return RefreshToken.parse(text)


# --- API keys


async def test_a_key_is_exchanged_for_a_token_of_its_scope(auth) -> None:
    owner = await auth.owner()
    account, key = await auth.service(owner, "member")
    caller = await auth.exchange(key)
    assert (caller.principal, caller.scope, caller.level) == (account.id, owner.scope, Level.MEMBER)


async def test_a_key_that_says_something_else_about_itself_is_refused(auth, forge) -> None:
    owner = await auth.owner()
    _account, key = await auth.service(owner, "member")
    made = await auth.sign_up()
    for changes in (
        {"organization": made.organization, "scope": made.organization},
        {"scope": WorkspaceId.new()},
        {"principal": ServiceId.new()},
        {"principal": owner.principal},
        {"secret": bytes(32)},
    ):
        with pytest.raises(KeyRefused):
            await auth.exchange(forge(key, **changes))


async def test_a_key_reaches_no_workspace_of_another_organization(auth) -> None:
    owner = await auth.owner()
    _account, key = await auth.service(owner, "owner")
    foreign = await auth.sign_up()
    for scope in (foreign.workspace, foreign.organization, WorkspaceId.new()):
        with pytest.raises(NotAMember):
            await auth.exchange(key, scope)


async def test_an_owners_key_for_the_organization_reaches_its_workspaces(auth) -> None:
    made = await auth.sign_up()
    owner = auth.authenticate((await auth.log_in(made.organization)).token)
    _account, key = await auth.service(owner, "owner")
    assert (await auth.exchange(key, made.workspace)).workspace == made.workspace


async def test_an_expired_key_is_refused_under_its_own_name(auth) -> None:
    owner = await auth.owner()
    account, key = await auth.service(owner, "member")
    auth.clock.tick(days=90)
    call = auth.call(contracts.EXCHANGE_KEY)
    with pytest.raises(KeyRefused):
        await auth.sessions.exchange_key(call, contracts.ExchangeKey(api_key=key))
    assert (call.audit_scope, call.audit_actor) == (owner.scope, account.id)


async def test_a_token_does_not_outlive_its_key(auth) -> None:
    owner = await auth.owner()
    _account, key = await auth.service(owner, "member")
    auth.clock.tick(days=90, seconds=-60)
    answer = await auth.sessions.exchange_key(auth.call(contracts.EXCHANGE_KEY), contracts.ExchangeKey(api_key=key))
    assert answer.expires_at - auth.clock.now == timedelta(seconds=60)


# --- the real hash


async def test_argon2id_checks_what_it_hashed_and_computes_for_nobody_too() -> None:
    passwords = Argon2Passwords(threads=2, cost=Cost(time=1, memory_kib=64))
    try:
        stored = await passwords.hash("open sesame")
        assert stored.startswith("$argon2id$")
        assert await passwords.check(stored, "open sesame")
        assert not await passwords.check(stored, "open sesam")
        assert not await passwords.check(None, "nobody")
        assert not await passwords.check("not a hash", "x")
    finally:
        passwords.close()


async def test_hashing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords_module, "MAX_WAITING", 2)
    passwords = Argon2Passwords(threads=1, cost=Cost(time=1, memory_kib=64))
    try:
        results = await asyncio.gather(*(passwords.hash("x") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results].count(Overloaded) == 1
        await passwords.hash("x")
    finally:
        passwords.close()


def test_every_refusal_of_a_credential_is_one_to_the_caller() -> None:
    assert all(issubclass(kind, CredentialRefused) for kind in (WrongPassword, KeyRefused, RefreshRefused))
    assert {kind.code for kind in (WrongPassword, KeyRefused, RefreshRefused)} == {"credential_refused"}
