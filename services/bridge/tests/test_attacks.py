"""Attacks on the bridge's tables, in a real PostgreSQL, by the service's own role and by a superuser who moves rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from wardmesh.contracts import bridge as contracts
from wardmesh.contracts.bridge import Agreement, NameAgreement, Propose, Send
from wardmesh.ids import AgreementId, MessageId
from wardmesh.server.database import Database, DatabaseRefused, TenantContext
from wardmesh.server.kek import LocalKey
from wardmesh.server.rls import violations
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.domain import StoredKey
from wardmesh_bridge.errors import StoredKeyUnopenable
from wardmesh_bridge.service import BridgeService
from wardmesh_bridge.store import PostgresStore

KEYS = AgreementKeys(LocalKey(bytes(range(32))))
ALL = frozenset({"bridge.manage", "bridge.send", "bridge.use"})
INSERT_NONCE = """
    insert into bridge.nonces (agreement_id, key_id, nonce, message_id, signature, sender, receiver, expires_at,
                               admitted_at)
    values ($1, $2, decode('00112233445566778899aabbccddeeff', 'hex'), $3, sha256(''), $4, $5, now(), now())"""


@pytest.fixture
def service(postgres_store: PostgresStore, now: datetime) -> BridgeService:
    return BridgeService(postgres_store, KEYS, None, lambda: now)  # type: ignore[arg-type]  # nothing is fetched here


def context(who: Any, permissions: frozenset[str] = ALL) -> TenantContext:
    return TenantContext(who.caller.organization, who.workspace, who.caller.principal, permissions)


async def agree(service: BridgeService, source: Any, target: Any) -> Agreement:
    proposed = await service.propose(source.ask(contracts.PROPOSE), Propose(target=target.workspace))
    return await service.accept(target.ask(contracts.ACCEPT), NameAgreement(agreement=proposed.id))


async def key_id_of(superuser: Any, agreement: Agreement) -> str:
    found: str = await superuser.fetchval(
        "select key_id from bridge.agreement_keys where agreement_id = $1", agreement.id
    )
    return found


async def execute(database: Database, who: Any, statement: str, *values: object) -> str:
    async with database.transaction(context(who)) as connection:
        return await connection.execute(statement, *values)


async def test_row_level_security_has_no_gaps(superuser: Any) -> None:
    assert await violations(superuser) == []


async def test_nobody_proposes_for_another(database: Database, alice: Any, bob: Any, mallory: Any) -> None:
    propose = "insert into bridge.agreements (id, target, created_at) values ($1, $2, now())"
    await execute(database, alice, propose, AgreementId.new(), bob.workspace)
    forged = "insert into bridge.agreements (id, source, target, created_at) values ($1, $2, $3, now())"
    with pytest.raises(DatabaseRefused):
        await execute(database, mallory, forged, AgreementId.new(), alice.workspace, bob.workspace)
    with pytest.raises(DatabaseRefused):  # nor without the permission
        async with database.transaction(context(alice, frozenset({"bridge.send"}))) as connection:
            await connection.execute(propose, AgreementId.new(), mallory.workspace)


async def test_nobody_accepts_their_own_offer(
    service: BridgeService, database: Database, alice: Any, bob: Any, mallory: Any
) -> None:
    offer = await service.propose(alice.ask(contracts.PROPOSE), Propose(target=bob.workspace))
    accept = """update bridge.agreements set state = 'accepted', accepted_at = now(), accepted_by = app.principal_id(),
                       target_org = app.org_id() where id = $1"""
    with pytest.raises(DatabaseRefused):
        await execute(database, alice, accept, offer.id)
    assert await execute(database, mallory, accept, offer.id) == "UPDATE 0"
    assert await execute(database, bob, accept, offer.id) == "UPDATE 1"


async def test_what_is_revoked_is_not_revived(service: BridgeService, database: Database, alice: Any, bob: Any) -> None:
    agreement = await agree(service, alice, bob)
    await service.revoke(alice.ask(contracts.REVOKE), NameAgreement(agreement=agreement.id))
    for who in (alice, bob):
        revive = "update bridge.agreements set state = 'accepted' where id = $1"
        assert await execute(database, who, revive, agreement.id) == "UPDATE 0"


@pytest.mark.parametrize(
    "statement",
    [
        "update bridge.agreements set source = target",
        "update bridge.agreements set target = app.workspace_id()",
        "delete from bridge.agreements",
        "update bridge.agreement_keys set wrapped = ''",
        "delete from bridge.agreement_keys",
        "update bridge.nonces set nonce = nonce",
        "update bridge.nonces set signature = signature",
        "truncate bridge.nonces",
        "update bridge.dead_letters set reason = ''",
        "delete from bridge.dead_letters",
        "select * from bridge.outbox",
    ],
)
async def test_what_the_services_role_cannot_do(database: Database, alice: Any, statement: str) -> None:
    with pytest.raises(DatabaseRefused):
        await execute(database, alice, statement)


async def test_admissions_are_the_senders_own(
    service: BridgeService, database: Database, superuser: Any, alice: Any, bob: Any, mallory: Any
) -> None:
    agreement = await agree(service, alice, bob)
    key_id = await key_id_of(superuser, agreement)
    forged = [
        (mallory, alice.workspace, bob.workspace),  # in another's name
        (mallory, mallory.workspace, bob.workspace),  # under another's agreement
        (alice, alice.workspace, mallory.workspace),  # to somebody else
        (alice, alice.workspace, alice.workspace),
        (bob, alice.workspace, bob.workspace),
    ]
    for who, sender, receiver in forged:
        with pytest.raises(DatabaseRefused):
            await execute(database, who, INSERT_NONCE, agreement.id, key_id, MessageId.new(), sender, receiver)
    genuine = (agreement.id, key_id, MessageId.new(), alice.workspace, bob.workspace)
    assert await execute(database, alice, INSERT_NONCE, *genuine) == "INSERT 0 1"
    # An admission is not taken back: its nonce would be free again.
    assert await execute(database, alice, "delete from bridge.nonces") == "DELETE 0"
    await service.revoke(bob.ask(contracts.REVOKE), NameAgreement(agreement=agreement.id))
    with pytest.raises(DatabaseRefused):
        await execute(database, alice, INSERT_NONCE, *genuine)


async def test_nobody_sees_or_buries_anothers_dead_letters(database: Database, alice: Any, mallory: Any) -> None:
    bury = """insert into bridge.dead_letters (receiver, id, sender, subject, reason, payload, buried_at)
              values ($1, 'evt_01h455vb4pex5vsknk084sn02q', $2, '', '', '', now())"""
    with pytest.raises(DatabaseRefused):
        await execute(database, mallory, bury, alice.workspace, mallory.workspace)
    await execute(database, alice, bury, alice.workspace, alice.workspace)
    assert await execute(database, mallory, "select from bridge.dead_letters") == "SELECT 0"
    assert await execute(database, alice, "select from bridge.dead_letters") == "SELECT 1"


async def test_a_key_moved_by_a_superuser_does_not_open(
    service: BridgeService, superuser: Any, alice: Any, bob: Any, mallory: Any
) -> None:
    ours = await agree(service, alice, bob)
    theirs = await agree(service, bob, mallory)
    await superuser.execute("delete from bridge.agreement_keys where agreement_id = $1", theirs.id)
    move = "update bridge.agreement_keys set agreement_id = $1 where agreement_id = $2"
    await superuser.execute(move, theirs.id, ours.id)
    with pytest.raises(StoredKeyUnopenable):
        await service.key(mallory.ask(contracts.KEY), NameAgreement(agreement=theirs.id))


async def test_an_agreement_given_another_side_does_not_open_its_key(
    service: BridgeService, superuser: Any, alice: Any, bob: Any, mallory: Any
) -> None:
    agreement = await agree(service, alice, bob)
    await superuser.execute("update bridge.agreements set target = $1 where id = $2", mallory.workspace, agreement.id)
    with pytest.raises(StoredKeyUnopenable):
        await service.key(mallory.ask(contracts.KEY), NameAgreement(agreement=agreement.id))


async def test_a_message_and_its_admission_commit_together(
    service: BridgeService, superuser: Any, alice: Any, bob: Any, signer: Any, now: datetime
) -> None:
    agreement = await agree(service, alice, bob)
    key_id = await key_id_of(superuser, agreement)
    row = await superuser.fetchrow("select * from bridge.agreement_keys where agreement_id = $1", agreement.id)
    key = await KEYS.open(StoredKey(key_id, row["kek_id"], row["wrapped"], row["created_at"]), agreement)
    message = signer(agreement, key_id, key, now).message(alice.workspace)
    await service.send(alice.ask(), Send(messages=(message,)))
    nonces = await superuser.fetchval("select count(*) from bridge.nonces where message_id = $1", message.id)
    waiting = await superuser.fetchval(
        "select count(*) from bridge.outbox where subject = $1",
        f"bridge.{alice.workspace}.{bob.workspace}.report.build",
    )
    assert (nonces, waiting) == (1, 1)
    shown = await superuser.fetch("select t::text as shown from bridge.agreement_keys t")
    assert key.hex() not in " ".join(row["shown"] for row in shown)
