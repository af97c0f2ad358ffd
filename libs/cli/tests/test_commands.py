"""Every group of commands, for people and with `--json`."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_shell import Shell
from fake_mesh import World

from wardmesh.contracts.audit import Outcome
from wardmesh.errors import InvalidRequest, PermissionDenied, ServiceUnavailable, Violation
from wardmesh.ids import AgentId, RequestId, WorkspaceId


def test_a_secret_comes_from_standard_input_and_goes_out_as_it_was(wardmesh: Shell, world: World) -> None:
    assert wardmesh("secret", "put", "openai/api-key", stdin="sk-123\n").out == "stored openai/api-key, version 1\n"
    assert world.secrets["openai/api-key"] == [b"sk-123"]
    assert wardmesh("secret", "get", "openai/api-key").out == "sk-123"
    assert wardmesh("secret", "get", "openai/api-key", "--json").json == {"path": "openai/api-key", "value": "sk-123"}


def test_a_secret_in_a_file_is_taken_and_written_byte_by_byte(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    value = b"\x00\xff\n"
    (tmp_path / "in").write_bytes(value)
    assert wardmesh("secret", "put", "cert", "--value-file", str(tmp_path / "in")).status == 0
    assert wardmesh("secret", "get", "cert", "--output", str(tmp_path / "out")).out == ""
    assert (tmp_path / "out").read_bytes() == value
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    assert wardmesh("secret", "get", "cert", "--json").json["value_base64"] == "AP8K"


def test_a_secret_on_the_command_line_is_no_way_to_give_it(wardmesh: Shell, world: World) -> None:
    assert wardmesh("secret", "put", "openai/api-key", "sk-123").status == 2
    assert world.secrets == {}


def test_no_value_is_no_secret(wardmesh: Shell, world: World) -> None:
    ran = wardmesh("secret", "put", "openai/api-key", stdin="\n")
    assert (ran.status, world.secrets) == (1, {})
    assert "Standard input holds no value." in ran.err


def test_secrets_are_listed_through_all_pages(wardmesh: Shell, world: World) -> None:
    world.secrets = {f"a/{number:04}": [b"x"] for number in range(1200)}
    assert len(wardmesh("secret", "list", "--limit", "1100", "--json").json["secrets"]) == 1100
    assert wardmesh("secret", "list", "a/0007").out.splitlines()[1].split()[:2] == ["a/0007", "1"]


def test_grants_are_given_listed_and_taken_back(wardmesh: Shell) -> None:
    agent = AgentId.new()
    assert wardmesh("secret", "grant", "openai/*", agent).out == f"{agent} may read openai/*\n"
    assert [grant["pattern"] for grant in wardmesh("secret", "grants", "--json").json["grants"]] == ["openai/*"]
    assert wardmesh("secret", "revoke", "openai/*", agent).status == 0
    assert wardmesh("secret", "grants", "--json").json["grants"] == []


def test_a_key_for_an_agent_by_name_is_shown_once(wardmesh: Shell, world: World) -> None:
    assert wardmesh("agent", "create", "researcher").status == 0
    ran = wardmesh("key", "create", "--agent", "researcher", "--permission", "secret.read", "-p", "event.read")
    key = next(line.split()[-1] for line in ran.out.splitlines() if line.startswith("key"))
    assert key.startswith("wmk_")
    assert world.keys[0].permissions == ("secret.read", "event.read")
    listed = wardmesh("key", "list")
    assert "secret.read, event.read" in listed.out
    assert key not in listed.out


def test_a_key_into_a_file_is_not_shown_at_all(wardmesh: Shell, tmp_path: Path) -> None:
    wardmesh("service-account", "create", "billing")
    for number, extra in enumerate(((), ("--json",))):
        file = tmp_path / f"key{number}"
        ran = wardmesh("key", "create", "--service-account", "billing", "--output", str(file), *extra)
        assert "wmk_" not in ran.out + ran.err
        assert file.read_text().startswith("wmk_")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_name_that_nobody_or_several_have_is_no_holder(wardmesh: Shell) -> None:
    ran = wardmesh("key", "create", "--agent", "nobody")
    assert ran.status == 1
    assert "wardmesh agent create nobody" in ran.err
    wardmesh("agent", "create", "twin")
    wardmesh("agent", "create", "twin")
    assert "2 have the name twin" in wardmesh("key", "create", "--agent", "twin").err
    assert wardmesh("key", "create").status == 2


def test_a_key_is_revoked(wardmesh: Shell, world: World) -> None:
    wardmesh("agent", "create", "researcher")
    key_id = wardmesh("key", "create", "--agent", "researcher", "--json").json["id"]
    assert "1 connections dropped" in wardmesh("key", "revoke", key_id).out
    assert "revoked" in wardmesh("key", "list").out


def test_users_levels_and_principals(wardmesh: Shell, world: World) -> None:
    made = wardmesh(
        "user", "create", "ada@example.org", "--org", "--level", "viewer", "--json", stdin="correct horse 1\n"
    )
    assert world.passwords == {"ada@example.org": "correct horse 1"}
    user = made.json["id"]
    assert made.json["scope"] == world.organization
    assert "is operator in" in wardmesh("level", "set", user, "operator").out
    assert [each["level"] for each in wardmesh("principal", "list", "--json").json["principals"]] == ["operator"]
    assert "2 connections dropped" in wardmesh("principal", "revoke", user).out


def test_workspaces_are_asked_in_the_organization(wardmesh: Shell, world: World) -> None:
    wardmesh("workspace", "create", "north")
    assert "north" in wardmesh("workspace", "list").out
    assert {connection["scope"] for connection in world.connections} == {world.organization}


def test_a_bridge_from_offer_to_message(wardmesh: Shell, world: World) -> None:
    other = WorkspaceId.new()
    agreement = wardmesh("bridge", "propose", other, "--json").json["id"]
    assert wardmesh("bridge", "accept", agreement, "--json").json["state"] == "accepted"
    assert wardmesh("bridge", "send", other, "report.ready", '{"pages": 12}').status == 0
    assert world.sent == [(other, "report.ready", {"pages": 12})]
    received = wardmesh("bridge", "receive", "--count", "1", "--json").json
    assert (received["type"], received["data"]) == ("report.ready", {"pages": 12})
    assert len(world.acknowledged) == 1
    assert "revoked" in wardmesh("bridge", "revoke", agreement).out
    assert "revoked" in wardmesh("bridge", "list").out


def test_events_are_published_and_followed(wardmesh: Shell, world: World) -> None:
    wardmesh("event", "publish", "order.shipped", '{"order": 7}')
    wardmesh("event", "publish", "order.paid", "--id", "e-2", stdin='{"order": 8}')
    assert [(event.type, event.data) for event in world.published] == [
        ("order.shipped", {"order": 7}),
        ("order.paid", {"order": 8}),
    ]
    lines = wardmesh("event", "tail", "--count", "2", "--json").out.splitlines()
    assert [json.loads(line)["data"] for line in lines] == [{"order": 7}, {"order": 8}]
    assert len(world.acknowledged) == 2
    assert "app.order.shipped" in wardmesh("event", "tail", "--seconds", "0.2").out


def test_data_that_is_no_json_is_a_usage_error(wardmesh: Shell, world: World) -> None:
    ran = wardmesh("event", "publish", "order.shipped", "order: 7")
    assert (ran.status, world.published) == (2, [])
    assert "not JSON" in ran.err


def test_a_webhook_source_shows_the_address_to_configure(wardmesh: Shell, world: World) -> None:
    made = wardmesh("webhook", "source", "create", "stripe", "--scheme", "stripe", stdin="whsec_1\n")
    assert f"http://127.0.0.1:8081/hooks/{world.workspace}/stripe" in made.out
    assert "whsec_1" not in made.out + made.err
    assert world.passwords == {"stripe": "whsec_1"}
    assert "stripe" in wardmesh("webhook", "source", "list").out
    wardmesh("webhook", "source", "delete", "stripe")
    assert world.sources == []


def test_the_log_is_followed_and_searched(wardmesh: Shell, world: World) -> None:
    world.log("secret.get", targets=("a/b",))
    world.log("secret.get", Outcome.REFUSED, reason="permission_denied")
    lines = wardmesh("audit", "tail", "--start", "0", "--json").out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1]
    events = [json.loads(line) for line in wardmesh("audit", "tail", "--start", "0", "--ocsf").out.splitlines()]
    assert [event["metadata"]["sequence"] for event in events] == [0, 1]
    shown = wardmesh("audit", "tail", "--start", "1").out
    assert "refused  secret.get" in shown
    assert "(permission_denied)" in shown
    found = wardmesh("audit", "query", "--outcome", "refused", "--json").json["entries"]
    assert [entry["index"] for entry in found] == [1]
    assert wardmesh("audit", "query").out.splitlines()[1].startswith("1 ")
    agent = AgentId.new()
    searched = ("--agent", str(agent), "--text", "denied", "--trace", "a" * 32, "--since", "2026-11-22", "--limit", "1")
    assert len(wardmesh("audit", "query", *searched, "--json").json["entries"]) == 1
    wanted = world.searched[-1]
    assert (wanted.agent, wanted.text, wanted.trace_id) == (agent, "denied", "a" * 32)
    assert wanted.since == datetime(2026, 11, 22, tzinfo=UTC)
    assert wardmesh("audit", "query", "--trace", "short").status == 2
    assert wardmesh("audit", "checkpoint").out.startswith("wardmesh/test\n")


def test_a_tail_goes_on_where_the_last_one_of_its_name_stopped(wardmesh: Shell, world: World) -> None:
    for _ in range(3):
        world.log("secret.get")
    first = wardmesh("audit", "tail", "--resume", "siem", "--start", "0", "--count", "2", "--json").out
    rest = wardmesh("audit", "tail", "--resume", "siem", "--start", "0", "--json").out
    assert [json.loads(line)["index"] for line in (first + rest).splitlines()] == [0, 1, 2]
    assert wardmesh("audit", "positions", "--json").json["positions"][0]["next_start"] == 3
    assert "siem" not in wardmesh("audit", "positions", "--forget", "siem").out


def test_an_export_is_of_a_kind_that_there_is(wardmesh: Shell, tmp_path: Path) -> None:
    folder = str(tmp_path / "export")
    assert wardmesh("audit", "export", folder, "--format", "xml").status == 2
    assert "whole log" in wardmesh("audit", "export", folder, "--outcome", "refused").err
    (tmp_path / "export").mkdir()
    assert "there already" in wardmesh("audit", "export", folder, "--format", "csv").err


def test_verify_says_no_to_what_is_no_export(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    ran = wardmesh("audit", "verify", str(tmp_path / "export"), "--json")
    assert (ran.status, ran.json["sound"]) == (1, False)
    assert world.connections == []
    assert wardmesh("audit", "verify", str(tmp_path / "export"), "--key", "nonsense").status == 2


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (PermissionDenied("Ask an administrator."), 1, "Permission denied. Ask an administrator. [permission_denied"),
        (ServiceUnavailable(), 1, "`wardmesh status` shows what is down"),
        (InvalidRequest(violations=(Violation(pointer="/path", message="is not valid"),)), 2, "/path: is not valid"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(
    wardmesh: Shell, world: World, failure: Exception, status: int, said: str
) -> None:
    failure.request_id = RequestId.new()  # type: ignore[attr-defined]
    world.failures["secrets.get_bytes"] = failure  # type: ignore[assignment]
    ran = wardmesh("secret", "get", "a/b")
    assert (ran.status, ran.out) == (status, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    problem = json.loads(wardmesh("secret", "get", "a/b", "--json").err)
    assert problem["code"] == failure.code  # type: ignore[attr-defined]
    assert problem["request_id"] == failure.request_id  # type: ignore[attr-defined]


def test_what_is_no_id_is_a_usage_error_that_shows_one(wardmesh: Shell, world: World) -> None:
    for arguments in (("key", "revoke", "key_x"), ("secret", "grant", "a", "*"), ("bridge", "propose", "ws_*")):
        ran = wardmesh(*arguments)
        assert ran.status == 2, arguments
        assert "expected" in ran.err
    assert world.connections == []


def test_whoami(wardmesh: Shell, world: World) -> None:
    assert wardmesh("whoami", "--json").json["scope"] == world.workspace
    assert wardmesh("whoami", "--org", "--json").json["scope"] == world.organization
