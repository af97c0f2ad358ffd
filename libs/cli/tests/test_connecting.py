"""Which mesh, as whom, in which scope; and that no credential goes where it does not belong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from command_shell import Shell
from fake_mesh import World, api_key

from wardmesh.contracts import auth
from wardmesh.crypto.sealing import HolderKey
from wardmesh.errors import CredentialRefused, TokenExpired, WardmeshError
from wardmesh.ids import OrgId, Scope, SessionId, UserId, WorkspaceId
from wardmesh_cli import commanding
from wardmesh_cli import profile as profiles
from wardmesh_cli.connecting import ConnectionOptions, Where, resolve
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.profile import Login, Profile

ORG, WORKSPACE = OrgId.new(), WorkspaceId.new()
KEY = api_key(ORG, ORG)
PROFILE = Profile(url="nats://profile:4222", organization=ORG, workspace=WORKSPACE, api_key=KEY)


def test_the_profile_is_taken_where_nothing_else_is_said() -> None:
    target = resolve(ConnectionOptions(), {}, PROFILE, Where.WORKSPACE)
    assert (target.url, target.api_key, target.scope) == ("nats://profile:4222", KEY, WORKSPACE)


def test_options_come_before_the_environment_and_that_before_the_profile() -> None:
    in_file, in_environment = api_key(ORG, ORG), api_key(ORG, ORG)
    environ = {"WARDMESH_URL": "nats://environment", "WARDMESH_API_KEY": in_environment}
    target = resolve(ConnectionOptions(), environ, PROFILE, Where.WORKSPACE)
    assert (target.url, target.api_key) == ("nats://environment", in_environment)
    options = ConnectionOptions(url="nats://option")
    target = resolve(options, environ, PROFILE, Where.WORKSPACE, key_in_file=in_file)
    assert (target.url, target.api_key) == ("nats://option", in_file)


@pytest.mark.parametrize("environ", [{}, {"WARDMESH_URL": "nats://elsewhere"}])
def test_a_profiles_key_is_not_sent_to_another_address(environ: dict[str, str]) -> None:
    options = ConnectionOptions(url=None if environ else "nats://elsewhere")
    with pytest.raises(UsageFailed, match="not for the address"):
        resolve(options, environ, PROFILE, Where.WORKSPACE)


def test_a_key_from_elsewhere_is_not_sent_to_a_foreign_profiles_address() -> None:
    """A folder that was cloned or unpacked may bring a profile along."""
    other = OrgId.new()
    environ = {"WARDMESH_API_KEY": api_key(other, other)}
    target = resolve(ConnectionOptions(workspace=WORKSPACE), environ, PROFILE, Where.WORKSPACE)
    assert target.url == "nats://127.0.0.1:4222"
    assert target.ca_file is None
    with pytest.raises(UsageFailed, match="workspace"):
        resolve(ConnectionOptions(), environ, PROFILE, Where.WORKSPACE)


def test_scopes() -> None:
    def scope(where: Where, options: ConnectionOptions | None = None, **environ: str) -> Scope:
        return resolve(options or ConnectionOptions(), environ, PROFILE, where).scope

    other = WorkspaceId.new()
    assert scope(Where.ORGANIZATION) == ORG
    assert scope(Where.EITHER) == WORKSPACE
    assert scope(Where.EITHER, ConnectionOptions(org=True)) == ORG
    assert scope(Where.WORKSPACE, ConnectionOptions(workspace=other)) == other
    assert scope(Where.WORKSPACE, WARDMESH_WORKSPACE=other) == other
    with pytest.raises(UsageFailed, match="contradict"):
        scope(Where.EITHER, ConnectionOptions(org=True, workspace=other))
    with pytest.raises(UsageFailed, match="WARDMESH_WORKSPACE"):
        scope(Where.WORKSPACE, WARDMESH_WORKSPACE="*")
    key = api_key(ORG, other)
    assert resolve(ConnectionOptions(), {"WARDMESH_API_KEY": key}, None, Where.WORKSPACE).scope == other


def test_no_credential_and_no_key_are_said_so() -> None:
    with pytest.raises(CommandFailed, match="wardmesh login"):
        resolve(ConnectionOptions(), {}, None, Where.WORKSPACE)
    with pytest.raises(CredentialRefused):
        resolve(ConnectionOptions(), {"WARDMESH_API_KEY": "wmk_nonsense"}, None, Where.WORKSPACE)


def test_a_key_file_is_read_and_never_shown(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    key = api_key(world.organization, world.workspace)
    (tmp_path / "key").write_text(key + "\n")
    ran = wardmesh("whoami", "--api-key-file", str(tmp_path / "key"))
    assert ran.status == 0
    assert world.connections[0]["api_key"] == key
    assert key not in ran.out + ran.err
    assert wardmesh("whoami", "--api-key-file", str(tmp_path / "absent")).status == 1


def test_a_profile_that_others_can_read_is_not_used(wardmesh: Shell, world: World) -> None:
    wardmesh.profile_file.chmod(0o644)
    ran = wardmesh("whoami")
    assert (ran.status, world.connections) == (1, [])
    assert f"chmod 600 {wardmesh.profile_file}" in ran.err


def test_a_broken_profile_is_said_so_without_what_it_holds(wardmesh: Shell) -> None:
    wardmesh.profile_file.write_text('{"url": 7, "api_key": "wmk_secret"}')
    ran = wardmesh("whoami")
    assert ran.status == 1
    assert "wmk_secret" not in ran.err


def test_the_nearest_profile_counts(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "home")}
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert profiles.nearest(inner, environ) is None
    profiles.save(profiles.own_file(environ), PROFILE)
    assert profiles.nearest(inner, environ) == tmp_path / "home" / ".config" / "wardmesh" / "profile.json"
    near = tmp_path / "a" / ".wardmesh" / "profile.json"
    profiles.save(near, PROFILE)
    assert profiles.nearest(inner, environ) == near
    assert profiles.load(near) == PROFILE


class Gateway:
    """Answers logins and refreshes, and counts them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.lifetime = timedelta(minutes=10)
        self.user = UserId.new()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        operation = request.url.path.rsplit("/", 1)[-1]
        model = auth.LogIn if operation == "log_in" else auth.Refresh
        body = model.model_validate_json(request.content)
        self.asked.append((operation, body.model_dump()))
        session = auth.Session(
            token=f"token-{len(self.asked)}",
            expires_at=datetime.now(UTC) + self.lifetime,
            principal=self.user,
            scope=body.scope or getattr(body, "organization", ORG),
            session=SessionId.new(),
            refresh_token=f"refresh-{len(self.asked)}",
            refresh_expires_at=datetime.now(UTC) + timedelta(days=7),
        )
        return httpx2.Response(200, content=session.model_dump_json())


