"""What goes into BEGIN is an id or a permission's name, or nothing goes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.ids import AgentId, OrgId, UserId, WorkspaceId
from wardmesh.server.tenant import MAX_PERMISSIONS, TenantContext, begin_as_relay, begin_as_tenant

TENANT = TenantContext(OrgId.new(), WorkspaceId.new(), AgentId.new(), frozenset({"b.read", "a.write"}))
HOSTILE = ["", "*", "org_", "'; drop table x; --", "org_01h455vb4pex5vsknk084sn02q'", "ws_01h455vb4pex5vsknk084sn02q\n"]


def test_all_four_settings_travel_with_begin() -> None:
    assert begin_as_tenant(TENANT) == (
        f"BEGIN; SELECT set_config('app.org_id', '{TENANT.org_id}', true), "
        f"set_config('app.workspace_id', '{TENANT.workspace_id}', true), "
        f"set_config('app.principal_id', '{TENANT.principal_id}', true), "
        "set_config('app.permissions', 'a.write,b.read', true)"
    )
    assert "set_config('app.workspace_id', '', true)" in begin_as_tenant(replace(TENANT, workspace_id=None))
    assert begin_as_tenant(TENANT, read_only=True).startswith("BEGIN READ ONLY; ")


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", ["org_id", "workspace_id", "principal_id"])
def test_what_is_no_id_is_refused_although_the_type_says_it_is(field: str, hostile: str) -> None:
    kind = {"org_id": OrgId, "workspace_id": WorkspaceId, "principal_id": UserId}[field]
    with pytest.raises(ValueError, match="expected"):
        begin_as_tenant(replace(TENANT, **{field: kind(hostile)}))


def test_an_id_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        begin_as_tenant(replace(TENANT, org_id=TENANT.workspace_id))  # type: ignore[arg-type]


@given(st.text())
def test_no_permission_reaches_sql_but_by_its_form(text: str) -> None:
    tenant = replace(TENANT, permissions=frozenset({text}))
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}\.[a-z0-9][a-z0-9_-]{0,63}", text):
        assert f"'{text}'" in begin_as_tenant(tenant)
    else:
        with pytest.raises(ValueError, match=r"resource\.action"):
            begin_as_tenant(tenant)


@pytest.mark.parametrize("hostile", ["a.b,c.d", "a.b'", "a.b\n", "a", "a.b.c", "*", "a.*", ""])
def test_a_permission_that_would_read_as_two_or_as_all_is_refused(hostile: str) -> None:
    with pytest.raises(ValueError, match=r"resource\.action"):
        begin_as_tenant(replace(TENANT, permissions=frozenset({"secrets.read", hostile})))


def test_permissions_are_bounded() -> None:
    with pytest.raises(ValueError, match="at most"):
        begin_as_tenant(replace(TENANT, permissions=frozenset(f"a.b{n}" for n in range(MAX_PERMISSIONS + 1))))


@pytest.mark.parametrize(
    "role", ["postgres", "wardmesh_auth", "wardmesh_owner", "wardmesh_a_relay; x", "wardmesh_a_relay\n"]
)
def test_a_relay_is_only_ever_a_relay(role: str) -> None:
    assert begin_as_relay("wardmesh_auth_relay") == "BEGIN; SET LOCAL ROLE wardmesh_auth_relay"
    with pytest.raises(ValueError, match="relay"):
        begin_as_relay(role)
