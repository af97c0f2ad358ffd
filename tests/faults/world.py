"""What the load works in: an organization with two workspaces that agreed to exchange messages, and an open door."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.mesh.world import Tenant, sign_up

from wardmesh.contracts.webhooks import Scheme
from wardmesh.ids import Principal, WorkspaceId
from wardmesh_cli.embedded.mesh import EmbeddedMesh

SIGNING_SECRET = "whsec_" + "faults" * 8
SOURCE = "stripe"
LEVEL = "operator"


@dataclass(frozen=True)
class Worker:
    """A service account of a workspace."""

    workspace: WorkspaceId
    principal: Principal
    api_key: str = field(repr=False)


@dataclass(frozen=True)
class House:
    tenant: Tenant
    here: Worker
    there: Worker
    """In the other workspace, at the far end of the bridge."""

    @property
    def mesh(self) -> EmbeddedMesh:
        return self.tenant.mesh

    @property
    def hook_url(self) -> str:
        return f"{self.mesh.ingest_url}/hooks/{self.here.workspace}/{SOURCE}"


async def build_house(mesh: EmbeddedMesh) -> House:
    tenant = await sign_up(mesh, "faults")
    async with await tenant.connect_as_owner(tenant.organization) as owner:
        other = (await owner.auth.create_workspace(name="there")).id
    here = await _worker(tenant, tenant.workspace)
    there = await _worker(tenant, other)
    async with await tenant.connect_as_owner(here.workspace) as owner:
        await owner.webhooks.create_source(name=SOURCE, scheme=Scheme.STRIPE, signing_secret=SIGNING_SECRET)
        agreement = await owner.bridge.propose(target=other)
    async with await tenant.connect_as_owner(other) as owner:
        await owner.bridge.accept(agreement=agreement.id)
    return House(tenant, here, there)


async def _worker(tenant: Tenant, workspace: WorkspaceId) -> Worker:
    async with await replace(tenant, workspace=workspace).connect_as_owner() as owner:
        account = await owner.auth.create_service_account(name="load", level=LEVEL)
        key = await owner.auth.create_key(principal=account.id, name="load")
        await owner.secrets.grant(pattern="load/*", principal=account.id)
    return Worker(workspace, account.id, key.api_key)