def test_a_login_is_kept_and_used_and_forgotten(wardmesh: Shell, world: World) -> None:
    gateway = wardmesh.http = Gateway()
    ran = wardmesh("login", "--email", "ada@example.org", stdin="correct horse 1\n")
    assert ran.status == 0, ran.err
    assert "correct horse" not in ran.out + ran.err
    assert wardmesh("whoami", "--org").status == 0
    assert (world.connections[0]["token"], world.connections[0]["api_key"]) == ("token-1", None)
    assert [operation for operation, _ in gateway.asked] == ["log_in"]
    wardmesh("logout")
    assert wardmesh("whoami").status == 0
    assert "token" not in world.connections[1]


def test_a_login_for_another_scope_or_one_that_ends_soon_is_refreshed_and_kept(wardmesh: Shell, world: World) -> None:
    gateway = wardmesh.http = Gateway()
    wardmesh("login", "--email", "ada@example.org", stdin="correct horse 1\n")
    wardmesh("whoami")  # in the workspace
    wardmesh("whoami")
    assert [operation for operation, _ in gateway.asked] == ["log_in", "refresh"]
    assert gateway.asked[1][1]["refresh_token"] == "refresh-1"
    assert gateway.asked[1][1]["scope"] == world.workspace
    gateway.lifetime = timedelta(seconds=30)
    wardmesh("whoami", "--org")
    wardmesh("whoami", "--org")
    assert [body["refresh_token"] for operation, body in gateway.asked[2:]] == ["refresh-2", "refresh-3"]
    login = profiles.load(wardmesh.profile_file).login
    assert login is not None
    assert login.session.refresh_token == "refresh-4"
    assert login.holder.public_bytes == gateway.asked[3][1]["holder_key"]


@pytest.mark.parametrize("expiry", [TokenExpired, CredentialRefused])
def test_a_stream_outlives_the_tokens_of_its_login(
    wardmesh: Shell, world: World, monkeypatch: pytest.MonkeyPatch, expiry: type[WardmeshError]
) -> None:
    wardmesh.http = Gateway()
    wardmesh("login", "--email", "ada@example.org", stdin="correct horse 1\n")
    for number in range(3):
        world.log(f"step.{number}")
    world.expiries = [expiry()]
    monkeypatch.setattr(commanding, "FRESH_ENOUGH", timedelta(0))
    ran = wardmesh("audit", "tail", "--start", "1", "--json")
    assert [json.loads(line)["index"] for line in ran.out.splitlines()] == [1, 2]
    assert (ran.status, len(world.connections)) == (0, 2)


def test_a_stream_does_not_knock_again_at_once(wardmesh: Shell, world: World) -> None:
    wardmesh.http = Gateway()
    wardmesh("login", "--email", "ada@example.org", stdin="correct horse 1\n")
    world.expiries = [CredentialRefused()]
    assert wardmesh("audit", "tail").status == 1
    assert len(world.connections) == 1


def test_a_login_does_not_show_itself() -> None:
    session = auth.Session(
        token="a-token",
        expires_at=datetime.now(UTC),
        principal=UserId.new(),
        scope=ORG,
        session=SessionId.new(),
        refresh_token="a-refresh-token",
        refresh_expires_at=datetime.now(UTC),
    )
    holder = HolderKey.generate()
    profile = PROFILE.model_copy(update={"login": Login.of(session, holder)})
    for secret in ("a-token", "a-refresh-token", KEY, repr(holder.private_bytes())):
        assert secret not in repr(profile)


def test_a_login_elsewhere_does_not_take_the_key_of_this_mesh_along(wardmesh: Shell, world: World) -> None:
    wardmesh.http = Gateway()
    other = OrgId.new()
    wardmesh(
        *("login", "--email", "ada@example.org", "--organization", other),
        *("--http-url", "https://other.example", "--url", "nats://other.example"),
        stdin="correct horse 1\n",
    )
    profile = profiles.load(wardmesh.profile_file)
    assert (profile.organization, profile.api_key, profile.workspace) == (other, None, None)
    assert profile.url == "nats://other.example"


def test_env_prints_what_a_shell_takes(wardmesh: Shell) -> None:
    assert wardmesh("env").status == 1
    wardmesh.with_profile(workspace_key="wmk_development", ca_file=Path("/a b/ca.pem"))
    assert wardmesh("env").out.splitlines() == [
        "export WARDMESH_URL=nats://127.0.0.1:4222",
        "export WARDMESH_API_KEY=wmk_development",
        "export WARDMESH_CA_FILE='/a b/ca.pem'",
    ]
