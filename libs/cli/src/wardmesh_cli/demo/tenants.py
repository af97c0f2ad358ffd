"""Two workspaces, and an agent whose key reaches three things in one of them."""

from __future__ import annotations

from typing import Final

from wardmesh.ids import AgentId, OrgId, WorkspaceId
from wardmesh_cli.bootstrap import Administrator, first_administrator
from wardmesh_cli.demo.stage import Agent, Stage, Tenants
from wardmesh_cli.demo.tour import Evidence, must, refused

PERMISSIONS: Final = ("event.read", "identity.read", "secret.read")


async def play(stage: Stage) -> Tenants:
    tour = stage.tour
    with tour.chapter("Two workspaces, one agent"):
        admin = await tour.step("an organization signs up by HTTP", signed_up(stage))
        south = await tour.step("its owner makes a second workspace", second_workspace(stage, admin))
        agent = await tour.step("an agent gets a key for three things", agent_with_key(stage, admin))
        await tour.step("the agent says who it is", who_is(stage, agent))
        await tour.step("what its key does not list is refused", beyond_the_list(stage, agent))
        await tour.step("its key does not open the other workspace", other_workspace(stage, agent, south))
    return Tenants(admin.organization, admin.workspace, south, admin.api_key, agent)


async def signed_up(stage: Stage) -> Evidence[Administrator]:
    admin = await first_administrator(stage.door, organization="A tour", workspace="north")
    return Evidence(
        "with an owner and a first workspace", admin, (str(admin.organization), f"north  {admin.workspace}")
    )


async def second_workspace(stage: Stage, admin: Administrator) -> Evidence[WorkspaceId]:
    async with stage.visit(admin.api_key, OrgId.parse(admin.organization)) as mesh:
        made = await mesh.auth.create_workspace(name="south")
        listed = {each.id for each in (await mesh.auth.list_workspaces()).workspaces}
    must(listed == {admin.workspace, made.id}, f"the organization lists {len(listed)} workspaces")
    return Evidence("the organization lists both", made.id, (f"south  {made.id}",))


async def agent_with_key(stage: Stage, admin: Administrator) -> Evidence[Agent]:
    async with stage.visit(admin.api_key, admin.workspace) as mesh:
        made = await mesh.auth.create_agent(name="researcher")
        key = await mesh.auth.create_key(principal=made.id, name="demo", permissions=PERMISSIONS, lifetime_days=1)
    must(made.level == "restricted", f"the agent is {made.level}")
    agent = Agent(AgentId.parse(made.id), admin.workspace, key.id, key.api_key)
    return Evidence(", ".join(PERMISSIONS), agent, (f"researcher  {agent.id}", f"its key     {agent.key_id}"))


async def who_is(stage: Stage, agent: Agent) -> Evidence[None]:
    async with stage.visit(agent.api_key, agent.workspace) as mesh:
        identity = await mesh.auth.who_am_i()
    must(identity.principal == agent.id, f"it says {identity.principal}")
    must(identity.permissions == PERMISSIONS, f"it holds {', '.join(identity.permissions)}")
    return Evidence(f"{identity.level}, in north, with these {len(PERMISSIONS)} and no more", None)


async def beyond_the_list(stage: Stage, agent: Agent) -> Evidence[None]:
    async with stage.visit(agent.api_key, agent.workspace) as mesh:
        error = await refused(mesh.secrets.list(), "permission_denied")
    return Evidence(f"{error.code} ({error.status})", None, (error.detail,))


async def other_workspace(stage: Stage, agent: Agent, south: WorkspaceId) -> Evidence[None]:
    async def enter() -> None:
        async with stage.visit(agent.api_key, south):
            pass

    error = await refused(enter(), "credential_refused")
    return Evidence(f"{error.code} ({error.status})", None)
