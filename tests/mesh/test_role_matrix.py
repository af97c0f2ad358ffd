"""Every contract × every level × every kind of principal × both kinds of scope, on a running mesh.

A body that no contract takes shows what the gates decided without doing anything: whoever is allowed is told that the
request does not fit (`invalid_request`), and nobody else gets that far.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
from tests.mesh.world import RawCaller, Tenant, code_of, raw_caller, sign_up

from wardmesh.contracts import ALL
from wardmesh.contracts.operation import AnyContract, Credential, Level, Permission
from wardmesh.errors import WardmeshError
from wardmesh.ids import Scope
from wardmesh_cli.embedded.mesh import EmbeddedMesh

KINDS: Final = ("usr", "agt", "svc")
UNFITTING: Final = b'{"no contract has this field": true}'
PASSWORD: Final = "correct horse battery staple"

Callers = dict[tuple[str, Level, str], RawCaller]


async def connect_all(tenant: Tenant, stack: AsyncExitStack) -> Callers:
    """Return a connection for every kind and level, in the workspace (`ws`) and in the organization (`org`)."""
    callers: Callers = {}

    async def add(level: Level, scope: Scope, credential: str, token: dict[str, Any]) -> None:
        principal = token["principal"]
        callers[principal[:3], level, scope.prefix] = await stack.enter_async_context(
            raw_caller(tenant.mesh, scope=scope, principal=principal, credential=credential, token=token["token"])
        )

    for scope in (tenant.workspace, tenant.organization):
        owner = await stack.enter_async_context(await tenant.connect_as_owner(scope))
        for level in Level:
            email = f"{level.label}-{scope.prefix}@example.com"
            await owner.auth.create_user(email=email, password=PASSWORD, level=level.label)
            session = await tenant.log_in(email=email, password=PASSWORD, scope=scope)
            await add(level, scope, session["token"], session)
            members = [await owner.auth.create_service_account(name=level.label, level=level.label)]
            if scope is tenant.workspace:  # agents are at home in a workspace only
                members.append(await owner.auth.create_agent(name=level.label, level=level.label))
            for member in members:
                key = (await owner.auth.create_key(principal=member.id, name=level.label)).api_key
                await add(level, scope, key, await tenant.exchange(key, scope))
    return callers


@pytest.fixture(scope="module")
async def matrix(running_mesh: EmbeddedMesh) -> AsyncIterator[tuple[Tenant, Callers]]:
    tenant = await sign_up(running_mesh, "matrix")
    async with AsyncExitStack() as stack:
        yield tenant, await connect_all(tenant, stack)


async def verdict(caller: RawCaller, contract: AnyContract) -> str:
    """Return the code that the mesh answers with."""
    return code_of(await caller.ask(contract.subject(caller.scope, caller.principal), UNFITTING))


def expected(contract: AnyContract, kind: str, level: Level, scope: Scope) -> str:
    """What the declaration promises, spelt out without the code that the gates use."""
    if not any(isinstance(scope, allowed.value) for allowed in contract.scopes):
        return "scope_mismatch"
    assert isinstance(contract.access, Permission)
    if kind in contract.access.kinds and level.value >= contract.access.level.value:
        return "invalid_request"
    return "permission_denied"


@pytest.mark.parametrize("key", [key for key, contract in ALL.items() if isinstance(contract.access, Permission)])
async def test_every_level_and_kind_is_allowed_or_refused_as_declared(matrix: tuple[Tenant, Callers], key: str) -> None:
    tenant, callers = matrix
    contract = ALL[key]
    scopes: dict[str, Scope] = {"ws": tenant.workspace, "org": tenant.organization}
    wanted = {who: expected(contract, who[0], who[1], scopes[who[2]]) for who in callers}
    assert {"invalid_request", "permission_denied"} <= set(wanted.values()), "someone may, someone may not"
    found = dict(
        zip(callers, await asyncio.gather(*[verdict(caller, contract) for caller in callers.values()]), strict=True)
    )
    assert found == wanted


@pytest.mark.parametrize("key", [key for key, contract in ALL.items() if isinstance(contract.access, Credential)])
async def test_what_carries_its_own_credential_asks_for_nothing_else(matrix: tuple[Tenant, Callers], key: str) -> None:
    tenant, callers = matrix
    contract = ALL[key]
    caller = callers["agt", Level.RESTRICTED, "ws"]
    assert await verdict(caller, contract) == (
        "invalid_request" if contract.takes(tenant.workspace) else "scope_mismatch"
    )


@pytest.mark.parametrize("name", sorted({c.access.name for c in ALL.values() if isinstance(c.access, Permission)}))
async def test_a_narrow_key_reaches_exactly_what_it_lists(matrix: tuple[Tenant, Callers], name: str) -> None:
    tenant, _ = matrix
    permission = next(c.access for c in ALL.values() if isinstance(c.access, Permission) and c.access.name == name)
    assert isinstance(permission, Permission)
    if "agt" not in permission.kinds:
        with pytest.raises(WardmeshError) as refused:
            await tenant.agent(name)
        assert refused.value.code in {"permission_denied", "invalid_request"}
        return
    _, key = await tenant.agent(name)
    token = await tenant.exchange(key.api_key, tenant.workspace)
    async with raw_caller(
        tenant.mesh, scope=tenant.workspace, principal=token["principal"], credential=key.api_key, token=token["token"]
    ) as agent:
        for contract in ALL.values():
            if isinstance(contract.access, Permission) and contract.takes(tenant.workspace):
                allowed = contract.access.name == name
                assert await verdict(agent, contract) == ("invalid_request" if allowed else "permission_denied"), (
                    contract.key
                )
