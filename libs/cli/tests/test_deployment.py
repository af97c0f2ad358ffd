"""The files of a deployment, and that docker-compose.yml and they fit each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from wardmesh_cli.deployment import NODES, make_deployment

COMPOSE = Path(__file__).parents[3] / "docker-compose.yml"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
SEED = re.compile(r"\bS[UAX][A-Z2-7]{40,}")
PREPARES = {"prepare", "migrate", "provision"}


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "deploy"
    make_deployment(folder, now=NOW)
    return folder


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return parsed


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_second_run_changes_nothing(deploy: Path) -> None:
    before = content(deploy)
    make_deployment(deploy, now=NOW + timedelta(days=30))
    assert content(deploy) == before


def test_the_folder_is_closed_and_the_authoritys_key_is_for_no_container(deploy: Path) -> None:
    for folder in (deploy, *(path for path in deploy.iterdir() if path.is_dir())):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (deploy / "tls" / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert "ca-key.pem" not in COMPOSE.read_text()


@pytest.mark.parametrize("node", NODES)
def test_a_node_knows_the_others_by_name_and_holds_no_seed(deploy: Path, node: str) -> None:
    text = (deploy / "nats" / f"{node}.conf").read_text()
    config = json.loads(text)
    assert not SEED.search(text)
    assert config["server_name"] == node
    assert config["jetstream"]["sync_interval"] == "always"
    cluster = config["cluster"]
    assert cluster["advertise"] == f"{node}:6222"
    assert {route.split("//")[1].split(":")[0] for route in cluster["routes"]} == set(NODES) - {node}
    assert cluster["tls"]["verify"] is True, "a route without a certificate of our authority would be let in"
    assert cluster["no_advertise"] is True


def test_a_host_that_is_none_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        make_deployment(tmp_path_factory.mktemp("deploy"), now=NOW, hosts=["not a host"])


def services(compose: dict[str, Any], *without: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, service) for name, service in compose["services"].items() if name not in without)


def test_every_file_that_compose_mounts_is_made(deploy: Path, compose: dict[str, Any]) -> None:
    marker = "${WARDMESH_DEPLOY:-./deploy}/"
    files = [secret["file"] for secret in compose["secrets"].values()]
    volumes = [volume for _, service in services(compose) for volume in service.get("volumes", ())]
    files += [volume.split(":/")[0] for volume in volumes if volume.startswith(marker)]
    assert len(files) > len(NODES)
    for file in files:
        assert file.startswith(marker)
        assert (deploy / file.removeprefix(marker)).is_file(), file


def test_a_container_is_given_the_secrets_that_it_reads_and_no_others(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        given = {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", ())}
        assert given <= compose["secrets"].keys()
        if name in NODES:
            continue
        environment = service.get("environment", {})
        read = {value.removeprefix("/run/secrets/") for value in environment.values() if "/run/secrets/" in value}
        assert given == read, name


def test_no_secret_is_a_value_in_an_environment(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        for variable, value in service.get("environment", {}).items():
            is_secret = re.search("PASSWORD|SEED|KEY", variable) is not None
            assert not is_secret or variable.endswith(("_FILE", "_DIR")), f"{name}: {variable}"
            assert not re.search(r"//[^/@]*:[^/@]*@", value), f"{name}: {variable} holds a password"


def test_everything_is_hardened(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"privileged", "devices", "pid", "ipc", "volumes_from"}, name
        assert service.get("user") not in {"root", "0", "0:0"} or name == "prepare"
        assert service.get("cap_add", []) == (["CHOWN"] if name == "prepare" else []), name
        if name not in PREPARES and "build" not in service and not service.get("profiles"):
            assert service["healthcheck"]["test"], name


def test_only_the_doors_and_the_broker_are_published_and_on_loopback(compose: dict[str, Any]) -> None:
    published = {name: port for name, service in services(compose) for port in service.get("ports", ())}
    assert published.keys() == {*NODES, "auth", "webhooks"}
    assert all(port.startswith("${WARDMESH_BIND:-127.0.0.1}:") for port in published.values())
    for name, service in services(compose, *published, "prepare", "collector"):
        open_ones = {each for each in service["networks"] if not compose["networks"][each].get("internal")}
        # Audit has a way out of its own, by which it forwards logs; nobody else is there to ask it anything.
        assert open_ones == ({"outside"} if name == "audit" else set()), name
    assert not any("outside" in compose["services"][name]["networks"] for name in published)


def test_what_prepares_is_over_before_anybody_works(compose: dict[str, Any]) -> None:
    for name in ("audit", "auth", "bridge", "secrets", "webhooks"):
        conditions = compose["services"][name]["depends_on"]
        assert {each["condition"] for each in conditions.values()} == {"service_completed_successfully"}
        assert conditions.keys() == {"migrate", "provision"}
