"""Contracts: nothing can be declared without a permission, and what is declared hangs together."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.contracts import ALL, PERMISSIONS
from wardmesh.contracts.access import effective_permissions, is_allowed, permissions_of_level
from wardmesh.contracts.operation import AnyContract, Credential, Level, Permission, index
from wardmesh.ids import AgentId, ServiceId, UserId
from wardmesh.subjects import SERVICES

contracts = pytest.mark.parametrize("contract", ALL.values(), ids=ALL.keys())


@contracts
def test_every_contract_has_a_permission_or_carries_its_own_credential(contract: AnyContract) -> None:
    assert isinstance(contract.access, Permission | Credential)


@contracts
@pytest.mark.parametrize("nothing", [None, "", "secret.read", frozenset()])
def test_a_contract_without_a_permission_cannot_be_declared(contract: AnyContract, nothing: Any) -> None:
    with pytest.raises(TypeError, match="permission"):
        dataclasses.replace(contract, access=nothing)


@contracts
def test_an_audit_target_is_no_secret(contract: AnyContract) -> None:
    for name in contract.audit.targets:
        assert contract.request.model_fields[name].repr, f"{name} is kept out of repr, so it is kept out of the log"


@contracts
def test_models_are_closed_and_frozen(contract: AnyContract) -> None:
    for model in (contract.request, contract.response):
        assert model.model_config.get("extra") == "forbid"
        assert model.model_config.get("frozen")
        assert model.model_json_schema()


def test_every_service_has_contracts_and_only_five_credentials_are_taken() -> None:
    assert {contract.service for contract in ALL.values()} == set(SERVICES)
    public = {key for key, contract in ALL.items() if isinstance(contract.access, Credential)}
    assert public == {"auth.sign_up", "auth.log_in", "auth.refresh", "auth.exchange_key", "audit.add_checkpoint"}


def test_a_key_is_declared_once() -> None:
    contract = next(iter(ALL.values()))
    with pytest.raises(ValueError, match="twice"):
        index((contract,), (dataclasses.replace(contract),))


def test_audit_targets_are_fields_of_the_request() -> None:
    contract = ALL["secrets.get"]
    with pytest.raises(ValueError, match="not fields"):
        dataclasses.replace(contract, audit=dataclasses.replace(contract.audit, targets=("value",)))


def test_a_level_holds_what_the_lower_ones_hold() -> None:
    user = UserId.new()
    for lower, higher in zip(Level, list(Level)[1:], strict=False):
        assert permissions_of_level(lower, user) <= permissions_of_level(higher, user)
    assert not permissions_of_level(Level.RESTRICTED, user)


def test_an_agent_is_never_granted_what_only_people_and_services_may() -> None:
    agent = AgentId.new()
    for level in Level:
        assert "key.create" not in permissions_of_level(level, agent)
    assert "key.create" not in effective_permissions(Level.OWNER, ["key.create", "secret.read"], agent)
    assert not is_allowed(PERMISSIONS["key.create"], frozenset({"key.create"}), agent)


@pytest.mark.property
@given(st.sampled_from(list(Level)), st.lists(st.text() | st.sampled_from(sorted(PERMISSIONS))))
def test_a_list_grants_what_it_names_and_nothing_else(level: Level, names: list[str]) -> None:
    granted = effective_permissions(level, names, ServiceId.new())
    assert granted <= set(names)
    assert granted <= set(PERMISSIONS)
